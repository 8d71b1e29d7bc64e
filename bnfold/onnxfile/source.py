"""Where bytes come from: a regular file that is opened once, mapped while somebody looks, and never loaded whole.

Mapped pages count towards a process's memory for as long as they stay mapped, so `release` hands them back; a file on
disk loses nothing by that. Bulk copies do not go through the map at all (see stream.py). A small file is read instead:
a map holds a descriptor of its own.
"""

import errno
import hashlib
import mmap
import os
import resource
import stat
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, NamedTuple, TypeAlias
from weakref import ReferenceType, ref

from bnfold.errors import ModelError
from bnfold.lifetime import closed_at_the_end


class Memory(NamedTuple):
    """A bytes object as a source."""

    data: bytes
    path: None = None

    @property
    def nbytes(self) -> int:
        """Its size."""
        return len(self.data)

    def view(self) -> memoryview:
        """All of it."""
        return memoryview(self.data)

    def release(self) -> None:
        """Nothing to give back: the caller's bytes stay."""


class File:
    """A regular file as it was when it was first opened: mapped on demand, and closed again when many others are open.

    `what` names its role in messages ("the model", "external data"). Raises ModelError from the constructor if `path`
    is not a regular file that can be read (a fifo or a device is never waited for), and from every method once the
    file has been changed or replaced.
    """

    MAX_OPEN = 64  # far below the usual limit of 1024: a model may have one data file per tensor
    MAX_SHARE = 4  # of a lower limit at most this part
    SMALL = 256 << 10  # bytes, up to which a file is read and not mapped
    _opened: ClassVar[OrderedDict[int, "ReferenceType[File]"]] = OrderedDict()
    _lock: ClassVar[threading.RLock] = threading.RLock()  # of all that is opened and closed

    def __init__(self, path: Path, *, what: str) -> None:
        self.path: Path = path
        self.what = what
        self._map: mmap.mmap | None = None
        self._content: bytes | None = None  # of a small file, in place of the map
        self._descriptor = -1
        self.users = 0  # how many threads read it at this moment
        self._identity: tuple[int, ...] | None = None
        self.status: os.stat_result
        closed_at_the_end(self)
        _ = self.descriptor
        self.nbytes = self.status.st_size

    def __del__(self) -> None:
        self._let_go()

    def close(self) -> None:
        """Give the descriptor and the map back; the file is opened again when needed.

        Raises BufferError where somebody still looks at the map, which then goes with the last who does.
        """
        with self._lock:
            mapped = self._map
            self._let_go()
        if mapped is not None:
            mapped.close()

    def _let_go(self) -> None:
        with self._lock:
            self._opened.pop(id(self), None)
            self._map = self._content = None
            if self._descriptor >= 0:
                descriptor, self._descriptor = self._descriptor, -1
                os.close(descriptor)

    @property
    def descriptor(self) -> int:
        """The file, open for reading: use it at once, it may be closed when other files are opened."""
        with self._lock:
            if self._descriptor < 0:
                self._open()
                self._opened[id(self)] = ref(self)
                self._close_others()
            else:
                self._opened.move_to_end(id(self))
            return self._descriptor

    def duplicate(self) -> int:
        """The file, open for reading for as long as the caller wants: close it."""
        with self._lock:
            return os.dup(self.descriptor)

    def _close_others(self, most: int | None = None) -> None:
        """Close those that were not used for the longest time, until few enough are open."""
        if most is None:
            soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
            most = self.MAX_OPEN if soft < 0 else min(self.MAX_OPEN, soft // self.MAX_SHARE)
        for key in list(self._opened):
            if len(self._opened) <= most:
                return
            other = self._opened[key]()
            if other is not None and (other is self or other.users):
                continue
            self._opened.pop(key, None)
            if other is not None:
                other._let_go()  # noqa: SLF001 - of the same class

    def _open(self) -> None:
        try:
            try:
                descriptor = self._new_descriptor()
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE):
                    raise
                self._close_others(0)
                descriptor = self._new_descriptor()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise ModelError(
                f"{self.path}: cannot read {self.what}: {reason}; is the path right, and all of the model there?"
            ) from error
        self._descriptor = descriptor
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            self._let_go()
            kind = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise ModelError(f"{self.path}: {self.what} is {kind}; pass a regular file")
        self.status = status
        self._check(status)

    def _new_descriptor(self) -> int:
        return os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)

    def _check(self, status: os.stat_result) -> None:
        identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        if self._identity is None:
            self._identity = identity
        elif identity != self._identity:
            raise ModelError(f"{self.path}: {self.what} changed while it was being read; run again when it is complete")

    def check_unchanged(self) -> None:
        """Raise ModelError if the file was written to since it was first opened."""
        with self._lock:
            status = os.fstat(self.descriptor)
        self._check(status)

    def is_same_file(self, status: os.stat_result) -> bool:
        """Whether `status` is of this very file (device and inode)."""
        return (status.st_dev, status.st_ino) == (self.status.st_dev, self.status.st_ino)

    def view(self) -> memoryview:
        """All of it, mapped."""
        with self._lock:
            descriptor = self.descriptor
            if self.nbytes <= self.SMALL:
                if self._content is None:
                    content = bytearray(self.nbytes)
                    self.read_into(memoryview(content), 0)
                    self._content = bytes(content)
                return memoryview(self._content)
            if self._map is None:
                with self._readable():
                    self._map = mmap.mmap(descriptor, self.nbytes, prot=mmap.PROT_READ, flags=mmap.MAP_SHARED)
            return memoryview(self._map)

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """Raise ModelError where the system cannot give the bytes, as of the files that it makes up itself (/sys)."""
        try:
            yield
        except OSError as error:
            raise ModelError(f"{self.path}: cannot read {self.what}: {error.strerror or error}") from error

    def read_into(self, memory: memoryview, offset: int) -> None:
        """Fill `memory` with the bytes from `offset` on. Any thread may."""
        with self._lock:
            descriptor = self.descriptor
            self.users += 1
        try:
            while len(memory):
                with self._readable():
                    count = os.preadv(descriptor, [memory], offset)
                if count == 0:
                    raise shrunk(self)
                memory = memory[count:]
                offset += count
        finally:
            with self._lock:
                self.users -= 1

    def release(self) -> None:
        """Drop the mapped pages from this process; they come back from the file when they are looked at again."""
        self._content = None
        mapped = self._map
        if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED)


Source: TypeAlias = File | Memory


def shrunk(origin: File) -> ModelError:
    """The error for a file that ends before it should."""
    return ModelError(
        f"{origin.path}: {origin.what} became shorter while it was being read; run again when it is complete"
    )


def sha256_of(path: Path) -> str:
    """The sha256 of a file. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
