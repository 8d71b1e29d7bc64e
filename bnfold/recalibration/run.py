"""New population statistics for every BatchNormalization, from data that runs through the model.

Exact: level by level of normalizations, so that each sees what the final ones before it make; see `exact.py`.
Fast: one pass in which every normalization uses the statistics of its batch, as training does.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bnfold.batches import Data, Source
from bnfold.decisions import NodeKey, Refused
from bnfold.equivalence import SegmentedModel, tap
from bnfold.errors import ModelError
from bnfold.graph import Model
from bnfold.onnxfile import OnnxFile
from bnfold.options import CalibrationOptions
from bnfold.progress import StageProgress
from bnfold.recalibration.drift import Drift
from bnfold.recalibration.exact import Beside, ByLevel
from bnfold.recalibration.gathering import Gathered, in_one_pass, levels_of
from bnfold.recalibration.kept_values import KeptValues
from bnfold.recalibration.targets import Target, targets_of
from bnfold.statistics import Statistics


@dataclass(frozen=True)
class Calibration:
    """The new statistics by scope and label, and how they came about.

    `levels` of normalizations, for which the data was read `passes` times and at most `kept_bytes` were in memory and
    `spilled_bytes` in a file between two of them; `repeated`: how often a segment of the model was run again for a
    batch, since what it made did not fit.
    """

    statistics: Mapping[NodeKey, Statistics]
    drifts: tuple[Drift, ...]
    mode: str
    weighting: str = ""
    batches: int = 0
    passes: int = 0
    levels: int = 0
    kept_bytes: int = 0
    spilled_bytes: int = 0
    repeated: int = 0
    left_out: Mapping[NodeKey, Refused] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The calibration as the JSON report writes it, without the statistics themselves."""
        return {
            "mode": self.mode,
            "statistics": self.weighting,
            "batches": self.batches,
            "passes": self.passes,
            "levels": self.levels,
            "kept_bytes": self.kept_bytes,
            "spilled_bytes": self.spilled_bytes,
            "repeated": self.repeated,
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
    targets, left_out = targets_or_refuse(model, keep)
    levels = levels_of(targets, options)
    if in_one_pass(options):
        found = _fast(file, targets, data, options, on_progress)
    else:
        found = _exact(file, targets, levels, data, options, on_progress)
    return replace(found, weighting=options.statistics, left_out=left_out)


def targets_or_refuse(model: Model, keep: Iterable[str]) -> tuple[list[Target], dict[NodeKey, Refused]]:
    """What `targets_of` gives. Raises ModelError where there is none."""
    targets, left_out = targets_of(model, tuple(keep))
    if not targets:
        reasons = "; ".join(f"{node}: {why}" for (_, node), why in left_out.items())
        raise ModelError(f"there is no BatchNormalization to recalibrate{f' ({reasons})' if reasons else ''}")
    return targets, left_out


def _fast(
    file: OnnxFile,
    targets: Sequence[Target],
    data: Data,
    options: CalibrationOptions,
    on_progress: StageProgress | None,
) -> Calibration:
    """One pass in which each normalization uses its batch; the moments of a batch are taken beside the next run."""
    gathered = Gathered([target.place for target in targets], by_torch=options.statistics == "torch")
    with Beside(gathered.take) as beside:
        for values in tap(file, gathered.places, Source(data, 1, on_progress).batches(), known={}, by_batch=True):
            beside.take(values)
    known, drifts = gathered.statistics(targets)
    return Calibration(known, drifts, "fast", batches=gathered.batches, passes=1, levels=1)


def _exact(
    file: OnnxFile,
    targets: Sequence[Target],
    levels: Sequence[Sequence[Target]],
    data: Data,
    options: CalibrationOptions,
    on_progress: StageProgress | None,
) -> Calibration:
    """Level by level; while one batch runs, the moments of the one before it are computed."""
    places = [[target.place for target in level] for level in levels]
    source = Source(data, len(levels), on_progress, kept=True)
    known: dict[NodeKey, Statistics] = {}
    drifts: dict[NodeKey, Drift] = {}
    batches = 0
    with (
        KeptValues(options.spill_limit, options.spill, options.spill_budget) as kept,
        SegmentedModel(file, places) as model,
    ):
        by_level = ByLevel(model, len(levels), source, kept)
        for number, level in enumerate(levels):
            gathered = Gathered(places[number])
            with Beside(gathered.take) as beside:
                by_level.run(number, known, beside.take)
            batches = gathered.batches
            found, moved = gathered.statistics(level)
            known |= found
            drifts |= dict(zip(places[number], moved, strict=True))
    return Calibration(
        known,
        tuple(drifts[target.place] for target in targets),
        "exact",
        batches=batches,
        passes=by_level.read,
        levels=len(levels),
        kept_bytes=kept.most_in_memory,
        spilled_bytes=kept.most_in_file,
        repeated=by_level.repeated,
    )
