"""Prompts in, answers out: what ``infer`` and ``execute`` share. Neither torch nor transformers is imported here."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from QEfficient.cloud.click_options import JSON, Flag, Function, flags, option_flags
from QEfficient.cloud.terminal import Output, note
from QEfficient.errors import CapacityError, OptionError
from QEfficient.generation.prompts import read_prompts
from QEfficient.options import SamplingOptions
from QEfficient.progress import stage
from QEfficient.tasks import TASKS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from QEfficient.generation.compiled_model import CompiledModel
    from QEfficient.generation.results import CloudAI100ExecInfo
    from QEfficient.generation.tasks.causal_lm import CompiledDecoder

_SECTION = "Prompts and answers"
_CHAT_HELP = "Chat with the model. /clear forgets the conversation, /exit or Ctrl-D ends it."


@dataclass(frozen=True, kw_only=True)
class Question:
    """Prompts, and how to answer them."""

    prompts: list[str]
    """Empty only in a chat, which then reads them from stdin."""
    chat: bool
    system: str | None
    generation_len: int | None
    images: list[str]
    """Paths, all for a single prompt or one for each."""
    stream: bool
    as_json: bool
    sampling: dict[str, Any]

    def __post_init__(self) -> None:
        """Check the flags before a model is loaded."""
        if self.system is not None and not self.chat:
            raise OptionError("--system is for a chat: give --chat too.")
        if self.images and self.chat:
            raise OptionError("--image-path is for prompts, not for a chat.")
        if self.generation_len is not None and self.generation_len < 1:
            raise OptionError(f"--generation-len must be at least 1, got {self.generation_len}.")
        SamplingOptions.parse(self.sampling)

    def check_task(self, task: str) -> None:
        """
        Raises:
            OptionError: a flag is not for models of this task.
        """
        asks_for_text = self.chat or self.generation_len is not None or bool(self.sampling)
        if asks_for_text and task in TASKS and not TASKS[task].load_compiled().takes_chat:
            raise OptionError(f"This model is {TASKS[task].kind}: it has no chat, no --generation-len and no sampling.")
        if self.images and task in TASKS and not TASKS[task].load_compiled().takes_images:
            raise OptionError(f"This model is {TASKS[task].kind}, which sees no images: leave --image-path out.")

    @property
    def options(self) -> dict[str, Any]:
        """Arguments for ``generate``."""
        images = {"images": self.images} if self.images else {}
        return {"generation_len": self.generation_len, **images, **self.sampling}


def question_flags(function: Function) -> Callable[..., Any]:
    """Give a command the flags of prompts and answers, as its argument ``question``."""

    @wraps(function)
    def command(
        *args: Any,
        prompt: tuple[str, ...],
        prompts_txt_file_path: str | None,
        image_path: tuple[str, ...],
        **params: Any,
    ) -> Any:
        answers = {name: params.pop(name) for name in Question.__dataclass_fields__ if name in params}
        prompts = _prompts(prompt, prompts_txt_file_path, answers["chat"])
        return function(*args, question=Question(prompts=prompts, images=[*image_path], **answers), **params)

    return flags(*_FLAGS)(option_flags("sampling", "Sampling", SamplingOptions)(command))


def _prompts(texts: tuple[str, ...], file: str | None, chat: bool) -> list[str]:
    if not texts and file is None:
        if chat:
            return []
        raise click.UsageError(
            "What to answer? Give --prompt, --prompts-txt-file-path or --chat.", click.get_current_context()
        )
    is_one = len(texts) == 1 and not chat  # may hold several, as upstream writes them
    return read_prompts((texts[0] if is_one else list(texts)) if texts else None, file)


_FLAGS = (
    Flag(
        ["prompt", "-p", "--prompt"],
        section=_SECTION,
        multiple=True,
        metavar="TEXT",
        help="A prompt; repeat it for several. A single one is split at |, except in a chat.",
    ),
    Flag(
        ["--prompts-txt-file-path"],
        section=_SECTION,
        metavar="FILE",
        help="A file with one prompt per line, in UTF-8 or UTF-16.",
    ),
    Flag(
        ["--image-path"],
        section=_SECTION,
        multiple=True,
        metavar="FILE",
        help="An image for the prompt; repeat it for several. Of several prompts, each gets one; an "
        "encoder scores each image with each prompt.",
    ),
    Flag(["--chat"], section=_SECTION, is_flag=True, help=_CHAT_HELP),
    Flag(["--system"], section=_SECTION, metavar="TEXT", help="What a chat tells the model before the first turn."),
    Flag(
        ["--generation-len"],
        section=_SECTION,
        type=int,
        metavar="N",
        help="Maximum new tokens per prompt. Default: the checkpoint's max_new_tokens, else what fits the context.",
    ),
    Flag(
        ["stream", "--stream/--no-stream"],
        section=_SECTION,
        default=True,
        help="Show the answer while it is generated (for a single prompt). [default: yes]",
    ),
    JSON,
)


def answer(out: Output, package: Path, question: Question, tokenizer: PreTrainedTokenizerBase | None = None) -> None:
    """Open a package and answer.

    Args:
        out: where the answers go.
        package: the package's folder.
        question: the prompts, and how to answer them.
        tokenizer: for a package that has none.
    """
    from QEfficient.generation.package import from_package
    from QEfficient.generation.tasks.causal_lm import CompiledDecoder

    with stage("Opening", str(package)):
        compiled = from_package(package)
    question.check_task(compiled.task)
    with compiled:
        if not isinstance(compiled, CompiledDecoder):
            _describe(out, compiled, question, tokenizer)
        elif question.chat:
            _Chat(out, compiled, question, tokenizer).run()
        else:
            _complete(out, compiled, question, tokenizer)


def _describe(
    out: Output, compiled: CompiledModel[Any], question: Question, tokenizer: PreTrainedTokenizerBase | None
) -> None:
    from QEfficient.generation.tasks.encoder import CompiledEncoder

    if question.images and isinstance(compiled, CompiledEncoder):
        rows, text = compiled.describe(question.prompts, tokenizer, question.images)
    else:
        rows, text = compiled.describe(question.prompts, tokenizer)
    if question.as_json:
        return out.json({"package": str(compiled.path), "answers": rows})
    return out.write(text)


def _complete(
    out: Output, compiled: CompiledDecoder[Any], question: Question, tokenizer: PreTrainedTokenizerBase | None
) -> None:
    prompts = question.prompts
    if question.stream and not question.as_json and len(prompts) == 1:
        info = compiled.generate(prompts, tokenizer=tokenizer, stream=_writer(out), **question.options)
        out.write()
    else:
        with stage("Answering", f"{len(prompts)} prompt{'s' if len(prompts) > 1 else ''}"):
            info = compiled.generate(prompts, tokenizer=tokenizer, **question.options)
        if question.as_json:
            return out.json(_described(compiled, prompts, info))
        out.write(_texts(prompts, info))
    return _report_speed(info)


def _writer(out: Output) -> Callable[[str], None]:
    return lambda piece: out.write(piece, end="")


def _texts(prompts: list[str], info: CloudAI100ExecInfo) -> str:
    if len(prompts) == 1:
        return info.generated_texts[0]
    pairs = zip(prompts, info.generated_texts, strict=True)
    return "\n\n".join(f"> {prompt}\n{text}" for prompt, text in pairs)


def _described(compiled: CompiledDecoder[Any], prompts: list[str], info: CloudAI100ExecInfo) -> dict[str, Any]:
    answers = [
        {"prompt": prompt, "text": text, "token_ids": ids.tolist()}
        for prompt, text, ids in zip(prompts, info.generated_texts, info.generated_ids, strict=True)
    ]
    return {
        "package": str(compiled.path),
        "answers": answers,
        "batch_size": info.batch_size,
        "perf_metrics": asdict(info.perf_metrics),
    }


def _report_speed(info: CloudAI100ExecInfo) -> None:
    note(str(info).splitlines()[-1])


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


class _Chat:
    """A conversation with its history."""

    def __init__(
        self, out: Output, compiled: CompiledDecoder[Any], question: Question, tokenizer: PreTrainedTokenizerBase | None
    ):
        self._out = out
        self._compiled = compiled
        self._question = question
        self._tokenizer = tokenizer
        self._is_interactive = not question.prompts and sys.stdin.isatty()
        self._clear()

    def _clear(self) -> None:
        system = self._question.system
        self._messages = [{"role": "system", "content": system}] if system is not None else []

    def run(self) -> None:
        """Answer turns until the conversation ends."""
        if self._is_interactive:
            note("Ctrl-D or /exit ends the chat, /clear forgets it.")
        for text in self._question.prompts or self._read_turns():
            if text == "/clear":
                self._clear()
            else:
                self._turn(text)
        if self._question.as_json:
            self._out.json({"package": str(self._compiled.path), "messages": self._messages})

    def _read_turns(self) -> Iterator[str]:
        while True:
            try:
                text = (self._ask() if self._is_interactive else _read_line()).strip()
            except EOFError:
                return
            except UnicodeDecodeError as error:
                note(f"error: a line of the conversation is not {error.encoding.upper()}, and is left out.")
                continue
            if text == "/exit":
                return
            if text:
                yield text

    def _ask(self) -> str:
        import readline  # noqa: F401  (line editing and history for input())

        with redirect_stdout(self._out.stream if self._out.is_terminal else sys.stderr):
            return input("\n> ")

    def _turn(self, text: str) -> None:
        asked = [*self._messages, {"role": "user", "content": text}]
        show = self._question.stream and not self._question.as_json
        options: dict[str, Any] = {**self._question.options, "stream": _writer(self._out) if show else False}
        try:
            info = self._compiled.generate(asked, tokenizer=self._tokenizer, **options)
        except CapacityError as error:
            if not self._is_interactive:
                raise
            return note(f"error: {error} /clear forgets the conversation.")
        self._messages = [*asked, {"role": "assistant", "content": info.generated_texts[0]}]
        if not self._question.as_json:
            self._out.write("" if show else info.generated_texts[0])
            _report_speed(info)
        return None
