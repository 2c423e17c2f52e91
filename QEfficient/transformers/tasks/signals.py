"""Signals as inputs: samples of audio ``[B, T]``, or features of it ``[B, T, F]``, whole, with an attention mask.

As with texts, a signal's result must not depend on the padding in its batch row, and how a model takes padding is
measured on the model.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig

from QEfficient.contract import FrameRule, Json
from QEfficient.errors import UnsupportedModel
from QEfficient.transformers.lowering.apply import run_eagerly
from QEfficient.transformers.patches import quiet_shapes
from QEfficient.transformers.tasks.padding_probe import BUDGET, Probe, harmless_padding, with_values
from QEfficient.transformers.tasks.sequence_inputs import Padding, forward_parameters

ReadSignal = Callable[[Any, dict[str, Any]], torch.Tensor]
"""Runs a model and returns the output that a task needs: ``(model, arguments) -> [B, frames, ...]``."""
ATTENTION_MASK = "attention_mask"
_CANDIDATES = (Padding(), Padding(is_left_out=True))
_SOME_LEN, _MOST_LEN = 64, 1 << 18
"""Of signals that frames are counted for; the second is more than some strides of any model."""


@dataclass(frozen=True)
class SignalContract:
    """How a model takes signals."""

    input: str
    """Name of the signal among the model's arguments: ``input_values`` of samples, ``input_features`` of features."""
    width: int | None
    """Features of a place; None: samples have none."""
    rule: FrameRule
    padding: Padding

    def ingredients(self) -> Json:
        """All that decides the graph, without the wording of reasons."""
        return asdict(replace(self, padding=replace(self.padding, reason="")))


class SignalModel(nn.Module):
    """``model`` over a signal ``[B, T]`` or ``[B, T, F]``, padded on the right, and its mask ``[B, T]``, if it is
    padded."""

    def __init__(self, model: nn.Module, read: ReadSignal, padding: Padding | None = None):
        super().__init__()
        self.model = model
        self.read = read
        self.padding = padding or Padding()

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        signal, *mask = inputs
        model: Any = self.model
        arguments: dict[str, Any] = {model.main_input_name: signal}
        if mask and ATTENTION_MASK in forward_parameters(model):
            arguments[ATTENTION_MASK] = mask[0]
        leaves_out = bool(mask) and self.padding.is_left_out
        with _left_out(model, mask[0].sum(-1) if leaves_out else None):
            return self.read(model, arguments)


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
    hf_model: Any = model
    name = hf_model.main_input_name
    count = _frame_counter(model, read)
    width = None if name == "input_values" else _width(model, count)
    rule = _frame_rule(type(model).__name__, lambda length: count(length, width))
    (module,) = with_values([SignalModel(model, read)])
    probe = _SignalProbe(module, rule, width, longest)
    unpadded = probe.run_unpadded()
    probe.check_deterministic(unpadded)
    return SignalContract(name, width, rule, harmless_padding([(probe, unpadded)], _CANDIDATES))


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

    def __init__(self, module: SignalModel, rule: FrameRule, width: int | None, longest: int):
        affordable = BUDGET // max(sum(parameter.numel() for parameter in module.parameters()), 1)
        # One more than whole frames: what is left over after a frame must not matter either. An odd number of frames,
        # which some models put together by two.
        short, most = rule.length(7) + 1, rule.length(max(10, min(affordable, 500))) + 1
        super().__init__(module, short, max(short + rule.stride, min(longest, most)))
        self._module, self._rule, self._width = module, rule, width

    def run(self, length: int, padded_len: int, padding: Padding) -> torch.Tensor:
        """See :meth:`Probe.run`; the signal's frames."""
        padded = signal(length, self._width)
        padded = torch.cat([padded, padded.new_zeros(1, padded_len - length, *padded.shape[2:])], 1)
        mask = (torch.arange(padded_len) < length).to(torch.int64)[None]
        module = SignalModel(self._module.model, self._module.read, padding)
        num_rows = 1 if padded_len == length else 2
        rows = [padded.expand(num_rows, *[-1] * (padded.ndim - 1)), mask.expand(num_rows, -1)]
        with torch.no_grad():
            output = module(*rows).float()[:1]
        return output[:, : self._rule.num_frames(length)]


_REFUSALS = (RuntimeError, ValueError, IndexError, TypeError, NotImplementedError)


def _frame_counter(model: nn.Module, read: ReadSignal) -> Callable[[int, int | None], int]:
    """How many frames the model makes of a signal of a length and a width; 0 where it takes none such. Only shapes are
    computed."""
    shapes = run_eagerly(model)
    module = SignalModel(shapes.module, read)

    def count(length: int, width: int | None) -> int:
        size = [1, length] if width is None else [1, length, width]
        try:
            with torch.no_grad(), quiet_shapes(), shapes.fake_mode:
                return int(module(torch.empty(size)).shape[1])
        except _REFUSALS:
            return 0

    return count


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


def _width(model: nn.Module, count: Callable[[int, int | None], int]) -> int:
    """Features of a place: a number of the config, or some such places put together, that the model takes."""
    numbers = sorted({*_feature_numbers(model.config)})
    for width in [number * together for together in (1, 2, 4) for number in numbers]:
        if count(_SOME_LEN, width):
            return width
    raise UnsupportedModel(f"The config of {type(model).__name__} does not say how many features a frame has.")


def _feature_numbers(config: PreTrainedConfig) -> Iterator[int]:
    for name, value in vars(config).items():
        if isinstance(value, PreTrainedConfig):
            yield from _feature_numbers(value)
        elif any(part in name for part in ("mel", "feat")) and isinstance(value, int) and value > 1:
            yield value
