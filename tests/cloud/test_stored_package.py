"""A model that was compiled before: the same answer without PyTorch, and never of other files or options."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from cloud.commands import Cli, imported

from QEfficient.store.artifacts import ArtifactStore

HEAVY = ("torch", "transformers", "onnx")
ASKED = ("-p", "My name is", "--generation-len", "4", "--ctx-len", "64", "--target", "cpu")


@pytest.fixture
def folder(checkpoint: Path, own_home: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "model"))


def test_a_second_time_needs_no_torch(folder: Path, cli: Cli) -> None:
    first = cli("infer", folder, *ASKED)
    again, modules = imported(HEAVY, "infer", folder, *ASKED)
    assert (again.out, modules) == (first.out, [])
    compiled = cli("compile", folder, "--ctx-len", "64", "--target", "cpu")
    again, modules = imported(HEAVY, "compile", folder, "--ctx-len", "64", "--target", "cpu")
    assert (again.out, modules) == (compiled.out, [])


def test_other_files_and_options_are_other_packages(folder: Path, cli: Cli, tmp_path: Path) -> None:
    compiled = ("compile", folder, "--target", "cpu", "--ctx-len")
    first = cli(*compiled, "64").out
    assert cli(*compiled, "48").out != first
    assert cli(*compiled, "64").out == first
    (folder / "generation_config.json").write_text('{"max_new_tokens": 3}')
    assert cli(*compiled, "64").out != first


def test_a_package_that_is_gone_is_made_again(folder: Path, cli: Cli) -> None:
    compiled = ("compile", folder, "--target", "cpu", "--ctx-len", "64")
    first = cli(*compiled).out
    ArtifactStore().remove([entry for entry in ArtifactStore().entries() if entry.kind == "package"])
    assert cli(*compiled).out == first
    assert Path(first.strip()).is_dir()


def test_what_is_said_of_options_is_said_again(folder: Path, cli: Cli) -> None:
    compiled = ("compile", folder, "--target", "cpu", "--ctx-len", "64", "--num-cores", "4")
    for _ in range(2):
        assert "warning: --num-cores: no effect on target 'cpu'." in cli(*compiled).err
    assert cli("infer", folder, *ASKED, "--seq-len", "16").code == 2


def test_flags_are_checked_as_for_a_loaded_model(folder: Path, cli: Cli) -> None:
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    assert cli("infer", folder, *ASKED).code == 0
    asked_to_chat = cli("infer", folder, "--chat", "--ctx-len", "64", "--target", "cpu")
    assert "has no chat template" in asked_to_chat.err
