"""What a process was making when it was killed: noted and locked while it is made, removed by the next process.

Each note is in ``unfinished/`` of :func:`home`. The kernel releases its lock when its maker ends, however that happens,
so that a free lock says that nobody will finish the work.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from QEfficient.store.files import (
    SHORT_LIVED,
    UNFINISHED,
    existing_temporary_home,
    home,
    make_private,
    remove,
    sibling,
    storage_errors,
    temporary_home,
)
from QEfficient.store.locks import hold, hold_if_free

logger = logging.getLogger(__name__)

_LOCK = re.compile(r"\.([0-9a-f]{12})\.lock")
_SHORT_LIFE_S = 60


@contextmanager
def noted(folder: Path) -> Iterator[None]:
    """Note that something is being made beside ``folder``, named as :func:`QEfficient.store.files.new_sibling` does.

    Where no note can be written, only whoever makes ``folder`` next cleans up.
    """
    with ExitStack() as noting:
        with suppress(OSError):
            note = _new_note()
            noting.enter_context(hold(note))
            noting.callback(note.unlink, missing_ok=True)
            note.write_bytes(os.fsencode(folder))
        yield


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A new empty folder, removed at the end, or by the next process where this one is killed.

    Raises:
        StorageError: neither :func:`home` nor the system's temporary folder can be written.
    """
    folder = _new_note()
    with hold(folder):
        try:
            with storage_errors(folder):
                folder.mkdir(mode=0o700)
            with storage_errors(folder, only_under=folder):
                yield folder
        finally:
            remove(folder)


def _new_note() -> Path:
    """An unused path in the folder of notes, which is created."""
    place = home() / UNFINISHED
    try:
        make_private(place)
        if not os.access(place, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
            raise PermissionError
    except OSError:
        place = temporary_home() / UNFINISHED
        with storage_errors(place):
            make_private(place)
    return place / secrets.token_hex(6)


def sweep(recover: Callable[[Path], None]) -> None:
    """Remove what killed processes left. Nothing is waited for, and what cannot be removed stays.

    Args:
        recover: removes what is left beside a folder; for the holder of its lock.
    """
    for home_folder in (home(), existing_temporary_home()):
        if home_folder is None:
            continue
        for name in _names(home_folder / UNFINISHED):
            with suppress(OSError):
                if match := _LOCK.fullmatch(name):
                    _clean(home_folder / UNFINISHED / match[1], recover)
                elif name.endswith(SHORT_LIVED):
                    _remove_old(home_folder / UNFINISHED / name)


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _remove_old(path: Path) -> None:
    if time.time() - path.lstat().st_mtime > _SHORT_LIFE_S:
        path.unlink(missing_ok=True)


def _clean(note: Path, recover: Callable[[Path], None]) -> None:
    with hold_if_free(note) as is_dead:
        if not is_dead:
            return
        if note.is_file():
            with suppress(OSError, ValueError):  # the folder is gone, not ours any more, or no path
                _clean_beside(Path(os.fsdecode(note.read_bytes())), recover)
        logger.debug("Removing what a killed process left: %s", note)
        remove(note)
        sibling(note, "lock").unlink(missing_ok=True)


def _clean_beside(folder: Path, recover: Callable[[Path], None]) -> None:
    """A lock that is taken belongs to another process that is making ``folder``, and recovers it first."""
    if not folder.parent.is_dir():
        return
    with hold_if_free(folder) as is_free:
        if is_free:
            recover(folder)
