"""The kernels of linear attention against transformers' own functions: over ragged rows, in chunks that start from a
kept state, beside padding and idle rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers.models.bailing_hybrid import modeling_bailing_hybrid as kimi
from transformers.models.mamba import modeling_mamba as mamba
from transformers.models.mamba2 import modeling_mamba2 as mamba2
from transformers.models.qwen3_next import modeling_qwen3_next as qwen3_next

from QEfficient.transformers.lowering import recurrences as ours
from QEfficient.transformers.lowering.step import RetainedStep, running

HEADS, GROUPS, KEY, VALUE, CHANNELS, STATE = 4, 2, 8, 6, 12, 5
LENGTHS = (1, 7, 40)
GARBAGE = 50.0

Inputs = dict[str, Tensor]
Scan = Callable[[Inputs, Tensor | None], tuple[Tensor, Tensor]]


def _normal(*shape: int) -> Tensor:
    return torch.randn(*shape)


def _mamba2_inputs(rows: int, tokens: int) -> Inputs:
    return {
        "hidden_states": _normal(rows, tokens, HEADS, VALUE),
        "dt": _normal(rows, tokens, HEADS),
        "B": _normal(rows, tokens, GROUPS, STATE),
        "C": _normal(rows, tokens, GROUPS, STATE),
    }


def _mamba2(function: Callable[..., Any]) -> Scan:
    fixed = {"A": -torch.rand(HEADS) * 3, "D": _normal(HEADS), "dt_bias": _normal(HEADS), "dt_softplus": True}
    return lambda inputs, state: function(
        **inputs, **fixed, chunk_size=16, initial_states=state, return_final_states=True
    )


def _mamba_inputs(rows: int, tokens: int) -> Inputs:
    channels = {name: _normal(rows, tokens, CHANNELS) for name in ("hidden_states", "dt", "z")}
    return channels | {name: _normal(rows, tokens, STATE) for name in ("B", "C")}


def _mamba(function: Callable[..., Any]) -> Scan:
    fixed = {"A": -torch.rand(CHANNELS, STATE) * 3, "D": _normal(CHANNELS), "delta_bias": _normal(CHANNELS)}

    def scan(inputs: Inputs, state: Tensor | None) -> tuple[Tensor, Tensor]:
        if (step := ours.current_step()) is not None:
            step.begin_recurrence(torch.zeros(inputs["z"].shape[0], CHANNELS, STATE) if state is None else state)
        across = {name: value.transpose(1, 2) for name, value in inputs.items()}
        output, last = function(**across, **fixed, delta_softplus=True, return_last_state=True)
        return output.transpose(1, 2), last

    return scan


def _delta_inputs(rows: int, tokens: int, groups: int = GROUPS, decay: tuple[int, ...] = ()) -> Inputs:
    return {
        "query": _normal(rows, tokens, groups, KEY),
        "key": _normal(rows, tokens, groups, KEY),
        "value": _normal(rows, tokens, HEADS, VALUE),
        "g": functional.logsigmoid(_normal(rows, tokens, HEADS, *decay)),
        "beta": torch.sigmoid(_normal(rows, tokens, HEADS)),
    }


def _delta(function: Callable[..., Any]) -> Scan:
    flags = {"output_final_state": True, "use_qk_l2norm_in_kernel": True}
    return lambda inputs, state: function(**inputs, initial_state=state, **flags)


@dataclass(frozen=True)
class Kernel:
    """One of transformers' functions, how its inputs are made, and how it is called."""

    name: str
    inputs: Callable[[int, int], Inputs]
    scan: Callable[[Callable[..., Any]], Scan]
    theirs: Callable[..., Any]

    def both(self) -> tuple[Scan, Scan]:
        """Our function and theirs, with the same weights."""
        scans = []
        for function in (ours.KERNELS[self.name], self.theirs):
            torch.manual_seed(1)
            scans.append(self.scan(function))
        return scans[0], scans[1]


KERNELS = [
    Kernel("mamba2_chunk_scan", _mamba2_inputs, _mamba2, mamba2.mamba2_chunk_scan),
    Kernel("mamba_selective_scan", _mamba_inputs, _mamba, mamba.mamba_selective_scan),
    Kernel("torch_chunk_gated_delta_rule", _delta_inputs, _delta, qwen3_next.torch_recurrent_gated_delta_rule),
    Kernel(
        "chunk_kimi_delta_attention",
        lambda rows, tokens: _delta_inputs(rows, tokens, HEADS, (KEY,)),
        _delta,
        kimi.recurrent_kimi_delta_attention,
    ),
]


def _step(starts: list[int], counts: list[int], num_tokens: int) -> RetainedStep:
    places = torch.arange(num_tokens)[None]
    positions = torch.where(places < torch.tensor(counts)[:, None], torch.tensor(starts)[:, None] + places, -1)
    return RetainedStep(positions, max_step_len=1 << (num_tokens - 1).bit_length())


def _close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_every_kernel_is_compared() -> None:
    assert {kernel.name for kernel in KERNELS} == ours.KERNELS.keys()


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
@pytest.mark.parametrize("chunk", [40, 16, 5, 1])
def test_chunks_of_ragged_rows(kernel: Kernel, chunk: int) -> None:
    scan, theirs = kernel.both()
    whole = kernel.inputs(len(LENGTHS), max(LENGTHS))
    done, state = [0] * len(LENGTHS), None
    outputs: list[list[Tensor]] = [[] for _ in LENGTHS]
    while done != list(LENGTHS):
        counts = [min(chunk, length - start) for length, start in zip(LENGTHS, done, strict=True)]
        step = _step(done, counts, chunk)
        inputs = {name: torch.full((len(LENGTHS), chunk, *all_.shape[2:]), GARBAGE) for name, all_ in whole.items()}
        for name, row in ((name, row) for name in inputs for row in range(len(LENGTHS))):
            inputs[name][row, : counts[row]] = whole[name][row, done[row] : done[row] + counts[row]]
        with running(step):
            output, new = scan(inputs, state)
        state = new
        for row, count in enumerate(counts):
            outputs[row].append(output[row, :count])
            done[row] += count
    assert state is not None
    for row, length in enumerate(LENGTHS):
        expected, last = theirs({name: value[row : row + 1, :length] for name, value in whole.items()}, None)
        _close(torch.cat(outputs[row]), expected[0])
        _close(state[row], last[0])


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_padding_leaves_the_state_as_it_is(kernel: Kernel) -> None:
    scan, _ = kernel.both()
    inputs = kernel.inputs(2, 8)
    with running(_step([0, 0], [8, 8], 8)):
        _, state = scan(inputs, None)
    with running(_step([8, 8], [0, 0], 8)):
        _, same = scan(kernel.inputs(2, 8), state)
    assert torch.equal(same, state)


@pytest.mark.parametrize("num_tokens", [64, 128])
def test_keys_that_are_almost_one_another(num_tokens: int) -> None:
    """Where keys are alike, what is inverted has entries near one all over: a series for it would blow up."""
    torch.manual_seed(3)
    inputs = _delta_inputs(1, num_tokens)
    inputs["key"] = inputs["key"][:, :1] + 0.01 * inputs["key"]
    inputs |= {"beta": torch.full_like(inputs["beta"], 0.999), "g": inputs["g"] * 1e-3}
    with running(_step([0], [num_tokens], num_tokens)):
        found, state = _delta(ours.chunk_gated_delta_rule)(inputs, None)
    expected, last = _delta(qwen3_next.torch_recurrent_gated_delta_rule)(inputs, None)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(state, last, rtol=1e-3, atol=1e-3)


def test_outside_a_step_all_tokens_are_real() -> None:
    x = torch.zeros(2, 3, 4)
    assert torch.equal(ours.real_tokens(x), torch.ones(2, 3, dtype=torch.bool))
    assert [ours.num_doublings(count) for count in (1, 2, 3, 8, 9)] == [0, 1, 2, 3, 4]
