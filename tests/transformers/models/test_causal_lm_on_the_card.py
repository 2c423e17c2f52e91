"""Every architecture on the simulated card: in float32 the tokens are Hugging Face's, and in fp16 they are wherever
the reference's margin is above the noise of fp16; each prompt gets the tokens that it gets alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from greedy import answers, load, prompts, reference

from QEfficient import QEFFAutoModelForCausalLM
from QEfficient.generation.sessions.session import Chunk, Session

CARD: dict[str, Any] = {"target": "cloud-ai-100-sim", "prefill_seq_len": 24, "ctx_len": 160}
IN_EVERY_RUN = {"llama", "gpt_oss", "bloom"}
"""One for each kind of position, with windows and experts; the others are in the sweep."""
NAMES = [
    pytest.param(name, marks=[pytest.mark.xdist_group(name), *([] if name in IN_EVERY_RUN else [pytest.mark.sweep])])
    for name in tiny_models.CAUSAL_LMS
]
BATCHED = {"full_batch_size": 2, "kv_cache_batch_size": 4}


@contextmanager
def compiled(name: str, **options: Any) -> Iterator[QEFFAutoModelForCausalLM]:
    """A package that gives the card's cores back."""
    with QEFFAutoModelForCausalLM(load(name)) as model:
        model.compile(**{**CARD, **options})
        yield model


def session_of(model: QEFFAutoModelForCausalLM) -> Session:
    session: Session = model._open().engine.session
    return session


def logits_of(session: Session, ids: list[int], num_prompt: int, slot: int = 0, start: int = 0) -> np.ndarray:
    """Logits ``[len(ids) - num_prompt + 1, vocab]`` that follow the prompt and each given token after it."""
    rows = []
    bounds = [*range(start, num_prompt, CARD["prefill_seq_len"]), *range(num_prompt, len(ids) + 1)]
    for begin, end in pairwise(bounds):
        logits = session.step([Chunk(slot, ids[begin:end], begin)])
        if end >= num_prompt:
            rows.append(np.array(logits[0]))
    return np.stack(rows)


def reference_logits(name: str, ids: list[int], num_prompt: int) -> np.ndarray:
    with torch.no_grad():
        logits = load(name)(torch.tensor([ids])).logits[0, num_prompt - 1 :]
    return np.asarray(logits.numpy())


@pytest.mark.parametrize("name", NAMES)
def test_float32_gives_hugging_faces_tokens(name: str) -> None:
    """Three prompts over two slots, in chunks."""
    with compiled(name, precision="fp32", **BATCHED) as model:
        assert answers(model, prompts()) == reference(name)


@pytest.mark.parametrize("name", NAMES)
def test_fp16_agrees_above_its_noise(name: str) -> None:
    ids = prompts()[1] + reference(name)[1]
    num_prompt = len(prompts()[1])
    with compiled(name, **BATCHED) as model:
        ours = logits_of(session_of(model), ids, num_prompt)
    theirs = reference_logits(name, ids, num_prompt)
    assert np.linalg.norm(ours - theirs) < 0.05 * np.linalg.norm(theirs)
    noise = np.abs(ours - theirs).max()
    top = np.sort(theirs, axis=1)
    is_clear = top[:, -1] - top[:, -2] > noise
    assert is_clear.mean() > 0.5, "the noise hides most of what could differ"
    assert (ours.argmax(1) == theirs.argmax(1))[is_clear].all()


def test_latents_are_kept_as_they_are() -> None:
    """Latent attention keeps 16 + 8 numbers a token, not the 4 heads that they stand for."""
    with compiled("deepseek_v3", precision="fp32", **BATCHED) as model:
        assert answers(model, prompts()) == reference("deepseek_v3")
        inputs = model._open().body.graph.inputs
    assert inputs["past_key.0"].shape == (4, 1, 160, 16)
    assert inputs["past_value.0"].shape == (4, 1, 160, 8)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_rows_beyond_the_batch_hold_prefixes(name: str) -> None:
    """A client fills a spare row once and goes on from it twice; other rows run meanwhile. (Sliding layers keep their
    window alone, so that from them one can go on once.)
    """
    prefix = prompts()[1]
    with compiled(name, precision="fp32", **BATCHED) as model:
        session = session_of(model)
        logits_of(session, prompts()[0], len(prompts()[0]), slot=0)
        logits_of(session, prefix, len(prefix), slot=3)
        for answer in (reference(name)[1], prompts()[0]):
            ids = prefix + answer[:8]
            ours = logits_of(session, ids, len(prefix) + 1, slot=3, start=len(prefix))
            np.testing.assert_allclose(ours, reference_logits(name, ids, len(prefix) + 1), atol=2e-3)


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 3},
        {"batch_size": 2, "prefill_seq_len": 1},
        {"comp_ctx_lengths_prefill": (64, 160), "comp_ctx_lengths_decode": (48, 96, 160)},
        {"num_speculative_tokens": 3, **BATCHED},
        {"use_onnx_subfunctions": True, **BATCHED},
    ],
    ids=["batch", "one token at a time", "context lengths", "speculative target", "sub-functions"],
)
def test_other_forms_of_the_graph_give_the_same_tokens(options: dict[str, Any]) -> None:
    with compiled("llama", precision="fp32", **options) as model:
        assert answers(model, prompts()) == reference("llama")
