"""A graph's inputs and outputs on the card: which pairs of them are state, and the format in which the card keeps
each."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from QEfficient.contract import RETAINED, Binding, CompiledGraph, CompileJob
from QEfficient.errors import CompileError, OptionError

FILE = "custom_io.yaml"
NODES_FILE = "node_precision_info.yaml"
"""The package's copy of ``node_precision_info``: a path in a package would be one of another machine."""
_DTYPES = {"float": "float32"}  # the compiler's names of formats to numpy's, where they differ
_KEY_OR_VALUE = re.compile(r"past_(key|value)")


@dataclass(frozen=True, slots=True)
class GraphValue:
    """An input or output of an ONNX graph."""

    name: str
    dtype: str
    """numpy's name."""
    shape: tuple[int | str, ...]
    """Sizes, and the names of the axes that vary ("" for one without a name)."""


@dataclass(frozen=True, slots=True)
class GraphIO:
    """The inputs and outputs of an ONNX graph, in its order."""

    inputs: tuple[GraphValue, ...]
    outputs: tuple[GraphValue, ...]

    @property
    def state(self) -> list[tuple[GraphValue, GraphValue]]:
        """Each input that the card keeps between runs, with the output that is its new value, in the inputs' order.

        Raises:
            CompileError: an output that is named as state has no input, or one of another shape or dtype.
        """
        inputs = {value.name: value for value in self.inputs}
        outputs = {value.name.removesuffix(RETAINED): value for value in self.outputs if value.name.endswith(RETAINED)}
        for name, output in outputs.items():
            state_input = inputs.get(name)
            if state_input is None:
                raise CompileError(f"The output '{output.name}' is state, but there is no input '{name}'.")
            if (state_input.dtype, state_input.shape) != (output.dtype, output.shape):
                raise CompileError(
                    f"The state '{name}' goes in as {state_input.dtype} {list(state_input.shape)} and comes out as "
                    f"{output.dtype} {list(output.shape)}: the card keeps one buffer for both, so they must agree."
                )
        return [(value, outputs[name]) for name, value in inputs.items() if name in outputs]


def read_graph_io(onnx_path: Path) -> GraphIO:
    """The inputs and outputs of an ONNX file; the weights are not read."""
    import onnx

    graph = onnx.load(onnx_path, load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    return GraphIO(
        inputs=tuple(_graph_value(value) for value in graph.input if value.name not in weights),
        outputs=tuple(_graph_value(value) for value in graph.output),
    )


def _graph_value(value: Any) -> GraphValue:
    import onnx

    tensor = value.type.tensor_type
    dims = tensor.shape.dim
    return GraphValue(
        name=value.name,
        dtype=onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name,
        shape=tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in dims),
    )


def check_formats(job: CompileJob) -> None:
    """Raises :class:`OptionError` for number formats that contradict each other."""
    if job.options.precision == "bf16":
        raise OptionError("precision='bf16': the card computes in fp16, or in fp32 with precision='fp32'.")
    for name in ("mxfp6_matmul", "mxint8_kv_cache"):
        if job.options.precision == "fp32" and job.option(name):
            raise OptionError(f"{name}=True is a format for computing in fp16: leave out precision='fp32'.")


def state_precisions(io: GraphIO, job: CompileJob) -> dict[str, str]:
    """The format of each floating-point state, inputs first and then outputs as upstream lists them.

    "float16"; "mxint8" for keys and values with ``mxint8_kv_cache``; "float" with ``precision="fp32"``. State of other
    dtypes (masks, counters) stays as the graph has it.
    """
    plain = "float" if job.options.precision == "fp32" else "float16"
    keys_and_values = "mxint8" if job.option("mxint8_kv_cache") else plain
    pairs = [pair for pair in io.state if "float" in pair[0].dtype]
    return {
        pair[half].name: keys_and_values if _KEY_OR_VALUE.match(pair[half].name) else plain
        for half in (0, 1)
        for pair in pairs
    }


def custom_io_text(precisions: dict[str, str]) -> str:
    """The file that ``-custom-IO-list-file`` reads."""
    return "".join(f" - IOName: {name}\n   Precision: {precision}\n\n" for name, precision in precisions.items())


def write_custom_io(folder: Path, io: GraphIO, job: CompileJob) -> Path | None:
    """Write ``custom_io.yaml``; None, and no file, where the graph has no floating-point state."""
    precisions = state_precisions(io, job)
    if not precisions:
        return None
    path = folder / FILE
    path.write_text(custom_io_text(precisions), encoding="utf-8")
    return path


def bindings(io: GraphIO, job: CompileJob) -> CompiledGraph:
    """Inputs and outputs as the compiled program has them; sizes are -1 where specializations differ.

    As requested from the compiler, which may return logits as float16: a session takes the dtypes from the program.
    """
    precisions = state_precisions(io, job)

    def binding(value: GraphValue) -> Binding:
        kept = precisions.get(value.name)
        dtype = value.dtype if kept is None else _DTYPES.get(kept, kept)
        return Binding(dtype=dtype, shape=tuple(_size(dim, job) for dim in value.shape))

    return CompiledGraph(
        inputs={value.name: binding(value) for value in io.inputs},
        outputs={value.name: binding(value) for value in io.outputs},
    )


def _size(dim: int | str, job: CompileJob) -> int:
    if isinstance(dim, int):
        return dim
    sizes = {entry.symbols.get(dim, -1) for entry in job.specializations}
    return sizes.pop() if len(sizes) == 1 else -1


def keep_node_precision_info(folder: Path, job: CompileJob) -> None:
    """Copy the file of ``node_precision_info`` into the package, if there is one."""
    if job.options.node_precision_info is not None:
        shutil.copyfile(job.options.node_precision_info, folder / NODES_FILE)
