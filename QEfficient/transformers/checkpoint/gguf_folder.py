"""A GGUF file as a checkpoint's folder: its config and tokenizer as transformers reads them, and links to the weights.

The folder is made once for a file and kept beside the store. Whoever opens it need not know where it came from, but for
the weights: their names and order are llama.cpp's (:mod:`QEfficient.transformers.quantizers.gguf_weights`).
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from QEfficient.errors import CheckpointNotFound
from QEfficient.progress import stage
from QEfficient.store.linked_folders import linked_folder, links_in
from QEfficient.store.source_version import source_version
from QEfficient.transformers.checkpoint.files import identity, is_regular
from QEfficient.transformers.checkpoint.gguf_config import gguf_config
from QEfficient.transformers.checkpoint.gguf_header import GGUFHeader, read_gguf_header
from QEfficient.transformers.checkpoint.loader_errors import loader_errors

logger = logging.getLogger(__name__)

SUFFIX = ".gguf"
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


def linked_weights(folder: Path) -> list[Path]:
    """The GGUF files of a folder that was made here; none if it was not."""
    return [file for file in links_in(folder) if file.suffix.lower() == SUFFIX]


def gguf_in(folder: Path) -> Path | None:
    """The model's GGUF file in a folder without other weights; None if there is none.

    Raises:
        CheckpointNotFound: there are several models.
    """
    files = sorted(path for path in folder.glob(f"*{SUFFIX}") if not path.name.startswith("mmproj"))
    models = {(match["stem"] if (match := _SHARD.fullmatch(path.name)) else path.name): path for path in files[::-1]}
    if len(models) > 1:
        listed = ", ".join(sorted(path.name for path in models.values())[:6])
        raise CheckpointNotFound(f"{folder} has several GGUF models: {listed}. Choose one with gguf_file='NAME'.")
    return next(iter(models.values()), None)


def shard_pattern(name: str) -> str:
    """A pattern for the names of the files that belong together with ``name``."""
    match = _SHARD.fullmatch(name)
    return name if match is None else f"{match['stem']}-*-of-{match['count']}{SUFFIX}"


def gguf_checkpoint(path: Path) -> Path:
    """The folder of the checkpoint that a GGUF file stands for.

    Raises:
        CheckpointNotFound: one of several files that belong together is missing.
        CorruptCheckpoint: a file is damaged.
        UnsupportedModel: transformers reads no such architecture from GGUF.
    """
    paths = [shard.absolute() for shard in _shards(path)]
    files = [identity(shard) for shard in paths]
    versions = {name: version(name) for name in ("transformers", "gguf", "tokenizers")}

    def build(folder: Path) -> None:
        headers = [read_gguf_header(shard) for shard in paths]
        with stage("Reading", path.name):
            _write_config(folder, list(zip(paths, headers, strict=True)))
            _write_tokenizer(folder, paths[0], headers[0])

    return linked_folder(paths, {"library": source_version(), "files": files, "versions": versions}, build)


def _shards(path: Path) -> list[Path]:
    if not path.is_file() or not is_regular(path):
        raise CheckpointNotFound(f"There is no file {path}.")
    match = _SHARD.fullmatch(path.name)
    if match is None:
        return [path]
    count = int(match["count"])
    shards = [path.with_name(f"{match['stem']}-{number:05}-of-{count:05}{SUFFIX}") for number in range(1, count + 1)]
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        raise CheckpointNotFound(f"{path.parent} lacks {missing[0]}, which belongs to {path.name}. Download it too.")
    return shards


def _write_config(folder: Path, files: Sequence[tuple[Path, GGUFHeader]]) -> None:
    section = {"quant_method": "gguf", "architecture": files[0][1].architecture}
    config = gguf_config(files) | {"quantization_config": section}
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


def _write_tokenizer(folder: Path, path: Path, header: GGUFHeader) -> None:
    if "tokenizer.ggml.tokens" not in header.metadata:
        return
    from transformers import AutoTokenizer

    with loader_errors(path, "the tokenizer", unknown=(ValueError, KeyError, NotImplementedError)):
        AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).save_pretrained(folder)
