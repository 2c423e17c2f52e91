"""Paths that are given as a model and are none, on the command line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from cloud.commands import Cli


@pytest.mark.parametrize("command", ["infer", "compile", "export", "verify", "inspect"])
def test_commands_say_in_one_line_what_takes_a_path(cli: Cli, checkpoint: Path, tmp_path: Path, command: str) -> None:
    files = {"pipeline": "model_index.json", "adapter": "adapter_config.json", "onnx": "model.onnx"}
    for folder, name in files.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text("{}")
    prompt = ["--prompt", "Hi"] if command in ("infer", "verify") else []
    for path, message in [
        (checkpoint / "model.safetensors", f"give its folder, {checkpoint}."),
        (tmp_path / "pipeline", "of diffusers"),
        (tmp_path / "adapter", "give the base model and --adapter NAME=FOLDER"),
        (tmp_path / "onnx", "Give the checkpoint that it was made from"),
    ]:
        result = cli(command, path, *prompt)
        assert (result.code, result.out) == (1, "")
        assert message in result.err
        assert result.err.count("\n") == 1


def test_an_adapter_beside_the_weights_is_refused(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "both")
    (folder / "adapter_config.json").write_text("{}")
    result = cli("infer", folder, "--prompt", "Hi", "--target", "cpu")
    assert result.code == 1
    assert "beside the model's weights" in result.err
