"""Marks on files that bnfold wrote: extended attributes, so that not one byte of the file tells of it.

A mark holds for the bytes it was made for: where the file was written to since, it counts no more. A file system
without extended attributes keeps no marks.
"""

import os
from contextlib import suppress
from pathlib import Path

OUTPUT = "user.bnfold.output"
"""On a data file: the name of the model that it was written for."""
SOURCE = "user.bnfold.source"
"""On a model: a hash of the path of the model that it was made from."""


def set_mark(path: Path, kind: str, value: bytes) -> None:
    """Mark a finished file, where that is possible."""
    if hasattr(os, "setxattr"):
        with suppress(OSError):
            os.setxattr(path, kind, value + _stamp(path))


def mark_of(path: Path, kind: str) -> bytes | None:
    """The mark of a file; None where it has none, or was written to since."""
    if not hasattr(os, "getxattr"):
        return None
    try:
        value = os.getxattr(path, kind, follow_symlinks=False)
        stamp = _stamp(path)
    except OSError:
        return None
    return value.removesuffix(stamp) if value.endswith(stamp) else None


def _stamp(path: Path) -> bytes:
    status = path.stat(follow_symlinks=False)
    return f"\n{status.st_size} {status.st_mtime_ns}".encode()
