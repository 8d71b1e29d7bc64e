"""Judge a saved verification again, with another tolerance and without running anything."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from bnfold.equivalence.judging.measurement import Measurement
from bnfold.equivalence.judging.noise import Noise
from bnfold.equivalence.judging.tolerance import Judgement, Rule, Tolerance, names_of
from bnfold.equivalence.verdict import Verdict, Verification
from bnfold.errors import UsageError


def judge_again(saved: Mapping[str, Any], tolerance: Tolerance | None = None) -> Verification:
    """`saved` is `Verification.to_dict()`; without `tolerance` the one it was judged with judges again.

    Raises UsageError where `saved` is something else, or has no output that `tolerance` names.

    What was found against the float64 truth and behind discrete outputs stands where the tolerance cannot tell. What
    no tolerance speaks about, such as another contract, a broken proof or a model that was not run, stands as well.
    """
    try:
        entries = list(saved["measurements"])
        measured = [Measurement.from_dict(entry) for entry in entries]
        noises = [_noise(entry["noise"]) for entry in entries]
        before = [_judgement(**entry["judgement"]) for entry in entries]
        verdict, explanation = Verdict(saved["verdict"]), str(saved["explanation"])
        broken = any(proof["standing"] == "broken" for proof in saved.get("proofs", ()))
        notes, feeds, seed = tuple(saved["notes"]), tuple(saved["feeds"]), int(saved["seed"])
        if tolerance is None:
            tolerance = Tolerance.from_dict(saved["tolerance"]) if "tolerance" in saved else Tolerance()
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"the report holds no verification that can be judged again ({error!r}).") from error
    if measured:
        outputs = (found.where.output for found in measured if found.where.stage == "output")
        tolerance.check_outputs(name for output in outputs for name in names_of(output))
    judged = [_judge(*each, tolerance) for each in zip(measured, before, noises, strict=True)]
    failed = [
        number
        for number, judgement in enumerate(judged)
        if measured[number].where.precision == "strict" and not judgement.agrees
    ]
    if measured and not broken and verdict in {Verdict.EQUIVALENT, Verdict.NOT_EQUIVALENT}:
        verdict, explanation = Verdict.EQUIVALENT, ""
        if failed:
            worst = max((measured[number] for number in failed), key=lambda found: found.relative)
            verdict = Verdict.NOT_EQUIVALENT
            explanation = f"{len(failed)} of {len(measured)} measurements do not agree; the worst is {worst.where}."
    largest = max(
        (measured[number] for number in failed or range(len(measured))), key=lambda m: m.relative, default=None
    )
    found = Verification(verdict, tuple(measured), tuple(judged), tuple(noises), explanation, largest)
    return replace(found, notes=notes, feeds=feeds, seed=seed, tolerance=tolerance)


def _judge(measured: Measurement, before: Judgement, noise: Noise | None, tolerance: Tolerance) -> Judgement:
    judged = tolerance.judge(measured)
    if judged.agrees or judged.rule is Rule.USER:
        return judged
    if before.rule is Rule.BEHIND and not measured.new_nonfinite:
        return before
    if judged.agrees is None and noise is not None:
        return Judgement(agrees=noise.agrees, rule=Rule.NOISE, limit=judged.limit)
    return tolerance.judge_without_truth(measured)


def _judgement(agrees: bool | None, rule: str, limit: float | str) -> Judgement:
    return Judgement(agrees, Rule(rule), float(limit))  # JSON has an infinite limit as a string


def _noise(saved: Mapping[str, float | None] | None) -> Noise | None:
    if saved is None:
        return None
    return Noise(**{name: float("inf") if value is None else value for name, value in saved.items()})
