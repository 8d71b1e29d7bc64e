"""Parallel linear branches: what becomes one operator, and what stays because one precondition is broken."""

import gc
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper

from bnfold.decisions import Action
from bnfold.equivalence import Standing, prove
from bnfold.graph import Model
from bnfold.onnxfile import read, to_proto
from bnfold.passes import PassOptions, default_passes
from bnfold.passes.merge_branches import MergeBranches
from bnfold.pipeline import run_passes
from tests.fold_models import (
    CONSTANTS,
    INPUTS,
    Folded,
    Row,
    assert_same_function,
    assert_well_formed,
    batch_norm,
    numbers,
)

_INPUTS = {
    **INPUTS,
    "q": "float[N,4,6,7]",
    "deep": "float[N,6,6,7]",
    "line": "float[N,4,9]",
    "volume": "float[N,4,3,4,5]",
    "point": "float[N,4,1,1]",
    "gray": "float[N,1,6,7]",
    "flat": "float[N,5]",
    "three": "float[3,5]",
    "square": "float[5,5]",
    "flat4": "float[4,N]",
    "tokens": "float[N,3,5]",
    "even": "float[N,5,5]",
    "columns": "float[N,5,7]",
    "vector": "float[5]",
    "loose1": "float[4,4,1,1]",
    "count": "int64",
    "going": "bool",
}
_CONSTANTS = {
    **CONSTANTS,
    "w3": numbers(4, 4, 3, 3, seed=3),
    "other3": numbers(4, 4, 3, 3, seed=9),
    "w1": numbers(4, 4, 1, 1, seed=4),
    "up1": numbers(6, 4, 1, 1, seed=5),
    "down3": numbers(4, 6, 3, 3, seed=5),
    "across": numbers(4, 4, 1, 3),
    "down": numbers(4, 4, 3, 1),
    "b2": numbers(4, seed=8),
    "few3": numbers(5, 4, 3, 3),
    "few1": numbers(5, 4, 1, 1),
    "one_out": numbers(1, 4, 1, 1),
    "gray1": numbers(1, 1, 1, 1),
    "gray4": numbers(4, 1, 1, 1),
    "wide3": numbers(4, 6, 3, 3, seed=5),
    "wide2": numbers(4, 6, 2, 2, seed=6),
    "wide1": numbers(4, 6, 1, 1, seed=7),
    "narrow3": numbers(6, 4, 3, 3, seed=7),
    "each61": numbers(6, 1, 1, 1, seed=6),
    "each3": numbers(4, 1, 3, 3, seed=5),
    "each1": numbers(4, 1, 1, 1, seed=6),
    "twice3": numbers(12, 1, 3, 3, seed=5),
    "twice1": numbers(12, 1, 1, 1, seed=6),
    "pair3": numbers(4, 3, 3, 3, seed=5),  # 6 -> 4 in two groups
    "pair1": numbers(4, 3, 1, 1, seed=6),
    "deep1": numbers(4, 6, 1, 1, seed=6),
    "deep3": numbers(6, 6, 3, 3, seed=6),
    "trio3": numbers(6, 2, 3, 3, seed=6),  # 6 -> 6 in three groups
    "each6": numbers(6, 1, 3, 3, seed=6),
    "line3": numbers(4, 4, 3),
    "line1": numbers(4, 4, 1),
    "volume3": numbers(4, 4, 3, 3, 3),
    "volume1": numbers(4, 4, 1, 1, 1),
    "gain": numbers(4, 1, 1),
    "two": np.float32(2.5),
    "huge1": np.full((4, 4, 1, 1), 3e38, np.float32),
    "tiny1": np.full((4, 4, 1, 1), 2e-38, np.float32),
    "minus_tiny1": np.full((4, 4, 1, 1), -1.9e-38, np.float32),
    "k": numbers(5, 5),
    "k2": numbers(5, 5, seed=2),
    "k54": numbers(5, 4),
    "k45": numbers(4, 5),
    "b5": numbers(5),
    "b5_2": numbers(5, seed=4),
    "b35": numbers(3, 5),
    "b15": numbers(1, 5),
    "b1115": numbers(1, 1, 1, 5),
    "row4": numbers(1, 1, 4),
    "column5": numbers(5, 1),
    "integers": np.arange(16, dtype=np.int8).reshape(4, 4, 1, 1),
    "scale": np.float32(0.5),
    "floats": numbers(4, 4, 1, 1),
    **batch_norm(6, "6"),
    **batch_norm(5, "5"),
}
_N1, _N2 = "BatchNormalization(c, g, h, m, v)", "BatchNormalization(d, g_2, h_2, m_2, v_2)"
_PADDED = "Conv<pads=[1,1,1,1]>"


def model_of(row: Row) -> ModelProto:
    return Row(row.text, _INPUTS | dict(row.inputs or {}), _CONSTANTS, row.outputs, row.opset, row.ir).model()


def optimized(model: ModelProto, **options: Any) -> Folded:
    """What all passes of `optimize` make of a copy."""
    file = read(model.SerializeToString())
    scopes = Model(file)
    decisions = run_passes(scopes, default_passes(PassOptions(**options)))
    return Folded(to_proto(file), decisions, scopes.modified)


def checked(model: ModelProto, **options: Any) -> Folded:
    """The same, with everything that holds of any right result."""
    onnx.checker.check_model(model, full_check=True)
    done = optimized(model, **options)
    assert done.modified
    assert_well_formed(model, done.model)
    assert_same_function(model, done.model)
    assert {proof.standing for proof in prove(model, done.model)} == {Standing.HOLDS}
    again = optimized(done.model, **options)
    assert not again.modified, "a second run changes something"
    return done


FOLDS = {
    "RepVGG": (
        Row(
            f"r = Relu(q) c = {_PADDED}(r, w3) n = {_N1} d = Conv(r, w1) o = {_N2} "
            "i = BatchNormalization(r, g, h_2, m, v_2) s = Add(n, o) t = Add(s, i) y = Relu(t)"
        ),
        "Relu Conv Relu",
    ),
    "RepVGG, one Sum": (
        Row(
            f"c = {_PADDED}(q, w3) n = {_N1} d = Conv(q, w1) o = {_N2} i = BatchNormalization(q, g, h_2, m, v_2) "
            "y = Sum(i, n, o)"
        ),
        "Conv",
    ),
    "RepVGG, opset 8": (
        Row(f"c = {_PADDED}(q, w3) d = Conv(q, w1, b) s = Add(c, d) y = Add(s, q)", opset=8),
        "Conv",
    ),
    "a normalization behind the sum": (
        Row(f"e = {_PADDED}(q, w3) d = Conv(q, w1) s = Add(e, d) c = Add(s, q) y = {_N1}"),
        "Conv",
    ),
    "a sum within another, with a normalization between": (
        Row(f"e = {_PADDED}(q, w3) c = Add(e, q) n = {_N1} y = Add(n, q)"),
        "Conv",
    ),
    "strides": (
        Row("c = Conv<pads=[1,1,1,1], strides=[2,2]>(q, few3) d = Conv<strides=[2,2]>(q, few1) y = Add(d, c)"),
        "Conv",
    ),
    "a dilated kernel": (
        Row("c = Conv<pads=[2,1,2,1], dilations=[2,1]>(q, w3, b) d = Conv(q, w1, b2) y = Add(c, d)"),
        "Conv",
    ),
    "the centre of a kernel that is padded on one side": (
        Row("c = Conv<pads=[2,2,0,0]>(q, w3, b) d = Conv(q, w1, b2) y = Add(c, d)"),
        "Conv",
    ),
    "shifted kernels of one size": (
        Row("c = Conv<pads=[2,1,0,1]>(q, w3, b) d = Conv<pads=[1,1,1,1]>(q, other3, b2) y = Add(c, d)"),
        "Conv",
    ),
    "SAME": (
        Row('c = Conv<auto_pad="SAME_UPPER">(q, w3, b) d = Conv<auto_pad="SAME_LOWER">(q, w1) y = Add(c, d)'),
        "Conv",
    ),
    "SAME, of another kernel": (
        Row('c = Conv<auto_pad="SAME_UPPER">(q, w1, b) d = Conv<pads=[1,1,1,1]>(q, w3) y = Add(c, d)'),
        "Conv",
    ),
    "VALID": (Row('c = Conv<auto_pad="VALID">(q, w1, b) y = Add(c, q)'), "Conv"),
    "the identity alone": (Row(f"c = {_PADDED}(q, w3, b) y = Add(q, c)"), "Conv"),
    "the identity twice": (Row(f"c = {_PADDED}(q, w3, b) y = Sum(q, c, q)"), "Conv"),
    "an Identity": (Row(f"i = Identity(q) c = {_PADDED}(q, w3, b) y = Add(i, c)"), "Conv"),
    "a gain on the identity": (Row(f"i = Mul(gain, q) c = {_PADDED}(q, w3, b) y = Add(i, c)"), "Conv"),
    "one gain for all": (Row(f"i = Mul(q, two) c = {_PADDED}(q, w3, b) e = Mul(c, two) y = Add(i, e)"), "Conv"),
    "depthwise": (
        Row("c = Conv<pads=[1,1,1,1], group=4>(q, each3) d = Conv<group=4>(q, each1, b) s = Add(c, d) y = Add(s, q)"),
        "Conv",
    ),
    "depthwise, more out than in": (
        Row("c = Conv<pads=[1,1,1,1], group=6>(deep, twice3) d = Conv<group=6>(deep, twice1) y = Add(c, d)"),
        "Conv",
    ),
    "two groups": (
        Row("c = Conv<pads=[1,1,1,1], group=2>(deep, pair3) d = Conv<group=2>(deep, pair1, b) y = Add(c, d)"),
        "Conv",
    ),
    "groups within the groups of the larger kernel": (
        Row(
            "c = Conv<pads=[1,1,1,1], group=3>(deep, trio3) d = Conv<pads=[1,1,1,1], group=6>(deep, each6) "
            "e = Conv<pads=[1,1,1,1]>(deep, deep3) s = Add(c, d) y = Add(e, s)"
        ),
        "Conv",
    ),
    "ACNet": (
        Row(
            f"c = {_PADDED}(q, w3, b) n = {_N1} d = Conv<pads=[0,1,0,1]>(q, across) o = {_N2} "
            "e = Conv<pads=[1,0,1,0]>(q, down, b) s = Add(n, o) y = Add(s, e)"
        ),
        "Conv",
    ),
    "one row and one column, with a point each": (
        Row("d = Conv<pads=[0,1,0,1]>(q, across) e = Conv(q, w1, b) y = Add(d, e)"),
        "Conv",
    ),
    "DBB": (
        Row(
            f"c = {_PADDED}(q, w3) n = {_N1} d = Conv(q, w1) o = {_N2} u = Conv(q, up1) v1 = {_PADDED}(u, down3, b) "
            "a = Conv(q, w1) p = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(a) "
            "e = BatchNormalization(p, g, h, m, v_2) s = Add(n, o) t = Add(s, v1) y = Add(t, e)"
        ),
        "Conv",
    ),
    "two in a row, a shift between and no padding": (
        Row("c = Conv(q, w3) u = Conv(q, up1, b6) d = Conv(u, down3, b) y = Add(c, d)", None),
        "Conv",
    ),
    "two in a row, the kernel first": (
        Row(f"d = {_PADDED}(q, w3, b) e = Conv(d, w1, b2) y = Add(e, q)"),
        "Conv",
    ),
    "average pooling of the source": (
        Row("c = Conv(q, w3) p = AveragePool<kernel_shape=[3,3]>(q) y = Add(c, p)"),
        "Conv",
    ),
    "a Pad in front": (
        Row("p = Pad(q, ring) c = Conv(p, w3, b) d = Conv(q, w1, b2) s = Add(c, d) y = Add(s, q)"),
        "Conv",
    ),
    "a Pad in front, strides": (
        Row(
            "p = Pad(q, ahead) c = Conv<strides=[2,2], pads=[0,0,1,1]>(p, w3) d = Conv<strides=[2,2]>(q, w1) "
            "y = Add(c, d)"
        ),
        "Conv",
    ),
    "a Pad behind a pointwise kernel": (
        Row("u = Conv(q, up1) p = Pad(u, ring) c = Conv(p, down3, b) d = Conv(q, w1) y = Add(c, d)"),
        "Conv",
    ),
    "a padded kernel of one tap with a bias": (
        Row("u = Conv<pads=[1,1,1,1]>(q, w1, b) c = Conv(u, w3, b2) d = Conv(q, w1) y = Add(c, d)"),
        "Conv",
    ),
    "a difference": (Row(f"c = {_PADDED}(q, w3, b) d = Conv(q, w1, b2) y = Sub(c, d)"), "Conv"),
    "the identity less a kernel": (Row(f"c = {_PADDED}(q, w3, b) y = Sub(q, c)"), "Conv"),
    "a normalization less a kernel": (Row(f"d = {_PADDED}(q, w3) c = Identity(q) n = {_N1} y = Sub(n, d)"), "Conv"),
    "differences of differences": (
        Row(
            f"c = {_PADDED}(q, w3, b) d = Conv(q, w1, b2) e = {_PADDED}(q, other3) s = Sub(d, e) t = Sub(c, s) "
            "y = Sub(q, t)"
        ),
        "Conv",
    ),
    "something else less both": (
        Row(f"z = Sigmoid(q) c = {_PADDED}(q, w3, b) d = Conv(q, w1, b2) s = Sub(z, c) y = Sub(s, d)"),
        "Sigmoid Conv Sub",
    ),
    "one less the difference of something else and the other": (
        Row(f"z = Sigmoid(q) c = {_PADDED}(q, w3, b) d = Conv(q, w1, b2) s = Sub(z, c) y = Sub(d, s)"),
        "Sigmoid Conv Sub",
    ),
    "less a sum with something else in it": (
        Row(f"z = Sigmoid(q) c = {_PADDED}(q, w3, b) d = Conv(q, w1, b2) s = Sum(z, d, q) y = Sub(c, s)"),
        "Sigmoid Conv Sub",
    ),
    "parts of the sum that hold some of the branches": (
        Row(
            f"z = Sigmoid(q) c = {_PADDED}(q, w3, b) d = Conv(q, w1, b2) e = {_PADDED}(q, other3) s = Add(c, d) "
            "t = Sub(z, e) u = Sum(t, z, q) y = Sub(s, u)"
        ),
        "Sigmoid Conv Sum Sub",
    ),
    "a Neg behind a kernel": (Row(f"c = {_PADDED}(q, w3, b) n = Neg(c) d = Conv(q, w1, b2) y = Add(d, n)"), "Conv"),
    "a Neg in front of a kernel, and one alone": (
        Row(f"n = Neg(q) c = {_PADDED}(n, w3, b) d = Conv(q, w1, b2) o = Neg(q) s = Sub(c, d) y = Sub(s, o)"),
        "Conv",
    ),
    "a Neg behind the largest, and what is subtracted": (
        Row(f"z = Sigmoid(q) c = {_PADDED}(q, w3, b) n = Neg(c) d = Conv(q, w1) s = Sub(z, d) y = Add(n, s)"),
        "Sigmoid Conv Sub",
    ),
    "a Neg of a product": (
        Row("c = MatMul(tokens, k) n = Neg(c) d = MatMul(tokens, k2) e = Add(d, b5) y = Sub(e, n)"),
        "MatMul Add",
    ),
    "a Neg and ConvTranspose": (Row("c = ConvTranspose(q, w1, b) n = Neg(q) y = Add(c, n)"), "ConvTranspose"),
    "what stands in the way is merged first": (
        Row(
            f"r = Sigmoid(q) c = {_PADDED}(q, w3) e = {_PADDED}(r, other3) s = Sub(c, e) "
            "d = Conv(q, w1) f = Conv(r, w1) t = Sub(d, f) y = Add(s, t)"
        ),
        "Sigmoid Conv Conv Sub",
    ),
    "a constant in a Sum": (Row(f"c = {_PADDED}(q, w3) d = Conv(q, w1, b) y = Sum(c, gain, d)"), "Conv Sum"),
    "ConvTranspose": (
        Row(
            "c = ConvTranspose<pads=[1,1,1,1]>(q, wide3, b6) n = BatchNormalization(c, g6, h6, m6, v6) "
            "d = ConvTranspose(q, wide1) y = Add(n, d)"
        ),
        "ConvTranspose",
    ),
    "ConvTranspose, the identity and a normalization": (
        Row(
            "d = ConvTranspose<pads=[1,1,1,1]>(q, w3, b) c = Identity(q) i = BatchNormalization(c, g, h, m, v) "
            "e = ConvTranspose(q, w1) s = Add(d, e) t = Sub(s, q) y = Add(t, i)"
        ),
        "ConvTranspose",
    ),
    "ConvTranspose, strides": (
        Row(
            "c = ConvTranspose<pads=[1,1,1,1], strides=[2,2], output_padding=[1,1]>(q, wide3, b6) "
            "d = ConvTranspose<strides=[2,2], output_padding=[1,1]>(q, wide1) y = Sub(d, c)"
        ),
        "ConvTranspose",
    ),
    "ConvTranspose, taps in place of output_padding": (
        Row(
            "c = ConvTranspose<strides=[2,2]>(q, wide2, b6) "
            "d = ConvTranspose<strides=[2,2], output_padding=[1,1]>(q, wide1) y = Add(c, d)"
        ),
        "ConvTranspose",
    ),
    "ConvTranspose, output_padding of both": (
        Row(
            "c = ConvTranspose<strides=[3,3], output_padding=[1,1]>(q, wide2, b6) "
            "d = ConvTranspose<strides=[3,3], output_padding=[2,2]>(q, wide1) y = Add(c, d)"
        ),
        "ConvTranspose",
    ),
    "ConvTranspose, groups": (
        Row(
            "c = ConvTranspose<pads=[1,1,1,1], group=3>(deep, trio3) d = ConvTranspose<group=6>(deep, each61, b6) "
            "e = ConvTranspose<pads=[1,1,1,1]>(deep, deep3) s = Add(c, e) t = Add(s, d) y = Add(t, deep)"
        ),
        "ConvTranspose",
    ),
    "ConvTranspose, two in a row": (
        Row(
            "u = ConvTranspose(q, wide1) c = ConvTranspose<pads=[1,1,1,1]>(u, narrow3, b) e = ConvTranspose(c, w1) "
            "d = ConvTranspose(q, w1, b2) y = Add(e, d)"
        ),
        "ConvTranspose",
    ),
    "ConvTranspose, one dimension, dilated": (
        Row(
            "c = ConvTranspose<pads=[2,2], dilations=[2]>(line, line3) d = ConvTranspose(line, line1, b) y = Add(c, d)"
        ),
        "ConvTranspose",
    ),
    "ConvTranspose, VALID": (Row('c = ConvTranspose<auto_pad="VALID">(q, w1, b) y = Add(c, q)'), "ConvTranspose"),
    "one dimension": (Row("c = Conv<pads=[1,1]>(line, line3) d = Conv(line, line1, b) y = Sum(c, line, d)"), "Conv"),
    "three dimensions": (
        Row("c = Conv<pads=[1,1,1,1,1,1]>(volume, volume3) d = Conv(volume, volume1, b) y = Add(c, d)"),
        "Conv",
    ),
    "something else is added first": (Row(f"z = Sigmoid(q) c = {_PADDED}(q, w3) s = Add(c, z) y = Add(s, q)"), None),
    "something else is added last": (Row(f"z = Sigmoid(q) c = {_PADDED}(q, w3) s = Add(c, q) y = Add(s, z)"), None),
    "something else beside two that go": (
        Row(f"z = Sigmoid(q) c = {_PADDED}(q, w3) d = Conv(q, w1) s = Add(d, z) y = Add(s, c)"),
        None,
    ),
    "something else in one Sum": (Row(f"z = Sigmoid(q) c = {_PADDED}(q, w3) y = Sum(z, q, c)"), "Sigmoid Conv Sum"),
    "branches of two values": (
        Row(
            f"r = Sigmoid(q) c = {_PADDED}(q, w3) d = Conv(q, w1) e = {_PADDED}(r, other3) f = Conv(r, w1) "
            "s = Add(c, e) t = Add(d, f) y = Add(s, t)"
        ),
        "Sigmoid Conv Conv Add",
    ),
    "Gemm": (
        Row("c = Gemm<alpha=0.5>(flat, k, b5) d = Gemm<transB=1, beta=2.0>(flat, k2, b15) y = Add(c, d)"),
        "Gemm",
    ),
    "Gemm and the identity": (Row("c = Gemm<transB=1>(flat, k) y = Add(flat, c)"), "Gemm"),
    "Gemm and a normalization": (
        Row("c = Gemm(flat, k) n = BatchNormalization(flat, g5, h5, m5, v5) y = Add(n, c)"),
        "Gemm",
    ),
    "Gemm, transposed": (
        Row("c = Gemm<transA=1>(flat4, k45) d = Gemm<transA=1>(flat4, k45, b5) y = Add(c, d)"),
        "Gemm",
    ),
    "Gemm, opset 6": (
        Row("c = Gemm<broadcast=1>(flat, k, b5_2) d = Gemm<broadcast=1>(flat, k2, b5) y = Sum(c, d)", opset=6),
        "Gemm",
    ),
    "Gemm and MatMul": (Row("c = MatMul(flat, k) d = Gemm(flat, k2, b5) y = Add(c, d)"), "Gemm"),
    "MatMul": (Row("c = MatMul(tokens, k) d = MatMul(tokens, k2) y = Add(c, d)"), "MatMul"),
    "MatMul, with a bias each": (
        Row("c = MatMul(tokens, k) d = Add(c, b5) e = MatMul(tokens, k2) f = Add(b15, e) y = Add(d, f)"),
        "MatMul Add",
    ),
    "MatMul less another, with a bias": (
        Row("c = MatMul(tokens, k) d = MatMul(tokens, k2) e = Add(d, b5) y = Sub(c, e)"),
        "MatMul Add",
    ),
    "Gemm, transposed, and a matrix behind": (
        Row("a = Gemm<transA=1>(square, k) c = Gemm(a, k2, b5) d = Gemm<transA=1>(square, k2) y = Sub(c, d)"),
        "Gemm",
    ),
    "MatMul and the identity": (Row("c = MatMul(tokens, k) d = Add(c, b5) y = Add(d, tokens)"), "MatMul Add"),
    "MatMul from the left": (
        Row("c = MatMul(k45, columns) d = MatMul(k45, columns) e = Add(d, gain4) y = Add(c, e)"),
        "MatMul Add",
    ),
    "in a body": (
        Row(
            "y = If(flag) <then_branch = t () => (float[N,4,6,7] r) { c = Conv<pads=[1,1,1,1]>(q, w3) r = Add(c, q) }, "
            "else_branch = e () => (float[N,4,6,7] r2) { r2 = Sigmoid(q) }>"
        ),
        "If",
    ),
}
_CONSTANTS["b6"] = numbers(6)
_CONSTANTS["ring"] = np.array([0, 0, 1, 1, 0, 0, 1, 1])
_CONSTANTS["ahead"] = np.array([0, 0, 1, 1, 0, 0, 0, 0])
_CONSTANTS["channel_behind"] = np.array([0, 0, 1, 1, 0, 2, 1, 1])
_CONSTANTS["half"] = np.float32(0.5)
_CONSTANTS["zero"] = np.float32(0)
_CONSTANTS["gain4"] = numbers(4, 1)


@pytest.mark.parametrize("name", FOLDS)
def test_branches_become_one_operator(name: str) -> None:
    row, left = FOLDS[name]
    done = checked(model_of(row))
    assert all(decision.action is not Action.KEPT for decision in done.decisions), done.decisions
    if left is None:
        assert sorted(done.operators) == ["Add", "Conv", "Sigmoid"]
    else:
        assert done.operators == left.split()


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_types(dtype: Any) -> None:
    kind = {np.float16: "float16", np.float64: "double"}[dtype]
    row = Row(f"c = {_PADDED}(q, w3, b) d = Conv(q, w1) s = Add(c, d) y = Add(s, q)")
    constants = {name: array.astype(dtype) for name, array in _CONSTANTS.items() if name in ("w3", "w1", "b")}  # type: ignore[attr-defined]  # arrays
    model = Row(row.text, {"q": f"{kind}[N,4,6,7]"}, constants).model()
    done = optimized(model)
    assert done.operators == ["Conv"]
    weight, centre = done.constant("w3"), [1, 1]
    expected = constants["w3"].astype(np.float64)
    expected[:, :, *centre] += constants["w1"].astype(np.float64)[:, :, 0, 0] + np.eye(4)
    assert weight.dtype == dtype
    assert (weight == expected.astype(dtype)).all(), "rounded once"


LEFT_ALONE: dict[str, Row] = {
    "KERNELS_DIFFER: strides": Row("c = Conv(point, w1) d = Conv<strides=[1,/1|2/]>(point, w1) y = Add(c, d)"),
    "KERNELS_DIFFER: padding behind": Row(
        "c = Conv<pads=[1,1,1,1], strides=[2,1]>(q, w3) d = Conv<pads=[1,1,/1|0/,1], strides=[2,1]>(q, w3) "
        "y = Add(c, d)"
    ),
    "KERNELS_DIFFER: SAME is another padding for even and odd sizes": Row(
        'c = Conv<auto_pad="/VALID|SAME_UPPER/", strides=[2,2]>(q, w1) d = Conv<strides=[2,2]>(q, w1) y = Add(c, d)'
    ),
    "KERNELS_DIFFER: one channel is broadcast": Row("c = Conv(q, w1) d = Conv(q, /w1|one_out/) y = Add(c, d)"),
    "KERNELS_DIFFER: the identity is broadcast": Row("c = Conv(gray, /gray1|gray4/) y = Add(c, gray)"),
    "KERNELS_DIFFER: two in a row, neither pointwise": Row(
        f"c = {_PADDED}(q, w3) d = Conv<pads=[/0,0,0,0|1,1,1,1/]>(c, /w1|w3/) y = Add(d, q)"
    ),
    "KERNELS_DIFFER: the identity is not transposed": Row("c = Gemm<transA=/0|1/>(square, k) y = Add(c, square)"),
    "KERNELS_DIFFER: one transposed, one not": Row(
        "c = Gemm<transA=/0|1/>(square, k) d = Gemm(square, k2) y = Add(c, d)"
    ),
    "KERNELS_DIFFER: matrices at both sides": Row(
        "a = MatMul(even, k) c = MatMul(/a, k2|k2, a/) b = MatMul(even, k2) d = MatMul(/b, k|k, b/) y = Add(c, d)"
    ),
    "KERNELS_DIFFER: transposed twice": Row(
        "a = Gemm<transA=1>(square, k) c = Gemm<transA=/0|1/>(a, k2) b = Gemm<transA=1>(square, k2) "
        "d = Gemm<transA=/0|1/>(b, k) y = Add(c, d)"
    ),
    "KERNELS_DIFFER: Conv and ConvTranspose": Row("c = Conv(q, w1) d = /Conv|ConvTranspose/(q, w1, b) y = Add(c, d)"),
    "KERNELS_DIFFER: ConvTranspose and an average": Row(
        "c = /Conv|ConvTranspose/<pads=[1,1,1,1]>(q, w3) "
        "p = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(q) y = Add(c, p)"
    ),
    "KERNELS_DIFFER: ConvTranspose of another size": Row(
        "c = ConvTranspose(point, w1) d = ConvTranspose<pads=[1,1,1,/1|0/]>(point, w3) y = Add(c, d)"
    ),
    "KERNELS_DIFFER: ConvTranspose, SAME": Row(
        'c = ConvTranspose(q, w1) d = ConvTranspose<auto_pad="/VALID|SAME_UPPER/">(q, w1) y = Add(c, d)'
    ),
    "KERNELS_DIFFER: ConvTranspose, a stated size": Row(
        "c = ConvTranspose(q, w1) d = ConvTranspose</pads=[0,0,0,0]|output_shape=[6,7]/>(q, w1) y = Add(c, d)"
    ),
    "KERNELS_DIFFER: ConvTranspose spread twice": Row(
        "a = ConvTranspose<pads=[1,1,1,1]>(q, w3) c = ConvTranspose<strides=[/1,1|2,2/]>(a, w1) "
        "d = ConvTranspose<strides=[/1,1|2,2/]>(q, w1) y = Add(c, d)"
    ),
    "KERNELS_DIFFER: a Pad of channels": Row(
        "p = Pad(q, /ring|channel_behind/) c = Conv(p, /w3|down3/) d = Conv(q, w1) y = Add(c, d)"
    ),
    "SHIFT_BLOCKED: a bias in front of ConvTranspose": Row(
        "u = ConvTranspose(q, w1/|, b/) c = ConvTranspose<pads=[1,1,1,1]>(u, w3) d = ConvTranspose(q, w1) y = Add(c, d)"
    ),
    "PADDED_BORDER: a Pad with another number": Row(
        "p = Pad(q, ring, /zero|half/) c = Conv(p, w3) d = Conv(q, w1) y = Add(c, d)"
    ),
    "MORE_NODES: something that is subtracted would be left": Row(
        f"z = Sigmoid(q) c = {_PADDED}(q, w3) s = Sub(q, /c|z/) y = Sub(s, /z|c/)"
    ),
    "MORE_WORK: a row and a column": Row(
        "c = Conv<pads=[/1|0/,1,/1|0/,1]>(q, /w3|across/) d = Conv<pads=[1,0,1,0]>(q, down) y = Add(c, d)"
    ),
    "MORE_WORK: a larger kernel of finer groups": Row(
        "c = Conv<pads=[1,1,1,1], group=6>(deep, each6) d = Conv<pads=[/1,1,1,1|0,0,0,0/]>(deep, /deep3|deep61/) "
        "y = Add(c, d)"
    ),
    "MORE_WORK: dilated": Row(
        "c = Conv<pads=[1,1,1,1]>(q, w3) d = Conv<pads=[/1,1,1,1|2,2,2,2/], dilations=[/1,1|2,2/]>(q, w3) y = Add(c, d)"
    ),
    "WEIGHT_NOT_CONSTANT": Row(f"c = {_PADDED}(q, w3) d = Conv(q, /w1|loose1/) y = Add(c, d)"),
    "BIAS_NOT_CONSTANT": Row(f"c = {_PADDED}(q, w3) d = Conv(q, w1, /b|loose4/) y = Add(c, d)"),
    "UNSUPPORTED_DTYPE: quantized": Row(
        f"w = DequantizeLinear(integers, scale) c = {_PADDED}(q, w3) d = Conv(q, /floats|w/) y = Add(c, d)"
    ),
    "OTHER_CONSUMER": Row(f"c = {_PADDED}(q, w3) d = Conv(q, w1) y = Add(c, d) z = Sigmoid(/q|d/)", outputs=("y", "z")),
    "VALUE_IS_OUTPUT": Row(
        f"c = {_PADDED}(q, w3) d = Conv(q, w1) y = Add(c, d) z = Sigmoid(q)", outputs=("y", "/z|d/")
    ),
    "WEIGHT_OVERFLOW": Row("c = Conv(q, huge1) d = Conv(q, /w1|huge1/) y = Add(c, d)"),
    "WEIGHT_UNDERFLOW": Row("c = Conv(q, tiny1) d = Conv(q, /tiny1|minus_tiny1/) y = Add(c, d)"),
    "WEIGHT_SHAPE": Row("c = MatMul(tokens, k) d = MatMul(tokens, /k2|k_cube/) y = Add(c, d)"),
    "PADDED_BORDER: a bias between": Row(
        f"c = {_PADDED}(q, w3) u = Conv(q, up1/|, b6/) d = {_PADDED}(u, down3, b) y = Add(c, d)"
    ),
    "PADDED_BORDER: a shift in front": Row(
        f"c = {_PADDED}(q, w3) u = /Mul|Add/(q, gain) d = {_PADDED}(u, w3) y = Add(c, d)"
    ),
    "PADDED_BORDER: an average over fewer": Row(
        f"c = {_PADDED}(q, w3) p = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=/1|0/>(q) "
        "y = Add(c, p)"
    ),
    "MORE_NODES: no room for a shift": Row("c = MatMul(tokens, k) d = /Mul|Add/(tokens, b5) y = Add(c, d)"),
    "NOT_BROADCASTABLE: a whole C": Row("c = Gemm(three, k, b5) d = Gemm(three, k2, /b15|b35/) y = Add(c, d)"),
    "WRONG_AXIS: equal sizes do not make equal axes": Row(
        "c = MatMul(even, k) d = Add(c, b5) e = Mul(even, /b5|column5/) y = Add(d, e)"
    ),
    "NAME_TAKEN: a body has a value of that name": Row(
        "c = Conv(q, w1) d = Conv(q, w1) s = Add(c, d) e = Relu(s) z = Loop(count, going, e) <body = b "
        "(int64 i, bool ci, float[N,4,6,7] /t|s/) => (bool co, float[N,4,6,7] r) "
        "{ co = Identity(ci) r = Sigmoid(/t|s/) }> y = Relu(e)",
    ),
}
_CONSTANTS["deep61"] = numbers(6, 6, 1, 1, seed=6)
_CONSTANTS["k_cube"] = numbers(3, 5, 5)


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_what_breaks_one_precondition_is_left_alone(name: str) -> None:
    good, bad = LEFT_ALONE[name].good(), LEFT_ALONE[name].bad()
    done = checked(model_of(good))
    assert all(decision.action is not Action.KEPT for decision in done.decisions), done.decisions
    original = model_of(bad)
    result = optimized(original)
    assert not result.modified, result.decisions
    assert {decision.action for decision in result.decisions} == {Action.KEPT}
    assert name.partition(":")[0] in {d.reason.code for d in result.decisions if d.reason is not None}


_TWO = Row(f"c = {_PADDED}(q, w3) d = Conv(q, w1) y = Add(c, d)")


@pytest.mark.parametrize(
    ("code", "options"),
    [
        ("KEPT_ON_REQUEST", {"keep": ("d*",)}),
        ("ROLLED_BACK", {"forbidden": frozenset({("", "d")})}),
        ("ROLLED_BACK", {"forbidden": frozenset({("", "y")})}),
    ],
)
def test_what_was_asked_to_stay_stays(code: str, options: dict[str, Any]) -> None:
    done = optimized(model_of(_TWO), **options)
    assert not done.modified
    assert {decision.reason.code for decision in done.decisions if decision.reason} == {code}
    assert not optimized(model_of(_TWO), merge_branches=False).modified


def test_a_part_of_the_sum_that_is_another_value_now_has_another_name() -> None:
    text, _ = FOLDS["parts of the sum that hold some of the branches"]
    done = checked(model_of(text))
    kept = {name for node in done.model.graph.node for name in node.output}
    assert {"z", "y"} <= kept
    assert not {"s", "t", "u", "c", "d", "e"} & kept


def test_every_branch_has_a_decision() -> None:
    row = Row(f"c = {_PADDED}(q, w3) n = BatchNormalization(q, g, h, m, v) d = Conv(q, w1) y = Sum(c, d, n, q)")
    found = {(each.node, each.op_type, each.action.value, each.target) for each in optimized(model_of(row)).decisions}
    assert found == {
        ("d", "Conv", "merged", ("c",)),
        ("n", "BatchNormalization", "folded", ("c",)),
        ("y", "Sum", "merged", ("c",)),
    }


def kept(row: Row, **options: Any) -> dict[str, str]:
    """The reasons of what stays, by label."""
    return {each.node: each.reason.code for each in optimized(model_of(row), **options).decisions if each.reason}


def test_what_has_taken_one_in_stays_beside_another_for_what_hinders_that() -> None:
    row = Row(f"e = {_PADDED}(q, w3) c = Conv(q, loose1) s = Add(e, c) y = Add(s, q)")
    assert kept(row) == {"c": "WEIGHT_NOT_CONSTANT", "e": "WEIGHT_NOT_CONSTANT"}
    assert optimized(model_of(row)).operators == ["Conv", "Conv", "Add"]


def test_each_says_what_hinders_itself() -> None:
    text = f"c = {_PADDED}(q, w3) d = Conv(q, loose1) e = Conv(q, w1) s = Sum(c, d, e) y = Relu(s)"
    assert kept(Row(text, outputs=("y", "e")), keep=("c",)) == {
        "c": "KEPT_ON_REQUEST",
        "d": "WEIGHT_NOT_CONSTANT",
        "e": "VALUE_IS_OUTPUT",
    }


def test_of_one_branch_alone_nothing_is_said() -> None:
    row = Row("r = Relu(q) c = Conv(r, w1) y = Add(c, q)")
    assert not optimized(model_of(row), keep=("c",)).decisions


def test_of_two_kinds_beside_each_other_one_of_each_stays() -> None:
    row = Row(f"c = {_PADDED}(q, w3) d = Conv(q, w1) e = ConvTranspose(q, w1) s = Add(c, d) y = Add(s, e)")
    assert kept(row) == {"c": "KERNELS_DIFFER", "e": "KERNELS_DIFFER"}


def test_the_pass_alone_has_options_of_its_own() -> None:
    model = model_of(FOLDS["RepVGG, one Sum"][0])
    scopes = Model(read(model.SerializeToString()))
    decisions = MergeBranches().run(scopes)
    assert {decision.action for decision in decisions} == {Action.MERGED, Action.FOLDED}
    assert scopes.modified


def test_what_only_looks_like_a_sum_is_none() -> None:
    text = f"c = {_PADDED}(q, w3) d = Conv(q, w1) y = {{}}(c, d)"
    assert optimized(model_of(Row(text.format("Add")))).modified
    assert not optimized(model_of(Row(text.format("custom.Add")))).modified
    old = Row(text.format("Add<axis=0, broadcast=1>"), opset=6)
    assert not optimized(model_of(old)).modified


def test_a_shared_weight_is_copied() -> None:
    row = Row(f"c = {_PADDED}(q, w3) y = Add(c, q) r = Relu(q) z = {_PADDED}(r, w3)", outputs=("y", "z"))
    done = checked(model_of(row))
    assert done.operators == ["Conv", "Relu", "Conv"]
    assert (done.constant("w3") == _CONSTANTS["w3"]).all()


def test_operands_that_do_not_fit_are_left_alone() -> None:
    model = model_of(Row("c = Gemm(flat, k) d = Gemm(flat, k2) y = Add(c, d)"))
    del model.graph.node[1].input[1:]
    assert not optimized(model).modified


def test_large_weights_are_added_up_when_they_are_written(tmp_path: Path) -> None:
    """What the passes keep is less than one of the weights that they merge."""
    channels, blocks = 96, 4
    constants = {
        "gain": numbers(channels, 1, 1, seed=1),
        **{f"three{n}": numbers(channels, channels, 3, 3, seed=n + 2) for n in range(blocks)},
        **{f"one{n}": numbers(channels, channels, 1, 1, seed=n + 9) for n in range(blocks)},
        "b": numbers(channels, seed=3),
    }
    text, value = "", "x"
    for n in range(blocks):
        text += (
            f"c{n} = {_PADDED}({value}, three{n}, b) d{n} = Conv({value}, one{n}) m{n} = Mul({value}, gain) "
            f"s{n} = Add(c{n}, d{n}) t{n} = Sub(s{n}, m{n}) r{n} = Relu(t{n}) "
        )
        value = f"r{n}"
    model = Row(text + f"y = Identity({value})", {"x": f"float[N,{channels},3,3]"}, constants).model()
    path = tmp_path / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="m.bin", size_threshold=1024)
    file = read(path)
    scopes = Model(file)
    tracemalloc.start()
    try:
        run_passes(scopes, default_passes(PassOptions()))
        gc.collect()
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < constants["three0"].nbytes
    done = to_proto(file)
    assert [node.op_type for node in done.graph.node] == ["Conv", "Relu"] * blocks + ["Identity"]
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in done.graph.initializer}
    for n in range(blocks):
        expected = constants[f"three{n}"].astype(np.float64)
        expected[:, :, 1, 1] += constants[f"one{n}"].astype(np.float64)[:, :, 0, 0]
        expected[:, :, 1, 1] -= np.diag(constants["gain"].astype(np.float64).reshape(-1))
        assert (weights[f"three{n}"] == expected.astype(np.float32)).all(), "rounded once"
