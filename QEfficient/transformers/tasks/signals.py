"""Signals as inputs: samples of audio ``[B, T]``, or features of it ``[B, T, F]``, whole, with an attention mask.

As with texts, a signal's result must not depend on the padding in its batch row, and how a model takes padding is
measured on the model.
"""

from __future__ import annotations

import copy
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig

from QEfficient.contract import FrameRule, Json
from QEfficient.errors import UnsupportedModel
from QEfficient.transformers.lowering.apply import run_eagerly
from QEfficient.transformers.lowering.representative_layers import remembered
from QEfficient.transformers.patches import quiet_shapes
from QEfficient.transformers.tasks.padding_probe import BUDGET, Probe, harmless_padding, with_values
from QEfficient.transformers.tasks.sequence_inputs import Padding, forward_parameters

ReadSignal = Callable[[Any, dict[str, Any]], torch.Tensor]
"""Runs a model and returns the output that a task needs: ``(model, arguments) -> [B, frames, ...]``."""
ATTENTION_MASK = "attention_mask"
_CANDIDATES = (Padding(), Padding(is_left_out=True), Padding(is_left_out=True, is_masked_by_frames=True))
_ONLY = "the model reads signals of one length alone"
_SOME_LEN, _MOST_LEN = 67, 1 << 18
"""Of signals that frames are counted for: the first is no number of features, the second more than some strides of any
model."""


@dataclass(frozen=True)
class SignalContract:
    """How a model takes signals."""

    input: str
    """Name of the signal among the model's arguments: ``input_values`` of samples, ``input_features`` of features."""
    width: int | None
    """Features of a place; None: samples have none."""
    rule: FrameRule
    padding: Padding
    is_time_last: bool = False
    """Whether the model takes features as ``[B, F, T]``."""
    only_len: int | None = None
    """The length that it reads, where it reads one alone."""

    def ingredients(self) -> Json:
        """All that decides the graph, without the wording of reasons."""
        return asdict(replace(self, padding=replace(self.padding, reason="")))


class SignalModel(nn.Module):
    """``model`` over a signal ``[B, T]`` or ``[B, T, F]``, padded on the right, and its mask ``[B, T]``, if it is
    padded."""

    def __init__(self, model: nn.Module, read: ReadSignal, contract: SignalContract | None = None):
        super().__init__()
        self.model = model
        self.read = read
        self.contract = contract

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        signal, *mask = inputs
        model: Any = self.model
        arguments: dict[str, Any] = {model.main_input_name: signal}
        if mask and ATTENTION_MASK in forward_parameters(model):
            arguments[ATTENTION_MASK] = self._mask(mask[0])
        leaves_out = bool(mask) and self.contract is not None and self.contract.padding.is_left_out
        with _left_out(model, mask[0].sum(-1) if leaves_out else None):
            return self.read(model, arguments)

    def _mask(self, mask: torch.Tensor) -> torch.Tensor:
        if self.contract is None or not self.contract.padding.is_masked_by_frames:
            return mask
        rule = self.contract.rule
        num_frames = torch.div(mask.sum(-1, keepdim=True) + rule.offset, rule.stride, rounding_mode="floor")
        return (torch.arange(mask.shape[1])[None] < num_frames * rule.stride).to(mask.dtype)


@contextmanager
def _left_out(model: nn.Module, lens: torch.Tensor | None) -> Iterator[None]:
    """Let convolutions and norms over time ``[B, C, T]`` take padding as what is beyond the end of a signal.

    Args:
        model: runs its convolutions in the order of the signal's way through it.
        lens: ``[B]``, of each row's signal; None: there is no padding.
    """
    places = lens

    def blank(conv: nn.Conv1d, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor] | None:
        assert places is not None
        (states,) = inputs
        return (states * _is_place(states, places)[:, None],) if _pads(conv) else None

    def follow(conv: nn.Conv1d, inputs: object, output: object) -> None:
        nonlocal places
        assert places is not None
        (kernel,), (stride,), (dilation,) = conv.kernel_size, conv.stride, conv.dilation
        if not _pads(conv):
            places = (places - dilation * (kernel - 1) - 1) // stride + 1
        elif stride > 1:
            places = (places + stride - 1) // stride

    def normalise(norm: nn.GroupNorm, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        assert places is not None
        return _group_norm(norm, inputs[0], places)

    handles = []
    for module in model.modules() if lens is not None else ():
        if isinstance(module, nn.Conv1d):
            handles += [module.register_forward_pre_hook(blank), module.register_forward_hook(follow)]
        elif isinstance(module, nn.GroupNorm):
            handles.append(module.register_forward_hook(normalise))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _pads(conv: nn.Conv1d) -> bool:
    return conv.padding not in ((0,), "valid")


def _is_place(states: torch.Tensor, lens: torch.Tensor) -> torch.Tensor:
    """``[B, T]`` of ``states [B, C, T]``: 1 where a row has one of its ``lens [B]`` places, else 0."""
    return (torch.arange(states.shape[2])[None] < lens[:, None]).to(states.dtype)


def _group_norm(norm: nn.GroupNorm, states: torch.Tensor, lens: torch.Tensor) -> torch.Tensor:
    """``norm`` over ``states [B, C, T]`` of which each row has ``lens [B]`` places.

    By means over all places, padding as zeros, and not by sums, which would overflow fp16.
    """
    num_places = states.shape[2]
    is_place = _is_place(states, lens)[:, None, None]
    share = is_place.mean(3, keepdim=True)
    grouped = states.reshape(states.shape[0], norm.num_groups, -1, num_places)
    mean = (grouped * is_place).mean((2, 3), keepdim=True) / share
    centred = grouped - mean
    variance = (centred * centred * is_place).mean((2, 3), keepdim=True) / share
    normal = (centred * torch.rsqrt(variance + norm.eps)).reshape(states.shape)
    return normal if norm.weight is None else normal * norm.weight[:, None] + norm.bias[:, None]


def measure_signals(model: nn.Module, read: ReadSignal, longest: int) -> SignalContract:
    """How ``model`` takes signals of up to ``longest`` samples or features.

    Raises:
        UnsupportedModel: its results are not finite or not deterministic, or its frames do not come evenly.
    """
    contract = _without_padding(model, read)
    if contract.only_len is not None:
        return contract
    (module,) = with_values([SignalModel(model, read)])
    probe = _SignalProbe(module, contract, longest)
    unpadded = probe.run_unpadded()
    probe.check_deterministic(unpadded)
    return replace(contract, padding=harmless_padding([(probe, unpadded)], _CANDIDATES))


def frame_rule(model: nn.Module, read: ReadSignal) -> FrameRule:
    """Frames that ``model`` makes of a signal.

    Raises:
        UnsupportedModel: they do not come evenly.
    """
    return _without_padding(model, read).rule


def _without_padding(model: nn.Module, read: ReadSignal) -> SignalContract:
    hf_model: Any = model
    name = hf_model.main_input_name
    count = _frame_counter(model, read)
    width, is_time_last, only_len = None, False, only_length(model, read)
    if name != "input_values":
        width, is_time_last = _layout(model, count, only_len or _SOME_LEN)
    rule = _frame_rule(type(model).__name__, lambda length: count(length, width, is_time_last))
    return SignalContract(name, width, rule, Padding(None, reason=_ONLY), is_time_last, only_len)


def signal(length: int, width: int | None) -> torch.Tensor:
    """Tones ``[1, length]``, or features ``[1, length, width]``, to run a model over."""
    if width is None:
        time = torch.arange(length) / 16000.0
        tones = (torch.sin(2 * torch.pi * pitch * time) for pitch in (220.0, 1030.0, 3700.0))
        return sum(tones, torch.zeros(length))[None] * torch.linspace(0.2, 1.0, length)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, length, width, generator=generator)


class _SignalProbe(Probe):
    unit = "samples or features"

    def __init__(self, module: SignalModel, contract: SignalContract, longest: int):
        rule = contract.rule
        affordable = BUDGET // max(sum(parameter.numel() for parameter in module.parameters()), 1)
        # One more than whole frames: what is left over after a frame must not matter either. An odd number of frames,
        # which some models put together by two.
        short, most = rule.length(7) + 1, rule.length(max(10, min(affordable, 500))) + 1
        super().__init__(module, short, max(short + rule.stride, min(longest, most)))
        self._module, self._contract = module, contract

    def run(self, length: int, padded_len: int, padding: Padding) -> torch.Tensor:
        """See :meth:`Probe.run`; the signal's frames."""
        padded = signal(length, self._contract.width)
        padded = torch.cat([padded, padded.new_zeros(1, padded_len - length, *padded.shape[2:])], 1)
        padded = padded.transpose(1, 2) if self._contract.is_time_last else padded
        mask = (torch.arange(padded_len) < length).to(torch.int64)[None]
        contract = replace(self._contract, padding=padding)
        module = SignalModel(self._module.model, self._module.read, contract)
        num_rows = 1 if padded_len == length else 2
        rows = [padded.expand(num_rows, *[-1] * (padded.ndim - 1)), mask.expand(num_rows, -1)]
        with torch.no_grad():
            output = module(*rows).float()[:1]
        return output[:, : self._contract.rule.num_frames(length)]


_REFUSALS = (RuntimeError, ValueError, IndexError, TypeError, NotImplementedError)


Count = Callable[[int, int | None, bool], int]
"""Frames of a signal by its length, its width, and whether time is its last axis; 0 where the model takes none such."""


def _counter(
    model: nn.Module, read: ReadSignal, fakes: Callable[[], AbstractContextManager[Any]], device: str
) -> Count:
    module = SignalModel(model, read)

    def count(length: int, width: int | None, is_time_last: bool) -> int:
        size = [1, length] if width is None else [1, width, length] if is_time_last else [1, length, width]
        try:
            with torch.no_grad(), quiet_shapes(), fakes():
                return int(module(torch.empty(size, device=device)).shape[1])
        except _REFUSALS:
            return 0

    return count


def _frame_counter(model: nn.Module, read: ReadSignal) -> Count:
    """Only shapes are computed."""
    shapes = run_eagerly(model)
    return _counter(shapes.module, read, lambda: shapes.fake_mode, "cpu")


@remembered
def only_length(model: nn.Module, read: ReadSignal) -> int | None:
    """The length of the signals that ``model`` reads, where it refuses all others; None where it does not.

    On a model without our overrides, which lift such limits.
    """
    positions = getattr(model.config, "max_source_positions", None)
    if not isinstance(positions, int):
        return None
    parameters = {id(p): nn.Parameter(torch.empty_like(p, device="meta"), False) for p in model.parameters()}
    copied: Any = copy.deepcopy(model, memo=dict(parameters)).to("meta")
    count = _counter(copied, read, nullcontext, "meta")
    for length in [positions * stride for stride in (1, 2, 4)]:
        for width, is_time_last in _layouts(model):
            if count(length, width, is_time_last):
                return None if count(length // 2, width, is_time_last) else length
    return None


def _frame_rule(name: str, count: Callable[[int], int]) -> FrameRule:
    """Measured: floors of floors of lines are a floor of a line, whatever the convolutions are."""
    fourth, fifth = (_first_len(count, frames) for frames in (4, 5))
    rule = FrameRule(stride=max(1, fifth - fourth), offset=4 * (fifth - fourth) - fourth)
    probed = [rule.length(frames) + more for frames in (6, 17, 90) for more in (-1, 0, rule.stride // 2)]
    if any(count(length) != rule.num_frames(length) for length in probed):
        raise UnsupportedModel(f"{name} does not make frames of a signal at an even rate.")
    return rule


def _first_len(count: Callable[[int], int], num_frames: int) -> int:
    return bisect_left(_Lens(count), num_frames) + 1


class _Lens(Sequence[int]):
    """Frames by the length of a signal, from 1 on."""

    def __init__(self, count: Callable[[int], int]):
        self._count = count

    def __len__(self) -> int:
        return _MOST_LEN

    def __getitem__(self, index: Any) -> Any:
        return self._count(index + 1)


def _layout(model: nn.Module, count: Count, length: int) -> tuple[int, bool]:
    """Features of a place, and whether time is the last axis: what the model takes of a number of the config."""
    for width, is_time_last in _layouts(model):
        if width is not None and count(length, width, is_time_last):
            return width, is_time_last
    raise UnsupportedModel(f"The config of {type(model).__name__} does not say how many features a frame has.")


def _layouts(model: Any) -> Iterator[tuple[int | None, bool]]:
    """Some such places may be put together."""
    if model.main_input_name == "input_values":
        yield None, False
        return
    if (width := getattr(model, "signal_width", None)) is not None:
        yield width, False
        return
    numbers = sorted({*_feature_numbers(model.config)})
    widths = [number * together for together in (1, 2, 4) for number in numbers]
    yield from ((width, is_time_last) for is_time_last in (False, True) for width in widths)


def _feature_numbers(config: PreTrainedConfig) -> Iterator[int]:
    for name, value in vars(config).items():
        if isinstance(value, PreTrainedConfig):
            yield from _feature_numbers(value)
        elif any(part in name for part in ("mel", "feat")) and isinstance(value, int) and value > 1:
            yield value
