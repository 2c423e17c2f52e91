"""What ``os.fork`` leaves out: threads of native libraries. A child works without them, or says that it cannot."""

from __future__ import annotations

import ctypes
import os
from typing import Protocol
from weakref import WeakSet

_FIRST_PID = os.getpid()


def is_forked() -> bool:
    """Whether this process was forked since this module was imported: thread pools from before are without threads."""
    return os.getpid() != _FIRST_PID


class NativeOwner(Protocol):
    """Has objects of a native library, whose destructors wait for its threads."""

    def natives(self) -> list[object]:
        """The objects that it has now."""
        ...


_OWNERS: WeakSet[NativeOwner] = WeakSet()


def leave_to_parent(owner: NativeOwner) -> None:
    """In children that are forked from now on, never destroy what ``owner`` has: that would wait for ever."""
    _OWNERS.add(owner)


def _keep() -> None:
    for owner in list(_OWNERS):
        for native in owner.natives():
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(native))


os.register_at_fork(after_in_child=_keep)
