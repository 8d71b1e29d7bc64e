"""`Graph`: one scope of a model, as questions and as the one door for edits.

A scope is the main graph, a body of If, Loop or Scan, or the body of a model-local function. Names resolve as in ONNX:
a nested body sees the values of the scopes around it, so a use inside a nested body is a use.
"""

from bisect import bisect_left
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from sys import intern
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto, TensorProto, TypeProto, helper

from bnfold.decisions import Reason, Refused
from bnfold.graph.attributes import DEFAULT_DOMAINS
from bnfold.graph.constants import PartlyKnown, settle
from bnfold.graph.dataflow import captures, in_dataflow_order
from bnfold.graph.tensor import FLOATS, Tensor, TensorPayload
from bnfold.onnxfile import label, payload_index, set_payload, shared_among

if TYPE_CHECKING:
    from bnfold.graph.model import Model

_ELEMENT_TYPES = {dtype: helper.np_dtype_to_tensor_dtype(dtype) for dtype in FLOATS}
# What a TensorProto holds beside its name and documentation.
_CONTENTS: tuple[Any, ...] = (
    *("dims", "data_type", "segment", "external_data", "data_location", "raw_data"),
    *("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data"),
)
# Operators with a weight at input 1.
_WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
# The kind of edit that stores what was computed; its node is the name of the value.
STORED = "store"
_LOOPS = frozenset({"Loop", "SequenceMap"})
# The frequent operators of the standard without a body: a look at every attribute costs as much as a third of indexing.
_WITHOUT_BODIES = frozenset(
    {"Add", "AveragePool", "BatchNormalization", "Clip", "Concat", "Constant", "Conv", "Gemm", "GlobalAveragePool"}
    | {"HardSigmoid", "HardSwish", "LeakyRelu", "MatMul", "MaxPool", "Mul", "Relu", "Reshape", "Sigmoid", "Slice"}
    | {"Transpose", "Unsqueeze"}
)
_TYPE_READERS = frozenset({"Shape", "Size", "CastLike"})
# Computed tensors of at least this many bytes are streamed into the output; smaller ones stand in the structure.
_STREAMED_BYTES = 4096
_CONSTANTS_OF_ANY_TYPE = 9
"""The operator set version from which on a Constant node may hold any type."""


class Use(NamedTuple):
    """Input `position` of `node`, which stands in `graph`."""

    graph: "Graph"
    node: NodeProto
    position: int


class PlainConstant(NamedTuple):
    """A small float32 initializer: its shape, and its bytes, which are little-endian and row-major."""

    shape: tuple[int, ...]
    raw: bytes


class Graph:
    """A thin index over the nodes of one scope; the protobuf stays the truth.

    A pass asks what it needs to know, and edits through the methods of the door, which keep the index true:

    >>> from bnfold.graph import Model
    >>> from bnfold.onnxfile import read
    >>> graph = Model(read("in.onnx")).main
    >>> conv, norm = graph.nodes()[:2]
    >>> conv.op_type, norm.op_type, graph.producer(norm.input[0]) is conv
    ('Conv', 'BatchNormalization', True)
    >>> [use.node.op_type for use in graph.consumers(norm.output[0])], graph.is_output(norm.output[0])
    (['Relu'], False)
    >>> graph.constant(conv.input[1]), graph.shape(norm.output[0])
    (Tensor(float32, [16, 1, 3, 3]), ('N', 16, 8, 8))
    >>> graph.bypass(norm, toward_producer=False)
    >>> graph.model.modified, [node.op_type for node in graph.nodes()[:2]]
    (True, ['Conv', 'Relu'])

    Questions: `nodes`, `producer`, `consumers`, `constant`, `shape`, `dtype`, `is_output`, `is_input`, `resolve`. The
    door: `set_input`, `set_attribute`, `set_constant`, `add_constant`, `insert`, `remove`, `bypass`, `absorb`.
    """

    def __init__(self, model: "Model", body: GraphProto | FunctionProto, parent: "Graph | None", scope: str) -> None:
        self.model = model
        self.body = body
        self.parent = parent
        self.scope = scope
        # It imports the operator sets that count here, in bodies nested in it too; None: the model does.
        self.function: FunctionProto | None
        self.function = body if isinstance(body, FunctionProto) else None if parent is None else parent.function
        self._original = list(body.node)
        self._nodes: dict[int, NodeProto] = dict(zip(map(id, self._original), self._original, strict=True))
        self._before: dict[int, list[NodeProto]] = {}
        self._after: dict[int, list[NodeProto]] = {}
        self._walk = self._original
        # By the id of a node, for protobuf makes every text anew each time it is asked.
        self._op_types: dict[int, str] = {number: intern(node.op_type) for number, node in self._nodes.items()}
        self._read: dict[int, list[str]] = {number: node.input[:] for number, node in self._nodes.items()}
        self._made: dict[int, list[str]] = {number: node.output[:] for number, node in self._nodes.items()}
        self._names: dict[int, str] = {number: node.name for number, node in self._nodes.items()}
        self.shared_names = shared_among(self._names.values())
        self._producers: dict[str, NodeProto] = {}
        self._uses: dict[str, list[Use]] = {}
        self._constants: dict[str, Tensor | None] = {}
        self._partly: dict[str, PartlyKnown] = {}
        self._disputes: dict[str, str] = {}  # by value: what the evaluators do not agree on
        self._suspects: list[str] = []
        if isinstance(body, FunctionProto):
            self._inputs = list(body.input)
            self._outputs = set(body.output)
            self._initializers: dict[str, TensorProto] = {}
            self._sparse: set[str] = set()
        else:
            self._inputs = [value.name for value in body.input]
            self._outputs = {value.name for value in body.output}
            self._initializers = {tensor.name: tensor for tensor in body.initializer}
            self._sparse = {tensor.values.name for tensor in body.sparse_initializer}
        self._input_set = set(self._inputs)
        self._defined = self._input_set | self._initializers.keys() | self._sparse
        for node, made in zip(self._original, self._made.values(), strict=True):
            for output in made:
                self._producers[output] = node
        self._producers.pop("", None)  # an output that is left out is no value that an absent input could read
        self._defined.update(self._producers)
        self.opset = model.opset(self.function)

    # ------------------------------------------------------------------ questions

    def nodes(self) -> list[NodeProto]:
        """The nodes of this scope in order, those removed left out."""
        return self._those_left(self._original)

    def by_dataflow(self) -> list[NodeProto]:
        """The nodes of this scope in the order of the data, which no order in the file changes; to decide in."""
        return self._those_left(self._walk)

    def nodes_of(self, op_types: Container[str]) -> list[NodeProto]:
        """Those of `nodes` whose operator has one of these names, in any domain; a quick look at thousands of them."""
        own = self._op_types
        return [node for node in self.nodes() if own[id(node)] in op_types]

    def by_dataflow_of(self, op_types: Container[str]) -> list[NodeProto]:
        """Those of `by_dataflow` whose operator has one of these names, in any domain."""
        own = self._op_types
        return [node for node in self.by_dataflow() if own[id(node)] in op_types]

    def _those_left(self, original: Sequence[NodeProto]) -> list[NodeProto]:
        """What is left of the `original` nodes, and what was inserted beside them."""
        if not (self._before or self._after):
            kept = self._nodes
            return [node for node in original if id(node) in kept] if len(kept) < len(original) else list(original)
        ordered: list[NodeProto] = []
        for node in original:
            self._collect(node, ordered)
        return ordered

    def defines(self, value: str) -> bool:
        """Whether `value` is a node output, an input or an initializer of this very scope."""
        return value in self._defined

    def read_by(self, node: NodeProto) -> Sequence[str]:
        """The inputs of `node`. Of those that stand in this scope it is quicker to ask here than there."""
        found = self._read.get(id(node))
        return node.input[:] if found is None else found

    def is_named(self, node: NodeProto) -> bool:
        """Whether `node`, which stands in this scope, has a name."""
        return bool(self._names[id(node)])

    def made_by(self, node: NodeProto) -> Sequence[str]:
        """The outputs of `node`. Of those that stand in this scope it is quicker to ask here than there."""
        found = self._made.get(id(node))
        return node.output[:] if found is None else found

    def resolve(self, value: str) -> "Graph | None":
        """The scope that defines `value` as seen from here, or None."""
        graph: Graph | None = self
        while graph is not None and value not in graph._defined:
            graph = graph.parent
        return graph

    def producer(self, value: str) -> NodeProto | None:
        """The node that makes `value`, here or in a scope around; None for inputs, initializers and unknown names."""
        found = self._producers.get(value)
        if found is not None:
            return found
        home = self.resolve(value)
        return None if home is None else home._producers.get(value)

    def consumers(self, value: str) -> list[Use]:
        """Every node input that reads `value`, nested bodies included."""
        home = self.resolve(value)
        return [] if home is None else home._uses.get(value, [])

    def readers(self, value: str) -> list[Use]:
        """The consumers that see the numbers of `value`: not Shape and Size, nor the type operand of CastLike."""
        uses = self.consumers(value)
        if len(uses) == 1 and uses[0].graph._op_types[id(uses[0].node)] not in _TYPE_READERS:
            return uses
        return [use for use in uses if not _looks_only_at_type(use)]

    def is_output(self, value: str) -> bool:
        """Whether `value` is an output of the scope that defines it, or leaves a body nested in that scope."""
        home = self.resolve(value)
        return home is not None and value in home._outputs

    def is_input(self, value: str) -> bool:
        """Whether `value` is an input of the scope that defines it, with a default or without."""
        home = self.resolve(value)
        return home is not None and value in home._input_set

    def is_overridable(self, value: str) -> bool:
        """Whether `value` is an initializer that a caller may replace: also an input, at IR version 4 or later."""
        home = self.resolve(value)
        return home is not None and value in home._initializers and home._overridable(value)

    def _overridable(self, value: str) -> bool:
        return value in self._input_set and not self.model.inputs_are_constants

    def constant(self, value: str) -> Tensor | None:
        """The value as a `Tensor` if it is the same in every run and no caller can replace it, else None."""
        home = self.resolve(value)
        if home is None:
            return None
        try:
            return home._constants[value]
        except KeyError:
            return settle(home, value)

    def dispute(self, value: str) -> str | None:
        """The disagreement of the evaluators about `value`, where that is computed from constants alone; else None.

        Nothing may be made of such a value: one of them is wrong.
        """
        home = self.resolve(value)
        if home is None or self.constant(value) is not None:
            return None
        return home._disputes.get(value)

    def stored_bytes(self, value: str) -> int:
        """The number of bytes of the file that constant `value` is computed from; each tensor counts once."""
        waiting, seen, total = [(self, value)], set[tuple[int, str]](), 0
        while waiting:
            graph, name = waiting.pop()
            home = graph.resolve(name)
            if home is None or (id(home), name) in seen:
                continue
            seen.add((id(home), name))
            node = home._producers.get(name)
            if node is None or node.op_type == "Constant":
                tensor = home.constant(name)
                total += 0 if tensor is None else tensor.nbytes
            else:
                waiting += [(home, operand) for operand in node.input if operand]
        return total

    def require_undisputed(self, value: str) -> None:
        """Raise `Refused` where `value` is computed from constants alone and the evaluators do not agree on it."""
        against = self.dispute(value)
        if against is not None:
            raise Refused(Reason.CONSTANT_DISPUTED, against)

    def _initializer(self, value: str) -> Tensor | None:
        return None if self._overridable(value) else self.tensor_of(self._initializers[value])

    def joined_vectors(self, values: Sequence[str]) -> tuple[NDArray[np.float64], list[int]] | None:
        """The contents of many small float32 vectors, one behind the other in float64, and the size of each.

        For thousands of parameters this is many times faster than `constant`. None unless every one is a plain
        initializer of this scope that no caller can replace. What an edit has computed is read as it was stored.
        """
        parts: list[bytes] = []
        if not self._input_set.isdisjoint(values):
            return None
        for value in values:
            proto = self._initializers.get(value)
            if proto is None or proto.data_type != TensorProto.FLOAT or len(proto.dims) != 1:
                return None
            parts.append(proto.raw_data)  # of the very size its dim says, unless it is empty or stored otherwise
        if not all(parts):
            return None
        sizes = [len(part) // 4 for part in parts]
        return np.frombuffer(b"".join(parts), "<f4").astype(np.float64), sizes

    def plain_constant(self, value: str) -> PlainConstant | None:
        """`value` as it is stored: a small float32 initializer of this scope with one reader, as it was read.

        None for anything else: what a caller can replace or see, what an edit has computed, what streams from a file.
        """
        proto = self._initializers.get(value)
        if proto is None or value in self._constants or value in self._input_set or value in self._outputs:
            return None
        if proto.data_type != TensorProto.FLOAT or len(self._uses.get(value, ())) != 1:
            return None
        raw = proto.raw_data
        shape = tuple(proto.dims[:])
        return PlainConstant(shape, raw) if raw and shape else None

    def sketch(self, constants: Mapping[str, Tensor]) -> "Graph":
        """An empty scope, not part of the model, that knows `constants` by name: to ask about a node nobody has."""
        scope = Graph(self.model, GraphProto(), None, self.scope)
        scope._constants.update(constants)
        scope._defined.update(constants)
        return scope

    def tensor_of(self, proto: TensorProto) -> Tensor:
        """The tensor of an initializer or an attribute of this model."""
        index = payload_index(proto)
        return Tensor.from_proto(proto, None if index is None else self.model.file.payloads[index].payload)

    def shape(self, value: str) -> tuple[int | str | None, ...] | None:
        """The shape of `value`: a number, a symbol or None for each dim; None where even the rank is unknown."""
        type_proto = self._type(value)
        if type_proto is None:
            constant = self.constant(value)
            return None if constant is None else constant.shape
        if not type_proto.tensor_type.HasField("shape"):
            return None
        return tuple(
            dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else (dim.dim_param or None)
            for dim in type_proto.tensor_type.shape.dim
        )

    def value_type(self, value: str) -> TypeProto | None:
        """The type of `value`, None where nothing tells."""
        found = self._type(value)
        if found is not None:
            return found
        constant = self.constant(value)
        if constant is None or constant.dtype == np.dtype(object):
            return None
        return helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(constant.dtype), constant.shape)

    def partly(self, value: str) -> PartlyKnown | None:
        """Integers of rank 1 of which some are known, where `value` is such; None also where all are."""
        home = self.resolve(value)
        if home is None or self.constant(value) is not None:
            return None
        found = home._partly.get(value)
        return found if found is not None and found.values.ndim == 1 else None

    def has_proved_sizes(self, value: str) -> bool:
        """Whether what is known of the shape of `value` follows from the inputs of the model and its operators.

        Inside a Loop nothing does: what it hands from one round to the next may change its shape.
        """
        home = self.resolve(value)
        return home is not None and not home._is_looped() and self.model.has_proved_sizes(home, value)

    def _is_looped(self) -> bool:
        graph: Graph | None = self
        while graph is not None:
            holder = self.model.holders.get(id(graph))
            if holder is not None and holder.op_type in _LOOPS:
                return True
            graph = graph.parent
        return False

    def rank(self, value: str) -> int | None:
        """The number of dims of `value`, or None where it is unknown."""
        shape = self.shape(value)
        return None if shape is None else len(shape)

    def dtype(self, value: str) -> np.dtype | None:
        """The element type of `value` as a numpy dtype, or None where it is unknown."""
        type_proto = self._type(value)
        if type_proto is None:
            constant = self.constant(value)
            return None if constant is None else constant.dtype
        element = type_proto.tensor_type.elem_type
        known = element in TensorProto.DataType.values() and element
        return np.dtype(helper.tensor_dtype_to_np_dtype(element)) if known else None

    def _type(self, value: str) -> TypeProto | None:
        home = self.resolve(value)
        return None if home is None else self.model.value_type(home, value)

    def names(self) -> set[str]:
        """Every name in use in this scope, of values and of nodes, and those that the file describes the type of."""
        described = (value.name for value in self.body.value_info)
        return self._defined.union(self._outputs, (self._names[number] for number in self._nodes), described)

    def label(self, node: NodeProto) -> str:
        """The label of `node` for people: its name, or its first output where it has none of its own."""
        own = self._names.get(id(node))
        return own if own and own not in self.shared_names else label(node, self.shared_names)

    # ------------------------------------------------------------------ the door

    def known_as(self, node: NodeProto) -> str:
        """The label of `node` in the input: a node that an edit made stands for the operator it came from."""
        return self.model.made_from.get(id(node)) or self.label(node)

    def known_value(self, value: str) -> str:
        """The name of `value` in the input: a value that an edit made has the name of the one it came from."""
        return self.model.known_value(value)

    def set_constant(self, node: NodeProto, index: int, tensor: Tensor, suffix: str = "folded") -> None:
        """Let input `index` of `node` read `tensor`.

        The constant it reads now is replaced under its own name if nothing else reads it; otherwise, and where the
        input is absent, a new constant gets a fresh name.
        """
        self.model.about_to_edit()
        graph = self.model.owner(node)
        graph._give(node, graph.label(node), index, tensor, suffix)
        graph._forget_computed(node)

    def set_input(self, node: NodeProto, index: int, value: str) -> None:
        """Let input `index` of `node` read `value`; inputs up to it that are absent become ""."""
        self.model.about_to_edit()
        graph = self.model.owner(node)
        graph._connect(node, graph.label(node), index, value)
        graph._forget_computed(node)

    def add_constant(self, tensor: Tensor, name: str, before: NodeProto) -> str:
        """Add `tensor` under a fresh name made from `name`, for a reader that stands at `before`; its value name."""
        self.model.about_to_edit()
        graph = self.model.owner(before)
        self.model.record("add-constant", graph, name)
        return graph._new_constant(self.model.fresh_name(name), tensor, before)

    def bypass(self, node: NodeProto, data: int = 0, *, toward_producer: bool) -> None:
        """Take `node` out: who read its first output reads the value of its input `data`.

        `toward_producer` renames that value to the output's name, which leaves the readers untouched (the node must be
        its only reader); otherwise the readers are renamed. A graph output keeps its name, so one that `node` makes
        needs `toward_producer`. Raises `ValueError` where that is impossible: see `can_bypass`.
        """
        graph = self.model.owner(node)
        value, output = graph._read[id(node)][data], graph._made[id(node)][0]
        if not graph._can_bypass(value, output, toward_producer=toward_producer):
            raise ValueError(f"{graph.label(node)} cannot be bypassed")
        self.model.about_to_edit()
        maker = graph._producers.get(value)
        graph._take_out(node)
        if toward_producer and maker is not None:
            graph._make_instead(maker, value, output)
        else:
            for use in list(graph._uses.get(output, ())):
                self.set_input(use.node, use.position, value)
            self.model.forget_value_info(graph, output)

    def absorb(self, node: NodeProto, constants: Iterable[tuple[int, Tensor]]) -> str:
        """Let the node that makes input 0 of `node` read `constants`, by input index, and make what `node` makes.

        In one step what `set_constant` of each and `bypass` toward the producer do; raises as that. Returns the label
        that the absorbing node had.
        """
        graph = self.model.owner(node)
        value, output = graph._read[id(node)][0], graph._made[id(node)][0]
        if not graph._can_bypass(value, output, toward_producer=True):
            raise ValueError(f"{graph.label(node)} cannot be absorbed")
        self.model.about_to_edit()
        maker = graph._producers[value]
        label = graph.label(maker)
        for index, tensor in constants:
            graph._give(maker, label, index, tensor, "folded")
        graph._forget_computed(maker)
        graph._take_out(node)
        graph._make_instead(maker, value, output)
        return label

    def is_hidden(self, value: str) -> bool:
        """Whether a body nested in this scope, at any depth, has something of its own that is called `value`."""
        bodies = self.model.bodies(self)
        return bool(bodies) and any(body.defines(value) or body.is_hidden(value) for body in bodies)

    def can_bypass(self, node: NodeProto, data: int = 0, *, toward_producer: bool) -> bool:
        """Whether `bypass` is possible without a change to any name that can be seen from outside."""
        graph = self.model.owner(node)
        value, output = graph._read[id(node)][data], graph._made[id(node)][0]
        return graph._can_bypass(value, output, toward_producer=toward_producer)

    def _can_bypass(self, value: str, output: str, *, toward_producer: bool) -> bool:
        if not toward_producer:
            return not self.is_output(output) and not self.is_hidden(value)
        if value not in self._producers or value in self._outputs or self.is_hidden(output):
            return False
        return len(self.readers(value)) == 1

    def set_attribute(self, node: NodeProto, name: str, value: Any) -> None:
        """Give attribute `name` of `node` the value `value`."""
        self.model.about_to_edit()
        for candidate in node.attribute:
            if candidate.name == name:
                candidate.CopyFrom(helper.make_attribute(name, value))
                break
        else:
            node.attribute.append(helper.make_attribute(name, value))
        self.model.record("set-attribute", self.model.owner(node), self.label(node), node)

    def drop_outputs(self, node: NodeProto, keep: int = 1) -> None:
        """Take away the outputs of `node` after the first `keep`. Nothing may read them."""
        self.model.about_to_edit()
        graph = self.model.owner(node)
        for output in node.output[keep:]:
            if output:
                assert not graph.consumers(output), output
                assert not graph.is_output(output), output
                del graph._producers[output]
                self.model.forget_value_info(graph, output)
        del node.output[keep:], graph._made[id(node)][keep:]
        self.model.record("drop-outputs", graph, graph.label(node))

    def rename_output(self, node: NodeProto, suffix: str) -> None:
        """Call the first output of `node` by a fresh name: what is computed there is another value now.

        Its readers read it by the new name. It must be no output of the graph.
        """
        graph, output = self.model.owner(node), node.output[0]
        assert not graph.is_output(output), output
        self.model.about_to_edit()
        fresh = self.model.fresh_name(f"{output}_{suffix}")
        self.model.alias(fresh, output)
        node.output[0] = graph._made[id(node)][0] = fresh
        graph._define(fresh, node)
        for use in list(graph.consumers(output)):
            self.set_input(use.node, use.position, fresh)
        graph._undefine(output)
        self.model.forget_value_info(graph, output)
        self.model.record("rename-output", graph, graph.label(node))

    def add_behind(self, node: NodeProto, constant: Tensor) -> None:
        """Put an Add of `constant` behind the first output of `node`; its readers read the sum, by the old name."""
        graph = self.model.owner(node)
        output = node.output[0]
        self.model.value_type(graph, output)  # while it is what `node` makes
        self.model.about_to_edit()
        inner = self.model.fresh_name(f"{output}_unshifted")
        self.model.alias(inner, output)
        node.output[0] = graph._made[id(node)][0] = inner
        graph._undefine(output)
        graph._define(inner, node)
        name = self.model.fresh_name(f"{graph.label(node)}_shift")
        add = helper.make_node("Add", [inner, ""], [output], name=name)
        self.model.made_from[id(add)] = graph.known_as(node)
        graph.insert(add, after=node)
        graph.set_input(add, 1, graph.add_constant(constant, f"{name}_constant", before=add))

    def replace(self, run: Sequence[NodeProto], data: str, operators: Sequence[tuple[str, Tensor]]) -> list[NodeProto]:
        """Put constant operators in the place of `run`, a chain of nodes of one scope that computes on value `data`.

        Each of `operators` is an operator of two operands and its constant right one. The new nodes make the value
        that the last node of the run made; they are returned. Who looks only at the shape or type of a value that goes
        looks at `data`, which has the same.
        """
        self.model.about_to_edit()
        graph = self.model.owner(run[0])
        output, known_as = run[-1].output[0], graph.known_as(run[0])
        for node in run[:-1]:
            for use in list(graph.consumers(node.output[0])):
                if _looks_only_at_type(use):
                    self.set_input(use.node, use.position, data)
        for node in run:
            graph.remove(node)
        made: list[NodeProto] = []
        for position, (op_type, constant) in enumerate(operators):
            last = position == len(operators) - 1
            name = self.model.fresh_name(f"{graph.label(run[0])}_{op_type.lower()}")
            result = output if last else self.model.fresh_name(f"{output}_{op_type.lower()}")
            self.model.alias(result, output)
            node = helper.make_node(op_type, [data, ""], [result], name=name)
            self.model.made_from[id(node)] = known_as
            graph.insert(node, before=run[0])
            graph.set_input(node, 1, graph.add_constant(constant, f"{name}_constant", before=node))
            made.append(node)
            data = result
        for node in run[:-1]:
            self.model.forget_value_info(graph, node.output[0])
        return made

    def store(self, node: NodeProto, values: Mapping[str, Tensor]) -> None:
        """Take `node` out, which computes constants; `values` are stored under the names of its outputs.

        Nothing may read an output that is not among them. In an initializer where the scope has such, else in a
        Constant node; large ones lie where the largest tensor lies that they are computed from.
        """
        self.model.about_to_edit()
        graph = self.model.owner(node)
        large = [value for value, tensor in values.items() if tensor.nbytes >= _STREAMED_BYTES]
        beside = {value: graph._largest_payload(value) for value in large}
        for output in node.output:
            if output and output not in values:
                self.model.forget_value_info(graph, output)
        graph.remove(node)
        for value, tensor in values.items():
            if (body := graph._body_with_constants) is None:
                graph._new_constant_node(value, tensor, before=node, label=node.name)
            else:
                graph._new_initializer(body, value, tensor, beside.get(value))
            self.model.record(STORED, graph, value)

    def can_store(self, tensor: Tensor) -> bool:
        """Whether `store` may put `tensor` into this scope: a Constant node holds only floats below operator set 9."""
        in_initializer = self._body_with_constants is not None
        return in_initializer or tensor.dtype.kind == "f" or self.opset >= _CONSTANTS_OF_ANY_TYPE

    @property
    def _body_with_constants(self) -> GraphProto | None:
        """The body whose initializers are constants; None in a function, and where initializers have to be inputs."""
        return None if isinstance(self.body, FunctionProto) or self.model.lists_initializers else self.body

    def _largest_payload(self, value: str) -> int | None:
        """The payload of the largest tensor that constant `value` is computed from; None where all are small.

        Also where no payload lies in a file of its own, so that what is computed lies in the model in any case.
        """
        if not self.model.has_data_files:
            return None
        waiting, seen = [(self, value)], set[tuple[int, str]]()
        largest: tuple[int, int] | None = None
        while waiting:
            graph, name = waiting.pop()
            home = graph.resolve(name)
            if home is None or (id(home), name) in seen:
                continue
            seen.add((id(home), name))
            proto = home._initializers.get(name)
            index = None if proto is None else payload_index(proto)
            if index is not None:
                largest = max(largest or (0, index), (self.model.file.payloads[index].payload.nbytes, index))
            node = home._producers.get(name)
            if node is not None:
                waiting += [(home, operand) for operand in node.input if operand]
        return None if largest is None else largest[1]

    def insert(self, node: NodeProto, *, before: NodeProto | None = None, after: NodeProto | None = None) -> None:
        """Put a new `node` right before or right after another one of the model, in that one's scope."""
        self.model.about_to_edit()
        anchor = before if before is not None else after
        assert anchor is not None
        graph = self.model.owner(anchor)
        graph._nodes[id(node)] = node
        graph._op_types[id(node)], graph._names[id(node)] = node.op_type, node.name
        graph._read[id(node)], graph._made[id(node)] = node.input[:], node.output[:]
        (graph._before if before is not None else graph._after).setdefault(id(anchor), []).append(node)
        self.model.adopt(graph, node)
        for output in node.output:
            graph._define(output, node)
        for index, value in enumerate(node.input):
            if value:
                graph._add_use(value, Use(graph, node, index))
        self.model.record("insert", graph, graph.label(node))

    def remove(self, node: NodeProto) -> None:
        """Take `node` out. Constants that only it read go with it when the edits are finished."""
        self.model.about_to_edit()
        self.model.owner(node)._take_out(node)

    def finish(self, gone: AbstractSet[str]) -> None:
        """Write the order of nodes after the edits into the protobuf, and forget the types of the values `gone`."""
        if self._before or self._after:
            nodes = self.nodes()
            del self.body.node[:]
            self.body.node.extend(nodes)
        elif len(self._nodes) < len(self._original):
            kept = self._nodes.keys()
            _keep(self.body.node, lambda node: id(node) in kept)
        gone = gone - self._defined
        if gone:
            _keep(self.body.value_info, lambda value: value.name not in gone)
        if gone and isinstance(self.body, GraphProto):
            _keep(self.body.quantization_annotation, lambda annotation: annotation.tensor_name not in gone)

    def forget_declaration(self, value: str) -> None:
        """Drop what the file says about the type of `value`, which is there: it contradicts what the operators make."""
        _keep(self.body.value_info, lambda declared: declared.name != value)

    # ------------------------------------------------------------------ how the index is kept true

    def order_by_dataflow(self, captured: Mapping[int, Sequence[str]]) -> list[str]:
        """Find the order of the walk; the values that this scope reads from around it, in that order.

        `captured` are those that nested bodies read from around them, by the id of the node that has the bodies.
        """
        body = self.body
        names = list(body.output) if isinstance(body, FunctionProto) else [value.name for value in body.output]
        reads = self._read
        if captured:
            reads = {number: [*values, *captured.get(number, ())] for number, values in reads.items()}
        self._walk = in_dataflow_order(self._original, names, self._producers, reads)
        return [] if self.parent is None else captures(self._walk, names, self._defined, reads)

    def index_uses(self) -> None:
        """Enter the uses of this scope's nodes where the values they read are defined, in the order of the walk."""
        uses, defined, new = self._uses, self._defined, tuple.__new__  # a NamedTuple's own is Python
        for node in self._walk:
            for index, value in enumerate(self._read[id(node)]):
                use = new(Use, (self, node, index))
                if value in uses:
                    uses[value].append(use)
                elif value in defined:
                    uses[value] = [use]
                elif value:
                    if self.resolve(value) is None:
                        self.model.unresolved.append((self, value, node))
                    self._add_use(value, use)
                else:
                    self.model.absent.append(use)
        if self.parent is not None:
            for output in self._outputs:
                if not self.defines(output) and (home := self.resolve(output)) is not None:
                    home._outputs.add(output)

    def _give(self, node: NodeProto, label: str, index: int, tensor: Tensor, suffix: str) -> None:
        """See `set_constant`; what was computed from the input is not forgotten yet."""
        read = self._read[id(node)]
        old = read[index] if index < len(read) else ""
        if old and self._replace_constant(old, tensor):
            self.model.record("set-constant", self, label, node)
        else:
            base = f"{old}_{suffix}" if old else f"{label}_{suffix}"
            self._connect(node, label, index, self._new_constant(self.model.fresh_name(base), tensor, before=node))
        if len(read) > 1 and read[1] not in self._initializers and node.op_type in _WEIGHTED:
            self._as_initializer(read[1])

    def _connect(self, node: NodeProto, label: str, index: int, value: str) -> None:
        """See `set_input`; what was computed from the input is not forgotten yet."""
        read = self._read[id(node)]
        if index < len(read):
            old = read[index]
            node.input[index] = read[index] = value
        else:
            old = ""
            more = [*[""] * (index - len(read)), value]
            node.input.extend(more)
            read += more
        if old:
            self._drop_use(old, node, index)
        if value:
            self._add_use(value, Use(self, node, index))
        self.model.record("set-input", self, label, node)

    def _take_out(self, node: NodeProto) -> None:
        del self._nodes[id(node)]
        for output in self._made[id(node)]:
            if self._producers.get(output) is node:
                self._undefine(output)
        for index, value in enumerate(self._read[id(node)]):
            if value:
                self._drop_use(value, node, index)
        self.model.record("remove", self, self.label(node))

    def _make_instead(self, maker: NodeProto, value: str, output: str) -> None:
        """Let `maker` make `output` instead of `value`, which nothing reads but for its shape or type."""
        made = self._made[id(maker)]
        index = made.index(value)
        maker.output[index] = made[index] = output
        self._undefine(value)
        self._define(output, maker)
        self.model.look_again(self, output)
        self.model.forget_value_info(self, value)
        if value in self._uses:
            for use in list(self._uses[value]):
                self.set_input(use.node, use.position, output)

    def _forget_computed(self, node: NodeProto) -> None:
        """Forget what was computed from an input of `node` that is another now, or was not constant before."""
        waiting = [node]
        while waiting:
            reader = waiting.pop()
            home = self.model.owner(reader)
            for output in home._made[id(reader)]:
                if output not in home._constants:
                    continue
                settled = home._constants.pop(output) is not None
                if settled or all(home._is_settled(name) for name in home._read[id(reader)]):
                    waiting.extend(use.node for use in home._uses.get(output, ()))

    def _is_settled(self, value: str) -> bool:
        home = self.resolve(value) if value else None
        return not value or (home is not None and home._constants.get(value) is not None)

    def _define(self, value: str, node: NodeProto) -> None:
        self._producers[value] = node
        self._defined.add(value)
        self._constants.pop(value, None)

    def _undefine(self, value: str) -> None:
        del self._producers[value]
        self._defined.discard(value)
        self._constants.pop(value, None)

    def _add_use(self, value: str, use: Use) -> None:
        home = self.resolve(value)
        if home is not None:
            home._uses.setdefault(value, []).append(use)

    def _drop_use(self, value: str, node: NodeProto, index: int) -> None:
        home = self if value in self._defined else self.resolve(value)
        if home is not None:
            uses = home._uses.pop(value, ())
            if len(uses) > 1:
                home._uses[value] = [use for use in uses if use.node is not node or use.position != index]
            else:
                home._suspects.append(value)

    def _collect(self, node: NodeProto, ordered: list[NodeProto]) -> None:
        for earlier in self._before.get(id(node), ()):
            self._collect(earlier, ordered)
        if id(node) in self._nodes:
            ordered.append(node)
        for later in self._after.get(id(node), ()):
            self._collect(later, ordered)

    def _replace_constant(self, value: str, tensor: Tensor) -> bool:
        """Give `value` new contents in place; whether it was done.

        It has to have one reader and the same shape, since the file may say its shape elsewhere, and be stored plainly.
        """
        home = self.resolve(value)
        if home is None or len(home._uses.get(value, ())) != 1 or value in home._outputs:
            return False
        proto = home._initializers.get(value)
        if proto is not None:
            if value in home._input_set and not home.model.lists_initializers:
                return False
        else:
            node = home._constant_node(value)
            if node is None:
                return False
            proto = node.attribute[0].t
        if tuple(proto.dims[:]) != tensor.shape:
            return False
        home._store(proto, tensor)
        if value not in home._initializers:
            home._as_initializer(value)
        home._constants[value] = tensor
        return True

    def _constant_node(self, value: str) -> NodeProto | None:
        """The Constant node of this scope that holds `value` as a tensor."""
        node = self._producers.get(value)
        plain = node is not None and node.op_type == "Constant" and [a.name for a in node.attribute] == ["value"]
        return node if plain else None

    def _as_initializer(self, value: str) -> None:
        """Store `value` as an initializer where it is in a Constant node of a scope that has any.

        What was folded into is a weight, and other tools take weights for initializers: onnxruntime's quantize_dynamic
        refuses a Conv whose weight is none.
        """
        home = self.resolve(value)
        node = None if home is None else home._constant_node(value)
        if home is None or node is None or self.model.lists_initializers or value in home._outputs:
            return
        if isinstance(home.body, GraphProto):
            proto = home.body.initializer.add()
            proto.CopyFrom(node.attribute[0].t)
            proto.name = value
            home.remove(node)
            home._initializers[value] = proto
            home._defined.add(value)

    def _new_constant(self, name: str, tensor: Tensor, before: NodeProto) -> str:
        """An initializer, or a Constant node in a function, which has no initializers.

        Where initializers have to be inputs, those of a nested body lie in the main graph: a body has the inputs that
        its operator gives it.
        """
        if isinstance(self.body, FunctionProto):
            self._new_constant_node(name, tensor, before, name)
        elif self.model.lists_initializers and self.parent is not None:
            return self.model.main._new_constant(name, tensor, before)
        else:
            proto = self._new_initializer(self.body, name, tensor)
            if self.model.lists_initializers:
                self.body.input.append(helper.make_tensor_value_info(name, proto.data_type, tensor.shape))
                self._input_set.add(name)
        return name

    def _new_constant_node(self, name: str, tensor: Tensor, before: NodeProto, label: str) -> None:
        node = helper.make_node("Constant", [], [name], name=label)
        node.attribute.add(name="value", type=AttributeProto.TENSOR)
        self._store(node.attribute[0].t, tensor)
        self.insert(node, before=before)
        self._constants[name] = tensor

    def _new_initializer(self, body: GraphProto, name: str, tensor: Tensor, beside: int | None = None) -> TensorProto:
        """An initializer of `body`, that of this scope; its bytes go where those of payload `beside` lie."""
        proto = body.initializer.add(name=name)
        self._fill(proto, tensor, beside)
        self._initializers[name] = proto
        self._defined.add(name)
        self._constants[name] = tensor
        return proto

    def _store(self, proto: TensorProto, tensor: Tensor) -> None:
        """Make `tensor` the contents of `proto`, which is empty or of its shape.

        They lie where the bytes were before: in the structure or streamed.
        """
        if proto.data_type == _element_type(tensor.dtype) and proto.raw_data:  # by far the most frequent kind
            proto.raw_data = tensor.tobytes()
            return
        index = payload_index(proto)
        for field in _CONTENTS:
            proto.ClearField(field)
        self._fill(proto, tensor, index)

    def _fill(self, proto: TensorProto, tensor: Tensor, index: int | None) -> None:
        """Make `tensor` the contents of an empty `proto`, or of one whose bytes were payload `index`."""
        proto.data_type = _element_type(tensor.dtype)
        proto.dims.extend(tensor.shape)
        if tensor.nbytes < _STREAMED_BYTES and index is None:
            proto.raw_data = tensor.tobytes()
        else:
            set_payload(proto, self.model.add_payload(TensorPayload(tensor), like=index))

    def bury_the_dead(self) -> bool:
        """Remove what the edits left without a reader: initializers and operators that make constants; whether any."""
        busy = bool(self._suspects)
        gone: dict[str, TensorProto] = {}
        while self._suspects:
            suspects = dict.fromkeys(self._suspects)  # in order: sets of thousands lie all over the memory
            self._suspects.clear()
            dead = [value for value in suspects if value not in self._uses and value not in self._outputs]
            stored = [value for value in dead if value in self._initializers]
            if not self.model.lists_initializers:
                stored = [value for value in stored if value not in self._input_set]
            gone |= {value: self._initializers[value] for value in stored}
            for value in sorted(value for value in dead if value in self._producers):
                node = self._producers.get(value)
                if node is not None and self._unread(node) and self.constant(value) is not None:
                    self.remove(node)
                    self.model.forget_value_info(self, value)
        self.model.forget_value_info(self, *gone)
        if gone:
            assert isinstance(self.body, GraphProto)
            for value in gone:
                del self._initializers[value]
            numbers = set(map(id, gone.values()))
            _keep(self.body.initializer, lambda tensor: id(tensor) not in numbers)
            _keep(self.body.input, lambda value: value.name not in gone)
            self._input_set.difference_update(gone)
            self._defined.difference_update(gone)
        return busy

    def _unread(self, node: NodeProto) -> bool:
        return not any(self._uses.get(output) or output in self._outputs for output in self._made[id(node)] if output)


def _looks_only_at_type(use: Use) -> bool:
    node = use.node
    if node.op_type not in _TYPE_READERS or node.domain not in DEFAULT_DOMAINS:
        return False
    return node.op_type != "CastLike" or use.position == 1


def _element_type(dtype: np.dtype) -> int:
    return _ELEMENT_TYPES.get(dtype) or helper.np_dtype_to_tensor_dtype(dtype)


def _keep(container: Any, wanted: Callable[[Any], bool]) -> None:
    """Leave only the wanted messages of a repeated field, in their order.

    Sorting moves messages without copying them, which costs a tenth of a copy with everything that is in them.
    """
    container.sort(key=wanted, reverse=True)
    del container[bisect_left(container, True, key=lambda item: not wanted(item)) :]


def scopes(body: GraphProto | FunctionProto) -> Iterator[tuple[NodeProto, str, GraphProto]]:
    """Each body nested directly in `body`, with the node that holds it and the attribute's name."""
    for node in body.node:
        if node.op_type in _WITHOUT_BODIES and node.domain in DEFAULT_DOMAINS:
            continue
        for attribute in node.attribute or ():
            if attribute.HasField("g"):
                yield node, attribute.name, attribute.g
            for index, graph in enumerate(attribute.graphs):
                yield node, f"{attribute.name}[{index}]", graph
