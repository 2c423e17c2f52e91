"""What is settled when a package is opened: another value compiles nothing, and answers as one compiled for it."""

from __future__ import annotations

import gc
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import tiny_models
import torch
from architectures.tiny import tiny_model

from QEfficient import (
    QEFFAutoModel,
    QEFFAutoModelForCausalLM,
    QEFFAutoModelForSeq2SeqLM,
    QEFFAutoModelForSequenceClassification,
)
from QEfficient.errors import CapacityError, OptionError
from QEfficient.exporter import export
from QEfficient.exporter.trace import trace
from QEfficient.generation.package import from_package
from QEfficient.store.artifacts import ArtifactStore
from QEfficient.store.entries import stored_bytes
from QEfficient.transformers.tasks.graph_spec import TaskGraph

pytestmark = pytest.mark.xdist_group("open settings")
PROMPTS = [[5, 6, 7], [9, 8, 7, 6, 5, 4, 3, 2], [11] * 20]
NAMES = ("llama", "mamba")
"""One whose state is paged, one whose state has a fixed size."""


def causal_lm(name: str) -> QEFFAutoModelForCausalLM:
    return QEFFAutoModelForCausalLM(
        tiny_models.causal_lm("llama") if name == "llama" else tiny_model("causal_lm", name)
    )


def tokens(model: Any, **options: Any) -> list[list[int]]:
    return [ids.tolist() for ids in model.generate(PROMPTS, generation_len=6, **options).generated_ids]


@pytest.mark.parametrize("name", NAMES)
def test_a_package_opens_as_if_it_was_compiled_for_it(name: str) -> None:
    model = causal_lm(name)
    package = model.compile(ctx_len=48, precision="fp32")
    for settings in ({"ctx_len": 80}, {"full_batch_size": 3}, {"precision": "bf16"}, {"num_threads": 1}):
        assert model.compile(**{"ctx_len": 48, "precision": "fp32", **settings}) != package
        with QEFFAutoModelForCausalLM.from_package(package, **settings) as opened:
            answers = tokens(opened)
            opened.close()  # the next run opens it again, as before
            assert tokens(opened) == answers == tokens(model), settings


@pytest.mark.parametrize("lowering", ["paged", "retained"])
def test_other_settings_cost_neither_time_nor_disk(own_home: Path, lowering: str) -> None:
    model = causal_lm("llama")
    model.compile(ctx_len=48, lowering=lowering)
    for settings in ({"ctx_len": 96}, {"full_batch_size": 4}, {"precision": "fp32"}, {"num_threads": 1}):
        gc.collect()  # what earlier tests left is not this compilation's to pay for
        before, started = stored_bytes(ArtifactStore().entries()), time.thread_time()
        model.compile(**{"ctx_len": 48, "lowering": lowering, **settings})
        assert time.thread_time() - started < 2
        assert stored_bytes(ArtifactStore().entries()) - before < 100_000


def test_what_was_settled_by_the_compiler_is_refused() -> None:
    package = causal_lm("llama").compile(ctx_len=48, target="cloud-ai-100-sim")
    with pytest.raises(OptionError, match=r"ctx_len was settled when .* was compiled for 'cloud-ai-100-sim'"):
        from_package(package, ctx_len=96)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"ctx_length": 96}, OptionError, "'ctx_length'.*'ctx_len'"),
        ({"ctx_len": 0}, OptionError, "ctx_len must be a whole number"),
        ({"ctx_len": "96"}, OptionError, "ctx_len must be a whole number"),
        ({"full_batch_size": -1}, OptionError, "full_batch_size must be"),
        ({"precision": "fp8"}, OptionError, "precision must be one of"),
        ({"num_cores": 4}, OptionError, "num_cores cannot be set when a package is opened"),
        ({"seq_len": 4}, OptionError, "'seq_len'"),
        ({"ctx_len": 10**6}, CapacityError, "ctx_len=1000000"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], error: type[Exception], message: str) -> None:
    package = QEFFAutoModelForCausalLM(tiny_models.causal_lm("gpt2")).compile(ctx_len=48)
    with pytest.raises(error, match=message):
        from_package(package, **settings)


@pytest.mark.parametrize(
    ("family", "name"),
    [("sequence_classification", "canine"), pytest.param("text_encoder", "funnel", marks=pytest.mark.sweep)],
)
def test_lengths_never_share_a_wrong_program(family: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The code of these models depends on the length, so each has a program that another length must not get. That no
    graph is for all lengths is found out once."""
    traced: list[TaskGraph] = []

    def counted(graph: TaskGraph) -> ir.Model:
        traced.append(graph)
        return trace(graph)

    monkeypatch.setattr(export, "trace", counted)
    hf = tiny_model(family, name)
    model = (QEFFAutoModelForSequenceClassification if name == "canine" else QEFFAutoModel)(hf)
    packages = {length: model.compile(seq_len=length, precision="fp32") for length in (16, 40)}
    for length, package in packages.items():
        ids = torch.arange(length)[None] % 50 + 5
        with torch.no_grad():
            expected = hf(input_ids=ids, attention_mask=torch.ones_like(ids))[0].numpy()
        with from_package(package) as opened:
            np.testing.assert_allclose(next(iter(opened.generate(ids.tolist()).values())), expected, atol=2e-4)
    assert len(traced) <= 1 + len(packages)


def test_an_encoder_opens_for_other_lengths() -> None:
    package = QEFFAutoModel(tiny_model("text_encoder", "roberta")).compile(seq_len=16, precision="fp32")
    with pytest.raises(CapacityError, match="20 tokens"):
        from_package(package).generate([[7] * 20])
    with pytest.raises(CapacityError, match="seq_len="):
        from_package(package, seq_len=10**6)
    with from_package(package, seq_len=(8, 24), batch_size=4) as opened:
        assert opened.generate([[7] * 20, [6] * 3])["output"].shape[:2] == (2, 20)


def test_a_sequence_to_sequence_package_has_two_graphs(tmp_path: Path) -> None:
    model = QEFFAutoModelForSeq2SeqLM(tiny_model("seq2seq", "bart"))
    package = from_package(model.compile(ctx_len=16, encoder_ctx_len=24, precision="fp32"))
    assert sorted(package.body.graphs) == ["decoder", "encoder"]
    assert "encoder_hidden_states" in package.body.graphs["decoder"].inputs
    answers = tokens(package)
    with from_package(package.path, ctx_len=20, encoder_ctx_len=32, full_batch_size=2) as larger:
        assert tokens(larger) == answers
        assert larger.generate([[7] * 30], generation_len=4).generated_ids[0].size == 4
    package.close()
