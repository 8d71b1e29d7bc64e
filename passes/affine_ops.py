"""Table 1: operators that *are* a per-channel affine map, and how they take up another one.

BatchNormalization with stored statistics, and Mul, Add, Sub, Div by a constant, which is how TensorFlow, Keras, Paddle
and detection models write it. Constants align with the last axis, as broadcasting does: [C] is the last axis, [C,1,1]
axis 1 of four.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from bnfold.decisions import Reason, Refused
from bnfold.graph import DEFAULT_DOMAINS, FLOAT_TYPES, FLOATS, Graph, Tensor, attribute, number
from bnfold.passes.affine import IDENTITY, ChannelAffine
from bnfold.passes.classification import dropout_mode
from bnfold.passes.normalization import BatchNorm, Mode, read_batch_norm
from bnfold.passes.step import (
    Handler,
    NewConstant,
    Step,
    constant_input,
    known_rank,
    known_shape,
    require_axis,
    stored_vector,
)

_ML_DOMAIN = ("ai.onnx.ml",)


class AffineOp(NamedTuple):
    """One operator read as a map: of the value at input `data`."""

    node: NodeProto
    data: int
    affine: ChannelAffine


def read_affine(node: NodeProto, graph: Graph) -> AffineOp:
    """`node` as a per-channel map. Raises `Refused` where it is none, and KeyError where its operator never is."""
    return AFFINE_OPS[node.op_type](node, graph)


def is_affine_op(node: NodeProto) -> bool:
    """Whether the operator can be a per-channel map at all."""
    return node.op_type in AFFINE_OPS and node.domain in (_ML_DOMAIN if node.op_type == "Scaler" else DEFAULT_DOMAINS)


def is_transparent(node: NodeProto, graph: Graph) -> bool:
    """Whether the first output of `node` is its first input: Identity, a Cast to the type it has, inference Dropout."""
    if node.domain not in DEFAULT_DOMAINS or not node.input or not node.output:
        return False
    if node.op_type in ("Cast", "CastLike"):
        before, after = cast_dtypes(node, graph)
        return before is not None and before == after
    if node.op_type == "Dropout":
        unread = not any(graph.consumers(mask) or graph.is_output(mask) for mask in node.output[1:] if mask)
        return unread and dropout_mode(node, graph) is Mode.INFERENCE
    return node.op_type == "Identity"


def cast_dtypes(node: NodeProto, graph: Graph) -> tuple[np.dtype | None, np.dtype | None]:
    """The dtypes of what a Cast or CastLike reads and makes; None for one that is unknown, or no float to be scaled.

    The operator itself says what it makes, whatever the file says of its output.
    """
    if node.op_type == "Cast":
        made = FLOAT_TYPES.get(number(node, "to", 0))
    else:
        made = graph.dtype(node.input[1]) if len(node.input) > 1 else None
    read = graph.dtype(node.input[0])
    return read if read in FLOATS else None, made if made in FLOATS else None


def _batch_normalization(node: NodeProto, graph: Graph) -> AffineOp:
    return AffineOp(node, 0, read_batch_norm(node, graph).affine)


def _scaler(node: NodeProto, graph: Graph) -> AffineOp:
    """(x - offset) * scale for each feature of [N, C], or one number for all of any shape: ai.onnx.ml Scaler-1.

    Only where x is float32: it makes nothing else.
    """
    if len(node.input) != 1:
        raise Refused(Reason.MALFORMED, graph.label(node))
    given = (attribute(node, name) for name in ("offset", "scale"))
    offset, scale = (np.asarray([] if each is None else each, np.float64) for each in given)
    if offset.shape != scale.shape or not scale.size:
        raise Refused(Reason.PARAMETER_SHAPE, f"{offset.size} offsets and {scale.size} scales of {graph.label(node)}")
    if graph.dtype(node.input[0]) != np.float32:
        raise Refused(Reason.UNSUPPORTED_DTYPE, f"{graph.label(node)} makes float32 of {graph.dtype(node.input[0])}")
    shape = known_shape(graph, node.input[0]) if scale.size > 1 else ()
    if scale.size > 1 and (len(shape) != 2 or shape[1] != scale.size):
        raise Refused(Reason.NOT_PER_CHANNEL, f"{scale.size} scales for a value of shape {list(shape)}")
    return AffineOp(node, 0, ChannelAffine.of(scale, -offset * scale, len(shape) - 1 if shape else 0))


def _arithmetic(node: NodeProto, graph: Graph) -> AffineOp:
    """Sound where the constant is one number per channel and does not broadcast the other operand up."""
    index, tensor = constant_operand(node, graph)
    data = 1 - index
    numbers, axis = per_channel(tensor, node.input[data], graph)
    one, zero = np.ones(1), np.zeros(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        match node.op_type:
            case "Mul":
                affine = ChannelAffine.of(numbers, zero, axis)
            case "Add":
                affine = ChannelAffine.of(one, numbers, axis)
            case "Sub" if index == 1:
                affine = ChannelAffine.of(one, -numbers, axis)
            case "Sub":
                affine = ChannelAffine.of(-one, numbers, axis)
            case "Div" if index == 1:
                affine = ChannelAffine.of(1 / numbers, zero, axis)
            case _:  # c / x
                raise Refused(Reason.BARRIER, f"{graph.label(node)} divides a constant by its input")
    return AffineOp(node, data, affine)


def constant_operand(node: NodeProto, graph: Graph) -> tuple[int, Tensor]:
    """Which operand of a two-operand node is a constant, and the constant. Raises `Refused` unless exactly one is."""
    if len(node.input) != 2 or node.attribute:  # before opset 7 attributes say how to broadcast
        raise Refused(Reason.MALFORMED, graph.label(node))
    found = [(i, t) for i in (0, 1) if (t := graph.constant(node.input[i])) is not None]
    for value in node.input if not found else ():
        graph.require_undisputed(value)
    if len(found) != 1 or found[0][1].dtype not in FLOATS:
        raise Refused(Reason.PARAMETER_NOT_CONSTANT, f"an operand of {graph.label(node)}")
    return found[0]


def per_channel(tensor: Tensor, data: str, graph: Graph) -> tuple[NDArray[np.float64], int]:
    """The constant as one number per channel of value `data`, float64 of shape [C], and the channel axis.

    A constant of one element is uniform, on axis 0. Raises `Refused`.
    """
    large = [axis for axis, size in enumerate(tensor.shape) if size != 1]
    if not tensor.shape:
        return tensor.exact().reshape(1), 0
    if len(large) > 1:
        raise Refused(Reason.NOT_PER_CHANNEL, f"a constant of shape {list(tensor.shape)} on {data!r}")
    shape = known_shape(graph, data)
    axis = large[0] + len(shape) - len(tensor.shape) if large else 0
    if len(tensor.shape) > len(shape):
        raise Refused(Reason.NOT_PER_CHANNEL, f"a constant of shape {list(tensor.shape)} on {data!r}")
    if large and shape[axis] != tensor.size:
        reason = Reason.NOT_PER_CHANNEL if isinstance(shape[axis], int) else Reason.SHAPE_UNKNOWN
        raise Refused(reason, f"dim {axis} of {data!r} and a constant of shape {list(tensor.shape)}")
    return tensor.exact().reshape(-1), axis


def as_constant(vector: NDArray[np.float64], axis: int, rank: int) -> NDArray[np.float64]:
    """`vector` as a constant operand for a value of `rank` dims: shape [C, 1, ..., 1], or [] for one number."""
    return vector.reshape(()) if vector.size == 1 else vector.reshape(-1, *[1] * (rank - axis - 1))


def stored_scale(new: NDArray[np.float64], dtype: np.dtype, old: NDArray[np.float64] | None = None) -> Tensor:
    """Factors as a tensor of `dtype`. Raises `Refused` where one is infinite there, or falls below the normal range.

    A factor that lay below that range in the `old` ones, of a shape that broadcasts with `new`, may stay there.
    """
    stored = stored_vector(new, dtype)
    smallest = FLOATS[dtype].smallest_normal
    lost = (new != 0) & (np.abs(new) < smallest)
    if old is not None:
        lost = lost & (np.abs(old) >= smallest)
    if lost.any():
        raise Refused(Reason.WEIGHT_UNDERFLOW, f"{np.abs(new)[new != 0].min():.4g} in {dtype}")
    return stored


# ---------------------------------------------------------------------- taking up another map, at the output


def output_batch_normalization(node: NodeProto, _output: int, affine: ChannelAffine, graph: Graph) -> list[Step]:
    """k (s x + b) + t: scale and B take it up, the statistics stay."""
    require_axis(affine, 1, node, graph)
    batch_norm = read_batch_norm(node, graph)
    return [_new_parameters(node, batch_norm, batch_norm.affine.then(affine))]


def input_batch_normalization(node: NodeProto, _input: int, affine: ChannelAffine, graph: Graph) -> list[Step]:
    """s (k x + t) + b: scale and B take it up, the statistics stay."""
    require_axis(affine, 1, node, graph)
    batch_norm = read_batch_norm(node, graph)
    return [_new_parameters(node, batch_norm, affine.then(batch_norm.affine))]


def _new_parameters(node: NodeProto, batch_norm: BatchNorm, affine: ChannelAffine) -> Step:
    scale, bias = checked_parameters(batch_norm, affine)
    return Step((NewConstant(node, 1, scale), NewConstant(node, 2, bias)))


def checked_parameters(batch_norm: BatchNorm, affine: ChannelAffine) -> tuple[Tensor, Tensor]:
    """New `scale` and `B` with which `batch_norm` computes `affine`. Raises `Refused` where they cannot be stored."""
    scale, bias = batch_norm.parameters_for(affine)
    return stored_scale(scale.exact(), scale.dtype, batch_norm.scale), stored_vector(bias.exact(), bias.dtype)


def output_scaled_normalization(node: NodeProto, _output: int, affine: ChannelAffine, graph: Graph) -> list[Step]:
    """InstanceNormalization: y = scale_c * n(x) + B_c, with n independent of both parameters."""
    require_axis(affine, 1, node, graph)
    scale = constant_input(node, 1, graph)
    bias = constant_input(node, 2, graph, Reason.BIAS_NOT_CONSTANT)
    if scale.shape != bias.shape or len(scale.shape) != 1 or affine.channels not in (1, scale.size):
        raise Refused(Reason.WEIGHT_SHAPE, f"{node.input[1]!r} and {node.input[2]!r} of {graph.label(node)}")
    new_scale = stored_scale(affine.scale * scale.exact(), scale.dtype, scale.exact())
    new_bias = stored_vector(affine.scale * bias.exact() + affine.shift, bias.dtype)
    return [Step((NewConstant(node, 1, new_scale), NewConstant(node, 2, new_bias)))]


class Aligned(NamedTuple):
    """A map as constants that broadcast at the output of a node, and the axis it has on the computed operand."""

    scale: NDArray[np.float64]
    shift: NDArray[np.float64]
    data_axis: int


def aligned(affine: ChannelAffine, node: NodeProto, data: int, graph: Graph, *, outward: bool) -> Aligned:
    """Align a map with the constant operand of `node`; input `data` is the computed one.

    The map lies on an axis of the node's output (`outward`) or of its computed operand. Raises `Refused` where that
    operand does not have the whole channel axis: k would not be one number per channel of it.
    """
    if affine.is_uniform:
        return Aligned(affine.scale.reshape(()), affine.shift.reshape(()), affine.axis)
    rank = known_rank(graph, node.output[0])
    shape = known_shape(graph, node.input[data])
    data_axis = affine.axis - (rank - len(shape)) if outward else affine.axis
    if data_axis < 0 or shape[data_axis] == 1:
        raise Refused(Reason.NOT_PER_CHANNEL, f"{graph.label(node)} broadcasts {node.input[data]!r}")
    if shape[data_axis] != affine.channels:
        raise Refused(Reason.SHAPE_UNKNOWN, f"dim {data_axis} of {node.input[data]!r}")
    scale, shift = (as_constant(vector, data_axis, len(shape)) for vector in (affine.scale, affine.shift))
    return Aligned(scale, shift, data_axis)


def output_add_constant(node: NodeProto, _output: int, affine: ChannelAffine, graph: Graph) -> list[Step]:
    """k (x + S) + t = (k x) + (k S + t), for a constant S of any shape; Sub likewise, in both orders."""
    index, tensor = constant_operand(node, graph)
    data = 1 - index
    scale, shift, axis = aligned(affine, node, data, graph, outward=True)
    if node.op_type == "Sub" and index == 1:
        shift = -shift  # k (x - S) + t = k x - (k S - t)
    constants = (NewConstant(node, index, stored_vector(scale * tensor.exact() + shift, tensor.dtype)),)
    return [_step(constants, data, affine.only_scale().on_axis(axis))]


def output_mul_constant(node: NodeProto, _output: int, affine: ChannelAffine, graph: Graph) -> list[Step]:
    """k (c x) + t = (k c) (x + t / (k c)): the constant takes the scale; a shift goes on where no k c is zero.

    Div by a constant: k x / c + t = (x + t c / k) / (c / k), where no k is zero.
    """
    index, tensor = constant_operand(node, graph)
    data = 1 - index
    scale, _, axis = aligned(affine, node, data, graph, outward=True)
    with np.errstate(all="ignore"):
        if node.op_type == "Mul":
            new = scale * tensor.exact()
            factor = 1 / new
        elif index == 1:
            factor = new = tensor.exact() / scale
        else:
            raise Refused(Reason.BARRIER, f"{graph.label(node)} divides a constant by its input")
    constants = (NewConstant(node, index, stored_scale(new, tensor.dtype, tensor.exact())),) if affine.has_scale else ()
    return [_step(constants, data, _shift_times(affine, factor, tensor.dtype, axis, node.input[data], graph))]


def input_add_constant(node: NodeProto, index: int, affine: ChannelAffine, graph: Graph) -> list[Step]:
    """(k x + t) + S = k (x + (S + t) / k): the constant takes the shift, a scale goes on where none is zero.

    Sub: (k x + t) - S = k (x - (S - t) / k) and S - (k x + t) = k ((S - t) / k - x).
    """
    constant_index, tensor = constant_operand(node, graph)
    scale, shift, axis = aligned(affine, node, index, graph, outward=False)
    with np.errstate(all="ignore"):
        new = (tensor.exact() + (-shift if node.op_type == "Sub" else shift)) / scale
    constants = (NewConstant(node, constant_index, stored_vector(new, tensor.dtype)),)
    return [_step(constants, 0, _outward(affine.only_scale(), axis, node, index, graph))]


def input_mul_constant(node: NodeProto, index: int, affine: ChannelAffine, graph: Graph) -> list[Step]:
    """c (k x + t) = (c k) x + c t: the constant takes the scale, a shift goes on where c is one number per channel.

    Div by a constant: (k x + t) / c = x / (c / k) + t / c, where no k is zero.
    """
    constant_index, tensor = constant_operand(node, graph)
    scale, _, axis = aligned(affine, node, index, graph, outward=False)
    value = tensor.exact()
    with np.errstate(all="ignore"):
        if node.op_type == "Mul":
            new, factor = value * scale, value
        elif constant_index == 1:
            new, factor = value / scale, 1 / value
        else:
            raise Refused(Reason.BARRIER, f"{graph.label(node)} divides a constant by its input")
    constants: tuple[NewConstant, ...] = ()
    if affine.has_scale:
        constants = (NewConstant(node, constant_index, stored_scale(new, tensor.dtype, value)),)
    shift = _shift_times(affine, factor, tensor.dtype, axis, node.input[index], graph)
    return [_step(constants, 0, _outward(shift, shift.axis, node, index, graph))]


def _step(constants: tuple[NewConstant, ...], index: int, rest: ChannelAffine) -> Step:
    return Step(constants, passes_on=() if rest.is_identity else ((index, rest),))


def _shift_times(
    affine: ChannelAffine, factor: NDArray[np.float64], dtype: np.dtype, axis: int, data: str, graph: Graph
) -> ChannelAffine:
    """The shift of `affine`, times a constant of the node, as a map of the computed operand `data`."""
    if not affine.has_shift:
        return IDENTITY
    numbers, own_axis = per_channel(Tensor.of(factor, dtype), data, graph)
    if numbers.size > 1 and not affine.is_uniform and own_axis != axis:
        raise Refused(Reason.NOT_PER_CHANNEL, f"a shift on axis {axis} times a constant on axis {own_axis}")
    return ChannelAffine.of(np.ones(1), affine.shift * numbers, own_axis if affine.is_uniform else axis)


def _outward(affine: ChannelAffine, axis: int, node: NodeProto, index: int, graph: Graph) -> ChannelAffine:
    """A map of the computed operand as a map of the output, which may have more dims in front."""
    if affine.is_uniform:
        return affine
    offset = known_rank(graph, node.output[0]) - known_rank(graph, node.input[index])
    return affine.on_axis(axis + offset)


AFFINE_OPS: dict[str, Callable[[NodeProto, Graph], AffineOp]] = {
    "BatchNormalization": _batch_normalization,
    "Mul": _arithmetic,
    "Add": _arithmetic,
    "Sub": _arithmetic,
    "Div": _arithmetic,
    "Scaler": _scaler,
}
ABSORB_OUTPUT: dict[str, Handler] = {
    "BatchNormalization": output_batch_normalization,
    "InstanceNormalization": output_scaled_normalization,
}
ABSORB_INPUT: dict[str, Handler] = {
    "BatchNormalization": input_batch_normalization,
}
