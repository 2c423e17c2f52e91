"""From a model to answers on the card's path: with the simulated SDK, without any, and with compilers that fail."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from greedy import answers, load, prompts, reference

from QEfficient import QEFFAutoModel, QEFFAutoModelForCausalLM
from QEfficient.errors import CapacityError, CompileError, OptionError, TargetUnavailable
from QEfficient.exporter import export
from QEfficient.simulator.sdk import install
from QEfficient.store.artifacts import ArtifactStore

SIZES: dict[str, Any] = {"prefill_seq_len": 24, "ctx_len": 160, "full_batch_size": 2, "kv_cache_batch_size": 4}
SIM: dict[str, Any] = {"target": "cloud-ai-100-sim", **SIZES}


@pytest.fixture
def model() -> Iterator[QEFFAutoModelForCausalLM]:
    with QEFFAutoModelForCausalLM(load("llama")) as opened:
        yield opened


def packages() -> list[Path]:
    return [entry.path for entry in ArtifactStore().entries() if entry.kind == "package"]


def test_no_sdk_is_said_before_anything_is_exported(
    model: QEFFAutoModelForCausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QEFF_QAIC_SDK", str(tmp_path / "nothing"))
    monkeypatch.setattr(export, "export_onnx", None)
    with pytest.raises(TargetUnavailable, match=r"cloud-ai-100.*Works here: cpu, cloud-ai-100-sim"):
        model.compile(target="cloud-ai-100", **SIZES)


def test_the_cards_own_path_runs_on_the_simulated_sdk(
    model: QEFFAutoModelForCausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the SDK's place differs."""
    monkeypatch.setenv("QEFF_QAIC_SDK", str(install(tmp_path / "sdk")))
    package = model.compile(target="cloud-ai-100", precision="fp32", **SIZES)
    assert (package / "qpc" / "programqpc.bin").is_file()
    assert answers(model, prompts()) == reference("llama")
    model.close()
    with QEFFAutoModelForCausalLM.from_package(package) as opened:
        assert answers(opened, prompts()[:1]) == reference("llama")[:1]


def test_second_compile_compiles_nothing_and_options_of_the_card_make_another(
    model: QEFFAutoModelForCausalLM, own_home: Path
) -> None:
    first = model.compile(**SIM)
    assert QEFFAutoModelForCausalLM(load("llama")).compile(**SIM) == first
    assert model.compile(**SIM, mxfp6_matmul=True) != first
    assert model.compile(**SIM, num_cores=8) != first
    assert len(packages()) == 3


COMPILERS = {
    "fails": ("echo 'Error: no such thing' >&2; exit 3", "no such thing"),
    "writes nothing": ("exit 0", "programqpc.bin"),
    "is killed": ("kill -9 $$", "SIGKILL"),
    "writes half a program": (
        'for a in "$@"; do case $a in -aic-binary-dir=*) d=${a#*=};; esac; done; mkdir -p $d; '
        "printf '\\174\\315\\241\\000\\000\\001' > $d/programqpc.bin",
        "programqpc.bin",
    ),
}


@pytest.mark.parametrize("name", list(COMPILERS))
def test_compiler_that_fails_leaves_no_package(
    model: QEFFAutoModelForCausalLM, own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    script, words = COMPILERS[name]
    sdk = install(tmp_path / "sdk")
    (sdk / "exec" / "qaic-compile").write_text(f"#!/bin/sh\n{script}\n")
    monkeypatch.setenv("QEFF_QAIC_SDK", str(sdk))
    with pytest.raises(CompileError, match=words):
        model.compile(target="cloud-ai-100", **SIZES)
    assert packages() == []
    assert model.qpc_path is None


def test_dry_run_writes_what_the_compiler_reads(
    model: QEFFAutoModelForCausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where there is no SDK."""
    monkeypatch.setenv("QEFF_QAIC_SDK", str(tmp_path / "nothing"))
    folder = model.compile(tmp_path / "dry", target="cloud-ai-100", dry_run=True, num_devices=2, **SIZES)
    assert {path.name for path in folder.iterdir()} >= {"command.txt", "specializations.json", "custom_io.yaml"}
    command = (folder / "command.txt").read_text()
    assert "-network-specialization-config=" in command
    assert str(folder / "mdp_ts_2.json") in command
    assert not (folder / "qpc").exists()
    assert model.qpc_path is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"weight_format": "int8"}, "mxfp6_matmul"),
        ({"precision": "bf16"}, "precision"),
        ({"num_cores": 99}, "num_cores"),
        ({"lowering": "paged"}, "paged"),
        ({"comp_ctx_lengths_decode": (64, 256)}, "ctx_len"),
    ],
)
def test_impossible_options_are_refused_before_the_export(
    model: QEFFAutoModelForCausalLM, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], words: str
) -> None:
    monkeypatch.setattr(export, "export_onnx", None)
    with pytest.raises(Exception, match=words) as caught:
        model.compile(**SIM, **options)
    assert type(caught.value).__module__ == "QEfficient.errors"


def test_formats_of_the_card_cost_accuracy_and_nothing_else(model: QEFFAutoModelForCausalLM) -> None:
    """Answers in MXFP6 and MXINT8 are not Hugging Face's, but begin as they do where its margin is large."""
    model.compile(**SIM, mxfp6_matmul=True, mxint8_kv_cache=True)
    ours = answers(model, prompts())
    assert ours != reference("llama")
    assert [ids[0] for ids in ours] == [ids[0] for ids in reference("llama")]


def test_two_packages_do_not_fit_one_device_and_a_closed_one_gives_its_cores_back(
    model: QEFFAutoModelForCausalLM,
) -> None:
    model.compile(**SIM)
    model.generate(prompts()[:1], device_id=[0], generation_len=1)
    with QEFFAutoModelForCausalLM(load("llama")) as second:
        second.compile(**SIM)
        with pytest.raises(Exception, match="0 of 16 cores"):
            second.generate(prompts()[:1], device_id=[0], generation_len=1)
        assert second.generate(prompts()[:1], device_id=[1], generation_len=1).generated_ids[0].size == 1
        model.close()
        assert second.generate(prompts()[:1], device_id=[0], generation_len=1).generated_ids[0].size == 1


def test_a_device_that_nobody_names_is_a_free_one_and_comes_back_with_its_model(
    model: QEFFAutoModelForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QEFF_SIM_DEVICES", "2")
    package = model.compile(**SIM)
    expected = model.generate(prompts()[:1], generation_len=4).generated_texts
    second = QEFFAutoModelForCausalLM.from_package(package)
    assert second.generate(prompts()[:1], generation_len=4).generated_texts == expected
    with pytest.raises(CapacityError, match="0 of 16 cores"):
        QEFFAutoModelForCausalLM.from_package(package)
    del second
    gc.collect()
    with QEFFAutoModelForCausalLM.from_package(package) as third:
        assert third.generate(prompts()[:1], generation_len=4).generated_texts == expected


def test_encoder_takes_the_smallest_compiled_length() -> None:
    hf = tiny_models.encoder()
    texts = [[5, 6, 7], list(range(3, 23)), [9]]
    with QEFFAutoModel(hf, pooling="mean") as encoder:
        encoder.compile(target="cloud-ai-100-sim", seq_len=[8, 32], batch_size=2, precision="fp32")
        output = encoder.generate(texts)["output"]
        assert (encoder.generate(texts, [1])["output"] == output).all()
        with pytest.raises(OptionError, match="target='cpu'"):
            encoder.generate(texts, runtime_ai100=False)
    with torch.no_grad():
        expected = [hf(torch.tensor([ids])).last_hidden_state[0].mean(0).numpy() for ids in texts]
    np.testing.assert_allclose(output, np.stack(expected), atol=1e-5)


def test_closed_model_opens_again(model: QEFFAutoModelForCausalLM) -> None:
    model.compile(**SIM, precision="fp32")
    for _ in range(2):
        assert answers(model, prompts()[:1]) == reference("llama")[:1]
        model.close()


def test_runtime_ai100_has_one_meaning(model: QEFFAutoModelForCausalLM) -> None:
    with pytest.raises(OptionError, match="target='cpu'"):
        model.generate(prompts(), runtime_ai100=False)
