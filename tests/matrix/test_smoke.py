"""One small model of each task, on cpu and on the simulated card, against Hugging Face: what ``make matrix`` runs with
other versions of the packages below."""

from __future__ import annotations

from typing import Any

import pytest
from architectures import cases

MODELS = (
    ("causal_lm", "llama"),
    ("causal_lm", "mamba"),
    ("seq2seq", "t5"),
    ("text_encoder", "bert"),
    ("sequence_classification", "bert"),
    ("ctc", "wav2vec2"),
    ("speech_seq2seq", "whisper"),
    ("image_text", "llava"),
    ("image_text", "florence2"),
)
"""Of each task; of causal LMs also one whose layers keep other state than keys and values."""


@pytest.mark.sweep
@pytest.mark.parametrize("target", ["cpu", "cloud-ai-100-sim"])
@pytest.mark.parametrize(("family", "model_type"), MODELS)
def test_equals_hugging_face(family: str, model_type: str, target: str) -> None:
    row: dict[str, Any] = cases.check(family, model_type, target)
    assert row["agrees"], row
