"""One lock per published folder: whoever builds, replaces, quarantines or removes the folder takes it.

The lock is the kernel's (flock): it is released when its holder ends, however that happens. Readers take no lock; what
they read is complete or absent.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from QEfficient.store.digests import is_sha256
from QEfficient.store.files import sibling, storage_errors

if TYPE_CHECKING:
    from filelock import BaseFileLock

logger = logging.getLogger(__name__)

REPORT_EVERY_S = 10.0


@contextmanager
def hold(folder: Path, what: str = "") -> Iterator[None]:
    """Hold the lock of ``folder``, waiting until its holder releases it.

    Args:
        folder: The published folder; it need not exist, its parent must.
        what: Describes the lock's purpose in the log.

    Raises:
        StorageError: The lock file cannot be created.
        RuntimeError: This thread holds the lock already.
    """
    lock = _lock(folder)
    _wait(lock, what or str(folder))
    try:
        yield
    finally:
        _tidy(folder)
        lock.release()


@contextmanager
def hold_if_free(folder: Path) -> Iterator[bool]:
    """Take the lock of ``folder`` if it is free; yields whether it was."""
    from filelock import Timeout

    lock = _lock(folder)
    try:
        with storage_errors(sibling(folder, "lock")):
            _create(lock.lock_file)
            lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        _tidy(folder)
        lock.release()


def _tidy(folder: Path) -> None:
    # Waiters notice a deleted lock file, but over NFS they may not: a store's entry, named by its key, keeps its lock.
    if not is_sha256(folder.name):
        with suppress(OSError):
            sibling(folder, "lock").unlink()


def _lock(folder: Path) -> BaseFileLock:
    from filelock import FileLock  # imports asyncio, which a process with store hits only never needs

    return FileLock(sibling(folder, "lock"))


def _create(path: str) -> None:
    """Create the lock's file: filelock takes one that it cannot create for one that somebody holds."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    os.close(os.open(path, flags, 0o644))


def _wait(lock: BaseFileLock, what: str) -> None:
    from filelock import Timeout

    started = time.monotonic()
    while True:
        try:
            with storage_errors(Path(lock.lock_file)):
                _create(lock.lock_file)
                lock.acquire(timeout=REPORT_EVERY_S)
            return
        except Timeout:
            waited = time.monotonic() - started
            logger.warning("Waiting for another process that is making %s (%.0f s so far)", what, waited)
