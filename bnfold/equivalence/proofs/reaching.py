"""Whether any output shows a difference between two pieces: where none does, no caller can see it.

A mean that is subtracted takes out what a bias in front of it adds, and a product with zero everything. The reference
is run on from the value, in float64, with what either piece makes of the same inputs. The difference is tried magnified
as well, and with the other sign, so that ArgMax, Round or a bound do not hide a small one.
"""

from collections.abc import Iterator

import numpy as np

from bnfold.equivalence.numbers.constant_expressions import store_constants
from bnfold.equivalence.numbers.element_types import Array
from bnfold.equivalence.numbers.float64 import Evaluator, Unknowable
from bnfold.equivalence.proofs.made_values import before, cut_alike, made_together
from bnfold.equivalence.proofs.obligations import Correspondence, Obligation
from bnfold.equivalence.structure.dependence import reached
from bnfold.equivalence.structure.scopes import Piece, Value
from bnfold.equivalence.structure.work import work_of

_LITTLE, _MUCH = 0.5, 8.0
"""The sizes of a magnified difference, in parts of the largest number of the value. One of a thousand classes is the
largest only where it is moved by much; of a value that is scaled as a whole, to move it by much changes the sign.
"""
_SHAKE, _NOISE, _ROUNDING = 2.0**-50, 64.0, 2.0**-46
_MOST_WORK = 5e8
"""In float64 a model is run some fifty times."""


def reaches_an_output(obligation: Obligation, common: Correspondence, seed: int) -> bool:
    """Whether an output shows that the pieces of an obligation differ. Raises Unknowable."""
    value = obligation.pair.old
    dependent = reached(common.before, [("", value.name)])
    ends = [pair.old for pair in common.roots() if pair.old.name in dependent]
    if value in ends:
        return True
    if value.scope or work_of(common.before.model).run > _MOST_WORK:
        raise Unknowable("the value is that of a body, or the model too large to be run in float64")
    behind = _Behind(value, ends, common)
    differs = False
    for was, now, made in _made_by_both(obligation, common, [*behind.inputs, *ends], seed):
        if was.shape != now.shape or not (np.isfinite(was).all() and np.isfinite(now).all()):
            return True
        if np.any(now - was):
            differs = True
            if behind.tells_apart(was, [now, *_magnified(was, now)], made):
                return True
    if not differs:
        raise Unknowable("it does not differ at values that are made together")
    return False


def _made_by_both(
    obligation: Obligation, common: Correspondence, beside: list[Value], seed: int
) -> Iterator[tuple[Array, Array, dict[str, Array]]]:
    """The arrays that both pieces make of what the reference makes for them, and those of the values `beside`."""
    old, new, renamed = cut_alike(obligation, common)
    was_made, now_made = Evaluator(old), Evaluator(new)
    values = list(dict.fromkeys([*(pair.old for pair in obligation.premises), *beside]))
    for made in made_together(values, common.before, common.shapes, seed):
        was = was_made({name: made[name] for name in renamed})
        now = now_made({renamed[name]: made[name] for name in renamed})
        yield _array(was), _array(now), made


def _magnified(was: Array, now: Array) -> Iterator[Array]:
    """The value with a larger difference, of either sign."""
    difference = now - was
    whole = _largest(was) / _largest(difference)
    with np.errstate(all="ignore"):
        factor = np.vdot(now, was) / np.vdot(was, was)
    is_scaled = bool(factor > 0 and np.allclose(now, factor * was, rtol=1e-6, atol=0.0))
    for part in (_LITTLE,) if is_scaled else (_LITTLE, _MUCH):
        if part * whole > 1:
            yield was + part * whole * difference
            yield was - part * whole * difference


class _Behind:
    """The reference from one value on to the outputs that depend on it."""

    def __init__(self, value: Value, ends: list[Value], common: Correspondence) -> None:
        nodes, constants, entering = before(ends, common.before, {value})
        model = common.before.cut(Piece(nodes, constants, ends[0]), entering)
        for end in ends[1:]:
            model.graph.output.add().name = end.name
        for node in model.graph.node:  # one that makes other outputs as well
            node.output[:] = [f"{name}:unread" if name == value.name else name for name in node.output]
        store_constants(model)
        self.inputs = [Value(0, name) for name in entering if name != value.name]
        self._name = value.name
        self._run = Evaluator(model)

    def tells_apart(self, was: Array, others: list[Array], made: dict[str, Array]) -> bool:
        """Whether any output differs, by more than rounding does, where the value is one of `others`."""
        given = {each.name: made[each.name] for each in self.inputs}
        signs = _SHAKE * np.random.default_rng(0).choice([-1.0, 1.0], was.shape)
        plain, shaken = (self._run(given | {self._name: array}) for array in (was, was * (1 + signs)))
        for other in others:
            found, moved = (self._run(given | {self._name: array}) for array in (other, other * (1 + signs)))
            for name, array in plain.items():
                if not _same(array, found[name], [(array, shaken[name]), (found[name], moved[name])]):
                    return True
        return False


def _same(was: Array, now: Array, shaken: list[tuple[Array, Array]]) -> bool:
    if was.shape != now.shape or was.dtype.kind != "f" or now.dtype.kind != "f":
        return was.shape == now.shape and was.dtype == now.dtype and bool(np.all(was == now))
    finite = np.isfinite(was)
    if not np.array_equal(was[~finite], now[~finite], equal_nan=True):
        return False
    if not np.isfinite(now[finite]).all():
        return False
    noise = max(_largest(one[finite] - other[finite]) for one, other in shaken if one.shape == other.shape == was.shape)
    return _largest(now[finite] - was[finite]) <= _NOISE * noise + _ROUNDING * _largest(was[finite])


def _largest(array: Array) -> float:
    return float(np.abs(array).max(initial=0.0))


def _array(answers: dict[str, Array]) -> Array:
    """Raises Unknowable for what is no array of numbers."""
    for array in answers.values():
        if array.dtype.kind == "f":
            return array
    raise Unknowable("its output holds no real numbers")
