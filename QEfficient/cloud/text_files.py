"""Texts of a file with a JSON value on each line, and files of what a model makes of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from QEfficient.errors import OptionError
from QEfficient.generation.prompts import read_text

if TYPE_CHECKING:
    import numpy as np

JSONL, NPY = ".jsonl", ".npy"
_FORMS = 'a text, a pair ["a", "b"], or an object with "prompt", "text", "pair", or "query" and "document"'
_FIELDS = (("prompt",), ("text",), ("pair",), ("query", "document"))


@dataclass(frozen=True)
class TextItem:
    """A text or a pair of texts, with what its line says besides."""

    text: str | tuple[str, str]
    fields: dict[str, Any] = field(default_factory=dict)
    """Written beside its result."""


@dataclass(frozen=True, kw_only=True)
class TextBatch:
    """Texts beside the prompts, and the file that results go to."""

    items: tuple[TextItem, ...] = ()
    output: Path | None = None

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Those of the texts that are pairs."""
        return [item.text for item in self.items if isinstance(item.text, tuple)]

    def __bool__(self) -> bool:
        return bool(self.items) or self.output is not None

    @classmethod
    def of(cls, pairs: Sequence[tuple[str, str]], input_file: str | None, output: str | None) -> TextBatch:
        """What the flags name; the file is read now.

        Raises:
            OptionError: a file cannot be read, or results cannot go to ``output``.
        """
        items = [TextItem(pair, {"pair": list(pair)}) for pair in pairs]
        if input_file is not None:
            items += read_items(input_file)
        return cls(items=tuple(items), output=None if output is None else _checked_output(output))


def _checked_output(name: str) -> Path:
    path = Path(name).expanduser()
    if path.suffix not in (JSONL, NPY):
        raise OptionError(f"--output {name}: its name must end in {JSONL}, a line per text, or {NPY}, one array.")
    if not path.parent.is_dir():
        raise OptionError(f"--output {name}: there is no folder {path.parent}.")
    return path


def read_items(file: str) -> list[TextItem]:
    """The texts of a file with a JSON value on each line; empty lines are left out.

    Raises:
        OptionError: it cannot be read, or a line is no text; says which.
    """
    lines = read_text(file, "The file of --input").split("\n")
    items = [_item(file, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not items:
        raise OptionError(f"The file of --input {file} has no text.")
    return items


def _item(file: str, number: int, line: str) -> TextItem:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise OptionError(f"{file}, line {number} is not JSON: {error}.") from error
    fields = value if isinstance(value, dict) else {"pair" if isinstance(value, list) else "text": value}
    names = [names for names in _FIELDS if {*names} <= fields.keys()]
    texts = [fields[name] for name in names[0]] if len(names) == 1 else []
    if len(texts) == 1 and isinstance(texts[0], list) and len(texts[0]) == 2:
        texts = texts[0]
    elif names == [("pair",)]:
        texts = []
    if not texts or not all(isinstance(text, str) for text in texts):
        raise OptionError(f"{file}, line {number} must be {_FORMS}, got {line.strip()[:60]}.")
    return TextItem(texts[0] if len(texts) == 1 else (texts[0], texts[1]), fields)


def write_results(
    path: Path, items: Sequence[TextItem], array: np.ndarray | None, rows: Sequence[dict[str, Any]]
) -> None:
    """Write a file whole or not at all.

    Args:
        path: its suffix says how: one array, or a line per text with the fields of its input.
        items: what the results are of, in order.
        array: ``[n, ...]``, or None where there is none and ``path`` is a file of lines.
        rows: of each text.

    Raises:
        StorageError: the disk is full, or the folder refuses it.
    """
    import numpy as np

    from QEfficient.store.files import storage_errors

    temporary = path.with_name(f".{path.name}.part")
    with storage_errors(path):
        try:
            with temporary.open("wb") as file:
                if path.suffix == NPY and array is not None:
                    np.save(file, array)
                else:
                    for item, row in zip(items, rows, strict=True):
                        file.write(json.dumps({**item.fields, **row}, ensure_ascii=False).encode() + b"\n")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
