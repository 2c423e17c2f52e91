"""The tokenizer of a model on its way into a package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from QEfficient.errors import QEffError, UnsupportedModel
from QEfficient.generation.tokenizer import TOKENIZER_FILE, ForeignTokenizer, PackageTokenizer, open_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_FLAGS = (
    "clean_up_tokenization_spaces",
    "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output",
    "split_special_tokens",
)
_TEXTS = ("My name is John, 42.", "Ça va?  東京 \n")


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path, source: str) -> None:
    """Write ``tokenizer`` into ``folder``; one that is not a single file is opened again to see that it stays the same.

    Args:
        source: the checkpoint's folder, or the model's name.

    Raises:
        CorruptCheckpoint: it holds something that its class cannot write.
        UnsupportedModel: what it wrote gives another tokenizer, or none.
    """
    from QEfficient.transformers.checkpoint.loader_errors import loader_errors, saver_errors

    with saver_errors(source, "the tokenizer"):
        tokenizer.save_pretrained(folder)
        _write_defaults(tokenizer, folder / "tokenizer_config.json")
    if (folder / TOKENIZER_FILE).is_file():
        return
    try:
        with loader_errors(folder, "the tokenizer"):
            is_same = _encoded(open_tokenizer(folder)) == _encoded(ForeignTokenizer(tokenizer))
    except QEffError as error:
        raise _refusal(tokenizer, source, _why(error.__cause__ or error)) from error
    if not is_same:
        raise _refusal(tokenizer, source, "opened from the files that it wrote, it gives other tokens")


def _write_defaults(tokenizer: PreTrainedTokenizerBase, path: Path) -> None:
    """Add to a tokenizer's config what only its class knows of how it encodes and decodes."""
    config: dict[str, Any] = json.loads(path.read_text("utf-8"))
    config |= {name: bool(getattr(tokenizer, name, False)) for name in _FLAGS}
    config["model_input_names"] = list(tokenizer.model_input_names)
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _why(error: BaseException) -> str:
    said = " ".join(str(error).split())
    if "trust_remote_code" in said:
        return "it is code of the checkpoint, and a package brings none"
    return f"transformers cannot open the files that it wrote: {said[:200].rstrip('.')}"


def _encoded(tokenizer: PackageTokenizer | ForeignTokenizer) -> list[list[int]]:
    return [tokenizer.encode(text) for text in _TEXTS]


def _refusal(tokenizer: PreTrainedTokenizerBase, source: str, why: str) -> UnsupportedModel:
    return UnsupportedModel(
        f"The tokenizer of {source}, a {type(tokenizer).__name__}, has no {TOKENIZER_FILE} and cannot be put into a "
        f"package: {why}. Set model.tokenizer = None before compile(), and pass tokenizer=... to generate()."
    )
