"""The result differs: which folds or passes are guilty, and the model without them."""

from dataclasses import replace
from typing import TYPE_CHECKING

from bnfold.errors import UsageError
from bnfold.optimization.attempt import Attempt, Setup, Suspect, attempt
from bnfold.options import OnMismatch
from bnfold.pipeline import Ran
from bnfold.report import GOOD

if TYPE_CHECKING:
    from collections.abc import Callable

    from bnfold.equivalence import Attribution

_CHEAP_BYTES = 64 << 20
"""Up to this size of a model the guilty folds are looked for although nobody asked to roll them back."""
_MOST_TRIALS: dict[OnMismatch, int] = {"fail": 32, "rollback": 200}


def rolled_back(setup: Setup, failed: Attempt) -> "tuple[Attempt, Attribution[Suspect] | None]":
    """The attempt to report on, whose output is the latest that was written, and what was found guilty.

    That attempt is without the guilty where a rollback was asked for and helps, else the failed one. None for the
    guilty where nobody asked and the model is so large that looking for them is no small matter.
    """
    latest: Attempt | None = failed

    def without(forbidden: frozenset[Suspect]) -> Attempt:
        nonlocal latest
        if latest is None or latest.forbidden != forbidden:
            latest = None
            latest = attempt(setup, forbidden, looks_late=failed.looked_late)
        return latest

    wants_rollback = setup.request.options.on_mismatch == "rollback"
    if failed.verdict != "not-equivalent":
        return failed if wants_rollback else replace(failed, verdict="not-equivalent"), _unsound_alone(failed)
    is_cheap = wants_rollback or failed.input.nbytes <= _CHEAP_BYTES
    suspects = failed.suspects if is_cheap else tuple(each for each in failed.suspects if each in failed.foreign)
    if failed.verification is None or not (suspects or is_cheap):
        return failed, None
    found = _guilty(failed, suspects, without, _MOST_TRIALS[setup.request.options.on_mismatch])
    forbidden = frozenset(found.guilty) if wants_rollback and found.cleared else failed.forbidden
    made = without(forbidden)
    made = replace(made, input=failed.input, has_bug=failed.has_bug, ran=_with_what_was_left_out(made, failed))
    return made, replace(found, guilty=(*failed.unsound, *found.guilty))


def _with_what_was_left_out(made: Attempt, failed: Attempt) -> tuple[Ran, ...]:
    """The work of each pass, with what those did in the failed attempt that were left out of the other."""
    was = {each.step: each for each in failed.ran}
    return tuple(
        each._replace(seconds=was[each.step].seconds, changes=was[each.step].changes) if each.skipped else each
        for each in made.ran
    )


def _unsound_alone(failed: Attempt) -> "Attribution[Suspect]":
    """Passes were left out since what they made is no sound model; the rest is right, as far as that is known."""
    from bnfold.equivalence import Attribution

    return Attribution(tuple(failed.unsound), cleared=failed.verdict in GOOD, tried=1)


def _guilty(
    failed: Attempt, suspects: tuple[Suspect, ...], without: "Callable[[frozenset[Suspect]], Attempt]", most: int
) -> "Attribution[Suspect]":
    """The suspects without which the result agrees: first among folds whose proof is broken, then among all."""
    from bnfold.equivalence import attribute

    def agrees_without(forbidden: frozenset[Suspect]) -> bool:
        try:
            made = without(forbidden)
        except UsageError:  # a pass that goes on with what another has made may fail without it
            return False
        return made.verdict in GOOD and made.unsound.keys() <= failed.unsound.keys()

    proofs = () if failed.verification is None else failed.verification.proofs
    broken = {(proof.scope, name) for proof in proofs if proof.standing == "broken" for name in proof.normalizations}
    likely: list[Suspect] = [each for each in suspects if each in broken]
    if likely:
        found = attribute(likely, agrees_without)
        if found.cleared:
            return found
    return attribute(suspects, agrees_without, most)
