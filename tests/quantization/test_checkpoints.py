"""Quantised checkpoints are what compressed-tensors itself writes, and load here and in transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationConfig
from greedy import prompts
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, CompressedTensorsConfig

import QEfficient
from QEfficient import QEFFAutoModelForCausalLM
from QEfficient.errors import ArtifactError, CorruptCheckpoint, OptionError, UnsafeCheckpoint, UnsupportedModel
from QEfficient.quantization.layout import parts_of
from QEfficient.quantization.options import QuantizeOptions
from QEfficient.quantization.quantize import quantize
from QEfficient.quantization.report import layer_error
from QEfficient.quantization.schemes import scheme_of
from QEfficient.transformers.checkpoint import load as loading

pytestmark = pytest.mark.xdist_group("quantization")

SCHEMES: dict[str, dict[str, Any]] = {
    "int8": {"format": "int8"},
    "int8 in groups": {"format": "int8", "group_size": 32},
    "int8 asymmetric": {"format": "int8", "asymmetric": True},
    "int4": {"format": "int4", "group_size": 32},
    "int4 of rows": {"format": "int4", "group_size": -1},
    "int4 asymmetric": {"format": "int4", "group_size": 16, "asymmetric": True},
    "fp8": {"format": "fp8"},
    "fp8 in blocks": {"format": "fp8", "block_size": 40},
    "mxfp4": {"format": "mxfp4"},
    "mxfp6": {"format": "mxfp6"},
    "nvfp4": {"format": "nvfp4"},
}
LAYER = "model.layers.1.mlp.down_proj"


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def plain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = tiny_models.causal_lm("llama")
    model.generation_config.max_new_tokens = 9
    folder = tmp_path_factory.mktemp("plain") / request.param
    tiny_models.save(model.to(getattr(torch, request.param)), folder)
    tiny_models.tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def float32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save(tiny_models.causal_lm("llama"), tmp_path_factory.mktemp("plain") / "float32")


def section(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())["quantization_config"]
    return config


def theirs(folder: Path) -> tuple[Any, Any]:
    """compressed-tensors' compressor and scheme for a checkpoint."""
    config = QuantizationConfig.model_validate(section(folder))
    scheme = config.config_groups["group_0"]
    return BaseCompressor.get_value_from_registry(scheme.format), scheme


def parts(folder: Path, module: str) -> dict[str, torch.Tensor]:
    stored = load_file(folder / "model.safetensors")
    return {name.removeprefix(f"{module}."): part for name, part in stored.items() if name.startswith(f"{module}.")}


@pytest.mark.parametrize("name", SCHEMES)
def test_weights_are_those_of_compressed_tensors(plain: Path, tmp_path: Path, name: str) -> None:
    report = quantize(plain, tmp_path / "out", **SCHEMES[name])
    compressor, scheme = theirs(tmp_path / "out")
    read = loading.load_model(AutoModelForCausalLM, tmp_path / "out").state_dict()
    before = load_file(plain / "model.safetensors")
    assert len(report.layers) == 14
    for layer in report.layers:
        stored = parts(tmp_path / "out", layer.name)
        expected = compressor.decompress(stored, scheme)["weight"]
        weight = before[f"{layer.name}.weight"]
        torch.testing.assert_close(read[f"{layer.name}.weight"].to(expected.dtype), expected, rtol=0, atol=0)
        assert stored.get("weight_scale", weight).dtype in (weight.dtype, torch.uint8, torch.float8_e4m3fn)
        error = float((expected.float() - weight.float()).norm() / weight.float().norm())
        assert layer.weight_error == pytest.approx(error, rel=0.1)  # theirs is rounded to the dtype
        assert 0 < error < {8: 0.05, 6: 0.05, 4: 0.2}[scheme.weights.num_bits]


@pytest.mark.parametrize("name", [name for name in SCHEMES if "fp4" not in name and "blocks" not in name])
def test_rounding_is_that_of_compressed_tensors(float32: Path, tmp_path: Path, name: str) -> None:
    from compressed_tensors.quantization.utils import calculate_qparams

    quantize(float32, tmp_path / "out", **SCHEMES[name])
    compressor, scheme = theirs(tmp_path / "out")
    weight = load_file(float32 / "model.safetensors")[f"{LAYER}.weight"]
    groups = weight.reshape(len(weight), -1, scheme.weights.group_size or weight.shape[1])
    scale, zero_point = calculate_qparams(groups.amin(-1), groups.amax(-1), scheme.weights)
    state = {"weight": weight, "weight_scale": scale, "weight_zero_point": zero_point}
    expected, ours = compressor.compress(state, scheme), parts(tmp_path / "out", LAYER)
    assert ours.keys() == expected.keys()
    for part, tensor in expected.items():
        torch.testing.assert_close(ours[part], tensor, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["mxfp4", "mxfp6", "nvfp4"])
def test_fp4_is_that_of_compressed_tensors(float32: Path, tmp_path: Path, name: str) -> None:
    from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

    quantize(float32, tmp_path / "out", **SCHEMES[name])
    compressor, scheme = theirs(tmp_path / "out")
    weight = load_file(float32 / "model.safetensors")[f"{LAYER}.weight"]
    groups = weight.reshape(len(weight), -1, scheme.weights.group_size)
    state = {"weight": weight}
    if name == "nvfp4":
        state["weight_global_scale"] = generate_gparam(weight.min(), weight.max())
    extremes = groups.amin(-1), groups.amax(-1)
    scale, _ = calculate_qparams(*extremes, scheme.weights, global_scale=state.get("weight_global_scale"))
    expected, ours = compressor.compress(state | {"weight_scale": scale}, scheme), parts(tmp_path / "out", LAYER)
    assert ours.keys() == expected.keys()
    for part, tensor in expected.items():
        torch.testing.assert_close(ours[part].float(), tensor.float(), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["int8", "int4 asymmetric", "fp8", "fp8 in blocks", "mxfp4", "nvfp4"])
def test_transformers_and_this_library_answer_alike(float32: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    quantize(float32, out, **SCHEMES[name])
    # compressed-tensors 0.20 has no place for packed zero points unless it expands the weights at once.
    options = {"quantization_config": CompressedTensorsConfig(dequantize=True)} if "asymmetric" in name else {}
    hf = AutoModelForCausalLM.from_pretrained(out, **options).eval()
    hf(torch.tensor([[3]]))  # expands them
    hf = torch.nn.Module.float(hf)
    ids = prompts()[0]
    options = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    expected = hf.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), **options)[0, len(ids) :]
    with QEFFAutoModelForCausalLM.from_pretrained(out, dtype="float32") as model:
        model.compile(target="cpu", ctx_len=160, precision="fp32")
        assert model.generate([ids], generation_len=12).generated_ids[0].tolist() == expected.tolist()


def test_what_stays(plain: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = quantize(plain, out, format="int8", ignore=["*.down_proj", "model.layers.0.self_attn.*"])
    stored, before = load_file(out / "model.safetensors"), load_file(plain / "model.safetensors")
    kept = {name for name in before if name in stored}
    for name in kept:
        torch.testing.assert_close(stored[name], before[name], rtol=0, atol=0)
    assert {"lm_head.weight", "model.embed_tokens.weight", "model.norm.weight", f"{LAYER}.weight"} <= kept
    assert report.num_kept == len(section(out)["ignore"]) == 7
    assert {"lm_head", LAYER, "model.layers.0.self_attn.q_proj"} <= {*section(out)["ignore"]}
    same = ("generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
    for file in (file for file in same if (plain / file).exists()):
        assert (out / file).read_bytes() == (plain / file).read_bytes()
    assert {path.name for path in out.iterdir()} == {path.name for path in plain.iterdir()}
    with safe_open(out / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


@pytest.mark.parametrize("architecture", ["qwen3_moe", "mixtral"])
def test_experts_of_a_mixture(tmp_path: Path, architecture: str) -> None:
    plain = tiny_models.save(tiny_models.causal_lm(architecture), tmp_path / "plain")
    report = quantize(plain, tmp_path / "out", format="int4", group_size=16)
    experts = {layer.name for layer in report.layers if ".experts." in layer.name}
    assert len(experts) == 2 * 4 * 3
    assert report.bytes_after < report.bytes_before / 2
    ids = torch.tensor([prompts()[0]])
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(tmp_path / "out")(ids).logits
        ours = loading.load_model(AutoModelForCausalLM, tmp_path / "out")(ids).logits
    torch.testing.assert_close(ours, expected, rtol=0, atol=0)
    kept = quantize(plain, tmp_path / "kept", format="int4", group_size=16, keep_experts=True)
    assert {layer.name for layer in kept.layers} == {layer.name for layer in report.layers} - experts
    some = quantize(plain, tmp_path / "some", format="int4", group_size=16, ignore=["*.experts.3.*"])
    assert len(some.layers) == len(report.layers) - 2 * 3


def test_the_head_on_request(float32: Path, tmp_path: Path) -> None:
    quantize(float32, tmp_path / "out", format="int8", head=True)
    assert "lm_head.weight_packed" in load_file(tmp_path / "out" / "model.safetensors")
    tied = tiny_models.save(tiny_models.causal_lm("llama", tie_word_embeddings=True), tmp_path / "tied")
    report = quantize(tied, tmp_path / "tied-out", format="int8", head=True)
    assert report.num_kept == 1, "its weight is the embedding"
    loading.load_model(AutoModelForCausalLM, tmp_path / "tied-out")


@pytest.mark.parametrize("name", SCHEMES)
def test_rows_at_a_time_are_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from QEfficient.quantization import rounding

    weight = torch.randn(90, 96, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    scheme = scheme_of(QuantizeOptions(**SCHEMES[name]))
    whole = rounding.round_weight(weight, scheme, torch.bfloat16)
    monkeypatch.setattr(rounding, "_STEP", 1)
    rows = rounding.round_weight(weight, scheme, torch.bfloat16)
    assert whole.values.element_size() == 1
    for part, tensor in parts_of(whole).items():
        torch.testing.assert_close(parts_of(rows)[part].float(), tensor.float(), rtol=0, atol=0)
    torch.testing.assert_close(rows.expand(), whole.expand(), rtol=0, atol=0)
    assert layer_error("w", "rtn", weight, rows) == layer_error("w", "rtn", weight, whole)


def test_several_files(float32: Path, tmp_path: Path) -> None:
    one, several = tmp_path / "one", tmp_path / "several"
    options = {"format": "int4", "group_size": 32}
    quantize(float32, one, **options)
    report = quantize(float32, several, max_shard_bytes=100_000, **options)
    index = json.loads((several / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == report.bytes_after
    shards = sorted(path.name for path in several.glob("*.safetensors"))
    assert len(shards) > 1
    assert shards == sorted({*index["weight_map"].values()})
    assert shards[0] == f"model-00001-of-{len(shards):05}.safetensors"
    whole, joined = load_file(one / "model.safetensors"), {}
    for shard in shards:
        joined |= load_file(several / shard)
    assert joined.keys() == whole.keys() == index["weight_map"].keys()
    assert all(torch.equal(joined[name], whole[name]) for name in whole)
    again = quantize(float32, tmp_path / "again", max_shard_bytes=100_000, **options)
    assert again.layers == report.layers


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"format": "int3"}, OptionError, "int3"),
        ({"frmat": "int4"}, OptionError, "Did you mean 'format'"),
        ({"format": "int4"}, OptionError, "groups of 128"),
        ({"format": "fp8", "group_size": 32}, OptionError, "group_size"),
        ({"format": "int8", "block_size": 32}, OptionError, "block_size"),
        ({"format": "int8", "group_size": 0}, OptionError, "group_size"),
        ({"format": "int8", "ignore": ["nothing"]}, OptionError, "nothing"),
        ({"format": "int8", "ignore": ["*"]}, UnsupportedModel, "None of the 15"),
        ({"format": "int8", "method": "gptq"}, OptionError, "calibration"),
        ({"format": "int8", "method": "magic"}, OptionError, "magic"),
    ],
)
def test_what_cannot_be_asked_for(
    float32: Path, tmp_path: Path, options: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        quantize(float32, tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_something_in_it_stays(float32: Path, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(ArtifactError, match="stays as it is"):
        quantize(float32, tmp_path, format="int8")
    with pytest.raises(ArtifactError, match="stays as it is"):
        quantize(float32, float32, format="int8")
    assert (tmp_path / "note.txt").read_text() == "mine"


def test_checkpoints_that_are_refused(float32: Path, tmp_path: Path) -> None:
    quantize(float32, tmp_path / "once", format="int8")
    with pytest.raises(UnsupportedModel, match="quantised already \\('compressed-tensors'\\)"):
        quantize(tmp_path / "once", tmp_path / "twice", format="int8")
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_bytes((float32 / "config.json").read_bytes())
    (pickled / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(UnsafeCheckpoint, match="pickled"):
        quantize(pickled, tmp_path / "out", format="int8")
    gpt2 = tiny_models.save(tiny_models.causal_lm("gpt2"), tmp_path / "gpt2")
    with pytest.raises(UnsupportedModel, match="GPT2LMHeadModel"):
        quantize(gpt2, tmp_path / "out", format="int8")


def test_nothing_is_left_of_a_failure(float32: Path, tmp_path: Path) -> None:
    damaged = tiny_models.save(tiny_models.causal_lm("llama"), tmp_path / "in" / "damaged")
    weights = load_file(damaged / "model.safetensors")
    weights[f"{LAYER}.weight"][3, 5] = torch.nan
    save_file(weights, damaged / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CorruptCheckpoint, match=LAYER):
        quantize(damaged, tmp_path / "outs" / "out", format="int8")
    assert [path.name for path in (tmp_path / "outs").iterdir() if not path.name.endswith(".lock")] == []


def test_the_public_name() -> None:
    assert QEfficient.quantize is quantize
