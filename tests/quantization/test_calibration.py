"""AWQ and GPTQ: outputs are nearer to the dense model's than after rounding to nearest, on any architecture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM

from QEfficient.errors import OptionError, UnsupportedModel
from QEfficient.quantization.awq import find_fold, round_clipped, scale_layer
from QEfficient.quantization.gptq import round_gptq
from QEfficient.quantization.observation import LayerRun
from QEfficient.quantization.options import QuantizeOptions
from QEfficient.quantization.quantize import quantize
from QEfficient.quantization.report import energy
from QEfficient.quantization.rounding import round_weight
from QEfficient.quantization.schemes import scheme_of
from QEfficient.transformers.checkpoint import load as loading

pytestmark = pytest.mark.xdist_group("quantization")

TEXT = (
    "The library takes a checkpoint from the hub, lowers it, exports it and compiles it for the card. My name is John "
    "and I am an engineer. What is the capital of France? The capital of France is Paris. One, two, three, four. "
) * 20
INT4 = {"format": "int4", "group_size": 32}


def with_outliers(model: Any) -> Any:
    """Norms of a trained model let some features through far more than others."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name and parameter.ndim == 1 and name.endswith("weight"):
                parameter[torch.randperm(len(parameter), generator=generator)[:4]] += 8.0
    return model


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("text") / "calibration.txt"
    file.write_text(TEXT)
    return file


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain") / "llama"
    tiny_models.save(with_outliers(tiny_models.causal_lm("llama")), folder)
    tiny_models.tiny_tokenizer().save_pretrained(folder)
    return folder


def logits(folder: Path) -> torch.Tensor:
    model = loading.load_model(AutoModelForCausalLM, folder).float()
    ids = torch.tensor([tiny_models.tiny_tokenizer()(TEXT)["input_ids"][:400]])
    with torch.no_grad():
        found: torch.Tensor = model(ids).logits
    return found


@pytest.mark.parametrize(
    "scheme", [INT4, {"format": "int4", "group_size": -1, "asymmetric": True}, {"format": "nvfp4"}]
)
def test_outputs_are_nearer_than_after_rounding_to_nearest(
    plain: Path, text: Path, tmp_path: Path, scheme: dict[str, Any]
) -> None:
    dense, errors = logits(plain), {}
    for method in ("rtn", "awq", "gptq"):
        calibration = None if method == "rtn" else text
        report = quantize(plain, tmp_path / method, method=method, calibration=calibration, ctx_len=64, **scheme)
        errors[method] = float((logits(tmp_path / method) - dense).norm() / dense.norm())
        assert [layer.output_error is None for layer in report.layers] == [method == "rtn"] * 14
        assert {layer.method for layer in report.layers} <= {method, "rtn"}
        assert sum(layer.method == method for layer in report.layers) >= 12
    assert errors["gptq"] < 0.9 * errors["rtn"]
    assert errors["awq"] < 0.9 * errors["rtn"]


def test_awq_changes_norms_and_loads_in_transformers(plain: Path, text: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    quantize(plain, out, method="awq", calibration=text, ctx_len=64, **INT4)
    before, after = load_file(plain / "model.safetensors"), load_file(out / "model.safetensors")
    changed = {name for name in before if name in after and not torch.equal(before[name], after[name])}
    assert changed
    assert all("layernorm" in name for name in changed)
    hf = AutoModelForCausalLM.from_pretrained(out).eval()
    ids = torch.tensor([tiny_models.tiny_tokenizer()(TEXT)["input_ids"][:400]])
    with torch.no_grad():
        torch.testing.assert_close(hf(ids).logits, logits(out), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("method", ["awq", "gptq"])
def test_half_precision_and_perplexity(plain: Path, text: Path, tmp_path: Path, method: str) -> None:
    half = tmp_path / "half"
    AutoModelForCausalLM.from_pretrained(plain, dtype=torch.bfloat16).save_pretrained(half)
    tiny_models.tiny_tokenizer().save_pretrained(half)
    texts = {"calibration": text, "eval_text": text}
    report = quantize(half, tmp_path / "out", method=method, ctx_len=64, **texts, **INT4)
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for name, tensor in stored.items() if name.endswith("scale")} == {torch.bfloat16}
    assert {tensor.dtype for name, tensor in stored.items() if "norm" in name} == {torch.bfloat16}
    assert report.before is not None
    assert report.after is not None
    assert report.after.perplexity == pytest.approx(report.before.perplexity, rel=0.3)
    assert report.before.num_windows > 1


def layer_runs(model: Any) -> list[tuple[LayerRun, dict[str, nn.Linear]]]:
    """Calls of a model's layers, and their linear modules."""
    runs: list[LayerRun] = []
    layers = model.get_decoder().layers
    hooks = [
        layer.register_forward_pre_hook(lambda *call: runs.append(LayerRun(*call)), with_kwargs=True)
        for layer in layers
    ]
    with torch.no_grad():
        model(torch.arange(3, 50)[None], use_cache=False)
    for hook in hooks:
        hook.remove()
    return [(run, {n: m for n, m in run.module.named_modules() if isinstance(m, nn.Linear)}) for run in runs]


@pytest.mark.parametrize(
    ("architecture", "foldable", "not_foldable"),
    [
        ("llama", {"self_attn.q_proj", "mlp.up_proj", "mlp.down_proj"}, {"self_attn.o_proj"}),  # grouped heads
        ("gemma2", {"self_attn.q_proj", "mlp.up_proj", "mlp.down_proj"}, {"self_attn.o_proj"}),  # weights plus one
        ("opt", {"self_attn.q_proj", "fc1", "self_attn.out_proj"}, set()),  # biases, one head for each
        ("cohere2", {"mlp.down_proj", "self_attn.q_proj"}, set()),  # one norm for both halves
    ],
)
def test_folds_are_found_without_a_name(architecture: str, foldable: set[str], not_foldable: set[str]) -> None:
    model = tiny_models.causal_lm(architecture)
    run, linears = layer_runs(model)[0]
    may_change = {id(parameter) for parameter in model.parameters()}
    with torch.no_grad():
        observed = run.observe(linears)
        for name in foldable | not_foldable:
            group = [linears[other] for other, each in observed.items() if each.source == observed[name].source]
            assert (find_fold(run, group, may_change) is not None) == (name in foldable), name
            assert find_fold(run, group, set()) is None, "nothing may change"


def test_a_norm_that_others_read_is_no_fold() -> None:
    model = tiny_models.causal_lm("cohere2")
    run, linears = layer_runs(model)[0]
    attention = [linears[f"self_attn.{name}_proj"] for name in "qkv"]
    with torch.no_grad():
        assert find_fold(run, attention, {id(parameter) for parameter in model.parameters()}) is None


def test_a_scaled_layer_is_the_same_function() -> None:
    model = with_outliers(tiny_models.causal_lm("llama"))
    run, linears = layer_runs(model)[0]
    scheme = scheme_of(QuantizeOptions(**INT4))
    with torch.no_grad():
        expected, observed = run.output(), run.observe(linears)
        before = {name: linear.weight.clone() for name, linear in linears.items()}
        scaled, changed = scale_layer(run, linears, observed, scheme, {id(each) for each in model.parameters()})
        assert changed
        torch.testing.assert_close(run.output(), expected, rtol=1e-4, atol=1e-4)
        now = run.observe(linears)
    assert any(not torch.equal(before[name], linear.weight) for name, linear in linears.items())
    for name, each in now.items():
        size = float(each.hessian.abs().max())
        torch.testing.assert_close(each.hessian, scaled[name].hessian, rtol=1e-3, atol=1e-5 * size)


ASYMMETRIC = {"format": "int4", "group_size": 16, "asymmetric": True}


@pytest.mark.parametrize(
    ("rounder", "options"),
    [
        (round_gptq, INT4),
        (round_gptq, ASYMMETRIC),
        (round_gptq, {"format": "mxfp4"}),
        (round_gptq, {"format": "fp8"}),
        (round_clipped, INT4),
        (round_clipped, ASYMMETRIC),
    ],
)
def test_the_error_of_outputs_is_smaller(rounder: Any, options: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(64, 64, generator=generator)
    inputs = torch.randn(500, 64, generator=generator) @ mixing
    weight = torch.randn(48, 64, generator=generator)
    hessian, scheme = inputs.t() @ inputs, scheme_of(QuantizeOptions(**options))
    errors = [
        energy(rounded.expand() - weight, hessian)
        for rounded in (round_weight(weight, scheme, torch.float32), rounder(weight, hessian, scheme, torch.float32))
    ]
    assert errors[1] < errors[0] * (0.8 if rounder is round_gptq else 1.0)


def test_inputs_that_never_come() -> None:
    """Their columns are rounded to nearest, and a matrix of zeros corrects nothing."""
    weight = torch.randn(8, 32, generator=torch.Generator().manual_seed(0))
    scheme = scheme_of(QuantizeOptions(format="int4", group_size=32))
    plain = round_weight(weight, scheme, torch.float32)
    torch.testing.assert_close(round_gptq(weight, torch.zeros(32, 32), scheme, torch.float32).values, plain.values)


@pytest.mark.sweep
@pytest.mark.parametrize("method", ["awq", "gptq"])
@pytest.mark.parametrize("architecture", ["qwen3_moe", "gemma3_text", "mpt", "stablelm", "gpt_neox", "deepseek_v3"])
def test_any_architecture(architecture: str, method: str, text: Path, tmp_path: Path) -> None:
    plain = tiny_models.save(tiny_models.causal_lm(architecture), tmp_path / "plain")
    tiny_models.tiny_tokenizer().save_pretrained(plain)
    report = quantize(plain, tmp_path / "out", format="int8", method=method, calibration=text, ctx_len=64)
    assert any(layer.method == method for layer in report.layers)
    dense = logits(plain)
    assert float((logits(tmp_path / "out") - dense).norm() / dense.norm()) < 0.1


def test_what_cannot_be_calibrated(plain: Path, tmp_path: Path, text: Path) -> None:
    bare = tmp_path / "bare"
    tiny_models.save(tiny_models.causal_lm("llama"), bare)
    with pytest.raises(OptionError, match="no tokenizer"):
        quantize(bare, tmp_path / "out", method="gptq", calibration=text, **INT4)
    encoder = tiny_models.save(tiny_models.encoder(), tmp_path / "encoder")
    with pytest.raises(OptionError, match="not a causal language model"):
        quantize(encoder, tmp_path / "out", method="gptq", calibration=text, **INT4)
    with pytest.raises((OptionError, UnsupportedModel)):
        quantize(plain, tmp_path / "out", method="gptq", calibration=tmp_path / "missing", **INT4)
    assert not (tmp_path / "out").exists()
