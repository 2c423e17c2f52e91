"""Output of commands: results to stdout, everything else to stderr, one line per error, an exit code."""

from __future__ import annotations

import json
import logging
import os
import resource
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from typing import Any, NoReturn, TextIO, TypedDict, Unpack

import click

from QEfficient.cloud.flag_words import as_flag, as_typed
from QEfficient.cloud.upstream_flags import in_our_form, with_raw_flags
from QEfficient.errors import CorruptArtifact, CorruptCheckpoint, OptionError, QEffError, nearest
from QEfficient.output import can_encode, encodable
from QEfficient.progress import STARTED
from QEfficient.store.files import readable_bytes

OTHER = "Other options"
CARD_ONLY = "Cloud AI 100 only"
"""Title of the flags that have no effect on cpu, or are refused there."""
_BAD_USAGE, _INTERRUPTED = 2, 130
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_CONTEXT = {
    "help_option_names": ["-h", "--help"],
    "max_content_width": 110,
    # --prefill_seq_len is --prefill-seq-len
    "token_normalize_func": lambda token: token.replace("_", "-"),
}


class Output:
    """Where results go: the stdout that the command was started with."""

    def __init__(self, stream: TextIO):
        self.stream = stream

    @property
    def is_terminal(self) -> bool:
        """Whether the output is a terminal."""
        return self.stream.isatty()

    def write(self, text: str = "", end: str = "\n") -> None:
        """Print text, as far as the stream's encoding has its characters unchanged, and flush it."""
        print(encodable(text, self.stream), end=end, file=self.stream, flush=True)

    def write_piece(self, text: str) -> None:
        """:meth:`write` without a newline."""
        self.write(text, end="")

    def json(self, value: object) -> None:
        """Print one JSON document: on several lines on a terminal, on one line elsewhere."""
        indent = 2 if self.is_terminal else None
        text = json.dumps(value, indent=indent, ensure_ascii=False)
        self.write(text if can_encode(text, self.stream) else json.dumps(value, indent=indent))

    def pairs(self, values: Mapping[str, str]) -> None:
        """Print names and values, one pair per line."""
        if not self.is_terminal:
            width = max(map(len, values))
            return self.write("\n".join(f"{name:<{width}}  {value}" for name, value in values.items()))
        from rich.table import Table

        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="bold", no_wrap=True)
        for name, value in values.items():
            grid.add_row(name, encodable(value, self.stream))
        return self._rich(grid)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table; piped output has plain columns, which are never cut."""
        if not self.is_terminal:
            widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
            lines = [[f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)] for row in [columns, *rows]]
            return self.write("\n".join("  ".join(line).rstrip() for line in lines))
        from rich import box
        from rich.table import Table

        table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False)
        for row in rows:
            table.add_row(*(encodable(cell, self.stream) for cell in row))
        return self._rich(table)

    def _rich(self, renderable: Any) -> None:
        from rich.console import Console

        Console(file=self.stream, markup=False, highlight=False, emoji=False).print(renderable)


def note(text: str) -> None:
    """Print a message that is not a result, to stderr."""
    print(encodable(text, sys.stderr), file=sys.stderr, flush=True)


def remark(text: str) -> None:
    """:func:`note` of what ``--quiet`` leaves out."""
    if logging.getLogger("QEfficient").isEnabledFor(logging.WARNING):
        note(text)


def tell_speed(speed: str) -> None:
    """:func:`remark` of how fast a run was, with the most memory that the process has had."""
    remark(f"{speed.removesuffix(']')}, peak memory {readable_bytes(peak_memory_bytes())}]")


def peak_memory_bytes() -> int:
    """The most memory that the process has had."""
    kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kibibytes if sys.platform == "darwin" else kibibytes * 1024


class _CommandSettings(TypedDict, total=False):
    """Arguments of :class:`click.Command`."""

    callback: Callable[..., Any] | None
    params: list[click.Parameter] | None
    help: str | None


class Command(click.Command):
    """A command whose function gets an :class:`Output` first; what libraries print goes to stderr."""

    def __init__(
        self,
        name: str | None,
        context_settings: Mapping[str, Any] | None = None,
        **kwargs: Unpack[_CommandSettings],
    ):
        super().__init__(name, {**_CONTEXT, **(context_settings or {})}, **kwargs)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, in_our_form(self, args))
        except click.NoSuchOption as error:
            raise with_raw_flags(self, error) from error

    def invoke(self, ctx: click.Context) -> Any:
        ctx.obj = Output(sys.stdout)
        with redirect_stdout(sys.stderr):
            return super().invoke(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and not isinstance(param, click.Argument):
                sections.setdefault(getattr(param, "section", OTHER), []).append(record)
        for title, records in sorted(sections.items(), key=lambda item: (item[0] == OTHER, item[0] == CARD_ONLY)):
            with formatter.section(title):
                formatter.write_dl(records)


def log_to_stderr(level: int | None = None) -> None:
    """Show the library's log. Logs of other libraries do not change.

    Args:
        level: default: that of QEFF_LOG_LEVEL; else warnings, and where no terminal shows progress, also which long
            stages start.

    Raises:
        OptionError: QEFF_LOG_LEVEL names no level.
    """
    logger = logging.getLogger("QEfficient")
    level = level or _level_of_environment()
    logger.setLevel(level or (logging.WARNING if sys.stderr.isatty() else STARTED))
    logger.propagate = False
    logger.handlers = [_StderrHandler()]
    if level != logging.INFO and not sys.warnoptions:
        # Warnings of libraries for developers of other libraries.
        for category in (DeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", category)


def _level_of_environment() -> int | None:
    name = os.environ.get("QEFF_LOG_LEVEL", "")
    if name.lower() not in ("", *_LEVELS):
        raise OptionError(f"QEFF_LOG_LEVEL must be {', '.join(_LEVELS)}, got '{name}'.")
    return _LEVELS.get(name.lower())


class _StderrHandler(logging.Handler):
    """Writes to the current sys.stderr, which a progress display replaces while it is shown."""

    def emit(self, record: logging.LogRecord) -> None:
        level = "" if record.levelno == STARTED else f"{record.levelname.lower()}: "
        note(f"{level}{as_typed(record.getMessage())}")


def run(command: click.Command, args: Sequence[str] | None = None, prog_name: str | None = None) -> NoReturn:
    """Run a command and exit: 0, 1 for a failure, 2 for bad usage or options, 130 after Ctrl-C.

    Args:
        command: the command.
        args: default: those of the process.
        prog_name: how the command is called in messages; default: as the process was started.
    """
    try:
        log_to_stderr()
        code = command.main(args, prog_name, standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        note(error.format_message())
        code = _BAD_USAGE
    except click.UsageError as error:
        _explain_usage(error)
        code = _BAD_USAGE
    except QEffError as error:
        if logging.getLogger("QEfficient").isEnabledFor(logging.INFO):
            traceback.print_exception(error)
        note(f"error: {_as_typed(error)}")
        code = _BAD_USAGE if isinstance(error, OptionError) else 1
    except (KeyboardInterrupt, click.Abort):
        note("Interrupted.")
        code = _INTERRUPTED
    except BrokenPipeError:  # the reader closed the pipe; Python must not flush into it at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code or 0)


def _as_typed(error: QEffError) -> str:
    """Messages about damaged files name keys of files, not flags."""
    is_of_file = isinstance(error, CorruptArtifact | CorruptCheckpoint)
    return str(error) if is_of_file else as_typed(str(error))


def _hint(error: click.NoSuchOption) -> str:
    """Where an option is that the command does not have, or which one it might be."""
    from QEfficient.generation_config import is_unfollowed
    from QEfficient.options import CausalLMCompileOptions

    name = error.option_name.lstrip("-").replace("-", "_")
    if is_unfollowed(name):
        return " Of transformers' options it is one that is not followed here."
    if CausalLMCompileOptions.help(name):
        return " It is for compiling: `qefficient compile` takes it."
    params = [] if error.ctx is None else error.ctx.command.get_params(error.ctx)
    shown = [param for param in params if not getattr(param, "hidden", False)]
    known = {flag.lstrip("-").replace("-", "_") for param in shown for flag in param.opts if flag.startswith("--")}
    return nearest(name, known, as_flag)


def _explain_usage(error: click.UsageError) -> None:
    message = error.format_message()
    if isinstance(error, click.NoSuchOption):
        message = f"There is no option '{error.option_name}'.{_hint(error)}"
    note(f"error: {message}")
    if error.ctx is not None:
        note(f"See '{error.ctx.command_path} --help'.")
