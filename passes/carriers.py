"""Table 3: operators that let a map pass, and the condition under which they do.

Toward the producer: y -> S y + T at an output becomes a map of the inputs. Toward the consumers: x -> S x + T at an
input becomes a map of the outputs. What only rearranges moves the map as it moves the value (`layout`); for the others
most conditions are the same in both directions, so they stand here once.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

import numpy as np
from onnx import NodeProto

from bnfold.decisions import Reason, Refused
from bnfold.graph import Graph, Tensor, number, numbers, text
from bnfold.passes.affine import Affine, Array
from bnfold.passes.affine_ops import (
    cast_dtypes,
    input_add_constant,
    input_mul_constant,
    is_transparent,
    of_output,
    on_operand,
    output_add_constant,
    output_mul_constant,
)
from bnfold.passes.layout import Dropped, Indices, Move, Permuted, Relaid, Taken, Unsqueezed
from bnfold.passes.step import (
    Dims,
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
    require_axes,
    stored_vector,
)

Condition = Callable[[NodeProto, Affine, Graph], None]
Moves = Callable[[NodeProto, Graph], Sequence[Move]]


def both_ways(condition: Condition) -> tuple[Handler, Handler]:
    """The two handlers of an operator with one data input and one output, across which a map stays what it is."""
    toward_producer, toward_consumers = rearranging(lambda _node, _graph: (), condition)
    toward_producer.__doc__ = toward_consumers.__doc__ = condition.__doc__
    return toward_producer, toward_consumers


def rearranging(moves: Moves, condition: Condition | None = None) -> tuple[Handler, Handler]:
    """The two handlers of an operator that makes its first output of the elements of its first input.

    One number for all elements needs no look at how. Where others read the value too, the second step toward the
    producer leaves what this operator does not read as it is.
    """

    def toward_producer(node: NodeProto, _output: int, affine: Affine, graph: Graph) -> list[Step]:
        if condition is not None:
            condition(node, affine, graph)
        steps = [pass_on((0, affine if affine.is_uniform else _back(moves(node, graph), affine)))]
        if len(graph.readers(node.input[0])) > 1:
            with suppress(Refused):
                steps.append(pass_on((0, alone(moves, node, affine, graph))))
        return steps

    def toward_consumers(node: NodeProto, index: int, affine: Affine, graph: Graph) -> list[Step]:
        _first(index, node, graph)
        if condition is not None:
            condition(node, affine, graph)
        return [pass_on((0, affine if affine.is_uniform else _onward(moves(node, graph), affine)))]

    toward_producer.__doc__ = toward_consumers.__doc__ = moves.__doc__
    return toward_producer, toward_consumers


def alone(moves: Moves, node: NodeProto, affine: Affine, graph: Graph) -> Affine:
    """The map of the output as one of the input that changes nothing where `node` reads nothing. Raises `Refused`."""
    return _back(leaving_the_rest(moves(node, graph)), affine)


def leaving_the_rest(moves: Sequence[Move]) -> list[Move]:
    """The moves where the elements that they do not read belong to other readers."""
    return [move._replace(alone=True) if isinstance(move, Taken) else move for move in moves]


def _onward(moves: Sequence[Move], affine: Affine) -> Affine:
    for move in moves:
        affine = affine.moved(move.onward)
    return affine


def _back(moves: Sequence[Move], affine: Affine) -> Affine:
    for move in reversed(moves):
        affine = affine.moved(move.back)
    return affine


def _first(index: int, node: NodeProto, graph: Graph) -> None:
    """Only the first input is data."""
    if index != 0:
        raise Refused(Reason.BARRIER, f"{graph.known_as(node)}, input {index}")


def _others_unused(node: NodeProto, graph: Graph) -> None:
    """Only the first output carries data."""
    for output in node.output[1:]:
        if graph.consumers(output) or graph.is_output(output):
            raise Refused(Reason.BARRIER, f"{output!r} of {graph.known_as(node)} is read")


# ---------------------------------------------------------------------- conditions


def transparent(node: NodeProto, _affine: Affine, graph: Graph) -> None:
    """Dropout in inference mode, its mask unused."""
    if not is_transparent(node, graph):
        raise Refused(Reason.BARRIER, f"{graph.known_as(node)} is, or may be, in training mode, or its mask is read")


def global_pool(node: NodeProto, affine: Affine, graph: Graph) -> None:
    """A mean over positions: scale and shift pass."""
    require_axes(affine, (0, 1), node, graph)


def average_pool(node: NodeProto, affine: Affine, graph: Graph) -> None:
    """A mean over each window: the scale passes; the shift where padding is not counted (or there is none)."""
    require_axes(affine, (0, 1), node, graph)
    counted = bool(number(node, "count_include_pad", 0))
    padded = pads_with_zeros(node)
    overhanging = bool(number(node, "ceil_mode", 0))
    if affine.has_shift and counted and (padded or overhanging):
        raise Refused(Reason.PADDED_BORDER, graph.known_as(node))


def max_pool(node: NodeProto, affine: Affine, graph: Graph) -> None:
    """A maximum: with no negative scale, the shift goes with it (padding is minus infinity); its indices unused."""
    require_axes(affine, (0, 1), node, graph)
    if (affine.scale < 0).any():
        raise Refused(Reason.NEGATIVE_SCALE, _smallest(affine, node, graph))
    _others_unused(node, graph)


def _smallest(affine: Affine, node: NodeProto, graph: Graph) -> str:
    where = "" if affine.is_uniform else f" in channel {int(affine.scale.reshape(-1).argmin())}"
    return f"a scale of {affine.scale.min():.4g}{where} at {graph.known_as(node)}"


def rectifier(node: NodeProto, affine: Affine, graph: Graph) -> None:
    """Relu, LeakyRelu, PRelu: f(k x) = k f(x) for k > 0, whatever the slopes. A shift never."""
    if not (affine.scale > 0).all():
        raise Refused(Reason.NEGATIVE_SCALE, _smallest(affine, node, graph))
    if affine.has_shift:
        raise Refused(Reason.SHIFT_BLOCKED, graph.known_as(node))


def resize(node: NodeProto, affine: Affine, graph: Graph) -> None:
    """Interpolation weights sum to one: nearest, linear and cubic, but not what extrapolates beyond the border."""
    if text(node, "coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        raise Refused(Reason.BARRIER, f"{graph.known_as(node)} crops")
    if text(node, "mode", "nearest") not in ("nearest", "linear", "bilinear", "cubic"):
        raise Refused(Reason.BARRIER, graph.known_as(node))
    exact = text(node, "mode", "nearest") == "nearest" or not affine.has_shift
    if not exact and graph.dtype(node.input[0]) == np.float64:
        raise Refused(
            Reason.BARRIER, f"{graph.known_as(node)} interpolates by weights that sum to one in float32 alone"
        )


def resized(node: NodeProto, graph: Graph) -> list[Move]:
    """Axes that keep their scale stay; along the others a map may vary where each element is repeated evenly."""
    before, after = known_shape(graph, node.input[0]), known_shape(graph, node.output[0])
    return [
        Taken(axis, size, _repetition(node, axis, graph))
        for axis, size in enumerate(before)
        if size is None or size != after[axis] or _stretches(node, axis, graph)
    ]


def _repetition(node: NodeProto, axis: int, graph: Graph) -> Callable[[int], Indices]:
    """Which element each of the enlarged axis shows: nearest, by a whole factor, in the modes in which that is even."""

    def indices(size: int) -> Indices:
        made = known_dim(graph, node.output[0], axis)
        how = text(node, "coordinate_transformation_mode", "half_pixel" if graph.opset >= 11 else "asymmetric")
        rounding = text(node, "nearest_mode", "round_prefer_floor" if graph.opset >= 11 else "floor")
        even = (how.endswith("half_pixel") and rounding.startswith("round")) or (how, rounding) == (
            "asymmetric",
            "floor",
        )
        stretched = text(node, "keep_aspect_ratio_policy", "stretch") == "stretch"
        whole = size > 0 and made % size == 0 and stretched
        if whole and _stated_scale(node, axis, graph) not in (None, made // size):  # 2 times 1.1 are 2 of the first
            whole = False
        if text(node, "mode", "nearest") != "nearest" or not even or not whole:
            raise Refused(Reason.NOT_PER_CHANNEL, f"{graph.known_as(node)} mixes what lies along axis {axis}")
        return np.arange(made) // (made // size)

    return indices


def _stretches(node: NodeProto, axis: int, graph: Graph) -> bool:
    """Whether the scale of `axis` is not 1, or may not be: 4 channels times 1.2 are still 4, but mixed."""
    rank = known_rank(graph, node.input[0])
    axes = [other % rank for other in numbers(node, "axes", range(rank))]
    if axis not in axes:
        return False
    if text(node, "keep_aspect_ratio_policy", "stretch") != "stretch":
        return True
    return _stated_scale(node, axis, graph) not in (None, 1)


def _stated_scale(node: NodeProto, axis: int, graph: Graph) -> float | None:
    """The scale that `node` states for `axis`; None where it states sizes or leaves it alone. Raises `Refused`."""
    rank = known_rank(graph, node.input[0])
    axes = [other % rank for other in numbers(node, "axes", range(rank))]
    position = 2 if graph.opset >= 11 else 1
    scales = [float(scale) for scale in numbers(node, "scales")]
    if position < len(node.input) and node.input[position]:
        scales = constant_input(node, position, graph, Reason.SHAPE_UNKNOWN).numpy().reshape(-1).tolist()
    if len(scales) not in (0, len(axes)):
        raise Refused(Reason.MALFORMED, f"{graph.known_as(node)} has {len(scales)} scales")
    return scales[axes.index(axis)] if scales and axis in axes else None


# ---------------------------------------------------------------------- types


def _cast(node: NodeProto, affine: Affine, graph: Graph, *, outward: bool) -> list[Step]:
    """A Cast to the type a value has: always. To another float type: a scale, and only into the narrower one.

    The rounding to the narrower type is relative, so it commutes with a scale up to one roundoff of that type, and what
    takes the scale up rounds its weights to it anyway. A shift would round another number; a weight of the wider type
    rounds less than the Cast does.
    """
    if is_transparent(node, graph):
        return [pass_on((0, affine))]
    read, made = cast_dtypes(node, graph)
    if read is None or made is None:
        raise Refused(Reason.BARRIER, f"{graph.known_as(node)} makes of a float something else, or a type is unknown")
    beyond, here = (made, read) if outward else (read, made)
    if affine.has_shift or beyond.itemsize >= here.itemsize:
        raise Refused(Reason.ROUNDING_CAST, f"{graph.known_as(node)} makes {made} of {read}")
    return [pass_on((0, affine))]


def output_cast(node: NodeProto, _output: int, affine: Affine, graph: Graph) -> list[Step]:
    """Toward the producer: see `_cast`."""
    return _cast(node, affine, graph, outward=False)


def input_cast(node: NodeProto, index: int, affine: Affine, graph: Graph) -> list[Step]:
    """Toward the consumers: see `_cast`."""
    _first(index, node, graph)
    return _cast(node, affine, graph, outward=True)


# ---------------------------------------------------------------------- operators that rearrange


def transposed(node: NodeProto, graph: Graph) -> list[Move]:
    """Output axis a is input axis perm[a]."""
    order = numbers(node, "perm") or list(range(known_rank(graph, node.input[0])))[::-1]
    if sorted(order) != list(range(len(order))):
        raise Refused(Reason.MALFORMED, graph.known_as(node))
    return [Permuted(order)]


def laid_anew(node: NodeProto, graph: Graph) -> list[Move]:
    """Reshape, Flatten, Squeeze, Unsqueeze: the same elements in the same order."""
    return [Relaid(known_shape(graph, node.input[0]), known_shape(graph, node.output[0]))]


def sliced(node: NodeProto, graph: Graph) -> list[Move]:
    """Slice: what is cut away may hold anything."""
    shape = known_shape(graph, node.input[0])
    if graph.opset < 10:
        starts, ends, axes = numbers(node, "starts"), numbers(node, "ends"), numbers(node, "axes")
        steps = [1] * len(starts)
    else:
        starts, ends, axes, steps = (_integers(node, index, graph) or [] for index in range(1, 5))
        steps = steps or [1] * len(starts)
    axes = [axis % len(shape) for axis in (axes or range(len(starts)))]
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise Refused(Reason.MALFORMED, graph.known_as(node))
    return [
        Taken(axis, shape[axis], partial(_cut, slice(start, end, step)))
        for axis, start, end, step in zip(axes, starts, ends, steps, strict=True)
    ]


def _cut(wanted: slice, size: int) -> Indices:
    return np.arange(size)[wanted]  # numpy clamps bounds as ONNX does


def gathered(node: NodeProto, graph: Graph) -> list[Move]:
    """Gather by constant indices: they may be of any rank, whose axes stand in the place of the one."""
    shape = known_shape(graph, node.input[0])
    index = constant_input(node, 1, graph, Reason.BARRIER)
    axis = number(node, "axis", 0) % len(shape)
    chosen = index.numpy().reshape(-1)
    if chosen.dtype.kind not in "iu":
        raise Refused(Reason.MALFORMED, f"{graph.known_as(node)} reads indices of {chosen.dtype}")
    taken = Taken(axis, shape[axis], lambda size: chosen % size)
    flat, full = (*shape[:axis], chosen.size, *shape[axis + 1 :]), (*shape[:axis], *index.shape, *shape[axis + 1 :])
    return [taken, Relaid(flat, full)] if len(index.shape) != 1 else [taken]


def tiled(node: NodeProto, graph: Graph) -> list[Move]:
    """Tile: each axis as often as the constant says."""
    shape, repeats = known_shape(graph, node.input[0]), _integers(node, 1, graph)
    if repeats is None or len(repeats) != len(shape):
        raise Refused(Reason.MALFORMED, graph.known_as(node))
    return [Taken(axis, shape[axis], partial(_again, count)) for axis, count in enumerate(repeats) if count != 1]


def _again(count: int, size: int) -> Indices:
    return np.tile(np.arange(size), count)


def expanded(node: NodeProto, graph: Graph) -> list[Move]:
    """Expand: axes of size 1, and those in front that were not there, become larger: nothing may vary along them."""
    before, after = known_shape(graph, node.input[0]), known_shape(graph, node.output[0])
    new = len(after) - len(before)
    larger = [axis for axis in range(len(after)) if axis < new or before[axis - new] != after[axis]]
    return [Unsqueezed(new), *(Taken(axis, 1, partial(_mixed, node, graph)) for axis in larger)]


def _mixed(node: NodeProto, graph: Graph, _size: int) -> Indices:
    raise Refused(Reason.NOT_PER_CHANNEL, f"{graph.known_as(node)} mixes or repeats what the map varies along")


def deepened(node: NodeProto, graph: Graph) -> list[Move]:
    """SpaceToDepth: [N, C, b H, b W] to [N, b b C, H, W]."""
    deep, flat, split, order = _blocks(node, node.output[0], node.input[0], graph)
    back = [order.index(axis) for axis in range(len(order))]
    return [Relaid(flat, tuple(split[axis] for axis in order)), Permuted(back), Relaid(split, deep)]


def spread(node: NodeProto, graph: Graph) -> list[Move]:
    """DepthToSpace: [N, b b C, H, W] to [N, C, b H, b W], in the two orders of DepthToSpace-11."""
    deep, flat, split, order = _blocks(node, node.input[0], node.output[0], graph)
    return [Relaid(deep, split), Permuted(order), Relaid(tuple(split[axis] for axis in order), flat)]


def _blocks(node: NodeProto, deep: str, flat: str, graph: Graph) -> tuple[Dims, Dims, Dims, tuple[int, ...]]:
    """The shapes of both sides; the deep one with its channels split into blocks; the order of its axes on the flat."""
    size = number(node, "blocksize", 0)
    if size < 1:
        raise Refused(Reason.MALFORMED, f"{graph.known_as(node)} has blocksize {size}")
    depth, shallow = known_shape(graph, deep), known_shape(graph, flat)
    if len(depth) != 4 or len(shallow) != 4:
        raise Refused(Reason.MALFORMED, f"{graph.known_as(node)} reads {len(depth)} dims")
    batch, _, height, width = depth
    if text(node, "mode", "DCR") == "CRD":
        return depth, shallow, (batch, shallow[1], size, size, height, width), (0, 1, 4, 2, 5, 3)
    return depth, shallow, (batch, size, size, shallow[1], height, width), (0, 3, 4, 1, 5, 2)


def _integers(node: NodeProto, index: int, graph: Graph) -> list[int] | None:
    """The constant list at an input; None where that is absent. Raises `Refused` where it is computed."""
    if index >= len(node.input) or not node.input[index]:
        return None
    return [int(n) for n in constant_input(node, index, graph, Reason.SHAPE_UNKNOWN).numpy().reshape(-1)]


# ---------------------------------------------------------------------- means


def averaged(node: NodeProto, graph: Graph) -> list[Move]:
    """ReduceMean: its axes have to be free of the map; they go, or have size 1."""
    rank = known_rank(graph, node.input[0])
    axes = _reduced_axes(node, rank, graph)

    gone = [] if number(node, "keepdims", 1) else [Dropped(tuple(sorted(axes)), rank)]
    return [*(Taken(axis, 1, partial(_mixed, node, graph)) for axis in axes), *gone]


def _reduced_axes(node: NodeProto, rank: int, graph: Graph) -> set[int]:
    axes = _integers(node, 1, graph) or numbers(node, "axes")
    if not axes:
        return set() if number(node, "noop_with_empty_axes", 0) else set(range(rank))
    return {axis % rank for axis in axes}


# ---------------------------------------------------------------------- padding


def lengthened(node: NodeProto, graph: Graph) -> list[Move]:
    """Pad by repetition shows elements again; by a constant it shows none, so no map may vary along such an axis."""
    shape, mode = graph.shape(node.input[0]), text(node, "mode", "constant")

    def move(axis: int, before: int, behind: int) -> Taken:
        def indices(size: int) -> Indices:
            if mode == "constant" and max(before, behind) > 0:
                raise Refused(Reason.NOT_PER_CHANNEL, f"{graph.known_as(node)} pads what the map varies along")
            cut = np.arange(size)[max(-before, 0) : size - max(-behind, 0)]
            if mode == "constant":
                return cut
            shown: Indices = np.pad(cut, (max(before, 0), max(behind, 0)), mode)  # type: ignore[call-overload]  # a str
            return shown

        return Taken(axis, None if shape is None else shape[axis], indices)

    return [move(axis, *amounts) for axis, amounts in padded_axes(node, graph).items() if any(amounts)]


def output_pad(node: NodeProto, _output: int, affine: Affine, graph: Graph) -> list[Step]:
    """Pad(x; v) -> k Pad(x; v) + t = Pad(k x + t; k v + t), where k v + t is one number for all channels."""
    constants, attributes = _new_padding(node, graph, lambda value: affine.scale * value + affine.shift)
    return [step._replace(constants=constants, attributes=attributes) for step in _PAD[0](node, 0, affine, graph)]


def input_pad(node: NodeProto, index: int, affine: Affine, graph: Graph) -> list[Step]:
    """Pad(k x + t; v) = k Pad(x; (v - t) / k) + t, where (v - t) / k is one number for all channels."""
    steps = _PAD[1](node, index, affine, graph)

    def inverse(value: float) -> Array:
        with np.errstate(all="ignore"):
            return np.asarray((value - affine.shift) / affine.scale)

    constants, attributes = _new_padding(node, graph, inverse)
    return [step._replace(constants=constants, attributes=attributes) for step in steps]


_PAD = rearranging(lengthened)


def padded_axes(node: NodeProto, graph: Graph) -> dict[int, tuple[int, int]]:
    """By how much a Pad lengthens the axes it names, in front and behind; cuts them off where negative."""
    pads = _integers(node, 1, graph) or numbers(node, "pads") or numbers(node, "paddings")
    axes = _integers(node, 3, graph)
    rank = known_rank(graph, node.input[0]) if axes is not None else len(pads) // 2
    padded = [axis % rank for axis in axes] if axes is not None else list(range(rank))
    if len(pads) != 2 * len(padded):
        raise Refused(Reason.MALFORMED, f"{graph.known_as(node)} pads {len(padded)} dims by {len(pads)} numbers")
    return {axis: (pads[i], pads[i + len(padded)]) for i, axis in enumerate(padded)}


def pad_value(node: NodeProto, graph: Graph) -> tuple[float, Tensor | None]:
    """The number that a Pad puts beside its input, and the constant that it reads it from, if any. Raises `Refused`."""
    if len(node.input) < 3 or not node.input[2]:
        return number(node, "value", 0.0), None
    fill = constant_input(node, 2, graph, Reason.BIAS_NOT_CONSTANT)
    if fill.size != 1:
        raise Refused(Reason.MALFORMED, f"{graph.known_as(node)} pads with {fill.size} values")
    return float(fill.exact().reshape(-1)[0]), fill


def _new_padding(
    node: NodeProto, graph: Graph, mapped: Callable[[float], Array]
) -> tuple[tuple[NewConstant, ...], tuple[NewAttribute, ...]]:
    """The change of the value that is padded with, if any."""
    where = padded_axes(node, graph)
    if text(node, "mode", "constant") != "constant" or not any(p > 0 for pair in where.values() for p in pair):
        return (), ()
    value, fill = pad_value(node, graph)
    new = np.asarray(mapped(value)).reshape(-1)
    if not np.isfinite(new).all() or (new != new[0]).any():
        raise Refused(Reason.PADDED_BORDER, f"{graph.known_as(node)} pads with {value:g}")
    if new[0] == value:
        return (), ()
    dtype = graph.dtype(node.input[0]) if fill is None else fill.dtype
    if graph.opset < 11:
        if dtype == np.float64 and float(np.float32(new[0])) != new[0]:
            raise Refused(Reason.UNSUPPORTED_DTYPE, f"{graph.known_as(node)} keeps the value it pads with in float32")
        return (), (NewAttribute(node, "value", float(new[0])),)
    if dtype is None:
        raise Refused(Reason.SHAPE_UNKNOWN, f"dtype of {node.input[0]!r}")
    return (NewConstant(node, 2, stored_vector(new[:1].reshape(() if fill is None else fill.shape), dtype)),), ()


# ---------------------------------------------------------------------- joining and taking apart


def part(axis: int, sizes: Sequence[int], number_: int, *, alone: bool = True) -> Taken:
    """Part `number_` of an axis that is cut into `sizes`; the other parts are somebody else's."""
    start = sum(sizes[:number_])
    return Taken(axis, sum(sizes), lambda _: np.arange(start, start + sizes[number_]), alone=alone)


def output_concat(node: NodeProto, _output: int, affine: Affine, graph: Graph) -> list[Step]:
    """Every branch gets its part of the map; all of it where it does not vary along the axis."""
    everything = [(index, affine) for index in range(len(node.input))]
    axis = joined_axis(node, 1, node.output[0], graph) if not affine.is_uniform else 0
    if axis not in affine.axes:
        return [pass_on(*everything)]
    sizes = [known_dim(graph, value, axis) for value in node.input]
    if sum(sizes) != affine.shape[axis]:
        raise Refused(Reason.MALFORMED, f"{graph.known_as(node)} joins {sum(sizes)} channels")
    return [pass_on(*((i, affine.moved(part(axis, sizes, i).onward)) for i in range(len(sizes))))]


def input_concat(node: NodeProto, index: int, affine: Affine, graph: Graph) -> list[Step]:
    """Concat: the elements of the other branches pass unchanged."""
    if len(node.input) == 1:
        return [pass_on((0, affine))]
    axis = joined_axis(node, 1, node.output[0], graph)
    sizes = [known_dim(graph, value, axis) for value in node.input]
    return [pass_on((0, affine.moved(part(axis, sizes, index).back)))]


def joined_axis(node: NodeProto, default: int, value: str, graph: Graph) -> int:
    """The axis of a Concat or Split, from the front; `value` has its rank."""
    axis = number(node, "axis", default)
    return axis if axis >= 0 else axis + known_rank(graph, value)


def output_split(node: NodeProto, output: int, affine: Affine, graph: Graph) -> list[Step]:
    """Split: the elements of the other outputs pass unchanged."""
    if len(node.output) == 1:
        return [pass_on((0, affine))]
    axis = joined_axis(node, 0, node.input[0], graph)
    sizes = [known_dim(graph, value, axis) for value in node.output]
    return [pass_on((0, affine.moved(part(axis, sizes, output).back)))]


def input_split(node: NodeProto, _input: int, affine: Affine, graph: Graph) -> list[Step]:
    """Every output gets its part of the map; all of it where it does not vary along the axis."""
    axis = joined_axis(node, 0, node.input[0], graph)
    if axis not in affine.axes:
        return [pass_on(*((index, affine) for index in range(len(node.output))))]
    sizes = [known_dim(graph, value, axis) for value in node.output]
    return [pass_on(*((i, affine.moved(part(axis, sizes, i).onward)) for i in range(len(sizes))))]


# ---------------------------------------------------------------------- branches


def output_sum(node: NodeProto, _output: int, affine: Affine, graph: Graph) -> list[Step]:
    """Add, Sub, Sum of computed branches: the scale to all, the shift to exactly one. A constant branch takes both."""
    if _has_constant_operand(node, graph):
        return output_add_constant(node, _output, affine, graph)
    whole = [on_operand(affine, node, index, graph) for index in range(len(node.input))]
    scales = [each.only_scale() for each in whole]
    if not affine.has_shift:
        return [pass_on(*enumerate(scales))]
    steps = []
    for chosen, own in enumerate(whole):
        taker = Affine.of(own.scale, -own.shift) if node.op_type == "Sub" and chosen == 1 else own
        steps.append(pass_on(*enumerate([*scales[:chosen], taker, *scales[chosen + 1 :]])))
    return steps


def output_product(node: NodeProto, _output: int, affine: Affine, graph: Graph) -> list[Step]:
    """Mul and Div of computed values: the scale to one factor (of Div the numerator), a shift never."""
    if _has_constant_operand(node, graph):
        return output_mul_constant(node, _output, affine, graph)
    if affine.has_shift:
        raise Refused(Reason.SHIFT_BLOCKED, graph.known_as(node))
    steps, refusal = [], None
    for index in range(1 if node.op_type == "Div" else len(node.input)):
        try:
            steps.append(pass_on((index, on_operand(affine, node, index, graph))))
        except Refused as refused:
            refusal = refusal or refused
    if not steps:
        raise refusal or Refused(Reason.MALFORMED, graph.known_as(node))
    return steps


def _has_constant_operand(node: NodeProto, graph: Graph) -> bool:
    return len(node.input) == 2 and any(graph.constant(value) is not None for value in node.input)


def input_sum(node: NodeProto, index: int, affine: Affine, graph: Graph) -> list[Step]:
    """(x + t) + y = (x + y) + t: only a shift passes a sum with another computed branch."""
    if _has_constant_operand(node, graph):
        return input_add_constant(node, index, affine, graph)
    if affine.has_scale:
        raise Refused(Reason.NOT_ALL_ABSORB, f"the other operand of {graph.known_as(node)}")
    moved = Affine.of(affine.scale, -affine.shift) if node.op_type == "Sub" and index == 1 else affine
    return [pass_on((0, of_output(moved, node, index, graph)))]


def input_product(node: NodeProto, index: int, affine: Affine, graph: Graph) -> list[Step]:
    """(k x) y = k (x y), and x / y likewise for the numerator: only a scale passes."""
    if _has_constant_operand(node, graph):
        return input_mul_constant(node, index, affine, graph)
    if affine.has_shift:
        raise Refused(Reason.SHIFT_BLOCKED, graph.known_as(node))
    if node.op_type == "Div" and index == 1:
        raise Refused(Reason.BARRIER, f"{graph.known_as(node)} divides by it")
    return [pass_on((0, of_output(affine, node, index, graph)))]


_SAME: dict[str, Condition] = {
    "Dropout": transparent,
    "GlobalAveragePool": global_pool,
    "AveragePool": average_pool,
    "MaxPool": max_pool,
    "GlobalMaxPool": max_pool,
    "Relu": rectifier,
    "LeakyRelu": rectifier,
    "PRelu": rectifier,
}
# Operators that show some elements of a value, anywhere and any number of times, and change none.
REARRANGING: dict[str, Moves] = {
    "Identity": lambda _node, _graph: (),
    "Transpose": transposed,
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), laid_anew),
    "Slice": sliced,
    "Gather": gathered,
    "Tile": tiled,
    "Expand": expanded,
    "DepthToSpace": spread,
    "SpaceToDepth": deepened,
}
_BOTH_WAYS = {
    **{name: both_ways(condition) for name, condition in _SAME.items()},
    **{name: rearranging(moves) for name, moves in REARRANGING.items()},
    "ReduceMean": rearranging(averaged),
    **dict.fromkeys(("Resize", "Upsample"), rearranging(resized, resize)),
    **dict.fromkeys(("Cast", "CastLike"), (output_cast, input_cast)),
    "Pad": (output_pad, input_pad),
    "Concat": (output_concat, input_concat),
    "Split": (output_split, input_split),
    **dict.fromkeys(("Add", "Sub", "Sum"), (output_sum, input_sum)),
    **dict.fromkeys(("Mul", "Div"), (output_product, input_product)),
}
TOWARD_PRODUCER: dict[str, Handler] = {name: handlers[0] for name, handlers in _BOTH_WAYS.items()}
TOWARD_CONSUMERS: dict[str, Handler] = {name: handlers[1] for name, handlers in _BOTH_WAYS.items()}
# Known operators that nothing can be moved across; every other operator is reported as unknown.
# fmt: off
BARRIERS = frozenset((
    "Abs", "Acos", "ArgMax", "ArgMin", "Asin", "Atan", "Celu", "Ceil", "Clip", "Constant", "Cos", "Cosh", "CumSum",
    "DequantizeLinear", "Einsum", "Elu", "Equal", "Erf", "Exp", "Floor", "GRU", "GatherElements", "GatherND",
    "Gelu", "GlobalLpPool", "Greater", "GridSample", "GroupNormalization", "HardSigmoid", "HardSwish", "Hardmax",
    "If", "InstanceNormalization", "LRN", "LSTM", "LayerNormalization", "Less", "Log", "LogSoftmax", "Loop",
    "LpNormalization", "LpPool", "Max", "MaxRoiPool", "Mean", "MeanVarianceNormalization", "Min", "Mish", "Mod",
    "Neg", "NonMaxSuppression", "Not", "OneHot", "Pow", "QLinearConv", "QLinearMatMul", "QuantizeLinear",
    "RMSNormalization", "RNN", "Range", "Reciprocal", "ReduceL1", "ReduceL2", "ReduceMax", "ReduceMin",
    "ReduceProd", "ReduceSum", "ReduceSumSquare", "RoiAlign", "Round", "Scan", "ScatterElements", "ScatterND",
    "Selu", "Shape", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Size", "Softmax", "Softplus", "Softsign", "Sqrt",
    "Swish", "Tan", "Tanh", "ThresholdedRelu", "TopK", "Where", "Xor",
))
# fmt: on
