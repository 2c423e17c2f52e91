"""Parameters that a checkpoint does not have: known by their class, so that nothing takes their values for weights."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn


class MissingParameter(nn.Parameter):
    """A parameter with the values that transformers starts training from."""


def mark_missing(model: nn.Module, names: Iterable[str]) -> list[str]:
    """Turn parameters of ``model`` into :class:`MissingParameter`, wherever it uses them.

    Args:
        model: changed in place.
        names: of what its checkpoint does not have.

    Returns:
        Names that are no parameters.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    marked = {
        id(parameters[name]): MissingParameter(parameters[name].data, parameters[name].requires_grad)
        for name in sorted(names)
        if name in parameters
    }
    for module in model.modules():
        for name, parameter in module._parameters.items():
            module._parameters[name] = marked.get(id(parameter), parameter)
    return sorted(set(names) - parameters.keys())


def adopt_missing(model: nn.Module) -> None:
    """Take the values of each :class:`MissingParameter` of ``model`` for weights, to train them."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if isinstance(parameter, MissingParameter):
                module._parameters[name] = nn.Parameter(parameter.data, parameter.requires_grad)
