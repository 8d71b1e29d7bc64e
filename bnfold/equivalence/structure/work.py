"""The work of a model, estimated from its structure alone: the same on every machine.

The unit is a multiplication of a large product, which a core does some ten billions of in a second. What else takes
time is counted as so many of them: a node that is set up or run, a number that is loaded, moved or compared.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, numpy_helper

from bnfold.equivalence.structure.signature import every_node_by_dataflow, signature_of
from bnfold.onnxfile import payload_index

HEAVY_ELEMENTS = 50_000
"""Values in all inputs together from which on a model is fed little at a time."""
_LOADED_WEIGHT, _SET_UP_NODE = 200, 2_000_000
_RUN_NODE, _ELEMENT, _MEASURED_ELEMENT = 200_000, 10, 200
_UNKNOWN_SIZE = 32
_MOST_WALKED = 4_000
"""Nodes of a model that is looked at one by one."""


class Work(NamedTuple):
    """`session`: of making one. `run`: of running it once at batch 1, and measuring it."""

    session: float = 0.0
    run: float = 0.0

    @property
    def both_once(self) -> float:
        """Two such models, each with a session of its own that runs once."""
        return 2 * (self.session + self.run)


def work_of(model: ModelProto) -> Work:
    """The estimate. Sizes that nothing tells count as 32."""
    nodes = list(every_node_by_dataflow(model.graph))
    walk = _Walk(model)
    loaded = sum(walk.weights.values())
    if len(nodes) <= _MOST_WALKED:
        for node in nodes:
            walk.add(node)
    else:  # to look at all of them would take longer than what they do
        walk.products = float(loaded)
    session = _LOADED_WEIGHT * loaded + _SET_UP_NODE * len(nodes)
    measured = sum(walk.size(value.name) for value in model.graph.output)
    run = walk.products + _ELEMENT * walk.elements + _MEASURED_ELEMENT * measured + _RUN_NODE * len(nodes)
    return Work(session, run)


class _Walk:
    """The positions of each value beside batch and channels, and the multiplications on the way."""

    def __init__(self, model: ModelProto) -> None:
        self.tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self.weights = {name: math.prod(tensor.dims) for name, tensor in self.tensors.items()}
        self.products = self.elements = 0.0
        self._declared = {info.name: info for info in model.graph.value_info}
        self._positions: dict[str, float] = {}
        self._channels: dict[str, int] = {}
        for port in signature_of(model).inputs:
            dims = [dim if isinstance(dim, int) and dim > 0 else _UNKNOWN_SIZE for dim in port.dims or ()]
            self._positions[port.name] = _positions(dims)

    def add(self, node: NodeProto) -> None:
        """Count one node, whose operands were counted before."""
        if not node.output:
            return
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    self.tensors[node.output[0]] = attribute.t
                    self.weights[node.output[0]] = math.prod(attribute.t.dims)
            return
        data = [name for name in node.input if name and name not in self.weights]
        if not data:
            return
        before = max(self._positions.get(name, 1.0) for name in data)
        after = max(1.0, before * self._growth(node))
        declared = self._declared.get(node.output[0])
        if declared is not None and (dims := _dims_of(declared)) is not None:
            after = _positions(dims)
        weight = next((name for name in node.input[1:] if name in self.weights), "")
        if (rule := _LINEAR.get(node.op_type)) is not None and weight:
            self.products += self.weights[weight] * (after if rule == "out" else before)
            dims = list(self.tensors[weight].dims)
            channels = (dims[0] if rule == "out" else dims[-1] if len(dims) == 2 else dims[1]) if len(dims) > 1 else 1
        else:
            channels = max(self._channels.get(name, 1) for name in data)
        self.elements += channels * after
        for name in node.output:
            self._positions[name], self._channels[name] = after, channels

    def size(self, value: str) -> float:
        """The number of elements of a value."""
        return self._positions.get(value, 1.0) * self._channels.get(value, 1)

    def _growth(self, node: NodeProto) -> float:
        """By how much an operator changes the number of positions."""
        match node.op_type:
            case "Conv" | "MaxPool" | "AveragePool" | "LpPool" | "QLinearConv" | "ConvInteger":
                return 1 / _strides(node)
            case "ConvTranspose":
                return _strides(node)
            case "GlobalAveragePool" | "GlobalMaxPool" | "Flatten":
                return 0.0
            case "Resize" | "Upsample":
                return self._scale(node)
            case "Reshape" if len(node.input) > 1 and node.input[1] in self.tensors:
                return 1.0 if self.weights[node.input[1]] > 2 else 0.0
        return 1.0

    def _scale(self, node: NodeProto) -> float:
        """By its scales, where the file holds them; else twice along two axes."""
        for attribute in node.attribute:
            if attribute.name == "scales":
                return math.prod(attribute.floats[2:])
        for name in node.input[1:]:
            tensor = self.tensors.get(name)
            if tensor is not None and tensor.data_type == TensorProto.FLOAT and payload_index(tensor) is None:
                scales = numpy_helper.to_array(tensor)
                if scales.ndim == 1 and scales.size > 2 and np.isfinite(scales).all():
                    return float(np.prod(scales[2:].astype(np.float64)))
        return 4.0


_LINEAR: Mapping[str, str] = {
    **dict.fromkeys(("Conv", "QLinearConv", "ConvInteger", "DeformConv"), "out"),
    **dict.fromkeys(("ConvTranspose", "MatMul", "Gemm", "MatMulInteger", "QLinearMatMul", "LSTM", "GRU", "RNN"), "in"),
}
"""At the positions of which side each number of a weight is used once."""


def _positions(dims: list[int]) -> float:
    """Of a map all behind the channels; of three axes the channels may be either of the last two."""
    if len(dims) >= 4:
        return max(1.0, math.prod(dims[2:]))
    return float(max(dims[1:], default=1)) if len(dims) == 3 else 1.0


def _dims_of(info: ValueInfoProto) -> list[int] | None:
    shape = info.type.tensor_type.shape
    dims = [dim.dim_value for dim in shape.dim]
    return dims if len(dims) > 2 and all(dim > 0 for dim in dims[1:]) else None


def _strides(node: NodeProto) -> float:
    strides = next((list(each.ints) for each in node.attribute if each.name == "strides"), [])
    return float(math.prod(max(1, stride) for stride in strides))
