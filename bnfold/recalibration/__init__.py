"""New statistics for BatchNormalization: from data that runs through the model, or from a file of weights."""

from bnfold.batches import ImageOptions, data_source
from bnfold.recalibration.accuracy import Accuracy
from bnfold.recalibration.drift import Drift
from bnfold.recalibration.fitting import Fitted
from bnfold.recalibration.request import accuracy, calibration, substitution
from bnfold.recalibration.run import Calibration, calibrate
from bnfold.recalibration.targets import Target, targets_of

__all__ = [
    "Accuracy",
    "Calibration",
    "Drift",
    "Fitted",
    "ImageOptions",
    "Target",
    "accuracy",
    "calibrate",
    "calibration",
    "data_source",
    "substitution",
    "targets_of",
]
