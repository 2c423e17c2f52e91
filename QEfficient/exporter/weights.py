"""Weights on their way from a PyTorch model to a file: checked, named, and read one at a time.

A graph never holds a weight's bytes: its initializers are lazy, and what writes the file pulls them through.
"""

from __future__ import annotations

from collections.abc import Iterator

import blake3
import onnx_ir as ir
import torch
from onnx_ir.tensor_adapters import TorchTensor, from_torch_dtype
from torch import nn

from QEfficient.errors import CorruptCheckpoint, ExportError

_PREFIXES = ("inner.model.", "model.")


class WeightSource:
    """The parameters of a model, by the names that a traced graph gives them."""

    def __init__(self, model: nn.Module):
        self.tensors = dict(model.named_parameters(remove_duplicate=False))

    def find(self, initializer: str) -> torch.Tensor:
        """The parameter behind an initializer's name.

        Raises:
            ExportError: there is none.
        """
        for prefix in _PREFIXES:
            tensor = self.tensors.get(initializer.removeprefix(prefix))
            if initializer.startswith(prefix) and tensor is not None:
                return tensor.detach()
        raise ExportError(f"The traced graph asks for a weight '{initializer}' that the model does not have.")

    def check_finite(self) -> None:
        """
        Raises:
            CorruptCheckpoint: a weight holds NaN or infinity.
        """
        for name, tensor in self.tensors.items():
            if tensor.is_floating_point() and tensor.numel() and not _is_finite(tensor.detach()):
                raise CorruptCheckpoint(
                    f"Weight '{name}' {tuple(tensor.shape)} holds NaN or infinity. The checkpoint is damaged or its "
                    "training diverged; download or save it again."
                )


def _is_finite(tensor: torch.Tensor) -> bool:
    low, high = torch.aminmax(tensor)  # NaN propagates through both
    return bool(torch.isfinite(low) & torch.isfinite(high))


def _fake_initializers(model: ir.Model) -> Iterator[ir.Value]:
    for value in list(model.graph.initializers.values()):
        tensor = getattr(value.const_value, "raw", None)
        if isinstance(tensor, torch._subclasses.FakeTensor):
            yield value


def attach(model: ir.Model, source: WeightSource, in_checkpoint_dtype: bool = True) -> set[ir.Value]:
    """Back every fake initializer by the weight of its name.

    Args:
        model: the traced graph; changed in place.
        source: where the weights are.
        in_checkpoint_dtype: keep half-precision weights as they are, each behind a ``Cast`` to float32, so that the
            file is as large as the checkpoint; else store float32.

    Returns:
        The initializers that are weights.
    """
    weights = set()
    for value in _fake_initializers(model):
        name = value.name
        assert name is not None
        tensor = source.find(name)
        is_narrow = tensor.is_floating_point() and tensor.dtype != torch.float32
        stored = _behind_cast(model, value, name, tensor.dtype) if is_narrow and in_checkpoint_dtype else value
        dtype = torch.float32 if is_narrow and not in_checkpoint_dtype else tensor.dtype
        stored.const_value = _lazy(name, tensor, dtype)
        weights.add(stored)
    return weights


def _lazy(name: str, tensor: torch.Tensor, dtype: torch.dtype) -> ir.LazyTensor:
    return ir.LazyTensor(
        lambda: TorchTensor(tensor.to(dtype).contiguous(), name=name),
        dtype=from_torch_dtype(dtype),
        shape=ir.Shape(tensor.shape),
        name=name,
        cache=False,
    )


def _behind_cast(model: ir.Model, value: ir.Value, name: str, dtype: torch.dtype) -> ir.Value:
    """Put an initializer of ``dtype`` and a cast to float32 in the place of ``value``."""
    graph = model.graph
    stored = ir.Value(name=name, type=ir.TensorType(from_torch_dtype(dtype)), shape=value.shape)
    cast = ir.node("Cast", [stored], attributes={"to": ir.DataType.FLOAT}, name=f"{name}.float")
    cast.outputs[0].name, cast.outputs[0].shape, cast.outputs[0].type = f"{name}.float", value.shape, value.type
    ir.convenience.replace_all_uses_with(value, cast.outputs[0])
    del graph.initializers[name]
    graph.initializers[name] = stored
    graph.insert_before(graph[0], cast)
    return stored


def weights_digest(model: nn.Module) -> str:
    """A digest of every parameter and buffer: names, dtypes, shapes and bytes.

    Taken from memory and not from files, so that a model changed after loading is another model, and one model
    loaded in two ways is the same.
    """
    content = blake3.blake3(max_threads=blake3.blake3.AUTO)
    for name, tensor in sorted(model.state_dict().items()):
        content.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        if tensor.numel():
            content.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy())
    return content.hexdigest()
