"""The finding on each output, from the first measurement to the last word on it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bnfold.equivalence.judging.changes import Changes
from bnfold.equivalence.judging.evidence import Evidence, judge, last_word
from bnfold.equivalence.judging.measurement import Measurement, Where, measure
from bnfold.equivalence.judging.noise import Noise
from bnfold.equivalence.judging.tolerance import Judgement, Rule, Tolerance, owners_of
from bnfold.equivalence.numbers.element_types import Array, Outputs
from bnfold.equivalence.runtime.opening import Setting
from bnfold.equivalence.runtime.providers import CPU
from bnfold.equivalence.runtime.reference_answers import Answer
from bnfold.equivalence.structure.output_sources import Sources
from bnfold.records import Record


@dataclass
class Finding:
    """`value`: the name in the reference. `candidate`: what it is in the candidate, kept only while it is in doubt."""

    measurement: Measurement
    answer: Answer
    setting: Setting
    value: str
    judgement: Judgement
    evidence: Evidence = field(default_factory=Evidence)
    candidate: Array | None = None

    @property
    def noise(self) -> Noise | None:
        """The movement by rounding alone, where that was asked for."""
        return self.evidence.noise

    @property
    def in_doubt(self) -> bool:
        """Whether more evidence could change the judgement."""
        return not self.judgement.agrees and self.judgement.rule is not Rule.USER

    @property
    def badness(self) -> tuple[bool, int, float, int]:
        """For sorting: what cannot be compared, then new NaN and infinities, then the relative error."""
        measured = self.measurement
        return bool(measured.problem), measured.new_nonfinite, measured.relative, measured.different

    def learn(self, tolerance: Tolerance, **known: Any) -> None:
        """Add to the evidence, by the names of its fields, and judge again."""
        self.evidence = self.evidence._replace(**known)
        self.judgement = judge(self.measurement, tolerance, self.evidence)

    def close(self, tolerance: Tolerance) -> None:
        """Judge for the last time."""
        self.judgement = last_word(self.measurement, tolerance, self.evidence)
        if self.judgement.rule is not Rule.PROVED:
            self.candidate = None


class Comparing(Record):
    """The terms of a comparison: the tolerance, the changes between the files, and the types that values were made in.

    `distributions`: whether more is measured than a verdict rests on.
    """

    tolerance: Tolerance
    changes: Changes = field(default_factory=Changes)
    types: Mapping[str, str] = field(default_factory=dict)
    distributions: bool = True

    def found(
        self, where: Where, value: str, answer: Answer, candidate: Array, setting: Setting, *, renamed: bool = False
    ) -> Finding:
        """One value of the reference and what it is in the candidate, where it may have another name (`renamed`)."""
        made_in, full = self.made_in(value), self.distributions
        measured = measure(where, answer.outputs[value], candidate, made_in, distributions=full)
        return self._judged(measured, value, answer, setting, candidate, renamed=renamed)

    def measured_again(self, finding: Finding, original: Array) -> Measurement:
        """The value measured against the reference in another setting; the candidate's answer must still be known."""
        assert finding.candidate is not None
        where, made_in = finding.measurement.where, finding.measurement.made_in
        return measure(where, original, finding.candidate, made_in, distributions=self.distributions)

    def missing(self, where: Where, value: str, answer: Answer, setting: Setting, side: str) -> Finding:
        """A value that one side does not return."""
        return self._judged(Measurement(where, problem=f"the {side} does not return it"), value, answer, setting, None)

    def made_in(self, value: str) -> str:
        """The coarsest type of what a value is made of, "" where that is not known."""
        return next((self.types[name] for name in owners_of(value) if name in self.types), "")

    def _judged(
        self,
        measured: Measurement,
        value: str,
        answer: Answer,
        setting: Setting,
        candidate: Array | None,
        *,
        renamed: bool = False,
    ) -> Finding:
        # A proof in float64 says nothing of what another provider than the CPU computes, and what the files tell of a
        # value nothing of one by another name, between which and the first something may have been added.
        proved = candidate is not None and not renamed and setting.provider is CPU and self.changes.is_proved(value)
        evidence = Evidence(untouched=not renamed and self.changes.is_untouched(value), proved=proved)
        judged = judge(measured, self.tolerance, evidence)
        kept = candidate if not judged.agrees or judged.rule is Rule.PROVED else None
        return Finding(measured, answer, setting, value, judged, evidence, kept)


def compare(
    answer: Answer,
    outputs: Outputs,
    setting: Setting,
    comparing: Comparing,
    taps: Mapping[str, Sources],
) -> list[Finding]:
    """One finding per output, and one per value behind an output that the session returned as well.

    Values behind that differ without any output showing it, such as what a Softmax is shifted by, are left out.
    """
    pairs = {(pair.reference, pair.candidate) for sources in taps.values() for pair in sources.pairs}
    tapped_before, tapped_after = {old for old, _ in pairs}, {new for _, new in pairs}
    names = [name for name in answer.outputs if name in answer.contract]
    names += [name for name in outputs if name not in answer.outputs and name not in tapped_after]
    found = []
    for name in names:
        where = _where(name, answer, setting, "output")
        if name in outputs and name in answer.outputs:
            found.append(comparing.found(where, name, answer, outputs[name], setting))
        else:
            side = "candidate" if name not in outputs else "reference"
            found.append(comparing.missing(where, name, answer, setting, side))
    for old, new in sorted(pairs):
        if old in tapped_before and old in answer.outputs and new in outputs and old not in comparing.changes.unseen:
            where = _where(old, answer, setting, "behind")
            found.append(comparing.found(where, old, answer, outputs[new], setting, renamed=old != new))
    return found


def _where(name: str, answer: Answer, setting: Setting, stage: str) -> Where:
    return Where(name, answer.name, setting.provider.name, setting.optimization.value, stage, setting.precision.value)


def worst(findings: Iterable[Finding]) -> Finding:
    """The finding a person should see first."""
    return max(findings, key=lambda finding: finding.badness)
