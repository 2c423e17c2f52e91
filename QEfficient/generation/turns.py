"""Lets one of several threads work for all of them, while the others sleep."""

from __future__ import annotations

from queue import SimpleQueue
from threading import Lock
from typing import Any


class Turns:
    """One caller at a time has the turn. A caller is the queue on which it sleeps; None in it wakes the caller up.

    An interrupt may arrive between :meth:`take` and the ``try`` that follows, so callers end their turn again when they
    are done.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._holder: SimpleQueue[Any] | None = None
        self._sleeping: set[SimpleQueue[Any]] = set()

    @property
    def is_taken(self) -> bool:
        """Whether some caller has the turn."""
        return self._holder is not None

    def take(self, caller: SimpleQueue[Any]) -> bool:
        """Whether ``caller`` has the turn now. If not, its queue gets None when the turn ends."""
        with self._lock:
            if self._holder is None:
                self._holder = caller
            if self._holder is caller:
                return True
            self._sleeping.add(caller)
            return False

    def end(self, caller: SimpleQueue[Any]) -> None:
        """End the turn, if ``caller`` has it."""
        # A finaliser may call this while the same thread is inside the lock, which it must not take then.
        if self._holder is not caller:
            return
        with self._lock:
            self._holder = None
            # All, since a single one may be busy with its last outcome and not take the turn for long.
            for sleeper in self._sleeping:
                sleeper.put(None)
            self._sleeping.clear()
