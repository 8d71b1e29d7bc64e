"""The common part of two models, and the obligations to prove for the rest: read from the two files alone.

Values of both models are paired: by name, and where only one reader was given another name to read, by their use. A
pair is an assertion that the two values are equal. It is settled without computing anything where both come out of the
same operator with the same attributes, the same constants and paired inputs. Every other pair is an `Obligation`: the
piece of either graph that makes the value out of earlier pairs has to be shown to compute the same. Starting from the
outputs, every assertion rests on earlier ones and in the end on the inputs, so that obligations which all hold prove
the whole.

A pair may be wrong although the models are right: where a map moved across other operators, the values between keep
their names and mean something else. Such a pair is given up (`Correspondence.give_up`), and the pieces around it grow
together.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import NamedTuple

from onnx import FunctionProto, NodeProto, SparseTensorProto, TensorProto

from bnfold.equivalence.feeds.size_solving import Shapes
from bnfold.equivalence.numbers.element_types import is_float
from bnfold.equivalence.operators import DEFAULT_DOMAINS, operator_of
from bnfold.equivalence.proofs.constants import Constants, StaticSizes
from bnfold.equivalence.proofs.piece_sizes import Dims, InputShapes
from bnfold.equivalence.structure.scopes import (
    Cutter,
    Piece,
    Place,
    Scope,
    Uncut,
    Value,
    same_attributes,
    same_bytes,
    same_declaration,
)

_MOST_NODES = 1000
"""A larger piece is not that of one rewrite."""
_FARTHER = 4
"""How many more operators than the reference has there may be looked at in the candidate to end at the same values."""
_LOOK_BACK = 32
_OF_ONE_TYPE = {"Relu", "Clip", "MaxPool", "Pad", "Add", "Sub", "Mul", "Div", "Sum"}
"""Operators, beside those that move elements, whose first input and output have one type."""


class Pair(NamedTuple):
    """A value of the reference, and the one of the candidate that is said to equal it."""

    old: Value
    new: Value


class Obligation(NamedTuple):
    """`premises`: the pairs that enter. `before`, `after`: the pieces to compare; None where nothing is left to show.

    `reason`: why there are no pieces although there is something to show, "" otherwise. `apart`: the candidate's piece
    enters at a value that the reference's does not, so that they may be equal though they are not for any values.
    """

    pair: Pair
    premises: tuple[Pair, ...]
    before: Piece | None = None
    after: Piece | None = None
    reason: str = ""
    apart: bool = False

    @property
    def settled(self) -> bool:
        """Whether the pair is equal because its premises are."""
        return self.before is None and not self.reason


class Correspondence:
    """The pairs of two models, and what rests on what."""

    def __init__(self, before: Cutter, after: Cutter) -> None:
        self.before = before
        self.after = after
        self.old_constants = Constants(before)
        self.new_constants = Constants(after)
        self._partner: dict[Value, Value] = {}
        self._origins: dict[Value, list[Value]] = {}
        self._scopes: dict[int, int] = {}
        self._given_up: dict[Value, Pair] = {}
        self._same_tensors: dict[tuple[Value, Value], bool] = {}
        self._same_nodes: dict[tuple[Place, Place], bool] = {}
        self._integers: dict[Value, bool] = {}
        self._match_scopes(0, 0)
        for key, scope in before.functions.items():
            if key in after.functions:
                self._match_scopes(scope, after.functions[key])
        self._same_made = self._constants_made_alike()
        for old in self._scopes:
            self._match_renamed(before.scopes[old])

    @cached_property
    def shapes(self) -> InputShapes:
        """The known shapes of the reference's values, inferred when first needed."""
        return InputShapes(self.before.model, self.before.file)

    @property
    def knows_shapes(self) -> bool:
        """Whether they were inferred already."""
        return "shapes" in self.__dict__

    def dims(self, old: Value) -> Dims:
        """The sizes of a value of the reference as far as they are known; None where its rank is not."""
        return self._dims(old, self.shapes)

    def dims_at(self, values: Collection[Value], sizes: Shapes) -> dict[str, Dims]:
        """The sizes of values of the reference, by name, where the inputs of the model have these `sizes`."""
        shapes = self.shapes.at(sizes)
        return {value.name: self._dims(value, shapes) for value in values}

    def _dims(self, old: Value, shapes: InputShapes) -> Dims:
        inside = self.before.scopes[old.scope].key is not None
        return shapes.dims_inside(old.name) if inside else shapes.dims(old.name)

    def same_constant(self, old: Value, new: Value) -> bool:
        """Whether two constants are the same numbers, stored or made of what is stored in the same way."""
        return self._same_constant(old, new)

    def roots(self) -> list[Pair]:
        """The outputs of the model, which must be equal."""
        names = self.before.scopes[0].leaving
        found = [(self.before.resolve(0, name), self.after.resolve(0, name)) for name in names]
        return [Pair(old, new) for old, new in found if old is not None and new is not None]

    def give_up(self, pairs: Collection[Pair]) -> None:
        """Assert these pairs no longer."""
        self._given_up.update((pair.old, pair) for pair in pairs)

    def take_back(self, pairs: Collection[Pair]) -> None:
        """Assert pairs again that were given up."""
        for pair in pairs:
            self._given_up.pop(pair.old, None)

    def assert_all(self) -> Collection[Pair]:
        """Assert every pair again; those that were given up."""
        given_up, self._given_up = self._given_up, {}
        return given_up.values()

    def obligations(self) -> tuple[dict[Pair, Obligation], set[Pair]]:
        """Everything the outputs rest on, earlier pairs first; and the pairs that nothing may give up."""
        found: dict[Pair, Obligation] = {}
        fixed: set[Pair] = set()
        waiting = self.roots()
        fixed.update(waiting)
        while waiting:
            pair = waiting.pop()
            if pair in found:
                continue
            made, bodies = self._obligation(pair)
            found[pair] = made
            fixed.update(bodies)
            waiting += [*made.premises, *bodies]
        return dict(sorted(found.items(), key=lambda item: self.before.rank_of(item[0].old))), fixed

    def opened(self, pair: Pair) -> Obligation:
        """The pieces that make a pair, also where it is settled without them. Raises Uncut."""
        return self._to_show(pair)

    # --- pairs

    def _match_scopes(self, old: int, new: int) -> None:
        before, after = self.before.scopes[old], self.after.scopes[new]
        self._scopes[old] = new
        if before.parent is None and before.key is None:
            entering = [(name, name) for name in before.entering if name in after.entering]
        else:
            entering = list(zip(before.entering, after.entering, strict=False))
        for was, now in entering:
            self._join(Value(old, was), Value(new, now))
        for name in before.producers:
            if name in after.producers:
                self._join(Value(old, name), Value(new, name))
        self._join_across_identities(before, after)
        for position, bodies in before.bodies.items():
            place = self._counterpart(Place(old, position))
            others = {} if place is None else self.after.scopes[new].bodies.get(place.position, {})
            if bodies.keys() == others.keys():
                for name, body in bodies.items():
                    self._match_scopes(body, others[name])

    def _join_across_identities(self, before: Scope, after: Scope) -> None:
        """Where one model passes a value on by an Identity and the other makes it under that name at once."""
        for one, other, mine in ((before, after, True), (after, before, False)):
            for node in one.nodes:
                if node.op_type != "Identity" or node.domain not in DEFAULT_DOMAINS:
                    continue
                inside, name = node.input[0], node.output[0]
                maker = other.producers.get(name)
                if inside in other.producers or inside not in one.producers or maker is None:
                    continue
                if other.nodes[maker].op_type == one.nodes[one.producers[inside]].op_type:
                    old, new = (inside, name) if mine else (name, inside)
                    self._join(Value(before.number, old), Value(after.number, new))

    def _join(self, old: Value, new: Value) -> None:
        self._partner[old] = new
        self._origins.setdefault(new, []).append(old)

    def _counterpart(self, place: Place) -> Place | None:
        """The node of the candidate that makes the value paired with what this one makes, in the same scope."""
        scope = self._scopes.get(place.scope)
        before = self.before.scopes[place.scope]
        if scope is None:
            return None
        for name in before.outputs[place.position]:
            if name:
                partner = self._partner.get(before.own[name])
                return self.after.scopes[scope].makers.get(name) if partner is None else self.after.producer(partner)
        return None

    def _match_renamed(self, before: Scope) -> None:
        """A value whose name is gone, and what an operator that is otherwise as before reads instead."""
        for place, node in zip(before.places, before.nodes, strict=True):
            other = self._counterpart(place)
            if other is None or node.op_type != self.after.node(other).op_type:
                continue
            renamed = self._renamed_inputs(place, other)
            if renamed and self._same_node(place, other):
                for old, new in renamed:
                    if old not in self._partner:
                        self._join(old, new)

    def _renamed_inputs(self, place: Place, other: Place) -> list[Pair]:
        """Where two nodes read values of different names; nothing if they differ in anything else they read."""
        renamed: list[Pair] = []
        one, two = self.before.names_read(place), self.after.names_read(other)
        for at, (old, new) in enumerate(zip(self.before.inputs(place), self.after.inputs(other), strict=False)):
            if old is None or new is None:
                alike = not one[at] and not two[at]
            elif self._is_computed(old, self.before) and self._is_computed(new, self.after):
                alike = True
                if old.name != new.name and old not in self._partner:
                    renamed.append(Pair(old, new))
            else:
                alike = self._same_constant(old, new)
            if not alike:
                return []
        return renamed

    def _is_computed(self, value: Value, cutter: Cutter) -> bool:
        return value not in cutter.constants

    def _asserted(self, old: Value) -> Value | None:
        return None if old in self._given_up else self._partner.get(old)

    # --- what is the same without computing anything

    def _same_node(self, old: Place, new: Place) -> bool:
        """Whether both have the same operator and attributes, and the same constants where both read constants."""
        key = old, new
        found = self._same_nodes.get(key)
        if found is None:
            one, other = self.before.node(old), self.after.node(new)
            found = self._same_nodes[key] = (
                one.op_type == other.op_type
                and _count(self.before.names_read(old)) == _count(self.after.names_read(new))
                and self._same_outputs(old, new)
                and same_attributes(one, other, self.before, self.after)
            )
        return found

    def _same_outputs(self, old: Place, new: Place) -> bool:
        """Whether both nodes make as many values, and leave the same ones out."""
        one, other = self.before.names_made(old), self.after.names_made(new)
        return len(one) == len(other) and all(map(_both_or_none, one, other))

    def _same_constant(self, old: Value, new: Value) -> bool:
        """Whether both are stored, or made of what is stored, in the same way from the same numbers."""
        if old not in self.before.constants and new not in self.after.constants:
            return False
        one, other = _stored(self.before, old), _stored(self.after, new)
        if one is None or other is None:
            made_alike = old in self._same_made and self._partner.get(old) == new
            return made_alike or self._stored_now.get(old) == new
        if (old, new) not in self._same_tensors:
            self._same_tensors[old, new] = same_bytes(one, other, self.before, self.after)
        return self._same_tensors[old, new]

    @cached_property
    def _stored_now(self) -> dict[Value, Value]:
        """The values that the reference computes and the candidate stores, bit by bit the same, under the same name."""
        stored: dict[Value, TensorProto] = {}
        names: dict[Value, Value] = {}
        for number, other in self._scopes.items():
            before, after = self.before.scopes[number], self.after.scopes[other]
            held = {name for node in after.nodes if node.op_type == "Constant" for name in node.output}
            for name in filter((held | after.stored.keys()).__contains__, before.producers):
                old, new = before.own[name], after.own[name]
                tensor = self.new_constants.held(new)
                if tensor is not None and before.nodes[before.producers[name]].op_type != "Constant":
                    stored[old], names[old] = tensor, new
        if not stored:
            return {}
        alike = self.old_constants.stored_alike(stored, self.after, StaticSizes(self.before))
        return {old: names[old] for old in alike}

    def _constants_made_alike(self) -> set[Value]:
        same: set[Value] = set()
        self._same_made = same
        for place in self.before.rank:
            if not self.before.makes_constants(place):
                continue
            values = [Value(place.scope, name) for name in self.before.node(place).output if name]
            other = self._counterpart(place)
            if other is None or not self._same_node(place, other):
                continue
            pairs = zip(self.before.inputs(place), self.after.inputs(other), strict=False)
            if all(
                (old is not None and new is not None and self._same_constant(old, new)) or (old is None and new is None)
                for old, new in pairs
            ):
                same.update(values)
        return same

    # --- what rests on what

    def _obligation(self, pair: Pair) -> tuple[Obligation, list[Pair]]:
        """The obligation for a pair to be equal; and the outputs of nested bodies and functions that belong to it."""
        if self._same_constant(pair.old, pair.new):
            return Obligation(pair, ()), []
        if self._is_given(pair):
            return Obligation(pair, (), reason="" if self._same_default(pair) else "its default is another one"), []
        settled = self._settled(pair)
        if settled is not None:
            premises, bodies = settled
            return Obligation(pair, (*premises, *bodies)), bodies
        try:
            return self._to_show(pair), []
        except Uncut as why:
            return Obligation(pair, (), reason=str(why)), []

    def _is_given(self, pair: Pair) -> bool:
        """Whether both come from the caller."""
        if self.before.producer(pair.old) is not None or self.after.producer(pair.new) is not None:
            return False
        entering = pair.old.name in self.before.scopes[pair.old.scope].entering
        return entering and self._partner.get(pair.old) == pair.new

    def defaults(self, pair: Pair) -> tuple[TensorProto | SparseTensorProto | None, ...]:
        """What either side of a pair is where its caller leaves it out."""
        return self.before.default(pair.old), self.after.default(pair.new)

    def _same_default(self, pair: Pair) -> bool:
        """Whether callers who give nothing get the same."""
        was, now = self.defaults(pair)
        if isinstance(was, TensorProto) and isinstance(now, TensorProto):
            return same_bytes(was, now, self.before, self.after)
        if isinstance(was, SparseTensorProto) and isinstance(now, SparseTensorProto):
            parts = ((was.values, now.values), (was.indices, now.indices))
            return was.dims == now.dims and all(same_bytes(a, b, self.before, self.after) for a, b in parts)
        return was is now is None

    def _settled(self, pair: Pair) -> tuple[list[Pair], list[Pair]] | None:
        """The inputs and the bodies that a pair rests on, where both sides are the same operator; None otherwise."""
        old, new = self.before.producer(pair.old), self.after.producer(pair.new)
        if old is None or new is None or not self._same_node(old, new):
            return None
        made, also = self.before.names_made(old), self.after.names_made(new)
        if len(made) > 1 and made.index(pair.old.name) != also.index(pair.new.name):
            return None
        one, other = self.before.names_read(old), self.after.names_read(new)
        premises: list[Pair] = []
        for at, (first, second) in enumerate(zip(self.before.inputs(old), self.after.inputs(new), strict=False)):
            if first is None or second is None:
                if one[at] or other[at]:
                    return None
                continue
            if self._same_constant(first, second):
                continue
            if self._asserted(first) != second or first in self.before.constant_made:
                return None
            premises.append(Pair(first, second))
        bodies = self._bodies(old, new)
        return None if bodies is None else (premises, bodies)

    def _bodies(self, old: Place, new: Place) -> list[Pair] | None:
        """The outputs of what two nodes run inside, in pairs; None where that does not match."""
        inner = self.before.scopes[old.scope].bodies.get(old.position, {})
        outer = self.after.scopes[new.scope].bodies.get(new.position, {})
        if not (inner or outer or self.before.functions or self.after.functions):
            return []
        one, other = self.before.node(old), self.after.node(new)
        scopes = [(body, outer.get(name)) for name, body in inner.items()]
        if inner.keys() != outer.keys():
            return None
        called = self.before.functions.get((one.domain, one.op_type, one.overload))
        if called is not None:
            scopes.append((called, self.after.functions.get((other.domain, other.op_type, other.overload))))
        elif (other.domain, other.op_type, other.overload) in self.after.functions:
            return None
        pairs: list[Pair] = []
        for was, now in scopes:
            if now is None or self._scopes.get(was) != now:
                return None
            before, after = self.before.scopes[was], self.after.scopes[now]
            if not self._are_declared_alike(before, after):
                return None
            for first, second in zip(before.leaving, after.leaving, strict=True):
                left, right = self.before.resolve(was, first), self.after.resolve(now, second)
                if left is None or right is None:
                    return None
                pairs.append(Pair(left, right))
        return pairs

    def _are_declared_alike(self, before: Scope, after: Scope) -> bool:
        """Whether as much enters and leaves, and of functions, whether their operators mean the same."""
        if len(before.leaving) != len(after.leaving) or len(before.entering) != len(after.entering):
            return False
        one, other = before.body, after.body
        if isinstance(one, FunctionProto) and isinstance(other, FunctionProto):
            return same_declaration(one, other, self.before, self.after)
        return True

    def _to_show(self, pair: Pair) -> Obligation:
        rank = self.before.rank_of(pair.old)
        before, entering = self._walk_old(pair.old, rank)
        after, also = self._walk_new(pair, rank, entering)
        if any(each.old not in entering for each in also):
            # The reference ends nearer, at values made of those where the candidate ends: end both at the latter.
            with suppress(Uncut):
                ends = {each.old for each in also}
                farther, found = self._walk_old(pair.old, rank, ends)
                again, others = self._walk_new(pair, rank, found)
                if all(each.old in found for each in others):
                    before, entering, after, also = farther, found, again, others
        if any(each.old not in entering for each in also):
            # The candidate ends nearer, as where it computes once what the reference computes twice.
            with suppress(Uncut):
                farther, found_also = self._walk_new(pair, rank, entering, farther=True)
                if len(farther.nodes) <= len(before.nodes) + _FARTHER:
                    after, also = farther, found_also
        premises = {Pair(old, self._partner[old]): None for old in entering} | dict.fromkeys(also)
        return Obligation(pair, tuple(premises), before, after, apart=any(each.old not in entering for each in also))

    def _walk_old(
        self, start: Value, rank: int, ends: Collection[Value] | None = None
    ) -> tuple[Piece, dict[Value, None]]:
        """Back from a value of the reference to the values of earlier pairs, or to those of them in `ends` alone."""
        entering: dict[Value, None] = {}

        def stops(value: Value) -> bool:
            if value == start or not self._is_cut(value) or self.before.rank_of(value) >= rank:
                return False
            if ends is not None and value not in ends and self.before.producer(value) is not None:
                return False
            entering[value] = None
            return True

        return _walk(self.before, start, stops), entering

    def _walk_new(
        self, pair: Pair, rank: int, entering: Mapping[Value, None], *, farther: bool = False
    ) -> tuple[Piece, list[Pair]]:
        """The walk in the candidate; with the pairs where it stopped: with `farther` at those in `entering` alone."""
        also: list[Pair] = []

        def stops(value: Value) -> bool:
            origins = [
                old
                for old in self._origins.get(value, ())
                if old != pair.old and self._is_cut(old) and self.before.rank_of(old) < rank
            ]
            if not origins or (farther and not any(old in entering for old in origins)):
                return False
            known = [old for old in origins if old in entering]
            also.extend(Pair(old, value) for old in known or origins[:1])
            return True

        return _walk(self.after, pair.new, stops), also

    def _is_cut(self, old: Value) -> bool:
        """Whether a piece may end here: not at constants, nor at integers, which are shapes and indices."""
        if self._asserted(old) is None or old in self.before.constant_made:
            return False
        known = self._integers.get(old)
        if known is None:
            known = self._integers[old] = self._may_be_integer(old) and self.shapes.is_integer(old.name)
        return not known

    def _may_be_integer(self, value: Value) -> bool:
        """Whether a computed value may hold integers, as far as the operators right behind it tell."""
        asked = value
        for _ in range(_LOOK_BACK):
            place = self.before.producer(value)
            if place is None:
                kind = self._given_kind(value)
                return value != asked and not (kind and is_float(kind))  # a piece may end at what is given
            node = self.before.node(place)
            if operator_of(node).real:
                return False
            behind = next(iter(self.before.inputs(place)), None)
            if not _keeps_type(node) or behind is None:
                return True
            value = behind
        return True

    def _given_kind(self, value: Value) -> int:
        """The type of a value that no node makes, 0 where nothing says it."""
        tensor = self.before.stored(value)
        return self._input_kinds.get(value, 0) if tensor is None else tensor.data_type

    @cached_property
    def _input_kinds(self) -> dict[Value, int]:
        return {Value(0, port.name): port.type.tensor_type.elem_type for port in self.before.model.graph.input}


def _keeps_type(node: NodeProto) -> bool:
    """Whether the first input and the outputs have one type."""
    moves = operator_of(node).transparent and node.op_type != "Cast"
    return node.domain in DEFAULT_DOMAINS and (moves or node.op_type in _OF_ONE_TYPE)


def _walk(cutter: Cutter, start: Value, stops: Callable[[Value], bool]) -> Piece:
    """Everything `start` is made of up to where `stops` says so. Raises Uncut where something else enters."""
    nodes: set[Place] = set()
    constants: dict[str, TensorProto] = {}
    seen, waiting = {start}, [start]
    while waiting:
        value = waiting.pop()
        scope = cutter.scopes[value.scope]
        stored = scope.stored.get(value.name)
        if stored is not None:
            constants[value.name] = stored
            continue
        if stops(value):
            continue
        place = scope.makers.get(value.name)
        if place is None:
            raise Uncut(f"value {value.name!r} enters it, which has no counterpart")
        if place not in nodes:
            nodes.add(place)
            if len(nodes) > _MOST_NODES:
                raise Uncut(f"more than {_MOST_NODES} operators lie between what can be paired")
            for other in cutter.reads(place):
                if other is None:
                    raise Uncut(f"what {cutter.label(place)!r} reads comes from nowhere that is known")
                if other not in seen:
                    seen.add(other)
                    waiting.append(other)
    in_order = sorted(nodes, key=cutter.rank.__getitem__) if len(nodes) > 1 else nodes
    return Piece(tuple(in_order), constants, start)


def _stored(cutter: Cutter, value: Value) -> TensorProto | None:
    """What is stored as a value, also where Identities pass it on."""
    while (tensor := cutter.stored(value)) is None:
        place = cutter.producer(value)
        node = None if place is None else cutter.node(place)
        if place is None or node is None or node.op_type != "Identity" or node.domain not in DEFAULT_DOMAINS:
            return None
        behind = next(iter(cutter.inputs(place)), None)
        if behind is None:
            return None
        value = behind
    return tensor


def _count(names: Sequence[str]) -> int:
    """How many there are, without the empty ones at the end."""
    count = len(names)
    while count and not names[count - 1]:
        count -= 1
    return count


def _both_or_none(one: str, other: str) -> bool:
    return bool(one) == bool(other)
