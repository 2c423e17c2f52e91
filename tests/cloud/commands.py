"""What the tests of the command line share."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tiny_models

COMPILE = ("--ctx-len", "128", "--precision", "fp32")
"""What every test that needs a package compiles with, so that there is one."""


@dataclass(frozen=True)
class Result:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """stdout, which must be one JSON document and nothing else."""
        return json.loads(self.out)


Cli = Callable[..., Result]


def run_python(*command: str | Path, stdin: str = "") -> Result:
    """Runs ``python`` with these arguments in a process of its own."""
    found = subprocess.run(
        [sys.executable, *map(str, command)], input=stdin, capture_output=True, text=True, timeout=300, check=False
    )
    return Result(found.returncode, found.stdout, found.stderr)


def imported(modules: tuple[str, ...], *args: str | Path) -> tuple[Result, list[str]]:
    """Runs ``qefficient`` in a process of its own; also, which of these modules it imported."""
    code = (
        "import sys, atexit\n"
        "def tell():\n"
        f"    print(*(name for name in {modules} if name in sys.modules), file=sys.stderr)\n"
        "atexit.register(tell)\n"
        "from QEfficient.cloud.app import app, run\n"
        "run(app, sys.argv[1:], 'qefficient')"
    )
    result = run_python("-c", code, *args)
    return result, result.err.splitlines()[-1].split()


def save(model: Any, folder: Path) -> Path:
    """Write a checkpoint with a tokenizer and a chat template."""
    tiny_models.save(model, folder)
    tiny_models.tiny_tokenizer().save_pretrained(folder)
    return folder
