"""Runs the packages of encoders."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic

import numpy as np

from QEfficient.contract import Count
from QEfficient.errors import CapacityError
from QEfficient.generation.compiled_model import CompiledModel, RecordT
from QEfficient.generation.sessions.encoder import EncoderSession, InputContract
from QEfficient.generation.texts import Texts, encode_texts
from QEfficient.options import EncoderCompileOptions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderRecord:
    """The values that the session of an encoder needs."""

    inputs: InputContract
    min_len: Count = 1
    max_len: Count | None = None
    """Lengths that the graph supports; None: no maximum."""

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
        return replace(self, inputs=replace(inputs, seq_lens=lengths, batch_size=batch_size or inputs.batch_size))


def _ascending(seq_len: int | Sequence[int]) -> tuple[int, ...]:
    return (seq_len,) if isinstance(seq_len, int) else tuple(sorted({*seq_len}))


class CompiledSequenceModel(CompiledModel[RecordT], Generic[RecordT]):
    """A compiled package that turns each whole sequence into one tensor."""

    lowerings = ("encoder",)

    def _load(self) -> None:
        self._inputs = self._input_contract()
        *_, length = self.body.graph.inputs["input_ids"].shape
        with ExitStack() as opened:
            program = opened.enter_context(closing(self.open_program()))
            self.session = EncoderSession(program, self._inputs, self.output, length if length > 0 else None)
            opened.pop_all()  # the session closes it

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
        texts = encode_texts(inputs, lambda: self.tokenizer(tokenizer), self._inputs.token_type_ids != "none")
        return {self.output: self.session.run(texts)}


class CompiledEncoder(CompiledSequenceModel[EncoderRecord]):
    """An encoder that turns sequences into hidden states or vectors."""

    task, output = "encoder", "output"
    record_class = EncoderRecord
    options_class = EncoderCompileOptions

    def _input_contract(self) -> InputContract:
        return self.record.inputs

    def resized(
        self,
        record: EncoderRecord,
        *,
        seq_len: int | Sequence[int] | None = None,
        batch_size: int | None = None,
        **sizes: object,
    ) -> EncoderRecord:
        super().resized(record, **sizes)
        return record.resized(seq_len, batch_size)

    def describe(
        self, prompts: Sequence[str], tokenizer: PreTrainedTokenizerBase | None = None
    ) -> tuple[list[dict[str, Any]], str]:
        outputs = self.generate(list(prompts), tokenizer=tokenizer)["output"]
        rows = [{"prompt": prompt, "output": row.tolist()} for prompt, row in zip(prompts, outputs, strict=True)]
        lines = []
        for prompt, row in zip(prompts, outputs, strict=True):
            first = " ".join(f"{value:.4f}" for value in row.reshape(-1)[:6])
            lines.append(f"> {prompt}\n{list(row.shape)} {first} ...")
        return rows, "\n".join(lines)
