"""What a test run collected, for the test that none of them was lost."""

from __future__ import annotations

from collections import Counter

import pytest

CASE_COUNTS = pytest.StashKey[Counter[str]]()
"""Test functions by name, wherever they are -> their number of cases, also of those that a run leaves out."""
