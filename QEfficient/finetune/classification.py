"""Texts with a label: which labels there are, and how often a model gives the right one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from QEfficient.errors import DatasetError
from QEfficient.finetune.layouts import fill, text_of
from QEfficient.finetune.rows import Row
from QEfficient.finetune.settings import FinetuneOptions

if TYPE_CHECKING:
    from transformers import EvalPrediction, PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class LabelledText:
    """A text of the training data.

    Attributes:
        input_ids: Its tokens, at most ``context_length`` of them.
        labels: The number of its label; the name is the model's.
    """

    input_ids: list[int]
    labels: int


def label_of(row: Row, options: FinetuneOptions) -> str:
    """
    Raises:
        DatasetError: the row has no label.
    """
    if options.completion_template is not None:
        label: object = fill(row, options.completion_template)
    else:
        label = row.values.get("label")
    if not isinstance(label, str | int) or label == "":
        raise row.refused(f"column 'label' must be text or a whole number, got {label!r}.")
    return str(label)


def label_names(rows: Sequence[Row], options: FinetuneOptions) -> tuple[str, ...]:
    """The labels of the rows, in the order of their numbers or of the alphabet.

    Raises:
        DatasetError: a row has no label, or all have the same.
    """
    names = {label_of(row, options) for row in rows}
    if len(names) == 1:
        raise DatasetError(f"{rows[0].where} and all other rows have the label '{names.pop()}': nothing is to be told.")
    if all(name.isdecimal() for name in names):
        return tuple(sorted(names, key=int))
    return tuple(sorted(names))


def labelled_texts(
    rows: Iterable[Row], options: FinetuneOptions, tokenizer: PreTrainedTokenizerBase, names: Sequence[str]
) -> list[LabelledText]:
    """
    Args:
        rows: with a text and a label.
        options: of the run; its templates, if there are any, say what of a row is the text and what is the label.
        tokenizer: of the model.
        names: of the labels, by their numbers.

    Raises:
        DatasetError: a row has no text, or a label that is none of ``names``.
    """
    numbers = {name: number for number, name in enumerate(names)}
    made = []
    for row in rows:
        text = text_of(row, "text") if options.prompt_template is None else fill(row, options.prompt_template)
        label = label_of(row, options)
        if not text:
            raise row.refused("its text is empty.")
        if label not in numbers:
            raise row.refused(f"its label '{label}' is none of those that the model learns: {', '.join(names)}.")
        ids = tokenizer(text, truncation=True, max_length=options.context_length)["input_ids"]
        made.append(LabelledText(list(ids), numbers[label]))
    return made


def mean_loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None) -> torch.Tensor:
    """Cross entropy per text of the whole step. transformers' models of this kind have one per forward pass, which
    makes the loss depend on how a batch is cut into passes.

    Args:
        outputs: of the model; ``logits`` are ``[texts, labels]``.
        labels: numbers of the labels, ``[texts]``.
        num_items_in_batch: texts of the optimizer step, over all passes and processes.
    """
    total = torch.nn.functional.cross_entropy(outputs.logits.float(), labels, reduction="sum")
    return total / (len(labels) if num_items_in_batch is None else num_items_in_batch)


def most_likely(logits: torch.Tensor | tuple[torch.Tensor, ...], labels: torch.Tensor) -> torch.Tensor:
    """Numbers of the labels that the model gives, ``[texts]``; all that a validation keeps."""
    first = logits[0] if isinstance(logits, tuple) else logits
    return first.argmax(-1)


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Share of the texts whose label the model gives."""
    return {"accuracy": float(np.mean(prediction.predictions == prediction.label_ids))}
