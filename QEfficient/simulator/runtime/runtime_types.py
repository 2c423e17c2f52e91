"""Value types of ``qaicrt``: statuses, buffers, properties."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, SupportsBytes

if TYPE_CHECKING:
    from typing_extensions import Buffer


class QStatus(IntEnum):
    """Status of a call."""

    QS_SUCCESS = 0
    QS_PERM = 1
    QS_AGAIN = 2
    QS_NOMEM = 3
    QS_BUSY = 4
    QS_NODEV = 5
    QS_INVAL = 6
    QS_NOSPC = 7
    QS_BADFD = 8
    QS_TIMEDOUT = 9
    QS_PROTOCOL = 10
    QS_UNSUPPORTED = 11
    QS_DATA_CRC_ERROR = 12
    QS_DEV_ERROR = 300
    QS_ERROR = 500


class QLogLevel(IntEnum):
    """How much is logged."""

    QL_DEBUG = 0
    QL_INFO = 1
    QL_WARN = 2
    QL_ERROR = 3


LOGGING_LEVELS = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR)
"""Python's, by :class:`QLogLevel`."""


class QIDList(list[int]):
    """Device ids."""


class QBuffer:
    """Bytes to or from the card."""

    def __init__(self, data: Buffer | SupportsBytes = b""):
        self._bytes = data if isinstance(data, bytes) else bytes(data)

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self._bytes)

    def __bytes__(self) -> bytes:
        return self._bytes

    def __buffer__(self, flags: int) -> memoryview:  # used since Python 3.12
        return memoryview(self._bytes)


class BufferDimensionsVecRef(list[tuple[int, Sequence[int]]]):
    """``(bytes of an element, dims)`` of each binding."""


class QAicProgramProperties:
    """How a program runs; ``devMapping`` ("0:1:2:3") names the devices of a multi-device program."""

    def __init__(self) -> None:
        self.dataPathTimeoutMs = 0
        self.devMapping = ""
        self.SubmitNumRetries = 5
        self.SubmitRetryTimeoutMs = 0
        self.selectMask = 0


class QAicQueueProperties:
    """How a queue works."""

    def __init__(self) -> None:
        self.numThreadsPerQueue = 4
