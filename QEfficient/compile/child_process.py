"""Runs a compiler: its output is logged live, it ends with this process, and an error says what to do.

A guard leads the compiler's process group: a shell that reads a pipe which only this process can write to. When this
process ends, also by SIGKILL, the pipe does, and the guard kills the group.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, BinaryIO

from QEfficient.errors import CompileError
from QEfficient.progress import stage
from QEfficient.store.files import full_disk, has_room, home, says_full

logger = logging.getLogger(__name__)

LOG_FILE = "compile.log"
Advice = tuple[str, str]
"""A pattern of a compiler's message, and what to do about it."""

_TAIL_LINES = 20
_KEPT_LOGS = 20
_POLL_S = 0.05
_MEMORY = (
    "Memory ran out. Compiling takes about twice the weights' size: use a machine with more, fewer specializations, "
    "or a shorter ctx_len."
)
_GENERAL_ADVICE: tuple[Advice, ...] = (
    (r"(?i)bad_alloc|out of memory|cannot allocate memory|memory resource exhausted", _MEMORY),
)


def run_compiler(command: Sequence[str], *, log: Path, output: Path, advice: Sequence[Advice] = ()) -> None:
    """Run ``command``, without a shell, until it has written ``output``.

    Its process group is killed on any error here, Ctrl-C included, when this process is killed, and so are child
    processes that outlive it. Each line is logged with the seconds since the start.

    Args:
        command: program and arguments.
        log: the file for the command and its output.
        output: the file that it must write.
        advice: what to do for its known messages; the first match is reported.

    Raises:
        CompileError: it cannot be started, fails, or leaves no ``output``.
        StorageError: it fails because the disk is full.
    """
    log.write_text(f"$ {shlex.join(command)}\n", encoding="utf-8")
    with stage("Running", Path(command[0]).name), log.open("ab") as sink, log.open("rb") as source:
        source.seek(0, os.SEEK_END)
        status = _run(command, sink, source)
    if status == 0 and output.is_file():
        return
    problem = _ending(status) if status else f"ended well, and wrote no {output}"
    text = log.read_text(encoding="utf-8", errors="replace").partition("\n")[2]
    if says_full(text) or not has_room(log.parent):
        raise full_disk(log.parent, f"{Path(command[0]).name} {problem}, its log is {_keep(log)}")
    raise CompileError(_report(command, problem, log, _advice(status, text, advice)))


def _run(command: Sequence[str], sink: BinaryIO, source: BinaryIO) -> int:
    began = time.perf_counter()
    with _guarded_group() as group:
        process = _start(command, sink, group)
        unfinished = b""
        try:
            while process.poll() is None:
                unfinished = _follow(source, unfinished, began)
                time.sleep(_POLL_S)
            _follow(source, unfinished, began)
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)
            process.wait()
    return process.returncode


def _start(command: Sequence[str], sink: BinaryIO, group: int) -> subprocess.Popen[bytes]:
    try:
        # To a file, not a pipe: the log is complete even if this process is killed, and no reader can block it.
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT, process_group=group
        )
    except OSError as error:
        raise CompileError(
            f"{command[0]} does not start: {error.strerror}. Check that it is installed and may be executed."
        ) from error


_GUARD = ("/bin/sh", "-c", "trap '' HUP INT TERM; read line; kill -KILL 0")
"""``kill 0`` is for the process group that the shell is in, the compiler's."""
_pipes: set[IO[bytes]] = set()
"""Ends of pipes to guards. A fork must not keep them open when this process ends."""


@contextmanager
def _guarded_group() -> Iterator[int]:
    """A new process group that is killed when this process ends, or at the end of the block."""
    nothing = subprocess.DEVNULL
    try:
        guard = subprocess.Popen(
            _GUARD, bufsize=0, stdin=subprocess.PIPE, stdout=nothing, stderr=nothing, process_group=0
        )
    except OSError as error:
        raise CompileError(f"No compiler can be started: {_GUARD[0]}: {error.strerror}.") from error
    assert guard.stdin is not None
    _pipes.add(guard.stdin)
    try:
        yield guard.pid
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(guard.pid, signal.SIGKILL)
        _pipes.discard(guard.stdin)
        guard.stdin.close()
        guard.wait()


def _close_pipes() -> None:
    for pipe in _pipes:
        with suppress(OSError):
            pipe.close()
    _pipes.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_pipes)


def _follow(source: BinaryIO, unfinished: bytes, began: float) -> bytes:
    """Log the new lines; returns the text after the last line break."""
    *lines, unfinished = (unfinished + source.read()).split(b"\n")
    for line in lines:
        logger.info("%7.1f s  %s", time.perf_counter() - began, line.decode(errors="replace").rstrip())
    return unfinished


def _ending(status: int) -> str:
    if status > 0:
        return f"failed with exit status {status}"
    return f"was killed by signal {-status} ({signal.Signals(-status).name})"


def _advice(status: int, text: str, advice: Sequence[Advice]) -> str:
    for pattern, what_to_do in (*advice, *_GENERAL_ADVICE):
        if match := re.search(pattern, text):
            return match.expand(what_to_do)
    # 137 is what a shell script says of a child that signal 9 ended.
    return f"Signal 9 usually comes from the kernel. {_MEMORY}" if status in (-signal.SIGKILL, 137) else ""


def _report(command: Sequence[str], problem: str, log: Path, what_to_do: str) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[1:]
    tail = "\n".join(f"    {line.rstrip()}" for line in lines[-_TAIL_LINES:]) or "    (nothing)"
    parts = [
        f"{Path(command[0]).name} {problem}.{' ' + what_to_do if what_to_do else ''}",
        f"The command: {shlex.join(command)}",
        f"Its last lines (all are in {_keep(log)}):\n{tail}",
    ]
    return "\n".join(parts)


def _keep(log: Path) -> Path:
    """A copy of the log that outlives the folder of a failed build; the newest twenty are kept."""
    folder = home() / "logs"
    kept = folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}-{time.monotonic_ns() % 1_000_000}.log"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(log, kept)
        for old in sorted(folder.glob("*.log"))[:-_KEPT_LOGS]:
            old.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("The log is not kept: %s", error)
        return log
    return kept
