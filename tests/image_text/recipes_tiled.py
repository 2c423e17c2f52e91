"""Recipes of models that cut an image into tiles of one size, or take it at the size that it has."""

from __future__ import annotations

from image_text.recipe import Recipe
from image_text.recipes_fixed import LLAVA

_PINPOINTS = [[28, 56], [56, 28], [56, 56]]
_LLAVA_NEXT = LLAVA.but(config={"image_grid_pinpoints": _PINPOINTS}, images={"image_grid_pinpoints": _PINPOINTS})
_TILES = tuple(f"<row_{row}_col_{column}>" for row in range(1, 4) for column in range(1, 4))
_IDEFICS3 = Recipe(
    ids={"image_token_id": "<image>"},
    others=("<fake_token_around_image>", "<end_of_utterance>", "<global-img>", *_TILES),
    config={"vision_config": {"image_size": 32, "patch_size": 8}, "scale_factor": 2},
    images={"size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 32}},
    processor={"image_seq_len": 4},
)
_INTERN = Recipe(
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
    text="$A",
)
_PIXTRAL = Recipe(
    image="[IMG]",
    ids={"image_token_index": "[IMG]"},
    others=("[IMG_BREAK]", "[IMG_END]"),
    config={"vision_config": {"image_size": 56, "patch_size": 7}, "spatial_merge_size": 2},
    images={"size": {"longest_edge": 56}, "patch_size": {"height": 14, "width": 14}},
    processor={"patch_size": 7, "spatial_merge_size": 2},
)
_OVIS_MARKS = ("<IMG_START>", "<IMG_END>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>")

RECIPES: dict[str, Recipe] = {
    "llava_next": _LLAVA_NEXT,
    "llava_next_video": _LLAVA_NEXT.but(ids={"video_token_index": "<video>"}),
    "llava_onevision": Recipe(
        ids={"image_token_index": "<image>", "video_token_index": "<video>"},
        config={"vision_config": {"image_size": 28, "patch_size": 14}, "image_grid_pinpoints": _PINPOINTS},
        images={"size": {"height": 28, "width": 28}, "image_grid_pinpoints": _PINPOINTS},
        processor={"num_image_tokens": 4, "vision_feature_select_strategy": "full"},
        text="$A",
    ),
    "idefics3": _IDEFICS3,
    "smolvlm": _IDEFICS3.but(names={"video_token": "<video>"}),
    "internvl": _INTERN,
    "qianfan_ocr": _INTERN.but(image="<image>"),
    "mistral3": _PIXTRAL,
    "mistral_large4": _PIXTRAL,
    "lighton_ocr": Recipe(
        image="<|image_pad|>",
        names={
            "image_token": "<|image_pad|>",
            "image_break_token": "<|vision_pad|>",
            "image_end_token": "<|vision_end|>",
        },
        ids={"image_token_id": "<|image_pad|>"},
        config={"vision_config": {"image_size": 56, "patch_size": 7}},
        images={"size": {"longest_edge": 56}, "patch_size": {"height": 7, "width": 7}},
        processor={"patch_size": 7, "spatial_merge_size": 2},
        text="$A",
    ),
    "aya_vision": Recipe(
        ids={"image_token_index": "<|IMG_PATCH|>"},
        others=("<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_LINE_BREAK|>", "TILE", "TILE_GLOBAL"),
        config={"vision_config": {"image_size": 28, "patch_size": 7, "num_attention_heads": 4}},
        images={"size": {"height": 28, "width": 28}, "max_patches": 3},
        processor={"patch_size": 7, "img_size": 28, "downsample_factor": 2},
    ),
    "ovis2": Recipe(
        ids={"image_token_id": "<IMG_ATOM>", "visual_indicator_token_ids": _OVIS_MARKS},
        others=("<image>",),
        config={
            "vision_config": {"image_size": 28, "patch_size": 7, "vocab_size": 48, "hidden_stride": 2},
            "hidden_size": 64,
        },
        images={"size": {"height": 28, "width": 28}, "crop_to_patches": True, "max_patches": 3},
        processor={"image_seq_length": 4},
        text="$A",
    ),
}
