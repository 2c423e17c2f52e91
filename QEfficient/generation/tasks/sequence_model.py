"""What packages share that turn each whole sequence into one tensor: encoders and classifiers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic

import numpy as np

from QEfficient.contract import Count
from QEfficient.errors import CapacityError, OptionError
from QEfficient.generation.compiled_model import CompiledModel, RecordT
from QEfficient.generation.embedding import EmbeddingRecord, TextReader, run_texts
from QEfficient.generation.late_interaction import LateRecord
from QEfficient.generation.media_encoder import MediaEncoderRecord
from QEfficient.generation.programs.program import Program
from QEfficient.generation.seeing import SeeingRecord
from QEfficient.generation.sessions.encoder import EncoderSession, InputContract
from QEfficient.generation.text_options import TextOptions
from QEfficient.generation.texts import Texts, encode_texts
from QEfficient.generation.two_towers import TowersRecord

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderRecord:
    """The values that the session of an encoder needs."""

    inputs: InputContract
    min_len: Count = 1
    max_len: Count | None = None
    """Lengths that the graph supports; None: no maximum."""
    towers: TowersRecord | None = None
    """Of a model that gives vectors of images too."""
    late: LateRecord | None = None
    """Of a model of late interaction."""
    embedding: EmbeddingRecord | None = None
    """Of a checkpoint in sentence-transformers' layout."""
    seeing: SeeingRecord | None = None
    """Of a model that reads images among the tokens of a text."""

    @property
    def images(self) -> MediaEncoderRecord | None:
        """How images are encoded."""
        if self.seeing is not None:
            return self.seeing.images
        return None if self.towers is None else self.towers.images

    def resized(self, seq_len: int | Sequence[int] | None, batch_size: int | None) -> EncoderRecord:
        """This record for other lengths or another batch.

        Raises:
            CapacityError: the graph does not support a length.
        """
        inputs = self.inputs
        lengths = inputs.seq_lens if seq_len is None else _ascending(seq_len)
        if lengths[0] < self.min_len or lengths[-1] > (self.max_len or lengths[-1]):
            allowed = f"{self.min_len} to {self.max_len}" if self.max_len else f"{self.min_len} or more"
            raise CapacityError(f"seq_len={lengths}: the package's graph is for {allowed} tokens. Compile with these.")
        towers, batch_size = self.towers, batch_size or inputs.batch_size
        if towers is not None:
            lengths = towers.with_frame(lengths)
            towers = towers.resized(lengths, batch_size)
        return replace(self, inputs=replace(inputs, seq_lens=lengths, batch_size=batch_size), towers=towers)


def _ascending(seq_len: int | Sequence[int]) -> tuple[int, ...]:
    return (seq_len,) if isinstance(seq_len, int) else tuple(sorted({*seq_len}))


class CompiledSequenceModel(CompiledModel[RecordT], Generic[RecordT]):
    """A compiled package that turns each whole sequence into one tensor."""

    lowerings = ("encoder",)
    reads_texts = True

    def _load(self) -> None:
        self._inputs = self._input_contract()
        self._warned: set[int] = set()
        *_, length = self._result_graph.inputs["input_ids"].shape
        with ExitStack() as opened:
            program = opened.enter_context(closing(self.open_program()))
            self.session = self._session(program, length if length > 0 else None)
            opened.pop_all()  # the session closes it

    def _session(self, program: Program, fixed_len: int | None) -> EncoderSession:
        return EncoderSession(program, self._inputs, self.output, fixed_len)

    def _input_contract(self) -> InputContract:
        raise NotImplementedError

    def close(self) -> None:
        self.session.close()

    def generate(self, inputs: Texts, *, tokenizer: PreTrainedTokenizerBase | None = None) -> dict[str, np.ndarray]:
        """Run sequences.

        Args:
            inputs: text, a list of texts or of pairs of texts, lists of token ids, or a tokenizer's output.
            tokenizer: a transformers tokenizer; default: the one in the package.

        Returns:
            ``{"output": array}`` of an encoder: ``[n, hidden]`` if pooled, else ``[n, longest input, hidden]``;
            ``{"logits": array}`` of a classifier: ``[n, num_labels]``.

        Raises:
            CapacityError: an input is empty, longer than the longest compiled ``seq_len``, or of a length at which the
                model cannot run.
        """
        if are_none(inputs):
            return {self.output: self._no_results()}
        texts = encode_texts(inputs, lambda: self.tokenizer(tokenizer), self._inputs.token_type_ids != "none")
        return {self.output: self.session.run(texts)}

    def _no_results(self) -> np.ndarray:
        """Of no text: ``[0, ...]`` with the widths of the results."""
        _, *widths = self._result_graph.outputs[self.output].shape
        return np.zeros((0, *(max(width, 0) for width in widths)), np.float32)

    def _embedding(self) -> EmbeddingRecord:
        """What the checkpoint's folder says of texts."""
        raise NotImplementedError

    def _run_texts(self, texts: Any, tokenizer: PreTrainedTokenizerBase | None, options: TextOptions) -> np.ndarray:
        """Results of texts in their order, as :func:`QEfficient.generation.embedding.run_texts`."""
        session, record = self._session_for(options.batch_size), self._embedding()
        if are_none(texts):
            return self._no_results()
        reader = TextReader(
            lambda: self.tokenizer(tokenizer),
            takes_types=self._inputs.token_type_ids != "none",
            longest=self._inputs.seq_lens[-1],
            max_seq_len=record.max_seq_len,
            warned=self._warned,
        )
        return run_texts(session, reader, record, texts, options)

    @property
    def prompts(self) -> dict[str, str]:
        """The prompts of the checkpoint's folder, by name."""
        return dict(self._embedding().prompts)

    def _session_for(self, batch_size: int | None) -> EncoderSession:
        """The session with another number of texts per run.

        Raises:
            OptionError: the package runs with one alone.
        """
        inputs = self._inputs
        if batch_size in (None, inputs.batch_size):
            return self.session
        if self.target.has_static_shapes:
            raise OptionError(
                f"batch_size={batch_size}: the package was compiled for {inputs.batch_size} on '{self.target.name}'. "
                "Leave it out, or compile with it."
            )
        return self.session.beside(replace(inputs, batch_size=batch_size), self.output)


def are_none(texts: object) -> bool:
    """Whether ``texts`` is an empty list."""
    return isinstance(texts, list | tuple) and not texts


def shown(prompt: str | tuple[str, str]) -> str:
    """A text, or a pair of texts on one line."""
    return prompt if isinstance(prompt, str) else " | ".join(prompt)
