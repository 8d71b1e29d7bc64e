"""What was found about each output, from the first measurement to the last word on it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bnfold.equivalence.judging.measurement import Measurement, Where, measure
from bnfold.equivalence.judging.noise import Noise
from bnfold.equivalence.judging.tolerance import Judgement, Tolerance
from bnfold.equivalence.numbers.element_types import Array, Outputs
from bnfold.equivalence.runtime.opening import Setting
from bnfold.equivalence.runtime.reference_answers import Answer
from bnfold.equivalence.structure.output_sources import Sources


@dataclass
class Finding:
    """`value`: the name in the reference. `candidate`: kept only while the judgement is open."""

    measurement: Measurement
    judgement: Judgement
    answer: Answer
    setting: Setting
    value: str
    candidate: Array | None = None
    noise: Noise | None = None

    @property
    def open(self) -> bool:
        """Whether the tolerance could not tell."""
        return self.judgement.agrees is None

    @property
    def badness(self) -> tuple[bool, int, float, int]:
        """For sorting: what cannot be compared, then new NaN and infinities, then the relative error."""
        measured = self.measurement
        return bool(measured.problem), measured.new_nonfinite, measured.relative, measured.different


def compare(
    answer: Answer,
    outputs: Outputs,
    setting: Setting,
    tolerance: Tolerance,
    taps: Mapping[str, Sources],
) -> list[Finding]:
    """One finding per output, and one per value behind an output that the session returned as well."""
    pairs = {(pair.reference, pair.candidate) for sources in taps.values() for pair in sources.pairs}
    tapped_before, tapped_after = {old for old, _ in pairs}, {new for _, new in pairs}
    names = [name for name in answer.outputs if name in answer.contract]
    names += [name for name in outputs if name not in answer.outputs and name not in tapped_after]
    found = []
    for name in names:
        where = _where(name, answer, setting, "output")
        if name in outputs and name in answer.outputs:
            found.append(_finding(where, name, answer, outputs[name], setting, tolerance))
        else:
            side = "candidate" if name not in outputs else "reference"
            problem = Measurement(where, problem=f"the {side} does not return it")
            found.append(Finding(problem, tolerance.judge(problem), answer, setting, name))
    for old, new in sorted(pairs):
        if old in tapped_before and old in answer.outputs and new in outputs:
            where = _where(old, answer, setting, "behind")
            found.append(_finding(where, old, answer, outputs[new], setting, tolerance))
    return found


def _where(name: str, answer: Answer, setting: Setting, stage: str) -> Where:
    return Where(name, answer.name, setting.provider.name, setting.optimization.value, stage, setting.precision.value)


def _finding(
    where: Where, value: str, answer: Answer, candidate: Array, setting: Setting, tolerance: Tolerance
) -> Finding:
    measured = measure(where, answer.outputs[value], candidate)
    judged = tolerance.judge(measured)
    kept = candidate if judged.agrees is None else None
    return Finding(measured, judged, answer, setting, value, kept)


def worst(findings: Iterable[Finding]) -> Finding:
    """The finding a person should see first."""
    return max(findings, key=lambda finding: finding.badness)
