"""A model's first layers stand for all: what one step tells of them is what it tells of the whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from architectures.tiny import tiny_config
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedConfig

from QEfficient.transformers.checkpoint.meta_model import outline
from QEfficient.transformers.lowering import infer_cache_spec as state_discovery
from QEfficient.transformers.lowering.representative_layers import first_layers
from QEfficient.transformers.tasks.causal_lm import why_not, why_not_run


def longer(config: PreTrainedConfig, times: int = 4) -> PreTrainedConfig:
    """``config`` with its layers several times over."""
    types = getattr(config, "layer_types", None)
    values = config.to_dict() | {"num_hidden_layers": config.num_hidden_layers * times}
    if types is not None and not isinstance(getattr(type(config), "layer_types", None), property):
        values["layer_types"] = types * times
    left_out = {"_sliding_window_pattern"} | {
        name for name in values if isinstance(getattr(type(config), name, None), property)
    }
    return type(config)(**{name: value for name, value in values.items() if name not in left_out})


@pytest.mark.parametrize(
    ("name", "num_kept"),
    [("llama", 2), ("gemma3_text", 2), ("gpt_oss", 2), ("qwen3_next", 2), ("mamba", 2), ("glm4_moe", 2), ("gpt2", 2)],
)
def test_first_layers_stand_for_all(name: str, num_kept: int) -> None:
    config = longer(tiny_config("causal_lm", name))
    model = outline(AutoModelForCausalLM, config, Path(name))
    first = first_layers(model)
    assert first is not None
    assert max(first.stands_for) < num_kept
    assert first.module.config.num_hidden_layers == num_kept
    assert model.config.num_hidden_layers == len(first.stands_for) == config.num_hidden_layers
    assert state_discovery.state_specs(model) == state_discovery.specs_by_running(model)[0]
    for lowering in ("paged", "retained"):
        assert why_not(model, lowering) == why_not_run(model, lowering)


def test_a_decoders_first_layers() -> None:
    config = tiny_config("seq2seq", "bart")
    config.decoder_layers = 6
    model = outline(AutoModelForSeq2SeqLM, config, Path("bart"))
    first = first_layers(model)
    assert first is not None
    assert first.stands_for == (0,) * 6
    assert state_discovery.encoder_decoder_specs(model) == state_discovery._found_on_both_sides(model, None)


def test_layers_that_share_keys_are_all_run() -> None:
    model = outline(AutoModelForCausalLM, tiny_config("causal_lm", "gemma3n_text"), Path("gemma3n"))
    assert first_layers(model) is None


def test_the_model_is_not_touched() -> None:
    model = outline(AutoModelForCausalLM, longer(tiny_config("causal_lm", "llama")), Path("llama"))
    layers = list(model.model.layers)
    first = first_layers(model)
    assert first is not None
    assert list(model.model.layers) == layers
    kept = dict(first.module.named_parameters())
    assert all(kept[name] is parameter for name, parameter in model.named_parameters() if name in kept)
    assert not set(first.module.modules()) & set(model.modules())
