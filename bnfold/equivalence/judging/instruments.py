"""The instruments of evidence: the reference in other settings, in float64, and shaken.

What an instrument answers is kept, since many outputs ask the same.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress

import numpy as np

from bnfold.equivalence.judging.noise import Elsewhere, Moved
from bnfold.equivalence.numbers.element_types import Array, Outputs
from bnfold.equivalence.numbers.float64 import Unknowable
from bnfold.equivalence.runtime.opening import Setting
from bnfold.equivalence.runtime.reference_answers import Answer
from bnfold.equivalence.runtime.references import Reference, Truth
from bnfold.equivalence.runtime.sessions import RunFailed
from bnfold.equivalence.runtime.shaken_model import shaken_feed
from bnfold.equivalence.runtime.spending import spent
from bnfold.errors import BnfoldError

SHAKES = 4
"""Seeds of the shaken reference: one direction for each number could cancel by luck."""
_TRUTH_SHAKES = (1, 2)


class Originals:
    """The answers of the reference itself in each setting; empty where it cannot be run there.

    In `base`, the setting that it ran in first, that is known.
    """

    def __init__(self, reference: Reference, base: Setting) -> None:
        self._reference = reference
        self._base = base
        self._known: dict[tuple[str, Setting], Outputs] = {}

    def load(self, setting: Setting, answers: Iterable[Answer]) -> None:
        """Run those that are not known yet in one session."""
        wanted = {answer.name: answer for answer in answers if (answer.name, setting) not in self._known}
        if not wanted:
            return
        self._known |= {(name, setting): {} for name in wanted}
        if setting == self._base:
            self._known |= {(name, setting): answer.outputs for name, answer in wanted.items()}
            return
        with suppress(RunFailed), self._reference.running(setting, taps_of(wanted.values())) as session:
            for name, answer in wanted.items():
                with suppress(RunFailed):
                    self._known[name, setting] = session.run(answer.feed())

    def get(self, answer: Answer, setting: Setting) -> Outputs:
        """All values of one feed."""
        self.load(setting, [answer])
        return self._known[answer.name, setting]


class Truths:
    """The reference in float64, and the same with every stored number off by one roundoff."""

    def __init__(self, reference: Reference) -> None:
        self.notes: list[str] = []
        self._reference = reference
        self._evaluators: dict[int | None, Truth | None] = {}
        self._known: dict[str, Outputs] = {}
        self._unknowable: set[str] = set()

    def get(self, answer: Answer) -> Outputs:
        """All values of one feed; empty where they cannot be known."""
        evaluate = self._evaluator()
        if evaluate is None:
            return {}
        known = self._known.setdefault(answer.name, {})
        missing = [name for name in answer.outputs if name not in known]
        if missing and answer.name not in self._unknowable:
            try:
                spent("float64 runs")
                known |= evaluate(answer.feed(), missing)
            except Unknowable as why:
                self._unknowable.add(answer.name)
                self.notes.append(f"There is no float64 truth for feed {answer.name}: {why}.")
        return known

    def shaken(self, answer: Answer, value: str) -> list[Array]:
        """One value if every stored number were off by one rounding, as those of a rewritten model may be."""
        found = []
        for evaluate in map(self._evaluator, _TRUTH_SHAKES):
            if evaluate is not None:
                spent("float64 runs")
                with suppress(Unknowable):
                    found.append(evaluate(answer.feed(), [value])[value])
        return found

    def errors_elsewhere(self, value: str, answers: Iterable[Answer]) -> Elsewhere:
        """The reference's own errors in `value` on all feeds.

        On few numbers its error may be small by luck, and where the truth is zero throughout there may be none at all:
        what it is on other feeds says how much noise there is.
        """
        found = Elsewhere()
        for answer in answers:
            truth = self.get(answer).get(value)
            if truth is not None and value in answer.outputs:
                found = found.and_on(truth, answer.outputs[value])
        return found

    def _evaluator(self, shake: int | None = None) -> Truth | None:
        if shake not in self._evaluators:
            try:
                self._evaluators[shake] = self._reference.truth(shake)
            except Unknowable as why:
                self._evaluators[shake] = None
                if shake is None:
                    self.notes.append(f"There is no float64 truth to compare with: {why}.")
        return self._evaluators[shake]


class ShakenRuns:
    """The movement of the reference in one setting when everything that it stores and is fed is shaken."""

    def __init__(self, reference: Reference, setting: Setting, answers: Sequence[Answer], originals: Originals) -> None:
        self._reference = reference
        self._setting = setting
        self._answers = answers
        self._originals = originals
        self._runs: list[dict[tuple[str, str], Moved]] = []

    def moved(self, answer: Answer, value: str, shakes: int) -> list[Moved]:
        """The movement of one value in each of the first `shakes` runs; fewer where it could not be measured."""
        self._run(shakes)
        return [run[answer.name, value] for run in self._runs[:shakes] if (answer.name, value) in run]

    def elsewhere(self, value: str, shakes: int) -> float:
        """The movement of a value on most feeds, as a part of its largest value there."""
        self._run(shakes)
        most: dict[str, float] = {}
        for run in self._runs:
            for (feed, name), moved in run.items():
                if name == value:
                    most[feed] = max(most.get(feed, 0.0), moved.relative)
        return float(np.median(list(most.values()))) if most else 0.0

    def _run(self, shakes: int) -> None:
        while len(self._runs) < shakes:
            found: dict[tuple[str, str], Moved] = {}
            seed = len(self._runs) + 1
            spent("shaken copies")
            self._originals.load(self._setting, self._answers)
            with suppress(RunFailed, BnfoldError, OSError), self._reference.shaken(seed) as shaken:
                if shaken is not None:
                    with shaken.running(self._setting, taps_of(self._answers)) as session:
                        for answer in self._answers:
                            with suppress(RunFailed):
                                outputs = session.run(shaken_feed(answer.feed(), seed))
                                found |= self._distances(answer, outputs)
            self._runs.append(found)

    def _distances(self, answer: Answer, outputs: Outputs) -> dict[tuple[str, str], Moved]:
        known = self._originals.get(answer, self._setting)
        pairs = {name: Moved.between(known[name], outputs[name]) for name in known if name in outputs}
        return {(answer.name, name): moved for name, moved in pairs.items() if moved is not None}


def taps_of(answers: Iterable[Answer]) -> list[str]:
    """The values inside the reference that these answers hold."""
    return sorted({name for answer in answers for name in set(answer.outputs) - answer.contract})
