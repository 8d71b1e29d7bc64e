"""Random operators that only the float64 reference computes, over operator set versions 7 to the newest.

    python -m tests.float64_operators [COUNT] [--seed N]

What folds evaluates none of these, so `tests.constant_expressions` has none: windows, normalizations, coordinates and
the flattening operators of old versions. Prints how many of COUNT (5,000) agree with onnxruntime, and each that
does not.
"""

import argparse
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper

from bnfold.equivalence.numbers.float64 import Evaluator, Unknowable

Array = NDArray[Any]
Draw = np.random.Generator
Made = tuple[list[Array], dict[str, Any]]  # operands, of which the first is fed; attributes

OLDEST = 7
NEWEST = onnx.defs.onnx_opset_version()
CLOSE = 2e-4  # of the largest value: onnxruntime computes in float32


def _floats(draw: Draw, *shape: int) -> Array:
    return draw.normal(size=shape).astype(np.float32)


def _map(draw: Draw, channels: int | None = None, *, ranks: tuple[int, ...] = (3, 4, 4, 5)) -> Array:
    sides = [int(side) for side in draw.integers(4, 8, int(draw.choice(ranks)) - 2)]
    return _floats(draw, int(draw.integers(1, 3)), int(draw.integers(1, 5)) if channels is None else channels, *sides)


def _window(draw: Draw, rank: int, *, dilations: bool) -> dict[str, Any]:
    attributes: dict[str, Any] = {}
    if draw.random() < 0.7:
        attributes["strides"] = [int(step) for step in draw.integers(1, 4, rank)]
    if dilations and draw.random() < 0.4:
        attributes["dilations"] = [int(step) for step in draw.integers(1, 3, rank)]
    padding = draw.random()
    if padding < 0.4:
        attributes["pads"] = [int(pad) for pad in draw.integers(0, 2, 2 * rank)]
    elif padding < 0.7 and "dilations" not in attributes:
        attributes["auto_pad"] = str(draw.choice(["SAME_UPPER", "SAME_LOWER", "VALID"]))
    return attributes


def _conv(draw: Draw, _opset: int) -> Made:
    group = int(draw.integers(1, 3))
    x = _map(draw, 2 * group, ranks=(3, 4, 5))
    w = _floats(draw, 3 * group, 2, *(int(side) for side in draw.integers(1, 4, x.ndim - 2)))
    return [x, w, *([_floats(draw, len(w))] if draw.random() < 0.5 else [])], {
        "group": group,
        **_window(draw, x.ndim - 2, dilations=True),
    }


def _conv_transpose(draw: Draw, _opset: int) -> Made:
    group = int(draw.integers(1, 3))
    x = _map(draw, 2 * group, ranks=(3, 4))
    w = _floats(draw, 2 * group, 3, *(int(side) for side in draw.integers(2, 4, x.ndim - 2)))
    attributes = {"group": group, **_window(draw, x.ndim - 2, dilations=True)}
    if "strides" in attributes and draw.random() < 0.4:
        attributes["output_padding"] = [int(draw.integers(0, step)) for step in attributes["strides"]]
    return [x, w, *([_floats(draw, 3 * group)] if draw.random() < 0.5 else [])], attributes


def _pool(draw: Draw, opset: int, *, average: bool) -> Made:
    x = _map(draw)
    attributes = _window(draw, x.ndim - 2, dilations=opset >= (19 if average else 10))
    attributes["kernel_shape"] = [int(side) for side in draw.integers(2, 4, x.ndim - 2)]
    if opset >= 10 and draw.random() < 0.4:
        attributes["ceil_mode"] = 1
    if average and draw.random() < 0.5:
        attributes["count_include_pad"] = 1
    return [x], attributes


def _whole_map(draw: Draw, _opset: int) -> Made:
    return [_map(draw)], {}


def _softmax(draw: Draw, _opset: int) -> Made:
    x = _floats(draw, *(int(size) for size in draw.integers(1, 5, int(draw.integers(1, 5)))))
    return [x], {"axis": int(draw.integers(0, x.ndim))} if draw.random() < 0.7 else {}


def _unary(draw: Draw, _opset: int) -> Made:
    return [_floats(draw, *(int(size) for size in draw.integers(1, 5, int(draw.integers(1, 5)))))], {}


def _sloped(draw: Draw, _opset: int) -> Made:
    return [_floats(draw, 2, 3, 4)], {"alpha": float(draw.uniform(0.1, 1.5))} if draw.random() < 0.7 else {}


def _prelu(draw: Draw, _opset: int) -> Made:
    x = _map(draw)
    return [x, _floats(draw, x.shape[1], *[1] * (x.ndim - 2))], {}


def _gemm(draw: Draw, opset: int) -> Made:
    rows, inner, columns = (int(size) for size in draw.integers(1, 6, 3))
    turned = [bool(each) for each in draw.random(2) < 0.5]
    a, b = _floats(draw, rows, inner), _floats(draw, inner, columns)
    c = [[], [_floats(draw, columns)], [_floats(draw, rows, 1)], [_floats(draw, rows, columns)]]
    factors = {"alpha": float(draw.uniform(-2, 2)), "beta": float(draw.uniform(-2, 2))}
    third = c[int(draw.integers(0 if opset >= 11 else 1, 4))]
    operands = [a.T if turned[0] else a, b.T if turned[1] else b, *third]
    return [np.ascontiguousarray(each) for each in operands], {
        "transA": int(turned[0]), "transB": int(turned[1]), **(factors if draw.random() < 0.6 else {}),
    }  # fmt: skip


def _batch_norm(draw: Draw, _opset: int) -> Made:
    x = _map(draw)
    scale, shift, mean, variance = (_floats(draw, x.shape[1]) for _ in range(4))
    return [x, scale, shift, mean, np.abs(variance) + np.float32(0.1)], {"epsilon": float(draw.choice([1e-5, 1e-2]))}


def _instance_norm(draw: Draw, _opset: int) -> Made:
    x = _map(draw)
    return [x, _floats(draw, x.shape[1]), _floats(draw, x.shape[1])], {"epsilon": float(draw.choice([1e-5, 1e-2]))}


def _layer_norm(draw: Draw, _opset: int) -> Made:
    x = _map(draw)
    axis = int(draw.integers(1, x.ndim))
    return [x, _floats(draw, *x.shape[axis:]), _floats(draw, *x.shape[axis:])], {
        "axis": axis - (x.ndim if draw.random() < 0.5 else 0)
    }


def _lrn(draw: Draw, _opset: int) -> Made:
    return [_map(draw, ranks=(4,))], {"size": int(draw.choice([1, 3, 5])), "alpha": 0.1, "bias": 1.5}


def _blocks(draw: Draw, _opset: int) -> Made:
    return [_floats(draw, 1, 8, 4, 6)], {"blocksize": 2}


def _modal_blocks(draw: Draw, opset: int) -> Made:
    return [_floats(draw, 1, 8, 4, 6)], {
        "blocksize": 2,
        **({"mode": str(draw.choice(["DCR", "CRD"]))} if opset >= 11 else {}),
    }


def _pad(draw: Draw, opset: int) -> Made:
    x = _map(draw)
    mode = str(draw.choice(["constant", "reflect", "edge"]))
    pads = [int(pad) for pad in draw.integers(-1 if mode == "constant" else 0, 3, 2 * x.ndim)]
    if mode == "reflect":
        pads[:2] = pads[x.ndim : x.ndim + 2] = [0, 0]
    if opset < 11:
        return [x], {"mode": mode, "pads": pads, **({"value": 0.5} if mode == "constant" else {})}
    return [x, np.array(pads), *([np.array(0.5, np.float32)] if mode == "constant" else [])], {"mode": mode}


def _resize(draw: Draw, opset: int) -> Made:
    x = _map(draw, ranks=(4,))
    sides = [float(side) for side in draw.choice([0.5, 1.0, 1.5, 2.0, 3.0], 2)]
    scales = np.array([1, 1, *sides], np.float32)
    if opset < 11:
        return [x, scales], {"mode": str(draw.choice(["nearest", "linear"]))}
    attributes = {"mode": str(draw.choice(["nearest", "linear", "cubic"]))}
    attributes["coordinate_transformation_mode"] = str(
        draw.choice(["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"])
    )
    if attributes["mode"] == "nearest":
        attributes["nearest_mode"] = str(draw.choice(["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"]))
    if draw.random() < 0.5:
        return [x, np.zeros(0, np.float32), scales], attributes
    sizes = [*x.shape[:2], *(max(1, int(side * size)) for side, size in zip(sides, x.shape[2:], strict=True))]
    return [x, np.zeros(0, np.float32), np.zeros(0, np.float32), np.array(sizes)], attributes


def _reduce(draw: Draw, opset: int) -> Made:
    x = _map(draw)
    axes = [int(axis) - (x.ndim if draw.random() < 0.4 else 0) for axis in draw.permutation(x.ndim)[:2]]
    if opset < 11:
        axes = [axis % x.ndim for axis in axes]
    keep = {"keepdims": int(draw.integers(0, 2))}
    return ([x, np.array(axes)], keep) if opset >= 18 else ([x], {"axes": axes, **keep})


def _arg(draw: Draw, opset: int) -> Made:
    x = _map(draw)
    axis = int(draw.integers(x.ndim))
    later = {"select_last_index": int(draw.integers(0, 2))} if opset >= 12 else {}
    return [x], {"axis": axis, "keepdims": int(draw.integers(0, 2)), **later}


def _cumulative(draw: Draw, _opset: int) -> Made:
    x = _map(draw)
    flags = {name: int(draw.integers(0, 2)) for name in ("exclusive", "reverse")}
    return [x, np.array(int(draw.integers(-x.ndim, x.ndim)))], flags


def _einsum(draw: Draw, _opset: int) -> Made:
    equation, *shapes = [
        ("nchw->ncwh", (1, 2, 3, 4)), ("ij,jk->ik", (2, 3), (3, 4)), ("bhid,bhjd->bhij", (1, 2, 3, 4), (1, 2, 5, 4)),
        ("...ij->...ji", (2, 3, 4)), ("ii->i", (3, 3)), ("nc,c->n", (2, 3), (3,)),
    ][int(draw.integers(6))]  # fmt: skip
    return [_floats(draw, *shape) for shape in shapes], {"equation": equation}


GENERATORS: dict[str, Callable[[Draw, int], Made]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "MaxPool": lambda draw, opset: _pool(draw, opset, average=False),
    "AveragePool": lambda draw, opset: _pool(draw, opset, average=True),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), _whole_map),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax"), _softmax),
    **dict.fromkeys(("Softsign", "HardSwish", "Mish", "Erf", "Gelu", "Asinh", "Atan"), _unary),
    **dict.fromkeys(("LeakyRelu", "Elu", "Celu", "ThresholdedRelu", "HardSigmoid", "Selu"), _sloped),
    "PRelu": _prelu,
    "Gemm": _gemm,
    "BatchNormalization": _batch_norm,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "LRN": _lrn,
    "SpaceToDepth": _blocks,
    "DepthToSpace": _modal_blocks,
    "Pad": _pad,
    "Resize": _resize,
    **dict.fromkeys(("ReduceLogSum", "ReduceLogSumExp"), _reduce),
    **dict.fromkeys(("ArgMax", "ArgMin"), _arg),
    "CumSum": _cumulative,
    "Einsum": _einsum,
}


def case(seed: int) -> tuple[ModelProto, Array] | None:
    """A model of one operator and what it is fed; None where this version of the operator set does not have it."""
    draw = np.random.default_rng(seed)
    op_type = sorted(GENERATORS)[seed % len(GENERATORS)]
    opset = int(draw.integers(OLDEST, NEWEST + 1))
    try:
        onnx.defs.get_schema(op_type, opset, "")
    except onnx.defs.SchemaError:
        return None
    operands, attributes = GENERATORS[op_type](draw, opset)
    if op_type == "ReduceLogSum":
        operands[0] = np.abs(operands[0]) + np.float32(0.1)
    names = [f"a{at}" if operand.size else "" for at, operand in enumerate(operands)]
    stored = [
        numpy_helper.from_array(np.asarray(each), name)
        for name, each in list(zip(names, operands, strict=True))[1:]
        if name
    ]
    graph = helper.make_graph(
        [helper.make_node(op_type, names, ["y"], **attributes)], "g",
        [helper.make_tensor_value_info("a0", onnx.TensorProto.FLOAT, operands[0].shape)],
        [helper.make_empty_tensor_value_info("y")], stored,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), operands[0]


def verdict(model: ModelProto, fed: Array) -> str:
    """ "same", "unknowable" (to the float64 reference), "not run" (by onnxruntime), or what is wrong."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        theirs = np.asarray(session.run(None, {"a0": fed})[0])
    except Exception:  # noqa: BLE001 - onnxruntime's exceptions share no other base class
        return "not run"
    try:
        mine = Evaluator(model)({"a0": fed})["y"]
    except Unknowable:
        return "unknowable"
    if mine.shape != theirs.shape:
        return f"WRONG: shape {mine.shape} and not {theirs.shape}"
    if theirs.dtype.kind != "f":
        return "same" if np.array_equal(mine, theirs) else "WRONG: other integers"
    known = np.isfinite(theirs)
    largest = np.abs(theirs[known]).max(initial=1.0)
    same = np.allclose(np.where(known, mine, 0), np.where(known, theirs, 0), 0, CLOSE * largest)
    return "same" if same else f"WRONG: {np.abs(np.where(known, mine - theirs, 0)).max():.3g} of {largest:.3g}"


def answers(start: int, count: int) -> tuple[Counter[tuple[str, str]], list[str]]:
    """How often each operator was answered how, and each that is wrong."""
    found: Counter[tuple[str, str]] = Counter()
    wrong = []
    seed = start
    while sum(found.values()) < count:
        made = case(seed)
        if made is not None:
            node, opset = made[0].graph.node[0], made[0].opset_import[0].version
            answer = verdict(*made)
            found[node.op_type, answer.partition(":")[0]] += 1
            if answer.startswith("WRONG"):
                attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
                wrong.append(f"{seed}: {node.op_type}-{opset} {attributes} of {made[1].shape}: {answer}")
        seed += 1
    return found, wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int, nargs="?", default=5_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    found, wrong = answers(options.seed, options.count)
    for op_type in sorted(GENERATORS):
        print(op_type, {answer: count for (op, answer), count in found.items() if op == op_type})
    print(*wrong, sep="\n")
    return bool(wrong)


if __name__ == "__main__":
    raise SystemExit(main())
