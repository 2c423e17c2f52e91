"""Recipes of models that take an image as a grid of patches: as many patches as it has room for."""

from __future__ import annotations

from typing import Any

from image_text.recipe import Recipe

_IDS = {
    "image_token_id": "<|image_pad|>",
    "image_token_index": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "video_token_index": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}
_ROPE = {"rope_type": "default", "rope_theta": 1e4}
_ROPE_BY_SECTIONS = {**_ROPE, "mrope_section": [2, 3, 3]}
_PIXELS_28 = {"size": {"shortest_edge": 28 * 28, "longest_edge": 84 * 84}}
_PIXELS_32: dict[str, Any] = {"size": {"shortest_edge": 32 * 32, "longest_edge": 96 * 96}}
_QWEN2 = Recipe(
    image="<|vision_start|><|image_pad|><|vision_end|>",
    ids=_IDS,
    config={"text_config": {"rope_parameters": _ROPE_BY_SECTIONS}},
    images=_PIXELS_28,
    text="$A",
)
_WINDOWS = {"fullatt_block_indexes": [1], "window_size": 56, "out_hidden_size": 64}
_QWEN3 = _QWEN2.but(
    config={
        "text_config": {"rope_parameters": {"mrope_section": [6, 5, 5], "mrope_interleaved": True}},
        "vision_config": {"num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1], "out_hidden_size": 64},
    },
    images={**_PIXELS_32, "patch_size": 16},
)
_QWEN3_5 = Recipe(
    image=_QWEN2.image,
    ids=_IDS,
    config={
        "text_config": {
            "rope_parameters": {
                **_ROPE,
                "partial_rotary_factor": 0.5,
                "mrope_section": [3, 3, 2],
                "mrope_interleaved": True,
            }
        },
        "vision_config": {"num_position_embeddings": 16, "out_hidden_size": 64},
    },
    images={**_PIXELS_32, "patch_size": 16},
    text="$A",
)
_OMNI_NAMES = {
    "image_token": "<|image_pad|>",
    "audio_token": "<|audio_pad|>",
    "video_token": "<|video_pad|>",
    "vision_bos_token": "<|vision_start|>",
    "vision_eos_token": "<|vision_end|>",
    "audio_bos_token": "<|audio_start|>",
    "audio_eos_token": "<|audio_end|>",
}
_OMNI_IDS = {
    "audio_token_id": "<|audio_pad|>",
    "audio_token_index": "<|audio_pad|>",
    "audio_start_token_id": "<|audio_start|>",
    "audio_end_token_id": "<|audio_end|>",
    "user_token_id": "<|user|>",
}
_STARTS = {"vision_start_token_id": 0, "vision_end_token_id": 0}
_HEARS = {"output_dim": 64, "num_mel_bins": 16, "encoder_layers": 1}
_GLM = Recipe(
    image="<|begin_of_image|><|image|><|end_of_image|>",
    ids={
        "image_token_id": "<|image|>",
        "image_start_token_id": "<|begin_of_image|>",
        "image_end_token_id": "<|end_of_image|>",
        "video_token_id": "<|video|>",
        "video_start_token_id": "<|begin_of_video|>",
        "video_end_token_id": "<|end_of_video|>",
    },
    config={
        "text_config": {"rope_parameters": {**_ROPE_BY_SECTIONS, "partial_rotary_factor": 1.0}},
        "vision_config": {"image_size": 56, "out_hidden_size": 64},
    },
    images={"size": {"shortest_edge": 2 * 28 * 28, "longest_edge": 2 * 84 * 84}},
    text="$A",
)
_ERNIE_NAMES = {
    "image_token": "<|IMAGE_PLACEHOLDER|>",
    "image_start_token": "<|IMAGE_START|>",
    "image_end_token": "<|IMAGE_END|>",
    "video_token": "<|VIDEO_PLACEHOLDER|>",
    "video_start_token": "<|VIDEO_START|>",
    "video_end_token": "<|VIDEO_END|>",
}

RECIPES: dict[str, Recipe] = {
    "qwen2_vl": _QWEN2,
    "qwen2_5_vl": _QWEN2.but(config={"vision_config": _WINDOWS}),
    "qwen2_5_omni_thinker": _QWEN2.but(
        ids=_OMNI_IDS,
        names=_OMNI_NAMES,
        config={"vision_config": _WINDOWS, "audio_config": _HEARS, **_STARTS},
        processor_class="Qwen2_5OmniProcessor",
        image_processor_class="Qwen2VLImageProcessorPil",
    ),
    "qwen3_vl": _QWEN3,
    "qwen3_vl_moe": _QWEN3.but(image_processor_class="Qwen2VLImageProcessorPil"),
    "cosmos3_omni": _QWEN3.but(processor_class="Qwen3VLProcessor"),
    "qwen3_omni_moe_thinker": _QWEN3.but(
        ids=_OMNI_IDS,
        names=_OMNI_NAMES,
        config={"audio_config": _HEARS, "text_config": {"rope_parameters": {"mrope_section": [2, 3, 3]}}, **_STARTS},
        processor_class="Qwen3OmniMoeProcessor",
        image_processor_class="Qwen2VLImageProcessorPil",
    ),
    "qwen3_5": _QWEN3_5,
    "qwen3_5_moe": _QWEN3_5,
    "qwen4_exp": _QWEN3_5,
    "glm4v": _GLM,
    "glm4v_moe": _GLM.but(image_processor_class="Glm4vImageProcessorPil"),
    "glm46v": _GLM,
    "glmga": _GLM.but(processor_class="Glm46VProcessor"),
    "glm_ocr": _GLM.but(processor_class="Glm46VProcessor", image_processor_class="Glm46VImageProcessorPil"),
    "glm5_next": _GLM.but(
        images={"size": {"longest_edge": 1}, "min_image_tokens": 1, "max_image_tokens": 9},
    ),
    "ernie4_5_vl_moe": Recipe(
        image="<|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>",
        names=_ERNIE_NAMES,
        ids={f"{name}_id": token for name, token in _ERNIE_NAMES.items()},
        config={
            "text_config": {
                "rope_parameters": {**_ROPE, "mrope_section": [3, 3, 2]},
                "moe_intermediate_size": [48, 32],
            }
        },
        images=_PIXELS_28,
    ),
    "exaone4_5": _QWEN2.but(config={"vision_config": {**_WINDOWS, "num_key_value_heads": 2}}),
    "hyperclovax_vision_v2": _QWEN2.but(config={"vision_config": _WINDOWS}),
    "video_llama_3": Recipe(
        image="<|image_pad|>",
        ids=_IDS,
        images={**_PIXELS_32, "patch_size": 16, "merge_size": 2},
        text="$A",
    ),
    "paddleocr_vl": _QWEN2.but(
        names={"image_token": "<|image_pad|>"},
        config={
            "text_config": {"rope_parameters": {"mrope_section": [6, 5, 5]}},
            "vision_config": {"image_size": 56},
        },
    ),
    "hunyuan_vl": Recipe(
        image="<im_start><image><im_end>",
        names={"image_token": "<image>", "image_start_token": "<im_start>", "image_end_token": "<im_end>"},
        ids={
            "image_token_id": "<image>",
            "im_start_id": "<im_start>",
            "im_end_id": "<im_end>",
            "im_newline_id": "<im_newline>",
            "eod_token_id": "<eod>",
            "sep_token_id": "<sep>",
        },
        config={
            "text_config": {"head_dim": 16, "rope_parameters": {**_ROPE, "mrope_section": [2, 2, 2, 2]}},
            "vision_config": {
                "max_image_size": 96,
                "min_image_size": 32,
                "out_hidden_size": 64,
                "text_hidden_size": 64,
            },
        },
        images=_PIXELS_32,
    ),
    "cosmos3_edge": _QWEN2.but(
        config={
            "text_config": {"rope_parameters": {"mrope_section": [6, 5, 5]}},
            "vision_config": {"num_patches": 16},
            "projector_hidden_size": 96,
        },
        images=_PIXELS_32,
        call={"return_mm_token_type_ids": True},
    ),
    "cohere_compass": Recipe(
        image="<|VISION_START|><|IMAGE_PAD|><|VISION_END|>",
        ids={
            "image_token_id": "<|IMAGE_PAD|>",
            "video_token_id": "<|VIDEO_PAD|>",
            "vision_start_token_id": "<|VISION_START|>",
            "vision_end_token_id": "<|VISION_END|>",
        },
        config={
            "text_config": {"rope_parameters": {"full_attention": None, "sliding_attention": _ROPE}},
            "vision_config": {"num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1], "out_hidden_size": 64},
        },
        images={**_PIXELS_32, "patch_size": 16},
    ),
    "lfm3_vl": Recipe(
        image=_QWEN2.image,
        ids=_IDS,
        config={"projector_hidden_size": 64},
        images={**_PIXELS_32, "patch_size": 16},
        text="$A",
    ),
    "dots3_note": Recipe(
        image="<|imgpad|>",
        ids={
            "image_token_id": "<|imgpad|>",
            "video_token_id": "<|video_pad|>",
            "audio_token_id": "<|audio_comp_pad|>",
        },
        images={**_PIXELS_28, "temporal_patch_size": 1},
    ),
}
