"""inspect: what a model is made of, from its config alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import gguf_models
import pytest
import quantized_models
import tiny_models
from cloud.commands import Cli, run_python, save
from gguf import GGMLQuantizationType as Type


def config_only(folder: Path, model_type: str, architecture: str, **values: Any) -> Path:
    """A folder with a ``config.json`` and nothing else."""
    from transformers import AutoConfig

    config = AutoConfig.for_model(model_type, **values)
    config.architectures = [architecture]
    config.dtype = "bfloat16"
    config.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Descriptions of one test are not there for the next."""
    monkeypatch.setenv("QEFF_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_causal_lm(cli: Cli, checkpoint: Path) -> None:
    found = cli("inspect", checkpoint, "--ctx-len", "100", "--json").json
    weights = checkpoint / "model.safetensors"
    assert (found["architecture"], found["task"]) == ("LlamaForCausalLM", "causal_lm")
    assert (
        found["weights_bytes"] == 4 * found["num_parameters"] < weights.stat().st_size < found["weights_bytes"] + 4096
    )
    assert (found["dtypes"], found["max_positions"]) == (["float32"], 512)
    assert [layer["kind"] for layer in found["layers"]] == ["full"]
    token = 2 * 2 * (16 + 16) * 2  # layers, heads, keys and values, bytes
    assert found["state"] == {
        "value_bytes": 2,
        "bytes_per_token": token,
        "fixed_bytes_per_slot": 0,
        "ctx_len": 100,
        "bytes_per_slot": 100 * token,
    }
    assert found["targets"]["cpu"] == {"lowering": "paged", "refused": {}, "unavailable": None}


def test_needs_no_weights(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(checkpoint / "config.json", bare)
    whole, found = (cli("inspect", folder, "--json").json for folder in (checkpoint, bare))
    del whole["model"], found["model"]
    assert found == whole


def test_weights_are_counted_by_their_files(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    folder = tmp_path / "half"
    folder.mkdir()
    shutil.copy(checkpoint / "config.json", folder)
    save_file({"a": torch.zeros(10, dtype=torch.bfloat16), "b": torch.zeros(3)}, folder / "model.safetensors")
    found = cli("inspect", folder, "--json").json
    assert (found["weights_bytes"], found["dtypes"]) == (32, ["bfloat16", "float32"])
    (folder / "model.safetensors").write_bytes(b"\xff" * 64)
    damaged = cli("inspect", folder)
    assert (damaged.code, damaged.out) == (1, "")
    assert "no safetensors file" in damaged.err


def test_a_second_time_needs_no_torch(checkpoint: Path, own_store: Path) -> None:
    asked = ("inspect", str(checkpoint), "--json")
    script = f"import sys; from QEfficient.cloud.app import app; app({asked!r}, standalone_mode=False)"
    first = run_python("-c", script)
    second = run_python("-c", f"{script}; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)")
    assert (first.code, second.code) == (0, 0), first.err + second.err
    assert second.out == first.out
    (stored,) = (own_store / "descriptions").iterdir()
    stored.write_text("{")
    assert run_python("-c", script).out == first.out


@pytest.mark.parametrize(
    ("packer", "section"),
    [
        pytest.param(quantized_models.gptq(8), {"quant_method": "gptq", "bits": 8}, id="8 bits"),
        pytest.param(quantized_models.hqq(), {"quant_method": "hqq"}, id="real zero points"),
    ],
)
def test_a_quantised_checkpoint(
    cli: Cli, checkpoint: Path, tmp_path: Path, packer: quantized_models.Packer, section: dict[str, Any]
) -> None:
    """What stays packed on the processor and not on the card."""
    folder, _ = quantized_models.quantize(checkpoint, tmp_path / "quantized", packer, section)
    targets = cli("inspect", folder, "--json").json["targets"]
    on_cpu, on_card = (targets[name]["weights"] for name in ("cpu", "cloud-ai-100"))
    assert (on_cpu["num_packed"], on_cpu["num_expanded"]) == (on_card["num_expanded"], on_card["num_packed"])
    assert on_cpu["num_expanded"] == 0 < on_cpu["num_packed"]
    assert on_cpu["weights_bytes"] < on_card["weights_bytes"]
    assert "stay packed" in cli("inspect", folder).out
    (folder / "model.safetensors").unlink()
    assert "weights" not in cli("inspect", folder, "--json").json["targets"]["cpu"]


def test_another_length_is_another_answer(cli: Cli, checkpoint: Path) -> None:
    short, long = (cli("inspect", checkpoint, "--ctx-len", size, "--json").json["state"] for size in ("64", "128"))
    assert (short["ctx_len"], long["ctx_len"]) == (64, 128)
    assert long["bytes_per_slot"] == 2 * short["bytes_per_slot"]


def test_of_the_hub_come_config_and_code_alone(cli: Cli, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from QEfficient.transformers.checkpoint import load as module

    wanted: list[str] = []

    def download(card: str, *, allow_patterns: list[str], **options: Any) -> str:
        wanted.extend([card, *allow_patterns])
        return str(checkpoint)

    monkeypatch.setattr(module, "snapshot_download", download)
    found = cli("inspect", "somebody/something", "--json").json
    assert (found["model"], found["architecture"]) == ("somebody/something", "LlamaForCausalLM")
    assert wanted == ["somebody/something", "config.json", "*.py"]


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half of its layers slide, and the paged lowering cannot express it."""
    return save(tiny_models.causal_lm("gemma2"), tmp_path_factory.mktemp("gemma"))


def test_says_why_not_a_faster_lowering(cli: Cli, gemma: Path) -> None:
    found = cli("inspect", gemma, "--ctx-len", "128", "--json").json
    cpu = found["targets"]["cpu"]
    assert cpu["lowering"] == "retained"
    assert "soft-capping" in cpu["refused"]["paged"]
    kinds = {layer["kind"]: layer["window"] for layer in found["layers"]}
    assert kinds == {"sliding": 16, "full": None}
    per_layer = found["state"]["bytes_per_token"] / 2
    assert found["state"]["bytes_per_slot"] == per_layer * (128 + 16)


def test_for_people(cli: Cli, gemma: Path) -> None:
    result = cli("inspect", gemma)
    assert result.code == 0
    assert "Architecture  Gemma2ForCausalLM\n" in result.out
    assert "1 sliding of 16 tokens (2 heads of 32); 1 full (2 heads of 32)" in result.out
    assert "not paged: PagedAttention has no soft-capping" in result.out
    assert "\x1b" not in result.out


def test_recurrent_state_is_a_slots(cli: Cli, tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 5, "vocab_size": 320, "state_size": 4, "conv_kernel": 4}
    card = config_only(tmp_path / "mamba", "mamba", "MambaForCausalLM", **sizes)
    found = cli("inspect", card, "--json").json
    assert [(layer["num_layers"], layer["kind"]) for layer in found["layers"]] == [(5, "linear")]
    held = 5 * (64 * 4 + 64 * 4) * 2  # layers, convolution and recurrence, bytes
    assert found["state"]["bytes_per_token"] == 0
    assert found["state"]["fixed_bytes_per_slot"] == found["state"]["bytes_per_slot"] == held


def test_a_model_without_a_cache_recomputes(cli: Cli, tmp_path: Path) -> None:
    card = config_only(tmp_path / "xlnet", "xlnet", "XLNetLMHeadModel", d_model=32, n_layer=2, n_head=2, d_inner=32)
    found = cli("inspect", card, "--json").json
    assert [layer["kind"] for layer in found["layers"]] == ["tokens"]
    assert found["state"]["bytes_per_token"] == 8
    assert "after the newest" in found["recomputes"]
    assert f"Layers        recompute every step: {found['recomputes']}\n" in cli("inspect", card).out


def test_encoder(cli: Cli, encoder: Path) -> None:
    found = cli("inspect", encoder, "--json").json
    assert (found["task"], found["max_positions"]) == ("encoder", 64)
    assert found["targets"]["cpu"]["lowering"] == "encoder"
    assert "layers" not in found
    assert "encoder" in cli("inspect", encoder).out


def test_classifier(cli: Cli, tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    card = config_only(tmp_path / "bert", "bert", "BertForSequenceClassification", num_labels=3, **sizes)
    found = cli("inspect", card, "--json").json
    assert found["task"] == "sequence_classification"
    assert found["weights_bytes"] == 2 * found["num_parameters"]


def test_text_to_text(cli: Cli, tmp_path: Path) -> None:
    sizes = {"d_model": 32, "d_ff": 48, "num_layers": 4, "num_heads": 2, "d_kv": 16, "vocab_size": 320}
    card = config_only(tmp_path / "t5", "t5", "T5ForConditionalGeneration", **sizes)
    found = cli("inspect", card, "--ctx-len", "10", "--encoder-ctx-len", "100", "--json").json
    assert [(layer["num_layers"], layer["kind"]) for layer in found["layers"]] == [(4, "full"), (4, "cross")]
    a_token = 4 * 2 * (16 + 16) * 2
    state = found["state"]
    assert (state["bytes_per_token"], state["bytes_per_encoder_token"]) == (a_token, a_token)
    assert state["bytes_per_slot"] == (10 + 100) * a_token
    assert found["targets"]["cpu"]["lowering"] == "retained"
    assert "per slot of 128 tokens and a text of 128" in cli("inspect", card).out


def test_quantised_weights_are_said(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "fp8"}}))
    found = cli("inspect", tmp_path, "--json").json
    assert (found["quantization"], found["weights_bytes"]) == ("fp8", None)
    assert "quantised ('fp8')" in cli("inspect", tmp_path).out
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": {"load_in_8bit": True}}))
    assert "quantised ('bitsandbytes')" in cli("inspect", tmp_path).out


_CODE = """
from transformers import LlamaConfig, LlamaForCausalLM
class OwnConfig(LlamaConfig):
    model_type = "own_inspected"
class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""


def test_code_of_the_card(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    own = {"AutoConfig": "own_code.OwnConfig", "AutoModelForCausalLM": "own_code.OwnForCausalLM"}
    config |= {"model_type": "own_inspected", "architectures": ["OwnForCausalLM"], "auto_map": own}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "own_code.py").write_text(_CODE)
    refused = cli("inspect", tmp_path)
    assert (refused.code, refused.out) == (1, "")
    assert "own_code.py" in refused.err
    found = cli("inspect", tmp_path, "--trust-remote-code", "--json").json
    assert (found["architecture"], found["task"]) == ("OwnForCausalLM", "causal_lm")
    assert found["targets"]["cpu"]["lowering"] == "paged"
    assert cli("inspect", tmp_path).code == 1  # what was stored is no way around


def test_pooling_is_for_encoders(cli: Cli, checkpoint: Path) -> None:
    result = cli("inspect", checkpoint, "--pooling", "mean")
    assert (result.code, result.out) == (2, "")
    assert "--pooling" in result.err


def test_an_architecture_that_nobody_knows(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no_such", "architectures": ["NoSuchForCausalLM"]}))
    result = cli("inspect", tmp_path)
    assert (result.code, result.out) == (1, "")
    assert "no_such" in result.err


def test_a_gguf_file(cli: Cli, tmp_path: Path) -> None:
    path, _ = gguf_models.save(
        "llama", tmp_path / "model.gguf", gguf_models.matrices(Type.Q8_0), rope_parameters=gguf_models.PLAIN_ROPE
    )
    described = cli("inspect", path, "--json").json
    assert described["quantization"] == "gguf"
    assert described["targets"]["cpu"]["weights"]["num_packed"] == 2 * 7 + 1
    assert cli("inspect", tmp_path, "--gguf-file", "model.gguf", "--json").json["architecture"] == "LlamaForCausalLM"


def test_a_checkpoint_in_a_format_that_is_not_read_says_so(cli: Cli, tmp_path: Path) -> None:
    """And one that is read does not."""
    values = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2}
    for method, is_read in [("aqlm", False), ("hqq", True)]:
        folder = config_only(tmp_path / method, "qwen2", "Qwen2ForCausalLM", vocab_size=320, **values)
        config = json.loads((folder / "config.json").read_text())
        section = {"quant_method": method, "quant_config": {"weight_quant_params": {"nbits": 4, "group_size": 32}}}
        (folder / "config.json").write_text(json.dumps(config | {"quantization_config": section}))
        for _ in range(2):  # made, and from the store
            reason = cli("inspect", folder, "--json").json["why_not_loaded"]
            assert (reason is None) == is_read, reason
        shown = cli("inspect", folder).out
        assert ("Cannot be loaded" in shown) == (not is_read)
        assert ("the weights are quantised ('aqlm')" in shown) == (not is_read)
