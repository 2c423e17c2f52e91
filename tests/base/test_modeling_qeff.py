"""The lifecycle over the store: what is made again, what is not, and what nothing may confuse."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch

from QEfficient import QEFFAutoModel, QEFFAutoModelForCausalLM
from QEfficient.errors import ArtifactError, LifecycleError, NewerFormat, OptionError
from QEfficient.store.artifacts import FORMAT_VERSION, ArtifactStore, open_artifact

PROMPT = [[5, 6, 7, 8]]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save(tiny_models.causal_lm("gpt2"), tmp_path_factory.mktemp("checkpoint"))


def load(checkpoint: Path) -> QEFFAutoModelForCausalLM:
    return QEFFAutoModelForCausalLM.from_pretrained(checkpoint)


def answer(model: QEFFAutoModelForCausalLM) -> list[int]:
    return model.generate(PROMPT, generation_len=8).generated_ids[0].tolist()


def count_stages(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Counts exports and compilations from now on."""
    from QEfficient.compile import openvino_compiler
    from QEfficient.exporter import export

    counts = {"export": 0, "compile": 0}
    export_onnx, compile_onnx = export.export_onnx, openvino_compiler.compile_onnx

    def counted_export(*args, **kwargs):  # type: ignore[no-untyped-def]
        counts["export"] += 1
        return export_onnx(*args, **kwargs)

    def counted_compile(*args, **kwargs):  # type: ignore[no-untyped-def]
        counts["compile"] += 1
        return compile_onnx(*args, **kwargs)

    monkeypatch.setattr(export, "export_onnx", counted_export)
    monkeypatch.setattr(openvino_compiler, "compile_onnx", counted_compile)
    return counts


def test_second_compile_of_the_same_compiles_nothing(
    checkpoint: Path, own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = count_stages(monkeypatch)
    first = load(checkpoint).compile(ctx_len=64)
    elsewhere = Path(shutil.copytree(checkpoint, tmp_path / "the same model under another path"))
    relative = os.path.relpath(elsewhere)
    for model in (load(checkpoint), load(elsewhere), QEFFAutoModelForCausalLM.from_pretrained(relative)):
        assert model.compile(ctx_len=64, batch_size=1, num_cores=4) == first
    assert counts == {"export": 1, "compile": 1}


def test_another_context_neither_exports_nor_compiles_again(
    checkpoint: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = count_stages(monkeypatch)
    model = load(checkpoint)
    assert model.compile(ctx_len=64) != model.compile(ctx_len=96)
    assert counts == {"export": 1, "compile": 1}


def test_same_config_with_other_weights_is_another_artifact(own_home: Path) -> None:
    one, two = (QEFFAutoModelForCausalLM(tiny_models.causal_lm("gpt2", seed=seed)) for seed in (0, 1))
    assert one.compile(ctx_len=64, precision="fp32") != two.compile(ctx_len=64, precision="fp32")
    assert one.onnx_path != two.onnx_path
    assert answer(one) != answer(two)


def test_weights_changed_in_memory_are_another_artifact(checkpoint: Path, own_home: Path) -> None:
    model = load(checkpoint)
    first, before = model.compile(ctx_len=64, precision="fp32"), answer(model)
    with torch.no_grad():
        model.model.transformer.h[0].mlp.c_fc.weight.data.neg_()
    assert model.compile(ctx_len=64, precision="fp32") != first
    assert answer(model) != before


def test_first_compile_reads_each_weight_at_most_twice(own_home: Path) -> None:
    hf = tiny_models.causal_lm("gpt2")
    model = QEFFAutoModelForCausalLM(hf)
    model.compile(ctx_len=64)
    size = sum(parameter.nbytes for parameter in hf.parameters())
    assert size < model._weights().bytes_read < 2.05 * size, "rewrites may look at what is small, and lies in the graph"
    model.compile(ctx_len=64)
    assert model._weights().bytes_read <= size, "nothing is made, and the model is looked at once"


def test_flipped_byte_is_found_and_rebuilt(checkpoint: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(checkpoint)
    path, before = model.compile(ctx_len=64, precision="fp32"), answer(model)
    weights = path / "model.bin"
    damaged = bytearray(weights.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    weights.write_bytes(damaged)
    counts = count_stages(monkeypatch)
    again = load(checkpoint)
    assert again.compile(ctx_len=64, precision="fp32") == path
    assert counts == {"export": 0, "compile": 1}
    assert answer(again) == before


COMPILE_IN_CHILDREN = """
import logging, os, sys
from QEfficient import QEFFAutoModelForCausalLM as Model
from QEfficient.compile import openvino_compiler
from QEfficient.exporter import export
from QEfficient.transformers.checkpoint import load

def child(output):
    with open(output, "w") as sys.stdout:
        logging.basicConfig(level=logging.INFO, stream=sys.stdout)
        print(Model.from_pretrained(sys.argv[1]).compile(ctx_len=64))

children = []
for output in sys.argv[2:]:  # they share what the parent has imported
    if not (pid := os.fork()):
        child(output)
        os._exit(0)
    children.append(pid)
sys.exit(any(os.waitpid(pid, 0)[1] for pid in children))
"""


@pytest.mark.parametrize(("model", "says"), [("some/model", "from_pretrained"), (3, "pass a PreTrainedModel")])
def test_what_is_no_model_is_refused(model: Any, says: str) -> None:
    with pytest.raises(OptionError, match=says):
        QEFFAutoModelForCausalLM(model)


def test_eight_processes_compile_one_thing_once(checkpoint: Path, own_home: Path, tmp_path: Path) -> None:
    outputs = [tmp_path / f"{number}.txt" for number in range(8)]
    subprocess.run([sys.executable, "-c", COMPILE_IN_CHILDREN, str(checkpoint), *map(str, outputs)], check=True)
    texts = [output.read_text() for output in outputs]
    assert len({text.splitlines()[-1] for text in texts}) == 1
    assert sum("Built package" in text for text in texts) == 1
    assert sum("Built onnx" in text for text in texts) == 1


@pytest.mark.parametrize("seconds", [0.5, 4.0, *(pytest.param(each, marks=pytest.mark.sweep) for each in (6.0, 8.0))])
def test_killed_compile_leaves_no_entry_or_a_whole_one(checkpoint: Path, own_home: Path, seconds: float) -> None:
    script = "import sys; from QEfficient import compile; print('go', flush=True); compile(sys.argv[1], ctx_len=64)"
    process = subprocess.Popen([sys.executable, "-c", script, str(checkpoint)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()
    for entry in ArtifactStore().entries():
        if entry.state == "stored":
            open_artifact(entry.path, fresh=True)
        else:
            assert entry.state == "temporary"
    assert answer_after(checkpoint) == 8


def answer_after(checkpoint: Path) -> int:
    model = load(checkpoint)
    model.compile(ctx_len=64)
    return len(answer(model))


def test_package_opens_without_the_checkpoint(checkpoint: Path, own_home: Path, tmp_path: Path) -> None:
    model = load(checkpoint)
    moved = Path(shutil.copytree(model.compile(ctx_len=64, precision="fp32"), tmp_path / "moved"))
    opened = QEFFAutoModelForCausalLM.from_package(moved)
    assert answer(opened) == answer(model)
    with pytest.raises(LifecycleError, match="from_pretrained"):
        opened.compile(ctx_len=64)


def test_running_a_package_imports_neither_torch_nor_transformers(checkpoint: Path, own_home: Path) -> None:
    path = load(checkpoint).compile(ctx_len=64)
    script = (
        "import sys; from QEfficient import QEFFAutoModelForCausalLM as M\n"
        "print(M.from_package(sys.argv[1]).generate([[5, 6, 7]], generation_len=4).generated_ids)\n"
        "print([m for m in ('torch', 'transformers') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_newer_package_is_refused(checkpoint: Path, own_home: Path, tmp_path: Path) -> None:
    path = load(checkpoint).compile(tmp_path / "package", ctx_len=64)
    manifest = path / "manifest.json"
    manifest.write_text(manifest.read_text().replace(f'"format_version": {FORMAT_VERSION}', '"format_version": 999'))
    with pytest.raises(NewerFormat, match="999"):
        QEFFAutoModelForCausalLM.from_package(path)


def test_export_and_compile_into_folders_of_ones_own(checkpoint: Path, own_home: Path, tmp_path: Path) -> None:
    model = load(checkpoint)
    assert model.export(tmp_path / "onnx", ctx_len=64) == tmp_path / "onnx" / "model.onnx"
    assert model.compile(tmp_path / "package", ctx_len=64) == tmp_path / "package"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(ArtifactError, match="not written by this library"):
        model.compile(tmp_path / "mine", ctx_len=64)
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"


def test_the_users_model_is_never_changed(own_home: Path) -> None:
    hf = tiny_models.causal_lm("llama")
    before = {name: tensor.clone() for name, tensor in hf.state_dict().items()}
    implementation = hf.config._attn_implementation
    QEFFAutoModelForCausalLM(hf).compile(ctx_len=64)
    assert hf.config._attn_implementation == implementation
    assert all(torch.equal(before[name], tensor) for name, tensor in hf.state_dict().items())


def test_half_precision_checkpoint_is_stored_at_its_size(own_home: Path) -> None:
    hf = tiny_models.causal_lm("llama").to(torch.bfloat16)
    model = QEFFAutoModelForCausalLM(hf)
    path = model.compile(ctx_len=64, precision="fp32")
    size = sum(p.numel() * p.element_size() for p in hf.parameters())
    assert (path / "model.bin").stat().st_size < size * 1.2
    assert model.verify(PROMPT, generation_len=16).agrees


def test_own_folder_is_filled_from_the_store(
    checkpoint: Path, own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(checkpoint)
    stored = model.compile(ctx_len=64)
    counts = count_stages(monkeypatch)
    package = model.compile(tmp_path / "package", ctx_len=64)
    graph = model.export(tmp_path / "graph", ctx_len=64)
    assert counts == {"export": 0, "compile": 0}
    assert graph.parent == tmp_path / "graph"
    for folder in (package, graph.parent):
        open_artifact(folder).verify(fresh=True)
    assert (package / "model.bin").read_bytes() == (stored / "model.bin").read_bytes()
    assert answer(model)


def test_checkpoints_entries_without_effect_are_said(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = load(checkpoint)
    model.model.generation_config.num_beams = 2
    model.model.generation_config.no_repeat_ngram_size = 2  # is followed
    model.compile(ctx_len=64)
    assert "num_beams=2, which generate() does not follow" in caplog.text


def test_transform_of_a_model_and_of_a_class(checkpoint: Path) -> None:
    model = load(checkpoint)
    assert model.transform(ctx_len=64) is model
    for cls in (QEFFAutoModel, QEFFAutoModelForCausalLM):
        assert isinstance(cls.transform(model.model, form_factor="cloud"), QEFFAutoModelForCausalLM)
    with pytest.raises(OptionError, match="form_factor"):
        QEFFAutoModel.transform(model.model, form_factor="edge")
    encoder = QEFFAutoModel(tiny_models.encoder())
    assert encoder.transform(seq_len=16) is encoder


def test_repr_says_what_is_there(checkpoint: Path) -> None:
    model = load(checkpoint)
    assert repr(model) == "QEFFAutoModelForCausalLM(GPT2LMHeadModel, not compiled)"
    path = model.compile(ctx_len=64)
    assert str(path) in repr(model)
    assert "from a package" in repr(QEFFAutoModelForCausalLM.from_package(path))
