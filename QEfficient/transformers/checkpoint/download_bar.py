"""The Hub client's progress, shown by ours: two displays on one terminal draw over each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tqdm.std import tqdm  # type: ignore[import-untyped]  # it has no types


def download_bar(report: Callable[[int, int], None]) -> type[Any]:
    """A bar for ``snapshot_download(tqdm_class=...)`` that draws nothing.

    Args:
        report: called with the bytes that are there and with all of them, as far as they are known.
    """

    class Bar(tqdm):
        """Counts; of several bars of bytes, the one that is ahead is reported."""

        def __init__(self, *args: Any, **kwargs: Any):
            super().__init__(*args, **{**kwargs, "disable": True})
            self.is_of_bytes = kwargs.get("unit") == "B"

        def update(self, n: float | None = 1) -> None:
            self.n += n or 0
            self.refresh()

        def refresh(self, *args: Any, **kwargs: Any) -> None:
            if self.is_of_bytes and self.n:
                report(int(self.n), int(max(self.total or 0, self.n)))

    return Bar
