"""Recipes of models to which every image is as many tokens as every other."""

from __future__ import annotations

from typing import Any

from image_text.recipe import Recipe

SQUARE = {"size": {"height": 32, "width": 32}}
CLIP: dict[str, Any] = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
LLAVA = Recipe(
    ids={"image_token_index": "<image>"},
    config={"vision_config": {"image_size": 28, "patch_size": 14}, "image_seq_length": 4},
    images=CLIP,
    processor={"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1},
)
_GEMMA_NAMES = {"boi_token": "<start_of_image>", "image_token": "<image_soft_token>", "eoi_token": "<end_of_image>"}
_GEMMA_VISION = {"image_size": 32, "patch_size": 4}
_GEMMA3 = Recipe(
    image="<start_of_image>",
    names=_GEMMA_NAMES,
    ids={
        "boi_token_index": "<start_of_image>",
        "eoi_token_index": "<end_of_image>",
        "image_token_index": "<image_soft_token>",
    },
    config={"mm_tokens_per_image": 16, "vision_config": _GEMMA_VISION},
    images=SQUARE,
    processor={"image_seq_length": 16},
)
_DEEPSEEK = Recipe(
    image="<image_placeholder>",
    names={"image_token": "<image_placeholder>"},
    ids={"image_token_id": "<image_placeholder>"},
    config={"vision_config": {"image_size": 32, "patch_size": 8}},
    images={**SQUARE, "min_size": 8},
    processor={"num_image_tokens": 16},
)
_SAM = {"image_size": 64, "patch_size": 16, "global_attn_indexes": [1], "window_size": 2, "output_channels": 16}
_CODES = [f"IMGIMG{letter}Z" for letter in "ABCDEFGHIJ"]
_VISUAL_TOKENS = [f"<|visual token {number:06d}|>" for number in range(10)]

RECIPES: dict[str, Recipe] = {
    "llava": LLAVA,
    "vipllava": LLAVA.but(
        config={"vision_feature_layers": [-2, -1]},
        processor={"vision_feature_select_strategy": "default"},
    ),
    "video_llava": LLAVA.but(
        ids={"video_token_index": "<video>"},
        processor={"vision_feature_select_strategy": "default"},
    ),
    "gemma3": _GEMMA3,
    "shieldgemma2": _GEMMA3.but(call={"policies": ["violence"]}, max_images=1, saved_prefix="model."),
    "t5gemma2": _GEMMA3.but(
        config={"encoder": {"mm_tokens_per_image": 16, "vision_config": _GEMMA_VISION}},
    ),
    "paligemma": Recipe(
        names={"image_token": "<image>"},
        ids={"image_token_index": "<image>"},
        config={"vision_config": {"image_size": 32, "patch_size": 16}, "text_config": {"num_key_value_heads": 1}},
        images=SQUARE | {"image_seq_length": 4},
        chats=False,
    ),
    "deepseek_vl": _DEEPSEEK,
    "deepseek_vl_hybrid": _DEEPSEEK.but(
        config={"high_res_vision_config": _SAM}, images={"high_res_size": {"height": 64, "width": 64}}
    ),
    "janus": _DEEPSEEK.but(
        names={"boi_token": "<begin_of_image>", "eoi_token": "<end_of_image>"},
        config={
            "vision_config": {"num_image_tokens": 16, "projection_dim": 64},
            "vq_config": {
                "base_channels": 32,
                "channel_multiplier": [1, 2],
                "num_embeddings": 16,
                "latent_channels": 32,
                "image_token_embed_dim": 64,
                "projection_dim": 64,
                "num_patches": 4,
                "num_res_blocks": 1,
            },
        },
    ),
    "chameleon": Recipe(
        names={"sep_token": "<sep>", "image_token": "<image>", "boi_token": "<racm3:break>", "eoi_token": "<eoss>"},
        ids={"image_token_id": "<image>", "vocabulary_map": dict.fromkeys(["<image>", *_CODES])},
        config={
            "vq_config": {
                "base_channels": 32,
                "channel_multiplier": [1, 1, 1, 1],
                "num_embeddings": 10,
                "resolution": 32,
                "embed_dim": 16,
                "latent_channels": 32,
                "num_res_blocks": 1,
            }
        },
        images={"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}},
        processor={"image_seq_length": 16},
    ),
    "emu3": Recipe(
        names={
            "image_token": "<image>",
            "boi_token": "<|image start|>",
            "eoi_token": "<|image end|>",
            "image_wrapper_token": "<|image token|>",
            "eof_token": "<|extra_201|>",
        },
        ids={
            "image_token_id": "<image>",
            "vocabulary_map": dict.fromkeys(["<image>", "<|extra_200|>", *_VISUAL_TOKENS]),
        },
        config={
            "vq_config": {
                "base_channels": 32,
                "channel_multiplier": [1, 1, 1, 1],
                "codebook_size": 10,
                "num_res_blocks": 1,
                "hidden_size": 32,
                "temporal_downsample_factor": 2,
            }
        },
        images={"min_pixels": 32 * 32, "max_pixels": 64 * 64},
    ),
    "got_ocr2": Recipe(
        image="<img><imgpad></img>",
        ids={"image_token_index": "<imgpad>"},
        others=("<img>", "</img>", "<|im_start|>", "<|im_end|>"),
        config={"vision_config": {**_SAM, "image_size": 128, "patch_size": 8}, "image_seq_length": 16},
        images={"size": {"height": 128, "width": 128}},
        call={"num_image_tokens": 16},
    ),
    "pp_chart2table": Recipe(
        image="<img>" + "<imgpad>" * 16 + "</img>",
        ids={"image_token_index": "<imgpad>"},
        others=("<img>", "</img>"),
        config={"vision_config": {**_SAM, "image_size": 128, "patch_size": 8}, "image_seq_length": 16},
        images={"size": {"height": 128, "width": 128}},
        max_images=1,
    ),
    "idefics2": Recipe(
        ids={"image_token_id": "<image>"},
        others=("<fake_token_around_image>", "<end_of_utterance>"),
        config={
            "vision_config": {"image_size": 56, "patch_size": 14},
            "perceiver_config": {"resampler_n_latents": 4, "resampler_depth": 1, "resampler_n_heads": 4},
        },
        images={"size": {"shortest_edge": 28, "longest_edge": 56}},
        processor={"image_seq_len": 4},
    ),
    "aria": Recipe(
        names={"image_token": "<image>"},
        ids={"image_token_index": "<image>"},
        config={
            "vision_config": {"image_size": 980, "patch_size": 70, "hidden_size": 32, "intermediate_size": 64},
            "projector_patch_to_query_dict": {49: 4, 196: 8},
            "max_value_projector_patch_to_query_dict": 8,
        },
        processor={"size_conversion": {490: 4, 980: 8}},
    ),
    "florence2": Recipe(
        image="",
        names={"image_token": "<image>"},
        ids={"image_token_id": "<image>"},
        config={
            "vision_config": {
                "depths": [1, 1, 1, 1],
                "embed_dim": [16, 32, 32, 64],
                "num_heads": [2, 2, 2, 4],
                "num_groups": [2, 2, 2, 4],
                "projection_dim": 64,
                "window_size": 4,
            }
        },
        images={"size": {"height": 64, "width": 64}, "do_center_crop": False, "image_seq_length": 5},
        chats=False,
        max_images=1,
    ),
    "mllama": Recipe(
        image="<|image|>",
        ids={"image_token_index": "<|image|>"},
        others=("<|python_tag|>",),
        config={
            "vision_config": {
                "image_size": 28,
                "num_hidden_layers": 2,
                "num_global_layers": 1,
                "intermediate_layers_indices": [0, 1],
                "max_num_tiles": 2,
                "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]],
                "vision_output_dim": 192,
            },
            "text_config": {"num_hidden_layers": 3, "cross_attention_layers": [1]},
        },
        images={"size": {"height": 28, "width": 28}, "max_image_tiles": 2},
        compiling={"max_num_images": 2},
    ),
    "git": Recipe(
        image="",
        text="<s> $A </s>",
        config={"vision_config": {"image_size": 32}},
        images={"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}},
        chats=False,
        max_images=1,
    ),
    "blip": Recipe(
        image="",
        text="<s> $A </s>",
        ids={"sep_token_id": "</s>"},
        config={"vision_config": {"image_size": 32}},
        images=SQUARE,
        chats=False,
        max_images=1,
    ),
    "blip-2": Recipe(
        image="",
        ids={"image_token_index": "<image>"},
        config={"num_query_tokens": 4, "vision_config": {"image_size": 28}},
        images={"size": {"height": 28, "width": 28}},
        processor={"num_query_tokens": 4},
        chats=False,
        max_images=1,
    ),
    "instructblip": Recipe(
        image="",
        ids={"image_token_index": "<image>"},
        config={"num_query_tokens": 4, "vision_config": {"image_size": 28}},
        images={"size": {"height": 28, "width": 28}},
        processor={"num_query_tokens": 4},
        chats=False,
        max_images=1,
    ),
    "idefics": Recipe(
        image="",
        ids={},
        others=("<image>", "<fake_token_around_image>", "<end_of_utterance>"),
        config={"vision_config": {"image_size": 28}, "alpha_initializer": "ones"},
        images={"size": {"height": 28, "width": 28}, "image_size": 28},
        chats=False,
        nested=True,
        compiling={"max_num_images": 2},
    ),
    "pix2struct": Recipe(
        image="",
        config={
            "vision_config": {"seq_len": 17, "patch_embed_hidden_size": 48, "d_kv": 16},
            "text_config": {"d_kv": 16},
        },
        images={"patch_size": {"height": 4, "width": 4}},
        call={"max_patches": 16},
        chats=False,
        max_images=1,
    ),
    "vision-encoder-decoder": Recipe(
        image="",
        config={"encoder": {"image_size": 32}, "decoder": {"is_decoder": True, "add_cross_attention": True}},
        images=SQUARE,
        processor_class="TrOCRProcessor",
        image_processor_class="ViTImageProcessorPil",
        chats=False,
        reads=False,
        max_images=1,
    ),
}
