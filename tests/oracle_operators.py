"""The operators of the float64 oracle, each written from the ONNX specification on numpy; `oracle_torch` has more.

An entry takes a `Call` and the operator's inputs (numpy arrays, None where an optional one is absent; floating point is
always float64) and returns one array or a tuple of arrays. What has no entry here, or raises `NotHere`, is computed by
onnx.reference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray

Array = NDArray[Any]
Operator = Callable[..., "Array | tuple[Array, ...]"]

OPERATORS: dict[str, Operator] = {}
EPSILON = float(np.float32(1e-5))  # the default of the normalizations, a float32 in their schemas


class NotHere(Exception):  # noqa: N818 - not an error: the next implementation is asked
    """This form of the operator is left to onnx.reference."""


@dataclass(frozen=True)
class Call:
    """What an operator needs to know beside its inputs."""

    operator: str
    opset: int
    attributes: dict[str, Any]
    outputs: tuple[str, ...]
    inference: bool

    def get(self, name: str, default: Any = None) -> Any:
        return self.attributes.get(name, default)

    def wants(self, position: int) -> bool:
        """Is there a name for this output?"""
        return position < len(self.outputs) and bool(self.outputs[position])


def operator(*names: str) -> Callable[[Operator], Operator]:
    """Enter a function into the table under these operator names."""

    def enter(function: Operator) -> Operator:
        for name in names:
            OPERATORS[name] = function
        return function

    return enter


def promote(array: Array) -> Array:
    """Every floating point type becomes float64 with the stored values; everything else stays. Always a fresh array."""
    kind = array.dtype.kind
    if kind == "f" or (kind == "V" and _is_small_float(array.dtype)):
        return array.astype(np.float64)
    return array.copy()


def _is_small_float(dtype: np.dtype[Any]) -> bool:
    try:
        ml_dtypes.finfo(dtype)
    except ValueError:
        return False
    return True


def integers(array: Array) -> list[int]:
    return [int(number) for number in np.asarray(array).reshape(-1)]


def per_channel(vector: Array, rank: int) -> Array:
    """[C] as [1, C, 1, ...]."""
    return vector.reshape((1, -1) + (1,) * (rank - 2))


# --- elementwise -----------------------------------------------------------------------------------------------------


@operator("PRelu")
def prelu(_: Call, x: Array, slope: Array) -> Array:
    return np.where(x < 0, slope * x, x)


@operator("Clip")
def clip(call: Call, x: Array, low: Array | None = None, high: Array | None = None) -> Array:
    low = call.get("min") if low is None else low
    high = call.get("max") if high is None else high
    x = x if low is None else np.maximum(x, low)
    return x if high is None else np.minimum(x, high)


def _divide(a: Array, b: Array) -> Array:
    if a.dtype.kind == "f":
        return a / b
    return (np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b))).astype(a.dtype)  # integers truncate towards zero


_BINARY: dict[str, Callable[[Array, Array], Array]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": _divide,
    "Equal": np.equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "And": np.logical_and,
    "Or": np.logical_or,
}


@operator(*_BINARY)
def binary(call: Call, a: Array, b: Array) -> Array:
    if "broadcast" in call.attributes or "axis" in call.attributes:
        raise NotHere  # the broadcasting of opset 6 and earlier
    return _BINARY[call.operator](a, b)


@operator("Sum", "Max", "Min", "Mean")
def variadic(call: Call, *inputs: Array) -> Array:
    step = {"Sum": np.add, "Mean": np.add, "Max": np.maximum, "Min": np.minimum}[call.operator]
    total = inputs[0]
    for array in inputs[1:]:
        total = step(total, array)
    return total / len(inputs) if call.operator == "Mean" else total


@operator("Pow")
def power(_: Call, x: Array, exponent: Array) -> Array:
    return np.power(x, exponent.astype(np.float64) if x.dtype.kind == "f" else exponent).astype(x.dtype)


@operator("Where")
def where(_: Call, condition: Array, a: Array, b: Array) -> Array:
    return np.where(condition, a, b)


@operator("Not")
def logical_not(_: Call, x: Array) -> Array:
    return np.logical_not(x)


@operator("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")
def random(call: Call, *_: Array) -> Array:
    raise ValueError(f"{call.operator} is random: no oracle for it")


@operator("Identity")
def identity(_: Call, x: Array) -> Array:
    return x


@operator("Dropout")
def dropout(call: Call, x: Array, ratio: Array | None = None, training: Array | None = None) -> tuple[Array, Array]:
    drops = training is not None and bool(training) if call.opset >= 12 else call.opset < 7 and not call.get("is_test")
    if drops and not call.inference and (ratio is None or float(ratio) > 0):
        raise ValueError("Dropout in training mode is random: no oracle for it (pass inference=True)")
    return x, np.ones(x.shape, bool)


# --- types and constants ---------------------------------------------------------------------------------------------


def _cast(x: Array, to: np.dtype[Any]) -> Array:
    """To a floating point type: float64, unrounded. From it to an integer: towards zero."""
    if to.kind == "f" or (to.kind == "V" and _is_small_float(to)):
        return x.astype(np.float64)
    if x.dtype.kind in "OSU" or to.kind in "OSU":
        raise NotHere
    return x.astype(to)


@operator("Cast")
def cast(call: Call, x: Array) -> Array:
    if isinstance(call.get("to"), bytes):
        raise NotHere  # opset 1 to 5 name the type in words
    return _cast(x, onnx.helper.tensor_dtype_to_np_dtype(call.get("to")))


@operator("CastLike")
def cast_like(_: Call, x: Array, like: Array) -> Array:
    return _cast(x, like.dtype)


@operator("Constant")
def constant(call: Call) -> Array:
    for name, kind in {
        "value_float": float,
        "value_floats": float,
        "value_int": np.int64,
        "value_ints": np.int64,
    }.items():
        if name in call.attributes:
            return np.asarray(call.get(name), kind)
    if call.get("value") is None:
        raise NotHere
    return onnx.numpy_helper.to_array(call.get("value"))


@operator("ConstantOfShape")
def constant_of_shape(call: Call, shape: Array) -> Array:
    value = call.get("value")
    fill = np.zeros(1) if value is None else onnx.numpy_helper.to_array(value)
    return np.full(integers(shape), fill.reshape(-1)[0], fill.dtype)


@operator("Shape")
def shape_of(call: Call, x: Array) -> Array:
    return np.asarray(x.shape[call.get("start", 0) : call.get("end")], np.int64)


@operator("Size")
def size_of(_: Call, x: Array) -> Array:
    return np.asarray(x.size, np.int64)


# --- moving elements -------------------------------------------------------------------------------------------------


@operator("Reshape")
def reshape(call: Call, x: Array, shape: Array | None = None) -> Array:
    wanted = list(call.get("shape")) if shape is None else integers(shape)
    if not call.get("allowzero", 0):
        wanted = [x.shape[axis] if size == 0 else size for axis, size in enumerate(wanted)]
    return x.reshape(wanted)


@operator("Transpose")
def transpose(call: Call, x: Array) -> Array:
    return x.transpose(call.get("perm", range(x.ndim)[::-1]))


@operator("Flatten")
def flatten(call: Call, x: Array) -> Array:
    axis = call.get("axis", 1)
    return x.reshape(math.prod(x.shape[: axis if axis >= 0 else axis + x.ndim]), -1)


def _axes(call: Call, axes: Array | None, rank: int) -> tuple[int, ...] | None:
    """The axes, by attribute or by input; None where neither gives any."""
    given = call.get("axes") if axes is None else integers(axes)
    return None if given is None else tuple(axis % rank for axis in given)


@operator("Squeeze")
def squeeze(call: Call, x: Array, axes: Array | None = None) -> Array:
    return np.squeeze(x, _axes(call, axes, max(x.ndim, 1)))


@operator("Unsqueeze")
def unsqueeze(call: Call, x: Array, axes: Array | None = None) -> Array:
    given = call.get("axes") if axes is None else integers(axes)
    return np.expand_dims(x, tuple(given))


@operator("Slice")
def slices(
    call: Call,
    x: Array,
    starts: Array | None = None,
    ends: Array | None = None,
    axes: Array | None = None,
    steps: Array | None = None,
) -> Array:
    first = call.get("starts") if starts is None else integers(starts)
    last = call.get("ends") if ends is None else integers(ends)
    along = call.get("axes", range(len(first))) if axes is None else integers(axes)
    step = [1] * len(first) if steps is None else integers(steps)
    index = [slice(None)] * x.ndim
    for axis, begin, end, stride in zip(along, first, last, step, strict=True):
        size = x.shape[axis]
        # Python's slices clamp as ONNX does, but for an end before the beginning of a backward walk.
        through_start = stride < 0 and end < -size
        index[axis] = slice(begin, None if through_start else end, stride)
    return x[tuple(index)]


@operator("Split")
def split(call: Call, x: Array, sizes: Array | None = None) -> tuple[Array, ...]:
    axis = call.get("axis", 0)
    parts = call.get("split") if sizes is None else integers(sizes)
    if parts is None:
        count = call.get("num_outputs", len(call.outputs))
        each = -(-x.shape[axis] // count)
        parts = [min(each, x.shape[axis] - each * part) for part in range(count)]
    return tuple(np.split(x, np.cumsum(parts)[:-1], axis))


@operator("Concat")
def concat(call: Call, *inputs: Array) -> Array:
    return np.concatenate(inputs, call.get("axis", 1))


@operator("Expand")
def expand(_: Call, x: Array, shape: Array) -> Array:
    return np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(integers(shape))))


@operator("Tile")
def tile(_: Call, x: Array, repeats: Array) -> Array:
    return np.tile(x, integers(repeats))


@operator("Gather")
def gather(call: Call, x: Array, indices: Array) -> Array:
    return np.take(x, indices, axis=call.get("axis", 0))


@operator("Pad")
def pad(
    call: Call, x: Array, pads: Array | None = None, value: Array | None = None, axes: Array | None = None
) -> Array:
    amounts = list(call.get("pads", call.get("paddings"))) if pads is None else integers(pads)
    along = list(range(x.ndim)) if axes is None else [axis % x.ndim for axis in integers(axes)]
    widths = [(0, 0)] * x.ndim
    for position, axis in enumerate(along):
        widths[axis] = (amounts[position], amounts[position + len(along)])
    crops = tuple(
        slice(max(-before, 0), size - max(-after, 0)) for (before, after), size in zip(widths, x.shape, strict=True)
    )
    grows = [(max(before, 0), max(after, 0)) for before, after in widths]
    mode = call.get("mode", b"constant").decode()
    if mode == "constant":
        fill = call.get("value", 0.0) if value is None else value.reshape(-1)[0]
        return np.pad(x[crops], grows, constant_values=fill)
    return np.pad(x[crops], grows, mode=mode)


@operator("DepthToSpace")
def depth_to_space(call: Call, x: Array) -> Array:
    batch, channels, height, width = x.shape
    block = call.get("blocksize")
    inner = channels // block**2
    if call.get("mode", b"DCR") == b"DCR":
        moved = x.reshape(batch, block, block, inner, height, width).transpose(0, 3, 4, 1, 5, 2)
    else:
        moved = x.reshape(batch, inner, block, block, height, width).transpose(0, 1, 4, 2, 5, 3)
    return moved.reshape(batch, inner, height * block, width * block)


@operator("SpaceToDepth")
def space_to_depth(call: Call, x: Array) -> Array:
    batch, channels, height, width = x.shape
    block = call.get("blocksize")
    order = (0, 3, 5, 1, 2, 4) if call.get("mode", b"DCR") == b"DCR" else (0, 1, 3, 5, 2, 4)
    moved = x.reshape(batch, channels, height // block, block, width // block, block).transpose(order)
    return moved.reshape(batch, channels * block**2, height // block, width // block)


# --- reductions and normalizations -----------------------------------------------------------------------------------

_REDUCTIONS: dict[str, Callable[..., Array]] = {
    "ReduceMean": np.mean,
    "ReduceSum": np.sum,
    "ReduceMax": np.max,
    "ReduceMin": np.min,
    "ReduceProd": np.prod,
    "ReduceSumSquare": lambda x, **how: np.sum(x * x, **how),
    "ReduceL2": lambda x, **how: np.sqrt(np.sum(x * x, **how)),
}


@operator(*_REDUCTIONS)
def reduce(call: Call, x: Array, axes: Array | None = None) -> Array:
    along = _axes(call, axes, max(x.ndim, 1))
    if not x.size:
        raise NotHere
    if not along:
        if along is not None and call.get("noop_with_empty_axes", 0):
            raise NotHere
        if along is None and call.get("noop_with_empty_axes", 0):
            return x
        along = None
    result = _REDUCTIONS[call.operator](x, axis=along, keepdims=bool(call.get("keepdims", 1)))
    return np.asarray(result, x.dtype)


@operator("GlobalAveragePool", "GlobalMaxPool")
def global_pool(call: Call, x: Array) -> Array:
    function = np.mean if call.operator == "GlobalAveragePool" else np.max
    return function(x, axis=tuple(range(2, x.ndim)), keepdims=True)


def normalizes_with_the_batch(call: Call) -> bool:
    """BatchNormalization in train mode, spelled as each range of opsets spells it."""
    if call.inference:
        return False
    if call.opset >= 14:
        return bool(call.get("training_mode", 0))
    if call.opset >= 7:
        return any(call.outputs[1:])
    return not call.get("is_test", 0)


@operator("BatchNormalization")
def batch_normalization(
    call: Call, x: Array, gamma: Array, beta: Array, mean: Array, variance: Array
) -> tuple[Array, ...]:
    if call.opset < 9 and call.get("spatial", 1) == 0 and x.ndim > 2:
        raise ValueError("BatchNormalization with spatial=0 has no oracle")
    others = tuple(axis for axis in range(x.ndim) if axis != 1)
    running: tuple[Array, ...] = ()
    if normalizes_with_the_batch(call):
        momentum = call.get("momentum", float(np.float32(0.9)))
        batch_mean, batch_variance = x.mean(others), x.var(others)
        running = (
            mean * momentum + batch_mean * (1 - momentum),
            variance * momentum + batch_variance * (1 - momentum),
        )
        if call.opset < 14:
            running += (batch_mean, batch_variance)
        mean, variance = batch_mean, batch_variance
    elif call.inference:
        running = (mean, variance, mean, variance)
    scale = gamma / np.sqrt(variance + call.get("epsilon", EPSILON))
    y = (x - per_channel(mean, x.ndim)) * per_channel(scale, x.ndim) + per_channel(beta, x.ndim)
    return (y, *running)


@operator("InstanceNormalization")
def instance_normalization(call: Call, x: Array, gamma: Array, beta: Array) -> Array:
    spatial = tuple(range(2, x.ndim))
    centred = x - x.mean(spatial, keepdims=True)
    unit = centred / np.sqrt(x.var(spatial, keepdims=True) + call.get("epsilon", EPSILON))
    return unit * per_channel(gamma, x.ndim) + per_channel(beta, x.ndim)


@operator("GroupNormalization")
def group_normalization(call: Call, x: Array, gamma: Array, beta: Array) -> Array:
    batch, channels, *_ = x.shape
    groups = call.get("num_groups")
    grouped = x.reshape(batch, groups, -1)
    centred = grouped - grouped.mean(2, keepdims=True)
    unit = (centred / np.sqrt(grouped.var(2, keepdims=True) + call.get("epsilon", EPSILON))).reshape(x.shape)
    if call.opset < 21:  # gamma and beta are per group there
        gamma, beta = np.repeat(gamma, channels // groups), np.repeat(beta, channels // groups)
    return unit * per_channel(gamma, x.ndim) + per_channel(beta, x.ndim)


@operator("LayerNormalization")
def layer_normalization(call: Call, x: Array, gamma: Array, beta: Array | None = None) -> tuple[Array, ...]:
    along = tuple(range(call.get("axis", -1) % x.ndim, x.ndim))
    mean = x.mean(along, keepdims=True)
    inverse = 1 / np.sqrt(x.var(along, keepdims=True) + call.get("epsilon", EPSILON))
    y = (x - mean) * inverse * gamma
    return (y if beta is None else y + beta), mean, inverse


@operator("MeanVarianceNormalization")
def mean_variance_normalization(call: Call, x: Array) -> Array:
    along = tuple(call.get("axes", (0, 2, 3)))
    return (x - x.mean(along, keepdims=True)) / (x.std(along, keepdims=True) + 1e-9)


@operator("LRN")
def local_response_normalization(call: Call, x: Array) -> Array:
    size = call.get("size")
    before = (size - 1) // 2
    padded = np.pad(x * x, [(0, 0), (before, size - 1 - before)] + [(0, 0)] * (x.ndim - 2))
    squares = sum(padded[:, first : first + x.shape[1]] for first in range(size))
    alpha, beta, bias = call.get("alpha", float(np.float32(1e-4))), call.get("beta", 0.75), call.get("bias", 1.0)
    return x / (bias + alpha / size * squares) ** beta


# --- linear operators ------------------------------------------------------------------------------------------------


@operator("MatMul")
def matmul(_: Call, a: Array, b: Array) -> Array:
    return np.matmul(a, b)


@operator("Gemm")
def gemm(call: Call, a: Array, b: Array, c: Array | None = None) -> Array:
    a = a.T if call.get("transA", 0) else a
    b = b.T if call.get("transB", 0) else b
    product = call.get("alpha", 1.0) * (a @ b)
    return product if c is None else product + call.get("beta", 1.0) * c


@dataclass(frozen=True)
class Window:
    """How a kernel walks over the spatial dims; one number per dim."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]

    @property
    def extent(self) -> tuple[int, ...]:
        return tuple((size - 1) * step + 1 for size, step in zip(self.kernel, self.dilation, strict=True))


def window_of(call: Call, kernel: Sequence[int]) -> Window:
    ones = (1,) * len(kernel)
    return Window(tuple(kernel), tuple(call.get("strides", ones)), tuple(call.get("dilations", ones)))


def pads_of(call: Call, window: Window, spatial: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """(before, after) for each spatial dim, by `pads` or by `auto_pad`."""
    rank = len(spatial)
    auto = call.get("auto_pad", b"NOTSET")
    if auto == b"VALID":
        return ((0, 0),) * rank
    if auto == b"NOTSET":
        pads = call.get("pads", [0] * 2 * rank)
        return tuple(zip(pads[:rank], pads[rank:], strict=True))
    result = []
    for size, extent, stride in zip(spatial, window.extent, window.stride, strict=True):
        total = max((-(-size // stride) - 1) * stride + extent - size, 0)
        small, large = total // 2, total - total // 2
        result.append((small, large) if auto == b"SAME_UPPER" else (large, small))
    return tuple(result)


@operator("ConvTranspose")
def conv_transpose(call: Call, x: Array, weight: Array, bias: Array | None = None) -> Array:
    """Everything the kernel reaches, plus output_padding at the end, minus the pads; the bias comes last.

    `weight` is [Cin, Cout / groups, *kernel].
    """
    rank, groups = x.ndim - 2, call.get("group", 1)
    window = window_of(call, weight.shape[2:])
    extra, sizes = tuple(call.get("output_padding", (0,) * rank)), x.shape[2:]
    spans = [(size - 1) * stride + 1 for size, stride in zip(sizes, window.stride, strict=True)]
    reached = [span + extent - 1 + more for span, extent, more in zip(spans, window.extent, extra, strict=True)]
    values = x.reshape(x.shape[0], groups, -1, *sizes)
    kernels = weight.reshape(groups, -1, *weight.shape[1:])
    whole = np.zeros((x.shape[0], groups, weight.shape[1], *reached))
    for offset in np.ndindex(*window.kernel):
        starts = [at * step for at, step in zip(offset, window.dilation, strict=True)]
        place = tuple(slice(a, a + span, stride) for a, span, stride in zip(starts, spans, window.stride, strict=True))
        whole[(..., *place)] += np.einsum("ngc...,gcm->ngm...", values, kernels[(..., *offset)])
    whole = whole.reshape(x.shape[0], -1, *reached)
    auto = call.get("auto_pad", b"NOTSET")
    wanted = call.get("output_shape")
    if wanted is None and auto in {b"SAME_UPPER", b"SAME_LOWER"}:
        wanted = [size * stride for size, stride in zip(sizes, window.stride, strict=True)]
    if wanted is None:
        pads = pads_of(call, window, sizes)
    else:
        totals = [size - target for size, target in zip(whole.shape[2:], wanted[-rank:], strict=True)]
        if min(totals) < 0:
            raise NotHere
        halves = [(total // 2, total - total // 2) for total in totals]
        pads = tuple(halves if auto == b"SAME_UPPER" else [(large, small) for small, large in halves])
    if min(map(min, pads)) < 0:
        raise NotHere
    y = whole[(..., *(slice(before, size - after) for size, (before, after) in zip(reached, pads, strict=True)))]
    return y if bias is None else y + per_channel(bias, x.ndim)


# --- pooling ---------------------------------------------------------------------------------------------------------


def pooled_window(call: Call, x: Array) -> tuple[Window, tuple[tuple[int, int], ...], tuple[tuple[int, int], ...]]:
    """The window, the pads, and the pads with what `ceil_mode` reads beyond them at the end of each dim.

    A last window that would begin beyond the input and the pads before it is not taken.
    """
    window = window_of(call, call.get("kernel_shape"))
    pads = pads_of(call, window, x.shape[2:])
    if not call.get("ceil_mode", 0):
        return window, pads, pads
    beyond = []
    for size, (before, after), extent, stride in zip(x.shape[2:], pads, window.extent, window.stride, strict=True):
        count = -(-(size + before + after - extent) // stride) + 1
        count -= (count - 1) * stride >= size + before
        beyond.append((before, max((count - 1) * stride + extent - size - before, after)))
    return window, pads, tuple(beyond)


# --- resizing --------------------------------------------------------------------------------------------------------


@operator("Upsample")
def upsample(call: Call, x: Array, scales: Array | None = None) -> Array:
    factors = list(call.get("scales")) if scales is None else scales.tolist()
    mode = call.get("mode", b"nearest").decode()
    return _resized(x, factors, None, mode, "asymmetric", call, nearest="floor")


@operator("Resize")
def resize(call: Call, x: Array, *rest: Array | None) -> Array:
    transformation = call.get("coordinate_transformation_mode", b"half_pixel").decode()
    if transformation == "tf_crop_and_resize" or call.get("antialias", 0):
        raise NotHere
    if call.get("axes") is not None or call.get("keep_aspect_ratio_policy", b"stretch") != b"stretch":
        raise NotHere
    mode = call.get("mode", b"nearest").decode()
    if call.opset < 11:
        (scales,) = rest
        return _resized(x, scales.tolist(), None, mode, "asymmetric", call, nearest="floor")
    _, scales, sizes = (*rest, None, None, None)[:3]
    nearest = call.get("nearest_mode", b"round_prefer_floor").decode()
    if sizes is not None and sizes.size:
        factors = [size / before for size, before in zip(integers(sizes), x.shape, strict=True)]
        return _resized(x, factors, integers(sizes), mode, transformation, call, nearest)
    return _resized(x, scales.tolist(), None, mode, transformation, call, nearest)


def _resized(
    x: Array,
    scales: Sequence[float],
    sizes: Sequence[int] | None,
    mode: str,
    transformation: str,
    call: Call,
    nearest: str,
) -> Array:
    """Interpolation is separable: one matrix [size after, size before] per axis."""
    for axis, scale in enumerate(scales):
        before = x.shape[axis]
        after = math.floor(before * scale) if sizes is None else sizes[axis]
        if scale == 1 and after == before:
            continue
        at = _source_positions(after, before, scale, transformation)
        matrix = np.zeros((after, before))
        for row, position in enumerate(at):
            for column, share in _taps(position, mode, nearest, call):
                if not 0 <= column < before and call.get("exclude_outside", 0) and mode == "cubic":
                    continue
                matrix[row, min(max(column, 0), before - 1)] += share
            if call.get("exclude_outside", 0) and mode == "cubic":
                matrix[row] /= matrix[row].sum()
        x = np.moveaxis(np.tensordot(matrix, x, (1, axis)), 0, axis)
    return x


def _source_positions(after: int, before: int, scale: float, transformation: str) -> list[float]:
    match transformation:
        case "half_pixel":
            return [(index + 0.5) / scale - 0.5 for index in range(after)]
        case "pytorch_half_pixel":
            return [(index + 0.5) / scale - 0.5 if after > 1 else 0.0 for index in range(after)]
        case "align_corners":
            return [index * (before - 1) / (after - 1) if after > 1 else 0.0 for index in range(after)]
        case "asymmetric":
            return [index / scale for index in range(after)]
    raise NotHere


def _taps(position: float, mode: str, nearest: str, call: Call) -> list[tuple[int, float]]:
    """Which source elements an output element is made of, and how much of each."""
    floor = math.floor(position)
    part = position - floor
    match mode:
        case "nearest":
            chosen = {
                "round_prefer_floor": math.ceil(position - 0.5),
                "round_prefer_ceil": math.floor(position + 0.5),
                "floor": floor,
                "ceil": math.ceil(position),
            }[nearest]
            return [(chosen, 1.0)]
        case "linear":
            return [(floor, 1 - part), (floor + 1, part)]
        case "cubic":
            a = call.get("cubic_coeff_a", -0.75)
            near = [((a + 2) * d - (a + 3)) * d * d + 1 for d in (part, 1 - part)]
            far = [((a * d - 5 * a) * d + 8 * a) * d - 4 * a for d in (part + 1, 2 - part)]
            return [(floor - 1, far[0]), (floor, near[0]), (floor + 1, near[1]), (floor + 2, far[1])]
    raise NotHere


# --- quantized weights -----------------------------------------------------------------------------------------------


@operator("DequantizeLinear")
def dequantize_linear(call: Call, x: Array, scale: Array, zero_point: Array | None = None) -> Array:
    if call.get("block_size", 0):
        raise NotHere
    if scale.ndim == 1 and scale.size >= 1 and x.ndim > 0:
        shape = [1] * x.ndim
        shape[call.get("axis", 1)] = -1
        scale = scale.reshape(shape) if scale.size > 1 else scale.reshape(())
        zero_point = None if zero_point is None else zero_point.reshape(scale.shape)
    whole = x.astype(np.float64)
    return (whole if zero_point is None else whole - zero_point.astype(np.float64)) * scale
