"""The result of an examination: what fp16 and the card's block formats change inside a model."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class LossyNode:
    """A node with values that fp16 loses."""

    name: str
    """Its first output."""
    op_type: str
    layer: int | None
    """Index of its layer; None outside the layers, or if the graph has no layer marks."""
    largest: float
    """Maximum magnitude of its values in float32."""
    num_lost: int
    """Values that overflow or underflow, over all steps."""
    num_values: int
    """All of its values, over all steps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerErrors:
    """Relative L2 errors of a layer's output, errors of earlier layers included; infinite where it is not finite."""

    layer: int
    fp16: float
    """Error of fp16 against float32."""
    mxfp6: float | None = None
    """Further error from MXFP6 weights; None if the package has none."""
    mxint8: float | None = None
    """Further error from an MXINT8 KV cache; None if the package has none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Examination:
    """Result of running the exported graph on prompts, in float32 and with the card's numerics."""

    num_positions: int
    """Steps whose logits were compared."""
    first_overflow: LossyNode | None
    """First node, in graph order, with values that are finite in float32 and not in fp16."""
    first_underflow: LossyNode | None
    """First node with values that become zero in fp16. In a softmax they are harmless."""
    num_overflowing: int
    """Nodes that overflow, including those that only propagate it."""
    layers: list[LayerErrors] = field(default_factory=list)
    """In order; empty where the graph has no layer marks."""
    logit_noise: float | None
    """Maximum absolute difference of a logit, with the package's formats; None if logits are not finite."""
    noise_margin: float | None
    """Maximum change of the difference of two logits: a token may differ at a smaller top-1 margin."""
    fp32_nodes: list[str] = field(default_factory=list)
    """Further nodes to keep in float32, so that nothing overflows; empty if nothing does, or if no choice is enough."""
    unresolved_nodes: list[str] = field(default_factory=list)
    """Nodes that overflow whatever is kept in float32: state, which the card stores in fp16."""

    @property
    def overflows(self) -> bool:
        """Whether a node overflows in fp16."""
        return self.first_overflow is not None
