"""eval: the same number from Hugging Face, a target and a package; bad input is found before a model is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
from cloud.commands import COMPILE, Cli, imported

TEXT = "My name is John and I am an engineer. What is the capital of France? The capital of France is Paris."


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "text.txt"
    file.write_text(TEXT)
    return file


def test_hugging_face_a_target_and_a_package_agree(cli: Cli, checkpoint: Path, package: Path, text: Path) -> None:
    lens = ("--stride", "16", "--max-tokens", "40", "--json")
    reference = cli("eval", checkpoint, "--text", text, "--target", "hf", "--ctx-len", "128", *lens)
    assert reference.code == 0
    assert reference.json["target"] == "hf"
    assert reference.json["num_tokens"] == 40
    compiled = cli("eval", checkpoint, "--text", text, *COMPILE, *lens)
    assert (compiled.json["package"], compiled.json["target"]) == (str(package), "cpu")
    opened = cli("eval", package, "--text", text, *lens)
    for result in (compiled, opened):
        assert result.json["perplexity"] == pytest.approx(reference.json["perplexity"], rel=1e-4)
    shorter = cli("eval", package, "--text", text, "--ctx-len", "32", "--json").json
    assert (shorter["ctx_len"], shorter["stride"]) == (32, 32)


def test_report_is_a_line(cli: Cli, package: Path, text: Path) -> None:
    result = cli("eval", package, "--text", text)
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("perplexity ")
    assert result.out.count("\n") == 1


def test_a_package_needs_neither_torch_nor_transformers(package: Path, text: Path) -> None:
    result, modules = imported(("torch", "transformers", "onnx"), "eval", package, "--text", text)
    assert (result.code, modules) == (0, [])


@pytest.mark.parametrize(
    ("content", "match"), [(b"", "empty"), (b" \n\n", "empty"), (b"\x00\x01\x02", "zero"), (b"\xff\xd8", "UTF-8")]
)
def test_bad_text_is_found_before_the_model_is_loaded(cli: Cli, text: Path, content: bytes, match: str) -> None:
    text.write_bytes(content)
    result = cli("eval", "no/such-model", "--text", text)
    assert (result.code, result.out) == (2, "")
    assert match in result.err


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        ((), "--text FILE"),
        (("--text", "missing.txt"), "cannot be read"),
        (("--text", "TEXT", "--stride", "0"), "stride"),
        (("--text", "TEXT", "--ctx-len", "16", "--stride", "17"), "left out"),
        (("--text", "TEXT", "--target", "hf", "--full-batch-size", "2"), "--full-batch-size is for compiling"),
        (("--text", "TEXT", "--target", "hff"), "no target 'hff'"),
    ],
)
def test_bad_flags(cli: Cli, checkpoint: Path, text: Path, flags: tuple[str, ...], match: str) -> None:
    result = cli("eval", checkpoint, *(str(text) if flag == "TEXT" else flag for flag in flags))
    assert (result.code, result.out) == (2, "")
    assert match in result.err


def test_a_text_of_one_token(cli: Cli, package: Path, text: Path) -> None:
    result = cli("eval", package, "--text", text, "--max-tokens", "1")
    assert result.code == 2


def test_other_models_and_targets(cli: Cli, encoder: Path, package: Path, text: Path) -> None:
    result = cli("eval", encoder, "--text", text)
    assert (result.code, result.out) == (2, "")
    assert "BertModel is not a causal language model" in result.err
    result = cli("eval", package, "--text", text, "--target", "cloud-ai-100-sim")
    assert result.code == 2
    assert "compiled for 'cpu'" in result.err
