"""The last word on findings that the tolerance could not settle: the noise rule, and what lies behind an output.

Both cost more than measuring, so they are asked only where needed, worst first, and not once a failure is certain.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress

from bnfold.equivalence.judging.findings import Finding, compare
from bnfold.equivalence.judging.noise import FEW, Elsewhere, Noise, noise
from bnfold.equivalence.judging.tolerance import Judgement, Rule, Tolerance
from bnfold.equivalence.numbers.element_types import Array, Outputs
from bnfold.equivalence.numbers.float64 import Unknowable
from bnfold.equivalence.runtime.opening import Setting, running
from bnfold.equivalence.runtime.reference_answers import Answer
from bnfold.equivalence.runtime.references import Reference, Truth
from bnfold.equivalence.runtime.sessions import Optimization, RunFailed
from bnfold.equivalence.structure.output_sources import Sources
from bnfold.equivalence.structure.signature import Source

_SHAKES = (1, 2)
"""Seeds: one direction for each number could cancel by luck."""


class Appeal:
    """Knows both models and can run them again."""

    def __init__(
        self, reference: Reference, candidate: Source, tolerance: Tolerance, sources: Mapping[str, Sources]
    ) -> None:
        self.reference = reference
        self.candidate = candidate
        self.tolerance = tolerance
        self.sources = sources
        self.notes: list[str] = []
        self._truths: dict[int | None, Truth | None] = {}
        self._cache: dict[str, Outputs] = {}
        self._originals: dict[tuple[str, Setting], Outputs] = {}
        self._answers: dict[str, Answer] = {}

    def settle(self, findings: list[Finding]) -> list[Finding]:
        """Close every open finding; returns those added on the way. `findings` are of one verdict."""
        self._answers |= {finding.answer.name: finding.answer for finding in findings}
        added = self._look_behind(findings)
        everything = [*findings, *added]
        self._by_noise([finding for finding in everything if finding.measurement.where.stage == "behind"])
        self._excuse(everything)
        self._by_noise(everything)
        return added

    def _look_behind(self, findings: list[Finding]) -> list[Finding]:
        """Run the candidate with taps where it was run without and an output that has sources does not agree."""
        added: list[Finding] = []
        seen = {_place(finding) for finding in findings if finding.measurement.where.stage == "behind"}
        missing: dict[Setting, dict[str, Answer]] = {}
        for finding in findings:
            where = finding.measurement.where
            disagrees = where.stage == "output" and not finding.judgement.agrees
            if disagrees and self._has_sources(finding) and _place(finding) not in seen:
                missing.setdefault(finding.setting, {})[finding.answer.name] = finding.answer
        taps = sorted({pair.candidate for sources in self.sources.values() for pair in sources.pairs})
        for setting, answers in missing.items():
            try:
                with running(self.candidate, setting, taps) as session:
                    for answer in answers.values():
                        outputs = session.run(answer.feed())
                        found = compare(answer, outputs, setting, self.tolerance, self.sources)
                        added += [finding for finding in found if finding.measurement.where.stage == "behind"]
            except RunFailed as failure:
                self.notes.append(f"The values behind the outputs could not be looked at ({setting}): {failure}.")
        return added

    def _has_sources(self, finding: Finding) -> bool:
        sources = self.sources.get(finding.value)
        return sources is not None and sources.complete and not finding.measurement.new_nonfinite

    def _excuse(self, findings: list[Finding]) -> None:
        """The same operators on values that agree: what differs after them is a near tie, not a fault."""
        behind = {
            (*_place(finding), finding.value): finding.judgement.agrees
            for finding in findings
            if finding.measurement.where.stage == "behind"
        }
        for finding in findings:
            if (
                finding.measurement.where.stage != "output"
                or finding.judgement.agrees
                or not self._has_sources(finding)
            ):
                continue
            values = {pair.reference for pair in self.sources[finding.value].pairs}
            if all(behind.get((*_place(finding), value)) for value in values):
                finding.judgement = Judgement(agrees=True, rule=Rule.BEHIND)

    def _by_noise(self, findings: Iterable[Finding]) -> None:
        failed = False
        for finding in sorted(findings, key=lambda finding: finding.badness, reverse=True):
            if not finding.open:
                continue
            decided = None if failed else self._against_truth(finding)
            if decided is None:
                finding.judgement = self.tolerance.judge_without_truth(finding.measurement)
            else:
                finding.noise = decided
                finding.judgement = Judgement(agrees=decided.agrees, rule=Rule.NOISE, limit=finding.judgement.limit)
            failed = failed or not finding.judgement.agrees
            finding.candidate = None

    def _against_truth(self, finding: Finding) -> Noise | None:
        truth = self._truth(finding.answer)
        if finding.candidate is None or finding.value not in truth:
            return None
        value, originals = finding.value, [finding.answer.outputs[finding.value]]
        first = noise(truth[value], originals, finding.candidate)
        if first is not None and first.agrees:
            return first
        for optimization in Optimization:
            setting = Setting(finding.setting.provider, optimization, finding.setting.precision)
            if setting != Setting():
                again = self._original(finding.answer, setting)
                originals += [again[value]] if value in again else []
        found = noise(truth[value], originals, finding.candidate)
        if found is None or found.agrees:
            return found
        elsewhere = None
        if finding.candidate.size < FEW or not truth[value].any():
            elsewhere = self._errors_elsewhere(value)
            found = noise(truth[value], originals, finding.candidate, elsewhere)
            if found is None or found.agrees:
                return found
        shaken = [each for each in self._shaken(finding.answer, value) if each.shape == truth[value].shape]
        return noise(truth[value], originals, finding.candidate, elsewhere, shaken) or found

    def _errors_elsewhere(self, value: str) -> Elsewhere:
        """The reference's own errors in `value` on all feeds.

        On few numbers its error may be small by luck, and where the truth is zero throughout there may be none at all:
        what it is on other feeds says how much noise there is.
        """
        found = Elsewhere()
        for answer in self._answers.values():
            truth = self._truth(answer).get(value)
            if truth is not None:
                found = found.and_on(truth, answer.outputs[value])
        return found

    def _truth(self, answer: Answer) -> Outputs:
        """What the reference is in float64 on one feed; empty where that cannot be known."""
        evaluate = self._evaluator()
        if evaluate is None:
            return {}
        if answer.name not in self._cache:
            try:
                self._cache[answer.name] = evaluate(answer.feed(), list(answer.outputs))
            except Unknowable as why:
                self._cache[answer.name] = {}
                self.notes.append(f"There is no float64 truth for feed {answer.name}: {why}.")
        return self._cache[answer.name]

    def _shaken(self, answer: Answer, value: str) -> list[Array]:
        """The truth if every stored number were off by one rounding, as those of a rewritten model may be."""
        found = []
        for evaluate in map(self._evaluator, _SHAKES):
            if evaluate is not None:
                with suppress(Unknowable):
                    found.append(evaluate(answer.feed(), [value])[value])
        return found

    def _evaluator(self, shake: int | None = None) -> Truth | None:
        """The reference in float64, loaded once; None where that cannot be known."""
        if shake not in self._truths:
            try:
                self._truths[shake] = self.reference.truth(shake)
            except Unknowable as why:
                self._truths[shake] = None
                if shake is None:
                    self.notes.append(f"There is no float64 truth to compare with: {why}.")
        return self._truths[shake]

    def _original(self, answer: Answer, setting: Setting) -> Outputs:
        """What the reference itself answers in another setting; empty where it cannot."""
        key = (answer.name, setting)
        if key not in self._originals:
            taps = sorted(set(answer.outputs) - set(answer.contract))
            try:
                with self.reference.running(setting, taps) as session:
                    self._originals[key] = session.run(answer.feed())
            except RunFailed:
                self._originals[key] = {}
        return self._originals[key]


def _place(finding: Finding) -> tuple[str, Setting]:
    return finding.answer.name, finding.setting
