"""Passages of the random graphs that networks are made of, from several operators each.

Branches that are subtracted or transposed, one number beside a linear operator, weights stored small, statistics
repeated for the batch, readers that share a value out.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto

from bnfold.testing.random_operators import Operator, batch_normalization, disguised, divisors, rectify

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bnfold.testing.random_scope import Scope, Shape, Value


def differences(scope: Scope, x: Value) -> None:
    """Linear operators on one value and the value itself, added up and subtracted in any order."""
    dice = scope.dice
    if not 3 <= x.rank <= 5 or x.shape[1] > 8 or math.prod(x.shape) > 1000:
        return
    makers = [_padded_convs, _transposed_convs, _rows_of_products]
    operands = dice.one_of(makers)(scope, x)
    shape = operands[0].shape
    if shape == x.shape:
        operands += [x] * dice.number(0, 2)
        if dice.chance(40):
            before = len(scope.values)
            batch_normalization(scope, x)
            operands += scope.values[before:]
    if scope.setting.negates and dice.chance(20):
        operands.append(scope.add("Neg", [operands.pop(dice.number(0, len(operands) - 1))], shape, keep=False))
    if dice.chance(30):
        operands.append(scope.add(dice.one_of(["Sigmoid", "Tanh"]), [operands[0]], shape, keep=False))
    while len(operands) > 1:
        last = len(operands) == 2
        one = operands.pop(dice.number(0, len(operands) - 1))
        other = operands.pop(dice.number(0, len(operands) - 1))
        op_type = dice.one_of(["Sub", "Add", "Sub", "Sum"])
        constants = [scope.constant(scope.normal((shape[1], *[1] * (x.rank - 2))))] if dice.chance(20) else []
        extra = constants if op_type == "Sum" and scope.opset >= 8 else []
        operands.append(scope.add(op_type, [one, other, *extra], shape, keep=last))
    if dice.chance(50):
        batch_normalization(scope, operands[0])


def _padded_convs(scope: Scope, x: Value) -> list[Value]:
    """Convolutions that keep the size of x, some behind a Pad with zeros."""
    dice = scope.dice
    made = dice.one_of([x.shape[1], 3, 5])
    shape = (x.shape[0], made, *x.shape[2:])
    found = []
    for _ in range(dice.number(1, 3)):
        taps = dice.one_of([3, 1, 3])
        around = (taps - 1) // 2
        data = x
        if around and dice.chance(50) and scope.opset >= 11:
            sizes = (*x.shape[:2], *(size + 2 * around for size in x.shape[2:]))
            pads = [0, 0, *[around] * (x.rank - 2)]
            data, around = scope.add("Pad", [x, scope.integers(pads * 2)], sizes, keep=False), 0
        weight = scope.normal([made, x.shape[1], *[taps] * (x.rank - 2)], 1 / math.sqrt(x.shape[1] * taps))
        inputs: list[Value | str] = [data, scope.constant(weight)]
        inputs += [scope.constant(scope.normal([made]))] if dice.chance(50) else []
        found.append(scope.add("Conv", inputs, shape, keep=False, pads=[around] * 2 * (x.rank - 2)))
    return found


def _transposed_convs(scope: Scope, x: Value) -> list[Value]:
    """Transposed convolutions that make the same positions: of length L come (L - 1) * stride + reach + 1."""
    dice, spatial = scope.dice, x.shape[2:]
    strides = [dice.one_of([1, 1, 2]) for _ in spatial]
    group = dice.one_of(divisors(x.shape[1])) if dice.chance(40) else 1
    made = group * dice.one_of([1, 2]) if dice.chance(50) else x.shape[1]
    reach = [stride - 1 if dice.chance(50) else 0 for stride in strides]
    shape = (x.shape[0], made, *((n - 1) * s + r + 1 for n, s, r in zip(spatial, strides, reach, strict=True)))
    found = []
    for _ in range(dice.number(1, 3)):
        own = group if dice.chance(70) else dice.one_of([n for n in divisors(x.shape[1]) if made % n == 0])
        taps, steps = [dice.one_of([1, 3, 2]) for _ in spatial], [dice.one_of([1, 1, 2]) for _ in spatial]
        last = [(k - 1) * d for k, d in zip(taps, steps, strict=True)]
        extra = [max(0, r - e) for r, e in zip(reach, last, strict=True)]
        both = [e + o - r for e, o, r in zip(last, extra, reach, strict=True)]
        before = [dice.number(0, n) for n in both]
        behind = [n - a for n, a in zip(both, before, strict=True)]
        each = made // own
        weight = scope.normal([x.shape[1], each, *taps], 1 / math.sqrt(x.shape[1] // own * math.prod(taps)))
        inputs: list[Value | str] = [x, scope.constant(weight)]
        inputs += [scope.constant(scope.normal([made]))] if dice.chance(50) else []
        how: dict[str, Any] = {"strides": strides, "dilations": steps, "group": own, "pads": [*before, *behind]}
        if any(extra):
            how["output_padding"] = extra
        found.append(scope.add("ConvTranspose", inputs, shape, keep=False, **how))
    return found


def _rows_of_products(scope: Scope, x: Value) -> list[Value]:
    """Two matrix products in a row, from either side, on what may be square."""
    dice = scope.dice
    found = []
    for _ in range(dice.number(1, 2)):
        value = x
        for _ in range(dice.number(1, 2)):
            left = dice.chance(50)
            size = x.shape[-2] if left else x.shape[-1]
            weight = scope.constant(scope.normal([size, size], 1 / math.sqrt(size)))
            value = scope.add("MatMul", [weight, value] if left else [value, weight], x.shape, keep=False)
        found.append(value)
    return found


def gains(scope: Scope, x: Value) -> None:
    """One number, or one for each channel, in front of a linear operator and behind, with what does nothing between."""
    y = _gain(scope, x)
    if 3 <= y.rank <= 5 and y.shape[1] <= 12:
        made = scope.dice.one_of([y.shape[1], 3, 4])
        weight = scope.normal([made, y.shape[1], *[1] * (y.rank - 2)], 1 / math.sqrt(y.shape[1]))
        inputs: list[Value | str] = [y, scope.constant(weight)]
        inputs += [scope.constant(scope.normal([made]))] if scope.dice.chance(50) else []
        y = scope.add("Conv", inputs, (y.shape[0], made, *y.shape[2:]), keep=scope.dice.chance(10))
    elif y.rank >= 2 and y.shape[-1] <= 40:
        weight = scope.normal([y.shape[-1], 3], 1 / math.sqrt(y.shape[-1]))
        y = scope.add("MatMul", [y, scope.constant(weight)], (*y.shape[:-1], 3), keep=scope.dice.chance(10))
    y = _gain(scope, y)
    if y is x:
        return
    if scope.values[-1:] != [y]:
        scope.values.append(y)
    if scope.dice.chance(50):
        rectify(scope, y)


def _gain(scope: Scope, y: Value) -> Value:
    dice = scope.dice
    for _ in range(dice.number(0, 3)):
        if dice.chance(30):
            y = scope.add("Identity", [y], y.shape, keep=False)
        if dice.chance(20):
            y = scope.add("Cast", [y], y.shape, keep=False, to=scope.setting.dtype)
        shapes: list[Shape] = [(), (1,), (1,) * y.rank]
        if y.rank >= 2:
            shapes += [(y.shape[1], *[1] * (y.rank - 2)), (y.shape[-1],)]
        shape = dice.one_of([each for each in shapes if len(each) <= y.rank])
        op_type = dice.one_of(["Mul", "Add", "Sub", "Div"])
        values = scope.factors(shape) if op_type in ("Mul", "Div") else scope.normal(shape)
        operands: list[Value | str] = [y, scope.constant(values, own=op_type == "Div")]
        if op_type != "Div" and dice.chance(30):
            operands.reverse()
        y = scope.add(op_type, operands, y.shape, keep=False)
    return y


def stored_small(scope: Scope, x: Value) -> None:
    """A convolution or product whose weight is int8: dequantized, quantized on the way, or cast and scaled."""
    dice = scope.dice
    if scope.setting.dtype != TensorProto.FLOAT or scope.opset < 13 or x.rank < 2:
        return
    convolves = x.rank == 4 and x.shape[1] <= 12
    inner = x.shape[1] if convolves else x.shape[-1]
    made = dice.one_of([3, inner])
    if inner > 40:
        return
    shape = [made, inner, 1, 1] if convolves else [inner, made]
    weight = _small(scope, shape, 0 if convolves else 1)
    result = (x.shape[0], made, *x.shape[2:]) if convolves else (*x.shape[:-1], made)
    value = scope.add("Conv" if convolves else "MatMul", [x, weight], result, keep=dice.chance(5))
    if scope.values[-1:] != [value]:
        scope.values.append(value)
    dice.one_of([batch_normalization, batch_normalization, disguised])(scope, value)


def _small(scope: Scope, shape: Sequence[int], axis: int) -> Value:
    """A weight, behind a Transpose or not; its scale is one number, or one for each of its outputs."""
    dice = scope.dice
    if not dice.chance(30):
        return _scaled(scope, shape, axis)
    order = [*range(1, len(shape)), 0]
    weight = _scaled(scope, [shape[place] for place in order], order.index(axis))
    return scope.add("Transpose", [weight], shape, keep=False, perm=[order.index(place) for place in range(len(shape))])


def _scaled(scope: Scope, shape: Sequence[int], axis: int) -> Value:
    dice = scope.dice
    scope.setting.count += 1
    numbers = scope.setting.numbers()
    integers = numbers.integers(-127, 128, tuple(shape)).astype(np.int8)
    each = shape[axis] if dice.chance(60) else 0
    scale = np.asarray(numbers.uniform(0.5, 1.5, (each,) if each else ()) / 128, np.float32)
    form = [1] * len(shape)
    form[axis] = each or 1
    style = dice.one_of(["dequantized", "quantized", "Mul", "Div"])
    if style in ("Mul", "Div"):
        stored = scope.plainly(integers, "i")
        cast = scope.add("Cast", [stored], shape, keep=False, to=TensorProto.FLOAT)
        factor = scope.plainly((scale if style == "Mul" else 1 / scale).reshape(form), "f")
        return scope.add(style, [cast, factor], shape, keep=False)
    zero = scope.plainly(np.zeros(scale.shape, np.int8), "i")
    how = {"axis": axis} if each else {}
    stored = scope.plainly(integers, "i")
    if style == "quantized":
        floats = integers.astype(np.float32) * scale.reshape(form)
        inputs = [scope.plainly(floats.astype(np.float32), "f"), scope.plainly(scale, "f"), zero]
        stored = scope.add("QuantizeLinear", inputs, shape, keep=False, **how).name
    return scope.add("DequantizeLinear", [stored, scope.plainly(scale, "f"), zero], shape, keep=False, **how)


def shared_out(scope: Scope, x: Value) -> None:
    """A convolution whose channels several readers share, by Slice or Split, with a map of their own each."""
    dice = scope.dice
    if x.rank != 4 or x.shape[1] > 12 or scope.opset < 13:
        return
    made = dice.one_of([6, 8])
    weight = scope.constant(scope.normal([made, x.shape[1], 1, 1], 1 / math.sqrt(x.shape[1])))
    y = scope.add("Conv", [x, weight], (x.shape[0], made, *x.shape[2:]), keep=False)
    cuts = [0, *sorted({dice.number(1, made - 1) for _ in range(2)}), made]
    parts = []
    for start, end in pairwise(cuts):
        begin = dice.one_of([start, start, max(0, start - 1)])  # the last one reads what another one reads
        shape = (y.shape[0], end - begin, *y.shape[2:])
        ends = [scope.integers([begin]), scope.integers([end]), scope.integers([1])]
        part = scope.add("Slice", [y, *ends], shape, keep=False)
        before = len(scope.values)
        dice.one_of([batch_normalization, batch_normalization, disguised, rectify])(scope, part)
        parts.append(scope.values.pop() if len(scope.values) > before else part)
    whole = (y.shape[0], sum(part.shape[1] for part in parts), *y.shape[2:])
    scope.add("Concat", parts, whole, axis=1)


def tiled_statistics(scope: Scope, x: Value) -> None:
    """The batch laid beside the channels, normalized with parameters for each of both, and laid back."""
    dice = scope.dice
    if x.rank != 4 or x.shape[0] * x.shape[1] > 16:
        return
    count, channels = x.shape[:2]
    weight = scope.constant(scope.normal([channels, channels, 1, 1], 1 / math.sqrt(channels)))
    y = scope.add("Conv", [x, weight], x.shape, keep=False)
    shape = (1, count * channels, *x.shape[2:])
    flat = scope.add("Reshape", [y, scope.integers(shape)], shape, keep=False)
    repeats = count if dice.chance(75) else 1  # else each image has its own
    sizes = [scope.normal([count * channels // repeats]) for _ in range(3)]
    numbers = [*sizes, abs(scope.factors([count * channels // repeats]))]
    parameters = [scope.constant(np.tile(each, repeats), own=True) for each in numbers]
    made = scope.add("BatchNormalization", [flat, *parameters], shape, keep=False)
    scope.add("Reshape", [made, scope.integers(x.shape)], x.shape)


PASSAGES: list[Operator] = [differences, differences, gains, stored_small, shared_out, tiled_statistics]
