"""Operators that take a map up at their output: Conv, ConvTranspose, Gemm, MatMul, InstanceNormalization."""

import numpy as np
import pytest

from bnfold.decisions import Action
from tests.fold_models import INPUTS, Row, batch_norm, check_folds, check_left_alone, completing, fold, numbers

_N = "y = BatchNormalization(c, g, h, m, v)"
_INPUTS = {
    "line": "float[N,3,11]",
    "volume": "float[N,3,4,5,6]",
    "deep": "float[N,6,6,7]",
    "flat": "float[N,5]",
    "flat_column": "float[5,N]",
    "three": "float[3,5]",
    "tokens": "float[N,4,5]",
    "many": "float[N,2,4,5]",
    "columns": "float[N,5,7]",
    "loose_scalar": "float",
    "loose5x4": "float[5,4]",
    "loose_t": "float[3,4,3,2]",
    "low": "float[N,3,2,5]",
    "four5": "float[4,5]",
    "lone": "float[N,1,5]",
}
_CONSTANTS = {
    "w_line": numbers(4, 3, 3),
    "w_volume": numbers(4, 3, 2, 2, 3),
    "w_group": numbers(4, 3, 3, 2),  # 6 -> 4 in two groups
    "w_depth": numbers(6, 1, 3, 3),
    "w_depth2": numbers(12, 1, 3, 3),
    **batch_norm(6, "6"),
    **batch_norm(12, "12"),
    **batch_norm(7, "7"),
    "b6": numbers(6),
    "b12": numbers(12),
    "t": numbers(3, 4, 3, 2),  # 3 -> 4
    "t_group": numbers(6, 2, 3, 2),  # 6 -> 4 in two groups
    "t_three": numbers(6, 4, 2, 2),  # 6 -> 12 in three groups
    "t_square": numbers(6, 3, 2, 2),  # 6 -> 6 in two groups
    "t_line": numbers(3, 4, 3),
    "t_volume": numbers(3, 4, 2, 3, 2),
    "k": numbers(5, 4),
    "k_one": numbers(5, 1),
    "one": numbers(1, low=0.1),
    "ones": np.ones(8, np.float32),
    "zeros": np.zeros(8, np.float32),
    "zero4": np.zeros(4, np.float32),
    "one4": np.ones(4, np.float32),
    "eight": numbers(8),
    "pair": np.array([-1, 5], np.int64),
    "k_turned": numbers(4, 5),
    "k_square": numbers(4, 4, seed=5),
    "k_cube": numbers(2, 5, 4),
    "k_cube_left": numbers(2, 7, 4),
    "left": numbers(6, 5),
    "c_scalar": numbers(seed=3).reshape(()),
    "c_one": numbers(1, seed=3),
    "c_row": numbers(1, 4),
    "c_column": numbers(3, 1),
    "c_whole": numbers(3, 4),
    "c_cube": numbers(1, 3, 4),
    "b_row": numbers(1, 4),
    "b_short": numbers(3),
    "w_flat": numbers(4, 3),
    "vector": numbers(5),
    "to_one": np.array([-1, 1, 80], np.int64),
    "w_empty": np.zeros((4, 0, 3, 3), np.float32),
    "k_cube4": numbers(2, 4, 5),
    "t_one": numbers(6, 1, 3, 2),
}


_row = completing(_INPUTS, _CONSTANTS)

_SIX = "BatchNormalization(c, g6, h6, m6, v6)"
_SEVEN = "BatchNormalization(c, g7, h7, m7, v7)"
_TWELVE = "BatchNormalization(c, g12, h12, m12, v12)"

FOLDS = {
    "Conv, bias": Row(f"c = Conv(x, w, b) {_N}"),
    "Conv, no bias": Row(f"c = Conv(x, w) {_N}"),
    "Conv, empty bias": Row(f'c = Conv(x, w, "") {_N}'),
    "Conv, asymmetric pads": Row(f"c = Conv<pads=[1,0,2,1]>(x, w, b) {_N}"),
    "Conv, strides and dilations": Row(f"c = Conv<pads=[2,2,2,2], strides=[2,1], dilations=[1,2]>(x, w, b) {_N}"),
    "Conv, SAME_UPPER": Row(f'c = Conv<auto_pad="SAME_UPPER", strides=[2,2]>(x, w) {_N}'),
    "Conv, two groups": Row(f"c = Conv<group=2>(deep, w_group, b) {_N}"),
    "Conv, depthwise": Row(f"c = Conv<group=6>(deep, w_depth, b6) y = {_SIX}"),
    "Conv, depthwise, twice as many": Row(f"c = Conv<group=6>(deep, w_depth2) y = {_TWELVE}"),
    "Conv, one number for all": Row(
        "c = Conv(x, w, b) r = Reshape(c, to_one) y = BatchNormalization(r, one, one, one, one)"
    ),
    "Conv, 1d": Row(f"c = Conv<pads=[1,0]>(line, w_line, b) {_N}"),
    "Conv, 3d": Row(f"c = Conv(volume, w_volume, b) {_N}"),
    "ConvTranspose, bias": Row(f"c = ConvTranspose<strides=[2,2]>(x, t, b) {_N}"),
    "ConvTranspose, no bias": Row(f"c = ConvTranspose<strides=[2,1]>(x, t) {_N}"),
    "ConvTranspose, empty bias": Row(f'c = ConvTranspose(x, t, "") {_N}'),
    "ConvTranspose, two groups": Row(f"c = ConvTranspose<group=2>(deep, t_group, b) {_N}"),
    "ConvTranspose, three groups": Row(f"c = ConvTranspose<group=3, strides=[2,2]>(deep, t_three, b12) y = {_TWELVE}"),
    "ConvTranspose, as many out as in": Row(f"c = ConvTranspose<group=2>(deep, t_square, b6) y = {_SIX}"),
    "ConvTranspose, everything": Row(
        "c = ConvTranspose<strides=[2,3], pads=[1,0,0,1], output_padding=[1,2], dilations=[1,2]>(x, t, b)" + _N
    ),
    "ConvTranspose, output_shape": Row(f"c = ConvTranspose<strides=[2,2], output_shape=[12,14]>(x, t, b) {_N}"),
    "ConvTranspose, 1d": Row(f"c = ConvTranspose<strides=[2]>(line, t_line, b) {_N}"),
    "ConvTranspose, 3d": Row(f"c = ConvTranspose(volume, t_volume) {_N}"),
    "Gemm, bias": Row(f"c = Gemm(flat, k, b) {_N}"),
    "Gemm, no bias": Row(f"c = Gemm(flat, k) {_N}"),
    "Gemm, empty bias": Row(f'c = Gemm(flat, k, "") {_N}'),
    "Gemm, transB": Row(f"c = Gemm<transB=1>(flat, k_turned, b) {_N}"),
    "Gemm, square": Row(f"c = Gemm(quad, k_square, b) {_N}", {"quad": "float[N,4]"}),
    "Gemm, square, transB": Row(f"c = Gemm<transB=1>(quad, k_square, b) {_N}", {"quad": "float[N,4]"}),
    "Gemm, transA": Row(f"c = Gemm<transA=1>(flat_column, k, b) {_N}"),
    "Gemm, alpha": Row(f"c = Gemm<alpha=0.25>(flat, k, b) {_N}"),
    "Gemm, beta": Row(f"c = Gemm<beta=0.25>(flat, k, b) {_N}"),
    "Gemm, beta 0": Row(f"c = Gemm<beta=0.0>(flat, k, b) {_N}"),
    "Gemm, beta without bias": Row(f"c = Gemm<beta=0.25>(flat, k) {_N}"),
    "Gemm, everything": Row(f"c = Gemm<alpha=-2.0, beta=0.5, transA=1, transB=1>(flat_column, k_turned, b) {_N}"),
    "Gemm, C scalar": Row(f"c = Gemm<beta=0.5>(flat, k, c_scalar) {_N}"),
    "Gemm, C [1]": Row(f"c = Gemm(flat, k, c_one) {_N}"),
    "Gemm, C [1,N]": Row(f"c = Gemm<beta=2.0>(flat, k, c_row) {_N}"),
    "Gemm, C [M,1]": Row(f"c = Gemm<beta=2.0>(three, k, c_column) {_N}"),
    "Gemm, C [M,N]": Row(f"c = Gemm(three, k, c_whole) {_N}"),
    "Gemm, opset 6": Row("c = Gemm<broadcast=1>(flat, k, b) y = BatchNormalization<is_test=1>(c, g, h, m, v)", opset=6),
    "Gemm, opset 6, C of one number": Row(
        "c = Gemm<broadcast=1>(flat, k, c_one) y = BatchNormalization<is_test=1>(c, g, h, m, v)", opset=6
    ),
    "Gemm, opset 6, whole C": Row(
        "c = Gemm(three, k, c_whole) y = BatchNormalization<is_test=1>(c, g, h, m, v)", opset=6
    ),
    "MatMul, Add": Row(f"d = MatMul(flat, k) c = Add(d, b) {_N}"),
    "MatMul, Add the other way": Row(f"d = MatMul(flat, k) c = Add(b, d) {_N}"),
    "MatMul, Sub": Row(f"d = MatMul(flat, k) c = Sub(d, b) {_N}"),
    "MatMul, constant minus": Row(f"d = MatMul(flat, k) c = Sub(b, d) {_N}"),
    "MatMul": Row(f"c = MatMul(flat, k) {_N}"),
    "MatMul, square": Row(f"c = MatMul(quad, k_square) {_N}", {"quad": "float[N,4]"}),
    "MatMul, constant left": Row(f"c = MatMul(left, columns) y = {_SIX}"),
    "MatMul, rank 3, channels behind a Transpose": Row(
        "d = MatMul(tokens, k) c = Transpose<perm=[0,2,1]>(d) y = BatchNormalization(c, g, h, m, v)"
    ),
    "MatMul, batched weight, channels on axis 1": Row(
        "d = MatMul(many, k_cube) c = Transpose<perm=[0,3,1,2]>(d) y = BatchNormalization(c, g, h, m, v)"
    ),
    "MatMul, batched constant left": Row(
        "d = MatMul(k_cube_left, many) c = Transpose<perm=[0,2,1,3]>(d) y = " + _SEVEN
    ),
    "InstanceNormalization": Row(f"c = InstanceNormalization(cx, g, b) {_N}", {"cx": "float[N,4,6,7]"}),
}
_LEFT = {
    "Conv, one number for all": "Conv Reshape",
    "MatMul, Add": "MatMul Add",
    "MatMul, Add the other way": "MatMul Add",
    "MatMul, Sub": "MatMul Sub",
    "MatMul, constant minus": "MatMul Sub",
    "MatMul": "MatMul Add",
    "MatMul, square": "MatMul Add",
    "MatMul, constant left": "MatMul Add",
    "MatMul, rank 3, channels behind a Transpose": "MatMul Add Transpose",
    "MatMul, batched weight, channels on axis 1": "MatMul Add Transpose",
    "MatMul, batched constant left": "MatMul Add Transpose",
}


@pytest.mark.parametrize("name", FOLDS)
def test_folds(name: str) -> None:
    done = check_folds(_row(FOLDS[name]), _LEFT.get(name, name.split(",")[0]))
    decision = done.decision()
    assert (decision.op_type, decision.action) == ("BatchNormalization", Action.FOLDED)
    assert FOLDS[name].text.split(" ")[0] in decision.target


LEFT_ALONE = {
    "WEIGHT_NOT_CONSTANT: Conv": Row(f"c = Conv(x, /w|loose_w/, b) {_N}"),
    "BIAS_NOT_CONSTANT: Conv": Row(f"c = Conv(x, w, /b|loose4/) {_N}"),
    "BIAS_NOT_CONSTANT: Conv, computed": Row(f"r = Relu(/b|loose4/) c = Conv(x, w, /b|r/) {_N}", outputs=("y", "r")),
    "WEIGHT_SHAPE: Conv, other channels": Row(f"c = Conv(x, w, b) y = /BatchNormalization(c, g, h, m, v)|{_SIX}/"),
    "WEIGHT_SHAPE: Conv, bias too short": Row(f"c = Conv(x, w, /b|b_short/) {_N}"),
    "WEIGHT_SHAPE: Conv, bias of rank 2": Row(f"c = Conv(x, w, /b|b_row/) {_N}"),
    "WEIGHT_SHAPE: Conv, weight of rank 2": Row(f"c = Conv(x, /w|w_flat/, b) {_N}"),
    "WEIGHT_NOT_CONSTANT: ConvTranspose": Row(f"c = ConvTranspose(x, /t|loose_t/, b) {_N}"),
    "BIAS_NOT_CONSTANT: ConvTranspose": Row(f"c = ConvTranspose(x, t, /b|loose4/) {_N}"),
    "WEIGHT_SHAPE: ConvTranspose, other channels": Row(
        f"c = ConvTranspose(x, t, b) y = /BatchNormalization(c, g, h, m, v)|{_SIX}/"
    ),
    "WEIGHT_SHAPE: ConvTranspose, group that does not divide": Row(
        f"c = ConvTranspose<group=/2|4/>(deep, t_group, b) {_N}"
    ),
    "WEIGHT_SHAPE: ConvTranspose, group 0": Row(f"c = ConvTranspose<group=/2|0/>(deep, t_group, b) {_N}"),
    "WEIGHT_SHAPE: ConvTranspose, bias too short": Row(f"c = ConvTranspose(x, t, /b|b_short/) {_N}"),
    "WEIGHT_NOT_CONSTANT: Gemm": Row(f"c = Gemm(flat, /k|loose5x4/, b) {_N}"),
    "BIAS_NOT_CONSTANT: Gemm": Row(f"c = Gemm(flat, k, /b|loose4/) {_N}"),
    "BIAS_NOT_CONSTANT: Gemm, scalar": Row(f"c = Gemm(flat, k, /c_scalar|loose_scalar/) {_N}"),
    "WEIGHT_SHAPE: Gemm, other channels": Row(f"c = Gemm(flat, k, b) y = /BatchNormalization(c, g, h, m, v)|{_SIX}/"),
    "WEIGHT_SHAPE: Gemm, weight of rank 3": Row(f"c = Gemm(flat, /k|k_cube4/, b) {_N}"),
    "WEIGHT_SHAPE: Conv, weight without elements": Row(f"c = Conv(x, /w|w_empty/, b) {_N}"),
    "WEIGHT_SHAPE: ConvTranspose, group that does not divide the inputs": Row(
        f"c = ConvTranspose<group=/2|4/>(deep, /t_group|t_one/, b) {_N}"
    ),
    "WRONG_AXIS: ConvTranspose behind a Transpose": Row(
        f"d = ConvTranspose(low, t) c = Transpose<perm=/[0,1,3,2]|[0,2,1,3]/>(d) {_N}"
    ),
    "WRONG_AXIS: Gemm behind a Transpose": Row(f"d = Gemm(four5, k) c = /Identity|Transpose/(d) {_N}"),
    "WRONG_AXIS: InstanceNormalization behind a Transpose": Row(
        f"d = InstanceNormalization(cx, g, b) c = Transpose<perm=/[0,1,3,2]|[0,2,1,3]/>(d) {_N}",
        {"cx": "float[N,4,4,7]"},
    ),
    "NOT_BROADCASTABLE: Gemm, C of rank 3": Row(f"c = Gemm(three, k, /c_whole|c_cube/) {_N}"),
    "WEIGHT_NOT_CONSTANT: MatMul": Row(f"c = MatMul(flat, /k|loose5x4/) {_N}"),
    "WEIGHT_NOT_CONSTANT: MatMul, left": Row(f"c = MatMul(/left|rows/, columns) y = {_SIX}", {"rows": "float[6,5]"}),
    "WEIGHT_SHAPE: MatMul, other channels": Row(f"c = MatMul(flat, k) y = /BatchNormalization(c, g, h, m, v)|{_SIX}/"),
    "WEIGHT_SHAPE: MatMul, vector": Row(
        "c = MatMul(lone, /k_one|vector/) y = BatchNormalization(c, one, one, one, one)"
    ),
    "SHAPE_UNKNOWN: MatMul, rank": Row(f"f = Reshape(flat, /pair|where/) c = MatMul(f, k) {_N}", {"where": "int64[D]"}),
    # The map is on axis 1, the weight's columns are on axis 2, and both have four.
    "WRONG_AXIS: MatMul, rank 3 with as many columns": Row(
        "d = MatMul(tokens, k) c = /Transpose<perm=[0,2,1]>|Identity/(d) y = BatchNormalization(c, g, h, m, v)"
    ),
    "WRONG_AXIS: MatMul, constant left, as many columns": Row(
        "d = MatMul(left, square) c = /Identity|Transpose<perm=[0,2,1]>/(d) y = " + _SIX, {"square": "float[N,5,6]"}
    ),
    "WRONG_AXIS: Conv behind a Transpose": Row(
        "d = Conv(x, w, b) c = Transpose<perm=/[0,1,3,2]|[0,2,1,3]/>(d) y = BatchNormalization(c, g, h, m, v)",
        {"x": "float[N,3,6,7]"},
    ),
    "BIAS_NOT_CONSTANT: InstanceNormalization": Row(
        f"c = InstanceNormalization(cx, g, /b|loose4/) {_N}", {"cx": "float[N,4,6,7]"}
    ),
    "WEIGHT_NOT_CONSTANT: InstanceNormalization": Row(
        f"c = InstanceNormalization(cx, /g|loose4/, b) {_N}", {"cx": "float[N,4,6,7]"}
    ),
    "OLD_OPSET: MatMul": Row("d = MatMul(flat, k) y = BatchNormalization<is_test=1>(d, g, h, m, v)", opset=(7, 6)),
    "MORE_NODES: two MatMuls would need an Add each": Row(
        "d = MatMul(flat, k) e = /Gemm|MatMul/(flat, k) c = Concat<axis=1>(d, e)"
        "y = BatchNormalization<epsilon=0.0>(c, ones, eight, zeros, ones)"
    ),
}


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_left_alone(name: str) -> None:
    check_left_alone(name, _row(LEFT_ALONE[name]))


@pytest.mark.parametrize("layer", ["Conv(x, w)", "ConvTranspose(x, t)", "Gemm(flat, k)", "MatMul(flat, k)"])
def test_a_scale_alone_adds_no_bias(layer: str) -> None:
    row = _row(Row(f"c = {layer} y = BatchNormalization(c, g, zero4, zero4, v)"))
    done = check_folds(row, layer.split("(")[0])
    assert len(done.model.graph.node[0].input) == 2


@pytest.mark.parametrize("layer", ["Conv(x, w, b)", "ConvTranspose(x, t, b)", "Gemm(flat, k, b)"])
def test_a_shift_alone_leaves_the_weight_as_it_is(layer: str) -> None:
    row = _row(Row(f"c = {layer} y = BatchNormalization<epsilon=0.0>(c, one4, h, zero4, one4)"))
    done = check_folds(row, layer.split("(")[0])
    weight = done.model.graph.node[0].input[1]
    before = next(tensor for tensor in row.model().graph.initializer if tensor.name == weight)
    assert next(tensor for tensor in done.model.graph.initializer if tensor.name == weight) == before


def test_a_shift_alone_names_the_operator_behind_which_it_is_added() -> None:
    row = _row(Row("d = MatMul(flat, k) y = BatchNormalization<epsilon=0.0>(d, one4, h, zero4, one4)"))
    assert check_folds(row, "MatMul Add").decision().target == ("d",)


def test_a_shift_alone_copies_no_weight_that_is_read_elsewhere() -> None:
    text = "d = Conv(x, w) z = Conv(x2, w) y = BatchNormalization<epsilon=0.0>(d, one4, h, zero4, one4)"
    constants = {"one4": np.ones(4, np.float32), "zero4": np.zeros(4, np.float32)}
    done = fold(Row(text, constants=constants, outputs=("y", "z")).model())
    assert done.operators == ["Conv", "Conv"]
    assert {node.input[1] for node in done.model.graph.node} == {"w"}


def test_a_weight_of_integers_is_not_scaled() -> None:
    text = "d = Conv(x, /w|w_int/) y = BatchNormalization(d, g, h, m, v)"
    check_left_alone("UNSUPPORTED_DTYPE", Row(text, constants={"w_int": np.arange(108).reshape(4, 3, 3, 3)}))


def test_a_bias_of_integers_takes_nothing_up() -> None:
    text = "d = Conv(x, w, /b|b_int/) y = BatchNormalization(d, g, h, m, v)"
    check_left_alone("UNSUPPORTED_DTYPE", Row(text, constants={"b_int": np.arange(4)}))


def test_a_matrix_takes_one_number_whatever_it_is_multiplied_with() -> None:
    text = "r = Reshape(x, form) d = MatMul(left, r) c = Reshape(d, single) y = BatchNormalization(c, g1, z1, z1, v1)"
    constants = {"left": numbers(4, 3), "single": np.array([-1, 1, 1, 1]), "g1": numbers(1), "v1": numbers(1, low=0.1)}
    row = Row(text, {"form": "int64[D]"}, {**constants, "z1": np.zeros(1, np.float32)})
    assert fold(row.model()).operators == ["Reshape", "MatMul", "Reshape"]


def test_every_table_input_is_used() -> None:
    texts = " ".join(row.text for row in (*FOLDS.values(), *LEFT_ALONE.values()))
    assert not [
        name for name in (*_INPUTS, *_CONSTANTS) if name not in texts and name not in INPUTS | {"zero4": "", "one4": ""}
    ]
