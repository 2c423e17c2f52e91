"""AWQ: weights of large inputs are scaled up before they are rounded, and ranges are clipped where that helps.

The inverse scales go into the operation before: the weight of a norm, or the rows of another linear module. Which one
is not looked up by the architecture's name: candidates are tried with random scales, and one is taken if the layer's
output stays the same. Where none does, only the ranges are clipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from QEfficient.quantization.observation import LayerRun, Observed
from QEfficient.quantization.report import energy
from QEfficient.quantization.rounding import Rounded, round_to, round_weight, scales_of
from QEfficient.quantization.schemes import Scheme

_EXPONENTS = [step / 20 for step in range(21)]
"""Of the inputs' magnitudes, for scales to try; 0 changes nothing."""
_CLIPS = [step / 20 for step in range(20, 9, -1)]
"""Parts of a range to keep."""
_TOLERANCE = 1e-3
"""Relative difference of a layer's output at which it counts as the same; of a wrong fold it is about 1."""
_LEAST = 1e-4

Change = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""``(parameter, scales)`` to the parameter of an output that is divided by the scales."""


@dataclass(frozen=True)
class Fold:
    """Parameters that take in the inverse of a group's scales."""

    changes: list[tuple[nn.Parameter, Change]]

    def apply(self, scales: torch.Tensor) -> None:
        """Divide what they make by ``scales`` ``[features]``."""
        for parameter, change in self.changes:
            parameter.data = change(parameter.data, scales)


def scale_layer(
    run: LayerRun,
    linears: Mapping[str, nn.Linear],
    observed: Mapping[str, Observed],
    scheme: Scheme,
    may_change: set[int],
) -> tuple[dict[str, Observed], list[nn.Parameter]]:
    """Scale the linear modules of a layer, whose output stays the same.

    Args:
        run: the layer.
        linears: those to quantise, by name; changed in place.
        observed: what they read.
        scheme: how numbers are stored.
        may_change: identities of parameters that belong to one module, and are stored as they are.

    Returns:
        What they read now, and the parameters that took in the scales.
    """
    scaled, changed = dict(observed), []
    for names in _groups(observed):
        group = [linears[name] for name in names]
        weights = [linear.weight.detach() for linear in group]
        scales = best_scales(weights, observed[names[0]], scheme)
        fold = None if scales is None else find_fold(run, group, may_change)
        if scales is None or fold is None:
            continue
        _scale(group, fold, scales)
        changed += [parameter for parameter, _ in fold.changes]
        scaled |= {name: observed[name].scaled(scales) for name in names}
    return scaled, changed


def _groups(observed: Mapping[str, Observed]) -> Iterator[list[str]]:
    """Names of modules that read the same tensor."""
    by_source: dict[object, list[str]] = {}
    for name, each in observed.items():
        if each.source is not None:
            by_source.setdefault(each.source, []).append(name)
    yield from by_source.values()


def _scale(group: list[nn.Linear], fold: Fold, scales: torch.Tensor) -> None:
    fold.apply(scales)
    for linear in group:
        linear.weight.data = linear.weight.data * scales


def best_scales(weights: list[torch.Tensor], observed: Observed, scheme: Scheme) -> torch.Tensor | None:
    """The scales ``[in]`` with the smallest error of the outputs together; None where rounding is best without."""
    best, best_error = None, float("inf")
    for exponent in _EXPONENTS:
        scales = observed.magnitude.clamp(min=_LEAST) ** exponent
        scales = scales / (scales.max() * scales.min()).sqrt()
        error = 0.0
        for weight in weights:
            rounded = round_weight(weight * scales, scheme, torch.float32).expand() / scales
            error += energy(rounded - weight, observed.hessian)
        if error < best_error:
            best, best_error = (scales if exponent else None), error
    return best


def find_fold(run: LayerRun, group: list[nn.Linear], may_change: set[int]) -> Fold | None:
    """Where the inverse scales of a group can go, by trying; None: nowhere."""
    expected = run.output()
    size = float(expected.norm())
    generator = torch.Generator().manual_seed(0)
    scales = torch.rand(group[0].in_features, generator=generator) * 1.5 + 0.5
    for fold in _candidates(run, group):
        if any(id(parameter) not in may_change for parameter, _ in fold.changes):
            continue
        parameters = [parameter for parameter, _ in fold.changes] + [linear.weight for linear in group]
        before = [parameter.data for parameter in parameters]
        _scale(group, fold, scales)
        difference = float((run.output() - expected).norm())
        for parameter, data in zip(parameters, before, strict=True):
            parameter.data = data
        if difference <= _TOLERANCE * size:
            return fold
    return None


def _candidates(run: LayerRun, group: list[nn.Linear]) -> Iterator[Fold]:
    num_features = group[0].in_features
    for norm in run.producers(group[0], num_features):
        yield _fold(norm, _divide)
        yield _fold(norm, _divide_offset)  # norms that multiply by one plus their weight
    for module in run.module.modules():
        if isinstance(module, nn.Linear) and module not in group and module.out_features == num_features:
            yield _fold(module, _divide_rows)


def _fold(module: nn.Module, change: Change) -> Fold:
    weight, bias = module.weight, getattr(module, "bias", None)
    assert isinstance(weight, nn.Parameter)
    return Fold([(weight, change), *([(bias, _divide)] if isinstance(bias, nn.Parameter) else [])])


def _divide(parameter: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    return parameter / scales


def _divide_offset(parameter: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    return (1 + parameter) / scales - 1


def _divide_rows(parameter: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    return parameter / scales[:, None]


def round_clipped(weight: torch.Tensor, hessian: torch.Tensor, scheme: Scheme, dtype: torch.dtype) -> Rounded:
    """A weight rounded to nearest, each block's range cut where that makes the error of the outputs smaller.

    Args:
        weight: ``[out, in]`` float32.
        hessian: products of the inputs ``[in, in]``; those between blocks are left out.
        scheme: how numbers are stored.
        dtype: of stored scales.
    """
    rows, columns = scheme.block(weight.shape[1])
    plain = round_weight(weight, scheme, dtype)
    if rows > 1:
        return plain
    num_blocks = weight.shape[1] // columns
    blocks = range(num_blocks)
    inner = torch.stack([hessian[i * columns : (i + 1) * columns, i * columns : (i + 1) * columns] for i in blocks])
    best = torch.ones(len(weight), num_blocks)
    best_error = torch.full_like(best, float("inf"))
    for ratio in _CLIPS:
        scales = scales_of(weight, scheme, dtype, ratio)
        difference = Rounded.of(round_to(weight, scales), scales).expand() - weight
        parts = difference.reshape(len(weight), num_blocks, columns).transpose(0, 1)
        error = ((parts @ inner) * parts).sum(-1).t()
        best = torch.where(error < best_error, ratio, best)
        best_error = torch.minimum(error, best_error)
    scales = scales_of(weight, scheme, dtype, best)
    return Rounded.of(round_to(weight, scales), scales)
