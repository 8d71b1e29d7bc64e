"""Weights behind DequantizeLinear: the quantization scales take the fold, the integers stay."""

import ml_dtypes
import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper, parser

import bnfold
from bnfold.decisions import Action
from tests.fold_models import Row, check_folds, check_left_alone, fold, numbers
from tests.oracle import evaluate

HEAD = """
    <ir_version: 10, opset_import: ["" : {opset}]>
    g (float[N,2,5,6] x) => (float[N,3,3,4] y)
    <float[3] s = {{1.5,2,0.5}}, float[3] b = {{1,-2,3}}, float[3] m = {{0.5,1,-1}}, float[3] v = {{1,2,3}},
     {constants}>
    {{ {body} y = BatchNormalization(c, s, b, m, v) }}
"""
CONV = "w = DequantizeLinear{axis}(q, qs{zero}) c = Conv(x, w{bias})"


def quantized(
    *,
    opset: int = 13,
    axis: int | None = None,
    zero: list[int] | int | None = None,
    body: str = CONV,
    bias: str = "",
    negative: bool = False,
    values: np.ndarray | None = None,
) -> ModelProto:
    per_axis = axis is not None
    constants = "float[3] unused = {1,1,1}"
    text = HEAD.format(
        opset=opset,
        constants=constants,
        body=body.format(axis=f"<axis={axis}>" if per_axis else "", zero=", qz" if zero is not None else "", bias=bias),
    )
    model = parser.parse_model(text)
    rng = np.random.default_rng(3)
    integers = rng.integers(-120, 120, (3, 2, 3, 3)).astype(np.int8) if values is None else values
    scale = np.float32([0.01, 0.02, 0.03]) if per_axis else np.float32(0.02)
    stored = {
        "q": integers,
        "qs": np.asarray(scale),
        "qb": np.int32([40, -7, 11]),
        "qbs": np.float32([0.1, 0.2, 0.3]),
        "qb8": np.int8([1, 2, 3]),
    }
    if zero is not None:
        stored["qz"] = np.asarray(zero, dtype=integers.dtype)
    used = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in stored.items() if n in used)
    if negative:
        gamma = next(tensor for tensor in model.graph.initializer if tensor.name == "s")
        gamma.CopyFrom(numpy_helper.from_array(np.float32([1.5, -2, 0.5]), "s"))
    return model


FOLDS = {
    "one scale": {},
    "one scale and a zero point": {"zero": 5},
    "a scale per channel": {"axis": 0},
    "a scale and a zero point per channel": {"axis": 0, "zero": [1, -2, 3]},
    "a scale per channel at opset 21": {"axis": 0, "opset": 21},
    "a negative scale": {"negative": True, "zero": 0},
    "a negative scale per channel": {"negative": True, "axis": 0},
    "a quantized bias": {
        "axis": 0,
        "bias": ", bb",
        "body": "bb = DequantizeLinear<axis=0>(qb, qbs) " + CONV,
    },
    "a bias of few bits": {"bias": ", bb", "body": "bb = DequantizeLinear(qb8, qs) " + CONV},
}
SMALLEST = np.full((3, 2, 3, 3), -128, np.int8)
LEFT_ALONE = {
    "OLD_OPSET": {"opset": 10},
    "WRONG_AXIS": {"axis": 0, "body": "w = DequantizeLinear<axis=1>(q, qs2) c = Conv(x, w)"},
    "NEGATIVE_SCALE": {"negative": True, "values": SMALLEST},
    "OTHER_CONSUMER": {"body": CONV + " r = Relu(w)"},
    "BIAS_NOT_CONSTANT": {
        "bias": ", bb",
        "body": "r = ReduceMax<keepdims=0>(x) bb = Mul(qbs3, r) " + CONV,
    },
}


@pytest.mark.parametrize("name", FOLDS)
def test_scales_take_the_fold(name: str) -> None:
    original = quantized(**FOLDS[name])
    result = bnfold.optimize(original)
    (decision,) = result.report.decisions
    assert decision.action is Action.FOLDED
    folded = result.model
    assert [node.op_type for node in folded.graph.node] == ["DequantizeLinear", "Conv"]
    old, new = (next(t for t in m.graph.initializer if t.name == "q") for m in (original, folded))
    same = np.abs(numpy_helper.to_array(old).astype(int)) == np.abs(numpy_helper.to_array(new).astype(int))
    assert same.all()
    for batch in (1, 3):
        x = np.random.default_rng(batch).normal(size=(batch, 2, 5, 6)).astype(np.float32)
        before, after = evaluate(original, {"x": x})["y"], evaluate(folded, {"x": x})["y"]
        np.testing.assert_allclose(after, before, rtol=0, atol=2e-6 * np.abs(before).max())


@pytest.mark.parametrize("reason", LEFT_ALONE)
def test_left_alone(reason: str) -> None:
    original = quantized(**LEFT_ALONE[reason])
    used = {name for node in original.graph.node for name in node.input}
    extra = {"qs2": np.float32([0.1, 0.2]), "qbs3": np.float32([1, 2, 3])}
    original.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in extra.items() if n in used)
    result = bnfold.optimize(original, verify=False)
    (decision,) = result.report.decisions
    assert (decision.action, decision.reason and decision.reason.name) == (Action.KEPT, reason)
    assert result.model.SerializeToString(deterministic=True) == original.SerializeToString(deterministic=True)


def test_a_zero_scale_has_no_quantized_form() -> None:
    original = quantized(axis=0)
    gamma = next(tensor for tensor in original.graph.initializer if tensor.name == "s")
    gamma.CopyFrom(numpy_helper.from_array(np.float32([1.5, 0, 0.5]), "s"))
    (decision,) = bnfold.optimize(original, verify=False).report.decisions
    assert decision.reason is not None
    assert decision.reason.name == "ZERO_SCALE"


def test_matmul_weights_scale_along_their_columns() -> None:
    model = parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 17]>
        g (float[N,4] x) => (float[N,3] y)
        <float[3] s = {1.5,2,0.5}, float[3] b = {1,-2,3}, float[3] m = {0.5,1,-1}, float[3] v = {1,2,3},
         float qs = {0.05}>
        { w = DequantizeLinear(q, qs) c = MatMul(x, w) y = BatchNormalization(c, s, b, m, v) }
    """)
    integers = np.random.default_rng(0).integers(-100, 100, (4, 3)).astype(np.int8)
    model.graph.initializer.append(numpy_helper.from_array(integers, "q"))
    # onnxruntime's own optimizer turns both models into a lossy MatMulNBits, so they are compared by the oracle alone.
    folded = bnfold.optimize(model, verify=False).model
    assert [node.op_type for node in folded.graph.node] == ["DequantizeLinear", "MatMul", "Add"]
    assert helper.get_attribute_value(folded.graph.node[0].attribute[0]) == 1
    x = np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)
    before, after = evaluate(model, {"x": x})["y"], evaluate(folded, {"x": x})["y"]
    np.testing.assert_allclose(after, before, rtol=0, atol=2e-6 * np.abs(before).max())


_INTEGERS = np.random.default_rng(5).integers(-120, 120, (4, 3, 3, 3)).astype(np.int8)
_LOW = _INTEGERS.copy()
_LOW[1, 0, 0, 0] = -128
_SIGNS = np.array([1.5, -2, 0.5, 1], np.float32)
_CONSTANTS = {
    "qw": _INTEGERS,
    "low": _LOW,
    "unsigned": _INTEGERS.astype(np.uint8),
    "float8": numbers(4, 3, 3, 3).astype(ml_dtypes.float8_e4m3fn),
    "qs": np.array([0.01, 0.02, 0.03, 0.04], np.float32),
    "qs_int": np.arange(1, 5, dtype=np.int32),
    "qs3": np.array([0.01, 0.02, 0.03], np.float32),
    "column": numbers(4, 1, low=0.01, high=0.05),
    "small": np.full(4, 1e-30, np.float32),
    "qs1": np.array(0.02, np.float32),
    "z": np.zeros(4, np.int8),
    "z_one": np.array([0, 0, 1, 0], np.int8),
    "z_short": np.zeros(3, np.int8),
    "g": _SIGNS,
    "first": _SIGNS[[1, 0, 2, 3]],
    "positive": np.abs(_SIGNS),
    "faint": np.abs(_SIGNS) * np.float32(1e-12),
    "g6": numbers(6, low=0.5, high=2.0),
    "v6": numbers(6, low=0.5, high=2.0),
    "same6": np.full(6, 0.5, np.float32),
    "zero6": np.zeros(6, np.float32),
    "zero3": np.zeros(3, np.float32),
    "one3": np.ones(3, np.float32),
}
_INPUTS = {"loose_q": "int8[4,3,3,3]", "loose_s": "float[4]", "loose_z": "int8[4]", "deep": "float[N,6,6,7]"}
_BEHIND = " d = Conv(x, q, b) y = BatchNormalization(d, {}, h, m, v)"
_G = _BEHIND.format("g")
_F = _BEHIND.format("first")
_P = _BEHIND.format("positive")
TAKEN = {
    "an axis counted from the back": f"q = DequantizeLinear<axis=-4>(qw, qs){_G}",
    "the smallest integer where the scale is positive": f"q = DequantizeLinear<axis=0>(low, qs){_F}",
    "no zero point given": f'q = DequantizeLinear<axis=0>(qw, qs, ""){_G}',
    "in front, one scale": "n = BatchNormalization(x, g3, h3, m3, v3) q = DequantizeLinear(qw, qs1) y = Conv(n, q)",
    "in front, a scale per input channel": (
        "n = BatchNormalization(x, g3, h3, m3, v3) q = DequantizeLinear<axis=1>(qw, qs3) y = Conv(n, q)"
    ),
}
NOT_TAKEN = {
    "NEGATIVE_SCALE: a zero point": f"q = DequantizeLinear<axis=0>(qw, qs, /z|z_one/){_G}",
    "NEGATIVE_SCALE: unsigned integers": f"q = DequantizeLinear<axis=0>(/qw|unsigned/, qs){_G}",
    "NEGATIVE_SCALE: the smallest integer": f"q = DequantizeLinear<axis=0>(/qw|low/, qs){_G}",
    "WEIGHT_NOT_CONSTANT: integers": f"q = DequantizeLinear<axis=0>(/qw|loose_q/, qs){_P}",
    "WEIGHT_NOT_CONSTANT: scales": f"q = DequantizeLinear<axis=0>(qw, /qs|loose_s/){_P}",
    "WEIGHT_NOT_CONSTANT: zero points": f"q = DequantizeLinear<axis=0>(qw, qs, /z|loose_z/){_P}",
    "WEIGHT_NOT_CONSTANT: of another domain": f"q = /DequantizeLinear|acme.DequantizeLinear/<axis=0>(qw, qs){_P}",
    "WEIGHT_SHAPE: scales of another axis": f"q = DequantizeLinear<axis=/0|1/>(qw, qs){_P}",
    "WEIGHT_SHAPE: no such axis": f"q = DequantizeLinear<axis=/0|4/>(qw, qs){_P}",
    "WEIGHT_SHAPE: no such axis from the back": (
        "n = BatchNormalization(x, g3, zero3, zero3, v3) q = DequantizeLinear<axis=/1|-5/>(qw, qs3) y = Conv(n, q)"
    ),
    "WEIGHT_NOT_CONSTANT: of another operator": f"q = /DequantizeLinear<axis=0>(qw, qs)|RandomNormalLike(w)/{_P}",
    "UNSUPPORTED_DTYPE: scales of integers": f"q = DequantizeLinear<axis=0>(qw, /qs|qs_int/){_P}",
    "UNSUPPORTED_DTYPE: scales of integers, which nothing multiplies": (
        "n = BatchNormalization<epsilon=0.0>(x, one3, h3, zero3, one3)"
        "q = DequantizeLinear<axis=0>(qw, /qs|qs_int/) y = Conv(n, q, b)"
    ),
    "WEIGHT_SHAPE: too few zero points": f"q = DequantizeLinear<axis=0>(qw, qs, /z|z_short/){_P}",
    "UNSUPPORTED_DTYPE: scales of rank 2": f"q = DequantizeLinear<axis=0>(qw, /qs|column/){_P}",
    "UNSUPPORTED_DTYPE: in blocks": f"q = DequantizeLinear<axis=0, block_size=/0|4/>(qw, qs){_P}",
    "UNSUPPORTED_DTYPE: from float8": f"q = DequantizeLinear<axis=0>(/qw|float8/, qs){_P}",
    "UNSUPPORTED_DTYPE: to another dtype": f"q = DequantizeLinear<axis=0, output_dtype=/1|10/>(qw, qs){_P}",
    "WEIGHT_UNDERFLOW: a quantization scale": (
        "q = DequantizeLinear<axis=0>(qw, small)" + _BEHIND.format("/positive|faint/")
    ),
    "WRONG_AXIS: groups of different scales": (
        "n = BatchNormalization(deep, /same6|g6/, zero6, zero6, /same6|v6/)"
        "q = DequantizeLinear(qw, qs1) y = Conv<group=2>(n, q)"
    ),
    "WRONG_AXIS: in front, a scale per output channel": (
        "n = BatchNormalization(x, g3, zero3, zero3, v3) q = DequantizeLinear<axis=/1|0/>(qw, /qs3|qs/) y = Conv(n, q)"
    ),
}


@pytest.mark.parametrize("name", TAKEN)
def test_quantized_weights_take_it(name: str) -> None:
    check_folds(Row(TAKEN[name], _INPUTS, _CONSTANTS, opset=23, ir=11), "DequantizeLinear Conv")


TURNED = {
    "Conv": "r = DequantizeLinear<axis=3>(qlast, qs) q = Transpose<perm=[3,2,0,1]>(r) d = Conv(x, q, b)",
    "Conv, in front": "r = DequantizeLinear<axis=2>(qlast, qs3) q = Transpose<perm=[3,2,0,1]>(r) d = Conv(x, q, b)",
    "MatMul": "r = DequantizeLinear<axis=0>(q45, qs) q = Transpose(r) e = MatMul(flat, q) d = Add(e, b)",
}


@pytest.mark.parametrize("name", TURNED)
def test_quantized_weights_take_it_in_front_of_a_transpose(name: str) -> None:
    text = f"{TURNED[name]} y = BatchNormalization(d, g, h, m, v)"
    if name.endswith("in front"):
        text = (
            TURNED[name]
            .replace("Conv(x,", "Conv(n,")
            .replace(" d = ", " n = BatchNormalization(x, g3, h3, m3, v3) y = ")
        )
    constants = {**_CONSTANTS, "qlast": _SPELLED_CONSTANTS["qlast"], "q45": _SPELLED_CONSTANTS["q45"]}
    left = "DequantizeLinear Transpose " + ("MatMul Add" if name == "MatMul" else "Conv")
    row = Row(text, {**_INPUTS, "flat": "float[N,5]"}, constants, opset=23, ir=11)
    done = check_folds(row, left)
    assert (done.constant("q45" if name == "MatMul" else "qlast").shape) == constants[
        "q45" if name == "MatMul" else "qlast"
    ].shape


def test_a_transposed_quantized_weight_that_others_read_stays() -> None:
    text = f"{TURNED['Conv']} y = BatchNormalization(d, g, h, m, v)"
    constants = {**_CONSTANTS, "qlast": _SPELLED_CONSTANTS["qlast"]}
    for outputs in (("y", "q"), ("y", "r")):
        done = fold(Row(text, _INPUTS, constants, outputs, opset=23, ir=11).model())
        assert not done.modified
        assert done.decision().reason is not None
        assert done.decision().reason.code == "OTHER_CONSUMER"


def test_a_shift_alone_leaves_one_scale_for_all() -> None:
    """Also where the operator set has no scales per channel."""
    text = (
        "q = DequantizeLinear(qw, qs1) d = Conv(x, q, b) y = BatchNormalization<epsilon=0.0>(d, ones, h, zeros, ones)"
    )
    constants = {**_CONSTANTS, "ones": np.ones(4, np.float32), "zeros": np.zeros(4, np.float32)}
    done = check_folds(Row(text, _INPUTS, constants, opset=12), "DequantizeLinear Conv")
    np.testing.assert_array_equal(done.constant("qs1"), constants["qs1"])


@pytest.mark.parametrize("name", NOT_TAKEN)
def test_quantized_weights_do_not_take_it(name: str) -> None:
    check_left_alone(name, Row(NOT_TAKEN[name], _INPUTS, _CONSTANTS, opset=23, ir=11))


@pytest.mark.parametrize("outputs", [("y",), ("y", "q")])
def test_a_quantized_weight_that_is_an_output_stays(outputs: tuple[str, ...]) -> None:
    done = fold(Row(f"q = DequantizeLinear<axis=0>(qw, qs){_P}", _INPUTS, _CONSTANTS, outputs, opset=23, ir=11).model())
    assert done.modified is (outputs == ("y",))


# Integers, Cast and a Mul by scales: the scales take the map, and the integers stay what they are.
_SPELLED = "f = Cast<to=1>(qw) q = Mul(f, column4)"
_SPELLED_CONSTANTS = {
    "column4": numbers(4, 1, 1, 1, low=0.01, high=0.05),
    "inverse4": numbers(4, 1, 1, 1, low=20, high=100),
    "row4": numbers(4, low=0.01, high=0.05),
    "qlast": np.random.default_rng(5).integers(-127, 128, (3, 3, 3, 4)).astype(np.int8),
    "q45": np.random.default_rng(6).integers(-127, 128, (4, 5)).astype(np.int8),
    "alone": np.array(0.02, np.float32),
    "offset": np.array(3, np.float32),
    "faint": np.full(4, 1e-30, np.float32),
    "tiny": np.full((4, 1, 1, 1), 1e-12, np.float32),
}
SPELLED = {
    "a scale per channel": (f"{_SPELLED} d = Conv(x, q, b)", "Cast Mul Conv"),
    "one scale": ("f = Cast<to=1>(qw) q = Mul(alone, f) d = Conv(x, q, b)", "Cast Mul Conv"),
    "a division by scales": ("f = Cast<to=1>(qw) q = Div(f, inverse4) d = Conv(x, q, b)", "Cast Div Conv"),
    "a Transpose behind": (
        "f = Cast<to=1>(qlast) e = Mul(f, row4) q = Transpose<perm=[3,0,1,2]>(e) d = Conv(x, q, b)",
        "Cast Mul Transpose Conv",
    ),
    "a zero point": ("f = Cast<to=1>(qw) e = Sub(f, offset) q = Mul(e, column4) d = Conv(x, q)", "Cast Sub Mul Conv"),
}


@pytest.mark.parametrize("name", SPELLED)
def test_integers_times_scales_stay_integers(name: str) -> None:
    text, left = SPELLED[name]
    constants = {**_CONSTANTS, **_SPELLED_CONSTANTS}
    row = Row(f"{text} y = BatchNormalization(d, g, h, m, v)", None, constants)
    done = check_folds(row, left)
    assert not done.decision().detail
    stored = {tensor.name: tensor for tensor in done.model.graph.initializer}
    assert stored["qlast" if "qlast" in text else "qw"].data_type == TensorProto.INT8
    assert [node.op_type for node in bnfold.optimize(row.model()).model.graph.node] == left.split(), "stays small"
    assert len(done.model.SerializeToString()) < len(row.model().SerializeToString())


def test_integers_times_scales_that_are_read_elsewhere_are_written_out() -> None:
    """And the decision says what that does to the file."""
    constants = {**_CONSTANTS, **_SPELLED_CONSTANTS}
    row = Row(
        f"{_SPELLED} d = Conv(x, q, b) n = BatchNormalization(d, g, h, m, v) e = Conv(x2, q) y = Add(n, e)",
        None,
        constants,
    )
    done = fold(row.model())
    assert done.operators == ["Cast", "Mul", "Conv", "Conv", "Add"]
    assert done.decision().detail == "'q' was computed from 124 bytes and is stored in 432"


def test_a_scale_of_zero_is_a_factor_like_others() -> None:
    """No runtime asks of a Mul what it asks of a DequantizeLinear."""
    constants = {**_CONSTANTS, **_SPELLED_CONSTANTS, "dead": np.array([0, 1.5, -2, 3], np.float32)}
    row = Row(f"{_SPELLED} d = Conv(x, q, b) y = BatchNormalization(d, dead, h, m, v)", None, constants)
    done = check_folds(row, "Cast Mul Conv")
    assert not done.constant("column4")[0].any()


def test_scales_that_would_vanish_are_not_taken() -> None:
    constants = {**_CONSTANTS, **_SPELLED_CONSTANTS}
    text = "f = Cast<to=1>(qw) q = Mul(f, tiny) d = Conv(x, q, b) y = BatchNormalization(d, /positive|faint/, h, m, v)"
    check_left_alone("WEIGHT_UNDERFLOW", Row(text, None, constants))


def test_float16_behind_a_cast_says_what_becomes_of_the_file() -> None:
    constants = {"half": numbers(4, 3, 3, 3, dtype=np.float16)}
    done = check_folds(
        Row("q = Cast<to=1>(half) d = Conv(x, q, b) y = BatchNormalization(d, g, h, m, v)", None, constants), "Conv"
    )
    assert done.decision().detail == "'q' was computed from 216 bytes and is stored in 432"
