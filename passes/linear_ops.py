"""Table 2: linear operators that can absorb a per-channel map into their constants, at their output or at their input.

At the output y -> k y + t scales the weights of each output channel and the bias. At the input x -> k x + t scales the
weights of each input channel, and the shift becomes part of the bias: exact only where no zero padding is read.
"""

import numpy as np
from onnx import NodeProto

from bnfold.decisions import Reason, Refused
from bnfold.graph import DEFAULT_DOMAINS, Graph, attribute, number, numbers
from bnfold.passes.affine import Affine, Array, Vector
from bnfold.passes.affine_ops import as_constant, is_transparent, stored_scale
from bnfold.passes.step import (
    Handler,
    NewAttribute,
    NewConstant,
    Step,
    known_rank,
    optional_constant_input,
    pads_with_zeros,
    stored_vector,
    vectors,
)
from bnfold.passes.weights import Weight, read_weight


def new_bias(node: NodeProto, scale: Vector, shift: Vector, dtype: np.dtype, graph: Graph) -> list[NewConstant]:
    """b' = k b + t at input 2, where an absent or empty bias is zero; nothing where it stays absent."""
    bias = optional_constant_input(node, 2, graph, Reason.BIAS_NOT_CONSTANT)
    if bias is None:
        return [NewConstant(node, 2, stored_vector(shift, dtype))] if shift.any() else []
    if bias.shape != shift.shape:
        raise Refused(Reason.WEIGHT_SHAPE, f"bias {node.input[2]!r} has shape {list(bias.shape)}")
    return [NewConstant(node, 2, stored_vector(scale * bias.exact() + shift, bias.dtype))]


def _kernel(node: NodeProto, graph: Graph) -> Weight:
    """The weight of a convolution."""
    weight = read_weight(node, 1, graph)
    if len(weight.shape) < 3 or 0 in weight.shape:
        raise Refused(Reason.WEIGHT_SHAPE, f"{node.input[1]!r} has shape {list(weight.shape)}")
    return weight


def _matrix(node: NodeProto, graph: Graph) -> Weight:
    """The weight of a Gemm."""
    weight = read_weight(node, 1, graph)
    if len(weight.shape) != 2:
        raise Refused(Reason.WEIGHT_SHAPE, f"{node.input[1]!r} has shape {list(weight.shape)}")
    return weight


def _group(node: NodeProto, divided: int, graph: Graph) -> int:
    group = number(node, "group", 1)
    if group < 1 or divided % group:
        raise Refused(Reason.WEIGHT_SHAPE, f"{graph.known_as(node)} has group {group} and {divided} channels")
    return group


# ---------------------------------------------------------------------- at the output


def output_conv(node: NodeProto, _output: int, affine: Affine, graph: Graph) -> list[Step]:
    """W is [Cout, Cin/g, *kernel]: W'[o] = k_o W[o], b' = k b + t. The group is irrelevant, as long as it is one.

    Sound for every stride, dilation and padding: the bias reaches each output position once.
    """
    weight = _kernel(node, graph)
    _group(node, weight.shape[0], graph)
    scale, shift = vectors(affine, 1, weight.shape[0], node, graph)
    scaled = weight.scaled(affine, scale, (0,))
    return [scaled.also(new_bias(node, scale, shift, weight.dtype, graph))]


def output_conv_transpose(node: NodeProto, _output: int, affine: Affine, graph: Graph) -> list[Step]:
    """W is [Cin, Cout/g, *kernel]: output channel c is column c % (Cout/g) of the rows of group c // (Cout/g).

    Sound for every group, stride, dilation and output_padding: the bias reaches each output position once.
    """
    weight = _kernel(node, graph)
    shape = weight.shape
    group = _group(node, shape[0], graph)
    scale, shift = vectors(affine, 1, shape[1] * group, node, graph)
    scaled = weight.scaled(affine, _by_row(scale, group, shape), (0, 1))
    return [scaled.also(new_bias(node, scale, shift, weight.dtype, graph))]


def _by_row(numbers_: Array, group: int, shape: tuple[int, ...]) -> Array:
    """A number for each column of each group, for a whole weight of that shape: [rows, n], or [1, n] of one group."""
    columns = numbers_.reshape(group, shape[1])
    return columns if group == 1 else np.repeat(columns, shape[0] // group, axis=0)


def output_gemm(node: NodeProto, _output: int, affine: Affine, graph: Graph) -> list[Step]:
    """Y = alpha A' B' + beta C: the columns of B' take k, and C' = k (beta C) + t with beta := 1."""
    weight = _matrix(node, graph)
    columns = 0 if number(node, "transB", 0) else 1
    scale, shift = vectors(affine, 1, weight.shape[columns], node, graph)
    scaled = weight.scaled(affine, scale, (columns,))
    return [_with_gemm_bias(node, scaled, scale, shift, weight.dtype, graph)]


def _with_gemm_bias(
    node: NodeProto,
    scaled: Step,
    scale: Array,
    shift: Array,
    dtype: np.dtype,
    graph: Graph,
) -> Step:
    """C' = scale (beta C) + shift, where C may be absent, a scalar, [N], [1, N], [M, 1] or [M, N]."""
    bias = optional_constant_input(node, 2, graph, Reason.BIAS_NOT_CONSTANT)
    if bias is None and not shift.any():
        return scaled
    if bias is not None and (len(bias.shape) > 2 or bias.shape[-1:] not in ((), (1,), shift.shape)):
        raise Refused(Reason.NOT_BROADCASTABLE, f"{node.input[2]!r} has shape {list(bias.shape)}")
    old = 0.0 if bias is None else number(node, "beta", 1.0) * bias.exact()
    values = scale * old + shift
    new = NewConstant(node, 2, stored_vector(values, dtype if bias is None else bias.dtype))
    attributes = [NewAttribute(node, "beta", 1.0)] if number(node, "beta", 1.0) != 1.0 else []
    if graph.opset < 7:
        attributes.append(NewAttribute(node, "broadcast", 1))
    return scaled.also([new], attributes)


def output_matmul(node: NodeProto, _output: int, affine: Affine, graph: Graph) -> list[Step]:
    """A constant right operand [..., K, N] has the map on the last axis of the output, a left one [..., M, K] on the
    last but one, or on the last where it meets a vector. MatMul has no bias: a shift needs an Add behind it.
    """
    index, weight = _matmul_weight(node, graph)
    placed = not affine.is_uniform or affine.has_shift
    rank = known_rank(graph, node.output[0]) if placed else 2
    own = len(weight.shape) - (1 if index == 1 else 2)
    last = index == 1 or (placed and known_rank(graph, node.input[1]) == 1)
    axis = rank - (1 if last else 2)
    scale, shift = vectors(affine, axis, weight.shape[own], node, graph)
    scaled = weight.scaled(affine, scale, (own,))
    add = stored_vector(_operand(shift, axis, rank), weight.dtype) if affine.has_shift else None
    return [scaled._replace(add=add)]


def _operand(vector: Vector, axis: int, rank: int) -> Array:
    """`vector` along `axis` as a constant operand for a value of `rank` dims."""
    return as_constant(vector.reshape((1,) * axis + (-1,)), rank)


def _matmul_weight(node: NodeProto, graph: Graph) -> tuple[int, Weight]:
    """Which operand is the constant, of rank 2 or more, and the constant."""
    if len(node.input) != 2:
        raise Refused(Reason.MALFORMED, graph.known_as(node))
    index = 1 if is_weight(node.input[1], graph) else 0
    weight = read_weight(node, index, graph)
    if len(weight.shape) < 2 or graph.constant(node.input[1 - index]) is not None:
        raise Refused(Reason.WEIGHT_SHAPE, f"{node.input[index]!r} has shape {list(weight.shape)}")
    return index, weight


def is_bias_of_matmul(node: NodeProto, graph: Graph) -> bool:
    """Whether `node` adds a constant to what a MatMul makes: the only bias that one can have."""
    if node.op_type not in ("Add", "Sub") or len(node.input) != 2:
        return False
    computed = [value for value in node.input if graph.constant(value) is None]
    maker = graph.producer(computed[0]) if len(computed) == 1 else None
    while maker is not None and is_transparent(maker, graph):
        maker = graph.producer(maker.input[0])
    return maker is not None and maker.op_type == "MatMul" and maker.domain in DEFAULT_DOMAINS


def is_weight(value: str, graph: Graph) -> bool:
    """Whether `value` is constant, or dequantized from what is."""
    maker = graph.producer(value)
    if maker is not None and maker.op_type == "Transpose" and maker.input:
        maker = graph.producer(maker.input[0])
    return graph.constant(value) is not None or (maker is not None and maker.op_type == "DequantizeLinear")


# ---------------------------------------------------------------------- at the input


def input_conv(node: NodeProto, index: int, affine: Affine, graph: Graph) -> list[Step]:
    """W'[o,i] = W[o,i] k_ch and b'_o = b_o + sum over i and taps of W[o,i] t_ch, with ch = group(o) * Cin/g + i.

    A shift is sound only where no zero padding is read: every position then sees every tap.
    """
    require_data_input(node, index, graph)
    weight = _kernel(node, graph)
    shape = weight.shape
    group = _group(node, shape[0], graph)
    scale, shift = vectors(affine, 1, shape[1] * group, node, graph, "reads")
    if affine.has_shift and pads_with_zeros(node):
        raise Refused(Reason.PADDED_BORDER, graph.known_as(node))
    scaled = weight.scaled(affine, _by_row(scale, group, shape), (0, 1))
    if not affine.has_shift:
        return [scaled]
    taps = weight.tensor.sum(tuple(range(2, len(shape)))).reshape(shape[:2])
    shift = (taps * _by_row(shift, group, shape)).sum(axis=1)
    bias = new_bias(node, np.ones(shape[0]), shift, weight.dtype, graph)
    return [scaled.also(bias)]


def input_conv_transpose(node: NodeProto, index: int, affine: Affine, graph: Graph) -> list[Step]:
    """W is [Cin, Cout/g, *kernel]: row i takes k_i, always.

    A shift is sound only where every output position receives every tap exactly once: kernel 1 and stride 1, with no
    padding of either kind. Then b' = b + sum over i of W[i] t_i.
    """
    require_data_input(node, index, graph)
    weight = _kernel(node, graph)
    shape = weight.shape
    group = _group(node, shape[0], graph)
    scale, shift = vectors(affine, 1, shape[0], node, graph, "reads")
    pointwise = all(size == 1 for size in (*shape[2:], *numbers(node, "strides")))
    padded = pads_with_zeros(node) or any(numbers(node, "output_padding")) or numbers(node, "output_shape")
    if affine.has_shift and (not pointwise or padded):
        reason = Reason.PADDED_BORDER if padded else Reason.SHIFT_BLOCKED
        raise Refused(reason, f"not every output position of {graph.known_as(node)} receives every tap once")
    scaled = weight.scaled(affine, scale, (0,))
    if not affine.has_shift:
        return [scaled]
    taps = weight.tensor.exact().reshape(group, shape[0] // group, shape[1])
    shift = (taps * shift.reshape(group, -1, 1)).sum(axis=1).reshape(-1)
    bias = new_bias(node, np.ones(shift.size), shift, weight.dtype, graph)
    return [scaled.also(bias)]


def input_gemm(node: NodeProto, index: int, affine: Affine, graph: Graph) -> list[Step]:
    """A = k x + t on the axis that is summed over: the rows of B' take k, C' = beta C + alpha (t B') with beta := 1."""
    require_data_input(node, index, graph)
    weight = _matrix(node, graph)
    rows = 1 if number(node, "transB", 0) else 0
    axis = 0 if number(node, "transA", 0) else 1
    scale, shift = vectors(affine, axis, weight.shape[rows], node, graph, "reads")
    scaled = weight.scaled(affine, scale, (rows,))
    if not affine.has_shift:
        return [scaled]
    shift = number(node, "alpha", 1.0) * weight.tensor.scaled(shift, rows).sum((rows,)).reshape(-1)
    return [_with_gemm_bias(node, scaled, np.ones(()), shift, weight.dtype, graph)]


def input_matmul(node: NodeProto, index: int, affine: Affine, graph: Graph) -> list[Step]:
    """The axis that is summed over: always exact. A shift comes out as t W, for whoever follows or for a new Add."""
    weight_index, weight = _matmul_weight(node, graph)
    require_data_input(node, index, graph, data=1 - weight_index)
    rank = known_rank(graph, node.input[index])
    if rank < 2:
        raise Refused(Reason.WEIGHT_SHAPE, f"{node.input[index]!r} has {rank} dim")
    summed = len(weight.shape) - (2 if index == 0 else 1)
    axis = rank - (1 if index == 0 else 2)
    scale, shift = vectors(affine, axis, weight.shape[summed], node, graph, "reads")
    scaled = weight.scaled(affine, scale, (summed,))
    if not affine.has_shift:
        return [scaled]
    if len(weight.shape) != 2:
        raise Refused(Reason.NOT_PER_CHANNEL, f"{node.input[weight_index]!r} has {len(weight.shape)} dims")
    shift = weight.tensor.scaled(shift, summed).sum((summed,)).reshape(-1)
    rest = Affine.along(np.ones(1), shift, axis)
    add = stored_vector(_operand(shift, axis, rank), weight.dtype)
    return [scaled._replace(passes_on=((0, rest),)), scaled._replace(add=add)]


def input_linear_model(node: NodeProto, index: int, affine: Affine, graph: Graph) -> list[Step]:
    """LinearClassifier and LinearRegressor of ai.onnx.ml: each row of W takes k_i at its feature i, and b' = b + W t.

    W and b are the attributes `coefficients`, a row for each class or target, and `intercepts`. Sound for every
    `post_transform`, which comes after the sums. Sources: ai.onnx.ml LinearClassifier-1, LinearRegressor-1.
    """
    require_data_input(node, index, graph)
    given = [attribute(node, name) for name in ("coefficients", "intercepts")]
    weight, bias = (np.asarray([] if each is None else each, np.float64) for each in given)
    rows = bias.size if node.op_type == "LinearClassifier" else number(node, "targets", 1)
    if rows < 1 or not weight.size or weight.size % rows or bias.size not in (0, rows):
        raise Refused(Reason.WEIGHT_SHAPE, f"{weight.size} coefficients of {graph.known_as(node)} for {rows} rows")
    if graph.dtype(node.input[0]) != np.float32:
        raise Refused(Reason.UNSUPPORTED_DTYPE, f"{graph.known_as(node)} reads {graph.dtype(node.input[0])}")
    weight = weight.reshape(rows, -1)
    scale, shift = vectors(affine, 1, weight.shape[1], node, graph, "reads")
    float32 = np.dtype(np.float32)
    new = [("coefficients", stored_scale(weight * scale, float32, weight))]
    if affine.has_shift:
        new.append(("intercepts", stored_vector((bias if bias.size else 0) + weight @ shift, float32)))
    attributes = [NewAttribute(node, name, tensor.numpy().reshape(-1).tolist()) for name, tensor in new]
    return [Step(attributes=tuple(attributes))]


def require_data_input(node: NodeProto, index: int, graph: Graph, *, data: int = 0) -> None:
    """Raise `Refused` where the value is read as a weight or bias instead of as data."""
    if index != data:
        raise Refused(Reason.WRONG_AXIS, f"{graph.known_as(node)} reads it as input {index}")


ABSORB_OUTPUT: dict[str, Handler] = {
    "Conv": output_conv,
    "ConvTranspose": output_conv_transpose,
    "Gemm": output_gemm,
    "MatMul": output_matmul,
}
ABSORB_INPUT: dict[str, Handler] = {
    "Conv": input_conv,
    "ConvTranspose": input_conv_transpose,
    "Gemm": input_gemm,
    "MatMul": input_matmul,
}
# Of the domain ai.onnx.ml.
ABSORB_INPUT_ML: dict[str, Handler] = {
    "LinearClassifier": input_linear_model,
    "LinearRegressor": input_linear_model,
}
