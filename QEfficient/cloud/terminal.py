"""Output of commands: results to stdout, everything else to stderr, one line per error, an exit code."""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from typing import Any, NoReturn, TextIO, TypedDict, Unpack

import click

from QEfficient.cloud.upstream_flags import in_our_form, with_raw_flags
from QEfficient.errors import OptionError, QEffError
from QEfficient.output import can_encode, encodable
from QEfficient.progress import STARTED

OTHER = "Other options"
_BAD_USAGE, _INTERRUPTED = 2, 130
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
        for title, records in sorted(sections.items(), key=lambda item: item[0] == OTHER):
            with formatter.section(title):
                formatter.write_dl(records)


def log_to_stderr(level: int | None = None) -> None:
    """Show the library's log. Logs of other libraries do not change.

    Args:
        level: default: warnings, and where no terminal shows progress, also which long stages start.
    """
    logger = logging.getLogger("QEfficient")
    logger.setLevel(level or (logging.WARNING if sys.stderr.isatty() else STARTED))
    logger.propagate = False
    logger.handlers = [_StderrHandler()]
    if level != logging.INFO and not sys.warnoptions:
        # Warnings of libraries for developers of other libraries.
        for category in (DeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", category)


class _StderrHandler(logging.Handler):
    """Writes to the current sys.stderr, which a progress display replaces while it is shown."""

    def emit(self, record: logging.LogRecord) -> None:
        level = "" if record.levelno == STARTED else f"{record.levelname.lower()}: "
        note(f"{level}{record.getMessage()}")


def run(command: click.Command, args: Sequence[str] | None = None, prog_name: str | None = None) -> NoReturn:
    """Run a command and exit: 0, 1 for a failure, 2 for bad usage or options, 130 after Ctrl-C.

    Args:
        command: the command.
        args: default: those of the process.
        prog_name: how the command is called in messages; default: as the process was started.
    """
    log_to_stderr()
    try:
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
        note(f"error: {error}")
        code = _BAD_USAGE if isinstance(error, OptionError) else 1
    except (KeyboardInterrupt, click.Abort):
        note("Interrupted.")
        code = _INTERRUPTED
    except BrokenPipeError:  # the reader closed the pipe; Python must not flush into it at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code or 0)


def _explain_usage(error: click.UsageError) -> None:
    message = error.format_message()
    if isinstance(error, click.NoSuchOption):
        hint = f" Did you mean '{error.possibilities[0]}'?" if error.possibilities else ""
        message = f"There is no option '{error.option_name}'.{hint}"
    note(f"error: {message}")
    if error.ctx is not None:
        note(f"See '{error.ctx.command_path} --help'.")
