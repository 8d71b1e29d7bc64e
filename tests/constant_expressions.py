"""Random constant expressions of one operator, over operator set versions 7 to the newest, and what onnxruntime says.

    python -m tests.constant_expressions [COUNT] [--seed N]

Every operator that bnfold evaluates, with random attributes and shapes: negative and unsorted axes, empty dims, indices
beyond the borders, negative steps, several opsets. Prints how many of COUNT (20,000) were believed, refused, unknown to
onnxruntime, and each that bnfold believes and onnxruntime contradicts: there must be none. So for what folds, and for
the evaluator of the proof, which is another.
"""

import argparse
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper

from bnfold.equivalence.numbers.constant_expressions import evaluate
from bnfold.equivalence.numbers.float64 import Unknowable
from bnfold.graph import FLOATS, Model
from bnfold.graph.operator_values import OPERATORS
from bnfold.onnxfile import read

Array = NDArray[Any]
Draw = np.random.Generator
Made = tuple[list[Array | None], dict[str, Any], int]  # operands, attributes, number of outputs

OLDEST = 7
NEWEST = onnx.defs.onnx_opset_version()


def _shape(draw: Draw, rank: int | None = None, *, empty: bool = True) -> list[int]:
    rank = int(draw.integers(0, 5)) if rank is None else rank
    return [
        int(size)
        for size in draw.choice([0, 1, 2, 3, 4, 5] if empty and draw.random() < 0.1 else [1, 1, 2, 3, 4, 5], rank)
    ]


def _floats(draw: Draw, shape: list[int], dtype: Any = None) -> Array:
    dtype = draw.choice([np.float32, np.float32, np.float64, np.float16]) if dtype is None else dtype
    values = draw.normal(size=shape) * draw.choice([0.1, 1.0, 3.0])
    return np.asarray(values, dtype)


def _any(draw: Draw, shape: list[int]) -> Array:
    if draw.random() < 0.6:
        return _floats(draw, shape)
    return draw.integers(-9, 10, shape).astype(draw.choice([np.int32, np.int64]))


def _ints(*values: int) -> Array:
    return np.array(values, np.int64)


def _list(name: str, values: list[int] | None, opset: int, since: int) -> tuple[dict[str, Any], list[Array | None]]:
    """A list as the attribute or the input that it is in that operator set version."""
    if values is None:
        return {}, []
    return ({name: values}, []) if opset < since else ({}, [_ints(*values)])


def _some_axes(draw: Draw, rank: int, *, most: int | None = None) -> list[int]:
    count = int(draw.integers(0 if rank == 0 else 1, (rank if most is None else most) + 1)) if rank else 0
    axes = [int(axis) for axis in draw.permutation(rank)[:count]]
    return [axis - rank if draw.random() < 0.4 else axis for axis in axes]


def _unary(draw: Draw, _opset: int) -> Made:
    return [_floats(draw, _shape(draw))], {}, 1


def _signed(draw: Draw, _opset: int) -> Made:
    return [_any(draw, _shape(draw))], {}, 1


def _broadcast(draw: Draw) -> tuple[list[int], list[int]]:
    whole = _shape(draw)
    first, second = ([1 if draw.random() < 0.3 else size for size in whole] for _ in range(2))
    return first, second[int(draw.integers(0, len(whole) + 1)) :]


def _binary(draw: Draw, _opset: int) -> Made:
    shapes = list(_broadcast(draw))
    draw.shuffle(shapes)
    first = _any(draw, shapes[0])
    second = _any(draw, shapes[1]).astype(first.dtype)
    return [first, second], {}, 1


def _mod(draw: Draw, opset: int) -> Made:
    operands, _, _ = _binary(draw, opset)
    return operands, {"fmod": 1} if draw.random() < 0.6 else {}, 1


def _pow(draw: Draw, opset: int) -> Made:
    first, second = _broadcast(draw)
    base = _floats(draw, first)
    exponent = _any(draw, second)
    return [base, exponent if opset >= 12 else exponent.astype(base.dtype)], {}, 1


def _booleans(draw: Draw, _opset: int) -> Made:
    return [draw.random(shape) < 0.5 for shape in _broadcast(draw)], {}, 1


def _not(draw: Draw, _opset: int) -> Made:
    return [np.asarray(draw.random(_shape(draw)) < 0.5)], {}, 1


def _several(draw: Draw, _opset: int) -> Made:
    dtype = draw.choice([np.float32, np.float64])
    shapes = [*_broadcast(draw)][: int(draw.integers(1, 3))]
    return [_floats(draw, shape, dtype) for shape in shapes], {}, 1


def _where(draw: Draw, _opset: int) -> Made:
    first, second = _broadcast(draw)
    value = _any(draw, second)
    return [draw.random(first) < 0.5, value, _any(draw, first).astype(value.dtype)], {}, 1


def _reduction(since: int) -> Callable[[Draw, int], Made]:
    def make(draw: Draw, opset: int) -> Made:
        data = _any(draw, _shape(draw))
        axes = _some_axes(draw, data.ndim) or None
        attributes, inputs = _list("axes", axes, opset, since)
        if draw.random() < 0.5:
            attributes["keepdims"] = int(draw.integers(0, 2))
        return [data, *inputs], attributes, 1

    return make


def _reshape(draw: Draw, opset: int) -> Made:
    data = _any(draw, _shape(draw))
    target = [int(size) for size in draw.permutation(data.shape)]
    if target and draw.random() < 0.5:
        target[int(draw.integers(len(target)))] = -1
    if draw.random() < 0.3:
        target = [data.size]
    if draw.random() < 0.3:
        target = [0 if place < data.ndim and size == data.shape[place] else size for place, size in enumerate(target)]
    attributes = {"allowzero": int(draw.integers(0, 2))} if opset >= 14 and draw.random() < 0.3 else {}
    return [data, _ints(*target)], attributes, 1


def _transpose(draw: Draw, _opset: int) -> Made:
    data = _any(draw, _shape(draw))
    return (
        [data],
        {} if not data.ndim or draw.random() < 0.2 else {"perm": [int(axis) for axis in draw.permutation(data.ndim)]},
        1,
    )


def _flatten(draw: Draw, opset: int) -> Made:
    data = _any(draw, _shape(draw))
    return [data], {"axis": int(draw.integers(-data.ndim if opset >= 11 else 0, data.ndim + 1))}, 1


def _squeeze(draw: Draw, opset: int) -> Made:
    data = _any(draw, _shape(draw))
    ones = [axis for axis, size in enumerate(data.shape) if size == 1]
    axes = [int(axis) for axis in draw.permutation(ones)[: int(draw.integers(0, len(ones) + 1))]]
    axes = [axis - data.ndim if draw.random() < 0.4 else axis for axis in axes]
    attributes, inputs = _list("axes", axes or None, opset, 13)
    return [data, *inputs], attributes, 1


def _unsqueeze(draw: Draw, opset: int) -> Made:
    data = _any(draw, _shape(draw, int(draw.integers(0, 4))))
    more = int(draw.integers(1, 3))
    rank = data.ndim + more
    axes = [int(axis) - (rank if draw.random() < 0.4 else 0) for axis in draw.permutation(rank)[:more]]
    attributes, inputs = _list("axes", axes, opset, 13)
    return [data, *inputs], attributes, 1


def _concat(draw: Draw, _opset: int) -> Made:
    shape = _shape(draw, int(draw.integers(1, 5)))
    axis = int(draw.integers(len(shape)))
    parts: list[Array | None] = []
    first = _any(draw, shape)
    for _ in range(int(draw.integers(1, 4))):
        part = [int(draw.integers(0, 4)) if place == axis else size for place, size in enumerate(shape)]
        parts.append(_any(draw, part).astype(first.dtype))
    return parts, {"axis": axis - (len(shape) if draw.random() < 0.3 else 0)}, 1


def _slice(draw: Draw, opset: int) -> Made:
    data = _any(draw, _shape(draw, int(draw.integers(1, 5))))
    axes = _some_axes(draw, data.ndim)
    starts, ends = ([int(place) for place in draw.integers(-7, 8, len(axes))] for _ in range(2))
    if draw.random() < 0.2:
        ends[0] = int(draw.choice([2**31 - 1, -(2**31), 2**63 - 1, -(2**63)]))
    steps = [int(step) for step in draw.choice([1, 1, 1, 2, 3, -1, -2], len(axes))]
    if opset < 10:
        ends = [min(max(end, -(2**31)), 2**31 - 1) for end in ends]
        return [data], {"starts": starts, "ends": ends, "axes": axes}, 1
    return [data, _ints(*starts), _ints(*ends), _ints(*axes), *([_ints(*steps)] if draw.random() < 0.6 else [])], {}, 1


def _split(draw: Draw, opset: int) -> Made:
    data = _any(draw, _shape(draw, int(draw.integers(1, 4)), empty=False))
    axis = int(draw.integers(data.ndim))
    size, count = data.shape[axis], int(draw.integers(1, 4))
    attributes: dict[str, Any] = {"axis": axis - (data.ndim if draw.random() < 0.3 else 0)}
    if draw.random() < 0.5:
        cuts = np.sort(draw.integers(0, size + 1, count - 1))
        sizes = [int(part) for part in np.diff([0, *cuts, size])]
        more, inputs = _list("split", sizes, opset, 13)
        return [data, *inputs], attributes | more, count
    if opset >= 18:
        attributes["num_outputs"] = count
    return [data], attributes, count


def _gather(draw: Draw, _opset: int) -> Made:
    data = _any(draw, _shape(draw, int(draw.integers(1, 5)), empty=False))
    axis = int(draw.integers(data.ndim))
    size = data.shape[axis]
    indices = draw.integers(-size if draw.random() < 0.5 else 0, size, _shape(draw, int(draw.integers(0, 3))))
    return (
        [data, np.asarray(indices, draw.choice([np.int32, np.int64]))],
        {"axis": axis - (data.ndim if draw.random() < 0.3 else 0)},
        1,
    )


def _expand(draw: Draw, _opset: int) -> Made:
    first, second = _broadcast(draw)
    return [_any(draw, first), _ints(*second)], {}, 1


def _tile(draw: Draw, _opset: int) -> Made:
    data = _any(draw, _shape(draw))
    return [data, _ints(*(int(count) for count in draw.integers(0, 4, data.ndim)))], {}, 1


def _constant_of_shape(draw: Draw, _opset: int) -> Made:
    value = {"value": numpy_helper.from_array(_any(draw, [1]))} if draw.random() < 0.6 else {}
    return [_ints(*_shape(draw))], value, 1


def _sizes(draw: Draw, opset: int) -> Made:
    data = _any(draw, _shape(draw))
    names = [name for name in ("start", "end") if opset >= 15 and draw.random() < 0.5]
    return [data], {name: int(draw.integers(-7, 8)) for name in names}, 1


def _size(draw: Draw, _opset: int) -> Made:
    return [_any(draw, _shape(draw))], {}, 1


def _range(draw: Draw, _opset: int) -> Made:
    dtype = draw.choice([np.int32, np.int64, np.float32, np.float64])
    start, limit, delta = draw.integers(-9, 10), draw.integers(-9, 10), draw.choice([-3, -1, 1, 2, 4])
    return [np.asarray(value, dtype) for value in (start, limit, delta)], {}, 1


def _cast(draw: Draw, opset: int) -> Made:
    target = draw.choice([1, 6, 7, 9, 10, 11, 2, 3] + ([16] if opset >= 13 else []))
    return [_any(draw, _shape(draw))], {"to": int(target)}, 1


def _cast_like(draw: Draw, _opset: int) -> Made:
    return [_any(draw, _shape(draw)), _any(draw, _shape(draw))], {}, 1


def _clip(draw: Draw, opset: int) -> Made:
    data = _floats(draw, _shape(draw), np.float32)
    low, high = sorted(float(bound) for bound in draw.normal(size=2))
    if opset < 11:
        return [data], {"min": low, "max": high}, 1
    return [data, np.asarray(low, np.float32), np.asarray(high, np.float32)][: int(draw.integers(1, 4))], {}, 1


def _quantization(draw: Draw, opset: int) -> tuple[list[int], list[int], dict[str, Any]]:
    """The shape of the data, that of the scale, and the axis."""
    shape = _shape(draw, int(draw.integers(1, 5)), empty=False)
    if opset < 13 or draw.random() < 0.4:
        return shape, [], {}
    axis = int(draw.integers(len(shape)))
    return shape, [shape[axis]], {"axis": axis - (len(shape) if draw.random() < 0.3 else 0)}


def _quantize(draw: Draw, opset: int) -> Made:
    shape, parameter, attributes = _quantization(draw, opset)
    scale = np.asarray(draw.uniform(0.01, 0.2, parameter), np.float32)
    kind = draw.choice([np.int8, np.uint8])
    zero_point = [np.asarray(draw.integers(0, 20, parameter), kind)] if draw.random() < 0.7 else []
    return [_floats(draw, shape, np.float32), scale, *zero_point], attributes, 1


def _dequantize(draw: Draw, opset: int) -> Made:
    _, parameter, attributes = _quantization(draw, opset)
    scale = np.asarray(draw.uniform(0.01, 0.2, parameter), np.float32)
    kind = draw.choice([np.int8, np.uint8])
    data = draw.integers(0, 100, parameter or [3]).astype(kind)
    if not parameter:
        attributes = {}
    elif attributes:
        attributes["axis"] = 0
    return (
        [data, scale, *([np.asarray(draw.integers(0, 20, parameter), kind)] if draw.random() < 0.7 else [])],
        attributes,
        1,
    )


def _matmul(draw: Draw, _opset: int) -> Made:
    rows, inner, columns = (int(size) for size in draw.integers(1, 5, 3))
    lead = _shape(draw, int(draw.integers(0, 2)), empty=False)
    a = [*lead, rows, inner] if draw.random() < 0.8 else [inner]
    b = [*(lead if draw.random() < 0.5 else []), inner, columns] if draw.random() < 0.8 else [inner]
    dtype = draw.choice([np.float32, np.float64])
    return [_floats(draw, a, dtype), _floats(draw, b, dtype)], {}, 1


def _pad(draw: Draw, opset: int) -> Made:
    data = _any(draw, _shape(draw, int(draw.integers(1, 5)), empty=False))
    mode = str(draw.choice(["constant", "constant", "edge", "reflect"]))
    axes = _some_axes(draw, data.ndim) if opset >= 18 and draw.random() < 0.5 else None
    pads = [int(width) for width in draw.integers(0, 3, 2 * (data.ndim if axes is None else len(axes)))]
    attributes, inputs = _list("pads", pads, opset, 11)
    if opset < 11:
        return [data], attributes | {"mode": mode} | ({"value": 1.5} if draw.random() < 0.5 else {}), 1
    fill = draw.normal(size=()).astype(data.dtype) if draw.random() < 0.5 else None
    more = [] if axes is None else [fill, _ints(*axes)]
    return [data, *inputs, *(more or [fill])], attributes | {"mode": mode}, 1


def _axis_of(draw: Draw, data: Array) -> int:
    axis = int(draw.integers(data.ndim))
    return axis - (data.ndim if draw.random() < 0.3 else 0)


def _indices(draw: Draw, shape: list[int], size: int) -> Array:
    return draw.integers(-size, size, shape).astype(draw.choice([np.int32, np.int64]))


def _along(draw: Draw) -> tuple[Array, Array, int]:
    data = _any(draw, _shape(draw, int(draw.integers(1, 4)), empty=False))
    axis = _axis_of(draw, data)
    shape = [int(draw.integers(1, size + 1)) for size in data.shape]
    return data, _indices(draw, shape, data.shape[axis]), axis


def _gather_elements(draw: Draw, _opset: int) -> Made:
    data, indices, axis = _along(draw)
    return [data, indices], {"axis": axis}, 1


def _scatter_elements(draw: Draw, _opset: int) -> Made:
    data, indices, axis = _along(draw)
    if draw.random() < 0.7:  # each place once
        size = data.shape[axis]
        indices = np.broadcast_to(np.expand_dims(draw.permutation(size), _others(axis, data.ndim)), data.shape).copy()
        indices = np.asarray(indices, np.int64) - (size if draw.random() < 0.3 else 0)
    return [data, indices, _any(draw, list(indices.shape)).astype(data.dtype)], {"axis": axis}, 1


def _others(axis: int, rank: int) -> list[int]:
    return [each for each in range(rank) if each != axis % rank]


def _places(draw: Draw, data: Array) -> Array:
    depth = int(draw.integers(1, data.ndim + 1))
    rows = _shape(draw, int(draw.integers(1, 3)), empty=False)
    columns = [draw.integers(-size, size, rows) for size in data.shape[:depth]]
    return np.stack(columns, -1).astype(np.int64)


def _gather_nd(draw: Draw, _opset: int) -> Made:
    data = _any(draw, _shape(draw, int(draw.integers(1, 4)), empty=False))
    return [data, _places(draw, data)], {}, 1


def _scatter_nd(draw: Draw, _opset: int) -> Made:
    data = _any(draw, _shape(draw, int(draw.integers(1, 4)), empty=False))
    places = _places(draw, data)
    updates = _any(draw, [*places.shape[:-1], *data.shape[places.shape[-1] :]])
    return [data, places, updates.astype(data.dtype)], {}, 1


def _trilu(draw: Draw, _opset: int) -> Made:
    data = _any(draw, _shape(draw, int(draw.integers(2, 5))))
    diagonal = [np.array(draw.integers(-6, 7), np.int64)] if draw.random() < 0.7 else []
    return [data, *diagonal], {"upper": int(draw.integers(0, 2))}, 1


def _cum_sum(draw: Draw, _opset: int) -> Made:
    data = _floats(draw, _shape(draw, int(draw.integers(1, 4))), draw.choice([np.float32, np.float64]))
    axis = np.array(_axis_of(draw, data), draw.choice([np.int32, np.int64]))
    return [data, axis], {"exclusive": int(draw.integers(0, 2)), "reverse": int(draw.integers(0, 2))}, 1


def _softmax(draw: Draw, opset: int) -> Made:
    data = _floats(draw, _shape(draw, int(draw.integers(2, 5))), draw.choice([np.float32, np.float64]))
    axis = int(draw.integers(data.ndim)) if opset < 11 else _axis_of(draw, data)
    return [data], {} if draw.random() < 0.3 else {"axis": axis}, 1


def _einsum(draw: Draw, _opset: int) -> Made:
    sizes = dict(zip("abcd", (int(size) for size in draw.integers(1, 5, 4)), strict=True))
    terms = ["".join(draw.permutation(list("abcd"))[: int(draw.integers(1, 4))]) for _ in range(2)]
    used = sorted(set("".join(terms)))
    result = "".join(draw.permutation(used)[: int(draw.integers(0, len(used) + 1))])
    operands: list[Array | None] = [_floats(draw, [sizes[each] for each in term], np.float32) for term in terms]
    return operands, {"equation": f"{terms[0]},{terms[1]}->{result}"}, 1


def _gemm(draw: Draw, _opset: int) -> Made:
    rows, inner, columns = (int(size) for size in draw.integers(1, 6, 3))
    turned = [int(draw.integers(0, 2)) for _ in range(2)]
    a, b = ([inner, rows] if turned[0] else [rows, inner]), ([columns, inner] if turned[1] else [inner, columns])
    c = [_floats(draw, list(draw.choice([1, columns], 1)), np.float32)] if draw.random() < 0.6 else []
    attributes = {"transA": turned[0], "transB": turned[1], "alpha": 0.5, "beta": 2.0}
    operands: list[Array | None] = [_floats(draw, each, np.float32) for each in (a, b)]
    return [*operands, *(c or [np.zeros(1, np.float32)])], attributes, 1


GENERATORS: dict[str, Callable[[Draw, int], Made]] = {
    **dict.fromkeys(("Abs", "Neg", "Sign"), _signed),
    **dict.fromkeys(("Ceil", "Cos", "Exp", "Floor", "Log", "Reciprocal", "Relu", "Round", "Sigmoid", "Sin"), _unary),
    **dict.fromkeys(("Softplus", "Sqrt", "Tanh", "Identity"), _unary),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), _binary),
    **dict.fromkeys(("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"), _binary),
    **dict.fromkeys(("And", "Or", "Xor"), _booleans),
    **dict.fromkeys(("Max", "Mean", "Min", "Sum"), _several),
    **dict.fromkeys(
        ("ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSumSquare"),
        _reduction(18),
    ),
    "ReduceSum": _reduction(13),
    "Cast": _cast,
    "CastLike": _cast_like,
    "Clip": _clip,
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "DequantizeLinear": _dequantize,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "MatMul": _matmul,
    "Mod": _mod,
    "CumSum": _cum_sum,
    "Einsum": _einsum,
    "Erf": _unary,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "Gemm": _gemm,
    "Not": _not,
    "Pad": _pad,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
    "Softmax": _softmax,
    "Trilu": _trilu,
    "Pow": _pow,
    "QuantizeLinear": _quantize,
    "Range": _range,
    "Reshape": _reshape,
    "Shape": _sizes,
    "Size": _size,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": _where,
}
assert GENERATORS.keys() == OPERATORS.keys()


def expression(seed: int) -> ModelProto | None:
    """One operator on stored operands that makes y0 (and y1, y2); None where this version does not have it."""
    draw = np.random.default_rng(seed)
    op_type = sorted(GENERATORS)[seed % len(GENERATORS)]
    opset = int(draw.integers(OLDEST, NEWEST + 1))
    try:
        onnx.defs.get_schema(op_type, opset, "")
    except onnx.defs.SchemaError:
        return None
    operands, attributes, count = GENERATORS[op_type](draw, opset)
    named = {f"a{index}": np.asarray(array) for index, array in enumerate(operands) if array is not None}
    outputs = [f"y{index}" for index in range(count)]
    inputs = ["" if array is None else f"a{index}" for index, array in enumerate(operands)]
    while inputs and not inputs[-1]:
        inputs.pop()
    node = helper.make_node(op_type, inputs, outputs, **attributes)
    stored = [numpy_helper.from_array(array, name) for name, array in named.items()]
    graph = helper.make_graph([node], "g", [], [helper.make_empty_tensor_value_info(name) for name in outputs], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def told(model: ModelProto) -> str:
    """The expression in words."""
    node = model.graph.node[0]
    attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    attributes.pop("value", None)
    operands = [numpy_helper.to_array(each) for each in model.graph.initializer]
    small = [array.tolist() if array.size < 8 and array.dtype.kind == "i" else "" for array in operands]
    shapes = ", ".join(f"{array.dtype}{list(array.shape)}{few}" for array, few in zip(operands, small, strict=True))
    return f"{node.op_type}-{model.opset_import[0].version} {attributes} of {shapes}"


def verdict(model: ModelProto) -> str:
    """ "believed", "refused", "not run" (believed, and onnxruntime does not take it), or "WRONG"."""
    graph = Model(read(model.SerializeToString())).main
    names = list(model.graph.node[0].output)
    mine = [graph.constant(name) for name in names]
    if None in mine:
        return "refused" if graph.dispute(names[0]) else "no value"
    return _judged(model, [tensor.numpy() for tensor in mine if tensor is not None])


def proofs_verdict(model: ModelProto) -> str:
    """The same of what the proof computes."""
    try:
        made = evaluate(model)
    except Unknowable:
        return "no value"
    return _judged(model, [made[name] for name in model.graph.node[0].output])


def _judged(model: ModelProto, mine: list[Array]) -> str:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        theirs = session.run(list(model.graph.node[0].output), {})
    except Exception:  # noqa: BLE001 - what onnxruntime does not take cannot contradict
        return "not run"
    same = all(_same(array, np.asarray(other)) for array, other in zip(mine, theirs, strict=True))
    return "believed" if same else "WRONG"


def _same(one: Array, other: Array) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.dtype not in FLOATS:
        return bool(np.array_equal(one, other))
    roundoff = FLOATS[one.dtype].roundoff
    scale = np.abs(one[np.isfinite(one)].astype(np.float64)).max(initial=0.0)
    return bool(
        np.allclose(one.astype(np.float64), other.astype(np.float64), 64 * roundoff, 64 * roundoff * scale, True)
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int, nargs="?", default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    counts: Counter[tuple[str, str]] = Counter()
    of_proof: Counter[str] = Counter()
    seed, tried = options.seed, 0
    while tried < options.count:
        model = expression(seed)
        seed += 1
        if model is None:
            continue
        tried += 1
        found = verdict(model)
        counts[model.graph.node[0].op_type, found] += 1
        proofs = proofs_verdict(model)
        of_proof[proofs] += 1
        for whose, answer in (("fold", found), ("proof", proofs)):
            if answer == "WRONG":
                print(whose, answer, seed - 1, told(model), flush=True)
    for op_type in sorted(GENERATORS):
        row = {found: count for (op, found), count in counts.items() if op == op_type}
        print(op_type, row)
    total: Counter[str] = Counter()
    for (_, found), count in counts.items():
        total[found] += count
    print("fold", dict(total))
    print("proof", dict(of_proof))
    return bool(total["WRONG"] or of_proof["WRONG"])


if __name__ == "__main__":
    raise SystemExit(main())
