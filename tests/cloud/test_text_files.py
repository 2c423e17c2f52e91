"""Files of texts, and of vectors and scores, on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cloud.commands import Cli

LENS = ("--seq-len", "16,32")


def lines(path: Path, *values: object) -> Path:
    path.write_text("\n".join(json.dumps(value) for value in values) + "\n\n", encoding="utf-8")
    return path


def test_vectors(cli: Cli, encoder: Path, tmp_path: Path) -> None:
    texts = lines(tmp_path / "x.jsonl", "hello", {"text": "what is it", "id": 7}, ["hello", "what"])
    common = ("infer", encoder, *LENS, "--pooling", "mean", "--input", texts, "--output")
    result = cli(*common, tmp_path / "y.npy")
    assert (result.code, result.out) == (0, "")
    assert "3 texts, [3, 32]" in result.err
    assert cli(*common, tmp_path / "y.jsonl", "-p", "first", "--json").json["shape"] == [4, 32]
    rows = [json.loads(line) for line in (tmp_path / "y.jsonl").read_text("utf-8").splitlines()]
    assert [{name: row[name] for name in row if name != "embedding"} for row in rows] == [
        {"text": "first"},
        {"text": "hello"},
        {"text": "what is it", "id": 7},
        {"pair": ["hello", "what"]},
    ]
    vectors = np.load(tmp_path / "y.npy")
    np.testing.assert_allclose([row["embedding"] for row in rows[1:]], vectors, atol=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.jsonl", "y.jsonl", "y.npy"]


def test_pairs(cli: Cli, classifier: Path, tmp_path: Path) -> None:
    common = ("infer", classifier, *LENS, "--pair", "hello", "what is it")
    (answer,) = cli(*common, "--json").json["answers"]
    assert answer["prompt"] == ["hello", "what is it"]
    assert cli(*common).out.startswith("> hello | what is it\n")
    texts = lines(tmp_path / "x.jsonl", {"query": "hello", "document": "what is it"})
    assert cli("infer", classifier, *LENS, "--input", texts, "--output", tmp_path / "y.jsonl").code == 0
    row = json.loads((tmp_path / "y.jsonl").read_text("utf-8"))
    assert row["label"] == answer["label"]
    assert row["scores"] == pytest.approx(answer["scores"], abs=1e-5)


@pytest.mark.parametrize(
    ("content", "args", "message"),
    [
        ("{", (), "line 1 is not JSON"),
        ('"a"\n5', (), "line 2 must be a text"),
        ('{"text": ["a", "b", "c"]}', (), "line 1 must be"),
        ('{"pair": "a"}', (), "line 1 must be"),
        ("", (), "has no text"),
        ('"a"', ("--output", "y.csv"), "must end in .jsonl"),
        ('"a"', ("--output", "nowhere/y.npy"), "there is no folder nowhere"),
        ('"a"', ("--chat",), "leave --chat and --image-path out"),
    ],
)
def test_what_is_refused(cli: Cli, tmp_path: Path, content: str, args: tuple[str, ...], message: str) -> None:
    (tmp_path / "x.jsonl").write_text(content, encoding="utf-8")
    result = cli("infer", "some/model", "--input", tmp_path / "x.jsonl", *args)
    assert (result.code, result.out) == (2, "")
    assert message in result.err


def test_answers(cli: Cli, package: Path, tmp_path: Path) -> None:
    texts = lines(tmp_path / "x.jsonl", "hello", {"prompt": "what is it", "id": 7})
    asked = ("execute", package, "-p", "first", "--input", texts, "--generation-len", "4")
    result = cli(*asked, "--output", tmp_path / "y.jsonl")
    assert (result.code, result.out) == (0, "")
    assert "3 answers" in result.err
    rows = [json.loads(line) for line in (tmp_path / "y.jsonl").read_text("utf-8").splitlines()]
    described = cli(*asked, "--json").json
    shown = described["answers"]
    assert [row.pop("answer") for row in rows] == [answer["text"] for answer in shown]
    assert rows == [
        {"prompt": "first", "finish_reason": "length"},
        {"text": "hello", "finish_reason": "length"},
        {"prompt": "what is it", "id": 7, "finish_reason": "length"},
    ]
    assert all(0 < seconds < 60 for seconds in described["perf_metrics"]["first_token_times"])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--pair", "a", "b"), "are for encoders and classifiers"),
        (("-p", "a", "--output", "y.npy"), "answers go to a file whose name ends in .jsonl"),
    ],
)
def test_what_a_language_model_refuses(cli: Cli, checkpoint: Path, args: tuple[str, ...], message: str) -> None:
    result = cli("infer", checkpoint, *args)
    assert (result.code, result.out) == (2, "")
    assert message in result.err
