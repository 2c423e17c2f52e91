"""What a task says about its graph: names, axes and sample inputs. It knows no exporter and no target."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from QEfficient.transformers.lowering.apply import LoweredModel

Axes = dict[int, str]


@dataclass(frozen=True)
class GraphInput:
    """One input of a graph: a sample to trace with, and the axes that have a name because they vary."""

    name: str
    sample: Any
    axes: Axes = field(default_factory=dict)


@dataclass(frozen=True)
class TaskGraph:
    """A module to trace, with its inputs in order and the names of its outputs."""

    module: nn.Module
    lowered: LoweredModel
    lowering: str
    num_layers: int
    inputs: list[GraphInput]
    output_names: list[str]
    output_axes: dict[str, Axes]
    axis_limits: dict[str, int] = field(default_factory=dict)
    """Maximum size of an axis, where the model sets one."""
    axis_minimums: dict[str, int] = field(default_factory=dict)
    """Minimum size of an axis, where it is above 1."""
    has_related_axes: bool = False
    """Whether named axes may depend on each other, as a number of patches and one of windows."""
