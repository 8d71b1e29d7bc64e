"""The spending of a verification, counted where it happens, and the threads that its sessions may use."""

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

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
    """Count something, inside a block of `spending`."""
    counter = _counter.get()
    if counter is not None:
        counter[what] += count


def estimate(session: float, run: float) -> None:
    """Count the work of what was counted so far, where a session and a run are estimated to be so much of it."""
    counter = _counter.get()
    if counter is not None:
        counter["million products"] = round((session * counter["sessions"] + run * counter["runs"]) / 1e6)


def threads() -> int:
    """The number of threads that a session may use; 0 where none was asked for."""
    return _threads.get()


@contextmanager
def few_threads(limit: int) -> Iterator[None]:
    """Give each session of this block so many threads, where nobody said how many; 0: as the runtime sees fit."""
    token = _threads.set(_threads.get() or limit)
    try:
        yield
    finally:
        _threads.reset(token)


@dataclass
class Purse:
    """The work that feeds beside the first may take, and what one feed takes that is as large as the first."""

    left: float = math.inf
    price: float = 0.0

    def affords(self, size: float) -> bool:
        """Whether a feed so many times as large as the first can be paid."""
        return self.price * size <= self.left

    def pay(self, size: float) -> None:
        """Pay it."""
        self.left -= self.price * size
