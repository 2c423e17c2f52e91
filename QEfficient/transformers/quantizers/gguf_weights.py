"""The tensors of a GGUF file as weights of a Hugging Face model: names, order of rows, and what llama.cpp computed.

transformers' tables say it for each architecture; here they are asked what they do instead of being run on weights, so
that what only renames or moves rows leaves blocks packed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import blake3
import numpy as np
import torch
from torch import nn

from QEfficient.errors import CorruptCheckpoint, UnsupportedModel
from QEfficient.transformers.checkpoint.loader_errors import loader_errors
from QEfficient.transformers.checkpoint.packed import Dense, Quantized, Stored, quantized
from QEfficient.transformers.checkpoint.unread import Made, Unread
from QEfficient.transformers.checkpoint.weight_files import TORCH_NAMES, StoredTensor, WeightFile, WeightFiles
from QEfficient.transformers.quantizers.gguf import BLOCKS, RowOrder, gguf_packing, row_bytes

aten = torch.ops.aten

Conversions = Callable[[Any], list[Any]]
_EXPERTS = re.compile(r"(blk\.\d+\.ffn_)(gate|up|down)_exps\.weight")
_NO_WEIGHTS = re.compile(r"(rope_freqs|rope_factors_(short|long)|output)\.(weight|bias)")
"""Read with the config, or a head that the model does not have."""


def gguf_weights(
    architecture: str, files: WeightFiles, meta_model: Callable[[], nn.Module]
) -> tuple[dict[str, Unread], Conversions | None]:
    """
    Args:
        architecture: in llama.cpp's words.
        files: all of the model.
        meta_model: makes the Hugging Face model, on the meta device.

    Returns:
        Weights by the names of the model's parameters; or by those in the files, and how transformers converts them.

    Raises:
        UnsupportedModel: transformers does not know what one of the tensors is.
        CorruptCheckpoint: one has a shape that the model's does not have.
    """
    from transformers.integrations.gguf import GGUF_ARCHS

    if architecture in GGUF_ARCHS:
        stored = _by_name(files)
        return {name: _tensor(*place, None) for name, place in stored.items()}, partial(_conversions, architecture)
    with loader_errors(files.paths[0], "the names of the weights", unknown=(ValueError, KeyError, NotImplementedError)):
        translator = _Translator(architecture, meta_model())
    return dict(translator.weights(files)), None


def _conversions(architecture: str, model: Any) -> list[Any]:
    from transformers.integrations.gguf import get_gguf_conversion_mapping

    conversions: list[Any] = get_gguf_conversion_mapping(architecture, model.config)
    return conversions


def _by_name(files: WeightFiles) -> dict[str, tuple[WeightFile, str, StoredTensor]]:
    return {name: (file, name, entry) for file in files.files() for name, entry in file.header.tensors.items()}


@dataclass(frozen=True)
class _Processed:
    """What transformers makes of a tensor of some architectures."""

    processor: Any = field(repr=False, compare=False)
    settings: str
    """Names the processor and the config that it reads."""
    name: str

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(self.array(tensor.float().numpy())))

    def array(self, weights: np.ndarray) -> np.ndarray:
        """The same over arrays."""
        with np.errstate(all="ignore"):
            processed = self.processor.process(weights=weights, name=self.name, parsed_parameters={"tensors": {}})
        array: np.ndarray = processed.weights
        return array


class _Translator:
    def __init__(self, architecture: str, model: nn.Module):
        import transformers
        from transformers.modeling_gguf_pytorch_utils import (
            TENSOR_PROCESSORS,
            TensorProcessor,
            get_gguf_hf_weights_map,
        )

        config = model.config.to_dict()
        self._processor = TENSOR_PROCESSORS.get(architecture, TensorProcessor)(config=config)
        self._names: dict[str, str] = get_gguf_hf_weights_map(model, self._processor, architecture)
        words = json.dumps([transformers.__version__, architecture, config], sort_keys=True, default=str)
        self._settings = blake3.blake3(words.encode()).hexdigest()

    def weights(self, files: WeightFiles) -> Iterator[tuple[str, Unread]]:
        """Names and weights of the model."""
        experts: dict[str, dict[str, Unread]] = {}
        for name, (file, _, entry) in _by_name(files).items():
            match = _EXPERTS.fullmatch(name)
            target = self._target(name, match)
            if target is None and _NO_WEIGHTS.fullmatch(name):
                continue
            if target is None:
                raise UnsupportedModel(
                    f"{file.path}: transformers does not say what '{name}' is in this architecture, and leaving it out "
                    "would make another model. Take the model's original checkpoint with weight_format='int8' or "
                    "'int4' (cpu) or mxfp6_matmul=True (card)."
                )
            if match is not None and match[2] != "down":
                experts.setdefault(target, {})[match[2]] = _tensor(file, name, entry, None)
            else:
                yield target, self._weight(file, name, entry)
        for target, halves in experts.items():
            yield target, _gate_and_up(target, halves)

    def _target(self, name: str, match: re.Match[str] | None) -> str | None:
        return self._names.get(name) or (None if match is None else self._names.get(name.removesuffix(".weight")))

    def _weight(self, file: WeightFile, name: str, entry: StoredTensor) -> Unread:
        if _EXPERTS.fullmatch(name) or name == "output.weight":
            return _tensor(file, name, entry, None)
        process = _Processed(self._processor, self._settings, name)
        order = _row_order(process, entry.shape)
        if order is not None and entry.dtype not in TORCH_NAMES:
            return _tensor(file, name, entry, order)
        plain = _tensor(file, name, entry, None)
        shape = _shape_after(process, entry.shape)
        if order is None and shape is None:
            return plain
        return Made(process, (plain,), {}, 0, Dense(shape or entry.shape, torch.float32))


def _row_order(process: _Processed, shape: tuple[int, ...]) -> RowOrder | None:
    """Which rows a matrix consists of afterwards, if it is only their order that changes; None if it is not."""
    if len(shape) < 2:
        return None
    numbers = np.arange(shape[0]).reshape(-1, *(1 for _ in shape[1:]))
    try:
        moved = process.array(numbers)
    except ValueError:  # it needs whole rows
        numbers = np.broadcast_to(numbers, shape)
        moved = process.array(numbers)
    if moved is numbers or moved.shape != numbers.shape:
        return None
    rows = moved.reshape(shape[0], -1)
    if not (rows == rows[:, :1]).all() or sorted(rows[:, 0].tolist()) != list(range(shape[0])):
        return None
    return RowOrder(torch.from_numpy(rows[:, 0].astype(np.int64)))


def _shape_after(process: _Processed, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape of what is made of a tensor; None if it stays as it is."""
    before = np.broadcast_to(np.float32(1), shape)
    after = process.array(before)
    return None if after is before else tuple(after.shape)


def _tensor(file: WeightFile, name: str, entry: StoredTensor, order: RowOrder | None) -> Stored | Quantized:
    """A tensor as it is stored, but for the order of its rows."""
    offset = file.header.data_offset + entry.begin
    if entry.dtype in TORCH_NAMES:
        return Stored(file, name, offset, Dense(entry.shape, getattr(torch, TORCH_NAMES[entry.dtype])))
    blocks = Dense((*entry.shape[:-1], row_bytes(entry.dtype, entry.shape[-1])), torch.uint8)
    packing = gguf_packing(entry.dtype, entry.shape, torch.float32, order)
    return quantized(packing, {BLOCKS: Stored(file, name, offset, blocks)})


def _gate_and_up(target: str, halves: Mapping[str, Unread]) -> Made:
    """The two matrices of all experts, one below the other."""
    gate, up = halves.get("gate"), halves.get("up")
    if gate is None or up is None or gate.tensor.shape != up.tensor.shape or len(gate.tensor.shape) != 3:
        shapes = {name: half.tensor.shape for name, half in halves.items()}
        raise CorruptCheckpoint(f"'{target}' is made of matrices of {shapes}, expected two of one shape.")
    experts, rows, columns = gate.tensor.shape
    dtype = torch.promote_types(gate.tensor.dtype, up.tensor.dtype)
    return Made(aten.cat.default, ([gate, up], 1), {}, 0, Dense((experts, 2 * rows, columns), dtype))
