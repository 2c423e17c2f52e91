"""A process that is forked after the library was used works too, or refuses at once: threads do not survive a fork."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.xdist_group("fault packages")

SCRIPT = """
import os, signal, sys
import tiny_models, torch
from QEfficient import QEFFAutoModelForCausalLM, from_package
from QEfficient.errors import QEffError

def in_child(work):
    # A native thread may hold a lock at the moment of the fork, one time in twenty: once more then.
    code = in_one_child(work)
    print("a child ended with", code, file=sys.stderr)
    return code if code >= 0 else in_one_child(work)

def in_one_child(work):
    pid = os.fork()
    if not pid:
        signal.alarm(60)
        try:
            work()
        except QEffError as error:
            print(type(error).__name__, error, file=sys.stderr)
            os._exit(3)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def answer(compiled):
    return compiled.generate([[5, 6, 7]], generation_len=4).generated_ids[0].tolist()

options = {"target": "cpu", "precision": "fp32", "full_batch_size": 2}
if sys.argv[1] == "retained":
    options["lowering"] = "retained"
if sys.argv[1] == "card":
    options = {"target": "cloud-ai-100-sim", "prefill_seq_len": 8}
model = QEFFAutoModelForCausalLM(tiny_models.causal_lm("llama"))
"""
COMPILE = """
torch.ones(2000, 2000) @ torch.ones(2000, 2000)
model.compile(ctx_len=32, **options)
assert in_child(lambda: model.compile(ctx_len=33, **options)) == 0
"""
INGREDIENTS = """
model.package_ingredients(target="cpu")
torch.ones(2000, 2000) @ torch.ones(2000, 2000)
assert in_child(lambda: model.compile(ctx_len=32, **options)) == 0
"""
GENERATE = """
path = model.compile(ctx_len=32, **options)
compiled = from_package(path)
expected = answer(compiled)

def same():
    assert answer(compiled) == expected

def anew():
    with from_package(path) as opened:
        assert answer(opened) == expected

is_card = sys.argv[1] == "card"
assert in_child(same) == (3 if is_card else 0)
assert in_child(anew) == (3 if is_card else 0)
assert in_child(compiled.close) == 0
same()
compiled.close()
assert in_child(anew) == 0
"""


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        pytest.param(COMPILE, "paged", id="compile"),
        pytest.param(INGREDIENTS, "card", id="ingredients", marks=pytest.mark.sweep),
        pytest.param(GENERATE, "paged", id="paged"),
        pytest.param(GENERATE, "retained", id="retained", marks=pytest.mark.sweep),
        pytest.param(GENERATE, "card", id="card", marks=pytest.mark.sweep),
        pytest.param(COMPILE, "card", id="compile for the card", marks=pytest.mark.sweep),
        pytest.param(COMPILE, "retained", id="compile retained", marks=pytest.mark.sweep),
    ],
)
def test_after_a_fork(code: str, kind: str, tmp_path: Path) -> None:
    tests = str(Path(__file__).parents[1])
    environment = os.environ | {
        "QEFF_HOME": str(tmp_path),
        "OMP_NUM_THREADS": "2",
        "PYTHONPATH": os.pathsep.join([tests, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]),
    }
    command = [sys.executable, "-c", SCRIPT + code, kind]
    result = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, env=environment)
    assert result.returncode == 0, result.stderr
    if kind == "card" and code == GENERATE:
        assert "open it again here" in result.stderr
