"""freeze-batch-norm: what was exported in training mode becomes the inference graph its author meant.

y = scale (x - stored mean) / sqrt(stored variance + epsilon) + B instead of the statistics of the batch. Sound, as a
change of meaning that evaluation asks for, where the statistics are constant, were updated by training, and nothing
reads what the operator made of them. Two kinds keep their function exactly: constant data is evaluated, and a
BatchNormalization over one row between two Reshapes is written as the InstanceNormalization it is. Dropout lets
everything through in evaluation, and goes.
"""

from fnmatch import fnmatchcase
from typing import Final, NamedTuple

import numpy as np
from onnx import NodeProto

from bnfold.decisions import Action, Decision, Reason, Refused
from bnfold.graph import FLOATS, Graph, Model, Tensor, number
from bnfold.passes.classification import (
    Kind,
    are_batch_statistics,
    classify,
    dropout_mode,
    find_disguise,
    is_dropout,
)
from bnfold.passes.normalization import DEFAULT_EPSILON, Mode, is_batch_norm, mode, read_parameters
from bnfold.passes.protocol import Preserves
from bnfold.passes.step import constant_input, stored_vector
from bnfold.records import Record

# Operators that depend on the mode, and those that batch statistics written in operators end with.
_LOOKED_AT = ("BatchNormalization", "Dropout", "Div", "Mul")


class FreezeBatchNormOptions(Record):
    """`keep`: shell patterns of node names that stay. `keep_dropout`: Dropout goes on dropping (Monte-Carlo dropout).

    `accept_initial_statistics`: freeze also where the stored mean is 0 and the variance 1 everywhere.
    """

    keep: tuple[str, ...] = ()
    keep_dropout: bool = False
    accept_initial_statistics: bool = False


class FreezeBatchNorm:
    """Give every BatchNormalization and Dropout in training mode the meaning it has in evaluation."""

    name: Final = "freeze-batch-norm"
    preserves: Final = Preserves.EVALUATION

    def __init__(self, options: FreezeBatchNormOptions | None = None) -> None:
        self.options = options or FreezeBatchNormOptions()

    def run(self, model: Model) -> list[Decision]:
        """Edit `model`; one decision per BatchNormalization and Dropout that is not in inference mode."""
        decisions: list[Decision] = []
        for graph in model.graphs:
            for node in graph.nodes_of(_LOOKED_AT):
                try:
                    decision = self._decide(node, graph)
                except Refused as refused:
                    reason, detail = refused.reason, refused.detail
                    decision = _decision(node, graph, Action.KEPT, reason=reason, detail=detail)
                if decision is not None:
                    decisions.append(decision)
        return decisions

    def _decide(self, node: NodeProto, graph: Graph) -> Decision | None:
        if not is_batch_norm(node):
            return self._dropout(node, graph) if is_dropout(node) else _disguised(node, graph)
        kind = classify(node, graph)
        if kind is Kind.INFERENCE:
            return None
        if any(fnmatchcase(graph.label(node), pattern) for pattern in self.options.keep):
            raise Refused(Reason.KEPT_ON_REQUEST)
        if kind is Kind.BATCH_STATISTICS:
            return _with_batch_statistics(node, graph)
        require_unread_statistics(node, graph)
        if kind is Kind.CONSTANT_DATA:
            return _evaluate(node, graph)
        if kind is Kind.WRAPPED_INSTANCE_NORM:
            return _as_instance_norm(node, graph)
        read_parameters(node, graph)
        if kind is Kind.NEVER_UPDATED and not self.options.accept_initial_statistics:
            raise Refused(Reason.INITIAL_STATISTICS)
        set_inference_mode(node, graph)
        return _decision(node, graph, Action.FROZEN)

    def _dropout(self, node: NodeProto, graph: Graph) -> Decision | None:
        how = dropout_mode(node, graph)
        if how is Mode.INFERENCE or not node.input or not node.output or not node.output[0]:
            return None
        if self.options.keep_dropout or any(fnmatchcase(graph.label(node), pattern) for pattern in self.options.keep):
            raise Refused(Reason.KEPT_ON_REQUEST)
        if how is None:
            raise Refused(Reason.DECIDED_AT_RUN_TIME, f"{node.input[2]!r}")
        decision = _decision(node, graph, Action.REMOVED, detail="in evaluation it lets everything through")
        for toward_producer in (True, False):
            if not _read(node.output[1:], graph) and graph.can_bypass(node, toward_producer=toward_producer):
                graph.bypass(node, toward_producer=toward_producer)
                return decision
        if graph.opset < 7:
            graph.set_attribute(node, "is_test", 1)
        else:
            graph.set_input(node, 2, "")
        return _decision(node, graph, Action.FROZEN, detail="its output or mask is needed: it stays and does nothing")


def _disguised(node: NodeProto, graph: Graph) -> Decision | None:
    """The decision on batch statistics that are written in operators and end at `node`; None where none do."""
    disguise = find_disguise(node, graph)
    if disguise is None:
        return None
    how = "+".join(dict.fromkeys(each.op_type for each in (disguise.first, disguise.last)))
    return Decision(graph.label(node), how, graph.scope, Action.KEPT, reason=Reason.BATCH_STATISTICS)


def _with_batch_statistics(node: NodeProto, graph: Graph) -> Decision:
    """Keep the node; in training mode it may read the same statistics as stored ones, which every provider runs."""
    detail = ""
    if mode(node, graph) is Mode.TRAIN and not _read(node.output[1:], graph) and are_batch_statistics(node, graph):
        set_inference_mode(node, graph)
        detail = "it reads them in inference mode now, which is the same and which CUDA, OpenVINO and TensorRT run"
    return _decision(node, graph, Action.KEPT, reason=Reason.BATCH_STATISTICS, detail=detail)


def set_inference_mode(node: NodeProto, graph: Graph) -> None:
    """Let a BatchNormalization in training mode use its stored statistics, as its opset spells it."""
    if graph.opset < 7:
        graph.set_attribute(node, "is_test", 1)
    elif graph.opset >= 14:
        graph.set_attribute(node, "training_mode", 0)
    graph.drop_outputs(node)


def require_unread_statistics(node: NodeProto, graph: Graph) -> None:
    """Raise `Refused` where something reads an output of `node` other than the first: that contract is kept."""
    read = _read(node.output[1:], graph)
    if read:
        raise Refused(Reason.STATISTICS_READ, ", ".join(map(repr, read)))


def dtype_of(value: str, graph: Graph) -> np.dtype | None:
    """The dtype of a stored or computed value, or None where it is unknown."""
    tensor = graph.constant(value)
    return graph.dtype(value) if tensor is None else tensor.dtype


def _read(outputs: list[str], graph: Graph) -> list[str]:
    return [output for output in outputs if graph.consumers(output) or graph.is_output(output)]


def _evaluate(node: NodeProto, graph: Graph) -> Decision:
    """Constant data: normalize it here, in float64 with the population statistics of the data, rounded once."""
    data, scale, bias = (constant_input(node, index, graph, Reason.PARAMETER_NOT_CONSTANT) for index in range(3))
    output = node.output[0]
    if not number(node, "spatial", 1):
        raise Refused(Reason.SPATIAL_ZERO)
    if len(data.shape) < 2 or scale.shape != (data.shape[1],) or bias.shape != scale.shape:
        raise Refused(Reason.PARAMETER_SHAPE, f"data {list(data.shape)}, scale {list(scale.shape)}")
    if any(tensor.dtype not in FLOATS for tensor in (data, scale, bias)):
        raise Refused(Reason.UNSUPPORTED_DTYPE)
    if graph.is_output(output):
        raise Refused(Reason.VALUE_IS_OUTPUT, repr(output))
    values = data.exact()
    axes = tuple(axis for axis in range(values.ndim) if axis != 1)
    form = [-1 if axis == 1 else 1 for axis in range(values.ndim)]
    deviation = np.sqrt(values.var(axes) + number(node, "epsilon", DEFAULT_EPSILON))
    factor = (scale.exact() / deviation).reshape(form)
    normalized = (values - values.mean(axes, keepdims=True)) * factor + bias.exact().reshape(form)
    decision = _decision(node, graph, Action.FOLDED, detail="its data is constant, so it was evaluated")
    constant = graph.add_constant(stored_vector(normalized, data.dtype), f"{output}_evaluated", before=node)
    for use in list(graph.consumers(output)):
        graph.set_input(use.node, use.position, constant)
    graph.remove(node)
    return decision


def _as_instance_norm(node: NodeProto, graph: Graph) -> Decision:
    """One row in the batch: BatchNormalization over [1, C, ...] is InstanceNormalization with the same scale and B.

    Where the Reshape before it only moves N into C and the one behind it back, with N times the same scale and B, both
    go: InstanceNormalization over [N, C, ...] with that scale and B is the same again.
    """
    dtypes = {dtype_of(value, graph) for value in node.input[:3]} - {None}
    if len(dtypes) > 1:
        raise Refused(Reason.UNSUPPORTED_DTYPE, "InstanceNormalization has one dtype")
    if graph.opset < 6:
        raise Refused(Reason.OLD_OPSET, f"opset {graph.opset}")
    label, wrapped = graph.label(node), _wrapped(node, graph)
    data = node.input[0] if wrapped is None else wrapped.data
    made = NodeProto(op_type="InstanceNormalization", domain=node.domain, name=node.name, doc_string=node.doc_string)
    made.input.extend([data, *node.input[1:3]])
    made.attribute.extend(attribute for attribute in node.attribute if attribute.name == "epsilon")
    output = node.output[0] if wrapped is None else wrapped.behind.output[0]
    made.output.append(output)
    graph.remove(node)
    if wrapped is None:
        graph.insert(made, before=node)
    else:
        graph.remove(wrapped.behind)
        graph.remove(wrapped.before)
        graph.insert(made, before=node)
        for value in (wrapped.before.output[0], node.output[0]):
            graph.model.forget_value_info(graph, value)
        for index, tensor in ((1, wrapped.scale), (2, wrapped.bias)):
            graph.set_constant(made, index, tensor, suffix="once")
    detail = "between its Reshapes it is exactly an InstanceNormalization"
    return Decision(label, "BatchNormalization", graph.scope, Action.SUBSTITUTED, (graph.label(made),), detail=detail)


class _Wrapped(NamedTuple):
    """The Reshapes around a BatchNormalization, the value in front of them, and `scale` and `bias` of shape [C]."""

    before: NodeProto
    behind: NodeProto
    data: str
    scale: Tensor
    bias: Tensor


def _wrapped(node: NodeProto, graph: Graph) -> _Wrapped | None:
    """The Reshapes, where they go: [N, C, ...] to [1, N*C, ...] and back, with nothing else reading between.

    The one in front makes one row, as `classify` has seen, and the channels of that are as many as the parameters.
    """
    before, uses = graph.producer(node.input[0]), graph.consumers(node.output[0])
    if before is None or len(uses) != 1 or len(graph.consumers(before.output[0])) != 1:
        return None
    behind = uses[0].node
    if not behind.output:
        return None
    if {id(graph.model.owner(each)) for each in (before, behind)} != {id(graph)} or graph.is_output(before.output[0]):
        return None
    outer = graph.shape(before.input[0])
    if outer is None or outer != graph.shape(behind.output[0]) or len(outer) < 3:
        return None
    rows, channels = outer[:2]
    if not isinstance(rows, int) or not isinstance(channels, int) or None in outer:
        return None
    scale, bias = (_repeated(graph.constant(value), rows, channels) for value in node.input[1:3])
    if scale is None or bias is None:
        return None
    return _Wrapped(before, behind, before.input[0], scale, bias)


def _repeated(vector: Tensor | None, times: int, size: int) -> Tensor | None:
    """The first `size` elements, where the vector is constant and holds them `times` times."""
    if vector is None:
        return None
    values = vector.numpy()
    if values.shape != (times * size,) or not (values.reshape(times, size) == values[:size]).all():
        return None
    return Tensor.of(values[:size].copy(), vector.dtype)


def _decision(
    node: NodeProto, graph: Graph, action: Action, *, reason: Reason | None = None, detail: str = ""
) -> Decision:
    return Decision(graph.label(node), node.op_type, graph.scope, action, reason=reason, detail=detail)
