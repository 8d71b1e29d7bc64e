"""Writing, second half: bytes and payloads into a file, as fast as the system can copy.

Ranges of files are moved by copy_file_range, else sendfile, else read and write: they do not pass through this process
unless they must. The sha256 of what was written is computed by a thread that follows behind in the page cache.
"""

import errno
import os
from collections.abc import Callable

from bnfold.errors import ModelError
from bnfold.onnxfile.payload import Payload, Span
from bnfold.onnxfile.source import File, RunningHash

BUFFER = 1 << 20  # small pieces are collected up to this size, in bytes
COPY_FROM = 64 << 10  # ranges from this size are worth a system call of their own
COPY_STEP = 32 << 20  # one system call copies so much, so that Ctrl-C is heard in between
RELEASE_EVERY = 8 << 20  # after so many bytes that were looked at, the mapped input is handed back

# What a system says when it cannot copy between these two files in this way; anything else is a real failure.
NOT_THIS_WAY = frozenset(
    {errno.ENOSYS, errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EPERM, errno.EBADF, errno.ETXTBSY}
)


class Writer:
    """Appends to a new file that is open for reading and writing. Raises OSError as the system calls do.

    With `hashed`, a thread computes the sha256. `release` is called now and then while payloads are computed, to hand
    back the mapped pages of their inputs. `told` is called with the number of bytes whenever some were written.
    """

    def __init__(
        self, descriptor: int, release: Callable[[], None], *, hashed: bool, told: Callable[[int], None] | None = None
    ) -> None:
        self._descriptor = descriptor
        self._release = release
        self._told = told
        self._looked_at = 0
        self._buffer = bytearray()
        self._written = 0
        self._hash = RunningHash(descriptor) if hashed else None
        self._copiers = [copy for name, copy in COPIERS.items() if hasattr(os, name)]

    @property
    def nbytes(self) -> int:
        """How many bytes were appended so far."""
        return self._written + len(self._buffer)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append bytes."""
        if len(self._buffer) + len(data) > BUFFER:
            self._flush()
        if len(data) <= BUFFER:
            self._buffer += data
        else:
            self._write_through(memoryview(data).cast("B"))

    def pad(self, alignment: int) -> None:
        """Append zero bytes until the size is a multiple of `alignment`."""
        self.write(bytes(-self.nbytes % alignment))

    def append(self, payload: Payload) -> None:
        """Append all bytes of a payload."""
        if isinstance(payload, Span) and isinstance(payload.origin, File):
            self._append_range(payload.origin, payload.offset, payload.nbytes)
            return
        before = self.nbytes
        for chunk in payload.chunks():
            self.write(memoryview(chunk).cast("B"))
            self._looked_at += len(chunk)
            if self._looked_at >= RELEASE_EVERY:
                self._looked_at = 0
                self._release()
        if self.nbytes - before != payload.nbytes:
            raise AssertionError(f"a payload of {payload.nbytes} bytes yielded {self.nbytes - before}")

    def finish(self) -> str:
        """Hand everything to the system and return the sha256 of the file; "" if it is not `hashed`."""
        self._flush()
        return "" if self._hash is None else self._hash.hexdigest()

    def abandon(self) -> None:
        """Stop the thread, whether the file is complete or not wanted any more."""
        if self._hash is not None:
            self._hash.stop()

    def _flush(self) -> None:
        if self._buffer:
            full, self._buffer = self._buffer, bytearray()
            self._write_through(memoryview(full))

    def _write_through(self, view: memoryview) -> None:
        while len(view):
            count = os.write(self._descriptor, view[:COPY_STEP])
            view = view[count:]
            self._advance(count)

    def _advance(self, count: int) -> None:
        self._written += count
        if self._hash is not None:
            self._hash.advance(self._written)
        if self._told is not None:
            self._told(count)

    def _append_range(self, origin: File, offset: int, nbytes: int) -> None:
        if nbytes >= COPY_FROM:
            self._flush()
            self._copy(origin, offset, nbytes)
            return
        data = os.pread(origin.descriptor, nbytes, offset)  # a look through the map would map a page for each
        if len(data) != nbytes:
            raise shrunk(origin)
        self.write(data)

    def _copy(self, origin: File, offset: int, nbytes: int) -> None:
        while nbytes:
            count = self._copy_some(origin, offset, min(nbytes, COPY_STEP))
            if count == 0:
                raise shrunk(origin)
            offset += count
            nbytes -= count
            self._advance(count)

    def _copy_some(self, origin: File, offset: int, nbytes: int) -> int:
        while self._copiers:
            try:
                if count := self._copiers[0](self._descriptor, origin.descriptor, offset, nbytes):
                    return count
            except OSError as error:
                if error.errno not in NOT_THIS_WAY:
                    raise
            del self._copiers[0]
        data = os.pread(origin.descriptor, min(nbytes, BUFFER), offset)
        return os.write(self._descriptor, data) if data else 0


def shrunk(origin: File) -> ModelError:
    """The error for a file that ends before it should."""
    return ModelError(
        f"{origin.path}: {origin.what} became shorter while it was being read; run again when it is complete"
    )


def _copy_file_range(target: int, origin: int, offset: int, nbytes: int) -> int:
    return os.copy_file_range(origin, target, nbytes, offset_src=offset)


def _sendfile(target: int, origin: int, offset: int, nbytes: int) -> int:
    return os.sendfile(target, origin, offset, nbytes)


COPIERS: dict[str, Callable[[int, int, int, int], int]] = {
    "copy_file_range": _copy_file_range,
    "sendfile": _sendfile,
}
