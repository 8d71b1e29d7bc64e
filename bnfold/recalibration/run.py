"""New population statistics for every BatchNormalization, from data that runs through the model.

Exact: one pass over the data for each level of normalizations, so that each sees what the final ones before it make.
Fast: one pass in which every normalization uses the statistics of its batch, as training does.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnfold.batches import Data, Source
from bnfold.decisions import NodeKey, Refused
from bnfold.equivalence import tap
from bnfold.errors import ModelError, UsageError
from bnfold.graph import Model
from bnfold.onnxfile import OnnxFile
from bnfold.options import CalibrationOptions
from bnfold.progress import StageProgress
from bnfold.recalibration.drift import Drift
from bnfold.recalibration.targets import Target, targets_of
from bnfold.statistics import Averaged, Merger, Pooled, Statistics, moments_of


@dataclass(frozen=True)
class Calibration:
    """The new statistics by scope and label, and how they came about."""

    statistics: Mapping[NodeKey, Statistics]
    drifts: tuple[Drift, ...]
    mode: str
    weighting: str = ""
    batches: int = 0
    passes: int = 0
    left_out: Mapping[NodeKey, Refused] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The calibration as the JSON report writes it, without the statistics themselves."""
        return {
            "mode": self.mode,
            "statistics": self.weighting,
            "batches": self.batches,
            "passes": self.passes,
            "drift": [drift.to_dict() for drift in self.drifts],
            "left_out": [
                {"node": node, "scope": scope, "reason": why.reason.code, "detail": why.detail}
                for (scope, node), why in self.left_out.items()
            ],
        }


def calibrate(
    file: OnnxFile,
    model: Model,
    data: Data,
    options: CalibrationOptions | None = None,
    *,
    keep: Iterable[str] = (),
    on_progress: StageProgress | None = None,
) -> Calibration:
    """Run `data` through the model of `file` and gather the statistics of each BatchNormalization of its main graph.

    `model` is the same file as a graph, not edited yet. `keep` are shell patterns of node names whose statistics stay;
    `on_progress`: see `Source`. Raises UsageError for data that does not fit or cannot be read as often as needed,
    ModelError where there is nothing to compute.
    """
    options = options or CalibrationOptions()
    by_torch = options.statistics == "torch"
    targets, left_out = targets_of(model, tuple(keep))
    if not targets:
        reasons = "; ".join(f"{node}: {why}" for (_, node), why in left_out.items())
        raise ModelError(f"there is no BatchNormalization to recalibrate{f' ({reasons})' if reasons else ''}")
    fast = by_torch or options.mode == "fast"
    levels = [targets] if fast else _by_level(targets)
    source = Source(data, len(levels), on_progress)
    known: dict[NodeKey, Statistics] = {}
    drifts: dict[NodeKey, Drift] = {}
    batches = 0
    for level in levels:
        merged = _gather(file, level, source.batches(), known, by_torch=by_torch, by_batch=fast)
        batches = max(merger.batches for merger in merged.values())
        for target in level:
            merger = merged[target.place]
            known[target.place] = merger.statistics()
            drifts[target.place] = Drift.of(target, known[target.place], merger.elements)
    mode = "fast" if fast else "exact"
    ordered = tuple(drifts[target.place] for target in targets)
    return Calibration(known, ordered, mode, options.statistics, batches, len(levels), left_out)


def _by_level(targets: Iterable[Target]) -> list[list[Target]]:
    levels: dict[int, list[Target]] = {}
    for target in targets:
        levels.setdefault(target.level, []).append(target)
    return [levels[level] for level in sorted(levels)]


def _gather(
    file: OnnxFile,
    targets: list[Target],
    batches: Iterable[Any],
    known: Mapping[NodeKey, Statistics],
    *,
    by_torch: bool,
    by_batch: bool,
) -> dict[NodeKey, Merger]:
    """One pass over the data; one batch of values is in memory at a time."""
    merged: dict[NodeKey, Merger] = {}
    places = [target.place for target in targets]
    for values in tap(file, places, batches, known=known, by_batch=by_batch):
        for place in places:
            _take(values.pop(place), place, merged, by_torch=by_torch)
    if not merged or not all(merger.elements for merger in merged.values()):
        raise UsageError("the data holds no batch: nothing to compute statistics from")
    return merged


def _take(values: NDArray[Any], place: NodeKey, merged: dict[NodeKey, Merger], *, by_torch: bool) -> None:
    if not np.isfinite(values).all():
        raise UsageError(f"the data makes values at {place[1]} that are not finite: look for broken rows in it")
    moments = moments_of(values)
    if place not in merged:
        merged[place] = (Averaged if by_torch else Pooled)(moments.channels)
    try:
        merged[place].add(moments)
    except ValueError as why:
        raise UsageError(f"{place[1]}: {why}; use larger batches, or --statistics population") from why
