"""The operators of the random graphs: each takes a scope and a value and adds a few nodes, or none where it cannot.

All of the fold's three tables are here with every attribute that has a condition, and the operators nothing crosses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import TensorProto

from bnfold.testing.random_scope import Scope, Shape, Value

Operator = Callable[[Scope, Value], None]
LARGEST = 4000  # elements of one value


def broadcast(*shapes: Shape) -> Shape | None:
    try:
        result = np.broadcast_shapes(*shapes)
    except ValueError:
        return None
    return result if math.prod(result) <= LARGEST and len(result) <= 5 else None


def divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


# --- per-channel maps -------------------------------------------------------------------------------------------------


def batch_normalization(scope: Scope, x: Value) -> None:
    if x.rank < 2:
        return
    dice, channels = scope.dice, x.shape[1]
    kind = dice.one_of(["any", "positive", "positive", "zero", "no shift", "identity", "only shift"])
    gamma = scope.factors([channels], both_signs=kind != "positive", zero=kind == "zero")
    beta, mean, variance = scope.normal([channels]), scope.normal([channels]), scope.factors([channels])
    if kind in ("no shift", "identity"):
        beta, mean = np.zeros(channels), np.zeros(channels)
    epsilon = dice.one_of([None, 1e-3, 0.1])
    if kind in ("identity", "only shift"):
        gamma, variance, epsilon = np.ones(channels), np.ones(channels), 0.0
    parameters = [scope.constant(p) for p in (gamma, beta, mean)] + [scope.constant(abs(variance), own=True)]
    spatial = 1 if scope.opset < 9 and dice.chance(30) else None
    inputs: list[Value | str] = [x, *parameters]
    if dice.chance(3):
        _in_train_mode(scope, inputs, x, epsilon)
    else:
        scope.add("BatchNormalization", inputs, x.shape, epsilon=epsilon, spatial=spatial)


def _in_train_mode(scope: Scope, inputs: list[Value | str], x: Value, epsilon: float | None) -> None:
    outputs = 3 if scope.opset >= 14 else 5
    names = [scope.setting.fresh("v") for _ in range(outputs)]
    epsilon = 0.1 if epsilon == 0 else epsilon  # what is the same everywhere would be nothing divided by nothing
    mode = 1 if scope.opset >= 14 else None
    scope.emit("BatchNormalization", inputs, names, training_mode=mode, epsilon=epsilon)
    scope.values.append(Value(names[0], x.shape))


def alignable(scope: Scope, shape: Shape) -> Shape:
    """The shape of a constant operand: per channel, on another axis, with leading ones, whole, one number, larger."""
    dice, rank = scope.dice, len(shape)
    choices: list[Shape] = [()]
    if rank >= 2:
        choices[:0] = [(shape[1], *[1] * (rank - 2))] * 4 + [(1, shape[1], *[1] * (rank - 2))]
    if rank:
        choices += [(1,), (shape[-1],), (1,) * rank, shape, shape[1:], (shape[0], *[1] * (rank - 1))]
        choices += [(1,) * (rank - 1) + (shape[-1],), (1, *shape), tuple(1 if d % 2 else d for d in shape)]
    larger = broadcast(shape, (2, *[1] * max(rank, 1)))
    if larger is not None:
        choices.append((2, *[1] * max(rank, 1)))
    choices += [tuple(3 if d == 1 else 1 for d in shape)] if 1 in shape else []
    return dice.one_of(choices)


def arithmetic(scope: Scope, x: Value) -> None:
    """One of Mul, Add, Sub, Div by a constant, in either order."""
    constant_arithmetic(scope, x, scope.dice.one_of(["Mul", "Add", "Sub", "Div"]), alignable(scope, x.shape))


def constant_arithmetic(scope: Scope, x: Value, op_type: str, shape: Shape) -> Value | None:
    result = broadcast(x.shape, shape)
    if result is None:
        return None
    factors = op_type in ("Mul", "Div")
    values = scope.factors(shape, both_signs=scope.dice.chance(50)) if factors else scope.normal(shape)
    operands: list[Value | str] = [x, scope.constant(values, own=op_type == "Div")]
    if scope.dice.chance(40) and (op_type != "Div" or x.positive):
        operands.reverse()
    return scope.add(op_type, operands, result)


def disguised(scope: Scope, x: Value) -> None:
    """One to four of them along one axis, as converters write a BatchNormalization."""
    dice = scope.dice
    if not x.rank:
        return
    axis = min(dice.one_of([1, 1, 1, x.rank - 1, 0]), x.rank - 1)
    shape = (x.shape[axis], *[1] * (x.rank - axis - 1))
    current: Value | None = x
    for op_type in dice.one_of(
        [["Mul", "Add"], ["Sub", "Div", "Mul", "Add"], ["Sub", "Mul", "Add"], ["Mul", "Sub"], ["Div", "Add"], ["Mul"]]
    ):
        if current is not None:
            current = constant_arithmetic(scope, current, op_type, shape if dice.chance(90) else ())


# --- linear operators -------------------------------------------------------------------------------------------------


def _window(
    scope: Scope, x: Value, *, dilated: bool = True
) -> tuple[list[int], list[int], list[int], dict[str, Any], Shape] | None:
    """Kernel, strides, dilations, the attributes that give them and the padding, and the spatial dims that come out."""
    dice, spatial = scope.dice, x.shape[2:]
    kernel = [dice.number(1, min(3, size)) for size in spatial]
    strides = [dice.number(1, 2) for _ in spatial] if dice.chance(40) else [1] * len(spatial)
    dilations = [dice.number(1, 2) for _ in spatial] if dilated and dice.chance(20) else [1] * len(spatial)
    extent = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    style = dice.one_of(["none", "none", "pads", "VALID", "SAME_UPPER", "SAME_LOWER"])
    attributes: dict[str, Any] = {"kernel_shape": kernel}
    if strides != [1] * len(spatial) or dice.chance(30):
        attributes["strides"] = strides
    if dilations != [1] * len(spatial):
        attributes["dilations"] = dilations
    if style.startswith("SAME"):
        attributes["auto_pad"] = style
        return kernel, strides, dilations, attributes, tuple(-(-n // s) for n, s in zip(spatial, strides, strict=True))
    pads = [0] * (2 * len(spatial))
    if style == "pads":
        pads = [dice.number(0, k - 1) for k in (*kernel, *kernel)]
    if style == "VALID":
        attributes["auto_pad"] = style
    elif style == "pads" or dice.chance(30):
        attributes["pads"] = pads
    totals = [a + b for a, b in zip(pads[: len(spatial)], pads[len(spatial) :], strict=True)]
    if any(n + p < e for n, p, e in zip(spatial, totals, extent, strict=True)):
        return None
    out = [(n + p - e) // s + 1 for n, p, e, s in zip(spatial, totals, extent, strides, strict=True)]
    return kernel, strides, dilations, attributes, tuple(out)


def _grouped(scope: Scope, channels: int) -> tuple[int, int]:
    """The group and the number of output channels: equal ones and depthwise among them."""
    dice = scope.dice
    group = dice.one_of(divisors(channels)) if dice.chance(40) else 1
    sizes = [n for n in (channels, channels + 1, 2, 3, 4, 5, 6, 2 * channels) if n % group == 0 and n <= 12]
    return group, dice.one_of(sizes)


def _bias(scope: Scope, inputs: list[Value | str], size: int) -> None:
    style = scope.dice.one_of(["bias", "none", "bias", "empty"])
    if style == "bias":
        inputs.append(scope.constant(scope.normal([size])))
    elif style == "empty":
        inputs.append("")


def conv(scope: Scope, x: Value) -> None:
    if not 3 <= x.rank <= 5 or x.shape[1] > 12:
        return
    window = _window(scope, x)
    group, made = _grouped(scope, x.shape[1])
    if window is None:
        return
    kernel, _, _, attributes, spatial = window
    if scope.dice.chance(30):
        del attributes["kernel_shape"]
    each = x.shape[1] // group
    weight = scope.normal([made, each, *kernel], 1 / math.sqrt(each * math.prod(kernel)))
    inputs: list[Value | str] = [x, scope.constant(weight)]
    _bias(scope, inputs, made)
    shape = (x.shape[0], made, *spatial)
    scope.add("Conv", inputs, shape, group=group if group > 1 or scope.dice.chance(30) else None, **attributes)


def conv_transpose(scope: Scope, x: Value) -> None:
    if not 3 <= x.rank <= 5 or x.shape[1] > 12:
        return
    dice, spatial = scope.dice, x.shape[2:]
    group, made = _grouped(scope, x.shape[1])
    pointwise = dice.chance(25)
    kernel = [1 if pointwise else dice.number(1, 3) for _ in spatial]
    strides = [dice.number(1, 2) for _ in spatial] if dice.chance(50) and not pointwise else [1] * len(spatial)
    dilations = [dice.number(1, 2) for _ in spatial] if dice.chance(15) else [1] * len(spatial)
    extra = [dice.number(0, max(s, d) - 1) for s, d in zip(strides, dilations, strict=True)]
    extra = extra if dice.chance(50) else [0] * len(spatial)
    pads = [dice.number(0, k - 1) for k in (*kernel, *kernel)] if dice.chance(40) else [0] * (2 * len(spatial))
    out = [
        (n - 1) * s + (k - 1) * d + 1 + e - p - q
        for n, s, k, d, e, p, q in zip(
            spatial, strides, kernel, dilations, extra, pads[: len(spatial)], pads[len(spatial) :], strict=True
        )
    ]
    if min(out) < 1 or math.prod(out) * made * x.shape[0] > LARGEST:
        return
    weight = scope.normal([x.shape[1], made // group, *kernel], 1 / math.sqrt(x.shape[1] // group * math.prod(kernel)))
    inputs: list[Value | str] = [x, scope.constant(weight)]
    _bias(scope, inputs, made)
    scope.add(
        "ConvTranspose",
        inputs,
        (x.shape[0], made, *out),
        group=group if group > 1 else None,
        strides=strides if strides != [1] * len(spatial) else None,
        dilations=dilations if dilations != [1] * len(spatial) else None,
        output_padding=extra if any(extra) else None,
        pads=pads if any(pads) else None,
    )


def gemm(scope: Scope, x: Value) -> None:
    if x.rank != 2:
        return
    dice = scope.dice
    turned, turned_weight = dice.chance(20), dice.chance(50)
    rows, inner = x.shape[::-1] if turned else x.shape
    made = dice.one_of([inner, inner + 1, 3, 5])
    weight = scope.normal([made, inner] if turned_weight else [inner, made], 1 / math.sqrt(inner))
    inputs: list[Value | str] = [x, scope.constant(weight)]
    bias = dice.one_of([(made,), None, (), (1, made), (rows, 1), (rows, made), (1,), (1, 1)])
    if bias is not None:
        inputs.append(scope.constant(scope.normal(bias)))
    elif scope.opset < 11:
        inputs.append(scope.constant(np.zeros(made)))
    elif dice.chance(30):
        inputs.append("")
    attributes: dict[str, Any] = {
        "transA": 1 if turned else None,
        "transB": 1 if turned_weight else None,
        "alpha": dice.one_of([None, 0.5, -1.5]),
        "beta": dice.one_of([None, 2.0, 0.0, -0.5]),
    }
    scope.add("Gemm", inputs, (rows, made), **attributes)


def matmul(scope: Scope, x: Value) -> None:
    """By a constant at the right or the left, of rank 2 to 4; a vector too."""
    dice = scope.dice
    if not x.rank:
        return
    left = dice.chance(35)
    inner = x.shape[-2] if left and x.rank > 1 else x.shape[-1]
    made = dice.one_of([inner, inner + 1, 2, 4, *([x.shape[1]] if x.rank > 1 else [])])
    lead = tuple(dice.one_of([1, n]) for n in x.shape[:-2]) if dice.chance(20) else ()
    lead = (dice.one_of([1, 2]), *lead) if dice.chance(8) else lead
    matrix = (made, inner) if left else (inner, made)
    batch = broadcast(lead, x.shape[:-2])
    if inner > 40 or batch is None or len(batch) > 3:
        return
    weight = scope.constant(scope.normal([*lead, *matrix], 1 / math.sqrt(inner)))
    if x.rank == 1:
        tail: Shape = (made,)
    else:
        tail = (made, x.shape[-1]) if left else (x.shape[-2], made)
    if math.prod(batch + tail) <= LARGEST:
        scope.add("MatMul", [weight, x] if left else [x, weight], batch + tail)


def instance_normalization(scope: Scope, x: Value) -> None:
    if x.rank < 3 or math.prod(x.shape[2:]) < 6:
        return
    scale, bias = scope.factors([x.shape[1]]), scope.normal([x.shape[1]])
    scope.add("InstanceNormalization", [x, scope.constant(scale), scope.constant(bias)], x.shape, epsilon=0.1)


# --- shapes -----------------------------------------------------------------------------------------------------------


def transpose(scope: Scope, x: Value) -> None:
    if x.rank < 2:
        return
    order = list(range(x.rank))
    choices = [[0, *order[2:], 1], [0, x.rank - 1, *order[1:-1]], order[::-1], [*order[1:], 0], order]
    perm = scope.dice.one_of(choices)
    given = None if perm == order[::-1] and scope.dice.chance(50) else perm
    scope.add("Transpose", [x], [x.shape[axis] for axis in perm], perm=given)


def reshape(scope: Scope, x: Value) -> None:
    """Joining and splitting dims, some as 0 or -1; also by the computed shape of another value."""
    dice = scope.dice
    choices: list[list[int]] = [list(x.shape)]
    if x.rank >= 2:
        at = dice.number(0, x.rank - 2)
        choices.append([*x.shape[:at], x.shape[at] * x.shape[at + 1], *x.shape[at + 2 :]])
        choices.append([x.shape[0], math.prod(x.shape[1:])])
        choices.append([x.shape[0], x.shape[1], math.prod(x.shape[2:])])
        choices.append([math.prod(x.shape[:2]), *x.shape[2:]])
    choices.append([*x.shape, 1])
    choices.append([1, *x.shape])
    for axis, size in enumerate(x.shape):
        parts = divisors(size)[1:-1]
        choices += [[*x.shape[:axis], part, size // part, *x.shape[axis + 1 :]] for part in parts]
    wanted = dice.one_of([choice for choice in choices if len(choice) <= 5])
    written = list(wanted)
    style = dice.one_of(["numbers", "minus one", "zero", "computed"])
    if style == "minus one" and written:
        written[dice.number(0, len(written) - 1)] = -1
    if style == "zero" and written and x.rank and written[0] == x.shape[0]:
        written[0] = 0
    shape: str | Value = scope.integers(written)
    if style == "computed":
        alike = [value for value in scope.visible() if list(value.shape) == wanted]
        if alike:
            shape = scope.setting.fresh("s")
            scope.emit("Shape", [dice.one_of(alike[::-1])], [shape])
    scope.add("Reshape", [x, shape], wanted)


def flatten(scope: Scope, x: Value) -> None:
    if x.rank < 1:
        return
    axis = scope.dice.one_of([1, min(2, x.rank), 0, x.rank])
    negative = axis < x.rank and scope.opset >= 11 and scope.dice.chance(30)
    shape = (math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))
    scope.add("Flatten", [x], shape, axis=axis - x.rank if negative else axis)


def squeeze(scope: Scope, x: Value) -> None:
    ones = [axis for axis, size in enumerate(x.shape) if size == 1]
    if not ones:
        return
    axes = ones if scope.dice.chance(50) else [scope.dice.one_of(ones)]
    kept = [size for axis, size in enumerate(x.shape) if axis not in axes]
    _with_axes(scope, "Squeeze", x, axes, kept)


def unsqueeze(scope: Scope, x: Value) -> None:
    if x.rank >= 5:
        return
    axis = scope.dice.number(0, x.rank)
    _with_axes(scope, "Unsqueeze", x, [axis], (*x.shape[:axis], 1, *x.shape[axis:]))


def _with_axes(scope: Scope, op_type: str, x: Value, axes: list[int], shape: Sequence[int]) -> None:
    if scope.opset < 13:
        scope.add(op_type, [x], shape, axes=axes)
    else:
        scope.add(op_type, [x, scope.integers(axes)], shape)


def concat(scope: Scope, x: Value) -> None:
    """Joins x and what fits it, itself and constants included."""
    dice = scope.dice
    if not x.rank:
        return
    axis = dice.one_of([min(1, x.rank - 1), x.rank - 1, 0])
    fitting = [
        value
        for value in scope.visible()
        if value.rank == x.rank and value.shape[:axis] + value.shape[axis + 1 :] == x.shape[:axis] + x.shape[axis + 1 :]
    ]
    parts: list[Value | str] = [x]
    size = x.shape[axis]
    for _ in range(dice.number(0, 2)):
        if dice.chance(25):
            other = (*x.shape[:axis], dice.number(1, 3), *x.shape[axis + 1 :])
            parts.append(scope.constant(scope.normal(other)))
            size += other[axis]
        else:
            value = dice.one_of(fitting[::-1])
            parts.append(value)
            size += value.shape[axis]
    if dice.chance(40):
        parts.reverse()
    shape = (*x.shape[:axis], size, *x.shape[axis + 1 :])
    if math.prod(shape) <= LARGEST and size <= 24:
        negative = scope.opset >= 11 and dice.chance(30)
        scope.add("Concat", parts, shape, axis=axis - x.rank if negative else axis)


def split(scope: Scope, x: Value) -> None:
    dice = scope.dice
    if not x.rank:
        return
    axis = dice.one_of([min(1, x.rank - 1), x.rank - 1, 0])
    size = x.shape[axis]
    first = dice.number(1, max(size - 1, 1))
    sizes = [first, size - first] if size > 1 else [size]
    if sizes[-1] > 1 and dice.chance(25):
        sizes[-1:] = [1, sizes[-1] - 1]
    shapes = [(*x.shape[:axis], part, *x.shape[axis + 1 :]) for part in sizes]
    written = axis - x.rank if dice.chance(30) and scope.opset >= 11 else axis
    if scope.opset < 13:
        scope.add_many("Split", [x], shapes, axis=written, split=sizes)
    elif scope.opset >= 18 and len(set(sizes)) == 1 and dice.chance(50):
        scope.add_many("Split", [x], shapes, axis=written, num_outputs=len(sizes))
    else:
        scope.add_many("Split", [x, scope.integers(sizes)], shapes, axis=written)


def slices(scope: Scope, x: Value) -> None:
    """One or two axes, backwards and beyond the ends too."""
    dice = scope.dice
    if not x.rank:
        return
    axes = [dice.one_of([min(1, x.rank - 1), x.rank - 1, 0])]
    if x.rank > 2 and dice.chance(30):
        axes.append(2 if axes[0] != 2 else 1)
    starts, ends, steps, shape = [], [], [], list(x.shape)
    for axis in axes:
        size = x.shape[axis]
        start = dice.number(0, size - 1)
        end = dice.number(start + 1, size)
        step = dice.number(1, 2) if scope.opset >= 10 else 1
        begin, stop = start, end
        shape[axis] = len(range(start, end, step))
        style = dice.one_of(["plain", "plain", "open", "negative", "backwards"])
        if style == "open" and end == size:
            stop = dice.one_of([2**31 - 1, 2**63 - 1, size + 3])
        elif style == "negative":
            begin, stop = start - size, (end - size if end < size else size)
        elif style == "backwards" and scope.opset >= 10:
            begin, stop, step = end - 1, (start - 1 if start else dice.one_of([-size - 1, -(2**63)])), -step
            begin = dice.one_of([begin, size + 5]) if end == size else begin
        starts.append(begin)
        ends.append(stop)
        steps.append(step)
    if scope.opset < 10:
        scope.add("Slice", [x], shape, starts=starts, ends=ends, axes=axes)
        return
    written = [axis - x.rank for axis in axes] if dice.chance(30) else axes
    inputs: list[Value | str] = [x, scope.integers(starts), scope.integers(ends), scope.integers(written)]
    scope.add("Slice", [*inputs, scope.integers(steps)] if any(s != 1 for s in steps) else inputs, shape)


def depth_to_space(scope: Scope, x: Value) -> None:
    if x.rank != 4 or x.shape[1] % 4:
        return
    mode = scope.dice.one_of([None, "DCR", "CRD"]) if scope.opset >= 11 else None
    batch, channels, height, width = x.shape
    scope.add("DepthToSpace", [x], (batch, channels // 4, 2 * height, 2 * width), blocksize=2, mode=mode)


def space_to_depth(scope: Scope, x: Value) -> None:
    if x.rank != 4 or x.shape[2] % 2 or x.shape[3] % 2 or x.shape[1] > 6:
        return
    batch, channels, height, width = x.shape
    scope.add("SpaceToDepth", [x], (batch, 4 * channels, height // 2, width // 2), blocksize=2)


def gather(scope: Scope, x: Value) -> None:
    """Of one axis, by constant indices: an order, some, some twice, counted from the end, a matrix, one."""
    dice = scope.dice
    if not x.rank:
        return
    axis = dice.one_of([min(1, x.rank - 1), x.rank - 1, 0])
    size = x.shape[axis]
    style = dice.one_of(["order", "some", "again", "matrix", "one"])
    if style in ("order", "some"):
        chosen = np.arange(size)[:: -1 if style == "order" else 2]
    else:
        chosen = np.asarray([dice.number(-size if scope.opset >= 11 else 0, size - 1) for _ in range(4)])
    chosen = chosen.reshape(-1, 2) if style == "matrix" else chosen[0] if style == "one" else chosen
    shape = (*x.shape[:axis], *np.shape(chosen), *x.shape[axis + 1 :])
    if math.prod(shape) <= LARGEST and len(shape) <= 5:
        indices = scope.plainly(np.asarray(chosen, np.int64), "i")
        scope.add("Gather", [x, indices], shape, axis=axis)


def repeat(scope: Scope, x: Value) -> None:
    """Tile, or Expand of an axis of size 1 and of new ones in front."""
    dice = scope.dice
    counts = [dice.one_of([1, 1, 2]) for _ in x.shape]
    if dice.chance(50) and x.rank:
        shape = [size * count for size, count in zip(x.shape, counts, strict=True)]
        if math.prod(shape) <= LARGEST and (len(shape) < 2 or shape[1] <= 24):
            scope.add("Tile", [x, scope.integers(counts)], shape)
    elif scope.opset >= 8:
        shape = [2 if size == 1 else size for size in x.shape]
        shape = [2, *shape] if dice.chance(30) and x.rank < 5 else shape
        if math.prod(shape) <= LARGEST:
            scope.add("Expand", [x, scope.integers(shape)], shape)


def channel_shuffle(scope: Scope, x: Value) -> None:
    """Reshape, Transpose, Reshape, and a normalization behind it, or in front."""
    dice = scope.dice
    if x.rank != 4 or x.shape[1] > 12:
        return
    made = dice.one_of([4, 6, 8])
    weight = scope.constant(scope.normal([made, x.shape[1], 1, 1], 1 / math.sqrt(x.shape[1])))
    y = scope.add("Conv", [x, weight], (x.shape[0], made, *x.shape[2:]))
    if dice.chance(40):
        before = len(scope.values)
        batch_normalization(scope, y)
        y = scope.values[-1] if len(scope.values) > before else y
    split = [y.shape[0], 2, made // 2, *y.shape[2:]]
    apart = scope.add("Reshape", [y, scope.integers(split)], split, keep=False)
    order = dice.one_of([[0, 2, 1, 3, 4], [0, 2, 1, 4, 3], [1, 0, 2, 3, 4]])
    turned = [split[axis] for axis in order]
    turn = scope.add("Transpose", [apart], turned, keep=False, perm=order)
    joined = [turned[0], turned[1] * turned[2], *turned[3:]]
    z = scope.add("Reshape", [turn, scope.integers(joined)], joined)
    dice.one_of([batch_normalization, disguised, conv])(scope, z)


# --- pooling, padding, resizing ---------------------------------------------------------------------------------------


def pool(scope: Scope, x: Value) -> None:
    if not 3 <= x.rank <= 5:
        return
    dice = scope.dice
    op_type = dice.one_of(["AveragePool", "MaxPool"])
    window = _window(scope, x, dilated=scope.opset >= (19 if op_type == "AveragePool" else 10))
    if window is None:
        return
    kernel, strides, dilations, attributes, spatial = window
    if str(attributes.get("auto_pad")).startswith("SAME"):
        attributes.pop("dilations", None)  # onnxruntime 1.32 pads pools as if there were none
    if op_type == "AveragePool" and dice.chance(50):
        attributes["count_include_pad"] = 1
    if scope.opset >= 10 and "auto_pad" not in attributes and dice.chance(35):
        attributes["ceil_mode"] = 1
        spatial = tuple(
            _rounded_up(size, k, s, d, a, b)
            for size, k, s, d, a, b in zip(
                x.shape[2:],
                kernel,
                strides,
                dilations,
                attributes.get("pads", [0] * 2 * len(kernel))[: len(kernel)],
                attributes.get("pads", [0] * 2 * len(kernel))[len(kernel) :],
                strict=True,
            )
        )
    scope.add(op_type, [x], (*x.shape[:2], *spatial), **attributes)


def _rounded_up(size: int, kernel: int, stride: int, dilation: int, before: int, after: int) -> int:
    count = -(-(size + before + after - (kernel - 1) * dilation - 1) // stride) + 1
    return count - ((count - 1) * stride >= size + before)


def global_pool(scope: Scope, x: Value) -> None:
    if x.rank < 3:
        return
    op_type = scope.dice.one_of(["GlobalAveragePool", "GlobalMaxPool"])
    scope.add(op_type, [x], (*x.shape[:2], *[1] * (x.rank - 2)))


def reduce_mean(scope: Scope, x: Value) -> None:
    dice = scope.dice
    if not x.rank:
        return
    axes = dice.one_of([list(range(2, x.rank)), [x.rank - 1], [min(1, x.rank - 1)], [0], []])
    keep = dice.chance(50)
    reduced = set(axes or range(x.rank))
    if scope.opset >= 18 and not axes and dice.chance(50):
        scope.add("ReduceMean", [x], x.shape, noop_with_empty_axes=1)
        return
    shape = [1 if a in reduced else n for a, n in enumerate(x.shape) if keep or a not in reduced]
    written = [axis - x.rank for axis in axes] if dice.chance(30) and scope.opset >= 11 else axes
    keepdims = None if keep and dice.chance(50) else int(keep)
    if not axes:
        scope.add("ReduceMean", [x], shape, keepdims=keepdims)
    elif scope.opset < 18:
        scope.add("ReduceMean", [x], shape, axes=written, keepdims=keepdims)
    else:
        scope.add("ReduceMean", [x, scope.integers(written)], shape, keepdims=keepdims)


def pad(scope: Scope, x: Value) -> None:
    dice = scope.dice
    if not x.rank:
        return
    modes = ["constant", "constant", "edge", "reflect", *(["wrap"] if scope.opset >= 19 else [])]
    mode = dice.one_of(modes)
    axes = list(range(2, x.rank)) or [x.rank - 1]
    if dice.chance(20) and (mode != "reflect" or x.rank <= 2):
        axes = [min(1, x.rank - 1)]
    most = [min(2, x.shape[axis] - 1) if mode in ("reflect", "wrap") else 2 for axis in axes]
    before, after = [dice.number(0, n) for n in most], [dice.number(0, n) for n in most]
    if mode == "constant" and dice.chance(15) and x.shape[axes[0]] > 2:
        before[0] = -1
    shape = list(x.shape)
    for axis, a, b in zip(axes, before, after, strict=True):
        shape[axis] += a + b
    if math.prod(shape) > LARGEST:
        return
    number = dice.one_of([None, 0.0, 1.5, -2.0]) if mode == "constant" else None
    given = None if mode == "constant" and dice.chance(50) else mode
    pads = [before[axes.index(a)] if a in axes else 0 for a in range(x.rank)]
    pads += [after[axes.index(a)] if a in axes else 0 for a in range(x.rank)]
    if scope.opset < 11:
        scope.add("Pad", [x], shape, mode=given, pads=pads, value=number)
        return
    inputs: list[Value | str] = [x]
    by_axes = scope.opset >= 18 and dice.chance(50)
    inputs.append(scope.integers([*before, *after] if by_axes else pads))
    if number is not None:
        inputs.append(scope.constant(np.asarray(number), own=True))
    if by_axes:
        written = [axis - x.rank if dice.chance(30) else axis for axis in axes]
        inputs += [*([""] if number is None else []), scope.integers(written)]
    scope.add("Pad", inputs, shape, mode=given)


def resize(scope: Scope, x: Value) -> None:
    dice = scope.dice
    if x.rank != 4:
        return
    mode = dice.one_of(["nearest", "linear", "cubic"]) if scope.opset >= 11 else dice.one_of(["nearest", "linear"])
    factors = [1.0, 1.0, *(dice.one_of([2.0, 1.0, 1.5, 0.5]) for _ in range(2))]
    if mode == "nearest" and dice.chance(25):
        factors[1] = dice.one_of([2.0, 1.2, 1.1])  # some keep the number of channels, not the channels
    shape = [math.floor(np.float32(n) * np.float32(f)) for n, f in zip(x.shape, factors, strict=True)]
    if min(shape) < 1 or math.prod(shape) > LARGEST or shape[1] > 12:
        return
    if scope.opset >= 11:
        _resize_with_coordinates(scope, x, mode, factors, shape)
    elif scope.opset == 10:
        scope.add("Resize", [x, scope.floats(factors)], shape, mode=mode)
    elif min(factors) >= 1 and scope.opset == 9:
        scope.add("Upsample", [x, scope.floats(factors)], shape, mode=mode)
    elif min(factors) >= 1:
        scope.add("Upsample", [x], shape, mode=mode, scales=factors)


def _resize_with_coordinates(scope: Scope, x: Value, mode: str, factors: list[float], shape: list[int]) -> None:
    dice = scope.dice
    transformations = ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"]
    attributes: dict[str, Any] = {
        "mode": None if mode == "nearest" and dice.chance(50) else mode,
        "coordinate_transformation_mode": dice.one_of([None, *transformations]),
    }
    if mode == "nearest":
        attributes["nearest_mode"] = dice.one_of([None, "floor", "ceil", "round_prefer_ceil"])
    roi = "" if scope.opset >= 13 else scope.floats([])
    inputs: list[Value | str] = [x, roi, scope.floats(factors)]
    if dice.chance(30):
        inputs = [x, roi, "" if scope.opset >= 13 else scope.floats([]), scope.integers(shape)]
    scope.add("Resize", inputs, shape, **attributes)


# --- branches ---------------------------------------------------------------------------------------------------------


def _sibling(scope: Scope, x: Value) -> Value:
    """Another computed value that broadcasts against x; x itself where nothing else does."""
    fitting = [v for v in scope.visible() if v.name != x.name and broadcast(v.shape, x.shape) is not None]
    if fitting and scope.dice.chance(70):
        return scope.dice.one_of(fitting[::-1])
    if x.rank == 4 and x.shape[1] <= 12 and scope.dice.chance(70):
        weight = scope.constant(scope.normal([x.shape[1], x.shape[1], 1, 1], 1 / math.sqrt(x.shape[1])))
        return scope.add("Conv", [x, weight], x.shape)
    return x


def _denominator(scope: Scope, x: Value) -> Value:
    """Between a half and one and a half: dividing by what comes close to zero would magnify rounding without bound."""
    sigmoid = scope.add("Sigmoid", [x], x.shape)
    half = scope.constant(np.asarray(0.5), own=True)
    total = scope.add("Add", [sigmoid, half], x.shape, keep=False)
    scope.values.append(Value(total.name, total.shape, positive=True))
    return scope.values[-1]


def combine(scope: Scope, x: Value) -> None:
    dice = scope.dice
    op_type = dice.one_of(["Add", "Mul", "Sub", "Div"])
    other = _sibling(scope, x)
    if op_type == "Div" and not other.positive:
        other = _denominator(scope, other)
    shape = broadcast(x.shape, other.shape)
    if shape is None:
        return
    operands = [x, other]
    if op_type != "Div" and dice.chance(50):
        operands.reverse()
    scope.add(op_type, operands, shape)


def add_all(scope: Scope, x: Value) -> None:
    """Sum, with constants among its operands."""
    dice = scope.dice
    if scope.opset < 8:
        operands: list[Value | str] = [x] * dice.number(1, 2)
        scope.add("Sum", [*operands, scope.constant(scope.normal(x.shape))], x.shape)
        return
    operands, shape = [x], x.shape
    for _ in range(dice.number(0, 2)):
        if dice.chance(50):
            constant = alignable(scope, x.shape)
            wider = broadcast(shape, constant)
            if wider is not None:
                operands.append(scope.constant(scope.normal(constant)))
                shape = wider
        else:
            other = _sibling(scope, x)
            wider = broadcast(shape, other.shape)
            if wider is not None:
                operands.append(other)
                shape = wider
    if dice.chance(50):
        operands.reverse()
    scope.add("Sum", operands, shape)


def _light(scope: Scope, x: Value) -> Value:
    """A linear operator of the same spatial size; on what no convolution takes, a MatMul."""
    if x.rank != 4 or x.shape[1] > 12:
        before = len(scope.values)
        matmul(scope, x)
        return scope.values[-1] if len(scope.values) > before else x
    _, made = _grouped(scope, x.shape[1])
    weight = scope.constant(scope.normal([made, x.shape[1], 1, 1], 1 / math.sqrt(x.shape[1])))
    inputs: list[Value | str] = [x, weight]
    _bias(scope, inputs, made)
    return scope.add("Conv", inputs, (x.shape[0], made, *x.shape[2:]))


def join(scope: Scope, x: Value) -> None:
    """Branches that nothing else reads, joined by Concat, Add, Sub, Sum or Mul, and a normalization behind."""
    branches = []
    for _ in range(scope.dice.number(2, 3)):
        branch = _light(scope, x)
        if scope.dice.chance(40):
            passing = scope.dice.one_of([rectify, pass_through, pool, pad, batch_normalization, arithmetic])
            before = len(scope.values)
            passing(scope, branch)
            branch = scope.values[-1] if len(scope.values) > before else branch
        branches.append(branch)
    shapes = [branch.shape for branch in branches]
    whole = broadcast(*shapes)
    rests = {(len(shape), shape[:1], shape[2:]) for shape in shapes}
    op_type = scope.dice.one_of(["Concat", "Add", "Sub", "Sub", "Sum", "Mul", "Div"])
    if op_type == "Div":
        branches[1] = _denominator(scope, branches[1])
    if op_type == "Concat" and len(rests) == 1 and len(shapes[0]) > 1:
        shape = (*shapes[0][:1], sum(shape[1] for shape in shapes), *shapes[0][2:])
        scope.add("Concat", branches, shape, axis=1)
    elif op_type == "Sum" and whole is not None and scope.opset >= 8:
        scope.add("Sum", branches, whole)
    elif (pair := broadcast(*shapes[:2])) is not None:
        scope.add("Add" if op_type in ("Concat", "Sum") else op_type, branches[:2], pair)
    scope.dice.one_of([batch_normalization, disguised])(scope, scope.values[-1])


def shuffle(scope: Scope, x: Value) -> None:
    """Depth to space and back, with a linear operator on one side and a normalization on the other."""
    dice = scope.dice
    if x.rank != 4 or x.shape[1] > 12:
        return
    made = dice.one_of([8, 4])
    weight = scope.constant(scope.normal([made, x.shape[1], 1, 1], 1 / math.sqrt(x.shape[1])))
    y = scope.add("Conv", [x, weight], (x.shape[0], made, *x.shape[2:]))
    steps = [depth_to_space, batch_normalization] if dice.chance(60) else [batch_normalization, depth_to_space, conv]
    for step in steps:
        before = len(scope.values)
        step(scope, y)
        y = scope.values[-1] if len(scope.values) > before else y


def fan_out(scope: Scope, x: Value) -> None:
    """A normalization that several operators read, or that a Split takes apart."""
    dice = scope.dice
    before = len(scope.values)
    dice.one_of([batch_normalization, disguised])(scope, x)
    if len(scope.values) == before:
        return
    made = [scope.values[-1]] * dice.number(1, 3)
    if dice.chance(40):
        before = len(scope.values)
        split(scope, made[0])
        made = scope.values[before:]
    for value in made:
        if dice.chance(40):
            before = len(scope.values)
            dice.one_of([rectify, pass_through, pool, pad, transpose, slices, reshape, combine])(scope, value)
            value = scope.values[-1] if len(scope.values) > before else value
        if dice.chance(90):
            dice.one_of([conv, conv_transpose, gemm, matmul])(scope, value)


# --- what only a scale crosses, and what nothing does -----------------------------------------------------------------


def rectify(scope: Scope, x: Value) -> None:
    dice = scope.dice
    op_type = dice.one_of(["Relu", "LeakyRelu", "PRelu"])
    if op_type == "PRelu":
        slope = dice.one_of(
            [(), (x.shape[-1],) if x.rank else (), (x.shape[1], *[1] * (x.rank - 2)) if x.rank > 1 else ()]
        )
        scope.add("PRelu", [x, scope.constant(scope.normal(slope))], x.shape)
    else:
        scope.add(op_type, [x], x.shape, alpha=dice.one_of([None, 0.3]) if op_type == "LeakyRelu" else None)


def pass_through(scope: Scope, x: Value) -> None:
    """Identity, or Dropout in inference mode; sometimes its mask is read."""
    dice = scope.dice
    if dice.chance(50):
        scope.add("Identity", [x], x.shape)
        return
    inputs: list[Value | str] = [x]
    ratio = None
    if scope.opset < 12:
        ratio = dice.one_of([None, 0.3])
    elif dice.chance(50):
        inputs.append(scope.floats(0.3, TensorProto.FLOAT))
        if dice.chance(50):
            inputs.append(scope.plainly(np.asarray(False), "b"))
    scope.add("Dropout", inputs, x.shape, ratio=ratio)


_TYPES = [TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.DOUBLE]


def cast(scope: Scope, x: Value) -> None:
    """To the type it has; to another and back; or into float16 around a MatMul, as mixed precision writes it."""
    dice, own = scope.dice, scope.setting.dtype
    style = dice.one_of(["none", "none", "like", "around", "back and forth"])
    if style == "like" and scope.opset >= 15:
        scope.add("CastLike", [x, dice.one_of(scope.visible())], x.shape)
    elif style == "around" and own == TensorProto.FLOAT and x.rank > 1 and x.shape[-1] <= 40:
        narrow = scope.add("Cast", [x], x.shape, keep=False, to=TensorProto.FLOAT16)
        weight = scope.normal([x.shape[-1], 3], 1 / math.sqrt(x.shape[-1])).astype(np.float16)
        product = scope.add("MatMul", [narrow, scope.plainly(weight, "c")], (*x.shape[:-1], 3), keep=False)
        scope.add("Cast", [product], product.shape, to=own)
    elif style == "back and forth":
        other = scope.add("Cast", [x], x.shape, keep=False, to=dice.one_of(_TYPES))
        scope.add("Cast", [other], x.shape, to=own)
    else:
        scope.add("Cast", [x], x.shape, to=own)


def barrier(scope: Scope, x: Value) -> None:
    dice = scope.dice
    op_type = dice.one_of(["Sigmoid", "Tanh", "Clip", "Abs", "Neg", "Softmax"])
    if op_type == "Softmax" and x.rank:
        scope.add("Softmax", [x], x.shape, axis=x.rank - 1)
    elif op_type == "Clip" and scope.opset < 11:
        scope.add("Clip", [x], x.shape, min=-1.0, max=1.5)
    elif op_type == "Clip":
        limits = [scope.constant(np.asarray(-1.0), own=True), scope.constant(np.asarray(1.5), own=True)]
        scope.add("Clip", [x, *limits], x.shape)
    else:
        scope.add("Sigmoid" if op_type == "Softmax" else op_type, [x], x.shape)


def look_at_shape(scope: Scope, x: Value) -> None:
    """Shape reads a value without its numbers."""
    if scope.parent is None and not scope.is_function:
        name = scope.setting.fresh("s")
        scope.emit("Shape", [x], [name])
        scope.integer_outputs.append((name, (x.rank,)))


def branches(scope: Scope, x: Value) -> None:
    """Two to four linear operators on one value, with the value itself and what is not linear among them, added up."""
    dice = scope.dice
    if not 2 <= x.rank <= 5 or x.shape[1] > 12 or x.shape[-1] > 40:
        return
    products = x.rank == 2 or (x.rank == 3 and dice.chance(50))
    made = _parallel_products(scope, x) if products else _parallel_convs(scope, x)
    operands: list[Value | str] = [*made]
    shape = made[0].shape
    if shape == x.shape:
        operands += [x] * dice.one_of([1, 0, 1, 2])
        before = len(scope.values)
        if dice.chance(40):
            dice.one_of([batch_normalization, arithmetic])(scope, x)
        operands += [value for value in scope.values[before:] if value.shape == shape]
        if dice.chance(25):
            operands.append(scope.add(dice.one_of(["Sigmoid", "Tanh"]), [x], shape, keep=dice.chance(20)))
    operands = operands if dice.chance(50) else operands[::-1]
    if dice.chance(40) and len(operands) > 1:
        total = scope.add("Sum", operands, shape)
    else:
        total = made[0]
        for place, operand in enumerate(operands[1:]):
            pair = [total if place else operands[0], operand]
            total = scope.add("Add", pair if dice.chance(70) else pair[::-1], shape, keep=place == len(operands) - 2)
    if dice.chance(50):
        batch_normalization(scope, total)


def _parallel_convs(scope: Scope, x: Value) -> list[Value]:
    """Convolutions whose output positions are the same: of axis length L come (L - 1 + reach) // stride + 1."""
    dice, spatial = scope.dice, x.shape[2:]
    strides = [dice.number(1, 2) if dice.chance(30) else 1 for _ in spatial]
    reach = [1 if dice.chance(10) else 0 for _ in spatial]
    group, made = _grouped(scope, x.shape[1])
    shape = (x.shape[0], made, *((n - 1 + e) // s + 1 for n, e, s in zip(spatial, reach, strides, strict=True)))
    found = []
    for _ in range(dice.one_of([2, 1, 3, 4])):
        taps = [dice.one_of([3, 1, 2]) for _ in spatial] if dice.chance(50) else [dice.one_of([3, 1])] * len(spatial)
        steps = [dice.one_of([1, 1, 1, 2]) for _ in spatial]
        extent = [(k - 1) * d for k, d in zip(taps, steps, strict=True)]
        before = [e // 2 if dice.chance(75) else dice.number(0, e) for e in extent]
        behind = [e - b + r for e, b, r in zip(extent, before, reach, strict=True)]
        own = group if dice.chance(80) else dice.one_of([n for n in divisors(x.shape[1]) if made % n == 0])
        each = x.shape[1] // own
        inputs: list[Value | str] = [
            x,
            scope.constant(scope.normal([made, each, *taps], 1 / math.sqrt(each * math.prod(taps)))),
        ]
        _bias(scope, inputs, made)
        how: dict[str, Any] = {"pads": [*before, *behind], "strides": strides, "dilations": steps, "group": own}
        if all(k == 1 for k in taps) and not any(reach) and dice.chance(30):
            how = {"auto_pad": dice.one_of(["VALID", "SAME_UPPER"]), "strides": strides, "group": own}
        found.append(scope.add("Conv", inputs, shape, keep=dice.chance(5), **how))
        if dice.chance(30):
            batch_normalization(scope, found[-1])
            found[-1] = scope.values.pop() if scope.values[-1].shape == shape and shape != x.shape else found[-1]
    return found


def _parallel_products(scope: Scope, x: Value) -> list[Value]:
    """MatMul, from the right or the left, with an Add or without; Gemm where the value has two axes."""
    dice, left = scope.dice, scope.dice.chance(20)
    inner = x.shape[-2] if left else x.shape[-1]
    made = dice.one_of([inner, inner + 1, 3])
    shape = (*x.shape[:-2], made, x.shape[-1]) if left else (*x.shape[:-1], made)
    found = []
    for _ in range(dice.one_of([2, 1, 3])):
        weight = scope.constant(scope.normal([made, inner] if left else [inner, made], 1 / math.sqrt(inner)))
        if x.rank == 2 and not left and dice.chance(50):
            bias = scope.constant(scope.normal(dice.one_of([[made], [1, made], [1]])))
            scale = dice.one_of([None, 0.5])
            found.append(scope.add("Gemm", [x, weight, bias], shape, keep=False, alpha=scale, beta=scale))
            continue
        found.append(scope.add("MatMul", [weight, x] if left else [x, weight], shape, keep=dice.chance(5)))
        if dice.chance(50):
            bias = scope.constant(scope.normal([made, 1] if left else [made]))
            found[-1] = scope.add("Add", [bias, found[-1]], shape, keep=False)
    return found


PATTERNS: list[Operator] = [join, join, fan_out, fan_out, shuffle, channel_shuffle, branches, branches]
AFFINE: list[Operator] = [*([batch_normalization] * 4), disguised, disguised, arithmetic, arithmetic]
LINEAR: list[Operator] = [*([conv] * 3), conv_transpose, conv_transpose, matmul, gemm, instance_normalization]
CARRIERS: list[Operator] = [
    *(pass_through, transpose, reshape, flatten, squeeze, unsqueeze, concat, split, slices, gather, repeat),
    *(depth_to_space, space_to_depth, pool, pool, global_pool, reduce_mean, pad, pad, resize),
    *(combine, combine, add_all, rectify, rectify, cast),
]
BARRIERS: list[Operator] = [barrier, look_at_shape]
