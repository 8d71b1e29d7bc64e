"""New statistics for BatchNormalization: from data that runs through the model, or from a file of weights."""

from bnfold.recalibration.drift import Drift
from bnfold.recalibration.request import CalibrationOptions, calibration
from bnfold.recalibration.run import Calibration, Mode, RecalibrateOptions, Weighting, calibrate
from bnfold.recalibration.sources import ImageOptions, data_source
from bnfold.recalibration.targets import Target, targets_of

__all__ = [
    "Calibration",
    "CalibrationOptions",
    "Drift",
    "ImageOptions",
    "Mode",
    "RecalibrateOptions",
    "Target",
    "Weighting",
    "calibrate",
    "calibration",
    "data_source",
    "targets_of",
]
