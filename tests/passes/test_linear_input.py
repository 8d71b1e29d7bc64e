"""Operators that take a map up at their input: a normalization in front of Conv, ConvTranspose, Gemm, MatMul."""

import numpy as np
import pytest

from bnfold.decisions import Action, Refused
from bnfold.graph import Model
from bnfold.onnxfile import read
from bnfold.passes.affine import Affine
from bnfold.passes.linear_ops import ABSORB_INPUT
from tests.fold_models import CONSTANTS, Row, batch_norm, check_folds, check_left_alone, completing, fold, numbers

_N = "n = BatchNormalization(x, g3, h3, m3, v3)"
_INPUTS = {
    "four1": "float[4,1]",
    "five1": "float[5,1]",
    "lone": "float[N,1,126]",
    "line": "float[N,3,11]",
    "volume": "float[N,3,4,5,6]",
    "deep": "float[N,6,6,7]",
    "flat": "float[N,5]",
    "flat_column": "float[5,N]",
    "tokens": "float[N,3,5]",
    "rows3": "float[N,3]",
    "whole": "float[N,3,2,4]",
    "loose24x4": "float[24,4]",
    "loose5x4": "float[5,4]",
    "loose_t": "float[3,4,1,1]",
    "count": "int64[2]",
}
_CONSTANTS = {
    "w_line": numbers(4, 3, 3),
    "w_volume": numbers(4, 3, 2, 2, 3),
    "w_group": numbers(4, 3, 3, 2),
    "w_group1": numbers(4, 3, 1, 1),
    "w_depth": numbers(12, 1, 3, 3),
    "w_five": numbers(4, 5, 3, 3),
    "w_flat": numbers(4, 3),
    "t": numbers(3, 4, 3, 2),
    "t1": numbers(3, 4, 1, 1),
    "t2": numbers(3, 4, 2, 1),
    "t1_group": numbers(6, 2, 1, 1),
    "t1_three": numbers(6, 5, 1, 1),
    "t_group": numbers(6, 2, 3, 2),
    "t_five": numbers(5, 4, 1, 1),
    "k": numbers(5, 4),
    "k_turned": numbers(4, 5),
    "k_square": numbers(5, 5, seed=5),
    "k_cube": numbers(2, 3, 4),
    "k_rows": numbers(3, 4),
    "k24": numbers(24, 4),
    "left": numbers(4, 3),
    "left_cube": numbers(2, 4, 3),
    "b15": numbers(15),
    "one": numbers(1, low=0.1),
    "to_four": np.array([4], np.int64),
    "to_five": np.array([5], np.int64),
    "to_row": np.array([1, 5], np.int64),
    "to_column": np.array([5, 1], np.int64),
    "to_image": np.array([-1, 3, 6, 7], np.int64),
    "k_deep": numbers(5, 2, 4),
    "w_nine": numbers(4, 9, 3, 2),
    **batch_norm(9, "9"),
    "c_column": numbers(2, 1),
    "one3": np.ones(3, np.float32),
    "still": np.zeros(3, np.float32),
    "still5": np.zeros(5, np.float32),
    "still6": np.zeros(6, np.float32),
    "one5": np.ones(5, np.float32),
    **batch_norm(5, "5"),
    **batch_norm(6, "6"),
}
_FIVE = "n = BatchNormalization(flat, g5, h5, m5, v5)"
_SIX = "n = BatchNormalization(deep, g6, h6, m6, v6)"
# h = 0 and m = 0: a scale without a shift
_SCALE = "n = BatchNormalization(x, g3, still, still, v3)"
# A scale of 1: a shift without a scale, of which nothing can be separated
_SHIFT = "n = BatchNormalization<epsilon=0.0>(x, one3, h3, still, one3)"
_SCALE5 = "n = BatchNormalization(flat, g5, still5, still5, v5)"
_SHIFT5 = "n = BatchNormalization<epsilon=0.0>(flat, one5, h5, still5, one5)"
_ONE = "BatchNormalization({}, one, one, one, one)"
_SCALE6 = "n = BatchNormalization(deep, g6, still6, still6, v6)"


_row = completing(_INPUTS, _CONSTANTS)

FOLDS = {
    "Conv, bias": Row(f"{_N} y = Conv(n, w, b)"),
    "Conv, no bias": Row(f"{_N} y = Conv(n, w)"),
    "Conv, empty bias": Row(f'{_N} y = Conv(n, w, "")'),
    "Conv, VALID": Row(f'{_N} y = Conv<auto_pad="VALID", strides=[2,1]>(n, w, b)'),
    "Conv, NOTSET, pads of 0, dilations": Row(
        f'{_N} y = Conv<auto_pad="NOTSET", pads=[0,0,0,0], dilations=[2,1]>(n, w, b)'
    ),
    "Conv, two groups": Row(f"{_SIX} y = Conv<group=2>(n, w_group, b)"),
    "Conv, depthwise, twice as many": Row(f"{_SIX} y = Conv<group=6>(n, w_depth)"),
    "Conv, one number for all": Row(
        "n = BatchNormalization(lone, one, one, one, one) r = Reshape(n, to_image) y = Conv(r, w)"
    ),
    "Conv, 1d": Row("n = BatchNormalization(line, g3, h3, m3, v3) y = Conv(n, w_line, b)"),
    "Conv, 3d": Row("n = BatchNormalization(volume, g3, h3, m3, v3) y = Conv(n, w_volume, b)"),
    "Conv, padding without a shift": Row(f"{_SCALE} y = Conv<pads=[1,2,0,1]>(n, w, b)"),
    "Conv, a computed bias without a shift": Row(f"{_SCALE} y = Conv(n, w, loose4)"),
    "Conv, SAME_UPPER without a shift": Row(f'{_SCALE} y = Conv<auto_pad="SAME_UPPER", strides=[2,2]>(n, w)'),
    "Conv, two of them": Row(f"{_N} p = Conv(n, w, b) q = Conv(n, w) y = Add(p, q)"),
    "ConvTranspose, 1x1": Row(f"{_N} y = ConvTranspose(n, t1, b)"),
    "ConvTranspose, 1x1, no bias": Row(f"{_N} y = ConvTranspose<strides=[1,1]>(n, t1)"),
    "ConvTranspose, 1x1, two groups": Row(f"{_SIX} y = ConvTranspose<group=2>(n, t1_group, b)"),
    "ConvTranspose, 1x1, three groups": Row(f"{_SIX} y = ConvTranspose<group=3>(n, t1_three, b15)"),
    "ConvTranspose, scale": Row(
        f"{_SCALE} y = ConvTranspose<strides=[2,2], pads=[1,0,1,0], output_padding=[1,0]>(n, t, b)"
    ),
    "ConvTranspose, scale, two groups": Row(f"{_SCALE6} y = ConvTranspose<group=2, strides=[2,1]>(n, t_group)"),
    "ConvTranspose, scale, output_shape": Row(
        f"{_SCALE} y = ConvTranspose<strides=[2,2], output_shape=[12,14]>(n, t, b)"
    ),
    "Gemm, bias": Row(f"{_FIVE} y = Gemm(n, k, b)"),
    "Gemm, no bias": Row(f"{_FIVE} y = Gemm(n, k)"),
    "Gemm, transB": Row(f"{_FIVE} y = Gemm<transB=1>(n, k_turned, b)"),
    "Gemm, square": Row(f"{_FIVE} y = Gemm(n, k_square)"),
    "Gemm, square, transB": Row(f"{_FIVE} y = Gemm<transB=1>(n, k_square)"),
    "Gemm, transA": Row(f"{_FIVE} f = Transpose(n) y = Gemm<transA=1>(f, k, b)"),
    "Gemm, alpha and beta": Row(f"{_FIVE} y = Gemm<alpha=0.25, beta=3.0>(n, k, b)"),
    "Gemm, beta without bias": Row(f"{_FIVE} y = Gemm<alpha=-0.5, beta=3.0>(n, k)"),
    "Gemm, C [M,1]": Row(f"{_FIVE} y = Gemm<beta=0.5>(n, k, c_column)", {"flat": "float[2,5]"}),
    "Gemm behind Flatten": Row("n = BatchNormalization(whole, g3, h3, m3, v3) f = Flatten(n) y = Gemm(f, k24, b)"),
    "MatMul, Add": Row(f"{_FIVE} p = MatMul(n, k) y = Add(p, b)"),
    "MatMul, Add the other way": Row(f"{_FIVE} p = MatMul(n, k) y = Add(b, p)"),
    "MatMul, Sub": Row(f"{_FIVE} p = MatMul(n, k) y = Sub(p, b)"),
    "MatMul, constant minus": Row(f"{_FIVE} p = MatMul(n, k) y = Sub(b, p)"),
    "MatMul": Row(f"{_FIVE} y = MatMul(n, k)"),
    "MatMul, square": Row(f"{_FIVE} y = MatMul(n, k_square)"),
    "MatMul, constant left": Row("n = BatchNormalization(tokens, g3, h3, m3, v3) y = MatMul(left, n)"),
    "MatMul, rank 3 behind a Transpose": Row(
        "n = BatchNormalization(tokens, g3, h3, m3, v3) f = Transpose<perm=[0,2,1]>(n) y = MatMul(f, k_rows)"
    ),
    "MatMul, batched weight, scale": Row("n = BatchNormalization(rows3, g3, still, still, v3) y = MatMul(n, k_cube)"),
    "MatMul, batched constant left, scale": Row(
        "n = BatchNormalization(tokens, g3, still, still, v3) f = Unsqueeze<axes=[1]>(n) y = MatMul(left_cube, f)",
        opset=12,
    ),
}
_LEFT = {
    "Conv, one number for all": "Reshape Conv",
    "Conv, two of them": "Conv Conv Add",
    "Gemm, transA": "Transpose Gemm",
    "Gemm behind Flatten": "Flatten Gemm",
    "MatMul, Add": "MatMul Add",
    "MatMul, Add the other way": "MatMul Add",
    "MatMul, Sub": "MatMul Sub",
    "MatMul, constant minus": "MatMul Sub",
    "MatMul": "MatMul Add",
    "MatMul, square": "MatMul Add",
    "MatMul, constant left": "MatMul Add",
    "MatMul, rank 3 behind a Transpose": "Transpose MatMul Add",
    "MatMul, batched constant left, scale": "Unsqueeze MatMul",
}


@pytest.mark.parametrize("name", FOLDS)
def test_folds(name: str) -> None:
    done = check_folds(_row(FOLDS[name]), _LEFT.get(name, name.split(",")[0]))
    decision = done.decision()
    assert (decision.node, decision.op_type, decision.action) == ("n", "BatchNormalization", Action.FOLDED)


LEFT_ALONE = {
    "WEIGHT_NOT_CONSTANT: Conv": Row(f"{_N} y = Conv(n, /w|loose_w/, b)"),
    "BIAS_NOT_CONSTANT: Conv": Row(f"{_SHIFT} y = Conv(n, w, /b|loose4/)"),
    "WRONG_AXIS: Conv reads it as its weight": Row(
        "n = BatchNormalization(x, g3, h3, m3, v3) y = /Conv(n, w)|Conv(picture, n)/",
        {"x": "float[4,3,3,3]", "picture": "float[N,3,6,7]"},
    ),
    "WEIGHT_SHAPE: Conv, other channels": Row(f"{_N} y = Conv(n, /w|w_five/)"),
    "WEIGHT_SHAPE: Conv, weight of rank 2": Row(f"{_N} y = Conv(n, /w|w_flat/)"),
    "WEIGHT_SHAPE: Conv, group that does not divide": Row(f"{_SIX} y = Conv<group=/2|3/>(n, w_group)"),
    "WEIGHT_SHAPE: Conv, group that does not divide the outputs": Row(
        "n = BatchNormalization(nine, g9, h9, m9, v9) y = Conv<group=/1|3/>(n, /w_nine|w_group/)",
        {"nine": "float[N,9,6,7]"},
    ),
    "WEIGHT_SHAPE: Gemm, weight of rank 3": Row(f"{_FIVE} y = Gemm(n, /k|k_deep/, b)"),
    "WRONG_AXIS: Conv behind a Transpose": Row(
        "n = BatchNormalization(even, g3, h3, m3, v3) f = Transpose<perm=/[0,1,3,2]|[0,2,1,3]/>(n) y = Conv(f, w1)",
        {"even": "float[N,3,3,7]"},
    ),
    "WRONG_AXIS: ConvTranspose behind a Transpose": Row(
        "n = BatchNormalization(even, g3, h3, m3, v3)"
        "f = Transpose<perm=/[0,1,3,2]|[0,2,1,3]/>(n) y = ConvTranspose(f, t1)",
        {"even": "float[N,3,3,7]"},
    ),
    "WRONG_AXIS: ConvTranspose reads it as its weight": Row(
        "n = BatchNormalization(kernel, g3, h3, m3, v3) y = /ConvTranspose(n, t1)|ConvTranspose(picture, n)/",
        {"kernel": "float[3,3,1,1]", "picture": "float[N,3,6,7]"},
    ),
    # One number for all channels has no axis of its own, so it is only the place that is wrong.
    "WRONG_AXIS: Conv reads it as its bias": Row(
        f"n = {_ONE.format('/lone|four1/')} r = Reshape(n, /to_image|to_four/) y = /Conv(r, w)|Conv(x, w, r)/"
    ),
    "WRONG_AXIS: ConvTranspose reads it as its bias": Row(
        f"n = {_ONE.format('/lone|four1/')} r = Reshape(n, /to_image|to_four/)"
        "y = /ConvTranspose(r, t1)|ConvTranspose(x, t1, r)/"
    ),
    "WRONG_AXIS: Gemm reads it as its bias": Row(
        f"n = {_ONE.format('/five1|four1/')} r = Reshape(n, /to_row|to_four/) y = /Gemm(r, k)|Gemm(flat, k, r)/"
    ),
    "WEIGHT_SHAPE: MatMul of a vector": Row(
        f"n = {_ONE.format('five1')} r = Reshape(n, /to_column|to_five/) y = MatMul(k_turned, r)"
    ),
    "WEIGHT_SHAPE: MatMul, other channels": Row(f"{_FIVE} y = MatMul(n, /k|k_rows/)"),
    "WEIGHT_SHAPE: Gemm, other channels": Row(f"{_FIVE} y = Gemm(n, /k|k_rows/)"),
    "WEIGHT_NOT_CONSTANT: ConvTranspose": Row(f"{_N} y = ConvTranspose(n, /t1|loose_t/, b)"),
    "BIAS_NOT_CONSTANT: ConvTranspose": Row(f"{_SHIFT} y = ConvTranspose(n, t1, /b|loose4/)"),
    "WEIGHT_SHAPE: ConvTranspose, other channels": Row(f"{_N} y = ConvTranspose(n, /t1|t_five/)"),
    "WEIGHT_NOT_CONSTANT: Gemm": Row(f"{_FIVE} y = Gemm(n, /k|loose5x4/, b)"),
    "BIAS_NOT_CONSTANT: Gemm": Row(f"{_SHIFT5} y = Gemm(n, k, /b|loose4/)"),
    "WRONG_AXIS: Gemm, transA": Row(
        "n = BatchNormalization(square, g5, h5, m5, v5) y = Gemm<transA=/0|1/>(n, k)", {"square": "float[5,5]"}
    ),
    "WRONG_AXIS: Gemm reads it as B": Row(
        "n = BatchNormalization(square, g5, h5, m5, v5) y = /Gemm(n, k_square)|Gemm(k_square, n)/",
        {"square": "float[5,5]"},
    ),
    "WEIGHT_NOT_CONSTANT: MatMul": Row(f"{_FIVE} y = MatMul(n, /k|loose5x4/)"),
    "WRONG_AXIS: MatMul, rank 3 with as many columns": Row(
        "n = BatchNormalization(cube, g3, h3, m3, v3) f = /Transpose<perm=[0,2,1]>|Identity/(n) y = MatMul(f, k_rows)",
        {"cube": "float[N,3,3]"},
    ),
    "WRONG_AXIS: MatMul, constant left, channels last": Row(
        "n = BatchNormalization(cube, g3, h3, m3, v3) f = /Identity|Transpose<perm=[0,2,1]>/(n) y = MatMul(left, f)",
        {"cube": "float[N,3,3]"},
    ),
    "NOT_PER_CHANNEL: MatMul, a shift into a batched weight": Row(
        "n = BatchNormalization<epsilon=0.0>(rows3, one3, h3, still, one3) y = MatMul(n, /k_rows|k_cube/)"
    ),
    "GRAPH_INPUT: it is an output itself": Row(f"{_N} y = Conv(n, w, b)", outputs=("y", "/y|n/")),
    "NOT_ALL_ABSORB: an operator reads it twice": Row(
        "n = BatchNormalization(square, g5, h5, m5, v5) y = MatMul(n, /k_square|n/)", {"square": "float[5,5]"}
    ),
    "BARRIER: one reader cannot": Row(f"{_N} p = Conv(n, w, b) q = /Conv(n, w)|Sigmoid(n)/", outputs=("p", "q")),
    "UNKNOWN_OPERATOR: one reader is unknown": Row(
        f"{_N} p = Conv(n, w, b) q = /Conv(n, w)|acme.Swoosh(n)/", outputs=("p", "q")
    ),
    "GRAPH_INPUT: nothing reads it": Row(f"{_N} y = /Conv(n, w, b)|Conv(x, w, b)/", outputs=("y",)),
}


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_left_alone(name: str) -> None:
    check_left_alone(name, _row(LEFT_ALONE[name]))


# With padding and a shift only the scale goes into the weights: what stays is an Add in front of the padding.
SEPARATED = {
    "Conv, pads": Row(f"{_N} y = Conv<pads=[1,0,0,0]>(n, w, b)"),
    "Conv, asymmetric pads, groups": Row(f"{_SIX} y = Conv<pads=[0,0,0,1], group=2>(n, w_group, b)"),
    "Conv, SAME_UPPER": Row(f'{_N} y = Conv<auto_pad="SAME_UPPER", strides=[2,2]>(n, w)'),
    "Conv, SAME_LOWER": Row(f'{_N} y = Conv<auto_pad="SAME_LOWER">(n, w)'),
    "ConvTranspose, kernel 2": Row(f"{_N} y = ConvTranspose(n, t2, b)"),
    "ConvTranspose, kernel 3, stride 2": Row(f"{_N} y = ConvTranspose<strides=[2,2]>(n, t, b)"),
    "ConvTranspose, stride 2": Row(f"{_N} y = ConvTranspose<strides=[2,1]>(n, t1, b)"),
    "ConvTranspose, pads": Row(f"{_N} y = ConvTranspose<pads=[0,1,0,0]>(n, t1, b)"),
    "ConvTranspose, SAME_UPPER": Row(f'{_N} y = ConvTranspose<auto_pad="SAME_UPPER">(n, t1, b)'),
    "ConvTranspose, output_padding": Row(f"{_N} y = ConvTranspose<strides=[2,2], output_padding=[1,1]>(n, t1, b)"),
    "ConvTranspose, output_shape": Row(f"{_N} y = ConvTranspose<output_shape=[6,7]>(n, t1, b)"),
}


@pytest.mark.parametrize("name", SEPARATED)
def test_only_the_scale_is_folded(name: str) -> None:
    done = check_folds(_row(SEPARATED[name]), f"Add {name.split(',')[0]}")
    decision = done.decision()
    assert decision.detail == "its scale was folded; its shift stays as an Add"
    assert len(decision.target) == 2
    assert decision.target[0] == "y"


@pytest.mark.parametrize(
    "text", [f"{_SCALE} y = Conv(n, w)", f"{_SCALE} y = ConvTranspose(n, t)", f"{_SCALE5} y = Gemm(n, k)"]
)
def test_a_scale_alone_adds_no_bias(text: str) -> None:
    row = _row(Row(text))
    done = check_folds(row, row.model().graph.node[1].op_type)
    assert len(done.model.graph.node[0].input) == 2


PADDED = {
    "PADDED_BORDER: Conv": "y = Conv<pads=/[0,0,0,0]|[0,0,1,0]/>(n, w, b)",
    "PADDED_BORDER: Conv, SAME_UPPER": 'y = Conv<auto_pad=/"VALID"|"SAME_UPPER"/>(n, w, b)',
    "SHIFT_BLOCKED: ConvTranspose, kernel": "y = ConvTranspose(n, /t1|t2/)",
    "SHIFT_BLOCKED: ConvTranspose, stride": "y = ConvTranspose<strides=/[1,1]|[1,2]/>(n, t1)",
    "PADDED_BORDER: ConvTranspose, pads": "y = ConvTranspose<pads=/[0,0,0,0]|[0,0,0,1]/>(n, t1)",
    "PADDED_BORDER: ConvTranspose, output_shape": "y = ConvTranspose</strides=[1,1]|output_shape=[8,8]/>(n, t1)",
    "PADDED_BORDER: ConvTranspose, output_padding": "y = ConvTranspose<output_padding=/[0,0]|[1,0]/>(n, t1)",
    "PADDED_BORDER: explicit Pad": 'p = Pad<mode=/"edge"|"constant"/, pads=[0,0,1,1,0,0,0,0]>(n) y = Conv(p, w)',
}


@pytest.mark.parametrize("name", PADDED)
def test_a_shift_alone_stays_in_front_of_padding(name: str) -> None:
    """Scale 1: there is nothing to separate, so the normalization stays as it is."""
    opset = 10 if "Pad" in name.split(":")[1] else 18
    row = Row(f"{_SHIFT} {PADDED[name]}", opset=opset)
    check_left_alone(name, _row(row))


def test_a_shift_of_which_nothing_comes_through_asks_nothing_of_who_follows() -> None:
    """MatMul has no bias; the only channel that is shifted is one that its weights leave out."""
    k = numbers(5, 4)
    k[2] = 0
    constants = {**batch_norm(5, "5"), "k_blind": k, "h_one": np.array([0, 0, 3, 0, 0], np.float32)}
    constants["m5"] = np.zeros(5, np.float32)
    row = Row(
        "n = BatchNormalization(flat, g5, h_one, m5, v5) d = MatMul(n, k_blind) y = Sigmoid(d)",
        _INPUTS,
        {**_CONSTANTS, **constants},
    )
    check_folds(row, "MatMul Sigmoid")


ZERO_SCALE = np.array([1, 0, 1], np.float32)


def test_a_scale_of_zero_folds_into_a_convolution_that_pads_nothing() -> None:
    row = Row(f"{_N} y = Conv(n, w, b)", constants={"g3": ZERO_SCALE})
    check_folds(row, "Conv")


def test_a_scale_of_zero_cannot_be_separated_from_its_shift() -> None:
    row = Row(f"{_N} y = Conv<pads=[1,1,1,1]>(n, w, b)", constants={"g3": ZERO_SCALE})
    done = fold(row.model())
    assert not done.modified
    assert done.decision().reason is not None
    assert done.decision().reason.code == "PADDED_BORDER"


@pytest.mark.parametrize(
    ("text", "operand"),
    [
        *(("y = Conv(x, w)", 1), ("y = ConvTranspose(x, t)", 1), ("y = Gemm(flat, k)", 1), ("y = MatMul(flat, k)", 1)),
        ("y = MatMul(left, tokens)", 0),
    ],
)
def test_only_the_data_of_an_operator_is_mapped(text: str, operand: int) -> None:
    """A map of its weight, even of one number for all, is not what the handlers work out."""
    graph = Model(read(_row(Row(text)).model().SerializeToString())).main
    (node,) = graph.nodes()
    twice = Affine(np.full((), 2.0), np.zeros(()))
    assert ABSORB_INPUT[node.op_type](node, 1 - operand, twice, graph)
    with pytest.raises(Refused, match="WRONG_AXIS"):
        ABSORB_INPUT[node.op_type](node, operand, twice, graph)


def test_a_scale_alone_leaves_the_bias_of_gemm_as_it_is() -> None:
    row = Row(f"{_SCALE5} y = Gemm<beta=0.5>(n, k, b)", _INPUTS, _CONSTANTS)
    done = check_folds(row, "Gemm")
    np.testing.assert_array_equal(done.constant("b"), CONSTANTS["b"])
    assert [(a.name, a.f) for a in done.model.graph.node[0].attribute] == [("beta", 0.5)]
