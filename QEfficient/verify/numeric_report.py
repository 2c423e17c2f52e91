"""The report on an examination: what fp16 and the card's block formats change, as text, JSON and verdict."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from QEfficient.simulator.examination.result import Examination, LayerErrors, LossyNode
from QEfficient.store.digests import json_safe

_NAMES_SHOWN = 20
"""Node names that the printed report lists; ``to_dict`` has all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NumericReport(Examination):
    """An examination of a package, with its verdict and advice."""

    computes_fp16: bool
    """Whether the package computes in fp16; if not, the report says what fp16 would change."""
    node_precision_file: str | None = None
    """The file that was written for ``node_precision_info``."""

    @classmethod
    def of(cls, examination: Examination, *, computes_fp16: bool) -> NumericReport:
        """The report on an examination."""
        values = {field.name: getattr(examination, field.name) for field in fields(examination)}
        return cls(**values, computes_fp16=computes_fp16)

    def is_noise(self, margin: float) -> bool:
        """Whether the number formats alone explain another token at this top-1 margin."""
        return self.computes_fp16 and self.noise_margin is not None and margin <= self.noise_margin

    def to_dict(self) -> dict[str, Any]:
        """For JSON; numbers that are not finite are None."""
        content: dict[str, Any] = json_safe(asdict(self), finite=True)
        return content

    def __str__(self) -> str:
        would = "" if self.computes_fp16 else " would (the package computes in float32)"
        lines = [f"fp16{would} overflow: {_describe_node(self.first_overflow)}"]
        if self.num_overflowing > 1:
            lines[0] += f"; {self.num_overflowing} nodes overflow"
        lines.append(f"fp16{would} underflow: {_describe_node(self.first_underflow)}")
        if self.noise_margin is not None:
            lines.append(
                f"logit noise: {self.logit_noise:.3g} over {self.num_positions} positions; tokens may differ at top-1 "
                f"margins up to {self.noise_margin:.3g}"
            )
        else:
            lines.append("logit noise: unknown, some logits are not finite")
        lines += [_describe_layer(layer) for layer in self.layers]
        return "\n".join(lines + self._advice())

    def _advice(self) -> list[str]:
        lines = []
        if self.fp32_nodes and self.node_precision_file is not None:
            lines.append(
                f"{len(self.fp32_nodes)} nodes to keep in float32 are in {self.node_precision_file}. Compile with "
                f"node_precision_info={self.node_precision_file!r} (--node-precision-info {self.node_precision_file})."
            )
        elif self.fp32_nodes:
            num_more = len(self.fp32_nodes) - _NAMES_SHOWN
            shown = ", ".join(self.fp32_nodes[:_NAMES_SHOWN]) + (f" and {num_more} more" if num_more > 0 else "")
            lines.append(
                f"to keep in float32: {shown}. To write them to a file, verify again with node_precision_out='FILE' "
                "(--node-precision-info-out FILE)."
            )
        if self.unresolved_nodes:
            lines.append(
                f"float32 nodes do not prevent overflow of {', '.join(self.unresolved_nodes[:_NAMES_SHOWN])}: the card "
                "stores state in fp16. Compile with precision='fp32' (--precision fp32)."
            )
        return lines


def _describe_layer(layer: LayerErrors) -> str:
    formats = {"MXFP6 weights": layer.mxfp6, "MXINT8 caches": layer.mxint8}
    more = "".join(f", {name} add {error:.2g}" for name, error in formats.items() if error is not None)
    return f"  layer {layer.layer}: relative error of fp16 {layer.fp16:.2g}{more}"


def _describe_node(node: LossyNode | None) -> str:
    if node is None:
        return "none"
    where = "outside the layers" if node.layer is None else f"layer {node.layer}"
    lost = f"{node.num_lost} of {node.num_values} values"
    return f"{node.name} ({node.op_type}, {where}), {lost} lost, maximum magnitude {node.largest:.4g}"
