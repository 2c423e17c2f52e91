"""The context that is compiled where nobody says how long it shall be."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_models
from architectures.tiny import tiny_model

from QEfficient import QEFFAutoModelForCausalLM
from QEfficient.transformers.models import default_context


def compiled_len(model: Any, target: str = "cpu", **options: Any) -> int:
    parsed, _ = QEFFAutoModelForCausalLM(model)._parse({"target": target, **options})
    return parsed.ctx_len


def long_model(**changes: Any) -> Any:
    return tiny_models.causal_lm("llama", max_position_embeddings=100_000, **changes)


def test_cpu_has_room_and_a_card_what_upstream_compiles() -> None:
    assert compiled_len(long_model()) == 4096
    assert compiled_len(long_model(), "cloud-ai-100-sim") == 128
    assert compiled_len(long_model(), ctx_len=96) == 96


def test_no_more_than_the_model_has_positions_for() -> None:
    assert compiled_len(tiny_models.causal_lm("llama", max_position_embeddings=300)) == 300


def test_a_step_that_reads_all_of_the_context_gets_less() -> None:
    assert compiled_len(long_model(), lowering="retained") == 1024
    assert compiled_len(tiny_model("causal_lm", "mamba")) == 1024


@pytest.mark.parametrize(("num_slots", "expected"), [(1, 4096), (8, 1024), (1000, 128)])
def test_the_cache_takes_a_quarter_of_the_memory_at_most(
    num_slots: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = long_model()
    heads = model.config.num_key_value_heads * model.config.hidden_size // model.config.num_attention_heads
    token = 2 * model.config.num_hidden_layers * heads * 2  # keys and values, of two bytes
    monkeypatch.setattr(default_context, "memory_bytes", lambda: 4 * 8 * 1024 * token)
    assert compiled_len(model, full_batch_size=num_slots) == expected
