"""Operators on arrays, by the text of the ONNX operator changelog for each operator set version.

The first of two evaluators of constant expressions; `bnfold.graph.witness` asks onnx.reference, which shares nothing
with it. Everything here is deterministic, and linear in what it reads and makes. Results are rounded as a runtime does:
in the dtype of the operands, sums in float64.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper

from bnfold.graph.attributes import attribute, number, numbers
from bnfold.graph.tensor import FLOATS

Array: TypeAlias = NDArray[Any]
Values: TypeAlias = Array | list[Array]

# Expressions whose result would be larger are left to the runtime.
LARGEST_RESULT_BYTES = 64 << 20
# A repeated number costs no memory here, only bytes in the output.
LARGEST_BROADCAST_BYTES = 1 << 30
# Multiplications of a matrix product.
_LARGEST_PRODUCT = 1 << 28
_LARGEST_RANK = 32
_LARGEST_INTEGER = 1 << 62
# Integers of so many bytes are computed in float64 as they are.
_EXACT_BELOW = {4: 1 << 31, 8: 1 << 53}
# The end that means "to the last" to those who write it.
_OPEN_END = (1 << 31) - 1
_INTEGERS = frozenset(map(np.dtype, ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")))


class NoValueError(Exception):
    """The operator, in this form, is not one that is evaluated here."""


class Call(NamedTuple):
    """A node with the arrays it reads (None where an input is absent) at an operator set version."""

    node: NodeProto
    inputs: Sequence[Array | None]
    opset: int

    def given(self, index: int) -> Array | None:
        """Input `index`, or None where it is absent."""
        return self.inputs[index] if index < len(self.inputs) else None

    def operand(self, index: int = 0) -> Array:
        """Input `index`, which has to be there."""
        found = self.given(index)
        if found is None:
            raise NoValueError
        return found

    def integers(self, index: int) -> list[int] | None:
        """Input `index` as a list of integers, None where it is absent."""
        found = self.given(index)
        if found is None:
            return None
        if found.ndim > 1 or found.dtype.kind not in "iu" or found.size > 4096:
            raise NoValueError
        return [int(value) for value in found.reshape(-1)]

    def list_of(self, name: str, index: int, since: int) -> list[int] | None:
        """A list that is an attribute before operator set version `since` and input `index` from then on."""
        if self.opset >= since:
            return self.integers(index)
        found = attribute(self.node, name)
        return None if found is None else numbers(self.node, name)


def values_of(call: Call) -> list[Array]:
    """The values that a node makes. Raises `NoValueError` where this module cannot tell, and what numpy raises."""
    function = OPERATORS.get(call.node.op_type)
    if function is None:
        raise NoValueError
    made = function(call)
    return made if isinstance(made, list) else [made]


def fits(shape: Sequence[int], dtype: np.dtype, most: int = LARGEST_RESULT_BYTES) -> tuple[int, ...]:
    """`shape`, where an array of it may be made. Raises `NoValueError`."""
    if len(shape) > _LARGEST_RANK or any(size < 0 for size in shape) or math.prod(shape) * dtype.itemsize > most:
        raise NoValueError
    return tuple(shape)


def _axis(axis: int, rank: int) -> int:
    """`axis` counted from the front; a negative one counts from the back."""
    if not -rank <= axis < rank:
        raise NoValueError
    return axis % rank


def _axes(axes: Sequence[int], rank: int) -> list[int]:
    found = [_axis(axis, rank) for axis in axes]
    if len(set(found)) != len(found):
        raise NoValueError
    return found


# ---------------------------------------------------------------------- rearrangements


def _identity(call: Call) -> Array:
    return call.operand()


def _reshape(call: Call) -> Array:
    """0 copies a dim of the input (unless `allowzero`, from 14 on), one -1 is what is left."""
    data, target = call.operand(), call.list_of("shape", 1, 5)
    if target is None:
        raise NoValueError
    if not (call.opset >= 14 and number(call.node, "allowzero", 0)):
        target = [data.shape[place] if size == 0 else size for place, size in enumerate(target)]
    if target.count(-1) > 1 or min(target, default=0) < -1:
        raise NoValueError
    if -1 in target:
        rest = math.prod(size for size in target if size != -1)
        if not rest or data.size % rest:
            raise NoValueError
        target = [data.size // rest if size == -1 else size for size in target]
    if math.prod(target) != data.size:
        raise NoValueError
    return data.reshape(target)


def _transpose(call: Call) -> Array:
    data = call.operand()
    order = numbers(call.node, "perm", range(data.ndim)[::-1])
    if sorted(order) != list(range(data.ndim)):
        raise NoValueError
    return data.transpose(order)


def _flatten(call: Call) -> Array:
    """Axis r is one row less than none: from 11 on negative axes count from the back, within [-r, r]."""
    data, axis = call.operand(), number(call.node, "axis", 1)
    if axis < 0 and call.opset >= 11:
        axis += data.ndim
    if not 0 <= axis <= data.ndim:
        raise NoValueError
    return data.reshape(math.prod(data.shape[:axis]), math.prod(data.shape[axis:]))


def _squeeze(call: Call) -> Array:
    data, axes = call.operand(), call.list_of("axes", 1, 13)
    if axes is not None and call.opset < 11 and min(axes, default=0) < 0:
        raise NoValueError
    gone = [axis for axis, size in enumerate(data.shape) if size == 1] if axes is None else _axes(axes, data.ndim)
    if any(data.shape[axis] != 1 for axis in gone):
        raise NoValueError
    return data.reshape([size for axis, size in enumerate(data.shape) if axis not in gone])


def _unsqueeze(call: Call) -> Array:
    """Axes are those of the output, in any order; from 11 on negative ones count from its back."""
    data, axes = call.operand(), call.list_of("axes", 1, 13)
    if axes is None or (call.opset < 11 and min(axes, default=0) < 0):
        raise NoValueError
    rank = data.ndim + len(axes)
    new, rest = _axes(axes, rank), iter(data.shape)
    return data.reshape(fits([1 if axis in new else next(rest) for axis in range(rank)], data.dtype))


def _concat(call: Call) -> Array:
    """Before 4 the axis is 1 where none is given; from 11 on negative axes count from the back."""
    parts = [call.operand(index) for index in range(len(call.inputs))]
    axis = attribute(call.node, "axis")
    if axis is None and call.opset < 4:
        axis = 1
    if not isinstance(axis, int) or (axis < 0 and call.opset < 11) or len({part.dtype for part in parts}) != 1:
        raise NoValueError
    if sum(part.nbytes for part in parts) > LARGEST_RESULT_BYTES:
        raise NoValueError
    return np.concatenate(parts, _axis(axis, parts[0].ndim))


def _slice(call: Call) -> Array:
    """Starts and ends beyond the borders mean the border; steps from 10 on."""
    data = call.operand()
    if call.opset < 10:
        starts, ends, axes = (numbers(call.node, name) or None for name in ("starts", "ends", "axes"))
        steps = None
    else:
        starts, ends, axes, steps = (call.integers(index) for index in range(1, 5))
    if starts is None or ends is None:
        raise NoValueError
    places = _axes(range(len(starts)) if axes is None else axes, data.ndim)
    if not len(starts) == len(ends) == len(places) or (steps is not None and len(steps) != len(starts)):
        raise NoValueError
    index: list[Any] = [slice(None)] * data.ndim
    for place, start, end, step in zip(places, starts, ends, steps or [1] * len(starts), strict=True):
        if step == 0 or (
            step < 0 and end >= _OPEN_END
        ):  # onnxruntime takes that for "to the first", others for nothing
            raise NoValueError
        size = data.shape[place]
        first = start + size if start < 0 else start
        last = end + size if end < 0 else end
        if step > 0:
            index[place] = slice(min(max(first, 0), size), min(max(last, 0), size), step)
        else:
            index[place] = slice(min(max(first, 0), size - 1), None if last < 0 else min(last, size - 1), step)
    return np.asarray(data[tuple(index)])


def _split(call: Call) -> list[Array]:
    """Sizes are given, or equal; from 18 on the last of `num_outputs` may be smaller."""
    data, count = call.operand(), len(call.node.output)
    axis = _axis(number(call.node, "axis", 0), data.ndim)
    if call.opset < 2 or (call.opset < 11 and number(call.node, "axis", 0) < 0):
        raise NoValueError
    sizes = call.list_of("split", 1, 13)
    if sizes is None:
        each = -(-data.shape[axis] // count) if call.opset >= 18 else data.shape[axis] // count
        if call.opset < 18 and each * count != data.shape[axis]:
            raise NoValueError
        sizes = [each] * (count - 1)
        sizes.append(data.shape[axis] - sum(sizes))
    if len(sizes) != count or min(sizes) < 0 or sum(sizes) != data.shape[axis]:
        raise NoValueError
    return np.split(data, np.cumsum(sizes)[:-1], axis)


def _gather(call: Call) -> Array:
    """From 11 on negative indices count from the back; one beyond the border is an error."""
    data, indices = call.operand(), call.operand(1)
    axis = number(call.node, "axis", 0)
    if indices.dtype.kind not in "iu" or (axis < 0 and call.opset < 11):
        raise NoValueError
    axis = _axis(axis, data.ndim)
    size = data.shape[axis]
    lowest = -size if call.opset >= 11 else 0
    if indices.size and not (lowest <= indices.min() and indices.max() < size):
        raise NoValueError
    fits((*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :]), data.dtype)
    return np.asarray(np.take(data, indices, axis))


def _expand(call: Call) -> Array:
    """Both ways: a dim of the target may be 1 where the input has more."""
    data, target = call.operand(), call.integers(1)
    if target is None or call.operand(1).dtype != np.int64 or call.operand(1).ndim != 1:
        raise NoValueError
    fits(target, data.dtype, LARGEST_BROADCAST_BYTES)
    shape = np.broadcast_shapes(data.shape, tuple(target))
    return np.broadcast_to(data, fits(shape, data.dtype, LARGEST_BROADCAST_BYTES))


def _tile(call: Call) -> Array:
    """Tile, with which exporters repeat the parameters of an InstanceNormalization for each row of the batch."""
    data, repeats = call.operand(), call.integers(1)
    if call.opset < 6 or repeats is None or len(repeats) != data.ndim or min(repeats, default=0) < 0:
        raise NoValueError
    fits([size * count for size, count in zip(data.shape, repeats, strict=True)], data.dtype)
    return np.tile(data, repeats)


def _constant_of_shape(call: Call) -> Array:
    shape, value = call.integers(0), attribute(call.node, "value")
    if shape is None or call.operand().ndim != 1:
        raise NoValueError
    fill = np.zeros(1, np.float32) if value is None else _tensor(value)
    return np.broadcast_to(fill.reshape(-1)[:1].reshape(()), fits(shape, fill.dtype, LARGEST_BROADCAST_BYTES))


def _tensor(proto: Any) -> Array:
    from onnx import numpy_helper

    if not isinstance(proto, TensorProto):
        raise NoValueError
    return numpy_helper.to_array(proto)


def _shape(call: Call) -> Array:
    """From 15 on a part of it; `start` and `end` beyond the borders mean the border."""
    shape, rank = call.operand().shape, call.operand().ndim
    start, end = number(call.node, "start", 0), number(call.node, "end", rank)
    if call.opset < 15 and (start != 0 or end != rank):
        raise NoValueError
    first, last = (min(max(place + rank if place < 0 else place, 0), rank) for place in (start, end))
    return np.array(shape[first:last], np.int64)


def _size(call: Call) -> Array:
    return np.array(call.operand().size, np.int64)


def _where(call: Call) -> Array:
    chosen, one, other = (call.operand(index) for index in range(3))
    if chosen.dtype != np.bool_ or one.dtype != other.dtype:
        raise NoValueError
    fits(np.broadcast_shapes(chosen.shape, one.shape, other.shape), one.dtype)
    return np.where(chosen, one, other)


def _range(call: Call) -> Array:
    start, limit, delta = (call.operand(index) for index in range(3))
    if start.size != 1 or limit.size != 1 or delta.size != 1 or not start.dtype == limit.dtype == delta.dtype:
        raise NoValueError
    first, last, step = (array.reshape(()).item() for array in (start, limit, delta))
    if step == 0 or not all(map(math.isfinite, (first, last, step))):
        raise NoValueError
    count = max(math.ceil((last - first) / step), 0)
    fits((count,), start.dtype)
    return np.asarray(first + np.arange(count) * step, start.dtype)


# ---------------------------------------------------------------------- element types


def _cast_to(data: Array, dtype: np.dtype) -> Array:
    """Integers that do not fit, and numbers behind the point of negative ones, are where runtimes differ."""
    if data.dtype == dtype:
        return data
    if not all(_is_number(each) or each == np.bool_ for each in (data.dtype, dtype)):
        raise NoValueError
    fits(data.shape, dtype)
    if dtype == np.bool_:
        return np.asarray(data != 0)
    if dtype.kind in "iu":
        within = np.iinfo(dtype)
        wide = np.trunc(data.astype(np.float64)) if data.dtype in FLOATS else data
        if wide.size and not (wide.min() >= within.min and wide.max() <= within.max and abs(wide).max() < 2.0**62):
            raise NoValueError
        return np.asarray(wide, dtype)
    with np.errstate(all="ignore"):
        return np.asarray(data, dtype)


def _cast(call: Call) -> Array:
    target = attribute(call.node, "to")
    if isinstance(target, bytes):  # before 6
        target = TensorProto.DataType.Value(target.decode("ascii", "replace"))
    if not isinstance(target, int) or target not in TensorProto.DataType.values():
        raise NoValueError
    return _cast_to(call.operand(), np.dtype(helper.tensor_dtype_to_np_dtype(target)))


def _cast_like(call: Call) -> Array:
    return _cast_to(call.operand(), call.operand(1).dtype)


def _quantize(call: Call) -> Array:
    """Rounds half to even, adds the zero point, saturates. One scale, or one for each index of `axis`."""
    data, scale, zero_point = call.operand(), call.operand(1), call.given(2)
    if number(call.node, "block_size", 0) or data.dtype != scale.dtype or data.dtype not in FLOATS:
        raise NoValueError
    kind = number(call.node, "output_dtype", 0)
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kind)) if kind else np.dtype(np.uint8)
    dtype = dtype if zero_point is None else zero_point.dtype
    if dtype not in _INTEGERS or dtype.itemsize > 2:
        raise NoValueError
    along = _along(scale, call)
    with np.errstate(all="ignore"):
        steps = np.rint(data / along).astype(np.float64)
    if zero_point is not None:
        steps = steps + _along(zero_point, call).astype(np.float64)
    if not np.isfinite(steps).all():
        raise NoValueError
    limits = np.iinfo(dtype)
    return np.clip(steps, limits.min, limits.max).astype(dtype)


def _dequantize(call: Call) -> Array:
    """(q - zero point) * scale, in the dtype of the scale."""
    data, scale, zero_point = call.operand(), call.operand(1), call.given(2)
    if number(call.node, "block_size", 0) or data.dtype not in _INTEGERS or scale.dtype not in FLOATS:
        raise NoValueError
    if zero_point is not None and zero_point.dtype != data.dtype:
        raise NoValueError
    steps = data.astype(np.int64)
    if zero_point is not None:
        steps = steps - _along(zero_point, call).astype(np.int64)
    return (steps.astype(scale.dtype) * _along(scale, call)).astype(scale.dtype)


def _along(vector: Array, call: Call) -> Array:
    """A quantization parameter so that it broadcasts with the data."""
    data = call.operand()
    if vector.shape in ((), (1,)):
        return vector.reshape(())
    axis = _axis(number(call.node, "axis", 1), data.ndim)
    if call.opset < 13 or vector.shape != (data.shape[axis],):
        raise NoValueError
    return vector.reshape([-1 if place == axis else 1 for place in range(data.ndim)])


# ---------------------------------------------------------------------- arithmetic


def _broadcast(call: Call, dtype: np.dtype | None = None) -> list[Array]:
    """The operands of an operator that broadcasts, all of one dtype; before 7 they have one shape."""
    operands = [call.operand(index) for index in range(len(call.inputs))]
    if not operands or len({operand.dtype for operand in operands}) != 1:
        raise NoValueError
    if call.opset < 7 and (call.node.attribute or len({operand.shape for operand in operands}) != 1):
        raise NoValueError
    fits(np.broadcast_shapes(*(operand.shape for operand in operands)), dtype or operands[0].dtype)
    return operands


def _two(call: Call, dtype: np.dtype | None = None) -> tuple[Array, Array]:
    operands = _broadcast(call, dtype)
    if len(operands) != 2:
        raise NoValueError
    return operands[0], operands[1]


def _is_number(dtype: np.dtype) -> bool:
    return dtype in FLOATS or dtype in _INTEGERS


def _largest(array: Array) -> int:
    return max(abs(int(array.min())), abs(int(array.max()))) if array.size else 0


def _checked(exact: Array, dtype: np.dtype) -> Array:
    """Integers of `dtype`; where they do not fit in it runtimes need not agree."""
    limits = np.iinfo(dtype)
    if exact.size and not (limits.min <= exact.min() and exact.max() <= limits.max):
        raise NoValueError
    return exact.astype(dtype)


def _arithmetic(function: np.ufunc) -> Callable[[Call], Array]:
    def evaluate(call: Call) -> Array:
        a, b = _two(call)
        if a.dtype in FLOATS:
            with np.errstate(all="ignore"):
                made: Array = function(a, b).astype(a.dtype, copy=False)
            return made
        if not _is_number(a.dtype):
            raise NoValueError
        high = _largest(a) * _largest(b) if function is np.multiply else _largest(a) + _largest(b)
        if high >= _LARGEST_INTEGER:
            raise NoValueError
        return _checked(function(a.astype(np.int64), b.astype(np.int64)), a.dtype)

    return evaluate


def _div(call: Call) -> Array:
    """Integers are rounded toward zero."""
    a, b = _two(call)
    if a.dtype in FLOATS:
        with np.errstate(all="ignore"):
            return np.divide(a, b).astype(a.dtype, copy=False)
    if not _is_number(a.dtype) or not b.all() or max(_largest(a), _largest(b)) >= _LARGEST_INTEGER:
        raise NoValueError
    a, b = a.astype(np.int64), b.astype(np.int64)
    return _checked(np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b)), call.operand().dtype)


def _mod(call: Call) -> Array:
    """The sign of the divisor, with `fmod` that of the dividend."""
    a, b = _two(call)
    same_sign = bool(number(call.node, "fmod", 0))
    if not _is_number(a.dtype) or (a.dtype in FLOATS and not same_sign) or (a.dtype not in FLOATS and not b.all()):
        raise NoValueError
    with np.errstate(all="ignore"):
        return (np.fmod if same_sign else np.mod)(a, b).astype(a.dtype, copy=False)


def _pow(call: Call) -> Array:
    """In the dtype of the base; from 12 on the exponent may have another."""
    base, exponent = call.operand(), call.operand(1)
    if base.dtype not in FLOATS or not _is_number(exponent.dtype) or len(call.inputs) != 2:
        raise NoValueError
    if (call.opset < 12 and exponent.dtype != base.dtype) or (call.opset < 7 and base.shape != exponent.shape):
        raise NoValueError
    if call.opset < 7 and call.node.attribute:
        raise NoValueError
    fits(np.broadcast_shapes(base.shape, exponent.shape), base.dtype)
    with np.errstate(all="ignore"):
        return np.power(base.astype(np.float64), exponent.astype(np.float64)).astype(base.dtype)


def _unary(function: Callable[[Array], Array], *, integers: bool = False) -> Callable[[Call], Array]:
    """A function of each element; float64 inside, one rounding."""

    def evaluate(call: Call) -> Array:
        data = call.operand()
        if len(call.inputs) != 1 or data.nbytes > LARGEST_RESULT_BYTES:
            raise NoValueError
        if data.dtype in FLOATS:
            with np.errstate(all="ignore"):
                return function(data.astype(np.float64)).astype(data.dtype)
        if not integers or data.dtype not in _INTEGERS or data.dtype.kind != "i":
            raise NoValueError
        return _checked(function(data.astype(np.int64)), data.dtype)

    return evaluate


def _softplus(x: Array) -> Array:
    return np.logaddexp(x, 0.0)


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def _erf(x: Array) -> Array:
    return np.array([math.erf(value) for value in x.reshape(-1).tolist()], np.float64).reshape(x.shape)


def _relu(x: Array) -> Array:
    return np.maximum(x, 0)


def _clip(call: Call) -> Array:
    """Bounds are attributes before 11, and scalars of the same dtype from then on."""
    data = call.operand()
    bounds = [call.given(1), call.given(2)]
    if call.opset < 11:
        defaults = zip(("min", "max"), (-math.inf, math.inf), strict=True)
        bounds = [np.asarray(number(call.node, name, default), data.dtype) for name, default in defaults]
    if data.dtype not in FLOATS or call.opset < 6:
        raise NoValueError
    for bound, function in zip(bounds, (np.maximum, np.minimum), strict=True):
        if bound is not None:
            if bound.size != 1 or bound.dtype != data.dtype:
                raise NoValueError
            data = function(data, bound.reshape(()))
    return data


def _mean_of_several(call: Call) -> Array:
    total = _several(np.add)(call)
    return np.asarray(total.astype(np.float64) / len(call.inputs), total.dtype)


def _several(function: np.ufunc) -> Callable[[Call], Array]:
    """Min, Max and Sum of any number of operands; before 8 they have one shape."""

    def evaluate(call: Call) -> Array:
        operands = _broadcast(call)
        if operands[0].dtype not in FLOATS and (function is np.add or not _is_number(operands[0].dtype)):
            raise NoValueError
        if call.opset < 8 and len({operand.shape for operand in operands}) != 1:
            raise NoValueError
        made = operands[0]
        with np.errstate(all="ignore"):
            for operand in operands[1:]:
                made = function(made, operand)
        return made.astype(operands[0].dtype, copy=False)

    return evaluate


def _comparison(function: np.ufunc) -> Callable[[Call], Array]:
    def evaluate(call: Call) -> Array:
        a, b = _two(call, np.dtype(bool))
        if not (_is_number(a.dtype) or (a.dtype == np.bool_ and function is np.equal)):
            raise NoValueError
        with np.errstate(all="ignore"):
            return np.asarray(function(a, b), np.bool_)

    return evaluate


def _logical(function: np.ufunc) -> Callable[[Call], Array]:
    def evaluate(call: Call) -> Array:
        a, b = _two(call, np.dtype(bool))
        if a.dtype != np.bool_:
            raise NoValueError
        return np.asarray(function(a, b), np.bool_)

    return evaluate


def _not(call: Call) -> Array:
    if call.operand().dtype != np.bool_:
        raise NoValueError
    return np.asarray(np.logical_not(call.operand()))


def _reduction(
    function: Callable[[Array, tuple[int, ...], bool], Array], since: int = 18, *, integers: bool = False
) -> Callable[[Call], Array]:
    """Over `axes`, or all if there are none (unless `noop_with_empty_axes`); in float64, `integers` that fit too."""

    def evaluate(call: Call) -> Array:
        data = call.operand()
        axes = call.list_of("axes", 1, since)
        numbers_ = data.dtype in FLOATS or (integers and data.dtype in (np.int32, np.int64))
        if not numbers_ or data.nbytes > LARGEST_RESULT_BYTES or not data.size:
            raise NoValueError
        if axes is not None and call.opset < 11 and min(axes, default=0) < 0:
            raise NoValueError
        keep = bool(number(call.node, "keepdims", 1))
        if not axes and call.opset >= since and number(call.node, "noop_with_empty_axes", 0):
            raise NoValueError  # the specification and its readers disagree on what becomes of the squares
        places = tuple(_axes(axes, data.ndim) if axes else range(data.ndim))
        with np.errstate(all="ignore"):
            made = function(data.astype(np.float64), places, keep)
            if data.dtype.kind == "i":  # on the way to the result, too
                largest = function(np.abs(data.astype(np.float64)), places, keep)
                if largest.max(initial=0) >= _EXACT_BELOW[data.dtype.itemsize]:
                    raise NoValueError
            return np.asarray(made, data.dtype)

    return evaluate


def _mean(x: Array, axes: tuple[int, ...], keep: bool) -> Array:
    return np.asarray(x.mean(axes, keepdims=keep))


def _sum(x: Array, axes: tuple[int, ...], keep: bool) -> Array:
    return np.asarray(x.sum(axes, keepdims=keep))


def _product(x: Array, axes: tuple[int, ...], keep: bool) -> Array:
    return np.asarray(x.prod(axes, keepdims=keep))


def _maximum(x: Array, axes: tuple[int, ...], keep: bool) -> Array:
    return np.asarray(x.max(axes, keepdims=keep))


def _minimum(x: Array, axes: tuple[int, ...], keep: bool) -> Array:
    return np.asarray(x.min(axes, keepdims=keep))


def _matmul(call: Call) -> Array:
    a, b = call.operand(), call.operand(1)
    if a.dtype != b.dtype or a.dtype not in FLOATS or not a.ndim or not b.ndim or len(call.inputs) != 2:
        raise NoValueError
    rows = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    if math.prod(rows) * a.size * b.shape[-1] > _LARGEST_PRODUCT:
        raise NoValueError
    with np.errstate(all="ignore"):
        return np.asarray(np.matmul(a.astype(np.float64), b.astype(np.float64)), a.dtype)


# Moving elements without looking at them: what is done to values may be done to a mask of them.


# ---------------------------------------------------------------------- elements chosen by indices


def _pad(call: Call) -> Array:
    """Pads for all axes, from 18 on for some; a negative one, which takes away, is not evaluated here."""
    data, pads = call.operand(), call.list_of("pads", 1, 11)
    how = attribute(call.node, "mode")
    mode = "constant" if how is None else how.decode() if isinstance(how, bytes) else str(how)
    given = call.integers(3) if call.opset >= 18 else None
    axes = list(range(data.ndim)) if given is None else _axes(given, data.ndim)
    if pads is None or len(pads) != 2 * len(axes) or min(pads, default=0) < 0:
        raise NoValueError
    widths = [(0, 0)] * data.ndim
    for place, axis in enumerate(axes):
        widths[axis] = pads[place], pads[place + len(axes)]
    fits([size + sum(width) for size, width in zip(data.shape, widths, strict=True)], data.dtype)
    if mode == "constant":
        fill = call.given(2) if call.opset >= 11 else np.asarray(number(call.node, "value", 0.0), data.dtype)
        if fill is not None and (fill.size != 1 or fill.dtype != data.dtype):
            raise NoValueError
        return np.pad(data, widths, constant_values=0 if fill is None else fill.reshape(()))
    beyond = (max(width) >= size for width, size in zip(widths, data.shape, strict=True) if any(width))
    if mode == "reflect" and not any(beyond):
        return np.pad(data, widths, "reflect")
    if mode == "edge" and data.size:
        return np.pad(data, widths, "edge")
    raise NoValueError


def _within(indices: Array, size: int) -> Array:
    """Indices into an axis counted from the front. Raises `NoValueError` for one beyond its border."""
    if indices.dtype.kind not in "iu" or (indices.size and not (-size <= indices.min() and indices.max() < size)):
        raise NoValueError
    return np.asarray(np.where(indices < 0, indices + size, indices))


def _along_axis(call: Call) -> tuple[Array, Array, int]:
    """Data, indices of its rank and the axis they go along; from 11 on negative indices count from the back."""
    data, indices = call.operand(), call.operand(1)
    axis = _axis(number(call.node, "axis", 0), data.ndim)
    shapes = zip(indices.shape, data.shape, strict=False)
    if indices.ndim != data.ndim or any(mine > whole for at, (mine, whole) in enumerate(shapes) if at != axis):
        raise NoValueError
    fits(indices.shape, data.dtype)
    return data, _within(indices, data.shape[axis]), axis


def _gather_elements(call: Call) -> Array:
    data, indices, axis = _along_axis(call)
    part = tuple(slice(size) if at != axis else slice(None) for at, size in enumerate(indices.shape))
    return np.take_along_axis(data[part], indices, axis)


def _scatter_elements(call: Call) -> Array:
    """Without a reduction an element that is written twice may be either: such are not evaluated."""
    data, indices, axis = _along_axis(call)
    updates, reduction = call.operand(2), attribute(call.node, "reduction")
    if reduction not in (None, b"none", "none") or updates.shape != indices.shape or updates.dtype != data.dtype:
        raise NoValueError
    places: list[Array] = list(np.indices(indices.shape, sparse=True))
    places[axis] = indices
    return _written(data, tuple(np.broadcast_arrays(*places)), updates)


def _written(data: Array, places: tuple[Array, ...], updates: Array) -> Array:
    flat = np.ravel_multi_index(places, data.shape)
    if np.unique(flat).size != flat.size:
        raise NoValueError
    made = data.copy()
    made[places] = updates
    return made


def _scatter_nd(call: Call) -> Array:
    """The last axis of the indices is a place in the first axes of the data."""
    data, indices, updates = (call.operand(index) for index in range(3))
    reduction = attribute(call.node, "reduction")
    depth = indices.shape[-1] if indices.ndim else 0
    if reduction not in (None, b"none", "none") or not 0 < depth <= data.ndim or updates.dtype != data.dtype:
        raise NoValueError
    if updates.shape != (*indices.shape[:-1], *data.shape[depth:]):
        raise NoValueError
    rows = _within_each(indices, data.shape)
    flat = np.ravel_multi_index(tuple(rows), data.shape[:depth])
    if np.unique(flat).size != flat.size:
        raise NoValueError
    made = data.copy()
    made[tuple(rows)] = updates
    return made


def _within_each(indices: Array, shape: Sequence[int]) -> list[Array]:
    return [_within(indices[..., place], shape[place]) for place in range(indices.shape[-1])]


def _gather_nd(call: Call) -> Array:
    data, indices = call.operand(), call.operand(1)
    depth = indices.shape[-1] if indices.ndim else 0
    if number(call.node, "batch_dims", 0) or not 0 < depth <= data.ndim:
        raise NoValueError
    fits((*indices.shape[:-1], *data.shape[depth:]), data.dtype)
    return np.asarray(data[tuple(_within_each(indices, data.shape))])


def _trilu(call: Call) -> Array:
    data, diagonal = call.operand(), call.integers(1)
    if data.ndim < 2 or (diagonal is not None and len(diagonal) != 1):
        raise NoValueError
    keep = np.triu if number(call.node, "upper", 1) else np.tril
    return np.asarray(keep(data, 0 if diagonal is None else diagonal[0]))


def _cumulative(call: Call) -> Array:
    """Sums up to each place along an axis; `exclusive` leaves the place itself out, `reverse` begins at the end."""
    data, axis = call.operand(), call.integers(1)
    if data.dtype not in FLOATS or axis is None or len(axis) != 1:
        raise NoValueError
    place = _axis(axis[0], data.ndim)
    backwards, exclusive = number(call.node, "reverse", 0), number(call.node, "exclusive", 0)
    exact = np.flip(data, place) if backwards else data
    with np.errstate(all="ignore"):
        sums = np.cumsum(exact.astype(np.float64), place)
    if exclusive and sums.size:
        first = [slice(None)] * sums.ndim
        first[place] = slice(-1)
        widths = [(1, 0) if at == place else (0, 0) for at in range(sums.ndim)]
        sums = np.pad(sums[tuple(first)], widths)
    return np.asarray(np.flip(sums, place) if backwards else sums, data.dtype)


# ---------------------------------------------------------------------- several axes at once


def _softmax(call: Call) -> Array:
    """Along one axis from 13 on; before, over all axes from `axis` on together."""
    data = call.operand()
    if data.dtype not in FLOATS or not data.size:
        raise NoValueError
    axis = _axis(number(call.node, "axis", -1 if call.opset >= 13 else 1), data.ndim)
    axes = (axis,) if call.opset >= 13 else tuple(range(axis, data.ndim))
    exact = data.astype(np.float64)
    with np.errstate(all="ignore"):
        powers = np.exp(exact - exact.max(axes, keepdims=True))
        return np.asarray(powers / powers.sum(axes, keepdims=True), data.dtype)


def _einsum(call: Call) -> Array:
    equation = attribute(call.node, "equation")
    operands = [call.operand(index) for index in range(len(call.inputs))]
    if not isinstance(equation, bytes | str) or any(operand.dtype not in FLOATS for operand in operands):
        raise NoValueError
    text = (equation.decode() if isinstance(equation, bytes) else equation).replace(" ", "")
    terms, arrow, result = text.partition("->")
    letters = terms.split(",")
    if not arrow or "." in text or [len(each) for each in letters] != [operand.ndim for operand in operands]:
        raise NoValueError
    sizes = {
        letter: size
        for each, operand in zip(letters, operands, strict=True)
        for letter, size in zip(each, operand.shape, strict=True)
    }
    if math.prod(sizes.values()) > _LARGEST_PRODUCT or not set(result) <= sizes.keys():
        raise NoValueError
    exact = [operand.astype(np.float64) for operand in operands]
    return np.asarray(np.einsum(text, *exact), operands[0].dtype)


def _gemm(call: Call) -> Array:
    a, b, c = call.operand(), call.operand(1), call.given(2)
    if a.ndim != 2 or b.ndim != 2 or a.dtype not in FLOATS or b.dtype != a.dtype:
        raise NoValueError
    a, b = (each.T if number(call.node, name, 0) else each for each, name in ((a, "transA"), (b, "transB")))
    if a.size * b.shape[1] > _LARGEST_PRODUCT:
        raise NoValueError
    made = number(call.node, "alpha", 1.0) * (a.astype(np.float64) @ b.astype(np.float64))
    if c is not None:
        made = made + np.broadcast_to(number(call.node, "beta", 1.0) * c.astype(np.float64), made.shape)
    return np.asarray(made, a.dtype)


REARRANGEMENTS: dict[str, Callable[[Call], Values]] = {
    "Concat": _concat,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Identity": _identity,
    "Reshape": _reshape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}

OPERATORS: dict[str, Callable[[Call], Values]] = {
    **REARRANGEMENTS,
    "Abs": _unary(np.abs, integers=True),
    "Add": _arithmetic(np.add),
    "And": _logical(np.logical_and),
    "Cast": _cast,
    "CastLike": _cast_like,
    "Ceil": _unary(np.ceil),
    "Clip": _clip,
    "ConstantOfShape": _constant_of_shape,
    "Cos": _unary(np.cos),
    "CumSum": _cumulative,
    "DequantizeLinear": _dequantize,
    "Div": _div,
    "Einsum": _einsum,
    "Equal": _comparison(np.equal),
    "Erf": _unary(_erf),
    "Exp": _unary(np.exp),
    "Floor": _unary(np.floor),
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "Gemm": _gemm,
    "Greater": _comparison(np.greater),
    "GreaterOrEqual": _comparison(np.greater_equal),
    "Less": _comparison(np.less),
    "LessOrEqual": _comparison(np.less_equal),
    "Log": _unary(np.log),
    "MatMul": _matmul,
    "Max": _several(np.maximum),
    "Mean": _mean_of_several,
    "Min": _several(np.minimum),
    "Mod": _mod,
    "Mul": _arithmetic(np.multiply),
    "Neg": _unary(np.negative, integers=True),
    "Not": _not,
    "Or": _logical(np.logical_or),
    "Pad": _pad,
    "Pow": _pow,
    "QuantizeLinear": _quantize,
    "Range": _range,
    "Reciprocal": _unary(np.reciprocal),
    "ReduceL1": _reduction(lambda x, axes, keep: _sum(np.abs(x), axes, keep)),
    "ReduceL2": _reduction(lambda x, axes, keep: np.sqrt(_sum(x * x, axes, keep))),
    "ReduceMax": _reduction(_maximum, integers=True),
    "ReduceMean": _reduction(_mean),
    "ReduceMin": _reduction(_minimum, integers=True),
    "ReduceProd": _reduction(_product, integers=True),
    "ReduceSum": _reduction(_sum, since=13, integers=True),
    "ReduceSumSquare": _reduction(lambda x, axes, keep: _sum(x * x, axes, keep)),
    "Relu": _unary(_relu),
    "Round": _unary(np.rint),
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
    "Shape": _shape,
    "Sigmoid": _unary(_sigmoid),
    "Sign": _unary(np.sign, integers=True),
    "Sin": _unary(np.sin),
    "Size": _size,
    "Softmax": _softmax,
    "Softplus": _unary(_softplus),
    "Sqrt": _unary(np.sqrt),
    "Sub": _arithmetic(np.subtract),
    "Sum": _several(np.add),
    "Tanh": _unary(np.tanh),
    "Trilu": _trilu,
    "Where": _where,
    "Xor": _logical(np.logical_xor),
}
