"""The page for upstream's users says what the tests of its usages show."""

from __future__ import annotations

from upstream.page import PAGE, written
from upstream.usages import USAGES


def test_the_page_has_the_tables_of_the_usages() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == written(page), "run python -m upstream.page"
    assert not [group for group in USAGES if group != "names" and f"<!-- table: {group} -->" not in page]
