"""A full disk is a StorageError with the path and the free bytes, whoever notices it, and nothing is left behind."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx_ir as ir
import openvino as ov
import pytest
import tiny_models
from huggingface_hub.errors import HfHubHTTPError

from QEfficient import QEFFAutoModelForCausalLM
from QEfficient.compile import openvino_compiler
from QEfficient.compile.child_process import run_compiler
from QEfficient.contract import CompileJob
from QEfficient.errors import CheckpointNotFound, CompileError, StorageError
from QEfficient.options import CausalLMCompileOptions
from QEfficient.store.files import has_room, says_full, storage_errors
from QEfficient.store.leftovers import scratch_folder
from QEfficient.transformers.checkpoint import load as loader

pytestmark = pytest.mark.xdist_group("full disks")

SAID = [
    "Exception from src/inference/src/cpp/core.cpp:117:\nbasic_ios::clear: iostream error\n",
    "No space left on device (os error 28)",
    'Error while serializing: IoError(Os { code: 28, message: "No space left on device" })',
    "I/O error: Disk quota exceeded (os error 122)",
]
"""What OpenVINO, tokenizers, safetensors and the Hub's client say."""


def is_said(error: StorageError, *words: str) -> None:
    for word in (*words, "free on that disk", "Free some space"):
        assert word in str(error)
    assert error.errno == errno.ENOSPC


@pytest.mark.parametrize("text", SAID)
@pytest.mark.parametrize("kind", [Exception, RuntimeError, OSError, ValueError])
def test_words_of_native_code(tmp_path: Path, text: str, kind: type[Exception]) -> None:
    with pytest.raises(StorageError) as caught, storage_errors(tmp_path, only_under=tmp_path, needed_bytes=5000):
        raise kind(text)
    is_said(caught.value, str(tmp_path), "5.0 kB needed")


def test_a_writer_that_fails_again_as_it_closes(tmp_path: Path) -> None:
    """As torch.save does: the error that leaves it says nothing of the disk."""

    def save() -> None:
        try:
            raise RuntimeError(SAID[0])
        finally:
            raise RuntimeError("unexpected pos 64 vs 0")

    with pytest.raises(StorageError) as caught, storage_errors(tmp_path, only_under=tmp_path):
        save()
    is_said(caught.value, str(tmp_path), "basic_ios::clear: iostream error")


def test_a_file_in_the_way_of_another_library(tmp_path: Path) -> None:
    (tmp_path / "runs").touch()
    with pytest.raises(StorageError, match="File exists"), storage_errors(tmp_path, only_under=tmp_path):
        (tmp_path / "runs").mkdir()


@pytest.mark.parametrize("text", ["No space left for slots", "os error 2", "iostream", "device is full"])
def test_other_words_stay(tmp_path: Path, text: str) -> None:
    assert not says_full(text)
    with pytest.raises(ValueError, match=text), storage_errors(tmp_path):
        raise ValueError(text)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> QEFFAutoModelForCausalLM:
    checkpoint = tmp_path_factory.mktemp("checkpoint")
    tiny_models.tiny_tokenizer().save_pretrained(checkpoint)
    return QEFFAutoModelForCausalLM.from_pretrained(tiny_models.save(tiny_models.causal_lm("llama"), checkpoint))


def full(*args: Any, **options: Any) -> None:
    raise RuntimeError(SAID[0])


def full_tokenizer(*args: Any, **options: Any) -> None:
    raise Exception(SAID[1])


def full_graph(*args: Any, **options: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(args[1]))


WRITERS: dict[str, Callable[[pytest.MonkeyPatch, Any], None]] = {
    "OpenVINO": lambda patch, model: patch.setattr(ov, "save_model", full),
    "tokenizers": lambda patch, model: patch.setattr(model.tokenizer, "save_pretrained", full_tokenizer),
    "onnx": lambda patch, model: patch.setattr(ir, "save", full_graph),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_whoever_writes(
    model: QEFFAutoModelForCausalLM, writer: str, monkeypatch: pytest.MonkeyPatch, own_home: Path
) -> None:
    WRITERS[writer](monkeypatch, model)
    with pytest.raises(StorageError) as caught:
        model.compile(target="cpu", ctx_len=32)
    is_said(caught.value)
    assert not [name for name in map(str, own_home.rglob("*")) if ".tmp-" in name or "unfinished/" in name]


@pytest.mark.parametrize("free", [5, 10**5])
def test_openvino_is_told_before_it_writes(
    model: QEFFAutoModelForCausalLM, free: int, monkeypatch: pytest.MonkeyPatch, own_home: Path
) -> None:
    model.export(target="cpu")
    options = {"ctx_len": 32, "weight_format": "int8"}  # others stay in the graph's file
    monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - free, free))
    monkeypatch.setattr(ov, "save_model", pytest.fail)
    with pytest.raises(StorageError, match=r"free; the compiled weights need .* kB"):
        model.compile(target="cpu", **options)


def failing(path: Path, command: str) -> Path:
    """A compiler that ends with status 1."""
    path.write_text(f"#!/bin/sh\n{command}\nexit 1\n")
    path.chmod(0o755)
    return path


def test_compiler_says_it(tmp_path: Path, own_home: Path) -> None:
    program = failing(tmp_path / "compiler", "echo write: No space left on device")
    with pytest.raises(StorageError) as caught:
        run_compiler([str(program)], log=tmp_path / "log", output=tmp_path / "out")
    is_said(caught.value, "compiler failed with exit status 1", str(tmp_path))


def test_compiler_has_no_room_to_say_it(tmp_path: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = failing(tmp_path / "compiler", "true")
    with pytest.raises(CompileError):
        run_compiler([str(program)], log=tmp_path / "log", output=tmp_path / "out")
    monkeypatch.setattr("QEfficient.compile.child_process.has_room", lambda folder: False)
    with pytest.raises(StorageError):
        run_compiler([str(program)], log=tmp_path / "log", output=tmp_path / "out")


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError(SAID[3])])
def test_cache_of_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception) -> None:
    def download(*args: Any, **options: Any) -> str:
        raise error

    monkeypatch.setattr(loader, "snapshot_download", download)
    with pytest.raises(StorageError) as caught:
        loader.resolve("a/b", cache_dir=tmp_path)
    is_said(caught.value, str(tmp_path))


def test_other_errors_of_the_hub_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*args: Any, **options: Any) -> str:
        raise OSError("connection lost")

    monkeypatch.setattr(loader, "snapshot_download", download)
    with pytest.raises(CheckpointNotFound, match="connection lost"):
        loader.resolve("a/b")
    assert issubclass(HfHubHTTPError, OSError)


# On a real one


@contextmanager
def small_disk(folder: Path, num_kb: int) -> Iterator[Path]:
    """A tmpfs of so many kilobytes."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={num_kb}k", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("num_kb", [100, 300, 400, 500])
@pytest.mark.parametrize("target", ["cpu", "cloud-ai-100-sim"])
def test_small_disks(model: QEFFAutoModelForCausalLM, tmp_path: Path, target: str, num_kb: int) -> None:
    """The folder of the package is on it; the graph is in the store already."""
    options: dict[str, Any] = {"target": target, "ctx_len": 32, "prefill_seq_len": 8}
    model.compile(**options)
    with small_disk(tmp_path / "disk", num_kb) as disk:
        with pytest.raises(StorageError, match="free"):
            model.compile(disk / "x", **options)
        assert [path.name for path in disk.rglob("*")] == []


def test_disk_that_fills_while_openvino_writes(
    model: QEFFAutoModelForCausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino_compiler, "check_free_space", lambda *args: None)
    job = CompileJob(specializations=(), options=CausalLMCompileOptions())
    graph = model.export(target="cpu")
    with small_disk(tmp_path / "disk", 100) as disk:
        with pytest.raises(StorageError) as caught:
            openvino_compiler.compile_onnx(graph, disk, job)
        is_said(caught.value, "kB needed", str(disk))


@pytest.mark.parametrize("num_kb", [4, 300, 500, 700])
def test_small_home(
    model: QEFFAutoModelForCausalLM, tmp_path: Path, num_kb: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the graph does not fit, or the program does not, or the side files, or nothing at all."""
    with small_disk(tmp_path / "disk", num_kb) as disk:
        monkeypatch.setenv("QEFF_HOME", str(disk / "home"))
        with pytest.raises(StorageError, match="free"):
            model.compile(target="cpu", ctx_len=32, weight_format="int8")
        assert not [str(path) for path in disk.rglob("*") if ".tmp-" in path.name]


def test_small_temporary_folder(
    model: QEFFAutoModelForCausalLM, tmp_path: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is used where the home cannot be written only."""
    with small_disk(tmp_path / "disk", 4) as disk:
        monkeypatch.setattr(tempfile, "tempdir", str(disk))
        (disk / "x").write_bytes(bytes(4096))
        assert not has_room(disk)
        with scratch_folder() as folder:
            model.write_side_files(folder)
        own_home.rename(own_home.with_name("old"))
        own_home.write_text("")
        with pytest.raises(StorageError), scratch_folder() as folder:
            model.write_side_files(folder)
