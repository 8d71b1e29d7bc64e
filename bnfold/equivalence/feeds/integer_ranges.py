"""Which integers the inputs of a model may hold: rows of the tables they index, sizes and steps that are never zero.

Read from the nodes alone. An input is followed through what moves, casts, clips or shifts its values.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, TensorProto, numpy_helper

from bnfold.equivalence.structure.signature import bodies, every_node
from bnfold.graph import nodes_by_dataflow
from bnfold.onnxfile import payload_index

_MOVES = {
    "Identity",
    "Cast",
    "Reshape",
    "Unsqueeze",
    "Squeeze",
    "Flatten",
    "Transpose",
    "Expand",
    "Tile",
    "Slice",
    "Gather",
    "Split",
    "Clip",
    "Floor",
    "Ceil",
    "Round",
}
"""Operators whose output holds values of their first input, if not all of them."""
_JOINS = {"Concat": 0, "Where": 1, "Min": 0, "Max": 0, "If": 0}
"""Operators whose output holds values of several inputs: those from this one on."""
_SCALES = {"Mul", "Div", "Abs", "Neg", "Mod", "Sub", "Add", "Pow", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd"}
_NEVER_ZERO = {
    "Div": (1,),
    "Mod": (1,),
    "STFT": (1, 3),
    "Range": (2,),
    "Slice": (4,),
    "Split": (1,),
    "TopK": (1,),
    "OneHot": (1,),
    "HannWindow": (0,),
    "HammingWindow": (0,),
    "BlackmanWindow": (0,),
    "DFT": (1,),
    "MelWeightMatrix": (0, 1, 2),
    "Tile": (1,),
    "Expand": (1,),
    "ConstantOfShape": (0,),
    "CenterCropPad": (1,),
    "AffineGrid": (1,),
    "Col2Im": (1, 2),
    "Resize": (3,),
    "Upsample": (1,),
    "MaxUnpool": (2,),
    "NonMaxSuppression": (2,),
    "ReverseSequence": (1,),
    "Loop": (0,),
    "RNN": (4,),
    "GRU": (4,),
    "LSTM": (4,),
}
"""Inputs by which an operator divides or steps, or which say how much there is: a runtime may die of a zero there."""
_TABLES = {"Gather", "GatherElements", "ScatterElements"}
_FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16}
_COMPARES = {"Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual"}
_TELLING = frozenset({*_NEVER_ZERO, *_TABLES, *_COMPARES, "GatherND", "OneHot"})
"""Operators that say something of what they read."""


class IntegerRange(NamedTuple):
    """`least` is the smallest value, `limit` one more than the largest, None where nothing says it.

    `landmarks`: what the model compares the input with, and their neighbours.
    """

    least: int = 0
    limit: int | None = None
    landmarks: tuple[int, ...] = ()


@dataclass
class _Claims:
    """The demands of one input's readers: half-open intervals of values, those that the input itself meets first."""

    intervals: list[tuple[int, int, int]] = field(default_factory=list)
    positive: bool = False
    landmarks: list[int] = field(default_factory=list)

    def range(self) -> IntegerRange:
        least, limit = 0, None
        for _, low, high in sorted(self.intervals):
            if limit is None:
                least, limit = low, high
            elif max(least, low) < min(limit, high):
                least, limit = max(least, low), min(limit, high)
        if self.positive:
            least = max(least, 1)
            limit = None if limit is None else max(limit, least + 1)
        marks = (mark + step for mark in self.landmarks for step in (0, -1, 1))
        return IntegerRange(least, limit, tuple(dict.fromkeys(mark for mark in marks if mark >= least)))


class _Origin(NamedTuple):
    """The way of a value from an input: what was added, None where that is not known.

    `whole`: the input is an integer, or was cast to one.
    """

    shift: float | None
    whole: bool


class _Node(NamedTuple):
    """A node under the names of the main graph."""

    op_type: str
    inputs: list[str]
    outputs: list[str]
    attribute: Sequence[AttributeProto]


_Origins = dict[str, dict[str, _Origin]]
"""Value -> input of the model -> how it came from there."""


def integer_ranges(model: ModelProto) -> dict[str, IntegerRange]:
    """The range of each input about which a reader says something; float inputs count where they are cast."""
    walked = itertools.chain(every_node(model.graph), *map(every_node, model.functions))
    if not any(node.op_type in _TELLING for node in walked):
        return {}
    walk = _Walk(model)
    walk.graph(model.graph, {})
    return {name: claims.range() for name, claims in walk.claims.items()}


class _Walk:
    """One walk over all nodes: functions are entered where they are called, bodies where they stand."""

    def __init__(self, model: ModelProto) -> None:
        self.claims: dict[str, _Claims] = {}
        self.functions = {(each.domain, each.name): each for each in model.functions}
        self.origins: _Origins = {
            value.name: {value.name: _Origin(0.0, value.type.tensor_type.elem_type not in _FLOATS)}
            for value in model.graph.input
        }
        self.sizes: dict[str, tuple[int, ...]] = {}
        self.constants: dict[str, float] = {}
        self._calls = 0

    def graph(
        self, body: GraphProto | FunctionProto, names: Mapping[str, str], prefix: str = "", depth: int = 0
    ) -> None:
        """`names`: what a function calls its inputs and outputs -> what its caller does; others get the `prefix`."""

        def name_of(value: str) -> str:
            return names.get(value, prefix + value) if value else ""

        for tensor in getattr(body, "initializer", ()):
            self._constant(name_of(tensor.name), tensor)
            self.origins.pop(name_of(tensor.name), None)
        for each in nodes_by_dataflow(body):
            node = _Node(each.op_type, list(map(name_of, each.input)), list(map(name_of, each.output)), each.attribute)
            called = self.functions.get((each.domain, each.op_type))
            if called is not None:
                self._call(called, node, depth)
                continue
            self._claim(node)
            for inside in bodies(each):
                self.graph(inside, names, prefix, depth)
            self._follow(node)

    def _call(self, called: FunctionProto, node: _Node, depth: int) -> None:
        if depth >= _DEEPEST:
            return
        self._calls += 1
        inner = dict(zip(called.input, node.inputs, strict=False))
        inner |= dict(zip(called.output, node.outputs, strict=False))
        self.graph(called, inner, f"{self._calls}/", depth + 1)

    def _constant(self, name: str, tensor: TensorProto) -> None:
        self.sizes[name] = tuple(tensor.dims)
        small = payload_index(tensor) is None and tensor.data_type != TensorProto.STRING
        if small and math.prod(tensor.dims) == 1:
            self.constants[name] = float(numpy_helper.to_array(tensor).reshape(-1)[0])

    def _claim(self, node: _Node) -> None:
        """The demand of this node on the inputs that reach it."""
        first, second = (*node.inputs, "", "")[:2]
        for index in _NEVER_ZERO.get(node.op_type, ()):
            for name, _ in self._reaching(node.inputs[index] if index < len(node.inputs) else ""):
                self._of(name).positive = True
        if node.op_type in _TABLES:
            axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
            dims = self.sizes.get(first, ())
            if -len(dims) <= axis < len(dims):
                self._within(second, dims[axis])
        elif node.op_type == "GatherND":
            self._within(second, min(self.sizes.get(first, (0,)), default=0))
        elif node.op_type == "OneHot":
            self._within(first, int(self.constants.get(second, 0)))
        elif node.op_type in _COMPARES:
            self._mark(first, self.constants.get(second))
            self._mark(second, self.constants.get(first))

    def _within(self, value: str, size: int) -> None:
        for name, shift in self._reaching(value):
            if shift is not None and size > 0:
                self._of(name).intervals.append((abs(int(shift)), -int(shift), size - int(shift)))

    def _mark(self, value: str, bound: float | None) -> None:
        if bound is not None and math.isfinite(bound):
            for name, shift in self._reaching(value):
                if shift is not None:
                    self._of(name).landmarks.append(int(bound - shift))

    def _reaching(self, value: str) -> list[tuple[str, float | None]]:
        return [(name, origin.shift) for name, origin in self.origins.get(value, {}).items() if origin.whole]

    def _of(self, name: str) -> _Claims:
        return self.claims.setdefault(name, _Claims())

    def _follow(self, node: _Node) -> None:
        """Where the values of the inputs go."""
        found: dict[str, _Origin] = {}
        if node.op_type == "Constant":
            self._read_constant(node)
        elif node.op_type in {"Add", "Sub"} and len(node.inputs) == 2:
            found = self._shifted(node)
        elif node.op_type in _SCALES:
            for value in node.inputs:
                found |= {name: origin._replace(shift=None) for name, origin in self.origins.get(value, {}).items()}
        elif node.op_type in _MOVES and node.inputs:
            found = self.origins.get(node.inputs[0], {})
            self._pass_constant(node)
            if node.op_type == "Cast" and _casts_to_integer(node):
                found = {name: origin._replace(whole=True) for name, origin in found.items()}
        elif node.op_type in _JOINS:
            for value in node.inputs[_JOINS[node.op_type] :]:
                found = found | self.origins.get(value, {})
        if found:
            self.origins.update((name, found) for name in node.outputs if name)

    def _read_constant(self, node: _Node) -> None:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                self._constant(node.outputs[0], attribute.t)
            elif attribute.name in {"value_int", "value_float"}:
                self.constants[node.outputs[0]] = attribute.i if attribute.name == "value_int" else attribute.f

    def _pass_constant(self, node: _Node) -> None:
        if node.op_type in {"Identity", "Cast", "Reshape", "Unsqueeze", "Squeeze"} and node.inputs[0] in self.constants:
            self.constants[node.outputs[0]] = self.constants[node.inputs[0]]
        if node.op_type in {"Identity", "Cast"} and node.inputs[0] in self.sizes:
            self.sizes[node.outputs[0]] = self.sizes[node.inputs[0]]

    def _shifted(self, node: _Node) -> dict[str, _Origin]:
        found: dict[str, _Origin] = {}
        for value, other, sign in _terms(node):
            by = self.constants.get(other)
            for name, origin in self.origins.get(value, {}).items():
                shift = None if by is None or origin.shift is None else origin.shift + sign * by
                found[name] = origin._replace(shift=shift)
        return found


def _terms(node: _Node) -> list[tuple[str, str, int]]:
    """(term, the other one, the sign of the other); a term that is subtracted is not followed."""
    one, other = node.inputs
    return [(one, other, -1)] if node.op_type == "Sub" else [(one, other, 1), (other, one, 1)]


def _casts_to_integer(node: _Node) -> bool:
    target = next((attribute.i for attribute in node.attribute if attribute.name == "to"), 0)
    return target in {TensorProto.INT64, TensorProto.INT32, TensorProto.UINT8, TensorProto.INT8, TensorProto.INT16}


_DEEPEST = 8
"""Calls of functions inside functions that are followed."""
