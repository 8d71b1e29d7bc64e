"""Run the reference on feeds it can run, and keep what it answered.

The reference decides what is a possible feed: sizes it refuses are tried again with others, and at last reported.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from onnx import ModelProto

from bnfold.activity import doing
from bnfold.equivalence.feeds import seeded
from bnfold.equivalence.feeds.bounds import bounds
from bnfold.equivalence.feeds.dynamic_sizes import Sizes
from bnfold.equivalence.feeds.integer_ranges import IntegerRange, integer_ranges
from bnfold.equivalence.feeds.refusals import numbers, place
from bnfold.equivalence.feeds.seeded import FeedPlan, Round
from bnfold.equivalence.feeds.size_solving import Shapes
from bnfold.equivalence.numbers.element_types import Feed, Outputs, rounding_of
from bnfold.equivalence.runtime.sessions import RunFailed
from bnfold.equivalence.runtime.spending import Purse
from bnfold.equivalence.structure.signature import Signature
from bnfold.equivalence.structure.work import HEAVY_ELEMENTS
from bnfold.onnxfile import MAX_DIMS

if TYPE_CHECKING:
    from bnfold.equivalence.feeds.user_data import Inputs

Run = Callable[[Feed], Outputs]
_DAMPING = (16.0, 256.0, 4096.0)
_BRANCH_TRIES, _BRANCH_CLIMBS = 24, 2
"""Feeds for branches that were not run yet, and for how many of them other sizes are tried where they are refused."""
_CLIMBS, _PROPOSALS = 10, 12
"""The most refusals that are followed, and the most sizes that are tried for one."""
_SMALL_FEED = 1 << 20
"""Larger feeds that a refusal proposes are not tried where the first was smaller: a number in it that is taken for the
size of a batch would keep a network busy for minutes."""


class Answer(NamedTuple):
    """The answer of the reference to one feed; `feed()` makes the same arrays again, so that none need be kept.

    `contract`: those of `outputs` that a caller gets; the others were looked at behind them. `cost`: how many values
    the model is fed.
    """

    name: str
    shapes: Shapes
    feed: Callable[[], Feed]
    outputs: Outputs
    contract: frozenset[str] = frozenset()
    damping: float = 1.0
    costly: bool = False
    cost: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The recipe of this feed, together with the seed."""
        return {
            "name": self.name,
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
            "damping": self.damping,
        }


@dataclass
class Answers:
    """All answers, and a note for each feed that the reference could not run or that shows less than it should.

    `refusal`: why the reference did not run, without a full stop. `advice`: what to do about it. `sizes`: how each
    dynamic size that it accepted was found, in words.
    """

    answers: list[Answer] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    refusal: str = ""
    advice: str = "pass --input-shape or --inputs"
    sizes: list[str] = field(default_factory=list)


def conditions(model: ModelProto) -> list[str]:
    """The conditions of the Ifs of the main graph, constants left out."""
    given = {tensor.name for tensor in model.graph.initializer}
    given |= {value for node in model.graph.node if node.op_type == "Constant" for value in node.output}
    decided = dict.fromkeys(value for node in model.graph.node if node.op_type == "If" for value in node.input[:1])
    return [name for name in decided if name not in given]


def run_user_feeds(inputs: "Inputs", signature: Signature, run: Run, taps: Sequence[str] = ()) -> Answers:
    """Raises UsageError for data that does not fit; data that fits and cannot be run is a note."""
    from bnfold.equivalence.feeds.user_data import checked

    if not signature.outputs:
        return _without_outputs()
    found = Answers()
    for name, feed in checked(inputs, signature):
        try:
            outputs = run(feed)
        except RunFailed as failure:
            found.refusal = found.refusal or str(failure)
            found.notes.append(f"The reference cannot run feed {name}: {failure}.")
            continue
        shapes = {port: tuple(array.shape) for port, array in feed.items()}
        found.answers.append(Answer(name, shapes, partial(dict, feed), outputs, _contract(outputs, taps)))
    return found


def run_seeded_feeds(
    model: ModelProto,
    signature: Signature,
    fixed: Mapping[str, Sequence[int]],
    seed: int,
    run: Run,
    taps: Sequence[str] = (),
    beside: Sequence[ModelProto] = (),
    *,
    purse: Purse | None = None,
) -> Answers:
    """Every kind at every batch of the schedule, at the first sizes that the reference accepts.

    What decides most comes first: the kinds, other batches and sizes, rows of tables, values beyond the bounds of the
    model and of those `beside` it, branches. `purse`: pays for all but the first; None: for all there are.
    """
    if not signature.outputs:
        return _without_outputs()
    ports = signature.inputs
    strange = next((port for port in ports if not port.elem_type), None)
    if strange is not None:
        return Answers(refusal=f"input {strange.name!r} is not a tensor, and only tensors can be made up")
    sizes = Sizes(model, ports, fixed)
    first = next(sizes.variants(1))
    if seeded.elements(first) > seeded.LARGEST_FEED:
        return Answers(refusal=_too_large(first), advice="pass --inputs with data of your own")
    deep = next((port.name for port in ports if len(first[port.name]) > MAX_DIMS), None)
    if deep is not None:
        return Answers(refusal=f"input {deep!r} has {len(first[deep])} dimensions, and arrays have {MAX_DIMS} at most")
    ranges = integer_ranges(model)
    runner = _Runner(
        run,
        lambda plan: seeded.build(plan, ports, seed, ranges),
        taps,
        sizes,
        Answers(),
        purse or Purse(),
        seeded.elements(first),
    )
    batched = sizes.batched(first)
    accepted: Shapes | None = None
    for each in seeded.schedule(ports, first, batched=batched):
        if accepted is None or runner.affords(sizes.rebatched(accepted, each.batch)):
            ran = runner.group(each)
            accepted = accepted or ran
    if accepted is None or not runner.affords(accepted):
        return runner.found
    overrides = seeded.overridable_floats(signature.overridable)
    if overrides:
        runner.attempt(FeedPlan("overrides", "normal", accepted, overrides=overrides))
    runner.smallest()
    runner.more(accepted, ranges, bounds(model, *beside))
    runner.reach(conditions(model), accepted)
    return runner.found


def _without_outputs() -> Answers:
    return Answers(refusal="it has no outputs", advice="there is nothing to compare")


def _too_large(shapes: Shapes) -> str:
    return (
        f"its inputs hold {seeded.elements(shapes):,} values, and no feed of more than {seeded.LARGEST_FEED:,} is made"
    )


@dataclass
class _Runner:
    run: Run
    build: Callable[[FeedPlan], Feed]
    taps: Sequence[str]
    sizes: Sizes
    found: Answers
    purse: Purse
    unit: int
    """The number of values in the first feed."""
    accepted: Shapes | None = None
    refused: str = ""
    """The message of the reference when it last refused a feed."""

    def affords(self, shapes: Shapes) -> bool:
        """Whether the budget has a feed of these sizes left; the first is always run."""
        return not self.found.answers or self.purse.affords(self._size(shapes))

    def _size(self, shapes: Shapes) -> float:
        return max(1.0, seeded.elements(shapes) / max(self.unit, 1))

    def group(self, each: Round) -> Shapes | None:
        """The sizes the reference accepted for this batch, or None. Zeros are tried where other values were refused."""
        kinds = each.kinds
        for kind in dict.fromkeys((kinds[0], "zero")):
            for shapes in self._shapes(each.batch, climbing=kind == kinds[0]):
                if self.attempt(_plan(each, kind, shapes), quietly=True):
                    self.accepted = self.accepted or shapes
                    self.found.sizes += [size for size in self.sizes.described(shapes) if size not in self.found.sizes]
                    for other in kinds:
                        if other != kind:
                            self.attempt(_plan(each, other, shapes))
                    return shapes
        self.found.notes.append(
            f"No size tried for batch {each.batch} can be run by the reference: {self.found.refusal}."
        )
        return None

    def _shapes(self, batch: int, *, climbing: bool) -> Iterator[Shapes]:
        """Sizes to try, until one is accepted: from the first on, what the reference says of each leads to the next.

        `climbing` False: what was said is not heard, since it has led nowhere before.
        """
        seen: list[Shapes] = []
        for shapes in self.sizes.variants(batch, self.accepted):
            if shapes not in seen and seeded.elements(shapes) <= seeded.LARGEST_FEED:
                seen.append(shapes)
                yield shapes
                if len(seen) == 1 and climbing:
                    yield from self._climb(shapes, seen)

    def _climb(self, shapes: Shapes, seen: list[Shapes]) -> Iterator[Shapes]:
        """From sizes that were refused to others, as long as the refusal moves to another place or at least changes."""
        largest = max(seeded.elements(shapes), _SMALL_FEED)
        for _ in range(_CLIMBS):
            refusal, changed = self.refused, None
            for other in islice(self.sizes.after(refusal, shapes), _PROPOSALS):
                if other in seen or seeded.elements(other) > min(largest, seeded.LARGEST_FEED):
                    continue
                seen.append(other)
                yield other
                if place(self.refused) != place(refusal):
                    changed = other, self.refused
                    break
                if changed is None and numbers(self.refused) != numbers(refusal):
                    changed = other, self.refused
            if changed is None:
                return
            shapes, self.refused = changed

    def smallest(self) -> None:
        """The least sizes that the reference takes, where they were not run before."""
        ran = [answer.shapes for answer in self.found.answers]
        several = [shapes for shapes in self.sizes.smallest() if shapes not in ran]
        for number, shapes in enumerate(several, 1):
            if self.attempt(FeedPlan("smallest", "normal", shapes), quietly=number < len(several)):
                return

    def more(self, shapes: Shapes, ranges: Mapping[str, IntegerRange], cuts: Sequence[float]) -> None:
        """Further feeds, which only some models ask for; sizes that the reference refuses are no finding."""
        heavy = seeded.elements(shapes) >= HEAVY_ELEMENTS
        for by in (1,) if heavy else (1, 3):
            other = self.sizes.shifted(shapes, by)
            if other != shapes:
                self.attempt(FeedPlan(f"shifted-{by}", "normal", other, costly=heavy), quietly=True)
        many = self.sizes.rebatched(shapes, seeded.MANY)
        light = many != shapes and seeded.elements(many) <= HEAVY_ELEMENTS
        many = many if light and self.attempt(FeedPlan("many", "normal", many), quietly=True) else shapes
        plans, unread = seeded.table_rows(shapes, partial(self.sizes.rebatched, shapes), ranges)
        self.found.notes += [unread] if unread else []
        for plan in (*plans, *(() if heavy else seeded.beyond_bounds(many, cuts))):
            self.attempt(plan, quietly=True)

    def reach(self, decided: Sequence[str], shapes: Shapes) -> None:
        """Go on until every condition that can be seen was true once and false once, or enough was tried."""
        climbs = _BRANCH_CLIMBS
        for number in range(_BRANCH_TRIES):
            open_before = self._undecided(decided)
            if not open_before:
                return
            if not self.affords(shapes):
                break
            ran = self.attempt(FeedPlan(f"branch-{number}", "wild", shapes), quietly=True)
            if not ran and climbs:
                climbs -= 1
                others = self._climb(shapes, [shapes])
                ran = any(self.attempt(FeedPlan(f"branch-{number}", "wild", other), quietly=True) for other in others)
            if ran and self._undecided(decided) == open_before:
                self.found.answers.pop()
        self.found.notes += [
            f"Condition {name!r} of an If was {str(seen).lower()} on every feed: its other branch was not compared."
            for name, seen in self._undecided(decided)
        ]

    def _undecided(self, decided: Sequence[str]) -> list[tuple[str, bool]]:
        """The conditions that had one value only, with that value."""
        found = []
        for name in decided:
            values = {bool(seen[name].all()) for seen in map(_everything, self.found.answers) if name in seen}
            if len(values) == 1:
                found.append((name, values.pop()))
        return found

    def attempt(self, plan: FeedPlan, *, quietly: bool = False) -> bool:
        """Run one plan; where the reference itself overflows, the same feed smaller is better evidence."""
        if not self.affords(plan.shapes):
            return False
        is_first = not self.found.answers
        with doing(f"feed {plan.name}"):
            ran = self._attempt(plan, quietly=quietly)
        if ran and not is_first:
            self.purse.pay(self._size(plan.shapes))
        return ran

    def _attempt(self, plan: FeedPlan, *, quietly: bool) -> bool:
        feed = self.build(plan)
        try:
            outputs = self.run(feed)
            for damping in _DAMPING if plan.kind != "zero" and not _finite(outputs, self.taps) else ():
                damped = plan._replace(damping=damping)
                retried = self.run(self.build(damped))
                if _finite(retried, self.taps):
                    plan, outputs = damped, retried
                    break
        except RunFailed as failure:
            self.found.refusal = self.found.refusal or str(failure)
            self.refused = str(failure)
            if not quietly:
                self.found.notes.append(f"The reference cannot run feed {plan.name}: {failure}.")
            return False
        if not _finite(outputs, self.taps):
            self.found.notes.append(f"The reference answers feed {plan.name} with values that are not finite.")
        contract = _contract(outputs, self.taps)
        self.found.answers.append(
            Answer(
                plan.name,
                plan.shapes,
                partial(self.build, plan),
                outputs,
                contract,
                plan.damping,
                plan.costly,
                plan.cost,
            )
        )
        return True


def _plan(each: Round, kind: str, shapes: Shapes) -> FeedPlan:
    return FeedPlan(f"batch{each.batch}-{kind}", kind, shapes, costly=each.costly)


def _everything(answer: Answer) -> Outputs:
    return answer.feed() | answer.outputs


def _contract(outputs: Outputs, taps: Sequence[str]) -> frozenset[str]:
    return frozenset(outputs) - frozenset(taps)


def _finite(outputs: Outputs, taps: Sequence[str]) -> bool:
    return all(
        bool(np.isfinite(array.astype(np.float32) if array.dtype.name == "bfloat16" else array).all())
        for name, array in outputs.items()
        if name not in taps and rounding_of(array.dtype) is not None
    )
