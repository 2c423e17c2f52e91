"""Sessions on this machine's processor, over OpenVINO. Neither torch nor transformers is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov

from QEfficient.compile.openvino_compiler import MODEL_FILE
from QEfficient.compile.openvino_paged import BLOCK_LEN, add_extensions, to_plugin_form
from QEfficient.errors import CompileError
from QEfficient.generation.sessions.encoder_session import EncoderRunner
from QEfficient.generation.sessions.seq2seq_session import Seq2SeqSession
from QEfficient.generation.sessions.session import Chunk, SessionInfo


def native_precision() -> str:
    """What this processor computes fastest without losing range: "bf16" where it is native, else "fp32"."""
    capabilities = ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "bf16" if "BF16" in capabilities else "fp32"


def compile_for_cpu(
    folder: Path,
    precision: str | None,
    num_threads: int | None,
    options: dict[str, Any],
    extra_outputs: Sequence[str] = (),
) -> Any:
    """The package's IR as an OpenVINO compiled model.

    Args:
        folder: the package.
        precision: "fp32", "bf16" or "fp16"; None for the processor's own.
        num_threads: None for one a physical core.
        options: raw OpenVINO properties; they win.
        extra_outputs: names of inner values to put out too.
    """
    core = ov.Core()
    add_extensions(core)
    chosen = precision or native_precision()
    config: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}[chosen],
    }
    if precision == "fp32":
        config |= {"KV_CACHE_PRECISION": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
    if num_threads is not None:
        config["INFERENCE_NUM_THREADS"] = num_threads
    try:
        model = core.read_model(folder / MODEL_FILE)
        if extra_outputs:
            model.add_outputs(list(extra_outputs))
        to_plugin_form(model)
        return core.compile_model(model, "CPU", config | options)
    except RuntimeError as error:
        raise CompileError(f"OpenVINO could not load {folder / MODEL_FILE}: {error}") from error


def open_session(
    folder: Path,
    body: Mapping[str, Any],
    device_ids: Sequence[int] | None = None,
    extra_outputs: Sequence[str] = (),
) -> _OpenVINOSession:
    """The session of a causal LM's package.

    Args:
        folder: the package.
        body: its manifest's.
        device_ids: no effect: this machine has one processor.
        extra_outputs: names of inner values to put out too.
    """
    compiled = compile_for_cpu(folder, body["precision"], body["num_threads"], body["compiler_options"], extra_outputs)
    kind = {"paged": PagedSession, "retained": RetainedSession}[body["lowering"]]
    return kind(compiled, SessionInfo(**body["session"]))


def open_encoder(folder: Path, body: Mapping[str, Any], device_ids: Sequence[int] | None = None) -> EncoderRunner:
    """What runs an encoder's package. Arguments as in :func:`open_session`."""
    return _OpenVINOEncoder(compile_for_cpu(folder, body["precision"], body["num_threads"], body["compiler_options"]))


def open_seq2seq(folder: Path, body: Mapping[str, Any], device_ids: Sequence[int] | None = None) -> Seq2SeqSession:
    """The session of a text-to-text model's package. Arguments as in :func:`open_session`."""
    compiled = compile_for_cpu(folder, body["precision"], body["num_threads"], body["compiler_options"])
    return Seq2SeqSession(_OpenVINOSeq2Seq(compiled, body["session"]["num_slots"]), body)


def layer_outputs(folder: Path, body: Mapping[str, Any], ids: list[int]) -> list[np.ndarray]:
    """Hidden states ``[len(ids), hidden]`` after each marked layer, for one prompt in one step."""
    names: list[str] = body["layers"]
    session = open_session(folder, body, extra_outputs=names)
    session.step([Chunk(0, ids, 0)])
    return [session.output(name)[: len(ids)] for name in names]


class _OpenVINOEncoder:
    def __init__(self, compiled: Any):
        self.has_static_shapes = compiled.input("input_ids").get_partial_shape()[1].is_static
        self._request = compiled.create_infer_request()

    def run(self, ids: np.ndarray, mask: np.ndarray, segments: np.ndarray | None = None) -> np.ndarray:
        """See :class:`QEfficient.generation.sessions.encoder_session.EncoderRunner`."""
        extra = {} if segments is None else {"token_type_ids": segments}
        self._request.infer({"input_ids": ids, "attention_mask": mask, **extra})
        return np.array(self._request.get_output_tensor(0).data)

    def close(self) -> None:
        """Give the memory back; it cannot run after it."""
        del self._request


class _OpenVINOSeq2Seq:
    """See :class:`QEfficient.generation.sessions.seq2seq_session.Seq2SeqRunner`."""

    has_static_shapes = False

    def __init__(self, compiled: Any, num_slots: int):
        self.takes_rows = any(port.get_any_name() == "batch_index" for port in compiled.inputs)
        self.encoder_rows = self.decode_rows = None if self.takes_rows else num_slots
        self._request = compiled.create_infer_request()
        for state in self._request.query_state():
            state.reset()

    def run(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        self._request.infer(dict(inputs), share_inputs=True)
        logits: np.ndarray = self._request.get_tensor("logits").data[:, 0]
        return logits

    def close(self) -> None:
        del self._request


class _OpenVINOSession:
    """What the two lowerings share."""

    def __init__(self, compiled: Any, info: SessionInfo):
        self.info = info
        self._request = compiled.create_infer_request()

    def step(self, chunks: Sequence[Chunk]) -> np.ndarray:
        """See :class:`QEfficient.generation.sessions.session.Session`."""
        raise NotImplementedError

    def output(self, name: str) -> np.ndarray:
        """An extra output of the last step, rows of its last axis."""
        data = self._request.get_tensor(name).data
        return np.array(data).reshape(-1, data.shape[-1])

    def close(self) -> None:
        """Give the memory back; the session cannot run after it."""
        del self._request


class PagedSession(_OpenVINOSession):
    """A ragged batch over blocks of KV. Each slot owns a fixed run of blocks."""

    def __init__(self, compiled: Any, info: SessionInfo):
        super().__init__(compiled, info)
        self._blocks_per_slot = -(-info.ctx_len // BLOCK_LEN)
        self._caches = self._allocate(compiled)

    def _allocate(self, compiled: Any) -> list[ov.Tensor]:
        num_blocks = self._blocks_per_slot * self.info.num_slots
        caches = []
        for port in compiled.inputs:
            if port.get_any_name().startswith(("key_cache.", "value_cache.")):
                dims = [dim.get_length() for dim in list(port.get_partial_shape())[1:]]
                tensor = ov.Tensor(port.get_element_type(), ov.Shape([num_blocks, *dims]))
                self._request.set_tensor(port, tensor)
                caches.append(tensor)
        return caches

    def step(self, chunks: Sequence[Chunk]) -> np.ndarray:
        lengths = np.array([len(chunk.tokens) for chunk in chunks], np.int32)
        past = np.array([chunk.start for chunk in chunks], np.int32)
        ends = np.cumsum(lengths, dtype=np.int32)
        num_blocks = -(-(past + lengths) // BLOCK_LEN)
        inputs = {
            "input_ids": np.concatenate([np.asarray(chunk.tokens, np.int64) for chunk in chunks])[None],
            "position_ids": np.concatenate([np.arange(c.start, c.start + len(c.tokens)) for c in chunks])[None],
            "logits_indices": np.array(
                [end - 1 for end, chunk in zip(ends, chunks, strict=True) if chunk.wants_logits], np.int64
            ),
            "past_lens": past,
            "subsequence_begins": np.concatenate([[0], ends]).astype(np.int32),
            "block_indices": self._block_indices(chunks, num_blocks),
            "block_indices_begins": np.concatenate([[0], np.cumsum(num_blocks)]).astype(np.int32),
            "max_context_len": np.array((past + lengths).max(), np.int32),
        }
        self._request.infer(inputs, share_inputs=True)
        return self._request.get_tensor("logits").data[0]

    def _block_indices(self, chunks: Sequence[Chunk], num_blocks: np.ndarray) -> np.ndarray:
        first = [chunk.slot * self._blocks_per_slot for chunk in chunks]
        runs = [np.arange(begin, begin + count) for begin, count in zip(first, num_blocks, strict=True)]
        return np.concatenate(runs).astype(np.int32)

    def close(self) -> None:
        self._caches.clear()
        super().close()


class RetainedSession(_OpenVINOSession):
    """A fixed-size state a slot, held inside OpenVINO's variables."""

    def __init__(self, compiled: Any, info: SessionInfo):
        super().__init__(compiled, info)
        self._takes_rows = any(port.get_any_name() == "batch_index" for port in compiled.inputs)
        for state in self._request.query_state():
            state.reset()

    def step(self, chunks: Sequence[Chunk]) -> np.ndarray:
        width = max(len(chunk.tokens) for chunk in chunks)
        num_rows = len(chunks) if self._takes_rows else self.info.num_slots
        ids = np.zeros((num_rows, width), np.int64)
        positions = np.full((num_rows, width), -1, np.int64)
        rows = [row if self._takes_rows else chunk.slot for row, chunk in enumerate(chunks)]
        for row, chunk in zip(rows, chunks, strict=True):
            count = len(chunk.tokens)
            ids[row, :count] = chunk.tokens
            positions[row, :count] = np.arange(chunk.start, chunk.start + count)
        inputs = {"input_ids": ids, "position_ids": positions}
        if self._takes_rows:
            inputs["batch_index"] = np.array([[chunk.slot] for chunk in chunks], np.int64)
        self._request.infer(inputs, share_inputs=True)
        logits = self._request.get_tensor("logits").data[:, 0]
        return logits[[row for row, chunk in zip(rows, chunks, strict=True) if chunk.wants_logits]]
