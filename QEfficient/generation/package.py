"""A compiled package, opened and ready to run. Neither torch nor transformers is imported here."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from importlib import import_module
from numbers import Integral
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import numpy as np

from QEfficient.base.artifacts import Artifact, open_artifact
from QEfficient.errors import ArtifactError, CapacityError, LifecycleError, OptionError
from QEfficient.generation.encoder_session import EncoderSession
from QEfficient.generation.engine import Engine, Request
from QEfficient.generation.prompts import encode_prompts
from QEfficient.generation.results import CloudAI100ExecInfo, PerfMetrics
from QEfficient.generation.streaming import AnswerPrinter
from QEfficient.generation.tokenizer import FOLDER, ForeignTokenizer, PackageTokenizer
from QEfficient.options import SamplingOptions
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
        self.engine = Engine(self.target_sessions.open_session(artifact.path, self.body, device_ids))
        self.generation_config = json.loads((self.path / "generation_config.json").read_text("utf-8"))

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
        eos = self.generation_config.get("eos_token_id")
        lengths = _each("generation_len", generation_len, len(ids))
        options = {name: _each(name, value, len(ids)) for name, value in sampling.items()}
        requests = [
            Request(
                prompt_ids=prompt_ids,
                max_new_tokens=self._max_new_tokens(prompt_ids, lengths[index]),
                eos_token_ids=frozenset([eos] if isinstance(eos, int) else eos or ()),
                sampling=self._sampling({name: values[index] for name, values in options.items()}),
            )
            for index, prompt_ids in enumerate(ids)
        ]
        return requests, texts

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


class CompiledEncoder(CompiledModel):
    """An encoder that turns texts into hidden states or vectors."""

    task = "encoder"

    def __init__(self, artifact: Artifact, device_ids: Sequence[int] | None = None):
        super().__init__(artifact, device_ids)
        runner = self.target_sessions.open_encoder(artifact.path, self.body, device_ids)
        self.session = EncoderSession(runner, self.body)

    def close(self) -> None:
        self.session.close()

    def generate(self, inputs: Any, *, tokenizer: Any | None = None) -> dict[str, np.ndarray]:
        """Encode texts.

        Args:
            inputs: text, a list of texts, lists of token ids, or a tokenizer's output.
            tokenizer: a transformers tokenizer; default: the one in the package.

        Returns:
            ``{"output": array}``: ``[n, hidden]`` if pooled, else ``[n, longest input, hidden]``.

        Raises:
            CapacityError: a text is empty or longer than the greatest compiled ``seq_len``.
        """
        return {"output": self.session.run(encode_prompts(inputs, lambda: self.tokenizer(tokenizer)))}


_TASKS: dict[str, type[CompiledCausalLM] | type[CompiledEncoder]] = {
    "causal_lm": CompiledCausalLM,
    "encoder": CompiledEncoder,
}


def from_package(
    path: str | os.PathLike[str], device_ids: Sequence[int] | None = None
) -> CompiledCausalLM | CompiledEncoder:
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


def _each(name: str, value: Any, count: int) -> list[Any]:
    """The value of an option for each prompt: a list gives one each, anything else is for all."""
    if not isinstance(value, list | tuple | np.ndarray):
        return [value] * count
    if len(value) != count:
        raise OptionError(f"{name} has {len(value)} values for {count} prompts: give one value, or one for each.")
    return list(value)
