"""Recipes of models that have an image processor over torchvision alone, and of those with patches in odd forms."""

from __future__ import annotations

from dataclasses import replace

from image_text.recipe import Recipe

_GEMMA4_NAMES = {
    "image_token": "<|image|>",
    "boi_token": "<|image>",
    "eoi_token": "<image|>",
    "audio_token": "<|audio|>",
    "boa_token": "<|audio>",
    "eoa_token": "<audio|>",
}
_GEMMA4 = Recipe(
    image="<|image|>",
    names=_GEMMA4_NAMES,
    ids={
        "image_token_id": "<|image|>",
        "boi_token_id": "<|image>",
        "eoi_token_id": "<image|>",
        "audio_token_id": "<|audio|>",
        "boa_token_id": "<|audio>",
        "eoa_token_id": "<audio|>",
        "eoa_token_index": "<audio|>",
        "video_token_id": "<|video|>",
    },
    config={
        "vision_config": {
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "head_dim": 16,
            "patch_size": 4,
            "position_embedding_size": 64,
        }
    },
    images={"patch_size": 4, "max_soft_tokens": 70},
)
_MINICPM_NAMES = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "image_start_token": "<image>",
    "image_end_token": "</image>",
    "slice_start_token": "<slice>",
    "slice_end_token": "</slice>",
    "image_id_start_token": "<image_id>",
    "image_id_end_token": "</image_id>",
}
_MINICPM = Recipe(
    image="<|image_pad|>",
    names=_MINICPM_NAMES,
    ids={"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>"},
    config={
        "patch_size": 7,
        "image_size": 56,
        "insert_layer_id": 0,
        "vision_config": {"image_size": 56, "patch_size": 7, "insert_layer_id": 0},
    },
    images={"scale_resolution": 56, "patch_size": 7, "max_slice_nums": 4},
    text="$A",
)
_MUSE_TOKENS = ("<|image_start|>", "<|image_end|>", "<|vid_frame_separator|>", "<|vid_start|>", "<|vid_end|>")
_MUSE = Recipe(
    image="<|patch|>",
    ids={"image_token_id": "<|patch|>", "video_token_id": "<|video|>"},
    others=_MUSE_TOKENS,
    config={
        "out_hidden_size": 256,
        "projector_hidden_size": 64,
        "vision_config": {"pos_emb_height": 8, "pos_emb_width": 8},
    },
    images={"max_image_tokens": 9},
)
_SAM = {
    "image_size": 64,
    "patch_size": 4,
    "global_attn_indexes": [1],
    "window_size": 4,
    "output_channels": 16,
    "downsample_channels": [32, 64],
}
_OCR = Recipe(
    ids={"image_token_id": "<image>"},
    images={"size": {"height": 64, "width": 64}, "tile_size": 32},
    processor={"patch_size": 4},
)
_ROWS = tuple(f"<row_{row}_col_{column}>" for row in range(1, 4) for column in range(1, 4))
_LFM_ROWS = tuple(f"<|img_row_{row}_col_{column}|>" for row in range(1, 5) for column in range(1, 5))

RECIPES: dict[str, Recipe] = {
    "gemma4": replace(
        _GEMMA4.but(config={"text_config": {"use_bidirectional_attention": "vision"}}),
        compiling={"prefill_seq_len": 64},
    ),
    "gemma4_unified": replace(
        _GEMMA4,
        config={"vision_config": {"mm_embed_dim": 64, "mm_posemb_size": 64, "output_proj_dims": 64, "patch_size": 4}},
        compiling={"prefill_seq_len": 64},
    ),
    "minicpmv4_6": _MINICPM,
    "minicpmv4_7": _MINICPM,
    "minicpm_ocr": _MINICPM,
    "muse_glimmer": _MUSE,
    "muse_spark": _MUSE.but(
        ids={"audio_token_id": "<|audio|>"},
        others=(*_MUSE_TOKENS, "<|soft_audio_start|>", "<|soft_audio_end|>"),
        config={
            "audio_config": {"num_hidden_layers": 2, "depths": [1, 1], "hidden_sizes": [16, 32], "patch_sizes": [16, 6]}
        },
    ),
    "deepseek_ocr2": Recipe(  # its encoder asks for an image in 144 queries or 256, whatever its size
        ids={"image_token_id": "<image>"},
        config={
            "vision_config": {"sam_config": {**_SAM, "image_size": 48}},
            "text_config": {
                "mlp_layer_types": ["dense", "sparse"],
                "num_experts_per_tok": 2,
                "max_position_embeddings": 1024,
            },
        },
        images={"size": {"height": 48, "width": 48}, "tile_size": 48},
        processor={"patch_size": 1},
        call={"max_patches": 2},
    ),
    "unlimited_ocr": _OCR.but(
        images={"max_patches": 4},
        config={
            "vision_config": {"sam_config": _SAM, "encoder_config": {"image_size": 56, "patch_size": 14}},
        },
    ),
    "cohere2_vision": Recipe(
        image="<|IMG_PATCH|>",
        names={
            "image_token": "<|IMG_PATCH|>",
            "boi_token": "<|START_OF_IMG|>",
            "eoi_token": "<|END_OF_IMG|>",
            "img_line_break_token": "<|IMG_LINE_BREAK|>",
        },
        ids={"image_token_id": "<|IMG_PATCH|>"},
        config={"vision_config": {"image_size": 28, "patch_size": 7}, "alignment_intermediate_size": 128},
        images={"size": {"height": 28, "width": 28}, "patch_size": 2, "max_patches": 3},
    ),
    "inkling2": Recipe(
        image="<|unused_200054|>",
        ids={"image_token_id": "<|unused_200054|>"},
        config={"vision_config": {"patch_size": 10, "posemb_grid_size": 4, "projection_hidden_dim": 64}},
        images={"size": {"height": 20, "width": 20}},
    ),
    "inkling_mm_model": Recipe(
        image="<|content_image|><|unused_200054|>",
        ids={
            "image_token_id": "<|unused_200054|>",
            "audio_token_id": "<|unused_200053|>",
            "image_bos_token_id": "<|content_image|>",
            "audio_bos_token_id": "<|content_audio_input|>",
        },
        config={"audio_config": {"mel_vocab_size": 16, "n_mel_bins": 16}},
    ),
    "kimi_k25": Recipe(
        image="<|media_begin|><|media_pad|><|media_end|>",
        ids={
            "image_token_id": "<|media_pad|>",
            "video_token_id": "<|kimi_k25_video_placeholder|>",
            "vision_start_token_id": "<|media_begin|>",
            "vision_end_token_id": "<|media_end|>",
        },
        config={"vision_config": {"pos_emb_height": 8, "pos_emb_width": 8}, "projection_hidden_size": 64},
        images={"size": {"max_height": 84, "max_width": 84}, "max_patches": 64},
    ),
    "lfm2_vl": Recipe(
        ids={"image_token_id": "<image>"},
        others=("<|image_start|>", "<|image_end|>", "<|img_thumbnail|>", *_LFM_ROWS),
        config={"vision_config": {"patch_size": 8, "num_patches": 16}, "projector_hidden_size": 64},
        images={
            "size": {"height": 32, "width": 32},
            "tile_size": 32,
            "encoder_patch_size": 8,
            "min_image_tokens": 2,
            "max_image_tokens": 4,
            "max_tiles": 4,
        },
    ),
    "llama4": Recipe(
        image="<|image|>",
        ids={
            "image_token_index": "<|patch|>",
            "boi_token_index": "<|image_start|>",
            "eoi_token_index": "<|image_end|>",
        },
        others=("<|image|>", "<|tile_x_separator|>", "<|tile_y_separator|>"),
        config={
            "vision_config": {
                "image_size": 28,
                "patch_size": 7,
                "vision_output_dim": 64,
                "projector_input_dim": 64,
                "projector_output_dim": 64,
                "intermediate_size": 256,
            }
        },
        images={"size": {"height": 28, "width": 28}, "max_patches": 4},
        processor={"patch_size": 7},
    ),
    "minimax_m3_vl": Recipe(
        image="]<]image[>[",
        ids={"image_token_index": "]<]image[>[", "video_token_index": "]<]video[>["},
        others=("]<]start of image[>[", "]<]end of image[>["),
        config={"vision_config": {"image_size": 56}, "projector_hidden_size": 64, "merged_hidden_size": 256},
        images={"size": {"shortest_edge": 28 * 28, "longest_edge": 84 * 84}},
    ),
    "molmo2": Recipe(
        image="<|image|>",
        ids={
            "image_patch_id": "<im_patch>",
            "image_start_token_id": "<im_start>",
            "image_end_token_id": "<im_end>",
            "low_res_image_start_token_id": "<low_res_im_start>",
            "frame_start_token_id": "<frame_start>",
            "frame_end_token_id": "<frame_end>",
        },
        others=("<|image|>", "<|video|>", "<im_col>", "<im_low>"),
        config={
            "vision_config": {"image_size": [28, 28], "patch_size": 7, "num_position_embeddings": 16, "head_dim": 16},
            "adapter_config": {"vision_feature_layer": [-1, -2], "head_dim": 16, "num_key_value_heads": 4},
        },
        images={"size": {"height": 28, "width": 28}, "patch_size": 7, "max_crops": 2, "overlap_margins": [1, 1]},
    ),
    "nemotron_h_omni": Recipe(
        ids={"image_token_id": "<image>", "video_token_id": "<video>", "audio_token_id": "<so_embedding>"},
        others=("<img>", "</img>", "<so_start>", "<so_end>"),
        config={
            "vision_config": {
                "patch_size": 8,
                "patch_dim": 192,
                "video_patch_dim": 384,
                "image_size": 64,
                "max_img_size": 64,
                "video_temporal_patch_size": 2,
            },
            "vision_hidden_size": 64,
            "projector_hidden_size": 64,
        },
        images={"patch_size": 8, "min_num_patches": 4, "max_num_patches": 36},
    ),
    "pp_formulanet": Recipe(
        image="",
        config={
            "vision_config": {
                "image_size": 64,
                "patch_size": 8,
                "global_attn_indexes": [1],
                "window_size": 4,
                "output_channels": 16,
                "post_conv_in_channels": 16,
                "post_conv_mid_channels": 32,
                "post_conv_out_channels": 64,
                "decoder_hidden_size": 64,
            }
        },
        images={"size": {"height": 64, "width": 64}},
        chats=False,
        reads=False,
        max_images=1,
    ),
    "step3p7": Recipe(
        image="<im_patch>",
        ids={"image_token_id": "<im_patch>"},
        others=("<patch_start>", "<patch_end>", "<patch_newline>", "<im_start>", "<im_end>"),
        config={
            "vision_config": {"image_size": 56, "patch_size": 7, "max_position_embeddings": 64},
            "text_config": {"sliding_window": 16},
        },
        images={"size": {"height": 56, "width": 56}, "patch_size": 28, "vision_patch_size": 7},
    ),
    "granite_docling": Recipe(
        names={"image_token": "<image>"},
        ids={"image_token_id": "<image>"},
        others=("<fake_token_around_image>", "<global-img>", *_ROWS),
        config={
            "vision_config": {
                "image_size": 32,
                "patch_size": 8,
                "scale_factor": 2,
                "deepstack_visual_indexes": [0, 1],
                "out_hidden_size": 64,
            }
        },
        images={"size": {"height": 32, "width": 32}, "max_patches": 3},
        processor={"image_seq_len": 4},
    ),
    "granite4_vision": Recipe(
        ids={"image_token_index": "<image>"},
        config={
            "vision_config": {"image_size": 28, "patch_size": 7},
            "image_grid_pinpoints": [[28, 56], [56, 28], [56, 56]],
            "downsample_rate": "1/2",
            "deepstack_layer_map": [[-1, 0], [-2, 1]],
            "spatial_target_layers": [2, 3],
            "qformer_config": {
                "num_hidden_layers": 1,
                "cross_attention_frequency": 1,
                "use_qformer_text_input": False,
                "intermediate_size": 96,
            },
            "text_config": {"num_hidden_layers": 4},
        },
        images={
            "size": {"shortest_edge": 28},
            "crop_size": {"height": 28, "width": 28},
            "image_grid_pinpoints": [[28, 56], [56, 28], [56, 56]],
        },
        processor={
            "patch_size": 7,
            "vision_feature_select_strategy": "default",
            "num_additional_image_tokens": 1,
            "downsample_rate": "1/2",
        },
    ),
    "fuyu": Recipe(
        image="",
        pieces=True,
        ids={"image_token_id": "|SPEAKER|"},
        others=("|NEWLINE|", "<0x00>", "<0x01>", "<0x02>", "<0x03>", "<0x04>"),
        config={"patch_size": 10, "image_size": 60},
        images={"size": {"height": 60, "width": 80}, "patch_size": {"height": 10, "width": 10}},
        image_processor_class="FuyuImageProcessor",
        chats=False,
        max_images=1,
    ),
    "udop": Recipe(
        image="",
        boxes=True,
        config={"image_size": 32, "max_2d_position_embeddings": 1024},
        images={"size": {"height": 32, "width": 32}, "apply_ocr": False},
        chats=False,
        max_images=1,
    ),
    "kosmos-2": Recipe(
        image="",
        config={"latent_query_num": 4, "vision_config": {"image_size": 28}, "text_config": {"layers": 2}},
        images={"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}},
        processor={"num_patch_index_tokens": 4},
        call={"num_image_tokens": 4},
        processor_class="Kosmos2Processor",
        chats=False,
        max_images=1,
    ),
    "kosmos-2.5": Recipe(
        image="",
        names={"boi_token": "<image>", "eoi_token": "</image>", "image_token": "<|image|>"},
        config={
            "latent_query_num": 4,
            "text_config": {"layers": 2},
            "vision_config": {"patch_embed_hidden_size": 48, "max_num_patches": 4097, "head_dim": 16},
        },
        images={"patch_size": {"height": 4, "width": 4}},
        processor={"num_image_tokens": 4},
        processor_class="Kosmos2_5Processor",
        chats=False,
        max_images=1,
    ),
}
