"""Runs the smoke suite with the oldest and the newest versions that ``pyproject.toml`` allows: ``make matrix``.

Each case has an environment of its own over that of ``make install``: it holds what differs, so that it is small.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import sysconfig
import time
import tomllib
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PACKAGES = ("transformers", "torch", "onnxruntime", "openvino", "onnx")
"""Those whose range is run."""
SUITE = "tests/matrix/test_smoke.py"


@dataclass(frozen=True)
class Case:
    """Versions to run with.

    Attributes:
        name: of the case and of its environment's folder.
        pins: version by package; the others are those of the environment below.
    """

    name: str
    pins: dict[str, str]

    @property
    def requirements(self) -> list[str]:
        """As pip takes them."""
        return [f"{name}=={version}" for name, version in self.pins.items()]


@dataclass(frozen=True)
class Outcome:
    """What came of a case."""

    case: Case
    result: str
    seconds: float


def ranges(pyproject: Path = ROOT / "pyproject.toml") -> dict[str, Requirement]:
    """What the project allows of :data:`PACKAGES`."""
    listed = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]["dependencies"]
    required = {requirement.name: requirement for requirement in map(Requirement, listed)}
    return {name: required[name] for name in PACKAGES}


def ends(requirement: Requirement, available: Sequence[str], *, cpu_only: bool) -> tuple[str, str]:
    """The oldest and the newest version of a package that its range allows.

    Args:
        requirement: the range.
        available: the versions that pip can install.
        cpu_only: take builds for the processor alone, which a local label marks.

    Raises:
        LookupError: there is none.
    """
    versions = [Version(text) for text in available]
    allowed = sorted(
        each for each in versions if requirement.specifier.contains(each.public) and not each.is_prerelease
    )
    if cpu_only:
        allowed = [each for each in allowed if each.local == "cpu"]
    if not allowed:
        raise LookupError(f"pip knows no version of {requirement}: {', '.join(available) or 'none at all'}")
    return str(allowed[0]), str(allowed[-1])


def cases(bounds: dict[str, tuple[str, str]]) -> list[Case]:
    """All packages at their oldest, all at their newest, and each alone at each end."""
    together = [
        Case(name, {package: versions[end] for package, versions in bounds.items()})
        for end, name in enumerate(("oldest", "newest"))
    ]
    alone = [Case(f"{package}-{version}", {package: version}) for package in bounds for version in bounds[package]]
    return list({case.name: case for case in [*together, *alone]}.values())


def available_versions(package: str) -> list[str]:
    """What pip can install here."""
    command = [sys.executable, "-m", "pip", "index", "versions", package, *_index(package)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (line,) = re.findall(r"^Available versions: (.+)$", shown, re.MULTILINE)
    return str(line).split(", ")


def _index(package: str) -> list[str]:
    index = os.environ.get("TORCH_INDEX", "").strip()
    return ["--index-url", index] if package == "torch" and index else []


def environment(case: Case, folder: Path) -> Path:
    """The Python of the case's environment, which is made where it is not there yet."""
    home = folder / case.name
    python, done = home / "bin" / "python", home / "made"
    if not done.is_file():
        venv.create(home, with_pip=True, clear=True, symlinks=True)
        purelib = home / Path(sysconfig.get_path("purelib")).relative_to(sys.prefix)
        below = sysconfig.get_path("purelib")
        (purelib / "below.pth").write_text(f"import site; site.addsitedir({below!r})\n", encoding="utf-8")
        for requirement in case.requirements:
            package = requirement.partition("==")[0]
            pip = [python, "-m", "pip", "install", "--quiet", *_index(package), requirement]
            subprocess.run(pip, check=True)
        done.touch()
    return python


def run(case: Case, folder: Path) -> Outcome:
    """Run the suite in the environment of a case."""
    began = time.monotonic()
    try:
        python = environment(case, folder)
    except subprocess.CalledProcessError:
        return Outcome(case, "cannot be installed", time.monotonic() - began)
    report = folder / f"{case.name}.xml"
    report.unlink(missing_ok=True)
    options = ["-q", "-p", "no:cacheprovider", "-m", "sweep", f"--junitxml={report}"]
    subprocess.run([python, "-m", "pytest", *options, SUITE], cwd=ROOT, check=False)
    return Outcome(case, described(report), time.monotonic() - began)


def described(report: Path) -> str:
    """How many tests of a JUnit report passed, and which did not."""
    if not report.is_file():
        return "did not start"
    tests = list(ElementTree.parse(report).iter("testcase"))
    failed = [each.attrib["name"] for each in tests if {child.tag for child in each} & {"failure", "error"}]
    num_skipped = sum(each.find("skipped") is not None for each in tests)
    if failed or len(tests) == num_skipped:
        return f"failed: {', '.join(failed) or 'no test ran'}"
    return f"{len(tests) - num_skipped} passed" + (f", {num_skipped} skipped" if num_skipped else "")


def table(outcomes: Sequence[Outcome]) -> str:
    """The results in Markdown."""
    lines = [
        f"| {each.case.name} | {', '.join(each.case.requirements)} | {each.result} | {each.seconds:.0f} s |"
        for each in outcomes
    ]
    return "\n".join(["| Case | Versions | Result | Time |", "| --- | --- | --- | --- |", *lines])


def main() -> int:
    """Run the cases and print the table; 1 where one failed."""
    parser = argparse.ArgumentParser(prog="make matrix", description=__doc__)
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "matrix", help="where the environments are")
    parser.add_argument("--only", default="", help="names of cases, separated by commas")
    options = parser.parse_args()
    is_linux = sys.platform == "linux"
    bounds = {
        name: ends(requirement, available_versions(name), cpu_only=is_linux and name == "torch")
        for name, requirement in ranges().items()
    }
    known = {case.name: case for case in cases(bounds)}
    names = [name for name in options.only.split(",") if name] or [*known]
    if unknown := [name for name in names if name not in known]:
        parser.error(f"there is no case {unknown[0]}: {', '.join(known)}")
    options.folder.mkdir(parents=True, exist_ok=True)
    outcomes = [run(known[name], options.folder.resolve()) for name in names]
    print(table(outcomes))
    return int(any("passed" not in outcome.result for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
