"""How much work running a model once is, roughly, from its structure alone: the same on every machine."""

import math

from onnx import ModelProto, NodeProto

from bnfold.equivalence.structure.signature import every_node, signature_of

LARGE = 1_000_000_000
"""Multiplications from which creating a session and running it takes so long that each further run counts."""
_UNKNOWN_SIDE = 32
_LARGE_WEIGHTS = 10_000_000
_SHRINK = 16
"""By how much a network's maps are smaller than its input, on average over its weights."""


def is_large(model: ModelProto) -> bool:
    """Whether running the model, or loading its weights, is large."""
    weights = {tensor.name: math.prod(tensor.dims) for tensor in model.graph.initializer}
    return sum(weights.values()) >= _LARGE_WEIGHTS or _products(model, weights) >= LARGE


def _products(model: ModelProto, weights: dict[str, int]) -> int:
    """Each weight of a convolution once per position of a map, any other once per row."""
    positions = max(1, _positions(model) // _SHRINK)
    return sum(
        weights[name] * (positions if _slides(node) else 1)
        for node in every_node(model.graph)
        for name in node.input
        if name in weights
    )


def _positions(model: ModelProto) -> int:
    """Of the largest input, without batch and channels."""
    sizes = [
        math.prod(dim if isinstance(dim, int) and dim > 0 else _UNKNOWN_SIDE for dim in port.dims[2:])
        for port in signature_of(model).inputs
        if port.dims is not None
    ]
    return max(sizes, default=1)


def _slides(node: NodeProto) -> bool:
    return node.op_type in {"Conv", "ConvTranspose", "ConvInteger", "QLinearConv", "DeformConv", "MatMul"}
