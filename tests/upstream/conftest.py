"""What the tests of upstream's usages share: checkpoints, an SDK, and a package that is compiled once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from upstream.world import Compiled, World

HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.xdist_group("upstream"))  # one process exports and compiles


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World.build(tmp_path_factory.mktemp("upstream"))


@pytest.fixture(scope="module")  # not longer: it has cores of a card
def compiled(world: World) -> Iterator[Compiled]:
    compiled = Compiled.build(world)
    yield compiled
    compiled.model.close()
