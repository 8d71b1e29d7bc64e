"""The lock of one output, and the removal of what a process left that was killed while it held it.

A file beside the output is locked (flock) while the output is being written; a second bnfold is refused. It also lists
every file about to be made, so that the next bnfold on this output can remove what a killed one left. It is removed
when the output is published or given up.
"""

import fcntl
import json
import os
from contextlib import suppress
from pathlib import Path

from bnfold.atomic import SUFFIX, hidden_name
from bnfold.errors import OutputError

_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
Identity = tuple[int, int]  # device and inode


def identity(status: os.stat_result) -> Identity:
    """The identity of a file, which differs from that of another file of the same name."""
    return status.st_dev, status.st_ino


class OutputLock:
    """The lock of one output, held from `acquire` to `release`.

    A signal may interrupt each of them anywhere, between a system call and the note of its result too; `release` tidies
    up after both, however often it is called.
    """

    def __init__(self, target: Path) -> None:
        self._folder = target.parent
        self._path = self._folder / hidden_name(target.name, "lock")
        self._target = target
        self._descriptor = -1
        self._ours = True  # false where another process holds the lock

    def acquire(self) -> None:
        """Take the lock. Raises OutputError if another process has it, OSError if it cannot be made."""
        while True:
            self._descriptor = os.open(self._path, _FLAGS | os.O_CREAT, 0o600)
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                self._ours = False
                raise OutputError(
                    f"{self._target}: is being written by another bnfold; wait for it, or choose another output"
                ) from error
            except OSError:
                return  # a file system without locks: the output is still published in one step
            with suppress(FileNotFoundError):
                if identity(self._path.stat()) == identity(os.fstat(self._descriptor)):
                    return
            self._close()  # its last holder removed the file just now

    def announce(self, path: Path, made: Identity | None = None) -> None:
        """Say that `path` is about to be made: a hidden file, or (with `made`) another name of the file `made`."""
        entry = json.dumps([os.path.relpath(path, self._folder), made])
        os.write(self._descriptor, entry.encode("utf-8", "surrogateescape") + b"\n")

    def leftovers(self) -> list[Path]:
        """The files that a killed process announced and left. Only names that it could have made are believed."""
        status = os.fstat(self._descriptor)
        if status.st_uid != os.geteuid():
            return []
        text = os.pread(self._descriptor, status.st_size, 0).decode("utf-8", "surrogateescape")
        found = []
        for line in text.splitlines():
            with suppress(ValueError, TypeError, OSError):
                name, made = json.loads(line)
                path = self._folder / name
                inside = Path(os.path.realpath(path.parent)).is_relative_to(self._folder)
                ours = path.name.startswith(".") and path.name.endswith(SUFFIX)
                if inside and path != self._path and (ours if made is None else identity(path.lstat()) == tuple(made)):
                    found.append(path)
        return found

    def forget(self) -> None:
        """Everything that was announced is gone or published."""
        with suppress(OSError):
            os.ftruncate(self._descriptor, 0)

    def release(self) -> None:
        """Let others write the output. The file stays where it lists what is still to be removed by the next one."""
        if self._ours:
            with suppress(OSError):
                if self._descriptor < 0:  # made, and interrupted before anybody knew
                    self._descriptor = os.open(self._path, _FLAGS)
                    fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(self._descriptor).st_size == 0:
                    self._path.unlink()
            self._ours = False
        self._close()

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
