"""Recipes of the models that put an audio tower before a language model."""

from __future__ import annotations

from audio_text.recipe import Recipe

_GRANITE = Recipe(
    audio="<|audio|>",
    names={"audio_token": "<|audio|>"},
    ids={"audio_token_index": "<|audio|>"},
    config={
        "has_lora_adapter": False,
        "encoder_config": {"input_dim": 32, "hidden_dim": 64, "context_size": 20, "dim_head": 16},
        "text_config": {
            "attention_multiplier": 0.2,
            "logits_scaling": 4.0,
            "residual_multiplier": 0.5,
            "embedding_multiplier": 2.0,
        },
    },
    extractor={"n_mels": 16},
    extractor_name="audio_processor",
)

RECIPES: dict[str, Recipe] = {
    "granite_speech": _GRANITE,
    "granite_speech_plus": _GRANITE,
    "voxtral": Recipe(
        audio="[AUDIO]",
        ids={"audio_token_id": "[AUDIO]"},
        config={
            "audio_config": {"max_source_positions": 1500, "intermediate_size": 256},
            "text_config": {"head_dim": 32, "max_position_embeddings": 2048},
        },
        extractor={"feature_size": 16},
        takes_audio=False,
        seconds=(1.5, 31.0),
    ),
    "voxtral_realtime": Recipe(
        audio="[STREAMING_PAD]",
        config={
            "audio_config": {"head_dim": 16, "sliding_window": 12},
            "text_config": {"head_dim": 32, "sliding_window": 48},
        },
        extractor={"feature_size": 16},
        reads_text=False,
        takes_text=False,
        max_clips=1,
    ),
    "kyutai_speech_to_text": Recipe(
        config={
            "vocab_size": 300,
            "bos_token_id": 310,
            "num_codebooks": 4,
            "codebook_vocab_size": 33,
            "audio_bos_token_id": 32,
            "audio_pad_token_id": 432,
            "codec_config": {
                "num_filters": 4,
                "upsampling_ratios": [8, 6, 5, 4],
                "num_quantizers": 4,
                "codebook_size": 32,
                "vector_quantization_hidden_dimension": 16,
                "upsample_groups": 64,
                "sliding_window": 8,
            },
        },
        extractor={"sampling_rate": 24000},
        reads_text=False,
        takes_text=False,
        max_clips=1,
    ),
    "qwen3_asr": Recipe(
        audio="<|audio_start|><|audio_pad|><|audio_end|>",
        names={
            "audio_token": "<|audio_pad|>",
            "audio_bos_token": "<|audio_start|>",
            "audio_eos_token": "<|audio_end|>",
        },
        ids={"audio_token_id": "<|audio_pad|>"},
        config={"audio_config": {"downsample_hidden_size": 16, "n_window_infer": 200}},
        extractor={"feature_size": 16},
        seconds=(1.5, 4.3),
        max_clips=1,
    ),
    "fun_asr_nano": Recipe(
        audio="<|object_ref_start|>",
        ids={"audio_token_id": "<|object_ref_start|>"},
        config={
            "audio_config": {"num_hidden_layers": 4, "num_timestamp_prediction_layers": 1},
            "adaptor_config": {"intermediate_size": 16},
        },
        extractor={"feature_size": 16},
        max_clips=1,
    ),
    "vibevoice_asr": Recipe(
        audio="<|object_ref_start|><|box_start|><|object_ref_end|>",
        ids={
            "audio_token_id": "<|box_start|>",
            "audio_bos_token_id": "<|object_ref_start|>",
            "audio_eos_token_id": "<|object_ref_end|>",
        },
        config={"acoustic_tokenizer_chunk_size": 12800}
        | {
            name: {"num_filters": 4, "depths": [1, 1, 1], "downsampling_ratios": [40, 80], "hidden_size": 16}
            for name in ("acoustic_tokenizer_encoder_config", "semantic_tokenizer_encoder_config")
        },
        call={"sample": False},
    ),
}
"""By model type."""
