"""Whether two models compute the same: feeds, sessions, measurements, tolerances, proofs and the verdict."""

from bnfold.equivalence.feeds.batches import labels_in
from bnfold.equivalence.feeds.user_data import Inputs
from bnfold.equivalence.frozen_verification import FrozenVerification, verify_frozen
from bnfold.equivalence.judging.first_divergence import Layer, Layers
from bnfold.equivalence.judging.guilty_folds import Attribution, attribute
from bnfold.equivalence.judging.measurement import HISTOGRAM_EDGES, Measurement, Where, measure
from bnfold.equivalence.judging.noise import Noise
from bnfold.equivalence.judging.tolerance import Judgement, Limit, Limits, Rule, Tolerance
from bnfold.equivalence.options import Proving, VerifyOptions
from bnfold.equivalence.proofs.model import prove
from bnfold.equivalence.proofs.piece import Proof, Standing
from bnfold.equivalence.runtime.computed_constants import contradictions
from bnfold.equivalence.runtime.inner_values import tap
from bnfold.equivalence.runtime.providers import PROVIDERS, Placement, Precision
from bnfold.equivalence.runtime.sessions import RunFailed
from bnfold.equivalence.runtime.side_by_side import answers
from bnfold.equivalence.runtime.torch_reference import ModuleReference, is_module
from bnfold.equivalence.saved_verification import judge_again
from bnfold.equivalence.structure.copies import copied
from bnfold.equivalence.structure.evaluation_semantics import evaluate_in_place, make_runnable
from bnfold.equivalence.structure.signature import Signature, Source, signature_of
from bnfold.equivalence.unrelated_verification import verify_unrelated
from bnfold.equivalence.verdict import Verdict, Verification
from bnfold.equivalence.verification import verify

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
    "contradictions",
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
    "verify_unrelated",
]
