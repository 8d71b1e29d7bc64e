"""Gains and biases: constant maps that are no normalization, beside a linear operator that could take them up.

What stands beside one is a Conv, ConvTranspose, Gemm, or a MatMul by a weight, directly or across operators that only
lay the value out anew. The only bias that a MatMul can have, an Add behind it, is a part of that operator.
"""

from onnx import NodeProto

from bnfold.decisions import Reason, Refused
from bnfold.graph import DEFAULT_DOMAINS, Graph
from bnfold.passes import linear_ops
from bnfold.passes.runs import Run

BETWEEN = frozenset(
    ("Identity", "Dropout", "Cast", "CastLike", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze")
)
"""What may lie between a gain or a bias and the linear operator beside it."""

_MOST_BETWEEN = 16
# Why an Add or Mul cannot be read as a map although it is one for all that is known.
_UNREAD = frozenset({Reason.SHAPE_UNKNOWN, Reason.CONSTANT_DISPUTED, Reason.OVERRIDABLE_PARAMETER, Reason.NOT_FINITE})


def beside_linear(run: Run, graph: Graph) -> Run | None:
    """What of `run` is a gain or bias beside a linear operator: all but the bias of a MatMul; None where nothing is."""
    if run.members and linear_ops.is_bias_of_matmul(run.first.node, graph):
        run = Run(run.members[1:])
    if not run.members:
        return None
    data = run.first.node.input[run.first.data]
    return run if _is_made_by_linear(data, graph) or _is_read_by_linear(run.output, graph) else None


def unread_beside_linear(node: NodeProto, refused: Refused, graph: Graph) -> Refused | None:
    """The reason for an operator beside a linear one that may be a gain or bias, where `refused` says why it is no map.

    None where it is surely none, or nothing linear stands beside it.
    """
    if len(node.input) != 2 or not node.output or linear_ops.is_bias_of_matmul(node, graph):
        return None
    if refused.reason is Reason.PARAMETER_NOT_CONSTANT:
        given = [value for value in node.input if graph.is_overridable(value) and _is_one_per_channel(value, graph)]
        refused = Refused(Reason.OVERRIDABLE_PARAMETER, repr(given[0])) if len(given) == 1 else refused
    if refused.reason not in _UNREAD:
        return None
    beside = any(_is_made_by_linear(value, graph) for value in node.input)
    return refused if beside or _is_read_by_linear(node.output[0], graph) else None


def _is_one_per_channel(value: str, graph: Graph) -> bool:
    shape = graph.shape(value)
    return shape is not None and sum(size != 1 for size in shape) <= 1


def _is_made_by_linear(value: str, graph: Graph) -> bool:
    for _ in range(_MOST_BETWEEN):
        maker = graph.producer(value)
        if maker is None or maker.domain not in DEFAULT_DOMAINS or not maker.input:
            return False
        if maker.op_type in linear_ops.ABSORB_OUTPUT:
            return _has_weight(maker, graph)
        if not (maker.op_type in BETWEEN or linear_ops.is_bias_of_matmul(maker, graph)):
            return False
        computed = [operand for operand in maker.input if graph.constant(operand) is None]
        value = maker.input[0] if maker.op_type in BETWEEN else computed[0]
    return False


def _is_read_by_linear(value: str, graph: Graph) -> bool:
    waiting = [value]
    for _ in range(_MOST_BETWEEN):
        if not waiting:
            return False
        for use in graph.readers(waiting.pop()):
            node = use.node
            if node.domain not in DEFAULT_DOMAINS or not node.output:
                continue
            if node.op_type in linear_ops.ABSORB_INPUT:
                if (use.position == 0 or node.op_type == "MatMul") and _has_weight(node, use.graph):
                    return True
            elif node.op_type in BETWEEN and use.position == 0 and use.graph is graph:
                waiting.append(node.output[0])
    return False


def _has_weight(node: NodeProto, graph: Graph) -> bool:
    """Whether a linear operator is one: a MatMul of two computed values is none."""
    return node.op_type != "MatMul" or any(
        linear_ops.is_weight(value, graph) or graph.is_overridable(value) for value in node.input
    )
