"""What a caller asks for, as one thing: data or a file of weights, and how to use it."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from bnfold.errors import UsageError
from bnfold.graph import Model
from bnfold.onnxfile import OnnxFile
from bnfold.recalibration.run import Calibration, Mode, Progress, RecalibrateOptions, Weighting, calibrate
from bnfold.recalibration.sources import ImageOptions, data_source
from bnfold.recalibration.weights import statistics_from


@dataclass(frozen=True)
class CalibrationOptions:
    """`mode`: "exact" or "fast". `statistics`: "population" or "torch". `batch_size`: for files and images.

    `images`: how images become numbers. `progress`: called after each batch (pass, passes, batches done).
    """

    mode: str = "exact"
    statistics: str = "population"
    batch_size: int = 64
    images: ImageOptions = field(default_factory=ImageOptions)
    progress: Progress | None = None

    def to_dict(self) -> dict[str, Any]:
        """As the report writes it."""
        return {
            "mode": self.mode,
            "statistics": self.statistics,
            "batch_size": self.batch_size,
            "mean": list(self.images.mean),
            "std": list(self.images.std),
            "layout": self.images.layout,
        }


def calibration(
    file: OnnxFile,
    model: Model,
    *,
    data: Any = None,
    weights: str | os.PathLike[str] | None = None,
    options: CalibrationOptions | None = None,
    keep: Iterable[str] = (),
) -> Calibration | None:
    """New statistics for the model of `file`; None where neither `data` nor `weights` is given. Raises UsageError."""
    options = options or CalibrationOptions()
    if data is not None and weights is not None:
        raise UsageError("statistics come from data or from a file of weights, not from both")
    if weights is not None:
        return statistics_from(weights, model, keep)
    if data is None:
        return None
    try:
        how = RecalibrateOptions(Mode(options.mode), Weighting(options.statistics), tuple(keep), options.progress)
    except ValueError as error:
        raise UsageError(f"{error}: modes are exact and fast, statistics population and torch") from error
    if isinstance(data, str | os.PathLike):
        data = data_source(data, _shapes(model), options.batch_size, options.images)
    return calibrate(file, model, data, how)


def _shapes(model: Model) -> dict[str, tuple[int | str | None, ...]]:
    graph = model.main
    names = [value.name for value in model.proto.graph.input if graph.constant(value.name) is None]
    names = [name for name in names if not graph.is_overridable(name)]
    return {name: graph.shape(name) or () for name in names}
