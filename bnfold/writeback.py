"""Asking the system to begin moving written bytes to the disk, so that a later fsync waits for few of them.

A hint: it makes nothing durable, and where it is not possible nothing is lost but time. sync_file_range(2) is Linux's
own; Python has no name for it.
"""

import ctypes
from functools import cache
from typing import Any

WRITEBACK_STEP = 8 << 20  # bytes that are worth a call
SYNC_FILE_RANGE_WRITE = 2  # <linux/fs.h>: start the writing of dirty pages that are not being written yet


def start_writeback(descriptor: int, offset: int, nbytes: int) -> None:
    """Begin writing a range of an open file to its disk, without waiting for it."""
    function = _sync_file_range()
    if function is not None:
        function(descriptor, offset, nbytes, SYNC_FILE_RANGE_WRITE)


class Writeback:
    """An open file that is written from its beginning to its end and moves to its disk meanwhile."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._started = 0

    def advance(self, nbytes: int) -> None:
        """The first `nbytes` bytes are there."""
        if nbytes - self._started >= WRITEBACK_STEP:
            start_writeback(self._descriptor, self._started, nbytes - self._started)
            self._started = nbytes


@cache
def _sync_file_range() -> Any:
    function = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if function is not None:
        function.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
        function.restype = ctypes.c_int
    return function
