"""What a checkpoint of PyLate says of queries and documents."""

from __future__ import annotations

import string
from pathlib import Path
from typing import TYPE_CHECKING, Any

from QEfficient.errors import CorruptCheckpoint
from QEfficient.generation.late_interaction import LateRecord
from QEfficient.transformers.checkpoint.files import contained, read_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_USUAL: dict[str, Any] = {
    "query_prefix": "[Q] ",
    "document_prefix": "[D] ",
    "query_length": 32,
    "do_query_expansion": True,
    "attend_to_expansion_tokens": False,
    "skiplist_words": [*string.punctuation],
}
"""PyLate's."""


def read_late_interaction(folder: Path, tokenizer: PreTrainedTokenizerBase | None) -> LateRecord:
    """How a checkpoint in ``folder`` reads queries and documents.

    Raises:
        CorruptCheckpoint: a setting has another type than PyLate writes, or there is no tokenizer.
        UnsafeCheckpoint: its file is outside of the folder.
    """
    path = contained(folder, "config_sentence_transformers.json")
    values = {**_USUAL, **(read_json(path) if path.is_file() else {})}
    for name, usual in _USUAL.items():
        if not isinstance(values[name], type(usual)) and values[name] is not None:
            raise CorruptCheckpoint(f"{path}: {name} must be a {type(usual).__name__}, got {values[name]!r:.60}.")
    if tokenizer is None:
        raise CorruptCheckpoint(f"{folder} has no tokenizer, which queries and documents need.")
    words = tokenizer.convert_tokens_to_ids(list(values["skiplist_words"] or ()))
    return LateRecord(
        query_token=_token(tokenizer, values["query_prefix"]),
        document_token=_token(tokenizer, values["document_prefix"]),
        query_len=max(1, values["query_length"] or _USUAL["query_length"]),
        filling=_filling(tokenizer) if values["do_query_expansion"] else None,
        attends_to_filling=bool(values["attend_to_expansion_tokens"]),
        skipped=tuple(sorted({word for word in words if word not in (None, tokenizer.unk_token_id)})),
    )


def _token(tokenizer: Any, prefix: str | None) -> int | None:
    """The id of a prefix that the tokenizer has as a token."""
    number: int | None = tokenizer.convert_tokens_to_ids(prefix) if prefix else None
    return None if number == tokenizer.unk_token_id else number


def _filling(tokenizer: Any) -> int | None:
    number: int | None = tokenizer.mask_token_id
    return tokenizer.pad_token_id if number is None else number
