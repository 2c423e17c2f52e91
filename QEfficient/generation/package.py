"""A compiled package, opened and ready to run. Neither torch nor transformers is imported here."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from importlib import import_module
from numbers import Integral
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import numpy as np

from QEfficient.errors import ArtifactError, CapacityError, LifecycleError, OptionError
from QEfficient.generation.engine import Engine, Request
from QEfficient.generation.prompts import encode_prompts
from QEfficient.generation.results import CloudAI100ExecInfo, PerfMetrics
from QEfficient.generation.sessions.encoder_session import EncoderSession
from QEfficient.generation.sessions.seq2seq_session import Seq2SeqSession
from QEfficient.generation.sessions.session import Session
from QEfficient.generation.streaming import AnswerPrinter
from QEfficient.generation.texts import encode_texts
from QEfficient.generation.tokenizer import FOLDER, ForeignTokenizer, PackageTokenizer
from QEfficient.options import SamplingOptions
from QEfficient.store.artifacts import Artifact, open_artifact
from QEfficient.targets import TARGETS

PACKAGE = "package"
_ARGUMENTS = ("prompts", "tokenizer", "generation_len", "stream")
"""What ``generate`` takes beside the options of sampling."""


class CompiledModel:
    """What the packages of all tasks have in common."""

    task: str

    def __init__(self, artifact: Artifact, device_ids: Sequence[int] | None = None):
        self.artifact = artifact
        self.body = artifact.manifest.body
        self.device_ids = device_ids

    @property
    def target_sessions(self) -> ModuleType:
        """The module that opens sessions on the package's target."""
        name = self.body["target"]
        if name not in TARGETS:
            raise ArtifactError(f"{self.path} was compiled for '{name}', and this version knows {', '.join(TARGETS)}.")
        return import_module(TARGETS[name].session)

    @property
    def path(self) -> Path:
        """The package's folder."""
        return self.artifact.path

    def tokenizer(self, given: Any | None = None) -> Any:
        """The package's tokenizer, or the caller's under the same verbs."""
        return ForeignTokenizer(given) if given is not None else self._own_tokenizer

    @cached_property
    def _own_tokenizer(self) -> PackageTokenizer:
        return PackageTokenizer(self.path / FOLDER)

    def close(self) -> None:
        """Give the memory back."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class CompiledCausalLM(CompiledModel):
    """A causal LM that answers prompts."""

    task = "causal_lm"

    def __init__(self, artifact: Artifact, device_ids: Sequence[int] | None = None):
        super().__init__(artifact, device_ids)
        self.engine = Engine(self._open_session(device_ids))
        self.generation_config = json.loads((self.path / "generation_config.json").read_text("utf-8"))

    def _open_session(self, device_ids: Sequence[int] | None) -> Session:
        session: Session = self.target_sessions.open_session(self.path, self.body, device_ids)
        return session

    def close(self) -> None:
        self.engine.session.close()

    def generate(
        self,
        prompts: Any,
        *,
        tokenizer: Any | None = None,
        generation_len: int | Sequence[int] | None = None,
        stream: bool | Callable[[str], None] = False,
        **sampling: Any,
    ) -> CloudAI100ExecInfo:
        """Answer prompts, as many at once as there are slots.

        Args:
            prompts: text, a list of texts, lists of token ids, a tokenizer's output, or a chat (a list of messages).
            tokenizer: a transformers tokenizer; default: the one in the package.
            generation_len: most new tokens, for all or for each prompt; default: the checkpoint's ``max_new_tokens``,
                else what fits in ``ctx_len``.
            stream: True prints text as it comes; a function is called with each piece. Prompts stream in order.
            sampling: :class:`SamplingOptions`, each one value or one for each prompt.

        Raises:
            CapacityError: a prompt is empty or does not fit ``ctx_len``.
            OptionError: an unknown or impossible option.
        """
        requests, texts = self._requests(prompts, tokenizer, generation_len, sampling)
        answers: list[list[int]] = [[] for _ in requests]
        printer = _printer(texts, len(requests), stream) if stream else None
        began = time.perf_counter()
        for token in self.engine.run(requests):
            answers[token.index].append(token.token_id)
            if printer is not None:
                printer.add(token.index, token.token_id, is_last=token.finish_reason is not None)
        seconds = time.perf_counter() - began
        return CloudAI100ExecInfo(
            batch_size=min(len(requests), self.engine.session.info.num_slots),
            generated_texts=[texts.decode(ids) for ids in answers] if texts is not None else [],
            generated_ids=[np.array(ids, np.int64) for ids in answers],
            perf_metrics=self._metrics(sum(map(len, answers)), seconds),
        )

    def encode(self, prompts: Any, tokenizer: Any | None = None) -> list[list[int]]:
        """Token ids of prompts in any form that :meth:`generate` takes."""
        return self._encode(prompts, tokenizer)[0]

    def layer_outputs(self, ids: list[int]) -> list[np.ndarray]:
        """Hidden states ``[len(ids), hidden]`` after each layer, from a copy of the model compiled for this."""
        outputs: list[np.ndarray] = self.target_sessions.layer_outputs(self.path, self.body, ids)
        return outputs

    def stream(self, prompt: Any, *, tokenizer: Any | None = None, **options: Any) -> Iterator[str]:
        """Yield the answer to one prompt as text, as it comes. Closing the iterator cancels the answer.

        Options are those of :meth:`generate`.
        """
        generation_len = options.pop("generation_len", None)
        requests, texts = self._requests(prompt, tokenizer, generation_len, options)
        if len(requests) != 1:
            raise OptionError(f"stream() takes one prompt, got {len(requests)}; use generate() for several.")
        if texts is None:
            texts = self.tokenizer()
        return texts.stream(token.token_id for token in self.engine.run(requests))

    def _requests(
        self, prompts: Any, tokenizer: Any | None, generation_len: Any, sampling: Mapping[str, Any]
    ) -> tuple[list[Request], Any | None]:
        ids, texts = self._encode(prompts, tokenizer)
        if not ids:
            raise CapacityError("No prompt was given.")
        lengths = _each("generation_len", generation_len, len(ids))
        options = {name: _each(name, value, len(ids)) for name, value in sampling.items()}
        requests = [
            self._request(index, prompt_ids, lengths[index], {name: values[index] for name, values in options.items()})
            for index, prompt_ids in enumerate(ids)
        ]
        return requests, texts

    def _request(self, index: int, prompt_ids: list[int], generation_len: Any, sampling: Mapping[str, Any]) -> Request:
        eos = self.generation_config.get("eos_token_id")
        return Request(
            prompt_ids=prompt_ids,
            max_new_tokens=self._max_new_tokens(prompt_ids, generation_len),
            eos_token_ids=frozenset([eos] if isinstance(eos, int) else eos or ()),
            sampling=self._sampling(sampling),
        )

    def _max_new_tokens(self, prompt_ids: list[int], asked: Any) -> int:
        if asked is None:
            room = self.engine.session.info.ctx_len - len(prompt_ids)
            return min(room, self.generation_config.get("max_new_tokens") or room)
        if isinstance(asked, bool) or not isinstance(asked, Integral) or asked < 1:
            raise OptionError(f"generation_len must be a whole number of at least 1, got {asked!r}.")
        return int(asked)

    def _sampling(self, given: Mapping[str, Any]) -> SamplingOptions:
        """The caller's options over the checkpoint's, which decide how to sample but not whether."""
        own = {name: value for name, value in given.items() if value is not None}
        asked = SamplingOptions.parse(own, beside=_ARGUMENTS)
        config = self.generation_config
        names = ("temperature", "top_k", "top_p", "min_p") if asked.samples else ()
        defaults = {name: config[name] for name in (*names, "repetition_penalty") if config.get(name) is not None}
        return SamplingOptions.parse({**defaults, **own, "do_sample": asked.samples})

    def _encode(self, prompts: Any, tokenizer: Any | None) -> tuple[list[list[int]], Any | None]:
        """Token ids, and what decodes the answers if there is anything."""
        ids = encode_prompts(prompts, lambda: self.tokenizer(tokenizer))
        can_decode = tokenizer is not None or (self.path / FOLDER / "tokenizer.json").is_file()
        return ids, self.tokenizer(tokenizer) if can_decode else None

    def _metrics(self, num_tokens: int, seconds: float) -> PerfMetrics:
        times = self.engine.times
        return PerfMetrics(
            prefill_time=times.prefill,
            decode_perf=times.num_decoded / times.decode if times.decode else 0.0,
            total_perf=num_tokens / seconds if seconds else 0.0,
            total_time=seconds,
        )


class CompiledSeq2SeqLM(CompiledCausalLM):
    """A text-to-text model: an encoder reads the prompt, a decoder answers."""

    task = "seq2seq_lm"
    session: Seq2SeqSession

    def _open_session(self, device_ids: Sequence[int] | None) -> Session:
        self.session = self.target_sessions.open_seq2seq(self.path, self.body, device_ids)
        return self.session

    def layer_outputs(self, ids: list[int]) -> list[np.ndarray]:
        """Nothing: what the decoder's layers give depends on a text as well."""
        return []

    def _request(self, index: int, prompt_ids: list[int], generation_len: Any, sampling: Mapping[str, Any]) -> Request:
        self.session.check(prompt_ids, index)
        options = dict(sampling)
        forced = {name: options.pop(name, None) for name in ("forced_bos_token_id", "forced_eos_token_id")}
        own = {name: self.generation_config.get(name) if given is None else given for name, given in forced.items()}
        request = super()._request(index, [self.body["decoder_start_token_id"]], generation_len, options)
        last = request.max_new_tokens - 1
        return replace(request, text_ids=prompt_ids, forced_ids=_forced(own, last))


class _CompiledTexts(CompiledModel):
    """What runs whole texts."""

    output: str

    def __init__(self, artifact: Artifact, device_ids: Sequence[int] | None = None):
        super().__init__(artifact, device_ids)
        runner = self.target_sessions.open_encoder(artifact.path, self.body, device_ids)
        self.session = EncoderSession(runner, self.body)

    def close(self) -> None:
        self.session.close()

    def generate(self, inputs: Any, *, tokenizer: Any | None = None) -> dict[str, np.ndarray]:
        """Run texts.

        Args:
            inputs: text, a list of texts or of pairs of texts, lists of token ids, or a tokenizer's output.
            tokenizer: a transformers tokenizer; default: the one in the package.

        Returns:
            ``{"output": array}`` of an encoder: ``[n, hidden]`` if pooled, else ``[n, longest input, hidden]``;
            ``{"logits": array}`` of a classifier: ``[n, num_labels]``.

        Raises:
            CapacityError: a text is empty, longer than the greatest compiled ``seq_len``, or of a length at which the
                model cannot run.
        """
        takes_segments = self.body["texts"]["segments"] != "none"
        texts = encode_texts(inputs, lambda: self.tokenizer(tokenizer), takes_segments)
        return {self.output: self.session.run(texts)}


class CompiledEncoder(_CompiledTexts):
    """An encoder that turns texts into hidden states or vectors."""

    task, output = "encoder", "output"


class CompiledSequenceClassifier(_CompiledTexts):
    """A classifier that turns texts into logits."""

    task, output = "sequence_classification", "logits"

    @property
    def labels(self) -> list[str]:
        """What the logits stand for, in their order."""
        return [self.body["id2label"][str(index)] for index in range(len(self.body["id2label"]))]

    def scores(self, logits: np.ndarray) -> np.ndarray:
        """Logits ``[n, num_labels]`` as what the model was trained for: probabilities, or a regression as it is."""
        kind = self.body["problem_type"]
        if kind == "regression":
            return logits
        if kind == "multi_label_classification" or logits.shape[1] == 1:
            return 1 / (1 + np.exp(-logits))
        shares = np.exp(logits - logits.max(1, keepdims=True))
        return shares / shares.sum(1, keepdims=True)

    def rank(self, query: str, documents: Sequence[str], *, tokenizer: Any | None = None) -> list[tuple[int, float]]:
        """Indices and scores of ``documents``, those first that fit ``query`` best.

        Raises:
            OptionError: the model has several labels.
        """
        if len(self.labels) != 1:
            raise OptionError(f"Only a model of one label ranks; this one has {', '.join(self.labels)}.")
        logits = self.generate([(query, document) for document in documents], tokenizer=tokenizer)["logits"]
        scores = 1 / (1 + np.exp(-logits[:, 0]))
        return [(int(index), float(scores[index])) for index in np.argsort(-logits[:, 0], kind="stable")]


Compiled = CompiledCausalLM | CompiledSeq2SeqLM | CompiledEncoder | CompiledSequenceClassifier
_TASKS: dict[str, type[Compiled]] = {
    kind.task: kind for kind in (CompiledCausalLM, CompiledSeq2SeqLM, CompiledEncoder, CompiledSequenceClassifier)
}


def from_package(path: str | os.PathLike[str], device_ids: Sequence[int] | None = None) -> Compiled:
    """Open a compiled package and load it.

    Args:
        path: the folder that ``compile`` returned, or a copy of it.
        device_ids: the cards to load it on; None: those that come first. No effect on ``cpu``.

    Raises:
        ArtifactNotFound: no package there.
        CorruptArtifact: its files are not what was written.
        NewerFormat: a newer library wrote it.
    """
    artifact = open_artifact(path)
    task = artifact.manifest.body.get("task")
    if artifact.manifest.kind != PACKAGE or task not in _TASKS:
        raise ArtifactError(
            f"{artifact.path} holds a {artifact.manifest.kind!r} artifact, not a compiled package; run compile() on it."
        )
    return _TASKS[task](artifact, device_ids)


def _printer(texts: Any | None, num_answers: int, stream: bool | Callable[[str], None]) -> AnswerPrinter:
    if texts is None:
        raise LifecycleError("Streaming text needs a tokenizer: pass tokenizer=...")
    if callable(stream):
        return AnswerPrinter(texts.decode, num_answers, stream, end="")
    return AnswerPrinter(texts.decode, num_answers, lambda piece: print(piece, end="", flush=True), end="\n")


def _forced(ids: Mapping[str, Any], last: int) -> dict[int, int]:
    """The first and the last token of an answer, where they do not depend on the model."""
    first, end = ids["forced_bos_token_id"], ids["forced_eos_token_id"]
    end = end[0] if isinstance(end, list) else end
    return ({} if end is None else {last: int(end)}) | ({} if first is None else {0: int(first)})


def _each(name: str, value: Any, count: int) -> list[Any]:
    """The value of an option for each prompt: a list gives one each, anything else is for all."""
    if not isinstance(value, list | tuple | np.ndarray):
        return [value] * count
    if len(value) != count:
        raise OptionError(f"{name} has {len(value)} values for {count} prompts: give one value, or one for each.")
    return list(value)
