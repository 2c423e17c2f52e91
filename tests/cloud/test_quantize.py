"""quantize: a table and a checkpoint, or one JSON document; what cannot be done is said before a model is loaded."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from cloud.commands import Cli

TEXT = "My name is John and I am an engineer. What is the capital of France? The capital of France is Paris. " * 3


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "text.txt"
    file.write_text(TEXT)
    return file


def test_a_table_and_a_checkpoint(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = cli("quantize", checkpoint, "--format", "int4", "--group-size", "32", "-o", out, "--ignore", "*.o_proj")
    assert result.code == 0
    assert result.out.splitlines()[0].split() == ["Layer", "Method", "Weight", "error", "Output", "error"]
    assert "model.layers.1.mlp.up_proj" in result.out
    assert "12 linear layers in int4 (rtn), 3 kept" in result.out
    assert "o_proj" not in result.out
    inspected = cli("inspect", out, "--json").json
    assert inspected["targets"]["cpu"]["weights"]["num_packed"] == 12


def test_json_and_perplexity(cli: Cli, checkpoint: Path, tmp_path: Path, text: Path) -> None:
    asked = ("--format", "int8", "-o", tmp_path / "out", "--eval-text", text, "--ctx-len", "64", "--json")
    report = cli("quantize", checkpoint, *asked).json
    assert report["folder"] == str(tmp_path / "out")
    assert len(report["layers"]) == 14
    assert report["bytes_after"] < report["bytes_before"]
    same = cli("eval", checkpoint, "--text", text, "--target", "hf", "--ctx-len", "64", "--json").json
    assert report["before"]["perplexity"] == pytest.approx(same["perplexity"], rel=1e-6)
    after = cli("eval", tmp_path / "out", "--text", text, "--target", "hf", "--ctx-len", "64", "--json").json
    assert report["after"]["perplexity"] == pytest.approx(after["perplexity"], rel=1e-6)
    assert report["after"]["perplexity"] == pytest.approx(report["before"]["perplexity"], rel=0.05)


def test_a_plot_needs_matplotlib(cli: Cli, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = cli("quantize", checkpoint, "--format", "int8", "-o", tmp_path / "out", "--plot", tmp_path / "plot.png")
    assert result.code == 0
    assert "pip install 'qefficient[plots]'" in result.err
    assert not (tmp_path / "plot.png").exists()


@pytest.mark.parametrize(
    ("flags", "code", "match"),
    [
        ((), 2, "-o FOLDER"),
        (("-o", "OUT", "--format", "fp8", "--group-size", "32"), 2, "group_size"),
        (("-o", "OUT", "--method", "gptq"), 2, "needs a calibration text"),
        (("-o", "OUT", "--calibration", "TEXT"), 2, "needs no calibration text"),
        (("-o", "OUT", "--method", "awq", "--calibration", "missing"), 2, "cannot be read"),
        (("-o", "OUT", "--plot", "nowhere/plot.png"), 2, "no such folder"),
    ],
)
def test_bad_flags(cli: Cli, tmp_path: Path, text: Path, flags: tuple[str, ...], code: int, match: str) -> None:
    paths = {"OUT": str(tmp_path / "out"), "TEXT": str(text)}
    result = cli("quantize", "no/such-model", *(paths.get(flag, flag) for flag in flags))
    assert (result.code, result.out) == (code, "")
    assert match in result.err
    assert not (tmp_path / "out").exists()


def test_perplexity_is_of_causal_models(cli: Cli, encoder: Path, tmp_path: Path, text: Path) -> None:
    result = cli("quantize", encoder, "--format", "int8", "-o", tmp_path / "out", "--eval-text", text)
    assert result.code == 2
    assert "not a causal language model" in result.err
    assert cli("quantize", encoder, "--format", "int8", "-o", tmp_path / "out").code == 0
