"""Runs the packages of causal LMs."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Unpack, cast

import numpy as np

from QEfficient.contract import BASE, LORA_IDS, Count
from QEfficient.errors import CapacityError, CorruptArtifact, LifecycleError, OptionError, nearest
from QEfficient.generation.adapters import AdapterRecord, adapter_file, read_adapter
from QEfficient.generation.call_options import CallOptions
from QEfficient.generation.compiled_model import CompiledModel, RecordT
from QEfficient.generation.engine import Engine
from QEfficient.generation.prompts import Prompts, are_chats, encode_prompts, token_ids
from QEfficient.generation.request import NewToken, Request, RequestTimes, check_request
from QEfficient.generation.request_builder import RequestBuilder, for_each, options_of_each
from QEfficient.generation.results import CloudAI100ExecInfo, PerfMetrics
from QEfficient.generation.run_options import RunOptions
from QEfficient.generation.sessions.retained import RetainedSession
from QEfficient.generation.sessions.session import Chunk, Session, SessionInfo, SupplyingSession
from QEfficient.generation.streaming import AnswerPrinter
from QEfficient.generation.tokenizer import FOLDER, has_tokenizer, read_side_file
from QEfficient.generation_config import check_generation_config
from QEfficient.generation_options import CallArguments, GenerationOptions, StreamArguments
from QEfficient.option_docs import lists_options
from QEfficient.option_types import GenerateArgs, StreamArgs
from QEfficient.options import CausalLMCompileOptions, require_bool
from QEfficient.output import encodable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class DecoderRecord:
    """The values that the session of a decoder needs."""

    num_slots: Count
    ctx_len: Count
    chunk_len: Count
    """Prompt tokens per step."""
    vocab_size: Count
    state_rows: Count
    """Rows of state: at least ``num_slots``."""
    row_axis: str
    """Name of the state's axis of rows."""
    windows: dict[str, Count] = field(default_factory=dict)
    """Axes of rings -> the window; a ring has at most ``ctx_len`` slots."""
    min_ctx_len: Count = 1
    max_ctx_len: Count | None = None
    """Lengths that the graph supports; None: no maximum."""
    adapters: tuple[AdapterRecord, ...] = ()
    """Those that each prompt selects from, by their numbers from 1 on, or that take turns."""
    restart_len: Count | None = None
    """As of :class:`SessionInfo`."""
    takes_turns: bool = False
    """Whether all prompts run with one adapter, whose matrices are inputs of the graph."""

    def __post_init__(self) -> None:
        if self.state_rows < self.num_slots or self.chunk_len > self.ctx_len:
            raise ValueError(
                f"state_rows={self.state_rows}, num_slots={self.num_slots}, chunk_len={self.chunk_len} and "
                f"ctx_len={self.ctx_len} do not fit together"
            )
        names = self.adapter_names
        if len({*names, BASE}) <= len(names) or (self.takes_turns and not names):
            raise ValueError(f"adapters {list(names)} with takes_turns={self.takes_turns} are no adapters")

    @property
    def sizes(self) -> dict[str, int]:
        """Of the state's named axes."""
        rings = {axis: min(window, self.ctx_len) for axis, window in self.windows.items()}
        return {"ctx_len": self.ctx_len, **rings, self.row_axis: self.state_rows}

    def session_info(self, *, is_ragged: bool) -> SessionInfo:
        """What the engine needs to know of a session with these sizes."""
        return SessionInfo(
            num_slots=self.num_slots,
            ctx_len=self.ctx_len,
            chunk_len=self.chunk_len,
            is_ragged=is_ragged,
            vocab_size=self.vocab_size,
            adapters=() if self.takes_turns else self.adapter_names,
            restart_len=self.restart_len,
        )

    @property
    def adapter_names(self) -> tuple[str, ...]:
        """Names of the adapters."""
        return tuple(adapter.name for adapter in self.adapters)

    def resized(self, ctx_len: int | None, full_batch_size: int | None) -> DecoderRecord:
        """This record for another context or number of slots.

        Raises:
            CapacityError: the graph does not support the context.
        """
        length = self.ctx_len if ctx_len is None else ctx_len
        if not self.min_ctx_len <= length <= (self.max_ctx_len or length):
            allowed = f"{self.min_ctx_len} to {self.max_ctx_len}" if self.max_ctx_len else f"{self.min_ctx_len} or more"
            raise CapacityError(f"ctx_len={length}: the package's graph is for {allowed}. Compile with this ctx_len.")
        slots = self.num_slots if full_batch_size is None else full_batch_size
        rows = max(slots, self.state_rows if full_batch_size is None else slots)
        return replace(self, ctx_len=length, num_slots=slots, state_rows=rows, chunk_len=min(self.chunk_len, length))


class CompiledDecoder(CompiledModel[RecordT], Generic[RecordT]):
    """A compiled package that generates tokens, for as many sequences at once as it has slots."""

    takes_chat = True
    output = "logits"
    more_arguments: ClassVar[tuple[str, ...]] = ()
    """Arguments of ``generate`` that are this task's."""
    entries_of_task: ClassVar[tuple[str, ...]] = ()
    """Entries of the generation config that the task follows by itself."""

    def _load(self) -> None:
        self.generation_config = self._read_generation_config()
        self.engine = Engine(self._open_session())
        ctx_len = self.engine.session.info.ctx_len
        self._builder = RequestBuilder(self.generation_config, ctx_len, self._vocab_size, self.entries_of_task)
        self._builder.arguments = self.more_arguments
        self._has_said_ends = False

    def _read_generation_config(self) -> dict[str, Any]:
        path = self.artifact.file("generation_config.json")
        config = read_side_file(path)
        check_generation_config(config, str(path), CorruptArtifact, self._vocab_size)
        return config

    @property
    def _vocab_size(self) -> int:
        raise NotImplementedError

    def _open_session(self) -> Session:
        raise NotImplementedError

    def close(self) -> None:
        self.engine.close()

    @lists_options(GenerationOptions, CallArguments)
    def generate(
        self,
        prompts: Prompts,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        generation_len: int | Sequence[int] | None = None,
        stream: bool | Callable[[str], None] = False,
        **options: Unpack[GenerateArgs],
    ) -> CloudAI100ExecInfo:
        """Generate from prompts.

        Args:
            prompts: text, a list of texts, lists of token ids, a tokenizer's output, or a chat (a list of messages).
            tokenizer: a transformers tokenizer; default: the one in the package.
            generation_len: maximum number of new tokens, for all or for each prompt; default: the checkpoint's
                ``max_new_tokens`` or ``max_length``, else what fits in ``ctx_len``.
            stream: True prints text while it is generated; a function is called with each piece. Prompts stream in
                order.
            options: see :class:`GenerationOptions`, each one value or one for each prompt; and :class:`CallArguments`.

        Raises:
            CapacityError: a prompt is empty or does not fit ``ctx_len``.
            OptionError: an unknown or impossible option, or no such adapter.
        """
        if not callable(stream):
            require_bool("stream", stream)
        run, others = RunOptions.split(options)
        call = CallOptions.read(generation_len, others)
        with run.recording(self.engine, self.path):
            for _ in range(run.iteration):
                info = self._generate(prompts, tokenizer, call, stream)
        return info

    def _generate(
        self,
        prompts: Prompts,
        tokenizer: PreTrainedTokenizerBase | None,
        call: CallOptions,
        stream: bool | Callable[[str], None],
    ) -> CloudAI100ExecInfo:
        requests, decoder = self._requests_of(prompts, tokenizer, call)
        printer = _printer(decoder, len(requests), stream) if stream else None
        answers: list[list[NewToken]] = [[] for _ in requests]
        began = time.perf_counter()
        with closing(self.engine.run(requests)) as tokens, call.streaming(requests[0]):
            for token in tokens:
                answers[token.index].append(token)
                call.add(token.token_id)
                if printer is not None:
                    printer.add(token.index, token.token_id, is_last=token.finish_reason is not None)
        return self._result(answers, decoder, time.perf_counter() - began)

    def _result(self, answers: list[list[NewToken]], decoder: Any | None, seconds: float) -> CloudAI100ExecInfo:
        ids = [[token.token_id for token in answer] for answer in answers]
        ends = [answer[-1] for answer in answers]
        logprobs = [[token.logprob for token in answer if token.logprob is not None] for answer in answers]
        times = RequestTimes.sum(token.times for token in ends if token.times is not None)
        batch_size = min(len(answers), self.engine.session.info.num_slots)
        is_continuous = not self.target.has_static_shapes or "batch_index" in self._result_graph.inputs
        return CloudAI100ExecInfo(
            batch_size=batch_size,
            generated_texts=[decoder.decode(each) for each in ids] if decoder is not None else [],
            generated_ids=[np.array(each, np.int64) for each in ids],
            perf_metrics=_metrics(times, sum(map(len, ids)), seconds, 1 if is_continuous else batch_size),
            finish_reasons=[str(token.finish_reason) for token in ends],
            first_token_times=[token.times.first_token or 0.0 for token in ends if token.times is not None],
            logprobs=logprobs if any(logprobs) else [],
        )

    def encode(self, prompts: Prompts, tokenizer: PreTrainedTokenizerBase | None = None) -> list[Any]:
        """Prompts in any form that :meth:`generate` takes, as requests are made of them: token ids, or more."""
        return self.encode_text(prompts, tokenizer)

    def encode_text(self, prompts: Prompts, tokenizer: PreTrainedTokenizerBase | None = None) -> list[list[int]]:
        """Token ids of prompts without media."""
        return encode_prompts(prompts, lambda: self.tokenizer(tokenizer))

    def layer_outputs(self, ids: list[int], adapter: str | None = None) -> list[np.ndarray]:
        """Hidden states ``[len(ids), hidden]`` after each layer, with the adapter that a prompt selects; an empty list
        if the target cannot output them.

        Raises:
            OptionError: ``ids`` are no token ids of the model.
            CapacityError: they are none, or do not fit ``ctx_len``.
        """
        return []

    @lists_options(GenerationOptions, StreamArguments)
    def stream(
        self,
        prompt: Prompts,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        generation_len: int | None = None,
        **options: Unpack[StreamArgs],
    ) -> Iterator[str]:
        """Yield the output for one prompt as text, while it is generated. Closing the iterator cancels it.

        Args:
            prompt: as of :meth:`generate`, a single one.
            tokenizer: as of :meth:`generate`.
            generation_len: maximum number of new tokens.
            options: see :meth:`generate`.

        Raises:
            CapacityError: the prompt is empty or does not fit ``ctx_len``.
            OptionError: an unknown or impossible option, several prompts or answers, or a streamer.
        """
        call = CallOptions.read(generation_len, options)
        requests, decoder = self._requests_of(prompt, tokenizer, call)
        if len(requests) != 1:
            raise OptionError(f"stream() yields one answer, got {len(requests)}; use generate() for several.")
        if call.streamer is not None:
            raise OptionError("stream() yields the text itself: give a streamer to generate().")
        if decoder is None:
            decoder = self.tokenizer()
        return decoder.stream(token.token_id for token in self.engine.run(requests))

    def _requests_of(
        self, prompts: Prompts, tokenizer: PreTrainedTokenizerBase | None, call: CallOptions
    ) -> tuple[list[Request], Any | None]:
        """A request for each answer of a call, and the tokenizer that decodes them, if there is one."""
        options = call.for_prompts
        if "eos_token_id" not in options and any(chats := self._chats(prompts)):
            options = {**options, "eos_token_id": self._chat_ends(chats, tokenizer)}
        requests, decoder = self._requests(prompts, tokenizer, call.generation_len, options)
        return call.applied(requests, None if decoder is None else decoder.token_bytes), decoder

    def _chats(self, prompts: Any) -> list[bool]:
        """Whether each prompt is a chat; empty where none is."""
        return are_chats(prompts)

    def _chat_ends(self, chats: list[bool], tokenizer: PreTrainedTokenizerBase | None) -> list[list[int] | None]:
        """The end tokens of each prompt: in chats, those of the generation config and of the tokenizer together."""
        eos = self.generation_config.get("eos_token_id")
        ends = [eos] if isinstance(eos, int) else list(eos or ())
        last = self.tokenizer(tokenizer).eos_token_id
        if last is None or last in ends:
            return [None] * len(chats)
        if not self._has_said_ends:
            logger.info(
                "In chats, the tokenizer's end token %s ends answers beside those of the generation config, %s.",
                *(last, ends or "which has none"),
            )
            self._has_said_ends = True
        return [[*ends, last] if is_chat else None for is_chat in chats]

    def _requests(
        self,
        prompts: Prompts,
        tokenizer: PreTrainedTokenizerBase | None,
        generation_len: object,
        sampling: Mapping[str, Any],
    ) -> tuple[list[Request], Any | None]:
        """Requests, and the tokenizer that decodes their tokens, if there is one."""
        ids = self.encode(prompts, tokenizer)
        if not ids:
            raise CapacityError("No prompt was passed.")
        lengths, options = for_each("generation_len", generation_len, len(ids)), options_of_each(sampling, len(ids))
        adapters = [each.pop("adapter", None) for each in options]
        requests = [self._request(index, prompt, lengths[index], options[index]) for index, prompt in enumerate(ids)]
        requests = [replace(each, adapter=name) for each, name in zip(requests, adapters, strict=True)]
        return requests, self._decoder(tokenizer)

    def _decoder(self, tokenizer: PreTrainedTokenizerBase | None) -> Any | None:
        """What decodes answers; None if the package has no tokenizer, or one that cannot run here: token ids can."""
        if tokenizer is None and not has_tokenizer(self.path / FOLDER):
            return None
        try:
            return self.tokenizer(tokenizer)
        except LifecycleError as error:
            logger.warning("The answers are token ids without text: %s", error)
            return None

    def _request(self, index: int, prompt: Any, generation_len: Any, sampling: Mapping[str, Any]) -> Request:
        """The request of a prompt of :meth:`encode`."""
        return self._builder.build(prompt, generation_len, sampling)


class CompiledCausalLM(CompiledDecoder[DecoderRecord]):
    """A causal LM that continues prompts."""

    task = "causal_lm"
    lowerings = ("paged", "retained")
    record_class = DecoderRecord
    options_class = CausalLMCompileOptions

    def resized(
        self,
        record: DecoderRecord,
        *,
        ctx_len: int | None = None,
        full_batch_size: int | None = None,
        **sizes: object,
    ) -> DecoderRecord:
        super().resized(record, **sizes)
        return record.resized(ctx_len, full_batch_size)

    @property
    def _vocab_size(self) -> int:
        return self.record.vocab_size

    def _open_session(self, extra_outputs: Sequence[str] = ()) -> Any:
        record = self.record
        info = record.session_info(is_ragged=self.body.lowering == "paged")
        self._check_width("logits", self.record.vocab_size, "vocab_size")
        if (LORA_IDS in self.body.graph.inputs) != bool(info.adapters):
            raise self._not_ours(f"its adapters are {list(info.adapters)}, its graph's inputs fit other ones")
        if info.is_ragged:
            from QEfficient.generation.sessions.paged import PagedSession  # imports OpenVINO

            return PagedSession(self.path, self.body.graph, self.opening(extra_outputs=extra_outputs), info)
        with ExitStack() as opened:
            program = opened.enter_context(closing(self.open_program(sizes=record.sizes, extra_outputs=extra_outputs)))
            supplied = frozenset(self._matrices(BASE)) if record.takes_turns else frozenset[str]()
            session = RetainedSession(program, info, record.state_rows, supplied=supplied)
            opened.pop_all()  # the session closes it
        return session

    def _load(self) -> None:
        super()._load()
        self.active_adapter: str | None = None
        if self.record.takes_turns:
            self.set_adapter(self.record.adapter_names[0])

    def set_adapter(self, name: str, inputs: Mapping[str, np.ndarray] | None = None) -> None:
        """Run prompts with another adapter from now on.

        Args:
            name: the adapter's; "base" is the model without one.
            inputs: its matrices; None: those in the package.

        Raises:
            OptionError: there is none of this name, or its matrices are not of the graph's shapes.
            LifecycleError: requests are running.
        """
        if not self.record.takes_turns:
            raise OptionError("This package has no adapters that take turns: pass adapter=... to generate().")
        matrices = self._matrices(name) if inputs is None else inputs
        with self.engine.exclusive() as session:
            cast(SupplyingSession, session).supply(matrices)
        self.active_adapter, self._supplied = name, matrices

    def _matrices(self, name: str) -> dict[str, np.ndarray]:
        """An adapter's, or zeros for the base model."""
        names = self.record.adapter_names
        if name not in (*names, BASE):
            raise OptionError(
                f"There is no adapter {name!r}.{nearest(name, names)} The package has {', '.join(names)}."
            )
        number = 0 if name == BASE else names.index(name)
        matrices = read_adapter(self.artifact.file(adapter_file(number)), self.body.graph)
        return {key: value * (name != BASE) for key, value in matrices.items()}

    def layer_outputs(self, ids: list[int], adapter: str | None = None) -> list[np.ndarray]:
        ids, names = token_ids(ids, "ids"), self.body.graph.layers
        if self.target.has_static_shapes or not names:
            return []
        check_request(Request(prompt_ids=ids, max_new_tokens=1), self.engine.session.info, 0)
        session = self._open_session(names)
        try:
            if self.active_adapter is not None:
                session.supply(self._supplied)
            number = session.info.adapter_number(adapter)
            chunk = Chunk(
                0, ids, 0, block_ids=range(session.info.num_blocks or 0), adapter=number, prefill_len=len(ids)
            )
            outputs = session.outputs(names, chunk)
        finally:
            session.close()
        return [states.reshape(-1, states.shape[-1])[: len(ids)] for states in outputs]


def _metrics(times: RequestTimes, num_tokens: int, seconds: float, num_sequences: int) -> PerfMetrics:
    return PerfMetrics(
        prefill_time=times.prefill,
        decode_perf=times.num_decoded / times.decode / num_sequences if times.decode else 0.0,
        total_perf=num_tokens / seconds / num_sequences if seconds else 0.0,
        total_time=seconds,
        num_sequences=num_sequences,
    )


def _printer(decoder: Any | None, num_answers: int, stream: bool | Callable[[str], None]) -> AnswerPrinter:
    if decoder is None:
        raise LifecycleError("Streaming text needs a tokenizer: pass tokenizer=...")
    if callable(stream):
        return AnswerPrinter(decoder.text_stream, num_answers, stream, end="")
    return AnswerPrinter(decoder.text_stream, num_answers, _print_piece, end="\n")


def _print_piece(piece: str) -> None:
    print(encodable(piece, sys.stdout), end="", flush=True)
