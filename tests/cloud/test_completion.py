"""Shells complete commands, flags and their values, as the documentation says how."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "openvino", "onnx", "numpy")
_MAIN = (
    "import sys\n"
    "from QEfficient.cloud.app import main\n"
    "try:\n"
    "    main()\n"
    "finally:\n"
    f"    assert not [name for name in {HEAVY} if name in sys.modules]\n"
)


def qefficient(**variables: str) -> list[str]:
    """What the command prints to a shell that asks it."""
    command = [sys.executable, "-c", _MAIN]
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=True).stdout.splitlines()


def completed(*words: str) -> list[tuple[str, str]]:
    """Kinds and values that are offered for the last of the words after ``qefficient``."""
    line = " ".join(["qefficient", *words])
    shown = qefficient(_QEFFICIENT_COMPLETE="bash_complete", COMP_WORDS=line, COMP_CWORD=str(len(words)))
    return [(kind, value) for kind, _, value in (item.partition(",") for item in shown)]


@pytest.mark.parametrize(
    ("shell", "registration"),
    [("bash", "complete -o"), ("zsh", "compdef _qefficient_completion qefficient"), ("fish", "complete --no-files")],
)
def test_a_script_for_each_shell(shell: str, registration: str) -> None:
    script = "\n".join(qefficient(_QEFFICIENT_COMPLETE=f"{shell}_source", PATH="/usr/bin:/bin"))
    assert registration in script
    assert f"_QEFFICIENT_COMPLETE={shell}_complete" in script


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["inf"], [("plain", "infer")]),
        (["cache", "pr"], [("plain", "prune")]),
        (["infer", "model", "--ctx-l"], [("plain", "--ctx-len")]),
        (["compile", "model", "--target", "cloud"], [("plain", "cloud-ai-100"), ("plain", "cloud-ai-100-sim")]),
        (["infer", "./my"], [("file", "./my")]),
        (["execute", "./my"], [("file", "./my")]),
        (["compile", "model", "--compile-dir", "./my"], [("dir", "./my")]),
    ],
)
def test_what_is_offered(words: list[str], offered: list[tuple[str, str]]) -> None:
    assert completed(*words) == offered


def test_bash_takes_the_script() -> None:
    script = "\n".join(qefficient(_QEFFICIENT_COMPLETE="bash_source", PATH="/usr/bin:/bin"))
    checked = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
