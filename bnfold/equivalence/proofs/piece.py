"""The proof of every single rewrite: the piece of the graph before and after it, in float64, with stored parameters.

Both pieces are affine (or affine between the kinks of operators an affine map may cross), so agreement on random
points is identity with probability 1. The only difference allowed is what storing the new parameters rounded:

    |after - before| <= 2 u (|W'| |x| + |b'|)

with u the unit roundoff of the type they are stored in. Where several operators went into one, each may have been
rounded on its own, and the terms of the piece before count where they are larger. Beyond it is a bug, within it is
rounding: no tolerance is chosen. Nothing here uses the code that folds.
"""

import math
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto

from bnfold.equivalence.numbers.constant_expressions import store_constants
from bnfold.equivalence.numbers.element_types import Array, rounding
from bnfold.equivalence.numbers.float64 import Evaluator, Unknowable
from bnfold.equivalence.operators import DEFAULT_DOMAINS, operator_of
from bnfold.equivalence.proofs.composition import (
    ARITHMETIC,
    Composed,
    Leaf,
    Uncomposed,
    adds_what_it_convolves,
    changed_constants,
    composed,
    difference,
    roundoff,
    tolerance,
)
from bnfold.equivalence.proofs.made_values import cut_alike, depend_on_each_other, made_together, sizes_made
from bnfold.equivalence.proofs.magnitude import MagnitudeBound
from bnfold.equivalence.proofs.obligations import Correspondence, Obligation, Pair
from bnfold.equivalence.proofs.piece_sizes import Dims, period, reads_sizes, rounds_windows, sizes_read
from bnfold.equivalence.proofs.reaching import reaches_an_output
from bnfold.equivalence.proofs.weights import Difference, Weights, compare
from bnfold.equivalence.structure.scopes import Cutter, Piece, Value

_IMPULSE = 64.0
_FAR = 2.0**16
"""Beyond what a bias in front of a Relu adds: what lies on either side of its kink has to be seen."""
_MOST_WEIGHTS = 1 << 24
"""Each is held in float64 several times over while a piece is evaluated."""
_FEWEST_ROWS, _MOST_ROWS, _IMPULSE_COST = 2, 32, 1 << 21


_IN_FLOAT32 = 4 * 2.0**-24
_COARSE = "it is off by {:.3g} times what storing rounds, which arithmetic in float32 would explain"
"""Whoever folds in float32 rounds k, W k, b - m and (b - m) k, each once: no bug, and no identity either."""


MALFORMED = (ValueError, IndexError, KeyError, TypeError)
"""The exceptions of numpy and Python for nodes without their inputs, and for sizes or types that do not fit."""


class Standing(StrEnum):
    """HOLDS: identity up to rounding. BROKEN: a bug. UNDECIDED: this piece cannot be evaluated; `reason` says why."""

    HOLDS = "holds"
    BROKEN = "broken"
    UNDECIDED = "undecided"


class Proof(NamedTuple):
    """One rewrite: the piece of the reference that ends in the value `output` of `scope`, and what stands for it now.

    `nodes`: the operators of the piece in the reference; `normalizations`: those of them that the rewrite is called
    after. `used`: the largest share of the allowed error, 1 = all. `blind`: the output was the same whatever entered,
    as behind a scale of zero. `unseen`: the two differ, and no output shows it. `unit`: the roundoff of the coarsest
    type that new constants are stored in, 0 where there are none.
    """

    output: str
    standing: Standing
    reason: str = ""
    used: float = 0.0
    max_abs: float = 0.0
    scope: str = ""
    nodes: tuple[str, ...] = ()
    normalizations: tuple[str, ...] = ()
    blind: bool = False
    unseen: bool = False
    unit: float = 0.0

    @property
    def name(self) -> str:
        """The name of the rewrite in messages: the normalizations it is about, else the value it ends in."""
        return ", ".join(self.normalizations) or self.output or "the models"

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "output": self.output,
            "scope": self.scope,
            "nodes": list(self.nodes),
            "normalizations": list(self.normalizations),
            "standing": self.standing.value,
            "reason": self.reason,
            "used": self.used if math.isfinite(self.used) else None,
            "max_abs": self.max_abs if math.isfinite(self.max_abs) else None,
        }


class _OtherShape(Unknowable):
    """The two pieces make values of different shapes of the same inputs."""


class _Otherwise(Uncomposed):
    """The linear parts of two pieces differ, in front of or behind what is not linear."""


def prove_piece(obligation: Obligation, common: Correspondence, seed: int) -> Proof:
    """The proof of one obligation that is not settled: composed where it can be, else evaluated."""
    found = _proved(obligation, common, seed)
    if obligation.apart and found.standing is Standing.BROKEN:
        reason = f"{found.reason}, if the values that enter it do not depend on each other"
        return found._replace(standing=Standing.UNDECIDED, reason=reason)
    return found


def prove_composed(obligation: Obligation, common: Correspondence, seed: int) -> Proof:
    """The proof where it can be composed: for every number, not those that are tried.

    What is not linear is broken where the linear parts in front of and behind it differ, although it may make up for
    that: whoever asks believes only what holds.
    """
    return _proved(obligation, common, seed, evaluate=False)


def _proved(obligation: Obligation, common: Correspondence, seed: int, *, evaluate: bool = True) -> Proof:
    shell = _described(obligation, common)
    if obligation.before is None or obligation.after is None:
        return _default(obligation.pair, common, shell._replace(reason=obligation.reason))
    reason = _coarser(obligation.before, obligation.after, common)
    if reason:
        return shell._replace(reason=reason)
    try:
        return _composed(obligation, obligation.before, obligation.after, common, shell)
    except (Uncomposed, Unknowable, *MALFORMED) as why:
        if isinstance(why, _Otherwise) and not evaluate:
            return shell._replace(standing=Standing.BROKEN, reason=str(why))
    if not evaluate:
        return shell._replace(reason="it is not composed of linear operators")
    return _evaluated(obligation, obligation.before, obligation.after, common, shell, seed)


def _default(pair: Pair, common: Correspondence, shell: Proof) -> Proof:
    """`shell`, but of an input that has another default the proof of that, number by number."""
    was, now = common.defaults(pair)
    if not isinstance(was, TensorProto) or not isinstance(now, TensorProto):
        return shell
    facts, found = rounding(was.data_type), Difference()
    if facts is None or (was.data_type, was.dims) != (now.data_type, now.dims):
        return shell._replace(standing=Standing.BROKEN, used=math.inf, max_abs=math.inf)
    before, after = Weights.stored(was, common.before), Weights.stored(now, common.after)
    compare([before], [after], 2 * facts.unit, found, both_sizes=True)  # each side stores it rounded
    if found.share <= 1:
        return shell._replace(standing=Standing.HOLDS, reason="", used=found.share, max_abs=found.error)
    reason = f"its default is off by {found.error:.3g}"
    return shell._replace(
        standing=Standing.BROKEN, reason=reason, used=found.share, max_abs=found.error, unit=facts.unit
    )


def _coarser(before: Piece, after: Piece, common: Correspondence) -> str:
    """Why real arithmetic does not tell what two pieces compute: the new one casts to a coarser type on its way."""
    casts = list(_casts(after, common.after))
    if not casts:
        return ""
    known = [*_casts(before, common.before), *(tensor.data_type for tensor in before.constants.values())]
    coarsest = max(casts, key=_unit)
    if _unit(coarsest) <= max(map(_unit, known), default=0.0):
        return ""
    return f"it casts to {TensorProto.DataType.Name(coarsest).lower()} on its way, and the reference does not"


def _unit(elem_type: int) -> float:
    facts = rounding(elem_type)
    return 0.0 if facts is None else facts.unit


def _casts(piece: Piece, owner: Cutter) -> Iterator[int]:
    """The types that the nodes of a piece cast to."""
    for place in piece.nodes:
        node = owner.node(place)
        if node.op_type == "Cast" and node.domain in DEFAULT_DOMAINS and not owner.makes_constants(place):
            yield from (attribute.i for attribute in node.attribute if attribute.name == "to")


def confirmed(proof: Proof, obligation: Obligation, common: Correspondence, seed: int) -> Proof:
    """The proof as it is, unless it is broken and evaluating the piece says the opposite: then nothing is known.

    Nor is anything known where the pieces differ at random numbers, but at none that the reference makes together. That
    is not asked of linear pieces whose inputs do not depend on each other, which differ in their weights. And nothing
    is known where no output shows the difference: then the models are compared by running.
    """
    if proof.standing is not Standing.BROKEN or obligation.before is None or obligation.after is None:
        return proof
    before, after = obligation.before, obligation.after
    shell = proof._replace(standing=Standing.UNDECIDED)
    if _evaluated(obligation, before, after, common, shell, seed).standing is Standing.HOLDS:
        return shell._replace(reason=f"composed and evaluated it comes out differently: {proof.reason}")
    values = [pair.old for pair in obligation.premises]
    if not _is_linear(obligation, common, shell) or depend_on_each_other(values, common.before):
        with suppress(Unknowable, *MALFORMED):
            if _agree_where_made(obligation, common, seed):
                return shell._replace(reason=f"at values that are made together both are the same: {proof.reason}")
    with suppress(Unknowable, *MALFORMED):
        if not reaches_an_output(obligation, common, seed):
            return shell._replace(reason=f"no output shows it, but {proof.reason}", unseen=True)
    return proof


def _is_linear(obligation: Obligation, common: Correspondence, shell: Proof) -> bool:
    if obligation.before is None or obligation.after is None:
        return False
    try:
        _composed(obligation, obligation.before, obligation.after, common, shell)
    except (Uncomposed, Unknowable, *MALFORMED):
        return False
    return True


def takes_nothing(obligation: Obligation, common: Correspondence) -> bool:
    """Whether the piece of the reference multiplies all that enters it by zero."""
    if obligation.before is None or obligation.after is None:
        return False
    try:
        was, _ = _both_composed(obligation, obligation.before, obligation.after, common, with_shapes=True)
        terms = [term for each in was.linear.terms.values() for term in each]
        return not any(block.any() for term in terms for _, block in term.weights.blocks())
    except (Uncomposed, Unknowable, *MALFORMED):
        return False


def _agree_where_made(obligation: Obligation, common: Correspondence, seed: int) -> bool:
    """Whether both pieces make the same of values that the reference makes. Raises Unknowable."""
    old, new, renamed = cut_alike(obligation, common)
    changed = _changed(old, new)
    run_old, run_new, bound = Evaluator(old), Evaluator(new), MagnitudeBound(new, changed)
    _, coarse = _allowances(new, changed)
    for given in made_together([pair.old for pair in obligation.premises], common.before, common.shapes, seed):
        alike = {renamed[name]: array for name, array in given.items()}
        was, now = _only(run_old(given)), _only(run_new(alike))
        if was.shape != now.shape:
            return False
        if not _share(was, now, _only(bound(alike)), coarse)[0] <= 1:
            return False
    return True


def _evaluated(
    obligation: Obligation, before_piece: Piece, after_piece: Piece, common: Correspondence, shell: Proof, seed: int
) -> Proof:
    """The proof by what both pieces make of the same feeds, in float64."""
    before, after = common.before, common.after
    if common.new_constants.count(after_piece) > _MOST_WEIGHTS:
        return shell._replace(reason="it has too many weights to be evaluated")
    renamed = {pair.old.name: pair.new.name for pair in obligation.premises}
    old = before.cut(before_piece, list(renamed))
    new = after.cut(after_piece, list(dict.fromkeys(renamed.values())))
    values = [pair.old for pair in obligation.premises]
    dims = [common.dims(value) for value in values]
    try:
        _require_no_other_sizes(old, new, dims)
        store_constants(old)
        store_constants(new)
        changed = _changed(old, new)
        weights = sum(math.prod(tensor.dims) for tensor in new.graph.initializer)
        run_old, run_new, sizes_of = Evaluator(old), Evaluator(new), [MagnitudeBound(new, changed)]
    except Unknowable as why:
        return shell._replace(reason=str(why))
    if len(old.graph.node) - len(new.graph.node) > 1:
        with suppress(Unknowable):
            sizes_of.append(MagnitudeBound(old, {}))
    trial = _Trial(
        shell._replace(unit=roundoff(changed)),
        {},
        renamed,
        before_piece.output.name,
        *_allowances(new, changed),
        seed,
        weights,
        of_these_sizes=reads_sizes(old),
        one_batch=all(known is not None and known[:1] != (None,) for known in dims),
    )

    of_one_shape = True
    of_its_own_sizes = _is_of_its_own_sizes(old, dims)

    def fits(choice: Iterable[Mapping[str, tuple[int, ...]]]) -> tuple[list[Proof], str]:
        nonlocal of_one_shape
        why, broken = "", list[Proof]()
        for sizes in choice:
            try:
                proof = _compare(trial._replace(sizes=sizes), run_old, run_new, sizes_of, old)
            except Unknowable as error:
                why = str(error)
                of_one_shape = of_one_shape and not isinstance(error, _OtherShape)
                continue
            if not of_its_own_sizes or proof.standing is not Standing.BROKEN:
                return [proof], ""
            broken = [proof]
        return broken, why

    found: list[Proof] = []
    reason = "no shapes for its inputs are known"
    for choice in common.shapes.candidates(old, list(renamed), period(old, new)):
        made, misfit = fits(choice)
        found += made
        reason = misfit or reason
    agreed = _agreed(found) or shell._replace(reason=reason)
    # Where the shapes differ, that there are other sizes at which they do not shows nothing.
    if not (found or of_one_shape) or (
        found and (agreed.standing is not Standing.BROKEN or not _made_up(old, renamed, common))
    ):
        return agreed
    found, _ = fits(sizes_made(values, common, seed))
    return found[0] if found else _unsized(agreed)


def _require_no_other_sizes(old: ModelProto, new: ModelProto, dims: Iterable[Dims]) -> None:
    """Raise Unknowable where what turns on sizes differs: two pieces may be the same at those that are tried alone."""

    def said(piece: ModelProto, concerned: Callable[[NodeProto], bool], *names: str) -> Counter[tuple[object, ...]]:
        return Counter(
            (
                node.op_type,
                *sorted(each.SerializeToString() for each in node.attribute if each.name in names or not names),
            )
            for node in piece.graph.node
            if concerned(node)
        )

    if said(old, _is_slow) != said(new, _is_slow):
        raise Unknowable("an operator like Resize has other attributes, which tell at some sizes alone")
    rounding_ = said(old, rounds_windows, "ceil_mode", "auto_pad") != said(new, rounds_windows, "ceil_mode", "auto_pad")
    if rounding_ and any(known is None or None in known[2:] for known in dims):
        raise Unknowable("how windows are rounded turns on sizes that are not known")


def _is_slow(node: NodeProto) -> bool:
    return operator_of(node).slow


def _is_of_its_own_sizes(piece: ModelProto, dims: Iterable[Dims]) -> bool:
    """Whether the target of a Reshape may mean something else at other sizes than `dims`, which the model has alone."""
    fixed = all(known is not None and None not in known for known in dims)
    return fixed and any(node.op_type == "Reshape" for node in piece.graph.node)


def _made_up(piece: ModelProto, inputs: Collection[str], common: Correspondence) -> bool:
    """Whether a piece reads sizes of its inputs that nothing tells but the whole model."""
    return any(map(common.shapes.is_made_up, sizes_read(piece).intersection(inputs)))


def _unsized(proof: Proof) -> Proof:
    """What is known where the sizes of the model are not."""
    if proof.standing is not Standing.BROKEN:
        return proof
    reason = f"sizes are read that only the whole model tells; at others, {proof.reason}"
    return proof._replace(standing=Standing.UNDECIDED, reason=reason)


def _composed(obligation: Obligation, before: Piece, after: Piece, common: Correspondence, shell: Proof) -> Proof:
    """The proof of two pieces that are linear, weight by weight. Raises Uncomposed, or Unknowable.

    Most pieces need no shapes, and to infer them takes longer than to compose: they are asked for when needed, and
    from then on at once.
    """
    if not common.knows_shapes:
        with suppress(Uncomposed):
            return _compared(obligation, before, after, common, shell, with_shapes=False)
    return _compared(obligation, before, after, common, shell, with_shapes=True)


def _compared(
    obligation: Obligation, before: Piece, after: Piece, common: Correspondence, shell: Proof, *, with_shapes: bool
) -> Proof:
    was, now = _both_composed(obligation, before, after, common, with_shapes=with_shapes)
    changed = changed_constants(was, now.constants, common.new_constants, common.same_constant)
    allowance, floor = tolerance(changed, max(2, _depth(now, changed)))
    allowance += max(was.noise, now.noise)
    both_sizes = len(was.reads) - len(now.reads) > 1
    found = difference(was.linear, now.linear, allowance, both_sizes=both_sizes, floor=floor)
    standing = Standing.HOLDS if found.share <= 1 else Standing.UNDECIDED
    proof = shell._replace(
        standing=standing, used=found.share, max_abs=found.error, blind=found.nothing, unit=roundoff(changed)
    )
    if standing is Standing.HOLDS:
        return proof
    if adds_what_it_convolves(was.linear):
        raise Uncomposed("a value may be a part of the weights")
    if now.atoms or was.atoms:
        raise _Otherwise("a map behind what is not linear")
    extra = _IN_FLOAT32 if changed else 0.0
    rounded = difference(
        was.linear, now.linear, allowance, both_sizes=both_sizes, floor=floor, extra=extra, deciding=True
    )
    if rounded.share <= 1:
        return proof._replace(reason=_COARSE.format(found.share))
    text = f"{shell.output!r} is off by {found.error:.3g} in {found.place}"
    reason = f"{text}, {found.share:.3g} times what rounding allows"
    return proof._replace(standing=Standing.BROKEN, reason=reason)


def _both_composed(
    obligation: Obligation, before: Piece, after: Piece, common: Correspondence, *, with_shapes: bool
) -> tuple[Composed, Composed]:
    numbers: dict[Value, int] = {}
    for pair in obligation.premises:
        numbers.setdefault(pair.new, len(numbers))
    leaves = {
        pair.new: Leaf(numbers[pair.new], common.dims(pair.old) if with_shapes else None)
        for pair in reversed(obligation.premises)
    }
    entering = {pair.old: leaves[pair.new] for pair in obligation.premises}
    old, new = common.before.opset(before.output.scope), common.after.opset(after.output.scope)
    sizes = common.dims if with_shapes else None
    was = composed(before, common.old_constants, entering, old, sizes=sizes)
    return was, composed(after, common.new_constants, leaves, new, was, common.same_constant)


def _depth(now: Composed, changed: Collection[Value]) -> int:
    """The number of operators with new constants that follow each other."""
    if len(now.reads) == 1:
        return int(any(value in changed for value in now.reads[0][0]))
    depth: dict[Value, int] = {}
    for inputs, outputs in now.reads:
        before = max((depth.get(value, 0) for value in inputs if value is not None), default=0)
        depth |= dict.fromkeys(outputs, before + any(value in changed for value in inputs))
    return max(depth.values(), default=0)


def _agreed(found: list[Proof]) -> Proof | None:
    """The result that every possible choice of ranks gives; where they contradict each other, nothing is known."""
    if not found:
        return None
    if len({proof.standing for proof in found}) > 1:
        return found[0]._replace(standing=Standing.UNDECIDED, reason="the ranks of its inputs are unknown")
    return max(found, key=lambda proof: proof.used)


def _described(obligation: Obligation, common: Correspondence) -> Proof:
    """A proof that says what it is about, and nothing yet."""
    value, before, after = obligation.pair.old, common.before, common.after
    places = obligation.before.nodes if obligation.before is not None else ()
    nodes = [(before.node(place), before.label(place)) for place in places if not before.makes_constants(place)]
    named = [label for node, label in nodes if node.op_type == "BatchNormalization"]
    if not named:
        stays = obligation.after.nodes if obligation.after is not None else ()
        now = {(after.node(place).op_type, after.label(place)) for place in stays}
        named = [label for node, label in nodes if _is_map(node) and (node.op_type, label) not in now]
    return Proof(
        value.name,
        Standing.UNDECIDED,
        scope=before.scopes[value.scope].path,
        nodes=tuple(label for _, label in nodes),
        normalizations=tuple(named),
    )


def _is_map(node: NodeProto) -> bool:
    known = operator_of(node)
    return known.affine or known.unchanging


class _Trial(NamedTuple):
    """One comparison of two pieces. `allowance`: how much of |W'| |x| + |b'| may differ. `coarse`: more is a bug.

    `of_these_sizes`: another batch would give another answer. `one_batch`: nor has the model any other.
    """

    proof: Proof
    sizes: Mapping[str, tuple[int, ...]]
    renamed: Mapping[str, str]
    output: str
    allowance: float
    coarse: float
    seed: int
    weights: int
    of_these_sizes: bool
    one_batch: bool


def _compare(
    trial: _Trial,
    run_old: Evaluator,
    run_new: Evaluator,
    sizes_of: Sequence[MagnitudeBound],
    old: ModelProto,
) -> Proof:
    """`sizes_of`: the terms that storing rounds. `old`: the piece of the reference, whose terms arithmetic rounds."""
    used = largest = coarse = 0.0
    blind = True
    divides = any(size.divides for size in sizes_of)
    seen = not divides
    for number, (given, was, now, terms) in enumerate(_both(trial, run_old, run_new, sizes_of)):
        if was.shape != now.shape:
            raise _OtherShape(f"{trial.output!r} has shape {now.shape}, not {was.shape}")  # or sizes that do not fit
        if any(each.shape != was.shape for each in terms):
            raise Unknowable(f"the terms of {trial.output!r} have another shape than itself")
        if not was.size:
            raise Unknowable(f"{trial.output!r} has no elements at the sizes tried")
        blind = blind and was.ndim > 0 and bool(np.all(was == was[:1]))
        bound = np.maximum.reduce(terms)
        if divides:  # by zero, in the reference too: nothing is known of what comes of it
            seen = seen or bool(np.isfinite(bound).all())
            now = np.where(np.isfinite(bound) | np.isfinite(was), now, was)
        share, error = _share(was, now, bound, trial.allowance)
        largest, used = max(largest, error), max(used, share)
        if not share <= 1:
            in_float32 = terms
            with suppress(Unknowable):
                in_float32 = [*terms, _only(MagnitudeBound(old, {})(given))]
            if _share(was, now, np.maximum.reduce(in_float32), trial.coarse)[0] <= 1:
                coarse = share
                continue
            text = f"{trial.output!r} is off by {error:.3g} at {list(_place(was, now))}"
            reason = f"{text}, {share:.3g} times what rounding allows (input {number})"
            return trial.proof._replace(standing=Standing.BROKEN, reason=reason, used=share, max_abs=error)
    if not seen:
        raise Unknowable("whatever enters, something is divided by zero")
    proof = trial.proof._replace(used=used, max_abs=largest, blind=blind)
    if coarse:
        return proof._replace(reason=_COARSE.format(used))
    return proof._replace(standing=Standing.HOLDS)


class _Answers(NamedTuple):
    """What both pieces make of one feed, and the magnitudes of the terms."""

    given: Mapping[str, Array]
    was: Array
    now: Array
    terms: list[Array]

    @property
    def keeps_rows(self) -> bool:
        """Whether there is a row of the answer for each row that was given."""
        return {len(each) for each in self.given.values() if each.ndim} == ({len(self.was)} if self.was.ndim else set())

    def agree(self, allowance: float) -> bool:
        """Whether both are the same up to `allowance` times the terms."""
        alike = all(each.shape == self.was.shape for each in (self.now, *self.terms))
        return alike and _share(self.was, self.now, np.maximum.reduce(self.terms), allowance)[0] <= 1


def _both(
    trial: _Trial, run_old: Evaluator, run_new: Evaluator, sizes_of: Sequence[MagnitudeBound]
) -> Iterator[_Answers]:
    """The answers to each feed that has to be tried, and to the others as far as the reference takes them.

    What differs in a batch that the model never has is tried in its own instead. Where the rows of a feed do not stay
    apart, an element that is picked out of all of them may be above every kink: the same is tried with other signs.
    """
    feeds = deque((*each, False) for each in _feeds(trial))
    while feeds:
        feed, needed, turned = feeds.popleft()
        alike = {new: feed[old] for old, new in reversed(list(trial.renamed.items()))}
        given = {old: alike[new] for old, new in trial.renamed.items()}
        was = answers = None
        try:
            was = _only(run_old(given))
            now = _only(run_new(alike))
            answers = _Answers(
                given, was, now, [_only(size(each)) for size, each in zip(sizes_of, (alike, given), strict=False)]
            )
        except Unknowable:
            if needed or (was is not None and not trial.one_batch):
                raise
        if answers is not None and (needed or not trial.one_batch or answers.agree(trial.allowance)):
            yield answers
            if not (turned or answers.keeps_rows):
                feeds.append(({name: -array for name, array in feed.items()}, False, True))
        else:
            feeds.extend((each, True, turned) for each in _in_batches(trial, feed))


def _only(answers: Mapping[str, Array]) -> Array:
    """Raises Unknowable for a sequence, which is no array."""
    for array in answers.values():
        return array
    raise Unknowable("its output is no tensor")


def _allowances(model: ModelProto, changed: Mapping[str, int]) -> tuple[float, float]:
    """2u, or more u where more than two operators with new constants follow each other: each rounded its own.

    And beyond how much arithmetic in float32 would not explain it.
    """
    unit = roundoff(changed)
    depth: dict[str, int] = {}
    for node in model.graph.node:
        before = max((depth.get(name, 0) for name in node.input), default=0)
        depth.update(dict.fromkeys(node.output, before + any(name in changed for name in node.input)))
    steps = max(2, *depth.values(), 0)
    return steps * unit + ARITHMETIC, steps * unit + (_IN_FLOAT32 if changed else 0.0) + ARITHMETIC


def _share(was: Array, now: Array, scale: Array, allowance: float) -> tuple[float, float]:
    """The largest error as a part of what is allowed, and itself. Infinite where only `now` is not finite."""
    if not was.size:
        return 0.0, 0.0
    if was.dtype.kind != "f" or now.dtype.kind != "f":
        return (0.0, 0.0) if was.dtype == now.dtype and bool(np.all(was == now)) else (math.inf, math.inf)
    with np.errstate(all="ignore"):
        error = np.asarray(np.abs(now - was))  # numpy makes a number of rank 0
        error[(was == now) | (np.isnan(was) & np.isnan(now))] = 0.0
        error[np.isnan(error)] = np.inf
        allowed = allowance * scale
        parts = np.where(error > 0, error / allowed, 0.0)
    worst = float(parts.max())
    return (math.inf if math.isnan(worst) else worst), float(error.max())


def _place(was: Array, now: Array) -> tuple[int, ...]:
    with np.errstate(all="ignore"):
        differs = np.abs(now - was) if was.dtype.kind == "f" and now.dtype.kind == "f" else (now != was).astype(float)
    error = np.nan_to_num(differs, nan=np.inf)
    return tuple(int(index) for index in np.unravel_index(int(error.argmax()), error.shape))


def _feeds(trial: _Trial) -> Iterator[tuple[dict[str, Array], bool]]:
    """Zeros leave the shift alone, one impulse per row leaves single weights alone, the others mix everything.

    The last feed has another batch than the rest, which a piece with a fixed batch need not support: the flag says so.
    Large weights get fewer impulses: the three others find what is wrong with more than a few of their numbers. Large
    even maps show what a bias keeps away from the kink of a Relu, and what a maximum over many positions hides.
    """
    sizes, generator = trial.sizes, np.random.default_rng([trial.seed, 0x9E3779B9])
    kinds: tuple[Callable[[tuple[int, ...]], Array], ...] = (
        np.zeros,
        lambda shape: generator.standard_normal(shape),
        lambda shape: _border(generator.standard_normal(shape)),
    )
    if all(len(shape) > 1 and shape[0] == len(kinds) for shape in sizes.values()):
        rows = {name: [kind((1, *shape[1:])) for kind in kinds] for name, shape in sizes.items()}
        yield {name: np.concatenate(arrays) for name, arrays in rows.items()}, True
    else:
        for kind in kinds:
            yield {name: kind(shape) for name, shape in sizes.items()}, True
    if trial.of_these_sizes:
        return
    count = max(_FEWEST_ROWS, min(_MOST_ROWS, _IMPULSE_COST // max(trial.weights, 1)))
    yield {name: _even_and_impulses(shape, generator, count) for name, shape in sizes.items()}, False


def _even_and_impulses(shape: tuple[int, ...], generator: np.random.Generator, count: int) -> Array:
    """The rows of both; what has no channels is random."""
    if len(shape) < 2:
        return generator.standard_normal(shape)
    return np.concatenate([*_even(shape, generator), _impulses(shape, generator, count)])


def _impulses(shape: tuple[int, ...], generator: np.random.Generator, count: int) -> Array:
    """Row i is zero but for one channel in the middle of the map: every weight that reads it shows alone."""
    channel_axis = _channel_axis(shape)
    channels = generator.permutation(shape[channel_axis])[:count]
    values = np.zeros((count, *shape[1:]))
    for row in range(count):
        place: list[int] = [row, *(size // 2 for size in shape[1:])]
        if len(channels):
            place[channel_axis] = int(channels[row % len(channels)])
            values[tuple(place)] = _IMPULSE
    return values


def _even(shape: tuple[int, ...], generator: np.random.Generator) -> tuple[Array, ...]:
    """Rows with nearly one large number all over each channel, its negative, and each of them in one half of a map."""
    per_channel = [size if axis in (0, _channel_axis(shape)) else 1 for axis, size in enumerate((1, *shape[1:]))]
    row = _FAR * (generator.standard_normal(per_channel) + generator.standard_normal((1, *shape[1:])) / 16)
    signs = [np.where(np.arange(size) < size // 2, -1.0, 1.0) for size in shape[2:]]
    halves = [sign.reshape((-1, *[1] * (len(signs) - 1 - at))) for at, sign in enumerate(signs)]
    return row, -row, *(row * half for half in halves[:1]), *(-row * half for half in halves[-1:])


def _channel_axis(shape: tuple[int, ...]) -> int:
    return 1 if len(shape) != 3 or shape[1] >= shape[2] else 2


def _in_batches(trial: _Trial, feed: Mapping[str, Array]) -> Iterator[dict[str, Array]]:
    """The rows of a feed, as many at a time as the piece takes: the last ones are filled up with the first."""
    rows = {name: max(shape[0], 1) if shape else 1 for name, shape in trial.sizes.items()}
    for number in range(max(-(-len(array) // rows[name]) if array.ndim else 1 for name, array in feed.items())):
        yield {
            name: array[np.arange(number * rows[name], (number + 1) * rows[name]) % len(array)] if array.ndim else array
            for name, array in feed.items()
        }


def _border(values: Array) -> Array:
    """Only the first and last position of every spatial axis keep their values."""
    keep = np.zeros(values.shape, bool)
    for axis in range(2, values.ndim):
        edge: list[slice | list[int]] = [slice(None)] * values.ndim
        edge[axis] = [0, -1]
        keep[tuple(edge)] = True
    return np.where(keep, values, 0.0) if values.ndim > 2 else values


def _changed(old: ModelProto, new: ModelProto) -> dict[str, int]:
    """Float constants of the new piece that the old one does not hold under the same name, with their types."""
    known = {tensor.name: tensor for tensor in old.graph.initializer}
    return {
        tensor.name: tensor.data_type
        for tensor in new.graph.initializer
        if rounding(tensor.data_type) is not None and known.get(tensor.name) != tensor
    }
