"""Upstream's users move over: each row of the table works, or the error names what does it here."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from upstream.usage import Usage
from upstream.usages import USAGES
from upstream.world import CommandLine, Compiled, World

from QEfficient.compile.cloud_ai_100 import simulated_sdk
from QEfficient.errors import QEffError

ROWS = [(group, usage) for group, usages in USAGES.items() for usage in usages]


@pytest.fixture
def names(
    world: World, compiled: Compiled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> dict[str, Any]:
    """The names of a row, in a process that is set up as upstream's users have it: an SDK, cards, no target."""
    group, usage = request.param
    compiles = group in ("compiling", "commands", "differences")
    is_recorded = compiles and "execute" not in usage.name and "compiled." not in usage.code
    sdk = world.root / "sdk" if is_recorded else simulated_sdk()
    monkeypatch.setenv("QEFF_QAIC_SDK", str(sdk))
    monkeypatch.setenv("QEFF_TARGET", "cloud-ai-100" if is_recorded else "cloud-ai-100-sim")
    monkeypatch.chdir(tmp_path)
    names = world.names(tmp_path, compiled)
    commands = CommandLine(names, monkeypatch)
    if is_recorded:
        monkeypatch.setattr("QEfficient.cloud.infer.answer", lambda *args: None)
    names |= {"run_module": commands.run_module, "graph": commands.graph}
    names |= {"setenv": lambda name, value: _set(monkeypatch, name, value)}
    names |= {"input_ids": torch.tensor([[5, 6, 7]])}
    names |= {"io_files": lambda: [*Path(os.environ["QEFF_HOME"]).glob("io/*/aic_batch_io.json")]}
    return names


def _set(monkeypatch: pytest.MonkeyPatch, name: str, value: str | None) -> None:
    if value is None:
        monkeypatch.delenv(name, raising=False)
    else:
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("names", "usage"),
    [pytest.param(row, row[1], id=f"{row[0]}: {row[1].name}") for row in ROWS],
    indirect=["names"],
)
def test_usage(names: dict[str, Any], usage: Usage, caplog: pytest.LogCaptureFixture) -> None:
    if usage.answer:
        with pytest.raises((QEffError, click.UsageError)) as raised:
            exec(usage.code, names)
        error = raised.value
        assert re.search(usage.answer, error.format_message() if isinstance(error, click.UsageError) else str(error))
        return
    exec(usage.code, names)
    exec(usage.check, names)
    if usage.says:
        assert re.search(usage.says, caplog.text), caplog.text


def test_rows_have_names_of_their_own() -> None:
    assert len(ROWS) >= 70
    assert len({usage.name for _, usage in ROWS}) == len(ROWS)
