"""Renders chat templates, in a process for nothing else: a template is the checkpoint's code.

jinja2's sandbox keeps it away from Python, files and the network. Limits of the kernel end one that computes or
allocates too much, also within one operation (``9**9**9``, ``'a' * 10**9``), where no budget of an interpreter looks.
"""

from __future__ import annotations

import json
import marshal
import resource
import signal
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from QEfficient.generation.template_process import MEMORY_BYTES, TIME_S


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Answer requests until ``source`` ends, the first before any comes.

    A request is its length in eight bytes, little-endian, and a marshalled pair of template and variables. An answer is
    its length in the same form, and JSON: ``{"text": ...}``, or ``{"error": ..., "line": ..., "is_refusal": ...}``.
    """
    _answer(sink, {"text": ""})  # it has started
    while header := source.read(8):
        template, variables = marshal.loads(source.read(int.from_bytes(header, "little")))
        try:
            with _limits():
                text = _render(template, variables)
            _answer(sink, {"text": text})
        except Exception as error:  # noqa: BLE001 (whatever a template does, its caller is told)
            _answer(sink, _failure(error))


def _answer(sink: BinaryIO, answer: Mapping[str, Any]) -> None:
    content = json.dumps(answer, ensure_ascii=False).encode()
    sink.write(len(content).to_bytes(8, "little") + content)
    sink.flush()


def _failure(error: Exception) -> dict[str, Any]:
    is_refusal = isinstance(error, _Refusal)
    if isinstance(error, MemoryError):
        text = f"it takes more than {MEMORY_BYTES >> 20} MiB of memory"
    elif isinstance(error, jinja2.TemplateError):
        text = str(error)
    else:
        text = f"{type(error).__name__}: {error}"
    text = text[:1000].encode(errors="replace").decode()
    return {"error": text, "line": _line(error), "is_refusal": is_refusal}


def _line(error: Exception) -> int | None:
    """The line of the template where an error was raised."""
    if isinstance(error, jinja2.TemplateSyntaxError):
        return error.lineno
    lines = [
        template.get_corresponding_lineno(line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if (template := frame.f_globals.get("__jinja_template__")) is not None
    ]
    return lines[-1] if lines else None


@contextmanager
def _limits() -> Iterator[None]:
    """The kernel ends the process after its time (SIGPROF), and refuses it memory (MemoryError)."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    most = _address_space() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most if before[1] < 0 else min(most, before[1]), before[1]))
    signal.setitimer(signal.ITIMER_PROF, TIME_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, before)


def _address_space() -> int:
    """Bytes, with what is reserved and not used, as the limit counts them."""
    return int(Path("/proc/self/statm").read_text("ascii").split()[0]) * resource.getpagesize()


def _render(template: str, variables: dict[str, Any]) -> str:
    compiled = _compile(template)
    # As compiled.render, which would rewrite a traceback that is thousands of frames deep.
    return "".join(compiled.root_render_func(compiled.new_context(variables)))


@lru_cache(maxsize=2)
def _compile(template: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {
        "raise_exception": _refuse,
        "strftime_now": _now,
        "dict": _PlainDict(),
        "namespace": _PlainNamespace,
    }
    return environment.from_string(template)


class _Generation(Extension):
    """``{% generation %}`` marks the assistant's text for training; it is a scope, as in transformers."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_text"), [], [], body).set_lineno(line)

    def _text(self, caller: Any) -> str:
        return str(caller())


class _PlainDict:
    """``dict`` without the attributes of a class."""

    def __call__(self, *args: Any, **items: Any) -> dict[Any, Any]:
        return dict(*args, **items)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class _PlainNamespace(Namespace):
    """jinja2's namespace, without names that are special in Python."""

    def __init__(*args: Any, **items: Any) -> None:
        self, *values = args  # so that ``self`` is free for a template
        names = dict(*values, **items)
        for name in names:
            _check_name(name)
        Namespace.__init__(self, names)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"namespace attribute {name!r} is unsafe.")


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    # The filter of jinja2 escapes HTML.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _now(form: str) -> str:
    return datetime.now().strftime(form)


class _Refusal(jinja2.TemplateError):
    """What ``raise_exception`` of a template raises."""


def _refuse(message: str) -> NoReturn:
    raise _Refusal(message)
