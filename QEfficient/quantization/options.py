"""What a user can choose about a quantised checkpoint. Imports nothing heavy, for the command line's help."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from QEfficient.errors import OptionError
from QEfficient.options import Options

NumberFormat = Literal["int8", "int4", "fp8", "mxfp4", "nvfp4", "mxfp6"]
Method = Literal["rtn", "awq", "gptq"]


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizeOptions(Options):
    """Options of ``QEfficient.quantize``."""

    format: NumberFormat = "int4"
    """Number format for the weights of linear layers."""
    group_size: int | None = None
    """Input features per scale (int8, int4); -1: one scale per row. Default: 128 for int4, -1 for int8."""
    block_size: int | None = None
    """Rows and columns of the blocks that share a scale (fp8). Default: one scale per row."""
    asymmetric: bool = False
    """Store zero points, so that the lowest and the highest weight of a group are both exact (int8, int4)."""
    head: bool = False
    """Quantize the output head too."""
    keep_experts: bool = False
    """Do not quantize the experts of a mixture. Otherwise experts that are separate matrices are rounded to nearest."""
    method: Method = "rtn"
    """rtn rounds to nearest. With a calibration text, awq scales and clips, and gptq compensates rounding errors."""
    calibration_tokens: int = 16384
    """Number of tokens of the calibration text to use (awq, gptq)."""
    ctx_len: int = 512
    """Tokens per calibration sequence, and per window of the evaluation text."""
    max_shard_bytes: int = 5_000_000_000
    """Maximum size of a weight file, in bytes."""

    def __post_init__(self) -> None:
        for name, choices in {"format": get_args(NumberFormat), "method": get_args(Method)}.items():
            if getattr(self, name) not in choices:
                raise OptionError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}.")
        self._check_sizes()
        is_int = self.format in ("int8", "int4")
        if (self.group_size is not None or self.asymmetric) and not is_int:
            raise OptionError(f"group_size and asymmetric are for int8 and int4; {self.format} has fixed groups.")
        if self.block_size is not None and self.format != "fp8":
            raise OptionError(f"block_size is for fp8, not for {self.format}: use group_size for int8 and int4.")

    def _check_sizes(self) -> None:
        limits = {"block_size": 1, "calibration_tokens": 2, "ctx_len": 2, "max_shard_bytes": 1}
        if self.group_size != -1:
            limits["group_size"] = 8
        for name, least in limits.items():
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise OptionError(f"{name} must be a whole number of at least {least}, got {value!r}.")
