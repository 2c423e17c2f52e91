"""A checkpoint's files beside its weights, read as if a stranger had written them: config, code, links."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from QEfficient.errors import CheckpointNotFound, CorruptCheckpoint, OptionError, UnsafeCheckpoint
from QEfficient.store.digests import is_sha256
from QEfficient.store.files import user_path
from QEfficient.store.linked_folders import links_in
from QEfficient.transformers.checkpoint.sizes import check_limits

VOCABULARIES = (
    *("tokenizer.json", "tokenizer_config.json", "vocab*.txt", "vocab*.json", "*_vocab.json", "byte_maps.json"),
    *("*.model", "*.spm", "*.codes", "*.tiktoken", "*.tokenizer"),
)
"""The files by which a checkpoint has a tokenizer."""
SHARDS = "model-*.safetensors"
READ = (
    *("*.json", "*.txt", "*.jinja", "*.py"),
    *VOCABULARIES,
    *("model.safetensors", SHARDS),
)
"""The files of a checkpoint that are read, and so downloaded: those that transformers asks for."""
NOT_READ = (
    "consolidated*",  # weights and configs of their makers' code
    "*.*.safetensors.index.json",  # of the same weights in another type
    *(f"*/{pattern}" for pattern in READ if pattern not in ("*.py", "*.jinja")),
)
"""Among them the files that are not: other forms of the same model beside it and in its folders."""


def is_any(name: str, patterns: Iterable[str]) -> bool:
    """Whether a file's name has one of these patterns."""
    return any(fnmatch(name, pattern) for pattern in patterns)


SECTIONS = ("quantization_config", "compression_config")
"""Where a config says how the weights are quantised."""
UNKNOWN = "unknown"
"""The format that a config does not name."""


def checked_name(model_name: object) -> str:
    """The name of a model as text.

    Raises:
        OptionError: it is none.
    """
    text = os.fspath(model_name) if isinstance(model_name, str | os.PathLike) else None
    if not isinstance(text, str) or not text:
        raise OptionError(f"A model is a folder or a model id on the Hub, got {model_name!r}.")
    return text


def local_folder(name: str) -> Path:
    """The folder of this name, if it is one.

    Raises:
        CheckpointNotFound: no folder and no model can have it.
    """
    try:
        folder = user_path(name, "The model's name")
        folder.is_dir()
    except OSError as error:
        raise CheckpointNotFound(f"There is no folder and no model of the name {shortened(name)}: {error}") from error
    return folder


def read_config(folder: Path) -> dict[str, Any]:
    """
    Raises:
        CorruptCheckpoint: ``config.json`` is not JSON object, names its classes in another way than a list, or has a
            size that no model has.
        UnsafeCheckpoint: it is outside of the folder.
    """
    config = read_json(contained(folder, "config.json"))
    heads = config.get("architectures")
    if heads is not None and not (isinstance(heads, list) and all(isinstance(head, str) for head in heads)):
        raise CorruptCheckpoint(
            f"{folder / 'config.json'}: architectures must be a list of class names, got {shortened(heads)}."
        )
    check_limits(config, config_source(folder))
    return config


def config_source(folder: Path) -> Path:
    """The file that says what the config of a folder does: itself, or the GGUF file that it was made of."""
    return next(iter(links_in(folder)), folder / "config.json")


def read_json(path: Path) -> dict[str, Any]:
    """
    Raises:
        CorruptCheckpoint: the file is not JSON object.
    """
    if not is_regular(path):
        raise CorruptCheckpoint(f"{path} is not a file. Download the checkpoint again.")
    return parse_json(path, path.read_bytes())


def parse_json(path: Path, content: bytes) -> dict[str, Any]:
    """``content``, which is from ``path``. Raises as :func:`read_json`."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CorruptCheckpoint(f"{path} is not valid JSON: {error}. Download the checkpoint again.") from error
    if not isinstance(value, dict):
        raise CorruptCheckpoint(f"{path} holds {shortened(value)}, expected an object. Download the checkpoint again.")
    return value


def shortened(value: object) -> str:
    """A stranger's value for a message."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def is_regular(path: Path) -> bool:
    """Whether a file can be read without waiting for anyone: no folder, pipe or device."""
    return stat.S_ISREG(path.stat().st_mode)


def contained(folder: Path, name: str) -> Path:
    """The path of a file that something in a checkpoint names.

    Raises:
        UnsafeCheckpoint: the name, or the link that it is, leads out of the folder. Links into the blobs of the same
            repository in the Hub's cache are how that cache is made.
    """
    path = folder / name
    is_plain = bool(name) and name.isprintable() and "\\" not in name
    if is_plain and not Path(name).is_absolute() and ".." not in Path(name).parts:
        real, root = path.resolve(), folder.resolve()
        blobs = (root.parents[1] / "blobs") if root.parent.name == "snapshots" else root
        if real.is_relative_to(root) or real.parent == blobs.resolve():
            return path
    raise UnsafeCheckpoint(
        f"{folder} names or links to {shortened(name)}, which is outside of it and is not read. Copy the file into the "
        "folder if you trust it."
    )


def check_links(folder: Path) -> None:
    """Check every file at the folder's top that would be read, and others of the kind.

    Raises:
        UnsafeCheckpoint: one is a link out of the folder; see :func:`contained`.
    """
    for path in sorted(folder.iterdir()):
        if path.is_symlink() and is_any(path.name, (*READ, "*.safetensors", "tokenizer*")):
            contained(folder, path.name)


def check_code(folder: Path, config: Mapping[str, Any], trust_remote_code: bool) -> None:
    """
    Raises:
        UnsafeCheckpoint: loading would run Python files without permission, or read a file outside of the folder. Of
            an architecture that transformers has, it runs none.
        CorruptCheckpoint: the tokenizer's config is not JSON object.
    """
    check_links(folder)
    if trust_remote_code:
        return
    tokenizer = folder / "tokenizer_config.json"
    parts = [config, read_json(tokenizer) if tokenizer.exists() else {}]
    names = [name for part in parts for name in code_names(part)]
    if names and not _is_native(config, parts):
        files = sorted({name.rpartition("--")[2].split(".")[0] + ".py" for name in names})
        raise UnsafeCheckpoint(
            f"{folder} brings code ({', '.join(files)}), which loading would run. Read it, then pass "
            "trust_remote_code=True if you trust it."
        )


def _is_native(config: Mapping[str, Any], parts: Iterable[Mapping[str, Any]]) -> bool:
    """Whether transformers has the architecture itself; it takes no class of the checkpoint then unless told to."""
    if not all(isinstance(part.get("auto_map", {}), Mapping) for part in parts):
        return False
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    model_type = config.get("model_type")
    return isinstance(model_type, str) and model_type in CONFIG_MAPPING


def code_names(config: Mapping[str, Any]) -> list[str]:
    """The classes that ``auto_map`` names, in a config and in those inside it."""
    names, pending = [], [config]
    while pending:
        part = pending.pop()
        if part.get("auto_map"):
            names += _texts(part["auto_map"])
        pending += [value for value in part.values() if isinstance(value, Mapping)]
    return names


def _texts(value: object) -> list[str]:
    values = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else [value]
    return [str(item) for item in values]


def quantization_section(config: Mapping[str, Any]) -> tuple[str, object] | None:
    """The name and content of the section that says how a checkpoint's weights are quantised, or None."""
    for part in (config, config.get("text_config")):
        values = part if isinstance(part, Mapping) else {}
        for name in SECTIONS:
            if values.get(name):
                return name, values[name]
    return None


def quantization(config: Mapping[str, Any]) -> str | None:
    """The format of a checkpoint's quantised weights, or None."""
    section = quantization_section(config)
    return None if section is None else quantization_method(section[1])


def quantization_method(section: object) -> str:
    """The format that a section of a config names.

    transformers takes sections of bitsandbytes that are older than the key for what they are.
    """
    values = section if isinstance(section, Mapping) else {}
    is_old = any(values.get(f"load_in_{bits}bit") for bits in (4, 8))
    return str(values.get("quant_method", "bitsandbytes" if is_old else UNKNOWN))


def identity(path: Path) -> dict[str, Any]:
    """What changes with a file's content: the sha256 that names it in the Hub's cache, or path, size and times."""
    real = path.resolve()
    status = real.stat()
    is_blob = path.is_symlink() and real.parent.name == "blobs" and real.parents[1].name.startswith("models--")
    if is_blob and is_sha256(real.name):
        return {"sha256": real.name, "size": status.st_size}
    times = {"mtime_ns": status.st_mtime_ns, "ctime_ns": status.st_ctime_ns}
    return {"path": str(real), "size": status.st_size, "inode": status.st_ino, **times}
