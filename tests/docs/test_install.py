"""What the documented installation gives: a package that no folder shadows, types, and the right torch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*command: str | Path, cwd: Path) -> str:
    """What a command prints, outside of the clone."""
    words = [*map(str, command)]
    return subprocess.run(words, cwd=cwd, env=outside(), capture_output=True, text=True, check=True).stdout


def outside() -> dict[str, str]:
    """The environment of somebody who has installed the package."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def test_a_clone_beside_a_script_does_not_shadow_the_package(tmp_path: Path) -> None:
    (tmp_path / "QEfficient").mkdir()
    assert run(sys.executable, "-c", "from QEfficient import from_package; print(1)", cwd=tmp_path) == "1\n"


@pytest.mark.sweep
def test_type_checkers_see_the_types(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from QEfficient import QEFFAutoModelForCausalLM as C\n"
        "reveal_type(C.from_pretrained('x'))\n"
        "C.from_pretrained('x').compile(ctx_len='1024')\n"
        "C.from_pretrained('x').compile(prefil_seq_len=4)\n"
        "C.from_pretrained('x').compile(ctx_len=1024, target='cpu', comp_ctx_lengths_decode=[512, 1024])\n"
        "C.from_pretrained('x').generate('Hi', temprature=0.5)\n"
        "C.from_pretrained('x').generate('Hi', top_k='5')\n"
        "C.from_pretrained('x').generate(['Hi', 'Ho'], temperature=[0.5, None], eos_token_id=[[2], [2, 7]], seed=1)\n"
        "from QEfficient import QEFFAutoModel as E\n"
        "E.from_pretrained('x').encode('Hi', normalise=True)\n"
        "E.from_pretrained('x').encode('Hi', normalize_embeddings=True)\n"
        "from QEfficient import QEFFAutoModelForSpeechSeq2Seq as S\n"
        "S.from_pretrained('x').transcribe('a.wav', lang='de')\n"
        "S.from_pretrained('x').transcribe('a.wav', language='de', num_return_sequences=1)\n"
    )
    command = [sys.executable, "-m", "mypy", "--config-file=", "--follow-imports=silent", str(script)]
    shown = subprocess.run(command, cwd=tmp_path, env=outside(), capture_output=True, text=True, check=False).stdout
    assert 'Revealed type is "QEfficient.transformers.models.causal_lm.QEFFAutoModelForCausalLM"' in shown
    assert [line.split(":")[1] for line in shown.splitlines() if ": error:" in line] == ["3", "4", "6", "7", "10", "13"]


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
@pytest.mark.parametrize("index", ["", "https://example.org/cpu"])
def test_make_installs_torch_from_the_index_that_is_named(index: str) -> None:
    commands = run("make", "--dry-run", "--always-make", "install", f"TORCH_INDEX={index}", cwd=ROOT)
    (torch,) = (line for line in commands.splitlines() if line.endswith(" torch"))
    assert ("--index-url https://example.org/cpu" in torch) == bool(index)
