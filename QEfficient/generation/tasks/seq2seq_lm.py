"""Runs the packages of sequence-to-sequence models: an encoder reads the prompt, a decoder generates."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from typing import Annotated, Any, Generic, TypeVar

import numpy as np

from QEfficient.contract import MODEL_GRAPH, Count, Range
from QEfficient.errors import CapacityError
from QEfficient.generation.request import Request
from QEfficient.generation.sessions.readers import TEXT, Reader, TextReader
from QEfficient.generation.sessions.seq2seq import Seq2SeqSession
from QEfficient.generation.tasks.causal_lm import CompiledDecoder, DecoderRecord
from QEfficient.options import Seq2SeqLMCompileOptions

ENCODER, DECODER = "encoder", "decoder"
"""Names of the graphs, if the encoder is a separate one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderDecoderRecord:
    """The values that every session over an encoder and a decoder needs."""

    decoder: DecoderRecord
    encoder_ctx_len: Count
    """States of the encoder that the decoder sees."""
    decoder_start_token_id: Annotated[int, Range(0)]
    hidden_size: Count
    """Of the encoder's output."""

    def __post_init__(self) -> None:
        if self.decoder_start_token_id >= self.decoder.vocab_size:
            raise ValueError(
                f"decoder_start_token_id={self.decoder_start_token_id} is none of vocab_size={self.decoder.vocab_size}"
            )

    @property
    def sizes(self) -> dict[str, int]:
        """Of the state's named axes."""
        return {**self.decoder.sizes, "encoder_ctx_len": self.encoder_ctx_len}


@dataclass(frozen=True, kw_only=True, slots=True)
class Seq2SeqRecord(EncoderDecoderRecord):
    """The values that the session of a sequence-to-sequence model needs."""

    max_encoder_ctx_len: Count | None
    encoder_vocab_size: Count
    why_not_padded: str | None
    """Why an encoder input cannot be padded; None: it can."""


RecordT = TypeVar("RecordT", bound=EncoderDecoderRecord)


class CompiledEncoderDecoder(CompiledDecoder[RecordT], Generic[RecordT]):
    """A model whose encoder reads what its decoder generates from."""

    lowerings = ("retained",)
    graph_names = ((MODEL_GRAPH,), (ENCODER, DECODER))
    session: Seq2SeqSession

    @property
    def _vocab_size(self) -> int:
        return self.record.decoder.vocab_size

    def _open_encoder_decoder(self, reader: Reader) -> Seq2SeqSession:
        """The session over one program, or over two."""
        record = self.record
        info = record.decoder.session_info(is_ragged=False)
        is_split = ENCODER in self.body.graphs
        self._check_width("logits", record.decoder.vocab_size, "vocab_size")
        with ExitStack() as opened:
            program = self.open_program(DECODER if is_split else MODEL_GRAPH, record.sizes)
            opened.enter_context(closing(program))
            encoder = opened.enter_context(closing(self.open_program(ENCODER))) if is_split else None
            self.session = Seq2SeqSession(program, info, reader, encoder=encoder, hidden_size=record.hidden_size)
            opened.pop_all()  # the session closes them
        return self.session


class CompiledSeq2SeqLM(CompiledEncoderDecoder[Seq2SeqRecord]):
    """A sequence-to-sequence model."""

    task = "seq2seq_lm"
    record_class = Seq2SeqRecord
    options_class = Seq2SeqLMCompileOptions

    def resized(
        self,
        record: Seq2SeqRecord,
        *,
        ctx_len: int | None = None,
        full_batch_size: int | None = None,
        encoder_ctx_len: int | None = None,
        **sizes: object,
    ) -> Seq2SeqRecord:
        encoder_ctx_len = encoder_ctx_len or record.encoder_ctx_len
        super().resized(record, **sizes)
        if record.max_encoder_ctx_len is not None and encoder_ctx_len > record.max_encoder_ctx_len:
            raise CapacityError(
                f"encoder_ctx_len={encoder_ctx_len}: the package's graph is for up to {record.max_encoder_ctx_len}. "
                "Compile with this encoder_ctx_len."
            )
        decoder = record.decoder.resized(ctx_len, full_batch_size)
        return replace(record, decoder=decoder, encoder_ctx_len=encoder_ctx_len)

    def _open_session(self) -> Seq2SeqSession:
        record = self.record
        reader = TextReader(record.encoder_ctx_len, record.encoder_vocab_size, record.why_not_padded)
        return self._open_encoder_decoder(reader)

    def _request(self, index: int, prompt: Any, generation_len: Any, sampling: Mapping[str, Any]) -> Request:
        text = np.array(prompt, np.int64)
        self.session.check(text, index)
        return self._builder.build([self.record.decoder_start_token_id], generation_len, sampling, {TEXT: text})
