"""Which stored tensors are weights of linear layers that can be replaced, and which layers stay as they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from torch import nn

from QEfficient.errors import OptionError, UnsupportedModel, nearest
from QEfficient.transformers.checkpoint.packed import Stored
from QEfficient.transformers.checkpoint.pieces import without_copies
from QEfficient.transformers.checkpoint.unread import UnreadParameter, stored_in
from QEfficient.transformers.quantizers.checks import FLOATS
from QEfficient.transformers.tasks.lm_head import output_embeddings

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Selection:
    """The layers of one model."""

    chosen: dict[str, Stored]
    """Weights to quantise, by the names of their linear modules."""
    ignored: list[str]
    """Linear modules that stay."""
    experts: dict[str, Stored] = field(default_factory=dict)
    """Weights to quantise that the model stacks with others, by their names without ``.weight``."""

    @property
    def weights(self) -> dict[str, Stored]:
        """All weights to quantise."""
        return self.chosen | self.experts


def select(model: PreTrainedModel, ignore: Sequence[str], *, with_head: bool, with_experts: bool) -> Selection:
    """The linear layers to quantise.

    Args:
        model: its parameters unread.
        ignore: patterns of modules' names, as of a shell.
        with_head: whether the output head is one of them.
        with_experts: whether matrices of experts are, which the model stacks.

    Raises:
        OptionError: a pattern matches no linear layer.
        UnsupportedModel: no layer is left.
    """
    linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    experts = _experts(model) if with_experts else {}
    names = [*linears, *experts]
    for pattern in ignore:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise OptionError(f"ignore={pattern!r} is the name of no linear layer.{nearest(pattern, names)}")
    experts = {name: each for name, each in experts.items() if not _is_any(name, ignore)}
    head = None if with_head else output_embeddings(model)
    num_users = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    chosen: dict[str, Stored] = {}
    for name, module in linears.items():
        stored = _stored(module.weight) if num_users[id(module.weight)] == 1 else None
        if stored is not None and module is not head and not _is_any(name, ignore):
            chosen[name] = stored
    if not chosen and not experts:
        raise UnsupportedModel(_why_none(model, linears))
    return Selection(chosen, [name for name in linears if name not in chosen], experts)


def _is_any(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _experts(model: nn.Module) -> dict[str, Stored]:
    """Matrices that are stored one by one, and that the model has stacked along a first axis."""
    stacked = (each for each in model.parameters() if isinstance(each, UnreadParameter) and each.ndim == 3)
    return {
        stored.name.removesuffix(".weight"): stored
        for parameter in stacked
        for stored in stored_in(parameter.unread)
        if len(stored.tensor.shape) == 2 and stored.tensor.dtype in FLOATS and stored.name.endswith(".weight")
    }


def _stored(weight: nn.Parameter) -> Stored | None:
    """The stored tensor that a weight is; None where it is made of several, or of a part of one."""
    kept = without_copies(weight.unread) if isinstance(weight, UnreadParameter) else None
    if not isinstance(kept, Stored) or kept.tensor.shape != tuple(weight.shape):
        return None
    return kept if kept.tensor.dtype in FLOATS and kept.name.endswith(".weight") else None


def _why_none(model: PreTrainedModel, linears: dict[str, nn.Linear]) -> str:
    if linears:
        return f"None of the {len(linears)} linear layers of {type(model).__name__} is left to quantise."
    return (
        f"{type(model).__name__} has no linear layers to quantise: its matrices are in modules of other kinds. On cpu "
        "compile it with weight_format='int8' or 'int4', for a card with mxfp6_matmul=True."
    )


def stored_parameters(model: nn.Module) -> dict[str, Stored]:
    """The stored tensors that parameters are, element for element, by the parameters' names."""
    stored: dict[str, Stored] = {}
    for name, parameter in model.named_parameters():
        kept = without_copies(parameter.unread) if isinstance(parameter, UnreadParameter) else None
        if isinstance(kept, Stored):
            stored[name] = kept
    return stored
