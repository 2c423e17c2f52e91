"""Flags made from the option dataclasses, so that the command line has every option and its documentation."""

from __future__ import annotations

import ast
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields
from functools import wraps
from typing import Any, Literal, TypedDict, TypeVar, Unpack, get_args, get_origin, get_type_hints

import click
from click.shell_completion import CompletionItem

from QEfficient.cloud.completion import complete_target, paths_of
from QEfficient.cloud.flag_words import as_flag, note_spelling
from QEfficient.cloud.terminal import CARD_ONLY, OTHER, log_to_stderr
from QEfficient.errors import OptionError
from QEfficient.options import HONOURED, Options

Function = TypeVar("Function", bound=Callable[..., Any])

_UPSTREAM_SPELLINGS = {
    "prefill_seq_len": ("--prompt-len",),
    "mxfp6_matmul": ("--mxfp6",),
    "mxint8_kv_cache": ("--mxint8",),
    "task_mode": ("--task",),
}


class _FlagSettings(TypedDict, total=False):
    """Arguments of :class:`click.Option`."""

    type: click.ParamType | type[Any]
    default: Any
    show_default: bool
    multiple: bool
    nargs: int
    is_flag: bool
    is_eager: bool
    expose_value: bool
    hidden: bool
    metavar: str
    help: str
    callback: Callable[[click.Context, click.Parameter, Any], Any]


class Flag(click.Option):
    """An option that has a section in the help."""

    def __init__(self, param_decls: list[str], *, section: str = OTHER, **kwargs: Unpack[_FlagSettings]):
        super().__init__(param_decls, **kwargs)
        self.section = section

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """What a shell offers for the value."""
        kind = paths_of(self.metavar)
        return [CompletionItem(incomplete, type=kind)] if kind else super().shell_complete(ctx, incomplete)


class _FieldFlag(Flag):
    """An option of a dataclass; None when it is not set."""

    def __init__(self, declarations: list[str], *, source: tuple[type[Options], Field[Any]], **kwargs: Any):
        super().__init__(declarations, default=None, **kwargs)
        self.source = source

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        cls, field = self.source  # read here: extracting the documentation takes time that only the help needs
        self.help = " ".join(cls.help(field.name).split())
        if field.default not in (None, False, MISSING) and "Default:" not in self.help:
            self.help += f" [default: {field.default}]"
        return super().get_help_record(ctx)


def flags(*options: click.Option) -> Callable[[Function], Function]:
    """Give a command these options, in this order."""

    def decorate(function: Function) -> Function:
        # click keeps the parameters of decorators in reverse order
        parameters: list[click.Parameter] = function.__dict__.setdefault("__click_params__", [])
        parameters.extend(reversed(options))
        return function

    return decorate


def option_flags(
    into: str, section: str, *classes: type[Options], only: tuple[str, ...] = ()
) -> Callable[[Function], Callable[..., Any]]:
    """Give a command a flag for each field of ``classes``.

    Args:
        into: the argument that gets a dict of the options that are set.
        section: title in the help.
        only: names of the fields to include; empty: all.
    """
    sources: dict[str, tuple[type[Options], Field[Any]]] = {}
    for cls in classes:
        for field in fields(cls):
            if not only or field.name in only:
                sources.setdefault(field.name, (cls, field))
    made = [_field_flag(cls, field, section) for cls, field in sources.values()]
    return lambda function: flags(*made)(_collected(function, into, list(sources)))


def _collected(function: Function, into: str, names: list[str]) -> Function:
    @wraps(function)
    def command(*args: Any, **params: Any) -> Any:
        values = {name: params.pop(name) for name in names}
        return function(*args, **params, **{into: {name: v for name, v in values.items() if v is not None}})

    return command  # type: ignore[return-value]


def _field_flag(cls: type[Options], field: Field[Any], section: str) -> Flag:
    spelling = as_flag(field.name)
    kind = _without_none(get_type_hints(cls)[field.name])
    more: dict[str, Any] = {"type": kind}
    if form := field.metadata.get("form"):
        more = _FORMS[form]
    elif kind is bool:
        more = {"is_flag": True}
        if field.default is None:
            spelling = f"{spelling}/--no-{spelling.removeprefix('--')}"
    elif get_origin(kind) is Literal:
        more = {"type": click.Choice(get_args(kind))}
    elif kind in (int, float, str):
        more |= {"metavar": {int: "N", float: "X", str: "NAME"}[kind]}
    elif get_origin(kind) is Mapping:
        spelling = spelling.removesuffix("s")
        more = {"type": _KeyValue(), "multiple": True, "callback": _to_dict, "metavar": "KEY=VALUE"}
    else:
        more = {"type": _Lengths(is_list=get_origin(kind) is tuple), "metavar": "N,N"}
    if field.name == "target":
        more["shell_complete"] = complete_target
    if cls.support(field.name, "openvino") not in (None, HONOURED):
        section = CARD_ONLY
    names = [field.name, spelling, *_UPSTREAM_SPELLINGS.get(field.name, ())]
    return _FieldFlag(names, source=(cls, field), section=section, **more)


def _without_none(kind: Any) -> Any:
    kinds = [part for part in get_args(kind) if part is not type(None)]
    is_optional = type(None) in get_args(kind)
    return kinds[0] if is_optional and len(kinds) == 1 else kind


class _KeyValue(click.ParamType):
    """``KEY=VALUE`` to a pair; the value is a number, a boolean or text."""

    name = "KEY=VALUE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        key, equals, text = value.partition("=")
        if not key or not equals:
            self.fail(f"{value!r} is not KEY=VALUE", param, ctx)
        return key, _plain(text)


def _plain(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _to_dict(ctx: click.Context, param: click.Parameter, pairs: tuple[tuple[str, Any], ...]) -> dict[str, Any] | None:
    return dict(pairs) or None


class _Lengths(click.ParamType):
    """``128`` or ``32,128`` to a number or a tuple of them; with ``is_list`` always to a tuple."""

    name = "lengths"

    def __init__(self, is_list: bool = False):
        self.is_list = is_list

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            lengths = tuple(int(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is neither a whole number nor a comma-separated list of them", param, ctx)
        return lengths if self.is_list or len(lengths) > 1 else lengths[0]


class _Json(click.ParamType):
    """A value in JSON."""

    name = "JSON"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except ValueError as error:
            self.fail(f"{value!r} is not JSON: {error}", param, ctx)


def _or_none(ctx: click.Context, param: click.Parameter, texts: tuple[str, ...]) -> tuple[str, ...] | None:
    return texts or None


_FORMS: dict[str, dict[str, Any]] = {
    "ids": {"type": _Lengths(is_list=True), "metavar": "N,N"},
    "texts": {"type": str, "multiple": True, "callback": _or_none, "metavar": "TEXT"},
    "json": {"type": _Json(), "metavar": "JSON"},
}
"""How a flag takes an option that is a list, by what its field says."""


class DeviceGroup(click.ParamType):
    """Upstream's ``[0,1]`` to a list of device numbers."""

    name = "device group"

    def convert(self, value: str | list[int], param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, list):
            return value
        try:
            devices = ast.literal_eval(value if value.startswith("[") else f"[{value}]")
        except (ValueError, SyntaxError):
            devices = None
        if not devices or not all(type(device) is int and device >= 0 for device in devices):
            self.fail(f"{value!r} is not a list of devices such as [0] or [0,1]", param, ctx)
        return devices


def with_device_group(compile_options: dict[str, Any], device_group: list[int] | None) -> dict[str, Any]:
    """Compile options in which ``--device-group`` has become ``num_devices``.

    Raises:
        OptionError: both are set and differ.
    """
    if device_group is None:
        return compile_options
    count = len(device_group)
    if compile_options.get("num_devices", count) != count:
        raise OptionError(
            f"--num-devices {compile_options['num_devices']} and --device-group {device_group} contradict each other."
        )
    if "num_devices" not in compile_options:
        note_spelling("num_devices", "--device-group")
    return {**compile_options, "num_devices": count}


def _log_all(ctx: click.Context, param: click.Parameter, verbose: bool) -> None:
    if verbose:
        log_to_stderr(logging.INFO)


def _log_errors(ctx: click.Context, param: click.Parameter, quiet: bool) -> None:
    if quiet:
        log_to_stderr(logging.ERROR)


VERBOSE = Flag(
    ["-v", "--verbose"],
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_log_all,
    help="Log each stage with its duration, and show tracebacks of errors.",
)
QUIET = Flag(
    ["-q", "--quiet"],
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_log_errors,
    help="Show only results and errors: no progress, warnings or speed.",
)
LOGGING = (VERBOSE, QUIET)
"""Of every command."""
JSON = Flag(["as_json", "--json"], is_flag=True, help="Print one JSON document.")
