"""How the numbers of a weight are stored: their type, and which of them share a scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from QEfficient.errors import OptionError
from QEfficient.quantization.options import QuantizeOptions

Strategy = Literal["channel", "group", "block", "tensor_group"]

_INT4_GROUP, _MX_GROUP, _NVFP4_GROUP = 128, 32, 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Scheme:
    """One way of storing weights, in the terms of compressed-tensors."""

    layout: str
    """compressed-tensors' name of the parts and their packing."""
    is_float: bool
    """Whether the numbers are e4m3, e2m3 or e2m1, else integers."""
    num_bits: int
    strategy: Strategy
    group_size: int | None = None
    """Columns that share a scale; None: all, or a block."""
    block_size: int | None = None
    """Rows and columns that share a scale."""
    is_symmetric: bool = True

    @property
    def has_codes(self) -> bool:
        """Whether the numbers are e2m1 or e2m3, stored as codes of less than a byte."""
        return self.is_float and self.num_bits < 8

    @property
    def has_exponents(self) -> bool:
        """Whether scales are powers of two (MXFP4, MXFP6)."""
        return self.has_codes and self.strategy == "group"

    @property
    def has_global_scale(self) -> bool:
        """Whether scales are FP8 below one of the whole weight (NVFP4)."""
        return self.strategy == "tensor_group"

    def block(self, num_columns: int) -> tuple[int, int]:
        """Rows and columns that share a scale."""
        if self.block_size is not None:
            return self.block_size, self.block_size
        return 1, self.group_size or num_columns

    def check(self, name: str, num_columns: int) -> None:
        """
        Raises:
            OptionError: rows of the weight ``name`` do not split into groups.
        """
        if self.group_size is not None and num_columns % self.group_size:
            raise OptionError(
                f"'{name}' has {num_columns} input features, which do not split into groups of {self.group_size}. "
                f"Leave it out with ignore=['{name}'], or give another group_size (-1: one scale for each row)."
            )

    def section(self, ignore: list[str]) -> dict[str, Any]:
        """The config's ``quantization_config``; ``ignore``: linear modules that stay as they are."""
        weights: dict[str, Any] = {
            "num_bits": self.num_bits,
            "type": "float" if self.is_float else "int",
            "symmetric": self.is_symmetric,
            "strategy": self.strategy,
            "dynamic": False,
        }
        if self.group_size is not None:
            weights["group_size"] = self.group_size
        if self.block_size is not None:
            weights["block_structure"] = [self.block_size, self.block_size]
        if self.has_exponents:
            weights["scale_dtype"] = "torch.uint8"
        if self.has_global_scale:
            weights["scale_dtype"] = "torch.float8_e4m3fn"
        group = {"targets": ["Linear"], "weights": weights, "format": self.layout}
        return {
            "quant_method": "compressed-tensors",
            "format": self.layout,
            "quantization_status": "compressed",
            "config_groups": {"group_0": group},
            "ignore": ignore,
        }


def scheme_of(options: QuantizeOptions) -> Scheme:
    """The scheme that ``options`` ask for."""
    if options.format in ("mxfp4", "mxfp6"):
        layout, num_bits = f"{options.format}-pack-quantized", int(options.format[-1])
        return Scheme(layout=layout, is_float=True, num_bits=num_bits, strategy="group", group_size=_MX_GROUP)
    if options.format == "nvfp4":
        return Scheme(
            layout="nvfp4-pack-quantized", is_float=True, num_bits=4, strategy="tensor_group", group_size=_NVFP4_GROUP
        )
    if options.format == "fp8":
        strategy: Strategy = "channel" if options.block_size is None else "block"
        return Scheme(
            layout="float-quantized", is_float=True, num_bits=8, strategy=strategy, block_size=options.block_size
        )
    num_bits = {"int8": 8, "int4": 4}[options.format]
    group_size = options.group_size or (_INT4_GROUP if num_bits == 4 else -1)
    return Scheme(
        layout="pack-quantized",
        is_float=False,
        num_bits=num_bits,
        strategy="channel" if group_size == -1 else "group",
        group_size=None if group_size == -1 else group_size,
        is_symmetric=not options.asymmetric,
    )
