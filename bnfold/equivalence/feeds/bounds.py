"""The bounds of a model: the numbers that it compares with or cuts off at, below which nothing of that shows."""

import math
from collections.abc import Iterator

import numpy as np
from onnx import ModelProto, TensorProto, numpy_helper

from bnfold.equivalence.structure.signature import every_node
from bnfold.onnxfile import payload_index

_CUTS = {"Clip", "Min", "Max", "Less", "Greater", "LessOrEqual", "GreaterOrEqual", "ThresholdedRelu", "Shrink"}
_LEAST, _LARGEST = 4.0, 1e6
"""Smaller bounds are met by every feed; larger ones are masks, and so is what a model writes for infinity."""
_MOST = 3


def bounds(*models: ModelProto) -> tuple[float, ...]:
    """The largest few distances from zero at which one of the models cuts off or compares, the largest first."""
    found = {abs(value) for model in models for value in _bounds(model)}
    return tuple(sorted((value for value in found if _LEAST < value <= _LARGEST), reverse=True)[:_MOST])


def _bounds(model: ModelProto) -> Iterator[float]:
    stored: dict[str, float] = {}
    for tensor in model.graph.initializer:
        _note(stored, tensor.name, tensor)
    for node in every_node(model.graph):
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    _note(stored, node.output[0], attribute.t)
                elif attribute.name == "value_float":
                    stored[node.output[0]] = attribute.f
        elif node.op_type in {"Identity", "Cast", "CastLike"} and node.input and node.input[0] in stored:
            stored[node.output[0]] = stored[node.input[0]]
        elif node.op_type in _CUTS:
            yield from (
                attribute.f for attribute in node.attribute if attribute.name in {"min", "max", "alpha", "lambd"}
            )
            yield from (stored[name] for name in node.input if name in stored)


def _note(stored: dict[str, float], name: str, tensor: TensorProto) -> None:
    """The largest number of a small stored tensor, where it is finite."""
    if payload_index(tensor) is None and tensor.data_type != TensorProto.STRING and 0 < math.prod(tensor.dims) <= 64:
        largest = float(np.abs(numpy_helper.to_array(tensor).astype(np.float64)).max())
        if math.isfinite(largest):
            stored[name] = largest
