"""BitNet: weights of -1, 0 and 1, in layers that round their inputs to 8 bits.

Parts, for [out, in] elements: ``weight`` [out / 4, in] in uint8, four integers plus one in each octet, the first
quarter of the rows in the lowest bits; ``weight_scale`` [1]. Of ``linear_class`` "autobitlinear", elements are integers
times the scale; of "bitlinear", integers divided by it.

The rounding of inputs belongs to the function that such a model was trained to be, so it is part of the graph: one
scale for each token, 127 over its largest absolute value, in float32.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

import torch
from torch import nn

from QEfficient.errors import CorruptCheckpoint
from QEfficient.transformers.checkpoint.files import shortened
from QEfficient.transformers.checkpoint.packed import Packed, PackedRows, Parts, Quantized, Stored
from QEfficient.transformers.quantizers.checks import (
    FLOATS,
    Section,
    require_axes,
    require_dtype,
    require_parts,
    require_shape,
    unsupported,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_PER_OCTET = 4
_SMALLEST = 1e-5
"""Largest absolute value of a token that is all but zero."""


class RoundingLinear(nn.Linear):
    """A linear layer that rounds its inputs to 8 bits, with one scale for each token."""

    @classmethod
    def of(cls, linear: nn.Linear) -> Self:
        """A layer with the weight and bias of ``linear``."""
        rounding = cls(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        rounding.weight, rounding.bias = linear.weight, linear.bias
        return rounding.train(linear.training)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """[..., in] to [..., out]."""
        largest = input.float().abs().amax(-1, keepdim=True).clamp(min=_SMALLEST)
        # Not times 127 / largest, as transformers has it: fp16 does not hold that for small inputs.
        rounded = (input.float() / largest * 127).round() * (largest / 127)
        return super().forward(rounded.to(input.dtype))


@dataclass(frozen=True)
class TernaryPacking:
    """One weight."""

    form: Packed
    is_divided: bool
    """Whether integers are divided by the scale."""

    def rows(self, parts: Parts, start: int, stop: int) -> PackedRows:
        """See :class:`~QEfficient.transformers.checkpoint.packed.Packing`."""
        octets = parts.whole("weight")
        rows = torch.arange(start, stop)
        shifts = (rows // len(octets) * 2).to(torch.uint8)
        values = (octets[rows % len(octets)] >> shifts[:, None]) & 3
        if bool((values == 3).any()):
            raise parts.error("weight", "holds integers of 2, expected -1, 0 and 1")
        scale = parts.finite("weight_scale").float().reshape(1, 1)
        if self.is_divided and not scale.all():
            raise parts.error("weight_scale", "is zero, expected another number")
        return PackedRows(values.to(torch.int8) - 1, 1 / scale if self.is_divided else scale, None, self.form.shape[1])

    def column_groups(self, parts: Parts) -> None:
        """Groups are of consecutive columns."""


@dataclass(frozen=True)
class BitNet:
    """The format."""

    source: Path
    """The config's file."""
    is_divided: bool
    """Whether integers are divided by the scale."""
    skipped: tuple[str, ...] | None
    """Modules that are not quantised; None: the head."""

    suffixes: ClassVar[Mapping[str, str]] = {".weight": "weight", ".weight_scale": "weight_scale"}
    dense_suffix: ClassVar[str] = ".weight"

    @classmethod
    def from_config(cls, section: Section) -> BitNet:
        """
        Raises:
            UnsupportedModel: a variant that is not read: weights that are quantised at every step ("online"), or layers
                that normalise their inputs.
            CorruptCheckpoint: a setting has a wrong type.
        """
        section.choice("quantization_mode", ("offline",), "offline")
        section.choice("use_rms_norm", (False,), False)
        kind = section.choice("linear_class", ("bitlinear", "autobitlinear"), "bitlinear")
        skipped = section.values.get("modules_to_not_convert")
        if skipped is not None and not (isinstance(skipped, list) and all(isinstance(name, str) for name in skipped)):
            what = f"is {shortened(skipped)}, expected a list of names"
            raise section.corrupt("modules_to_not_convert", what)
        return cls(section.source, kind == "bitlinear", None if skipped is None else tuple(skipped))

    def packing(self, parts: Mapping[str, Stored]) -> TernaryPacking | None:
        """How the weight of ``parts`` is packed; None if it is not quantised.

        Raises:
            CorruptCheckpoint: their shapes belong to no weight.
        """
        weight = parts.get("weight")
        if weight is not None and weight.tensor.dtype in (*FLOATS, torch.float64) and "weight_scale" not in parts:
            return None
        require_parts(parts, "weight", "weight_scale")
        require_dtype(parts["weight"], torch.uint8)
        num_octets, num_columns = require_axes(parts["weight"], 2)
        scale = parts["weight_scale"]
        require_dtype(scale, *FLOATS)
        require_shape(scale, 1)
        shape = (num_octets * _PER_OCTET, num_columns)
        dtype = torch.float32 if self.is_divided else scale.tensor.dtype
        return TernaryPacking(Packed(shape, dtype, 2, shape, lowest=-1), self.is_divided)

    def change(self, model: PreTrainedModel, weights: Mapping[str, Quantized]) -> None:
        """Make the layers of quantised weights round their inputs, in place.

        Args:
            model: as transformers builds it without the config's section.
            weights: the quantised ones.

        Raises:
            UnsupportedModel: a quantised weight is of no linear layer, or of one with a bias that would be scaled.
            CorruptCheckpoint: a layer that the config counts among the quantised ones is not.
        """
        linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        for weight, quantized in weights.items():
            name = _layer(weight, linears, model.base_model_prefix)
            if name is None:
                raise unsupported(quantized.parts["weight"], "is ternary, and in this architecture of no linear layer")
            linear = linears.pop(name)
            if linear.bias is not None and not self.is_divided:
                what = "is of a layer with a bias, which this version does not scale as 'autobitlinear' does"
                raise unsupported(quantized.parts["weight"], what)
            model.set_submodule(name, RoundingLinear.of(linear))
        skipped = self._skipped(model)
        for name in linears:
            if not any(name == each or name.startswith(f"{each}.") or name.endswith(each) for each in skipped):
                raise CorruptCheckpoint(
                    f"{self.source}: modules_to_not_convert does not name '{name}', whose weight is not ternary. One "
                    "contradicts the other: download both again."
                )

    def _skipped(self, model: PreTrainedModel) -> Collection[str]:
        """The layers that transformers leaves as they are, or what their names begin or end with."""
        from transformers.quantizers.base import get_keys_to_not_convert

        return get_keys_to_not_convert(model) if self.skipped is None else self.skipped


def _layer(weight: str, layers: Collection[str], prefix: str) -> str | None:
    """Which of ``layers`` has a weight, whose stored name may lack the prefix of the model's body or have it."""
    name = weight.removesuffix(".weight")
    names = (name, name.removeprefix(f"{prefix}."), f"{prefix}.{name}")
    return next((each for each in names if each in layers), None)
