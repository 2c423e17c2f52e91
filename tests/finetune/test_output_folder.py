"""A run replaces nothing that is not of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from QEfficient.errors import OptionError
from QEfficient.finetune.output_folder import check_output
from QEfficient.finetune.settings import FinetuneOptions

METRICS_LINE = json.dumps({"step": 1, "loss": 2.0}) + "\n"


def check(folder: Path, model: str = "name/of-the-hub", **options: Any) -> None:
    check_output(folder, FinetuneOptions(**options), model)


@pytest.mark.parametrize("name", ["model/mine.txt", "metrics.jsonl", "loss.png", "README.md", "checkpoint-7/model.bin"])
def test_what_no_run_wrote_stays(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text('{"text": "mine"}\n')
    with pytest.raises(OptionError, match=f"has '{name.partition('/')[0]}' already, without a checkpoint"):
        check(tmp_path, resume=True)


@pytest.mark.parametrize("content", ["", METRICS_LINE, '{"step": 1, "lo'])
def test_a_run_that_wrote_no_checkpoint_is_begun_again(tmp_path: Path, content: str) -> None:
    (tmp_path / "metrics.jsonl").write_text(content if content in ("", METRICS_LINE) else METRICS_LINE + content)
    (tmp_path / "loss.png").touch()
    (tmp_path / "log.txt").touch()
    check(tmp_path)
    (tmp_path / "model").mkdir()
    with pytest.raises(OptionError, match="has 'model' already"):
        check(tmp_path)


@pytest.mark.parametrize("trace", ["checkpoint-2/manifest.json", "metrics.jsonl"])
def test_a_run_is_continued(tmp_path: Path, trace: str) -> None:
    for name in ("checkpoint-2", "model"):
        (tmp_path / name).mkdir()
    (tmp_path / trace).write_text(METRICS_LINE)
    check(tmp_path, resume=True)
    with pytest.raises(OptionError, match="the newest checkpoint-2"):
        check(tmp_path)


def test_the_model_is_read_elsewhere(tmp_path: Path) -> None:
    check(tmp_path, model=str(tmp_path / "base"))
    for model in (tmp_path, tmp_path / "model", tmp_path / "base" / ".." / "model"):
        with pytest.raises(OptionError, match=r"The model is in .* where the run writes"):
            check(tmp_path, model=str(model))


@pytest.mark.parametrize("option", ["dataset", "eval_dataset"])
def test_the_data_are_read_elsewhere(tmp_path: Path, option: str) -> None:
    check(tmp_path, **{option: str(tmp_path / "train.jsonl")})
    check(tmp_path / "out", **{option: str(tmp_path)})
    for name in ("", "metrics.jsonl", "model/train.jsonl"):
        with pytest.raises(OptionError, match=r"The data are in .* where the run writes"):
            check(tmp_path, **{option: str(tmp_path / name)})
