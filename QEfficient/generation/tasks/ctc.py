"""Runs the packages of CTC models: audio to logits of frames, and to text."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from QEfficient.contract import Binding, Count, GraphRecord, Range
from QEfficient.errors import CapacityError
from QEfficient.generation.audio_inputs import AudioInputs, read_signals
from QEfficient.generation.compiled_model import CompiledModel
from QEfficient.generation.feature_extractor import FOLDER, FeatureExtractor, HFFeatureExtractor, open_feature_extractor
from QEfficient.generation.sessions.signals import SignalRecord, SignalSession
from QEfficient.generation.tokenizer import ForeignTokenizer
from QEfficient.options import CTCCompileOptions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NOTHING = Binding(dtype="", shape=())


@dataclass(frozen=True, kw_only=True, slots=True)
class CTCRecord:
    """The values that the session of a CTC model needs."""

    signals: SignalRecord
    vocab_size: Count
    blank_token_id: Annotated[int, Range(0)]
    """The token of frames that add nothing to the text."""
    graph_min_len: Count = 1
    graph_max_len: Count | None = None
    """Lengths that the graph supports; None: no maximum."""

    def __post_init__(self) -> None:
        if self.blank_token_id >= self.vocab_size:
            raise ValueError(f"blank_token_id={self.blank_token_id} is none of vocab_size={self.vocab_size}")

    def resized(self, seq_len: int | Sequence[int] | None, batch_size: int | None) -> CTCRecord:
        """This record for other lengths or another batch.

        Raises:
            CapacityError: the graph does not support a length.
        """
        signals = self.signals
        lengths = signals.seq_lens if seq_len is None else _ascending(seq_len)
        if lengths[0] < self.graph_min_len or lengths[-1] > (self.graph_max_len or lengths[-1]):
            most = f"to {self.graph_max_len}" if self.graph_max_len else "or more"
            raise CapacityError(
                f"seq_len={lengths}: the package's graph is for {self.graph_min_len} {most}. Compile with these."
            )
        signals = replace(signals, seq_lens=lengths, batch_size=batch_size or signals.batch_size)
        return replace(self, signals=signals)


def _ascending(seq_len: int | Sequence[int]) -> tuple[int, ...]:
    return (seq_len,) if isinstance(seq_len, int) else tuple(sorted({*seq_len}))


class CompiledCTC(CompiledModel[CTCRecord]):
    """A CTC model that turns audio into text."""

    task, output = "ctc", "logits"
    lowerings = ("encoder",)
    record_class = CTCRecord
    options_class = CTCCompileOptions

    def _check_result(self, graph: GraphRecord) -> None:
        name = self.body.session.get("signals", {}).get("input")
        if self.output not in graph.outputs or len(graph.inputs.get(str(name), _NOTHING).shape) not in (2, 3):
            raise self._not_ours(f"its graph has no {name} [batch, length] or no {self.output}")

    def _load(self) -> None:
        self._check_width(self.output, self.record.vocab_size, "vocab_size")
        _, length, *_ = self.body.graph.inputs[self.record.signals.input].shape
        with ExitStack() as opened:
            program = opened.enter_context(closing(self.open_program()))
            self.session = SignalSession(program, self.record.signals, self.output, length if length > 0 else None)
            opened.pop_all()  # the session closes it

    def resized(
        self,
        record: CTCRecord,
        *,
        seq_len: int | Sequence[int] | None = None,
        batch_size: int | None = None,
        **sizes: object,
    ) -> CTCRecord:
        super().resized(record, **sizes)
        return record.resized(seq_len, batch_size)

    def close(self) -> None:
        self.session.close()

    @cached_property
    def _package_extractor(self) -> FeatureExtractor:
        return open_feature_extractor(self.path / FOLDER)

    def feature_extractor(self, extractor: HFFeatureExtractor | None = None) -> FeatureExtractor:
        """The package's feature extractor, or ``extractor`` with the same methods."""
        return self._package_extractor if extractor is None else FeatureExtractor(extractor)

    def generate(
        self, inputs: AudioInputs, *, feature_extractor: HFFeatureExtractor | None = None
    ) -> dict[str, np.ndarray]:
        """Run audio.

        Args:
            inputs: a processor's output, a file, samples, or a list of files or samples: see :data:`AudioInputs`.
            feature_extractor: one of transformers; default: the one in the package.

        Returns:
            ``logits``, float32 ``[n, frames, vocab]`` with zeros after the frames of shorter audio, and
            ``num_frames [n]``.

        Raises:
            CapacityError: audio is empty, longer than the longest compiled ``seq_len``, or of a length that cannot run.
            OptionError: it is not audio, or of another rate than the model's.
        """
        frames = self._frames(inputs, feature_extractor)
        counts = np.array([len(each) for each in frames], np.int64)
        logits = np.stack([np.pad(each, ((0, counts.max() - len(each)), (0, 0))) for each in frames])
        return {self.output: logits, "num_frames": counts}

    def transcribe(
        self,
        inputs: AudioInputs,
        *,
        feature_extractor: HFFeatureExtractor | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> list[str]:
        """The text of each audio, by the likeliest token of each frame. Arguments as of :meth:`generate`.

        Raises:
            LifecycleError: there is no tokenizer.
        """
        decoder = self.tokenizer(tokenizer)
        return [self._text(decoder, logits) for logits in self._frames(inputs, feature_extractor)]

    def _frames(self, inputs: AudioInputs, extractor: HFFeatureExtractor | None) -> list[np.ndarray]:
        """The logits ``[frames, vocab]`` of each audio."""
        signals = read_signals(inputs, self.record.signals, lambda: self.feature_extractor(extractor))
        return self.session.run_each(signals)

    def _text(self, decoder: Any, logits: np.ndarray) -> str:
        likeliest = logits.argmax(-1)
        starts = np.flatnonzero(np.diff(likeliest, prepend=-1))
        ids = [int(token) for token in likeliest[starts] if token != self.record.blank_token_id]
        # Tokenizers that know of CTC would merge repetitions once more.
        options = {"group_tokens": False} if isinstance(decoder, ForeignTokenizer) and decoder.groups_tokens else {}
        text: str = decoder.decode(ids, skip_special_tokens=False, **options)
        return text

    def describe(
        self, prompts: Sequence[str], tokenizer: PreTrainedTokenizerBase | None = None
    ) -> tuple[list[dict[str, Any]], str]:
        texts = self.transcribe(list(prompts), tokenizer=tokenizer)
        rows = [{"prompt": prompt, "text": text} for prompt, text in zip(prompts, texts, strict=True)]
        return rows, "\n".join(f"> {prompt}\n{text}" for prompt, text in zip(prompts, texts, strict=True))
