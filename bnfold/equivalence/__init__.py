"""Whether two models compute the same: feeds, sessions, measurements, tolerances, proofs and the verdict."""

from bnfold.equivalence.attribution import Attribution, attribute
from bnfold.equivalence.frozen import FrozenVerification, verify_frozen
from bnfold.equivalence.layers import Layer, Layers
from bnfold.equivalence.measurement import HISTOGRAM_EDGES, Measurement, Where, measure
from bnfold.equivalence.noise import Noise
from bnfold.equivalence.proof import Proof, Rewrite, Standing, prove
from bnfold.equivalence.providers import PROVIDERS, Placement, Precision
from bnfold.equivalence.rejudge import judge_again
from bnfold.equivalence.signature import Source
from bnfold.equivalence.taps import tap
from bnfold.equivalence.tolerance import Judgement, Limit, Limits, Rule, Tolerance
from bnfold.equivalence.torch_reference import ModuleReference, is_module
from bnfold.equivalence.user_feeds import Inputs
from bnfold.equivalence.verification import Verdict, Verification, VerifyOptions, verify

__all__ = [
    "HISTOGRAM_EDGES",
    "PROVIDERS",
    "Attribution",
    "FrozenVerification",
    "Inputs",
    "Judgement",
    "Layer",
    "Layers",
    "Limit",
    "Limits",
    "Measurement",
    "ModuleReference",
    "Noise",
    "Placement",
    "Precision",
    "Proof",
    "Rewrite",
    "Rule",
    "Source",
    "Standing",
    "Tolerance",
    "Verdict",
    "Verification",
    "VerifyOptions",
    "Where",
    "attribute",
    "is_module",
    "judge_again",
    "measure",
    "prove",
    "tap",
    "verify",
    "verify_frozen",
]
