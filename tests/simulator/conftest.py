"""One simulated SDK and one compiled decoder for all of these tests; no variable of the caller's reaches them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from simulator import graphs
from simulator.harness import DECODE, DECODER_FLAGS, PREFILL, compile_graph, state_io

from QEfficient.simulator.sdk import install


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("QEFF_SIM_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def sdk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("simulator") / "an sdk")


@pytest.fixture(scope="session")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ONNX file."""
    return graphs.decoder(tmp_path_factory.mktemp("simulator") / "decoder")


@pytest.fixture(scope="session")
def qpc(decoder: Path) -> Path:
    """Compiled for a prompt of 4 and for one token, float16 state."""
    folder = decoder.with_name("qpc")
    custom_io = state_io("float16")
    return compile_graph(decoder, folder, *DECODER_FLAGS, specializations=[PREFILL, DECODE], custom_io=custom_io)
