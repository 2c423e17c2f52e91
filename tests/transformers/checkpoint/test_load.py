"""Bad checkpoints get a clear typed error before any export, and nothing is written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from QEfficient import QEFFAutoModel, QEFFAutoModelForCausalLM, QEFFAutoModelForSeq2SeqLM, QEFFCommonLoader
from QEfficient.cloud.inspect import command as inspect
from QEfficient.errors import (
    CapacityError,
    CheckpointNotFound,
    CorruptCheckpoint,
    LifecycleError,
    OptionError,
    QEffError,
    StorageError,
    TargetUnavailable,
    UnsafeCheckpoint,
    UnsupportedModel,
)
from QEfficient.transformers.checkpoint import load as checkpoint
from QEfficient.transformers.checkpoint.files import NOT_READ, READ, is_any


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save(tiny_models.causal_lm("llama"), tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A checkpoint that a test may damage."""
    return Path(shutil.copytree(whole, tmp_path / "checkpoint"))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def change_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def written(home: Path) -> list[Path]:
    return [path for path in home.rglob("*") if path.is_file() and path.name.startswith("model.")]


def fails(folder: Path | str, error: type[QEffError], *words: str, **options: object) -> None:
    with pytest.raises(error) as caught:
        QEFFAutoModelForCausalLM.from_pretrained(folder).compile(**options)  # type: ignore[arg-type]
    for word in words:
        assert word in str(caught.value)


def test_unknown_card(own_home: Path) -> None:
    fails("nobody/no-such-model", CheckpointNotFound, "nobody/no-such-model")
    fails("./no such folder", CheckpointNotFound, "no such folder")


def test_folder_without_config(own_home: Path, tmp_path: Path) -> None:
    fails(tmp_path, CheckpointNotFound, "config.json", "save_pretrained")


def test_folder_without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    fails(folder, CheckpointNotFound, "no weights")


def test_pickled_weights_are_never_loaded(folder: Path, tmp_path: Path, own_home: Path) -> None:
    canary = tmp_path / "canary"

    class Payload:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (canary,))

    (folder / "model.safetensors").unlink()
    torch.save({"x": Payload()}, folder / "pytorch_model.bin")
    fails(folder, UnsafeCheckpoint, "pytorch_model.bin", "safetensors")
    assert not canary.exists()
    assert not written(own_home)


def with_code(folder: Path, canary: Path, **changes: Any) -> Path:
    """Python files in ``folder`` that create ``canary`` when they run, named by ``auto_map``."""
    for file in ("modeling_toy", "configuration_toy", "tokenization_toy"):
        (folder / f"{file}.py").write_text(f"open({str(canary)!r}, 'w').close()\n")
    own = {"AutoConfig": "configuration_toy.ToyConfig", "AutoModelForCausalLM": "modeling_toy.ToyForCausalLM"}
    change_config(folder, **{"auto_map": own, **changes})
    return canary


UNKNOWN = {"model_type": "toy", "architectures": ["ToyForCausalLM"]}


@pytest.mark.parametrize(
    "changes",
    [
        UNKNOWN,
        {**UNKNOWN, "auto_map": {"AutoModelForCausalLM": "modeling_toy.ToyForCausalLM"}},
        {"auto_map": "modeling_toy.ToyForCausalLM"},
        {"auto_map": ["modeling_toy.ToyForCausalLM"]},
        {"model_type": None},
        {"model_type": ["llama"]},
    ],
)
def test_remote_code_needs_permission(folder: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    canary = with_code(folder, tmp_path / "canary", **changes)
    fails(folder, UnsafeCheckpoint, "modeling_toy.py", "trust_remote_code=True")
    assert not canary.exists()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"auto_map": {"AutoConfig": "nobody/repository--configuration_toy.ToyConfig"}},
        {"auto_map": {"AutoModelForCausalLM": "modeling_toy.ToyForCausalLM"}},
    ],
)
def test_a_native_architecture_runs_no_code(folder: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    """Phi-3 and many others have been in transformers for long, and their checkpoints still bring files."""
    canary = with_code(folder, tmp_path / "canary", **changes)
    tiny_models.tiny_tokenizer().save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    own = {"auto_map": {"AutoTokenizer": ["tokenization_toy.ToyTokenizer", None]}}
    path.write_text(json.dumps(json.loads(path.read_text()) | own))
    model = QEFFAutoModelForCausalLM.from_pretrained(folder)
    assert type(model._loaded()).__module__.startswith("transformers.models.llama")
    assert not canary.exists()


def test_the_class_asked_for_is_native_too(folder: Path, tmp_path: Path) -> None:
    """transformers has the config, and no class of it for this task."""
    own = {"AutoModelForSeq2SeqLM": "modeling_toy.ToyForSeq2Seq"}
    canary = with_code(folder, tmp_path / "canary", auto_map=own)
    with pytest.raises(UnsafeCheckpoint, match="trust_remote_code=True"):
        QEFFAutoModelForSeq2SeqLM.from_pretrained(folder)
    assert not canary.exists()


@pytest.mark.parametrize(
    "choice",
    [
        {"attn_implementation": "flash_attention_2"},
        {"_attn_implementation": "flash_attention_3"},
        {"attn_implementation": "kernels-community/flash-attn"},
        {"attn_implementation": {"": "flex_attention"}},
        {"experts_implementation": "deepgemm"},
    ],
    ids=str,
)
def test_kernels_of_another_machine(folder: Path, choice: dict[str, object]) -> None:
    """What a config says of how to run is not what the model is."""
    change_config(folder, **choice)
    model = QEFFAutoModelForCausalLM.from_pretrained(folder)
    assert model.config._attn_implementation == "sdpa"
    assert CliRunner().invoke(inspect, [str(folder)]).exit_code == 0


def test_truncated_weights(folder: Path, own_home: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    fails(folder, CorruptCheckpoint, "truncated or damaged")
    assert not written(own_home)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite(folder: Path, own_home: Path, value: float) -> None:
    name = "model.layers.1.mlp.down_proj.weight"
    change_weights(folder, lambda tensors: tensors[name].view(-1)[7:8].fill_(value))
    fails(folder, CorruptCheckpoint, name, "NaN or infinity")
    assert not written(own_home)


def test_missing_weight(folder: Path, own_home: Path) -> None:
    change_weights(folder, lambda tensors: tensors.pop("model.layers.0.self_attn.q_proj.weight"))
    fails(folder, CorruptCheckpoint, "model.layers.0.self_attn.q_proj.weight", "missing")


def test_misshapen_weight(folder: Path) -> None:
    name = "model.layers.0.self_attn.q_proj.weight"
    change_weights(folder, lambda tensors: tensors.update({name: torch.zeros(3, 5)}))
    fails(folder, CorruptCheckpoint, name)


def test_config_that_is_not_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    fails(folder, CorruptCheckpoint, "config.json", "JSON")


def test_architecture_that_transformers_does_not_know(folder: Path) -> None:
    change_config(folder, model_type="no_such_architecture")
    fails(folder, UnsupportedModel, "no_such_architecture")


def test_context_beyond_the_positions(folder: Path, own_home: Path) -> None:
    fails(folder, CapacityError, "1000", "512", ctx_len=1000)
    assert not written(own_home)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prefil_seq_len": 3}, ["prefil_seq_len", "prefill_seq_len"]),
        ({"mxfp6_matmul": True}, ["mxfp6_matmul", "weight_format='int8'"]),
        ({"mxint8_kv_cache": True}, ["mxint8_kv_cache", "weight_format"]),
        ({"weight_format": "int5"}, ["int5", "'int8'"]),
        ({"ctx_len": 0}, ["ctx_len", "0"]),
        ({"target": "cpuu"}, ["cpuu", "'cpu'"]),
        ({"batch_size": 2, "full_batch_size": 4}, ["batch_size=2", "full_batch_size=4"]),
    ],
)
def test_bad_options(folder: Path, own_home: Path, options: dict[str, object], words: list[str]) -> None:
    fails(folder, OptionError, *words, **options)
    assert not written(own_home)


def test_misspelt_load_option(folder: Path) -> None:
    with pytest.raises(OptionError, match=r"revison.*revision"):
        QEFFAutoModelForCausalLM.from_pretrained(folder, revison="main")


def test_generate_before_compile(folder: Path) -> None:
    with pytest.raises(LifecycleError, match=r"compile\(\)"):
        QEFFAutoModelForCausalLM.from_pretrained(folder).generate([[5, 6]])


def test_target_that_is_not_here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("QEfficient.targets._openvino_missing", lambda: "no openvino")
    from dataclasses import replace

    from QEfficient import targets

    row = replace(targets.TARGETS["cpu"], why_unavailable=lambda: "the package 'openvino' is not installed")
    monkeypatch.setitem(targets.TARGETS, "cpu", row)
    fails(folder, TargetUnavailable, "openvino", target="cpu")


def test_no_disk_space_is_found_before_the_export(
    folder: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 5, 5))
    monkeypatch.setattr("QEfficient.exporter.export.trace", lambda graph: pytest.fail("exported"))
    fails(folder, StorageError, "QEFF_HOME", "free")
    assert not written(own_home)


def test_unknown_pooling(folder: Path) -> None:
    with pytest.raises(OptionError, match=r"'meen'.*'mean'"):
        QEFFAutoModel.from_pretrained(folder, pooling="meen")


def test_common_loader_takes_the_class_of_the_config(folder: Path) -> None:
    assert isinstance(QEFFCommonLoader.from_pretrained(folder), QEFFAutoModelForCausalLM)
    change_config(folder, architectures=["LlamaModel"])
    assert isinstance(QEFFCommonLoader.from_pretrained(folder), QEFFAutoModel)
    change_config(folder, architectures=["LlamaForTokenClassification"])
    with pytest.raises(UnsupportedModel, match="LlamaForTokenClassification"):
        QEFFCommonLoader.from_pretrained(folder)


@pytest.mark.parametrize("where", ["quantization_config", "compression_config", "text_config"])
def test_quantised_checkpoint_is_refused_before_loading(folder: Path, own_home: Path, where: str) -> None:
    scheme = {"quant_method": "aqlm", "bits": 4}
    change_config(folder, **{where: {"quantization_config": scheme} if where == "text_config" else scheme})
    (folder / "model.safetensors").write_bytes(b"not read")
    fails(folder, UnsupportedModel, "'aqlm'", "gptq, awq", "weight_format='int8'")
    assert not written(own_home)


def test_upstreams_name_of_dtype(whole: Path) -> None:
    assert QEFFAutoModelForCausalLM.from_pretrained(whole, torch_dtype=torch.bfloat16).model.dtype == torch.bfloat16


def test_loader_takes_full_batch_size_for_every_task(whole: Path, tmp_path: Path) -> None:
    encoder = tiny_models.save(tiny_models.encoder(), tmp_path / "encoder")
    assert isinstance(QEFFCommonLoader.from_pretrained(encoder, full_batch_size=4), QEFFAutoModel)
    loaded = QEFFCommonLoader.from_pretrained(whole, full_batch_size=4)
    assert isinstance(loaded, QEFFAutoModelForCausalLM)
    assert loaded.continuous_batching


HUB_FILES = {
    "config.json": "{}",
    "tokenizer_config.json": "{}",
    **dict.fromkeys(
        ("bpe.codes", "source.spm", "target.spm", "qwen.tiktoken", "merges.txt", "chat_template.jinja"), ""
    ),
    **dict.fromkeys(("spiece.model", "prophetnet.tokenizer", "additional_chat_templates/tools.jinja"), ""),
}
OTHER_FORMS = (
    *("consolidated.safetensors", "consolidated.safetensors.index.json", "consolidated.00.pth", "pytorch_model.bin"),
    *("model.fp16.safetensors", "model.fp16-00001-of-00002.safetensors", "model.fp16.safetensors.index.json"),
    *("original/params.json", "original/tokenizer.model", "original/model.safetensors", "onnx/config.json"),
    *("flax_model.msgpack", "tf_model.h5", "model.safetensors.zip"),
)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[dict[str, str]], list[str]]:
    """Gives a repository's files, and returns the names of those that are downloaded."""
    from huggingface_hub.utils import filter_repo_objects

    def fetched(files: dict[str, str]) -> list[str]:
        def download(model_name: str, allow_patterns: list[str], ignore_patterns: list[str] | None, **_: Any) -> str:
            for name in filter_repo_objects(files, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns):
                path = tmp_path / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(files[name])
            return str(tmp_path)

        monkeypatch.setattr(checkpoint, "snapshot_download", download)
        checkpoint.resolve("somebody/something")
        return sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())

    return fetched


@pytest.mark.parametrize(
    "weights",
    [
        {"model.safetensors": ""},
        {"model-00001-of-00002.safetensors": "", "model-00002-of-00002.safetensors": ""},
        {"parts/a[1].safetensors": "", "b.safetensors": ""},
    ],
    ids=["whole", "shards", "odd names"],
)
def test_of_the_hub_come_the_files_that_are_read(
    hub: Callable[[dict[str, str]], list[str]], weights: dict[str, str]
) -> None:
    index = {"model.safetensors.index.json": json.dumps({"weight_map": {name: name for name in weights}})}
    wanted = {**HUB_FILES, **weights, **({} if "model.safetensors" in weights else index)}
    assert hub({**wanted, **dict.fromkeys(OTHER_FORMS, "")}) == sorted(wanted)


def test_shards_beside_the_whole_file_are_left(hub: Callable[[dict[str, str]], list[str]]) -> None:
    index = json.dumps({"weight_map": {"a": "model-00001-of-00001.safetensors"}})
    whole = {"config.json": "{}", "model.safetensors": "", "model.safetensors.index.json": index}
    assert hub({**whole, "model-00001-of-00001.safetensors": ""}) == sorted(whole)


def test_every_vocabulary_of_transformers_is_read() -> None:
    """Of the classes, by what they call their files."""
    import transformers
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

    classes = [getattr(transformers, name) for name in {*TOKENIZER_MAPPING_NAMES.values()} if name is not None]
    names = {name for each in classes for name in getattr(each, "vocab_files_names", {}).values()}
    assert {"bpe.codes", "prophetnet.tokenizer", "tokenizer.model"} <= names
    assert [name for name in sorted(names) if not is_any(name, READ) or is_any(name, NOT_READ)] == []
