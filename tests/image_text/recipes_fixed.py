"""Recipes of models to which every image is as many tokens as every other, and of those that cut it into tiles."""

from __future__ import annotations

from typing import Any

from image_text.recipe import Recipe

_SQUARE = {"size": {"height": 32, "width": 32}}
_CLIP: dict[str, Any] = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
_LLAVA = Recipe(
    ids={"image_token_index": "<image>"},
    config={"vision_config": {"image_size": 28, "patch_size": 14}, "image_seq_length": 4},
    images=_CLIP,
    processor={"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1},
)
_PINPOINTS = [[28, 56], [56, 28], [56, 56]]
_TIED = {"mirror": 3.0, "embeddings": 0.1, "zeros": 0.5}
_GEMMA = {"boi_token": "<start_of_image>", "image_token": "<image_soft_token>", "eoi_token": "<end_of_image>"}
_TILES = tuple(f"<row_{row}_col_{column}>" for row in range(1, 4) for column in range(1, 4))
_TILED = ("<fake_token_around_image>", "<end_of_utterance>", "<global-img>", *_TILES)
_IDEFICS3 = Recipe(
    ids={"image_token_id": "<image>"},
    others=_TILED,
    config={"vision_config": {"image_size": 32, "patch_size": 8}, "scale_factor": 2},
    images={"size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 32}},
    processor={"image_seq_len": 4},
)

RECIPES: dict[str, Recipe] = {
    "llava": _LLAVA,
    "llava_next": _LLAVA.but(config={"image_grid_pinpoints": _PINPOINTS}, images={"image_grid_pinpoints": _PINPOINTS}),
    "gemma3": Recipe(
        image="<start_of_image>",
        names=_GEMMA,
        ids={
            "boi_token_index": "<start_of_image>",
            "eoi_token_index": "<end_of_image>",
            "image_token_index": "<image_soft_token>",
        },
        config={"mm_tokens_per_image": 4, "vision_config": {"image_size": 32, "patch_size": 8}},
        images=_SQUARE,
        processor={"image_seq_length": 4},
        spread=_TIED,
    ),
    "paligemma": Recipe(
        names={"image_token": "<image>"},
        ids={"image_token_index": "<image>"},
        config={"vision_config": {"image_size": 32, "patch_size": 16}, "text_config": {"num_key_value_heads": 1}},
        images=_SQUARE | {"image_seq_length": 4},
        chats=False,
    ),
    "idefics3": _IDEFICS3,
    "smolvlm": _IDEFICS3.but(names={"video_token": "<video>"}),
    "mistral3": Recipe(
        image="[IMG]",
        ids={"image_token_index": "[IMG]"},
        others=("[IMG_BREAK]", "[IMG_END]"),
        config={"vision_config": {"image_size": 56, "patch_size": 7}, "spatial_merge_size": 2},
        images={"size": {"longest_edge": 56}, "patch_size": {"height": 14, "width": 14}},
        processor={"patch_size": 7, "spatial_merge_size": 2},
    ),
    "internvl": Recipe(
        image="<IMG_CONTEXT>",
        names={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
        ids={"image_token_id": "<IMG_CONTEXT>"},
        config={"vision_config": {"image_size": [28, 28], "patch_size": [7, 7]}, "image_seq_length": 4},
        images={"size": {"height": 28, "width": 28}, "max_patches": 3},
        processor={"image_seq_length": 4},
        bos=False,
    ),
}
