"""Shared fixtures: every test session has a store of its own and never reaches the Hub."""

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from collected import CASE_COUNTS

if TYPE_CHECKING:
    from shared_traces import Traces

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # each worker has a core; torch's other threads wait busily


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Check that groups reach pytest-xdist; then let no garbage collection look at what is imported for good."""
    for item in session.items:
        if getattr(session.config.option, "loadgroup", False) and item.get_closest_marker("xdist_group"):
            assert "@" in item.nodeid, "pytest-xdist lost the groups: tests that share a fixture run on both workers"
    import transformers.exporters  # noqa: F401

    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    config.stash[CASE_COUNTS] = Counter(getattr(item, "originalname", item.name) for item in items)


@pytest.fixture(autouse=True, scope="session")
def qeff_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that all tests share, those of other workers too, so that equal things are made once."""
    base = tmp_path_factory.getbasetemp()
    home = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "qeff-home"
    home.mkdir(exist_ok=True)
    os.environ["QEFF_HOME"] = str(home)
    return home


@pytest.fixture(scope="session")
def traces() -> Traces:
    """What was traced in this worker."""
    from shared_traces import Traces

    return Traces()


@pytest.fixture(autouse=True)
def shared_traces(traces: Traces) -> Iterator[None]:
    """Trace a graph once in a worker; tests of tracing itself have a fixture of this name that does nothing."""
    with traces.shared():
        yield


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store for one test."""
    home = tmp_path / "home"
    monkeypatch.setenv("QEFF_HOME", str(home))
    return home
