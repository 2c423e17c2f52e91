"""Texts of mixed lengths a second, beside sentence-transformers in several settings: the best of them counts."""

from __future__ import annotations

import numpy as np

from benchmarks.embeddings import checkpoint_of, lacks_model, least_cosines, words_of
from benchmarks.preparing import loaded, prepare
from benchmarks.report import Figure, Part
from benchmarks.rounds import Figures, Results, run_rounds
from benchmarks.settings import Settings
from benchmarks.systems import System
from benchmarks.worker import Worker

NUM_TEXTS = 1000
_NUM_COMPARED = 64
_MEDIAN_WORDS, _SPREAD, _FEWEST, _MOST = 27, 0.9, 3, 240
"""Of a log-normal distribution, as queries and passages together have about."""
_FIGURES = (Figure("rate", f"{NUM_TEXTS} texts", "texts/s"),)


def _theirs(dtype: str, short: str, batch_size: int) -> System:
    return System(
        name=f"sentence-transformers-{short}-{batch_size}",
        distribution="sentence-transformers",
        module="benchmarks.systems.texts_sentence_transformers",
        weights="checkpoint",
        bytes_per_weight=4,
        options={"dtype": dtype, "batch_size": batch_size},
        exports=False,
    )


def _ours(name: str, precision: str | None) -> System:
    return System(
        name=name,
        distribution="qefficient",
        module="benchmarks.systems.texts_ours",
        weights="checkpoint",
        bytes_per_weight=4,
        options={"precision": precision},
        is_ours=True,
    )


_REFERENCE = "sentence-transformers-fp32-32"
_DTYPES = (("float32", "fp32"), ("bfloat16", "bf16"))
_SYSTEMS = [
    _ours("ours", None),
    _ours("ours-fp32", "fp32"),
    *(_theirs(*dtype, batch_size) for dtype in _DTYPES for batch_size in (8, 32)),
]


def measure_texts(settings: Settings) -> Part:
    """all-MiniLM-L6-v2 on texts of 3 to 240 words, tokenizing included, over ours and sentence-transformers."""
    results = Results()
    part = Part(title="all-MiniLM-L6-v2, mixed lengths", figures=_FIGURES, systems=_SYSTEMS, results=results)
    if lacks_model(part):
        return part
    checkpoint = checkpoint_of(settings)
    words = words_of(checkpoint)
    vectors: dict[str, np.ndarray] = {}

    def measure(system: str, worker: Worker, number: int) -> Figures:
        texts = mixed_texts(words, NUM_TEXTS, number)
        if number == 0:
            vectors[system] = worker.call("encode", texts[:_NUM_COMPARED])
        return {"rate": worker.call("rate", [texts])}

    ready = prepare(_SYSTEMS, checkpoint, settings, results)
    with loaded(ready, checkpoint, settings, results) as workers:
        run_rounds(workers, settings.num_rounds, measure, results)
    results.agreement = least_cosines(vectors, _REFERENCE)
    return part


def mixed_texts(words: list[str], count: int, seed: int) -> list[str]:
    """Random words in texts of mixed lengths."""
    rng = np.random.default_rng(seed)
    lengths = np.clip(rng.lognormal(np.log(_MEDIAN_WORDS), _SPREAD, count).astype(int), _FEWEST, _MOST)
    return [" ".join(rng.choice(words, length)) for length in lengths]
