"""Moves: what an operator that only rearranges the elements of a value does to a map of it.

Toward the consumers the operator itself is applied to S and T (`onward`), toward the producer its inverse (`back`). An
element that is read twice must be given the same number both times; one that nobody reads is free, and keeps 1 and 0.
An axis along which a map does not vary has size 1, and stays so wherever a move keeps it apart from the others: a size
that is unknown may then be moved whole, never split.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from bnfold.decisions import Reason, Refused
from bnfold.passes.affine import MOST_ELEMENTS, Array
from bnfold.passes.step import Dims

Indices = NDArray[np.int64]


class Move(Protocol):
    """One rearrangement, both ways: array of one side, and the number that changes nothing, to array of the other."""

    def onward(self, array: Array, unchanged: float) -> Array:
        """A map of the input as one of the output."""

    def back(self, array: Array, unchanged: float) -> Array:
        """A map of the output as one of the input."""


def padded(array: Array, rank: int) -> Array:
    """`array` with axes of size 1 behind, up to `rank`. Raises ValueError where it has more."""
    if array.ndim > rank:
        raise ValueError(f"a map of {array.ndim} axes for a value of {rank}")
    return array.reshape(array.shape + (1,) * (rank - array.ndim))


class Permuted(NamedTuple):
    """Output axis i is input axis `order[i]`."""

    order: Sequence[int]

    def onward(self, array: Array, _unchanged: float) -> Array:
        """See `Move`."""
        return padded(array, len(self.order)).transpose(self.order)

    def back(self, array: Array, _unchanged: float) -> Array:
        """See `Move`."""
        return padded(array, len(self.order)).transpose(np.argsort(self.order))


class Taken(NamedTuple):
    """Along `axis`, of `size`, the output has the elements `indices(size)` of the input.

    With `alone` the other elements are read elsewhere: they are not free, and a map that does not vary says nothing of
    them.
    """

    axis: int
    size: int | str | None
    indices: Callable[[int], Indices]
    alone: bool = False

    def onward(self, array: Array, _unchanged: float) -> Array:
        """See `Move`."""
        if array.ndim <= self.axis or array.shape[self.axis] == 1:
            return array
        return array.take(self._indices(), self.axis)

    def back(self, array: Array, unchanged: float) -> Array:
        """See `Move`. Raises `Refused` where one element of the input would need two numbers."""
        array = padded(array, max(array.ndim, self.axis + 1))
        indices = self._indices() if self.alone or array.shape[self.axis] > 1 else None
        if indices is None:
            return array
        whole = list(array.shape)
        whole[self.axis] = len(indices)
        values = np.broadcast_to(array, whole)
        whole[self.axis] = self._known_size()
        result = np.full(whole, unchanged)
        where = (slice(None),) * self.axis + (indices,)
        result[where] = values
        if not np.array_equal(result[where], values, equal_nan=True):
            raise Refused(Reason.NOT_PER_CHANNEL, f"an element of axis {self.axis} is read under two of its numbers")
        return result

    def _known_size(self) -> int:
        if not isinstance(self.size, int):
            raise Refused(Reason.SHAPE_UNKNOWN, f"dim {self.axis}")
        if self.size > MOST_ELEMENTS:
            raise Refused(Reason.SEARCH_LIMIT, f"dim {self.axis} is {self.size}")
        return self.size

    def _indices(self) -> Indices:
        return self.indices(self._known_size())


class Dropped(NamedTuple):
    """Without `axes`, which have size 1, of a value of `rank` dims."""

    axes: tuple[int, ...]
    rank: int

    def onward(self, array: Array, _unchanged: float) -> Array:
        """See `Move`."""
        return padded(array, self.rank).squeeze(self.axes)

    def back(self, array: Array, _unchanged: float) -> Array:
        """See `Move`."""
        return np.expand_dims(padded(array, self.rank - len(self.axes)), self.axes)


class Unsqueezed(NamedTuple):
    """`axes` more in front."""

    axes: int

    def onward(self, array: Array, _unchanged: float) -> Array:
        """See `Move`."""
        return array.reshape((1,) * self.axes + array.shape)

    def back(self, array: Array, _unchanged: float) -> Array:
        """See `Move`."""
        return array.squeeze(tuple(range(self.axes)))


class Relaid(NamedTuple):
    """A move that keeps the elements in row-major order, in another shape: Reshape, Flatten, Squeeze, Unsqueeze."""

    source: Dims
    target: Dims

    def onward(self, array: Array, _unchanged: float) -> Array:
        """See `Move`."""
        return relaid(array, self.source, self.target)

    def back(self, array: Array, _unchanged: float) -> Array:
        """See `Move`."""
        return relaid(array, self.target, self.source)


def relaid(array: Array, source: Dims, target: Dims) -> Array:
    """`array`, of a value of shape `source`, for the same elements in shape `target`. Raises `Refused`.

    The shapes are cut into the shortest pieces that hold as many elements on both sides. Where nothing varies along a
    piece, nothing does on the other side; else its sizes have to be known.
    """
    array = padded(array, len(source))
    full: list[int] = []
    form: list[int] = []
    for axes, others in _pieces(source, target):
        own, dims, made = array.shape[axes], source[axes], target[others]
        if all(size == 1 for size in own):
            full += own
            form += [1] * len(made)
        elif len(dims) == len(made) == 1 and (dims[0] == own[0] or not isinstance(dims[0], int)):
            full += own
            form += own
        else:
            known = [size for size in (*dims, *made) if isinstance(size, int)]
            if len(known) < len(dims) + len(made):
                raise Refused(Reason.SHAPE_UNKNOWN, f"{list(source)} laid out as {list(target)}")
            if any(one not in (1, size) for one, size in zip(own, dims, strict=True)):
                raise Refused(Reason.MALFORMED, f"a map of shape {list(array.shape)} for {list(source)}")
            if math.prod(known[: len(dims)]) != math.prod(known[len(dims) :]) or 0 in known:
                raise Refused(Reason.NOT_PER_CHANNEL, f"{list(source)} laid out as {list(target)}")
            full += known[: len(dims)]
            form += known[len(dims) :]
    if math.prod(full) > MOST_ELEMENTS:
        raise Refused(Reason.SEARCH_LIMIT, f"{list(source)} laid out as {list(target)}")
    return np.broadcast_to(array, full).reshape(form)


def _pieces(source: Dims, target: Dims) -> list[tuple[slice, slice]]:
    """The axes of both sides that hold the same elements, from the front and from the back; what is left is one."""
    front = _matched(source, target)
    i, j = front[-1] if front else (0, 0)
    back = _matched(source[i:][::-1], target[j:][::-1])
    ends = [*front, *((len(source) - a, len(target) - b) for a, b in reversed(back)), (len(source), len(target))]
    starts = [(0, 0), *ends]
    pieces = [(slice(a, c), slice(b, d)) for (a, b), (c, d) in zip(starts, ends, strict=False)]
    return [(one, other) for one, other in pieces if one.start < one.stop or other.start < other.stop]


def _matched(source: Dims, target: Dims) -> list[tuple[int, int]]:
    """Where pieces end: (axes of the one, axes of the other) that hold as many elements, ever more of them."""
    found: list[tuple[int, int]] = []
    i = j = 0
    while i < len(source) or j < len(target):
        if i < len(source) and source[i] == 1 and (j >= len(target) or target[j] != 1):
            i += 1
        elif j < len(target) and target[j] == 1 and (i >= len(source) or source[i] != 1):
            j += 1
        else:
            ends = _next(source[i:], target[j:])
            if ends is None:
                break
            i, j = i + ends[0], j + ends[1]
        found.append((i, j))
    return found


def _next(source: Dims, target: Dims) -> tuple[int, int] | None:
    """The numbers of axes of each side that make the shortest piece at the front; None where unknown sizes hide it."""
    i, j = 1, 1
    while i <= len(source) and j <= len(target):
        if None in source[:i] or None in target[:j] or 0 in source[:i] or 0 in target[:j]:
            return None
        missing, more = _factors(source[:i]), _factors(target[:j])
        if missing == more:
            return i, j
        if more[1] - missing[1] or (missing[1] == more[1] and missing[0] < more[0]):
            i += 1
        else:
            j += 1
    return None


def _factors(dims: Dims) -> tuple[int, Counter[str]]:
    return math.prod(d for d in dims if isinstance(d, int)), Counter(d for d in dims if isinstance(d, str))
