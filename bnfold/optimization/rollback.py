"""The result differs: which folds are guilty, and the model without them."""

from dataclasses import replace
from typing import TYPE_CHECKING

from bnfold.optimization.attempt import Attempt, Fold, Setup, attempt
from bnfold.options import OnMismatch
from bnfold.report import GOOD

if TYPE_CHECKING:
    from collections.abc import Callable

    from bnfold.equivalence import Attribution

_CHEAP_BYTES = 64 << 20
"""Up to this size of a model the guilty folds are looked for although nobody asked to roll them back."""
_MOST_TRIALS: dict[OnMismatch, int] = {"fail": 32, "rollback": 200}


def rolled_back(setup: Setup, failed: Attempt) -> "tuple[Attempt, Attribution[Fold] | None]":
    """The attempt to report on, whose output is the latest that was written, and which folds were found guilty.

    That attempt is without the guilty folds where a rollback was asked for and helps, else the failed one. None for
    the guilty where nobody asked and the model is so large that looking for them is no small matter.
    """
    latest = failed

    def without(forbidden: frozenset[Fold]) -> Attempt:
        nonlocal latest
        if latest.forbidden != forbidden:
            latest = attempt(setup, forbidden, looks_late=failed.looked_late)
        return latest

    wants_rollback = setup.request.options.on_mismatch == "rollback"
    if failed.verification is None or not (wants_rollback or failed.input.nbytes <= _CHEAP_BYTES):
        return failed, None
    found = _guilty_folds(failed, without, _MOST_TRIALS[setup.request.options.on_mismatch])
    forbidden = frozenset(found.guilty) if wants_rollback and found.cleared else failed.forbidden
    return replace(without(forbidden), input=failed.input, has_bug=failed.has_bug), found


def _guilty_folds(failed: Attempt, without: "Callable[[frozenset[Fold]], Attempt]", most: int) -> "Attribution[Fold]":
    """The folds without which the result agrees: first among those whose proof is broken, else among all."""
    from bnfold.equivalence import attribute

    def agrees_without(forbidden: frozenset[Fold]) -> bool:
        return without(forbidden).verdict in GOOD

    proofs = () if failed.verification is None else failed.verification.proofs
    broken = {(proof.scope, name) for proof in proofs if proof.standing == "broken" for name in proof.normalizations}
    suspects = [fold for fold in failed.folds if fold in broken]
    if suspects:
        found = attribute(suspects, agrees_without)
        if found.cleared:
            return found
    return attribute(failed.folds, agrees_without, most)
