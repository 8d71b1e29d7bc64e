"""Means and variances of data that arrives in parts, merged so that no order of arrival shows in the result."""

from typing import TYPE_CHECKING

from bnfold.late_imports import resolving

if TYPE_CHECKING:
    from bnfold.statistics.exact_sum import ExactSum as ExactSum
    from bnfold.statistics.merging import Averaged as Averaged
    from bnfold.statistics.merging import Merger as Merger
    from bnfold.statistics.merging import Pooled as Pooled
    from bnfold.statistics.moments import Moments as Moments
    from bnfold.statistics.moments import Statistics as Statistics
    from bnfold.statistics.moments import moments_of as moments_of

_HOME = {
    "ExactSum": "bnfold.statistics.exact_sum",
    **dict.fromkeys(("Averaged", "Merger", "Pooled"), "bnfold.statistics.merging"),
    **dict.fromkeys(("Moments", "Statistics", "moments_of"), "bnfold.statistics.moments"),
}

__all__ = sorted(_HOME)

__getattr__ = resolving(__name__, _HOME)
