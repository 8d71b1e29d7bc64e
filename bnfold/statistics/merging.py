"""Many batches as one: pooled over all elements, or averaged over batches as PyTorch's `update_bn` does.

Pooled is Chan's formula for any number of parts at once: with n = sum n_i and mean = sum n_i mean_i / n,

    m2 = sum m2_i + sum n_i (mean_i - mean)^2 = sum m2_i + sum n_i mean_i^2 - (sum n_i mean_i)^2 / n.

The right-hand side would cancel in floating point. Here every sum is exact, and each result is rounded once: batches
and shards in any order, merged in any grouping, give the same bits.

Source of the formula: Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample
variances", 1979.
"""

from typing import Protocol

import numpy as np

from bnfold.statistics.exact_sum import ExactSum, split_product
from bnfold.statistics.moments import Moments, Statistics


class Merger(Protocol):
    """Takes the moments of batches, in any order, and gives the statistics of all."""

    batches: int
    elements: int

    def add(self, moments: Moments) -> None:
        """Take one batch."""

    def statistics(self) -> Statistics:
        """Of everything taken so far. Raises ValueError where that is nothing."""


class Pooled:
    """Population mean and variance over every element; a batch counts by its elements."""

    def __init__(self, channels: int) -> None:
        self.batches = 0
        self.elements = 0
        self._sums, self._squares, self._m2 = (ExactSum(channels) for _ in range(3))

    def add(self, moments: Moments) -> None:
        """Take one batch; one without elements changes nothing."""
        self.batches += 1
        self.elements += moments.count
        count = np.full(moments.channels, float(moments.count))
        for part in split_product(count, moments.mean):
            self._sums.add(part)
        for square in split_product(moments.mean, moments.mean):
            for part in split_product(count, square):
                self._squares.add(part)
        self._m2.add(moments.m2)

    def statistics(self) -> Statistics:
        """m2 / n: the population variance, as ONNX means it."""
        if not self.elements:
            raise ValueError("there is no data")
        n = self.elements
        sums = self._sums.exact()
        m2 = [
            inside + squares - total * total / n
            for inside, squares, total in zip(self._m2.exact(), self._squares.exact(), sums, strict=True)
        ]
        mean = np.array([float(total / n) for total in sums])
        return Statistics(mean, np.array([max(float(value / n), 0.0) for value in m2]))


class Averaged:
    """The mean over batches of their means and of their unbiased variances, whatever their sizes."""

    def __init__(self, channels: int) -> None:
        self.batches = 0
        self.elements = 0
        self._means, self._variances = ExactSum(channels), ExactSum(channels)

    def add(self, moments: Moments) -> None:
        """Take one batch. Raises ValueError for one value per channel, as PyTorch does."""
        if moments.count < 2:
            raise ValueError("a batch has one value per channel, which has no unbiased variance")
        self.batches += 1
        self.elements += moments.count
        self._means.add(moments.mean)
        self._variances.add(moments.m2 / (moments.count - 1))

    def statistics(self) -> Statistics:
        """PyTorch's cumulative average, without its rounding."""
        if not self.batches:
            raise ValueError("there is no data")
        mean, variance = (
            np.array([float(total / self.batches) for total in sums.exact()]) for sums in (self._means, self._variances)
        )
        return Statistics(mean, variance)
