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
_STORED_BITS = 52
_FRACTION, _EXPONENT = (1 << _STORED_BITS) - 1, (1 << 11) - 1  # of a double, beside its sign
_LIMBS = (_LOWEST + 1024) // _BITS + 3
_MASK = np.int64((1 << _BITS) - 1)
_HEADER = struct.Struct("<HH")


class ExactSum:
    """The sum of vectors of shape [`size`]."""

    def __init__(self, size: int) -> None:
        self._limbs = np.zeros((_LIMBS, size), np.int64)
        self._places = np.arange(size)

    def add(self, values: NDArray[np.float64]) -> None:
        """Add finite numbers, vectors of shape [..., `size`]: several at once in less time than one after the other."""
        bits = np.ascontiguousarray(values, np.float64).view(np.int64)
        exponent = (bits >> _STORED_BITS) & _EXPONENT
        digits = np.where(exponent > 0, _FRACTION + 1, 0) | (bits & _FRACTION)
        # A subnormal number has the lowest bit of the smallest normal ones, and no leading one.
        position = np.maximum(exponent, 1) - 1
        limb, bit = position >> 5, position & (_BITS - 1)
        low = (digits & _MASK) << bit
        high = (digits >> _BITS) << bit
        sign, places = np.where(bits < 0, -1, 1), limb * self._places.size + self._places
        for offset, part in ((0, low & _MASK), (1, (low >> _BITS) + (high & _MASK)), (2, high >> _BITS)):
            there = places + offset * self._places.size
            np.add.at(self._limbs.reshape(-1), there.reshape(-1), (sign * part).reshape(-1))

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
        return [Fraction(total, 1 << self.binary_places) for total in self.units(self.binary_places)]

    @property
    def binary_places(self) -> int:
        """A number of places behind the binary point that the sums can do with, at most 1074."""
        used = np.flatnonzero(self._limbs.any(axis=1))
        return max(_LOWEST - _BITS * int(used[0]), 0) if used.size else 0

    def units(self, binary_places: int) -> list[int]:
        """The sums, exactly, in units of 2^-`binary_places`, of which they need no fewer."""
        used = np.flatnonzero(self._limbs.any(axis=1))
        shifts = (_BITS * used - _LOWEST + binary_places).tolist()
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
