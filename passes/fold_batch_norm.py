"""fold-batch-norm: y = k x + t moves into the operator before it or into all behind it.

A constant gain or bias is no normalization, but where a linear operator stands right beside it, that takes it up too.

Sound where every operator on the way is linear in each channel and nothing else sees the values that change: the
tables say which (`affine_ops`, `linear_ops`, `carriers`). What is left of a run is merged into as few operators as
possible; what stays is kept with the reason of the nearest miss.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from typing import Final, NamedTuple

import numpy as np
from onnx import NodeProto

from bnfold.decisions import Action, Decision, Reason, Refused
from bnfold.graph import Graph, Model, Tensor, paused_collector
from bnfold.passes import fold
from bnfold.passes.affine import Affine
from bnfold.passes.affine_ops import AFFINE_OPS, AffineOp, as_constant, checked_parameters, is_affine_op, stored_scale
from bnfold.passes.direct_folds import DirectFolds
from bnfold.passes.fold import Plan, Search
from bnfold.passes.gains import beside_linear, unread_beside_linear
from bnfold.passes.normalization import is_batch_norm, plain_affines, read_batch_norm
from bnfold.passes.protocol import Preserves
from bnfold.passes.runs import (
    Run,
    collect_run,
    is_part_of_a_pattern,
    may_be_normalization,
    scales_a_computed_normalization,
)
from bnfold.passes.siblings import family
from bnfold.passes.step import known_rank, stored_vector
from bnfold.progress import StageProgress
from bnfold.records import Record

_PROGRESS_EVERY = 256


class FoldBatchNormOptions(Record):
    """`keep`: shell patterns of node names that stay. `lower`: a BatchNormalization that stays becomes Mul and Add.

    `explain`: the name of a node; the decision on it then tells the walk. `on_progress`: is called now and then with
    how many places of a scope were looked at, and how many there are. `forbidden`: scope and label of normalizations
    that stay, with what stands in one run with them, because folding them was found to be wrong. `bias_adds`: a
    constant gain or bias goes into the linear operator beside it.
    """

    keep: tuple[str, ...] = ()
    lower: bool = False
    explain: str | None = None
    on_progress: StageProgress | None = None
    forbidden: frozenset[tuple[str, str]] = frozenset()
    bias_adds: bool = True


class Rewrite(NamedTuple):
    """One possible rewrite of a run: `nodes` operators fewer, done by `apply`, which returns where the map went."""

    action: Action
    nodes: int
    apply: Callable[[], tuple[str, ...]]
    detail: str = ""
    siblings: tuple[Run, ...] = ()  # other runs that it rewrites as well
    partly: bool = False  # a shift stays
    obstacle: Refused | None = None  # why what was merged goes no further


class FoldBatchNorm:
    """Fold every BatchNormalization, and every constant per-channel map that is one in disguise."""

    name: Final = "fold-batch-norm"
    preserves: Final = Preserves.ALGEBRAIC

    def __init__(self, options: FoldBatchNormOptions | None = None) -> None:
        self.options = options or FoldBatchNormOptions()

    def run(self, model: Model) -> list[Decision]:
        """Edit `model`; one decision per normalization. A fold may open the way for another, so until none is left."""
        with paused_collector(), np.errstate(all="ignore"):  # every result is looked at: what is not finite is refused
            return self._rounds(model)

    def _rounds(self, model: Model) -> list[Decision]:
        decisions: dict[tuple[str, str], Decision] = {}
        gains: dict[tuple[str, str], Decision] = {}  # of those that stay: what the last round found
        if model.first_labels is None:
            model.first_labels = _first_labels(model)
        original = model.first_labels
        while True:
            before = len(model.edits)
            gains.clear()
            for graph in model.by_dataflow():
                for decision in self._scope(graph, original):
                    (gains if decision.is_gain_that_stays else decisions)[graph.scope, decision.node] = decision
            if len(model.edits) == before:
                return _as_in_the_file({**gains, **decisions}, model)

    def _scope(self, graph: Graph, original: Mapping[int, str]) -> list[Decision]:
        """One round over one scope. What the pass itself made is folded too, but is no normalization of the input.

        `original` holds the labels of the affine operators of the input, by id: an output may get another name on the
        way.
        """
        decisions: list[Decision] = []
        seen: set[int] = set()
        looked_at: set[int] = set()  # a run from here was found to be no normalization: that takes linear time once
        told: set[int] = set()  # gains that stay, and have their decision
        candidates = [node for node in graph.by_dataflow_of(AFFINE_OPS) if is_affine_op(node)]
        known = plain_affines(candidates, graph)
        direct = DirectFolds(candidates, known, graph)
        for node in self._counted(candidates):
            if id(node) in seen or id(node) in looked_at or not node.output:
                continue
            if is_batch_norm(node) and self._is_kept(node, original):
                seen.add(id(node))
                decisions += _kept([(original[id(node)], node.op_type)], graph, Refused(Reason.KEPT_ON_REQUEST))
                continue
            if self._may_be_direct(node, graph, original) and (target := direct.apply(node)) is not None:
                decisions.append(Decision(original[id(node)], node.op_type, graph.scope, Action.FOLDED, (target,)))
                continue
            try:
                run = collect_run(node, graph, seen, known)
            except Refused as refused:
                decisions += _unreadable(node, graph, refused, original)
                continue
            if self._is_kept(node, original) and Run(run.members[:1]).is_normalization:
                seen.add(id(node))
                decisions += _kept([(original[id(node)], node.op_type)], graph, Refused(Reason.KEPT_ON_REQUEST))
                continue
            if self._is_kept(node, original):
                asked = Refused(Reason.KEPT_ON_REQUEST)
                decisions += _gain_kept(Run(run.members[:1]), graph, asked, original, told)
            run = self._without_kept(run, original)
            if not run.is_normalization or _is_of_a_computed_one(run, graph):
                looked_at.update(map(id, run.sure_nodes))
                decisions += self._gain_or_bias(run, graph, original, seen, told)
                continue
            seen.update(map(id, run.nodes))
            if any(self._is_forbidden(each, graph, original) for each in run.nodes):
                decisions += _kept(_labels_of(run, original), graph, Refused(Reason.ROLLED_BACK))
                continue
            decisions += self._decide(run, graph, original, seen)
        return decisions

    def _counted(self, candidates: Sequence[NodeProto]) -> Iterator[NodeProto]:
        for position, node in enumerate(candidates):
            if self.options.on_progress is not None and position % _PROGRESS_EVERY == 0:
                self.options.on_progress(position, len(candidates))
            yield node

    def _is_kept(self, node: NodeProto, original: Mapping[int, str]) -> bool:
        label = original.get(id(node)) if self.options.keep else None
        return label is not None and any(fnmatchcase(label, each) for each in self.options.keep)

    def _is_forbidden(self, node: NodeProto, graph: Graph, original: Mapping[int, str]) -> bool:
        return (graph.scope, original.get(id(node))) in self.options.forbidden

    def _may_be_direct(self, node: NodeProto, graph: Graph, original: Mapping[int, str]) -> bool:
        explained = original.get(id(node)) == self.options.explain
        return not explained and not self._is_forbidden(node, graph, original)

    def _without_kept(self, run: Run, original: Mapping[int, str]) -> Run:
        for position, node in enumerate(run.nodes if self.options.keep else ()):
            if self._is_kept(node, original):
                return Run(run.members[:position])
        return run

    def _gain_or_bias(
        self, run: Run, graph: Graph, original: Mapping[int, str], seen: set[int], told: set[int]
    ) -> list[Decision]:
        """The decision on a gain or bias beside a linear operator, which takes it up where it can; else none."""
        label = original.get(id(run.first.node)) if run.members else None
        walk: list[str] | None = [] if label is not None and label == self.options.explain else None
        try:
            rewrite = self._beside(run, graph, original, walk)
        except Refused as refused:
            return _gain_kept(run, graph, refused, original, told, walk)
        target = rewrite.apply()
        seen.update(map(id, run.nodes))
        detail, steps = rewrite.detail or "a gain or bias beside a linear operator", tuple(walk or ())
        where, partly = graph.scope, rewrite.partly
        decision = Decision(label or "", run.op_types, where, rewrite.action, target, None, detail, steps, partly, True)
        return [] if label is None else [decision]

    def _beside(self, run: Run, graph: Graph, original: Mapping[int, str], walk: list[str] | None) -> Rewrite:
        """The rewrite that puts `run` into the linear operator beside it. Raises `Refused` with why it stays."""
        if not run.members:
            raise Refused(Reason.MORE_NODES, "it has no operator")
        if not self.options.bias_adds or any(self._is_kept(node, original) for node in run.nodes):
            raise Refused(Reason.KEPT_ON_REQUEST)
        if any(self._is_forbidden(node, graph, original) for node in run.nodes):
            raise Refused(Reason.ROLLED_BACK)
        if is_part_of_a_pattern(run, graph):
            raise Refused(Reason.PART_OF_A_PATTERN)
        if run.affine.is_identity and beside_linear(run, graph) is None:
            raise Refused(Reason.MORE_NODES, "it changes nothing")
        rewrite = best_rewrite(run, graph, trace=walk, near=True)
        if not rewrite.nodes:
            raise Refused(Reason.MORE_NODES, "c - x is one operator, and its shift alone would be another")
        return rewrite

    def _decide(self, run: Run, graph: Graph, original: Mapping[int, str], seen: set[int]) -> list[Decision]:
        labels = _labels_of(run, original)
        asked = self.options.explain in [label for label, _ in labels]
        walk: list[str] | None = [] if asked else None
        try:
            rewrite = best_rewrite(
                run,
                graph,
                lower=self.options.lower,
                trace=walk,
                held=lambda node: self._is_kept(node, original) or self._is_forbidden(node, graph, original),
            )
        except Refused as refused:
            return _kept(labels, graph, refused, walk)
        target = rewrite.apply()
        for sibling in rewrite.siblings:
            seen.update(map(id, sibling.nodes))
            labels += _labels_of(sibling, original)
        steps, partly, obstacle = tuple(walk or ()), rewrite.partly, rewrite.obstacle
        reason, detail = (None, rewrite.detail) if obstacle is None else (obstacle.reason, obstacle.detail)
        return [
            Decision(label, op, graph.scope, rewrite.action, target, reason, detail, steps, partly)
            for label, op in labels
        ]


def _first_labels(model: Model) -> dict[int, str]:
    """The labels of the operators that can be maps, and of all without a name, by id and in the order of the file."""
    affine = {id(node) for graph in model.graphs for node in graph.nodes_of(AFFINE_OPS) if is_affine_op(node)}
    return {
        id(node): graph.label(node)
        for graph in model.graphs
        for node in graph.nodes()
        if id(node) in affine or not graph.is_named(node)
    }


def _as_in_the_file(decisions: Mapping[tuple[str, str], Decision], model: Model) -> list[Decision]:
    """The decisions in the order of the file's nodes: whoever reads them looks there."""
    assert model.first_labels is not None
    labels = model.first_labels.values()
    positions = {label: position for position, label in enumerate(labels)}
    scopes = {graph.scope: position for position, graph in enumerate(model.graphs)}
    return sorted(decisions.values(), key=lambda each: (scopes[each.scope], positions.get(each.node, -1)))


def _is_of_a_computed_one(run: Run, graph: Graph) -> bool:
    """Whether `run` is the gain and bias of a normalization by statistics that are computed."""
    return not run.batch_norms and scales_a_computed_normalization(run.first.node, run.first.data, graph)


def _labels_of(run: Run, original: Mapping[int, str]) -> list[tuple[str, str]]:
    """Label and type of the normalizations of a run; of one without BatchNormalization those of its first operator."""
    labels = [(original[id(node)], node.op_type) for node in run.batch_norms]
    if not labels and id(run.first.node) in original:
        labels = [(original[id(run.first.node)], run.op_types)]
    return labels


def _unreadable(node: NodeProto, graph: Graph, refused: Refused, original: Mapping[int, str]) -> list[Decision]:
    """The decision on an operator that is no map, as `refused` says; none where it can be nothing to fold either."""
    if id(node) not in original:
        return []
    named = [(original[id(node)], node.op_type)]
    if is_batch_norm(node) or may_be_normalization(node, graph, refused):
        return _kept(named, graph, refused)
    why = unread_beside_linear(node, refused, graph)
    return [] if why is None else [replace(each, gain=True) for each in _kept(named, graph, why)]


def _gain_kept(
    run: Run,
    graph: Graph,
    refused: Refused,
    original: Mapping[int, str],
    told: set[int],
    walk: Sequence[str] | None = None,
) -> list[Decision]:
    """The decision on a gain or bias that stays beside a linear operator; none where nothing linear is beside `run`.

    What is told of already, as a part of a longer one, is not told of again.
    """
    gain = beside_linear(run, graph)
    if gain is None or id(gain.first.node) not in original or id(gain.first.node) in told:
        return []
    if len(gain.affine.axes) > 1:  # it is not one number, nor one for each channel
        return []
    told.update(map(id, gain.nodes))
    kept = _kept([(original[id(gain.first.node)], gain.op_types)], graph, refused, walk)
    return [replace(each, gain=True) for each in kept]


def _kept(
    labels: list[tuple[str, str]], graph: Graph, refused: Refused, walk: Sequence[str] | None = None
) -> list[Decision]:
    steps = tuple(walk or ())
    return [
        Decision(label, op_type, graph.scope, Action.KEPT, reason=refused.reason, detail=refused.detail, walk=steps)
        for label, op_type in labels
    ]


# ---------------------------------------------------------------------- the choice


def best_rewrite(
    run: Run,
    graph: Graph,
    *,
    lower: bool = False,
    trace: list[str] | None = None,
    near: bool = False,
    held: Callable[[NodeProto], bool] = lambda _: False,
) -> Rewrite:
    """The best rewrite of `run`: into the producers, else into the consumers, else the scale alone, else merged.

    With `near` only into a linear operator right beside it. Operators that are `held` stay. Raises `Refused` with the
    reason of the nearest miss where there is none. Nothing is edited before `apply`.
    """
    search = partial(Search, graph, trace, near=near)
    misses: list[Refused] = []
    for find, heading in _WAYS.items():
        if near and find in (_merged, _with_siblings):
            continue
        if trace is not None:
            trace.append(heading)
        try:
            rewrite = find(run, graph, search)
        except Refused as refused:
            misses.append(refused)
            if trace is not None:
                trace.append(f"  stopped: {refused.reason.sentence} [{refused}]")
        else:
            if not any(held(node) for sibling in rewrite.siblings for node in sibling.nodes):
                merged = rewrite.action is Action.MERGED
                return rewrite._replace(obstacle=_nearest_miss(*misses[:2])) if merged else rewrite
    if lower and run.batch_norms:
        return _lowered(run, graph)
    raise _nearest_miss(*misses[:2])


def _nearest_miss(up: Refused, down: Refused) -> Refused:
    """Where the map came closest to a place: before it, unless there is nothing before it."""
    nothing_there = (Reason.GRAPH_INPUT, Reason.NO_PRODUCER)
    nearest = down if up.reason in nothing_there and down.reason not in _NOWHERE else up
    places = [("before it", up), ("behind it", down)]
    return Refused(nearest.reason, "; ".join(f"{place}: {_detail(miss, nearest)}" for place, miss in places))


def _detail(miss: Refused, nearest: Refused) -> str:
    """The detail of a miss, with its code where that is another one than the decision's."""
    if miss.reason is nearest.reason:
        return miss.detail or "the same"
    return f"{miss.detail} ({miss.reason.code})" if miss.detail else miss.reason.code


_NOWHERE = (Reason.VALUE_IS_OUTPUT, Reason.NO_CONSUMER)


def _into_producers(run: Run, graph: Graph, search: Callable[[], Search]) -> Rewrite:
    candidates = [run]
    first = run.first.node.op_type
    if run.size > 1 and (first in ("Add", "Sub") or (first in ("Mul", "Div") and run.batch_norms)):
        # That Add can take the shift where MatMul has no bias, that Mul the scale where a Relu would block it.
        candidates.append(Run(run.members[1:]))
    rewrites, refusal = [], None
    for candidate in candidates:
        try:
            rewrites.append(_up(candidate, candidate.affine, graph, search))
        except Refused as refused:
            refusal = refusal or refused
    if not rewrites:
        assert refusal is not None
        raise refusal
    return max(reversed(rewrites), key=lambda rewrite: rewrite.nodes)  # the later one where they are equal


def _up(run: Run, affine: Affine, graph: Graph, search: Callable[[], Search]) -> Rewrite:
    node, data = run.first.node, run.first.data
    plan = search().toward_producer(node, data, affine)
    constant = graph.constant(node.input[data]) is not None  # the plan may put another one in its place
    toward_producer = not constant and _can_bypass(run.members, graph, toward_producer=True)
    if not toward_producer:
        _require_bypass(run.members, graph)
    nodes = _saved(run, plan, graph)

    def apply() -> tuple[str, ...]:
        targets = _labels(plan, graph)
        plan.apply(graph)
        for member in run.members:
            graph.bypass(member.node, member.data, toward_producer=toward_producer)
        return targets

    return Rewrite(Action.FOLDED, nodes, apply, _growth(plan, graph))


def _into_consumers(run: Run, graph: Graph, search: Callable[[], Search]) -> Rewrite:
    plan = search().toward_consumers(run.output, run.affine)
    _require_bypass(run.members, graph)  # an identity asks nothing of its readers, but its output keeps its name
    nodes = _saved(run, plan, graph)

    def apply() -> tuple[str, ...]:
        targets = _labels(plan, graph)
        plan.apply(graph)
        for member in reversed(run.members):
            graph.bypass(member.node, member.data, toward_producer=False)
        return targets

    return Rewrite(Action.FOLDED, nodes, apply, _growth(plan, graph))


def _growth(plan: Plan, graph: Graph) -> str:
    """The growth of the file by the fold, in words, where a weight was stored smaller: float16 behind a Cast."""
    growths = []
    for node, index, tensor in plan.constants:
        value = node.input[index] if index < len(node.input) else ""
        maker = graph.producer(value) if value else None
        if maker is None or maker.op_type == "Constant":
            continue
        before = graph.model.owner(node).stored_bytes(value)
        if 0 < before < tensor.nbytes:
            growths.append(f"{value!r} was computed from {before:,} bytes and is stored in {tensor.nbytes:,}")
    return "; ".join(growths)


def _with_siblings(run: Run, graph: Graph, search: Callable[[], Search]) -> Rewrite:
    """With the runs that read other parts of the same value: what makes that takes all of them up."""
    try:
        value, maker, runs, affine, is_whole = family(run, graph)
    except fold.DO_NOT_FIT as error:
        raise Refused(Reason.MALFORMED, f"what reads parts of {run.first.node.input[run.first.data]!r}") from error
    if not any(each.first.node is run.first.node for each in runs):
        raise Refused(Reason.OTHER_CONSUMER, repr(value))
    plan = search().into_maker(maker, value, affine)
    toward_producer = [_can_bypass(each.members, graph, toward_producer=True) for each in runs]
    for each, possible in zip(runs, toward_producer, strict=True):
        if not possible:
            _require_bypass(each.members, graph)
    saved = sum(each.size for each in runs) - len(plan.adds)
    if plan.adds and (saved < 1 or not is_whole or graph.opset < 7):
        raise Refused(Reason.MORE_NODES, f"an Add behind {graph.known_as(maker)}")

    def apply() -> tuple[str, ...]:
        targets = _labels(plan, graph)
        plan.apply(graph)
        for each, possible in zip(runs, toward_producer, strict=True):
            for member in each.members:
                graph.bypass(member.node, member.data, toward_producer=possible)
        return targets

    others = tuple(each for each in runs if each.first.node is not run.first.node)
    return Rewrite(Action.FOLDED, saved, apply, siblings=others)


def _scale_into_producers(run: Run, graph: Graph, search: Callable[[], Search]) -> Rewrite:
    """k moves to the producers, and an Add of t stays."""
    affine = run.affine
    plan = _only_scale(run, lambda scale: search().toward_producer(run.first.node, run.first.data, scale))
    return _with_add(run, plan, affine.shift, graph)


def _scale_into_consumers(run: Run, graph: Graph, search: Callable[[], Search]) -> Rewrite:
    """k x + t = k (x + t / k): an Add of t / k stays, and k moves to the consumers."""
    affine = run.affine
    if (affine.scale == 0).any():
        raise Refused(Reason.ZERO_SCALE)
    plan = _only_scale(run, lambda scale: search().toward_consumers(run.output, scale))
    with np.errstate(over="ignore"):
        return _with_add(run, plan, affine.shift / affine.scale, graph)


def _only_scale(run: Run, find: Callable[[Affine], Plan]) -> Plan:
    """A plan for the scale alone, where there is a shift to leave."""
    affine = run.affine
    if not affine.has_scale or not affine.has_shift:
        raise Refused(Reason.MORE_NODES, "there is nothing to separate")
    return find(affine.only_scale())


def _with_add(run: Run, plan: Plan, shift: np.ndarray, graph: Graph) -> Rewrite:
    operators = _operators(run, Affine.of(np.ones(()), shift), graph)

    def apply() -> tuple[str, ...]:
        targets = _labels(plan, graph)
        plan.apply(graph)
        return (*targets, *_replaced(run, operators, graph))

    return Rewrite(Action.FOLDED, run.size - 1, apply, "its scale was folded; its shift stays as an Add", partly=True)


def _operators(run: Run, affine: Affine, graph: Graph) -> list[tuple[str, Tensor]]:
    """`affine` as at most one Mul and one Add with constants, in the dtype of the run's own."""
    if graph.opset < 7:
        raise Refused(Reason.OLD_OPSET, f"opset {graph.opset}")
    data = run.first.node.input[run.first.data]
    rank = 1 if affine.is_uniform else known_rank(graph, data)
    dtype = _data_dtype(run, graph)
    if len(run.members) > 1 and graph.is_hidden(data):  # who looks only at a shape within the run will look at `data`
        raise Refused(Reason.NAME_TAKEN, repr(data))
    operators = []
    if affine.has_scale:
        operators.append(("Mul", stored_scale(as_constant(affine.scale, rank), dtype)))
    if affine.has_shift:
        operators.append(("Add", stored_vector(as_constant(affine.shift, rank), dtype)))
    return operators


def _data_dtype(run: Run, graph: Graph) -> np.dtype:
    """The dtype of the values: that of an arithmetic operand, which must be the same; else of the value itself."""
    dtype = graph.dtype(run.output) or graph.dtype(run.first.node.input[run.first.data])
    if dtype is None:
        raise Refused(Reason.SHAPE_UNKNOWN, f"dtype of {run.output!r}")
    return dtype


def _merged(run: Run, graph: Graph, _search: Callable[[], Search]) -> Rewrite:
    """A run that nothing absorbs becomes one BatchNormalization, or a Mul and an Add, where that is fewer."""
    if run.size == 1:
        raise Refused(Reason.MORE_NODES, "there is nothing to merge it with")
    if run.batch_norms:
        return _merged_into_batch_norm(run, graph)
    operators = _operators(run, run.affine, graph)
    if not operators or len(operators) >= run.size:
        raise Refused(Reason.MORE_NODES, run.op_types)
    return Rewrite(Action.MERGED, run.size - len(operators), lambda: _replaced(run, operators, graph))


def _replaced(run: Run, operators: Sequence[tuple[str, Tensor]], graph: Graph) -> tuple[str, ...]:
    """Put `operators` in the place of `run`; their labels."""
    made = graph.replace(run.nodes, run.first.node.input[run.first.data], operators)
    return tuple(graph.label(node) for node in made)


def _merged_into_batch_norm(run: Run, graph: Graph) -> Rewrite:
    survivor = next(member for member in run.members if is_batch_norm(member.node))
    new = checked_parameters(read_batch_norm(survivor.node, graph), run.affine)
    position = run.members.index(survivor)
    before, behind = run.members[:position], run.members[position + 1 :]
    _require_bypass(before, graph)
    if not _can_bypass(behind, graph, toward_producer=True):
        raise Refused(Reason.NAME_TAKEN, repr(run.output))

    def apply() -> tuple[str, ...]:
        for index, tensor in enumerate(new, start=1):
            graph.set_constant(survivor.node, index, tensor)
        for member in reversed(before):
            graph.bypass(member.node, member.data, toward_producer=False)
        for member in behind:
            graph.bypass(member.node, member.data, toward_producer=True)
        return (graph.label(survivor.node),)

    return Rewrite(Action.MERGED, run.size - 1, apply)


def _can_bypass(members: Sequence[AffineOp], graph: Graph, *, toward_producer: bool) -> bool:
    return all(graph.can_bypass(each.node, each.data, toward_producer=toward_producer) for each in members)


def _require_bypass(members: Sequence[AffineOp], graph: Graph) -> None:
    """Raise `Refused` unless who reads the last of `members` can read the value before the first instead."""
    if not _can_bypass(members, graph, toward_producer=False):
        output = members[-1].node.output[0]
        reason = Reason.VALUE_IS_OUTPUT if graph.is_output(output) else Reason.NAME_TAKEN
        raise Refused(reason, repr(output))


def _lowered(run: Run, graph: Graph) -> Rewrite:
    """A lonely BatchNormalization as Mul and Add, for targets that have no kernel for it."""
    operators = _operators(run, run.affine, graph)
    if not operators:
        raise Refused(Reason.MORE_NODES, "it changes nothing")
    fewer = run.size - len(operators)
    return Rewrite(Action.LOWERED, fewer, lambda: _replaced(run, operators, graph), "written as Mul and Add")


def _saved(run: Run, plan: Plan, graph: Graph) -> int:
    """The number of operators saved. A BatchNormalization may become an Add, which is less work; nothing else may."""
    saved = run.size - len(plan.adds)
    if saved < (0 if run.batch_norms else 1):
        raise Refused(Reason.MORE_NODES, f"{len(plan.adds)} operators of Add for {graph.known_as(run.first.node)}")
    if any(graph.model.owner(add.node).opset < 7 for add in plan.adds):
        raise Refused(Reason.OLD_OPSET)
    return saved


def _labels(plan: Plan, graph: Graph) -> tuple[str, ...]:
    return tuple(dict.fromkeys([graph.label(node) for node in plan.absorbers]))


# Every way a run may go, the best first.
_WAYS: dict[Callable[[Run, Graph, Callable[[], Search]], Rewrite], str] = {
    _into_producers: "into the operators before it:",
    _into_consumers: "into all operators behind it:",
    _with_siblings: "with what reads other parts of the same value, into the operators before that:",
    _scale_into_producers: "its scale alone into the operators before it:",
    _scale_into_consumers: "its scale alone into all operators behind it:",
    _merged: "merged with its neighbours:",
}
