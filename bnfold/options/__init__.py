"""The options of each command as one frozen dataclass: keywords, flags, reports and JSON are views of its fields."""

from bnfold.options.commands import (
    COMMANDS,
    CalibrationOptions,
    DataOptions,
    FreezeOptions,
    InspectOptions,
    LimitByOutput,
    OnMismatch,
    OptimizeOptions,
    Proving,
    RecalibrateOptions,
    SomeData,
    VerifyOptions,
)
from bnfold.options.fields import Option, Options, keywords, option, options_of
from bnfold.options.kinds import is_from_python

__all__ = [
    "COMMANDS",
    "CalibrationOptions",
    "DataOptions",
    "FreezeOptions",
    "InspectOptions",
    "LimitByOutput",
    "OnMismatch",
    "OptimizeOptions",
    "Option",
    "Options",
    "Proving",
    "RecalibrateOptions",
    "SomeData",
    "VerifyOptions",
    "is_from_python",
    "keywords",
    "option",
    "options_of",
]
