"""Sums of float64 vectors without any rounding, in memory that does not grow with what is added.

Every finite double is an integer times 2^-1074. A sum is kept as limbs of 32 bits, each in an int64 with 31 bits of
room for carries, so that up to 2^30 vectors can be added before anything could overflow. Exact sums are associative:
the same parts in any order, and in any grouping, give the same bits.
"""

import struct
from fractions import Fraction
from itertools import pairwise
from operator import lshift
from typing import Self

import numpy as np
from numpy.typing import NDArray

_BITS = 32
_LOWEST = 1074  # the smallest double is 2^-1074
_MANTISSA = 53
ONE = 1 << _LOWEST
_LIMBS = (_LOWEST + 1024) // _BITS + 3
_MASK = np.int64((1 << _BITS) - 1)
_HEADER = struct.Struct("<HH")


class ExactSum:
    """The sum of vectors of shape [`size`]."""

    def __init__(self, size: int) -> None:
        self._limbs = np.zeros((_LIMBS, size), np.int64)
        self._places = np.arange(size)

    def add(self, values: NDArray[np.float64]) -> None:
        """Add a vector of finite numbers."""
        mantissa, exponent = np.frexp(values)
        digits = np.ldexp(mantissa, _MANTISSA).astype(np.int64)
        sign, digits = np.sign(digits), np.abs(digits)
        position = np.where(digits == 0, 0, exponent.astype(np.int64) - _MANTISSA + _LOWEST)
        # Below the smallest normal number the mantissa ends in zeros, which would lie below the lowest bit.
        digits >>= np.maximum(-position, 0)
        limb, bit = np.divmod(np.maximum(position, 0), _BITS)
        low = (digits & _MASK) << bit
        high = (digits >> _BITS) << bit
        for offset, part in ((0, low & _MASK), (1, (low >> _BITS) + (high & _MASK)), (2, high >> _BITS)):
            self._limbs[limb + offset, self._places] += sign * part

    def merge(self, other: "ExactSum") -> None:
        """Add a sum of as many channels, whose limbs count as those of one vector."""
        self._limbs += other.limbs()

    def to_bytes(self) -> bytes:
        """The limbs that are not zero everywhere, little-endian: the same bytes for the same sum, however it arose."""
        limbs = self.limbs()
        used = np.flatnonzero(limbs.any(axis=1))
        first, end = (int(used[0]), int(used[-1]) + 1) if used.size else (0, 0)
        return _HEADER.pack(first, end - first) + limbs[first:end].astype("<i8").tobytes()

    @classmethod
    def from_bytes(cls, data: memoryview, size: int) -> tuple[Self, memoryview]:
        """The sum at the beginning of `data`, of shape [`size`], and what follows. Raises ValueError."""
        try:
            first, count = _HEADER.unpack_from(data)
        except struct.error as error:
            raise ValueError("a sum ends early") from error
        end = _HEADER.size + 8 * count * size
        if first + count > _LIMBS or len(data) < end:
            raise ValueError("a sum ends early, or is larger than any")
        found = cls(size)
        limbs = np.frombuffer(data[_HEADER.size : end], "<i8").reshape(count, size)
        if (np.abs(limbs) > _MASK).any():
            raise ValueError("a sum is not in the form in which sums are stored")
        found._limbs[first : first + count] = limbs
        return found, data[end:]

    def limbs(self) -> NDArray[np.int64]:
        """The limbs with magnitudes below 2^32, all of one sign in each channel."""
        limbs = _carried(self._limbs.copy())
        sign = np.where(limbs[-1] < 0, np.int64(-1), np.int64(1))
        return sign * _carried(sign * limbs)

    def exact(self) -> list[Fraction]:
        """The sums, exactly."""
        return [Fraction(total, ONE) for total in self.units()]

    def units(self) -> list[int]:
        """The sums, exactly, in units of the smallest double, of which `ONE` make 1."""
        used = np.flatnonzero(self._limbs.any(axis=1)).tolist()
        shifts = [_BITS * limb for limb in used]
        return [sum(map(lshift, column, shifts)) for column in self._limbs[used].T.tolist()]


def _carried(limbs: NDArray[np.int64]) -> NDArray[np.int64]:
    for lower, upper in pairwise(limbs):
        upper += lower >> _BITS
        lower &= _MASK
    return limbs


def split_product(a: NDArray[np.float64], b: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """a b as an unevaluated sum of two doubles, exactly (T. J. Dekker, 1971), far from overflow and underflow."""
    product = a * b
    (a_high, a_low), (b_high, b_low) = _halves(a), _halves(b)
    error = ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low
    return product, error


def _halves(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    shifted = values * 134217729.0  # 2^27 + 1
    high = shifted - (shifted - values)
    return high, values - high
