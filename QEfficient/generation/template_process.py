"""The process that renders chat templates: started at the first, restarted after one that broke a limit."""

from __future__ import annotations

import atexit
import json
import marshal
import os
import select
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any

TIME_S = 2.0
"""Of the processor, for one rendering."""
MEMORY_BYTES = 64 * 2**20
"""For one rendering, beyond what the process has."""
_WAIT_S = 10.0
"""By the clock, for one rendering: a machine may have no processor to spare for a while."""
_START_S = 60.0
_MAX_ANSWER_BYTES = 8 * MEMORY_BYTES  # a character of a text has at most six bytes in JSON
_PACKAGES = ("QEfficient", "jinja2", "markupsafe")
_CODE = (
    "import sys; sys.path += sys.argv[1:]; from QEfficient.generation.template_sandbox import serve; "
    "serve(sys.stdin.buffer, sys.stdout.buffer)"
)


class RenderError(Exception):
    """A template was not rendered.

    ``line``: of the template, if it is known; ``is_refusal``: the template itself refused the conversation.
    """

    def __init__(self, message: str, line: int | None = None, is_refusal: bool = False):
        super().__init__(message)
        self.line = line
        self.is_refusal = is_refusal


class TemplateProcess:
    """Renders templates one after the other, for all threads of this process.

    It ends with this process, whatever ends that: its input ends then.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def render(self, template: str, variables: dict[str, Any]) -> str:
        """The text of ``template`` with ``variables``, which are plain data.

        Raises:
            RenderError: the template fails, refuses, or takes too much time or memory.
        """
        request = marshal.dumps((template, variables))
        with self._lock:
            try:
                answer = json.loads(self._ask(request))
            except BaseException:
                # It may be in the middle of a rendering; KeyboardInterrupt ends here too.
                self.close()
                raise
            if "error" in answer and not answer["is_refusal"]:
                self.close()  # what failed may have left memory in use
        if "text" in answer:
            return str(answer["text"])
        raise RenderError(str(answer["error"]), answer["line"], bool(answer["is_refusal"]))

    def _ask(self, request: bytes) -> bytes:
        process = self._process
        if process is None or process.poll() is not None:
            process = self._process = _start()
            _receive(process, _START_S)
        _send(process, len(request).to_bytes(8, "little") + request)
        return _receive(process, _WAIT_S)

    def close(self) -> None:
        """End the process; the next rendering starts another."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            _close_pipes(process)

    def forget(self) -> None:
        """In a forked child: leave the process, and a lock that another thread may have, to the parent."""
        process, self._process, self._lock = self._process, None, Lock()
        if process is not None:
            _close_pipes(process)
            process.returncode = 0  # else its destructor waits for it


def _start() -> subprocess.Popen[bytes]:
    # Isolated, in another session: no variable and no file of the user changes it, and Ctrl-C does not reach it.
    paths = {str(Path(str(spec.origin)).parents[1]) for name in _PACKAGES if (spec := find_spec(name)) is not None}
    environment = {name: os.environ[name] for name in ("TZ", "LD_LIBRARY_PATH") if name in os.environ}
    try:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _CODE, *sorted(paths)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        raise RenderError(f"no process can be started for it: {error}") from error


def _send(process: subprocess.Popen[bytes], content: bytes) -> None:
    assert process.stdin is not None
    rest = memoryview(content)
    try:
        while rest:
            rest = rest[os.write(process.stdin.fileno(), rest) :]
    except BrokenPipeError as error:
        raise _ended(process) from error


def _receive(process: subprocess.Popen[bytes], seconds: float) -> bytes:
    deadline = time.monotonic() + seconds
    size = int.from_bytes(_read(process, 8, deadline), "little")
    if size > _MAX_ANSWER_BYTES:
        raise RenderError(f"its text has more than {_MAX_ANSWER_BYTES >> 20} MiB")
    return _read(process, size, deadline)


def _read(process: subprocess.Popen[bytes], size: int, deadline: float) -> bytes:
    assert process.stdout is not None
    content = bytearray()
    poller = select.poll()
    poller.register(process.stdout, select.POLLIN)
    while len(content) < size:
        if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise RenderError("the process that renders it does not answer")
        piece = os.read(process.stdout.fileno(), min(size - len(content), 2**20))
        if not piece:
            raise _ended(process)
        content += piece
    return bytes(content)


def _ended(process: subprocess.Popen[bytes]) -> RenderError:
    status = process.wait()
    if status == -signal.SIGPROF:
        return RenderError(f"it takes more than {TIME_S:g} s of the processor")
    return RenderError(f"the process that renders it ended with status {status}")


def _close_pipes(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


PROCESS = TemplateProcess()
atexit.register(PROCESS.close)
os.register_at_fork(after_in_child=PROCESS.forget)
