"""The bytes of a body on their way to the disk: written and hashed in a thread while more of them are received."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence

from fastapi.concurrency import run_in_threadpool

from bnfold.service.store import Incoming

BLOCK = 256 << 10
"""Bytes that are worth a change of threads."""

_MOST_CHUNKS = 256  # of one block: small ones take more memory than they hold
MOST_WAITING = 32
"""Blocks of all bodies together that wait to be written: so much memory a slow disk can cost."""


async def blocks(chunks: AsyncIterator[bytes]) -> AsyncIterator[list[bytes]]:
    """The `chunks` in lists of at least `BLOCK` bytes, but for the last."""
    block: list[bytes] = []
    nbytes = 0
    async for chunk in chunks:
        block.append(chunk)
        nbytes += len(chunk)
        if nbytes >= BLOCK or len(block) >= _MOST_CHUNKS:
            yield block
            block, nbytes = [], 0
    if block:
        yield block


class WritingBehind:
    """Writes blocks to a file that is being sent, in their order, behind whoever receives them.

    One thread at a time takes all that waits, and goes when nothing does, so that a sender who is slow or silent holds
    none. `room` is shared by all bodies: a block takes a place of it until it is written.
    """

    def __init__(self, incoming: Incoming, room: asyncio.Semaphore) -> None:
        self._incoming = incoming
        self._room = room
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Sequence[bytes]] = deque()
        self._writing: asyncio.Task[None] | None = None
        self._error: OSError | None = None
        self._wanted = True

    async def write(self, block: Sequence[bytes]) -> None:
        """Have the block written, at once or soon. Raises OSError of an earlier one."""
        await self._room.acquire()
        if self._error is not None:
            self._room.release()
            raise self._error
        self._waiting.append(block)
        self._go_on()

    async def finish(self, *, wanted: bool = True) -> None:
        """Wait until everything is written; what is not `wanted` any more is forgotten. Raises OSError."""
        self._wanted = wanted
        while self._writing is not None:
            await self._writing
        if self._error is not None and wanted:
            raise self._error

    def _go_on(self) -> None:
        if self._writing is None and self._waiting:
            self._writing = asyncio.ensure_future(self._write_all())

    async def _write_all(self) -> None:
        try:
            await run_in_threadpool(self._drain)
        finally:
            self._writing = None
            self._go_on()

    def _drain(self) -> None:
        while self._waiting:
            block = self._waiting.popleft()
            try:
                if self._wanted and self._error is None:
                    self._incoming.write(block)
            except OSError as error:
                self._error = error
            finally:
                self._loop.call_soon_threadsafe(self._room.release)
