"""Table 1: operators that *are* a per-channel affine map, and how they take up another one.

BatchNormalization with stored statistics, and Mul, Add, Sub, Div by a constant, which is how TensorFlow, Keras, Paddle
and detection models write it. Constants align with the last axis, as broadcasting does: [C] is the last axis, [C,1,1]
axis 1 of four.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from bnfold.decisions import Reason, Refused
from bnfold.graph import DEFAULT_DOMAINS, FLOAT_TYPES, FLOATS, Graph, Tensor, attribute, number
from bnfold.passes.affine import IDENTITY, MOST_ELEMENTS, Affine, Array
from bnfold.passes.classification import dropout_mode
from bnfold.passes.layout import Unsqueezed
from bnfold.passes.normalization import BatchNorm, Mode, read_batch_norm
from bnfold.passes.step import (
    Handler,
    NewConstant,
    Step,
    constant_input,
    known_rank,
    known_shape,
    pass_on,
    require_axes,
    stored_vector,
    vectors,
)

ML_DOMAIN = "ai.onnx.ml"
_MOST_GAINS = 1 << 16  # along several axes; a linear operator has no more outputs


class AffineOp(NamedTuple):
    """One operator read as a map: of the value at input `data`."""

    node: NodeProto
    data: int
    affine: Affine


def read_affine(node: NodeProto, graph: Graph) -> AffineOp:
    """`node` as a per-channel map. Raises `Refused` where it is none, and KeyError where its operator never is."""
    return AFFINE_OPS[node.op_type](node, graph)


def is_affine_op(node: NodeProto) -> bool:
    """Whether the operator can be a per-channel map at all."""
    return node.op_type in AFFINE_OPS and node.domain in ((ML_DOMAIN,) if node.op_type == "Scaler" else DEFAULT_DOMAINS)


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
        raise Refused(Reason.MALFORMED, graph.known_as(node))
    given = (attribute(node, name) for name in ("offset", "scale"))
    offset, scale = (np.asarray([] if each is None else each, np.float64) for each in given)
    if offset.shape != scale.shape or not scale.size:
        raise Refused(
            Reason.PARAMETER_SHAPE, f"{offset.size} offsets and {scale.size} scales of {graph.known_as(node)}"
        )
    if graph.dtype(node.input[0]) != np.float32:
        raise Refused(Reason.UNSUPPORTED_DTYPE, f"{graph.known_as(node)} makes float32 of {graph.dtype(node.input[0])}")
    shape = known_shape(graph, node.input[0]) if scale.size > 1 else ()
    if scale.size > 1 and (len(shape) != 2 or shape[1] != scale.size):
        raise Refused(Reason.NOT_PER_CHANNEL, f"{scale.size} scales for a value of shape {list(shape)}")
    return AffineOp(node, 0, Affine.along(scale, -offset * scale, 1))


def _arithmetic(node: NodeProto, graph: Graph) -> AffineOp:
    """Sound where the constant is one number per channel and does not broadcast the other operand up.

    A gain may vary along several axes, as one for each head and feature does behind a Reshape.
    """
    index, tensor = constant_operand(node, graph)
    data = 1 - index
    if (
        sum(size != 1 for size in tensor.shape) > 1
        and node.op_type in ("Mul", "Div")
        and (data, node.op_type) != (1, "Div")
    ):
        gains = _along_several_axes(tensor, node.input[data], graph)
        with np.errstate(divide="ignore"):
            return AffineOp(node, data, Affine.of(gains if node.op_type == "Mul" else 1 / gains, np.zeros(())))
    numbers, axis = per_channel(tensor, node.input[data], graph)
    one, zero = np.ones(1), np.zeros(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        match node.op_type:
            case "Mul":
                affine = Affine.along(numbers, zero, axis)
            case "Add":
                affine = Affine.along(one, numbers, axis)
            case "Sub" if index == 1:
                affine = Affine.along(one, -numbers, axis)
            case "Sub":
                affine = Affine.along(-one, numbers, axis)
            case "Div" if index == 1:
                affine = Affine.along(1 / numbers, zero, axis)
            case _:  # c / x
                raise Refused(Reason.BARRIER, f"{graph.known_as(node)} divides a constant by its input")
    return AffineOp(node, data, affine)


def _along_several_axes(tensor: Tensor, data: str, graph: Graph) -> Array:
    """The constant with its axes from the front of value `data`, which it does not broadcast up. Raises `Refused`."""
    if tensor.size > _MOST_GAINS:
        raise Refused(Reason.NOT_PER_CHANNEL, f"a constant of shape {list(tensor.shape)} on {data!r}")
    shape = known_shape(graph, data)
    form = (1,) * (len(shape) - len(tensor.shape)) + tuple(tensor.shape)
    if len(form) != len(shape) or any(size not in (1, dim) for size, dim in zip(form, shape, strict=True)):
        raise Refused(Reason.NOT_PER_CHANNEL, f"a constant of shape {list(tensor.shape)} on {data!r}")
    return tensor.exact().reshape(form)


def constant_operand(node: NodeProto, graph: Graph) -> tuple[int, Tensor]:
    """Which operand of a two-operand node is a constant, and the constant. Raises `Refused` unless exactly one is."""
    if len(node.input) != 2 or node.attribute:  # before opset 7 attributes say how to broadcast
        raise Refused(Reason.MALFORMED, graph.known_as(node))
    found = [(i, t) for i in (0, 1) if (t := graph.constant(node.input[i])) is not None]
    for value in node.input if not found else ():
        graph.require_undisputed(value)
    if len(found) != 1 or found[0][1].dtype not in FLOATS:
        raise Refused(Reason.PARAMETER_NOT_CONSTANT, f"an operand of {graph.known_as(node)}")
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


def as_constant(array: Array, rank: int) -> Array:
    """Numbers whose axes count from the front as a constant operand for a value of `rank` dims: [C, 1, 1], or []."""
    form = array.shape + (1,) * (rank - array.ndim)
    leading = next((axis for axis, size in enumerate(form) if size != 1), len(form))
    return array.reshape(form[leading:])


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


def output_batch_normalization(node: NodeProto, _output: int, affine: Affine, graph: Graph) -> list[Step]:
    """k (s x + b) + t: scale and B take it up, the statistics stay."""
    require_axes(affine, (1,), node, graph)
    batch_norm = read_batch_norm(node, graph)
    return [_new_parameters(node, batch_norm, batch_norm.affine.then(affine))]


def input_batch_normalization(node: NodeProto, _input: int, affine: Affine, graph: Graph) -> list[Step]:
    """s (k x + t) + b: scale and B take it up, the statistics stay."""
    require_axes(affine, (1,), node, graph)
    batch_norm = read_batch_norm(node, graph)
    return [_new_parameters(node, batch_norm, affine.then(batch_norm.affine))]


def _new_parameters(node: NodeProto, batch_norm: BatchNorm, affine: Affine) -> Step:
    scale, bias = checked_parameters(batch_norm, affine)
    return Step((NewConstant(node, 1, scale), NewConstant(node, 2, bias)))


def checked_parameters(batch_norm: BatchNorm, affine: Affine) -> tuple[Tensor, Tensor]:
    """New `scale` and `B` with which `batch_norm` computes `affine`. Raises `Refused` where they cannot be stored."""
    scale, bias = batch_norm.parameters_for(affine)
    return stored_scale(scale.exact(), scale.dtype, batch_norm.scale), stored_vector(bias.exact(), bias.dtype)


def output_scaled_normalization(node: NodeProto, _output: int, affine: Affine, graph: Graph) -> list[Step]:
    """InstanceNormalization: y = scale_c * n(x) + B_c, with n independent of both parameters."""
    old = constant_input(node, 1, graph)
    bias = constant_input(node, 2, graph, Reason.BIAS_NOT_CONSTANT)
    if old.shape != bias.shape or len(old.shape) != 1:
        raise Refused(Reason.WEIGHT_SHAPE, f"{node.input[1]!r} and {node.input[2]!r} of {graph.known_as(node)}")
    scale, shift = vectors(affine, 1, old.size, node, graph)
    new_scale = stored_scale(scale * old.exact(), old.dtype, old.exact())
    new_bias = stored_vector(scale * bias.exact() + shift, bias.dtype)
    return [Step((NewConstant(node, 1, new_scale), NewConstant(node, 2, new_bias)))]


# ---------------------------------------------------------------------- beside a constant operand


def on_operand(affine: Affine, node: NodeProto, index: int, graph: Graph) -> Affine:
    """A map of the output as a map of operand `index`, which must be whole along every axis that the map varies on."""
    if affine.is_uniform:
        return affine
    broadcasts_from_the_right(node, graph)
    shape = known_shape(graph, node.input[index])
    offset = known_rank(graph, node.output[0]) - len(shape)
    for axis in affine.axes:
        size = shape[axis - offset] if axis >= offset else 1
        if size != affine.shape[axis]:
            reason = Reason.NOT_PER_CHANNEL if isinstance(size, int) else Reason.SHAPE_UNKNOWN
            raise Refused(reason, f"{graph.known_as(node)} broadcasts {node.input[index]!r}")
    return affine.moved(Unsqueezed(offset).back)


def of_output(affine: Affine, node: NodeProto, index: int, graph: Graph) -> Affine:
    """A map of operand `index` as a map of the output, which may have more dims in front."""
    if affine.is_uniform:
        return affine
    broadcasts_from_the_right(node, graph)
    shape = known_shape(graph, node.input[index])
    if any(shape[axis] != affine.shape[axis] for axis in affine.axes):
        raise Refused(Reason.SHAPE_UNKNOWN, f"{node.input[index]!r} has shape {list(shape)}")
    offset = known_rank(graph, node.output[0]) - len(shape)
    return affine.moved(Unsqueezed(offset).onward)


def broadcasts_from_the_right(node: NodeProto, graph: Graph) -> None:
    """Raise `Refused` where attributes, which are of opsets before 7, say how it broadcasts."""
    if node.attribute:
        raise Refused(Reason.MALFORMED, f"{graph.known_as(node)} says by attributes how it broadcasts")


def _operands(affine: Affine, tensor: Tensor, data: str, graph: Graph) -> tuple[Array, Array, Array]:
    """Scale and shift of a map of value `data`, and the constant beside it, so that all broadcast together."""
    scale, shift, constant = affine.scale, affine.shift, tensor.exact()
    if not affine.is_uniform:
        rank = known_rank(graph, data)
        scale, shift = as_constant(scale, rank), as_constant(shift, rank)
    if math.prod(np.broadcast_shapes(scale.shape, constant.shape)) > MOST_ELEMENTS:
        raise Refused(Reason.SEARCH_LIMIT, f"a constant of shape {list(constant.shape)} and a map of {affine.shape}")
    return scale, shift, constant


def output_add_constant(node: NodeProto, _output: int, affine: Affine, graph: Graph) -> list[Step]:
    """k (x + S) + t = (k x) + (k S + t), for a constant S of any shape; Sub likewise, in both orders."""
    index, tensor = constant_operand(node, graph)
    data = 1 - index
    affine = on_operand(affine, node, data, graph)
    scale, shift, constant = _operands(affine, tensor, node.input[data], graph)
    if node.op_type == "Sub" and index == 1:
        shift = -shift  # k (x - S) + t = k x - (k S - t)
    constants = (NewConstant(node, index, stored_vector(scale * constant + shift, tensor.dtype)),)
    return [pass_on((data, affine.only_scale()))._replace(constants=constants)]


def output_mul_constant(node: NodeProto, _output: int, affine: Affine, graph: Graph) -> list[Step]:
    """k (c x) + t = (k c) (x + t / (k c)): the constant takes the scale; a shift goes on where no k c is zero.

    Div by a constant: k x / c + t = (x + t c / k) / (c / k), where no k is zero.
    """
    index, tensor = constant_operand(node, graph)
    data = 1 - index
    affine = on_operand(affine, node, data, graph)
    scale, _, constant = _operands(affine, tensor, node.input[data], graph)
    with np.errstate(all="ignore"):
        if node.op_type == "Mul":
            new = scale * constant
            factor = 1 / new
        elif index == 1:
            factor = new = constant / scale
        else:
            raise Refused(Reason.BARRIER, f"{graph.known_as(node)} divides a constant by its input")
    shift = _shift_times(affine, factor, node.input[data], graph)
    return [_with_factor(node, index, tensor, new, affine)._replace(passes_on=pass_on((data, shift)).passes_on)]


def input_add_constant(node: NodeProto, index: int, affine: Affine, graph: Graph) -> list[Step]:
    """(k x + t) + S = k (x + (S + t) / k): the constant takes the shift, a scale goes on where none is zero.

    Sub: (k x + t) - S = k (x - (S - t) / k) and S - (k x + t) = k ((S - t) / k - x).
    """
    constant_index, tensor = constant_operand(node, graph)
    whole = of_output(affine, node, index, graph)
    scale, shift, constant = _operands(affine, tensor, node.input[index], graph)
    with np.errstate(all="ignore"):
        new = (constant + (-shift if node.op_type == "Sub" else shift)) / scale
    constants = (NewConstant(node, constant_index, stored_vector(new, tensor.dtype)),)
    return [pass_on((0, whole.only_scale()))._replace(constants=constants)]


def input_mul_constant(node: NodeProto, index: int, affine: Affine, graph: Graph) -> list[Step]:
    """c (k x + t) = (c k) x + c t: the constant takes the scale, a shift goes on.

    Div by a constant: (k x + t) / c = x / (c / k) + t / c, where no k is zero.
    """
    constant_index, tensor = constant_operand(node, graph)
    of_output(affine, node, index, graph)
    scale, _, constant = _operands(affine, tensor, node.input[index], graph)
    with np.errstate(all="ignore"):
        if node.op_type == "Mul":
            new, factor = constant * scale, constant
        elif constant_index == 1:
            new, factor = constant / scale, 1 / constant
        else:
            raise Refused(Reason.BARRIER, f"{graph.known_as(node)} divides a constant by its input")
    shift = of_output(_shift_times(affine, factor, node.input[index], graph), node, index, graph)
    return [_with_factor(node, constant_index, tensor, new, affine)._replace(passes_on=pass_on((0, shift)).passes_on)]


def _with_factor(node: NodeProto, index: int, tensor: Tensor, new: Array, affine: Affine) -> Step:
    """The new factor, where a scale asks for one."""
    if not affine.has_scale:
        return Step()
    return Step((NewConstant(node, index, stored_scale(new, tensor.dtype, tensor.exact())),))


def _shift_times(affine: Affine, factor: Array, data: str, graph: Graph) -> Affine:
    """The shift of `affine` times a constant operand, as a map of the computed operand `data`."""
    if not affine.has_shift:
        return IDENTITY
    if factor.ndim and factor.size == 1:
        factor = factor.reshape(())
    shape = known_shape(graph, data) if factor.ndim else ()
    if factor.ndim > len(shape) or any(
        size not in (1, own) for size, own in zip(factor.shape[::-1], shape[::-1], strict=False)
    ):
        raise Refused(Reason.NOT_PER_CHANNEL, f"a constant of shape {list(factor.shape)} broadcasts {data!r}")
    rank = max(len(shape), affine.shift.ndim)
    return Affine.of(np.ones(()), affine.at_rank(rank).shift * factor)


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
