"""An installation of requirements-runtime.txt alone: it runs packages, and says what it misses to make one."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

from cloud.commands import Cli, Result, run_python

ROOT = Path(__file__).parents[2]
# As if what the file does not name, or what that does not need, were not installed.
HOOK = """
import sys
import importlib.metadata
from importlib.metadata import packages_distributions
allowed = set({allowed!r})
absent = {{name for name, dists in packages_distributions().items() if not allowed.intersection(map(str.lower, dists))}}
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name.partition(".")[0] in absent else find(name, *rest)
version = importlib.metadata.version
def installed_version(name):
    if name.lower() not in allowed:
        raise importlib.metadata.PackageNotFoundError(name)
    return version(name)
importlib.metadata.version = installed_version
from QEfficient.cloud.app import app, run
run(app, sys.argv[1:], "qefficient")
"""


def named(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement.strip(), maxsplit=1)[0].lower()


def installed() -> set[str]:
    """The distributions of the file, with all that they need."""
    lines = (ROOT / "requirements-runtime.txt").read_text(encoding="utf-8").splitlines()
    pending = [named(line) for line in lines if not line.startswith("#")]
    names = {"qefficient", "setuptools"}
    while pending:
        name = pending.pop()
        if name in names:
            continue
        names.add(name)
        needed = metadata.requires(name) or []
        pending += [named(each) for each in needed if "extra ==" not in each and _is_installed(named(each))]
    return names


def _is_installed(name: str) -> bool:
    try:
        return bool(metadata.version(name))
    except metadata.PackageNotFoundError:
        return False


def runtime(*args: str | Path) -> Result:
    return run_python("-c", HOOK.format(allowed=sorted(installed())), *args)


def test_what_makes_packages_is_not_in_it() -> None:
    assert not {"torch", "transformers", "onnx", "nncf", "onnxruntime"} & installed()
    assert "numpy" in installed()


def test_packages_run(cli: Cli, package: Path) -> None:
    asked = ("execute", package, "-p", "My name is", "--generation-len", "4")
    ran = runtime(*asked)
    assert (ran.code, ran.out) == (0, cli(*asked).out), ran.err
    assert runtime("execute", package, "--chat", "-p", "hi", "--generation-len", "2").code == 0
    assert runtime("cache", "ls").code == 0


def test_a_model_says_what_is_missing(checkpoint: Path, package: Path) -> None:
    missed = runtime("infer", checkpoint, "-p", "hi", "--ctx-len", "77", "--target", "cpu")
    assert missed.code == 1
    assert missed.err.startswith("error: Loading a model needs torch, transformers, onnx")
    assert len(missed.err.splitlines()) == 1
