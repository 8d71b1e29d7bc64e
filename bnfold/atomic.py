"""A file that appears whole or not at all: made under a hidden name beside its place, and moved there when it is done.

Models, their data and reports are all written so.
"""

import errno
import hashlib
import os
import stat
from contextlib import suppress
from pathlib import Path

SUFFIX = ".bnfold"
"""The end of every hidden name."""

_MOST_LINKS = 40


def place_of(path: str | os.PathLike[str]) -> Path:
    """The file that a write to `path` makes or replaces, links followed: absolute, in a directory that is there.

    A directory of `path` that does not exist raises FileNotFoundError, as opening the file would. `os.path.realpath`
    takes `missing/../name` for `name`, so that nobody who asks the system whether two paths are one file would know.
    """
    place = Path(path)
    for _ in range(_MOST_LINKS):
        place = Path(os.path.realpath(place.parent, strict=True)) / place.name
        if not place.is_symlink():
            return place
        place = place.parent / place.readlink()
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fspath(path))


def hidden_name(name: str, tail: str) -> str:
    """`.name.tail.bnfold`, with a hash for a name so long that the result would not be allowed (255 bytes)."""
    if len(os.fsencode(name)) > 200:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return f".{name}.{tail}{SUFFIX}"


def create(path: Path, old: os.stat_result | None) -> int:
    """Make a new file and open it for reading and writing; the descriptor. Raises OSError.

    It has the permissions, and where that is allowed the owner, of `old`, the file that it will replace; where there is
    none, those of any new file.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    if old is not None:
        try:
            give_permissions(descriptor, old)
        except BaseException:
            os.close(descriptor)
            raise
    return descriptor


def give_permissions(descriptor: int, old: os.stat_result) -> None:
    """Give an open file the permissions, and where that is allowed the owner, of `old`. Raises OSError."""
    with suppress(OSError):  # only root may give files away
        os.fchown(descriptor, old.st_uid, old.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(old.st_mode))


def sync(path: Path) -> None:
    """Make a file or a directory durable. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
