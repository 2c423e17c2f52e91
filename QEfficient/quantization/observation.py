"""What the linear modules of a layer read while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

Source = tuple[int, int]
"""Tells tensors apart that are alive at once: address and number of elements."""


@dataclass(frozen=True, eq=False, slots=True)
class Observed:
    """The inputs of one linear module, over all tokens."""

    hessian: torch.Tensor
    """Products of inputs ``[in, in]``, summed over tokens."""
    magnitude: torch.Tensor
    """Mean magnitude of each input ``[in]``."""
    source: Source | None
    """The tensor that it reads; None where it ran several times."""

    def scaled(self, factors: torch.Tensor) -> Observed:
        """The same for inputs that are divided by ``factors`` ``[in]``."""
        hessian = self.hessian / torch.outer(factors, factors)
        return replace(self, hessian=hessian, magnitude=self.magnitude / factors)


@dataclass(frozen=True, eq=False)
class LayerRun:
    """A layer and what it is called with."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def output(self) -> torch.Tensor:
        """The layer's hidden states, with the weights that it has now."""
        made = self.module.forward(*self.args, **self.kwargs)
        states: torch.Tensor = made[0] if isinstance(made, tuple | list) else made
        return states

    def observe(self, linears: Mapping[str, nn.Module]) -> dict[str, Observed]:
        """Run the layer and watch these linear modules; those that do not run are left out."""
        seen: dict[str, Observed] = {}
        alive: list[torch.Tensor] = []

        def watch(name: str) -> Any:
            def note(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
                alive.append(args[0])
                seen[name] = _joined(seen.get(name), args[0])

            return note

        hooks = [module.register_forward_pre_hook(watch(name)) for name, module in linears.items()]
        try:
            self.output()
        finally:
            for hook in hooks:
                hook.remove()
        return seen

    def producers(self, reader: nn.Module, num_features: int) -> list[nn.Module]:
        """Modules with a weight for each of ``num_features`` whose output ``reader`` reads, such as a norm."""
        made: dict[Source, list[nn.Module]] = {}
        read: list[Source] = []
        alive: list[torch.Tensor] = []

        def note_output(module: nn.Module, args: object, output: object) -> None:
            if isinstance(output, torch.Tensor):
                alive.append(output)
                made.setdefault(source_of(output), []).append(module)

        def note_input(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            alive.append(args[0])
            read.append(source_of(args[0]))

        makers = [each for each in self.module.modules() if _has_vector(each, num_features)]
        hooks = [module.register_forward_hook(note_output) for module in makers]
        hooks.append(reader.register_forward_pre_hook(note_input))
        try:
            self.output()
        finally:
            for hook in hooks:
                hook.remove()
        return made.get(read[0], []) if read else []


def source_of(tensor: torch.Tensor) -> Source:
    """See :data:`Source`."""
    return tensor.data_ptr(), tensor.numel()


def _has_vector(module: nn.Module, num_features: int) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, nn.Parameter) and weight.shape == (num_features,)


def _joined(before: Observed | None, inputs: torch.Tensor) -> Observed:
    rows = inputs.detach().reshape(-1, inputs.shape[-1]).float()
    now = Observed(rows.t() @ rows, rows.abs().mean(0), source_of(inputs))
    if before is None:
        return now
    return Observed(before.hessian + now.hessian, (before.magnitude + now.magnitude) / 2, None)
