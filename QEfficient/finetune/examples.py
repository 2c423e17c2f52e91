"""From rows to token ids and labels."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from QEfficient.errors import DatasetError, UnsupportedModel
from QEfficient.finetune.layouts import Passage, reader_of
from QEfficient.finetune.rows import Row
from QEfficient.finetune.settings import FinetuneOptions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

IGNORED = -100
"""The label of a token that the loss does not count, as in torch."""


@dataclass(frozen=True, slots=True)
class Example:
    """A sequence of the training data.

    Attributes:
        input_ids: Its tokens, at most ``context_length`` of them.
        labels: The same, or :data:`IGNORED`; one for each token.
    """

    input_ids: list[int]
    labels: list[int]


def examples(rows: Sequence[Row], options: FinetuneOptions, tokenizer: PreTrainedTokenizerBase) -> list[Example]:
    """What the rows say to learn. Rows whose labels do not fit the context are left out, with a warning.

    Raises:
        DatasetError: a row does not fit the layout (names it), or no row has a label.
        UnsupportedModel: the tokenizer does not say which characters a token stands for.
    """
    if not tokenizer.is_fast:
        raise UnsupportedModel(
            f"{type(tokenizer).__name__} does not say which characters a token stands for, which tells what to learn. "
            "Convert it to a tokenizer.json."
        )
    read = reader_of(rows, options, tokenizer)
    made = [encode(read(row), tokenizer, options.context_length) for row in rows]
    has_label = [any(label != IGNORED for label in example.labels[1:]) for example in made]
    if not any(has_label):
        raise DatasetError(
            f"{rows[0].where} and all other rows have their labels beyond context_length={options.context_length}: "
            "there is nothing to learn. Raise context_length, or shorten the prompts."
        )
    if not all(has_label):
        logger.warning(
            "%s: its labels are all beyond context_length=%d. It is left out, as are %d of %d rows in all.",
            rows[has_label.index(False)].where,
            options.context_length,
            has_label.count(False),
            len(rows),
        )
    return [example for example, is_kept in zip(made, has_label, strict=True) if is_kept]


def encode(passage: Passage, tokenizer: PreTrainedTokenizerBase, context_length: int) -> Example:
    """Tokens of a passage; a token belongs to what its first character belongs to."""
    encoding = tokenizer(
        passage.text, add_special_tokens=not passage.is_rendered, return_offsets_mapping=True, truncation=False
    )
    ids, offsets = encoding["input_ids"][:context_length], encoding["offset_mapping"][:context_length]
    labels, position = [], 0
    for token, (start, stop) in zip(ids, offsets, strict=True):
        position = max(position, start if stop > start else position)
        at = start if stop > start else position  # a token that the tokenizer adds stands for no character
        is_learned = any(first <= at < last or at == last == len(passage.text) for first, last in passage.learned)
        labels.append(token if is_learned else IGNORED)
        position = max(position, stop)
    return Example(list(ids), labels)
