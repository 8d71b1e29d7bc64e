"""The report on an optimization, and the sentences on what went wrong."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnfold.decisions import Decision
from bnfold.optimization.attempt import Attempt, Fold, Setup
from bnfold.optimization.request import Request
from bnfold.progress import Stage
from bnfold.report import GOOD, Report

if TYPE_CHECKING:
    from bnfold.equivalence import Attribution
    from bnfold.recalibration import Accuracy

_SUBSTITUTED = "Normalizations were substituted on purpose: the result computes another function, as measured above."
_BUG = "This is a bug in bnfold; please report it."


def report_of(setup: Setup, made: Attempt, attribution: "Attribution[Fold] | None") -> Report:
    """The report on an attempt; its exit code says whether the result may be published."""
    request, verification = setup.request, made.verification
    good = made.verdict in (*GOOD, "substituted")
    unverified = request.options.allow_unverified and made.verdict == "not-verified"
    accepted = verification is None or good or unverified
    accuracy = _accuracy(setup, made)
    patterns = {"--keep": request.options.keep, "--substitute-only": request.options.substitute_only}
    return Report(
        verdict=made.verdict,
        exit_code=0 if accepted else 1,
        decisions=made.decisions,
        input=made.input,
        output=made.output,
        published=os.fspath(request.target) if accepted and request.target is not None else None,
        verification=None if verification is None else verification.to_dict(),
        explanation=_explanation(made, attribution, request),
        options=request.options.to_dict(),
        notes=(*made.notes, *unmatched(patterns, made.decisions)),
        stored=tuple({"value": value, "scope": scope} for scope, value in made.stored),
        passes=tuple({"name": each.name, "preserves": each.preserves.value} for each in made.passes),
        fitted=tuple(each.to_dict() for each in setup.fitted),
        training_distance=made.training_distance,
        accuracy=None if accuracy is None else accuracy.to_dict(),
        recalibration=None if setup.calibration is None else setup.calibration.to_dict(),
        weights_moved=made.weights_moved,
        attribution=None if attribution is None else _attributed(attribution, made),
    )


def with_left_data(report: Report, left: Iterable[Path]) -> Report:
    """The report with a note on each data file of the output before, which was left."""
    notes = [f"{path} is not needed any more; it stays, since other files may name it." for path in left]
    return replace(report, notes=(*report.notes, *notes))


def unmatched(patterns: Mapping[str, Sequence[str]], decisions: Iterable[Decision]) -> Iterator[str]:
    """A note on each of the patterns, by the flag that they came with, that no normalization matches."""
    names = {decision.node for decision in decisions}
    for flag, each in patterns.items():
        for pattern in each:
            if not any(fnmatchcase(name, pattern) for name in names):
                yield f"{flag} {pattern} matches no normalization."


def _accuracy(setup: Setup, made: Attempt) -> "Accuracy | None":
    """The task accuracy before and after, where the data that was given holds labels."""
    options = setup.request.options
    labelled = options.recalibrate if options.data is None else options.data
    if labelled is None:
        return None
    from bnfold import recalibration

    passes, told = setup.passes(made.forbidden), setup.request.stage(Stage.BATCHES)
    path = setup.publication.path
    return recalibration.accuracy(setup.read(), path, labelled, passes, options.calibration, told=told)


def _explanation(made: Attempt, attribution: "Attribution[Fold] | None", request: Request) -> str:
    if made.verification is None:
        return "Verification was switched off."
    if made.verdict == "substituted":
        return _SUBSTITUTED
    report_it = f" {_BUG}" if made.has_bug else ""
    if made.forbidden:
        names = _names(tuple(sorted(made.forbidden)))
        return f"Folding {names} made the result differ; that was rolled back, the rest is folded.{report_it}"
    found = made.verification.explanation
    if made.verdict != "not-equivalent":
        return found
    return f"{found}{_blame(made, attribution, request)}{report_it}"


def _blame(made: Attempt, attribution: "Attribution[Fold] | None", request: Request) -> str:
    if not made.folds:
        return ""
    if attribution is None:
        return " To find the fold that is wrong, pass --on-mismatch rollback."
    if not attribution.cleared:
        return " Leaving out folds does not help."
    hint = "" if request.options.on_mismatch == "rollback" else "; --on-mismatch rollback publishes the rest"
    return f" Without folding {_names(attribution.guilty)} it agrees{hint}."


def _names(folds: tuple[Fold, ...]) -> str:
    return ", ".join(f"{label} ({scope})" if scope else label for scope, label in folds)


def _attributed(attribution: "Attribution[Fold]", made: Attempt) -> dict[str, Any]:
    return {
        "guilty": [{"node": label, "scope": scope} for scope, label in attribution.guilty],
        "cleared": attribution.cleared,
        "tried": attribution.tried,
        "rolled_back": bool(made.forbidden),
    }


def failure_message(report: Report, request: Request) -> str:
    """What is said of a result that is not published."""
    found = "is not equivalent to the input" if report.verdict == "not-equivalent" else "could not be verified"
    left = "" if request.target is None else f"; nothing was written to {os.fspath(request.target)}"
    advice = "" if report.verdict == "not-equivalent" else " (--allow-unverified publishes what nothing speaks against)"
    return f"the result {found}{left}: {report.explanation}{advice}"
