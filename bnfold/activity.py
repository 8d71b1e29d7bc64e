"""What this process is doing, in words, for whoever has to tell why it ended: a note in memory that a parent shares."""

import mmap
from collections.abc import Iterator
from contextlib import contextmanager

_note: mmap.mmap | None = None
_stack: list[str] = []


def share(note: mmap.mmap) -> None:
    """Write what is being done to `note` from now on."""
    global _note
    _note = note


def read(note: mmap.mmap) -> str:
    """What was written last, "" for nothing."""
    return note[:].split(b"\0", 1)[0].decode("utf-8", "replace")


@contextmanager
def doing(what: str) -> Iterator[None]:
    """Say that the block does `what`, a part of whatever is being done around it. Costs nothing where nobody asks."""
    if _note is None:
        yield
        return
    _stack.append(what)
    _write()
    try:
        yield
    finally:
        _stack.pop()
        _write()


def _write() -> None:
    assert _note is not None
    text = ", ".join(_stack).encode("utf-8", "replace")[: len(_note) - 1]
    _note[: len(text) + 1] = text + b"\0"
