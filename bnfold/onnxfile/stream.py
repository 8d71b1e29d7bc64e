"""Writing, second half: bytes and payloads into a file, as fast as the system can copy.

Ranges of files are moved by copy_file_range, else sendfile, else read and write: they do not pass through this process
unless they must. What is computed is written by a thread while the next is being computed, and its way to the disk
begins at once, so that the fsync before publishing has little left to wait for. The sha256 of what was written is
computed by a thread that follows behind in the page cache.
"""

import errno
import os
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import TypeAlias

from bnfold.onnxfile.payload import Payload, Span
from bnfold.onnxfile.source import File, RunningHash, shrunk
from bnfold.onnxfile.writeback import start_writeback

BUFFER = 1 << 20  # pieces are collected up to this size, in bytes
COPY_FROM = 64 << 10  # ranges from this size are worth a system call of their own
THREAD_FROM = 8 << 20  # a file of this size is worth a thread
PIECES_AHEAD = 4  # how many pieces wait for that thread at most
WRITEBACK_STEP = 8 << 20  # after so many bytes the system is asked to begin moving them to the disk
COPY_STEP = 32 << 20  # one system call copies so much, so that Ctrl-C is heard in between
RELEASE_EVERY = 8 << 20  # after so many bytes that were looked at, the mapped input is handed back

# What a system says when it cannot copy between these two files in this way; anything else is a real failure.
NOT_THIS_WAY = frozenset(
    {errno.ENOSYS, errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EPERM, errno.EBADF, errno.ETXTBSY}
)


class Writer:
    """Appends to a new file that is open for reading and writing. Raises OSError as the system calls do.

    From `THREAD_FROM` bytes on a thread writes what this one computes. With `hashed`, another computes the sha256.
    `release` is called now and then while payloads are computed, to hand back the mapped pages of their inputs. `told`
    is called with the number of bytes whenever some were handed over.
    """

    def __init__(
        self, descriptor: int, release: Callable[[], None], *, hashed: bool, told: Callable[[int], None] | None = None
    ) -> None:
        self._appender = _Appender(descriptor, RunningHash(descriptor) if hashed else None)
        self._release = release
        self._told = told
        self._looked_at = 0
        self._buffer = memoryview(bytearray(BUFFER))
        self._filled = 0  # bytes of the buffer
        self._handed_over = 0
        self._thread: _Behind | None = None

    @property
    def nbytes(self) -> int:
        """How many bytes were appended so far."""
        return self._handed_over + self._filled

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append bytes."""
        view = memoryview(data).cast("B")
        while len(view):
            count = min(len(view), BUFFER - self._filled)
            self._buffer[self._filled : self._filled + count] = view[:count]
            self._filled += count
            view = view[count:]
            if self._filled == BUFFER:
                self._flush()

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
        if self._thread is not None:
            self._thread.finish()
        return self._appender.hexdigest()

    def abandon(self) -> None:
        """Stop the threads, whether the file is complete or not wanted any more."""
        if self._thread is not None:
            self._thread.stop()
        self._appender.abandon()

    def _flush(self) -> None:
        filled, self._filled = self._filled, 0
        if not filled:
            return
        buffer = self._buffer
        if self._is_behind(filled):
            assert self._thread is not None
            self._buffer = self._thread.put_buffer(buffer, filled)
        else:
            self._appender.write(buffer[:filled])

    def _append_range(self, origin: File, offset: int, nbytes: int) -> None:
        if nbytes < COPY_FROM:
            data = os.pread(origin.descriptor, nbytes, offset)  # a look through the map would map a page for each
            if len(data) != nbytes:
                raise shrunk(origin)
            self.write(data)
            return
        self._flush()
        for start in range(offset, offset + nbytes, COPY_STEP):
            count = min(COPY_STEP, offset + nbytes - start)
            if self._is_behind(count):
                assert self._thread is not None
                self._thread.put(_Range(origin, start, count))
            else:
                self._appender.copy(origin, origin.descriptor, start, count)

    def _is_behind(self, nbytes: int) -> bool:
        """Note that so many bytes are handed over; whether that happens in the thread by now."""
        if self._thread is None and self._handed_over >= THREAD_FROM:
            self._thread = _Behind(self._appender)
        self._handed_over += nbytes
        if self._told is not None:
            self._told(nbytes)
        return self._thread is not None


class _Range:
    """A byte range of `origin`, which is kept open: the file may close its own descriptor when many are open."""

    def __init__(self, origin: File, offset: int, nbytes: int) -> None:
        self._origin, self._offset, self._nbytes = origin, offset, nbytes
        self._descriptor = -1
        self._descriptor = os.dup(origin.descriptor)

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def __call__(self, appender: "_Appender") -> None:
        appender.copy(self._origin, self._descriptor, self._offset, self._nbytes)


class _Appender:
    """The system calls that make a file longer, in one thread at a time."""

    def __init__(self, descriptor: int, running_hash: RunningHash | None) -> None:
        self._descriptor = descriptor
        self._written = self._started = 0
        self._hash = running_hash
        self._copiers = [copy for name, copy in COPIERS.items() if hasattr(os, name)]

    def write(self, view: memoryview) -> None:
        while len(view):
            count = os.write(self._descriptor, view[:COPY_STEP])
            view = view[count:]
            self._advance(count)

    def copy(self, origin: File, descriptor: int, offset: int, nbytes: int) -> None:
        while nbytes:
            count = self._copy_some(descriptor, offset, nbytes)
            if count == 0:
                raise shrunk(origin)
            offset += count
            nbytes -= count
            self._advance(count)

    def _copy_some(self, origin: int, offset: int, nbytes: int) -> int:
        while self._copiers:
            try:
                if count := self._copiers[0](self._descriptor, origin, offset, nbytes):
                    return count
            except OSError as error:
                if error.errno not in NOT_THIS_WAY:
                    raise
            del self._copiers[0]
        data = os.pread(origin, min(nbytes, BUFFER), offset)
        return os.write(self._descriptor, data) if data else 0

    def _advance(self, count: int) -> None:
        self._written += count
        if self._hash is not None:
            self._hash.advance(self._written)
        if self._written - self._started >= WRITEBACK_STEP:
            start_writeback(self._descriptor, self._started, self._written - self._started)
            self._started = self._written

    def hexdigest(self) -> str:
        return "" if self._hash is None else self._hash.hexdigest()

    def abandon(self) -> None:
        if self._hash is not None:
            self._hash.stop()


class _Behind:
    """A thread that does the writing of an `_Appender` in order, a bounded number of pieces behind."""

    def __init__(self, appender: _Appender) -> None:
        self._appender = appender
        self._queue: SimpleQueue[Work | None] = SimpleQueue()
        self._room = threading.Semaphore(PIECES_AHEAD)
        self._idle: SimpleQueue[memoryview] = SimpleQueue()  # buffers that were written
        self._error: BaseException | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._follow, name="bnfold-writer", daemon=True)
        self._thread.start()

    def put(self, work: "Work") -> None:
        """Have `work` done after all before it. Raises what an earlier piece failed with."""
        self._room.acquire()
        self._raise_error()
        self._queue.put(work)

    def put_buffer(self, buffer: memoryview, filled: int) -> memoryview:
        """Have the first `filled` bytes of `buffer` written; another buffer of its size, to go on with."""

        def write(appender: _Appender) -> None:
            appender.write(buffer[:filled])
            self._idle.put(buffer)

        self.put(write)
        try:
            return self._idle.get_nowait()
        except Empty:
            return memoryview(bytearray(len(buffer)))

    def finish(self) -> None:
        """Wait until everything is done. Raises what a piece failed with."""
        self._join()
        self._raise_error()

    def stop(self) -> None:
        """End the thread after the piece it is at."""
        self._stopped = True
        self._join()

    def _join(self) -> None:
        self._queue.put(None)
        self._thread.join()

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def _follow(self) -> None:
        while (work := self._queue.get()) is not None:
            if not self._stopped and self._error is None:
                try:
                    work(self._appender)
                except BaseException as error:  # noqa: BLE001 - it is raised again in the thread that waits for it
                    self._error = error
            del work
            self._room.release()


Work: TypeAlias = Callable[[_Appender], None]


def _copy_file_range(target: int, origin: int, offset: int, nbytes: int) -> int:
    return os.copy_file_range(origin, target, nbytes, offset_src=offset)


def _sendfile(target: int, origin: int, offset: int, nbytes: int) -> int:
    return os.sendfile(target, origin, offset, nbytes)


COPIERS: dict[str, Callable[[int, int, int, int], int]] = {
    "copy_file_range": _copy_file_range,
    "sendfile": _sendfile,
}
