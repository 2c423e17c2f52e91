"""Causal LMs on this machine's processor over OpenVINO's PagedAttention: a ragged batch of tokens over blocks of KV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
import openvino as ov

from QEfficient.compile.openvino_paged import BLOCK_LEN
from QEfficient.contract import LORA_IDS, ROPE_LENS, GraphRecord
from QEfficient.errors import CapacityError, LifecycleError, OptionError
from QEfficient.forks import leave_to_parent
from QEfficient.generation.media import MediaPacker, Part
from QEfficient.generation.programs.openvino import check_memory, compile_for_cpu, native_errors
from QEfficient.generation.programs.program import Opening
from QEfficient.generation.sessions.session import Chunk, SessionInfo, check_chunks


class PagedSession:
    """See :class:`QEfficient.generation.sessions.session.Session`. Each chunk names its blocks."""

    def __init__(
        self,
        package: Path,
        record: GraphRecord,
        opening: Opening,
        info: SessionInfo,
        packer: MediaPacker | None = None,
    ):
        """
        Args:
            package: its folder.
            record: its graph.
            opening: how to open it.
            info: slots and lengths; the compiled graph does not depend on them.
            packer: of media, where the graph takes them.

        Raises:
            CompileError: OpenVINO cannot load the graph.
            CapacityError: no memory holds the KV cache.
        """
        num_blocks = info.num_slots * -(-info.ctx_len // BLOCK_LEN)
        self.info = replace(info, block_len=BLOCK_LEN, num_blocks=num_blocks, max_num_logits=None)
        self._packer = packer
        self._takes_lens = ROPE_LENS in record.inputs
        compiled = compile_for_cpu(package, record, opening)
        self._name = str(package)
        self._request: ov.InferRequest | None = compiled.create_infer_request()
        self._caches = self._allocate(compiled, num_blocks)
        self._supplied: dict[str, ov.Tensor] = {}
        leave_to_parent(self)

    def natives(self) -> list[object]:
        """See :class:`QEfficient.forks.NativeOwner`."""
        return [self._request]

    def _allocate(self, compiled: ov.CompiledModel, num_blocks: int) -> list[ov.Tensor]:
        ports = [port for port in compiled.inputs if port.get_any_name().startswith(("key_cache.", "value_cache."))]
        shapes = [[num_blocks, *(dim.get_length() for dim in list(p.get_partial_shape())[1:])] for p in ports]
        sizes = (prod(shape) * port.get_element_type().size for port, shape in zip(ports, shapes, strict=True))
        check_memory(sum(sizes), f"The KV cache of {self.info.num_slots} slots of {self.info.ctx_len} tokens")
        caches = []
        for port, shape in zip(ports, shapes, strict=True):
            tensor = ov.Tensor(port.get_element_type(), ov.Shape(shape))
            self._running().set_tensor(port, tensor)
            caches.append(tensor)
        return caches

    def _running(self) -> ov.InferRequest:
        if self._request is None:
            raise LifecycleError(f"{self._name} is closed: open the package again.")
        return self._request

    def step(self, chunks: Sequence[Chunk]) -> np.ndarray:
        """See :class:`QEfficient.generation.sessions.session.Session`."""
        request = self._running()
        check_chunks(chunks, self.info)
        if not chunks:
            return np.empty((0, self.info.vocab_size), np.float32)
        with native_errors(self._name):
            request.infer(self._inputs(chunks), share_inputs=True)
        logits: np.ndarray = request.get_tensor("logits").data[0]
        return logits

    def outputs(self, names: Sequence[str], chunk: Chunk) -> list[np.ndarray]:
        """Inner values ``[tokens, ...]`` of a chunk that runs alone."""
        request = self._running()
        check_chunks([chunk], self.info)
        with native_errors(self._name):
            request.infer(self._inputs([chunk]), share_inputs=True)
            return [np.array(request.get_tensor(name).data) for name in names]

    def _inputs(self, chunks: Sequence[Chunk]) -> dict[str, np.ndarray]:
        lengths = np.array([len(chunk.tokens) for chunk in chunks], np.int32)
        past = np.array([chunk.start for chunk in chunks], np.int32)
        ends = np.cumsum(lengths, dtype=np.int32)
        num_blocks = -(-(past + lengths) // BLOCK_LEN)
        wanted = [row for end, chunk in zip(ends, chunks, strict=True) for row in range(end - chunk.num_logits, end)]
        return {
            "input_ids": np.concatenate([np.asarray(chunk.tokens, np.int64) for chunk in chunks])[None],
            "position_ids": np.concatenate([np.arange(c.start, c.start + len(c.tokens)) for c in chunks])[None],
            "logits_indices": np.array(wanted, np.int64),
            "past_lens": past,
            "subsequence_begins": np.concatenate([[0], ends]).astype(np.int32),
            "block_indices": self._block_indices(chunks, num_blocks),
            "block_indices_begins": np.concatenate([[0], np.cumsum(num_blocks)]).astype(np.int32),
            "max_context_len": np.array((past + lengths).max(), np.int32),
            **self._adapters(chunks, lengths),
            **({ROPE_LENS: np.concatenate([chunk.rope_lens for chunk in chunks])[None]} if self._takes_lens else {}),
            **self._media(chunks),
        }

    def _adapters(self, chunks: Sequence[Chunk], lengths: np.ndarray) -> dict[str, np.ndarray]:
        """The adapter of each token, where the graph has adapters to select."""
        if not self.info.adapters:
            return {}
        return {LORA_IDS: np.repeat(np.array([chunk.adapter for chunk in chunks], np.int64), lengths)[None]}

    def supply(self, inputs: Mapping[str, np.ndarray]) -> None:
        """Give inputs that stay as they are from step to step; the next step has them."""
        for name, value in inputs.items():
            self._supplied[name] = ov.Tensor(np.ascontiguousarray(value))
            self._running().set_tensor(name, self._supplied[name])

    def _media(self, chunks: Sequence[Chunk]) -> dict[str, np.ndarray]:
        if self._packer is None:
            return {}
        return self._packer.ragged([Part(0, chunk.media, chunk.start, len(chunk.tokens)) for chunk in chunks])

    def _block_indices(self, chunks: Sequence[Chunk], num_blocks: np.ndarray) -> np.ndarray:
        """The plugin would read and write outside of its memory for a block too few, and for one that is not there."""
        for chunk, count in zip(chunks, num_blocks, strict=True):
            if len(chunk.block_ids) < count:
                raise CapacityError(
                    f"Tokens {chunk.start} to {chunk.start + len(chunk.tokens) - 1} of a sequence need {count} KV "
                    f"blocks of {BLOCK_LEN}, it has {len(chunk.block_ids)}: shorten the prompt, or compile with a "
                    "larger ctx_len."
                )
        pairs = zip(chunks, num_blocks, strict=True)
        ids = np.concatenate([np.asarray(chunk.block_ids[:count]) for chunk, count in pairs])
        if ids.dtype.kind not in "iu" or ids.min() < 0 or ids.max() >= (self.info.num_blocks or 0):
            raise OptionError(f"block_ids must be from 0 to {(self.info.num_blocks or 0) - 1}, got {ids.tolist()}.")
        return ids.astype(np.int32)

    def close(self) -> None:
        """Release the memory. Closing again does nothing."""
        self._request = None
        self._caches.clear()
        self._supplied.clear()
