"""Dataclasses from JSON, read as if a stranger had written it: an unknown field, a missing one and a wrong type are
errors."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from QEfficient.contract import Range
from QEfficient.errors import CorruptArtifact, OptionError, nearest

Record = TypeVar("Record")


def read_record(cls: type[Record], value: object, where: str) -> Record:
    """An instance of the dataclass ``cls`` from a JSON object.

    Args:
        cls: fields may be plain values, None, literals, lists, tuples, dicts of strings, and dataclasses of these;
            numbers may have a :class:`Range`. Its ``__post_init__`` raises ValueError where values do not fit together.
        value: the parsed JSON.
        where: its path, for messages: ``package.session``.

    Raises:
        CorruptArtifact: it is no such object; says which field, what was expected and what is there.
    """
    try:
        return _read_fields(cls, value, where)
    except _Misfit as misfit:
        raise CorruptArtifact(f"{misfit} The package is damaged or was changed by hand: compile again.") from misfit


def check_options(cls: type[Any], value: Mapping[str, Any], where: str) -> None:
    """Check what a caller passed against the record ``cls`` that it becomes.

    Raises:
        OptionError: it is no such object; says which field, what was expected and what was passed.
    """
    try:
        _read_fields(cls, value, where)
    except _Misfit as misfit:
        raise OptionError(str(misfit)) from misfit


class _Misfit(Exception):
    """A value that a field does not take."""


def _read_fields(cls: type[Record], value: object, where: str) -> Record:
    if not isinstance(value, Mapping):
        raise _wrong(where, "an object", value)
    hints, known = _hints(cls), {item.name: item for item in fields(cls)}  # type: ignore[arg-type]
    for name in value:
        if name not in known:
            raise _Misfit(f"{where} has the unknown field {name!r}.{nearest(str(name), known)}")
    missing = [name for name, item in known.items() if name not in value and _is_required(item)]
    if missing:
        raise _Misfit(f"{where} lacks the field {missing[0]!r}.")
    read = {name: _read(hints[name], item, f"{where}.{name}") for name, item in value.items()}
    try:
        return cls(**read)
    except ValueError as error:
        raise _Misfit(f"{where}: {error}.") from error


def _wrong(where: str, expected: str, value: object) -> _Misfit:
    text = repr(value)
    shown = text if len(text) <= 60 else f"{text[:57]}..."
    return _Misfit(f"{where} is {shown}, expected {expected}.")


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls, include_extras=True)


def _is_required(item: Field[Any]) -> bool:
    return item.default is MISSING and item.default_factory is MISSING


def _read(kind: Any, value: object, where: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin is Annotated:
        return _read_number(arguments, value, where)
    if origin in (Union, types.UnionType):
        return _read_union(arguments, value, where)
    if origin is Literal:
        if not any(value == choice and type(value) is type(choice) for choice in arguments):
            raise _wrong(where, f"one of {', '.join(map(repr, arguments))}", value)
        return value
    if origin in (list, tuple):
        if not isinstance(value, list | tuple):
            raise _wrong(where, "a list", value)
        return origin(_read(arguments[0], item, f"{where}[{index}]") for index, item in enumerate(value))
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise _wrong(where, "an object", value)
        return {key: _read(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    return _read_fields(kind, value, where) if _is_record(kind) else _read_plain(kind, value, where)


def _read_number(arguments: tuple[Any, ...], value: object, where: str) -> Any:
    kind, (limits,) = arguments[0], [item for item in arguments[1:] if isinstance(item, Range)]
    number = _read(kind, value, where)
    if not limits.least <= number <= limits.most:
        raise _wrong(where, f"a number from {limits.least} to {limits.most}", value)
    return number


def _is_record(kind: Any) -> bool:
    return isinstance(kind, type) and is_dataclass(kind)


def _read_union(kinds: tuple[Any, ...], value: object, where: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    problems = []
    for kind in kinds:
        if kind is type(None):
            continue
        try:
            return _read(kind, value, where)
        except _Misfit as misfit:
            problems.append(misfit)
    raise problems[0]


def _read_plain(kind: type, value: object, where: str) -> object:
    is_whole_float = kind is float and isinstance(value, int) and not isinstance(value, bool)
    if type(value) is not kind and not is_whole_float:
        raise _wrong(where, f"a {kind.__name__}", value)
    return value
