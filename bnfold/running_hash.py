"""The sha256 of a file that is being written or used, without a second pass over it."""

import hashlib
import os
import threading

from bnfold.errors import ModelError
from bnfold.lifetime import closed_at_the_end

_BLOCK = 1 << 20


class RunningHash:
    """The sha256 of a file's first bytes, computed in a thread while they are being produced or used.

    `advance(n)` says that the first n bytes are there. Below `THREAD_FROM` bytes no thread is started.
    """

    THREAD_FROM = 8 << 20

    def __init__(self, descriptor: int) -> None:
        self._descriptor = -1
        self._descriptor = os.dup(descriptor)
        closed_at_the_end(self)
        self._hash = hashlib.sha256()
        self._ready = 0
        self._done = 0
        self._error: BaseException | None = None
        self._closed = False
        self._news = threading.Condition()
        self._thread: threading.Thread | None = None

    def advance(self, nbytes: int) -> None:
        """The first `nbytes` bytes can be read now."""
        with self._news:
            self._ready = nbytes
            self._news.notify()
        if self._thread is None and nbytes >= self.THREAD_FROM:
            self._thread = threading.Thread(target=self._follow, name="bnfold-sha256", daemon=True)
            self._thread.start()

    def _follow(self) -> None:
        try:
            while True:
                with self._news:
                    while self._done >= self._ready and not self._closed:
                        self._news.wait()
                    if self._closed and self._done >= self._ready:
                        return
                self._digest_ready()
        except BaseException as error:  # noqa: BLE001 - it is raised again where the result is asked for
            self._error = error

    def _digest_ready(self) -> None:
        block = memoryview(bytearray(_BLOCK))
        while (wanted := min(self._ready - self._done, _BLOCK)) > 0:
            count = os.preadv(self._descriptor, [block[:wanted]], self._done)
            if count == 0:
                raise ModelError("a file became shorter while it was being read; run again when it is complete")
            self._hash.update(block[:count])
            self._done += count

    def complete(self) -> None:
        """No more bytes will come: the thread ends when it has seen them all."""
        with self._news:
            self._closed = True
            self._news.notify()
        if self._thread is None and self._descriptor >= 0:
            try:
                self._digest_ready()
            except (OSError, ModelError) as error:
                self._error = error
            self._let_go()

    def stop(self) -> None:
        """End the thread as soon as possible; the result is not wanted any more."""
        self._ready = 0
        self.complete()
        if self._thread is not None:
            self._thread.join()

    def hexdigest(self) -> str:
        """Wait for the rest and return the hash. Raises OSError or ModelError if the bytes could not be read."""
        self.complete()
        if self._thread is not None:
            self._thread.join()
        if self._error is not None:
            raise self._error
        return self._hash.hexdigest()

    def close(self) -> None:
        """End the thread and close the file; without a result, unless there is one already."""
        self.stop()
        self._let_go()

    def _let_go(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        self._let_go()
