"""The type of a fixture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

Write = Callable[..., Path]
"""Writes a file of data."""
