"""Perplexity: the windows of Hugging Face's guide, and the same number on every target."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch

from QEfficient import QEFFAutoModelForCausalLM, from_package
from QEfficient.errors import CapacityError, LifecycleError, NumericError, OptionError
from QEfficient.verify.perplexity import PerplexityReport, measure, measure_package, windows

pytestmark = pytest.mark.xdist_group("perplexity")

IDS = torch.randint(3, 320, (70,), generator=torch.Generator().manual_seed(1)).tolist()
CTX_LEN = 24


@pytest.fixture(scope="module")
def hf() -> Any:
    return tiny_models.causal_lm("qwen3", num_hidden_layers=1)


def guide(model: Any, ids: list[int], ctx_len: int, stride: int) -> tuple[float, int]:
    """The loop of Hugging Face's guide: the negative log-likelihood per token, and the tokens."""
    total, count, end_before = 0.0, 0, 0
    for begin in range(0, len(ids), stride):
        end = min(begin + ctx_len, len(ids))
        labels = torch.tensor([ids[begin:end]])
        labels[:, : -(end - end_before)] = -100
        num_valid = int((labels[:, 1:] != -100).sum())
        with torch.no_grad():
            loss = model(torch.tensor([ids[begin:end]]), labels=labels).loss
        total, count, end_before = total + float(loss) * num_valid, count + num_valid, end
        if end == len(ids):
            break
    return total / count, count


@pytest.mark.parametrize(
    ("num_tokens", "ctx_len", "stride", "expected"),
    [
        (10, 4, 4, [(0, 4, 1), (4, 8, 5), (8, 10, 9)]),
        (9, 4, 4, [(0, 4, 1), (4, 8, 5)]),  # the last token has nothing before it
        (9, 4, 2, [(0, 4, 1), (2, 6, 4), (4, 8, 6), (6, 9, 8)]),
        (3, 8, 8, [(0, 3, 1)]),
    ],
)
def test_windows(num_tokens: int, ctx_len: int, stride: int, expected: list[tuple[int, int, int]]) -> None:
    planned = list(windows(num_tokens, ctx_len, stride))
    assert [(window.begin, window.end, window.first_scored) for window in planned] == expected


@pytest.mark.parametrize("stride", [None, 10])
def test_reference_is_the_guides(hf: Any, stride: int | None) -> None:
    report = QEFFAutoModelForCausalLM(hf).evaluate(IDS, ctx_len=CTX_LEN, stride=stride, reference=True)
    nll, count = guide(hf, IDS, CTX_LEN, stride or CTX_LEN)
    assert report.nll == pytest.approx(nll, rel=1e-5)
    assert (report.num_tokens, report.num_scored, report.stride) == (70, count, stride or CTX_LEN)
    assert report.perplexity == pytest.approx(math.exp(nll), rel=1e-4)


COMPILED = [
    pytest.param({"full_batch_size": 2}, id="paged"),
    pytest.param({"lowering": "retained", "full_batch_size": 2}, id="retained"),
    pytest.param({"target": "cloud-ai-100-sim", "full_batch_size": 3}, id="card"),
    pytest.param({"target": "cloud-ai-100-sim", "batch_size": 2}, id="card without batch_index"),
    pytest.param({"target": "cloud-ai-100-sim", "num_speculative_tokens": 3}, id="card with several logits"),
    pytest.param({"target": "cloud-ai-100-sim", "prefill_only": True}, id="card with prefill alone"),
]


@pytest.mark.parametrize("options", COMPILED)
def test_every_session_gives_the_same(hf: Any, options: dict[str, Any]) -> None:
    with QEFFAutoModelForCausalLM(hf) as model:
        model.compile(ctx_len=CTX_LEN, prefill_seq_len=8, precision="fp32", **options)
        for stride in (None, 10):
            report = model.evaluate(IDS, stride=stride)
            assert report.nll == pytest.approx(guide(hf, IDS, CTX_LEN, stride or CTX_LEN)[0], rel=1e-4)
        shorter = model.evaluate(IDS, ctx_len=12, max_tokens=30)
        assert shorter.nll == pytest.approx(guide(hf, IDS[:30], 12, 12)[0], rel=1e-4)
        assert (shorter.num_tokens, shorter.num_windows) == (30, 3)
        model.generate([IDS[:5]], generation_len=2)  # the slots are free again


def test_a_recurrent_model_begins_each_window_anew() -> None:
    from architectures.tiny import tiny_model

    hf = tiny_model("causal_lm", "mamba2").float().eval()
    with QEFFAutoModelForCausalLM(hf) as model:
        model.compile(target="cpu", ctx_len=16, prefill_seq_len=8, precision="fp32")
        ids = [token % hf.config.vocab_size for token in IDS[:40]]
        assert model.evaluate(ids, stride=9).nll == pytest.approx(guide(hf, ids, 16, 9)[0], rel=1e-4)


@pytest.fixture(scope="module")
def package(hf: Any) -> Path:
    model = QEFFAutoModelForCausalLM(hf, tokenizer=tiny_models.tiny_tokenizer())
    return model.compile(ctx_len=CTX_LEN, prefill_seq_len=8, precision="fp32", full_batch_size=2)


def test_a_text_and_a_package_alone(hf: Any, package: Path) -> None:
    text = "My name is John and I am an engineer. What is the capital of France?"
    ids = tiny_models.tiny_tokenizer()(text)["input_ids"]
    with from_package(package) as compiled:
        report = measure_package(compiled, text)
    assert report.nll == pytest.approx(guide(hf, ids, CTX_LEN, CTX_LEN)[0], rel=1e-4)
    assert report.num_tokens == len(ids)
    with from_package(package, ctx_len=48) as compiled:
        assert measure_package(compiled, text).ctx_len == 48


@pytest.mark.parametrize(
    ("text", "options", "error", "match"),
    [
        ("", {}, OptionError, "empty"),
        (" \n", {}, OptionError, "empty"),
        ([5], {}, OptionError, "1 token"),
        ([[5, 6], [7, 8]], {}, OptionError, "got 2"),
        ([5, 400], {}, OptionError, "400"),
        ([5, 6], {"stride": 0}, OptionError, "stride"),
        ([5, 6], {"stride": 25}, OptionError, "left out"),
        ([5, 6], {"max_tokens": 1}, OptionError, "max_tokens"),
        ([5, 6], {"ctx_len": 25}, CapacityError, "ctx_len=24"),
    ],
)
def test_what_cannot_be_measured(
    package: Path, text: Any, options: dict[str, int], error: type[Exception], match: str
) -> None:
    with from_package(package) as compiled, pytest.raises(error, match=match):
        measure_package(compiled, text, **options)


def test_requests_come_first(package: Path) -> None:
    with from_package(package) as compiled:
        tokens = compiled.stream("My name is", generation_len=8)
        next(tokens)
        with pytest.raises(LifecycleError, match="1 request"):
            measure_package(compiled, IDS)
        tokens.close()
        measure_package(compiled, IDS)


def test_a_package_alone_has_no_reference(package: Path) -> None:
    with QEFFAutoModelForCausalLM.from_package(package) as model:
        with pytest.raises(LifecycleError, match="opened from a package"):
            model.evaluate(IDS, reference=True)
        assert model.evaluate(IDS).num_tokens == 70


def test_positions_of_the_model(hf: Any) -> None:
    with pytest.raises(CapacityError, match="512 positions"):
        QEFFAutoModelForCausalLM(hf).evaluate(IDS, ctx_len=1024, reference=True)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_no_number_is_an_error(bad: float) -> None:
    scorer: Callable[..., Any] = lambda ids, planned: iter([1.0, bad])  # noqa: E731
    with pytest.raises(NumericError, match="tokens 5 to 7"):
        measure(scorer, IDS[:8], ctx_len=4)


def test_report() -> None:
    report = PerplexityReport(num_tokens=9, num_scored=7, num_windows=2, ctx_len=5, stride=5, nll=1000.0)
    assert report.to_dict()["perplexity"] is None
    assert report.to_dict()["nll"] == 1000.0
    assert "7 of 9 tokens in 2 window(s) of 5" in str(report)
