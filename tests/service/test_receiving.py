"""Bodies are written in order behind whoever receives them, with little memory, and no thread for who is silent."""

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from bnfold.service.receiving import WritingBehind, blocks
from bnfold.service.store import Incoming, Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path)
    yield made
    made.close()


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(work(), timeout=60))


def test_blocks_gather_small_chunks_and_lose_none() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for number in range(1000):
            yield b"%d," % number
        yield b"x" * (1 << 20)
        yield b"end"

    async def work() -> None:
        found = [block async for block in blocks(chunks())]
        assert b"".join(b"".join(block) for block in found) == b"".join([chunk async for chunk in chunks()])
        assert [len(block) for block in found] == [256, 256, 256, 233, 1]

    run(work)


def test_a_body_is_written_in_order_and_hashed(store: Store) -> None:
    content = [bytes([number % 251]) * 1000 for number in range(3000)]

    async def work() -> None:
        incoming = store.incoming()
        behind = WritingBehind(incoming, asyncio.Semaphore(4))
        for each in content:
            await behind.write([each])
        await behind.finish()
        sha256 = incoming.finish(None)
        assert sha256 == hashlib.sha256(b"".join(content)).hexdigest()
        assert store.path_of_file(sha256).read_bytes() == b"".join(content)

    run(work)


class Stuck(Incoming):
    """A disk that writes when it is told to, or fails."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.go_on = threading.Event()
        self.full = False

    def write(self, chunks: Any) -> None:
        assert self.go_on.wait(30)
        if self.full:
            raise OSError(28, "No space left on device")
        super().write(chunks)


def test_all_bodies_together_wait_in_a_room_of_one_size(store: Store) -> None:
    async def work() -> None:
        room = asyncio.Semaphore(3)
        slow, other = Stuck(store), Stuck(store)
        bodies = [WritingBehind(slow, room), WritingBehind(other, room)]
        for number in range(3):
            await bodies[number % 2].write([b"x"])
        late = asyncio.ensure_future(bodies[1].write([b"y"]))
        done, _ = await asyncio.wait([late], timeout=0.05)
        assert not done
        slow.go_on.set()  # what the one writes makes room for the other
        await bodies[0].finish()
        await late
        other.go_on.set()
        await bodies[1].finish()
        assert not room.locked()
        for each in (slow, other):
            each.discard()

    run(work)


def test_a_full_disk_is_told_and_gives_its_room_back(store: Store) -> None:
    async def work() -> None:
        room = asyncio.Semaphore(3)
        incoming = Stuck(store)
        behind = WritingBehind(incoming, room)
        for _ in range(3):
            await behind.write([b"x"])
        incoming.full = True
        incoming.go_on.set()
        with pytest.raises(OSError, match="No space"):
            await behind.finish()
        with pytest.raises(OSError, match="No space"):
            await behind.write([b"x"])
        await behind.finish(wanted=False)
        incoming.discard()
        for _ in range(3):
            await asyncio.wait_for(room.acquire(), timeout=5)

    run(work)
    assert not any((store.root / "incoming").iterdir())


def test_what_is_not_wanted_any_more_is_not_written(store: Store) -> None:
    async def work() -> None:
        incoming = Stuck(store)
        behind = WritingBehind(incoming, asyncio.Semaphore(9))
        for _ in range(5):
            await behind.write([b"x"])
        ending = asyncio.ensure_future(behind.finish(wanted=False))
        await asyncio.sleep(0)
        incoming.go_on.set()
        await ending
        assert incoming._path.stat().st_size <= 1
        incoming.discard()

    run(work)
