"""The current activity of this process, in words: a note in memory that a parent shares, and reads after a crash."""

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_note: mmap.mmap | None = None
_threads: list[list[str]] = [[]]
"""The activities of threads, those of the main thread first."""
_own: ContextVar[list[str]] = ContextVar("activities", default=_threads[0])


def share(note: mmap.mmap) -> None:
    """Write the activity to `note` from now on."""
    global _note
    _note = note


def read(note: mmap.mmap) -> str:
    """The text that was written last, "" for none."""
    return note[:].split(b"\0", 1)[0].decode("utf-8", "replace")


@contextmanager
def doing(what: str) -> Iterator[None]:
    """Note that the block does `what`, as a part of the activity around it. Without a shared note it costs nothing."""
    if _note is None:
        yield
        return
    activities = _own.get()
    activities.append(what)
    _write()
    try:
        yield
    finally:
        activities.remove(what)
        _write()


@contextmanager
def beside() -> Iterator[None]:
    """Note what the block does beside the activity of the main thread: it is all that another thread does."""
    activities: list[str] = []
    _threads.append(activities)
    token = _own.set(activities)
    try:
        yield
    finally:
        _own.reset(token)
        _threads[:] = [each for each in _threads if each is not activities]


def _write() -> None:
    assert _note is not None
    told = ", beside ".join(filter(None, map(", ".join, _threads)))
    text = told.encode("utf-8", "replace")[: len(_note) - 1]
    _note[: len(text) + 1] = text + b"\0"
