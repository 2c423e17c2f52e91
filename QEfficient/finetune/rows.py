"""Rows of training data, each with where it is from, so that an error can name its file and line."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from QEfficient.errors import DatasetError

_ENCODING = "utf-8-sig"
"""UTF-8, also with the mark at its begin that Windows' programs write."""
_LARGEST_CELL = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a data set: its columns, and its place for messages."""

    values: Mapping[str, Any]
    where: str

    def refused(self, why: str) -> DatasetError:
        """The error of a row that cannot be used."""
        return DatasetError(f"{self.where}: {why}")

    def checked_text(self, text: str) -> str:
        """``text``, which is made of this row.

        Raises:
            DatasetError: it has half of a character (a lone surrogate), as JSON can; no tokenizer reads that.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            half = text[error.start]
            raise self.refused(f"its text has {half!r}, half of a character. Write the whole character.") from error
        return text


def read_rows(source: str, split: str = "train") -> list[Row]:
    """
    Args:
        source: a file, a folder of files, or a data set on the Hub.
        split: of a data set on the Hub.

    Raises:
        DatasetError: there is no such data set, it is empty, or a row cannot be read; names file and line.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in _READERS)
        if not files:
            raise DatasetError(f"{path} has no file that ends in {', '.join(_READERS)}.")
        rows = [row for file in files for row in _read_file(file)]
    elif path.is_file():
        rows = list(_read_file(path))
    elif path.suffix.lower() in _READERS:
        raise DatasetError(f"There is no file '{source}'.")
    else:
        rows = list(_read_hub(source, split))
    if not rows:
        raise DatasetError(f"{source} has no rows: there is nothing to train on.")
    return rows


def _read_file(path: Path) -> Iterator[Row]:
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DatasetError(f"{path}: data comes in files that end in {', '.join(_READERS)}.")
    try:
        yield from reader(path)
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not UTF-8: {error}.") from error
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error}.") from error


def _row(value: object, where: str) -> Row:
    if not isinstance(value, dict):
        raise DatasetError(f"{where}: expected a JSON object with a value per column, got {json.dumps(value)[:80]}.")
    return Row(value, where)


def _json_lines(path: Path) -> Iterator[Row]:
    with path.open(encoding=_ENCODING) as file:
        for number, line in enumerate(file, 1):
            where = f"{path}, line {number}"
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DatasetError(f"{where}: no valid JSON: {error}.{_form_of(path)}") from error
            yield _row(value, where)


def _form_of(path: Path) -> str:
    """What to say of a file that is neither of the two forms of JSON."""
    return " Expected a list of rows, or a row on each line." if path.suffix.lower() == ".json" else ""


def _json_list(path: Path) -> Iterator[Row]:
    """Rows of a JSON list, each with the line it begins in; a file of JSON lines has this ending at times, too."""
    text = path.read_text(encoding=_ENCODING)
    start = len(text) - len(text.lstrip())
    if not text.startswith("[", start):
        yield from _json_lines(path)
        return
    decoder, position, line, counted = json.JSONDecoder(), _after_space(text, start + 1), 1, 0
    is_last = text.startswith("]", position)
    position += is_last
    while not is_last:
        position = _after_space(text, position)
        line, counted = line + text.count("\n", counted, position), position
        try:
            value, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            raise DatasetError(f"{path}, line {line}: no valid JSON: {error}.") from error
        yield _row(value, f"{path}, line {line}")
        position = _after_space(text, position)
        if not text.startswith(("]", ","), position):
            raise DatasetError(f"{path}, line {line}: expected ',' or ']' after this row.")
        is_last = text.startswith("]", position)
        position += 1
    if rest := text[position:].strip():
        raise DatasetError(f"{path}: expected nothing after the list of rows, got {rest[:40]!r}.")


def _after_space(text: str, position: int) -> int:
    while position < len(text) and text[position].isspace():
        position += 1
    return position


def _csv(path: Path) -> Iterator[Row]:
    with path.open(encoding=_ENCODING, newline="") as file, _any_size_of_cells():
        reader = csv.DictReader(file, strict=True)
        try:
            for values in reader:
                where = f"{path}, line {reader.line_num}"
                if None in values or None in values.values():
                    raise DatasetError(f"{where}: expected {len(reader.fieldnames or ())} cells, as in the first line.")
                yield Row(values, where)
        except csv.Error as error:
            raise DatasetError(f"{path}, line {reader.line_num}: no valid CSV: {error}.") from error


@contextmanager
def _any_size_of_cells() -> Iterator[None]:
    """Python's reader refuses more than 128 KB, which a document can have; its limit is the whole process's."""
    before = csv.field_size_limit(_LARGEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _text(path: Path) -> Iterator[Row]:
    with path.open(encoding=_ENCODING) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield Row({"text": line.rstrip("\n")}, f"{path}, line {number}")


def _parquet(path: Path) -> Iterator[Row]:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        number = 0
        for batch in ParquetFile(path).iter_batches():
            for values in batch.to_pylist():
                number += 1
                yield Row(values, f"{path}, row {number}")
    except ArrowException as error:
        raise DatasetError(f"{path} cannot be read as Parquet: {error}") from error


_READERS: Mapping[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": _json_lines,
    ".json": _json_list,
    ".csv": _csv,
    ".parquet": _parquet,
    ".txt": _text,
}


def _read_hub(name: str, split: str) -> Iterator[Row]:
    from datasets import ClassLabel, load_dataset
    from datasets.exceptions import DatasetsError

    try:
        loaded = load_dataset(name, split=split)
    except (DatasetsError, OSError, ValueError) as error:
        raise DatasetError(
            f"There is no file '{name}', and the Hub gives no data set of that name with a split '{split}': "
            f"{' '.join(str(error).split())[:300]}"
        ) from error
    classes = {column: feature for column, feature in loaded.features.items() if isinstance(feature, ClassLabel)}
    for number, values in enumerate(loaded, 1):
        # A test set hides its labels as -1.
        named = {
            column: feature.names[values[column]] if values[column] >= 0 else None
            for column, feature in classes.items()
        }
        yield Row({**values, **named}, f"{name} ({split}), row {number}")
