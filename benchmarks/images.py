"""Time to the first token of a prompt with an image, and the rate of the rest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.answers import Answer, decode_rate, first_token_s
from benchmarks.preparing import groups, loaded, prepare
from benchmarks.report import Figure, Part
from benchmarks.rounds import Figures, Results, run_rounds
from benchmarks.settings import Settings
from benchmarks.shapes import DONE, num_weights
from benchmarks.systems import System
from benchmarks.worker import Worker
from QEfficient.progress import stage

SHAPES: dict[str, dict[str, Any]] = {
    "qwen2.5-vl-tiny": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "mrope_section": [2, 3, 3],
        "vision": {
            "depth": 2,
            "hidden_size": 64,
            "num_heads": 4,
            "intermediate_size": 96,
            "fullatt_block_indexes": [1],
        },
    },
    "qwen2.5-vl-3b": {
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "mrope_section": [16, 24, 24],
        "vision": {
            "depth": 32,
            "hidden_size": 1280,
            "num_heads": 16,
            "intermediate_size": 3420,
            "fullatt_block_indexes": [7, 15, 23, 31],
        },
    },
}
_VOCAB_SIZE, _SIDE = 151936, 448
_NAMES = {"<|endoftext|>": 151643, "<|vision_start|>": 151652, "<|vision_end|>": 151653, "<|image_pad|>": 151655}
_NAMES |= {"<|video_pad|>": 151656}
_TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
)

_FIGURES = (
    Figure("first_token_s", "first token", "s", lower_is_better=True),
    Figure("decode_1", "decode x1", "tokens/s"),
)
_SYSTEMS = [
    System(
        name=name,
        distribution="qefficient" if name.startswith("ours") else "transformers",
        module=f"benchmarks.systems.{'images_ours' if name.startswith('ours') else 'images_huggingface'}",
        weights="int8" if name.endswith("int8") else "checkpoint",
        bytes_per_weight=bytes_per_weight,
        options=options,
        is_ours=name.startswith("ours"),
        exports=name.startswith("ours"),
    )
    for name, bytes_per_weight, options in (
        ("ours", 2.5, {"weight_format": None}),
        ("ours-int8", 1.5, {"weight_format": "int8"}),
        ("hf-bf16", 2.5, {"dtype": "bfloat16"}),
    )
]


def measure_images(settings: Settings, name: str = "qwen2.5-vl-3b") -> Part:
    """Qwen2.5-VL's shapes with random weights, on a fresh image each round; the processor's work is not counted."""
    from QEfficient.processing.processor import open_processor, process

    results, answers = Results(), {}
    checkpoint = settings.work_dir / "checkpoints" / name
    with stage("Making a checkpoint", name):
        log = settings.work_dir / "logs" / f"{name}.log"
        arguments = {"sizes": SHAPES[name], "folder": checkpoint}
        Worker("benchmarks.images:make_checkpoint", arguments, log, settings.num_threads).close()
    processor = open_processor(checkpoint)

    def measure(system: str, worker: Worker, number: int) -> Figures:
        batch = process(processor, "What is shown here, and how do you know?", [_noise(number)])
        inputs = {name: np.asarray(value) for name, value in batch.items()}
        answer: Answer = worker.call("answer", inputs, settings.num_new_tokens)
        if number == 0:
            answers[system] = answer.ids[0]
        return {"first_token_s": first_token_s(answer), "decode_1": decode_rate(answer)}

    ready = prepare(_SYSTEMS, checkpoint, settings, results)
    for group in groups(ready, num_weights(checkpoint), settings.memory_bytes):
        with loaded(group, checkpoint, settings, results) as workers:
            run_rounds(workers, settings.num_rounds, measure, results)
    reference = answers.get("hf-bf16", [])
    results.agreement = {system: float(ids[:1] == reference[:1]) for system, ids in answers.items()}
    title = f"{name}, an image of {_SIDE} x {_SIDE}"
    return Part(title=title, figures=_FIGURES, systems=_SYSTEMS, results=results)


def _noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (_SIDE, _SIDE, 3), np.uint8)


def make_checkpoint(sizes: dict[str, Any], folder: Path) -> Path:
    """Write a checkpoint of Qwen2.5-VL with these sizes and its processor into ``folder``, unless it is there."""
    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    mark, recipe = folder / DONE, json.dumps(sizes, sort_keys=True)
    if mark.is_file() and mark.read_text() == recipe:
        return folder
    mark.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    text = {name: value for name, value in sizes.items() if name not in ("vision", "mrope_section")}
    rope = {"rope_type": "default", "rope_theta": 1000000.0, "mrope_section": sizes["mrope_section"]}
    text |= {"vocab_size": _VOCAB_SIZE, "rope_parameters": rope, "max_position_embeddings": 32768}
    config = Qwen2_5_VLConfig(
        text_config={**text, "tie_word_embeddings": True},
        vision_config={**sizes["vision"], "out_hidden_size": sizes["hidden_size"]},
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder)
    _save_processor(folder)
    mark.write_text(recipe)
    return folder


def _save_processor(folder: Path) -> None:
    """Its image processor and a tokenizer of bytes: the parts that need no torchvision."""
    from transformers import Qwen2VLImageProcessorPil

    from benchmarks.shapes import byte_tokenizer

    Qwen2VLImageProcessorPil().save_pretrained(folder)
    byte_tokenizer(_VOCAB_SIZE, _NAMES).save_pretrained(folder)
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": "Qwen2_5_VLProcessor"}))
    (folder / "chat_template.jinja").write_text(_TEMPLATE)
