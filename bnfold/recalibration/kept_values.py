"""Arrays that are kept for later: in memory up to a limit, beyond it in a temporary file up to a budget.

The file has no name, so that nothing is left of it however the process ends; what is let go makes room for what comes.
"""

import os
import sys
import tempfile
from bisect import insort
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from bnfold.errors import UsageError


@dataclass(frozen=True, eq=False, slots=True)
class Kept:
    """One array: itself where it is in memory, else where it lies in the file. `nbytes`: the room that it takes."""

    nbytes: int
    array: NDArray[Any] | None
    offset: int = 0
    dtype: Any = None
    shape: tuple[int, ...] = ()


class KeptValues:
    """A place for arrays: `limit` bytes of memory, and `budget` bytes of a file in `folder`, where that is not None.

    A context manager. Raises UsageError where no file can be made in `folder`.
    """

    def __init__(self, limit: int, folder: str | os.PathLike[str] | None = None, budget: int = 0) -> None:
        self._limit, self._budget = limit, budget
        self._folder = folder
        self._in_memory = self._in_file = self._end = 0
        self._holes: list[tuple[int, int]] = []
        """Offset and size of what is free before the end of the file, by offset."""
        self.most_in_memory = self.most_in_file = 0

    def __enter__(self) -> Self:
        self._stack = ExitStack()
        self._file: int | None = None
        if self._folder is not None:
            try:
                self._file = self._stack.enter_context(tempfile.TemporaryFile(dir=Path(self._folder))).fileno()
            except OSError as error:
                raise UsageError(f"{self._folder}: no temporary file can be made there: {error.strerror}") from error
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()
        self._file = None

    def put(self, arrays: Mapping[str, NDArray[Any]], instead_of: Iterable[Kept] = ()) -> dict[str, Kept] | None:
        """Keep `arrays`, none of which is written to any more, in the room of `instead_of`, which is let go.

        None where they do not all fit: then nothing has changed.
        """
        leaving = list(instead_of)
        room = self._limit - self._in_memory + sum(each.nbytes for each in leaving if each.array is not None)
        made: dict[str, Kept] = {}
        for name, array in arrays.items():
            nbytes = _room(array)
            if nbytes <= room:
                made[name] = Kept(nbytes, array)
                room -= nbytes
            elif array.dtype.hasobject or (place := self._written(array)) is None:
                self._let_go(each for each in made.values() if each.array is None)
                return None
            else:
                made[name] = place
        self.drop(leaving)
        self._in_memory += sum(each.nbytes for each in made.values() if each.array is not None)
        self.most_in_memory = max(self.most_in_memory, self._in_memory)
        return made

    def get(self, kept: Kept) -> NDArray[Any]:
        """The array as it was."""
        if kept.array is not None:
            return kept.array
        assert self._file is not None
        found = np.empty(prod(kept.shape), kept.dtype)
        waiting, at = found.view(np.uint8).data, kept.offset
        while waiting:
            count = os.preadv(self._file, [waiting], at)
            waiting, at = waiting[count:], at + count
        return found.reshape(kept.shape)

    def drop(self, kept: Iterable[Kept]) -> None:
        """Let these go, each once."""
        leaving = list(kept)
        self._in_memory -= sum(each.nbytes for each in leaving if each.array is not None)
        self._let_go(each for each in leaving if each.array is None)

    def _written(self, array: NDArray[Any]) -> Kept | None:
        """The array in the file; None where it does not fit there, or the disk is full."""
        nbytes = array.nbytes
        hole = next((hole for hole in self._holes if hole[1] >= nbytes), None)
        offset = self._end if hole is None else hole[0]
        if self._file is None or (hole is None and offset + nbytes > self._budget):
            return None
        waiting, at = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, offset
        try:
            while waiting:
                count = os.pwrite(self._file, waiting, at)
                waiting, at = waiting[count:], at + count
        except OSError:  # no room on the disk
            self._budget = min(self._budget, self._end)
            return None
        if hole is None:
            self._end += nbytes
        else:
            self._holes.remove(hole)
            if hole[1] > nbytes:
                insort(self._holes, (offset + nbytes, hole[1] - nbytes))
        self._in_file += nbytes
        self.most_in_file = max(self.most_in_file, self._end)
        return Kept(nbytes, None, offset, array.dtype, array.shape)

    def _let_go(self, kept: Iterable[Kept]) -> None:
        """Make holes, and one of neighbours; at the end of the file none."""
        for each in kept:
            self._in_file -= each.nbytes
            insort(self._holes, (each.offset, each.nbytes))
        joined: list[tuple[int, int]] = []
        for offset, nbytes in self._holes:
            if joined and sum(joined[-1]) == offset:
                joined[-1] = (joined[-1][0], joined[-1][1] + nbytes)
            elif nbytes:
                joined.append((offset, nbytes))
        if joined and sum(joined[-1]) == self._end:
            self._end = joined.pop()[0]
        self._holes = joined


def _room(array: NDArray[Any]) -> int:
    """The bytes of an array, with those of its texts."""
    return array.nbytes + (sum(map(sys.getsizeof, array.flat)) if array.dtype.hasobject else 0)
