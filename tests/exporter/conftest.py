"""The exporter's tests trace every graph."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def shared_traces() -> None:
    """In place of the traces that all other tests share."""
