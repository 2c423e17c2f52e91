"""The registry of formats, and what a quantised checkpoint stores, seen as the dense weights that it stands for.

A format is one file: it reads its section of the config, names the parts of a weight, and says of each set of parts how
they are packed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import nn

from QEfficient.errors import UnsupportedModel
from QEfficient.transformers.checkpoint.files import UNKNOWN, quantization_section, read_json
from QEfficient.transformers.checkpoint.packed import Dense, Packing, Quantized, Stored, damaged, quantized
from QEfficient.transformers.checkpoint.unread import Unread, parts_of
from QEfficient.transformers.checkpoint.weight_files import TORCH_NAMES, WeightFile, WeightFiles
from QEfficient.transformers.quantizers.auto_round import AutoRound
from QEfficient.transformers.quantizers.awq import AWQ
from QEfficient.transformers.quantizers.bitnet import BitNet
from QEfficient.transformers.quantizers.bitsandbytes import BitsAndBytes
from QEfficient.transformers.quantizers.checks import Section
from QEfficient.transformers.quantizers.compressed_tensors import CompressedTensors
from QEfficient.transformers.quantizers.fp8 import FP8
from QEfficient.transformers.quantizers.gguf import GGUF
from QEfficient.transformers.quantizers.gguf_weights import gguf_weights
from QEfficient.transformers.quantizers.gptq import GPTQ
from QEfficient.transformers.quantizers.hqq import HQQ
from QEfficient.transformers.quantizers.mxfp4 import MXFP4
from QEfficient.transformers.quantizers.torchao import TorchAO

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Scheme(Protocol):
    """A format with the settings of one checkpoint."""

    @property
    def suffixes(self) -> Mapping[str, str]:
        """Endings of stored names, and the part that each is."""

    @property
    def dense_suffix(self) -> str:
        """The ending of the dense weight's name."""

    def packing(self, parts: Mapping[str, Stored]) -> Packing | None:
        """How the weight of ``parts`` is packed; None if it is not quantised.

        Raises:
            CorruptCheckpoint: a part is missing, or has a dtype or shape that does not fit the others.
        """


@runtime_checkable
class ModelScheme(Scheme, Protocol):
    """A format whose layers compute something else than products with the dense weights."""

    def change(self, model: PreTrainedModel, weights: Mapping[str, Quantized]) -> None:
        """Make ``model`` the one that the format is of, in place; ``weights`` are the quantised ones, by name.

        Raises:
            UnsupportedModel: a layer cannot be made one.
            CorruptCheckpoint: a layer's weight is not quantised that should be.
        """


class Format(Protocol):
    """A format of quantised checkpoints."""

    def from_config(self, section: Section) -> Scheme:
        """
        Raises:
            UnsupportedModel: a variant that is not read.
            CorruptCheckpoint: a setting has a wrong type.
        """


FORMATS: dict[str, Format] = {
    "gptq": GPTQ,
    "awq": AWQ,
    "fp8": FP8,
    "compressed-tensors": CompressedTensors,
    "auto-round": AutoRound,
    "mxfp4": MXFP4,
    "bitsandbytes": BitsAndBytes,
    "hqq": HQQ,
    "torchao": TorchAO,
    "bitnet": BitNet,
    "gguf": GGUF,
}
"""By ``quant_method``."""
_OLD_FILES = {"quantize_config.json": "gptq", "quant_config.json": "awq"}


@dataclass(frozen=True)
class QuantizedWeights:
    """What the weight files stand for.

    Empty for a checkpoint that is not quantised.
    """

    tensors: Mapping[str, Unread] = field(default_factory=dict)
    """Those that are not stored as they are, by the names of the dense weights."""
    parts: frozenset[str] = frozenset()
    """Names of stored tensors that are no weights themselves."""
    scheme: Scheme | None = None
    conversions: Callable[[Any], list[Any]] | None = None
    """Of a model: transformers' conversions from the names of :attr:`tensors`; None: those of its class."""

    def change(self, model: PreTrainedModel) -> None:
        """Make layers of ``model`` compute what those of the format do. Raises as :meth:`ModelScheme.change`."""
        if isinstance(self.scheme, ModelScheme):
            self.scheme.change(
                model, {name: weight for name, weight in self.tensors.items() if isinstance(weight, Quantized)}
            )

    def in_file(self, file: WeightFile) -> dict[str, Unread]:
        """Those whose first part is in ``file``."""
        return {name: tensor for name, tensor in self.tensors.items() if next(parts_of(tensor)).file is file}


def read_scheme(folder: Path) -> Scheme | None:
    """How a checkpoint is quantised, None if it is not: by its config, or by the file that GPTQ's and AWQ's tools wrote
    before configs had a section for it.

    Raises:
        UnsupportedModel: in a format or a variant that is not read.
        CorruptCheckpoint: the config's section is none.
    """
    section = _section(folder)
    return None if section is None else _format(section).from_config(section)


def _section(folder: Path) -> Section | None:
    source = folder / "config.json"
    if (named := quantization_section(read_json(source))) is not None:
        return Section(source, "config", dict([named])).section(named[0])
    for name, method in _OLD_FILES.items():
        if (folder / name).is_file():
            return Section(folder / name, name, {"quant_method": method, **read_json(folder / name)})
    return None


def _format(section: Section) -> Format:
    if section.method == UNKNOWN:
        raise section.unsupported("quant_method", f"is not there, and this version reads {', '.join(FORMATS)}")
    if section.method not in FORMATS:
        raise UnsupportedModel(
            f"{section.source}: the weights are quantised ('{section.method}'), and this version reads "
            f"{', '.join(FORMATS)}. Take a checkpoint in one of them, or the model's original one with "
            "weight_format='int8' or 'int4' (cpu) or mxfp6_matmul=True (card)."
        )
    return FORMATS[section.method]


def quantized_weights(
    scheme: Scheme | None, files: WeightFiles, meta_model: Callable[[], nn.Module]
) -> QuantizedWeights:
    """The quantised weights of a checkpoint, by the headers of its files.

    Args:
        scheme: how it is quantised.
        files: of the checkpoint.
        meta_model: makes the model without weights, for formats that have other names for its weights.

    Raises:
        CorruptCheckpoint: parts are missing, or do not fit each other.
        UnsupportedModel: what a weight is, is not known.
    """
    if scheme is None:
        return QuantizedWeights()
    if isinstance(scheme, GGUF):
        weights, conversions = gguf_weights(scheme.architecture, files, meta_model)
        return QuantizedWeights(weights, frozenset(name for name, _ in files.tensors()), scheme, conversions)
    stored = dict(stored_tensors(files))
    tensors: dict[str, Unread] = {}
    parts: set[str] = set()
    for base, group in _grouped(scheme, stored).items():
        packing = scheme.packing(group)
        if packing is None:
            continue
        name = base + scheme.dense_suffix
        part_names = {tensor.name for tensor in group.values()}
        if name in stored and name not in part_names:
            raise damaged(stored[name], f"is stored beside '{_first(group).name}', which is the same weight")
        tensors[name] = quantized(packing, group)
        parts |= part_names
    return QuantizedWeights(tensors, frozenset(parts), scheme)


def _first(parts: Mapping[str, Stored]) -> Stored:
    return next(iter(parts.values()))


def stored_tensors(files: WeightFiles) -> Iterator[tuple[str, Stored]]:
    """The tensors of all files of a checkpoint, by name, of the dtypes that torch has."""
    for file in files.files():
        for name, entry in file.header.tensors.items():
            dtype = TORCH_NAMES.get(entry.dtype)
            if dtype is not None:
                tensor = Dense(entry.shape, getattr(torch, dtype))
                yield name, Stored(file, name, file.header.data_offset + entry.begin, tensor)


def _grouped(scheme: Scheme, stored: Mapping[str, Stored]) -> dict[str, dict[str, Stored]]:
    """The parts of each weight, by what their names begin with."""
    groups: dict[str, dict[str, Stored]] = {}
    for name, tensor in stored.items():
        suffix = max((suffix for suffix in scheme.suffixes if name.endswith(suffix)), key=len, default=None)
        if suffix is not None:
            groups.setdefault(name.removesuffix(suffix), {})[scheme.suffixes[suffix]] = tensor
    return groups
