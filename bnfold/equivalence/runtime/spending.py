"""What a verification spends, counted where it is spent, and how many threads its sessions may use."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_counter: ContextVar[Counter[str] | None] = ContextVar("spending", default=None)
_threads: ContextVar[int] = ContextVar("threads", default=0)


@contextmanager
def spending(threads: int = 0) -> Iterator[Counter[str]]:
    """Count what is spent in this block, in which each session has so many threads; 0: as the runtime sees fit."""
    counter: Counter[str] = Counter()
    counting, limit = _counter.set(counter), _threads.set(threads)
    try:
        yield counter
    finally:
        _counter.reset(counting)
        _threads.reset(limit)


def spent(what: str, count: int = 1) -> None:
    """Count something, where anybody asked."""
    counter = _counter.get()
    if counter is not None:
        counter[what] += count


def threads() -> int:
    """How many threads a session may use; 0 where nobody said."""
    return _threads.get()
