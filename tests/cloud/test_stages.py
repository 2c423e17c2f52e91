"""export, compile and verify."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cloud.commands import COMPILE, Cli

from QEfficient.store.artifacts import open_artifact


def test_export_prints_the_graph(cli: Cli, checkpoint: Path, package: Path) -> None:
    result = cli("export", checkpoint)
    assert (result.code, result.err) == (0, "")
    path = Path(result.out.removesuffix("\n"))
    assert path.name == "model.onnx"
    assert open_artifact(path.parent).manifest.kind == "onnx"


def test_export_json(cli: Cli, checkpoint: Path, package: Path) -> None:
    found = cli("export", checkpoint, "--json").json
    assert found["lowering"] == "paged"
    assert "input_ids" in found["inputs"]
    assert found["outputs"]["logits"][-1] == 320


def test_compile_prints_the_package(cli: Cli, checkpoint: Path, package: Path) -> None:
    result = cli("compile", checkpoint, *COMPILE)
    assert (result.code, result.out, result.err) == (0, f"{package}\n", "")


def test_compile_json(cli: Cli, checkpoint: Path, package: Path) -> None:
    found = cli("compile", checkpoint, *COMPILE, "--json").json
    assert found["package"] == str(package)
    assert (found["target"], found["lowering"], found["architecture"]) == ("cpu", "paged", "LlamaForCausalLM")
    assert found["options"]["ctx_len"] == 128
    assert found["size_bytes"] == sum(file.stat().st_size for file in package.rglob("*") if file.is_file()) - (
        (package / "manifest.json").stat().st_size
    )


@pytest.mark.parametrize("flag", ["--compile-dir", "--qpc-path"])
def test_compile_into_a_folder(cli: Cli, checkpoint: Path, package: Path, tmp_path: Path, flag: str) -> None:
    folder = tmp_path / "qpc"
    result = cli("compile", "--model-name", checkpoint, *COMPILE, flag, folder)
    assert (result.code, result.out) == (0, f"{folder}\n")
    assert open_artifact(folder).manifest.key == open_artifact(package).manifest.key


def test_compile_says_what_it_does_when_asked(cli: Cli, checkpoint: Path, package: Path) -> None:
    result = cli("compile", checkpoint, *COMPILE, "-v")
    assert result.out == f"{package}\n"
    assert f"info: Found package: {package}" in result.err
    assert "info: Target: cpu" in result.err


CARD = ("--ctx-len", "32", "--prefill-seq-len", "8", "--dry-run")
"""A graph that all dry runs share."""


def test_dry_run_prints_folder_and_command(cli: Cli, checkpoint: Path) -> None:
    result = cli("compile", checkpoint, *CARD, "--target", "cloud-ai-100-sim")
    assert result.code == 0
    folder, command = result.out.splitlines()
    assert {"specializations.json", "custom_io.yaml"} <= {path.name for path in Path(folder).iterdir()}
    assert not (Path(folder) / "qpc").exists()
    assert "qaic-compile -aic-hw -aic-hw-version=ai100 -m=" in command
    assert command.endswith(f" -aic-binary-dir={folder}/qpc")
    assert "Dry run: nothing was compiled" in result.err


def test_dry_run_json_and_a_folder_of_its_own(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    own = ("--compile-dir", tmp_path / "own")
    found = cli("compile", checkpoint, *CARD, "--target", "cloud-ai-100-sim", *own, "--json").json
    assert found.keys() == {"folder", "command"}
    assert found["folder"] == str(tmp_path / "own")
    assert f"-aic-binary-dir={tmp_path / 'own' / 'qpc'}" in found["command"]


def test_dry_run_needs_no_sdk(cli: Cli, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QEFF_QAIC_SDK", str(tmp_path / "no-sdk"))
    result = cli("compile", checkpoint, *CARD, "--target", "cloud-ai-100", "--mxfp6")
    assert result.code == 0
    assert "/exec/qaic-compile -aic-hw " in result.out
    assert " -mxfp6-matmul " in result.out


def test_lists_of_lengths(cli: Cli, checkpoint: Path) -> None:
    lengths = ("--comp-ctx-lengths-prefill", "32", "--comp-ctx-lengths-decode", "16,32")
    result = cli("compile", checkpoint, *CARD, "--target", "cloud-ai-100-sim", *lengths)
    folder = Path(result.out.splitlines()[0])
    entries = json.loads((folder / "specializations.json").read_text())["specializations"]
    assert [entry["symbols"]["comp_ctx_lengths"] for entry in entries] == ["32", "16", "32"]


def test_compiling_a_graph_names_the_way_that_works(cli: Cli, tmp_path: Path) -> None:
    result = cli("compile", "--onnx-path", tmp_path / "model.onnx", "--qpc-path", tmp_path / "qpc", "--num-cores", "16")
    assert (result.code, result.out) == (2, "")
    assert "Give the path that `qefficient export` returned" in result.err
    assert "`qefficient compile` exports by itself" in result.err


def test_a_graph_compiles_without_its_model(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    graph = cli("export", checkpoint, *CARD, "--target", "cloud-ai-100-sim").out.strip()
    result = cli("compile", "--onnx-path", graph, *CARD, "--target", "cloud-ai-100-sim", "--qpc-path", tmp_path / "qpc")
    folder, command = result.out.splitlines()
    assert Path(folder) == tmp_path / "qpc"
    assert f"-m={graph}" in command
    checked = cli("compile", checkpoint, "--onnx-path", graph, *CARD, "--target", "cloud-ai-100-sim")
    assert checked.code == 0
    other = cli(
        "compile", checkpoint, "--onnx-path", graph, *CARD, "--target", "cloud-ai-100-sim", "--full-batch-size=2"
    )
    assert other.code == 2
    assert "plan differ" in other.err


def test_context_beyond_the_model(cli: Cli, checkpoint: Path) -> None:
    result = cli("compile", checkpoint, "--ctx-len", "4096")
    assert (result.code, result.out) == (1, "")
    assert "512 positions" in result.err


def test_verify(cli: Cli, checkpoint: Path, package: Path) -> None:
    result = cli("verify", checkpoint, *COMPILE, "--generation-len", "8")
    assert result.code == 0
    assert result.out.startswith("agrees: 32 of 32 greedy tokens")


def test_verify_json(cli: Cli, checkpoint: Path, package: Path) -> None:
    result = cli("verify", checkpoint, *COMPILE, "--generation-len", "8", "-p", "My name is", "--json")
    assert result.code == 0
    assert (result.json["agrees"], len(result.json["prompts"])) == (True, 1)
    assert open_artifact(package).manifest.body["parity"] == {
        name: result.json[name] for name in ("agrees", "has_fault", "prompts", "numerics", "remark")
    }


def test_verify_fails_where_the_answers_differ(cli: Cli, checkpoint: Path, package: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("My name is\nThe capital of France is\nOnce upon a time\n")
    asked = ("--weight-format", "int4", "--generation-len", "8", "--prompts-txt-file-path", prompts)
    result = cli("verify", checkpoint, *COMPILE, *asked)
    assert result.code == 1
    assert result.out.startswith("DIFFERS")
    assert "first differing layer" in result.out


def test_verify_encoder(cli: Cli, encoder: Path) -> None:
    result = cli("verify", encoder)
    assert (result.code, result.out) == (2, "")
    assert "BertModel is not a causal language model" in result.err


def test_a_pipe_says_which_long_stages_start(cli: Cli, checkpoint: Path, own_home: Path) -> None:
    compiled = ("compile", checkpoint, "--ctx-len", "48", "--target", "cpu")
    lines = cli(*compiled).err.splitlines()
    assert lines[:2] == ["Exporting LlamaForCausalLM ...", "Compiling LlamaForCausalLM for cpu ..."]
    assert cli(*compiled, "--prefill-seq-len", "16", "--quiet").err == ""


def test_quiet_leaves_out_the_speed(cli: Cli, package: Path) -> None:
    asked = ("execute", package, "-p", "My name is", "--generation-len", "3")
    assert "tokens/s" in cli(*asked).err
    quiet = cli(*asked, "-q")
    assert (quiet.err, quiet.out) == ("", cli(*asked).out)
