"""Findings in sentences."""

from bnfold.equivalence.judging.findings import Finding
from bnfold.equivalence.judging.noise import Instrument, Noise
from bnfold.equivalence.judging.tolerance import Rule
from bnfold.equivalence.numbers.element_types import rounding_named


def sentence(finding: Finding) -> str:
    """For people: how an output differs, and what was known of it."""
    measured, judged = finding.measurement, finding.judgement
    subject = str(measured.where)
    subject = subject[0].upper() + subject[1:]
    if measured.problem:
        return f"{subject}: {measured.problem}."
    if measured.new_nonfinite:
        return (
            f"{subject}: {measured.new_nonfinite} of {measured.count} values are NaN or infinite, the reference's not."
        )
    if measured.lost_nonfinite and not finding.noise:
        return (
            f"{subject}: {measured.lost_nonfinite} of {measured.count} values are finite where the reference's are not."
        )
    if not judged.limit:
        return f"{subject}: {measured.different} of {measured.count} values differ."
    text = (
        f"{subject}: differs by {measured.max_abs:.3g} at {list(measured.worst_at)} "
        f"(reference {measured.worst_reference:.6g}, candidate {measured.worst_candidate:.6g})"
    )
    if finding.noise:
        noise = finding.noise
        if noise.instrument is Instrument.SHAKEN:
            moved = f"{noise.original_max:.3g} (rms {noise.original_rms:.3g})"
            return f"{text}; rounding alone moves the reference by {moved}."
        return (
            f"{text}; its error against float64 is {noise.candidate_max:.3g} (rms {noise.candidate_rms:.3g}), "
            f"the reference's own {noise.original_max:.3g} (rms {noise.original_rms:.3g})."
        )
    return f"{text}; at most {judged.limit:.3g} is rounding."


def conditioning(finding: Finding) -> str:
    """For people: why an output agrees that differs by more than rounding usually does."""
    measured, noise = finding.measurement, finding.noise
    subject = str(measured.where)
    text = f"{subject[0].upper()}{subject[1:]} differs by {measured.max_abs:.3g} of {measured.reference_max_abs:.3g}"
    if finding.judgement.rule is Rule.SAME_SETTING:
        return f"{text}: onnxruntime answers the reference itself otherwise in this setting, and the candidate alike."
    if noise is not None and noise.agrees:
        if noise.original_max > measured.reference_max_abs:
            return f"{text}: it cancels here, so that rounding is all that is left, in the reference as well."
        if noise.instrument is Instrument.FLOAT64 and noise.candidate_max < noise.original_max:
            errors = f"{noise.candidate_max:.3g} off, the reference {noise.original_max:.3g}"
            return f"{text}: the candidate is nearer to float64 ({errors}). Rounding is amplified {_times(noise)} here."
        return f"{text}: rounding is amplified {_times(noise)} here, in the reference as well."
    facts = rounding_named(measured.computed_in)
    if noise is None and facts is not None and not measured.problem and measured.reference_max_abs:
        times = measured.max_abs / (facts.unit * measured.reference_max_abs)
        return f"{text}: every change is proved, so that this is rounding, amplified {_digits(times)} times."
    return f"{text}, which no change explains, since all are proved: onnxruntime computes the two otherwise."


def _times(noise: Noise) -> str:
    """``3,000 times``, in two digits."""
    times = noise.amplification
    return "hardly" if times < 2 else f"{_digits(times)} times"


def _digits(number: float) -> str:
    """``3,000``, in two digits."""
    return f"{float(f'{number:.2g}'):,.0f}"
