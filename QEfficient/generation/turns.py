"""Which of several threads works for all of them, and how the others sleep meanwhile."""

from __future__ import annotations

from queue import SimpleQueue
from threading import Lock
from typing import Any


class Turns:
    """One caller at a time has the turn. A caller is the queue on which it sleeps; None in it wakes the caller up.

    An interrupt may hit between :meth:`take` and the ``try`` that follows: callers end their turn once more where they
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
        """Give the turn back, if ``caller`` has it."""
        # Its finaliser may come here while this thread is inside of the lock, which it must then not take.
        if self._holder is not caller:
            return
        with self._lock:
            self._holder = None
            # All, since one alone could be busy with what it got meanwhile, and not take the turn for long.
            for sleeper in self._sleeping:
                sleeper.put(None)
            self._sleeping.clear()
