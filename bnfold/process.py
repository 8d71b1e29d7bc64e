"""Settings of a whole process: bnfold changes them where it is the command; as a library it only sends nothing."""

import ctypes
import gc
import os

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_LARGE = 1 << 20
_LARGEST_REUSED = 32 << 20
"""glibc allows no more."""
_NEVER = (1 << 31) - 1
MOST_KEPT = 320 << 20
"""Bytes that a session may leave free for the next: as much as making one of a model of 100 MB frees."""
_owned = False
_libc = ctypes.CDLL(None)
_BETWEEN_COLLECTIONS = 100_000
"""Objects more than there were, before Python looks for cycles: what a command makes lives until its end anyway."""


def own() -> None:
    """Set up a process that is bnfold's own."""
    global _owned
    _owned = True
    gc.set_threshold(_BETWEEN_COLLECTIONS, 20, 20)
    # OpenBLAS's threads would spin for a while after they start, and on two cores take one from who works.
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")
    send_nothing()
    _mallopt(_M_ARENA_MAX, 1)  # what one thread has freed is there for another, as for the next session
    give_back_memory()


def owned() -> bool:
    """Whether `own` was called."""
    return _owned


def send_nothing() -> bool:
    """Switch the telemetry of onnxruntime off, unless `ORT_DISABLE_TELEMETRY` says something already.

    Returns whether it is off. Its wheels for Linux read the variable while they are imported, and otherwise write an
    identifier and a database below the home folder, and `.ses` into the folder for temporary files (since 1.29).
    """
    return os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1") != "0"


def give_back_memory() -> None:
    """Have freed blocks of 1 MiB and more go back to the system, where the C library is glibc.

    By default glibc keeps blocks below a threshold that grows with what was freed (mallopt(3), M_MMAP_THRESHOLD), so
    the weights of one session would still be there while the next is open.
    """
    _mallopt(_M_MMAP_THRESHOLD, _LARGE)


def reuse_memory() -> None:
    """Keep freed blocks of up to 32 MiB for what comes next, until `trim`, where the C library is glibc.

    Making a session copies each weight several times, and the next session does so again. Where each copy is memory
    that the system has to clear, that takes longer than the copying.
    """
    _mallopt(_M_MMAP_THRESHOLD, _LARGEST_REUSED)
    _mallopt(_M_TRIM_THRESHOLD, _NEVER)


def trim(most: int = 0) -> None:
    """Give back what is free, if that is more than `most` bytes, where the C library is glibc."""
    malloc_trim, mallinfo = getattr(_libc, "malloc_trim", None), getattr(_libc, "mallinfo2", None)
    if malloc_trim is None:
        return
    if mallinfo is not None:
        mallinfo.restype = _Heap
        if mallinfo().free <= most:
            return
    malloc_trim(0)


class _Heap(ctypes.Structure):
    """mallinfo(3): since glibc 2.33."""

    _fields_ = [(name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks")] + [
        (name, ctypes.c_size_t) for name in ("fsmblks", "uordblks", "free", "keepcost")
    ]


def _mallopt(parameter: int, value: int) -> None:
    mallopt = getattr(_libc, "mallopt", None)
    if mallopt is not None:
        mallopt(parameter, value)
