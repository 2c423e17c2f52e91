"""A caller's functions: they take arrays, or tensors where they are torch's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from inspect import isfunction, ismethod
from typing import Any

import numpy as np

from QEfficient.errors import OptionError
from QEfficient.generation.logits.history import History


def takes_tensors(called: object) -> bool:
    """Whether an object is of a class of transformers, or says in its annotations that it takes tensors."""
    if any(cls.__module__.partition(".")[0] in ("torch", "transformers") for cls in type(called).__mro__):
        return True
    function: Any = called if isfunction(called) or ismethod(called) else type(called).__call__
    annotations = getattr(function, "__annotations__", {})
    return any("torch" in str(kind) or "Tensor" in str(kind) for kind in annotations.values())


def as_asked(array: np.ndarray, called: object) -> Any:
    """An array, or a tensor of it where ``called`` takes tensors and torch is installed."""
    if not takes_tensors(called) or find_spec("torch") is None:
        return array
    import torch

    return torch.from_numpy(array)


def listed(name: str, value: object) -> list[Callable[..., Any]]:
    """A caller's functions: one, or a list of them.

    Raises:
        OptionError: one cannot be called.
    """
    if value is None:
        return []
    functions: list[Any] = list(value) if isinstance(value, list | tuple) else [value]
    if wrong := [each for each in functions if not callable(each)]:
        raise OptionError(f"{name} must be a function or a list of them, got {wrong[0]!r}.")
    return functions


@dataclass(frozen=True, eq=False)
class UserProcessor:
    """A caller's logits processor: ``(input_ids [1, tokens], scores [1, vocab]) -> scores [1, vocab]``."""

    function: Callable[[Any, Any], Any]

    def __call__(self, scores: np.ndarray, rows: Sequence[History]) -> np.ndarray:
        for index, history in enumerate(rows):
            ids = np.array([history.tokens], np.int64)
            row = scores[index : index + 1].copy()
            returned = self.function(as_asked(ids, self.function), as_asked(row, self.function))
            changed = np.asarray(returned)
            if changed.shape != row.shape or changed.dtype.kind not in "fiu":
                raise OptionError(
                    f"logits_processor {self.function!r} returned {_described(returned)}, expected scores of shape "
                    f"{list(row.shape)}, as it got them."
                )
            scores[index] = changed[0]
        return scores


@dataclass(frozen=True, eq=False)
class UserCriterion:
    """A caller's stopping criterion: ``(input_ids [1, tokens], None) -> bool``, or one bool in an array."""

    function: Callable[[Any, Any], Any]

    def __call__(self, tokens: list[int]) -> bool:
        returned = self.function(as_asked(np.array([tokens], np.int64), self.function), None)
        said = np.asarray(returned)
        if said.size != 1 or said.dtype.kind not in "biu":
            raise OptionError(
                f"stopping_criteria {self.function!r} returned {_described(returned)}, expected one True or False."
            )
        return bool(said.reshape(()))


def _described(value: object) -> str:
    shape = getattr(value, "shape", None)
    return repr(value)[:60] if shape is None else f"a {type(value).__name__} of shape {list(shape)}"
