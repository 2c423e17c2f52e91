"""What fp16 and the card's block formats do to a model, as a value that other levels keep, print and store."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

_NAMES_SHOWN = 20
"""Node names that the printed report lists; ``to_dict`` has all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeFinding:
    """A node that fp16 is not enough for."""

    name: str
    """Its first output."""
    op_type: str
    layer: int | None
    """The layer that it belongs to, from 0; None for what is outside the layers, or where the graph does not say."""
    largest: float
    """Largest absolute value that it gives in float32."""
    num_lost: int
    """How many of its values are not what they are in float32, over all steps that were examined."""
    num_values: int
    """How many there are."""

    def __str__(self) -> str:
        where = "outside the layers" if self.layer is None else f"layer {self.layer}"
        lost = f"{self.num_lost} of {self.num_values} values"
        return f"{self.name} ({self.op_type}, {where}), {lost}, largest {self.largest:.4g}"


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerNumerics:
    """Relative L2 errors of a layer's output, all layers before it included; infinite where it is not a number."""

    layer: int
    fp16: float
    """Of fp16, against float32."""
    mxfp6: float | None = None
    """What MXFP6 weights change beside that; None if the package has none."""
    mxint8: float | None = None
    """What an MXINT8 KV cache changes beside that; None if the package has none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NumericReport:
    """What was found on prompts, by running the exported graph in float32 and with the card's numerics."""

    computes_fp16: bool
    """Whether the package computes in fp16; of one in float32 the report says what fp16 would do."""
    num_positions: int
    """Steps whose logits were compared."""
    first_overflow: NodeFinding | None
    """First node, in graph order, with values that are finite in float32 and not in fp16."""
    first_underflow: NodeFinding | None
    """First node with values that are too small for fp16, so that they are zero. Softmax has them without harm."""
    num_overflowing: int
    """Nodes that overflow, those included that only pass it on."""
    layers: list[LayerNumerics] = field(default_factory=list)
    """In order; empty where the graph has no layer marks."""
    logit_noise: float | None
    """Largest absolute difference of a logit, with the package's formats; None where logits are not numbers."""
    noise_margin: float | None
    """The most by which the distance of two logits changed: a smaller top-1 margin says nothing."""
    fp32_nodes: list[str] = field(default_factory=list)
    """Nodes to keep in float32 beside those that are so already, so that nothing overflows; empty if nothing does, or
    if no choice of nodes is enough."""
    unresolved_nodes: list[str] = field(default_factory=list)
    """What overflows whatever node is kept in float32: state, which the card stores in fp16."""
    node_precision_file: str | None = None
    """The file that was written for ``node_precision_info``."""

    @property
    def overflows(self) -> bool:
        """Whether fp16 is not enough for a node."""
        return self.first_overflow is not None

    def is_noise(self, margin: float) -> bool:
        """Whether tokens with this top-1 margin may differ because of the package's number formats alone."""
        return self.computes_fp16 and self.noise_margin is not None and margin <= self.noise_margin

    def to_dict(self) -> dict[str, Any]:
        """For JSON, which has no infinity: an error that is infinite is None."""
        content = asdict(self)
        for layer in content["layers"]:
            layer |= {name: None for name, value in layer.items() if value is not None and not math.isfinite(value)}
        return content

    def __str__(self) -> str:
        would = "" if self.computes_fp16 else " would (the package computes in float32)"
        lines = [f"fp16{would} overflow: {self.first_overflow or 'none'}"]
        if self.num_overflowing > 1:
            lines[0] += f"; {self.num_overflowing} nodes in all"
        lines.append(f"fp16{would} underflow: {self.first_underflow or 'none'}")
        if self.noise_margin is not None:
            lines.append(
                f"noise of the logits: {self.logit_noise:.3g}; top-1 margins up to {self.noise_margin:.3g} say nothing "
                f"({self.num_positions} positions)"
            )
        else:
            lines.append("noise of the logits: not known, they are not numbers")
        lines += [_describe(layer) for layer in self.layers]
        return "\n".join(lines + self._advice())

    def _advice(self) -> list[str]:
        lines = []
        if self.fp32_nodes and self.node_precision_file is not None:
            lines.append(
                f"{len(self.fp32_nodes)} nodes to keep in float32 are in {self.node_precision_file}. Compile with "
                f"node_precision_info={self.node_precision_file!r} (--node-precision-info {self.node_precision_file})."
            )
        elif self.fp32_nodes:
            shown, num_more = self.fp32_nodes[:_NAMES_SHOWN], len(self.fp32_nodes) - _NAMES_SHOWN
            lines.append(
                f"to keep in float32: {', '.join(shown)}{f' and {num_more} more' if num_more > 0 else ''}. For a file "
                "to compile with, verify again with node_precision_out='FILE' (--node-precision-info-out FILE)."
            )
        if self.unresolved_nodes:
            lines.append(
                f"no choice of nodes is enough: {', '.join(self.unresolved_nodes[:_NAMES_SHOWN])} overflow in any "
                "case, as state is kept in fp16. Compile with precision='fp32' (--precision fp32)."
            )
        return lines


def _describe(layer: LayerNumerics) -> str:
    added = {"MXFP6 weights": layer.mxfp6, "MXINT8 cache": layer.mxint8}
    more = "".join(f", {name} {error:.2g} more" for name, error in added.items() if error is not None)
    return f"  layer {layer.layer}: relative error of fp16 {layer.fp16:.2g}{more}"
