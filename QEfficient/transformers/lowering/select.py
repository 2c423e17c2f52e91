"""Chooses the lowering of a model on a target, and records the reasons."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from QEfficient.errors import UnsupportedModel
from QEfficient.targets import LoweringName, Target

if TYPE_CHECKING:
    from torch import nn

    from QEfficient.transformers.lowering.media import MediaTokens

_POINTER = "See 'Adding a state kind' in the documentation."


@dataclass(frozen=True, slots=True)
class LoweringChoice:
    """The lowering of a model on a target."""

    lowering: LoweringName
    refused: dict[str, str] = field(default_factory=dict)
    """Faster lowerings that cannot express the model, each with the reason."""


def choose_lowering(
    model: nn.Module, target: Target, forced: LoweringName | None = None, media: MediaTokens | None = None
) -> LoweringChoice:
    """The fastest lowering of ``target`` that can express ``model``, with the media in its prompts, or the forced one.

    Raises:
        UnsupportedModel: none can; the message has each one's reason.
    """
    from QEfficient.transformers.tasks.causal_lm import why_not

    refused: dict[str, str] = {}
    for lowering in (forced,) if forced else target.lowerings:
        if lowering not in target.lowerings:
            refused[lowering] = f"target '{target.name}' does not have it"
            continue
        reason = why_not(model, lowering, media)
        if reason is None:
            return LoweringChoice(lowering, refused)
        refused[lowering] = reason
    told = set(refused.values())
    is_one = len(told) == 1 and len(refused) > 1
    reasons = told.pop() if is_one else "; ".join(f"{name}: {reason}" for name, reason in refused.items())
    pointer = "" if reasons.endswith(_POINTER) else f". {_POINTER}"
    raise UnsupportedModel(f"{type(model).__name__} cannot be lowered for target '{target.name}': {reasons}{pointer}")
