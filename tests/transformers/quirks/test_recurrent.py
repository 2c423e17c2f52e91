"""The forwards that take the place of a model's own, against the model's own: ragged rows, in one step and in chunks
between which only the state is kept, beside padding, idle rows and what an earlier sequence left behind."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from architectures.tiny import tiny_config
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from QEfficient.transformers.lowering.apply import lower
from QEfficient.transformers.lowering.cache_spec import ROWS, axis_sizes
from QEfficient.transformers.lowering.infer_cache_spec import state_specs
from QEfficient.transformers.quirks import apply_quirks
from QEfficient.transformers.tasks.causal_lm import RetainedCausalLM

CONFIGS: dict[str, dict[str, Any]] = {
    "minimax": {},
    "recurrent_gemma": {},
    # As many layers as it takes to see which weights are divided.
    "rwkv": {"rescale_every": 1, "num_hidden_layers": 3},
    "xlstm": {},
    # A bias makes the token before the first one other than nothing.
    "zaya": {"attention_bias": True},
    # Positions beyond this number scale the queries.
    "inkling_text": {"log_scaling_n_floor": 4},
    "inkling2_text": {"log_scaling_n_floor": 4},
    # A token that ends a text, of few, comes up often: nothing is seen across it.
    "qwen4_exp_text": {"eos_token_id": 7},
    "glm5_next": {},
}
LENGTHS = (1, 9, 43)
CTX_LEN = 48


def _random_model(model_type: str) -> Any:
    """Its own initialization, louder: a layer that says next to nothing could say anything."""
    config = tiny_config("causal_lm", model_type)
    for name, value in CONFIGS[model_type].items():
        setattr(config, name, value)
    torch.manual_seed(2)
    sees = getattr(config, "vision_config", None) is not None
    auto_class: Any = AutoModelForImageTextToText if sees else AutoModelForCausalLM
    model = auto_class.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.add_(torch.randn_like(weight) * (0.15 if weight.ndim > 1 else 0.05))
            if name.endswith("igate_preact.bias"):
                weight.zero_()  # begins at -10: what lets next to nothing in
    return model


class _Lowered:
    """The lowering in plain PyTorch: the quirks and a retained state, over the model's own weights."""

    def __init__(self, model: Any, num_rows: int):
        copied = copy.deepcopy(model)
        for module, lowered in zip(copied.modules(), lower(model, "retained").module.modules(), strict=True):
            if hasattr(module, "config"):
                module.config._attn_implementation = lowered.config._attn_implementation
                module.config._experts_implementation = lowered.config._experts_implementation
        apply_quirks(copied)
        self.specs = state_specs(model)
        sizes = axis_sizes(self.specs, CTX_LEN) | {ROWS: num_rows}
        shapes = [[sizes.get(size, size) for size in t.shape] for spec in self.specs for t in spec.tensors]
        self.state = [torch.full(shape, 7.0) for shape in shapes]
        self.graph = RetainedCausalLM(copied, self.specs, max_step_len=64)

    def step(self, input_ids: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
        """Logits of each row's newest token."""
        with torch.no_grad():
            logits, self.state = self.graph(input_ids, position_ids, self.state)
        return logits[:, 0]


@pytest.fixture(scope="module", params=CONFIGS)
def model(request: pytest.FixtureRequest) -> Any:
    return _random_model(request.param)


def test_weights_far_below_those_of_nothing() -> None:
    """Where a sequence begins, an average has no weight at all, which is less than any key's."""
    model = _random_model("rwkv")
    with torch.no_grad():
        for block in model.rwkv.blocks:
            block.attention.key.weight.mul_(60)
    _compare(model, 16)


@pytest.mark.parametrize("chunk", [43, 16, 5])
def test_logits_are_those_of_the_model(model: Any, chunk: int) -> None:
    _compare(model, chunk)


def _compare(model: Any, chunk: int) -> None:
    random = torch.Generator().manual_seed(chunk)
    ids = torch.randint(3, 13, (len(LENGTHS), max(LENGTHS)), generator=random)
    lowered = _Lowered(model, len(LENGTHS))
    # The model's own one row at a time, and whole.
    with torch.no_grad():
        expected = [model(row[None, :length]).logits[0] for row, length in zip(ids, LENGTHS, strict=True)]
    done = [0] * len(LENGTHS)
    while done != list(LENGTHS):
        # As many as come: a row goes on behind padding, and waits while others go on.
        most = torch.randint(0, chunk + 1, (len(LENGTHS),), generator=random).tolist()
        counts = [min(some, length - start) for some, length, start in zip(most, LENGTHS, done, strict=True)]
        inputs = torch.full((len(LENGTHS), chunk), 5)
        positions = torch.full((len(LENGTHS), chunk), -1)
        for row, (start, count) in enumerate(zip(done, counts, strict=True)):
            inputs[row, :count] = ids[row, start : start + count]
            positions[row, :count] = torch.arange(start, start + count)
        logits = lowered.step(inputs, positions)
        for row, count in enumerate(counts):
            done[row] += count
            if count:
                torch.testing.assert_close(logits[row], expected[row][done[row] - 1], rtol=2e-3, atol=2e-4)


def test_every_layer_keeps_something(model: Any) -> None:
    kinds = {spec.kind for spec in state_specs(model)}
    assert kinds & {"linear", "hybrid"}
    assert "none" not in kinds


def test_idle_rows_keep_their_state(model: Any) -> None:
    lowered = _Lowered(model, 2)
    lowered.step(torch.full((2, 4), 5), torch.arange(4)[None].repeat(2, 1))
    before = [tensor[1].clone() for tensor in lowered.state]
    lowered.step(torch.full((2, 4), 6), torch.tensor([[4, 5, -1, -1], [-1, -1, -1, -1]]))
    assert all(torch.equal(old, tensor[1]) for old, tensor in zip(before, lowered.state, strict=True))
