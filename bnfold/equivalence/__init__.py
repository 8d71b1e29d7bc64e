"""Whether two models compute the same: feeds, sessions, measurements, tolerances and the verdict."""

from bnfold.equivalence.measurement import HISTOGRAM_EDGES, Measurement, Where, measure
from bnfold.equivalence.tolerance import Judgement, Limits, Rule, Tolerance
from bnfold.equivalence.verification import Verdict, Verification, VerifyOptions, verify

__all__ = [
    "HISTOGRAM_EDGES",
    "Judgement",
    "Limits",
    "Measurement",
    "Rule",
    "Tolerance",
    "Verdict",
    "Verification",
    "VerifyOptions",
    "Where",
    "measure",
    "verify",
]
