"""Recalibration, substitution and accuracy from data, or from a file of weights, as the options ask for it."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bnfold.errors import UsageError
from bnfold.graph import Model
from bnfold.onnxfile import OnnxFile
from bnfold.options import CalibrationOptions
from bnfold.passes import PassOptions, SubstituteBatchNormOptions
from bnfold.passes.substitute_batch_norm import KINDS
from bnfold.progress import StageProgress
from bnfold.recalibration.accuracy import Accuracy, task_accuracy
from bnfold.recalibration.fitting import Fitted, fit
from bnfold.recalibration.opening import opened
from bnfold.recalibration.run import Calibration, calibrate
from bnfold.recalibration.weights import statistics_from
from bnfold.statistics import Statistics


def calibration(
    file: OnnxFile,
    model: Model,
    *,
    data: Any = None,
    weights: str | os.PathLike[str] | None = None,
    options: CalibrationOptions | None = None,
    keep: Iterable[str] = (),
    on_progress: StageProgress | None = None,
) -> Calibration | None:
    """New statistics for the model of `file`; None where neither `data` nor `weights` is given. Raises UsageError."""
    options = options or CalibrationOptions()
    if data is not None and weights is not None:
        raise UsageError("statistics come from data or from a file of weights, not from both")
    if weights is not None:
        return statistics_from(weights, model, keep)
    if data is None:
        return None
    if options.scheduler is not None:
        from bnfold.recalibration.machines import calibrate_there

        return calibrate_there(options.scheduler, file, model, data, options, keep=keep, on_progress=on_progress)
    return calibrate(file, model, opened(data, model, options), options, keep=keep, on_progress=on_progress)


def substitution(
    file: OnnxFile,
    model: Model,
    kind: str,
    *,
    data: Any = None,
    statistics: Mapping[tuple[str, str], Statistics] | None = None,
    options: CalibrationOptions | None = None,
    only: Iterable[str] = (),
    keep: Iterable[str] = (),
    on_progress: StageProgress | None = None,
) -> tuple[SubstituteBatchNormOptions, tuple[Fitted, ...]]:
    """Options of the substitute `kind` ("group-norm", "group-norm:8", "instance-norm", "layer-norm"), fitted to `data`.

    `statistics` are those that BatchNormalization gets first. Raises UsageError.
    """
    name, colon, groups = kind.partition(":")
    if name not in KINDS or (colon and (name != "group-norm" or not groups.isdigit() or not int(groups))):
        raise UsageError(f"{kind!r} is no substitute: use group-norm, group-norm:G, instance-norm or layer-norm")
    chosen = SubstituteBatchNormOptions(name, int(groups) if colon else None, tuple(only), tuple(keep))
    if data is None:
        return chosen, ()
    options = options or CalibrationOptions()
    fits, distances = fit(file, model, opened(data, model, options), chosen, statistics, on_progress)
    return replace(chosen, fits=fits), distances


def accuracy(
    original: OnnxFile,
    candidate: Path,
    data: Any,
    passes: PassOptions,
    options: CalibrationOptions | None = None,
    *,
    on_progress: StageProgress | None = None,
) -> Accuracy | None:
    """The accuracy by the labels in `data` of the model in `original`, which is edited, and of the result of `passes`.

    None where `data` is None or has no labels. Raises UsageError.
    """
    if data is None:
        return None
    options = options or CalibrationOptions()
    data = opened(data, Model(original), options)
    return task_accuracy(original, candidate, data, passes, options.labels, on_progress)
