"""What quantising did to each layer, and to the model as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from QEfficient.quantization.rounding import Rounded, row_steps
from QEfficient.store.digests import json_safe
from QEfficient.store.files import readable_bytes
from QEfficient.verify.perplexity import PerplexityReport

_TINY = 1e-30


@dataclass(frozen=True, kw_only=True)
class LayerError:
    """What rounding did to one linear layer."""

    name: str
    method: str
    """How its numbers were chosen: "rtn", "awq", "gptq"."""
    weight_error: float
    """Norm of the weight's error, relative to the weight's."""
    output_error: float | None = None
    """The same of the layer's output on the calibration text; None without one."""


@dataclass(frozen=True, kw_only=True)
class QuantizationReport:
    """A quantised checkpoint, and how far it is from the dense one."""

    folder: str
    format: str
    method: str
    layers: list[LayerError]
    num_kept: int
    """Linear layers that stayed as they are."""
    bytes_before: int
    bytes_after: int
    """Of all tensors."""
    before: PerplexityReport | None = None
    after: PerplexityReport | None = None
    """Perplexity of Hugging Face's model in float32 with the dense and with the quantised weights."""

    @property
    def mean_error(self) -> float:
        """Mean of the layers' errors: of outputs where they were measured, else of weights."""
        return sum(map(error_of, self.layers)) / len(self.layers)

    def with_perplexity(self, before: PerplexityReport, after: PerplexityReport) -> QuantizationReport:
        """This report and what was measured on a text."""
        return replace(self, before=before, after=after)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        texts = {"before": self.before, "after": self.after}
        perplexity = {name: report.to_dict() if report is not None else None for name, report in texts.items()}
        values: dict[str, Any] = json_safe({**asdict(self), **perplexity, "mean_error": self.mean_error}, finite=True)
        return values

    def __str__(self) -> str:
        worst = max(self.layers, key=error_of)
        lines = [
            f"{self.folder}: {len(self.layers)} linear layers in {self.format} ({self.method}), {self.num_kept} kept; "
            f"{readable_bytes(self.bytes_before)} became {readable_bytes(self.bytes_after)}",
            f"relative error: mean {self.mean_error:.3g}, largest {error_of(worst):.3g} ({worst.name})",
        ]
        if self.before is not None and self.after is not None:
            lines.append(f"perplexity: {self.before.perplexity:.6g} before, {self.after.perplexity:.6g} after")
        return "\n".join(lines)


def error_of(layer: LayerError) -> float:
    """The error that matters: of the output where it was measured."""
    return layer.weight_error if layer.output_error is None else layer.output_error


def layer_error(
    name: str, method: str, weight: torch.Tensor, rounded: Rounded, hessian: torch.Tensor | None = None
) -> LayerError:
    """
    Args:
        name: of the module.
        method: how its numbers were chosen.
        weight: what was rounded, ``[out, in]``.
        rounded: what it became.
        hessian: products of the layer's inputs ``[in, in]``, summed over tokens.
    """
    sums = {"weight": [0.0, 0.0], "output": [0.0, 0.0]}  # squares of the error, and of what it is relative to
    for rows in row_steps(tuple(weight.shape), rounded.scales.scheme):
        dense = weight[rows].float()
        for place, part in enumerate((rounded.expand(rows) - dense, dense)):
            sums["weight"][place] += float(part.square().sum())
            sums["output"][place] += energy(part, hessian) if hessian is not None else 0.0
    errors = {what: (error / max(whole, _TINY)) ** 0.5 for what, (error, whole) in sums.items()}
    return LayerError(
        name=name,
        method=method,
        weight_error=errors["weight"],
        output_error=errors["output"] if hessian is not None else None,
    )


def energy(weight: torch.Tensor, hessian: torch.Tensor) -> float:
    """Squared norm of the outputs of a weight ``[out, in]``, by the products of its inputs ``[in, in]``."""
    return max(0.0, float(((weight @ hessian) * weight).sum()))


def draw(report: QuantizationReport, path: Path) -> None:
    """Write the layers' errors as a picture.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from importlib import import_module

    figures = import_module("matplotlib.figure")
    figure: Any = figures.Figure(figsize=(10, 4), layout="constrained")
    axes = figure.subplots()
    series: Mapping[str, list[float | None]] = {
        "weight": [layer.weight_error for layer in report.layers],
        "output": [layer.output_error for layer in report.layers],
    }
    for label, errors in series.items():
        if any(error is not None for error in errors):
            axes.plot(range(len(errors)), errors, ".-", label=label)
    axes.set(xlabel="linear layer", ylabel="relative error", title=f"{report.format}, {report.method}", yscale="log")
    axes.legend()
    figure.savefig(path, format="png")
