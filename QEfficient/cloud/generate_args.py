"""The flags of prompts and answers, which ``infer`` and ``execute`` share."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from QEfficient.cloud.click_options import JSON, Flag, Function, flags, option_flags
from QEfficient.cloud.text_files import JSONL, TextBatch
from QEfficient.errors import LifecycleError, OptionError
from QEfficient.generation.prompts import read_prompts
from QEfficient.generation_config import options_of, refuse_unfollowed
from QEfficient.generation_options import GenerationOptions
from QEfficient.tasks import TASKS

if TYPE_CHECKING:
    from QEfficient.base.modeling_qeff import QEFFBaseModel

_SECTION = "Prompts and answers"
_STDIN = "-"


@dataclass(frozen=True, kw_only=True)
class TextSupport:
    """What a model has to read text with."""

    source_name: str
    has_tokenizer: bool
    has_chat_template: bool

    @classmethod
    def of(cls, model: QEFFBaseModel) -> TextSupport:
        """What a loaded model has."""
        readers = [each for each in (model.tokenizer, getattr(model, "processor", None)) if each is not None]
        return cls(
            source_name=model.source_name,
            has_tokenizer=bool(readers),
            has_chat_template=any(getattr(reader, "chat_template", None) for reader in readers),
        )


@dataclass(frozen=True, kw_only=True)
class Question:
    """Prompts, and how to answer them."""

    prompts: list[str]
    """Empty only in a chat, which then reads them from stdin, and where ``batch`` has texts."""
    chat: bool
    system: str | None
    generation_len: int | None
    images: list[str]
    """Paths, all for a single prompt or one for each."""
    adapters: list[str]
    """Names, one for all prompts or one for each; none: the base model."""
    stream: bool
    as_json: bool
    sampling: dict[str, Any]
    batch: TextBatch = field(default_factory=TextBatch)
    generation_config: str | None = None
    """The path of a generation config to go before the checkpoint's."""
    run: dict[str, Any] = field(default_factory=dict)
    """Of :class:`QEfficient.generation.run_options.RunOptions`."""

    def __post_init__(self) -> None:
        """Check the flags before a model is loaded."""
        if self.system is not None and (self.images or self.batch.pairs):
            raise OptionError("--system is for prompts of text: leave --image-path and --pair out.")
        if self.images and self.chat:
            raise OptionError("--image-path is for prompts, not for a chat.")
        if self.batch and (self.chat or self.images):
            raise OptionError("--pair, --input and --output are for texts alone: leave --chat and --image-path out.")
        if self.chat and len(self.adapters) > 1:
            raise OptionError("A chat runs with one adapter: give --use-adapter once.")
        if self.generation_len is not None and self.generation_len < 1:
            raise OptionError(f"--generation-len must be at least 1, got {self.generation_len}.")
        options = GenerationOptions.parse(self.sampling)
        if self.generation_config is not None:
            refuse_unfollowed(options_of(Path(self.generation_config)))
        if self.chat and (options.num_return_sequences or 1) > 1:
            raise OptionError("--num-return-sequences is for prompts: a chat continues from a single answer.")

    def check_task(self, task: str) -> None:
        """
        Raises:
            OptionError: a flag is not for models of this task.
        """
        is_told = bool(self.sampling or self.generation_config or self.run or self.system is not None)
        asks_for_text = self.chat or self.generation_len is not None or is_told
        generates = task not in TASKS or TASKS[task].load_compiled().takes_chat
        if asks_for_text and not generates:
            raise OptionError(f"This model is {TASKS[task].kind}: it has no chat, no --generation-len and no sampling.")
        if self.batch and not generates and not TASKS[task].load_compiled().reads_texts:
            raise OptionError(
                f"This model is {TASKS[task].kind}: --pair, --input and --output are for models that read text."
            )
        if generates and self.batch.pairs:
            raise OptionError("--pair, and pairs in the file of --input, are for encoders and classifiers.")
        if generates and self.batch.output is not None and self.batch.output.suffix != JSONL:
            raise OptionError(f"--output {self.batch.output}: answers go to a file whose name ends in {JSONL}.")
        if self.adapters and not generates:
            raise OptionError(f"This model is {TASKS[task].kind}, which has no adapters: leave --use-adapter out.")
        if self.images and task in TASKS and not TASKS[task].load_compiled().takes_images:
            raise OptionError(f"This model is {TASKS[task].kind}, which sees no images: leave --image-path out.")

    def check(self, task: str, reads: TextSupport) -> None:
        """:meth:`check_task` and :meth:`check_tokenizer`."""
        self.check_task(task)
        self.check_tokenizer(reads)

    def check_tokenizer(self, reads: TextSupport) -> None:
        """Before a compilation, which would be for nothing.

        Raises:
            LifecycleError: the model has no tokenizer.
            OptionError: the chat needs a template, and the model has none.
        """
        if not reads.has_tokenizer:
            raise LifecycleError(
                f"{reads.source_name} has no tokenizer, which prompts of text need: put its files into the folder, or "
                "use Python, where generate() takes token ids and tokenizer=."
            )
        if (self.chat or self.system is not None) and not reads.has_chat_template:
            raise OptionError(
                f"{reads.source_name} has no chat template: use --prompt instead of --chat, and no --system."
            )

    @property
    def asked(self) -> list[Any]:
        """What to answer: the prompts and those of the file, as conversations if there is a system prompt."""
        texts = [*self.prompts, *(item.text for item in self.batch.items)]
        if self.system is None:
            return texts
        return [[{"role": "system", "content": self.system}, {"role": "user", "content": text}] for text in texts]

    @property
    def max_new_tokens(self) -> int | None:
        """Of an answer, by either flag."""
        return self.generation_len or self.sampling.get("max_new_tokens")

    @property
    def options(self) -> dict[str, Any]:
        """Arguments for ``generate``."""
        images = {"images": self.images} if self.images else {}
        adapter = self.adapters[0] if len(self.adapters) == 1 else self.adapters
        adapters = {"adapter": adapter} if adapter else {}
        lengths = {"generation_len": self.generation_len, "generation_config": self.generation_config}
        return {**lengths, **images, **adapters, **self.sampling, **self.run}


def question_flags(function: Function) -> Callable[..., Any]:
    """Give a command the flags of prompts and answers, as its argument ``question``."""

    @wraps(function)
    def command(
        *args: Any,
        prompt: tuple[str, ...],
        prompts_txt_file_path: str | None,
        image_path: tuple[str, ...],
        pair: tuple[tuple[str, str], ...],
        input_file: str | None,
        output: str | None,
        use_adapter: tuple[str, ...],
        iteration: int | None,
        automation: bool,
        write_io_dir: str | None,
        **params: Any,
    ) -> Any:
        answers = {name: params.pop(name) for name in Question.__dataclass_fields__ if name in params}
        batch = TextBatch.of(pair, input_file, output)
        has_texts = answers["chat"] or bool(batch.items)
        prompts = _prompts(prompt, prompts_txt_file_path, has_texts)
        answers |= {"images": [*image_path], "adapters": [*use_adapter]}
        run = {"iteration": iteration, "automation": automation, "write_io_dir": write_io_dir}
        answers["run"] = {name: value for name, value in run.items() if value}
        question = Question(prompts=prompts, batch=batch, **answers)
        return function(*args, question=question, **params)

    return flags(*_FLAGS)(option_flags("sampling", "Sampling", GenerationOptions)(command))


def _prompts(texts: tuple[str, ...], file: str | None, has_others: bool) -> list[str]:
    if not texts and file is None:
        if has_others:
            return []
        texts = _piped_prompt()
    if texts.count(_STDIN) > 1:
        raise OptionError("--prompt - reads stdin, so use it only once.")
    prompts = [_read_stdin() if text == _STDIN else text for text in texts]
    # ``python -m QEfficient.cloud.infer`` is upstream's form, where one text holds several.
    is_upstreams = len(texts) == 1 and not has_others and click.get_current_context().parent is None
    return read_prompts((prompts[0] if is_upstreams else prompts) if texts else None, file)


def _piped_prompt() -> tuple[str, ...]:
    """The text of a pipe, where no flag has a prompt."""
    text = "" if sys.stdin is None or sys.stdin.isatty() else _read_stdin()
    if not text:
        raise click.UsageError(
            "No prompt. Use --prompt, --prompts-txt-file-path or --chat, or pipe text in.",
            click.get_current_context(),
        )
    return (text,)


def _read_stdin() -> str:
    """
    Raises:
        OptionError: stdin is no UTF-8.
    """
    octets = getattr(sys.stdin, "buffer", None)
    try:
        text = sys.stdin.read() if octets is None else octets.read().decode()
    except UnicodeDecodeError as error:
        raise OptionError(f"The text on stdin is not UTF-8: {error}.") from error
    return text.rstrip("\n")


_FLAGS = (
    Flag(
        ["prompt", "-p", "--prompt"],
        section=_SECTION,
        multiple=True,
        metavar="TEXT",
        help="A prompt; repeatable; - reads stdin. As in upstream, python -m QEfficient.cloud.infer splits a single "
        "prompt at |.",
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
        help="An image for the prompt; repeatable. With several prompts, one image per prompt; an encoder scores "
        "every image against every prompt.",
    ),
    Flag(
        ["pair", "--pair"],
        section=_SECTION,
        multiple=True,
        nargs=2,
        metavar="TEXT TEXT",
        help="A pair of texts for a reranker, such as a query and a document; repeatable.",
    ),
    Flag(
        ["input_file", "--input"],
        section=_SECTION,
        metavar="FILE",
        help="A JSONL file of prompts or texts. Each line is a text, a pair, or an object with prompt, text, pair, or "
        "query and document.",
    ),
    Flag(
        ["--output"],
        section=_SECTION,
        metavar="FILE",
        help="Write answers, vectors or scores to this .jsonl file, in input order; vectors and scores also to .npy.",
    ),
    Flag(
        ["--use-adapter"],
        section=_SECTION,
        multiple=True,
        metavar="NAME",
        help="The adapter to answer with; repeat it to select one per prompt. 'base' is the model without adapters.",
    ),
    Flag(
        ["--iteration"], section=_SECTION, type=int, metavar="N", help="Run so often; the answers are the last run's."
    ),
    Flag(["--automation"], section=_SECTION, is_flag=True, help="Go on after end tokens, up to --generation-len."),
    Flag(
        ["--write-io-dir"],
        section=_SECTION,
        metavar="DIR",
        help="Write what the card gets and gives in each run to this folder, for qaic-runner (card only).",
    ),
    Flag(["--chat"], section=_SECTION, is_flag=True, help="Chat with the model; /help lists the commands of a chat."),
    Flag(["--system"], section=_SECTION, metavar="TEXT", help="System prompt, for a chat or for prompts."),
    Flag(
        ["--generation-len"],
        section=_SECTION,
        type=int,
        metavar="N",
        help="Maximum new tokens per prompt. Default: the checkpoint's max_new_tokens or max_length, else as many as "
        "fit into the context.",
    ),
    Flag(
        ["--generation-config"],
        section=_SECTION,
        metavar="PATH",
        help="A generation_config.json, or its folder, whose entries override the checkpoint's.",
    ),
    Flag(
        ["stream", "--stream/--no-stream"],
        section=_SECTION,
        default=True,
        help="Show the answer while it is generated (for a single prompt). [default: yes]",
    ),
    JSON,
)
