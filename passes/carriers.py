"""Table 3: operators that let a per-channel map pass, and the condition under which they do.

Toward the producer: y -> k y + t at an output becomes a map of the inputs. Toward the consumers: x -> k x + t at an
input becomes a map of the outputs. Most conditions are the same in both directions, so most rows stand here once.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from bnfold.decisions import Reason, Refused
from bnfold.graph import Graph, number, numbers, text
from bnfold.passes.affine import ChannelAffine
from bnfold.passes.affine_ops import (
    cast_dtypes,
    input_add_constant,
    input_mul_constant,
    is_transparent,
    output_add_constant,
    output_mul_constant,
)
from bnfold.passes.layout import relabelled
from bnfold.passes.step import (
    Handler,
    NewAttribute,
    NewConstant,
    Step,
    constant_input,
    known_dim,
    known_rank,
    known_shape,
    pads_with_zeros,
    pass_on,
    require_axis,
    stored_vector,
)

Condition = Callable[[NodeProto, ChannelAffine, Graph], None]


def both_ways(condition: Condition) -> tuple[Handler, Handler]:
    """The two handlers of an operator with one data input and one output, across which the axis stays what it is."""

    def toward_producer(node: NodeProto, _output: int, affine: ChannelAffine, graph: Graph) -> list[Step]:
        condition(node, affine, graph)
        return [pass_on((0, affine))]

    def toward_consumers(node: NodeProto, index: int, affine: ChannelAffine, graph: Graph) -> list[Step]:
        _first(index, node, graph)
        condition(node, affine, graph)
        return [pass_on((0, affine))]

    toward_producer.__doc__ = toward_consumers.__doc__ = condition.__doc__
    return toward_producer, toward_consumers


def _first(index: int, node: NodeProto, graph: Graph) -> None:
    """Only the first input is data."""
    if index != 0:
        raise Refused(Reason.BARRIER, f"{graph.label(node)}, input {index}")


def _others_unused(node: NodeProto, graph: Graph) -> None:
    """Only the first output carries data."""
    for output in node.output[1:]:
        if graph.consumers(output) or graph.is_output(output):
            raise Refused(Reason.BARRIER, f"{output!r} of {graph.label(node)} is read")


# ---------------------------------------------------------------------- conditions


def transparent(node: NodeProto, _affine: ChannelAffine, graph: Graph) -> None:
    """Identity always; Dropout in inference mode, its mask unused."""
    if not is_transparent(node, graph):
        raise Refused(Reason.BARRIER, f"{graph.label(node)} is, or may be, in training mode, or its mask is read")


def global_average_pool(node: NodeProto, affine: ChannelAffine, graph: Graph) -> None:
    """A mean over positions: scale and shift pass."""
    require_axis(affine, 1, node, graph)


def average_pool(node: NodeProto, affine: ChannelAffine, graph: Graph) -> None:
    """A mean over each window: the scale passes; the shift where padding is not counted (or there is none)."""
    require_axis(affine, 1, node, graph)
    counted = bool(number(node, "count_include_pad", 0))
    padded = pads_with_zeros(node)
    overhanging = bool(number(node, "ceil_mode", 0))
    if affine.has_shift and counted and (padded or overhanging):
        raise Refused(Reason.PADDED_BORDER, graph.label(node))


def max_pool(node: NodeProto, affine: ChannelAffine, graph: Graph) -> None:
    """A maximum: with no negative scale, the shift goes with it (padding is minus infinity); its indices unused."""
    require_axis(affine, 1, node, graph)
    if (affine.scale < 0).any():
        raise Refused(Reason.NEGATIVE_SCALE, f"{affine.scale.min():.4g} at {graph.label(node)}")
    _others_unused(node, graph)


def rectifier(node: NodeProto, affine: ChannelAffine, graph: Graph) -> None:
    """Relu, LeakyRelu, PRelu: f(k x) = k f(x) for k > 0, whatever the slopes. A shift never."""
    if not (affine.scale > 0).all():
        raise Refused(Reason.NEGATIVE_SCALE, f"{affine.scale.min():.4g} at {graph.label(node)}")
    if affine.has_shift:
        raise Refused(Reason.SHIFT_BLOCKED, graph.label(node))


def resize(node: NodeProto, affine: ChannelAffine, graph: Graph) -> None:
    """Interpolation weights sum to one: nearest, linear and cubic, but not what extrapolates beyond the border."""
    if text(node, "coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        raise Refused(Reason.BARRIER, f"{graph.label(node)} crops")
    if text(node, "mode", "nearest") not in ("nearest", "linear", "bilinear", "cubic"):
        raise Refused(Reason.BARRIER, graph.label(node))
    exact = text(node, "mode", "nearest") == "nearest" or not affine.has_shift
    if not exact and graph.dtype(node.input[0]) == np.float64:
        raise Refused(Reason.BARRIER, f"{graph.label(node)} interpolates by weights that sum to one in float32 alone")
    if not affine.is_uniform:
        before = known_dim(graph, node.input[0], affine.axis)
        if known_dim(graph, node.output[0], affine.axis) != before or _stretches(node, affine.axis, graph):
            raise Refused(Reason.NOT_PER_CHANNEL, f"{graph.label(node)} resizes the channels")


def _stretches(node: NodeProto, axis: int, graph: Graph) -> bool:
    """Whether the scale of `axis` is not 1, or may not be: 4 channels times 1.2 are still 4, but mixed."""
    rank = known_rank(graph, node.input[0])
    axes = [other % rank for other in numbers(node, "axes", range(rank))]
    if axis not in axes:
        return False
    if text(node, "keep_aspect_ratio_policy", "stretch") != "stretch":
        return True
    position = 2 if graph.opset >= 11 else 1
    scales = numbers(node, "scales")
    if position < len(node.input) and node.input[position]:
        scales = constant_input(node, position, graph, Reason.SHAPE_UNKNOWN).numpy().reshape(-1).tolist()
    if len(scales) not in (0, len(axes)):
        raise Refused(Reason.MALFORMED, f"{graph.label(node)} has {len(scales)} scales")
    return bool(scales) and scales[axes.index(axis)] != 1


# ---------------------------------------------------------------------- types


def _cast(node: NodeProto, affine: ChannelAffine, graph: Graph, *, outward: bool) -> list[Step]:
    """A Cast to the type a value has: always. To another float type: a scale, and only into the narrower one.

    The rounding to the narrower type is relative, so it commutes with a scale up to one roundoff of that type, and what
    takes the scale up rounds its weights to it anyway. A shift would round another number; a weight of the wider type
    rounds less than the Cast does.
    """
    if is_transparent(node, graph):
        return [pass_on((0, affine))]
    read, made = cast_dtypes(node, graph)
    if read is None or made is None:
        raise Refused(Reason.BARRIER, f"{graph.label(node)} makes of a float something else, or a type is unknown")
    beyond, here = (made, read) if outward else (read, made)
    if affine.has_shift or beyond.itemsize >= here.itemsize:
        raise Refused(Reason.ROUNDING_CAST, f"{graph.label(node)} makes {made} of {read}")
    return [pass_on((0, affine))]


def output_cast(node: NodeProto, _output: int, affine: ChannelAffine, graph: Graph) -> list[Step]:
    """Toward the producer: see `_cast`."""
    return _cast(node, affine, graph, outward=False)


def input_cast(node: NodeProto, index: int, affine: ChannelAffine, graph: Graph) -> list[Step]:
    """Toward the consumers: see `_cast`."""
    _first(index, node, graph)
    return _cast(node, affine, graph, outward=True)


# ---------------------------------------------------------------------- operators that move the axis


def _transpose(node: NodeProto, affine: ChannelAffine, graph: Graph, *, outward: bool) -> list[Step]:
    """The channel axis moves with the others."""
    if affine.is_uniform:
        return [pass_on((0, affine))]
    permutation = numbers(node, "perm") or list(range(known_rank(graph, node.input[0])))[::-1]
    if sorted(permutation) != list(range(len(permutation))):
        raise Refused(Reason.MALFORMED, graph.label(node))
    axis = permutation.index(affine.axis) if outward else permutation[affine.axis]
    return [pass_on((0, affine.on_axis(axis)))]


def output_transpose(node: NodeProto, _output: int, affine: ChannelAffine, graph: Graph) -> list[Step]:
    """Output axis a is input axis perm[a]."""
    return _transpose(node, affine, graph, outward=False)


def input_transpose(node: NodeProto, _input: int, affine: ChannelAffine, graph: Graph) -> list[Step]:
    """Input axis perm[a] is output axis a."""
    return _transpose(node, affine, graph, outward=True)


def output_reshape(node: NodeProto, _output: int, affine: ChannelAffine, graph: Graph) -> list[Step]:
    """Reshape, Flatten, Squeeze, Unsqueeze: see `relabelled`."""
    return [pass_on((0, _relabelled(affine, node.output[0], node.input[0], graph)))]


def input_reshape(node: NodeProto, _input: int, affine: ChannelAffine, graph: Graph) -> list[Step]:
    """The same toward the consumers."""
    return [pass_on((0, _relabelled(affine, node.input[0], node.output[0], graph)))]


def _relabelled(affine: ChannelAffine, source: str, target: str, graph: Graph) -> ChannelAffine:
    if affine.is_uniform:
        return affine
    return relabelled(affine, known_shape(graph, source), known_shape(graph, target))


def reduce_mean(node: NodeProto, affine: ChannelAffine, graph: Graph, *, outward: bool) -> list[Step]:
    """ReduceMean over axes that leave the channels alone: scale and shift pass."""
    if affine.is_uniform:
        return [pass_on((0, affine))]
    rank = known_rank(graph, node.input[0])
    axes = _reduced_axes(node, rank, graph)
    kept = [axis for axis in range(rank) if axis not in axes or number(node, "keepdims", 1)]
    source = affine.axis if outward else (kept[affine.axis] if affine.axis < len(kept) else rank)
    if source in axes or source not in kept:
        raise Refused(Reason.NOT_PER_CHANNEL, f"{graph.label(node)} averages over the channels")
    return [pass_on((0, affine.on_axis(kept.index(source) if outward else source)))]


def _reduced_axes(node: NodeProto, rank: int, graph: Graph) -> set[int]:
    axes = numbers(node, "axes")
    if len(node.input) > 1 and node.input[1]:
        axes = [int(axis) for axis in constant_input(node, 1, graph, Reason.SHAPE_UNKNOWN).numpy().reshape(-1)]
    if not axes:
        return set() if number(node, "noop_with_empty_axes", 0) else set(range(rank))
    return {axis % rank for axis in axes}


def output_reduce_mean(node: NodeProto, _output: int, affine: ChannelAffine, graph: Graph) -> list[Step]:
    """ReduceMean over axes that leave the channels alone: scale and shift pass."""
    return reduce_mean(node, affine, graph, outward=False)


def input_reduce_mean(node: NodeProto, _input: int, affine: ChannelAffine, graph: Graph) -> list[Step]:
    """ReduceMean over axes that leave the channels alone: scale and shift pass."""
    return reduce_mean(node, affine, graph, outward=True)


# ---------------------------------------------------------------------- padding


def output_pad(node: NodeProto, _output: int, affine: ChannelAffine, graph: Graph) -> list[Step]:
    """Pad(x; v) -> k Pad(x; v) + t = Pad(k x + t; k v + t), where k v + t is one number for all channels."""
    constants, attributes = _new_padding(node, affine, graph, lambda value: affine.scale * value + affine.shift)
    return [Step(constants, attributes, pass_on((0, affine)).passes_on)]


def input_pad(node: NodeProto, index: int, affine: ChannelAffine, graph: Graph) -> list[Step]:
    """Pad(k x + t; v) = k Pad(x; (v - t) / k) + t, where (v - t) / k is one number for all channels."""
    _first(index, node, graph)

    def inverse(value: float) -> NDArray[np.float64]:
        with np.errstate(all="ignore"):
            return (value - affine.shift) / affine.scale

    constants, attributes = _new_padding(node, affine, graph, inverse)
    return [Step(constants, attributes, pass_on((0, affine)).passes_on)]


def _padding(node: NodeProto, graph: Graph) -> dict[int, tuple[int, int]]:
    """By how much a Pad lengthens the axes it names, in front and behind; cuts them off where negative."""
    pads = numbers(node, "pads") or numbers(node, "paddings")
    axes: list[int] | None = None
    if graph.opset >= 11:
        pads = [int(p) for p in constant_input(node, 1, graph, Reason.SHAPE_UNKNOWN).numpy().reshape(-1)]
        if len(node.input) > 3 and node.input[3]:
            axes = [int(a) for a in constant_input(node, 3, graph, Reason.SHAPE_UNKNOWN).numpy().reshape(-1)]
    rank = known_rank(graph, node.input[0]) if axes is not None else len(pads) // 2
    padded = [axis % rank for axis in axes] if axes is not None else list(range(rank))
    if len(pads) != 2 * len(padded):
        raise Refused(Reason.MALFORMED, f"{graph.label(node)} pads {len(padded)} dims by {len(pads)} numbers")
    return {axis: (pads[i], pads[i + len(padded)]) for i, axis in enumerate(padded)}


def _new_padding(
    node: NodeProto, affine: ChannelAffine, graph: Graph, mapped: Callable[[float], NDArray[np.float64]]
) -> tuple[tuple[NewConstant, ...], tuple[NewAttribute, ...]]:
    """Check that channels are not padded; the change of the pad value, if any."""
    where = _padding(node, graph)
    if not affine.is_uniform and any(where.get(affine.axis, ())):
        raise Refused(Reason.NOT_PER_CHANNEL, f"{graph.label(node)} pads the channels")
    if text(node, "mode", "constant") != "constant" or not any(p > 0 for pair in where.values() for p in pair):
        return (), ()
    value = number(node, "value", 0.0)
    fill = None
    if len(node.input) > 2 and node.input[2]:
        fill = constant_input(node, 2, graph, Reason.BIAS_NOT_CONSTANT)
        if fill.size != 1:
            raise Refused(Reason.MALFORMED, f"{graph.label(node)} pads with {fill.size} values")
        value = float(fill.exact().reshape(-1)[0])
    new = mapped(value)
    if not np.isfinite(new).all() or (new != new[0]).any():
        raise Refused(Reason.PADDED_BORDER, f"{graph.label(node)} pads with {value:g}")
    if new[0] == value:
        return (), ()
    dtype = graph.dtype(node.input[0]) if fill is None else fill.dtype
    if graph.opset < 11:
        if dtype == np.float64 and float(np.float32(new[0])) != new[0]:
            raise Refused(Reason.UNSUPPORTED_DTYPE, f"{graph.label(node)} keeps the value it pads with in float32")
        return (), (NewAttribute(node, "value", float(new[0])),)
    if dtype is None:
        raise Refused(Reason.SHAPE_UNKNOWN, f"dtype of {node.input[0]!r}")
    return (NewConstant(node, 2, stored_vector(new[:1].reshape(() if fill is None else fill.shape), dtype)),), ()


# ---------------------------------------------------------------------- joining and taking apart


def output_concat(node: NodeProto, _output: int, affine: ChannelAffine, graph: Graph) -> list[Step]:
    """On the channel axis every branch gets its slice of the map; on another axis every branch gets all of it."""
    if affine.is_uniform:
        return [pass_on(*((i, affine) for i in range(len(node.input))))]
    if _concat_axis(node, graph) != affine.axis:
        return [pass_on(*((i, affine) for i in range(len(node.input))))]
    sizes = [known_dim(graph, value, affine.axis) for value in node.input]
    if sum(sizes) != affine.channels:
        raise Refused(Reason.MALFORMED, f"{graph.label(node)} joins {sum(sizes)} channels")
    starts = np.cumsum([0, *sizes])
    return [pass_on(*((i, _slice(affine, starts[i], starts[i + 1])) for i in range(len(sizes))))]


def _slice(affine: ChannelAffine, start: int, stop: int) -> ChannelAffine:
    return affine.rearranged(np.arange(start, stop), affine.axis)


def input_concat(node: NodeProto, index: int, affine: ChannelAffine, graph: Graph) -> list[Step]:
    """On the channel axis: the other branches' channels pass unchanged. On another axis they would not."""
    axis = _concat_axis(node, graph)
    if len(node.input) == 1:
        return [pass_on((0, affine))]
    if affine.axis != axis and not affine.is_uniform:
        raise Refused(Reason.NOT_PER_CHANNEL, f"{graph.label(node)} joins other values on axis {axis}")
    sizes = [known_dim(graph, value, axis) for value in node.input]
    start = sum(sizes[:index])
    channels = np.arange(start, start + sizes[index])
    return [pass_on((0, affine.expanded(sizes[index]).on_axis(axis).embedded(channels, sum(sizes))))]


def _concat_axis(node: NodeProto, graph: Graph) -> int:
    axis = number(node, "axis", 1)
    return axis if axis >= 0 else axis + known_rank(graph, node.output[0])


def output_split(node: NodeProto, output: int, affine: ChannelAffine, graph: Graph) -> list[Step]:
    """On the channel axis: the channels of the other outputs pass unchanged. On another axis they would not."""
    axis, starts = _split(node, graph)
    if len(node.output) == 1:
        return [pass_on((0, affine))]
    if affine.axis != axis and not affine.is_uniform:
        raise Refused(Reason.NOT_PER_CHANNEL, f"{graph.label(node)} splits axis {axis}")
    channels = np.arange(starts[output], starts[output + 1])
    return [pass_on((0, affine.expanded(channels.size).on_axis(axis).embedded(channels, int(starts[-1]))))]


def input_split(node: NodeProto, _input: int, affine: ChannelAffine, graph: Graph) -> list[Step]:
    """On the channel axis every output gets its slice; on another axis every output gets all of the map."""
    axis, starts = _split(node, graph)
    outputs = range(len(node.output))
    if affine.axis != axis:
        return [pass_on(*((i, affine) for i in outputs))]
    return [pass_on(*((i, _slice(affine, starts[i], starts[i + 1])) for i in outputs))]


def _split(node: NodeProto, graph: Graph) -> tuple[int, NDArray[np.int64]]:
    """The axis, and where on it each output starts, with the total at the end."""
    axis = number(node, "axis", 0)
    if axis < 0:
        axis += known_rank(graph, node.input[0])
    sizes = [known_dim(graph, value, axis) for value in node.output]
    return axis, np.cumsum([0, *sizes])


def _slice_channels(node: NodeProto, affine: ChannelAffine, total: int, graph: Graph) -> NDArray[np.int64] | None:
    """Which channels a Slice takes, in order; None where it takes them all as they are."""
    rank = known_rank(graph, node.input[0])
    if graph.opset < 10:
        starts, ends, axes = numbers(node, "starts"), numbers(node, "ends"), numbers(node, "axes")
        steps = [1] * len(starts)
    else:
        read = [
            None if i >= len(node.input) or not node.input[i] else constant_input(node, i, graph, Reason.SHAPE_UNKNOWN)
            for i in range(1, 5)
        ]
        starts, ends, axes, steps = ([] if t is None else [int(n) for n in t.numpy().reshape(-1)] for t in read)
        steps = steps or [1] * len(starts)
    axes = [axis % rank for axis in (axes or range(len(starts)))]
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise Refused(Reason.MALFORMED, graph.label(node))
    if affine.axis not in axes:
        return None
    i = axes.index(affine.axis)
    return np.arange(total)[starts[i] : ends[i] : steps[i]]  # numpy clamps bounds as ONNX does


def output_slice(node: NodeProto, _output: int, affine: ChannelAffine, graph: Graph) -> list[Step]:
    """Off the channel axis the map passes as it is; on it, channels that are cut away may hold anything."""
    if affine.is_uniform:
        return [pass_on((0, affine))]
    total = known_dim(graph, node.input[0], affine.axis)
    channels = _slice_channels(node, affine, total, graph)
    return [pass_on((0, affine if channels is None else affine.embedded(channels, total)))]


def input_slice(node: NodeProto, _input: int, affine: ChannelAffine, graph: Graph) -> list[Step]:
    """The channels that are left keep their numbers."""
    if affine.is_uniform:
        return [pass_on((0, affine))]
    channels = _slice_channels(node, affine, affine.channels, graph)
    return [pass_on((0, affine if channels is None else affine.rearranged(channels, affine.axis)))]


# ---------------------------------------------------------------------- depth and space


def _area(node: NodeProto, graph: Graph) -> int:
    """How many channels of the deep side make one of the other."""
    size = number(node, "blocksize", 0)
    if size < 1:
        raise Refused(Reason.MALFORMED, f"{graph.label(node)} has blocksize {size}")
    return size**2


def _depth_order(node: NodeProto, depth: int, graph: Graph) -> NDArray[np.int64]:
    """For each channel of the deep side, its channel on the spatial side. DCR and CRD as in DepthToSpace-11."""
    area = _area(node, graph)
    shallow = np.arange(depth // area)
    if text(node, "mode", "DCR") == "CRD":
        return np.repeat(shallow, area)
    return np.tile(shallow, area)


def output_depth_to_space(node: NodeProto, _output: int, affine: ChannelAffine, graph: Graph) -> list[Step]:
    """Every channel of the input goes to one channel of the output, so it takes that one's numbers."""
    require_axis(affine, 1, node, graph)
    depth = affine.channels * _area(node, graph)
    return [pass_on((0, affine.rearranged(_depth_order(node, depth, graph), 1)))]


def input_depth_to_space(node: NodeProto, _input: int, affine: ChannelAffine, graph: Graph) -> list[Step]:
    """Sound where the channels that make up one output channel share their numbers."""
    require_axis(affine, 1, node, graph)
    return [pass_on((0, _shallow(node, affine, graph)))]


def _shallow(node: NodeProto, affine: ChannelAffine, graph: Graph) -> ChannelAffine:
    if affine.is_uniform:
        return affine
    order = _depth_order(node, affine.channels, graph)
    _, first = np.unique(order, return_index=True)
    shallow = affine.rearranged(first, 1)
    again = shallow.rearranged(order, 1) if not shallow.is_uniform else shallow.expanded(affine.channels)
    if (again.scale != affine.scale).any() or (again.shift != affine.shift).any():
        raise Refused(Reason.NOT_PER_CHANNEL, f"{graph.label(node)} mixes channels of different scales or shifts")
    return shallow


def output_space_to_depth(node: NodeProto, _output: int, affine: ChannelAffine, graph: Graph) -> list[Step]:
    """Sound where the channels that come from one input channel share their numbers."""
    require_axis(affine, 1, node, graph)
    return [pass_on((0, _shallow(node, affine, graph)))]


def input_space_to_depth(node: NodeProto, _input: int, affine: ChannelAffine, graph: Graph) -> list[Step]:
    """Every channel of the output comes from one channel of the input, so it has that one's numbers."""
    require_axis(affine, 1, node, graph)
    depth = affine.channels * _area(node, graph)
    return [pass_on((0, affine.rearranged(_depth_order(node, depth, graph), 1)))]


# ---------------------------------------------------------------------- branches


def output_sum(node: NodeProto, _output: int, affine: ChannelAffine, graph: Graph) -> list[Step]:
    """Add, Sub, Sum of computed branches: the scale to all, the shift to exactly one. A constant branch takes both."""
    if _has_constant_operand(node, graph):
        return output_add_constant(node, _output, affine, graph)
    scales = [_branch(affine.only_scale(), node, index, graph) for index in range(len(node.input))]
    if not affine.has_shift:
        return [pass_on(*enumerate(scales))]
    steps = []
    for chosen in range(len(node.input)):
        sign = -1.0 if node.op_type == "Sub" and chosen == 1 else 1.0
        shifts = [sign * affine.shift if index == chosen else np.zeros(1) for index in range(len(node.input))]
        maps = [ChannelAffine.of(s.scale, shift, s.axis) for s, shift in zip(scales, shifts, strict=True)]
        steps.append(pass_on(*enumerate(maps)))
    return steps


def output_product(node: NodeProto, _output: int, affine: ChannelAffine, graph: Graph) -> list[Step]:
    """Mul and Div of computed values: the scale to one factor (of Div the numerator), a shift never."""
    if _has_constant_operand(node, graph):
        return output_mul_constant(node, _output, affine, graph)
    if affine.has_shift:
        raise Refused(Reason.SHIFT_BLOCKED, graph.label(node))
    steps, refusal = [], None
    for index in range(1 if node.op_type == "Div" else len(node.input)):
        try:
            steps.append(pass_on((index, _branch(affine, node, index, graph))))
        except Refused as refused:
            refusal = refusal or refused
    if not steps:
        raise refusal or Refused(Reason.MALFORMED, graph.label(node))
    return steps


def _has_constant_operand(node: NodeProto, graph: Graph) -> bool:
    return len(node.input) == 2 and any(graph.constant(value) is not None for value in node.input)


def _branch(affine: ChannelAffine, node: NodeProto, index: int, graph: Graph) -> ChannelAffine:
    """A map of the output as a map of one operand, which must have the whole channel axis."""
    if affine.is_uniform:
        return affine
    _broadcasts_from_the_right(node, graph)
    axis = affine.axis - (known_rank(graph, node.output[0]) - known_rank(graph, node.input[index]))
    size = known_dim(graph, node.input[index], axis) if axis >= 0 else 1
    if size != affine.channels:
        raise Refused(Reason.NOT_PER_CHANNEL, f"{graph.label(node)} broadcasts {node.input[index]!r}")
    return affine.on_axis(axis)


def _broadcasts_from_the_right(node: NodeProto, graph: Graph) -> None:
    if node.attribute:  # of opsets before 7
        raise Refused(Reason.MALFORMED, f"{graph.label(node)} says by attributes how it broadcasts")


def input_sum(node: NodeProto, index: int, affine: ChannelAffine, graph: Graph) -> list[Step]:
    """(x + t) + y = (x + y) + t: only a shift passes a sum with another computed branch."""
    if _has_constant_operand(node, graph):
        return input_add_constant(node, index, affine, graph)
    if affine.has_scale:
        raise Refused(Reason.NOT_ALL_ABSORB, f"the other operand of {graph.label(node)}")
    sign = -1.0 if node.op_type == "Sub" and index == 1 else 1.0
    moved = ChannelAffine.of(affine.scale, sign * affine.shift, affine.axis)
    return [pass_on((0, _from_branch(moved, node, index, graph)))]


def input_product(node: NodeProto, index: int, affine: ChannelAffine, graph: Graph) -> list[Step]:
    """(k x) y = k (x y), and x / y likewise for the numerator: only a scale passes."""
    if _has_constant_operand(node, graph):
        return input_mul_constant(node, index, affine, graph)
    if affine.has_shift:
        raise Refused(Reason.SHIFT_BLOCKED, graph.label(node))
    if node.op_type == "Div" and index == 1:
        raise Refused(Reason.BARRIER, f"{graph.label(node)} divides by it")
    return [pass_on((0, _from_branch(affine, node, index, graph)))]


def _from_branch(affine: ChannelAffine, node: NodeProto, index: int, graph: Graph) -> ChannelAffine:
    """A map of one operand as a map of the output."""
    if affine.is_uniform:
        return affine
    _broadcasts_from_the_right(node, graph)
    return affine.on_axis(affine.axis + known_rank(graph, node.output[0]) - known_rank(graph, node.input[index]))


_SAME_AXIS: dict[str, Condition] = {
    "Identity": transparent,
    "Dropout": transparent,
    "GlobalAveragePool": global_average_pool,
    "AveragePool": average_pool,
    "MaxPool": max_pool,
    "GlobalMaxPool": max_pool,
    "Relu": rectifier,
    "LeakyRelu": rectifier,
    "PRelu": rectifier,
    "Resize": resize,
    "Upsample": resize,
}
_BOTH_WAYS = {name: both_ways(condition) for name, condition in _SAME_AXIS.items()}

TOWARD_PRODUCER: dict[str, Handler] = {
    **{name: handlers[0] for name, handlers in _BOTH_WAYS.items()},
    **dict.fromkeys(("Cast", "CastLike"), output_cast),
    "Transpose": output_transpose,
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), output_reshape),
    "ReduceMean": output_reduce_mean,
    "Pad": output_pad,
    "Concat": output_concat,
    "Split": output_split,
    "Slice": output_slice,
    "DepthToSpace": output_depth_to_space,
    "SpaceToDepth": output_space_to_depth,
    **dict.fromkeys(("Add", "Sub", "Sum"), output_sum),
    **dict.fromkeys(("Mul", "Div"), output_product),
}
TOWARD_CONSUMERS: dict[str, Handler] = {
    **{name: handlers[1] for name, handlers in _BOTH_WAYS.items()},
    **dict.fromkeys(("Cast", "CastLike"), input_cast),
    "Transpose": input_transpose,
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), input_reshape),
    "ReduceMean": input_reduce_mean,
    "Pad": input_pad,
    "Concat": input_concat,
    "Split": input_split,
    "Slice": input_slice,
    "DepthToSpace": input_depth_to_space,
    "SpaceToDepth": input_space_to_depth,
    **dict.fromkeys(("Add", "Sub", "Sum"), input_sum),
    **dict.fromkeys(("Mul", "Div"), input_product),
}
# Known operators that nothing can be moved across; every other operator is reported as unknown.
BARRIERS = frozenset(
    {
        "Abs",
        "Acos",
        "ArgMax",
        "ArgMin",
        "Asin",
        "Atan",
        "Celu",
        "Ceil",
        "Clip",
        "Constant",
        "Cos",
        "Cosh",
        "CumSum",
        "DequantizeLinear",
        "Einsum",
        "Elu",
        "Equal",
        "Erf",
        "Exp",
        "Floor",
        "GRU",
        "Gather",
        "GatherElements",
        "GatherND",
        "Gelu",
        "GlobalLpPool",
        "Greater",
        "GridSample",
        "GroupNormalization",
        "HardSigmoid",
        "HardSwish",
        "Hardmax",
        "If",
        "InstanceNormalization",
        "LRN",
        "LSTM",
        "LayerNormalization",
        "Less",
        "Log",
        "LogSoftmax",
        "Loop",
        "LpNormalization",
        "LpPool",
        "Max",
        "MaxRoiPool",
        "Mean",
        "MeanVarianceNormalization",
        "Min",
        "Mish",
        "Mod",
        "Neg",
        "NonMaxSuppression",
        "Not",
        "OneHot",
        "Pow",
        "QLinearConv",
        "QLinearMatMul",
        "QuantizeLinear",
        "RMSNormalization",
        "RNN",
        "Range",
        "Reciprocal",
        "ReduceL1",
        "ReduceL2",
        "ReduceMax",
        "ReduceMin",
        "ReduceProd",
        "ReduceSum",
        "ReduceSumSquare",
        "RoiAlign",
        "Round",
        "Scan",
        "ScatterElements",
        "ScatterND",
        "Selu",
        "Shape",
        "Shrink",
        "Sigmoid",
        "Sign",
        "Sin",
        "Sinh",
        "Size",
        "Softmax",
        "Softplus",
        "Softsign",
        "Sqrt",
        "Swish",
        "Tan",
        "Tanh",
        "ThresholdedRelu",
        "Tile",
        "TopK",
        "Where",
        "Xor",
    }
)
