"""The store, from the command line."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from cloud.commands import Cli

from QEfficient.store.artifacts import Artifact, ArtifactStore


def stored(kind: str, size: int, days_ago: float = 0, model: str = "Tiny", **ingredients: object) -> Artifact:
    def build(folder: Path) -> dict[str, object]:
        (folder / "model.bin").write_bytes(bytes(size))
        return {"target": "cpu", "lowering": "paged", "session": {"ctx_len": 64}}

    artifact, _ = ArtifactStore().get_or_build(kind, ingredients, build, label=f"{model} {kind}")
    used = time.time() - days_ago * 86400
    os.utime(artifact.path.parent / f".{artifact.path.name}.used", (used, used))
    return artifact


@pytest.fixture
def store(own_home: Path) -> list[Artifact]:
    """Two packages, of which one was not used for a long time."""
    return [stored("package", 3000, n=1), stored("package", 5000, days_ago=40, n=2)]


def test_ls(cli: Cli, store: list[Artifact]) -> None:
    result = cli("cache", "ls")
    assert result.code == 0
    header, new, old = result.out.splitlines()
    assert header.split() == ["Key", "Kind", "Model", "Made", "for", "State", "Size", "Last", "used"]
    assert new.split()[:2] == [store[0].path.name[:12], "package"]
    assert "cpu, paged, ctx_len 64" in new
    assert new.endswith("just now")
    assert old.endswith("40 d ago")
    assert str(ArtifactStore().root) in result.err


@pytest.mark.parametrize("by", ["key", "model"])
def test_rm(by: str, cli: Cli, store: list[Artifact]) -> None:
    names = [store[0].manifest.key[:8]] if by == "key" else ["Tiny"]
    assert cli("cache", "rm", *names, "--dry-run").err.startswith("Would remove ")
    assert len(ArtifactStore().entries()) == 2
    assert cli("cache", "rm", *names).code == 0
    assert [entry.key for entry in ArtifactStore().entries()] == ([store[1].manifest.key] if by == "key" else [])


def test_rm_of_a_local_model_by_its_path(cli: Cli, own_home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    local = stored("package", 3000, model=f"{tmp_path.name}/checkpoint", n=1)
    other = stored("package", 3000, model="elsewhere/checkpoint", n=2)
    assert cli("cache", "rm", f"{folder}/").code == 0
    assert [local.path.exists(), other.path.exists()] == [False, True]


@pytest.mark.parametrize("names", [(), ("Tniy",), ("ab",)], ids=str)
def test_rm_of_what_is_not_there(names: tuple[str, ...], cli: Cli, store: list[Artifact]) -> None:
    result = cli("cache", "rm", *names)
    assert (result.code, len(ArtifactStore().entries())) == (2, 2)
    assert ("Did you mean 'Tiny'?" in result.err) == (names == ("Tniy",))


def test_ls_names_models_as_they_were_loaded(cli: Cli, checkpoint: Path, package: Path) -> None:
    models = {line.split()[2] for line in cli("cache", "ls").out.splitlines()[1:]}
    assert f"{checkpoint.parent.name}/{checkpoint.name}" in models


def test_ls_json(cli: Cli, store: list[Artifact]) -> None:
    found = cli("cache", "ls", "--json").json
    assert found["root"] == str(ArtifactStore().root)
    assert {entry["key"] for entry in found["entries"]} == {artifact.manifest.key for artifact in store}
    assert {entry["state"] for entry in found["entries"]} == {"stored"}


def test_ls_of_nothing(cli: Cli, own_home: Path) -> None:
    result = cli("cache", "ls")
    assert (result.code, result.out) == (0, "")
    assert result.err.startswith("0 B in ")


def test_why(cli: Cli, checkpoint: Path, package: Path) -> None:
    compiled = ("cache", "why", checkpoint, "--precision", "fp32")
    assert cli(*compiled, "--ctx-len", "128").out == "The package is in the store: nothing would be compiled.\n"
    assert cli(*compiled, "--ctx-len", "128", "--json").json["is_stored"]
    other = cli(*compiled, "--ctx-len", "96")
    assert other.code == 0
    lines = other.out.splitlines()
    assert lines[0].startswith("The package would be compiled.")
    assert [line.split()[0] for line in lines[2:]] == ["session.chunk_len", "session.ctx_len"]
    found = cli(*compiled, "--ctx-len", "96", "--json").json
    assert found["nearest_differs_in"][1] == {"name": "session.ctx_len", "stored": 128, "asked": 96}


def test_why_compiles_nothing(cli: Cli, checkpoint: Path, own_home: Path) -> None:
    assert "no package yet" in cli("cache", "why", checkpoint).out
    assert ArtifactStore().entries() == []


def test_verify(cli: Cli, store: list[Artifact]) -> None:
    assert cli("cache", "verify").out == "2 of 2 entries are whole.\n"
    (store[0].path / "model.bin").write_bytes(b"x" * 3000)
    result = cli("cache", "verify")
    assert result.code == 1
    assert "model.bin has sha256" in result.out
    assert result.out.endswith("1 of 2 entries are whole.\n")


def test_verify_json(cli: Cli, store: list[Artifact]) -> None:
    (store[0].path / "model.bin").unlink()
    result = cli("cache", "verify", "--json")
    assert result.code == 1
    (damaged,) = result.json["damaged"]
    assert (result.json["num_verified"], damaged["key"]) == (2, store[0].manifest.key)


@pytest.mark.parametrize(
    ("args", "kept"),
    [
        ((), [0, 1]),
        (("--older-than", "30d"), [0]),
        (("--older-than", "2w"), [0]),
        (("--older-than", "1500h"), [0, 1]),
        (("--max-size", "4kB"), [0]),
        (("--max-size", "1GB"), [0, 1]),
        (("--max-size", "0"), []),
        (("--older-than", "30d", "--dry-run"), [0, 1]),
    ],
)
def test_prune(cli: Cli, store: list[Artifact], args: tuple[str, ...], kept: list[int]) -> None:
    assert cli("cache", "prune", *args).code == 0
    assert [index for index, artifact in enumerate(store) if artifact.path.exists()] == kept


def test_prune_says_what_went(cli: Cli, store: list[Artifact]) -> None:
    would = cli("cache", "prune", "--older-than", "30d", "--dry-run")
    assert store[1].path.name[:12] in would.out
    assert would.err.startswith("Would remove 1 entry: ")
    did = cli("cache", "prune", "--older-than", "30d", "--json").json
    assert [entry["key"] for entry in did["entries"]] == [store[1].manifest.key]


def test_prune_removes_what_is_damaged(cli: Cli, store: list[Artifact]) -> None:
    (store[0].path / "model.bin").unlink()
    cli("cache", "prune", "--keep-damaged")
    assert store[0].path.exists()
    cli("cache", "prune")
    assert not store[0].path.exists()


@pytest.mark.parametrize("args", [("--older-than", "3"), ("--older-than", "soon"), ("--max-size", "big")])
def test_prune_with_values_that_make_no_sense(cli: Cli, own_home: Path, args: tuple[str, ...]) -> None:
    result = cli("cache", "prune", *args)
    assert result.code == 2
    assert args[1] in result.err
