"""What a value is before the model runs: initializers, Constant nodes, and small expressions of those.

Exporters hide weights behind operators: Identity where two layers share one, Expand and CastLike where a bias is
missing, Transpose in front of a MatMul, ConstantOfShape instead of stored zeros.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper

from bnfold.decisions import Refused
from bnfold.graph.attributes import DEFAULT_DOMAINS, attribute, number
from bnfold.graph.tensor import FLOATS, Tensor
from bnfold.lifetime import emptied_at_the_end

if TYPE_CHECKING:
    from bnfold.graph.graph import Graph

# Expressions whose result would be larger are left to the runtime.
LARGEST_RESULT_BYTES = 64 << 20
# A repeated number costs no memory here, only bytes in the output.
LARGEST_BROADCAST_BYTES = 1 << 30
_DEEPEST = 32

# Evaluated in the dtype of the operands, as the runtime does.
_ARITHMETIC: dict[str, np.ufunc] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "Pow": np.power,
    "Neg": np.negative,
    "Sqrt": np.sqrt,
    "Reciprocal": np.reciprocal,
}
# Their result is never larger than their operands together.
_REARRANGING = frozenset(
    {"Cast", "Concat", "Flatten", "ReduceMean", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"}
)


def evaluate(graph: "Graph", node: NodeProto, output: str, depth: int) -> Tensor | None:
    """The value of `output` of `node` where it is the same in every run, else None."""
    op_type = node.op_type
    if op_type not in _SUPPORTED or node.domain not in DEFAULT_DOMAINS:
        return None
    if depth > _DEEPEST or output != node.output[0]:
        return None
    try:
        if op_type == "Constant":
            return _constant_node(graph, node)
        if op_type == "CastLike":
            return _cast_like(graph, node, depth)
        operands = [graph.constant_at(name, depth + 1) for name in node.input]
        known = [operand for operand in operands if operand is not None]
        if len(known) < len(operands) or not known:
            return None
        return _EVALUATORS.get(op_type, _by_reference)(graph, node, known)
    except (Refused, IndexError, ValueError, TypeError):  # operands are missing, or of a kind that no runtime takes
        return None


def _constant_node(graph: "Graph", node: NodeProto) -> Tensor | None:
    for candidate in node.attribute:
        if candidate.name == "value" and not candidate.ref_attr_name:
            return graph.tensor_of(candidate.t) if candidate.HasField("t") else None
    for name, dtype in (("value_float", np.float32), ("value_int", np.int64)):
        for spelling in (name, name + "s"):
            value = attribute(node, spelling)
            if value is not None:
                return Tensor.of(np.asarray(value, dtype), np.dtype(dtype))
    return None


def _cast_like(graph: "Graph", node: NodeProto, depth: int) -> Tensor | None:
    """The exporters' `CastLike(0.0, x)`: the number is known as soon as the dtype of x is."""
    if len(node.input) != 2:
        return None
    value = graph.constant_at(node.input[0], depth + 1)
    dtype = graph.dtype(node.input[1])
    if value is None or dtype is None or value.dtype not in FLOATS or dtype not in FLOATS:
        return None
    return Tensor.of(value.numpy().astype(dtype), dtype)


def _identity(_graph: "Graph", _node: NodeProto, operands: list[Tensor]) -> Tensor:
    return operands[0]


def _shape(_graph: "Graph", node: NodeProto, operands: list[Tensor]) -> Tensor | None:
    shape = operands[0].shape
    end = attribute(node, "end")
    part = shape[attribute(node, "start") or 0 : len(shape) if end is None else end]
    return Tensor.of(np.asarray(part, np.int64), np.dtype(np.int64))


def _constant_of_shape(graph: "Graph", node: NodeProto, operands: list[Tensor]) -> Tensor | None:
    value = attribute(node, "value")
    if value is not None and not isinstance(value, TensorProto):
        return None
    fill = np.zeros(1, np.float32) if value is None else graph.tensor_of(value).numpy()
    return _broadcast(fill.reshape(-1)[:1].reshape(()), operands[0])


def _expand(_graph: "Graph", _node: NodeProto, operands: list[Tensor]) -> Tensor | None:
    return _broadcast(operands[0].numpy(), operands[1])


def _broadcast(values: NDArray[Any], shape: Tensor) -> Tensor | None:
    if shape.dtype != np.int64 or len(shape.shape) != 1 or shape.size > 32:
        return None
    dims = [int(dim) for dim in shape.numpy()]
    if any(dim < 0 for dim in dims) or math.prod(dims) * values.dtype.itemsize > LARGEST_BROADCAST_BYTES:
        return None
    try:
        return Tensor.of(np.broadcast_to(values, np.broadcast_shapes(values.shape, tuple(dims))), values.dtype)
    except ValueError:
        return None


def _tile(_graph: "Graph", _node: NodeProto, operands: list[Tensor]) -> Tensor | None:
    """How exporters repeat the parameters of an InstanceNormalization for each row of the batch."""
    if len(operands) != 2 or operands[1].dtype != np.int64 or len(operands[0].shape) != operands[1].size:
        return None
    repeats = [int(count) for count in operands[1].numpy().reshape(-1)]
    if any(count < 0 for count in repeats) or operands[0].nbytes * math.prod(repeats) > LARGEST_RESULT_BYTES:
        return None
    return Tensor.of(np.tile(operands[0].numpy(), repeats), operands[0].dtype)


def _arithmetic(_graph: "Graph", node: NodeProto, operands: list[Tensor]) -> Tensor | None:
    dtype, function = operands[0].dtype, _ARITHMETIC[node.op_type]
    if node.attribute or len(operands) != function.nin:  # before opset 7 attributes say how to broadcast
        return None
    if dtype not in FLOATS or any(operand.dtype != dtype for operand in operands):
        return None
    try:
        shape = np.broadcast_shapes(*(operand.shape for operand in operands))
    except ValueError:
        return None
    if math.prod(shape) * dtype.itemsize > LARGEST_RESULT_BYTES:
        return None
    with np.errstate(all="ignore"):  # what is not finite is refused where it is used
        return Tensor.of(function(*(operand.numpy() for operand in operands)), dtype)


def _by_reference(graph: "Graph", node: NodeProto, operands: list[Tensor]) -> Tensor | None:
    from onnx.reference import ReferenceEvaluator

    if sum(operand.nbytes for operand in operands) > LARGEST_RESULT_BYTES:
        return None
    types = [
        helper.make_tensor_value_info(name, _element_type(t), t.shape)
        for name, t in zip(node.input, operands, strict=True)
    ]
    result = helper.make_empty_tensor_value_info(node.output[0])
    model = helper.make_model(
        helper.make_graph([node], "constant", types, [result]),
        opset_imports=[helper.make_opsetid("", graph.opset)],
    )
    feeds = {name: operand.numpy() for name, operand in zip(node.input, operands, strict=True)}
    try:
        (value,) = emptied_at_the_end(ReferenceEvaluator(model)).run(None, feeds)
    except Exception:  # noqa: BLE001 - whatever the reference cannot evaluate is no constant to us
        return None
    return Tensor.of(value, value.dtype) if isinstance(value, np.ndarray) else None


def _element_type(tensor: Tensor) -> int:
    return helper.np_dtype_to_tensor_dtype(tensor.dtype)


def _dequantized_bias(_graph: "Graph", node: NodeProto, operands: list[Tensor]) -> Tensor | None:
    """int32 behind a DequantizeLinear is a bias; quantized weights have fewer bits, and stay quantized."""
    integers, scale = operands[0], operands[1]
    if integers.dtype != np.int32 or len(integers.shape) != 1 or scale.dtype not in FLOATS or scale.size == 0:
        return None
    if any(operand.numpy().any() for operand in operands[2:]) or number(node, "block_size", 0):
        return None
    if scale.size != 1 and scale.shape != integers.shape:
        return None
    return Tensor.of((integers.numpy() * scale.numpy().reshape(-1)).astype(scale.dtype), scale.dtype)


_EVALUATORS: dict[str, Callable[["Graph", NodeProto, list[Tensor]], Tensor | None]] = {
    "Identity": _identity,
    "Shape": _shape,
    "ConstantOfShape": _constant_of_shape,
    "Expand": _expand,
    "DequantizeLinear": _dequantized_bias,
    "Tile": _tile,
    **dict.fromkeys(_ARITHMETIC, _arithmetic),
}
_SUPPORTED = frozenset(_EVALUATORS) | _REARRANGING | {"Constant", "CastLike"}
