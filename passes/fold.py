"""The walk: where can a per-channel map go? Finding is pure and complete; applying a plan cannot fail.

Toward the producers, the value an operator reads is to be replaced by the mapped value: its maker absorbs the map, or
lets it pass to the values it reads itself, or refuses. Toward the consumers every reader has to take the map up.
A plan holds every new constant before anything is edited.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from onnx import NodeProto

from bnfold.decisions import Reason, Refused
from bnfold.graph import DEFAULT_DOMAINS, FLOATS, Graph, Tensor, Use
from bnfold.passes import affine_ops, carriers, linear_ops
from bnfold.passes.affine import Affine
from bnfold.passes.affine_ops import ML_DOMAIN
from bnfold.passes.gains import BETWEEN
from bnfold.passes.step import Handler, NewAttribute, NewConstant, Step, stored_vector

MOST_STEPS = 10_000
DEEPEST = 200

# What indexing and numpy say of operands that are missing, or whose shapes contradict each other. No sound model gets
# so far: shapes are looked at where a sound model may refuse.
DO_NOT_FIT: tuple[type[Exception], ...] = (IndexError, ValueError, ZeroDivisionError, OverflowError)

TOWARD_PRODUCER: dict[str, Handler] = {
    **carriers.TOWARD_PRODUCER,
    **affine_ops.ABSORB_OUTPUT,
    **linear_ops.ABSORB_OUTPUT,
}
TOWARD_CONSUMERS: dict[str, Handler] = {
    **carriers.TOWARD_CONSUMERS,
    **affine_ops.ABSORB_INPUT,
    **linear_ops.ABSORB_INPUT,
}


class NewAdd(NamedTuple):
    """An Add of `constant` to the first output of `node`, right behind it."""

    node: NodeProto
    constant: Tensor


@dataclass
class Plan:
    """Every edit that moves one map to where it is absorbed, all numbers computed."""

    constants: list[NewConstant] = field(default_factory=list)
    attributes: list[NewAttribute] = field(default_factory=list)
    adds: list[NewAdd] = field(default_factory=list)
    absorbers: list[NodeProto] = field(default_factory=list)

    def extend(self, other: "Plan") -> None:
        """Take in the edits of another branch. Raises `Refused` where both want to change the same constant."""
        taken = {(id(node), index) for node, index, _ in self.constants} | {(id(add.node), -1) for add in self.adds}
        wanted = {(id(node), index) for node, index, _ in other.constants} | {(id(add.node), -1) for add in other.adds}
        if taken & wanted:
            raise Refused(Reason.NOT_ALL_ABSORB, "two branches meet in the same operator")
        self.constants += other.constants
        self.attributes += other.attributes
        self.adds += other.adds
        self.absorbers += other.absorbers

    def apply(self, graph: Graph) -> None:
        """Make the edits."""
        for node, index, tensor in self.constants:
            graph.set_constant(node, index, tensor)
        for node, name, value in self.attributes:
            graph.set_attribute(node, name, value)
        for add in self.adds:
            graph.add_behind(add.node, add.constant)


class Search:
    """One search for a place for one map; `trace` tells what was tried and where it stopped.

    With `near` only a linear operator right beside it is a place, or the Add that is the bias of a MatMul there: what
    else lies between may only lay the value out anew.
    """

    def __init__(self, graph: Graph, trace: list[str] | None = None, *, near: bool = False) -> None:
        self.graph = graph
        self._near = near
        self._trace = trace
        self._steps = 0
        self._depth = 0
        self._refused: dict[tuple[str, bool, tuple[int, ...]], Refused] = {}

    def toward_producer(self, reader: NodeProto, index: int, affine: Affine) -> Plan:
        """A plan after which input `index` of `reader` holds affine(what it holds now). Raises `Refused`."""
        if affine.is_identity:
            return Plan()
        value = reader.input[index]
        asked = value, affine.has_shift, affine.shape
        known = self._refused.get(asked)
        if known is not None:
            raise known
        graph = self.graph.model.owner(reader)
        constant = None if self._near else graph.constant(value)
        try:
            if constant is not None:
                return Plan([NewConstant(reader, index, _mapped(constant, affine))], absorbers=[reader])
            return self.into_maker(self._maker(graph, value, reader, affine), value, affine)
        except Refused as refused:
            self._refused[asked] = refused
            raise

    def into_maker(self, node: NodeProto, value: str, affine: Affine) -> Plan:
        """A plan after which `node` makes affine(value) where it makes `value`. Raises `Refused`."""
        graph = self.graph.model.owner(node)
        handler = self._handler(TOWARD_PRODUCER, node, graph)
        output = node.output[:].index(value)
        home = graph.model.owner(node)
        return self._first_possible(node, home, _ask(handler, node, output, affine, home), toward_producer=True)

    def _maker(self, graph: Graph, value: str, reader: NodeProto, affine: Affine) -> NodeProto:
        """The node that makes `value`, where `reader` is the only one that sees what `affine` changes of it."""
        node = graph.producer(value)
        if node is None:
            raise Refused(
                Reason.GRAPH_INPUT if graph.is_input(value) else Reason.NO_PRODUCER, repr(graph.known_value(value))
            )
        if graph.is_output(value):
            raise Refused(Reason.VALUE_IS_OUTPUT, repr(graph.known_value(value)))
        uses = graph.readers(value)
        if len(uses) != 1:
            others = [use for use in uses if use.node is not reader]
            twice = len(uses) - len(others) > 1
            if twice or not all(_sees_nothing(use, affine) for use in others):
                names = ", ".join(sorted({use.graph.known_as(use.node) for use in others})[:3]) or graph.known_as(
                    reader
                )
                raise Refused(Reason.OTHER_CONSUMER, f"{graph.known_value(value)!r} is read by {names}")
        return node

    def toward_consumers(self, value: str, affine: Affine) -> Plan:
        """A plan after which every reader of `value` computes from x what it computes now from affine(x).

        Raises `Refused` where one of them cannot.
        """
        plan = Plan()
        if affine.is_identity:
            return plan
        if self.graph.is_output(value):
            raise Refused(Reason.VALUE_IS_OUTPUT, repr(self.graph.known_value(value)))
        uses = self.graph.readers(value)
        if not uses:
            raise Refused(Reason.NO_CONSUMER, repr(self.graph.known_value(value)))
        if len({id(use.node) for use in uses}) != len(uses):
            raise Refused(Reason.NOT_ALL_ABSORB, f"an operator reads {self.graph.known_value(value)!r} twice")
        for use in uses:
            handler = self._handler(TOWARD_CONSUMERS, use.node, use.graph)
            steps = _ask(handler, use.node, use.position, affine, use.graph)
            plan.extend(self._first_possible(use.node, use.graph, steps, toward_producer=False))
        return plan

    def _first_possible(self, node: NodeProto, graph: Graph, steps: list[Step], *, toward_producer: bool) -> Plan:
        """The plan of the first of `steps` whose rest finds a place. Raises the first refusal where none does."""
        self._steps += 1
        if self._steps > MOST_STEPS or self._depth >= DEEPEST:
            raise Refused(Reason.SEARCH_LIMIT, f"{self._steps} steps, {self._depth} operators away")
        self._depth += 1
        refusal: Refused | None = None
        try:
            for step in steps:
                try:
                    return self._complete(node, graph, step, toward_producer=toward_producer)
                except Refused as refused:
                    refusal = refusal or refused
        finally:
            self._depth -= 1
        raise refusal or Refused(Reason.MALFORMED, f"{graph.known_as(node)} reads nothing")

    def _complete(self, node: NodeProto, graph: Graph, step: Step, *, toward_producer: bool) -> Plan:
        """The plan of `step` on `node`, completed by the plans of the maps that it passes on."""
        plan = Plan(list(step.constants), list(step.attributes))
        if step.add is not None:
            plan.adds.append(NewAdd(node, step.add))
        if step.constants or step.add is not None or (step.attributes and not step.passes_on):
            plan.absorbers.append(node)
        ends = node.input if toward_producer else node.output
        for index, rest in step.passes_on:
            if index >= len(ends):
                raise Refused(Reason.MALFORMED, f"{graph.known_as(node)} has {len(ends)} of its inputs or outputs")
            self._note(node, graph, rest)
            if toward_producer and (maker := _shared_maker(node, index, step, graph)) is not None:
                if index == node.input[:].index(node.input[index]):  # once for all positions
                    plan.extend(self.into_maker(maker, node.input[index], rest))
            elif toward_producer:
                plan.extend(self.toward_producer(node, index, rest))
            else:
                plan.extend(self._down(graph, node.output[index], rest))
        if self._trace is not None and not step.passes_on:
            self._trace.append(f"  {graph.known_as(node)} ({node.op_type}) takes it up")
        return plan

    def _down(self, graph: Graph, value: str, affine: Affine) -> Plan:
        outer, self.graph = self.graph, graph
        try:
            return self.toward_consumers(value, affine)
        finally:
            self.graph = outer

    def _handler(self, table: dict[str, Handler], node: NodeProto, graph: Graph) -> Handler:
        if node.domain == ML_DOMAIN and table is TOWARD_CONSUMERS and node.op_type in linear_ops.ABSORB_INPUT_ML:
            return linear_ops.ABSORB_INPUT_ML[node.op_type]
        if node.domain not in DEFAULT_DOMAINS or graph.model.is_function_call(node):
            raise Refused(Reason.UNKNOWN_OPERATOR, f"{graph.known_as(node)} is {node.domain}::{node.op_type}")
        handler = table.get(node.op_type)
        is_beside = node.op_type in linear_ops.ABSORB_OUTPUT or node.op_type in BETWEEN
        if self._near and not is_beside and not linear_ops.is_bias_of_matmul(node, graph):
            raise Refused(Reason.BARRIER, f"{graph.known_as(node)} is {node.op_type}")
        if handler is None:
            reason = Reason.BARRIER if node.op_type in carriers.BARRIERS else Reason.UNKNOWN_OPERATOR
            raise Refused(reason, f"{graph.known_as(node)} is {node.op_type}")
        return handler

    def _note(self, node: NodeProto, graph: Graph, rest: Affine) -> None:
        if self._trace is not None:
            parts = [name for name, there in (("scale", rest.has_scale), ("shift", rest.has_shift)) if there]
            self._trace.append(f"  {graph.known_as(node)} ({node.op_type}) passes on {' and '.join(parts)}")


def _ask(handler: Handler, node: NodeProto, index: int, affine: Affine, graph: Graph) -> list[Step]:
    try:
        return handler(node, index, affine, graph)
    except DO_NOT_FIT as error:
        raise Refused(Reason.MALFORMED, f"the operands of {graph.known_as(node)} do not fit together") from error


def _shared_maker(node: NodeProto, index: int, step: Step, graph: Graph) -> NodeProto | None:
    """The maker of a value that `node` alone reads, more than once, where `step` wants the same map of it each time."""
    value = node.input[index]
    wanted = [rest for position, rest in step.passes_on if node.input[position] == value]
    if len(wanted) < 2 or len(graph.readers(value)) != len(wanted) or graph.is_output(value):
        return None
    alike = all(each.shape == wanted[0].shape and _same(each, wanted[0]) for each in wanted[1:])
    return graph.producer(value) if alike and graph.constant(value) is None else None


def _same(one: Affine, other: Affine) -> bool:
    return bool((one.scale == other.scale).all() and (one.shift == other.shift).all())


def _sees_nothing(use: Use, affine: Affine) -> bool:
    """Whether `use` reads nothing that `affine` changes, however the elements it reads are laid out behind it."""
    node, graph = use.node, use.graph
    if not (node.op_type in carriers.REARRANGING or node.op_type == "Split") or node.domain not in DEFAULT_DOMAINS:
        return False
    try:
        step = _ask(TOWARD_CONSUMERS[node.op_type], node, use.position, affine, graph)[0]
    except Refused:
        return False
    seen = [(node.output[index], rest) for index, rest in step.passes_on]
    return all(
        not graph.is_output(value) and all(_sees_nothing(other, rest) for other in graph.readers(value))
        for value, rest in seen
    )


def _mapped(constant: Tensor, affine: Affine) -> Tensor:
    """A constant branch, mapped. Raises `Refused` where an axis that the map varies along is not whole."""
    if constant.dtype not in FLOATS:
        raise Refused(Reason.UNSUPPORTED_DTYPE, f"a constant of {constant.dtype}")
    if len(affine.shape) > len(constant.shape) or any(
        constant.shape[axis] != affine.shape[axis] for axis in affine.axes
    ):
        raise Refused(Reason.NOT_PER_CHANNEL, f"a constant of shape {list(constant.shape)}")
    own = affine.at_rank(len(constant.shape))
    return stored_vector(own.scale * constant.exact() + own.shift, constant.dtype)
