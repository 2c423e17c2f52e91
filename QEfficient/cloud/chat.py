"""A conversation with a model: turns, the commands that begin with a slash, and a context that fills up."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from QEfficient.cloud.chat_input import piped_turns, typed_turns
from QEfficient.cloud.generate_args import Question
from QEfficient.cloud.terminal import Output, note, tell_speed
from QEfficient.errors import CapacityError, nearest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from QEfficient.generation.results import CloudAI100ExecInfo
    from QEfficient.generation.tasks.causal_lm import CompiledDecoder

Message = dict[str, str]
COMMANDS = {
    "/help": "this list",
    "/clear": "forget the conversation",
    "/system TEXT": "set the system prompt; without TEXT remove it",
    "/retry": "answer the last turn again",
    "/save FILE": "write the conversation as JSON",
    "/stats": "speed of the last answer, and how full the context is",
    "/exit": "end the chat, as Ctrl-D does",
}
"""What a turn may be besides a message, with its argument."""
_HINTS = "Ctrl-C stops an answer. Alt-Enter begins a new line. A space before / sends a turn as a message."


class Chat:
    """A conversation with its history.

    Args:
        out: where the answers go.
        compiled: the open package.
        question: the turns, if they are flags, and how to answer them.
        tokenizer: for a package that has none.
    """

    def __init__(
        self, out: Output, compiled: CompiledDecoder[Any], question: Question, tokenizer: PreTrainedTokenizerBase | None
    ):
        self._out, self._compiled, self._question, self._tokenizer = out, compiled, question, tokenizer
        self._is_interactive = not question.prompts and sys.stdin.isatty()
        self._system = question.system
        self._last: CloudAI100ExecInfo | None = None
        self._clear()

    def run(self) -> None:
        """Answer turns until the conversation ends."""
        if self._is_interactive:
            note("Ctrl-D or /exit ends the chat, /help lists more.")
        for text in self._turns():
            if text.strip() == "/exit":
                break
            if _is_command(text):
                self._command(*text.strip().partition(" ")[::2])
            elif text.strip():
                self._turn(text.strip())
        if self._question.as_json:
            self._out.json({"package": str(self._compiled.path), "messages": [*self._system_message(), *self._said]})

    def _turns(self) -> Iterator[str]:
        if self._question.prompts:
            return iter(self._question.prompts)
        return typed_turns(self._out) if self._is_interactive else piped_turns()

    def _turn(self, text: str) -> None:
        asked = {"role": "user", "content": text}
        try:
            answer = self._answer(asked)
        except CapacityError as error:
            if not self._is_interactive:
                raise
            return note(f"error: {error} /clear forgets the conversation.")
        if answer is not None:
            self._said += [asked, {"role": "assistant", "content": answer}]
        return None

    def _answer(self, asked: Message) -> str | None:
        """The answer to a turn, written as it comes; what there is of one that Ctrl-C stops."""
        shows = self._question.stream and not self._question.as_json
        pieces: list[str] = []

        def write(piece: str) -> None:
            pieces.append(piece)
            self._out.write_piece(piece)

        options: dict[str, Any] = {**self._question.options, "stream": write if shows else False}
        try:
            info = self._compiled.generate(self._with_room(asked), tokenizer=self._tokenizer, **options)
        except KeyboardInterrupt:
            if not self._is_interactive:
                raise
            self._out.write()
            note("Stopped.")
            return "".join(pieces) or None
        self._last = info
        if not self._question.as_json:
            self._out.write("" if shows else info.generated_texts[0])
            tell_speed(info.speed)
        return info.generated_texts[0]

    def _with_room(self, asked: Message) -> list[Message]:
        """The conversation with a new turn; without the oldest turns, where it leaves no room for an answer."""
        before = self._first
        while self._first < len(self._said) and not self._fits(self._sent(asked)):
            self._first += 2  # a turn and its answer
        if self._first > before:
            count = (self._first - before) // 2
            note(f"The context is full: the model no longer sees the oldest {count} turn{'s' if count > 1 else ''}.")
        return self._sent(asked)

    def _fits(self, messages: list[Message]) -> bool:
        ctx_len = self._compiled.engine.session.info.ctx_len
        answer_len = self._question.max_new_tokens or ctx_len // 4
        return self._num_tokens(messages) + answer_len <= ctx_len

    def _num_tokens(self, messages: list[Message]) -> int:
        return len(self._compiled.encode_text(messages, self._tokenizer)[0]) if messages else 0

    def _sent(self, *asked: Message) -> list[Message]:
        return [*self._system_message(), *self._said[self._first :], *asked]

    def _system_message(self) -> list[Message]:
        return [] if self._system is None else [{"role": "system", "content": self._system}]

    def _clear(self) -> None:
        self._said: list[Message] = []
        """Turns and answers in turn; the model sees those from ``_first`` on."""
        self._first = 0

    def _command(self, name: str, argument: str) -> None:
        if name == "/clear":
            self._clear()
        elif name == "/system":
            self._system = argument.strip() or None
        elif name == "/retry":
            self._retry()
        elif name == "/save":
            self._save(argument.strip())
        elif name == "/stats":
            self._report()
        elif name == "/help":
            width = max(map(len, COMMANDS))
            note("\n".join([*(f"{command:<{width}}  {does}" for command, does in COMMANDS.items()), _HINTS]))
        else:
            names = [command.partition(" ")[0] for command in COMMANDS]
            note(f"error: There is no command '{name}'.{nearest(name, names)} /help lists them.")

    def _retry(self) -> None:
        if not self._said:
            return note("error: There is no turn to answer again.")
        *self._said, asked, _ = self._said
        self._first = min(self._first, len(self._said))
        return self._turn(asked["content"])

    def _save(self, file: str) -> None:
        if not file:
            return note("error: /save needs the name of a file.")
        try:
            messages = [*self._system_message(), *self._said]
            Path(file).expanduser().write_text(json.dumps(messages, ensure_ascii=False, indent=2), encoding="utf-8")
        except OSError as error:
            return note(f"error: The conversation cannot be written: {error}.")
        return note(f"Wrote {len(messages)} messages to {file}.")

    def _report(self) -> None:
        if self._last is not None:
            note(self._last.speed)
        used, ctx_len = self._num_tokens(self._sent()), self._compiled.engine.session.info.ctx_len
        num_turns = len(self._said) // 2
        note(f"{num_turns} turn{'' if num_turns == 1 else 's'}, {used} of {ctx_len} tokens of the context.")


def _is_command(text: str) -> bool:
    """Whether a turn begins with a slash and a word: a path has further slashes."""
    return text.startswith("/") and text.strip().partition(" ")[0].count("/") == 1
