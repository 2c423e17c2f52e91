"""Checkpoints: complete by their manifest, the newest first, the oldest removed last."""

from __future__ import annotations

from pathlib import Path

import pytest

from QEfficient.errors import ArtifactError, ArtifactNotFound, CorruptArtifact, OptionError
from QEfficient.finetune.checkpoints import check_same_run, list_checkpoints, newest_complete, prune, seal_checkpoint
from QEfficient.store.manifest import open_artifact

RUN = {"lora_r": 8, "seed": 42}


def make(output_dir: Path, step: int, *, is_sealed: bool = True) -> Path:
    folder = output_dir / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "optimizer.pt").write_text(f"state {step}")
    if is_sealed:
        seal_checkpoint(folder, RUN)
    return folder


def test_sealing_again_describes_what_is_there_now(tmp_path: Path) -> None:
    folder = make(tmp_path, 1, is_sealed=False)
    with pytest.raises(ArtifactNotFound):
        open_artifact(folder)
    seal_checkpoint(folder, RUN)
    open_artifact(folder)
    (folder / "more.pt").write_text("more")
    with pytest.raises(CorruptArtifact, match=r"more\.pt is not in the manifest"):
        open_artifact(folder)
    seal_checkpoint(folder, RUN)
    assert set(open_artifact(folder).manifest.files) == {"optimizer.pt", "more.pt"}


def test_what_is_empty_is_not_sealed(tmp_path: Path) -> None:
    folder = make(tmp_path, 1)
    (folder / "scheduler.pt").touch()
    with pytest.raises(ArtifactError, match=r"scheduler\.pt empty"):
        seal_checkpoint(folder, RUN)
    with pytest.raises(ArtifactNotFound):
        open_artifact(folder)


def test_the_newest_by_number(tmp_path: Path) -> None:
    assert list_checkpoints(tmp_path / "none") == []
    assert newest_complete(tmp_path) is None
    folders = [make(tmp_path, step) for step in (9, 10, 100)]
    make(tmp_path, 101, is_sealed=False)
    (tmp_path / "checkpoint-x").mkdir()
    assert list_checkpoints(tmp_path)[0].name == "checkpoint-101"
    newest = newest_complete(tmp_path)
    assert newest is not None
    assert newest.path == folders[-1]
    with pytest.raises(CorruptArtifact, match="checkpoint-101 cannot be used: it was not written to its end"):
        newest_complete(tmp_path, is_strict=True)


def test_pruning_counts_complete_ones(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        make(tmp_path, step)
    make(tmp_path, 4, is_sealed=False)
    prune(tmp_path, 2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-4", "checkpoint-3", "checkpoint-2"]


def test_another_run_is_refused_with_every_difference(tmp_path: Path) -> None:
    checkpoint = open_artifact(make(tmp_path, 1))
    check_same_run(checkpoint, dict(reversed(RUN.items())))
    with pytest.raises(OptionError, match=r"lora_r: 8 -> 4\n  seed: 42 -> None\n  world_size: None -> 2\n"):
        check_same_run(checkpoint, {"lora_r": 4, "world_size": 2})
