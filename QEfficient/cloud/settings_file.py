"""``--config FILE``: the values of a command's flags from a YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from QEfficient.cloud.click_options import Flag
from QEfficient.errors import OptionError, nearest


def read_settings(file: str) -> dict[str, Any]:
    """Flags by name, with ``_`` between the words, and their values.

    Raises:
        OptionError: the file cannot be read, or holds no names.
    """
    import yaml

    try:
        content = yaml.safe_load(Path(file).expanduser().read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise OptionError(f"The settings in '{file}' cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise OptionError(f"'{file}' holds no settings: expected lines of the form 'ctx-len: 1024'.")
    return {name.replace("-", "_"): value for name, value in content.items()}


def _take_settings(ctx: click.Context, param: click.Parameter, file: str | None) -> None:
    """Make the file's values the defaults of the command's parameters."""
    if file is None:
        return
    params = _params(ctx.command)
    defaults: dict[str, Any] = {}
    for name, value in read_settings(file).items():
        if name not in params:
            raise OptionError(f"{file}: there is no setting '{name}'.{nearest(name, params)}")
        defaults[str(params[name].name)] = _as_default(value, params[name])
    ctx.default_map = {**(ctx.default_map or {}), **defaults}


def _params(command: click.Command) -> dict[str, click.Parameter]:
    """What a file may call a command's parameters -> the parameters."""
    params: dict[str, click.Parameter] = {}
    for param in command.params:
        if param.expose_value:
            spellings = [spelling.lstrip("-").replace("-", "_") for spelling in (*param.opts, str(param.name))]
            params |= dict.fromkeys(spellings, param)
    return params


def _as_default(value: Any, param: click.Parameter) -> Any:
    if not getattr(param, "multiple", False):
        return value
    if isinstance(value, dict):
        return [*value.items()]
    return value if isinstance(value, list) else [value]


CONFIG = Flag(
    ["--config"],
    metavar="FILE",
    is_eager=True,
    expose_value=False,
    callback=_take_settings,
    help="A YAML file with values of these flags, such as 'ctx-len: 1024'; flags override it.",
)
