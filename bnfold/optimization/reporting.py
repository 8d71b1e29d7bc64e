"""The report on an optimization, and the sentences on what went wrong."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnfold.decisions import Decision
from bnfold.optimization.attempt import Attempt, Setup, Suspect, folds_of
from bnfold.optimization.pass_verdicts import passes_of
from bnfold.optimization.request import Request
from bnfold.pipeline import Step
from bnfold.progress import Stage
from bnfold.report import GOOD, Report

if TYPE_CHECKING:
    from bnfold.equivalence import Attribution
    from bnfold.recalibration import Accuracy

_SUBSTITUTED = "Normalizations were substituted on purpose: the result computes another function, as measured above."
_BUG = "This is a bug in bnfold; please report it."


def report_of(setup: Setup, made: Attempt, attribution: "Attribution[Suspect] | None") -> Report:
    """The report on an attempt; its exit code says whether the result may be published."""
    request, verification = setup.request, made.verification
    good = made.verdict in (*GOOD, "substituted")
    unverified = request.options.allow_unverified and made.verdict == "not-verified"
    accepted = (verification is None or good or unverified) and (_takes_back(request) or not made.unsound)
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
        passes=passes_of(made, attribution, takes_back=_takes_back(request)),
        fitted=tuple(each.to_dict() for each in setup.fitted),
        training_distance=made.training_distance,
        accuracy=None if accuracy is None else accuracy.to_dict(),
        recalibration=None if setup.calibration is None else setup.calibration.to_dict(),
        weights_moved=made.weights_moved,
        attribution=None if attribution is None else _attributed(attribution, made, request),
    )


def _takes_back(request: Request) -> bool:
    return request.options.on_mismatch == "rollback"


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

    return recalibration.accuracy(
        setup.copy_of_input(),
        setup.publication.path,
        labelled,
        setup.options(folds_of(made.forbidden)),
        options.calibration,
        on_progress=setup.request.stage(Stage.BATCHES),
    )


def _explanation(made: Attempt, attribution: "Attribution[Suspect] | None", request: Request) -> str:
    report_it = f" {_BUG}" if made.has_bug else ""
    unsound = "".join(
        f"The pass {step.name} made what is no sound model: {why}. " for step, why in made.unsound.items()
    )
    if _takes_back(request) and (made.forbidden or made.unsound):
        left_out = tuple(sorted(made.forbidden, key=str))
        blamed = f"{_doing(left_out, capital=True)} made the result differ; that" if left_out else "It"
        rest = "published" if made.unsound or any(isinstance(each, Step) for each in left_out) else "folded"
        return f"{unsound}{blamed} was rolled back, the rest is {rest}.{report_it}"
    if made.verification is None:
        return f"{unsound}Verification was switched off."
    if made.verdict == "substituted":
        return _SUBSTITUTED
    found = made.verification.explanation
    if made.verdict != "not-equivalent":
        return found
    if made.unsound:
        return f"{unsound}To publish the rest, pass --on-mismatch rollback."
    return f"{found}{_blame(made, attribution, request)}{report_it}"


def _blame(made: Attempt, attribution: "Attribution[Suspect] | None", request: Request) -> str:
    if not made.suspects:
        return ""
    if attribution is None:
        return " To find the fold that is wrong, pass --on-mismatch rollback."
    if not attribution.cleared:
        return " Leaving out passes does not help." if made.foreign else " Leaving out folds does not help."
    hint = "" if _takes_back(request) else "; --on-mismatch rollback publishes the rest"
    return f" Without {_doing(attribution.guilty)} it agrees{hint}."


def _doing(guilty: tuple[Suspect, ...], *, capital: bool = False) -> str:
    """``folding bn1, bn2 (if0) and the pass onnxsim``."""
    folds = [f"{each[1]} ({each[0]})" if each[0] else each[1] for each in guilty if not isinstance(each, Step)]
    passes = [each.name for each in guilty if isinstance(each, Step)]
    parts = [f"folding {', '.join(folds)}"] if folds else []
    if passes:
        parts.append(f"the pass{'es' if len(passes) > 1 else ''} {', '.join(passes)}")
    text = " and ".join(parts)
    return text[:1].upper() + text[1:] if capital else text


def _attributed(attribution: "Attribution[Suspect]", made: Attempt, request: Request) -> dict[str, Any]:
    return {
        "guilty": [{"node": each[1], "scope": each[0]} for each in attribution.guilty if not isinstance(each, Step)],
        "passes": [each.name for each in attribution.guilty if isinstance(each, Step)],
        "cleared": attribution.cleared,
        "tried": attribution.tried,
        "rolled_back": bool(made.forbidden) or (bool(made.unsound) and _takes_back(request)),
    }


def failure_message(report: Report, request: Request) -> str:
    """The message for a result that is not published."""
    found = "is not equivalent to the input" if report.verdict == "not-equivalent" else "could not be verified"
    left = "" if request.target is None else f"; nothing was written to {os.fspath(request.target)}"
    advice = "" if report.verdict == "not-equivalent" else " (--allow-unverified publishes what nothing speaks against)"
    return f"the result {found}{left}: {report.explanation}{advice}"
