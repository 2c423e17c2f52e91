"""Recipes of models that take an image as a grid of patches: as many patches as it has room for."""

from __future__ import annotations

from image_text.recipe import Recipe

_QWEN_IDS = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}
_ROPE = {"rope_type": "default", "rope_theta": 1e4}
_QWEN2 = Recipe(
    image="<|vision_start|><|image_pad|><|vision_end|>",
    ids=_QWEN_IDS,
    config={"text_config": {"rope_parameters": _ROPE | {"mrope_section": [2, 3, 3]}}},
    images={"size": {"shortest_edge": 28 * 28, "longest_edge": 84 * 84}},
    bos=False,
)
_WINDOWS = {"fullatt_block_indexes": [1], "window_size": 56, "out_hidden_size": 64}
_QWEN3_ROPE = {**_ROPE, "mrope_section": [6, 5, 5], "mrope_interleaved": True}
_QWEN3 = _QWEN2.but(
    config={
        "text_config": {"rope_parameters": _QWEN3_ROPE},
        "vision_config": {"num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1], "out_hidden_size": 64},
    },
    images={"size": {"shortest_edge": 32 * 32, "longest_edge": 96 * 96}, "patch_size": 16},
)

RECIPES: dict[str, Recipe] = {
    "qwen2_vl": _QWEN2,
    "qwen2_5_vl": _QWEN2.but(config={"vision_config": _WINDOWS}),
    "qwen3_vl": _QWEN3,
}
