"""Where the channels of a value go when its axes are split, permuted and merged: channel shuffles, and flattening.

A Reshape keeps the order in which the numbers lie. Behind the channels lie so many numbers of each of them, so that the
axes that take the channels up are those in front of the last ones with so many numbers, whatever lies before.
"""

import math
from collections.abc import Sequence

import numpy as np

from bnfold.equivalence.numbers.element_types import Array


def reshaped(sizes: Sequence[int | None], target: Sequence[int], *, keeps_zero: bool) -> tuple[int | None, ...] | None:
    """The sizes that a Reshape to `target` makes, None for one that is not known; None where it cannot be."""
    found: list[int | None] = []
    left, taken = dict(enumerate(sizes)), 1  # what is not copied as it is, and how much of that the target tells
    for at, size in enumerate(target):
        if size == 0 and not keeps_zero:
            if at >= len(sizes):
                return None
            found.append(left.pop(at))
        else:
            found.append(None if size == -1 else size)
            taken *= 1 if size == -1 else size
    rest = [size for size in left.values() if size is not None]
    if -1 in target and len(rest) == len(left) and taken and 0 not in found:
        if math.prod(rest) % taken:
            return None
        found[target.index(-1)] = math.prod(rest) // taken
    return tuple(found)


def order_of(sizes: Sequence[int | None], axes: Sequence[int]) -> Array | None:
    """The number, in the order from which they were split, of each channel as they lie now.

    `axes`: those that the channels lie along, as they were split, outermost first. None where other axes lie between
    them, or a size is unknown.
    """
    if sorted(axes) != list(range(min(axes), max(axes) + 1)):
        return None
    parts = [sizes[axis] for axis in axes]
    known = [size for size in parts if size is not None]
    if len(known) < len(parts):
        return None
    as_they_lie = sorted(range(len(axes)), key=axes.__getitem__)
    return np.arange(math.prod(known)).reshape(known).transpose(as_they_lie).reshape(-1)


def axes_of(sizes: Sequence[int | None], count: int, behind: int) -> tuple[int, ...] | None:
    """The axes that `count` channels lie along, outermost first, where `behind` numbers of each follow each other."""
    stop = _back(sizes, len(sizes), behind)
    start = None if stop is None else _back(sizes, stop, count)
    if stop is None or start is None:
        return None
    if start == stop:  # one channel, along no axis yet
        start -= 1
        return (start,) if start >= 0 and sizes[start] == 1 else None
    while stop - start > 1 and sizes[stop - 1] == 1:
        stop -= 1
    return tuple(range(start, stop))


def _back(sizes: Sequence[int | None], stop: int, count: int) -> int | None:
    """The axis from which on, up to `stop`, there are `count` numbers."""
    found = 1
    while found < count:
        stop -= 1
        size = sizes[stop] if stop >= 0 else None
        if not size:
            return None
        found *= size
    return stop if found == count else None
