"""The shapes that the card's compiler compiles a model for, as the file that it reads.

Two forms: since 1.22 the SDK takes named entries, ``{"name": "Prefill", "symbols": {…}}``; older ones take the symbols
alone and fail on a name with a JSON type error (quic/efficient-transformers#1129).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from QEfficient.compile.custom_io import GraphValue
from QEfficient.compile.qaic_sdk import version_pair
from QEfficient.contract import CompileJob, Specialization
from QEfficient.errors import CompileError, OptionError

FILE = "specializations.json"
FORM_KEY = "specialization_format"
"""The key of ``compiler_options`` that chooses the form where the SDK's version implies the wrong one."""
Form = Literal["named", "flat"]
_NAMED_SINCE = (1, 22)


def specialization_form(job: CompileJob, sdk_version: str | None) -> Form:
    """The form for an SDK. Unknown versions get the named one, which an old compiler refuses rather than misreads.

    Raises:
        OptionError: ``compiler_options`` asks for a form that does not exist.
    """
    asked = job.options.compiler_options.get(FORM_KEY)
    if asked not in (None, "named", "flat"):
        raise OptionError(f"{FORM_KEY} must be 'named' (SDK 1.22 and newer) or 'flat' (older), got {asked!r}.")
    if asked:
        return asked
    version = version_pair(sdk_version)
    return "flat" if version is not None and version < _NAMED_SINCE else "named"


def write_specializations(folder: Path, job: CompileJob, sdk_version: str | None) -> Path:
    """Write ``specializations.json``, with all values as text, which every SDK takes.

    Raises:
        OptionError: there is no specialization, or a size is not a whole number of at least 1.
    """
    _check_sizes(job.specializations)
    named = specialization_form(job, sdk_version) == "named"
    entries: list[dict[str, Any]] = []
    for name, entry in zip(unique_names(job.specializations), job.specializations, strict=True):
        symbols = {symbol: str(size) for symbol, size in entry.symbols.items()}
        entries.append({"name": name, "symbols": symbols} if named else symbols)
    path = folder / FILE
    path.write_text(json.dumps({"specializations": entries}, indent=4) + "\n", encoding="utf-8")
    return path


def unique_names(specializations: Sequence[Specialization]) -> list[str]:
    """The names, those that occur more than once with a number: Prefill_0, Prefill_1, Decode."""
    total, seen = Counter(entry.name for entry in specializations), Counter[str]()
    names = []
    for entry in specializations:
        names.append(f"{entry.name}_{seen[entry.name]}" if total[entry.name] > 1 else entry.name)
        seen[entry.name] += 1
    if len({*names}) < len(names):
        raise OptionError(f"Two specializations have the same name after numbering: {', '.join(names)}. Rename one.")
    return names


def _check_sizes(specializations: Sequence[Specialization]) -> None:
    if not specializations:
        raise OptionError("There is no specialization, and the card's compiler needs the size of every axis.")
    for entry in specializations:
        for symbol, size in entry.symbols.items():
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise OptionError(
                    f"Specialization '{entry.name}': {symbol} must be a whole number of at least 1, got {size!r}."
                )


def check_specializations(job: CompileJob, inputs: Iterable[GraphValue]) -> None:
    """Check against the graph that each specialization sizes every axis and has unique input shapes.

    The card chooses one by the inputs' shapes alone; its choice between two equal ones is undefined.

    Raises:
        CompileError: an axis has no size in a specialization.
        OptionError: two specializations give all inputs the same shapes.
    """
    _check_sizes(job.specializations)
    axes = {dim: value.name for value in inputs for dim in value.shape if isinstance(dim, str)}
    seen: dict[tuple[tuple[str, int], ...], str] = {}
    for name, entry in zip(unique_names(job.specializations), job.specializations, strict=True):
        unbound = sorted(axes.keys() - entry.symbols.keys())
        if unbound:
            raise CompileError(
                f"Specialization '{name}' gives no size to the axis '{unbound[0]}' of the graph's input "
                f"'{axes[unbound[0]]}'; it has {', '.join(entry.symbols) or 'none'}."
            )
        shapes = tuple((axis, entry.symbols[axis]) for axis in sorted(axes))
        if shapes in seen:
            sizes = ", ".join(f"{axis}={size}" for axis, size in shapes)
            raise OptionError(
                f"Specializations '{seen[shapes]}' and '{name}' have the same input shapes ({sizes}), by which the "
                "card tells them apart. Drop one of the two."
            )
        seen[shapes] = name


def read_specializations(path: Path) -> tuple[Specialization, ...]:
    """What :func:`write_specializations` or upstream wrote, in either form; entries without a name get a number.

    Raises:
        CompileError: it is no such file.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["specializations"]
        return tuple(_read(entry, f"Specialization_{number}") for number, entry in enumerate(entries))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CompileError(f"{path} is not a specialization file: {type(error).__name__}: {error}") from error


def _read(entry: Any, default_name: str) -> Specialization:
    name, symbols = (entry["name"], entry["symbols"]) if "symbols" in entry else (default_name, entry)
    return Specialization(name=str(name), symbols={symbol: int(size) for symbol, size in symbols.items()})
