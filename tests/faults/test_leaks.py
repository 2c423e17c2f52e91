"""Nothing native outlives ``close``: descriptors, mapped files and threads, counted over many cycles."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_models

from QEfficient import QEFFAutoModelForCausalLM

pytestmark = pytest.mark.xdist_group("fault packages")

CHILD = """
import json, os, resource, sys, tempfile
from pathlib import Path

def counts():
    files = [line for line in Path("/proc/self/maps").read_text().splitlines() if ".bin" in line or ".onnx" in line]
    return [len(os.listdir("/proc/self/fd")), len(files), len(os.listdir("/proc/self/task"))]

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

kind, path, number = sys.argv[1:]
cycle = {"opened": opened, "refused": refused, "converted": converted}[kind]
print(json.dumps(repeat(lambda: cycle(path), int(number))))
"""


def counted(kind: str, path: Path, number: int) -> list[list[int]]:
    """``[descriptors, mapped files, threads]`` of a child after one cycle and after ``number`` more."""
    command = [sys.executable, "-c", CHILD, kind, str(path), str(number)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    counts: list[list[int]] = json.loads(result.stdout.splitlines()[-1])
    return counts


def check_flat(before: list[int], after: list[int]) -> None:
    assert after[1:] == before[1:]
    assert after[0] <= before[0] + 3  # OpenVINO and a pipe of its pool come and go


@pytest.fixture(scope="module")
def decoder() -> QEFFAutoModelForCausalLM:
    return QEFFAutoModelForCausalLM(tiny_models.causal_lm("llama"), tokenizer=tiny_models.tiny_tokenizer())


def compiled_paths(model: QEFFAutoModelForCausalLM) -> dict[str, Callable[[], Path]]:
    options: dict[str, Any] = {"target": "cpu", "precision": "fp32"}
    return {
        "paged": lambda: model.compile(ctx_len=32, full_batch_size=2, **options),
        "retained": lambda: model.compile(ctx_len=32, lowering="retained", **options),
        "card": lambda: model.compile(target="cloud-ai-100-sim", ctx_len=32, prefill_seq_len=8),
    }


@pytest.mark.parametrize("name", ["paged", "retained", "card"])
def test_open_and_close(decoder: QEFFAutoModelForCausalLM, name: str) -> None:
    check_flat(*counted("opened", compiled_paths(decoder)[name](), 16))


def test_package_that_does_not_open(decoder: QEFFAutoModelForCausalLM) -> None:
    check_flat(*counted("refused", compiled_paths(decoder)["paged"](), 16))


def test_compile(decoder: QEFFAutoModelForCausalLM) -> None:
    decoder.export(target="cpu")
    assert decoder.onnx_path is not None
    check_flat(*counted("converted", decoder.onnx_path, 16))


@pytest.mark.sweep
@pytest.mark.parametrize("name", ["paged", "retained", "card"])
def test_two_hundred_times(decoder: QEFFAutoModelForCausalLM, name: str) -> None:
    check_flat(*counted("opened", compiled_paths(decoder)[name](), 200))
