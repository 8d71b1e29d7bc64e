"""A piece of a graph, composed to the linear map that it is: W x + b for each value x that enters it.

Weights are not multiplied out; they keep the tensors of the file and the factors per channel that belong to them. Two
pieces of the same linear operators on the same values are equal where their weights and their shifts are, number by
number. What is not of this form is `Uncomposed`, and is evaluated instead.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from onnx import AttributeProto, NodeProto, TensorProto

from bnfold.equivalence.numbers.element_types import Array, is_float, rounding
from bnfold.equivalence.operators import DEFAULT_DOMAINS, Part, operator_of
from bnfold.equivalence.proofs.constants import Constants
from bnfold.equivalence.proofs.piece_sizes import Dims
from bnfold.equivalence.proofs.rearrangement import axes_of, order_of, reshaped
from bnfold.equivalence.proofs.weights import Difference, Weights, compare, smallest_normal
from bnfold.equivalence.structure.scopes import Piece, Place, Value

ARITHMETIC = 2.0**-44
"""The relative error of float64 itself in sums of a few thousand terms."""
Key = tuple[Any, ...]
"""A term: the operator applied to an entering value, and everything that has to be equal for two to be added up."""


class Uncomposed(Exception):  # noqa: N818 - a fact about the piece, not a mistake of the caller
    """The piece is no sum of linear operators on what enters it."""


class Atom(NamedTuple):
    """An operator of the reference that is not linear, or a sum that another linear operator reads.

    `facts`: operator and attributes, which have to be the same; `given`: its constants by position; `inputs`: its data
    by position; `value`: what it makes.
    """

    facts: tuple[Any, ...]
    given: Mapping[int, Value]
    inputs: Mapping[int, "Linear"]
    value: Value


def _constant(number: float) -> Array:
    array = np.full((), number)
    array.flags.writeable = False
    return array


_ZERO, _ONE = _constant(0.0), _constant(1.0)


class Leaf(NamedTuple):
    """A value that enters a piece."""

    number: Any
    dims: Dims = None


class Linear(NamedTuple):
    """The sum of `terms` and of `shift`, one number for each index of the channel axis or one for all.

    `behind`: how many axes follow the channel axis; None for what has no channels yet, as a value that enters. `rank`:
    None where it is unknown. `size`: the sum of the absolute values that went into the shift. `split`: the axes that
    the channels lie along, outermost first, where a Reshape split them: then `behind` is None. `sizes`: of all axes,
    where they were asked for.
    """

    terms: dict[Key, list["Term"]]
    shift: Array = _ZERO
    size: Array = _ZERO
    behind: int | None = None
    rank: int | None = None
    split: tuple[int, ...] = ()
    sizes: Dims = None

    @property
    def channels(self) -> int | None:
        """The size of the channel axis; None where it is not known."""
        found = self.shift.size if self.shift.ndim else None
        for terms in self.terms.values():
            for term in terms:
                count = term.channels
                if found is None:
                    found = count
                elif count is not None and count != found:
                    return None
        return found

    @property
    def is_shifted(self) -> bool:
        """Whether there is anything beside the terms."""
        return self.size is not _ZERO and bool(self.shift.any() or self.size.any())


class Term(NamedTuple):
    """The weights of one operator. `per_output(vector)` is a factor for them that scales its outputs.

    `axis`: that of the weights along which the outputs lie. `order`: the number there of each output as they lie now,
    where they were permuted.
    """

    weights: Weights
    axis: int
    group: int = 1
    order: Array | None = None

    @property
    def channels(self) -> int | None:
        """The number of outputs; None for a value that entered, times one number for all of its channels."""
        if not self.weights.shape:
            return None
        return self.weights.shape[self.axis] * (self.group if self.axis == 1 else 1)

    def per_output(self, vector: Array) -> Array:
        """A factor for the weights that multiplies output c by entry c of `vector`."""
        shape = self.weights.shape
        if vector.ndim == 0 or not shape:
            return vector
        if self.order is not None:
            vector = vector[np.argsort(self.order)]
        rest = (1,) * (len(shape) - self.axis - 1)
        if self.axis == 1 and self.group > 1:  # ConvTranspose: group g has rows of its own
            return np.repeat(vector.reshape(self.group, -1), shape[0] // self.group, axis=0).reshape(
                shape[0], -1, *rest
            )
        return vector.reshape((1,) * self.axis + (-1, *rest))


_AS_IT_ENTERS = Term(Weights.given(_ONE), 0)


@dataclass
class Composed:
    """A composed piece. `constants`: those its operators read; `reads`: who reads what, to make what.

    `noise`: how far rounding alone may move a bias, a scale or a shift that nodes compute, as a part of the largest.
    `sizes`: those that were asked for, by the terms of a value: the same operators on the same values make the same.
    `channels`: those of values along axis 1, by number, where a BatchNormalization that reads them leaves no choice.
    """

    linear: Linear
    noise: float
    constants: dict[Value, None]
    reads: list[tuple[Sequence[Value | None], list[Value]]]
    atoms: list[Atom]
    sizes: dict[frozenset[Key], Dims]
    channels: dict[Any, int]


Same = Callable[[Value, Value], bool]
"""Whether a constant of the reference and one of the candidate are the same numbers."""


def composed(
    piece: Piece,
    constants: Constants,
    entering: Mapping[Value, Leaf],
    opset: int,
    reference: Composed | None = None,
    same: Same | None = None,
    sizes: Callable[[Value], Dims] | None = None,
) -> Composed:
    """The map of a piece; of the candidate's in terms of the `reference`'s, where operators are not linear.

    `sizes`: of the values of the reference, where they may be asked for. Raises Uncomposed, or Unknowable for a
    constant that cannot be evaluated.
    """
    return _Composer(constants, entering, opset, reference, same, sizes).run(piece)


def changed_constants(was: Composed, now: Iterable[Value], constants: Constants, same: Same) -> dict[Value, int]:
    """Float constants that the reference's piece has not under the same name, with their types.

    Raises Unknowable where the type of one cannot be told.
    """
    names = {value.name: value for value in was.constants}
    changed = {}
    for value in now:
        old = names.get(value.name)
        if old is None or not same(old, value):
            kind = constants.elem_type(value)
            if rounding(kind) is not None:
                changed[value] = kind
    return changed


def tolerance(changed: Mapping[Value, int], steps: int) -> tuple[float, float]:
    """The relative rounding of storing new constants, and the number below which it is absolute."""
    return steps * roundoff(changed) + ARITHMETIC, max(map(smallest_normal, set(changed.values())), default=0.0)


def roundoff(changed: Mapping[Any, int]) -> float:
    """The unit roundoff of the coarsest type that new constants are stored in; 0 where there are none."""
    return max((facts.unit for kind in set(changed.values()) if (facts := rounding(kind))), default=0.0)


def difference(
    was: Linear,
    now: Linear,
    allowance: float,
    *,
    both_sizes: bool,
    floor: float,
    extra: float = 0.0,
    deciding: bool = False,
) -> Difference:
    """The distance of two maps, where weights and shifts may differ by `allowance` times their size.

    `both_sizes`: the terms of either side count, not those of the new one alone. `extra`: an allowance for which they
    do in any case. `deciding`: only whether all is allowed is asked. Raises Uncomposed where the two are not of the
    same operators.
    """
    if was.terms.keys() != now.terms.keys():
        raise Uncomposed("other operators")
    if _on_other_axes(was, now):
        raise Uncomposed("channels on another axis")
    found = Difference(deciding=deciding)
    for key, terms in was.terms.items():
        before = [term.weights for term in terms]
        after = [term.weights for term in now.terms[key]]
        shapes = {weights.shape for weights in (*before, *after)}
        if len(shapes) > 1:
            if any(weights.array is None for weights in (*before, *after)):
                raise Uncomposed("weights of another shape")
            shape = np.broadcast_shapes(*shapes)
            before, after = ([_spread(each, shape) for each in side] for side in (before, after))
        compare(before, after, allowance, found, both_sizes=both_sizes, extra=extra)
        if found.is_decided:
            return found
    nothing, shape = found.nothing, was.shift.shape
    if shape != now.shift.shape:
        shape = np.broadcast_shapes(shape, now.shift.shape)
    size = np.maximum(now.size, floor)
    if both_sizes or extra:
        larger = np.maximum(size, was.size)
        size = (larger if both_sizes else size) + (extra / allowance * larger if extra else 0.0)
    shifts = _as(was.shift, shape), _as(now.shift, shape)
    found.add(*shifts, _as(size, shape), allowance, "its shift")
    found.nothing = nothing
    return found


def _on_other_axes(was: Linear, now: Linear) -> bool:
    """Whether both are told per channel, of channels that lie along different axes."""
    return was.split != now.split or (was.behind != now.behind and None not in {was.behind, now.behind})


def adds_what_it_convolves(form: Linear) -> bool:
    """Whether a value is a term beside a linear operator that reads it: whose weights may hold the value as well."""
    return any(key[0] == "value" and key != other and key in other for key in form.terms for other in form.terms)


def _as(array: Array, shape: tuple[int, ...]) -> Array:
    return array if array.shape == shape else np.broadcast_to(array, shape)


class _Composer:
    def __init__(
        self,
        constants: Constants,
        entering: Mapping[Value, Leaf],
        opset: int,
        reference: Composed | None,
        same: Same | None,
        sizes: Callable[[Value], Dims] | None,
    ) -> None:
        self.constants = constants
        self._inferred = sizes
        self._sizes: dict[frozenset[Key], Dims] = {}
        self._reference = reference
        self._same = same
        self._atoms: list[Atom] = []
        self.owner = constants.owner
        self.opset = opset
        self._known: dict[Value, Linear] = {
            value: Linear(
                {("value", leaf.number): [_AS_IT_ENTERS]},
                rank=None if leaf.dims is None else len(leaf.dims),
            )
            for value, leaf in entering.items()
        }
        self._noise = 0.0
        self._read: dict[Value, None] = {}
        self._reads: list[tuple[Sequence[Value | None], list[Value]]] = []
        self._dims: dict[Any, Dims] = {leaf.number: leaf.dims for leaf in entering.values()}
        self._channels: dict[Any, int] = {} if reference is None else dict(reference.channels)

    def run(self, piece: Piece) -> Composed:
        for place in piece.nodes:
            if not self.owner.makes_constants(place):
                self._apply(place)
        if piece.output not in self._known:
            raise Uncomposed("it is a constant")
        made = self._known[piece.output]
        return Composed(made, self._noise, self._read, self._reads, self._atoms, self._sizes, self._channels)

    def _apply(self, place: Place) -> None:
        cutter = self.owner
        node, inputs, own = cutter.node(place), cutter.inputs(place), cutter.scopes[place.scope].own
        data: list[Linear | None] = []
        for value in inputs:
            found = self._known.get(value) if value is not None else None
            data.append(found)
            if value is not None and found is None and value not in self._read:
                if value not in cutter.constants:
                    raise Uncomposed("a computed value that is not of this form")
                self._read[value] = None
        known = operator_of(node)
        if known.weighted and known.crossed and data and data[0] is not None and not _enters(data[0]):
            data[0] = self.renewed(("sum",), {}, {0: data[0]}, inputs[0] or Value(place.scope, ""), _any)
        call = _Call(self, node, place, inputs, data)
        rule = _RULES.get(node.op_type) if known.crossed else None
        try:
            made = {} if rule is None else rule(call)
        except Uncomposed:
            made = {}
        outputs = {own[name]: form for name, form in made.items() if name}
        reads = inputs
        if not outputs:
            outputs, reads = self._nonlinear(call), ()
        self._reads.append((reads, list(outputs)))
        self._known.update(outputs)

    def _nonlinear(self, call: "_Call") -> dict[Value, Linear]:
        """The result of any other operator: equal for equal operands. Raises Uncomposed where that is not sure."""
        node, cutter = call.node, self.owner
        nested = any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute)
        known = operator_of(node)
        if nested or known.random or known.repeats or (node.domain, node.op_type, node.overload) in cutter.functions:
            raise Uncomposed(node.op_type)
        if node.op_type == "Dropout" or not any(call.data):
            raise Uncomposed(node.op_type)
        attributes = []
        for attribute in node.attribute:
            plain = AttributeProto()
            plain.CopyFrom(attribute)
            plain.ClearField("doc_string")
            if attribute.HasField("t") or attribute.tensors or attribute.HasField("sparse_tensor"):
                raise Uncomposed(node.op_type)
            attributes.append(plain.SerializeToString(deterministic=True))
        facts = (node.op_type, node.domain or "", len(node.input), *sorted(attributes))
        given = {at: value for at, value in enumerate(call.inputs) if value is not None and call.data[at] is None}
        if node.op_type == "Concat":
            call.data = self._side_by_side(call)
        inputs = {at: form for at, form in enumerate(call.data) if form is not None}
        made: dict[Value, Linear] = {}
        values = {at: Value(call.place.scope, name) for at, name in enumerate(node.output) if name}
        for at, value in values.items():  # what cannot be told may be read by nobody
            with suppress(Uncomposed):
                made[value] = self.renewed((*facts, at), given, inputs, value, _passing(call, at))
        if not made:
            raise Uncomposed(node.op_type)
        return made

    def _side_by_side(self, call: "_Call") -> list[Linear | None]:
        """The inputs of a Concat; what has no channels of its own yet has them along the axis of the Concat."""
        at = call.integer("axis", 1)
        made: list[Linear | None] = []
        for form in call.data:
            if form is not None and form.behind is None and form.rank is not None and _enters(form):
                dims, axis = self.dims(form), at % form.rank
                count = None if dims is None else dims[axis]
                form = form if count is None else _with_channels(form, form.rank - 1 - axis, count)
            made.append(form)
        return made

    def renewed(
        self,
        facts: tuple[Any, ...],
        given: Mapping[int, Value],
        inputs: Mapping[int, Linear],
        value: Value,
        passing: "Passing",
    ) -> Linear:
        """A value as one that enters: in the candidate, the reference's, times and plus what lies between the two."""
        first = next(iter(inputs.values()))
        keeps = passing is not _equal or facts[0] in _SAME_SHAPE
        rank = first.rank if keeps and len({form.rank for form in inputs.values()}) == 1 else None
        dims = None
        if keeps:
            dims = _dims_of(list(inputs.values())) if passing is _joined else self._broadcast(inputs.values())
        if self._reference is None:
            number: Key = ("atom", len(self._atoms))
            self._atoms.append(Atom(facts, given, inputs, value))
            relation = Relation()
        else:
            at, relation = self._matched(self._reference.atoms, facts, given, inputs, value, passing)
            number = ("atom", at)
            if not relation.is_equality and any(form.split for form in inputs.values()):
                raise Uncomposed("channels that lie along several axes")
        self._dims[number] = dims
        scale = relation.scale
        if relation.shift.ndim and not scale.ndim:
            scale = np.broadcast_to(scale, relation.shift.shape).copy()
        term = Term(Weights.given(scale), 0)
        behind = relation.behind if scale.ndim else None
        return Linear({("value", number): [term]}, relation.shift, relation.size, behind, rank)

    def _broadcast(self, forms: Iterable[Linear]) -> Dims:
        """The sizes of what an operator makes of values that it broadcasts."""
        found: list[tuple[int | None, ...]] = []
        for form in forms:
            known = self.dims(form) if _enters(form) else None
            known = _dims_of([form]) if known is None else known
            if known is None or (found and len(known) != len(found[0])):
                return None
            found.append(known)
        sizes = [{size for size in axis if size != 1} for axis in zip(*found, strict=True)]
        return tuple(1 if not axis else axis.pop() if len(axis) == 1 else None for axis in sizes)

    def _matched(
        self,
        atoms: list[Atom],
        facts: tuple[Any, ...],
        given: Mapping[int, Value],
        inputs: Mapping[int, Linear],
        value: Value,
        passing: "Passing",
    ) -> tuple[int, "Relation"]:
        """The atom of the reference that a value is a map of. Raises Uncomposed where there is none."""
        assert self._reference is not None
        assert self._same is not None
        alike = [
            at
            for at, atom in enumerate(atoms)
            if atom.facts == facts and atom.given.keys() == given.keys() and atom.inputs.keys() == inputs.keys()
        ]
        alike.sort(key=lambda at: atoms[at].value.name != value.name)
        changed = changed_constants(self._reference, self._read, self.constants, self._same)
        for at in alike[:_MOST_TRIED]:
            atom = atoms[at]
            if not all(self._same(atom.given[each], given[each]) for each in given):
                continue
            relations = [related(atom.inputs[each], inputs[each], changed) for each in inputs]
            found = passing([each for each in relations if each is not None], list(inputs.values()))
            if None not in relations and found is not None:
                return at, found
        raise Uncomposed("an operator that the reference has not")

    def small(self, value: Value) -> Array:
        """A small constant; how far rounding may have moved it is kept."""
        found = self.constants.small(value)
        if noise := self.constants.noise(value):
            self._noise = max(self._noise, noise / max(float(np.abs(found).max()), noise))
        return found

    def sizes(self, value: Value | None, form: Linear) -> Dims:
        """The sizes of a value as far as they are known; of one of the candidate those of the reference's."""
        found, terms = form.sizes, frozenset(form.terms)
        if found is None and self._reference is not None:
            found = self._reference.sizes.get(terms)
        elif found is None and self._inferred is not None and value is not None:
            found = self._inferred(value)
        self._sizes[terms] = found
        return found if found is not None and form.rank in {None, len(found)} else None

    def dims(self, form: Linear) -> Dims:
        """The sizes of a value that entered, or that was rearranged, as far as they are known."""
        (key,) = form.terms
        if key[0] != "value" or len(key) != 2:
            return form.sizes
        known, channels = self._dims[key[1]], self._channels.get(key[1])
        if known is not None and channels is not None and len(known) > 1 and known[1] is None:
            return (known[0], channels, *known[2:])
        return known

    def tell_channels(self, form: Linear, count: int) -> None:
        """A value that entered has so many channels along axis 1, or the reference cannot be run at all."""
        (key, *others) = form.terms
        if self._reference is None and not others and key[0] == "value" and len(key) == 2:
            self._channels[key[1]] = count


@dataclass
class _Call:
    """A node to compose. `inputs`: what it reads, None where that is left out; `data`: those of them that are maps."""

    composer: _Composer
    node: NodeProto
    place: Place
    inputs: Sequence[Value | None]
    data: list[Linear | None]

    def __post_init__(self) -> None:
        self.attributes = {attribute.name: attribute for attribute in self.node.attribute}
        self.outputs = self.composer.owner.names_made(self.place)

    @property
    def opset(self) -> int:
        return self.composer.opset

    def only(self) -> Linear:
        """The first input, where it alone is computed."""
        if not self.data or self.data[0] is None or self.data.count(None) != len(self.data) - 1:
            raise Uncomposed("more than one computed input")
        return self.data[0]

    def given(self, position: int) -> bool:
        return position < len(self.inputs) and self.inputs[position] is not None

    def constant(self, position: int) -> Array:
        """A small constant, in float64 where it is a float."""
        value = self.inputs[position]
        assert value is not None
        return self.composer.small(value)

    def weights(self, position: int) -> Weights:
        value = self.inputs[position]
        assert value is not None
        return self.composer.constants.weights(value)

    def integers(self, name: str, default: Sequence[int]) -> tuple[int, ...]:
        found = self.attributes.get(name)
        return tuple(default if found is None else found.ints[:])

    def integer(self, name: str, default: int) -> int:
        found = self.attributes.get(name)
        return default if found is None else found.i

    def number(self, name: str, default: float) -> float:
        found = self.attributes.get(name)
        return default if found is None else found.f

    def text(self, name: str, default: str) -> str:
        found = self.attributes.get(name)
        return default if found is None else found.s.decode(errors="replace")

    def stated_axes(self) -> tuple[int, ...]:
        """The axes that are told by an attribute, or from operator set 13 on by the second input; none where not."""
        if self.given(1):
            return tuple(map(int, self.constant(1).reshape(-1)))
        return self.integers("axes", ())

    def axes(self, rank: int | None) -> set[int]:
        """The axes that are told, counted from the front; none where one does not exist, or they need a `rank`."""
        stated = self.stated_axes()
        if rank is None or not all(-rank <= axis < rank for axis in stated):
            return set()
        return {axis % rank for axis in stated}

    def made(self, value: Linear) -> dict[str, Linear]:
        return {self.outputs[0]: value}


# --- arithmetic


def _scaled(form: Linear, factor: Array) -> Linear:
    """Times one number for each channel, or one for all."""
    terms = {
        key: [Term(_grown(term, factor), term.axis, term.group, term.order) for term in each]
        for key, each in form.terms.items()
    }
    shift, size = form.shift, form.size
    if size is not _ZERO:
        shift, size = shift * factor, size * np.abs(factor)
    return Linear(terms, shift, size, form.behind, form.rank, form.split, form.sizes)


def _grown(term: Term, factor: Array) -> Weights:
    if not term.weights.shape and factor.ndim:  # a value that entered gets its channels from what scales it
        assert term.weights.array is not None
        return Weights.given(term.weights.array * factor)
    if term.weights.array is not None and len(term.weights.shape) == 1:
        return Weights.given(term.weights.array * factor)
    if not term.weights.shape:
        assert term.weights.array is not None
        return Weights.given(np.asarray(term.weights.array * factor))
    return term.weights.times(term.per_output(factor))


def _shifted(form: Linear, shift: Array, size: Array | None = None) -> Linear:
    size = np.abs(shift) if size is None else size
    if form.size is not _ZERO:
        shift, size = form.shift + shift, form.size + size
    return Linear(form.terms, shift, size, form.behind, form.rank, form.split, form.sizes)


def _added(one: Linear, other: Linear) -> Linear:
    behind = one.behind if one.behind is not None else other.behind
    if other.behind not in {None, behind} or one.rank != other.rank or one.split != other.split:
        raise Uncomposed("a sum of values with other axes")
    terms = {key: list(each) for key, each in one.terms.items()}
    for key, each in other.terms.items():
        terms.setdefault(key, []).extend(each)
    shift, size = one.shift + other.shift, one.size + other.size
    return one._replace(terms=terms, shift=shift, size=size, behind=behind, sizes=None)


def _with_channels(form: Linear, behind: int, count: int) -> Linear:
    """A value that entered, with what is known of it told per channel."""
    ((key, (term,)),) = form.terms.items()
    scale = np.broadcast_to(_numbers(term.weights), (count,))
    return form._replace(terms={key: [Term(Weights.given(scale), 0)]}, behind=behind)


def _per_channel(form: Linear, constant: Array, composer: _Composer) -> tuple[Linear, Array]:
    """A constant beside a map, as one number for each channel or one for all; with what that says about the axis."""
    if constant.size == 1 and constant.ndim <= (1 if form.rank is None else form.rank):
        return form, constant.reshape(())
    axes = [axis for axis, size in enumerate(constant.shape) if size != 1]
    if len(axes) != 1:
        raise Uncomposed("a constant that varies along more than the channels")
    behind = constant.ndim - 1 - axes[0]
    return _on(form, behind, constant.size, composer, ndim=constant.ndim), constant.reshape(-1)


def _on(form: Linear, behind: int, count: int, composer: _Composer, *, ndim: int = 0) -> Linear:
    """The map, where its channels are `count` and lie on that axis. Raises Uncomposed where they do not."""
    if form.behind is None:
        dims = composer.dims(form) if len(form.terms) == 1 else None
        if dims is None or len(dims) < max(behind + 1, ndim) or dims[len(dims) - 1 - behind] != count:
            raise Uncomposed("a value whose channels are not known")
        return form._replace(behind=behind)
    if form.behind != behind or form.channels != count:
        raise Uncomposed("a constant along another axis")
    if ndim > 1 and (form.rank is None or ndim > form.rank):
        raise Uncomposed("a constant that may have more axes")
    return form


# --- what lies between a value of the reference and one of the candidate


class Relation(NamedTuple):
    """new = scale * old + shift, with one number for each channel or one for all.

    `size`: that of the shift's terms. `behind`: how many axes follow the channel axis.
    """

    scale: Array = _ONE
    shift: Array = _ZERO
    size: Array = _ZERO
    behind: int | None = None

    @property
    def is_equality(self) -> bool:
        """Whether there is nothing between the two."""
        return bool(np.all(self.scale == 1) and not self.shift.any())


Passing = Callable[[list[Relation], list[Linear]], Relation | None]
"""The relation behind an operator whose inputs have these; None where it lets them not pass."""


def related(old: Linear, new: Linear, changed: Mapping[Value, int]) -> Relation | None:
    """The relation of two maps of the same values, up to rounding; None where there is none."""
    alike = old.terms.keys() == new.terms.keys()
    if not alike or any(len(old.terms[key]) != len(new.terms[key]) for key in old.terms) or _on_other_axes(old, new):
        return None
    both = [(one, other) for key in old.terms for one, other in zip(old.terms[key], new.terms[key], strict=True)]
    allowed, floor = tolerance(changed, 2)
    scale = _ratio(both)
    if scale is None:
        return None
    scale = np.where(np.abs(scale - 1) <= 4 * allowed, 1.0, scale)
    if np.all(scale == scale.reshape(-1)[:1]):
        scale = scale.reshape(-1)[0].reshape(())
    guessed = allowed if np.all(scale == 1) else 2 * allowed  # the ratio is itself made of rounded numbers
    found = Difference()
    for one, other in both:
        before, after = _grown(one, scale), other.weights
        if before.shape != after.shape:
            if before.tensor is not None or after.tensor is not None:
                return None
            shape = np.broadcast_shapes(before.shape, after.shape)
            before, after = _spread(before, shape), _spread(after, shape)
        compare([before], [after], guessed, found, both_sizes=True)
        if found.share > 1:
            return None
    shift, size = new.shift - scale * old.shift, new.size + np.abs(scale) * old.size
    if not np.isfinite(shift).all():
        return None
    # Storing rounds the new terms; the old ones count as well where the ratio that scales them is a guess.
    rounded = new.size if np.all(scale == 1) else size
    if np.all(np.abs(shift) <= guessed * np.maximum(rounded, floor)):
        shift = size = _ZERO
    return Relation(scale, shift, size, old.behind if new.behind is None else new.behind)


def _ratio(both: list[tuple[Term, Term]]) -> Array | None:
    """The number for each output by which the new weights are larger, by least squares; 1 where there is no weight."""
    above, below = np.zeros(()), np.zeros(())
    for one, other in both:
        if one.weights.tensor is None and other.weights.tensor is None and len(one.weights.shape) <= 1:
            was, now = _numbers(one.weights), _numbers(other.weights)
            above, below = above + was * now, below + was * was
            continue
        if one.weights.shape != other.weights.shape or one.group > 1:
            return None
        axis = one.axis
        others = tuple(each for each in range(len(one.weights.shape)) if each != axis)
        over, under = np.zeros(one.weights.shape[axis]), np.zeros(one.weights.shape[axis])
        for (start, was), (_, now) in zip(one.weights.blocks(), other.weights.blocks(), strict=True):
            at = slice(start, start + was.shape[0]) if axis == 0 else slice(None)
            now *= was
            over[at] += now.sum(axis=others)
            was *= was
            under[at] += was.sum(axis=others)
        if one.order is not None:
            over, under = over[one.order], under[one.order]
        above, below = above + over, below + under
    found = np.where(below > 0, above / below, 1.0)
    return found if bool(np.all(np.isfinite(found))) else None


def _spread(weights: Weights, shape: tuple[int, ...]) -> Weights:
    return Weights.given(np.broadcast_to(_numbers(weights), shape))


def _numbers(weights: Weights) -> Array:
    """The numbers of weights that are in memory."""
    assert weights.array is not None
    return weights.array


def _equal(relations: list[Relation], _: list[Linear]) -> Relation | None:
    return Relation() if all(each.is_equality for each in relations) else None


def _any(relations: list[Relation], _: list[Linear]) -> Relation | None:
    return relations[0]


def _free_of_shift(relations: list[Relation], forms: list[Linear]) -> Relation | None:
    """The mean of each channel is taken out, and with it what is added to all of a channel."""
    one, *others = relations
    alike = bool(np.all(one.scale == 1)) and all(each.is_equality for each in others)
    return Relation() if alike and _is_per_channel(one, forms[0]) else None


def _is_per_channel(relation: Relation, form: Linear) -> bool:
    """Whether it is the same at every position of a map, whose channels lie on axis 1."""
    alike = not relation.scale.ndim and not relation.shift.ndim
    return alike or (form.rank is not None and relation.behind == form.rank - 2)


def _mean(relations: list[Relation], forms: list[Linear]) -> Relation | None:
    """A mean over positions."""
    return relations[0] if _is_per_channel(relations[0], forms[0]) else None


def _maximum(relations: list[Relation], forms: list[Linear]) -> Relation | None:
    """A maximum over positions: what is added to all is added to it."""
    return _mean(relations, forms) if bool(np.all(relations[0].scale > 0)) else None


def _positive_scale(relations: list[Relation], _: list[Linear]) -> Relation | None:
    """A kink at zero: nothing may be added."""
    one = relations[0]
    return one if bool(np.all(one.scale > 0)) and not one.shift.any() else None


def _mean_with_zeros(relations: list[Relation], forms: list[Linear]) -> Relation | None:
    """A mean over positions, and over zeros beside them: nothing may be added."""
    return _mean(relations, forms) if not relations[0].shift.any() else None


def _joined(relations: list[Relation], forms: list[Linear]) -> Relation | None:
    """Channels side by side."""
    counts = [form.channels for form in forms]
    if all(each.is_equality for each in relations):
        return Relation()
    if None in counts or len(relations) != len(forms):
        return None
    parts: list[list[Array]] = [[], [], []]
    for each, count in zip(relations, counts, strict=True):
        for part, array in zip(parts, (each.scale, each.shift, each.size), strict=True):
            part.append(np.broadcast_to(array, (count or 1,)))
    behind = next((each.behind for each in relations if each.behind is not None), None)
    scale, shift, size = map(np.concatenate, parts)
    return Relation(scale, shift, size, behind)


def _multiplied(relations: list[Relation], _: list[Linear]) -> Relation | None:
    """A product of two values: its scale is that of both, where the channels of both lie on one axis."""
    if len(relations) != 2 or any(each.shift.any() for each in relations):
        return None
    per_channel = [each for each in relations if each.scale.ndim]
    axes = {(each.behind, each.scale.size) for each in per_channel}  # counted from the end, as what is broadcast
    if per_channel and (len(axes) != 1 or None in next(iter(axes))):
        return None
    one, other = relations
    behind = next(iter(axes))[0] if axes else None
    return Relation(one.scale * other.scale, behind=behind)


def _divided(relations: list[Relation], forms: list[Linear]) -> Relation | None:
    """A quotient likewise."""
    if len(relations) != 2 or (relations[1].scale == 0).any():
        return None
    return _multiplied([relations[0], relations[1]._replace(scale=1 / relations[1].scale)], forms)


_PASSING: dict[str, Passing] = {
    "Relu": _positive_scale,
    "LeakyRelu": _positive_scale,
    "MaxPool": _maximum,
    "GlobalMaxPool": _maximum,
    "GlobalAveragePool": _mean,
}


def _passing(call: "_Call", output: int = 0) -> Passing:
    """The part of a per-channel relation of two values that an operator lets pass to one of its outputs."""
    form, op = call.data[0], call.node.op_type
    if call.node.domain in DEFAULT_DOMAINS and op in {"Mul", "Div"} and None not in call.data:
        return _multiplied if op == "Mul" else _divided
    if call.node.domain not in DEFAULT_DOMAINS or form is None:
        return _equal
    if op == "BatchNormalization" and _trains(call):
        return _equal if output in _MEANS else _free_of_shift
    if len(call.node.output) > 1:
        return _equal
    if operator_of(call.node).part is Part.SHAPE:
        return lambda _relations, _forms: Relation()
    if op == "Concat":
        axes = [_channel_axes(each) for each in call.data if each is not None]
        at = call.integer("axis", 1)
        return _joined if all(at in each for each in axes) and len(axes) == len(call.data) else _equal
    if op == "PRelu" and call.data[1] is None:
        return _positive_scale
    if op == "AveragePool":
        padded = any(call.integers("pads", ())) or call.text("auto_pad", "NOTSET") not in {"NOTSET", "VALID"}
        return _mean_with_zeros if padded and call.integer("count_include_pad", 0) else _mean
    return _PASSING.get(op, _equal)


def _dims_of(forms: Sequence[Linear]) -> Dims:
    """The channels of what an operator makes that keeps them, or puts them side by side."""
    first, counts = forms[0], [form.channels for form in forms]
    if first.rank is None or first.behind is None or None in counts:
        return None
    dims: list[int | None] = [None] * first.rank
    dims[first.rank - 1 - first.behind] = sum(count or 0 for count in counts)
    return tuple(dims)


# --- one rule per operator


def _conv(call: _Call) -> dict[str, Linear]:
    x, weights = call.only(), call.weights(1)
    scale, key, rank = _entering(x), next(iter(x.terms)), len(weights.shape) - 2
    if rank < 1 or (x.rank is not None and x.rank != rank + 2):
        raise Uncomposed("a kernel of another rank")
    group, auto_pad, ones = call.integer("group", 1), call.text("auto_pad", "NOTSET"), (1,) * rank
    pads = call.integers("pads", (0,) * 2 * rank) if auto_pad == "NOTSET" else ()
    facts = (auto_pad, pads, call.integers("strides", ones), call.integers("dilations", ones))
    outputs = weights.shape[0]
    if group < 1 or outputs % group:
        raise Uncomposed("channels that do not divide into groups")

    def per_input(vector: Array) -> Array:
        """[I] to what multiplies W[o, i]: the inputs of o's group."""
        if vector.ndim == 0:
            return vector.reshape((1,) * (rank + 2))
        if vector.size != weights.shape[1] * group:
            raise Uncomposed("a scale of other channels")
        inner = vector.reshape(group, 1, -1)
        return np.repeat(inner, outputs // group if group > 1 else 1, axis=1).reshape(-1, weights.shape[1], *[1] * rank)

    if scale is not None:
        weights = weights.times(per_input(scale))
    _check_axis(x, rank)
    terms: dict[Key, list[Term]] = {("Conv", key, group, *facts, weights.shape): [Term(weights, 0)]}
    made = Linear(terms, _ZERO, _ZERO, rank, rank + 2)
    if x.is_shifted:
        if any(pads) or auto_pad not in {"NOTSET", "VALID"}:
            raise Uncomposed("a shift in front of padding")
        total, _ = call.weights(1).reduced(0, per_input(x.shift))
        _, size = call.weights(1).reduced(0, per_input(x.size))
        made = _shifted(made, total, size)
    return call.made(_biased(call, made, 2))


def _check_axis(x: Linear, behind: int) -> None:
    """Raises Uncomposed where what is known per channel of x lies along another axis than the operator's channels."""
    if x.behind is not None and x.behind != behind:
        raise Uncomposed("a map along another axis")


def _conv_transpose(call: _Call) -> dict[str, Linear]:
    x, weights = call.only(), call.weights(1)
    scale, key, rank = _entering(x), next(iter(x.terms)), len(weights.shape) - 2
    if rank < 1 or x.rank not in {None, rank + 2} or x.is_shifted:
        raise Uncomposed("a shift in front of ConvTranspose")
    _check_axis(x, rank)
    group = call.integer("group", 1)
    facts = (
        call.text("auto_pad", "NOTSET"),
        call.integers("pads", [0] * 2 * rank),
        call.integers("strides", [1] * rank),
        call.integers("dilations", [1] * rank),
        call.integers("output_padding", [0] * rank),
        call.integers("output_shape", ()),
    )
    if group < 1 or weights.shape[0] % group:
        raise Uncomposed("channels that do not divide into groups")
    if scale is not None:
        if scale.ndim and scale.size != weights.shape[0]:
            raise Uncomposed("a scale of other channels")
        weights = weights.times(scale.reshape(-1, *[1] * (rank + 1)))
    term = Term(weights, 1, group)
    made = Linear({("ConvTranspose", key, group, *facts, weights.shape): [term]}, behind=rank, rank=rank + 2)
    return call.made(_biased(call, made, 2))


def _gemm(call: _Call) -> dict[str, Linear]:
    x, weights = call.data[0], call.weights(1)
    if x is None or any(each is not None for each in call.data[1:]) or call.integer("transA", 0):
        raise Uncomposed("a Gemm with more than one computed input")
    if len(weights.shape) != 2 or x.rank not in {None, 2}:
        raise Uncomposed("a matrix of another rank")
    transposed = bool(call.integer("transB", 0))
    made = _product(x, weights, 0 if transposed else 1)
    made = _scaled(made._replace(rank=2), np.asarray(call.number("alpha", 1.0)))
    return call.made(_biased(call, made, 2, call.number("beta", 1.0)))


def _matmul(call: _Call) -> dict[str, Linear]:
    x = call.only()
    weights = call.weights(1)
    if len(weights.shape) != 2 or x.rank == 1:
        raise Uncomposed("a matrix of another rank")
    return call.made(_product(x, weights, 1)._replace(rank=x.rank))


def _product(x: Linear, weights: Weights, axis: int) -> Linear:
    """x times a matrix with its outputs along `axis`: the channels of x are on its last axis."""
    scale, key = _entering(x), next(iter(x.terms))
    inner = 1 - axis
    shape = (1, -1) if inner == 1 else (-1, 1)
    if ((scale is not None and scale.ndim) or x.shift.ndim) and (x.behind != 0 or x.channels != weights.shape[inner]):
        raise Uncomposed("a scale along another axis")
    scaled = weights if scale is None else weights.times(scale.reshape(shape))
    made = Linear({("product", key, axis, weights.shape): [Term(scaled, axis)]}, behind=0)
    if x.is_shifted:
        total, _ = weights.reduced(axis, x.shift.reshape(shape))
        _, size = weights.reduced(axis, x.size.reshape(shape))
        made = _shifted(made, total, size)
    return made


def _enters(form: Linear) -> bool:
    """Whether a map is one of a single value that entered, per channel."""
    return len(form.terms) == 1 and next(iter(form.terms))[0] == "value"


def _entering(form: Linear) -> Array | None:
    """The scale of a value that entered; None for 1. Raises Uncomposed for anything else."""
    if len(form.terms) != 1:
        raise Uncomposed("a linear operator behind another")
    ((key, terms),) = form.terms.items()
    if key[0] != "value" or len(terms) != 1 or terms[0].weights.array is None:
        raise Uncomposed("a linear operator behind another")
    array = terms[0].weights.array
    return None if array is _ONE or (array.ndim == 0 and float(array) == 1.0) else array


def _biased(call: _Call, form: Linear, position: int, factor: float = 1.0) -> Linear:
    if not call.given(position):
        return form
    bias = call.constant(position)
    if bias.ndim > 1 and bias.size != bias.shape[-1]:
        raise Uncomposed("a bias that varies along more than the channels")
    if bias.size not in {1, form.channels}:
        raise Uncomposed("a bias of other channels")
    bias = bias.reshape(()) if bias.size == 1 else bias.reshape(-1)
    return _shifted(form, bias if factor == 1 else factor * bias)


def _batch_normalization(call: _Call) -> dict[str, Linear]:
    x = call.only()
    more = len(call.outputs) > 1 and any(call.outputs[1:])
    if _trains(call) or not call.integer("spatial", 1) or more or x.rank is None:
        raise Uncomposed("BatchNormalization in training mode, or of a value of unknown rank")
    gain, bias, mean, variance = map(call.constant, range(1, 5))
    if not gain.shape == bias.shape == mean.shape == variance.shape or gain.ndim != 1:
        raise Uncomposed("statistics of different sizes")
    scale = gain / np.sqrt(variance + call.number("epsilon", _EPSILON))
    moved = mean * scale
    if x.behind is None:
        call.composer.tell_channels(x, gain.size)
    x = _on(x, x.rank - 2, gain.size, call.composer)
    return call.made(_shifted(_scaled(x, scale), bias - moved, np.abs(bias) + np.abs(moved)))


def _trains(call: _Call) -> bool:
    """Whether a BatchNormalization takes the statistics of the batch."""
    if call.opset < 7:
        return not call.integer("is_test", 0)
    if call.opset < 14:
        return len(call.outputs) > 1 and any(call.outputs[1:])
    return bool(call.integer("training_mode", 0))


def _instance_normalization(call: _Call) -> dict[str, Linear]:
    """What it makes without its scale and bias is equal for equal operands; these are a map of that."""
    x, output = call.only(), call.node.output[0]
    gain, bias = call.constant(1), call.constant(2)
    if x.rank is None or x.rank < 3 or gain.ndim != 1 or gain.shape != bias.shape:
        raise Uncomposed("InstanceNormalization of a value of unknown rank")
    facts = ("InstanceNormalization", call.number("epsilon", _EPSILON))
    plain = call.composer.renewed(facts, {}, {0: x}, Value(call.place.scope, output), _free_of_shift)
    plain = _with_channels(plain, x.rank - 2, gain.size)._replace(rank=x.rank)
    return call.made(_shifted(_scaled(plain, gain), bias))


def _multiplication(call: _Call) -> dict[str, Linear]:
    if len(call.inputs) != 2 or call.opset < 7:
        raise Uncomposed("broadcasting by attributes")
    divides = call.node.op_type == "Div"
    at = 0 if call.data[0] is not None else 1
    form = call.data[at]
    if form is None or call.data[1 - at] is not None or (divides and at):
        raise Uncomposed("a product of two computed values")
    form, constant = _per_channel(form, call.constant(1 - at), call.composer)
    if constant.dtype.kind != "f":
        raise Uncomposed("integers")
    return call.made(_scaled(form, 1 / constant if divides else constant))


def _addition(call: _Call) -> dict[str, Linear]:
    if call.opset < 7 or not call.inputs:
        raise Uncomposed("broadcasting by attributes")
    total: Linear | None = None
    shifts: list[tuple[Array, float]] = []
    for at, form in enumerate(call.data):
        sign = -1.0 if call.node.op_type == "Sub" and at else 1.0
        if form is None:
            shifts.append((call.constant(at), sign))
            continue
        form = form if sign > 0 else _scaled(form, np.asarray(sign))
        total = form if total is None else _added(total, form)
    if total is None:
        raise Uncomposed("a sum of constants")
    for constant, sign in shifts:
        if constant.dtype.kind != "f":
            raise Uncomposed("integers")
        total, vector = _per_channel(total, constant, call.composer)
        total = _shifted(total, sign * vector)
    return call.made(total)


def _negation(call: _Call) -> dict[str, Linear]:
    return call.made(_scaled(call.only(), np.asarray(-1.0)))


def _identity(call: _Call) -> dict[str, Linear]:
    return call.made(call.only())


def _dropout(call: _Call) -> dict[str, Linear]:
    if any(call.node.output[1:]) or (call.opset < 7 and not call.integer("is_test", 0)):
        raise Uncomposed("a Dropout that drops, or whose mask is read")
    if call.given(2) and call.constant(2).any():
        raise Uncomposed("a Dropout that drops")
    return call.made(call.only())


def _cast(call: _Call) -> dict[str, Linear]:
    x = call.only()
    if any(key[0] == "value" for key in x.terms) or not is_float(call.integer("to", TensorProto.STRING)):
        raise Uncomposed("a Cast that may round to integers")
    return call.made(x)


def _transpose(call: _Call) -> dict[str, Linear]:
    x = call.only()
    order = call.integers("perm", range((x.rank or 0) - 1, -1, -1))
    if x.rank not in {None, len(order)} or sorted(order) != list(range(len(order))) or not order:
        raise Uncomposed("a Transpose of another rank")
    axes, sizes = _axes_of_channels(x), x.sizes
    if sizes is not None:
        sizes = tuple(sizes[axis] for axis in order)
    made = x._replace(terms={("Transpose", order, key): each for key, each in x.terms.items()})
    return call.made(_along(made, tuple(order.index(axis) for axis in axes), len(order), sizes))


def _reshape(call: _Call) -> dict[str, Linear]:
    """Channels that are split and merged: their order changes where a Transpose lies between."""
    x = call.only()
    if not call.given(1):
        raise Uncomposed("a Reshape by attributes")
    target, keeps_zero = tuple(map(int, call.constant(1).reshape(-1))), bool(call.integer("allowzero", 0))

    def sizes_made(sizes: Sequence[int | None]) -> Dims:
        return reshaped(sizes, target, keeps_zero=keeps_zero)

    sizes = call.composer.sizes(call.inputs[0], x)
    return call.made(_laid_anew(x, ("Reshape", target, keeps_zero), sizes, sizes_made, len(target)))


def _flatten(call: _Call) -> dict[str, Linear]:
    """The axes in front of one, and those from it on, merged."""
    x, axis = call.only(), call.integer("axis", 1)
    sizes = call.composer.sizes(call.inputs[0], x)
    if sizes is None and x.rank is not None:
        sizes = (None,) * x.rank
    if sizes is None or not -len(sizes) <= axis <= len(sizes):
        raise Uncomposed("a Flatten of unknown rank")
    at = axis + len(sizes) if axis < 0 else axis

    def sizes_made(sizes: Sequence[int | None]) -> Dims:
        return _number(sizes[:at]), _number(sizes[at:])

    return call.made(_laid_anew(x, ("Flatten", at), sizes, sizes_made, 2))


def _number(sizes: Sequence[int | None]) -> int | None:
    """How many numbers there are along axes of these sizes, None where one is not known."""
    known = [size for size in sizes if size is not None]
    return math.prod(known) if len(known) == len(sizes) else None


def _laid_anew(
    x: Linear, how: Key, sizes: Dims, sizes_made: Callable[[Sequence[int | None]], Dims], rank: int
) -> Linear:
    """The map of `sizes`, its numbers in the same order, in those that `sizes_made` makes of them."""
    axes, count = _axes_of_channels(x), x.channels
    made = x._replace(terms={(*how, key): each for key, each in x.terms.items()})
    if not axes:
        return _along(made, (), rank, None if sizes is None else sizes_made(sizes))
    if sizes is None or count is None:
        raise Uncomposed("a Reshape of a value whose sizes are not known")
    if len(axes) == 1:
        sizes = (*sizes[: axes[0]], count, *sizes[axes[0] + 1 :])
    after = _number(sizes[max(axes) + 1 :])
    order, new = order_of(sizes, axes), sizes_made(sizes)
    if order is None or new is None or order.size != count or after is None:
        raise Uncomposed("a Reshape of a value whose sizes are not known")
    along = axes_of(new, count, after)
    if along is None:
        raise Uncomposed("a Reshape across the channels")
    return _along(_reordered(made, order), along, rank, new)


def _squeeze(call: _Call) -> dict[str, Linear]:
    """Axes of one number less."""
    x = call.only()
    gone, axes = call.axes(x.rank), _axes_of_channels(x)
    if not gone or x.rank is None or not gone.isdisjoint(axes):
        raise Uncomposed("a Squeeze of unknown axes, or of the channels")
    stays = [axis for axis in range(x.rank) if axis not in gone]
    sizes = None if x.sizes is None else tuple(x.sizes[axis] for axis in stays)
    made = x._replace(terms={("Squeeze", *sorted(gone), key): each for key, each in x.terms.items()})
    return call.made(_along(made, tuple(stays.index(axis) for axis in axes), len(stays), sizes))


def _unsqueeze(call: _Call) -> dict[str, Linear]:
    """Axes of one number more."""
    x = call.only()
    if x.rank is None:
        raise Uncomposed("an Unsqueeze of unknown rank")
    count = len(call.stated_axes())
    added, axes = call.axes(x.rank + count), _axes_of_channels(x)
    if not added or len(added) != count:
        raise Uncomposed("an Unsqueeze along unknown axes, or twice along one")
    old = [axis for axis in range(x.rank + count) if axis not in added]
    sizes = x.sizes
    if sizes is not None:
        sizes = tuple(1 if axis in added else sizes[old.index(axis)] for axis in range(x.rank + count))
    made = x._replace(terms={("Unsqueeze", *sorted(added), key): each for key, each in x.terms.items()})
    return call.made(_along(made, tuple(old[axis] for axis in axes), x.rank + count, sizes))


def _gather(call: _Call) -> dict[str, Linear]:
    """Channels in another order; of a value that entered, some of them."""
    x = call.data[0]
    if x is None or call.data.count(None) != len(call.data) - 1 or x.rank is None:
        raise Uncomposed("a Gather of constants, or of unknown rank")
    indices, axis, axes = call.constant(1), call.integer("axis", 0) % x.rank, _axes_of_channels(x)
    if indices.ndim != 1 or (axes and axes != (axis,)):
        raise Uncomposed("a Gather along another axis than the channels")
    terms = {("Gather", axis, tuple(indices.tolist()), key): each for key, each in x.terms.items()}
    sizes = None if x.sizes is None else (*x.sizes[:axis], indices.size, *x.sizes[axis + 1 :])
    made, count = x._replace(terms=terms, sizes=sizes), x.channels
    if not axes:
        return call.made(made)
    if count is None or not indices.size or not -count <= indices.min() <= indices.max() < count:
        raise Uncomposed("a Gather of unknown channels")
    order = np.where(indices < 0, indices + count, indices)
    of_an_operator = any(len(term.weights.shape) > 1 for each in terms.values() for term in each)
    if of_an_operator and not np.array_equal(np.sort(order), np.arange(count)):
        raise Uncomposed("a Gather of some outputs of an operator")
    return call.made(_reordered(made, order))


def _axes_of_channels(form: Linear) -> tuple[int, ...]:
    """The axes that channels lie along; none where nothing is told per channel. Raises Uncomposed for unknown ones."""
    if form.split:
        return form.split
    if form.behind is not None and form.rank is not None:
        return (form.rank - 1 - form.behind,)
    if form.shift.ndim or any(term.weights.shape for terms in form.terms.values() for term in terms):
        raise Uncomposed("channels along an unknown axis")
    return ()


def _along(form: Linear, axes: tuple[int, ...], rank: int, sizes: Dims) -> Linear:
    """The map with its channels along `axes`."""
    split, behind = (axes, None) if len(axes) > 1 else ((), rank - 1 - axes[0] if axes else None)
    return form._replace(split=split, behind=behind, rank=rank, sizes=sizes)


def _reordered(form: Linear, order: Array) -> Linear:
    """The map of these channels in this order."""
    if np.array_equal(order, np.arange(form.channels or 0)):
        return form
    terms = {key: [_permuted(term, order) for term in each] for key, each in form.terms.items()}
    shift, size = (each[order] if each.ndim else each for each in (form.shift, form.size))
    return form._replace(terms=terms, shift=shift, size=size)


def _permuted(term: Term, order: Array) -> Term:
    if term.weights.array is not None and len(term.weights.shape) <= 1:  # of a value that entered, for each channel
        return term._replace(weights=Weights.given(_numbers(term.weights)[order])) if term.weights.shape else term
    return term._replace(order=order if term.order is None else term.order[order])


def _split(call: _Call) -> dict[str, Linear]:
    x = call.only()
    count = x.channels
    if count is None or call.integer("axis", 0) not in _channel_axes(x):
        raise Uncomposed("a Split along another axis")
    outputs = len(call.node.output)
    if call.given(1):
        sizes = [int(size) for size in call.constant(1)]
    elif "split" in call.attributes:
        sizes = list(call.attributes["split"].ints)
    else:
        each = -(-count // outputs)
        sizes = [each] * (outputs - 1) + [count - each * (outputs - 1)]
    if sum(sizes) != count or len(sizes) != outputs or min(sizes) <= 0:
        raise Uncomposed("a Split into other sizes")
    starts = np.cumsum([0, *sizes])
    return {
        name: _part(x, int(start), int(start) + size)
        for name, start, size in zip(call.node.output, starts, sizes, strict=False)
        if name
    }


def _slice(call: _Call) -> dict[str, Linear]:
    x = call.only()
    if call.opset < 10:
        starts, ends = call.integers("starts", ()), call.integers("ends", ())
        axes, steps = call.integers("axes", range(len(starts))), (1,) * len(starts)
    else:
        starts, ends = (tuple(map(int, call.constant(at))) for at in (1, 2))
        axes = tuple(map(int, call.constant(3))) if call.given(3) else tuple(range(len(starts)))
        steps = tuple(map(int, call.constant(4))) if call.given(4) else (1,) * len(starts)
    count = x.channels
    if count is None or len(starts) != 1 or axes[0] not in _channel_axes(x) or steps != (1,):
        raise Uncomposed("a Slice along another axis")
    start, stop, _ = slice(starts[0], ends[0]).indices(count)
    if start >= stop:
        raise Uncomposed("an empty Slice")
    return call.made(_part(x, start, stop))


def _channel_axes(form: Linear) -> tuple[int, ...]:
    """The channel axis, counted from the end and from the front."""
    if form.behind is None:
        return ()
    return (-1 - form.behind, *(() if form.rank is None else (form.rank - 1 - form.behind,)))


def _part(form: Linear, start: int, stop: int) -> Linear:
    """Channels `start` to `stop` of a map."""
    count = form.channels
    terms: dict[Key, list[Term]] = {}
    for key, each in form.terms.items():
        if any(term.group > 1 or term.channels != count or term.order is not None for term in each):
            raise Uncomposed("a part of the outputs of groups")
        terms[(*key, start, stop)] = [term._replace(weights=term.weights.part(term.axis, start, stop)) for term in each]
    shift, size = (each[start:stop] if each.ndim else each for each in (form.shift, form.size))
    return form._replace(terms=terms, shift=shift, size=size, sizes=None)


_MEANS = {1, 3}
_EPSILON = float(np.float32(1e-5))
_SAME_SHAPE = {"Abs", "Clip", "Erf", "Exp", "HardSigmoid", "HardSwish", "PRelu", "Sigmoid", "Softmax", "Tanh"}
_MOST_TRIED = 4
_RULES = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "BatchNormalization": _batch_normalization,
    "InstanceNormalization": _instance_normalization,
    "Mul": _multiplication,
    "Div": _multiplication,
    "Add": _addition,
    "Sub": _addition,
    "Sum": _addition,
    "Neg": _negation,
    "Identity": _identity,
    "Dropout": _dropout,
    "Cast": _cast,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Gather": _gather,
    "Split": _split,
    "Slice": _slice,
}
