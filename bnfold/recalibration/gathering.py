"""What data comes to at normalizations: their moments batch by batch, and the levels in which they are taken."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnfold.decisions import NodeKey
from bnfold.errors import UsageError
from bnfold.options import CalibrationOptions
from bnfold.recalibration.drift import Drift
from bnfold.recalibration.targets import Target
from bnfold.statistics import Averaged, Merger, Pooled, Statistics, moments_of


def in_one_pass(options: CalibrationOptions) -> bool:
    """Whether each normalization uses the statistics of its batch, so that no level waits for another."""
    return options.mode == "fast" or options.statistics == "torch"


def levels_of(targets: Iterable[Target], options: CalibrationOptions) -> list[list[Target]]:
    """The normalizations that are taken together: one level after the other, or all in one pass."""
    if in_one_pass(options):
        return [list(targets)]
    levels: dict[int, list[Target]] = {}
    for target in targets:
        levels.setdefault(target.level, []).append(target)
    return [levels[level] for level in sorted(levels)]


class Gathered:
    """The moments of the data of some normalizations, batch by batch."""

    def __init__(self, places: Sequence[NodeKey], *, by_torch: bool = False) -> None:
        self.places = tuple(places)
        self._kind: type[Merger] = Averaged if by_torch else Pooled
        self._merged: dict[NodeKey, Merger] = {}

    @property
    def batches(self) -> int:
        """How many there were."""
        return max((merger.batches for merger in self._merged.values()), default=0)

    def take(self, values: Mapping[NodeKey, NDArray[Any]]) -> None:
        """Take the data of one batch. Raises UsageError."""
        for place in self.places:
            self._take(place, values[place])

    def to_bytes(self) -> dict[NodeKey, bytes]:
        """Everything that was taken, for `merge` elsewhere."""
        return {place: merger.to_bytes() for place, merger in self._merged.items()}

    def merge(self, found: Mapping[NodeKey, bytes]) -> None:
        """Take what another one took, in any order. Raises ValueError for what is no such thing."""
        for place, data in found.items():
            merger = self._kind.from_bytes(data)
            if place in self._merged:
                self._merged[place].merge(merger)
            else:
                self._merged[place] = merger

    def statistics(self, targets: Iterable[Target]) -> tuple[dict[NodeKey, Statistics], tuple[Drift, ...]]:
        """What all batches come to, and how far that is from what was stored. Raises UsageError for no batch."""
        if not self._merged or not all(merger.elements for merger in self._merged.values()):
            raise UsageError("the data holds no batch: nothing to compute statistics from")
        found = {place: merger.statistics() for place, merger in self._merged.items()}
        drifts = [Drift.of(target, found[target.place], self._merged[target.place].elements) for target in targets]
        return found, tuple(drifts)

    def _take(self, place: NodeKey, values: NDArray[Any]) -> None:
        with np.errstate(all="ignore"):
            moments = moments_of(values)
        # A value that is not finite leaves no mean that is: only then are all looked at.
        if not np.isfinite(moments.mean).all() and not np.isfinite(values).all():
            raise UsageError(f"the data makes values at {place[1]} that are not finite: look for broken rows in it")
        if place not in self._merged:
            self._merged[place] = self._kind(moments.channels)
        try:
            self._merged[place].add(moments)
        except ValueError as why:
            raise UsageError(f"{place[1]}: {why}; use larger batches, or --statistics population") from why
