"""What vLLM's plugin for the card does with this library, replayed on the simulated card: its arguments when it loads
and compiles, and its loop over a session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from transformers import AutoConfig

from QEfficient import QEFFAutoModelForCausalLM
from QEfficient.generation.cloud_infer import QAICInferenceSession

PROMPTS = [[5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15], [30, 31, 32]]
CHUNK, CTX_LEN, SLOTS, NUM_NEW, DRAFTS = 8, 64, 2, 12, 3
COMPILE: dict[str, Any] = {
    "target": "cloud-ai-100-sim",
    "precision": "fp32",
    "prefill_seq_len": CHUNK,
    "ctx_len": CTX_LEN,
    "batch_size": 1,
    "full_batch_size": SLOTS,
    "num_cores": 4,
    "num_devices": 1,
    "mxfp6_matmul": False,
    "mxint8_kv_cache": False,
}


@pytest.fixture(scope="module")
def hf_model() -> Any:
    return tiny_models.causal_lm("llama")


@pytest.fixture(scope="module")
def expected(hf_model: Any) -> list[list[int]]:
    """What Hugging Face answers, greedily."""
    rows = []
    for prompt in PROMPTS:
        ids = hf_model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=NUM_NEW, eos_token_id=[])
        rows.append(ids[0, len(prompt) :].tolist())
    return rows


@pytest.fixture(scope="module")
def card(hf_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save(hf_model, tmp_path_factory.mktemp("plugin") / "Llama")


def load(card: Path, **qaic_config: Any) -> QEFFAutoModelForCausalLM:
    """As the plugin's loader calls it."""
    return QEFFAutoModelForCausalLM.from_pretrained(
        str(card),
        attn_implementation="eager",
        config=AutoConfig.from_pretrained(card),
        qaic_config=qaic_config or None,
        revision=None,
        code_revision=None,
        kv_offload=None,
        continuous_batching=True,
        trust_remote_code=False,
    )


class Loop:
    """The plugin's loop: it keeps positions, and sets the buffer of the logits for each step."""

    def __init__(self, session: QAICInferenceSession):
        self.session = session
        names = [*session.input_names, *session.output_names]
        session.skip_buffers([name for name in names if name.startswith("past_")])
        self.num_logits = session.specializations[0]["logits"][1:]

    def step(self, tokens: np.ndarray, positions: np.ndarray, rows: list[int], **more: np.ndarray) -> np.ndarray:
        """Logits ``[rows, kept, vocab]`` of a step."""
        kept = len(more.get("num_logits_to_keep", [0]))
        self.session.set_buffers({"logits": np.zeros((len(rows), kept, self.num_logits[1]), np.float32)})
        inputs = {"input_ids": tokens, "position_ids": positions, "batch_index": np.array(rows)[:, None], **more}
        return self.session.run(inputs)["logits"].copy()

    def prefill(self, prompt: list[int], row: int, begin: int = 0, **more: np.ndarray) -> int:
        """The token after a prompt, whose first ``begin`` tokens the row has already."""
        for start in range(begin, len(prompt), CHUNK):
            chunk = prompt[start : start + CHUNK]
            tokens, positions = np.zeros((1, CHUNK), np.int64), np.full((1, CHUNK), -1)
            tokens[0, : len(chunk)], positions[0, : len(chunk)] = chunk, range(start, start + len(chunk))
            logits = self.step(tokens, positions, [row], **more)
        return int(logits[0, -1].argmax())

    def decode(self, answers: list[list[int]], rows: list[int], **more: np.ndarray) -> None:
        """A token more for each answer."""
        tokens = np.array([[answer[-1]] for answer in answers])
        lens = [[len(prompt) + len(answer) - 1] for prompt, answer in zip(PROMPTS, answers, strict=True)]
        logits = self.step(tokens, np.array(lens), rows, **more)
        for answer, row in zip(answers, logits, strict=True):
            answer.append(int(row[-1].argmax()))


@pytest.fixture
def opened() -> Iterator[Any]:
    sessions: list[QAICInferenceSession] = []

    def open_one(path: Path) -> Loop:
        from QEfficient.compile.cloud_ai_100 import simulated_sdk
        from QEfficient.compile.qaic_sdk import QaicSDK

        sessions.append(QAICInferenceSession(path, sdk=QaicSDK.find(simulated_sdk())))
        return Loop(sessions[-1])

    yield open_one
    for session in sessions:
        session.close()


def test_continuous_batching(card: Path, expected: list[list[int]], opened: Any) -> None:
    loop = opened(load(card).compile(**COMPILE))
    answers = [[loop.prefill(prompt, row)] for row, prompt in enumerate(PROMPTS)]
    while len(answers[0]) < NUM_NEW:
        loop.decode(answers, [0, 1])
    assert answers == expected


def test_prefix_caching(card: Path, expected: list[list[int]], opened: Any) -> None:
    """A prompt goes on from a row that has its beginning, and is decoded there."""
    loop = opened(load(card).compile(**COMPILE, kv_cache_batch_size=4))
    loop.prefill(PROMPTS[0][:CHUNK], 3)
    answers = [[loop.prefill(PROMPTS[0], 3, CHUNK)], [loop.prefill(PROMPTS[1], 1)]]
    while len(answers[0]) < NUM_NEW:
        loop.decode(answers, [3, 1])
    assert answers == expected


def test_context_length_specializations(card: Path, expected: list[list[int]], opened: Any) -> None:
    model = load(card, comp_ctx_lengths_prefill=[16], comp_ctx_lengths_decode=[16, 32], ctx_len=CTX_LEN)
    loop = opened(model.compile(**COMPILE))
    shapes = {shape["comp_ctx_lengths"] for shape in loop.session.specializations}
    assert shapes == {(16,), (32,), (CTX_LEN,)}
    answers = [
        [loop.prefill(prompt, row, comp_ctx_lengths=np.zeros(16, np.int64))] for row, prompt in enumerate(PROMPTS)
    ]
    while len(answers[0]) < NUM_NEW:
        longest = max(len(prompt) + len(answer) for prompt, answer in zip(PROMPTS, answers, strict=True))
        loop.decode(answers, [0, 1], comp_ctx_lengths=np.zeros(16 if longest <= 16 else 32, np.int64))
    assert answers == expected


def test_speculation_with_drafts_of_several_lengths(card: Path, expected: list[list[int]], opened: Any) -> None:
    """Drafts are those of the answer, half of them wrong; without one, the step for 0 drafts runs."""
    model = load(card, speculative_model_type="target")
    loop = opened(model.compile(**COMPILE, num_speculative_tokens=[0, DRAFTS]))
    one, several = np.zeros((1, 1), np.int64), np.zeros((1 + DRAFTS, 1), np.int64)
    answers = [[loop.prefill(prompt, row, num_logits_to_keep=one)] for row, prompt in enumerate(PROMPTS)]
    num_steps = 0
    while min(map(len, answers)) < NUM_NEW:
        num_steps += 1
        if num_steps % 3 == 0:
            loop.decode(answers, [0, 1], num_logits_to_keep=one)
            continue
        drafts = [(row + [0] * DRAFTS)[len(answer) :][:DRAFTS] for row, answer in zip(expected, answers, strict=True)]
        drafts = [[*draft[:-1], draft[-1] ^ (num_steps % 2)] for draft in drafts]
        tokens = np.array([[answer[-1], *draft] for answer, draft in zip(answers, drafts, strict=True)])
        begins = [len(prompt) + len(answer) - 1 for prompt, answer in zip(PROMPTS, answers, strict=True)]
        logits = loop.step(
            tokens, np.array(begins)[:, None] + np.arange(1 + DRAFTS), [0, 1], num_logits_to_keep=several
        )
        for answer, draft, row in zip(answers, drafts, logits.argmax(-1).tolist(), strict=True):
            num_right = next(
                (i for i, (ours, theirs) in enumerate(zip(draft, row, strict=False)) if ours != theirs), DRAFTS
            )
            answer += row[: num_right + 1]
    assert [answer[:NUM_NEW] for answer in answers] == expected
    assert num_steps < NUM_NEW - 1


def test_generate_runs_a_package_with_several_lengths_of_drafts(card: Path, expected: list[list[int]]) -> None:
    with load(card) as model:
        model.compile(**COMPILE, num_speculative_tokens=[0, DRAFTS])
        info = model.generate(PROMPTS, generation_len=NUM_NEW, automation=True)
    assert [ids.tolist() for ids in info.generated_ids] == expected


def test_disaggregated_prefill_and_decode(card: Path, expected: list[list[int]], opened: Any) -> None:
    """One package computes prompts, another goes on with the keys and values that it is handed over."""
    sizes = {**COMPILE, "full_batch_size": None}
    model = QEFFAutoModelForCausalLM.from_pretrained(card)
    packages = [model.compile(**sizes, prefill_only=prefill, retain_full_kv=True) for prefill in (True, False)]
    loops = [opened(package) for package in packages]
    state = [name for name in loops[0].session.output_names if name.endswith("_RetainedState")]
    for prompt, answer in zip(PROMPTS, expected, strict=True):
        tokens, positions = np.zeros((1, CHUNK), np.int64), np.full((1, CHUNK), -1)
        handed: dict[str, np.ndarray] = {}
        for start in range(0, len(prompt), CHUNK):
            chunk = prompt[start : start + CHUNK]
            tokens[:], positions[:] = 0, -1
            tokens[0, : len(chunk)], positions[0, : len(chunk)] = chunk, range(start, start + len(chunk))
            loops[0].session.reset_buffers(state)
            outputs = loops[0].session.run({"input_ids": tokens, "position_ids": positions, **handed})
            handed = {name.removesuffix("_RetainedState"): outputs[name].copy() for name in state}
        ours = [int(outputs["logits"][0, -1].argmax())]
        while len(ours) < NUM_NEW:
            inputs = {"input_ids": np.array([[ours[-1]]]), "position_ids": np.array([[len(prompt) + len(ours) - 1]])}
            ours.append(int(loops[1].session.run({**inputs, **handed})["logits"][0, -1].argmax()))
            loops[1].session.skip_buffers(handed)
            handed = {}
        assert ours == answer
