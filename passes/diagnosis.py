"""Symptoms of a normalization, with stable codes, diagnosed before anything is done with it.

Nothing here decides what a pass does; the passes refuse by `Reason`, and these say what went wrong earlier.
"""

import numpy as np
from onnx import NodeProto

from bnfold.decisions import Diagnosis, Refused
from bnfold.graph import Graph
from bnfold.passes.assume_spatial import has_meaningless_spatial_zero
from bnfold.passes.classification import (
    Kind,
    classify,
    find_disguise,
    has_initial_statistics,
    has_lost_statistics,
    is_dropout,
    is_in_train_mode,
)
from bnfold.passes.normalization import is_batch_norm, read_parameters

ACTIVATIONS = frozenset(
    {"Celu", "Clip", "Elu", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "PRelu", "Relu", "Selu"}
    | {"Sigmoid", "Softplus", "Softsign", "Swish", "Tanh", "ThresholdedRelu"}
)
_TRANSPARENT = frozenset({"Identity", "Dropout", "Cast"})
_LARGE_GAIN = 10.0


def diagnose(node: NodeProto, graph: Graph) -> dict[Diagnosis, str]:
    """The symptoms of a BatchNormalization or Dropout, each with a detail ("" where there is nothing to add)."""
    if is_dropout(node):
        return {Diagnosis.EXPORTED_IN_TRAINING_MODE: "Dropout"} if is_in_train_mode(node, graph) else {}
    if not is_batch_norm(node):
        return {Diagnosis.BATCH_STATISTICS: ""} if find_disguise(node, graph) is not None else {}
    try:
        kind = classify(node, graph)
    except Refused:  # its mode is decided by the caller of a function, or an operand is missing
        return {}
    found: dict[Diagnosis, str] = {}
    if kind in (Kind.TRAIN, Kind.NEVER_UPDATED):
        found[Diagnosis.EXPORTED_IN_TRAINING_MODE] = ""
        found.update(_one_value(node, graph))
    if kind is Kind.BATCH_STATISTICS:
        found[Diagnosis.BATCH_STATISTICS] = ""
        found.update(_one_value(node, graph))
    if kind in (Kind.TRAIN, Kind.NEVER_UPDATED, Kind.INFERENCE):
        found.update(_stored_statistics(node, graph))
    if has_meaningless_spatial_zero(node, graph):
        found[Diagnosis.SPATIAL_ZERO] = ""
    if is_quantized(node, graph):
        found[Diagnosis.QUANTIZED_BEFORE_FOLDING] = ""
    found.update(_behind_activation(node, graph))
    return found


def _stored_statistics(node: NodeProto, graph: Graph) -> dict[Diagnosis, str]:
    if has_lost_statistics(node, graph):
        return {Diagnosis.LOST_STATISTICS: ""}
    initial = {Diagnosis.INITIAL_STATISTICS: ""} if has_initial_statistics(node, graph) else {}
    return initial | _tiny_variance(node, graph)


def is_quantized(node: NodeProto, graph: Graph) -> bool:
    """Whether a BatchNormalization stands behind DequantizeLinear, and its scale too, or in front of QuantizeLinear."""
    makers = [None if maker is None else maker.op_type for maker in map(graph.producer, node.input[:2])]
    if makers[:1] != ["DequantizeLinear"]:
        return False
    readers = graph.readers(node.output[0]) if node.output else []
    between = bool(readers) and all(use.node.op_type == "QuantizeLinear" and use.position == 0 for use in readers)
    return between or makers[1:] == ["DequantizeLinear"]


def _one_value(node: NodeProto, graph: Graph) -> dict[Diagnosis, str]:
    """Certain where every dim but the channels is 1; at a batch of one image where the batch is dynamic."""
    shape = graph.shape(node.input[0])
    if not shape or any(dim != 1 for dim in shape[2:]):
        return {}
    if shape[0] == 1:
        return {Diagnosis.ONE_VALUE_PER_CHANNEL: "at its fixed shape"}
    return {} if isinstance(shape[0], int) else {Diagnosis.ONE_VALUE_PER_CHANNEL: "at batch size 1"}


def _tiny_variance(node: NodeProto, graph: Graph) -> dict[Diagnosis, str]:
    try:
        constants = read_parameters(node, graph)
    except Refused:
        return {}
    with np.errstate(all="ignore"):
        gain = np.abs(constants.scale) / constants.deviation
    channels = (constants.variance < constants.epsilon) & (gain >= _LARGE_GAIN)
    if not channels.any():
        return {}
    worst = float(gain[channels].max())
    detail = f"{int(channels.sum())} of {channels.size} channels, by up to {worst:.3g}"
    return {Diagnosis.TINY_VARIANCE: detail}


def _behind_activation(node: NodeProto, graph: Graph) -> dict[Diagnosis, str]:
    maker = graph.producer(node.input[0])
    while maker is not None and maker.op_type in _TRANSPARENT and maker.input:
        maker = graph.producer(maker.input[0])
    if maker is None:
        return {}
    gate = maker.op_type == "Mul" and any(
        (other := graph.producer(value)) is not None and other.op_type in ("Sigmoid", "HardSigmoid", "Tanh")
        for value in maker.input
    )
    if maker.op_type not in ACTIVATIONS and not gate:
        return {}
    return {Diagnosis.BEHIND_ACTIVATION: f"{maker.op_type} {graph.label(maker)}"}
