"""Turns of a chat, typed at a terminal or read from a pipe."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout

from QEfficient.cloud.terminal import Output, note
from QEfficient.store.files import home


def piped_turns() -> Iterator[str]:
    """The lines of stdin; one that cannot be decoded is left out, with a note."""
    while True:
        try:
            yield _read_line()
        except EOFError:
            return
        except UnicodeDecodeError as error:
            note(f"error: a line of the conversation is not {error.encoding.upper()}, and is left out.")


def _read_line() -> str:
    """A line of stdin.

    Decoded alone: the text layer would lose the lines that are read together with one that it cannot decode.

    Raises:
        EOFError: there is none.
        UnicodeDecodeError: it has another encoding.
    """
    octets = getattr(sys.stdin, "buffer", None)
    if octets is None:
        return input()
    if not (line := octets.readline()):
        raise EOFError
    return str(line, sys.stdin.encoding)


def typed_turns(out: Output) -> Iterator[str]:
    """What is typed at a terminal, with line editing and the history of earlier chats; Ctrl-D ends it."""
    stream = out.stream if out.is_terminal else sys.stderr
    read = _reader() if stream.isatty() else _plain_line
    while True:
        try:
            with redirect_stdout(stream):
                yield read()
        except EOFError:
            return
        except KeyboardInterrupt:
            note("Ctrl-D or /exit ends the chat.")


def _plain_line() -> str:
    return input("\n> ")


def _reader() -> Callable[[], str]:
    """Asks for a turn of one line, or of several that Alt-Enter or a paste separates."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory, History, InMemoryHistory
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
    from prompt_toolkit.output import create_output

    history: History = InMemoryHistory()
    folder = home()
    if folder.is_dir():
        history = FileHistory(str(folder / "chat_history"))
    bindings = KeyBindings()

    @bindings.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    session: PromptSession[str] = PromptSession(
        history=history, key_bindings=bindings, output=create_output(sys.stdout), prompt_continuation="  "
    )
    return lambda: session.prompt("\n> ")
