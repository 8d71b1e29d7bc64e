"""The current activity of this process, in words: a note in memory that a parent shares, and reads after a crash."""

import mmap
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

_note: mmap.mmap | None = None
_stack: list[str] = []
_beside: list[str] = []


def share(note: mmap.mmap) -> None:
    """Write the activity to `note` from now on."""
    global _note
    _note = note


def read(note: mmap.mmap) -> str:
    """The text that was written last, "" for none."""
    return note[:].split(b"\0", 1)[0].decode("utf-8", "replace")


def doing(what: str) -> AbstractContextManager[None]:
    """Note that the block does `what`, as a part of the activity around it. Without a shared note it costs nothing."""
    return _noted(_stack, what)


def beside(what: str) -> AbstractContextManager[None]:
    """Note that a thread does `what` while the block lasts, beside the activity of the main thread."""
    return _noted(_beside, what)


@contextmanager
def _noted(activities: list[str], what: str) -> Iterator[None]:
    if _note is None:
        yield
        return
    activities.append(what)
    _write()
    try:
        yield
    finally:
        activities.remove(what)
        _write()


def _write() -> None:
    assert _note is not None
    text = ", beside ".join(filter(None, [", ".join(_stack), *_beside])).encode("utf-8", "replace")[: len(_note) - 1]
    _note[: len(text) + 1] = text + b"\0"
