"""Runs: maximal chains of affine operators, each the only reader of the one before. A run is one map.

BatchNormalization, and what stands for it in models that were converted or frozen: up to four of Mul, Add, Sub, Div
with constants. What leaves a value as it is (Identity, a Cast to the type it has) belongs to the run it stands in. A
run is a normalization if it holds a BatchNormalization, or scales its channels one by one. A lone Add is a bias and a
lone multiplication by one number a temperature or a gain: neither is a normalization.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from types import MappingProxyType

from onnx import NodeProto

from bnfold.decisions import Reason, Refused
from bnfold.graph import Graph
from bnfold.passes.affine import IDENTITY, Affine
from bnfold.passes.affine_ops import AffineOp, constant_operand, is_affine_op, is_transparent, read_affine
from bnfold.passes.normalization import is_batch_norm

_NOTHING: Mapping[int, Affine] = MappingProxyType({})


class Run:
    """Affine operators in order, each the only reader of the one before; together they are `affine`.

    `nodes` are theirs, `batch_norms` the BatchNormalizations among these, `output` is the value the run makes. It
    begins and ends with an operator that does something; `size` is the number of those.
    """

    __slots__ = ("batch_norms", "members", "nodes", "output", "size")

    def __init__(self, members: Sequence[AffineOp]) -> None:
        active = [number for number, member in enumerate(members) if member.affine is not IDENTITY]
        self.members = tuple(members[active[0] : active[-1] + 1]) if active else ()
        self.size = len(active)
        self.nodes = [member.node for member in self.members]
        self.batch_norms = [node for node in self.nodes if is_batch_norm(node)]
        self.output = self.nodes[-1].output[0] if self.nodes else ""

    @property
    def first(self) -> AffineOp:
        """The operator that reads the value the run computes on."""
        return self.members[0]

    @property
    def affine(self) -> Affine:
        """The map of the whole run."""
        affine = self.members[0].affine
        for member in self.members[1:]:
            affine = affine.then(member.affine)
        return affine

    @property
    def is_normalization(self) -> bool:
        """Whether it holds a BatchNormalization or has one scale per channel."""
        return bool(self.batch_norms) or any(map(_scales_channels, self.members))

    @property
    def sure_nodes(self) -> list[NodeProto]:
        """The nodes from which a run would end where this one does: up to the last that fixes the axis."""
        placed = [number for number, member in enumerate(self.members) if _place(member)]
        return self.nodes[: placed[-1] + 1] if placed else self.nodes

    @property
    def op_types(self) -> str:
        """The operators of the run, as in "Sub+Div+Mul+Add"."""
        return "+".join(member.node.op_type for member in self.members if member.affine is not IDENTITY)


def _scales_channels(member: AffineOp) -> bool:
    """c - x has the scale -1 in every channel: that is a sign, and its c is a bias. Along several axes it is a gain."""
    return member.node.op_type in ("Mul", "Div", "Scaler") and member.affine.has_scale and len(member.affine.axes) == 1


def collect_run(node: NodeProto, graph: Graph, seen: AbstractSet[int], known: Mapping[int, Affine] = _NOTHING) -> Run:
    """The run that starts at `node`. Raises `Refused` where `node` is no affine map.

    It goes on while the next operator is the only one that reads the value and is a map on the same axis (that of a
    BatchNormalization is 1, also of one with a single channel); operators whose ids are in `seen` are left out. `known`
    maps, by the id of the node, need not be read again.
    """
    affine = None if graph.model.was_edited(node) else known.get(id(node))
    members = [read_affine(node, graph) if affine is None else AffineOp(node, 0, affine)]
    affine, place = members[0].affine, _place(members[0])
    while True:
        value = members[-1].node.output[0]
        uses = graph.readers(value)
        if len(uses) != 1 or graph.is_output(value) or uses[0].graph is not graph or id(uses[0].node) in seen:
            return Run(members)
        follower = uses[0].node
        if uses[0].position == 0 and is_transparent(follower, graph):
            members.append(AffineOp(follower, 0, IDENTITY))
            continue
        if not is_affine_op(follower) or not follower.output:
            return Run(members)
        try:
            member = read_affine(follower, graph)
            other = _place(member)
            if place and other and place != other:
                return Run(members)
            place = place or other
            affine = affine.then(member.affine)
        except Refused:
            return Run(members)
        members.append(member)


def _place(member: AffineOp) -> tuple[int, ...] | None:
    """The axes and sizes of a map; None for one number everywhere, which fits all."""
    if is_batch_norm(member.node):
        return 1, member.affine.scale.size
    return None if member.affine.is_uniform else member.affine.shape


def may_be_normalization(node: NodeProto, graph: Graph, refused: Refused) -> bool:
    """Whether `node` scales its channels one by one for all that is known, where `refused` says why it is no map."""
    if refused.reason is Reason.CONSTANT_DISPUTED:
        return node.op_type in ("Mul", "Div")
    if refused.reason is not Reason.SHAPE_UNKNOWN or node.op_type not in ("Mul", "Div"):
        return False
    index, tensor = constant_operand(node, graph)
    if sum(size > 1 for size in tensor.shape) != 1 or (node.op_type == "Div" and index == 0):
        return False  # one number everywhere, or a gain along several axes
    return not scales_a_computed_normalization(node, 1 - index, graph)


def _scales_groups(node: NodeProto, data: int, graph: Graph) -> bool:
    """Whether `node` is the gain of a GroupNormalization: an InstanceNormalization of groups, laid out as before."""
    reshape = graph.producer(node.input[data])
    if reshape is None or reshape.op_type != "Reshape" or not reshape.input:
        return False
    maker = graph.producer(reshape.input[0])
    return maker is not None and maker.op_type == "InstanceNormalization"


def is_part_of_a_pattern(run: Run, graph: Graph) -> bool:
    """Whether a gain or bias ends a pattern by which runtimes recognize something larger, written in operators.

    The bias of a LayerNormalization; the last factor of a Gelu or HardSwish, x * (1 + erf(x / sqrt(2))) * 0.5; the
    scale of the queries of an attention, whose product with the keys is a MatMul of two computed values.
    """
    if scales_a_computed_normalization(run.first.node, run.first.data, graph):
        return True
    maker = graph.producer(run.first.node.input[run.first.data])
    if maker is not None and is_affine_op(maker) and len(maker.input) == 2:
        computed = [index for index in (0, 1) if graph.constant(maker.input[index]) is None]
        if len(computed) == 1 and scales_a_computed_normalization(maker, computed[0], graph):
            return True
        if len(computed) == 2 and maker.op_type == "Mul" and any(_is_gate(value, graph) for value in maker.input):
            return True
    readers = graph.readers(run.output)
    while len(readers) == 1 and readers[0].node.op_type in ("Transpose", "Reshape", "Identity"):
        readers = graph.readers(readers[0].node.output[0])
    return any(
        use.node.op_type == "MatMul" and all(graph.constant(value) is None for value in use.node.input)
        for use in readers
    )


def _is_gate(value: str, graph: Graph) -> bool:
    """Whether the second factor of a Gelu or HardSwish in operators makes `value`: 1 + erf, 1 + tanh, clip."""
    maker = graph.producer(value)
    if maker is not None and maker.op_type == "Add":
        makers = [graph.producer(operand) for operand in maker.input]
        return any(each is not None and each.op_type in ("Erf", "Tanh") for each in makers)
    return maker is not None and maker.op_type in ("Clip", "Min", "HardSigmoid")


def scales_a_computed_normalization(node: NodeProto, data: int, graph: Graph) -> bool:
    """Whether `node`, which reads `data`, is the gain of a Layer- or GroupNormalization (or of batch statistics).

    The value it scales was divided by a root of something computed: x / sqrt(...), or x * (1 / sqrt(...)). Moving that
    gain elsewhere would break the patterns by which runtimes recognize those normalizations.
    """
    if _scales_groups(node, data, graph):
        return True
    maker = graph.producer(node.input[data])
    if (
        maker is not None and maker.op_type == "Reciprocal" and maker.input
    ):  # 1 / sqrt(...), with the gain in front of x
        root = graph.producer(maker.input[0])
        return root is not None and root.op_type == "Sqrt"
    if maker is None or maker.op_type not in ("Div", "Mul"):
        return False
    roots = (graph.producer(value) for value in maker.input)
    return any(root is not None and root.op_type in ("Sqrt", "Reciprocal", "Pow") for root in roots)
