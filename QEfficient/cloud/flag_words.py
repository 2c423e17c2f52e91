"""Messages of the library in the words of the command line: flags and commands in place of Python's arguments."""

from __future__ import annotations

import re
from dataclasses import fields
from functools import cache

import click

_FLAGS = {
    "adapter": "--use-adapter",
    "compiler_options": "--compiler-option",
    "generation_config": "--generation-config",
    "generation_len": "--generation-len",
    "gguf_file": "--gguf-file",
    "images": "--image-path",
    "node_precision_out": "--node-precision-out",
    "pooling": "--pooling",
    "trust_remote_code": "--trust-remote-code",
}
"""Flags of arguments that are in no class of options."""
_COMMANDS = {name: name for name in ("compile", "export", "verify")} | {"from_package": "execute", "generate": "infer"}
_SPELLED = "QEfficient.spelled"
"""Key of what the user typed, in click's store."""
_VALUE = r"""'[^']*'|"[^"]*"|\[[^\]]*\]|\{\.\.\.\}|\.\.\.|[\w.+-]*\w"""


def as_flag(name: str) -> str:
    """``ctx_len`` -> ``--ctx-len``."""
    return "--" + name.replace("_", "-")


def note_spelling(name: str, flag: str) -> None:
    """Remember that an option was set by another flag of the same meaning."""
    click.get_current_context().meta.setdefault(_SPELLED, {})[name] = flag


def as_typed(message: str) -> str:
    """A message with ``--ctx-len 64`` for ``ctx_len=64``, and ``qefficient compile`` for ``compile()``.

    Names in a message about a JSON file are those of its entries, and stay.
    """
    flags = _flags() | _spelled()
    names = "|".join(sorted(flags, key=len, reverse=True))
    message = re.sub(rf"(?<![\w.'\"/-])({names})=({_VALUE})", lambda match: _assigned(flags, match), message)
    if ".json" not in message:
        long = "|".join(sorted((name for name in flags if "_" in name or name == "mos"), key=len, reverse=True))
        message = re.sub(rf"(?<![\w.'\"/=-])({long})(?![\w='\"./(-])", lambda match: flags[match[1]], message)
        message = re.sub(rf"(?<![\w.'\"/=-])({long})(?=\.(?:\s|$))", lambda match: flags[match[1]], message)
    message = re.sub(
        r"from_pretrained\(\) has no option '(\w+)'",
        lambda match: f"This model takes no {flags.get(match[1], as_flag(match[1]))}",
        message,
    )
    commands = "|".join(_COMMANDS)
    return re.sub(rf"(?<![\w.'\"])({commands})\(\)", lambda match: f"`qefficient {_COMMANDS[match[1]]}`", message)


def _assigned(flags: dict[str, str], match: re.Match[str]) -> str:
    name, value = match.groups()
    flag = flags[name]
    if value in ("True", "False"):
        return flag if value == "True" else f"no {flag}"
    if value in ("...", "{...}"):
        return f"{flag} {'KEY=VALUE' if name == 'compiler_options' else '...'}"
    return f"{flag} {value.strip('[]').replace(', ', ',').strip(chr(39) + chr(34))}"


@cache
def _flags() -> dict[str, str]:
    """Flags by the names of options."""
    from QEfficient import options
    from QEfficient.generation_options import GenerationOptions

    kinds = [kind for kind in vars(options).values() if isinstance(kind, type) and issubclass(kind, options.Options)]
    names = {item.name for kind in (*kinds, GenerationOptions) for item in fields(kind)}
    return {name: as_flag(name) for name in names} | _FLAGS


def _spelled() -> dict[str, str]:
    context = click.get_current_context(silent=True)
    spelled: dict[str, str] = {} if context is None else context.meta.get(_SPELLED, {})
    return spelled
