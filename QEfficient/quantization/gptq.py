"""GPTQ: rounds a weight column by column, and corrects the columns that are left for the error of each.

Scales are those of rounding to nearest, so that any scheme can be rounded to. Columns go in descending order of their
inputs' energy, which the stored layout does not show.
"""

from __future__ import annotations

import torch

from QEfficient.quantization.rounding import Rounded, nearest, scales_of
from QEfficient.quantization.schemes import Scheme

_BLOCK = 128
"""Columns after which the corrections are applied to all that are left."""
_DAMPING = (0.01, 0.1, 1.0)
"""Added to the diagonal, relative to its mean; the next one where the matrix is still singular."""


def round_gptq(weight: torch.Tensor, hessian: torch.Tensor, scheme: Scheme, dtype: torch.dtype) -> Rounded:
    """A weight rounded so that the layer's outputs change little.

    Args:
        weight: ``[out, in]`` float32.
        hessian: products of the layer's inputs ``[in, in]``, summed over tokens.
        scheme: how numbers are stored.
        dtype: of stored scales.
    """
    scales = scales_of(weight, scheme, dtype)
    order = hessian.diagonal().argsort(descending=True)
    factors, zeros = (each.expand(weight.shape)[:, order] for each in scales.by_element())
    numbers = _round_columns(weight[:, order], _inverse_factor(hessian[order][:, order]), factors, zeros, scheme)
    values = torch.empty_like(numbers)
    values[:, order] = numbers
    return Rounded.of(values, scales)


def _round_columns(
    weight: torch.Tensor, factor: torch.Tensor, factors: torch.Tensor, zeros: torch.Tensor, scheme: Scheme
) -> torch.Tensor:
    weight = weight.clone()
    values = torch.empty_like(weight)
    num_columns = weight.shape[1]
    for start in range(0, num_columns, _BLOCK):
        stop = min(start + _BLOCK, num_columns)
        errors = torch.empty(len(weight), stop - start)
        for column in range(start, stop):
            scale, zero = factors[:, column], zeros[:, column]
            values[:, column] = nearest(weight[:, column] / scale + zero, scheme)
            error = (weight[:, column] - (values[:, column] - zero) * scale) / factor[column, column]
            weight[:, column:stop] -= torch.outer(error, factor[column, column:stop])
            errors[:, column - start] = error
        weight[:, stop:] -= errors @ factor[start:stop, stop:]
    return values


def _inverse_factor(hessian: torch.Tensor) -> torch.Tensor:
    """The upper Cholesky factor of the inverse; where there is none, columns do not correct each other."""
    hessian = hessian.double()
    eye = torch.eye(len(hessian), dtype=torch.float64)
    for damping in _DAMPING:
        damped = hessian + eye * (damping * hessian.diagonal().mean())
        lower, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
            if not failed:
                return upper.float()
    return eye.float()
