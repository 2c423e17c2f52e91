"""Nothing that is imported here reports home, unless it is asked to."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_models

RUN = """
import os, socket, sys
log = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT)  # a process may be forked to send
def refuse(self, address): os.write(log, f"{address}\\n".encode()); raise OSError("blocked by a test")
def resolve(host, *rest, **options): os.write(log, f"{host}\\n".encode()); raise OSError("blocked by a test")
socket.socket.connect, socket.getaddrinfo = refuse, resolve
from QEfficient import QEFFAutoModelForCausalLM
model = QEFFAutoModelForCausalLM.from_pretrained(sys.argv[1])
model.compile(target="cpu", weight_format="int8", ctx_len=64)
model.generate([[5, 6, 7]], generation_len=2)
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("telemetry")
    tiny_models.save(tiny_models.causal_lm("llama"), folder)
    return folder


def attempts(checkpoint: Path, home: Path, **environment: str) -> int:
    """Connections that compiling and running tries to make, in a home of its own and in no continuous integration."""
    kept = {name: value for name, value in os.environ.items() if name != "CI" and not name.startswith(("NNCF", "QEFF"))}
    told = {**kept, "HOME": str(home), "QEFF_HOME": str(home / "qeff"), **environment}
    log = home / "attempts"
    subprocess.run(
        [sys.executable, "-c", RUN, str(checkpoint), str(log)], env=told, stderr=subprocess.DEVNULL, check=True
    )
    return len(log.read_text().splitlines())


def test_compiling_and_running_reports_nothing(checkpoint: Path, tmp_path: Path) -> None:
    assert attempts(checkpoint, tmp_path) == 0
    assert not (tmp_path / "intel").exists()


@pytest.mark.sweep  # proves that the test before it can fail
def test_telemetry_can_be_asked_for(checkpoint: Path, tmp_path: Path) -> None:
    assert attempts(checkpoint, tmp_path, QEFF_TELEMETRY="1") > 0
