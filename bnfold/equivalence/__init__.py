"""Whether two models compute the same: feeds, sessions, measurements, tolerances, proofs and the verdict."""

from bnfold.equivalence.answers import answers
from bnfold.equivalence.attribution import Attribution, attribute
from bnfold.equivalence.batches import labels_in
from bnfold.equivalence.evaluation import evaluate_in_place, make_runnable
from bnfold.equivalence.frozen import FrozenVerification, copied, verify_frozen
from bnfold.equivalence.layers import Layer, Layers
from bnfold.equivalence.measurement import HISTOGRAM_EDGES, Measurement, Where, measure
from bnfold.equivalence.noise import Noise
from bnfold.equivalence.proof import Proof, Standing
from bnfold.equivalence.providers import PROVIDERS, Placement, Precision
from bnfold.equivalence.proving import prove
from bnfold.equivalence.rejudge import judge_again
from bnfold.equivalence.sessions import RunFailed
from bnfold.equivalence.signature import Signature, Source, signature_of
from bnfold.equivalence.taps import tap
from bnfold.equivalence.tolerance import Judgement, Limit, Limits, Rule, Tolerance
from bnfold.equivalence.torch_reference import ModuleReference, is_module
from bnfold.equivalence.user_feeds import Inputs
from bnfold.equivalence.verification import Proving, Verdict, Verification, VerifyOptions, verify

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
    "Proving",
    "Rule",
    "RunFailed",
    "Signature",
    "Source",
    "Standing",
    "Tolerance",
    "Verdict",
    "Verification",
    "VerifyOptions",
    "Where",
    "answers",
    "attribute",
    "copied",
    "evaluate_in_place",
    "is_module",
    "judge_again",
    "labels_in",
    "make_runnable",
    "measure",
    "prove",
    "signature_of",
    "tap",
    "verify",
    "verify_frozen",
]
