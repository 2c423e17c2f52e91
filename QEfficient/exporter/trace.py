"""Task graph to ONNX: torch.export, then torch.onnx, with the necessary patches.

The only module that imports ``transformers.exporters``, which is experimental.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import onnx_ir as ir
import torch
from torch._dynamo.exc import UserError, UserErrorType
from transformers.exporters import exporter_onnx
from transformers.exporters.utils import _PATCHES, apply_fx_node_fixes, import_dotted_path, patch_attributes

from QEfficient.contract import RETAINED
from QEfficient.errors import ExportError, QEffError, SizeDependence
from QEfficient.exporter.context_functions import TRANSLATIONS, add_functions
from QEfficient.exporter.decompose import decompose
from QEfficient.exporter.integer_division import DIVISION_TRANSLATIONS
from QEfficient.exporter.toolchain import OPSET
from QEfficient.exporter.traced_layers import EDGE_TRANSLATIONS
from QEfficient.interrupts import interrupts_put_off
from QEfficient.transformers.patches import (
    bags_as_rows,
    lean_tracing,
    own_decomposition,
    promotion_without_running,
    quiet_exporter,
    reused_onnx_registry,
)
from QEfficient.transformers.tasks.graph_spec import TaskGraph

_LONGEST_AXIS = 1 << 24


def trace(graph: TaskGraph) -> ir.Model:
    """The ONNX model of ``graph``, its weights still fake: :func:`weights.attach` replaces them.

    Raises:
        SizeDependence: the model's code branches on the size of a dynamic axis.
        ExportError: PyTorch could not trace the model or write it as ONNX.
    """
    with interrupts_put_off():  # it registers algorithms while it is imported, which a second time fails
        import_module("networkx")  # torch.export does
    try:
        with torch.no_grad(), _patches():
            program = torch.export.export(
                graph.module,
                tuple(graph_input.sample for graph_input in graph.inputs),
                dynamic_shapes=_dynamic_shapes(graph),
                strict=False,
                prefer_deferred_runtime_asserts_over_guards=True,
            )
            _check_axes(graph, program)
            _drop_idle_squeezes(program.graph_module)
            model = _to_onnx(program)
    except QEffError:
        raise
    except (RuntimeError, ValueError, TypeError, AttributeError, KeyError, IndexError, NotImplementedError) as error:
        if (interrupt := _interrupt(error)) is not None:
            raise interrupt from error
        message = (
            f"{type(graph.lowered.module).__name__} could not be exported in the "
            f"'{graph.lowering}' lowering: {_first_line(error)}. Please report it with the model's config and this "
            "error's cause."
        )
        if isinstance(error, UserError) and error.error_type is UserErrorType.CONSTRAINT_VIOLATION:
            raise SizeDependence(message, _ranges(str(error))) from error
        raise ExportError(message) from error
    add_functions(model)
    _name(model, graph)
    return model


_RANGE = re.compile(r"(?<!\w)(\w+) = Dim\('\w+'(?:, min=(\d+))?(?:, max=(\d+))?\)")
_GUARD = re.compile(r"values of (\w+) = .* satisfy the generated guard (\d+) <= \S+ and \S+ <= (\d+)$", re.MULTILINE)


def _ranges(message: str) -> dict[str, tuple[int, int]]:
    """The ranges of axes that torch.export suggests, or that it says a guard is for."""
    matches = [*_GUARD.findall(message), *_RANGE.findall(message)]
    return {name: (int(low or 1), int(high or _LONGEST_AXIS)) for name, low, high in matches}


def _drop_idle_squeezes(module: torch.fx.GraphModule) -> None:
    """Remove squeezes of axes that vary: torch leaves such an axis as it is, and ONNX would look at its size."""
    for node in module.graph.find_nodes(op="call_function", target=torch.ops.aten.squeeze.dim):
        source = node.args[0]
        if node.meta["val"].ndim == source.meta["val"].ndim:
            node.replace_all_uses_with(source)
            module.graph.erase_node(node)


def _to_onnx(program: torch.export.ExportedProgram) -> ir.Model:
    onnx_program = torch.onnx.export(
        program,
        args=(),
        verbose=False,
        opset_version=OPSET,
        optimize=False,  # folding comes after the weights are attached
        custom_translation_table=exporter_onnx._ONNX_TRANSLATION_TABLE
        | TRANSLATIONS
        | DIVISION_TRANSLATIONS
        | EDGE_TRANSLATIONS,
    )
    if onnx_program is None:
        raise ExportError("torch.onnx returned no program.")
    return onnx_program.model


def _decompose(program: torch.export.ExportedProgram, registry: Any) -> bool:
    """As :func:`decompose`. Transformers' fixes treat in-place operators as functional, so they come after
    functionalization, which tracks aliases."""
    done = decompose(program, registry)
    apply_fx_node_fixes("onnx", program.graph_module)
    if done and any("val" not in node.meta for node in program.graph.nodes if node.op == "call_function"):
        return decompose(program, registry)  # nodes that the fixes added have no values yet
    return done


@contextmanager
def _patches() -> Iterator[None]:
    with (
        patch_attributes([*_needed_patches("dynamo"), *_needed_patches("onnx")]),
        reused_onnx_registry(),
        quiet_exporter(),
        lean_tracing(),
        bags_as_rows(),
        own_decomposition(_decompose),
        promotion_without_running(),
    ):
        yield


def _needed_patches(backend: str) -> Iterator[tuple[Any, str, Any]]:
    """The patches of transformers for imported modules; patches of other modeling files have no effect.

    ``apply_patches`` would import some sixty of those, and read the source of each.
    """
    for path, attribute, factory in _PATCHES.get(backend, []):
        if factory.__name__ == "_patch_chunked_vision_attention":
            continue  # for sequences of one length; the lowering's attention takes the lengths
        module = ".".join(path.split(".")[:4])
        if path.startswith("transformers.models.") and module not in sys.modules:
            continue
        owner = import_dotted_path(path, missing_ok=True)
        if owner is not None:
            yield owner, attribute, factory


def _check_axes(graph: TaskGraph, program: torch.export.ExportedProgram) -> None:
    """Check that the axes that torch.export relates to each other still vary.

    Raises:
        SizeDependence: one does not.
    """
    if not graph.has_related_axes:
        return
    names = program.graph_signature.user_inputs
    values = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
    for graph_input, value in zip(graph.inputs, values, strict=True):
        for axis, name in graph_input.axes.items():
            if isinstance(value.shape[axis], int):
                raise SizeDependence(
                    f"{type(graph.lowered.module).__name__}'s code holds for {graph_input.name} of one size, "
                    f"{value.shape[axis]} on axis {axis}.",
                    {name: (value.shape[axis], value.shape[axis])},
                )


def _dynamic_shapes(graph: TaskGraph) -> Any:
    if graph.has_related_axes:
        auto = torch.export.Dim.AUTO
        return (tuple(dict.fromkeys(graph_input.axes, auto) for graph_input in graph.inputs),)
    # Named, not AUTO: then an axis that the model fixes is an error, not a silent constant, and tracing is faster.
    names = {name for graph_input in graph.inputs for name in graph_input.axes.values()}
    minimums, limits = graph.axis_minimums, graph.axis_limits
    dims = {n: torch.export.Dim(n, min=minimums.get(n, 1), max=limits.get(n, _LONGEST_AXIS)) for n in names}
    shapes = tuple({axis: dims[name] for axis, name in graph_input.axes.items()} for graph_input in graph.inputs)
    return (shapes,)  # the modules take their inputs as *args, which is one argument to torch.export


def _name(model: ir.Model, graph: TaskGraph) -> None:
    """Name inputs, their axes and outputs as the task defines."""
    values = model.graph.inputs
    if len(values) != len(graph.inputs) or len(model.graph.outputs) != len(graph.output_names):
        raise ExportError(
            f"The exported graph has {len(values)} inputs and {len(model.graph.outputs)} outputs; the task has "
            f"{len(graph.inputs)} and {len(graph.output_names)}: the model ignores one of them."
        )
    for value, graph_input in zip(values, graph.inputs, strict=True):
        value.name = graph_input.name
        value.shape = _shape(graph_input.sample.shape, graph_input.axes)
    for position, name in enumerate(graph.output_names):
        value = model.graph.outputs[position]
        if value.is_graph_input() or value in model.graph.outputs[:position]:
            identity = ir.node("Identity", [value])
            identity.outputs[0].type, identity.outputs[0].shape = value.type, value.shape
            model.graph.append(identity)
            model.graph.outputs[position] = value = identity.outputs[0]
        value.name = name


def name_output_axes(model: ir.Model, graph: TaskGraph) -> None:
    """Name the axes of outputs as the task defines, in place of what PyTorch or an optimizer called them."""
    states = {f"{item.name}{RETAINED}": item.sample.shape for item in graph.inputs}
    for value in model.graph.outputs:
        shape = value.shape if value.shape is not None else states.get(str(value.name))
        if shape is not None:
            value.shape = _shape(shape, graph.output_axes.get(str(value.name), {}))


def _shape(dims: Any, axes: dict[int, str]) -> ir.Shape:
    return ir.Shape([axes.get(axis, dim if isinstance(dim, int) else None) for axis, dim in enumerate(dims)])


def _interrupt(error: BaseException) -> BaseException | None:
    """The interrupt that an error of the exporter stands for: both exporters wrap what a step of theirs raised."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, KeyboardInterrupt | SystemExit | MemoryError):
        cause = cause.__cause__ or cause.__context__
    return cause


def _first_line(error: BaseException) -> str:
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0][:300]
