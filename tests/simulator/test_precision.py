"""The card's numerics on ONNX Runtime: fp16, what is excepted from it, MXFP6 constants, norms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from numpy.typing import NDArray
from simulator import graphs
from simulator.harness import compile_graph, run_once

from QEfficient.simulator import numerics
from QEfficient.simulator.compiler.driver import main
from QEfficient.simulator.container import FILE_NAME
from QEfficient.simulator.rejection import Rejected
from QEfficient.simulator.runtime.executor import Executable

FP16 = "-convert-to-fp16"


def half(values: NDArray) -> NDArray:
    with np.errstate(over="ignore"):
        return np.asarray(values, np.float32).astype(np.float16).astype(np.float32)


def run(model: Path, folder: Path, *flags: str, **arrays: NDArray) -> NDArray:
    (result,) = run_once(compile_graph(model, folder, *flags), **arrays).values()
    return result


CHAIN = "g (float[4] x) => (float[4] y) {\n a = Mul (x, x)\n b = Add (a, one)\n y = Sqrt (b)\n}"
X = np.array([0.1, 3.14159, 255.0, 300.0], np.float32)


def chain(tmp_path: Path) -> Path:
    return graphs.parse(tmp_path / "m.onnx", CHAIN, {"one": np.array([1 / 3], np.float32)})


def test_every_operation_rounds(tmp_path: Path) -> None:
    """ONNX Runtime must not take the pairs of casts out; 300² is beyond fp16."""
    expected = half(np.sqrt(half(half(half(X) * half(X)) + half(np.float32(1 / 3)))))
    result = run(chain(tmp_path), tmp_path / "qpc", FP16, x=X)
    np.testing.assert_array_equal(result, expected)
    assert np.isinf(result[3])


def test_without_the_flag_it_is_fp32(tmp_path: Path) -> None:
    result = run(chain(tmp_path), tmp_path / "qpc", x=X)
    np.testing.assert_array_equal(result, np.sqrt(X * X + np.float32(1 / 3)))


def precise(tmp_path: Path, **names: list[str]) -> str:
    path = tmp_path / "nodes.yaml"
    path.write_text(yaml.safe_dump({f"{key.upper()}NodeInstanceNames": value for key, value in names.items()}))
    return f"-node-precision-info={path}"


def test_nodes_in_fp32(tmp_path: Path) -> None:
    """The input, the square and the constant stay exact; the root is rounded again."""
    result = run(chain(tmp_path), tmp_path / "qpc", FP16, precise(tmp_path, fp32=["a", "b"]), x=X)
    expected = half(np.sqrt(half(X * X + np.float32(1 / 3))))
    np.testing.assert_array_equal(result[:3], expected[:3])
    everything = run(chain(tmp_path), tmp_path / "all", FP16, precise(tmp_path, fp32=["a", "b", "y"]), x=X)
    np.testing.assert_array_equal(everything, np.sqrt(X * X + np.float32(1 / 3)))


def test_a_constant_that_both_read(tmp_path: Path) -> None:
    """Each reads it in its own precision."""
    body = "g (float[1] x) => (float[1] a, float[1] b) {\n a = Mul (c, c)\n b = Add (c, x)\n}"
    model = graphs.parse(tmp_path / "m.onnx", body, {"c": np.array([1 / 3], np.float32)})
    folder = compile_graph(model, tmp_path / "qpc", FP16, precise(tmp_path, fp32=["a"]))
    result = run_once(folder, x=np.zeros(1, np.float32))
    assert result["a"] == np.float32(1 / 3) * np.float32(1 / 3)
    assert result["b"] == half(np.float32(1 / 3))


def test_nodes_in_fp16(tmp_path: Path) -> None:
    result = run(chain(tmp_path), tmp_path / "qpc", precise(tmp_path, fp16=["a"]), x=X)
    np.testing.assert_array_equal(result[:3], np.sqrt(half(half(X) * half(X)) + np.float32(1 / 3))[:3])


def test_unknown_node_names_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(chain(tmp_path), tmp_path / "qpc", FP16, precise(tmp_path, fp32=["nowhere"]), x=X)
    assert "nowhere, which no node" in capsys.readouterr().err


def test_matmul_accumulates_in_fp32(tmp_path: Path) -> None:
    """2048 + 1 + 1 …: fp16 sums would stay at 2048."""
    weights = np.ones((64, 1), np.float32)
    weights[0] = 2048
    body = "g (float[1, 64] x) => (float[1, 1] y) { y = MatMul (x, w) }"
    model = graphs.parse(tmp_path / "m.onnx", body, {"w": weights})
    assert run(model, tmp_path / "qpc", FP16, x=np.ones((1, 64), np.float32)).item() == half(np.float32(2048 + 63))


def test_constants_beyond_fp16_are_infinite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = "g (float[2] x) => (float[2] y) { y = Min (x, huge) }"
    values = np.array([1e5, -np.inf], np.float32)
    model = graphs.parse(tmp_path / "m.onnx", body, {"huge": values})
    argv = ["-aic-hw", f"-m={model}", f"-aic-binary-dir={tmp_path}/qpc", FP16]
    assert main(argv) == 0
    assert "Warning: constant huge has values beyond" in capsys.readouterr().err
    result = run_once(tmp_path / "qpc", x=np.array([np.inf, 1.0], np.float32))["y"]
    assert result.tolist() == [np.inf, -np.inf]


def test_narrow_graphs(tmp_path: Path) -> None:
    """float16 in the graph is float16 at the host; its constants and casts are taken along."""
    body = """g (float16[2] x) => (float16[2] y) {
        wide = Cast <to = 1> (x)
        sum = Add (wide, c)
        y = Cast <to = 10> (sum)
    }"""
    model = graphs.parse(tmp_path / "m.onnx", body, {"c": np.array([1 / 3], np.float32)})
    x = np.array([1.0, 2048.0], np.float16)
    fp32 = run(model, tmp_path / "fp32", x=x)
    assert fp32.dtype == np.float16
    np.testing.assert_array_equal(fp32, (x.astype(np.float32) + np.float32(1 / 3)).astype(np.float16))
    bf16 = body.replace("float16", "bfloat16").replace("to = 10", "to = 16")
    model = graphs.parse(tmp_path / "b.onnx", bf16, {"c": np.array([1 / 3], np.float32)})
    bits = run(model, tmp_path / "bf16", "-aic-hw-version=ai200", x=np.array([0x3F80, 0x4000], np.uint16))
    np.testing.assert_array_equal(numerics.from_bf16_bits(bits), numerics.round_bf16(np.float32([4 / 3, 7 / 3])))


RMS_WEIGHT = np.linspace(0.5, 2, 32).astype(np.float32)


def rms_norm(tmp_path: Path, opset: int, epsilon: float) -> Path:
    """One CustomRMSNorm with its body for other runtimes."""
    body = f"""<ir_version: 10, opset_import: ["" : {opset}, "com.qti.aisw.onnx" : 1]>
    g (float[1, 32] x) => (float[1, 32] y) {{
        y = com.qti.aisw.onnx.CustomRMSNorm <epsilon: float = {epsilon:.9f}> (x, w)
    }}"""
    model = onnx.parser.parse_model(body)
    model.functions.append(onnx.parser.parse_function(graphs.RMS_NORM))
    return graphs.save(model, tmp_path / "m.onnx", {"w": RMS_WEIGHT})


@pytest.mark.parametrize("opset", range(17, 24))
def test_opsets_and_rms_norm(tmp_path: Path, opset: int) -> None:
    """One operation with fp32 inside: x² of 1000 does not overflow. Written out it does."""
    x = np.full((1, 32), 1000.0, np.float32)
    x[0, 0] = 3.0
    result = run(rms_norm(tmp_path, opset, epsilon=0.001), tmp_path / "qpc", FP16, x=x)
    exact = x / np.sqrt((x * x).mean() + 0.001) * half(RMS_WEIGHT)
    np.testing.assert_allclose(result, half(exact), rtol=2e-3)
    written_out = "g (float[1, 32] x) => (float[1, 32] y) { y = Mul (x, x) }"
    assert np.isinf(run(graphs.parse(tmp_path / "o.onnx", written_out, opset=opset), tmp_path / "o", FP16, x=x)).any()


def test_epsilon_of_a_norm_is_fp32(tmp_path: Path) -> None:
    """1e-6 would be 5 % less in fp16, and 1e-9 nothing."""
    model = rms_norm(tmp_path, 18, epsilon=1e-6)
    x = np.full((1, 32), 2.0**-10, np.float32)
    exact = x / np.sqrt((x * x).mean() + np.float32(1e-6)) * half(RMS_WEIGHT)
    np.testing.assert_allclose(run(model, tmp_path / "qpc", FP16, x=x), exact, rtol=1e-3)


WEIGHTS = np.random.default_rng(3).normal(size=(64, 16)).astype(np.float32)
MATMULS = {
    "plain": ("y = MatMul (x, w)", WEIGHTS),
    "transposed": ("t = Transpose <perm = [1, 0]> (w)\n y = MatMul (x, t)", WEIGHTS.T.copy()),
    "gemm": ("y = Gemm <transB = 1> (x, w)", WEIGHTS.T.copy()),
    "half": ("c = Cast <to = 1> (w)\n t = Transpose (c)\n y = MatMul (x, t)", WEIGHTS.T.astype(np.float16)),
}


@pytest.mark.parametrize("variant", ["aic", "ocp"])
@pytest.mark.parametrize("form", MATMULS)
def test_mxfp6(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, variant: str) -> None:
    line, stored = MATMULS[form]
    model = graphs.parse(tmp_path / "m.onnx", f"g (float[1, 64] x) => (float[1, 16] y) {{ {line} }}", {"w": stored})
    if variant != "aic":
        monkeypatch.setenv("QEFF_SIM_MX", variant)
    source = stored.astype(np.float32) if form == "plain" else stored.astype(np.float32).T
    result = run(model, tmp_path / "qpc", FP16, "-mxfp6-matmul", x=np.eye(1, 64, 5, dtype=np.float32))
    np.testing.assert_array_equal(result[0], half(numerics.round_mxfp6(source, 0, variant)[5]))
    assert np.abs(result[0] - source[5]).max() > 0.01


def test_unknown_mxfp6_variant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QEFF_SIM_MX", "e3m2")
    with pytest.raises(Rejected, match="expected aic or ocp"):
        compile_graph(chain(tmp_path), tmp_path / "qpc", FP16, "-mxfp6-matmul")


def test_mxfp6_exclusions(tmp_path: Path) -> None:
    """By the output's name or the weight's; an embedding that shares its table with the output keeps its values."""
    body = """g (int64[1, 1] i) => (float[1, 1, 64] e, float[1, 1, 32] z, float[1, 1, 32] y) {
        e = Gather (w, i)
        t = Transpose <perm = [1, 0]> (w)
        y = MatMul (e, t)
        z = MatMul (e, v)
    }"""
    table = np.random.default_rng(5).normal(size=(32, 64)).astype(np.float32)
    other = np.random.default_rng(6).normal(size=(64, 32)).astype(np.float32)
    model = graphs.parse(tmp_path / "m.onnx", body, {"w": table, "v": other})
    token = np.array([[3]], np.int64)
    flags = (FP16, "-mxfp6-matmul")
    stored = run_once(compile_graph(model, tmp_path / "all", *flags), i=token)
    np.testing.assert_array_equal(stored["e"][0, 0], half(table[3]))
    exact = {"y": half(table[3]) @ half(table.T), "z": half(table[3]) @ half(other)}
    np.testing.assert_allclose(
        stored["y"][0, 0], half(table[3]) @ half(numerics.round_mxfp6(table.T, 0)), rtol=1e-2, atol=0.05
    )
    for name, value in exact.items():
        assert np.abs(stored[name][0, 0] - value).max() > 0.1
    kept = run_once(compile_graph(model, tmp_path / "kept", *flags, precise(tmp_path, fp16=["y", "v"])), i=token)
    for name, value in exact.items():
        np.testing.assert_allclose(kept[name][0, 0], value, rtol=1e-3, atol=0.02)


def test_mxfp6_bank_behind_a_gather(tmp_path: Path) -> None:
    """Experts picked at run time keep their storage."""
    bank = np.random.default_rng(8).normal(size=(3, 64, 16)).astype(np.float32)
    body = "g (float[1, 64] x, int64 i) => (float[1, 16] y) {\n w = Gather <axis = 0> (bank, i)\n y = MatMul (x, w)\n}"
    model = graphs.parse(tmp_path / "m.onnx", body, {"bank": bank})
    x = np.eye(1, 64, 9, dtype=np.float32)
    result = run(model, tmp_path / "qpc", FP16, "-mxfp6-matmul", x=x, i=np.array(2, np.int64))
    np.testing.assert_array_equal(result[0], half(numerics.round_mxfp6(bank, 1)[2, 9]))


def test_weights_count_as_the_card_stores_them(tmp_path: Path) -> None:
    body = "g (float[1, 64] x) => (float[1, 16] y) { y = MatMul (x, w) }"
    model = graphs.parse(tmp_path / "m.onnx", body, {"w": WEIGHTS})
    sizes = {
        name: Executable(compile_graph(model, tmp_path / name, *flags)).options().weight_bytes
        for name, flags in {"fp32": (), "fp16": (FP16,), "mx": (FP16, "-mxfp6-matmul")}.items()
    }
    assert sizes == {"fp32": 4096, "fp16": 2048, "mx": 800}


def test_output_is_deterministic(decoder: Path, tmp_path: Path) -> None:
    flags = (FP16, "-mxfp6-matmul", "-onnx-define-symbol=batch_size,1", "-onnx-define-symbol=seq_len,4")
    folders = [compile_graph(decoder, tmp_path / name, *flags, "-onnx-define-symbol=ctx_len,8") for name in "ab"]
    first, second = ((folder / FILE_NAME).read_bytes() for folder in folders)
    assert first == second
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
