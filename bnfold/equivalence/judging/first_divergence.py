"""Where two models that disagree begin to: the first of their values, in the order of the reference, that diverges.

A value that differs is to blame only where the difference reaches an output that disagrees: what a fold moved from one
node into another differs on the way and agrees again behind it. Values are run and measured a few at a time, so that
memory does not grow with the depth of the models.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bnfold.equivalence.judging.changes import Changes
from bnfold.equivalence.judging.evidence import judge
from bnfold.equivalence.judging.findings import Comparing, Finding
from bnfold.equivalence.judging.instruments import Truths
from bnfold.equivalence.judging.judge import Judge
from bnfold.equivalence.judging.measurement import Measurement, Where, measure
from bnfold.equivalence.numbers.element_types import Outputs
from bnfold.equivalence.runtime.opening import Setting, running
from bnfold.equivalence.runtime.references import Reference
from bnfold.equivalence.runtime.sessions import RunFailed
from bnfold.equivalence.structure.given_model import GivenModel, both_indexes
from bnfold.equivalence.structure.output_sources import ValuePair
from bnfold.equivalence.structure.scopes import Cutter, reads
from bnfold.equivalence.structure.signature import Source
from bnfold.equivalence.structure.value_pairs import pairs

AT_ONCE = 16
"""Values of each model that are in memory at a time."""


@dataclass(frozen=True)
class Layer:
    """One value of the reference and the one of the candidate that means the same. `node`: what makes it in the latter.

    `agrees`: within the tolerance of its type. One that does not may still be within its noise, or differ rightly.
    """

    value: ValuePair
    node: str
    measurement: Measurement
    agrees: bool

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        measured = self.measurement.to_dict()
        return {
            "reference": self.value.reference,
            "candidate": self.value.candidate,
            "node": self.node,
            "agrees": self.agrees,
            "max_abs": measured["max_abs"],
            "relative": measured["relative"],
            "new_nonfinite": self.measurement.new_nonfinite,
            "problem": self.measurement.problem,
        }


@dataclass(frozen=True)
class Layers:
    """All pairs in the order of the reference, on one feed in one setting.

    `first`: the first that diverges: it differs beyond its own noise, and an output that disagrees depends on it.

    `note`: why there is none although the models disagree, or why values could not be looked at; "" otherwise.
    """

    feed: str
    setting: str
    layers: tuple[Layer, ...] = ()
    first: Layer | None = None
    note: str = ""

    @property
    def sentence(self) -> str:
        """For people: what diverges first, and how much before it agrees."""
        if self.first is None:
            return self.note or f"None of the {len(self.layers)} values that can be compared diverges."
        before = self.layers.index(self.first)
        measured = self.first.measurement
        renamed = self.first.value.candidate != self.first.value.reference
        name = f"{self.first.value.reference!r}" + (f" ({self.first.value.candidate!r} there)" if renamed else "")
        how = measured.problem or f"{measured.max_abs:.3g}, {measured.relative:.3g} of its largest value"
        if measured.new_nonfinite:
            how = f"{measured.new_nonfinite} of {measured.count} values are NaN or infinite"
        return (
            f"The first value that diverges is {name}, made in the candidate by {self.first.node}: {how}. "
            f"It is number {before + 1} of {len(self.layers)} that can be compared ({self.setting}, feed {self.feed})."
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "feed": self.feed,
            "setting": self.setting,
            "first": self.first.to_dict() if self.first else None,
            "sentence": self.sentence,
            "layers": [layer.to_dict() for layer in self.layers],
        }


def compare_layers(
    reference: Reference,
    candidate: GivenModel,
    finding: Finding,
    comparing: Comparing,
    *,
    agrees: bool,
    assume_constant_initializers: bool = False,
) -> Layers:
    """Look inside on the feed and in the setting of `finding`, the worst one; `agrees`: whether the models do.

    Where onnxruntime does not run the models with values inside as outputs, the note says so.
    """
    assert reference.given is not None
    constants = assume_constant_initializers
    before, after = both_indexes(reference.given, candidate, assume_constant_initializers=constants)
    look = _Look(reference, candidate.source, finding, comparing)
    found = pairs(before, after)
    makers = {name: node for node in after.model.graph.node for name in node.output}
    outputs = {value.name for value in before.model.graph.output}
    layers = []
    try:
        for some in _chunks(found):
            for pair, reference_value, candidate_value in look.both(some, outputs):
                made_in = comparing.made_in(pair.reference)
                measured = measure(look.where(pair), reference_value, candidate_value, made_in)
                node = makers[pair.candidate]
                label = f"{node.op_type} {node.name!r}" if node.name else node.op_type
                layers.append(Layer(pair, label, measured, bool(judge(measured, comparing.tolerance).agrees)))
        first = None if agrees else look.first(layers, before, outputs)
    except RunFailed as failure:
        note = f"The values inside the models could not be looked at ({finding.setting}): {failure}."
        return Layers(finding.answer.name, str(finding.setting), note=note)
    note = "" if agrees or first else "The models disagree, but no value inside them that can be compared diverges."
    return Layers(finding.answer.name, str(finding.setting), tuple(layers), first, note)


def _chunks(found: Sequence[ValuePair]) -> Iterator[Sequence[ValuePair]]:
    for start in range(0, len(found), AT_ONCE):
        yield found[start : start + AT_ONCE]


class _Look:
    """Runs both models on one feed and gives out what is inside."""

    def __init__(self, reference: Reference, candidate: Source, finding: Finding, comparing: Comparing) -> None:
        self.reference = reference
        self.candidate = candidate
        self.answer = finding.answer
        self.setting = finding.setting
        self.comparing = comparing
        self.truths = Truths(reference)

    def where(self, pair: ValuePair) -> Where:
        setting, feed = self.setting, self.answer.name
        return Where(pair.reference, feed, setting.provider.name, setting.optimization, "layer", setting.precision)

    def both(self, some: Sequence[ValuePair], outputs: set[str]) -> Iterator[tuple[ValuePair, Any, Any]]:
        """The values of pairs in both models. Raises RunFailed."""
        old = self._values(self.reference.running(Setting(), _taps((pair.reference for pair in some), outputs)))
        new = self._values(running(self.candidate, self.setting, _taps((pair.candidate for pair in some), outputs)))
        for pair in some:
            if pair.reference in old and pair.candidate in new:
                yield pair, old[pair.reference], new[pair.candidate]

    def _values(self, opened: Any) -> Outputs:
        with opened as session:
            values: Outputs = session.run(self.answer.feed())
        return values

    def first(self, layers: Sequence[Layer], before: Cutter, outputs: set[str]) -> Layer | None:
        """The first that differs beyond its noise where the difference reaches an output that differs."""
        suspects = [layer for layer in layers if not layer.agrees]
        reaching = _reaching({layer.value.reference: layer.agrees for layer in layers}, before, outputs)
        suspects = [layer for layer in suspects if layer.value.reference in reaching]
        for start in range(0, len(suspects), AT_ONCE):
            some = suspects[start : start + AT_ONCE]
            guilty = self._beyond_noise([layer.value for layer in some], outputs)
            for layer in some:
                if layer.value in guilty:
                    return layer
        return None

    def _beyond_noise(self, some: Sequence[ValuePair], outputs: set[str]) -> set[ValuePair]:
        """The findings that the chain of judgement does not excuse, on this feed alone."""
        comparing = replace(self.comparing, changes=Changes())
        kept: dict[str, Any] = {}
        found: dict[ValuePair, tuple[Any, Any]] = {}
        for pair, old, new in self.both(some, outputs):
            kept[pair.reference] = old
            found[pair] = old, new
        answer = self.answer._replace(outputs=kept, contract=frozenset(set(kept) & outputs))
        findings = {
            pair: comparing.found(self.where(pair), pair.reference, answer, new, self.setting)
            for pair, (_, new) in found.items()
        }
        Judge(self.reference, self.candidate, comparing, {}, self.truths).settle(list(findings.values()), each=True)
        return {pair for pair, finding in findings.items() if not finding.judgement.agrees}


def _taps(names: Any, outputs: set[str]) -> list[str]:
    return sorted(set(names) - outputs)


def _reaching(agrees: Mapping[str, bool], before: Cutter, outputs: set[str]) -> set[str]:
    """The values from which a difference reaches an output that differs, passing no value that agrees."""
    leaks = {name for name in outputs if not agrees.get(name, False)}
    for node in reversed(before.model.graph.node):
        if leaks.intersection(node.output):
            leaks.update(name for name in reads(node) if not agrees.get(name, False))
    return leaks
