"""Texts for encoders and classifiers, in the forms that people and programs give them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from QEfficient.generation.prompts import encode_prompts


@dataclass(frozen=True, slots=True)
class Text:
    """A text, or a pair of texts, as tokens."""

    ids: Sequence[int]
    segments: Sequence[int] | None = None
    """``token_type_ids``, if whoever gave the tokens gave them too."""


def encode_texts(inputs: Any, tokenizer: Callable[[], Any], takes_segments: bool) -> list[Text]:
    """Tokens of one text or several.

    Args:
        inputs: as :func:`QEfficient.generation.prompts.encode_prompts` takes them; in a list also pairs of texts, each
            a tuple or a list of two.
        tokenizer: gives what encodes text; called only if there is any.
        takes_segments: whether the model takes ``token_type_ids``; if not, those of text are left out.

    Raises:
        OptionError: it is none of these.
    """
    if isinstance(inputs, Mapping) or hasattr(inputs, "input_ids"):
        return _from_tokenizer(inputs, tokenizer)
    if isinstance(inputs, str):
        inputs = [inputs]
    if not isinstance(inputs, list | tuple) or not any(isinstance(item, str) or _is_pair(item) for item in inputs):
        return [Text(ids) for ids in encode_prompts(inputs, tokenizer)]
    return [text for item in inputs for text in _encode(item, tokenizer, takes_segments)]


def _encode(item: Any, tokenizer: Callable[[], Any], takes_segments: bool) -> list[Text]:
    if not isinstance(item, str) and not _is_pair(item):
        return [Text(ids) for ids in encode_prompts([item], tokenizer)]
    ids, segments = tokenizer().encode_text(*([item] if isinstance(item, str) else item))
    return [Text(ids, segments if takes_segments else None)]


def _is_pair(item: Any) -> bool:
    return isinstance(item, list | tuple) and len(item) == 2 and all(isinstance(part, str) for part in item)


def _from_tokenizer(encoding: Any, tokenizer: Callable[[], Any]) -> list[Text]:
    ids = encode_prompts(encoding, tokenizer)
    held = encoding if isinstance(encoding, Mapping) else vars(encoding)
    if held.get("token_type_ids") is None:
        return [Text(row) for row in ids]
    given = {"input_ids": held["token_type_ids"], "attention_mask": held.get("attention_mask")}
    return [Text(row, segments) for row, segments in zip(ids, encode_prompts(given, tokenizer), strict=True)]
