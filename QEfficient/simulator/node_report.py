"""A graph in float32 and in fp16 side by side, node by node: where fp16 overflows, underflows or drifts."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from QEfficient.simulator.configuration import NodePrecision
from QEfficient.simulator.executor import open_session
from QEfficient.simulator.graph_expand import EXACT, expand
from QEfficient.simulator.graph_precision import Policy
from QEfficient.simulator.program import Lowering, lower, save_graph

_NAMES_PER_RUN = 256
"""Values that are fetched at once; they are held in memory."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeNumerics:
    """How one node's first output fares in fp16."""

    name: str
    """The first output: what a node-precision file names."""
    op_type: str
    largest: float
    """Largest absolute value that is finite, in float32."""
    num_overflowed: int
    """Values that are infinite or no number in fp16, though finite in float32."""
    num_underflowed: int
    """Values that are zero in fp16, though not in float32."""
    relative_error: float
    """L2 norm of the difference over that of the float32 value, over what is finite in both."""

    @property
    def overflows(self) -> bool:
        """Whether fp16 is not enough for this node."""
        return self.num_overflowed > 0


def compare_precisions(
    model: Path, inputs: Mapping[str, NDArray], nodes: NodePrecision | None = None
) -> list[NodeNumerics]:
    """Run a graph in float32 and as the card computes it with ``-convert-to-fp16``.

    Args:
        model: an ONNX file, as it would be given to the compiler.
        inputs: an array for each input, of the graph's types (floats may be of any width).
        nodes: nodes that stay in float32, as in a node-precision file.

    Returns:
        One entry per node of the flat graph that gives floats, in order of execution.

    Raises:
        Rejected: the compiler would refuse an operator of the graph.
    """
    with tempfile.TemporaryDirectory(prefix="qeff-sim-") as folder:
        exact = _Run(model, Path(folder) / "fp32", Policy(fp16=False))
        narrow = _Run(model, Path(folder) / "fp16", Policy(fp16=True, nodes=nodes or NodePrecision()))
        names = [name for name in exact.op_types if name in narrow.op_types]
        exact.fetch, narrow.fetch = names, names
        return [
            _compare(name, exact.op_types[name], wide, half)
            for (name, wide), (_, half) in zip(exact.values(inputs), narrow.values(inputs), strict=True)
        ]


class _Run:
    def __init__(self, path: Path, folder: Path, policy: Policy):
        folder.mkdir()
        model = ir.load(path)
        expand(model)
        names = {
            str(node.outputs[0].name): node.op_type
            for node in model.graph
            if node.outputs[0].dtype == ir.DataType.FLOAT and EXACT not in node.meta
        }
        lower(model, Lowering(policy=policy))
        values = {str(value.name): value for node in model.graph for value in node.outputs}
        self.op_types = {name: op_type for name, op_type in names.items() if name in values}
        outputs = {value.name for value in model.graph.outputs}
        model.graph.outputs.extend(values[name] for name in self.op_types if name not in outputs)
        self.session: Any = open_session(save_graph(model, folder), folder)
        self.fetch: list[str] = []

    def values(self, inputs: Mapping[str, NDArray]) -> Iterator[tuple[str, NDArray]]:
        """What was asked for, a part at a time."""
        feeds = {name: _as_fed(array) for name, array in inputs.items()}
        for begin in range(0, len(self.fetch), _NAMES_PER_RUN):
            names = self.fetch[begin : begin + _NAMES_PER_RUN]
            yield from zip(names, self.session.run(names, feeds), strict=True)


def _as_fed(array: NDArray) -> NDArray:
    return np.ascontiguousarray(array, np.float32) if np.issubdtype(array.dtype, np.floating) else array


def _compare(name: str, op_type: str, wide: NDArray, half: NDArray) -> NodeNumerics:
    finite = np.isfinite(wide)
    both = finite & np.isfinite(half)
    norm = float(np.linalg.norm(wide[both].astype(np.float64)))
    error = float(np.linalg.norm((wide[both] - half[both]).astype(np.float64)))
    return NodeNumerics(
        name=name,
        op_type=op_type,
        largest=float(np.abs(wide[finite]).max(initial=0.0)),
        num_overflowed=int((finite & ~np.isfinite(half)).sum()),
        num_underflowed=int(((wide != 0) & (half == 0)).sum()),
        relative_error=error / norm if norm else 0.0,
    )
