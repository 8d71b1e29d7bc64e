"""Judge a saved verification again, with another tolerance and without running anything."""

from collections.abc import Mapping
from dataclasses import replace
from math import inf
from typing import Any

from bnfold.equivalence.judging.evidence import Evidence, ProofRule, last_word, overrules
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
        noises = [None if entry["noise"] is None else Noise.from_dict(entry["noise"]) for entry in entries]
        before = [_judgement(**entry["judgement"]) for entry in entries]
        verdict, explanation = Verdict(saved["verdict"]), str(saved["explanation"])
        broken = [proof for proof in saved.get("proofs", ()) if proof["standing"] == "broken"]
        rule = ProofRule(saved.get("proof_rule", "always"))
        notes, feeds, seed = tuple(saved["notes"]), tuple(saved["feeds"]), int(saved["seed"])
        if tolerance is None:
            tolerance = Tolerance.from_dict(saved["tolerance"]) if "tolerance" in saved else Tolerance()
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"the report holds no verification that can be judged again ({error!r}).") from error
    if measured:
        outputs = (found.where.output for found in measured if found.where.stage == "output")
        tolerance.check_outputs(name for output in outputs for name in names_of(output))
    judged = [
        last_word(each, tolerance, _evidence(was, noise))
        for each, was, noise in zip(measured, before, noises, strict=True)
    ]
    failed = [
        number
        for number, judgement in enumerate(judged)
        if measured[number].where.precision == "strict" and not judgement.agrees
    ]
    overruled = any(overrules(_used(proof), rule, tolerance) for proof in broken)
    if measured and not overruled and verdict in {Verdict.EQUIVALENT, Verdict.NOT_EQUIVALENT}:
        verdict, explanation = Verdict.EQUIVALENT, ""
        if failed:
            worst = max((measured[number] for number in failed), key=lambda found: found.relative)
            verdict = Verdict.NOT_EQUIVALENT
            explanation = f"{len(failed)} of {len(measured)} measurements do not agree; the worst is {worst.where}."
    largest = max(
        (measured[number] for number in failed or range(len(measured))), key=lambda m: m.relative, default=None
    )
    found = Verification(verdict, tuple(measured), tuple(judged), tuple(noises), explanation, largest)
    return replace(found, notes=notes, feeds=feeds, seed=seed, tolerance=tolerance, proof_rule=rule)


def _used(proof: Mapping[str, Any]) -> float:
    """The share of the allowed rounding that a proof needs: not a number in the report where it is infinite."""
    used = proof.get("used")
    return inf if used is None else float(used)


def _evidence(before: Judgement, noise: Noise | None) -> Evidence:
    """The evidence on a measurement, as far as its judgement shows it."""
    stands = before.rule if before.agrees else None
    return Evidence(
        untouched=stands is Rule.UNTOUCHED,
        same_setting=stands is Rule.SAME_SETTING,
        proved=stands is Rule.PROVED,
        behind=stands is Rule.BEHIND,
        noise=noise,
    )


def _judgement(agrees: bool | None, rule: str, limit: float | str) -> Judgement:
    return Judgement(agrees, Rule(rule), float(limit))  # JSON has an infinite limit as a string
