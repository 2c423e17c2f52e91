"""Lazy weights of a graph: named, and read from a source in pieces.

A graph never stores the bytes of a weight: its initializers are lazy, and are read when the file is written.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator

import onnx_ir as ir
import torch
from onnx_ir.tensor_adapters import TorchTensor, from_torch_dtype

from QEfficient.errors import ExportError
from QEfficient.transformers.checkpoint.packed import PackedReader, PackedStack
from QEfficient.transformers.checkpoint.source import WeightSource
from QEfficient.transformers.lowering.apply import LoweredModel

Step = Callable[[str, Iterator[torch.Tensor]], Iterator[torch.Tensor]]
"""Changes a weight piece by piece while it is read: ``(name, pieces) -> pieces`` of the same sizes and dtype."""


class SourceTensor(ir.LazyTensor):
    """An initializer whose elements are read from a source when the file is written."""

    @property
    def content(self) -> Hashable:
        """Equal for tensors of one source that have the same bytes."""
        raise NotImplementedError

    def pieces(self) -> Iterator[torch.Tensor]:
        """Its elements in order, as flat pieces."""
        raise NotImplementedError

    def read_whole(self) -> TorchTensor:
        """All of it."""
        return TorchTensor(torch.cat(list(self.pieces())).reshape(self.shape.numpy()), name=self.name)


class Weight(SourceTensor):
    """A weight of a source.

    Args:
        source: reads the weight.
        name: its name in the source.
        dtype: stored dtype.
        steps: applied in order after the cast.
    """

    __slots__ = ("_source", "_source_name", "_steps", "_torch_dtype")

    def __init__(self, source: WeightSource, name: str, dtype: torch.dtype, steps: tuple[Step, ...] = ()):
        shape = ir.Shape(source.tensors[name].shape)
        super().__init__(self.read_whole, dtype=from_torch_dtype(dtype), shape=shape, name=name, cache=False)
        self._source, self._source_name, self._torch_dtype, self._steps = source, name, dtype, steps

    @property
    def content(self) -> Hashable:
        """See :class:`SourceTensor`."""
        return self._source_name, self._torch_dtype, self._steps

    @property
    def source_name(self) -> str:
        """Its name in the source."""
        return self._source_name

    def packed(self) -> PackedReader | None:
        """Reads it in the packed form, if the source has that."""
        return self._source.packed(self._source_name)

    def packed_stack(self) -> PackedStack | None:
        """Reads it as a stack of packed matrices, if the source has that."""
        return self._source.packed_stack(self._source_name)

    def renamed(self, source_name: str) -> Weight:
        """Another weight of the source, in the same form."""
        return Weight(self._source, source_name, self._torch_dtype, self._steps)

    def followed_by(self, step: Step) -> Weight:
        """This weight with one more step at the end."""
        weight = Weight(self._source, self._source_name, self._torch_dtype, (*self._steps, step))
        weight.name = self.name
        return weight

    def pieces(self) -> Iterator[torch.Tensor]:
        """See :class:`SourceTensor`."""
        pieces: Iterator[torch.Tensor] = (piece.to(self._torch_dtype) for piece in self._source.read(self._source_name))
        for step in self._steps:
            pieces = step(self._source_name, pieces)
        return pieces


def initializer(graph: ir.Graph, tensor: ir.TensorProtocol) -> ir.Value:
    """The initializer of ``graph`` with the tensor's name, which is added where there is none."""
    name = str(tensor.name)
    if name not in graph.initializers:
        value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape.numpy()))
        value.const_value = tensor
        graph.register_initializer(value)
    return graph.initializers[name]


def weight_of(value: ir.Value | None) -> Weight | None:
    """The weight that a value is, whatever it is cast to."""
    cast = None if value is None else value.producer()
    if cast is not None and cast.op_type == "Cast":
        value = cast.inputs[0]
    return value.const_value if value is not None and isinstance(value.const_value, Weight) else None


def _fakes(model: ir.Model) -> Iterator[tuple[ir.Value, torch.Tensor]]:
    for value in list(model.graph.initializers.values()):
        tensor = getattr(value.const_value, "raw", None)
        if isinstance(tensor, torch._subclasses.FakeTensor):
            yield value, tensor


def attach(
    model: ir.Model, lowered: LoweredModel, source: WeightSource, in_checkpoint_dtype: bool = True
) -> set[ir.Value]:
    """Back every fake initializer with its weight.

    Args:
        model: the traced graph; changed in place.
        lowered: the traced model.
        source: reads the weights.
        in_checkpoint_dtype: store half-precision weights unchanged, each followed by a ``Cast`` to float32, so that
            the file is as large as the checkpoint; else store float32.

    Returns:
        The initializers that are weights.

    Raises:
        ExportError: the graph has a weight that the model does not have.
    """
    weights = set()
    for value, fake in _fakes(model):
        parameter = lowered.original(fake)
        if parameter is None:
            raise ExportError(f"The traced graph asks for a weight '{value.name}' that the model does not have.")
        name = source.name_of(parameter)
        dtype = source.tensors[name].dtype
        if dtype.is_floating_point and dtype != torch.float32:
            if in_checkpoint_dtype:
                value = _behind_cast(model, value, dtype)
            else:
                dtype = torch.float32
        weight = Weight(source, name, dtype)
        weight.name = value.name
        value.const_value = weight
        weights.add(value)
    return weights


def _behind_cast(model: ir.Model, value: ir.Value, dtype: torch.dtype) -> ir.Value:
    """Replace ``value`` with an initializer of ``dtype`` and a cast to float32."""
    graph, name = model.graph, str(value.name)
    stored = ir.Value(name=name, type=ir.TensorType(from_torch_dtype(dtype)), shape=value.shape)
    cast = ir.node("Cast", [stored], attributes={"to": ir.DataType.FLOAT}, name=f"{name}.float")
    cast.outputs[0].name, cast.outputs[0].shape, cast.outputs[0].type = f"{name}.float", value.shape, value.type
    ir.convenience.replace_all_uses_with(value, cast.outputs[0])
    del graph.initializers[name]
    graph.initializers[name] = stored
    graph.insert_before(graph[0], cast)
    return stored
