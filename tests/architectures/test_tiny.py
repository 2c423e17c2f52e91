"""The tiny architectures are all there, are the same every time, and are odd where the real ones are."""

from __future__ import annotations

import pytest
import torch
from architectures.reference import prompts, reference
from architectures.tiny import UNABLE, UNREADABLE, families, other_heads, tiny_config, tiny_model


def test_the_families_are_whole() -> None:
    assert {family: len(model_types) for family, model_types in families().items()} == {
        "causal_lm": 189,
        "ctc": 13,
        "seq2seq": 25,
        "speech_seq2seq": 21,
        "sequence_classification": 127,
        "text_encoder": 61,
    }


def test_every_encoder_has_a_checkpoint_of_another_head() -> None:
    """But those that no text user can run, and one whose whole model runs as an encoder itself."""
    heads = other_heads()
    assert {family: len(model_types) for family, model_types in heads.items()} == {
        "text_encoder_other_head": 74,
        "causal_lm_other_head": 7,
    }
    alone = {*families()["text_encoder"]} - heads["text_encoder_other_head"].keys()
    assert alone == {"molmo2_text", "perceiver", "reformer"}
    assert all(model_type in heads[family] and reason for (family, model_type), reason in UNREADABLE.items())


def test_what_is_unable_is_in_its_family() -> None:
    assert all(model_type in families()[family] and reason for (family, model_type), reason in UNABLE.items())


@pytest.mark.parametrize(
    ("family", "model_type"),
    [("causal_lm", "qwen3_next"), ("seq2seq", "t5"), ("sequence_classification", "bert"), ("text_encoder", "bert")],
)
def test_a_seed_gives_the_same_weights(family: str, model_type: str) -> None:
    first, second, other = (tiny_model(family, model_type, seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_llama_has_grouped_heads_and_a_scaled_rope() -> None:
    config = tiny_config("causal_lm", "llama")
    assert config.num_key_value_heads < config.num_attention_heads
    assert config.rope_parameters["rope_type"] == "llama3"


def test_gemma3_has_windows_and_heads_that_are_no_share_of_its_width() -> None:
    config = tiny_config("causal_lm", "gemma3_text")
    assert set(config.layer_types) == {"sliding_attention", "full_attention"}
    assert config.sliding_window == 16
    assert config.head_dim != config.hidden_size // config.num_attention_heads
    assert config.tie_word_embeddings


def test_deepseek_v3_has_latents_shared_experts_and_groups() -> None:
    config = tiny_config("causal_lm", "deepseek_v3")
    assert 0 < config.kv_lora_rank < config.hidden_size
    assert config.qk_nope_head_dim + config.qk_rope_head_dim != config.v_head_dim
    assert config.n_shared_experts > 0
    assert config.topk_group < config.n_group < config.n_routed_experts


def test_qwen3_next_and_jamba_mix_kinds_of_layers() -> None:
    for model_type in ("qwen3_next", "jamba"):
        assert set(tiny_config("causal_lm", model_type).layer_types) == {"linear_attention", "full_attention"}


def test_gemma3n_shares_keys_and_values() -> None:
    config = tiny_config("causal_lm", "gemma3n_text")
    assert 0 < config.num_kv_shared_layers < config.num_hidden_layers == len(config.layer_types)


def test_whole_and_text_config_of_a_multimodal_model_are_equally_small() -> None:
    assert tiny_config("causal_lm", "llama4").get_text_config().hidden_size == 64


def test_classifiers_have_three_labels_and_padding() -> None:
    config = tiny_config("sequence_classification", "gpt2")
    assert config.num_labels == 3
    assert config.pad_token_id is not None


def test_greedy_answers_do_not_collapse() -> None:
    model = tiny_model("causal_lm", "mixtral")
    answers = reference(model, prompts(model.config))
    assert all(len(answer.tokens) == 32 and len(set(answer.tokens)) > 8 for answer in answers)
    assert all(answer.logits.shape == (32, 320) and answer.margin > 0 for answer in answers)
