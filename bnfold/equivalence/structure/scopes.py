"""The index of a model: its scopes, what makes each value, what is constant; and pieces cut out as models of their own.

Everything in verification that asks about a graph asks this index. The weights stay in their file until a piece needs
them.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import chain, repeat, zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from onnx import (
    AttributeProto,
    FunctionProto,
    GraphProto,
    ModelProto,
    NodeProto,
    OperatorSetIdProto,
    SparseTensorProto,
    TensorProto,
    ValueInfoProto,
    helper,
    numpy_helper,
)

from bnfold.equivalence.operators import DEFAULT_DOMAINS, operator_of
from bnfold.graph import paused_collector
from bnfold.onnxfile import OnnxFile, Span, label, payload_index, read, shared_names

_COMPARED = 1 << 20
_LITTLE_ENDIAN: dict[int, np.dtype[Any]] = {
    TensorProto.FLOAT: np.dtype("<f4"),
    TensorProto.DOUBLE: np.dtype("<f8"),
    TensorProto.FLOAT16: np.dtype("<f2"),
    TensorProto.INT64: np.dtype("<i8"),
}
"""Types whose bytes are numbers as numpy has them."""
_MAPPED_NUMBERS = 4 << 20
"""After a look at so many numbers of a file, their pages are handed back."""


class Uncut(Exception):  # noqa: N818 - a fact about the model, not a mistake of the caller
    """There is no such piece; the message says why, without a full stop."""


class Value(NamedTuple):
    """A value by the number of the scope that makes it, and its name there."""

    scope: int
    name: str


class Place(NamedTuple):
    """A node by the number of its scope and its position there."""

    scope: int
    position: int


_VALUE, _PLACE = partial(tuple.__new__, Value), partial(tuple.__new__, Place)
"""One of either of a tuple, as `_make` makes it, in a third of the time: there are as many as a model has names."""


class Piece(NamedTuple):
    """`nodes` in an order in which they can run, the `constants` they read, and the value they are there for."""

    nodes: tuple[Place, ...]
    constants: Mapping[str, TensorProto]
    output: Value


@dataclass
class Scope:
    """One graph, nested body or function: who makes what, and which constants are stored there.

    `entering`: what callers give, overridable constants included. `key`: how a function is called, None in a graph.
    `own`: the values that belong to this scope itself; `stored`: the constants that no caller can override; `inputs`,
    `outputs`: the names that each node reads and makes, "" where one is left out; `reads`: the names that it reads, and
    what nested bodies read from outside; `owners`: the nodes that have such bodies.
    """

    number: int
    body: GraphProto | FunctionProto
    parent: "Scope | None"
    opsets: Sequence[OperatorSetIdProto]
    path: str = ""
    initializers: dict[str, TensorProto] = field(default_factory=dict)
    entering: tuple[str, ...] = ()
    leaving: tuple[str, ...] = ()
    key: tuple[str, str, str] | None = None
    bodies: dict[int, dict[str, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        number = self.number
        self.nodes = list(self.body.node)
        self.inputs: list[Sequence[str]] = [node.input[:] for node in self.nodes]
        self.outputs: list[Sequence[str]] = [node.output[:] for node in self.nodes]
        self.places = [*map(_PLACE, zip(repeat(number), range(len(self.nodes))))]
        self.producers = {name: at for at, names in enumerate(self.outputs) for name in names if name}
        self.makers = {name: self.places[at] for name, at in self.producers.items()}
        names = [*dict.fromkeys(chain(self.entering, self.producers, self.initializers))]
        self.own = dict(zip(names, map(_VALUE, zip(repeat(number), names)), strict=True))
        self.owners = [at for at, node in enumerate(self.nodes) if _has_bodies(node)]
        self.reads = [[*filter(None, names)] if "" in names else names for names in self.inputs]
        for position in self.owners:
            self.reads[position] = [*reads(self.nodes[position])]
        given = frozenset(self.entering)
        self.stored = {name: tensor for name, tensor in self.initializers.items() if name not in given}

    @cached_property
    def opset(self) -> int:
        """The version of ONNX's own operators."""
        return next((each.version for each in self.opsets if each.domain in DEFAULT_DOMAINS), 1)

    @cached_property
    def shared_names(self) -> frozenset[str]:
        """The names that several nodes have."""
        return shared_names(self.nodes)

    @cached_property
    def readers(self) -> dict[str, list[int]]:
        """By name: the positions of the nodes that read it, in nested bodies too."""
        found: dict[str, list[int]] = {}
        for position, names in enumerate(self.reads):
            for name in dict.fromkeys(names):
                found.setdefault(name, []).append(position)
        return found

    def order(self) -> Iterable[int]:
        """The positions of the nodes in an order in which they can run: that of the file, where it can be kept."""
        missing = set(self.producers)
        for made, names in zip(self.outputs, self.reads, strict=True):
            if not missing.isdisjoint(names):
                return self._sorted()
            missing.difference_update(made)
        return range(len(self.nodes))

    def _sorted(self) -> list[int]:
        """Depth first. Nodes in a circle, which no runtime takes, stay as they come."""
        found: dict[int, None] = {}
        for first in range(len(self.nodes)):
            waiting, entered = [first], set[int]()
            while waiting:
                position = waiting[-1]
                if position in found:
                    waiting.pop()
                    continue
                before = {self.producers[name] for name in self.reads[position] if name in self.producers}
                missing = sorted(before - found.keys() - entered - {position})
                entered.add(position)
                if missing:
                    waiting += missing
                else:
                    found[position] = None
                    waiting.pop()
        return list(found)


class Scopes:
    """All scopes of one model. `rank` numbers nodes in an order in which they run, nested bodies before their owner.

    `constants`: the values that no caller can influence; `constant_made`: those of them that nodes make.
    `assume_constant_initializers`: no caller overrides one.
    """

    def __init__(self, model: ModelProto, *, assume_constant_initializers: bool = False) -> None:
        self.model = model
        self.scopes: list[Scope] = []
        self.rank: dict[Place, int] = {}
        self._inputs: dict[Place, tuple[Value | None, ...]] = {}
        self._reads: dict[Place, tuple[Value | None, ...]] = {}
        graph = self.model.graph
        constant = assume_constant_initializers or self.model.ir_version < 4
        listed = set() if constant else {value.name for value in graph.input}
        self.constants: set[Value] = set()
        self.constant_made: set[Value] = set()
        self._constant_nodes: set[Place] = set()
        with paused_collector():
            self._add_graph(graph, None, self.model.opset_import, "", overridable=listed)
            self.functions = {
                (each.domain, each.name, each.overload): self._add_function(each) for each in self.model.functions
            }
            self._find_constants()

    # --- questions

    def resolve(self, scope: int, name: str) -> Value | None:
        """The value that a node in `scope` reads as `name`; None where nothing makes it."""
        home: Scope | None = self.scopes[scope]
        while home is not None:
            found = home.own.get(name)
            if found is not None:
                return found
            home = home.parent
        return None

    def node(self, place: Place) -> NodeProto:
        """The node at `place`."""
        return self.scopes[place.scope].nodes[place.position]

    def names_read(self, place: Place) -> Sequence[str]:
        """The names that the node at `place` reads by position, "" where one is left out."""
        return self.scopes[place.scope].inputs[place.position]

    def names_made(self, place: Place) -> Sequence[str]:
        """The names that the node at `place` makes by position, "" where one is left out."""
        return self.scopes[place.scope].outputs[place.position]

    def label(self, place: Place) -> str:
        """The label of the node at `place`, for people."""
        return label(self.node(place), self.scopes[place.scope].shared_names)

    def producer(self, value: Value) -> Place | None:
        """The node that makes a value; None for stored constants and for what callers give."""
        return self.scopes[value.scope].makers.get(value.name)

    def maker(self, name: str) -> NodeProto | None:
        """The node of the main graph that makes the value `name`."""
        position = self.scopes[0].producers.get(name)
        return None if position is None else self.scopes[0].nodes[position]

    def stored(self, value: Value) -> TensorProto | None:
        """The initializer that a value is, where no caller can override it."""
        return self.scopes[value.scope].stored.get(value.name)

    def default(self, value: Value) -> TensorProto | SparseTensorProto | None:
        """What an input is where its caller leaves it out; None where nobody may, or it is no input."""
        scope = self.scopes[value.scope]
        if value.name not in scope.entering:
            return None
        graph = scope.body
        sparse = graph.sparse_initializer if isinstance(graph, GraphProto) else ()
        return scope.initializers.get(value.name) or next(
            (one for one in sparse if one.values.name == value.name), None
        )

    def is_constant(self, scope: int, name: str) -> bool:
        """Whether what a node in `scope` reads as `name` is stored, or made of what is: no caller can influence it."""
        return self.resolve(scope, name) in self.constants

    def constant(self, scope: int, name: str) -> TensorProto | AttributeProto | None:
        """A small constant as it is written: an initializer, or what a Constant holds, perhaps behind Identity."""
        value, seen = self.resolve(scope, name), set[Value]()
        while value is not None and value not in seen:
            seen.add(value)
            tensor, place = self.stored(value), self.producer(value)
            if tensor is not None:
                return tensor if payload_index(tensor) is None else None
            node = None if place is None else self.node(place)
            if node is None or node.op_type not in {"Constant", "Identity"}:
                return None
            if node.op_type == "Constant":
                return _written(node)
            value = self.resolve(value.scope, node.input[0]) if node.input else None
        return None

    def flat(self, scope: int, name: str) -> NDArray[Any] | None:
        """The numbers of a small constant, flattened; None where `name` is none."""
        found = self.constant(scope, name)
        if found is None:
            return None
        if isinstance(found, TensorProto):
            return numpy_helper.to_array(found).reshape(-1)
        return np.asarray(helper.get_attribute_value(found), np.int64).reshape(-1)

    def drops(self, scope: int, node: NodeProto) -> bool:
        """Whether `node` is a Dropout that drops in every run."""
        if node.op_type != "Dropout" or node.domain not in DEFAULT_DOMAINS:
            return False
        opset = self.opset(scope)
        if opset < 7:
            return not any(attribute.i for attribute in node.attribute if attribute.name == "is_test")
        if opset < 12 or len(node.input) < 3 or not node.input[2]:
            return False
        flag = self.flat(scope, node.input[2])
        return flag is not None and bool(flag.any())

    def makes_constants(self, place: Place) -> bool:
        """Whether a node makes what no caller can influence."""
        return place in self._constant_nodes

    def rank_of(self, value: Value) -> int:
        """The rank of the node that makes the value; -1 where none does."""
        place = self.producer(value)
        return -1 if place is None else self.rank[place]

    def inputs(self, place: Place) -> tuple[Value | None, ...]:
        """The values that a node reads, by position; None where one is left out, or comes from nowhere."""
        found = self._inputs.get(place)
        if found is None:
            scope = self.scopes[place.scope]
            names, own = scope.inputs[place.position], scope.own
            found = tuple([own.get(name) if name else None for name in names])
            if scope.parent is not None and None in found:
                found = tuple([self.resolve(place.scope, name) if name else None for name in names])
            self._inputs[place] = found
        return found

    def reads(self, place: Place) -> tuple[Value | None, ...]:
        """The values that a node and its nested bodies read from outside; None for one that comes from nowhere."""
        found = self._reads.get(place)
        if found is None:
            names = self.scopes[place.scope].reads[place.position]
            found = self.inputs(place)
            if None in found or len(found) != len(names):
                found = tuple(self.resolve(place.scope, name) for name in names)
            self._reads[place] = found
        return found

    def opset(self, scope: int) -> int:
        """The version of ONNX's own operators in a scope."""
        return self.scopes[scope].opset

    # --- reading the model

    def _add_graph(
        self,
        graph: GraphProto,
        parent: Scope | None,
        opsets: Sequence[OperatorSetIdProto],
        path: str,
        *,
        overridable: set[str] | None = None,
    ) -> int:
        initializers = {tensor.name: tensor for tensor in graph.initializer}
        entering = [value.name for value in graph.input]
        if parent is None and not overridable:
            entering = [name for name in entering if name not in initializers]
        leaving = tuple(value.name for value in graph.output)
        scope = Scope(len(self.scopes), graph, parent, opsets, path, initializers, tuple(entering), leaving)
        self._add(scope)
        return scope.number

    def _add_function(self, function: FunctionProto) -> int:
        key = (function.domain, function.name, function.overload)
        path = f"{function.domain}::{function.name}"
        entering, leaving = tuple(function.input), tuple(function.output)
        scope = Scope(len(self.scopes), function, None, function.opset_import, path, {}, entering, leaving, key)
        self._add(scope)
        return scope.number

    def _add(self, scope: Scope) -> None:
        self.scopes.append(scope)
        owners = set(scope.owners)
        for position in scope.order():
            node = scope.nodes[position]
            for attribute in node.attribute if position in owners else ():
                graphs = [attribute.g] if attribute.HasField("g") else list(attribute.graphs)
                for number, graph in enumerate(graphs):
                    name = attribute.name if attribute.HasField("g") else f"{attribute.name}[{number}]"
                    path = f"{scope.path}/{label(node, scope.shared_names)}.{name}".lstrip("/")
                    scope.bodies.setdefault(position, {})[name] = self._add_graph(graph, scope, scope.opsets, path)
            self.rank[scope.places[position]] = len(self.rank)

    def _find_constants(self) -> None:
        """Values that nodes make of stored constants alone, whoever calls the model."""
        made, constant = self.constant_made, self.constants
        constant.update(scope.own[name] for scope in self.scopes for name in scope.stored)
        for place in self.rank:
            if not constant.issuperset(self.reads(place)):
                continue
            scope = self.scopes[place.scope]
            node = scope.nodes[place.position]
            if place.position in scope.bodies or node.domain not in DEFAULT_DOMAINS or operator_of(node).random:
                continue
            if self.drops(place.scope, node):
                continue
            values = [scope.own[name] for name in scope.outputs[place.position] if name]
            made.update(values)
            constant.update(values)
            if values:
                self._constant_nodes.add(place)


class Cutter(Scopes):
    """The index of a model whose weights lie in a file, and what can be cut out of it."""

    def __init__(
        self, source: OnnxFile | Path | bytes | ModelProto, *, assume_constant_initializers: bool = False
    ) -> None:
        self.file = source if isinstance(source, OnnxFile) else read(source)
        self._looked_at = 0
        super().__init__(self.file.proto, assume_constant_initializers=assume_constant_initializers)

    def with_bytes(self, tensor: TensorProto) -> TensorProto:
        """The tensor itself where it holds its bytes, else a copy that does."""
        index = payload_index(tensor)
        if index is None:
            return tensor
        whole = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        whole.raw_data = b"".join(bytes(chunk) for chunk in self.file.payloads[index].payload.chunks())
        return whole

    def raw(self, tensor: TensorProto) -> NDArray[np.uint8] | None:
        """The bytes of a tensor as they stand in the file or in it; None where they are a list of numbers."""
        if held := tensor.raw_data:
            return np.frombuffer(held, np.uint8)
        index = payload_index(tensor)
        if index is None:
            return np.frombuffer(held, np.uint8) if tensor.HasField("raw_data") else None
        payload = self.file.payloads[index].payload
        bytes_ = payload.view() if isinstance(payload, Span) else b"".join(map(bytes, payload.chunks()))
        return np.frombuffer(bytes_, np.uint8)

    def array(self, tensor: TensorProto) -> NDArray[Any]:
        """The numbers of a tensor in its own type, mapped from the file where they stand in one: read-only."""
        bytes_, kind = tensor.raw_data, _LITTLE_ENDIAN.get(tensor.data_type)
        if bytes_ and kind is not None:
            numbers, dims = np.frombuffer(bytes_, kind), tensor.dims
            return numbers if len(dims) == 1 else numbers.reshape(dims[:])
        index = payload_index(tensor)
        if index is None:
            return numpy_helper.to_array(tensor)
        payload, dtype = self.file.payloads[index].payload, helper.tensor_dtype_to_np_dtype(tensor.data_type)
        if not isinstance(payload, Span) or payload.nbytes != dtype.itemsize * math.prod(tensor.dims):
            return numpy_helper.to_array(self.with_bytes(tensor))  # several numbers in a byte
        return np.frombuffer(payload.view(), dtype.newbyteorder("<")).reshape(tuple(tensor.dims))

    def has_read(self, tensor: TensorProto, count: int) -> None:
        """Hand pages of the file back, once many numbers of it were looked at."""
        self._looked_at += count
        if self._looked_at >= _MAPPED_NUMBERS:
            self._looked_at = 0
            index = payload_index(tensor)
            payload = None if index is None else self.file.payloads[index].payload
            if isinstance(payload, Span):
                payload.origin.release()

    def cut(self, piece: Piece, inputs: Sequence[str]) -> ModelProto:
        """A model of the piece alone, its inputs and its output untyped."""
        graph = GraphProto(name="piece")
        called = False
        for place in piece.nodes:
            copied = graph.node.add()
            copied.CopyFrom(self.node(place))
            called = called or copied.domain not in DEFAULT_DOMAINS or any(a.HasField("g") for a in copied.attribute)
            self._fill(copied)
        for name, tensor in piece.constants.items():
            whole = graph.initializer.add()
            whole.CopyFrom(self.with_bytes(tensor))
            whole.name = name
        graph.input.extend(ValueInfoProto(name=name) for name in inputs)
        graph.output.append(ValueInfoProto(name=piece.output.name))
        return helper.make_model(
            graph,
            ir_version=self.model.ir_version,
            opset_imports=self.scopes[piece.output.scope].opsets,
            functions=self._functions() if called else (),
        )

    def _functions(self) -> list[FunctionProto]:
        filled = []
        for function in self.model.functions:
            copied = FunctionProto()
            copied.CopyFrom(function)
            for node in copied.node:
                self._fill(node)
            filled.append(copied)
        return filled

    def _fill(self, node: NodeProto) -> None:
        """Put the bytes of tensors into a copy of a node, at any depth."""
        for attribute in node.attribute:
            for tensor in [attribute.t] if attribute.HasField("t") else attribute.tensors:
                tensor.CopyFrom(self.with_bytes(tensor))
            for graph in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                for tensor in graph.initializer:
                    name = tensor.name
                    tensor.CopyFrom(self.with_bytes(tensor))
                    tensor.name = name
                for inner in graph.node:
                    self._fill(inner)


_GRAPHS = {AttributeProto.GRAPH, AttributeProto.GRAPHS, AttributeProto.UNDEFINED}


def _has_bodies(node: NodeProto) -> bool:
    """Whether a node holds graphs, also where the file does not say of which type an attribute is."""
    for attribute in node.attribute:
        kind = attribute.type
        if kind in _GRAPHS and (kind or attribute.HasField("g") or attribute.graphs):
            return True
    return False


def _written(node: NodeProto) -> TensorProto | AttributeProto | None:
    """The value of a Constant, where that is a small tensor or whole numbers."""
    found: TensorProto | AttributeProto | None = None
    for attribute in node.attribute:
        if attribute.name == "value" and payload_index(attribute.t) is None:
            found = attribute.t
        elif attribute.name in ("value_int", "value_ints"):
            found = attribute
    return found


def reads(node: NodeProto) -> Iterator[str]:
    """Inputs, and what nested bodies read from outside."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for graph in [attribute.g] if attribute.HasField("g") else attribute.graphs:
            inside = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
            inside |= {name for inner in graph.node for name in inner.output}
            for inner in graph.node:
                yield from (name for name in reads(inner) if name not in inside)
            yield from (value.name for value in graph.output if value.name not in inside)


def same_bytes(one: TensorProto, other: TensorProto, first: Cutter, second: Cutter) -> bool:
    """Whether two tensors, each of its own model, hold the same numbers."""
    if one.data_type != other.data_type or one.dims != other.dims:
        return False
    held, also = one.raw_data, other.raw_data
    if held and also:
        return held == also
    a, b = first.raw(one), second.raw(other)
    if a is not None and b is not None:
        return a.nbytes == b.nbytes and all(
            bool(np.array_equal(a[at : at + _COMPARED], b[at : at + _COMPARED])) for at in range(0, a.nbytes, _COMPARED)
        )
    a_whole, b_whole = first.with_bytes(one), second.with_bytes(other)
    blank_a, blank_b = TensorProto(), TensorProto()
    blank_a.CopyFrom(a_whole)
    blank_b.CopyFrom(b_whole)
    for blank in (blank_a, blank_b):
        blank.name = blank.doc_string = ""
    return blank_a == blank_b


def same_attributes(one: NodeProto, other: NodeProto, first: Cutter, second: Cutter) -> bool:
    """Whether two nodes do the same with their inputs, apart from nested bodies, which are scopes of their own."""
    if (one.op_type, one.domain or "", one.overload) != (other.op_type, other.domain or "", other.overload):
        return False
    return _same_attributes(one.attribute, other.attribute, first, second)


def same_declaration(one: FunctionProto, other: FunctionProto, first: Cutter, second: Cutter) -> bool:
    """Whether the operators of two functions mean the same: of which sets they are, and which attributes they get."""
    versions, others = (
        {("" if each.domain in DEFAULT_DOMAINS else each.domain): each.version for each in function.opset_import}
        for function in (one, other)
    )
    shared = versions.keys() & others.keys()
    return (
        all(versions[domain] == others[domain] for domain in shared)
        and set(one.attribute) == set(other.attribute)
        and _same_attributes(one.attribute_proto, other.attribute_proto, first, second)
    )


def _same_attributes(
    some: Sequence[AttributeProto], others: Sequence[AttributeProto], first: Cutter, second: Cutter
) -> bool:
    if len(some) != len(others):
        return False
    by_name = {attribute.name: attribute for attribute in others}
    for was in some:
        now = by_name.get(was.name)
        if now is None or was.type != now.type:
            return False
        if pairs := _tensors(was, now):
            if not all(same_bytes(a, b, first, second) for a, b in pairs):
                return False
        elif not (was.HasField("g") or was.graphs or was == now):
            blank = type(was)()
            blank.CopyFrom(was)
            blank.doc_string = now.doc_string
            if blank != now:
                return False
    return True


def _tensors(was: AttributeProto, now: AttributeProto) -> list[tuple[TensorProto, TensorProto]]:
    """The tensors two attributes of one type hold, in pairs. What has no partner is paired with an empty one."""

    def held(attribute: AttributeProto) -> list[TensorProto]:
        sparse = [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else list(attribute.sparse_tensors)
        dense = [attribute.t] if attribute.HasField("t") else list(attribute.tensors)
        shapes = [TensorProto(data_type=TensorProto.INT64, dims=each.dims) for each in sparse]
        return [*dense, *(part for each in sparse for part in (each.values, each.indices)), *shapes]

    return list(zip_longest(held(was), held(now), fillvalue=TensorProto()))
