"""Where a channel axis goes when a value is only laid out anew: Reshape, Flatten, Squeeze, Unsqueeze.

Element (..., c, ...) of axis a lies at flat position p with c = (p // after) % C, where `after` is the number of
elements behind axis a. An axis b of the other shape carries the same map iff it covers those positions wholly:
size_b = P * C * M with M = after_a / after_b, and then its index i belongs to channel (i // M) % C.
M = P = 1 is the plain case; M = H * W is a Flatten in front of a Gemm.
"""

import math
from collections import Counter

import numpy as np

from bnfold.decisions import Reason, Refused
from bnfold.passes.affine import ChannelAffine
from bnfold.passes.step import MOST_CHANNELS, Dims


def relabelled(affine: ChannelAffine, source: Dims, target: Dims) -> ChannelAffine:
    """The map of a value of shape `source` as a map of the same elements in shape `target`. Raises `Refused`."""
    if affine.axis >= len(source) or source[affine.axis] != affine.channels:
        raise Refused(Reason.SHAPE_UNKNOWN, f"dim {affine.axis} of {list(source)}")
    for axis, size in enumerate(target):
        if not isinstance(size, int) or not affine.channels <= size <= MOST_CHANNELS:
            continue
        inner = _repeats_by_suffix(affine, source, target, axis)
        if inner is None:
            inner = _repeats_by_prefix(affine, source, target, axis)
        if inner is not None and size % (affine.channels * inner) == 0:
            return affine.rearranged((np.arange(size) // inner) % affine.channels, axis)
    reason = Reason.SHAPE_UNKNOWN if None in (*source, *target) else Reason.NOT_PER_CHANNEL
    raise Refused(reason, f"{list(source)} laid out as {list(target)}")


def _repeats_by_suffix(affine: ChannelAffine, source: Dims, target: Dims, axis: int) -> int | None:
    """M, from the dims behind the two axes."""
    return _quotient(source[affine.axis + 1 :], target[axis + 1 :])


def _repeats_by_prefix(affine: ChannelAffine, source: Dims, target: Dims, axis: int) -> int | None:
    """M, from the dims in front of them: P = before_a / before_b, and M = size_b / (P C)."""
    outer = _quotient(source[: affine.axis], target[:axis])
    size = target[axis]
    assert isinstance(size, int)
    return None if outer is None or size % (outer * affine.channels) else size // (outer * affine.channels)


def _quotient(dividend: Dims, divisor: Dims) -> int | None:
    """The product of one list of dims over that of another, where it is known to be a whole number."""
    if None in dividend or None in divisor or 0 in dividend or 0 in divisor:
        return None
    symbols = Counter(dim for dim in dividend if isinstance(dim, str))
    symbols.subtract(dim for dim in divisor if isinstance(dim, str))
    if any(symbols.values()):
        return None
    above = math.prod(dim for dim in dividend if isinstance(dim, int))
    below = math.prod(dim for dim in divisor if isinstance(dim, int))
    return above // below if above % below == 0 else None
