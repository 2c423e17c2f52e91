"""Encodes the inputs of encoders and classifiers: texts, pairs of texts, token ids or a tokenizer's output."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from QEfficient.errors import OptionError
from QEfficient.generation.media import PromptMedia
from QEfficient.generation.prompts import Prompts, checked_text, encode_prompts

Texts = Prompts | Sequence[tuple[str, str] | list[str]]
"""Texts or token ids as :data:`Prompts`, without chats; in a list also pairs of texts."""


@dataclass(frozen=True, slots=True)
class EncodedText:
    """A text, or a pair of texts, as tokens."""

    ids: Sequence[int]
    token_type_ids: Sequence[int] | None = None
    """As long as ``ids``; None: the input had none."""
    mask: Sequence[int] | None = None
    """1 where tokens attend to one of ``ids``, else 0; None: to all."""
    media: PromptMedia | None = None
    """Images among the tokens."""


def encode_texts(inputs: Texts, tokenizer: Callable[[], Any], takes_token_type_ids: bool) -> list[EncodedText]:
    """Tokens of one text or several.

    Args:
        inputs: as :func:`QEfficient.generation.prompts.encode_prompts` takes them; in a list also pairs of texts, each
            a tuple or a list of two.
        tokenizer: returns the tokenizer; called only if there is text to encode.
        takes_token_type_ids: whether the model takes them; if not, those that encoding a text returns are dropped.

    Raises:
        OptionError: the inputs have none of these forms.
    """
    if isinstance(inputs, Mapping) or hasattr(inputs, "input_ids"):
        return _from_tokenizer(inputs, tokenizer)
    if isinstance(inputs, str):
        inputs = [inputs]
    if not isinstance(inputs, list | tuple) or not any(isinstance(item, str) or is_pair(item) for item in inputs):
        return [EncodedText(ids) for ids in encode_prompts(cast("Prompts", inputs), tokenizer)]  # there are no pairs
    return [text for item in inputs for text in _encode(item, tokenizer, takes_token_type_ids)]


def _encode(item: Any, tokenizer: Callable[[], Any], takes_token_type_ids: bool) -> list[EncodedText]:
    if not isinstance(item, str) and not is_pair(item):
        return [EncodedText(ids) for ids in encode_prompts([item], tokenizer)]
    ids, token_type_ids = tokenizer().encode_text(*map(checked_text, [item] if isinstance(item, str) else item))
    return [EncodedText(ids, token_type_ids if takes_token_type_ids else None)]


def is_pair(item: Any) -> bool:
    """Whether ``item`` is a pair of texts."""
    return isinstance(item, list | tuple) and len(item) == 2 and all(isinstance(part, str) for part in item)


def _from_tokenizer(encoding: Any, tokenizer: Callable[[], Any]) -> list[EncodedText]:
    ids = encode_prompts(encoding, tokenizer)
    fields = encoding if isinstance(encoding, Mapping) else vars(encoding)
    if fields.get("token_type_ids") is None:
        return [EncodedText(row) for row in ids]
    # Cut to each row's tokens as the ids are.
    token_types = {"input_ids": fields["token_type_ids"], "attention_mask": fields.get("attention_mask")}
    rows = encode_prompts(token_types, tokenizer)
    if [len(row) for row in rows] != [len(row) for row in ids]:
        raise OptionError("input_ids and token_type_ids differ in shape: pass what the tokenizer returned.")
    return [EncodedText(*row) for row in zip(ids, rows, strict=True)]
