"""The boundary to loaders of others: whatever they raise over a checkpoint becomes an error of ours."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from QEfficient.errors import CorruptCheckpoint, QEffError, UnsafeCheckpoint, UnsupportedModel
from QEfficient.store.files import full_disk, says_full


@contextmanager
def loader_errors(folder: Path, what: str, *, unknown: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """
    Args:
        folder: the checkpoint's.
        what: is read: "the tokenizer".
        unknown: errors by which the loader says that it does not know such a model.

    Raises:
        UnsafeCheckpoint: it would run code that was not allowed.
        UnsupportedModel: one of ``unknown``, or a package is not installed.
        StorageError: the disk is full.
        CorruptCheckpoint: any other error. Memory that runs out is none.
    """
    try:
        yield
    except (QEffError, MemoryError):
        raise
    except Exception as error:
        raise _translated(folder, what, error, unknown) from error


_NO_CLASS = re.compile(r"Unrecognized configuration class <class '(?:[\w.]*\.)?(\w+)'>")


def label_of(auto_class: Any) -> str:
    """What messages call a class that loads models."""
    return str(getattr(auto_class, "label", auto_class.__name__))


def _translated(folder: Path, what: str, error: Exception, unknown: tuple[type[Exception], ...]) -> QEffError:
    if isinstance(error, ImportError):
        return UnsupportedModel(f"Reading {what} of {folder} needs a package that is not installed: {error}")
    if isinstance(error, ValueError) and "trust_remote_code" in str(error):  # it has no class for it
        return UnsafeCheckpoint(
            f"{folder}: transformers has no class for {what}, and the checkpoint's would run its Python "
            "files. Read them, then pass trust_remote_code=True if you trust them."
        )
    if isinstance(error, unknown) and (config := _NO_CLASS.search(str(error))):
        return UnsupportedModel(
            f"{folder}: transformers has no {what.removeprefix('the ')} for a {config.group(1)}. `qefficient inspect` "
            "says which class runs the model."
        )
    if isinstance(error, unknown):
        return UnsupportedModel(f"transformers cannot read {what} of {folder}: {_said(error)}")
    if says_full(str(error)):
        return full_disk(folder, str(error))
    return CorruptCheckpoint(
        f"{folder}: {what} cannot be read: {_said(error)}. A file is damaged or not what its name says; download the "
        "checkpoint again."
    )


@contextmanager
def saver_errors(source: str, what: str) -> Iterator[None]:
    """
    Args:
        source: the checkpoint's folder, or the model's name.
        what: is written: "the tokenizer".

    Raises:
        CorruptCheckpoint: it holds something that its class cannot write. Errors of the disk stay what they are.
    """
    try:
        yield
    except (QEffError, OSError):
        raise
    except (ValueError, TypeError, LookupError, AttributeError, RuntimeError) as error:
        raise CorruptCheckpoint(
            f"{source}: {what} cannot be written into a package: {_said(error)}. Correct it in the checkpoint."
        ) from error


def _said(error: Exception) -> str:
    """An error's first lines, with its class where it has no sentence."""
    text = " ".join(str(error).split())
    text = text if len(text) <= 400 else f"{text[:397]}..."
    return text if isinstance(error, ValueError | RuntimeError) and text else f"{type(error).__name__}: {text}"
