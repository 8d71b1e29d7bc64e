"""Asking the system to begin moving written bytes to the disk, so that a later fsync waits for few of them.

A hint: it makes nothing durable, and where it is not possible nothing is lost but time. sync_file_range(2) is Linux's
own; Python has no name for it.
"""

import ctypes
from functools import cache
from typing import Any

SYNC_FILE_RANGE_WRITE = 2  # <linux/fs.h>: start the writing of dirty pages that are not being written yet


def start_writeback(descriptor: int, offset: int, nbytes: int) -> None:
    """Begin writing a range of an open file to its disk, without waiting for it."""
    function = _sync_file_range()
    if function is not None:
        function(descriptor, offset, nbytes, SYNC_FILE_RANGE_WRITE)


@cache
def _sync_file_range() -> Any:
    function = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if function is not None:
        function.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
        function.restype = ctypes.c_int
    return function
