"""The options of each command as one frozen dataclass: keywords, flags, reports and JSON are views of its fields."""

from bnfold.options.commands import (
    COMMANDS,
    CalibrationOptions,
    DataOptions,
    FreezeOptions,
    InspectOptions,
    Limits,
    OnMismatch,
    OptimizeOptions,
    Proving,
    RecalibrateOptions,
    SomeData,
    VerifyOptions,
)
from bnfold.options.fields import Option, Options, keywords, option, options_of

__all__ = [
    "COMMANDS",
    "CalibrationOptions",
    "DataOptions",
    "FreezeOptions",
    "InspectOptions",
    "Limits",
    "OnMismatch",
    "OptimizeOptions",
    "Option",
    "Options",
    "Proving",
    "RecalibrateOptions",
    "SomeData",
    "VerifyOptions",
    "keywords",
    "option",
    "options_of",
]
