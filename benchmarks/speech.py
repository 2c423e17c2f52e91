"""Seconds that 30 s of audio take with an encoder and a decoder, from samples to tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.preparing import loaded, prepare
from benchmarks.report import Figure, Part
from benchmarks.rounds import Figures, Results, run_rounds
from benchmarks.settings import Settings
from benchmarks.shapes import DONE
from benchmarks.systems import System
from benchmarks.worker import Worker

SHAPES: dict[str, dict[str, int]] = {
    "whisper-tiny": {"d_model": 384, "layers": 4, "heads": 6},
    "whisper-base": {"d_model": 512, "layers": 6, "heads": 8},
}
_RATE, _SECONDS, _NUM_TOKENS = 16000, 30, 96
_START, _END, _VOCAB_SIZE = 50258, 50257, 51865

_FIGURES = (Figure("transcribe_s", f"{_SECONDS} s of audio, {_NUM_TOKENS} tokens", "s", lower_is_better=True),)
_SYSTEMS = [
    System(
        name=name,
        distribution=distribution,
        module=f"benchmarks.systems.{module}",
        weights="checkpoint",
        bytes_per_weight=6,
        options=options,
        is_ours=name == "ours",
        exports=name == "ours",
    )
    for name, distribution, module, options in (
        ("ours", "qefficient", "speech_ours", {}),
        ("hf-bf16", "transformers", "speech_huggingface", {"dtype": "bfloat16"}),
        ("hf-fp32", "transformers", "speech_huggingface", {"dtype": "float32"}),
    )
]


def measure_speech(settings: Settings, name: str = "whisper-base") -> Part:
    """Whisper's shapes with random weights: log-mel features, the encoder once, and a fixed number of tokens."""
    results = Results()
    part = Part(title=f"{name}, {_SECONDS} s of audio", figures=_FIGURES, systems=_SYSTEMS, results=results)
    checkpoint = make_checkpoint(SHAPES[name], settings.work_dir / "checkpoints" / name)
    answers: dict[str, list[int]] = {}

    def measure(system: str, worker: Worker, number: int) -> Figures:
        seconds, tokens = worker.call("transcribe", speech_like(_RATE * _SECONDS, number), _NUM_TOKENS)
        if number == 0:
            answers[system] = tokens
        return {"transcribe_s": seconds}

    ready = prepare(_SYSTEMS, checkpoint, settings, results)
    with loaded(ready, checkpoint, settings, results) as workers:
        run_rounds(workers, settings.num_rounds, measure, results)
    reference = answers.get("hf-fp32", [])
    results.agreement = {system: _equal_share(tokens, reference) for system, tokens in answers.items()}
    return part


def _equal_share(tokens: list[int], reference: list[int]) -> float:
    """The part of the reference's tokens that are the same up to the first that differs."""
    equal = next((i for i, (a, b) in enumerate(zip(tokens, reference, strict=False)) if a != b), len(reference))
    return equal / max(1, len(reference))


def speech_like(num_samples: int, seed: int) -> np.ndarray:
    """Samples ``[num_samples]``, float32: tones that change a few times a second, over noise."""
    rng = np.random.default_rng(seed)
    time = np.arange(num_samples) / _RATE
    pitch = np.repeat(rng.uniform(90, 900, num_samples // 4000 + 1), 4000)[:num_samples]
    return (0.3 * np.sin(2 * np.pi * pitch * time) + 0.01 * rng.standard_normal(num_samples)).astype(np.float32)


def make_checkpoint(sizes: dict[str, int], folder: Path) -> Path:
    """Write a checkpoint of Whisper with these sizes into ``folder``, unless it is there."""
    import torch
    from transformers import GenerationConfig, WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

    mark, recipe = folder / DONE, json.dumps(sizes, sort_keys=True)
    if mark.is_file() and mark.read_text() == recipe:
        return folder
    mark.unlink(missing_ok=True)
    config = WhisperConfig(**_config(**sizes))
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(config)
    special = {"decoder_start_token_id": _START, "eos_token_id": _END, "pad_token_id": _END, "bos_token_id": _END}
    # No answer ends early: the end token is never the next.
    model.generation_config = GenerationConfig(**special, suppress_tokens=[_END], max_length=448)
    model.save_pretrained(folder)
    WhisperFeatureExtractor().save_pretrained(folder)
    mark.write_text(recipe)
    return folder


def _config(d_model: int, layers: int, heads: int) -> dict[str, Any]:
    sides = {
        f"{side}_{name}": value
        for side in ("encoder", "decoder")
        for name, value in (("layers", layers), ("attention_heads", heads), ("ffn_dim", 4 * d_model))
    }
    special = {"decoder_start_token_id": _START, "eos_token_id": _END, "pad_token_id": _END, "bos_token_id": _END}
    return {"vocab_size": _VOCAB_SIZE, "d_model": d_model, "init_std": 0.1, **sides, **special}
