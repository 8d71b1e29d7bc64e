"""onnx.reference, with what it has slow or wrong in float64 numpy: convolutions, pools, normalizations, Softmax of old.

The reference implementation of grouped ConvTranspose fails, and its pools loop in Python over every position. These
follow the operators' definitions in the ONNX specification and share nothing with the code that folds.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from onnx.reference.ops.op_resize import Resize as ReferenceResize

from bnfold.equivalence.numbers.bounds import BOUNDS
from bnfold.equivalence.numbers.element_types import Array
from bnfold.lifetime import emptied_at_the_end

Ints = Sequence[int] | None


class Conv(OpRun):
    """Y[n,o,p] = b[o] + sum of W[o,i,k] X[n, group(o)+i, s p + d k - pad]."""

    def _run(
        self,
        x: Array,
        w: Array,
        b: Array | None = None,
        *,
        auto_pad: str | None = None,
        dilations: Ints = None,
        group: int | None = None,
        kernel_shape: Ints = None,  # noqa: ARG002 - the weight says it
        pads: Ints = None,
        strides: Ints = None,
    ) -> tuple[Array]:
        rank, groups = x.ndim - 2, group or 1
        steps, spread = list(strides or [1] * rank), list(dilations or [1] * rank)
        around = _pads(auto_pad, pads, x.shape[2:], w.shape[2:], steps, spread)
        taps = _windows(x, w.shape[2:], steps, spread, around, 0.0)
        n, places = x.shape[0], taps.shape[2 : 2 + rank]
        # [N, g, C/g, *places, *taps] -> [g, C/g * taps, N * places]: one product for the whole batch.
        taps = taps.reshape(n, groups, x.shape[1] // groups, *taps.shape[2:])
        order = (1, 2, *range(3 + rank, 3 + 2 * rank), 0, *range(3, 3 + rank))
        columns = taps.transpose(order).reshape(groups, -1, n * math.prod(places))
        y = np.matmul(w.reshape(groups, w.shape[0] // groups, -1), columns)
        y = y.reshape(w.shape[0], n, *places).swapaxes(0, 1)
        return (y if b is None else y + b.reshape(-1, *[1] * rank),)


class ConvTranspose(OpRun):
    """The gradient of Conv: every input position adds its value times the kernel to the output."""

    def _run(
        self,
        x: Array,
        w: Array,
        b: Array | None = None,
        *,
        auto_pad: str | None = None,
        dilations: Ints = None,
        group: int | None = None,
        kernel_shape: Ints = None,  # noqa: ARG002 - the weight says it
        output_padding: Ints = None,
        output_shape: Ints = None,
        pads: Ints = None,
        strides: Ints = None,
    ) -> tuple[Array]:
        rank, groups = x.ndim - 2, group or 1
        steps, spread = list(strides or [1] * rank), list(dilations or [1] * rank)
        extra = list(output_padding or [0] * rank)
        kernel, places = w.shape[2:], x.shape[2:]
        full = [steps[a] * (places[a] - 1) + spread[a] * (kernel[a] - 1) + 1 + extra[a] for a in range(rank)]
        wanted = list(output_shape) if output_shape else None
        if wanted is None and auto_pad in {"SAME_UPPER", "SAME_LOWER"}:
            # Where the kernel is shorter than the stride the runtime adds nothing, and what comes of it is shorter.
            wanted = [min(places[a] * steps[a], full[a]) for a in range(rank)]
        if wanted is not None:
            wanted = wanted[-rank:]
            total = [full[a] - wanted[a] for a in range(rank)]
            small = [amount // 2 for amount in total]
            large = [amount - half for amount, half in zip(total, small, strict=True)]
            around = [*small, *large] if auto_pad == "SAME_UPPER" else [*large, *small]
        else:
            around = list(pads or [0] * (2 * rank)) if auto_pad in {None, "NOTSET", ""} else [0] * (2 * rank)
        n, per_group, outputs = x.shape[0], x.shape[1] // groups, w.shape[1]
        grouped = x.reshape(n, groups, per_group, -1)
        weights = w.reshape(groups, per_group, outputs, *kernel)
        room = [max(full[a], full[a] - around[a] - around[rank + a]) + max(0, -around[a]) for a in range(rank)]
        y = np.zeros((n, groups, outputs, *room), np.result_type(x, w))
        for tap in itertools.product(*map(range, kernel)):
            at: tuple[slice | int, ...] = (slice(None), slice(None), slice(None), *tap)
            contribution = np.matmul(weights[at].swapaxes(1, 2)[None], grouped)
            place = tuple(
                slice(
                    max(0, -around[a]) + spread[a] * tap[a],
                    max(0, -around[a]) + spread[a] * tap[a] + steps[a] * (places[a] - 1) + 1,
                    steps[a],
                )
                for a in range(rank)
            )
            y[(slice(None), slice(None), slice(None), *place)] += contribution.reshape(n, groups, outputs, *places)
        crop = tuple(
            slice(max(0, around[a]), max(0, around[a]) + full[a] - around[a] - around[rank + a]) for a in range(rank)
        )
        y = y.reshape(n, groups * outputs, *room)[(slice(None), slice(None), *crop)]
        return (y if b is None else y + b.reshape(-1, *[1] * rank),)


class MaxPool(OpRun):
    """The largest value of each window; the indices that a second output would hold are not computed."""

    def _run(self, x: Array, **attributes: Any) -> tuple[Array]:
        if len(self.onnx_node.output) > 1:
            raise NotImplementedError("MaxPool with indices")
        taps = _pool_windows(x, attributes, -np.inf)
        return (taps.max(axis=tuple(range(x.ndim, taps.ndim))),)


class AveragePool(OpRun):
    """Padding counts where count_include_pad is set; how that goes with ceil_mode, runtimes do not agree on."""

    def _run(self, x: Array, **attributes: Any) -> tuple[Array]:
        include = attributes.get("count_include_pad")
        if include and attributes.get("ceil_mode"):
            raise NotImplementedError("AveragePool with count_include_pad and ceil_mode")
        taps = _pool_windows(x, attributes, 0.0)
        axes = tuple(range(x.ndim, taps.ndim))
        if include:
            return (taps.mean(axis=axes),)
        counts = _pool_windows(np.ones((1, 1, *x.shape[2:])), attributes, 0.0).sum(axis=axes)
        return (taps.sum(axis=axes) / counts,)


class GlobalMaxPool(OpRun):
    """The largest value of each channel; the reference takes the channels for positions but in maps of rank 4."""

    def _run(self, x: Array) -> tuple[Array]:
        return (x.max(axis=tuple(range(2, x.ndim)), keepdims=True),)


class LRN(OpRun):
    """x / (bias + alpha / size * sum of squares)^beta, the sum over `size` channels around; the reference's is off."""

    def _run(self, x: Array, *, alpha: float, beta: float, bias: float, size: int) -> tuple[Array]:
        before, behind = (size - 1) // 2, size - 1 - (size - 1) // 2
        squares = np.pad(x * x, [(before, behind) if axis == 1 else (0, 0) for axis in range(x.ndim)])
        sums = sliding_window_view(squares, size, axis=1).sum(axis=-1)
        return (x / (bias + alpha / size * sums) ** beta,)


class _AlongRows(OpRun):
    """Below opset 13 the value is a matrix, whose rows are all axes from `axis` on; then it is `axis` alone."""

    def _run(self, x: Array, *, axis: int | None = None) -> tuple[Array]:
        flattens = self.run_params["opsets"][""] < 13
        given = [attribute.i for attribute in self.onnx_node.attribute if attribute.name == "axis"]
        axis = given[0] if given else 1 if flattens else -1  # left out, `axis` is the newest version's default
        if not flattens:
            return (np.moveaxis(self._of_rows(np.moveaxis(x, axis, -1)), -1, axis),)
        axis += x.ndim if axis < 0 else 0
        return (self._of_rows(x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))).reshape(x.shape),)

    def _of_rows(self, x: Array) -> Array:
        raise NotImplementedError


class Softmax(_AlongRows):
    """exp(x) / sum of exp(x)."""

    def _of_rows(self, x: Array) -> Array:
        powers = np.exp(x - x.max(axis=-1, keepdims=True, initial=-np.inf))
        return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


class LogSoftmax(_AlongRows):
    """x - log(sum of exp(x))."""

    def _of_rows(self, x: Array) -> Array:
        moved = x - x.max(axis=-1, keepdims=True, initial=-np.inf)
        return np.asarray(moved - np.log(np.exp(moved).sum(axis=-1, keepdims=True)))


class Hardmax(_AlongRows):
    """1 at the first of the largest, 0 elsewhere."""

    def _of_rows(self, x: Array) -> Array:
        return np.asarray(np.arange(x.shape[-1]) == x.argmax(axis=-1)[..., np.newaxis], x.dtype)


class BatchNormalization(OpRun):
    """Inference alone, in every opset. From 9 to 13 the reference mixes in the batch's statistics, as in training."""

    def _run(
        self, x: Array, scale: Array, bias: Array, mean: Array, variance: Array, **attributes: Any
    ) -> tuple[Array]:
        opset = self.run_params["opsets"][""]
        inference = (
            bool(attributes.get("is_test"))
            if opset < 7
            else not attributes.get("training_mode")
            if opset >= 14
            else sum(map(bool, self.onnx_node.output)) == 1
        )
        if not inference or (attributes.get("spatial") == 0 and x.ndim != 2):  # of rank 2 there is one position
            raise NotImplementedError("BatchNormalization in training mode or per position")
        shape = (-1, *[1] * (x.ndim - 2))
        factor = scale / np.sqrt(variance + attributes["epsilon"])
        return ((x - mean.reshape(shape)) * factor.reshape(shape) + bias.reshape(shape),)


class Unsqueeze(OpRun):
    """Axes count in the output and in any order; below opset 13 the reference takes them one after the other."""

    def _run(self, x: Array, given: Array | None = None, *, axes: Ints = None) -> tuple[Array]:
        wanted = [int(axis) for axis in (given.reshape(-1) if given is not None else axes or ())]
        rank = x.ndim + len(wanted)
        places = {axis + rank if axis < 0 else axis for axis in wanted}
        if len(places) != len(wanted) or not all(0 <= place < rank for place in places):
            raise ValueError("Unsqueeze along axes that there are not, or twice along one")
        sizes = iter(x.shape)
        return (x.reshape([1 if place in places else next(sizes) for place in range(rank)]),)


_OPEN_END = (1 << 31) - 1


class Slice(OpRun):
    """Starts and ends are clamped as the specification says, backwards too; before opset 10 they are attributes.

    Backwards to INT_MAX raises: by the specification that is nothing, and onnxruntime goes on to the first element.
    """

    def _run(
        self, x: Array, *given: Array | None, starts: Ints = None, ends: Ints = None, axes: Ints = None
    ) -> tuple[Array]:
        begin, end, along, steps = (_integers(given[at] if at < len(given) else None) for at in range(4))
        begin, end, along = begin or list(starts or ()), end or list(ends or ()), along or list(axes or ())
        if not len(begin) == len(end) == len(along or begin) == len(steps or begin):
            raise ValueError("Slice with lists of other lengths")
        for at, axis in enumerate(along or range(len(begin))):
            size, step = x.shape[axis], (steps or [1] * len(begin))[at]
            if step < 0 and end[at] >= _OPEN_END:
                raise ValueError("Slice backwards with an open end")
            low, high = (0, size) if step > 0 else (-1, size - 1)
            first, last = (each + size if each < 0 else each for each in (begin[at], end[at]))
            first = min(max(first, 0), high)
            last = min(max(last, low), high)
            x = np.take(x, np.arange(first, last, step), axis=axis)
        return (x,)


class _Reduction(OpRun):
    """Axes are an attribute, or an input from opset 18 on, 13 for ReduceSum."""

    def _run(
        self,
        x: Array,
        given: Array | None = None,
        *,
        axes: Ints = None,
        keepdims: int | None = None,
        noop_with_empty_axes: int | None = None,
    ) -> tuple[Array]:
        along = tuple(_integers(given) or axes or ())
        if not along and noop_with_empty_axes:
            return (x,)
        return (np.asarray(self._over(x, along or None, keepdims is None or bool(keepdims))),)

    def _over(self, x: Array, along: tuple[int, ...] | None, kept: bool) -> Array:
        raise NotImplementedError


class ReduceMean(_Reduction):
    """Raises for the mean of nothing, which the specification leaves undefined."""

    def _over(self, x: Array, along: tuple[int, ...] | None, kept: bool) -> Array:
        if not x.size and x.any(axis=along, keepdims=kept).size:
            raise ValueError("ReduceMean of nothing")
        return np.asarray(x.mean(axis=along, keepdims=kept, dtype=x.dtype))


_EXACT_BELOW = {4: 2.0**31, 8: 2.0**53}
"""By the bytes of an integer: beyond, onnxruntime answers with the largest one, and numpy begins anew at the least."""


class ReduceSum(_Reduction):
    """Raises for integers whose sum runtimes do not agree on."""

    def _over(self, x: Array, along: tuple[int, ...] | None, kept: bool) -> Array:
        return _agreed(np.sum, x, along, kept)


class ReduceProd(_Reduction):
    """Raises for integers whose product runtimes do not agree on."""

    def _over(self, x: Array, along: tuple[int, ...] | None, kept: bool) -> Array:
        return _agreed(np.prod, x, along, kept)


def _agreed(function: Callable[..., Any], x: Array, along: tuple[int, ...] | None, kept: bool) -> Array:
    if x.dtype.kind == "i":
        largest = function(np.abs(x.astype(np.float64)), axis=along, keepdims=kept)
        if np.max(largest, initial=0.0) >= _EXACT_BELOW.get(x.dtype.itemsize, 0.0):
            raise ValueError("integers that overflow")
    return np.asarray(function(x, axis=along, keepdims=kept, dtype=x.dtype))


def _integers(given: Array | None) -> list[int] | None:
    return None if given is None else [int(number) for number in given.reshape(-1)]


class Shape(OpRun):
    """`start` and `end` are clamped to the rank."""

    def _run(self, x: Array, *, start: int | None = None, end: int | None = None) -> tuple[Array]:
        first, last = start or 0, x.ndim if end is None else end
        first, last = (min(max(each + x.ndim if each < 0 else each, 0), x.ndim) for each in (first, last))
        return (np.array(x.shape[first:last] if first < last else (), np.int64),)


class Resize(ReferenceResize):
    """The reference's, which aligns corners with a size that is not rounded where `scales` tell it: told in `sizes`."""

    def _run(  # type: ignore[override]  # it names each attribute
        self, x: Array, roi: Array | None, scales: Array | None = None, sizes: Array | None = None, **attributes: Any
    ) -> tuple[Array]:
        corners = attributes.get("coordinate_transformation_mode") == "align_corners"
        if corners and scales is not None and scales.size and (sizes is None or not sizes.size):
            along = attributes.get("axes") or range(x.ndim)
            made = [math.floor(x.shape[axis] * factor) for axis, factor in zip(along, scales, strict=True)]
            scales, sizes = None, np.array(made)
        answer: tuple[Array] = super()._run(x, roi, scales, sizes, **attributes)
        return answer


class Upsample(ReferenceResize):
    """Resize as it was: the nearest position before, or between two of them; `scales` is an attribute in opset 7."""

    def _run(  # type: ignore[override]  # it has other inputs
        self, x: Array, given: Array | None = None, *, scales: Sequence[float] | None = None, mode: str | None = None
    ) -> tuple[Array]:
        answer: tuple[Array] = super()._run(
            x,
            None,
            np.asarray(scales if given is None else given, np.float64),
            mode=mode or "nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )
        return answer


class Pad(OpRun):
    """A negative number of places takes away as many before others are padded; numpy knows no negative ones."""

    def _run(
        self,
        x: Array,
        given: Array | None = None,
        value: Array | float | None = None,
        axes: Array | None = None,
        *,
        pads: Ints = None,
        mode: str | None = None,
    ) -> tuple[Array]:
        places = (_integers(given) if given is not None else list(pads or ())) or []
        along = range(x.ndim) if axes is None else [int(axis) % x.ndim for axis in axes.reshape(-1)]
        if len(places) != 2 * len(along):
            raise ValueError("Pad with a list of another length")
        around = [(0, 0)] * x.ndim
        for at, axis in enumerate(along):
            around[axis] = places[at], places[at + len(along)]
        x = x[tuple(slice(max(0, -a), max(0, x.shape[n] - max(0, -b))) for n, (a, b) in enumerate(around))]
        wider = [(max(0, before), max(0, behind)) for before, behind in around]
        if mode not in {None, "constant"}:
            return (np.pad(x, wider, mode=mode),)  # type: ignore[call-overload]  # reflect, edge, wrap
        fill = 0.0 if value is None else np.asarray(value).reshape(())
        return (np.pad(x, wider, constant_values=fill).astype(x.dtype),)


class DequantizeLinear(OpRun):
    """(x - zero point) * scale, one for all or one per position of `axis`; onnx.reference begins at opset 19."""

    def _run(
        self, x: Array, scale: Array, zero: Array | None = None, *, axis: int | None = None, **attributes: Any
    ) -> tuple[Array]:
        if attributes.get("block_size"):
            raise NotImplementedError("DequantizeLinear in blocks")
        shape = _along(scale, x, axis)
        values = x.astype(scale.dtype)
        if zero is not None:
            values = values - zero.astype(scale.dtype).reshape(shape)
        return (values * scale.reshape(shape),)


class QuantizeLinear(OpRun):
    """round(x / scale) + zero point, ties to even, held to the range of the zero point's type; uint8 without one."""

    def _run(
        self, x: Array, scale: Array, zero: Array | None = None, *, axis: int | None = None, **attributes: Any
    ) -> tuple[Array]:
        zero = np.zeros_like(scale, np.uint8) if zero is None else zero
        if attributes.get("block_size") or attributes.get("output_dtype") or zero.dtype.kind not in "iu":
            raise NotImplementedError("QuantizeLinear in blocks or to other types than integers")
        shape, limits = _along(scale, x, axis), np.iinfo(zero.dtype)
        steps = np.rint(x / scale.reshape(shape)) + zero.astype(np.int64).reshape(shape)
        return (np.clip(steps, limits.min, limits.max).astype(zero.dtype),)


def _along(scale: Array, x: Array, axis: int | None) -> tuple[int, ...]:
    """The shape in which one scale for all, or one per position of `axis`, meets `x`."""
    if scale.size == 1:
        return ()
    place = 1 if axis is None else axis
    return tuple(scale.size if at == place % x.ndim else 1 for at in range(x.ndim))


CONSTANT_OPERATORS: list[type[OpRun]] = [
    *(BatchNormalization, Unsqueeze, Slice, Shape, ReduceMean, ReduceSum, ReduceProd),
    *(DequantizeLinear, QuantizeLinear),
    *(GlobalMaxPool, LRN, Softmax, LogSoftmax, Hardmax),
]
"""Kernels for operators that onnx.reference has wrong or lacks: right in every type."""
OPERATORS: list[type[OpRun]] = [*CONSTANT_OPERATORS, Conv, ConvTranspose, MaxPool, AveragePool, Resize, Upsample, Pad]


class Reference(ReferenceEvaluator):
    """onnx.reference with the operators above, which it makes for functions and bodies as well.

    Left to itself it hands a function's body no operators but its own.
    """

    def __init__(self, proto: Any, **options: Any) -> None:
        emptied_at_the_end(self)
        super().__init__(proto, **{**options, "new_ops": [*OPERATORS, *BOUNDS]})


def _pool_windows(x: Array, attributes: dict[str, Any], fill: float) -> Array:
    rank = x.ndim - 2
    kernel = attributes["kernel_shape"]
    steps, spread = attributes.get("strides") or [1] * rank, attributes.get("dilations") or [1] * rank
    around = _pads(attributes.get("auto_pad"), attributes.get("pads"), x.shape[2:], kernel, steps, spread)
    if attributes.get("ceil_mode"):
        for axis in range(rank):
            reach = spread[axis] * (kernel[axis] - 1) + 1
            size = x.shape[2 + axis] + around[axis] + around[rank + axis]
            count = math.ceil((size - reach) / steps[axis]) + 1
            # A window that would start in the padding behind the input is left out.
            count -= (count - 1) * steps[axis] >= x.shape[2 + axis] + around[axis]
            around[rank + axis] += max(0, (count - 1) * steps[axis] + reach - size)
    return _windows(x, kernel, steps, spread, around, fill)


def _windows(
    x: Array, kernel: Sequence[int], steps: Sequence[int], spread: Sequence[int], around: Sequence[int], fill: float
) -> Array:
    """A view [N, C, *places, *kernel] of the padded input."""
    rank = x.ndim - 2
    margins = [(0, 0), (0, 0), *((around[a], around[rank + a]) for a in range(rank))]
    padded = np.pad(x, margins, constant_values=fill) if any(around) else x
    reach = tuple(spread[a] * (kernel[a] - 1) + 1 for a in range(rank))
    view = sliding_window_view(padded, reach, axis=tuple(range(2, 2 + rank)))
    every = slice(None)
    return view[
        (
            every,
            every,
            *(every if s == 1 else slice(None, None, s) for s in steps),
            *(slice(None, None, d) for d in spread),
        )
    ]


def _pads(
    auto_pad: str | None,
    pads: Ints,
    sizes: Sequence[int],
    kernel: Sequence[int],
    steps: Sequence[int],
    spread: Sequence[int],
) -> list[int]:
    """Begin of every axis, then end of every axis. SAME gives ceil(size / stride) outputs."""
    rank = len(sizes)
    if auto_pad in {None, "NOTSET", ""}:
        return list(pads or [0] * (2 * rank))
    if auto_pad == "VALID":
        return [0] * (2 * rank)
    total = [
        max(0, (math.ceil(sizes[a] / steps[a]) - 1) * steps[a] + spread[a] * (kernel[a] - 1) + 1 - sizes[a])
        for a in range(rank)
    ]
    small, large = [amount // 2 for amount in total], [amount - amount // 2 for amount in total]
    return [*small, *large] if auto_pad == "SAME_UPPER" else [*large, *small]
