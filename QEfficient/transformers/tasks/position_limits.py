"""How many positions a model has, measured on the model: a few tokens run without weights, and what they are looked up
in says how far it counts.

A table of positions ends, and some models start to count at an offset. Rotary embeddings have no end: the config says
for how many positions they were trained, and by what they are stretched. A model with neither orders its tokens by
their distances or by its state, and takes any number of them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedConfig

from QEfficient.transformers.lowering.apply import run_eagerly
from QEfficient.transformers.lowering.representative_layers import FAILURES, first_layers, remembered
from QEfficient.transformers.tasks.sequence_inputs import SequenceModel, forward_parameters, ordinary_tokens

logger = logging.getLogger(__name__)

aten = torch.ops.aten
Run = Callable[[Any, torch.Tensor], object]
"""Runs a model over token ids ``[1, n]``."""
Parts = Callable[[Any], Mapping[str, nn.Module]]
"""The parts of a model that count positions separately, by name."""

_SHORT, _LONG = 5, 40
"""Tokens of the runs: what is a table in both is none that was made for the run, and no prompt of the model's."""


def whole(model: nn.Module) -> Mapping[str, nn.Module]:
    """A model that counts positions once."""
    return {"": model}


@remembered
def position_limits(model: nn.Module, run: Run, parts: Parts = whole) -> Mapping[str, int]:
    """The maximum number of positions of each part of ``model``; parts without a limit are left out."""
    uses = _measured(model, run, parts)
    limits = {
        name: _limit(getattr(part, "config", model.config).get_text_config(decoder=True), name, uses[name])
        for name, part in parts(model).items()
    }
    return {name: limit for name, limit in limits.items() if limit is not None}


def max_seq_len(model: nn.Module) -> int | None:
    """Maximum length of a sequence that ``model``, with or without a head, reads at once; None: no limit."""
    return position_limits(model, _run_sequence, _without_head).get("")


def _without_head(model: nn.Module) -> Mapping[str, nn.Module]:
    return {"": getattr(model, "base_model", model)}


def _run_sequence(model: nn.Module, ids: torch.Tensor) -> object:
    """Without a head, which may ask for an end token."""

    def read(inner: Any, arguments: dict[str, Any], mask: torch.Tensor) -> Any:
        answers = {"decoder_input_ids": ids} if "decoder_input_ids" in forward_parameters(inner) else {}
        return inner(**arguments, **answers)

    return SequenceModel(_without_head(model)[""], read)(ids, torch.ones_like(ids))


@dataclass
class _Use:
    """What a part looks positions up in."""

    tables: set[tuple[int, int]] = field(default_factory=set)
    """Entries, and the entry of the first token."""
    is_computed: bool = False
    """Whether it uses rotary embeddings, or computes the sines of its positions when it runs."""


def _measured(model: nn.Module, run: Run, parts: Parts) -> Mapping[str, _Use]:
    first = first_layers(model)
    for candidate in [*([] if first is None else [first.module]), model]:
        try:
            return _measure(candidate, run, parts)
        except FAILURES as error:
            logger.debug("%s: positions cannot be measured: %s", type(model).__name__, error)
    return {name: _Use(is_computed=True) for name in parts(model)}


def _measure(model: nn.Module, run: Run, parts: Parts) -> Mapping[str, _Use]:
    uses = _run_watched(model, run, parts, _SHORT)
    shortest = min((entries - first for use in uses.values() for entries, first in use.tables), default=0)
    if shortest > _SHORT:
        # One less than there are, so that the tables are longer than the run.
        again = _run_watched(model, run, parts, min(_LONG, shortest - 1))
        for name, use in uses.items():
            use.tables &= again[name].tables
    return uses


def _run_watched(model: nn.Module, run: Run, parts: Parts, num_tokens: int) -> dict[str, _Use]:
    # Outside of the fake mode: only what the weights take part in is fake, so that indices have values.
    copied = run_eagerly(model).module
    lookups = _Lookups(copied, parts(copied), num_tokens)
    ordinary = torch.tensor(ordinary_tokens(copied.config))
    ids = ordinary[(7 * torch.arange(num_tokens) + 3) % len(ordinary)][None]
    with lookups, torch.no_grad():
        try:
            run(copied, ids)
        except _AllKnown:
            logger.debug("%s has rotary embeddings", type(model).__name__)
    return lookups.uses


class _AllKnown(Exception):
    """Ends a run that can show nothing more."""


_ROTARY = "rotary"
"""Stands for the modules that compute angles, which the model may not use."""


class _Lookups(TorchDispatchMode):
    """While it is entered, tables that are read at the places of all tokens in order are noted, and rotary angles."""

    def __init__(self, model: nn.Module, parts: Mapping[str, nn.Module], num_tokens: int):
        super().__init__()
        self.uses = {name: _Use() for name in parts}
        self._num_tokens = num_tokens
        self._running: list[str] = []
        self._angles: list[torch.Tensor] = []
        self._stored = [*model.parameters(), *model.buffers()]
        for name, part in parts.items():
            part.register_forward_pre_hook(lambda *_, name=name: self._running.append(name))
            part.register_forward_hook(lambda *_: self._leave())
        for module in model.modules():
            if any("inv_freq" in attribute for attribute in (*vars(module), *module._buffers)):
                module.register_forward_pre_hook(lambda *_: self._running.append(_ROTARY))
                module.register_forward_hook(lambda module, args, output: self._leave(output))

    def _leave(self, angles: object = None) -> None:
        self._running.pop()
        self._angles += _tensors(angles)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        operator, result = func.overloadpacket, func(*args, **(kwargs or {}))
        if self._running and self._running[-1] != _ROTARY:
            self._note(self.uses[self._running[-1]], operator, args)
            if operator is aten.slice and any(args[0] is table for table in self._stored):
                self._note_slice(self.uses[self._running[-1]], result, *args)
        return result

    def _note_slice(self, use: _Use, result: torch.Tensor, table: torch.Tensor, axis: int = 0, *bounds: Any) -> None:
        if result.shape == table.shape:
            self._stored.append(result)
        elif table.is_floating_point() and bounds[:2] in ((0, self._num_tokens), (None, self._num_tokens)):
            use.tables.add((table.shape[axis], 0))

    def _note(self, use: _Use, operator: Any, args: Any) -> None:
        for table, axis, index in _read(operator, args):
            self._note_lookup(use, table, axis, index)
        if operator in (aten.sin, aten.cos):
            use.is_computed = True
        elif any(tensor is angle for tensor in _tensors(args) for angle in self._angles):  # they may not be used
            use.is_computed = True
            self._stop_if_known()

    def _note_lookup(self, use: _Use, table: torch.Tensor, axis: int, index: torch.Tensor) -> None:
        if not table.is_floating_point() or isinstance(index, FakeTensor) or index.dtype not in _WHOLE_NUMBERS:
            return
        places = _places(index)[:, : self._num_tokens]
        if places.shape[1] < self._num_tokens or not places.numel():
            return
        first = int(places[0, 0])
        if not bool((places == first + torch.arange(self._num_tokens)).all()):
            return
        if table.shape[axis] > _places(index).shape[1]:
            use.tables.add((table.shape[axis], first))

    def _stop_if_known(self) -> None:
        if all(use.is_computed and not use.tables for use in self.uses.values()):
            raise _AllKnown


_WHOLE_NUMBERS = (torch.int64, torch.int32)


def _tensors(values: object) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]


def _read(operator: Any, args: Sequence[Any]) -> Iterator[tuple[torch.Tensor, int, torch.Tensor]]:
    """The tensors that an operator reads at indices: each with the axis, and the indices with the places last."""
    if operator is aten.embedding:
        yield args[0], 0, args[1]
    elif operator is aten.index_select:
        yield args[0], args[1], args[2]
    elif operator is aten.gather:
        index = args[2].movedim(args[1], -1)
        yield args[0], args[1], index.reshape(-1, index.shape[-1])[:1] if index.numel() else index
    elif operator is aten.index:
        yield from ((args[0], axis, index) for axis, index in enumerate(args[1]) if index is not None)


def _places(index: torch.Tensor) -> torch.Tensor:
    """Indices as rows of places; a column is a row."""
    if index.ndim > 1 and index.shape[-1] == 1:
        index = index[..., 0]
    return index.reshape(-1, index.shape[-1]) if index.ndim else index.reshape(1, 1)


def _limit(config: PreTrainedConfig, part: str, use: _Use) -> int | None:
    limits = [entries - first for entries, first in use.tables]
    number = _number(config, *([f"max_{part}_position_embeddings"] if part else []), *_POSITIONS)
    if number is not None and (limits or use.is_computed):
        limits.append(stretched(config, number))
    if (longest := _number(config, *_SEQUENCES)) is not None:
        limits.append(longest)
    return min(limits, default=None)


_POSITIONS = ("max_position_embeddings", "n_positions")
"""Numbers of a config that count positions: they mean nothing where a model has none."""
_SEQUENCES = ("max_seq_len",)
"""Those that count tokens, however they are ordered."""


def _number(config: PreTrainedConfig, *names: str) -> int | None:
    values = (getattr(config, name, None) for name in names)
    return next((value for value in values if isinstance(value, int) and value > 0), None)


def stretched(config: PreTrainedConfig, max_positions: int) -> int:
    """The positions that the rotary embeddings of a config reach.

    Configs that were stretched leave ``max_position_embeddings`` at what the model was trained for, or do not.

    Args:
        config: of the text model.
        max_positions: its ``max_position_embeddings``.
    """
    parameters = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kinds = [value for value in parameters.values() if isinstance(value, dict)] or [parameters]
    # With several kinds of layers, those that are not stretched look back over a window; but without the original
    # length, a number beside them is that of the stretched model.
    clear = [kind for kind in kinds if "original_max_position_embeddings" in kind]
    reached = [_reached(kind, max_positions) for kind in clear or kinds]
    return max(reached) if clear else min(reached)


def _reached(parameters: Mapping[str, Any], max_positions: int) -> int:
    factor = parameters.get("factor")
    if not isinstance(factor, int | float):
        return max_positions
    original = parameters.get("original_max_position_embeddings", max_positions)
    # Of these two the factor is no ratio of lengths, unless nothing else says one.
    is_ratio = parameters.get("rope_type", parameters.get("type")) not in ("llama3", "longrope")
    return max(max_positions, int(factor * original)) if is_ratio or original >= max_positions else max_positions
