"""``--config FILE`` sets flags, and flags override it."""

from __future__ import annotations

from pathlib import Path

import pytest
from cloud.commands import Cli


def write(folder: Path, text: str) -> Path:
    path = folder / "settings.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_stands_for_flags(cli: Cli, package: Path, tmp_path: Path) -> None:
    file = write(tmp_path, f"package: {package}\nprompt: [hello, what]\ngeneration-len: 3\nno_repeat_ngram_size: 2\n")
    flags = ("-p", "hello", "-p", "what", "--generation-len", "3", "--no-repeat-ngram-size", "2", "--json")
    assert texts(cli("execute", "--config", file, "--json").json) == texts(cli("execute", package, *flags).json)
    assert len(cli("execute", "--config", file, "--generation-len", "5", "--json").json["answers"][0]["token_ids"]) == 5
    assert [answer["prompt"] for answer in cli("execute", "--config", file, "-p", "x", "--json").json["answers"]] == [
        "x"
    ]


def texts(shown: dict[str, list[dict[str, str]]]) -> list[str]:
    return [answer["text"] for answer in shown["answers"]]


def test_compile_options(cli: Cli, checkpoint: Path, package: Path, tmp_path: Path) -> None:
    file = write(tmp_path, "ctx_len: 128\nprecision: fp32\ncompiler-option: {KV_CACHE_PRECISION: f32}\n")
    flags = ("--ctx-len", "128", "--precision", "fp32", "--compiler-option", "KV_CACHE_PRECISION=f32")
    assert cli("compile", checkpoint, "--config", file).out == cli("compile", checkpoint, *flags).out != ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ctx-lenn: 4", "there is no setting 'ctx_lenn'. Did you mean 'ctx_len'?"),
        ("- a", "holds no settings"),
        ("a: [", "cannot be read"),
        ("ctx-len: many", "'many' is not a valid integer"),
    ],
)
def test_what_is_refused(cli: Cli, tmp_path: Path, text: str, message: str) -> None:
    result = cli("infer", "some/model", "-p", "x", "--config", write(tmp_path, text))
    assert (result.code, result.out) == (2, "")
    assert message in result.err


def test_a_file_that_is_not_there(cli: Cli) -> None:
    assert "cannot be read" in cli("infer", "some/model", "-p", "x", "--config", "nowhere.yaml").err
