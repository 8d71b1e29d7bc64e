"""Dtypes: one rounding, in float64 until then; nothing that overflows, nothing that vanishes."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from bnfold.decisions import Action
from bnfold.graph import Model
from bnfold.onnxfile import read
from bnfold.passes import FoldBatchNormOptions
from bnfold.passes.normalization import read_batch_norm
from tests.fold_models import Row, assert_same_function, batch_norm, check_folds, check_left_alone, fold, numbers

HALF, BRAIN, SINGLE, DOUBLE = np.float16, ml_dtypes.bfloat16, np.float32, np.float64
_NAMES = {HALF: "float16", BRAIN: "bfloat16", SINGLE: "float", DOUBLE: "double"}
_UNIT = {HALF: 2.0**-11, BRAIN: 2.0**-8, SINGLE: 2.0**-24, DOUBLE: 2.0**-53}
DTYPES = pytest.mark.parametrize("dtype", [HALF, BRAIN, SINGLE, DOUBLE], ids=lambda dtype: _NAMES[dtype])
_TEXTS = {
    "Conv": ("d = Conv(x, w, b) y = BatchNormalization(d, g, h, m, v)", "Conv"),
    "Conv, no bias": ("d = Conv(x, w) y = BatchNormalization(d, g, h, m, v)", "Conv"),
    "ConvTranspose": ("d = ConvTranspose(x, t, b) y = BatchNormalization(d, g, h, m, v)", "ConvTranspose"),
    "Gemm": ("d = Gemm<alpha=0.5, beta=2.0>(f, k, b) y = BatchNormalization(d, g, h, m, v)", "Gemm"),
    "MatMul": ("d = MatMul(f, k) y = BatchNormalization(d, g, h, m, v)", "MatMul Add"),
    "in front of Conv": ("n = BatchNormalization(x, g3, h3, m3, v3) y = Conv(n, w)", "Conv"),
    "Mul, Add": ("d = Conv(x, w) e = Mul(d, c) y = Add(e, c2)", "Conv"),
    "merged": (
        (
            "a = Sigmoid(x) n = BatchNormalization(a, g3, h3, m3, v3) z = BatchNormalization(n, h3, g3, m3, v3)"
            "y = Sigmoid(z)"
        ),
        "Sigmoid BatchNormalization Sigmoid",
    ),
}


def _constants(dtype: Any) -> dict[str, np.ndarray]:
    made = {
        "w": numbers(4, 3, 3, 3),
        "t": numbers(3, 4, 2, 2),
        "k": numbers(5, 4),
        "b": numbers(4),
        "c": numbers(4, 1, 1),
        "c2": numbers(4, 1, 1, seed=1),
        **batch_norm(4, ""),
        **batch_norm(3, "3"),
    }
    return {name: array.astype(dtype) for name, array in made.items()}


def _inputs(dtype: Any) -> dict[str, str]:
    return {"x": f"{_NAMES[dtype]}[N,3,6,7]", "f": f"{_NAMES[dtype]}[N,5]"}


@DTYPES
@pytest.mark.parametrize("name", _TEXTS)
def test_folds_in_every_dtype(name: str, dtype: Any) -> None:
    text, left = _TEXTS[name]
    row = Row(text, _inputs(dtype), _constants(dtype), opset=22, ir=10)
    done = check_folds(row, left, action=Action.MERGED if name == "merged" else Action.FOLDED, rtol=24 * _UNIT[dtype])
    stored = {np.dtype(dtype)}
    assert {done.constant(tensor.name).dtype for tensor in done.model.graph.initializer} == stored


@DTYPES
def test_weights_and_bias_are_rounded_once(dtype: Any) -> None:
    row = Row(_TEXTS["Conv"][0], _inputs(dtype), _constants(dtype), opset=22, ir=10)
    original = row.model()
    done = fold(original)
    w, b, g, h, m, v = (_constants(dtype)[name].astype(np.float64) for name in "wbghmv")
    k = g / np.sqrt(v + float(np.float32(1e-5)))
    np.testing.assert_array_equal(done.constant("w"), (w * k.reshape(4, 1, 1, 1)).astype(dtype))
    np.testing.assert_array_equal(done.constant("b"), (b * k + (h - m * k)).astype(dtype))


def test_variance_plus_epsilon_is_not_formed_in_half_precision() -> None:
    """1e-7 is a subnormal of float16, and 1e-3 + 1e-7 is 1e-3 there."""
    constants = _constants(HALF)
    constants["v"] = np.full(4, 6e-8, HALF)
    row = Row(
        "d = Conv(x, w, b) y = BatchNormalization<epsilon=1e-6>(d, g, h, m, v)",
        _inputs(HALF),
        constants,
        opset=22,
        ir=10,
    )
    graph = Model(read(row.model().SerializeToString())).main
    found = read_batch_norm(graph.nodes()[1], graph)
    np.testing.assert_array_equal(found.deviation, np.sqrt(constants["v"].astype(np.float64) + float(np.float32(1e-6))))


@pytest.mark.parametrize("dtype", [HALF, BRAIN], ids=lambda dtype: _NAMES[dtype])
def test_mixed_precision_folds_to_the_dtype_of_the_weight(dtype: Any) -> None:
    """From opset 15 on: narrow data with float32 parameters."""
    narrow = _constants(dtype)
    constants = {**narrow, **batch_norm(4, "")}
    row = Row(_TEXTS["Conv, no bias"][0], _inputs(dtype), constants, opset=15)
    original = row.model()
    done = fold(original)
    assert done.operators == ["Conv"]
    assert {done.constant(tensor.name).dtype for tensor in done.model.graph.initializer} == {np.dtype(dtype)}
    assert_same_function(original, done.model, 24 * _UNIT[dtype])


def test_mixed_precision_keeps_the_dtypes_of_a_normalization_that_stays() -> None:
    """scale and B may have one dtype, mean and variance another."""
    constants = {**_constants(HALF), **batch_norm(3, "3"), "c": numbers(3, 1, 1, dtype=HALF)}
    text = "a = Sigmoid(x) n = Mul(a, c) z = BatchNormalization(n, g3, h3, m3, v3) y = Sigmoid(z)"
    original = Row(text, _inputs(HALF), constants, opset=15).model()
    done = fold(original)
    assert done.operators == ["Sigmoid", "BatchNormalization", "Sigmoid"]
    assert {done.constant(name).dtype for name in ("g3", "h3", "m3", "v3")} == {np.dtype(SINGLE)}
    assert_same_function(original, done.model, 24 * _UNIT[HALF])


def test_lowering_writes_constants_in_the_dtype_of_the_data() -> None:
    text = "a = Sigmoid(x) z = BatchNormalization(a, g3, h3, m3, v3) y = Sigmoid(z)"
    original = Row(text, _inputs(HALF), {**_constants(HALF), **batch_norm(3, "3")}, opset=15).model()
    done = fold(original, FoldBatchNormOptions(lower=True))
    assert done.operators == ["Sigmoid", "Mul", "Add", "Sigmoid"]
    assert {done.constant(tensor.name).dtype for tensor in done.model.graph.initializer} == {np.dtype(HALF)}
    assert_same_function(original, done.model, 24 * _UNIT[HALF])


# ------------------------------------------------------------------ what does not fit

_HALF = {name: array.astype(HALF) for name, array in _constants(HALF).items()}
_LIMITS = {
    "w_large": np.where(_HALF["w"] == _HALF["w"].max(), 60000, _HALF["w"]).astype(HALF),
    "b_large": np.array([1, 60000, 1, 1], HALF),
    "b_nan": np.array([1, np.nan, 1, 1], HALF),
    "h_all_large": np.full(4, 60000, SINGLE),
    "w_small": (numbers(4, 3, 3, 3) * np.array([1, 1, 1e-4, 1]).reshape(4, 1, 1, 1)).astype(HALF),
    "w_dead": (numbers(4, 3, 3, 3) * np.array([1, 1, 0, 1]).reshape(4, 1, 1, 1)).astype(HALF),
    "w_subnormal": (numbers(4, 3, 3, 3) * np.array([1, 1, 2e-5, 1]).reshape(4, 1, 1, 1)).astype(HALF),
    "w_one_small": np.where(_HALF["w"] == _HALF["w"].min(), 1e-6, _HALF["w"]).astype(HALF),
    "w_nan": np.where(_HALF["w"] == _HALF["w"].max(), np.nan, _HALF["w"]).astype(HALF),
    "w_infinite": np.where(_HALF["w"] == _HALF["w"].max(), np.inf, _HALF["w"]).astype(HALF),
    "k_small": (numbers(5, 4) * np.array([1, 1, 1e-4, 1])).astype(HALF),
    "g_two": np.full(4, 2, SINGLE),
    "g_small": np.full(4, 1e-2, SINGLE),
    "g_tiny": np.full(4, 1e-9, SINGLE),
    "g_zero": np.array([1, 1, 0, 1], SINGLE),
    "one": np.ones(4, SINGLE),
    "zero": np.zeros(4, SINGLE),
    "h_large": np.array([1, 1, 1, 70000], SINGLE),
    "one3": np.ones(3, SINGLE),
    "zero3": np.zeros(3, SINGLE),
    "h3_large": np.array([1, 30000, 1], SINGLE),
    "s_whole": numbers(1, 4, 4, 5, dtype=HALF),
    "c_small": np.full((4, 1, 1), 1e-4, HALF),
    "c_tiny": np.full((4, 1, 1), 1e-6, HALF),
    "s_small": np.full((1, 4, 4, 5), 1e-3, HALF),
    "g3_small": np.full(3, 1e-2, SINGLE),
    "g3_tiny": np.full(3, 1e-9, SINGLE),
}
_LEFT_ALONE = {
    "WEIGHT_OVERFLOW: weight": "d = Conv(x, /w|w_large/, b) y = BatchNormalization<epsilon=0.0>(d, g_two, h, m, one)",
    "WEIGHT_OVERFLOW: bias": "d = Conv(x, w, /b|b_large/) y = BatchNormalization<epsilon=0.0>(d, g_two, h, m, one)",
    "WEIGHT_OVERFLOW: bias NaN": "d = Conv(x, w, /b|b_nan/) y = BatchNormalization(d, g, h, m, v)",
    "WEIGHT_OVERFLOW: new bias": "d = Conv(x, w) y = BatchNormalization<epsilon=0.0>(d, one, /h|h_large/, m, one)",
    "WEIGHT_OVERFLOW: Add behind MatMul": (
        "d = MatMul(f, k) y = BatchNormalization<epsilon=0.0>(d, one, /h|h_large/, m, one)"
    ),
    "WEIGHT_OVERFLOW: weight NaN": "d = Conv(x, /w|w_nan/) y = BatchNormalization(d, g, h, m, v)",
    "WEIGHT_OVERFLOW: weight infinite": "d = Conv(x, /w|w_infinite/) y = BatchNormalization(d, g, h, m, v)",
    "WEIGHT_OVERFLOW: a shift in front": (
        "n = BatchNormalization<epsilon=0.0>(x, one3, /h3|h3_large/, zero3, one3) y = Conv(n, w)"
    ),
    "WEIGHT_UNDERFLOW: Conv": "d = Conv(x, w_small) y = BatchNormalization<epsilon=0.0>(d, /g_two|g_small/, h, m, one)",
    "WEIGHT_UNDERFLOW: all of it": "d = Conv(x, w) y = BatchNormalization<epsilon=0.0>(d, /g_two|g_tiny/, h, m, one)",
    "WEIGHT_UNDERFLOW: Gemm": "d = Gemm(f, k_small) y = BatchNormalization<epsilon=0.0>(d, /g_two|g_small/, h, m, one)",
    "WEIGHT_UNDERFLOW: MatMul": (
        "d = MatMul(f, k_small) y = BatchNormalization<epsilon=0.0>(d, /g_two|g_small/, h, m, one)"
    ),
    "WEIGHT_UNDERFLOW: Mul by a full shape": (
        "d = Conv(x, w) c = Mul(d, s_small) y = BatchNormalization<epsilon=0.0>(c, /g_two|g_tiny/, zero, zero, one)"
    ),
}
_FOLDS = {
    "a small weight among normal ones": (
        "d = Conv(x, w_one_small) y = BatchNormalization<epsilon=0.0>(d, g_small, h, m, one)"
    ),
    "a channel of zeros": "d = Conv(x, w_dead) y = BatchNormalization<epsilon=0.0>(d, g_small, h, m, one)",
    "a channel that was subnormal before": (
        "d = Conv(x, w_subnormal) y = BatchNormalization<epsilon=0.0>(d, g_small, h, m, one)"
    ),
    "shifts that fit, but not their squares": (
        "d = Conv(x, w) y = BatchNormalization<epsilon=0.0>(d, one, h_all_large, zero, one)"
    ),
    "a scale of 0": "d = Conv(x, w) y = BatchNormalization<epsilon=0.0>(d, g_zero, h, m, one)",
}


def _half(text: str) -> Row:
    return Row(text, _inputs(HALF), {**_HALF, **_LIMITS}, opset=15)


@pytest.mark.parametrize("name", _LEFT_ALONE)
def test_left_alone(name: str) -> None:
    check_left_alone(name, _half(_LEFT_ALONE[name]))


@pytest.mark.parametrize("name", _FOLDS)
def test_folds_all_the_same(name: str) -> None:
    original = _half(_FOLDS[name]).model()
    done = fold(original)
    assert done.operators == ["Conv"]
    assert_same_function(original, done.model, 24 * _UNIT[HALF])


@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE])
def test_a_float64_is_not_padded_with_a_value_that_is_kept_in_float32(dtype: Any) -> None:
    """Up to opset 10 the value is an attribute: -0.75 can be kept there, 0.1 cannot. Random graph 3114 found it."""
    text = "d = Conv(x, w) c = Pad<pads=[0,0,1,0,0,0,0,2]>(d) y = BatchNormalization<epsilon=0.0>(c, o, /s|t/, z, o)"
    vectors = {"o": np.ones(4), "z": np.zeros(4), "s": np.full(4, -0.75), "t": np.full(4, 0.1)}
    constants = _constants(dtype) | {name: array.astype(dtype) for name, array in vectors.items()}
    row = Row(text, _inputs(dtype), constants, opset=10, ir=8)
    assert fold(row.good().model()).operators == ["Conv", "Pad"]
    done = fold(row.bad().model())
    assert done.modified == (dtype == SINGLE)
    if dtype == DOUBLE:
        assert done.decision().reason is not None
        assert done.decision().reason.code == "UNSUPPORTED_DTYPE"


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE])
def test_a_float64_shift_stays_behind_an_interpolation(dtype: Any, mode: str) -> None:
    """Runtimes keep its weights in float32, so that they sum to one in float32 alone. Random graph 3109 found it."""
    text = f'd = Conv(x, w) c = Resize<mode="{mode}">(d, "", scales) y = BatchNormalization(c, g, h, m, v)'
    constants = _constants(dtype) | {"scales": np.array([1, 1, 1.5, 1.5], np.float32)}
    done = fold(Row(text, _inputs(dtype), constants, opset=13, ir=8).model())
    stays = dtype == DOUBLE and mode != "nearest"
    assert done.operators == (["Conv", "Resize", "Add"] if stays else ["Conv", "Resize"])


def test_numbers_of_which_the_squares_are_infinite_are_finite() -> None:
    constants = {**_constants(DOUBLE), "h": np.array([1e200, -1e300, 1.7e308, 1], DOUBLE)}
    row = Row(_TEXTS["Conv, no bias"][0], _inputs(DOUBLE), constants, opset=22, ir=10)
    check_folds(row, "Conv", rtol=24 * _UNIT[DOUBLE])


def test_merging_does_not_lose_a_scale() -> None:
    """1e-3 times 1e-3 is no normal number of float16."""
    text = (
        "a = Sigmoid(x) n = BatchNormalization<epsilon=0.0>(a, p, z, z, o)"
        "q = BatchNormalization<epsilon=0.0>(n, p, z, z, o) y = Sigmoid(q)"
    )
    constants = {"p": np.full(3, 1e-3, HALF), "z": np.zeros(3, HALF), "o": np.ones(3, HALF)}
    original = Row(text, _inputs(HALF), constants, opset=15).model()
    assert not fold(original).modified


def test_lowering_does_not_lose_a_scale() -> None:
    """The normalization has it in float32; a Mul would have it in float16."""
    text = "a = Sigmoid(x) z = BatchNormalization(a, /g3|g3_tiny/, h3, m3, v3) y = Sigmoid(z)"
    row = Row(text, _inputs(HALF), {**_HALF, **batch_norm(3, "3"), **_LIMITS}, opset=15)
    lower = FoldBatchNormOptions(lower=True)
    assert fold(row.good().model(), lower).modified
    done = fold(row.bad().model(), lower)
    assert not done.modified
    assert done.decision().reason is not None
    assert done.decision().reason.code == "WEIGHT_UNDERFLOW"


def test_a_scale_that_was_subnormal_may_stay_so() -> None:
    text = "a = Sigmoid(x) n = Mul(a, c_half) z = BatchNormalization(n, g3_dead, h3, m3, v3) y = Sigmoid(z)"
    dead = np.array([1e-40, 1, 1], SINGLE)
    constants = {**_constants(SINGLE), "g3_dead": dead, "c_half": np.full((3, 1, 1), 0.5, SINGLE)}
    done = fold(Row(text, _inputs(SINGLE), constants).model())
    assert done.operators == ["Sigmoid", "BatchNormalization", "Sigmoid"]
