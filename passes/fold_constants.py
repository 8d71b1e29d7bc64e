"""fold-constants: what an expression of constants computes is stored, under the name it has.

Sound where nothing is rounded that another implementation may round otherwise: rearrangements, sizes, comparisons,
conversions, integers, and one operation of IEEE 754 at a time in float32 and float64. Every runtime then computes the
very same bits. Sizes count only where they follow from the inputs and the operators, not where the file declares them.

A value is stored where an operator reads it that stays, and where the file grows by no more than what becomes dead,
plus a kilobyte. Results of a model stay what they are: they are computed.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from bnfold.decisions import Decision
from bnfold.graph import DEFAULT_DOMAINS, FLOATS, Graph, Model, Tensor, paused_collector
from bnfold.passes.protocol import Preserves
from bnfold.passes.weights import FEW_BYTES

Arrays = Sequence[NDArray[Any]]

# A value costs at most so many bytes more than what becomes dead with it.
_GROWTH_BYTES = 1024
# What a tensor or a node takes in a file beside its numbers and its name.
_OVERHEAD_BYTES = 16
# Values that are too large for what becomes dead stay, and with them what computes them, which others read then.
_MOST_ROUNDS = 4

_INTEGERS = frozenset(map(np.dtype, ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")))
_STORED = _INTEGERS | FLOATS.keys() | {np.dtype(bool)}
_ROUNDED_ONCE = _INTEGERS | {np.dtype(np.float32), np.dtype(np.float64)}
_HALVES = frozenset(dtype for dtype in FLOATS if dtype.itemsize == 2)
_SIZES = ("Shape", "Size")
# float32 holds every integer up to here: a conversion through it rounds once.
_LARGEST_EXACT = 1 << 24


# ---------------------------------------------------------------------- what is exact


def _is_plain(read: Arrays, made: Arrays) -> bool:
    """A choice among numbers: implementations differ in which zero and which NaN they choose."""
    return all(_has_one_zero(array) for array in (*read, *made))


def _has_one_zero(array: NDArray[Any]) -> bool:
    if array.dtype not in FLOATS:
        return True
    return not (np.isnan(array).any() or (np.signbit(array) & (array == 0)).any())


def _is_rounded_once(read: Arrays, made: Arrays) -> bool:
    """IEEE 754 says what one operation gives, but for NaN. A runtime may widen float16 and leave roundings out."""
    dtypes = {array.dtype for array in (*read, *made)}
    return dtypes <= _ROUNDED_ONCE and len(read) <= 2 and not any(map(_has_nan, made))


def _has_nan(array: NDArray[Any]) -> bool:
    return array.dtype in FLOATS and bool(np.isnan(array).any())


def _is_of_integers(read: Arrays, made: Arrays) -> bool:
    return all(array.dtype in _INTEGERS for array in (*read, *made))


def _is_cast_once(read: Arrays, made: Arrays) -> bool:
    """Runtimes take float64 and large integers to 16 bits by way of float32, which rounds twice."""
    data, result = read[0], made[0]
    if not {data.dtype, result.dtype} <= _STORED or _has_nan(data):
        return False
    if result.dtype not in _HALVES or data.dtype in (np.dtype(np.float32), np.dtype(bool), *_HALVES):
        return True
    return data.dtype in _INTEGERS and bool((data >= -_LARGEST_EXACT).all() and (data <= _LARGEST_EXACT).all())


# By operator: whether what is made of what is read is the same bits everywhere. None: it always is, where elements are
# only moved, compared or counted.
EXACT: Mapping[str, Callable[[Arrays, Arrays], bool] | None] = {
    **dict.fromkeys(("Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split"), None),
    **dict.fromkeys(("Squeeze", "Tile", "Transpose", "Unsqueeze", "ConstantOfShape", "Where", *_SIZES), None),
    **dict.fromkeys(("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"), None),
    **dict.fromkeys(("And", "Not", "Or", "Xor"), None),
    **dict.fromkeys(("Abs", "Ceil", "Clip", "Floor", "Max", "Min", "Neg", "ReduceMax"), _is_plain),
    **dict.fromkeys(("ReduceMin", "Relu", "Round", "Sign"), _is_plain),
    **dict.fromkeys(("Add", "Div", "Mul", "Sub", "Sum"), _is_rounded_once),
    **dict.fromkeys(("Mod", "Range"), _is_of_integers),
    **dict.fromkeys(("Cast", "CastLike"), _is_cast_once),
}


# ---------------------------------------------------------------------- which values are known to the bit


class _Value(NamedTuple):
    """A value of one scope."""

    scope: int
    name: str


class _Known:
    """The values of a model that are the same bits in every run, in every runtime."""

    def __init__(self, model: Model) -> None:
        self._judged: dict[_Value, bool] = {}
        waiting = [
            (graph, node)
            for graph in model.by_dataflow()
            for node in graph.by_dataflow_of(EXACT)
            if _may_be_known(node)
        ]
        while waiting:  # in any order of nodes; usually they are sorted
            later = [(graph, node) for graph, node in waiting if not self._judge(graph, node)]
            if len(later) == len(waiting):
                break
            waiting = later

    def __bool__(self) -> bool:
        """Whether there are any."""
        return any(self._judged.values())

    def is_known(self, graph: Graph, value: str) -> bool:
        """Whether the constant `value`, which a node of `graph` makes, is known to the bit."""
        return self._judged.get(_Value(id(graph), value), False)

    def _judge(self, graph: Graph, node: NodeProto) -> bool:
        """Judge what `node` makes; whether everything it reads is judged already."""
        known = self._operands_are_known(graph, node)
        if known is None:
            return False
        known = known and _is_worth_computing(graph, node) and _is_known_of_known(graph, node)
        for output in graph.made_by(node):
            if output:
                self._judged[_Value(id(graph), output)] = known
        return True

    def _operands_are_known(self, graph: Graph, node: NodeProto) -> bool | None:
        """Whether all are known to the bit; None where one has not been judged yet."""
        op_type = node.op_type
        for position, name in enumerate(graph.read_by(node)):
            home = graph.resolve(name) if name else None
            if not name or (op_type == "CastLike" and position == 1):
                continue
            if home is None:
                return False
            if op_type in _SIZES:
                return graph.has_proved_sizes(name) or graph.constant(name) is not None
            maker = home.producer(name)
            if maker is None or maker.op_type == "Constant":
                if home.constant(name) is None:
                    return False
            elif not _may_be_known(maker):
                return False
            elif (judged := self._judged.get(_Value(id(home), name))) is not True:
                return judged
        return True


def _may_be_known(node: NodeProto) -> bool:
    return node.op_type in EXACT and node.domain in DEFAULT_DOMAINS


def _is_worth_computing(graph: Graph, node: NodeProto) -> bool:
    """A conversion of many numbers to a wider type is not: they were stored small."""
    data = graph.constant(node.input[0]) if node.op_type in ("Cast", "CastLike") else None
    if data is None or data.nbytes <= FEW_BYTES:
        return True
    target = graph.dtype(node.output[0])
    return target is not None and target.itemsize <= data.dtype.itemsize


def _is_known_of_known(graph: Graph, node: NodeProto) -> bool:
    """Whether `node` makes the same bits everywhere of operands that are. Sizes may be known in part."""
    outputs = [output for output in node.output if output]
    made = [graph.constant(output) for output in outputs]
    if any(tensor is None for tensor in made):
        return all(graph.partly(output) is not None for output in outputs)
    if node.op_type in _SIZES:
        return True
    data = node.input[:1] if node.op_type == "CastLike" else node.input[:]
    read = [graph.constant(name) for name in data if name]
    if any(tensor is None for tensor in read):  # integers: what is known of them was enough
        return True
    is_exact = EXACT[node.op_type]
    return is_exact is None or is_exact(_arrays(read), _arrays(made))


def _arrays(tensors: Sequence[Tensor | None]) -> Arrays:
    return [tensor.numpy() for tensor in tensors if tensor is not None]


# ---------------------------------------------------------------------- what is stored


@dataclass(eq=False)
class _Group:
    """Values of which some are computed from the same constants: stored together or not at all.

    `cost`: bytes that those need which are no small change; `gain`: bytes of what becomes dead with all of them.
    """

    members: list[_Value] = field(default_factory=list)
    cost: int = 0
    gain: int = 0
    joined: "_Group | None" = None

    def root(self) -> "_Group":
        """The group that this one was joined to, perhaps by way of others."""
        group = self
        while group.joined is not None:
            if group.joined.joined is not None:
                group.joined = group.joined.joined
            group = group.joined
        return group

    def join(self, other: "_Group") -> "_Group":
        """Make one group of two."""
        one, two = self.root(), other.root()
        if one is not two:
            two.joined = one
            one.members += two.members
            one.cost += two.cost
            one.gain += two.gain
        return one


class _Plan:
    """The values that would be stored, and the nodes and initializers that die with it."""

    def __init__(self, model: Model, known: _Known, refused: set[_Value], *, only_small: bool = False) -> None:
        self._known = known
        self._refused = refused
        self._only_small = only_small
        self.stored: dict[_Value, tuple[Graph, Tensor]] = {}
        self.dead: dict[int, tuple[Graph, NodeProto]] = {}  # by identity, readers before what they read
        self._groups: dict[_Value, _Group] = {}
        self._unread: dict[_Value, int] = defaultdict(int)
        for graph in model.graphs if known else ():
            for node in graph.nodes_of(EXACT):
                if _may_be_known(node) and self._goes(graph, node):
                    self._store_outputs(graph, node)
        for value in list(self.stored):
            graph, _ = self.stored[value]
            self._forget(graph, value.name)

    def refusals(self) -> set[_Value]:
        """Values that would make the file grow, and those whose operator has another reader that is no use."""
        found = {
            value
            for value, (graph, _) in self.stored.items()
            if (node := graph.producer(value.name)) is None or id(node) not in self.dead
        }
        for group in {id(root): root for root in (each.root() for each in self._groups.values())}.values():
            if group.cost > group.gain + _GROWTH_BYTES:
                found.update(value for value in group.members if _cost(value, self.stored[value][1]) > _GROWTH_BYTES)
        return found

    def _goes(self, graph: Graph, node: NodeProto) -> bool:
        """Whether all that `node` makes can be stored."""
        return all(self._can_be_stored(graph, output) for output in node.output if output)

    def _can_be_stored(self, graph: Graph, value: str) -> bool:
        if not self._known.is_known(graph, value) or _Value(id(graph), value) in self._refused:
            return False
        tensor = graph.constant(value)
        if tensor is None or tensor.dtype not in _STORED or graph.is_output(value) or not graph.can_store(tensor):
            return False
        return not self._only_small or _cost(_Value(id(graph), value), tensor) <= _GROWTH_BYTES

    def _store_outputs(self, graph: Graph, node: NodeProto) -> None:
        for output in node.output:
            if output and any(self._stays(use.graph, use.node) for use in graph.consumers(output)):
                value, tensor = _Value(id(graph), output), graph.constant(output)
                assert tensor is not None
                self.stored[value] = graph, tensor
                cost = _cost(value, tensor)
                self._groups[value] = _Group([value], cost if cost > _GROWTH_BYTES else 0)

    def _stays(self, graph: Graph, node: NodeProto) -> bool:
        return not (_may_be_known(node) and self._goes(graph, node))

    def _forget(self, graph: Graph, value: str) -> None:
        """Note what is dead once nobody reads `value`, which is stored or has lost its last reader."""
        waiting = [(graph, value)]
        while waiting:
            home, name = waiting.pop()
            node, group = home.producer(name), self._groups[_Value(id(home), name)]
            if node is None:
                tensor = None if home.is_input(name) or home.is_output(name) else home.constant(name)
                group.root().gain += 0 if tensor is None else _cost(_Value(id(home), name), tensor)
                continue
            if id(node) in self.dead or not self._is_dead(home, node):
                continue
            for output in node.output:
                if output and (other := self._groups.get(_Value(id(home), output))) is not None:
                    group = group.join(other)
            group.root().gain += _size(home, node)
            self.dead[id(node)] = home, node
            for operand in node.input:
                source = home.resolve(operand) if operand else None
                if source is not None and self._loses_reader(source, operand, group):
                    waiting.append((source, operand))

    def _loses_reader(self, home: Graph, name: str, group: _Group) -> bool:
        """Count one reader less; whether it was the last."""
        value = _Value(id(home), name)
        if value in self.stored:
            return False
        self._groups[value] = self._groups[value].join(group) if value in self._groups else group
        self._unread[value] += 1
        return self._unread[value] == len(home.consumers(name)) and not home.is_output(name)

    def _is_dead(self, graph: Graph, node: NodeProto) -> bool:
        """Whether nobody reads anything that `node` makes, and it does nothing else."""
        if node.domain not in DEFAULT_DOMAINS or any(each.HasField("g") or each.graphs for each in node.attribute):
            return False
        return all(self._is_unread(graph, output) for output in node.output if output)

    def _is_unread(self, graph: Graph, output: str) -> bool:
        value = _Value(id(graph), output)
        return value in self.stored or (
            self._unread[value] == len(graph.consumers(output)) and not graph.is_output(output)
        )


def _cost(value: _Value, tensor: Tensor) -> int:
    return tensor.nbytes + len(value.name) + _OVERHEAD_BYTES


def _size(graph: Graph, node: NodeProto) -> int:
    """About how many bytes of the file `node` takes."""
    held = graph.constant(node.output[0]) if node.op_type == "Constant" and node.output else None
    return node.ByteSize() if held is None else held.nbytes + 2 * _OVERHEAD_BYTES


class FoldConstants:
    """Store what expressions of constants compute."""

    name: Final = "fold-constants"
    preserves: Final = Preserves.EXACT

    def run(self, model: Model) -> list[Decision]:
        """Edit `model`; no decisions, since no normalization is concerned. Each value is an edit of kind "store"."""
        with paused_collector(), np.errstate(all="ignore"):
            model.bury_the_dead()
            plan = _planned(model)
            stored: dict[int, dict[str, Tensor]] = {}
            for value, (graph, tensor) in plan.stored.items():
                node = graph.producer(value.name)
                assert node is not None
                stored.setdefault(id(node), {})[value.name] = tensor
            for graph, node in plan.dead.values():
                graph.store(node, stored.get(id(node), {}))
        return []


def _planned(model: Model) -> _Plan:
    """The values to store: in place of one that is too large, the small values that it is computed from."""
    known, refused = _Known(model), set[_Value]()
    rounds = 0
    while True:
        plan = _Plan(model, known, refused, only_small=rounds >= _MOST_ROUNDS)
        refusals = plan.refusals()
        if not refusals:
            return plan
        refused |= refusals
        rounds += 1
