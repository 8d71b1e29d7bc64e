"""The judge: gathers evidence on findings that differ until the chain of judgement (`evidence`) can tell.

Evidence costs more than measuring, so it is asked for only where it is needed, the cheapest first, on the worst
finding first, and not once a failure is certain.
"""

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from bnfold.equivalence.judging.findings import Comparing, Finding, compare, worst
from bnfold.equivalence.judging.instruments import SHAKES, Originals, ShakenRuns, Truths
from bnfold.equivalence.judging.noise import FEW, Noise, are_jumps, noise, shaken_noise
from bnfold.equivalence.judging.run_plan import THOROUGH, RunPlan
from bnfold.equivalence.judging.sentences import conditioning
from bnfold.equivalence.judging.tolerance import Rule
from bnfold.equivalence.numbers.element_types import rounding_named
from bnfold.equivalence.runtime.opening import Setting, running
from bnfold.equivalence.runtime.references import Reference
from bnfold.equivalence.runtime.sessions import Optimization, RunFailed
from bnfold.equivalence.structure.output_sources import Sources
from bnfold.equivalence.structure.signature import Source

if TYPE_CHECKING:
    from bnfold.equivalence.runtime.reference_answers import Answer

_HOPELESS = 1000.0
"""A candidate that is off this many times as far as two shaken copies is judged without further ones."""


_JUMP_SHAKES = 16
"""A value that lies at a tie within rounding crosses it in perhaps one shaken copy of three."""
_FEWEST = 16
"""An output with fewer elements than this may move by little by luck, so that more copies are asked."""


class Judge:
    """Knows both models and can run them again. `truths` may be shared by judges of the same reference."""

    def __init__(
        self,
        reference: Reference,
        candidate: Source,
        comparing: Comparing,
        sources: Mapping[str, Sources],
        truths: Truths | None = None,
        *,
        plan: RunPlan = THOROUGH,
    ) -> None:
        self.reference = reference
        self.candidate = candidate
        self.comparing = comparing
        self.sources = sources
        self.truths = truths or Truths(reference)
        self.plan = plan
        self.originals = Originals(reference, plan.base)
        self.notes: list[str] = []
        self._answers: dict[str, Answer] = {}
        self._shaken: dict[Setting, ShakenRuns] = {}

    def settle(self, findings: list[Finding], *, each: bool = False) -> list[Finding]:
        """Close every finding; returns those added on the way. `findings` are of one verdict.

        Once one fails for certain, no noise is measured for the others, unless `each` has to be known.
        """
        self._answers |= {finding.answer.name: finding.answer for finding in findings}
        self._in_same_setting(findings)
        added = self._look_behind(findings)
        self._in_same_setting(added)
        everything = [*findings, *added]
        behind = [finding for finding in everything if finding.measurement.where.stage == "behind"]
        self._by_noise(behind, each=each)
        self._excuse(everything)
        self._by_noise(everything, each=each)
        for finding in everything:
            finding.close(self.comparing.tolerance)
        return added

    def _in_same_setting(self, findings: Iterable[Finding]) -> None:
        """Compare with what the reference does in the candidate's own setting."""
        for setting, doubtful in _by_setting(findings).items():
            if setting == self.plan.base:
                continue
            self.originals.load(setting, [finding.answer for finding in doubtful])
            for finding in doubtful:
                again = self.originals.get(finding.answer, setting).get(finding.value)
                if again is not None and finding.candidate is not None:
                    measured = self.comparing.measured_again(finding, again)
                    same = bool(self.comparing.tolerance.judge(measured).agrees)
                    fewer = measured.new_nonfinite < finding.measurement.new_nonfinite
                    finding.learn(self.comparing.tolerance, same_setting=same)
                    if not same and fewer and not measured.new_nonfinite:
                        finding.measurement = measured  # what is not finite is so in the reference as well
                        finding.learn(self.comparing.tolerance)

    def _look_behind(self, findings: list[Finding]) -> list[Finding]:
        """Run the candidate with taps where it was run without and an output that has sources does not agree."""
        added: list[Finding] = []
        seen = {_place(finding) for finding in findings if finding.measurement.where.stage == "behind"}
        missing: dict[Setting, dict[str, Answer]] = {}
        for finding in findings:
            is_output = finding.measurement.where.stage == "output"
            if is_output and finding.in_doubt and self._has_sources(finding) and _place(finding) not in seen:
                missing.setdefault(finding.setting, {})[finding.answer.name] = finding.answer
        taps = sorted({pair.candidate for sources in self.sources.values() for pair in sources.pairs})
        for setting, answers in missing.items():
            try:
                with running(self.candidate, setting, taps) as session:
                    for answer in answers.values():
                        outputs = session.run(answer.feed())
                        found = compare(answer, outputs, setting, self.comparing, self.sources)
                        added += [finding for finding in found if finding.measurement.where.stage == "behind"]
            except RunFailed as failure:
                self.notes.append(f"The values behind the outputs could not be looked at ({setting}): {failure}.")
        return added

    def _has_sources(self, finding: Finding) -> bool:
        sources = self.sources.get(finding.value)
        return sources is not None and sources.complete and not finding.measurement.new_nonfinite

    def _excuse(self, findings: list[Finding]) -> None:
        """Excuse outputs of the same operators on values that agree: their difference is a near tie, not a fault."""
        behind = {
            (*_place(finding), finding.value): finding.judgement.agrees
            for finding in findings
            if finding.measurement.where.stage == "behind"
        }
        for finding in findings:
            if finding.measurement.where.stage == "output" and finding.in_doubt and self._has_sources(finding):
                values = {pair.reference for pair in self.sources[finding.value].pairs}
                if all(behind.get((*_place(finding), value)) for value in values):
                    finding.learn(self.comparing.tolerance, behind=True)

    def conditioning(self, findings: Iterable[Finding]) -> list[str]:
        """Notes on the worst outputs that agree although they differ by more than rounding usually does.

        Of one that only proofs excuse, the noise is measured now, where that is worth another session.
        """
        said = []
        for rules in ({Rule.PROVED, Rule.NOISE}, {Rule.SAME_SETTING}):
            excused = [finding for finding in findings if finding.judgement.rule in rules and finding.judgement.agrees]
            if excused and (Rule.PROVED not in rules or self._is_striking(worst(excused))):
                finding = worst(excused)
                if finding.judgement.rule is Rule.PROVED and self._is_worth_measuring(finding):
                    self._find_noise(finding)
                said.append(conditioning(finding))
                finding.candidate = None
        return said

    def _is_striking(self, finding: Finding) -> bool:
        """Whether how far rounding goes is worth a look: in a deep network somewhat more than TIGHT is usual."""
        if finding.judgement.rule is not Rule.PROVED or not self.plan.is_large:
            return True
        return not self.comparing.tolerance.judge_without_truth(finding.measurement).agrees

    def _is_worth_measuring(self, finding: Finding) -> bool:
        """Whether the noise is measured beside a proof: of a large model where it takes half of the digits."""
        measured = finding.measurement
        if measured.problem:
            return False
        if not self.plan.is_lean:
            return True
        facts = rounding_named(measured.computed_in)
        return facts is None or measured.max_abs > math.sqrt(facts.unit) * measured.reference_max_abs

    # --- noise

    def _by_noise(self, findings: Iterable[Finding], *, each: bool) -> None:
        tolerance, failed = self.comparing.tolerance, False
        for finding in sorted(findings, key=lambda finding: finding.badness, reverse=True):
            if not finding.in_doubt or finding.candidate is None:
                failed = failed or not (finding.judgement.agrees or each)
                continue
            if not failed and not finding.measurement.problem and not finding.measurement.new_nonfinite:
                self._find_noise(finding)
            finding.close(tolerance)
            failed = failed or not (finding.judgement.agrees or each)

    def _find_noise(self, finding: Finding) -> None:
        """The float64 truth is the sharper instrument; the shaken reference works where there is no truth.

        The truth of a large model costs more than all else together: then the other is asked first.
        """
        tolerance = self.comparing.tolerance
        if self.plan.is_large:
            shaken = self.against_shaken(finding)
            if shaken is not None:
                finding.learn(tolerance, noise=shaken)
                if shaken.agrees or finding.judgement.agrees:
                    return
        exact = self._against_truth(finding) if finding.judgement.rule is not Rule.EXACT else None
        if exact is not None:
            finding.learn(tolerance, noise=exact)
        if exact is None or not exact.agrees:
            shaken = self.against_shaken(finding)
            if shaken is not None and (exact is None or shaken.agrees):
                finding.learn(tolerance, noise=shaken)

    def _against_truth(self, finding: Finding) -> Noise | None:
        truth = self.truths.get(finding.answer)
        if finding.candidate is None or finding.value not in truth:
            return None
        value, made_in = finding.value, finding.measurement.made_in
        exact, candidate = truth[value], finding.candidate
        originals = [finding.answer.outputs[value]]
        first = noise(exact, originals, candidate, made_in=made_in)
        if first is not None and first.agrees:
            return first
        for optimization in Optimization:
            setting = Setting(finding.setting.provider, optimization, finding.setting.precision)
            if setting != self.plan.base:
                again = self.originals.get(finding.answer, setting)
                originals += [again[value]] if value in again else []
        found = noise(exact, originals, candidate, made_in=made_in)
        if found is not None and found.agrees:
            return found
        elsewhere = None
        if candidate.size < FEW or not exact.any():
            elsewhere = self.truths.errors_elsewhere(value, self._answers.values())
            better = noise(exact, originals, candidate, elsewhere, made_in=made_in)
            if better is not None and better.agrees:
                return better
        shaken = [each for each in self.truths.shaken(finding.answer, value) if each.shape == exact.shape]
        return noise(exact, originals, candidate, elsewhere, shaken, made_in) or found

    def against_shaken(self, finding: Finding) -> Noise | None:
        """More and more shaken copies of the reference, until they explain the difference or clearly do not."""
        original = self.originals.get(finding.answer, finding.setting).get(finding.value)
        if original is None or finding.candidate is None:
            return None
        runs = self._shaken_runs(finding.setting)
        found, made_in = None, finding.measurement.made_in
        jumps = are_jumps(original, finding.candidate)
        most = _JUMP_SHAKES if jumps else SHAKES * (2 if finding.candidate.size < _FEWEST else 1)
        for shakes in range(1, most + 1):
            moved = runs.moved(finding.answer, finding.value, shakes)
            found = shaken_noise(original, finding.candidate, moved, made_in)
            if found is not None and not found.agrees and found.original_max <= found.floor:
                # It may jump at near ties that this feed has none of: what it does on most others counts.
                found = shaken_noise(original, finding.candidate, moved, made_in, runs.elsewhere(finding.value, shakes))
            if found is None or found.agrees:
                return found
            if shakes > 1 and not jumps and found.candidate_max > _HOPELESS * (found.original_max + found.floor):
                return found
        return found

    def _shaken_runs(self, setting: Setting) -> ShakenRuns:
        if setting not in self._shaken:
            answers = [
                answer
                for answer in self._answers.values()
                if not (answer.costly and setting.optimization is Optimization.OFF)
            ]
            self._shaken[setting] = ShakenRuns(self.reference, setting, answers, self.originals)
        return self._shaken[setting]


def _by_setting(findings: Iterable[Finding]) -> dict[Setting, list[Finding]]:
    found: dict[Setting, list[Finding]] = {}
    for finding in findings:
        if not finding.judgement.agrees and finding.candidate is not None:
            found.setdefault(finding.setting, []).append(finding)
    return found


def _place(finding: Finding) -> tuple[str, Setting]:
    return finding.answer.name, finding.setting
