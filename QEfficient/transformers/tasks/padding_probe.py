"""Measures how a model takes padding: runs sequences alone and padded, and compares the results."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from QEfficient.errors import UnsupportedModel
from QEfficient.transformers.checkpoint.from_checkpoint import copy_with_values, is_unread
from QEfficient.transformers.tasks.sequence_inputs import (
    TOKEN_TYPE_IDS,
    Padding,
    SequenceContract,
    SequenceModel,
    TokenTypes,
    forward_parameters,
    ordinary_tokens,
)

ModuleT = TypeVar("ModuleT", bound=nn.Module)
_CANDIDATES = (Padding(), Padding(is_blank=True), Padding("left"))
"""Ways to pad, in the order of preference."""


@dataclass(frozen=True)
class SequenceUse:
    """How a model will be used."""

    max_len: int
    """Maximum length of a sequence, in tokens."""
    has_token_type_ids: bool | None = None
    """Whether the tokenizer returns ``token_type_ids``; None: there is no tokenizer."""


def measure_contract(
    modules: Sequence[SequenceModel],
    use: SequenceUse,
    end_token_id: int | None = None,
    reference: SequenceModel | None = None,
) -> SequenceContract:
    """Run a short and a long sequence alone and padded, with and without token types, and compare the results.

    Args:
        modules: the module to lower, and others whose results padding must not change either. Weights that are still
            to be read are read for the time of the measurement.
        use: what to measure for.
        end_token_id: a token that every sequence must contain.
        reference: the model's forward, where the first module replaces it.

    Raises:
        UnsupportedModel: results are not finite, not deterministic, or not those of ``reference``; or the model has no
            weights.
    """
    modules, reference = _with_values(modules, reference)
    probes = [_TokenProbe(module, use.max_len, end_token_id) for module in modules]
    unpadded = [probe.run_unpadded() for probe in probes]
    for probe, results in zip(probes, unpadded, strict=True):
        probe.check_deterministic(results)
    if reference is not None:
        probes[0].check_same(unpadded[0], _TokenProbe(reference, use.max_len, end_token_id).run_unpadded())
    token_types = probes[0].token_types(unpadded[0], use.has_token_type_ids)
    padding = harmless_padding(list(zip(probes, unpadded, strict=True)), _CANDIDATES)
    return SequenceContract(padding, token_types, end_token_id)


def harmless_padding(probed: Sequence[tuple[Probe, list[torch.Tensor]]], candidates: Sequence[Padding]) -> Padding:
    """The first of ``candidates`` that changes no result.

    Args:
        probed: probes, each with its results without padding.
        candidates: ways to pad, in the order of preference.
    """
    reasons = []
    for padding in candidates:
        refusals = (probe.why_not(padding, results) for probe, results in probed)
        reason = next(filter(None, refusals), "")
        if not reason:
            return padding
        reasons.append(reason)
    return Padding(None, reason=reasons[0])


def _with_values(
    modules: Sequence[SequenceModel], reference: SequenceModel | None
) -> tuple[list[SequenceModel], SequenceModel | None]:
    together = with_values([*modules, *([] if reference is None else [reference])])
    return together[: len(modules)], None if reference is None else together[-1]


def with_values(modules: Sequence[ModuleT]) -> list[ModuleT]:
    """``modules``, each with a ``model``, their weights read.

    Raises:
        UnsupportedModel: they have none.
    """
    together = nn.ModuleList(modules)
    if is_unread(together):
        together = copy_with_values(together)
    if any(parameter.is_meta for parameter in together.parameters()):
        raise UnsupportedModel(
            f"How {type(modules[0].model).__name__} takes padding is measured on its weights, and it has none. Load "
            "the checkpoint with from_pretrained()."
        )
    measured: list[Any] = list(together)
    return measured


_SHORT, BUDGET = 6, 10**11
"""Tokens of the short sequence; limit of parameters times tokens for one run, about a second."""
_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Maximum relative difference from another order of summation."""


class Probe(ABC):
    """Runs a short and a long sequence through a model, alone and padded."""

    unit = "tokens"

    def __init__(self, module: nn.Module, short: int, padded_len: int):
        """
        Args:
            module: has a ``model``.
            short: length of the short sequence; the long one has two thirds of ``padded_len``.
            padded_len: length that sequences are padded to.
        """
        self._short, self._padded_len = short, max(short + 1, padded_len)
        self._lens = sorted({short, max(short, self._padded_len * 2 // 3)})
        floats = [p for p in module.parameters() if p.is_floating_point()]
        self._tolerance = max((_TOLERANCE.get(p.dtype, 1e-1) for p in floats), default=0.1)
        self.name = type(module.model).__name__

    @abstractmethod
    def run(self, length: int, padded_len: int, padding: Padding) -> torch.Tensor:
        """The result of a sequence padded to ``padded_len``, ``[1, ...]``; what is left out of it is padding."""

    def run_unpadded(self) -> list[torch.Tensor]:
        """The result of each sequence at its length."""
        return [self.run(length, length, Padding()) for length in self._lens]

    def check_deterministic(self, unpadded: list[torch.Tensor]) -> None:
        """
        Raises:
            UnsupportedModel: results are not finite, or a second run gives others.
        """
        if not all(torch.isfinite(result).all() for result in unpadded):
            raise UnsupportedModel(
                f"{self.name} returns values that are not finite for a sequence of ordinary {self.unit}."
            )
        if difference(unpadded[0], self.run(self._lens[0], self._lens[0], Padding())) > 0:
            raise UnsupportedModel(f"{self.name} draws random numbers when it runs, so its results vary.")

    def check_same(self, results: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
        """
        Raises:
            UnsupportedModel: results differ by more than the tolerance.
        """
        if not all(difference(*pair) < self._tolerance for pair in zip(expected, results, strict=True)):
            raise UnsupportedModel(f"{self.name} pools its output in a way that is not known here.")

    def why_not(self, padding: Padding, unpadded: list[torch.Tensor]) -> str:
        """Why the model cannot be padded this way; empty if it can."""
        for count, expected in zip(self._lens, unpadded, strict=True):
            for length in sorted({self._short + 1, self._padded_len} if count == self._short else {self._padded_len}):
                try:
                    error = difference(expected, self.run(count, length, padding))
                except (RuntimeError, ValueError, IndexError, AttributeError, NotImplementedError) as refusal:
                    return f"the model does not take padding: {refusal}"
                if not error < self._tolerance:
                    return f"padding a sequence of {count} {self.unit} to {length} changes its result"
        return ""


def difference(expected: torch.Tensor, result: torch.Tensor) -> float:
    """Maximum absolute difference relative to the maximum magnitude; infinite if the shapes differ."""
    if expected.shape != result.shape:
        return float("inf")
    return float((expected - result).abs().max() / expected.abs().max().clamp(min=1e-6))


class _TokenProbe(Probe):
    def __init__(self, module: SequenceModel, max_len: int, end_token_id: int | None):
        affordable = BUDGET // max(sum(parameter.numel() for parameter in module.parameters()), 1)
        super().__init__(module, _SHORT, min(max_len, affordable))
        self._module, self._end = module, end_token_id
        self._ordinary = ordinary_tokens(module.model.config)

    def token_types(self, unpadded: list[torch.Tensor], has_token_type_ids: bool | None) -> TokenTypes:
        """Whether ``token_type_ids`` change the result, and whether the model's default is zeros.

        Args:
            unpadded: the results without them.
            has_token_type_ids: whether the tokenizer returns them; None: there is no tokenizer.
        """
        if TOKEN_TYPE_IDS not in forward_parameters(self._module.model) or has_token_type_ids is False:
            return "none"
        try:
            zeros, ones = (self.run(_SHORT, _SHORT, Padding(), token_type) for token_type in (0, 1))
        except (RuntimeError, ValueError, IndexError):
            return "none"
        if difference(zeros, ones) == 0:
            return "none"
        if difference(unpadded[0], zeros) == 0:
            return "optional"
        return "required" if has_token_type_ids else "none"

    def run(self, length: int, padded_len: int, padding: Padding, token_type: int | None = None) -> torch.Tensor:
        """See :meth:`Probe.run`; of hidden states those of the tokens."""
        tokens = slice(padded_len - length, padded_len) if padding.side == "left" else slice(length)
        ids, mask = torch.zeros(2, 1, padded_len, dtype=torch.int64)
        ordinary = torch.tensor(self._ordinary)
        ids[0, tokens] = ordinary[(7 * torch.arange(length) + 3) % len(ordinary)]
        mask[0, tokens] = 1
        if self._end is not None:
            ids[0, tokens.stop - 1] = self._end
        token_type_ids = [] if token_type is None else [torch.full_like(ids, token_type)]
        module = SequenceModel(self._module.model, self._module.read, padding.is_blank)
        # Padding occurs in batches only; some models refuse a batch without it.
        num_rows = 1 if padded_len == length else 2
        rows = [tensor.expand(num_rows, -1) for tensor in (ids, mask, *token_type_ids)]
        with torch.no_grad():
            output = module(*rows).float()[:1]
        return output[:, tokens] if output.ndim == 3 and output.shape[1] == padded_len else output
