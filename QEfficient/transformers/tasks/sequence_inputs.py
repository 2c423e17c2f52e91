"""What the graphs of encoders and classifiers have in common: whole texts in, padded, with a mask.

What a text gets must not depend on the padding beside it. How a model takes padding is measured on the model itself,
not read off its name: see :func:`measure_texts`.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import nn

from QEfficient.errors import UnsupportedModel
from QEfficient.transformers.lowering.apply import lower, max_positions
from QEfficient.transformers.tasks.graph_spec import GraphInput, TaskGraph

Side = Literal["right", "left"]
Segments = Literal["none", "optional", "required"]
Read = Callable[[Any, dict[str, Any], torch.Tensor], torch.Tensor]
"""What a task wants of a model: ``(model, arguments, attention_mask) -> tensor``."""
_SEGMENTS = "token_type_ids"


@dataclass(frozen=True)
class Padding:
    """What makes a padded text's result that of the text alone."""

    side: Side | None = "right"
    """Where the padding goes; None: nowhere, a text runs at exactly its own length."""
    is_blank: bool = False
    """Whether the embeddings under the padding are zeros, as what models put around a text themselves."""
    reason: str = ""
    """Why there must be none."""


_WAYS = (Padding(), Padding(is_blank=True), Padding("left"))
"""In the order in which they are tried."""


@dataclass(frozen=True)
class TextContract:
    """How a model takes texts."""

    padding: Padding
    segments: Segments = "none"
    """Whether the graph takes ``token_type_ids``, which tell a pair's two texts apart; "optional": without them they
    are zeros."""
    end_token_id: int | None = None
    """A token that every text must have, because the model reads its answer there."""

    def ingredients(self) -> dict[str, Any]:
        """What decides the graph: all but words."""
        return asdict(replace(self, padding=replace(self.padding, reason="")))


def pad_token_id(config: Any) -> int | None:
    """The token that the model takes for padding."""
    found: int | None = getattr(config.get_text_config(), "pad_token_id", None)
    return found if found is not None and found >= 0 else None


class TextModel(nn.Module):
    """``model`` over ``input_ids`` and ``attention_mask``, both ``[B, S]``, and ``token_type_ids`` where there are any.

    Under the padding lies the model's own padding token, whatever the caller put there: models look for it to count
    positions and to find a text's last token.
    """

    def __init__(self, model: nn.Module, read: Read, is_blank: bool = False):
        super().__init__()
        self.model = model
        self.read = read
        self.is_blank = is_blank

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        input_ids, attention_mask, *segments = inputs
        model: Any = self.model
        ids = torch.where(attention_mask > 0, input_ids, pad_token_id(model.config) or 0)
        accepted = _parameters(model)
        arguments: dict[str, Any] = {"input_ids" if "input_ids" in accepted else model.main_input_name: ids}
        if "attention_mask" in accepted:
            arguments["attention_mask"] = attention_mask
        if "use_cache" in accepted:
            arguments["use_cache"] = False
        if segments:
            arguments[_SEGMENTS] = segments[0]
        with _blank_padding(model, attention_mask if self.is_blank else None):
            return self._answer(arguments, attention_mask)

    def _answer(self, arguments: dict[str, Any], attention_mask: torch.Tensor) -> torch.Tensor:
        return self.read(self.model, arguments, attention_mask)


@contextmanager
def _blank_padding(model: Any, attention_mask: torch.Tensor | None) -> Iterator[None]:
    """Zero the embeddings where ``attention_mask`` is zero."""
    if attention_mask is None:
        yield
        return
    mask = attention_mask[:, :, None]
    handle = model.get_input_embeddings().register_forward_hook(lambda module, given, output: output * mask)
    try:
        yield
    finally:
        handle.remove()


def _parameters(model: nn.Module) -> frozenset[str]:
    return frozenset(inspect.signature(model.forward).parameters)


def own_copy(model: nn.Module) -> nn.Module:
    """A copy of ``model`` over the same parameters, whose config and hooks are its own; it keeps no state."""
    copied = copy.deepcopy(model, memo={id(parameter): parameter for parameter in model.parameters()}).eval()
    for module in copied.modules():
        config = getattr(module, "config", None)
        if getattr(config, "use_cache", False):
            config.use_cache = False  # type: ignore[union-attr]
    return copied


def hidden_states(model: Any, arguments: dict[str, Any], attention_mask: torch.Tensor) -> torch.Tensor:
    """The last hidden states ``[B, S, D]``."""
    return model(**arguments).last_hidden_state.float()


@dataclass(frozen=True)
class TextUse:
    """How a model will be used."""

    longest: int
    """The longest text that will be asked for, in tokens."""
    brings_segments: bool | None = None
    """Whether the tokenizer gives ``token_type_ids``; None: there is no tokenizer."""


def measure_texts(
    modules: Sequence[TextModel], use: TextUse, end_token_id: int | None = None, reference: TextModel | None = None
) -> TextContract:
    """Run short and long texts alone and padded, with and without segments, and see what makes a difference.

    Args:
        modules: the one that is to be lowered, with real weights, and others that must not feel padding either.
        use: what to measure for.
        end_token_id: a token that every text must have.
        reference: the model's own way, where the module does it in another.

    Raises:
        UnsupportedModel: the model gives no finite answer, or another one each time.
    """
    if any(parameter.is_meta for parameter in modules[0].parameters()):
        return TextContract(Padding(), end_token_id=end_token_id)  # nothing can be measured without weights
    probes = [_Probe(module, use.longest, end_token_id) for module in modules]
    alone = [probe.alone() for probe in probes]
    for probe, results in zip(probes, alone, strict=True):
        probe.check_definite(results)
    if reference is not None:
        probes[0].check_same(alone[0], _Probe(reference, use.longest, end_token_id).alone())
    contract = TextContract(Padding(), probes[0].segments(alone[0], use.brings_segments), end_token_id)
    reasons = []
    for way in _WAYS:
        found = (probe.why_not(way, results) for probe, results in zip(probes, alone, strict=True))
        reason = next(filter(None, found), "")
        if not reason:
            return replace(contract, padding=way)
        reasons.append(reason)
    return replace(contract, padding=Padding(None, reason=reasons[0]))


_SHORT, _BUDGET = 6, 10**11
"""Tokens of the short text; parameters times tokens that one run may take, about a second."""
_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Relative distance that summing in another order may make."""


class _Probe:
    """A short and a long text through a model."""

    def __init__(self, module: TextModel, longest: int, end_token_id: int | None):
        self._module, self._end = module, end_token_id
        config = module.model.config.get_text_config()
        special = {pad_token_id(config), *_special_ids(config)}
        vocab_size = getattr(config, "vocab_size", None) or 1000
        self._plain = [token for token in range(min(vocab_size, 1000)) if token not in special]
        parameters = list(module.parameters())
        room = _BUDGET // max(sum(parameter.numel() for parameter in parameters), 1)
        self._padded = max(_SHORT + 1, min(longest, room))
        self._lens = sorted({_SHORT, max(_SHORT, self._padded * 2 // 3)})
        self._tolerance = max((_TOLERANCE.get(p.dtype, 1e-1) for p in parameters if p.is_floating_point()), default=0.1)
        self.name = type(module.model).__name__

    def alone(self) -> list[torch.Tensor]:
        """What each text gets at its own length."""
        return [self._run(num_tokens, num_tokens, Padding()) for num_tokens in self._lens]

    def check_definite(self, alone: list[torch.Tensor]) -> None:
        """
        Raises:
            UnsupportedModel: results are not finite, or others in a second run.
        """
        if not all(torch.isfinite(result).all() for result in alone):
            raise UnsupportedModel(f"{self.name} gives no finite result for a text of ordinary tokens.")
        again = self._run(self._lens[0], self._lens[0], Padding())
        if self._distance(alone[0], again) > 0:
            raise UnsupportedModel(f"{self.name} draws random numbers when it runs: a text has no one result.")

    def check_same(self, found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
        """
        Raises:
            UnsupportedModel: the module does something else than the model.
        """
        if not all(self._distance(*pair) < self._tolerance for pair in zip(expected, found, strict=True)):
            raise UnsupportedModel(f"{self.name} reads its answer in a way that is not known here.")

    def why_not(self, way: Padding, alone: list[torch.Tensor]) -> str:
        """What is wrong with padding this way, or nothing."""
        for num_tokens, expected in zip(self._lens, alone, strict=True):
            for length in sorted({_SHORT + 1, self._padded} if num_tokens == _SHORT else {self._padded}):
                try:
                    distance = self._distance(expected, self._run(num_tokens, length, way))
                except (RuntimeError, ValueError, IndexError, AttributeError, NotImplementedError) as error:
                    return f"the model does not take padding: {error}"
                if not distance < self._tolerance:
                    return f"padding a text of {num_tokens} tokens to {length} changes its result"
        return ""

    def segments(self, alone: list[torch.Tensor], brought: bool | None) -> Segments:
        """Whether segments make a difference, and whether zeros are what the model assumes without any.

        Args:
            alone: what the texts get without.
            brought: whether the tokenizer gives them; None: there is no tokenizer.
        """
        if _SEGMENTS not in _parameters(self._module.model) or brought is False:
            return "none"
        try:
            zeros, ones = (self._run(_SHORT, _SHORT, Padding(), segment) for segment in (0, 1))
        except (RuntimeError, ValueError, IndexError):
            return "none"
        if self._distance(zeros, ones) == 0:
            return "none"
        if self._distance(alone[0], zeros) == 0:
            return "optional"
        return "required" if brought else "none"

    def _run(self, num_tokens: int, length: int, way: Padding, segment: int | None = None) -> torch.Tensor:
        """What a text gets when padded to ``length``: of states those of its own tokens."""
        own = slice(length - num_tokens, length) if way.side == "left" else slice(num_tokens)
        ids, mask = torch.zeros(2, 1, length, dtype=torch.int64)
        plain = torch.tensor(self._plain)
        ids[0, own] = plain[(7 * torch.arange(num_tokens) + 3) % len(plain)]
        mask[0, own] = 1
        if self._end is not None:
            ids[0, own.stop - 1] = self._end
        segments = [] if segment is None else [torch.full_like(ids, segment)]
        module = TextModel(self._module.model, self._module.read, way.is_blank)
        # Padding is there for batches, which some models refuse without it.
        num_rows = 1 if length == num_tokens else 2
        rows = [tensor.expand(num_rows, -1) for tensor in (ids, mask, *segments)]
        with torch.no_grad():
            output = module(*rows).float()[:1]
        return output[:, own] if output.ndim == 3 and output.shape[1] == length else output

    def _distance(self, expected: torch.Tensor, found: torch.Tensor) -> float:
        """Greatest difference over the greatest value."""
        if expected.shape != found.shape:
            return float("inf")
        return float((expected - found).abs().max() / expected.abs().max().clamp(min=1e-6))


def _special_ids(config: Any) -> set[int]:
    values = [value for name, value in vars(config).items() if name.endswith(("_token_id", "_token_index"))]
    return {token for value in values for token in (value if isinstance(value, list) else [value]) if token is not None}


def text_graph(
    module: TextModel, contract: TextContract, output: str, output_axes: dict[int, str], seq_lens: Sequence[int]
) -> TaskGraph:
    """The graph of ``module`` with axes ``batch_size`` and ``seq_len``.

    Args:
        module: what :func:`measure_texts` measured.
        contract: what it found.
        output: the name of the only output.
        output_axes: its axes with a name.
        seq_lens: the shortest and the longest text that it is for; if they are one, that is no axis.
    """
    from QEfficient.transformers.tasks.recurrent_sequences import RecurrentTextModel, recurrent_specs

    model: Any = module.model
    lowered = lower(model, "retained", seq_lens[-1])
    specs = recurrent_specs(model)
    if specs is None:
        inner = TextModel(lowered.module, module.read, contract.padding.is_blank)
    else:
        inner = RecurrentTextModel(lowered.module, module.read, specs, seq_lens[-1])
    is_fixed = len(seq_lens) == 1
    length, axes = (seq_lens[0], {0: "batch_size"}) if is_fixed else (7, {0: "batch_size", 1: "seq_len"})
    mask = torch.ones(3, length, dtype=torch.int64)
    if contract.padding.side == "right":
        mask[0, length * 2 // 3 + 1 :] = 0
    names = ["input_ids", "attention_mask", *([] if contract.segments == "none" else [_SEGMENTS])]
    samples = [torch.zeros_like(mask), mask, torch.zeros_like(mask)]
    limit = max_positions(model.config)
    return TaskGraph(
        module=_Named(inner).eval(),
        lowered=lowered,
        lowering="encoder",
        num_layers=getattr(model.config.get_text_config(), "num_hidden_layers", 0),
        inputs=[GraphInput(name, sample, axes) for name, sample in zip(names, samples, strict=False)],
        output_names=[output],
        axis_limits={} if is_fixed else {"seq_len": min(limit or seq_lens[-1], seq_lens[-1])},
        axis_minimums={} if is_fixed else {"seq_len": seq_lens[0]},
        output_axes={output: {axis: name for axis, name in output_axes.items() if name in axes.values()}},
    )


class _Named(nn.Module):
    """Puts the model at ``inner.model``, where the weights of every task are looked for."""

    def __init__(self, inner: TextModel):
        super().__init__()
        self.inner = inner

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.inner(*inputs)
