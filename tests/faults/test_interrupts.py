"""An interrupt inside a callback of native code is a KeyboardInterrupt for the caller, and the next call works.

It is raised in the callback, as the interpreter does when Ctrl-C came while native code ran.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch

from QEfficient import QEFFAutoModelForCausalLM
from QEfficient.compile import openvino_context, openvino_paged
from QEfficient.compile.native_callbacks import interruptible, native_callback
from QEfficient.compile.openvino_compiler import OpenVINOCompiler
from QEfficient.contract import CompileJob
from QEfficient.exporter import trace
from QEfficient.generation.package import from_package
from QEfficient.options import CausalLMCompileOptions

pytestmark = pytest.mark.xdist_group("fault packages")
IDS = [5, 6, 7]
RAISED = [("inside", KeyboardInterrupt), ("inside", SystemExit), ("inside", MemoryError), ("before", KeyboardInterrupt)]
"""Inside of what notes it, or between two lines of Python before that."""


class At:
    """Raises an error at the ``number``-th call of a function, and calls it otherwise."""

    def __init__(self, function: Callable[..., Any], number: int, error: type[BaseException] = KeyboardInterrupt):
        self.function, self.left, self.error, self.was_raised = function, number, error, False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.left -= 1
        if self.left == 0:
            self.was_raised = True
            raise self.error
        return self.function(*args, **kwargs)

    def method(self) -> Callable[..., Any]:
        return lambda *args, **kwargs: self(*args, **kwargs)


@pytest.fixture(autouse=True)
def shared_traces() -> None:
    """In place of the traces that tests share: an interrupt needs one that runs."""


@pytest.fixture(scope="module")
def model() -> QEFFAutoModelForCausalLM:
    return QEFFAutoModelForCausalLM(tiny_models.causal_lm("llama"), tokenizer=tiny_models.tiny_tokenizer())


@pytest.fixture(scope="module")
def graphs(model: QEFFAutoModelForCausalLM) -> dict[str, Path]:
    return {
        "paged": Path(model.export(target="cpu")),
        "retained": Path(model.export(target="cpu", lowering="retained", full_batch_size=2)),
    }


@pytest.fixture(scope="module")
def package(model: QEFFAutoModelForCausalLM) -> Path:
    return model.compile(target="cpu", ctx_len=32, full_batch_size=2, precision="fp32")


def convert(graph: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        job = CompileJob(specializations=(), options=CausalLMCompileOptions())
        assert OpenVINOCompiler().compile(graph, Path(folder), job).inputs


def answer(path: Path) -> list[int]:
    with from_package(path) as compiled:
        return compiled.generate([IDS], generation_len=4).generated_ids[0].tolist()  # type: ignore[attr-defined]


OPENED_IN_TURN = """
import signal, sys
from QEfficient.generation.package import from_package
packages = [from_package(sys.argv[1]) for _ in range(2)]
for package in packages:
    package.generate([[5, 6, 7]], generation_len=1)
while packages:
    del package
    package = packages.pop(0)
    package.close()
del package
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's job in the background ignores it
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_after_models_that_are_gone(package: Path) -> None:
    """OpenVINO's plugins, freed in the order in which they were loaded, would leave signals without a stack."""
    command = [sys.executable, "-c", OPENED_IN_TURN, str(package)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, result.stdout) == (0, "interrupted\n"), result.stderr


METHODS = ["__init__", "validate_and_infer_types", "clone_with_new_inputs", "visit_attributes"]
CALLS = ["convert", "open"]


@pytest.mark.parametrize(("place", "error"), RAISED)
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("call", CALLS)
def test_operator_of_python(
    graphs: dict[str, Path],
    package: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    name: str,
    place: str,
    error: type[BaseException],
) -> None:
    def run() -> None:
        convert(graphs["paged"]) if call == "convert" else answer(package)

    expected = answer(package)
    for number in (1, 2):
        method = getattr(openvino_paged.PagedAttention, name)
        raising = At(method.__wrapped__ if place == "inside" else method, number, error)
        with monkeypatch.context() as patch:
            function = raising.method()
            patch.setattr(
                openvino_paged.PagedAttention, name, native_callback(function) if place == "inside" else function
            )
            try:
                run()
            except error:
                assert raising.was_raised
            else:
                assert not raising.was_raised
        run()
    assert answer(package) == expected


CONVERTERS = [
    ("paged", openvino_paged, "_from_onnx"),
    *(("retained", openvino_context, n) for n in ("_scatter", "_gather")),
]


@pytest.mark.parametrize(("graph", "module", "name"), CONVERTERS, ids=[name for *_, name in CONVERTERS])
def test_conversion(
    graphs: dict[str, Path], monkeypatch: pytest.MonkeyPatch, graph: str, module: Any, name: str
) -> None:
    for number in (1, 2):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, native_callback(At(getattr(module, name).__wrapped__, number).method()))
            with pytest.raises(KeyboardInterrupt):
                convert(graphs[graph])
        convert(graphs[graph])


def test_what_native_code_drops_or_renames() -> None:
    raising = native_callback(At(int, 1).method())
    with pytest.raises(KeyboardInterrupt), interruptible():
        swallow(raising, ValueError)
    raising = native_callback(At(int, 1).method())
    with pytest.raises(KeyboardInterrupt), interruptible():
        swallow(raising, RuntimeError, and_raise=True)
    with pytest.raises(KeyboardInterrupt), interruptible():
        raise RuntimeError("conversion failed: KeyboardInterrupt: <EMPTY MESSAGE>")
    with pytest.raises(RuntimeError, match="other"), interruptible():
        raise RuntimeError("other")


def swallow(callback: Callable[[], object], error: type[Exception], and_raise: bool = False) -> None:
    try:
        callback()
    except (KeyboardInterrupt, ValueError):
        if and_raise:
            raise error("conversion failed") from None


def graph_of(model: QEFFAutoModelForCausalLM, path: Path) -> Path:
    return Path(model.export(path, target="cpu"))


EXPORT: list[tuple[Any, str]] = [
    (torch.export, "export"),
    (trace, "decompose"),
    (trace, "apply_fx_node_fixes"),
    (torch.nn.functional, "linear"),
    (torch.nn.functional, "silu"),
    (torch.Tensor, "transpose"),
    (torch.onnx, "export"),
]


@pytest.mark.parametrize(("place", "name"), EXPORT, ids=[name for _, name in EXPORT])
def test_export(place: Any, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own_home: Path) -> None:
    model = QEFFAutoModelForCausalLM(tiny_models.causal_lm("llama"))
    with monkeypatch.context() as patch:
        raising = At(getattr(place, name), 1)
        patch.setattr(place, name, raising.method())
        with pytest.raises(KeyboardInterrupt):
            graph_of(model, tmp_path / "interrupted")
    assert graph_of(model, tmp_path / "whole").is_file()


@pytest.mark.parametrize("wrapped", [RuntimeError, ValueError, TypeError])
def test_export_that_renames_an_interrupt(
    wrapped: type[Exception], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own_home: Path
) -> None:
    def renaming(*_: object, **__: object) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise wrapped("failed while it was traced") from error

    model = QEFFAutoModelForCausalLM(tiny_models.causal_lm("llama"))
    with monkeypatch.context() as patch:
        patch.setattr(torch.export, "export", renaming)
        with pytest.raises(KeyboardInterrupt):
            graph_of(model, tmp_path / "interrupted")
    assert graph_of(model, tmp_path / "whole").is_file()
