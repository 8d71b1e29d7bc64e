"""The distance of new statistics from the stored ones, which shows stale ones."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from bnfold.recalibration.targets import Target
from bnfold.statistics import Statistics


@dataclass(frozen=True)
class Drift:
    """One normalization before and after.

    `mean`: the largest move of a channel's mean, in stored standard deviations (epsilon included). `deviation`: the
    largest factor by which a channel's standard deviation grew or shrank, at least 1. Both are None where nothing was
    stored. `elements`: the number of values per channel that the new statistics rest on.
    """

    node: str
    scope: str
    channels: int
    elements: int
    mean: float | None
    deviation: float | None

    @classmethod
    def of(cls, target: Target, new: Statistics, elements: int) -> "Drift":
        """The drift of `target` to `new`."""
        scope, node = target.place
        moved, grown = None, None
        if target.mean is not None and target.variance is not None and target.mean.shape == new.mean.shape:
            before = np.sqrt(np.maximum(target.variance + target.epsilon, np.finfo(float).tiny))
            after = np.sqrt(np.maximum(new.variance + target.epsilon, np.finfo(float).tiny))
            moved = float((np.abs(new.mean - target.mean) / before).max(initial=0.0))
            grown = float(np.maximum(after / before, before / after).max(initial=1.0))
        return cls(node, scope, new.mean.size, elements, moved, grown)

    def to_dict(self) -> dict[str, Any]:
        """The drift as the JSON report writes it."""
        return {
            "node": self.node,
            "scope": self.scope,
            "channels": self.channels,
            "elements": self.elements,
            "mean": self.mean,
            "deviation": self.deviation,
        }
