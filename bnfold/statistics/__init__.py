"""Means and variances of data that arrives in parts, merged so that no order of arrival shows in the result."""

from bnfold.statistics.exact_sum import ExactSum
from bnfold.statistics.merging import Averaged, Merger, Pooled
from bnfold.statistics.moments import Moments, Statistics, moments_of

__all__ = ["Averaged", "ExactSum", "Merger", "Moments", "Pooled", "Statistics", "moments_of"]
