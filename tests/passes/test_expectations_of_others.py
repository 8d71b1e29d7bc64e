"""What other optimizers' tests ask of BatchNormalization, conv-mul, conv-add and affine, rebuilt from what they expect.

onnxoptimizer, onnxsim (which runs it), onnxslim, the rewrite rules of onnxscript, and onnxruntime's own fusions. Each
row is a model of ours with what they expect of it; those of `OTHERWISE` come out in another way, with the reason why.
"""

import numpy as np
import pytest

from tests.fold_models import Row, batch_norm, check_folds, fold, numbers

N = "BatchNormalization"
_INPUTS = {
    "flat": "float[N,5]",
    "tokens": "float[N,7,5]",
    "line": "float[N,3,9]",
    "volume": "float[N,3,5,6,7]",
    "p": "float[N,4,6,7]",
    "p5": "float[N,5,6,7]",
}
_CONSTANTS = {
    "w_line": numbers(4, 3, 3),
    "w_volume": numbers(4, 3, 3, 3, 3),
    "w_half": numbers(4, 2, 3, 3),
    "wt": numbers(3, 4, 2, 2),
    "wt_groups": numbers(4, 2, 3, 3),
    "wt_next": numbers(4, 6, 2, 2),
    "u": numbers(5, 4, 3, 3),
    "k": numbers(5, 4),
    "k_turned": numbers(4, 5),
    "c1": numbers(4, 1),
    "c11": numbers(4, 1, 1),
    "c111": numbers(4, 1, 1, 1),
    "whole": numbers(1, 4, 1, 1),
    "last": numbers(4),
    "row": numbers(7),
    "map4": numbers(4, 4, 5),
    "number": numbers(seed=1),
    "number1": numbers(1, seed=2),
    "c_loose": numbers(4, seed=5),
    "axes": np.array([1, 2], np.int64),
    "rows_first": np.array([0, 7, 5], np.int64),
    **batch_norm(6, "6"),
}
_BN = f"y = {N}(d, g, h, m, v)"
_EXPECTED = {
    "onnxoptimizer, BatchNormalization behind Conv": (f"d = Conv(x, w, b) {_BN}", "Conv"),
    "onnxoptimizer, without a bias": (f"d = Conv(x, w) {_BN}", "Conv"),
    "onnxoptimizer, an Add of a whole bias": ("d = Conv(x, w) y = Add(d, c11)", "Conv"),
    "onnxoptimizer, an Add of one number for all channels": ("d = Conv(x, w) y = Add(d, number1)", "Conv"),
    "onnxoptimizer, an Add with the axis of the batch": ("d = Conv(x, w) y = Add(d, whole)", "Conv"),
    "onnxoptimizer, a bias of a Constant": (
        "a = Constant<value = float[4,1,1] {1., 2., 3., 4.}>() d = Conv(x, w) y = Add(d, a)",
        "Conv",
    ),
    "onnxoptimizer, a bias that is squeezed": (
        "a = Squeeze(c11, axes) e = Unsqueeze(a, axes) d = Conv(x, w) y = Add(d, e)",
        "Conv",
    ),
    "onnxsim, Conv, BatchNormalization, Relu": (f"d = Conv(x, w, b) n = {N}(d, g, h, m, v) y = Relu(n)", "Conv Relu"),
    "onnxslim, Conv and BatchNormalization": (f"d = Conv<pads=[1,1,1,1]>(x, w) {_BN}", "Conv"),
    "onnxslim, ConvTranspose and BatchNormalization": (
        f"d = ConvTranspose<strides=[2,2]>(p, wt_next) y = {N}(d, g6, h6, m6, v6)",
        "ConvTranspose",
    ),
    "onnxslim, Conv and Add": ("d = Conv(x, w, b) y = Add(d, c11)", "Conv"),
    "onnxslim, Conv and Add the other way round": ("d = Conv(x, w, b) y = Add(c11, d)", "Conv"),
    "onnxslim, Conv and Mul": ("d = Conv(x, w, b) y = Mul(d, c11)", "Conv"),
    "onnxslim, Conv, Mul and Add": ("d = Conv(x, w) e = Mul(d, c11) y = Add(e, whole)", "Conv"),
    "onnxslim, Gemm and Mul": ("d = Gemm(flat, k, last) y = Mul(d, last)", "Gemm"),
    "onnxslim, Gemm and Add": ("d = Gemm(flat, k) y = Add(d, last)", "Gemm"),
    "onnxscript, Conv": (f"d = Conv(x, w, b) {_BN}", "Conv"),
    "onnxscript, Conv of groups": (f"d = Conv<group=2>(p, w_half, b) {_BN}", "Conv"),
    "onnxscript, Conv in one dim": (f"d = Conv(line, w_line) {_BN}", "Conv"),
    "onnxscript, Conv in three dims": (f"d = Conv(volume, w_volume) {_BN}", "Conv"),
    "onnxscript, ConvTranspose": (f"d = ConvTranspose(x, wt, b) {_BN}", "ConvTranspose"),
    "onnxscript, ConvTranspose of groups": (f"d = ConvTranspose<group=2>(p, wt_groups) {_BN}", "ConvTranspose"),
    "onnxscript, Gemm": (f"d = Gemm(flat, k, last) {_BN}", "Gemm"),
    "onnxscript, Gemm that is turned": (f"d = Gemm<transB=1>(flat, k_turned) {_BN}", "Gemm"),
    "onnxscript, Gemm with factors": (f"d = Gemm<alpha=0.5, beta=2.0>(flat, k, last) {_BN}", "Gemm"),
    "onnxscript, numbers behind a Conv": ("d = Conv(x, w, b) e = Mul(d, number) y = Add(e, number1)", "Conv"),
    "onnxscript, numbers behind a padded Conv": (
        "d = Conv<pads=[1,1,1,1]>(x, w, b) e = Mul(d, number) y = Add(e, number1)",
        "Conv",
    ),
    "onnxscript, numbers before a Conv": ("e = Mul(p, number) d = Add(e, number1) y = Conv(d, u)", "Conv"),
    "onnxruntime, Conv and Mul": ("d = Conv(x, w, b) y = Mul(d, c11)", "Conv"),
    "onnxruntime, Conv and Mul in three dims": ("d = Conv(volume, w_volume) y = Mul(d, c111)", "Conv"),
    "onnxruntime, Conv, Add and Mul in three dims": (
        "d = Conv(volume, w_volume) e = Add(d, c111) y = Mul(e, c111)",
        "Conv",
    ),
    "onnxruntime, Conv, BatchNormalization, Mul and Add by way of Unsqueeze": (
        (f"d = Conv(x, w) n = {N}(d, g, h, m, v) a = Unsqueeze(last, axes) e = Mul(n, a) f = Unsqueeze(c_loose, axes)"
        " y = Add(e, f)"),
        "Conv",
    ),
    "onnxruntime, MatMul and BatchNormalization": (f"d = MatMul(flat, k) {_BN}", "MatMul Add"),
    "onnxruntime, MatMul, Transpose and BatchNormalization": (
        f"e = MatMul(tokens, k) d = Transpose<perm=[0,2,1]>(e) {_BN}",
        "MatMul Add Transpose",
    ),
}  # fmt: skip


def _row(text: str) -> Row:
    return Row(text, _INPUTS, _CONSTANTS)


@pytest.mark.parametrize("name", _EXPECTED)
def test_what_they_expect(name: str) -> None:
    text, left = _EXPECTED[name]
    check_folds(_row(text), left)


# What they leave alone as well, because it would be wrong: the place that makes it so is the second of a pair.
_LEFT_ALONE = {
    "onnxoptimizer, an Add along another axis": "d = Conv(x, w) y = Add(d, /c11|row5/)",
    "onnxoptimizer, an Add at each position": "d = Conv(x, w) y = Add(d, /c11|map4/)",
    "onnxscript, a weight that is computed": f"d = Conv(x, /w|loose_w/, b) {_BN}",
    "onnxscript, a bias that is computed": f"d = Conv(x, w, /b|loose4/) {_BN}",
    "onnxscript, numbers before a padded Conv": "e = Mul(p, number) d = Add(e, number1)"
    " y = Conv<pads=/[0,0,0,0]|[1,1,1,1]/>(d, u)",
    "onnxruntime, another reader": f"d = Conv(x, w, b) {_BN} z = Relu(/x|d/)",
}  # fmt: skip


@pytest.mark.parametrize("name", _LEFT_ALONE)
def test_what_they_leave_alone(name: str) -> None:
    outputs = ("y", "z") if "z = " in _LEFT_ALONE[name] else ("y",)
    row = Row(_LEFT_ALONE[name], _INPUTS, {**_CONSTANTS, "row5": numbers(5)}, outputs)
    assert len(fold(row.good().model()).operators) < len(row.good().model().graph.node)
    done = fold(row.bad().model())
    if "padded" in name:  # the scale crosses the border
        assert done.operators == ["Add", "Conv"]
    else:
        assert not done.modified


# Where the result is another one than theirs: docs/equivalence.md and README say what is not done here.
OTHERWISE = {
    "onnxoptimizer and onnxslim make a Gemm of MatMul and Add: that saves no work and is no fold": (
        "d = MatMul(flat, k) y = Add(d, last)", "MatMul Add", False,
    ),
    "onnxslim and onnxscript put a Pad into the Conv: no map is involved, so it is general simplification": (
        "e = Pad(x, pads) y = Conv(e, w)", "Pad Conv", False,
    ),
    "onnxruntime makes a Gemm of MatMul and BatchNormalization: the Add is its bias, in one operator more": (
        f"d = MatMul(flat, k) {_BN}", "MatMul Add", True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERWISE)
def test_what_comes_out_otherwise(name: str) -> None:
    text, left, modified = OTHERWISE[name]
    done = fold(Row(text, _INPUTS, {**_CONSTANTS, "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64)}).model())
    assert done.operators == left.split()
    assert done.modified == modified
