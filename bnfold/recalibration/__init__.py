"""New statistics for BatchNormalization: from data that runs through the model, or from a file of weights."""

from bnfold.batches import ImageOptions, data_source
from bnfold.recalibration.drift import Drift
from bnfold.recalibration.fitting import Fitted
from bnfold.recalibration.request import CalibrationOptions, calibration, substitution
from bnfold.recalibration.run import Calibration, Mode, RecalibrateOptions, Weighting, calibrate
from bnfold.recalibration.targets import Target, targets_of

__all__ = [
    "Calibration",
    "CalibrationOptions",
    "Drift",
    "Fitted",
    "ImageOptions",
    "Mode",
    "RecalibrateOptions",
    "Target",
    "Weighting",
    "calibrate",
    "calibration",
    "data_source",
    "substitution",
    "targets_of",
]
