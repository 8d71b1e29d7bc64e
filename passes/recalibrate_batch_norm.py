"""recalibrate-batch-norm: a BatchNormalization gets a mean and a variance that were computed elsewhere.

y = scale (x - mean) / sqrt(variance + epsilon) + B with the new statistics, in inference mode. Another function on
purpose. Where the model computed its statistics from the batch, what computed them goes.
"""

from collections.abc import Mapping
from dataclasses import field
from typing import Final

import numpy as np
from onnx import NodeProto

from bnfold.decisions import Action, Decision, Reason, Refused
from bnfold.graph import FLOATS, Graph, Model, Tensor, number
from bnfold.passes.freeze_batch_norm import dtype_of, require_unread_statistics, set_inference_mode
from bnfold.passes.normalization import is_batch_norm, require_whole
from bnfold.passes.protocol import Preserves
from bnfold.passes.step import stored_vector
from bnfold.records import Record
from bnfold.statistics import Statistics


class RecalibrateBatchNormOptions(Record):
    """The new statistics by scope and label."""

    statistics: Mapping[tuple[str, str], Statistics] = field(default_factory=dict)


class RecalibrateBatchNorm:
    """Give BatchNormalizations new statistics."""

    name: Final = "recalibrate-batch-norm"
    preserves: Final = Preserves.EVALUATION

    def __init__(self, options: RecalibrateBatchNormOptions | None = None) -> None:
        self.options = options or RecalibrateBatchNormOptions()

    def run(self, model: Model) -> list[Decision]:
        """Edit `model`; one decision for each BatchNormalization that has new statistics."""
        decisions: list[Decision] = []
        for graph in model.graphs:
            for node in graph.nodes():
                new = self.options.statistics.get((graph.scope, graph.label(node)))
                if new is None or not is_batch_norm(node):
                    continue
                action, reason, detail = Action.RECALIBRATED, None, ""
                try:
                    _set_statistics(node, new, graph)
                except Refused as refused:
                    action, reason, detail = Action.KEPT, refused.reason, refused.detail
                decision = Decision(graph.label(node), node.op_type, graph.scope, action, (), reason, detail)
                decisions.append(decision)
        return decisions


def require_recalibratable(node: NodeProto, graph: Graph) -> np.dtype:
    """The dtype that new statistics of `node` are stored in. Raises `Refused` where it cannot be given any."""
    require_whole(node)
    if not number(node, "spatial", 1):
        raise Refused(Reason.SPATIAL_ZERO)
    require_unread_statistics(node, graph)
    for value in node.input[3:]:
        if graph.is_overridable(value):
            raise Refused(Reason.OVERRIDABLE_PARAMETER, repr(value))
    for value in (node.input[3], node.input[1], node.input[0]):
        dtype = dtype_of(value, graph)
        if dtype is not None:
            if dtype not in FLOATS:
                raise Refused(Reason.UNSUPPORTED_DTYPE, f"{value!r} is {dtype}")
            return dtype
    raise Refused(Reason.SHAPE_UNKNOWN, f"dtype of {node.input[3]!r}")


def _set_statistics(node: NodeProto, new: Statistics, graph: Graph) -> None:
    dtype = require_recalibratable(node, graph)
    # Rounded now, so that folding at once is folding what would have been stored.
    tensors = [Tensor.of(stored_vector(values, dtype).numpy(), dtype) for values in (new.mean, new.variance)]
    replaced = list(node.input[3:5])
    for index, tensor in enumerate(tensors, start=3):
        graph.set_constant(node, index, tensor, suffix="recalibrated")
    set_inference_mode(node, graph)
    for value in replaced:
        _remove_unread(value, graph)


def _remove_unread(value: str, graph: Graph) -> None:
    """Take out what computed a statistic that nothing reads any more."""
    waiting = [(graph, value)]
    while waiting:
        scope, value = waiting.pop()
        maker = scope.producer(value)
        if maker is None:
            continue
        home = graph.model.owner(maker)
        if any(home.consumers(output) or home.is_output(output) for output in maker.output):
            continue
        waiting.extend((home, operand) for operand in maker.input)
        home.remove(maker)
