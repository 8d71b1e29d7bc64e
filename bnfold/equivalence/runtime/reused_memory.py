"""Memory for what runs make, used again as soon as nobody holds what is in it.

New memory has to be cleared by the system, page by page, which takes longer than many an operator takes to fill it.
onnxruntime reuses its own between the runs of a session, but for results that are still held, and for no other session.
"""

from collections import deque
from math import prod
from typing import Any

import numpy as np

from bnfold.equivalence.numbers.element_types import Array


class ReusedMemory:
    """Blocks of memory. `nbytes`: of all of them, no more than the arrays that were once held at the same time had."""

    def __init__(self) -> None:
        self._returned = deque[Array]()
        """Blocks that nobody holds any more, which come from any thread and at any time."""
        self._free: dict[int, list[Array]] = {}
        """Those that were seen to have come, by their bytes."""
        self.nbytes = self._idle = self._most = 0

    def array(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
        """An array of any numbers, in one thread. Its memory is used again once neither it nor a view of it is left."""
        while self._returned:
            block = self._returned.popleft()
            self._free.setdefault(block.nbytes, []).append(block)
            self._idle += block.nbytes
        nbytes = prod(shape) * dtype.itemsize
        if nbytes in self._free:
            block = self._taken(nbytes)
        else:
            self.nbytes += nbytes
            self._most = max(self._most, self.nbytes - self._idle)
            while self.nbytes > self._most:
                self.nbytes -= self._taken(next(iter(self._free))).nbytes
            block = np.empty(nbytes, np.uint8)
        return np.asarray(_Lent(block, self._returned)).view(dtype).reshape(shape)

    def _taken(self, nbytes: int) -> Array:
        free = self._free[nbytes]
        block = free.pop()
        if not free:
            del self._free[nbytes]
        self._idle -= nbytes
        return block


class _Lent:
    """A block that is returned with the last array in it, whose base this is."""

    def __init__(self, block: Array, returned: deque[Array]) -> None:
        self._block, self._returned = block, returned
        self.__array_interface__ = block.__array_interface__

    def __del__(self) -> None:
        self._returned.append(self._block)
