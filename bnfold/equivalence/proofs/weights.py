"""Weights of a linear operator as they stand in a file, with factors that were not multiplied into them.

They are read in blocks of a few MiB, so that memory does not grow with a model.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from onnx import TensorProto

from bnfold.equivalence.numbers.element_types import Array
from bnfold.equivalence.structure.scopes import Cutter

_BLOCK = 1 << 15
"""Numbers of one block: 256 KiB in float64, of which a few stay in a processor's cache."""
_SMALLEST_NORMAL: dict[int, float] = {
    TensorProto.FLOAT16: 2.0**-14,
    TensorProto.FLOAT: 2.0**-126,
    TensorProto.BFLOAT16: 2.0**-126,
    TensorProto.DOUBLE: 2.0**-1022,
}


_TINY = 2.0**-1074


def smallest_normal(elem_type: int) -> float:
    """The number below which rounding to that type is absolute; 0 for what is no float."""
    return _SMALLEST_NORMAL.get(elem_type, 0.0)


class Weights(NamedTuple):
    """The numbers of `tensor` in `owner`'s file, or of `array`, times `factors`: float64, broadcastable to `shape`.

    `cut`: (axis, start, stop) where only a part of a tensor's axis is meant, to which `shape` and `factors` belong.
    `noise`: how far rounding alone may move each number where nodes of the model compute them.
    """

    shape: tuple[int, ...]
    elem_type: int
    tensor: TensorProto | None = None
    owner: Cutter | None = None
    array: Array | None = None
    factors: tuple[Array, ...] = ()
    cut: tuple[int, int, int] | None = None
    noise: float = 0.0

    @classmethod
    def stored(cls, tensor: TensorProto, owner: Cutter) -> "Weights":
        """The numbers of a tensor of a model."""
        return cls(tuple(tensor.dims[:]), tensor.data_type, tensor, owner)

    @classmethod
    def given(cls, array: Array, elem_type: int = TensorProto.DOUBLE, noise: float = 0.0) -> "Weights":
        """Numbers that are in memory already."""
        return cls(array.shape, elem_type, array=array, noise=noise)

    def times(self, factor: Array) -> "Weights":
        """With one factor more, which broadcasts to the shape."""
        shape, elem_type, tensor, owner, array, factors, cut, noise = self
        if factor.ndim == 0:
            factor = factor.reshape((1,) * len(shape))
        return Weights(shape, elem_type, tensor, owner, array, (*factors, factor), cut, noise)

    def part(self, axis: int, start: int, stop: int) -> "Weights":
        """The elements from `start` to `stop` of an axis. Raises ValueError for a part of a part on another axis."""
        before, at = 0, (slice(None),) * axis + (slice(start, stop),)
        if self.cut is not None:
            if self.cut[0] != axis:
                raise ValueError("a part along two axes")
            before = self.cut[1]
        factors = tuple(factor[at] if factor.shape[axis] > 1 else factor for factor in self.factors)
        shape = (*self.shape[:axis], stop - start, *self.shape[axis + 1 :])
        if self.array is not None:
            return self._replace(shape=shape, factors=factors, array=self.array[at])
        return self._replace(shape=shape, factors=factors, cut=(axis, before + start, before + stop))

    def blocks(self, room: "Room | None" = None) -> Iterator[tuple[int, Array]]:
        """The first index of each block along the first axis, and the block in float64; it may be written to.

        With `room` each block stands where the one before it stood.
        """
        if not self.shape:
            yield 0, self.rows(0, 1, room)
            return
        raw, per_row = self._raw(), math.prod(self.shape[1:])
        rows = max(1, _BLOCK // max(1, per_row))
        for start in range(0, self.shape[0], rows):
            stop = min(start + rows, self.shape[0])
            yield start, self._scaled(raw[start:stop], start, stop, room)
            if self.owner is not None and self.tensor is not None:
                self.owner.has_read(self.tensor, (stop - start) * per_row)

    def whole(self) -> Array:
        """All numbers, of a tensor that is no larger than a block."""
        raw = self._raw()
        if self.owner is not None and self.tensor is not None:
            self.owner.has_read(self.tensor, raw.size)
        return self._scaled(raw, 0, raw.shape[0] if raw.ndim else 1, None)

    def rows(self, start: int, stop: int, room: "Room | None" = None) -> Array:
        """A part along the first axis in float64; all that there is where there are no axes."""
        raw = self._raw()
        return self._scaled(raw[start:stop] if self.shape else raw, start, stop, room)

    @property
    def computed(self) -> bool:
        """Whether nodes of the model compute the numbers and round them; another model may hold the exact ones."""
        return self.noise > 0 and self.elem_type != TensorProto.DOUBLE

    def size_of(self, start: int, block: Array, allowance: float) -> Array:
        """The scale of a block's rounding errors: its numbers, as large as they were when rounded."""
        size = np.abs(block)
        if self.computed:
            least = np.full(block.shape, smallest_normal(self.elem_type) + self.noise / allowance)
            size = np.maximum(size, np.abs(self._scaled(least, start, start + (block.shape or (1,))[0])))
        return size

    def _scaled(self, block: Array, start: int, stop: int, room: "Room | None" = None) -> Array:
        factors = [factor[start:stop] if factor.ndim and factor.shape[0] > 1 else factor for factor in self.factors]
        made = np.empty(block.shape) if room is None else room.of_shape(block.shape)
        if not factors or block.dtype.kind != "f":
            made[...] = block
        else:  # a cast and a product in one step
            np.multiply(block, factors.pop(0), out=made, dtype=np.float64)
        block = made
        for factor in factors:
            block *= factor
        return block

    def _raw(self) -> Array:
        if self.array is not None:
            return self.array
        assert self.tensor is not None
        assert self.owner is not None
        raw = self.owner.array(self.tensor)
        if self.cut is None:
            return raw
        axis, start, stop = self.cut
        part: Array = raw[(slice(None),) * axis + (slice(start, stop),)]
        return part

    def reduced(self, axis: int, per_element: Array) -> tuple[Array, Array]:
        """Sums over all axes but `axis` of numbers times `per_element`, and of their absolute values."""
        total, size = np.zeros(self.shape[axis]), np.zeros(self.shape[axis])
        others = tuple(each for each in range(len(self.shape)) if each != axis)
        for start, block in self.blocks():
            stop = start + block.shape[0]
            block *= per_element[start:stop] if per_element.shape[0] > 1 else per_element
            at = slice(start, stop) if axis == 0 else slice(None)
            total[at] += block.sum(axis=others)
            size[at] += np.abs(block, out=block).sum(axis=others)
        return total, size


_NOTHING = np.empty(0)


class Room:
    """Memory for one block after the other."""

    def __init__(self) -> None:
        self._memory = _NOTHING

    def of_shape(self, shape: tuple[int, ...]) -> Array:
        """An array of that shape, in place of the last."""
        size = math.prod(shape)
        if size > self._memory.size:
            self._memory = np.empty(size)
        return self._memory[:size].reshape(shape)


@dataclass
class Difference:
    """The largest error as a part of what is allowed, and itself. `nothing`: all numbers of both were 0.

    `deciding`: only whether all is allowed is asked, so that nothing is looked at behind the first that is not.
    """

    share: float = 0.0
    error: float = 0.0
    nothing: bool = True
    place: str = ""
    deciding: bool = False

    @property
    def is_decided(self) -> bool:
        """Whether there is nothing left to find out."""
        return self.deciding and not self.share <= 1

    def add(self, was: Array, now: Array, size: Array, allowance: float, what: str, first: int = 0) -> None:
        """Take numbers into account that may differ by `allowance` times `size`; `first`: the index of their row 0."""
        error = np.abs(now - was)
        worst = float(np.maximum.reduce(error, axis=None, initial=0.0))
        if worst == 0.0:
            self.nothing = self.nothing and not was.any()
            return
        parts = error / size
        share = float(np.maximum.reduce(parts, axis=None)) / allowance
        if not math.isfinite(share):
            same = (was == now) | (np.isnan(was) & np.isnan(now))
            error = np.where(same, 0.0, np.nan_to_num(error, nan=np.inf, posinf=np.inf))
            parts = np.nan_to_num(np.where(same, 0.0, error / size), nan=np.inf, posinf=np.inf)
            worst, share = float(error.max()), float(parts.max()) / allowance
        self.take(parts, share, worst, what, first)

    def take(self, parts: Array, share: float, worst: float, what: str, first: int = 0) -> None:
        """Take numbers into account whose errors are `parts` of their size, `share` of what is allowed at most."""
        self.nothing = False
        if share > max(self.share, 1.0):
            index = [int(each) for each in np.unravel_index(int(parts.argmax()), parts.shape)]
            index[:1] = [first + each for each in index[:1]]
            self.place = f"{what} {index}" if index else what
        self.share = max(self.share, share)
        self.error = max(self.error, worst)


def compare(
    was: Sequence[Weights],
    now: Sequence[Weights],
    allowance: float,
    into: Difference,
    *,
    both_sizes: bool,
    extra: float = 0.0,
) -> None:
    """Compare two sums of weights of one shape, number by number."""
    if len(was) == len(now) == 1:
        before, after = was[0], now[0]
        if _same_file_bytes(before, after):
            into.nothing = False
            return
        if not (both_sizes or extra or before.computed or after.computed):
            _compare_one(before, after, allowance, smallest_normal(after.elem_type) or _TINY, into)
            return
    floor = max((smallest_normal(each.elem_type) for each in now), default=0.0) or _TINY
    both_sizes = both_sizes or any(each.computed for each in was)
    first = 0
    for (total, terms), (new, new_terms) in zip(_summed(was, allowance), _summed(now, allowance), strict=True):
        size = np.maximum(new_terms, floor)
        larger = np.maximum(size, terms) if both_sizes or extra else size
        size = larger if both_sizes else size
        size = size + extra / allowance * larger if extra else size
        into.add(total, new, size, allowance, "its weight", first)
        if into.is_decided:
            return
        first += total.shape[0] if total.ndim else 0


def _compare_one(was: Weights, now: Weights, allowance: float, floor: float, into: Difference) -> None:
    """`compare` of one weight with one that is stored, as nearly all are, in memory that is used again."""
    if math.prod(was.shape) <= _BLOCK:
        both: Iterable[tuple[int, Array, Array]] = [(0, was.whole(), now.whole())]
    else:
        blocks = zip(was.blocks(Room()), now.blocks(Room()), strict=True)
        both = ((start, before, after) for (start, before), (_, after) in blocks)
    for start, before, after in both:
        error = np.abs(np.subtract(after, before, out=before), out=before)
        worst = float(np.maximum.reduce(error, axis=None, initial=0.0))
        if worst == 0.0:
            into.nothing = into.nothing and not after.any()
            continue
        size = np.maximum(np.abs(after, out=after), floor, out=after)
        parts = np.divide(error, size, out=error)
        share = float(np.maximum.reduce(parts, axis=None)) / allowance
        if math.isfinite(share):
            into.take(parts, share, worst, "its weight", start)
        else:
            stop = start + (before.shape or (1,))[0]
            before, after = was.rows(start, stop), now.rows(start, stop)  # as they were
            into.add(before, after, np.maximum(np.abs(after), floor), allowance, "its weight", start)
        if into.is_decided:
            return


def _same_file_bytes(was: Weights, now: Weights) -> bool:
    """Whether both are the same tensor in memory, with nothing to multiply."""
    return was.tensor is not None and was.tensor is now.tensor and not was.factors and not now.factors


def _summed(parts: Sequence[Weights], allowance: float) -> Iterator[tuple[Array, Array]]:
    """Blocks of the sum, and of the sum of absolute values."""
    for blocks in zip(*(part.blocks() for part in parts), strict=True):
        start, total = blocks[0]
        size = parts[0].size_of(start, total, allowance)
        for part, (start, block) in zip(parts[1:], blocks[1:], strict=True):
            total = total + block
            size = size + part.size_of(start, block, allowance)
        yield total, size
