"""Run two models on the same feeds, measure every output, and say whether they are equivalent.

The reference runs with onnxruntime's own optimizations off, since a default session folds batch normalization itself;
the candidate runs without and with them. One session is alive at a time.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from bnfold.equivalence.measurement import Measurement, Where, measure
from bnfold.equivalence.reference_run import Answer, Answers, run_seeded_feeds, run_user_feeds
from bnfold.equivalence.sessions import Optimization, Outputs, RunFailed, opened, quiet_options, runtime
from bnfold.equivalence.signature import Source, difference, read_structure, signature_of
from bnfold.equivalence.sizes import check_overrides
from bnfold.equivalence.tolerance import Judgement, Tolerance
from bnfold.equivalence.user_feeds import Inputs
from bnfold.errors import ProviderError


class Verdict(StrEnum):
    """What may be said of the candidate. Only the first and the last allow publishing it."""

    EQUIVALENT = "equivalent"
    NOT_EQUIVALENT = "not-equivalent"
    NOT_VERIFIED = "not-verified"
    PROVED = "proved"


@dataclass(frozen=True)
class VerifyOptions:
    """`input_shapes`: sizes for dynamic inputs by name. `inputs`: the caller's own data instead of seeded feeds."""

    seed: int = 0
    input_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    inputs: Inputs | None = None
    tolerance: Tolerance = field(default_factory=Tolerance)
    providers: tuple[str, ...] = ("cpu",)


@dataclass(frozen=True)
class Verification:
    """The verdict and everything it rests on. `judgements` belong to `measurements`, one to one.

    `explanation`: one sentence on why the candidate is not equivalent or was not verified, "" otherwise. `largest`:
    the worst measurement. `notes`: what was tried and could not be compared. `feeds`: with the seed they
    can be replayed.
    """

    verdict: Verdict
    measurements: tuple[Measurement, ...] = ()
    judgements: tuple[Judgement, ...] = ()
    explanation: str = ""
    largest: Measurement | None = None
    notes: tuple[str, ...] = ()
    feeds: tuple[Mapping[str, Any], ...] = ()
    seed: int = 0

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; the inverse for a single measurement is `Measurement.from_dict`."""
        return {
            "verdict": self.verdict.value,
            "explanation": self.explanation,
            "measurements": [
                measured.to_dict() | {"judgement": judged.to_dict()}
                for measured, judged in zip(self.measurements, self.judgements, strict=True)
            ],
            "largest": self.largest.to_dict() if self.largest else None,
            "notes": list(self.notes),
            "feeds": [dict(feed) for feed in self.feeds],
            "seed": self.seed,
        }


def verify(reference: Source, candidate: Source, options: VerifyOptions | None = None) -> Verification:
    """Compare `candidate` with `reference`, each a path (external data resolves beside it) or bytes.

    Raises UsageError for feeds or shapes that do not fit the model, ModelError for what is not a model, ProviderError
    for a provider that is missing, BnfoldError where onnxruntime is not installed. A model that onnxruntime cannot
    load or run is a verdict, not an exception.
    """
    options = options or VerifyOptions()
    runtime()
    for provider in options.providers:
        if provider != "cpu":
            raise ProviderError(f"provider {provider!r} is not known; cpu is.")
    model = read_structure(reference)
    signature = signature_of(model)
    check_overrides(signature.inputs, options.input_shapes)
    contract = difference(signature, signature_of(read_structure(candidate)))
    if contract:
        return Verification(Verdict.NOT_EQUIVALENT, explanation=contract, seed=options.seed)
    try:
        with opened(reference, quiet_options(Optimization.OFF), ["CPUExecutionProvider"]) as session:
            if options.inputs is not None:
                answers = run_user_feeds(options.inputs, signature, session.run)
            else:
                answers = run_seeded_feeds(model, signature, options.input_shapes, options.seed, session.run)
    except RunFailed as failure:
        return _unverified(f"onnxruntime cannot load the reference: {failure}.", Answers(), options)
    if not answers.answers:
        return _unverified(
            f"The reference runs on none of the feeds tried ({answers.refusal}): pass --input-shape or --inputs.",
            answers,
            options,
        )
    measurements: list[Measurement] = []
    for optimization in Optimization:
        try:
            with opened(candidate, quiet_options(optimization), ["CPUExecutionProvider"]) as session:
                for answer in answers.answers:
                    outputs = session.run(answer.feed())
                    measurements += compare(answer, outputs, "cpu", optimization)
        except RunFailed as failure:
            return Verification(
                Verdict.NOT_EQUIVALENT,
                explanation=f"onnxruntime runs the reference but not the candidate "
                f"(optimization {optimization}): {failure}.",
                notes=tuple(answers.notes),
                seed=options.seed,
            )
    return _judged(measurements, answers, options)


def compare(answer: Answer, outputs: Outputs, provider: str, optimization: str) -> list[Measurement]:
    """One measurement per output; an output that only one side has is a measurement with a problem."""
    found = []
    for name in dict.fromkeys((*answer.outputs, *outputs)):
        where = Where(name, answer.name, provider, optimization)
        if name not in outputs or name not in answer.outputs:
            side = "candidate" if name not in outputs else "reference"
            found.append(Measurement(where, problem=f"the {side} does not return it"))
        else:
            found.append(measure(where, answer.outputs[name], outputs[name]))
    return found


def _judged(measurements: list[Measurement], answers: Answers, options: VerifyOptions) -> Verification:
    judgements = [options.tolerance.judge_without_truth(measured) for measured in measurements]
    failed = [m for m, judged in zip(measurements, judgements, strict=True) if not judged.agrees]
    silent = _never_compared(measurements)
    verdict, explanation = Verdict.EQUIVALENT, ""
    if failed:
        verdict, explanation = Verdict.NOT_EQUIVALENT, _sentence(_worst(failed), judgements, measurements)
    elif silent:
        verdict = Verdict.NOT_VERIFIED
        explanation = (
            f"No finite value of output {silent!r} could be compared on any feed: pass --inputs with real data."
        )
    return Verification(
        verdict,
        measurements=tuple(measurements),
        judgements=tuple(judgements),
        explanation=explanation,
        largest=_worst(failed or measurements),
        notes=tuple(answers.notes),
        feeds=tuple(answer.to_dict() for answer in answers.answers),
        seed=options.seed,
    )


def _never_compared(measurements: list[Measurement]) -> str:
    """The first output of which no value was compared on any feed, or "" if there is none."""
    compared: dict[str, int] = {}
    for measured in measurements:
        compared[measured.output] = compared.get(measured.output, 0) + measured.compared
    if not compared:
        return "(none)"
    return next((name for name, count in compared.items() if not count), "")


def _worst(measurements: list[Measurement]) -> Measurement:
    def badness(measured: Measurement) -> tuple[bool, int, float, int]:
        ratio = measured.relative if math.isfinite(measured.relative) else math.inf
        return bool(measured.problem), measured.new_nonfinite, ratio, measured.different

    return max(measurements, key=badness)


def _sentence(worst: Measurement, judgements: list[Judgement], measurements: list[Measurement]) -> str:
    judged = judgements[measurements.index(worst)]
    subject = str(worst.where)
    subject = subject[0].upper() + subject[1:]
    if worst.problem:
        return f"{subject}: {worst.problem}."
    if worst.new_nonfinite:
        return f"{subject}: {worst.new_nonfinite} of {worst.count} values are NaN or infinite, but not the reference's."
    if worst.lost_nonfinite:
        return f"{subject}: {worst.lost_nonfinite} of {worst.count} values are finite where the reference's are not."
    if not judged.limit:
        return f"{subject}: {worst.different} of {worst.count} values differ."
    at = f" at {list(worst.worst_at)}" if worst.worst_at else ""
    return (
        f"{subject}: differs by {worst.max_abs:.3g}{at} "
        f"(reference {worst.worst_reference:.6g}, candidate {worst.worst_candidate:.6g}); "
        f"at most {judged.limit:.3g} is rounding."
    )


def _unverified(explanation: str, answers: Answers, options: VerifyOptions) -> Verification:
    return Verification(Verdict.NOT_VERIFIED, explanation=explanation, notes=tuple(answers.notes), seed=options.seed)
