"""Whether two models compute the same: feeds, sessions, measurements, tolerances, proofs and the verdict."""

from typing import TYPE_CHECKING

from bnfold.late_imports import resolving

if TYPE_CHECKING:
    from bnfold.equivalence.feeds.batches import labels_in as labels_in
    from bnfold.equivalence.feeds.user_data import Inputs as Inputs
    from bnfold.equivalence.frozen_verification import FrozenVerification as FrozenVerification
    from bnfold.equivalence.frozen_verification import verify_frozen as verify_frozen
    from bnfold.equivalence.judging.first_divergence import Layer as Layer
    from bnfold.equivalence.judging.first_divergence import Layers as Layers
    from bnfold.equivalence.judging.guilty_folds import Attribution as Attribution
    from bnfold.equivalence.judging.guilty_folds import attribute as attribute
    from bnfold.equivalence.judging.measurement import HISTOGRAM_EDGES as HISTOGRAM_EDGES
    from bnfold.equivalence.judging.measurement import Measurement as Measurement
    from bnfold.equivalence.judging.measurement import Where as Where
    from bnfold.equivalence.judging.measurement import measure as measure
    from bnfold.equivalence.judging.noise import Noise as Noise
    from bnfold.equivalence.judging.sessions_ahead import sessions_ahead as sessions_ahead
    from bnfold.equivalence.judging.tolerance import Judgement as Judgement
    from bnfold.equivalence.judging.tolerance import Limits as Limits
    from bnfold.equivalence.judging.tolerance import Rule as Rule
    from bnfold.equivalence.judging.tolerance import Tolerance as Tolerance
    from bnfold.equivalence.proofs.model import prove as prove
    from bnfold.equivalence.proofs.piece import Proof as Proof
    from bnfold.equivalence.proofs.piece import Standing as Standing
    from bnfold.equivalence.runtime.computed_constants import contradictions as contradictions
    from bnfold.equivalence.runtime.inner_values import tap as tap
    from bnfold.equivalence.runtime.providers import PROVIDERS as PROVIDERS
    from bnfold.equivalence.runtime.providers import Placement as Placement
    from bnfold.equivalence.runtime.providers import Precision as Precision
    from bnfold.equivalence.runtime.segments import SegmentedModel as SegmentedModel
    from bnfold.equivalence.runtime.sessions import RunFailed as RunFailed
    from bnfold.equivalence.runtime.sessions import interruptibly as interruptibly
    from bnfold.equivalence.runtime.side_by_side import answers as answers
    from bnfold.equivalence.runtime.torch_reference import ModuleReference as ModuleReference
    from bnfold.equivalence.runtime.torch_reference import evaluating as evaluating
    from bnfold.equivalence.runtime.torch_reference import is_module as is_module
    from bnfold.equivalence.saved_verification import judge_again as judge_again
    from bnfold.equivalence.structure.copies import copied as copied
    from bnfold.equivalence.structure.evaluation_semantics import evaluate_in_place as evaluate_in_place
    from bnfold.equivalence.structure.evaluation_semantics import make_runnable as make_runnable
    from bnfold.equivalence.structure.given_model import GivenModel as GivenModel
    from bnfold.equivalence.structure.signature import Signature as Signature
    from bnfold.equivalence.structure.signature import Source as Source
    from bnfold.equivalence.structure.signature import signature_of as signature_of
    from bnfold.equivalence.unrelated_verification import verify_unrelated as verify_unrelated
    from bnfold.equivalence.verdict import Verdict as Verdict
    from bnfold.equivalence.verdict import Verification as Verification
    from bnfold.equivalence.verification import verify as verify
    from bnfold.options import Proving as Proving
    from bnfold.options import VerifyOptions as VerifyOptions

# Where each name is. Resolved on first use: few of these modules are needed by any one command.
_HOME = {
    "labels_in": "bnfold.equivalence.feeds.batches",
    "Inputs": "bnfold.equivalence.feeds.user_data",
    **dict.fromkeys(("FrozenVerification", "verify_frozen"), "bnfold.equivalence.frozen_verification"),
    **dict.fromkeys(("Layer", "Layers"), "bnfold.equivalence.judging.first_divergence"),
    **dict.fromkeys(("Attribution", "attribute"), "bnfold.equivalence.judging.guilty_folds"),
    **dict.fromkeys(("HISTOGRAM_EDGES", "Measurement", "Where", "measure"), "bnfold.equivalence.judging.measurement"),
    "Noise": "bnfold.equivalence.judging.noise",
    "sessions_ahead": "bnfold.equivalence.judging.sessions_ahead",
    **dict.fromkeys(("Judgement", "Limits", "Rule", "Tolerance"), "bnfold.equivalence.judging.tolerance"),
    "prove": "bnfold.equivalence.proofs.model",
    **dict.fromkeys(("Proof", "Standing"), "bnfold.equivalence.proofs.piece"),
    "contradictions": "bnfold.equivalence.runtime.computed_constants",
    "tap": "bnfold.equivalence.runtime.inner_values",
    **dict.fromkeys(("PROVIDERS", "Placement", "Precision"), "bnfold.equivalence.runtime.providers"),
    "SegmentedModel": "bnfold.equivalence.runtime.segments",
    **dict.fromkeys(("RunFailed", "interruptibly"), "bnfold.equivalence.runtime.sessions"),
    "answers": "bnfold.equivalence.runtime.side_by_side",
    **dict.fromkeys(("ModuleReference", "evaluating", "is_module"), "bnfold.equivalence.runtime.torch_reference"),
    "judge_again": "bnfold.equivalence.saved_verification",
    "copied": "bnfold.equivalence.structure.copies",
    **dict.fromkeys(("evaluate_in_place", "make_runnable"), "bnfold.equivalence.structure.evaluation_semantics"),
    "GivenModel": "bnfold.equivalence.structure.given_model",
    **dict.fromkeys(("Signature", "Source", "signature_of"), "bnfold.equivalence.structure.signature"),
    "verify_unrelated": "bnfold.equivalence.unrelated_verification",
    **dict.fromkeys(("Verdict", "Verification"), "bnfold.equivalence.verdict"),
    "verify": "bnfold.equivalence.verification",
    **dict.fromkeys(("Proving", "VerifyOptions"), "bnfold.options"),
}

__all__ = sorted(_HOME)


__getattr__ = resolving(__name__, _HOME)


def __dir__() -> list[str]:
    return sorted(__all__)
