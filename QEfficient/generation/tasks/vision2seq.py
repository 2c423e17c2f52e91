"""Runs the packages of models whose encoder reads prompts with images: each prompt is encoded once, and a decoder
generates from the encoder's states."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Any

import numpy as np

from QEfficient.contract import FEATURES, INDEX, Count, GraphRecord, Range
from QEfficient.errors import CapacityError, NumericError, OptionError
from QEfficient.generation.media_encoder import FeatureCache, Features, content_key
from QEfficient.generation.request import Request
from QEfficient.generation.sessions.readers import STATES, StatesReader
from QEfficient.generation.sessions.seq2seq import Seq2SeqSession
from QEfficient.generation.tasks.image_text_to_text import CompiledImageTextToText, ImageTextRecord, Pictured
from QEfficient.generation.tasks.seq2seq_lm import DECODER, ENCODER
from QEfficient.options import Vision2SeqCompileOptions

COUNTS = "encoder_mask"
"""The encoder's output that says which of its states count."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Vision2SeqRecord(ImageTextRecord):
    """The values that the session of an encoder that sees and its decoder needs."""

    inputs: tuple[str, ...]
    """Of the encoder's graph, as a processor names them."""
    per_place: tuple[str, ...]
    """Those with a value for each token of the text, or for each patch where the processor says which patches count."""
    encoder_ctx_len: Count
    """States of the encoder that the decoder sees."""
    hidden_size: Count
    """Of a state."""
    decoder_start_token_id: Annotated[int, Range(0)]
    num_places: Count | None = None
    """The only number of tokens or patches, where the encoder was compiled for one; fewer are padded."""
    why_not_padded: str | None = None
    """Why they cannot be padded; None: they can."""

    @property
    def reads_text(self) -> bool:
        """Whether the encoder does; else a prompt's text is what its answer begins with."""
        return "input_ids" in self.inputs

    @property
    def sizes(self) -> dict[str, int]:
        """Of the state's named axes."""
        return {**self.decoder.sizes, "encoder_ctx_len": self.encoder_ctx_len}


@dataclass(frozen=True, eq=False)
class SeenPrompt:
    """A prompt as the engine takes it."""

    states: np.ndarray
    """``[T, D]``, what the encoder makes of it."""
    begin: list[int] = field(default_factory=list)
    """Tokens that the answer begins with."""


class CompiledVision2Seq(CompiledImageTextToText):
    """A model whose decoder generates from what its encoder sees."""

    task = "vision2seq"
    lowerings = ("retained",)
    record_class = Vision2SeqRecord
    options_class = Vision2SeqCompileOptions
    record: Vision2SeqRecord
    session: Seq2SeqSession

    def _has_known_graphs(self) -> bool:
        return {ENCODER, DECODER} <= self.body.graphs.keys()

    @property
    def _result_graph(self) -> GraphRecord:
        return self.body.graphs[DECODER]

    def _load(self) -> None:
        self._states = FeatureCache()
        with ExitStack() as opened:
            encoder = opened.enter_context(closing(self.open_program(ENCODER)))
            super()._load()
            opened.pop_all()
        self._programs[ENCODER] = encoder

    def _open_session(self, extra_outputs: Sequence[str] = ()) -> Seq2SeqSession:
        record = self.record
        self._check_width("logits", record.decoder.vocab_size, "vocab_size")
        reader = StatesReader(record.encoder_ctx_len, record.hidden_size)
        with ExitStack() as opened:
            program = opened.enter_context(closing(self.open_program(DECODER, record.sizes, extra_outputs)))
            self.session = Seq2SeqSession(program, record.decoder.session_info(is_ragged=False), reader)
            opened.pop_all()  # the session closes it
        return self.session

    def resized(  # type: ignore[override]
        self, record: Vision2SeqRecord, *, encoder_ctx_len: int | None = None, **sizes: int | None
    ) -> Vision2SeqRecord:
        resized: Any = super().resized(record, **sizes)
        return replace(resized, encoder_ctx_len=encoder_ctx_len or record.encoder_ctx_len)

    def _has_media(self, batch: Mapping[str, Any]) -> bool:
        return super()._has_media(batch) or any(name in batch for name in self._main_names)

    @property
    def _main_names(self) -> list[str]:
        """What brings images or patches of them, where the encoder itself reads these."""
        text = ("input_ids", "attention_mask", *(self.record.per_place if self.record.reads_text else ()))
        return [name for name in self.record.inputs if name not in text]

    def _read(self, pictured: Pictured) -> list[Any]:
        prompts: list[Any] = super()._read(pictured)
        if self.record.reads_text:
            return prompts
        begins = [prompt.begin or self._begin(text) for prompt, text in zip(prompts, pictured.prompts, strict=True)]
        return [replace(prompt, begin=begin) for prompt, begin in zip(prompts, begins, strict=True)]

    def _begin(self, text: Any) -> list[int]:
        """What an answer begins with where the encoder reads no text: the prompt."""
        return self.tokenizer().encode(text, add_special_tokens=False) if text else []

    def _plain(self, ids: list[int]) -> Any:
        if self._main_names:
            raise OptionError("This model answers to images, and the prompt has none: pass images=[...] for it.")
        (prompt,) = self._prompts({"input_ids": np.array([ids], np.int64)})
        return prompt

    def _prompts(self, batch: Mapping[str, Any]) -> list[Any]:
        """The prompts of a processor's output, their padding dropped."""
        record = self.record
        inputs = {name: np.asarray(batch[name]) for name in record.inputs if batch.get(name) is not None}
        if missing := [name for name in self._main_names if name not in inputs]:
            raise OptionError(f"The processor's output has no {missing[0]}, which the encoder reads.")
        rows = list(self._rows(batch, inputs)) if record.per_place else _split(inputs)
        begins = self._begins(batch, len(rows))
        prompts = []
        for row, begin in zip(rows, begins, strict=True):
            states, _ = self._states.get(content_key("prompt", row), partial(self._encoded, row))
            assert states is not None
            prompts.append(SeenPrompt(states, begin))
        return prompts

    def _rows(self, batch: Mapping[str, Any], inputs: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        """The encoder's inputs for each prompt of a batch whose tokens or patches are padded."""
        record, layout = self.record, self.record.layout
        shape = inputs[record.per_place[0]].shape[:2]
        mask = np.ones(shape, bool) if batch.get("attention_mask") is None else np.asarray(batch["attention_mask"]) > 0
        inputs = {**inputs, "attention_mask": mask.astype(np.int64)}
        features: np.ndarray | None = None
        if layout.placeholders:
            features, _ = self._features(batch, np.where(mask, inputs["input_ids"], -1))
        begin = 0
        for place, keep in enumerate(mask):
            row = {n: each[place : place + 1] for n, each in inputs.items() if n in record.inputs}
            row = {n: each[:, keep] if n in record.per_place else each for n, each in row.items()}
            if layout.placeholders:
                shown = self._is_placeholder(row["input_ids"][0])
                end = begin + int(shown.sum())
                rows = np.zeros((0, layout.width), np.float32) if features is None else features[begin:end]
                begin = end
                row[FEATURES], row[INDEX] = rows[None], np.where(shown, np.cumsum(shown) - 1, -1)[None]
            yield row

    def _begins(self, batch: Mapping[str, Any], count: int) -> list[list[int]]:
        """What the answers begin with, as far as the processor says it."""
        if batch.get("decoder_input_ids") is None:
            return [[] for _ in range(count)]
        ids = np.atleast_2d(np.asarray(batch["decoder_input_ids"]))
        mask = batch.get("decoder_attention_mask")
        keep = np.ones(ids.shape, bool) if mask is None else np.asarray(mask).astype(bool)
        if len(ids) != count:
            raise OptionError(f"decoder_input_ids has {len(ids)} rows for {count} prompts: give one for each.")
        return [row[kept].tolist() for row, kept in zip(ids, keep, strict=True)]

    def _encoded(self, row: Mapping[str, np.ndarray]) -> Features:
        """The states ``[T, D]`` of one prompt."""
        passed = self._padded(row) if self.record.per_place else dict(row)
        arrays = {
            n: np.ascontiguousarray(v, np.float32 if v.dtype.kind == "f" else np.int64) for n, v in passed.items()
        }
        self._check_shapes(arrays)
        outputs = self._programs[ENCODER].run(arrays, [STATES, COUNTS])
        states = np.array(outputs[STATES][0][outputs[COUNTS][0] > 0], np.float32)
        if not np.isfinite(states).all():
            raise NumericError(
                "The encoder gives NaN or infinity: it overflows, or the checkpoint is damaged. On cpu try "
                "precision='fp32'."
            )
        return states, None

    def _padded(self, row: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The inputs of a prompt, with as many tokens or patches as the encoder runs at."""
        record, count = self.record, row[self.record.per_place[0]].shape[1]
        most = record.num_places or record.encoder_ctx_len
        if not count:
            raise CapacityError("A prompt is empty: the encoder has nothing to read.")
        if count > most or (count < most and record.why_not_padded is not None):
            limit = f"exactly {most}, because {record.why_not_padded}" if record.why_not_padded else f"{most}"
            raise CapacityError(
                f"A prompt has {count} {'tokens, with those of its images' if record.reads_text else 'patches'}, and "
                f"the encoder was compiled for {limit}. Compile with "
                f"encoder_ctx_len={record.encoder_ctx_len + count - most}."
            )
        length = count if record.num_places is None else record.num_places
        passed = {n: _pad(v, length, 0) if n in record.per_place else v for n, v in row.items()}
        if FEATURES in row:
            num_rows = max(1, row[FEATURES].shape[1]) if record.num_places is None else record.encoder_ctx_len
            passed[FEATURES], passed[INDEX] = _pad(row[FEATURES], num_rows, 0), _pad(row[INDEX], length, -1)
        return passed

    def _check_shapes(self, arrays: Mapping[str, np.ndarray]) -> None:
        shapes = self._programs[ENCODER].shapes
        sizes = {name: array.shape for name, array in arrays.items()}
        if shapes is not None and not any(all(shape[n] == size for n, size in sizes.items()) for shape in shapes):
            raise CapacityError(
                f"The prompt gives the encoder {sizes}, and the package was compiled for "
                f"{[{n: s[n] for n in sizes} for s in shapes]}. Compile with its img_size too."
            )

    def _request(self, index: int, prompt: Any, generation_len: Any, sampling: Mapping[str, Any]) -> Request:
        self.session.check(prompt.states, index)
        start = self.record.decoder_start_token_id
        begin = prompt.begin if prompt.begin[:1] == [start] else [start, *prompt.begin]
        return self._builder.build(begin, generation_len, sampling, {STATES: prompt.states})


def _split(inputs: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """The rows of inputs that have one for each prompt."""
    counts = {len(array) for array in inputs.values()}
    if len(counts) != 1:
        raise OptionError(f"The encoder's inputs must have a row for each prompt, got {sorted(counts)} rows.")
    return [{name: array[at : at + 1] for name, array in inputs.items()} for at in range(counts.pop())]


def _pad(array: np.ndarray, length: int, value: int) -> np.ndarray:
    """``array [1, n, …]`` with ``value`` behind its n places."""
    widths = [(0, 0), (0, length - array.shape[1]), *[(0, 0)] * (array.ndim - 2)]
    return np.pad(array, widths, constant_values=value)
