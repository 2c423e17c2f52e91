"""What makes a config tiny: rules over the names of its sizes, and the few things that no rule can say."""

from __future__ import annotations

import re
from typing import Any

from tiny_models import LLAMA3_ROPE, LONG_ROPE

VOCAB = 320

RULES: list[tuple[str, int]] = [
    # Vision and sound, which a text user never runs.
    (r"image_size|crop_size|input_size", 32),
    (r"num_mel_bins|codebook_dim|num_filters|output_channels|\w*_out_channel|nemo_conv_channels", 16),
    # Vocabularies and positions.
    (r"(src_|tgt_|decoder_)?vocab_size|vocab_size_per_layer_input|unpadded_vocab_size", VOCAB),
    (r"\w+_vocab_size", 32),
    (r"n_positions|n_ctx|max_seq_len|context_length|model_max_length|max_(\w+_)?positions?(_embeddings)?", 512),
    (r"original_max_position_embeddings|train_size", 64),
    # Layers; where they differ in kind, `layers` picks.
    (r"(num_(hidden_|decoder_|encoder_)?|n_|decoder_|encoder_|\w+coder_|num_global_|num_adapter_)layers?|depth", 2),
    (r"num_blocks|num_self_attends_per_block|num_layers_per_stack", 2),
    # Widths.
    (r"n_embd|d_model|dim|emb_dim|embed_dim|embedding_dim|attention_hidden_size|lru_width", 64),
    (r"(\w+_)?hidden_size(_global)?|adapter_(in_dim|out_dim|input_size)", 64),
    (
        r"(\w+_)?embed_dim|out_hidden_size|output_dim|\w+put_dim|projection_dim",
        64,
    ),
    (r"word_embed_proj_dim|embedding_size|input_embedding_size|output_embedding_size", 32),
    (r"moe_(shared_expert_)?intermediate_size|expert_ffn_hidden_size|shared_experts?_intermediate_size", 48),
    (r"(\w+_)?intermediate_size(_mlp)?|(\w+_)?ffn_dim|d_ff|dff|dim_ff|mlp_dim|(\w+_)?ffn_hidden_size|n_inner", 96),
    (r"feed_forward_size|d_inner|hidden_dim", 96),
    # Heads.
    (r"(\w+_)?attention_heads|n_heads?|num_heads|linear_num_(value_)?heads|num_query_groups", 4),
    (r"(\w+_)?num_key_value_heads|num_kv_heads|kv_n_heads|linear_num_key_heads", 2),
    (r"(\w+_)?head_dim|d_kv|d_head|dim_head|kv_channels|attention_head_size|attention_head_dim", 32),
    (r"linear_(key_|value_)?head_dim", 16),
    # Latent attention and its indexer.
    (r"q_lora_rank|o_lora_rank|hc_lowrank", 32),
    (r"kv_lora_rank|qk_nope_head_dim|index_head_dim|router_hidden_size|laurel_rank|adapter_rank|d_rel", 16),
    (r"qk_rope_head_dim|rotary_dim|gated_norm_rank", 8),
    (r"v_head_dim", 12),
    (r"index_topk", 8),
    (r"index_n_heads", 16),  # with few, scores after the ReLU tie at zero and any choice of keys is right
    (r"o_groups", 2),
    (r"block_multiple_of|ffn_round_up_to_multiple_of", 32),
    (r"encoder_hash_byte_group_vocab", 300),
    # Experts.
    (r"(moe_)?num_(local_)?experts|n_routed_experts|zero_expert_num", 4),
    (r"(num_experts_per_tok(en)?|moe_k|moe_topk?|moe_top_k)", 2),
    # Windows and chunks, shorter than the prompts.
    (r"(\w+_)?sliding_window(_size)?|(local_)?attention_window(_size|_len)?|attention_chunk_size|local_attention", 16),
    (r"(mamba_)?chunk_size|window_size|block_size|rel_extent|local_radius|global_block_size|\w+_chunk_length", 16),
    # Recurrent state.
    (r"state_size|ssm_state_size|mamba_d_state", 8),
    (r"mamba_d_head|mamba_head_dim|mamba_headdim", 16),
    (r"mamba_n_heads|mamba_num_heads|n_mamba_heads", 8),
    (r"mamba_d_ssm", 128),
    (r"n_groups|mamba_n_groups", 2),
    (r"time_step_rank|mamba_dt_rank|hidden_size_per_layer_input", 8),
]
"""A size is the smaller of the default and that of the first rule whose expression is its whole name."""

KEPT = frozenset({"type_vocab_size", "patch_size"})
"""Sizes that a rule names and that are part of what a model is."""


def rule(name: str) -> int | None:
    """The size that the rules give to the field ``name``, where they know it."""
    return next((size for pattern, size in RULES if re.fullmatch(pattern, name)), None)


_GRANITE = {"attention_multiplier": 0.2, "logits_scaling": 4.0, "residual_multiplier": 0.5, "embedding_multiplier": 2.0}
_MIXED = ["linear_attention", "full_attention", "linear_attention"]
_TAKING_TURNS = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
_SHARED_KV = {"num_hidden_layers": 4, "layer_types": _TAKING_TURNS, "num_kv_shared_layers": 2}
_GEMMA4 = {**_SHARED_KV, "global_head_dim": 64}

_GROUPS = {"n_routed_experts": 8, "n_group": 4, "topk_group": 2}
_DOTS3 = {
    "head_dim": 24,
    "swa_num_attention_heads": 2,
    "swa_num_key_value_heads": 2,
    "swa_q_lora_rank": 16,
    "swa_kv_lora_rank": 24,
    "swa_head_dim": 24,
    "swa_qk_nope_head_dim": 16,
    "swa_v_head_dim": 20,
}
_QSA = {
    "indexer_n_heads": 16,  # of few, each may give two blocks nothing, and which of these is picked is left open
    "indexer_kv_heads": 1,
    "indexer_head_dim": 32,
    "indexer_budget": 16,
    "indexer_compress_ratio": 4,
    "ple_layer_ids": [1],
    "ple_embed_dim": 64,
    "ngram_vocab_size_base": 300,
    "make_ngram_vocab_size_divisible_by": 8,
    "split_ngram_parts": 2,
    "heads_per_ngram": 2,
}

OVERRIDES: dict[str, dict[str, Any]] = {
    # Defaults that leave out what the published checkpoints of the architecture have.
    "llama": {"rope_parameters": LLAMA3_ROPE},
    "qwen2": {"use_sliding_window": True, "max_window_layers": 1, "sliding_window": 16},
    # A whole number of the pools that are picked.
    "glm5_next": {"text_config": {"index_kpool": 4}},
    # Either side of the length where the factors change: crossing it makes transformers' cache differ from its model.
    "phi4_multimodal": {"rope_parameters": LONG_ROPE, "original_max_position_embeddings": 4},
    "phi3": {"rope_parameters": LONG_ROPE, "original_max_position_embeddings": 512},
    "granite": _GRANITE,
    "granitemoe": _GRANITE,
    "granitemoeshared": {**_GRANITE, "shared_intermediate_size": 48},
    "granitemoehybrid": {**_GRANITE, "num_hidden_layers": 3, "layer_types": _MIXED},
    "bamba": {"num_hidden_layers": 3, "attn_layer_indices": [1]},
    "jamba": {"num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2": {"num_hidden_layers": 3, "layer_types": ["conv", "full_attention", "conv"], "full_attn_idxs": [1]},
    "lfm2_moe": {"num_hidden_layers": 3, "layer_types": ["conv", "full_attention", "conv"], "num_dense_layers": 1},
    "gemma4_text": _GEMMA4,
    "gemma4_unified_text": _GEMMA4,
    "gemma4": {"text_config": _GEMMA4},
    "gemma4_unified": {"text_config": _GEMMA4},
    "qwen4_exp_text": _QSA,
    "qwen4_exp": {"text_config": _QSA},
    "cohere": {"logit_scale": 0.5},
    "cohere2": {"logit_scale": 0.5},
    "cohere2_moe": {"logit_scale": 0.5},
    # Defaults that are no whole model.
    "deepseek_v2": {"num_experts_per_tok": 2, "topk_method": "group_limited_greedy", **_GROUPS},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "first_k_dense_replace": 1},
    "hunyuan_v1_dense": {"head_dim": 32},
    "hunyuan_v1_moe": {"head_dim": 32},
    "ministral": {"head_dim": 32},
    "nemotron": {"head_dim": 32, "num_key_value_heads": 2},
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "clip_qkv": 8.0}},
    "blt": {"num_hidden_layers": 2},
    "xmod": {"default_language": "en_XX"},
    "emu3": {"vocabulary_map": {"<image>": 318, "<|extra_200|>": 317, "<|visual token 000000|>": 316}},
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": None, "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}
    },
    "nllb-moe": {"encoder_sparse_step": 2, "decoder_sparse_step": 2},
    "encoder-decoder": {"decoder": {"is_decoder": True, "add_cross_attention": True}},
    "whisper": {"max_source_positions": 50},
    "moonshine_streaming": {"num_key_value_heads": 4},
    "speech-encoder-decoder": {
        "pad_token_id": 0,
        "decoder_start_token_id": 1,
        "decoder": {"is_decoder": True, "add_cross_attention": True},
    },
    "wav2vec2-bert": {"vocab_size": 32},
    "wav2vec2-conformer": {"vocab_size": 32},
    # Sizes that hang together.
    "granite_speech5_ctc": {"encoder_config": {"num_key_value_heads": 4, "context_size": 16}},
    "moshi": {"sliding_window": 512},  # as long as its positions, as in the published one
    "helium": {"head_dim": 16},
    "xlstm": {"hidden_size": 128, "embedding_dim": 128},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "gemma3n_text": _SHARED_KV | {"intermediate_size": 96, "activation_sparsity_pattern": [0.95, 0.0, 0.0, 0.0]},
    "zamba": {"num_hidden_layers": 4, "layers_block_type": ["linear_attention", "hybrid"] * 2},
    "dots3_note_text": _DOTS3,
    "dots3_note": {"text_config": _DOTS3},
    "reformer": {
        "axial_pos_embds_dim": [16, 48],
        "axial_pos_shape": [32, 16],
        "attn_layers": ["local", "lsh"],
        "hash_seed": 0,
        "num_buckets": 2,
    },
    "esmc": {"num_key_value_heads": 4},
    "funnel": {"block_sizes": [1, 1], "num_decoder_layers": 1},
    "squeezebert": {"embedding_size": 64},
    "layoutlmv3": {"coordinate_size": 8, "shape_size": 16},
    "lilt": {"hidden_size": 96},
    "perceiver": {"num_latents": 16, "d_latents": 64, "d_model": 64},
    "tipsv2_text_model": {"max_position_embeddings": 128},
    **{
        name: {"text_config": {"max_position_embeddings": 128}}
        for name in ("owlv2", "owlvit", "siglip", "siglip2", "tipsv2")
    },
    "esm": {"vocab_size": 33, "mask_token_id": 32},
    # What the code asks for besides the config's own defaults.
    "text_encoder/funnel": {"architectures": ["FunnelModel"]},
    "text_encoder/t5gemma": {"is_encoder_decoder": False},
    "causal_lm/xlm": {"causal": True},
}
"""By model type, or ``family/model_type``; a nested dict changes a part of the config."""

_SHARP = {"att": 0.6, "matrices": 0.15}
_MIRRORED = {"flips": 0.5, "embeddings": 0.3, "att": 0.1}
_SHARP_LOUD = {"embeddings": 0.3, "att": 0.6}
_DULL = {"att": 0.1}
_UNEVEN = {"zeros": 1.0}
_SHARP_MIRRORED = {"flips": 0.5, "embeddings": 0.3, "att": 0.6}

_FALCON_RW: dict[str, Any] = {"new_decoder_architecture": False, "multi_query": False, "parallel_attn": False}

VARIANTS: dict[str, dict[str, Any]] = {
    "falcon+rw": {"alibi": True, "bias": True, **_FALCON_RW},
    "falcon+alibi": {"alibi": True, "new_decoder_architecture": False, "multi_query": True},
    "falcon+alibi-groups": {"alibi": True, "new_decoder_architecture": True},
    "gpt2+upcast": {"reorder_and_upcast_attn": True, "scale_attn_by_inverse_layer_idx": True},
}
"""Configs of checkpoints that differ from their architecture's defaults, as ``architecture+what``."""

SPREAD: dict[str, dict[str, float]] = {
    **dict.fromkeys(("bert", "bert-generation", "camembert", "ernie", "xlm-roberta", "xlm-roberta-xl", "xmod"), _SHARP),
    **dict.fromkeys(("bigbird_pegasus", "blenderbot-small", "ctrl", "plbart", "prophetnet"), _SHARP),
    **dict.fromkeys(("bloom", "cpmant", "fuyu", "persimmon", "zaya"), _MIRRORED),
    **dict.fromkeys(("marian", "xglm"), _SHARP_MIRRORED),
    **dict.fromkeys(("electra", "xlnet"), _SHARP_LOUD),
    **dict.fromkeys(("big_bird", "openai-gpt"), _DULL),
    **dict.fromkeys(("gemma3", "gemma3_text"), _UNEVEN),
    "mobilebert": {"matrices": 0.1, "att": 0.1},  # nothing in it norms, so that sizes grow from layer to layer
    "hrm_text": {"matrices": 0.15},  # its recurrence over depth makes large errors of small ones
    "roc_bert": {"embeddings": 0.3, "att": 0.1},
    "roformer": _SHARP_MIRRORED | {"matrices": 0.15},
    # Of sharper ones Hugging Face's own float32 is as far from its float64 as what is compared may be.
    "sequence_classification/plbart": {"att": 0.3},
    **{f"sequence_classification/{name}": {"matrices": 0.15} for name in ("t5", "mt5", "umt5")},
    "speech_seq2seq": {"conv_layers": 0.05},
    "ctc": {"conv_layers": 0.05},  # of sharper ones values grow beyond fp16
    "seq2seq": _MIRRORED | {"matrices": 0.15},
    "seq2seq/bigbird_pegasus": _SHARP | {"flips": 0.0, "embeddings": 0.03},
    **dict.fromkeys(("seq2seq/led", "seq2seq/seamless_m4t", "seq2seq/seamless_m4t_v2"), _MIRRORED | {"matrices": 0.3}),
    "seq2seq/longt5": {"embeddings": 0.03, "att": 0.3, "matrices": 0.6},
    "seq2seq/switch_transformers": {"embeddings": 0.03, "matrices": 0.3},
    "seq2seq/t5gemma": {"flips": 0.0, "embeddings": 0.03, "att": 0.6, "matrices": 0.6},
    "seq2seq/t5gemma2": {"flips": 0.0, "zeros": 3.0, "embeddings": 0.003, "att": 0.15, "matrices": 0.15},
    "seq2seq/blenderbot": _SHARP_LOUD | {"flips": 0.0, "matrices": 0.3},
    "seq2seq/mt5": {"att": 0.6, "matrices": 0.3, "embeddings": 0.03},
    "seq2seq/plbart": {"embeddings": 0.03},
    "seq2seq/encoder-decoder": {"flips": 0.5, "matrices": 0.3},
    "seq2seq/prophetnet": {"flips": 0.0, "matrices": 0.3},
    **dict.fromkeys(("seq2seq/nllb-moe", "seq2seq/pegasus_x"), _SHARP_MIRRORED | {"matrices": 0.3}),
    **dict.fromkeys(("seq2seq/m2m_100", "seq2seq/pegasus"), _SHARP_LOUD | {"flips": 0.0, "matrices": 0.3}),
}
"""Where the usual spread of the weights lets a model repeat a few tokens; keyed by model type, then by family, then by
``family/model_type``, the later before the earlier. A spread goes by parts of parameters' names; ``flips`` is the share
of norms' weights whose sign flips, which hides a token from the head that is tied to its embedding."""
