"""The constants of one model as numbers, for the proofs: read from the file, or computed from what stands there."""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import NamedTuple

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from bnfold.equivalence.numbers.constant_expressions import evaluate
from bnfold.equivalence.numbers.element_types import Array, rounding, rounding_of
from bnfold.equivalence.numbers.float64 import Evaluator, Unknowable
from bnfold.equivalence.operators import DEFAULT_DOMAINS, operator_of
from bnfold.equivalence.proofs.piece_sizes import InputShapes
from bnfold.equivalence.proofs.weights import Weights
from bnfold.equivalence.structure.scopes import Cutter, Piece, Place, Scope, Value
from bnfold.equivalence.structure.signature import every_graph

_SMALL = 1 << 20
"""A tensor with more elements is read in blocks alone."""
_NOISE = 4.0
_TINY = 1 << 12
_MOST_RECENT = 16
"""So many that are not tiny are kept: neighbouring pieces read the same ones."""
_SIZES = ("Shape", "Size")
_FILLERS = (1, 2, 7, 64, 10_007)
"""Sizes that may vary are taken to be these, one after the other: what comes out alike each time does not read them."""


class Constants:
    """Asked for constants of one model. What nodes compute of constants is computed once."""

    def __init__(self, owner: Cutter) -> None:
        self.owner = owner
        self._computed: dict[Value, Array] = {}
        self._noises: dict[Value, float] = {}
        self._recent: dict[Value, Array] = {}

    def is_constant(self, value: Value) -> bool:
        """Whether no caller can influence a value."""
        return value in self.owner.constants

    def count(self, piece: Piece) -> int:
        """The number of elements that a piece stores, in initializers and in nodes."""
        stored = sum(math.prod(tensor.dims) for tensor in piece.constants.values())
        held = [each.t for place in piece.nodes for each in self.owner.node(place).attribute if each.HasField("t")]
        return stored + sum(math.prod(tensor.dims) for tensor in held)

    def tensor(self, value: Value) -> TensorProto | None:
        """The tensor that a constant is, stored or in a Constant node; None where it is computed."""
        stored = self.owner.stored(value)
        if stored is not None:
            return stored
        seen: set[Value] = set()
        while value not in seen:
            seen.add(value)
            held = self.held(value)
            if held is not None:
                return held
            place = self.owner.producer(value)
            node = None if place is None else self.owner.node(place)
            if place is None or node is None or node.domain not in DEFAULT_DOMAINS or node.op_type != "Identity":
                return None
            behind = self.owner.inputs(place)[0]
            if behind is None:
                return None
            value = behind
        return None

    def held(self, value: Value) -> TensorProto | None:
        """The tensor that stands in the file under the name of a value: an initializer, or in a Constant node."""
        stored, place = self.owner.stored(value), self.owner.producer(value)
        if stored is not None or place is None:
            return stored
        node = self.owner.node(place)
        if node.op_type != "Constant" or node.domain not in DEFAULT_DOMAINS:
            return None
        return next((each.t for each in node.attribute if each.name == "value"), None)

    def elem_type(self, value: Value) -> int:
        """The type of a constant. Raises Unknowable where it cannot be computed."""
        tensor = self.tensor(value)
        return tensor.data_type if tensor is not None else helper.np_dtype_to_tensor_dtype(self._evaluated(value).dtype)

    def small(self, value: Value) -> Array:
        """A constant in float64 where it is a float, else in its own type. Raises Unknowable."""
        found = self._recent.get(value) if self._recent else None
        if found is None:
            found = self._small(value)
            if found.size > _TINY:
                if len(self._recent) >= _MOST_RECENT:
                    self._recent.clear()
                self._recent[value] = found
        return found

    def _small(self, value: Value) -> Array:
        tensor = self.tensor(value)
        if tensor is not None and _is_large(tensor):
            raise Unknowable(f"constant {value.name!r} is too large to be looked at whole")
        array = self.owner.array(tensor) if tensor is not None else self._evaluated(value)
        if array.dtype.kind == "f" or array.dtype.name.startswith("bf"):
            return array.astype(np.float64)
        return array.copy()  # never a view of the file

    def weights(self, value: Value) -> Weights:
        """A constant of any size. Raises Unknowable where it cannot be computed, or is no float."""
        tensor = self.tensor(value)
        if tensor is not None:
            if rounding(tensor.data_type) is None:
                raise Unknowable(f"constant {value.name!r} is no float")
            return Weights.stored(tensor, self.owner)
        array = self._evaluated(value)
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        if rounding(kind) is None:
            raise Unknowable(f"constant {value.name!r} is no float")
        return Weights.given(array, kind, self.noise(value))

    def noise(self, value: Value) -> float:
        """The rounding error that each number of a constant may have that was asked for; 0 for a stored one.

        The nodes that compute it round after each step, and in which order they sum up is not said: four times what
        float64 makes of it otherwise.
        """
        return self._noises.get(value, 0.0)

    def _evaluated(self, value: Value) -> Array:
        if value not in self._computed:
            turned = self._turned(value)
            if turned is not None:
                self._computed[value] = turned
                return turned
            piece = Piece(tuple(sorted(self._places(value), key=self.owner.rank.__getitem__)), self._stored, value)
            model = self.owner.cut(piece, ())
            found = evaluate(model)[value.name]
            self._computed[value] = found
            if rounding_of(found.dtype) is not None and found.size:
                exact = Evaluator(model)({})[value.name]
                with np.errstate(all="ignore"):
                    moved = np.abs(found.astype(np.float64) - exact) if exact.shape == found.shape else np.array(np.nan)
                self._noises[value] = _NOISE * float(np.nan_to_num(moved.max()))
        return self._computed[value]

    def _turned(self, value: Value) -> Array | None:
        """What a Transpose makes of a stored tensor, as exporters write the weights of linear layers; else None."""
        place = self.owner.producer(value)
        node = None if place is None else self.owner.node(place)
        if place is None or node is None or node.op_type != "Transpose" or node.domain not in DEFAULT_DOMAINS:
            return None
        behind = self.owner.inputs(place)[0]
        tensor = None if behind is None else self.tensor(behind)
        if tensor is None or any(each.ref_attr_name for each in node.attribute):
            return None
        array = self.owner.array(tensor)
        order = next((list(each.ints) for each in node.attribute if each.name == "perm"), [*range(array.ndim)][::-1])
        return array.transpose(order).copy() if sorted(order) == [*range(array.ndim)] else None

    def stored_alike(self, values: Mapping[Value, TensorProto], other: Cutter, sizes: "StaticSizes") -> set[Value]:
        """The `values`, computed here, that are the tensors stored in `other`, to the bit.

        Computed of constants alone, or of sizes that are the same whenever the model runs.
        """
        found: set[Value] = set()
        for scope in sorted({value.scope for value in values}):
            together = [value for value in values if value.scope == scope and self._expression([value], sizes)]
            try:
                made = self._computed_together(together, sizes)
            except Unknowable:
                made = {}
                for value in together:
                    with suppress(Unknowable):
                        made |= self._computed_together([value], sizes)
            for value, array in made.items():
                if _is_same(array, other.array(values[value])):
                    found.add(value)
        return found

    def _computed_together(self, values: Sequence[Value], sizes: "StaticSizes") -> dict[Value, Array]:
        """The results of `values`, all of one scope, whatever the unknown sizes are. Raises Unknowable."""
        expression = self._expression(values, sizes) if values else None
        if expression is None:
            return {}
        names = [value.name for value in values]
        model = self.owner.cut(Piece(expression.nodes, expression.stored, values[0]), list(expression.looked_at))
        del model.graph.output[:]
        model.graph.output.extend(ValueInfoProto(name=name) for name in names)
        unknown = any(None in look.dims for look in expression.looked_at.values())
        trials = [
            evaluate(model, {name: look.array(filler) for name, look in expression.looked_at.items()})
            for filler in (_FILLERS if unknown else _FILLERS[:1])
        ]
        first = trials[0]
        return {
            value: first[value.name]
            for value in values
            if all(_is_same(first[value.name], trial[value.name]) for trial in trials)
        }

    def _expression(self, values: Sequence[Value], sizes: "StaticSizes") -> "_Expression | None":
        """The expression of constants and sizes that computes `values`; None where they depend on anything else."""
        nodes: set[Place] = set()
        stored: dict[str, TensorProto] = {}
        looked_at: dict[str, _Look] = {}
        waiting, seen = list(values), set(values)
        while waiting:
            value = waiting.pop()
            tensor, place = self.owner.stored(value), self.owner.producer(value)
            if tensor is not None:
                stored[value.name] = tensor
                continue
            if place is None or not self._is_plain(place):
                return None
            if place in nodes:
                continue
            nodes.add(place)
            node = self.owner.node(place)
            for position, name in enumerate(node.input):
                read = self.owner.resolve(place.scope, name) if name else None
                if name and read is None:
                    return None
                if read is None or read in seen:
                    continue
                look = None if self.is_constant(read) else _look(node, position, read, sizes)
                if look is not None:
                    looked_at[name] = look
                else:
                    seen.add(read)
                    waiting.append(read)
        return _Expression(tuple(sorted(nodes, key=self.owner.rank.__getitem__)), stored, looked_at)

    def _is_plain(self, place: Place) -> bool:
        """Whether a node computes the same of the same, by an operator of ONNX's own."""
        node = self.owner.node(place)
        nested = place.position in self.owner.scopes[place.scope].bodies
        return node.domain in DEFAULT_DOMAINS and not nested and not operator_of(node).random

    def _places(self, value: Value) -> set[Place]:
        """The nodes that compute a constant; `_stored` becomes what they read."""
        self._stored: dict[str, TensorProto] = {}
        places: set[Place] = set()
        waiting = [value]
        while waiting:
            each = waiting.pop()
            stored, place = self.owner.stored(each), self.owner.producer(each)
            if stored is not None:
                self._stored[each.name] = stored
            elif place is not None and place not in places:
                places.add(place)
                waiting += [found for found in self.owner.reads(place) if found is not None]
        return places


def _is_large(tensor: TensorProto) -> bool:
    dims = tensor.dims
    return (dims[0] if len(dims) == 1 else math.prod(dims)) > _SMALL


class _Look(NamedTuple):
    """The part of a value that an operator sees where it reads no numbers: its type, and the sizes that are known."""

    kind: int
    dims: tuple[int | None, ...]

    def array(self, filler: int) -> Array:
        """An array of that type and shape, whose elements are nowhere. Raises Unknowable where there is none."""
        try:
            dtype = helper.tensor_dtype_to_np_dtype(self.kind)
            return np.broadcast_to(np.zeros((), dtype), [filler if size is None else size for size in self.dims])
        except (KeyError, ValueError) as error:
            raise Unknowable(f"no array has the shape {self.dims}") from error


class _Expression(NamedTuple):
    """Nodes in order, the tensors that they read, and the values of which they see the type or the sizes alone."""

    nodes: tuple[Place, ...]
    stored: dict[str, TensorProto]
    looked_at: dict[str, _Look]


def _look(node: NodeProto, position: int, value: Value, sizes: "StaticSizes") -> _Look | None:
    """The look of a value at an input that reads no numbers; None where it reads them, or nothing is known."""
    if node.op_type in _SIZES:
        dims = sizes.dims(value)
        return None if dims is None else _Look(TensorProto.FLOAT, dims)
    if node.op_type == "CastLike" and position == 1:
        kind = sizes.kind(value)
        return _Look(kind, ()) if kind else None
    return None


class StaticSizes:
    """The sizes of the values of one model that follow from its inputs, whatever it declares of values inside."""

    def __init__(self, owner: Cutter) -> None:
        self._owner = owner

    def dims(self, value: Value) -> tuple[int | None, ...] | None:
        """The sizes of a value, None for each that may vary; None where the rank may. Inside a Loop both may."""
        scope = self._owner.scopes[value.scope]
        return None if scope.key is not None or self._is_repeated(scope) else self._shapes.dims(value.name)

    def kind(self, value: Value) -> int:
        """The element type of a value, 0 where it is not known."""
        return 0 if self._owner.scopes[value.scope].key is not None else self._shapes.kind(value.name)

    def _is_repeated(self, scope: Scope) -> bool:
        while scope.parent is not None:
            holder = next(at for at, bodies in scope.parent.bodies.items() if scope.number in bodies.values())
            if operator_of(scope.parent.nodes[holder]).repeats:
                return True
            scope = scope.parent
        return False

    @cached_property
    def _shapes(self) -> InputShapes:
        bare = ModelProto()
        bare.CopyFrom(self._owner.model)
        for body in every_graph(bare.graph):
            del body.value_info[:]
        for output in bare.graph.output:
            if output.type.HasField("tensor_type"):
                output.type.tensor_type.ClearField("shape")
        return InputShapes(bare)


def _is_same(one: Array, other: Array) -> bool:
    """Whether both hold the same bits of the same type and shape."""
    if one.dtype != other.dtype or one.shape != other.shape or one.dtype.kind not in "biufV":
        return False
    return bool(np.array_equal(_bits(one), _bits(other)))


def _bits(array: Array) -> Array:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
