"""Writing, second half: bytes and payloads into a file, as fast as the system can copy and compute.

Every piece knows its place in the file before it is made, so that two threads, this one and a helper, make pieces side
by side: what is computed, and ranges of other files, which copy_file_range moves, else sendfile, else read and write.
What was written begins its way to the disk at once, so that the fsync before publishing has little left to wait for.
The sha256 of what was written is computed by a thread that follows behind in the page cache.
"""

import errno
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import NamedTuple, Protocol

from bnfold.onnxfile.payload import Divisible, Payload, Span
from bnfold.onnxfile.source import File, shrunk
from bnfold.running_hash import RunningHash
from bnfold.writeback import WRITEBACK_STEP, start_writeback

BUFFER = 1 << 20  # small pieces are collected up to this size, in bytes
PIECE_FROM = 64 << 10  # what is larger is a piece of its own
PART = 4 << 20  # large payloads are divided into pieces of about this size
THREAD_FROM = 8 << 20  # a file of this size is worth a thread
COPY_STEP = 32 << 20  # one system call copies so much, so that Ctrl-C is heard in between
RELEASE_EVERY = 8 << 20  # after so many bytes that were looked at, the mapped input is handed back
_WORTH_A_START = 1 << 20  # fewer bytes are on the disk as fast when somebody waits for them

# What a system says when it cannot copy between these two files in this way; anything else is a real failure.
NOT_THIS_WAY = frozenset(
    {errno.ENOSYS, errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EPERM, errno.EBADF, errno.ETXTBSY}
)


class Writer:
    """Writes a new file, open for reading and writing, from beginning to end. Raises OSError as the system calls do.

    From `THREAD_FROM` bytes on a helper makes some of the pieces. With `hashed`, another thread computes the sha256.
    `release` is called now and then while payloads are computed, to hand back the mapped pages of their inputs.
    `progress` is called with the number of bytes whenever some were handed over.
    """

    def __init__(
        self,
        descriptor: int,
        release: Callable[[], None],
        *,
        hashed: bool,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self._target = _Target(descriptor, RunningHash(descriptor) if hashed else None)
        self._release = release
        self._progress = progress
        self._buffer = memoryview(bytearray(BUFFER))
        self._filled = 0  # bytes of the buffer
        self._handed_over = 0  # bytes before those in the buffer
        self._looked_at = 0
        self._helper: _Helper | None = None

    @property
    def nbytes(self) -> int:
        """The number of bytes appended so far."""
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
        elif payload.nbytes >= PIECE_FROM:
            self._flush()
            self._get_help(payload.nbytes)
            for part in payload.parts(PART) if isinstance(payload, Divisible) else (payload,):
                self._hand_over(_Computed(self._handed_over, part))
        else:
            self._append_small(payload)

    def finish(self) -> str:
        """Hand everything to the system and return the sha256 of the file; "" if it is not `hashed`."""
        self._flush()
        if self._helper is not None:
            self._helper.finish()
        return self._target.finish()

    def abandon(self) -> None:
        """Stop the threads, whether the file is complete or not wanted any more."""
        self._target.abandon()
        if self._helper is not None:
            self._helper.finish(quietly=True)

    def _append_small(self, payload: Payload) -> None:
        before = self.nbytes
        for chunk in payload.chunks():
            self.write(chunk)
        if self.nbytes - before != payload.nbytes:
            raise _other_size(payload, self.nbytes - before)
        self._looked_at += payload.nbytes
        if self._looked_at >= RELEASE_EVERY:
            self._looked_at = 0
            self._release()

    def _append_range(self, origin: File, offset: int, nbytes: int) -> None:
        if nbytes < PIECE_FROM:
            data = bytearray(nbytes)  # a look through the map would map a page for each
            origin.read_into(memoryview(data), offset)
            self.write(data)
            return
        self._flush()
        self._get_help(nbytes)
        for start in range(offset, offset + nbytes, COPY_STEP):
            count = min(COPY_STEP, offset + nbytes - start)
            self._hand_over(_Range(self._handed_over, origin, start, count))

    def _flush(self) -> None:
        if self._filled:
            filled, self._filled = self._filled, 0
            self._count(filled)
            self._target.write(self._buffer[:filled], self._handed_over - filled)

    def _get_help(self, nbytes: int) -> None:
        """Start the helper if with so many bytes more the file is worth it."""
        if self._helper is None and self._handed_over + nbytes >= THREAD_FROM:
            self._helper = _Helper(self._target)

    def _hand_over(self, piece: "Piece") -> None:
        """Have the piece made: by the helper if it has nothing waiting, else here."""
        self._count(piece.nbytes)
        if self._helper is None or not self._helper.take(piece):
            piece.make(self._target)

    def _count(self, nbytes: int) -> None:
        self._handed_over += nbytes
        if self._progress is not None:
            self._progress(nbytes)


class Piece(Protocol):
    """A part of the file that can be made on its own."""

    @property
    def nbytes(self) -> int:
        """Its size."""

    def make(self, target: "_Target") -> None:
        """Write it where it belongs, or stop early where nobody wants the file any more."""


class _Computed(NamedTuple):
    """The bytes of a payload, at `start`."""

    start: int
    payload: Payload

    @property
    def nbytes(self) -> int:
        return self.payload.nbytes

    def make(self, target: "_Target") -> None:
        place = self.start
        for chunk in self.payload.chunks():
            if target.unwanted:
                return
            view = memoryview(chunk).cast("B")
            target.write(view, place)
            place += len(view)
        if place - self.start != self.nbytes:
            raise _other_size(self.payload, place - self.start)


class _Range:
    """A byte range of `origin`, at `start`. Kept open: the file may close its own descriptor when many are open."""

    def __init__(self, start: int, origin: File, offset: int, nbytes: int) -> None:
        self.start, self.nbytes = start, nbytes
        self._origin, self._offset = origin, offset
        self._descriptor = -1
        self._descriptor = origin.duplicate()

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def make(self, target: "_Target") -> None:
        target.copy(self._origin, self._descriptor, self._offset, self.nbytes, self.start)


class _Target:
    """The system calls that write at a place in a file, from any thread.

    Pieces are done in any order. What is done without a gap from the beginning may be hashed and moved to the disk.
    """

    def __init__(self, descriptor: int, running_hash: RunningHash | None) -> None:
        self.unwanted = False
        self._descriptor = descriptor
        self._hash = running_hash
        self._copiers = [copy for name, copy in COPIERS.items() if hasattr(os, name)]
        self._lock = threading.Lock()
        self._complete = 0  # so many bytes are there, from the beginning on
        self._started = 0  # so many of them are on their way to the disk
        self._islands: dict[int, int] = {}  # what is there behind a gap: its end by its beginning

    def write(self, view: memoryview, place: int) -> None:
        while len(view):
            count = os.pwrite(self._descriptor, view[:COPY_STEP], place)
            self._done(place, count)
            view = view[count:]
            place += count

    def copy(self, origin: File, descriptor: int, offset: int, nbytes: int, place: int) -> None:
        while nbytes and not self.unwanted:
            count = self._copy_some(descriptor, offset, nbytes, place)
            if count == 0:
                raise shrunk(origin)
            self._done(place, count)
            offset += count
            nbytes -= count
            place += count

    def _copy_some(self, origin: int, offset: int, nbytes: int, place: int) -> int:
        for copy in self._copiers[:]:
            try:
                if count := copy(self._descriptor, origin, offset, nbytes, place):
                    return count
            except OSError as error:
                if error.errno not in NOT_THIS_WAY:
                    raise
            if copy in self._copiers:
                self._copiers.remove(copy)
        data = os.pread(origin, min(nbytes, BUFFER), offset)
        return os.pwrite(self._descriptor, data, place) if data else 0

    def _done(self, place: int, count: int) -> None:
        with self._lock:
            self._islands[place] = place + count
            while self._complete in self._islands:
                self._complete = self._islands.pop(self._complete)
            if self._hash is not None:
                self._hash.advance(self._complete)
            started, ready = self._started, self._complete
            if ready - started < WRITEBACK_STEP:
                return
            self._started = ready
        start_writeback(self._descriptor, started, ready - started)

    def finish(self) -> str:
        """Let what is left go to the disk, which somebody will wait for; the sha256, "" where none was asked for."""
        if self._complete - self._started >= _WORTH_A_START:
            start_writeback(self._descriptor, self._started, self._complete - self._started)
        return "" if self._hash is None else self._hash.hexdigest()

    def abandon(self) -> None:
        self.unwanted = True
        if self._hash is not None:
            self._hash.stop()


class _Helper:
    """A thread that makes one piece while another waits for it."""

    def __init__(self, target: _Target) -> None:
        self._target = target
        self._queue: SimpleQueue[Piece | None] = SimpleQueue()
        self._room = threading.Semaphore(2)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._follow, name="bnfold-writer", daemon=True)
        self._thread.start()

    def take(self, piece: Piece) -> bool:
        """Take the piece unless one is waiting already. Raises what an earlier piece failed with."""
        self._raise_error()
        if not self._room.acquire(blocking=False):
            return False
        self._queue.put(piece)
        return True

    def finish(self, *, quietly: bool = False) -> None:
        """Make what waits, wait for the rest, end the thread. Raises what a piece failed with, unless `quietly`."""
        if not quietly:
            self._raise_error()
            with suppress(Empty):
                while piece := self._queue.get_nowait():
                    piece.make(self._target)
        self._queue.put(None)
        self._thread.join()
        if not quietly:
            self._raise_error()

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def _follow(self) -> None:
        while (piece := self._queue.get()) is not None:
            if not self._target.unwanted and self._error is None:
                try:
                    piece.make(self._target)
                except BaseException as error:  # noqa: BLE001 - it is raised again in the thread that waits for it
                    self._error = error
            del piece
            self._room.release()


def _other_size(payload: Payload, nbytes: int) -> AssertionError:
    return AssertionError(f"a payload of {payload.nbytes} bytes yielded {nbytes}")


_POSITION = threading.Lock()


def _copy_file_range(target: int, origin: int, offset: int, nbytes: int, place: int) -> int:
    return os.copy_file_range(origin, target, nbytes, offset_src=offset, offset_dst=place)


def _sendfile(target: int, origin: int, offset: int, nbytes: int, place: int) -> int:
    with _POSITION:  # it writes at the position of the file, which all threads share
        os.lseek(target, place, os.SEEK_SET)
        return os.sendfile(target, origin, offset, nbytes)


COPIERS: dict[str, Callable[[int, int, int, int, int], int]] = {
    "copy_file_range": _copy_file_range,
    "sendfile": _sendfile,
}
