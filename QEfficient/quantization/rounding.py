"""Scales of a weight, and its numbers rounded to nearest. Everything is computed in float32."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from QEfficient.quantization.schemes import Scheme
from QEfficient.transformers.quantizers.mxfp4 import E2M1, E2M3

_TABLES = {4: E2M1, 6: E2M3}
"""Numbers of e2m1 and e2m3 by their codes."""
_ROUNDED_UP = {4: 0.875, 6: 0.96875}
"""From which part of a power of two on a group's largest number counts as that power."""
_FP4_MOST, _FP8_MOST = 6.0, 448.0
_FP8_LEAST_SCALE = 0.125
_BIAS = 127
_STEP = 1 << 22
"""Elements that are computed with at once, unless a row or a block has more."""
_ALL = slice(None)


@dataclass(frozen=True, eq=False, slots=True)
class Scales:
    """The scales of one weight ``[out, in]``, as they are stored and as they are computed with."""

    scheme: Scheme
    stored: torch.Tensor
    """``[block rows, block columns]``: the model's dtype, exponents in uint8 (MXFP4), or float8_e4m3fn (NVFP4)."""
    factors: torch.Tensor
    """What numbers are multiplied by, float32, in the same shape."""
    zero_points: torch.Tensor | None
    """int8 in the same shape; None: they are zero."""
    global_scale: torch.Tensor | None
    """float32 ``[1]`` (NVFP4)."""
    shape: tuple[int, int]
    """Of the weight."""

    def by_element(self, rows: slice = _ALL) -> tuple[torch.Tensor, torch.Tensor]:
        """Factors and zero points, float32, for each row and column ``[out or 1, in or 1]``; of some rows, as
        :func:`row_steps` has them."""
        zeros = torch.zeros(1, 1) if self.zero_points is None else self._spread(self.zero_points, rows)
        return self._spread(self.factors, rows), zeros

    def _spread(self, blocks: torch.Tensor, rows: slice) -> torch.Tensor:
        num_rows, num_columns = self.shape
        block_rows, block_columns = self.scheme.block(num_columns)
        start, stop, _ = rows.indices(num_rows)
        blocks = blocks[start // block_rows : -(-stop // block_rows)].float()
        if block_rows > 1:
            blocks = blocks.repeat_interleave(block_rows, 0)[: stop - start]
        return blocks if blocks.shape[1] == 1 else blocks.repeat_interleave(block_columns, 1)[:, :num_columns]


@dataclass(frozen=True, eq=False, slots=True)
class Rounded:
    """A weight as numbers and scales."""

    values: torch.Tensor
    """The numbers ``[out, in]``, a byte each: int8, float8_e4m3fn, or of e2m1 and e2m3 the code in uint8."""
    scales: Scales

    @classmethod
    def of(cls, numbers: torch.Tensor, scales: Scales) -> Rounded:
        """``numbers``: float32, as of :func:`nearest`."""
        return cls(_compact(numbers, scales.scheme), scales)

    def expand(self, rows: slice = _ALL) -> torch.Tensor:
        """The weight that they stand for, float32; of some rows, as :func:`row_steps` has them."""
        factors, zeros = self.scales.by_element(rows)
        values = self.values[rows]
        scheme = self.scales.scheme
        numbers = _TABLES[scheme.num_bits][values.long()] if scheme.has_codes else values.float()
        return (numbers - zeros) * factors


def _compact(numbers: torch.Tensor, scheme: Scheme) -> torch.Tensor:
    if scheme.has_codes:
        return codes_of(numbers, scheme.num_bits) | (numbers.signbit().to(torch.uint8) << (scheme.num_bits - 1))
    return numbers.to(torch.float8_e4m3fn if scheme.is_float else torch.int8)


def row_steps(shape: tuple[int, ...], scheme: Scheme) -> Iterator[slice]:
    """Rows of a weight ``[out, in]`` to compute with at once: whole blocks, so few that copies of them are small."""
    block_rows = scheme.block(shape[1])[0]
    step = max(1, _STEP // (shape[1] * block_rows)) * block_rows
    return (slice(start, min(start + step, shape[0])) for start in range(0, shape[0], step))


def round_weight(weight: torch.Tensor, scheme: Scheme, dtype: torch.dtype) -> Rounded:
    """A weight rounded to nearest; besides the result, a few rows are in memory in float32 at a time.

    Args:
        weight: ``[out, in]``, finite.
        scheme: how.
        dtype: of stored scales.
    """
    global_scale = global_scale_of(weight) if scheme.has_global_scale else None
    parts = []
    for rows in row_steps(tuple(weight.shape), scheme):
        part = weight[rows].float()
        scales = scales_of(part, scheme, dtype, global_scale=global_scale)
        parts.append(Rounded.of(round_to(part, scales), scales))
    return _joined(parts)


def _joined(parts: list[Rounded]) -> Rounded:
    """One weight of rows."""
    first, all_scales = parts[0].scales, [part.scales for part in parts]
    zero_points = [scales.zero_points for scales in all_scales if scales.zero_points is not None]
    scales = Scales(
        scheme=first.scheme,
        stored=torch.cat([scales.stored for scales in all_scales]),
        factors=torch.cat([scales.factors for scales in all_scales]),
        zero_points=torch.cat(zero_points) if zero_points else None,
        global_scale=first.global_scale,
        shape=(sum(scales.shape[0] for scales in all_scales), first.shape[1]),
    )
    return Rounded(torch.cat([part.values for part in parts]), scales)


def round_to(weight: torch.Tensor, scales: Scales) -> torch.Tensor:
    """The nearest numbers for scales that are there."""
    factors, zeros = scales.by_element()
    return nearest(weight / factors + zeros, scales.scheme)


def nearest(numbers: torch.Tensor, scheme: Scheme) -> torch.Tensor:
    """Numbers of the scheme, in float32; ties go to even ones."""
    if not scheme.is_float:
        half = 2 ** (scheme.num_bits - 1)
        return numbers.round().clamp_(-half, half - 1)
    if scheme.num_bits == 8:
        return numbers.clamp(-_FP8_MOST, _FP8_MOST).to(torch.float8_e4m3fn).float()
    return _TABLES[scheme.num_bits][codes_of(numbers, scheme.num_bits).long()].copysign(numbers)


def codes_of(numbers: torch.Tensor, num_bits: int) -> torch.Tensor:
    """uint8: which of the magnitudes of e2m1 or e2m3 is the nearest, from 0 on; ties go to even codes."""
    size = numbers.abs()
    if num_bits == 6:
        size = size.clamp(max=float(E2M3[31]))
        step = torch.where(size < 2, 0.125, torch.where(size < 4, 0.25, 0.5))
        return torch.searchsorted(E2M3[:32].contiguous(), (size / step).round() * step).to(torch.uint8)
    codes = (size > 0.25).to(torch.uint8)
    for middle, is_even_above in ((0.75, True), (1.25, False), (1.75, True), (2.5, False), (3.5, True), (5.0, False)):
        codes += size >= middle if is_even_above else size > middle
    return codes


def scales_of(
    weight: torch.Tensor,
    scheme: Scheme,
    dtype: torch.dtype,
    ratios: torch.Tensor | float = 1.0,
    *,
    global_scale: torch.Tensor | None = None,
) -> Scales:
    """The scales at which the largest numbers of a weight just fit.

    Args:
        weight: ``[out, in]`` float32.
        scheme: how.
        dtype: of stored scales.
        ratios: shrink the range of each block by this, so that what is beyond it is clipped.
        global_scale: of the weight that these are rows of (NVFP4); None: of this one.
    """
    lowest, highest = (bound * ratios for bound in _bounds(weight, scheme.block(weight.shape[1])))
    shape = (weight.shape[0], weight.shape[1])
    if not scheme.is_symmetric:
        return _asymmetric(lowest, highest, scheme, dtype, shape)
    largest = torch.maximum(-lowest, highest)
    if scheme.has_exponents:
        exponents = _exponents(largest, scheme.num_bits)
        factors = torch.ldexp(torch.ones(exponents.shape), exponents.to(torch.int32) - _BIAS)
        return Scales(scheme, exponents, factors, None, None, shape)
    if scheme.has_global_scale:
        return _below_global(largest, global_scale_of(weight) if global_scale is None else global_scale, scheme, shape)
    half = _FP8_MOST if scheme.is_float else (2**scheme.num_bits - 1) / 2
    stored = _positive((largest / half).to(dtype))
    return Scales(scheme, stored, stored.float(), None, None, shape)


def _bounds(weight: torch.Tensor, block: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """The lowest and the highest number of each block, zero included."""
    (num_rows, num_columns), (rows, columns) = weight.shape, block
    padding = (0, -num_columns % columns, 0, -num_rows % rows)
    padded = torch.nn.functional.pad(weight, padding) if any(padding) else weight
    blocks = padded.reshape(padded.shape[0] // rows, rows, padded.shape[1] // columns, columns)
    return blocks.amin((1, 3)).clamp_(max=0.0), blocks.amax((1, 3)).clamp_(min=0.0)


def _positive(scales: torch.Tensor) -> torch.Tensor:
    """A block of zeros has any scale but zero."""
    return scales.masked_fill(scales == 0, torch.finfo(scales.dtype).eps)


def _asymmetric(
    lowest: torch.Tensor, highest: torch.Tensor, scheme: Scheme, dtype: torch.dtype, shape: tuple[int, int]
) -> Scales:
    half = 2 ** (scheme.num_bits - 1)
    stored = _positive(((highest - lowest) / (2 * half - 1)).to(dtype))
    zero_points = (-half - lowest / stored.float()).round().clamp_(-half, half - 1)
    return Scales(scheme, stored, stored.float(), zero_points.to(torch.int8), None, shape)


def _exponents(largest: torch.Tensor, num_bits: int) -> torch.Tensor:
    """Biased exponents of powers of two: the largest number becomes about 4."""
    fraction, exponent = torch.frexp(largest)  # of 0.5 to 1
    exponent = exponent - 3 + (fraction >= _ROUNDED_UP[num_bits]).to(exponent.dtype) + _BIAS
    return exponent.clamp(0, 254).masked_fill(largest == 0, _BIAS).to(torch.uint8)


def global_scale_of(weight: torch.Tensor) -> torch.Tensor:
    """The scale ``[1]`` that brings the largest number of a weight to the end of FP8 times FP4 (NVFP4)."""
    lowest, highest = (float(bound) for bound in weight.aminmax())
    most = torch.tensor(max(-lowest, highest)).clamp(min=torch.finfo(torch.float32).tiny)
    return (_FP8_MOST * _FP4_MOST / most).nan_to_num(nan=1.0, posinf=1.0).reshape(1)


def _below_global(largest: torch.Tensor, global_scale: torch.Tensor, scheme: Scheme, shape: tuple[int, int]) -> Scales:
    local = (largest / _FP4_MOST * global_scale).clamp(max=_FP8_MOST).to(torch.float8_e4m3fn).float()
    local = local.masked_fill(local == 0, _FP8_LEAST_SCALE)
    return Scales(scheme, local.to(torch.float8_e4m3fn), local / global_scale, None, global_scale, shape)
