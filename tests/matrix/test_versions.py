"""Which versions ``make matrix`` runs, and what the CI runs."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from matrix import versions
from matrix.versions import Case, Outcome, cases, described, ends, ranges, table
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"


def test_ends_of_a_range() -> None:
    available = ["2.1.0", "1.9.2", "1.9.10", "1.8.0", "2.2.0rc1"]
    assert ends(Requirement("x>=1.9"), available, cpu_only=False) == ("1.9.2", "2.1.0")
    assert ends(Requirement("x>=1.9,<2"), available, cpu_only=False) == ("1.9.2", "1.9.10")
    with pytest.raises(LookupError, match=r"no version of x>=3: 2\.1\.0"):
        ends(Requirement("x>=3"), available, cpu_only=False)


def test_builds_for_the_processor_alone() -> None:
    available = ["2.15.0", "2.14.0+cpu", "2.13.0+cpu", "2.13.0", "2.12.0+cpu", "2.14.0+cu130"]
    assert ends(Requirement("torch>=2.13"), available, cpu_only=True) == ("2.13.0+cpu", "2.14.0+cpu")


def test_cases_are_all_together_and_each_alone() -> None:
    made = {case.name: case.requirements for case in cases({"a": ("1", "2"), "b": ("3", "3")})}
    assert made == {
        "oldest": ["a==1", "b==3"],
        "newest": ["a==2", "b==3"],
        "a-1": ["a==1"],
        "a-2": ["a==2"],
        "b-3": ["b==3"],
    }


def test_ranges_are_those_of_the_project() -> None:
    assert set(ranges()) == set(versions.PACKAGES)
    assert all(requirement.specifier for requirement in ranges().values())


def test_the_constraints_are_in_the_ranges() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line)
    for name, requirement in ranges().items():
        assert requirement.specifier.contains(pins[name]), name


@pytest.mark.parametrize(
    ("cases_xml", "expected"),
    [
        ('<testcase name="a"/><testcase name="b"><system-out/></testcase>', "2 passed"),
        ('<testcase name="a"/><testcase name="b"><skipped/></testcase>', "1 passed, 1 skipped"),
        ('<testcase name="a"/><testcase name="b"><failure/></testcase>', "failed: b"),
        ('<testcase name="a"><error/></testcase>', "failed: a"),
        ("", "failed: no test ran"),
    ],
)
def test_what_is_said_of_a_report(tmp_path: Path, cases_xml: str, expected: str) -> None:
    report = tmp_path / "report.xml"
    assert described(report) == "did not start"
    report.write_text(f"<testsuites><testsuite>{cases_xml}</testsuite></testsuites>")
    assert described(report) == expected


def test_a_case_that_cannot_be_installed_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(case: Case, folder: Path) -> Path:
        raise subprocess.CalledProcessError(1, "pip")

    monkeypatch.setattr(versions, "environment", fail)
    outcome = versions.run(Case("x-1", {"x": "1"}), tmp_path)
    assert outcome.result == "cannot be installed"
    assert table([Outcome(outcome.case, "2 passed", 12.4)]).splitlines()[-1] == "| x-1 | x==1 | 2 passed | 12 s |"


def test_the_ci_runs_targets_of_the_makefile() -> None:
    workflow = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    run = set()
    for job in workflow["jobs"].values():
        matrix = job.get("strategy", {}).get("matrix", {})
        commands = [step["run"] for step in job["steps"] if "run" in step]
        assert commands
        for command in commands:
            words = command.replace("${{ matrix.command }}", " ".join(matrix.get("command", ()))).split()
            assert words[0] == "make", command
            run |= {word for word in words[1:] if "=" not in word}
    assert run <= set(targets)
    assert {"check", "test", "sweep", "matrix"} <= run


def test_the_ci_has_the_oldest_python_that_is_allowed() -> None:
    workflow = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))
    (oldest, *_) = workflow["jobs"]["test"]["strategy"]["matrix"]["python"]
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'requires-python = ">={oldest}"' in pyproject
    steps = [
        step for job in workflow["jobs"].values() for step in job["steps"] if "setup-python" in step.get("uses", "")
    ]
    assert len(steps) == len(workflow["jobs"])
    for step in steps:
        assert step["with"]["cache"] == "pip"
        for name in step["with"]["cache-dependency-path"].split():
            assert (ROOT / name).is_file()
