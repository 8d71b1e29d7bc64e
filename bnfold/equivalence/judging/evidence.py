"""The chain of judgement: one measurement and everything that is known about it give one judgement.

Every verdict goes through `judge`: that of a run, that on values inside the models, and that of a saved report.
"""

from enum import StrEnum
from typing import NamedTuple

from bnfold.equivalence.judging.measurement import Measurement
from bnfold.equivalence.judging.noise import Noise
from bnfold.equivalence.judging.tolerance import Judgement, Rule, Tolerance


class Evidence(NamedTuple):
    """The evidence for an output that differs, gathered in this order, and only while it is needed.

    `untouched`: nothing that the output depends on was changed. `same_setting`: the reference run in the candidate's
    setting agrees with the candidate. `proved`: every change that the output depends on is proved. `behind`: the
    values agree that a discrete or saturated output was made from. `noise`: how far rounding alone moves the output.
    """

    untouched: bool = False
    same_setting: bool = False
    proved: bool = False
    behind: bool = False
    noise: Noise | None = None


NOTHING_KNOWN = Evidence()

_COARSE = 8.0
"""The arithmetic of another tool may round this many times as much as storing does: 16 units of roundoff in all."""


class ProofRule(StrEnum):
    """When a broken proof overrules outputs that agree.

    WITHOUT_LIMITS: where the caller gave no limits, and the difference is more than another tool's arithmetic may have
    rounded. BESIDE: never, it is reported.
    """

    ALWAYS = "always"
    WITHOUT_LIMITS = "without-limits"
    BESIDE = "beside"


def overrules(used: float, rule: ProofRule, tolerance: Tolerance) -> bool:
    """Whether a broken proof, which used this share of the rounding that it may, decides although outputs agree."""
    return rule is ProofRule.ALWAYS or (
        rule is ProofRule.WITHOUT_LIMITS and not tolerance.is_set and not used <= _COARSE
    )


def judge(measured: Measurement, tolerance: Tolerance, evidence: Evidence = NOTHING_KNOWN) -> Judgement:
    """Whether the output agrees. `agrees` is None where neither the tolerance nor the evidence can tell.

    A limit of the user's overrules everything but what is the same by definition. No proof and no noise excuses a
    value that is NaN or infinite only in the candidate.
    """
    judged = tolerance.judge(measured)
    if judged.agrees:
        return judged
    if evidence.untouched:
        return Judgement(agrees=True, rule=Rule.UNTOUCHED)
    if evidence.same_setting:
        return Judgement(agrees=True, rule=Rule.SAME_SETTING, limit=judged.limit)
    if judged.rule is Rule.USER or measured.new_nonfinite:
        return judged
    if evidence.proved:
        return Judgement(agrees=True, rule=Rule.PROVED, limit=judged.limit)
    if evidence.behind:
        return Judgement(agrees=True, rule=Rule.BEHIND)
    if judged.rule is Rule.STRUCTURE or evidence.noise is None:
        return judged
    return Judgement(agrees=evidence.noise.agrees, rule=Rule.NOISE, limit=judged.limit)


def last_word(measured: Measurement, tolerance: Tolerance, evidence: Evidence) -> Judgement:
    """The judgement once there is no more evidence to be had."""
    judged = judge(measured, tolerance, evidence)
    return judged if judged.agrees is not None else tolerance.judge_without_truth(measured)
