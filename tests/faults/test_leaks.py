"""Nothing native outlives ``close``: descriptors, mapped files and threads, counted over many cycles."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_models

from QEfficient import QEFFAutoModelForCausalLM

pytestmark = pytest.mark.xdist_group("fault packages")

CHILD = """
import json, os, resource, sys, tempfile, time
from pathlib import Path

def now():
    files = [line for line in Path("/proc/self/maps").read_text().splitlines() if ".bin" in line or ".onnx" in line]
    return [len(os.listdir("/proc/self/fd")), len(files), len(os.listdir("/proc/self/task"))]

def counts():
    lowest = now()
    for _ in range(20):
        time.sleep(0.05)  # threads that were told to stop take a moment
        lowest = [min(pair) for pair in zip(lowest, now())]
    return lowest

def repeat(cycle, number):
    cycle()
    before = counts()
    limit = before[0] + 12
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    for _ in range(number):
        cycle()
    return [before, counts()]

def opened(path):
    from QEfficient import from_package
    with from_package(path) as compiled:
        compiled.generate([[5, 6, 7]], **({"generation_len": 2} if compiled.takes_chat else {}))

def refused(path):
    from QEfficient import from_package
    from QEfficient.errors import CompileError
    try:
        from_package(path, compiler_options={"NO_SUCH_PROPERTY": 1})
    except CompileError:
        return
    raise AssertionError("opened")

def converted(path):
    from QEfficient.compile.openvino_compiler import OpenVINOCompiler
    from QEfficient.contract import CompileJob
    from QEfficient.options import CausalLMCompileOptions
    with tempfile.TemporaryDirectory() as folder:
        job = CompileJob(specializations=(), options=CausalLMCompileOptions())
        OpenVINOCompiler().compile(Path(path), Path(folder), job)

cycles = {"opened": opened, "refused": refused, "converted": converted}
for kind, path in json.loads(sys.argv[2]):
    print(json.dumps(repeat(lambda: cycles[kind](path), int(sys.argv[1]))))
"""
Counts = list[int]  # descriptors, mapped files, threads


def counted(number: int, *cycles: tuple[str, Path]) -> list[list[Counts]]:
    """What a child counts after one cycle, and after ``number`` more, for each of ``cycles`` in turn."""
    work = json.dumps([(kind, str(path)) for kind, path in cycles])
    command = [sys.executable, "-c", CHILD, str(number), work]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines() if line.startswith("[[")]


def check_flat(before: Counts, after: Counts) -> None:
    assert after[1:] == before[1:]
    assert after[0] <= before[0] + 3  # OpenVINO and a pipe of its pool come and go


@pytest.fixture(scope="module")
def decoder() -> QEFFAutoModelForCausalLM:
    return QEFFAutoModelForCausalLM(tiny_models.causal_lm("llama"), tokenizer=tiny_models.tiny_tokenizer())


def compiled_path(model: QEFFAutoModelForCausalLM, name: str) -> Path:
    options: dict[str, dict[str, Any]] = {
        "paged": {"target": "cpu", "precision": "fp32", "full_batch_size": 2},
        "retained": {"target": "cpu", "precision": "fp32", "lowering": "retained"},
        "card": {"target": "cloud-ai-100-sim", "prefill_seq_len": 8},
    }
    return model.compile(ctx_len=32, **options[name])


@pytest.fixture(scope="module")
def sixteen_cycles(decoder: QEFFAutoModelForCausalLM) -> dict[str, list[Counts]]:
    """One child for all: importing what it needs takes longer than the cycles."""
    cycles = {name: ("opened", compiled_path(decoder, name)) for name in ("paged", "retained", "card")}
    cycles["refused"] = ("refused", cycles["paged"][1])
    decoder.export(target="cpu")
    assert decoder.onnx_path is not None
    cycles["converted"] = ("converted", decoder.onnx_path)
    return dict(zip(cycles, counted(16, *cycles.values()), strict=True))


@pytest.mark.parametrize("name", ["paged", "retained", "card"])
def test_open_and_close(sixteen_cycles: dict[str, list[Counts]], name: str) -> None:
    check_flat(*sixteen_cycles[name])


def test_package_that_does_not_open(sixteen_cycles: dict[str, list[Counts]]) -> None:
    check_flat(*sixteen_cycles["refused"])


def test_compile(sixteen_cycles: dict[str, list[Counts]]) -> None:
    check_flat(*sixteen_cycles["converted"])


@pytest.mark.sweep
@pytest.mark.parametrize("name", ["paged", "retained", "card"])
def test_two_hundred_times(decoder: QEFFAutoModelForCausalLM, name: str) -> None:
    check_flat(*counted(200, ("opened", compiled_path(decoder, name)))[0])
