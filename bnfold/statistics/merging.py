"""Many batches as one: pooled over all elements, or averaged over batches as PyTorch's `update_bn` does.

Pooled is Chan's formula for any number of parts at once: with n = sum n_i and mean = sum n_i mean_i / n,

    m2 = sum m2_i + sum n_i (mean_i - mean)^2 = sum m2_i + sum n_i mean_i^2 - (sum n_i mean_i)^2 / n.

The right-hand side would cancel in floating point. Here every sum is exact, and each result is rounded once: batches
and shards in any order, merged in any grouping, give the same bits.

Source of the formula: Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample
variances", 1979.
"""

import struct
from collections.abc import Sequence
from typing import Self

import numpy as np

from bnfold.statistics.exact_sum import ExactSum, split_product
from bnfold.statistics.moments import Moments, Statistics

_HEADER = struct.Struct("<4sBBIQQ")
_MAGIC, _VERSION = b"bnfm", 1


class Merger:
    """The moments of batches, taken in any order, and what they come to: counts, and exact sums per channel."""

    SUMS: int

    def __init__(self, channels: int) -> None:
        self.batches = 0
        self.elements = 0
        self._channels = channels
        self._sums = [ExactSum(channels) for _ in range(self.SUMS)]

    def add(self, moments: Moments) -> None:
        """Take one batch."""
        raise NotImplementedError

    def statistics(self) -> Statistics:
        """Of everything taken so far. Raises ValueError where that is nothing."""
        raise NotImplementedError

    def merge(self, other: Self) -> None:
        """Take what another one of this kind took. Raises ValueError where that has another number of channels."""
        if other._channels != self._channels:
            raise ValueError(f"one part has {other._channels} channels, another {self._channels}")
        self.batches += other.batches
        self.elements += other.elements
        for mine, its in zip(self._sums, other._sums, strict=True):
            mine.merge(its)

    def to_bytes(self) -> bytes:
        """All of it, to be merged elsewhere: the same bytes for the same batches in any order and grouping."""
        header = _HEADER.pack(_MAGIC, _VERSION, self.SUMS, self._channels, self.batches, self.elements)
        return header + b"".join(each.to_bytes() for each in self._sums)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The inverse of `to_bytes`. Raises ValueError for anything else, and for another version of it."""
        try:
            magic, version, sums, channels, batches, elements = _HEADER.unpack_from(data)
        except struct.error as error:
            raise ValueError("the moments end early") from error
        if magic != _MAGIC or sums != cls.SUMS:
            raise ValueError("these are no moments of this kind")
        if version != _VERSION:
            raise ValueError(
                f"moments of version {version} cannot be read, only of {_VERSION}: update bnfold everywhere"
            )
        found = cls(channels)
        found.batches, found.elements = batches, elements
        rest = memoryview(data)[_HEADER.size :]
        for index in range(sums):
            found._sums[index], rest = ExactSum.from_bytes(rest, channels)
        if rest:
            raise ValueError("more follows than the moments")
        return found


class Pooled(Merger):
    """Population mean and variance over every element; a batch counts by its elements."""

    SUMS = 3

    def add(self, moments: Moments) -> None:
        """Take one batch; one without elements changes nothing."""
        self.batches += 1
        self.elements += moments.count
        sums, squares, m2 = self._sums
        terms = np.stack((moments.mean, *split_product(moments.mean, moments.mean)))
        parts = np.stack(split_product(np.array(float(moments.count)), terms))
        sums.add(parts[:, 0])
        squares.add(parts[:, 1:])
        m2.add(moments.m2)

    def statistics(self) -> Statistics:
        """m2 / n: the population variance, as ONNX means it."""
        if not self.elements:
            raise ValueError("there is no data")
        (sums, squares, inner), one = _in_one_unit(self._sums)
        whole = self.elements * one
        squared = whole * whole
        n_m2 = [  # the division of whole numbers rounds once
            whole * (inside + square) - total * total
            for inside, square, total in zip(inner, squares, sums, strict=True)
        ]
        mean = np.array([total / whole for total in sums])
        return Statistics(mean, np.array([max(value / squared, 0.0) for value in n_m2]))


class Averaged(Merger):
    """The mean over batches of their means and of their unbiased variances, whatever their sizes."""

    SUMS = 2

    def add(self, moments: Moments) -> None:
        """Take one batch. Raises ValueError for one value per channel, as PyTorch does."""
        if moments.count < 2:
            raise ValueError("a batch has one value per channel, which has no unbiased variance")
        self.batches += 1
        self.elements += moments.count
        means, variances = self._sums
        means.add(moments.mean)
        variances.add(moments.m2 / (moments.count - 1))

    def statistics(self) -> Statistics:
        """PyTorch's cumulative average, without its rounding."""
        if not self.batches:
            raise ValueError("there is no data")
        sums, one = _in_one_unit(self._sums)
        whole = self.batches * one
        mean, variance = (np.array([total / whole for total in totals]) for totals in sums)
        return Statistics(mean, variance)


def _in_one_unit(sums: Sequence[ExactSum]) -> tuple[list[list[int]], int]:
    """The sums in whole units, the largest in which all are whole, and how many of them make 1."""
    places = max(each.binary_places for each in sums)
    return [each.units(places) for each in sums], 1 << places
