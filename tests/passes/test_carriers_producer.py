"""Operators that let a map pass, in both directions, and the condition of each.

Toward the producer the map of a BatchNormalization behind the carrier ends in the convolution before it; toward the
consumers that of one in front of the carrier ends in what follows. The other way is closed.
"""

import numpy as np
import pytest

from bnfold.decisions import Action
from bnfold.passes import fold as fold_module
from tests.fold_models import Row, batch_norm, check_folds, check_left_alone, completing, feeds, fold, int64, numbers
from tests.oracle import evaluate

_INPUTS = {
    "p": "float[N,4,6,8]",
    "odd": "float[N,4,5,7]",
    "cube": "float[N,4,4,5]",
    "deep": "float[N,16,3,2]",
    "flat": "float[N,5]",
    "tokens": "float[N,7,5]",
    "loose_shape": "int64[D]",
    "loose_pads": "int64[8]",
    "loose_number": "float",
    "loose_index": "int64[1]",
    "slope_in": "float[4,1,1]",
    "late": "bool",
    "any": "float[A,B,C,D]",
    "unbatched": "float[4,6,8]",
    "gate": "float[N,4,1,1]",
    "one_channel": "float[N,1,4,6]",
    "one_row": "float[N,4,1,6]",
}


_CONSTANTS = {
    **batch_norm(4, "4"),
    **{name: array for c in (1, 2, 7, 8, 12, 16, 24) for name, array in batch_norm(c, str(c)).items()},
    "g_positive": numbers(4, low=0.5, high=2.0),
    "g_some_zero": np.array([0.5, 0, 1, 2], np.float32),
    "o": np.zeros(4, np.float32),
    "same": np.full(4, 0.5, np.float32),
    "w2": numbers(2, 3, 3, 3),
    "w7": numbers(7, 3, 3, 3),
    "w16": numbers(16, 3, 3, 3),
    "u": numbers(5, 4, 1, 1),  # what follows 4 channels
    "u_kernel": numbers(5, 4, 2, 2),
    "u1": numbers(5, 1, 1, 1),
    "u2": numbers(5, 2, 1, 1),
    "u8": numbers(5, 8, 1, 1),
    "u16": numbers(5, 16, 1, 1),
    "u_row": numbers(5, 4, 1),
    "k": numbers(4, 5),
    "k24": numbers(24, 4),
    "slope": numbers(4, 1, 1),
    "no": np.array(False),
    "yes": np.array(True),
    "half": np.array(0.5, np.float32),
    "negative": np.array(-0.75, np.float32),
    "negative_list": np.array([-0.75], np.float32),
    "to_gate": np.array([-1, 4, 1, 1]),
    "to_picture": int64(-1, 3, 6, 7),
    "to_single": int64(-1, 1, 1, 1),
    "to_rows": int64(-1, 4, 20),
    "to_image": int64(-1, 4, 4, 5),
    "to_flat": int64(-1, 80),
    "to_two": int64(-1, 2, 40),
    "to_square": int64(-1, 4, 10, 2),
    "to_turned": int64(-1, 4, 4, 5),
    "to_mixed": int64(-1, 5, 4, 4),
    "to_groups": int64(-1, 2, 2, 4, 5),
    "at1": int64(1),
    "at2": int64(2),
    "at0": int64(0),
    "at3": int64(3),
    "last": int64(-1),
    "spatial": int64(2, 3),
    "spatial_negative": int64(-1, -2),
    "channels_too": int64(1, 2, 3),
    "nothing": int64(),
    "scales": np.array([1, 1, 2, 1.5], np.float32),
    "scales_channels": np.array([1, 2, 1, 1], np.float32),
    "scales_sly": np.array([1, 1.2, 1, 1], np.float32),
    "sizes": int64(2, 4, 9, 11),
    "sizes_wide": int64(2, 8, 9, 11),
    "sizes_sly": int64(2, 4, 4, 5),
    "nine_eleven": int64(9, 11),
    "pads": int64(0, 0, 1, 0, 0, 0, 0, 2),
    "pads_crop": int64(0, 0, 0, -1, 0, 0, -1, 0),
    "pads_none": int64(0, 0, 0, 0, 0, 0, 0, 0),
    "pads_channels": int64(0, 1, 1, 0, 0, 0, 0, 2),
    "pads_crop_channels": int64(0, -1, 1, 0, 0, 1, 0, 2),
    "pads_two": int64(1, 0, 0, 2),
    "two_three": int64(2, 3),
    "minus_two_one": int64(-2, 1),
    "one_two": int64(1, 2),
    "split": int64(3, 4),
    "halves": int64(2, 2),
    "start": int64(1),
    "end": int64(3),
    "back": int64(3),
    "far_back": int64(-100),
    "huge": int64(2**62),
    "minus_one": int64(-1),
    "minus_three": int64(-3),
    "step2": int64(2),
    **batch_norm(11, "11"),
    **batch_norm(6, "6"),
    "k4": numbers(4, 5, seed=3),
    "rows": numbers(4, 1),
    "k54": numbers(5, 4),
    "k_levit": numbers(5, 4, seed=2),
    "to_long": int64(-1, 4),
    "to_tokens": int64(-1, 7, 4),
    "w_two": numbers(2, 3, 1, 1),
    "zero_one": int64(0, 1),
    "minus_two_one_": int64(-2, -1),
    "row": numbers(1, 2, 4, 5),
    "four_three": int64(4, 3),
    "three_four": int64(3, 4),
    "all_starts": int64(0, 1),
    "all_ends": int64(100, 3),
    "w44": numbers(4, 4, 1, 1),
    **{f"{n}4x4": np.tile(batch_norm(4, "")[n], 4) for n in "ghmv"},
    **{f"{n}4r4": np.repeat(batch_norm(4, "")[n], 4) for n in "ghmv"},
    **batch_norm(5, "5"),
    "ones": np.ones(4, np.float32),
    "ones16": np.ones(16, np.float32),
    "zeros16": np.zeros(16, np.float32),
    "ones_scaled": np.array([2, 1, 1, 1], np.float32),
    "zero": np.array(0.0, np.float32),
    "w1": numbers(4, 3, 1, 1),
    "w_one": numbers(1, 3, 3, 3),
    "unequal": int64(2, 3),
    "roi": np.array([0, 0, 0, 0, 1, 1, 1, 1], np.float32),
    "w4": numbers(4, 3, 1, 1),
    "w_line": numbers(4, 3, 1),
}
_row = completing(_INPUTS, _CONSTANTS)
B = "y = BatchNormalization(c, g, h, m, v)"
B5 = "y = BatchNormalization(c, g5, h5, m5, v5)"
PLAIN = "y = BatchNormalization<epsilon=0.0>(c, ones, h, o, ones)"  # a shift without a scale
SCALE = "y = BatchNormalization(c, g_positive, o, o, v)"
OLD = "y = BatchNormalization<is_test=1, consumed_inputs=[0,0,0,1,1], epsilon=0.0>(c, ones, h, o, ones)"


# ------------------------------------------------------------------ toward the producer

UP = {
    "Identity": Row(f"d = Conv(x, w, b) c = Identity(d) {B}"),
    "Dropout": Row(f"d = Conv(x, w, b) c = Dropout(d) {B}"),
    "Dropout, with a ratio": Row(f"d = Conv(x, w, b) c = Dropout(d, half) {B}"),
    "Dropout, training_mode false": Row(f"d = Conv(x, w, b) c = Dropout(d, half, no) {B}"),
    "Dropout, training_mode empty": Row(f'd = Conv(x, w, b) c = Dropout(d, half, "") {B}'),
    "Dropout, mask unread": Row(f"d = Conv(x, w, b) c, mask = Dropout(d) {B}"),
    "Dropout, mask without a name, as an input elsewhere": Row(f'd = Conv(x, w, "") c, "" = Dropout(d) {B}'),
    "Dropout, opset 7": Row(f"d = Conv(x, w, b) c = Dropout<ratio=0.5>(d) {B}", opset=7),
    "Dropout, opset 6": Row(
        "d = Conv(x, w, b) c = Dropout<is_test=1>(d) y = BatchNormalization<is_test=1>(c, g, h, m, v)", opset=6
    ),
    "Transpose": Row(f"d = Conv(x, w, b) c = Transpose<perm=[0,1,3,2]>(d) {B}"),
    "Transpose, there and back": Row(
        f"d = Conv(x, w, b) e = Transpose<perm=[0,2,3,1]>(d) f = Identity(e) c = Transpose<perm=[0,3,1,2]>(f) {B}"
    ),
    "Transpose, default": Row(f"d = MatMul(k4, column) c = Transpose(d) {B}", {"column": "float[5,N]"}),
    "Reshape": Row(f"d = Conv(cube, w44) c = Reshape(d, to_rows) {B}"),
    "Reshape of the spatial dims": Row(f"d = Conv(cube, w44) c = Reshape(d, to_square) {B}"),
    "Reshape, linear layer of a LeViT": Row(
        "d = MatMul(tokens, k_levit) r = Reshape(d, to_long) n = BatchNormalization(r, g, h, m, v)"
        "y = Reshape(n, to_tokens)"
    ),
    "Flatten": Row(f"d = Conv(x, w, b) e = GlobalAveragePool(d) c = Flatten(e) {B}"),
    "Squeeze": Row(f"d = Conv(one_row3, w1) c = Squeeze(d, at2) {B}", {"one_row3": "float[N,3,1,5]"}),
    "Squeeze, opset 12": Row(
        f"d = Conv(one_row3, w1) c = Squeeze<axes=[2]>(d) {B}", {"one_row3": "float[N,3,1,5]"}, opset=12
    ),
    "Unsqueeze": Row(f"d = Gemm(flat, k54) c = Unsqueeze(d, at2) {B}"),
    "Unsqueeze, in front": Row(f"d = Conv(unbatched3, w1) c = Identity(d) {B}", {"unbatched3": "float[1,3,5,6]"}),
    "GlobalAveragePool": Row(f"d = Conv(x, w, b) c = GlobalAveragePool(d) {B}"),
    "ReduceMean": Row(f"d = Conv(x, w, b) c = ReduceMean(d, spatial) {B}"),
    "ReduceMean, negative axes, keepdims 0": Row(
        f"d = Conv(x, w, b) c = ReduceMean<keepdims=0>(d, spatial_negative) {B}"
    ),
    "ReduceMean, keepdims 0 in front of the channels": Row(
        "d = Conv(x, w, b) e = Transpose<perm=[2,3,0,1]>(d) c = ReduceMean<keepdims=0>(e, zero_one) " + B
    ),
    "ReduceMean of the batch, its dim kept": Row(f"d = Conv(x, w, b) c = ReduceMean(d, at0) {B}"),
    "ReduceMean, no axes": Row(f'd = Conv(x, w, b) c = ReduceMean<noop_with_empty_axes=1>(d, "") {B}'),
    "ReduceMean, opset 17": Row(f"d = Conv(x, w, b) c = ReduceMean<axes=[-1], keepdims=1>(d) {B}", opset=17),
    "ReduceMean, nothing": Row(f"d = Conv(x, w, b) c = ReduceMean<noop_with_empty_axes=1>(d, nothing) {B}"),
    "AveragePool": Row(f"d = Conv(x, w, b) c = AveragePool<kernel_shape=[2,3], strides=[2,1]>(d) {B}"),
    "AveragePool, padding not counted": Row(
        f"d = Conv(x, w, b) c = AveragePool<kernel_shape=[2,3], pads=[1,0,1,2], ceil_mode=1>(d) {B}"
    ),
    "AveragePool, padding counted, scale": Row(
        "d = Conv(x, w, b) c = AveragePool<kernel_shape=[2,3], pads=[1,0,1,2], count_include_pad=1>(d) " + SCALE
    ),
    "AveragePool, VALID, counted": Row(
        f'd = Conv(x, w, b) c = AveragePool<kernel_shape=[2,3], auto_pad="VALID", count_include_pad=1>(d) {B}'
    ),
    "MaxPool": Row(
        "d = Conv(x, w, b) c = MaxPool<kernel_shape=[2,3], pads=[1,0,1,2]>(d)"
        "y = BatchNormalization(c, g_positive, h, m, v)"
    ),
    "MaxPool, a scale of 0": Row(
        "d = Conv(x, w, b) c = MaxPool<kernel_shape=[2,3], pads=[1,0,1,2]>(d)"
        "y = BatchNormalization(c, g_some_zero, h, m, v)"
    ),
    "GlobalMaxPool": Row("d = Conv(x, w, b) c = GlobalMaxPool(d) y = BatchNormalization(c, g_positive, h, m, v)"),
    "Relu": Row(f"d = Conv(x, w, b) c = Relu(d) {SCALE}"),
    "LeakyRelu": Row(f"d = Conv(x, w, b) c = LeakyRelu<alpha=-0.3>(d) {SCALE}"),
    "PRelu": Row(f"d = Conv(x, w, b) c = PRelu(d, slope) {SCALE}"),
    "PRelu, computed slope": Row(f"d = Conv(x, w, b) c = PRelu(d, slope_in) {SCALE}"),
    "Resize, nearest": Row(f'd = Conv(x, w, b) c = Resize<mode="nearest">(d, "", scales) {B}'),
    "Resize, linear": Row(f'd = Conv(x, w, b) c = Resize<mode="linear">(d, "", scales) {B}'),
    "Resize, cubic, align_corners": Row(
        f'd = Conv(x, w, b) c = Resize<mode="cubic", coordinate_transformation_mode="align_corners">(d, "", scales) {B}'
    ),
    "Resize, cubic, exclude_outside": Row(
        f'd = Conv(x, w, b) c = Resize<mode="cubic", exclude_outside=1>(d, "", scales) {B}'
    ),
    "Resize, sizes": Row(
        f'd = Conv(twice, w, b) c = Resize<mode="linear">(d, "", "", sizes) {B}', {"twice": "float[2,3,6,7]"}
    ),
    "Resize, opset 10": Row(f'd = Conv(x, w, b) c = Resize<mode="nearest">(d, scales) {B}', opset=10),
    "Resize, some axes, keeping the aspect ratio": Row(
        "d = Conv(x, w, b)"
        f'c = Resize<mode="linear", axes=[2,3], keep_aspect_ratio_policy="not_smaller">(d, "", "", nine_eleven) {B}'
    ),
    "Upsample": Row(f'd = Conv(x, w, b) c = Upsample<mode="linear">(d, scales) {B}', opset=9),
    "Upsample, opset 7": Row(
        f'd = Conv(x, w, b) c = Upsample<mode="nearest", scales=[1.0,1.0,2.0,2.0]>(d) {B}', opset=7
    ),
    "Pad, reflect": Row(f'd = Conv(x, w, b) c = Pad<mode="reflect">(d, pads) {B}'),
    "Pad, edge": Row(f'd = Conv(x, w, b) c = Pad<mode="edge">(d, pads) {B}'),
    "Pad, wrap": Row(f'd = Conv(x, w, b) c = Pad<mode="wrap">(d, pads) {B}', opset=19),
    "Pad, constant, scale": Row(f"d = Conv(x, w, b) c = Pad(d, pads) {SCALE}"),
    "Pad, cropping": Row(f"d = Conv(x, w, b) c = Pad(d, pads_crop) {B}"),
    "Pad, one map for all": Row("d = Conv(x, w, b) c = Pad(d, pads) y = BatchNormalization(c, same, same, o, same)"),
    "Pad, one map for all, value": Row(
        "d = Conv(x, w, b) c = Pad(d, pads, negative) y = BatchNormalization(c, same, same, o, same)"
    ),
    "Pad, one map for all, value in a list": Row(
        "d = Conv(x, w, b) c = Pad(d, pads, negative_list) y = BatchNormalization(c, same, same, o, same)"
    ),
    "Pad, some axes": Row(f'd = Conv(x, w, b) c = Pad<mode="edge">(d, pads_two, "", two_three) {B}'),
    "Pad, some negative axes": Row(f'd = Conv(x, w, b) c = Pad<mode="edge">(d, pads_two, "", minus_two_one_) {B}'),
    "Pad, axes left out": Row(f'd = Conv(x, w, b) c = Pad<mode="edge">(d, pads, "", "") {B}'),
    "Pad, value left out": Row(f'd = Conv(x, w, b) c = Pad(d, pads, "") {SCALE}'),
    "Pad, opset 10": Row(
        "d = Conv(x, w, b) c = Pad<pads=[0,0,1,0,0,0,0,2], value=1.5>(d)y = BatchNormalization(c, same, same, o, same)",
        opset=10,
    ),
    "Concat of channels": Row(
        "d = Conv(x, w, b) e = Conv(x, w7) c = Concat<axis=1>(d, e) y = BatchNormalization(c, g11, h11, m11, v11)"
    ),
    "Concat, negative axis": Row(
        "d = Conv(x, w, b) e = Conv(x, w7) c = Concat<axis=-3>(e, d) y = BatchNormalization(c, g11, h11, m11, v11)"
    ),
    "Concat of rows": Row(f"d = Conv(x, w, b) e = Conv(x, w) c = Concat<axis=2>(d, e) {B}"),
    "Concat with a constant": Row(
        "d = Conv(one, w1) c = Concat<axis=1>(d, row) y = BatchNormalization(c, g6, h6, m6, v6)",
        {"one": "float[1,3,4,5]"},
    ),
    "Split": Row(
        "d = Conv(x, w7) c, e = Split<axis=1>(d, four_three) y = BatchNormalization(c, g, h, m, v)", outputs=("y", "e")
    ),
    "Split, second output": Row(
        "d = Conv(x, w7) e, c = Split<axis=1>(d, three_four) y = BatchNormalization(c, g, h, m, v)", outputs=("y", "e")
    ),
    "Split, negative axis, opset 11": Row(
        "d = Conv(x, w7) e, c = Split<axis=-3, split=[3,4]>(d) y = BatchNormalization(c, g, h, m, v)",
        outputs=("y", "e"),
        opset=11,
    ),
    "Split, both": Row(
        "d = Conv(x, w16) c, e = Split<axis=1, num_outputs=2>(d) y = BatchNormalization(c, g8, h8, m8, v8)"
        "z = BatchNormalization(e, h8, g8, m8, v8)",
        outputs=("y", "z"),
    ),
    "Split of rows, one number for all": Row(
        "d = Conv(x, w) t = Transpose<perm=[0,2,1,3]>(d) c, e = Split<axis=2>(t, halves) r = Reshape(c, to_single)"
        "n = BatchNormalization(r, g1, h1, m1, v1) y = Mul(n, half)",
        outputs=("y", "e"),
    ),
    "Split, one output": Row(f"d = Conv(x, w) c = Split<axis=2, num_outputs=1>(d) {B}"),
    "Slice of rows": Row(f"d = Conv(x, w, b) c = Slice(d, start, end, at2) {B}"),
    "Slice of channels": Row(
        "d = Conv(x, w, b) c = Slice(d, start, end, at1) y = BatchNormalization(c, g2, h2, m2, v2)"
    ),
    "Slice, every second channel": Row(
        "d = Conv(x, w, b) c = Slice(d, start, huge, at1, step2) y = BatchNormalization(c, g2, h2, m2, v2)"
    ),
    "Slice backwards to the front": Row(f"d = Conv(x, w, b) c = Slice(d, back, far_back, at1, minus_one) {B}"),
    "Slice, negative axis and bounds": Row(
        "d = Conv(x, w, b) c = Slice(d, minus_three, minus_one, minus_three) y = BatchNormalization(c, g2, h2, m2, v2)"
    ),
    "Slice, all axes": Row(
        "d = Conv(x, w, b) c = Slice(d, all_starts, all_ends) y = BatchNormalization(c, g2, h2, m2, v2)",
    ),
    "Slice, opset 9": Row(
        "d = Conv(x, w, b) c = Slice<starts=[1], ends=[3], axes=[1]>(d) y = BatchNormalization(c, g2, h2, m2, v2)",
        opset=9,
    ),
    "DepthToSpace": Row(f"d = Conv(x, w16) c = DepthToSpace<blocksize=2>(d) {B}"),
    "DepthToSpace, CRD": Row(f'd = Conv(x, w16) c = DepthToSpace<blocksize=2, mode="CRD">(d) {B}'),
    "SpaceToDepth, equal numbers": Row(
        "d = Conv(p, w44) c = SpaceToDepth<blocksize=2>(d) y = BatchNormalization(c, g4x4, h4x4, m4x4, v4x4)"
    ),
    "Add of branches": Row(f"d = Conv(x, w, b) e = Conv(x2, w) c = Add(d, e) {B}"),
    "Sub of branches": Row(f"d = Conv(x, w, b) e = Conv(x2, w) c = Sub(d, e) {B}"),
    "Sub of branches, shift only in the second": Row(
        "r = Conv(x, w) d = Relu(r) e = Conv(x2, w) c = Sub(d, e) y = BatchNormalization(c, g_positive, h, m, v)"
    ),
    "Add, shift only in the first": Row(
        "r = Conv(x, w) d = Relu(r) e = Conv(x2, w) c = Add(e, d) y = BatchNormalization(c, g_positive, h, m, v)"
    ),
    "Add, shift only in the second": Row(
        "r = Conv(x, w) d = Relu(r) e = Conv(x2, w) c = Add(d, e) y = BatchNormalization(c, g_positive, h, m, v)"
    ),
    "Add of branches, opset 6": Row(
        "d = Conv(x, w, b) e = Conv(x2, w) c = Add(d, e) y = BatchNormalization<is_test=1>(c, g, h, m, v)", opset=6
    ),
    "Sum with a constant": Row(
        f"d = Conv(x, w, b) e = Conv(x2, w) c = Sum(d, stored, e) {B}", constants={"stored": numbers(1, 4, 1, 1)}
    ),
    "Split, one number for all": Row(
        "d = Conv(x, w, b) c, e = Split<axis=1>(d, halves) r = Reshape(c, to_single)"
        "n = BatchNormalization(r, g1, h1, m1, v1) y = Mul(n, half)",
        outputs=("y", "e"),
    ),
    "Sum of three": Row(f"d = Conv(x, w, b) e = Conv(x2, w) f = Conv(x, w) c = Sum(d, e, f) {B}"),
    "Sum of one": Row(f"d = Conv(x, w, b) c = Sum(d) {B}"),
    "Add of a branch that broadcasts the rows": Row(
        f"d = Conv(x, w, b) e = Conv(x2, w) f = GlobalAveragePool(e) c = Add(f, d) {B}"
    ),
    "Mul, scale into the first": Row(f"d = Conv(x, w, b) c = Mul(d, gate) {SCALE}"),
    "Mul, scale into the second": Row(f"d = Conv(x, w, b) c = Mul(gate, d) {SCALE}"),
    "Div, scale into the numerator": Row(f"d = Conv(x, w, b) c = Div(d, gate) {SCALE}"),
}


@pytest.mark.parametrize("name", UP)
def test_toward_the_producer(name: str) -> None:
    row = _row(UP[name])
    run = ("BatchNormalization", "Mul") if "n = Batch" in row.text and "Mul(n" in row.text else ("BatchNormalization",)
    left = " ".join(node.op_type for node in row.model().graph.node if node.op_type not in run)
    done = check_folds(row, left.replace("MatMul", "MatMul Add"))
    assert {decision.action for decision in done.decisions} == {Action.FOLDED}


# Each breaks one condition of a row above.
NOT_UP = {
    "BARRIER: Dropout, training_mode true": Row(f"d = Conv(x, w, b) c = Dropout(d, half, /no|yes/) {B}"),
    "BARRIER: Dropout, training_mode computed": Row(f"d = Conv(x, w, b) c = Dropout(d, half, /no|late/) {B}"),
    "BARRIER: Dropout, mask read": Row(
        f"d = Conv(x, w, b) c, mask = Dropout(d) {B} z = Cast<to=1>(/late|mask/)", outputs=("y", "z")
    ),
    "BARRIER: Dropout, mask is an output": Row(
        f"d = Conv(x, w, b) c, mask = Dropout(d) {B}", outputs=("y", "/y|mask/")
    ),
    "BARRIER: Dropout, opset 6": Row(
        "d = Conv(x, w, b) c = Dropout</is_test=1|ratio=0.5/>(d) y = BatchNormalization<is_test=1>(c, g, h, m, v)",
        opset=6,
    ),
    "WRONG_AXIS: Transpose puts the rows on axis 1": Row(
        f"d = Conv(cube, w44) c = Transpose<perm=/[0,1,3,2]|[0,2,1,3]/>(d) {B}"
    ),
    "WRONG_AXIS: Squeeze puts the rows on axis 1": Row(
        f"d = Conv(column, w1) c = Squeeze(d, /at3|at0/) {B}", {"column": "float[1,3,4,1]"}
    ),
    "WRONG_AXIS: Unsqueeze puts the batch on axis 1": Row(
        f"d = Conv(line, w_line) c = Unsqueeze(d, /at2|at0/) {B}", {"line": "float[4,3,5]"}
    ),
    "WRONG_AXIS: Reshape mixes channels and rows": Row(
        f"d = Conv(cube, w44) c = Reshape(d, /to_square|to_mixed/) /{B}|{B5}/"
    ),
    "WRONG_AXIS: Flatten with several positions": Row(
        "d = Conv(small, w_two) e = /GlobalAveragePool|Identity/(d) c = Flatten(e)"
        "y = BatchNormalization(c, /g2, h2, m2, v2|g24, h24, m24, v24/)",
        {"small": "float[N,3,3,4]"},
    ),
    "SHAPE_UNKNOWN: Reshape to a computed shape": Row(
        f"d = Conv(cube, w44) c = Reshape(d, /to_square|loose_shape/) {B}"
    ),
    "WEIGHT_SHAPE: GlobalAveragePool, other channels": Row(
        "d = Conv(x, w, b) c = GlobalAveragePool(d) y = BatchNormalization(c, /g, h, m, v|g2, h2, m2, v2/)"
    ),
    "WRONG_AXIS: ReduceMean over the channels, of as many rows": Row(
        f"d = Conv(x, w, b) c = ReduceMean<keepdims=0>(d, /at3|at1/) {B}"
    ),
    "SHAPE_UNKNOWN: ReduceMean over computed axes": Row(f"d = Conv(x, w, b) c = ReduceMean(d, /at3|loose_index/) {B}"),
    "PADDED_BORDER: AveragePool counts its padding": Row(
        f"d = Conv(x, w, b) c = AveragePool<kernel_shape=[2,3], pads=[0,0,1,0], count_include_pad=/0|1/>(d) {PLAIN}"
    ),
    "PADDED_BORDER: AveragePool counts its padding, pads": Row(
        "d = Conv(x, w, b)"
        f"c = AveragePool<kernel_shape=[2,3], pads=/[0,0,0,0]|[0,1,0,0]/, count_include_pad=1>(d) {PLAIN}"
    ),
    "PADDED_BORDER: AveragePool counts, SAME_UPPER": Row(
        "d = Conv(x, w, b)"
        f'c = AveragePool<kernel_shape=[2,3], auto_pad=/"VALID"|"SAME_UPPER"/, count_include_pad=1>(d) {PLAIN}'
    ),
    "PADDED_BORDER: AveragePool counts, ceil_mode": Row(
        "d = Conv(x, w, b) c = AveragePool<kernel_shape=[2,2], strides=[2,2], ceil_mode=/0|1/, count_include_pad=1>(d)"
        + PLAIN,
        {"x": "float[N,3,7,7]"},
    ),
    "NEGATIVE_SCALE: MaxPool": Row(
        "d = Conv(x, w, b) c = MaxPool<kernel_shape=[2,3]>(d) y = BatchNormalization(c, /g_positive|g/, h, m, v)"
    ),
    "NEGATIVE_SCALE: GlobalMaxPool": Row(
        "d = Conv(x, w, b) c = GlobalMaxPool(d) y = BatchNormalization(c, /g_positive|g/, h, m, v)"
    ),
    "BARRIER: MaxPool, indices read": Row(
        "d = Conv(x, w, b) c, i = MaxPool<kernel_shape=[2,3]>(d) y = BatchNormalization(c, g_positive, h, m, v)",
        outputs=("y", "/y|i/"),
    ),
    "NEGATIVE_SCALE: Relu": Row("d = Conv(x, w, b) c = Relu(d) y = BatchNormalization(c, /g_positive|g/, o, o, v)"),
    "NEGATIVE_SCALE: Relu, a scale of 0": Row(
        "d = Conv(x, w, b) c = Relu(d) y = BatchNormalization(c, /g_positive|g_some_zero/, o, o, v)"
    ),
    "NEGATIVE_SCALE: LeakyRelu": Row(
        "d = Conv(x, w, b) c = LeakyRelu(d) y = BatchNormalization(c, /g_positive|g/, o, o, v)"
    ),
    "NEGATIVE_SCALE: LeakyRelu, a scale of 0": Row(
        "d = Conv(x, w, b) c = LeakyRelu(d) y = BatchNormalization(c, /g_positive|g_some_zero/, o, o, v)"
    ),
    "NEGATIVE_SCALE: PRelu, a scale of 0": Row(
        "d = Conv(x, w, b) c = PRelu(d, slope) y = BatchNormalization(c, /g_positive|g_some_zero/, o, o, v)"
    ),
    "NEGATIVE_SCALE: PRelu": Row(
        "d = Conv(x, w, b) c = PRelu(d, slope) y = BatchNormalization(c, /g_positive|g/, o, o, v)"
    ),
    "SHIFT_BLOCKED: Relu": Row(f"d = Conv(x, w, b) c = /Identity|Relu/(d) {PLAIN}"),
    "SHIFT_BLOCKED: LeakyRelu": Row(f"d = Conv(x, w, b) c = /Identity|LeakyRelu/(d) {PLAIN}"),
    "SHIFT_BLOCKED: PRelu": Row(f"d = Conv(x, w, b) c = /Identity(d)|PRelu(d, slope)/ {PLAIN}"),
    "SHAPE_UNKNOWN: Mul of unknown rank": Row(
        f"d = Conv(x, w, b) q = Reshape(gate, /to_gate|loose_shape/) c = Mul(d, q) {SCALE}"
    ),
    "BARRIER: Resize crops": Row(
        'd = Conv(x, w, b) c = Resize<mode="linear", '
        'coordinate_transformation_mode=/"half_pixel"|"tf_crop_and_resize"/>(d, roi, scales)' + B
    ),
    "NOT_PER_CHANNEL: Resize of the channels": Row(
        'd = Conv(x, w, b) c = Resize(d, "", /scales|scales_channels/)'
        "y = BatchNormalization(c, /g, h, m, v|g8, h8, m8, v8/)"
    ),
    "NOT_PER_CHANNEL: Resize of the channels by sizes": Row(
        'd = Conv(twice, w, b) c = Resize(d, "", "", /sizes|sizes_wide/)'
        "y = BatchNormalization(c, /g, h, m, v|g8, h8, m8, v8/)",
        {"twice": "float[2,3,6,7]"},
    ),
    "NOT_PER_CHANNEL: Resize of the channels to as many, opset 10": Row(
        f'd = Conv(x, w, b) c = Resize<mode="linear">(d, /scales|scales_sly/) {B}', opset=10
    ),
    "BARRIER: Resize of an unknown mode": Row(
        f'd = Conv(x, w, b) c = Resize<mode=/"linear"|"lanczos"/>(d, "", scales) {B}'
    ),
    "NOT_PER_CHANNEL: Resize that keeps the aspect ratio": Row(
        "d = Conv(twice, w, b)"
        'c = Resize<mode="linear", keep_aspect_ratio_policy=/"stretch"|"not_larger"/>(d, "", "", sizes_sly)' + B,
        {"twice": "float[2,3,6,7]"},
    ),
    "NOT_PER_CHANNEL: Resize of the channels to as many": Row(
        f'd = Conv(x, w, b) c = Resize<mode="linear">(d, "", /scales|scales_sly/) {B}'
    ),
    "NOT_PER_CHANNEL: Resize of the channels to as many, the nearest": Row(
        f'd = Conv(x, w, b) c = Resize<mode="nearest">(d, "", /scales|scales_sly/) {B}'
    ),
    "NOT_PER_CHANNEL: Resize of the channels to as many, the nearest, opset 10": Row(
        f'd = Conv(x, w, b) c = Resize<mode="nearest">(d, /scales|scales_sly/) {B}', opset=10
    ),
    "NOT_PER_CHANNEL: Resize that keeps the aspect ratio, the nearest": Row(
        "d = Conv(twice, w, b) "
        'c = Resize<mode="nearest", keep_aspect_ratio_policy=/"stretch"|"not_larger"/>(d, "", "", sizes_sly)' + B,
        {"twice": "float[2,3,6,7]"},
        opset=18,
    ),
    "NOT_PER_CHANNEL: Upsample of the channels to as many, the nearest": Row(
        f'd = Conv(x, w, b) c = Upsample<mode="nearest">(d, /scales|scales_sly/) {B}', opset=9
    ),
    "NOT_PER_CHANNEL: Upsample of the channels to as many": Row(
        f'd = Conv(x, w, b) c = Upsample<mode="linear">(d, /scales|scales_sly/) {B}', opset=9
    ),
    "NOT_PER_CHANNEL: Upsample of the channels to as many, opset 7": Row(
        f'd = Conv(x, w, b) c = Upsample<mode="linear", scales=[1.0, /1.0|1.2/, 2.0, 1.0]>(d) {B}', opset=7
    ),
    "SHAPE_UNKNOWN: Resize by computed scales": Row(
        f'd = Conv(x, w, b) c = Resize(d, "", /scales|loose_scales/) {B}', {"loose_scales": "float[4]"}
    ),
    "PADDED_BORDER: Pad with a constant": Row(f'd = Conv(x, w, b) c = Pad<mode=/"edge"|"constant"/>(d, pads) {PLAIN}'),
    "PADDED_BORDER: Pad with a value": Row(
        "d = Conv(x, w, b) c = Pad(d, pads, /zero|negative/) y = BatchNormalization(c, g_positive, o, o, v)"
    ),
    "PADDED_BORDER: Pad with a value, opset 10": Row(
        "d = Conv(x, w, b) c = Pad<pads=[0,0,1,0,0,0,0,2], value=/0.0|1.5/>(d)"
        "y = BatchNormalization(c, g_positive, o, o, v)",
        opset=10,
    ),
    "PADDED_BORDER: Pad, opset 1": Row(
        'd = Conv<kernel_shape=[3,3]>(x, w, b) c = Pad<paddings=[0,0,1,0,0,0,0,2], mode=/"edge"|"constant"/>(d)' + OLD,
        opset=1,
    ),
    "SHAPE_UNKNOWN: Pad of an unknown dtype": Row(
        "a = /Relu|acme.Thing/(x) d = Conv(a, w, b) c = Pad(d, pads)"
        " y = BatchNormalization<epsilon=0.0>(c, ones, same, o, ones)"
    ),
    "BIAS_NOT_CONSTANT: Pad with a computed value": Row(
        "d = Conv(x, w, b) c = Pad(d, pads, /zero|loose_number/) y = BatchNormalization(c, g_positive, o, o, v)"
    ),
    "SHAPE_UNKNOWN: Pad by computed amounts": Row(f'd = Conv(x, w, b) c = Pad<mode="edge">(d, /pads|loose_pads/) {B}'),
    "SHAPE_UNKNOWN: Pad on computed axes": Row(
        f'd = Conv(x, w, b) c = Pad<mode="edge">(d, pads_two, "", /two_three|loose_axes/) {B}',
        {"loose_axes": "int64[2]"},
    ),
    "NOT_PER_CHANNEL: Pad of the channels": Row(
        'd = Conv(x, w, b) c = Pad<mode="edge">(d, /pads|pads_channels/) '
        "y = BatchNormalization(c, /g, h, m, v|g5, h5, m5, v5/)"
    ),
    "NOT_PER_CHANNEL: Pad crops and adds channels": Row(
        f'd = Conv(x, w, b) c = Pad<mode="edge">(d, /pads|pads_crop_channels/) {B}'
    ),
    "NOT_PER_CHANNEL: Pad of the channels by axis": Row(
        'd = Conv(x, w, b) c = Pad<mode="edge">(d, pads_two, "", /two_three|one_two/) '
        "y = BatchNormalization(c, /g, h, m, v|g5, h5, m5, v5/)"
    ),
    "MALFORMED: Concat of more channels than there are": Row(
        "d = Conv(x, w, b) e = Conv(x, /w|w2/) c = Concat<axis=1>(d, e) y = BatchNormalization(c, g8, h8, m8, v8)"
    ),
    "SHAPE_UNKNOWN: Concat of a branch of unknown channels": Row(
        "d = Conv(x, w, b) f = Conv(x2, w) e = Reshape(f, /to_image|loose_shape/) c = Concat<axis=1>(d, e)"
        "y = BatchNormalization(c, g8, h8, m8, v8)"
    ),
    "UNKNOWN_OPERATOR: one branch of a Concat": Row(
        f"d = Conv(x, w, b) e = /Conv(x2, w)|acme.Swoosh(x2)/ c = Concat<axis=2>(d, e) {B}"
    ),
    "BARRIER: one branch of a Concat": Row(
        "d = Conv(x, w, b) f = Conv(x, w) e = /Identity|Sigmoid/(f) c = Concat<axis=1>(d, e)"
        "y = BatchNormalization(c, g8, h8, m8, v8)"
    ),
    "OTHER_CONSUMER: one branch of a Concat": Row(
        "d = Conv(x, w, b) e = Conv(x, w) c = Concat<axis=1>(d, e) y = BatchNormalization(c, g8, h8, m8, v8)"
        "z = Sigmoid(/y|e/)",
        outputs=("y", "z"),
    ),
    "OTHER_CONSUMER: the same value twice": Row(
        "d = Conv(x, w, b) e = Conv(x, w) c = Concat<axis=1>(d, /e|d/) y = BatchNormalization(c, g8, h8, m8, v8) "
        "z = Sigmoid(/x|e/)",
        outputs=("y", "z"),
    ),
    "WRONG_AXIS: Split of the rows": Row(
        "d = Conv(x, w, b) c, e = Split<axis=/1|2/>(d, halves)y = BatchNormalization(c, /g2, h2, m2, v2|g, h, m, v/)",
        outputs=("y", "e"),
    ),
    "SHAPE_UNKNOWN: Split into computed sizes": Row(
        "d = Conv(x, w, b) c, e = Split<axis=1>(d, /halves|loose_sizes/) y = BatchNormalization(c, g2, h2, m2, v2)",
        {"loose_sizes": "int64[2]"},
        outputs=("y", "e"),
    ),
    "SHAPE_UNKNOWN: Upsample by computed scales": Row(
        f"d = Conv(x, w, b) c = Upsample(d, /scales|loose_scales/) {B}", {"loose_scales": "float[4]"}, opset=9
    ),
    "SHAPE_UNKNOWN: Slice by computed bounds": Row(
        f"d = Conv(x, w, b) c = Slice(d, /start|loose_index/, end, at2) {B}"
    ),
    "SHAPE_UNKNOWN: Slice to computed bounds": Row(
        f"d = Conv(x, w, b) c = Slice(d, start, /end|loose_index/, at2) {B}"
    ),
    "SHAPE_UNKNOWN: Slice of computed axes": Row(f"d = Conv(x, w, b) c = Slice(d, start, end, /at2|loose_index/) {B}"),
    "SHAPE_UNKNOWN: Slice in computed steps": Row(
        f"d = Conv(x, w, b) c = Slice(d, start, end, at2, /step2|loose_index/) {B}"
    ),
    "WRONG_AXIS: SpaceToDepth, numbers differ": Row(
        "d = Conv(p, w44) c = SpaceToDepth<blocksize=2>(d) y = BatchNormalization(c, /g4x4|g4r4/, h4x4, m4x4, v4x4)"
    ),
    "WRONG_AXIS: SpaceToDepth, shifts differ": Row(
        "d = Conv(p, w44) c = SpaceToDepth<blocksize=2>(d)"
        "y = BatchNormalization<epsilon=0.0>(c, ones16, /h4x4|h4r4/, zeros16, ones16)"
    ),
    "BARRIER: one branch of an Add": Row(
        f"d = Conv(x, w, b) f = Conv(x2, w) e = /Identity|Sigmoid/(f) c = Add(d, e) {B}"
    ),
    "NOT_PER_CHANNEL: Add of a branch that broadcasts the channels": Row(
        f"d = Conv(x, w, b) e = Conv(x2, /w|w_one/) c = Add(d, e) {B}"
    ),
    "NOT_PER_CHANNEL: Sub of a branch that broadcasts the channels": Row(
        f"d = Conv(x, w, b) e = Conv(x2, /w|w_one/) c = Sub(d, e) {B}"
    ),
    "NOT_PER_CHANNEL: Sum of which the last broadcasts the channels": Row(
        f"d = Conv(x, w, b) e = Conv(x2, w) f = Conv(x, /w|w_one/) c = Sum(d, e, f) {B}"
    ),
    "BARRIER: one branch of a Sub": Row(
        f"d = Conv(x, w, b) f = Conv(x2, w) e = /Identity|Sigmoid/(f) c = Sub(d, e) {B}"
    ),
    "BARRIER: the last branch of a Sum": Row(
        f"d = Conv(x, w, b) q = Conv(x2, w) f = Conv(x2, w) e = /Identity|Sigmoid/(f) c = Sum(d, q, e) {B}"
    ),
    "SHIFT_BLOCKED: Mul of branches": Row(
        "d = Conv(x, w, b) c = Mul(d, gate) y = BatchNormalization<epsilon=0.0>(c, /ones_scaled|ones/, /o|h/, o, ones)"
    ),
    "SHIFT_BLOCKED: Div of branches": Row(
        "d = Conv(x, w, b) c = Div(d, gate) y = BatchNormalization<epsilon=0.0>(c, /ones_scaled|ones/, /o|h/, o, ones)"
    ),
    "SHIFT_BLOCKED: Add of two that let no shift pass, the first is told": Row(
        "r = Conv(x, w) d = /Identity|Relu/(r) q = Conv(x2, w)"
        f"e = AveragePool<kernel_shape=[2,1], pads=[1,0,0,0], count_include_pad=1>(q) c = Add(d, e) {PLAIN}"
    ),
    "GRAPH_INPUT: Div by the convolution": Row(f"d = Conv(x, w, b) c = Div(/d, gate|gate, d/) {SCALE}"),
    "NOT_PER_CHANNEL: Mul of two, of which the first is told": Row(
        f"d = Conv(x, /w|w_one/) c = Mul(d, open_gate) {SCALE}", {"open_gate": "float[N,G,1,1]"}
    ),
    "GRAPH_INPUT: Mul by a factor that broadcasts the channels": Row(
        f"d = Conv(x, /w|w_one/) c = Mul(d, wide_gate) {SCALE}", {"wide_gate": "float[N,4,4,5]"}
    ),
}


@pytest.mark.parametrize("name", NOT_UP)
def test_not_toward_the_producer(name: str) -> None:
    check_left_alone(name, _row(NOT_UP[name]))


# Not linear in each channel, or not with the numbers the channels have there.
BARRIERS = {
    "Abs": "c = Abs(d)",
    "Cast to int32 and back": "e = Cast<to=6>(d) c = Cast<to=1>(e)",
    "Celu": "c = Celu(d)",
    "Clip": "c = Clip(d, negative, half)",
    "DequantizeLinear": "q = QuantizeLinear(d, half) c = DequantizeLinear(q, half)",
    "Elu": "c = Elu(d)",
    "Erf": "c = Erf(d)",
    "Exp": "c = Exp(d)",
    "Gelu": "c = Gelu(d)",
    "GlobalLpPool": "c = GlobalLpPool(d)",
    "HardSigmoid": "c = HardSigmoid(d)",
    "HardSwish": "c = HardSwish(d)",
    "LRN": "c = LRN<size=3>(d)",
    "LogSoftmax": "c = LogSoftmax<axis=1>(d)",
    "LpPool": "c = LpPool<kernel_shape=[2,2]>(d)",
    "Max": "c = Max(d, gate)",
    "Mean": "c = Mean(d, gate)",
    "Min": "c = Min(d, gate)",
    "Mish": "c = Mish(d)",
    "Pow": "c = Pow(d, half)",
    "ReduceMax": "c = ReduceMax(d, spatial)",
    "ReduceSum": "c = ReduceSum(d, spatial)",
    "Selu": "c = Selu(d)",
    "Sigmoid": "c = Sigmoid(d)",
    "Softmax": "c = Softmax<axis=1>(d)",
    "Softplus": "c = Softplus(d)",
    "Softsign": "c = Softsign(d)",
    "Sqrt": "c = Sqrt(d)",
    "Tanh": "c = Tanh(d)",
    "ThresholdedRelu": "c = ThresholdedRelu(d)",
    "Where": "c = Where(late, d, gate)",
}


@pytest.mark.parametrize("name", BARRIERS)
def test_nothing_is_moved_across_a_barrier(name: str) -> None:
    row = _row(Row(f"d = Conv(x, w, b) /c = Identity(d)|{BARRIERS[name]}/ {B}", {"narrow": "float16"}, opset=20))
    check_left_alone(f"BARRIER: {name}", row)


@pytest.mark.parametrize("limit", ["MOST_STEPS", "DEEPEST"])
def test_the_search_ends_somewhere(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _row(Row(f"d = Conv(x, w) e = Identity(d) f = Identity(e) c = Identity(f) {B}")).model()
    monkeypatch.setattr(f"bnfold.passes.fold.{limit}", 4)
    assert fold(model).modified
    monkeypatch.setattr(f"bnfold.passes.fold.{limit}", 3)
    reason = fold(model).decision().reason
    assert reason is not None
    assert reason.code == "SEARCH_LIMIT"


def test_where_nothing_is_to_be_found_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every sum may give its shift to either branch, and asks both, one of them without it."""
    branches = " ".join(f"d{i} = Conv(x, w, b) a{i + 1} = Add(d{i}, a{i})" for i in range(20))
    model = _row(Row(f"s = Conv(x, w) a0 = Sigmoid(s) {branches} y = BatchNormalization(a20, g, h, m, v)")).model()
    ask, asked = fold_module._ask, []
    monkeypatch.setattr(fold_module, "_ask", lambda *given: asked.append(given) or ask(*given))
    reason = fold(model).decision().reason
    assert reason is not None
    assert reason.code == "BARRIER"
    assert len(asked) < 10 * 20  # without a memory it would be 25 times as many, and 500 times for 400 sums


MAPPED_CONSTANTS = {
    "by one number, a branch of Concat": (
        "d = Conv(x, w) c = Concat<axis=2>(d, k) r = Reshape(c, to_single) y = BatchNormalization(r, g1, h1, m1, v1)",
        "Conv Concat Reshape",
    ),
    "by channels, a branch of Concat": (
        "d = Conv(x, w) c = Concat<axis=2>(d, k) y = BatchNormalization(c, g, h, m, v)",
        "Conv Concat",
    ),
}


@pytest.mark.parametrize("name", MAPPED_CONSTANTS)
def test_a_constant_takes_the_map_up_whole(name: str) -> None:
    text, left = MAPPED_CONSTANTS[name]
    constants = {"k": numbers(1, 4, 2, 5)}
    done = check_folds(_row(Row(text, {"x": "float[1,3,6,7]"}, constants)), left)
    assert done.decision().target == ("d", "c")


# With as many rows as channels only the axis tells whether it is the rows that are scaled.
ON_THE_ROWS = {
    "AveragePool": "d = Conv(rows_five, w1) e = AveragePool<kernel_shape=[2,2]>(d)",
    "MaxPool": "d = Conv(rows_five, w1) e = MaxPool<kernel_shape=[2,2]>(d)",
    "DepthToSpace": "d = Conv(rows_two, w16) e = DepthToSpace<blocksize=2>(d)",
}


@pytest.mark.parametrize("name", ON_THE_ROWS)
def test_what_has_its_channels_on_axis_1_lets_no_map_of_the_rows_pass(name: str) -> None:
    text = f"{ON_THE_ROWS[name]} c = Transpose<perm=/[0,1,3,2]|[0,2,1,3]/>(e) "
    text += "y = BatchNormalization(c, g_positive, h, o, v)"
    inputs = {"rows_five": "float[N,3,5,7]", "rows_two": "float[N,3,4,3]"}
    row = Row(text, {**_INPUTS, **inputs}, _CONSTANTS)
    check_left_alone(f"WRONG_AXIS: {name}", row)


# One number for all channels has no axis that could be lost, and needs no shape. Each stands between `a`, of unknown
# rank, and `c`; `b_` is another such value.
ONE_FOR_ALL = {
    "Concat": "c = Concat<axis=1>(a, b_)",
    "Slice": "c = Slice(a, start, end, at1)",
    "Transpose": "c = Transpose(a)",
    "ReduceMean": "c = ReduceMean(a, loose_index)",
    "Resize": 'c = Resize<mode="linear">(a, "", scales)',
    "DepthToSpace": "c = DepthToSpace<blocksize=2>(a)",
    "SpaceToDepth": "c = SpaceToDepth<blocksize=2>(a)",
    "Pad": 'c = Pad<mode="edge">(a, pads)',
    "Add": "c = Add(a, b_)",
    "Add of a full shape": "c = Add(a, full)",
}


@pytest.mark.parametrize("name", ONE_FOR_ALL)
def test_one_number_for_all_passes_whatever_the_shape(name: str) -> None:
    text = "d = Conv(x, w, b) a = Reshape(d, form) "
    text += "e = Conv(x2, w) b_ = Reshape(e, form) " if "b_" in ONE_FOR_ALL[name] else ""
    text += f"{ONE_FOR_ALL[name]} r = Reshape(c, to_single) y = BatchNormalization(r, g1, h1, m1, v1)"
    constants = {"full": numbers(1, 4, 4, 10), "g1": numbers(1, low=0.5, high=2.0)}
    original = _row(Row(text, {"form": "int64[D]"}, constants)).model()
    done = fold(original)
    assert done.operators == [node.op_type for node in original.graph.node][:-1], done.decisions
    fed = feeds(original, 2) | {"form": int64(1, 4, 4, 10), "loose_index": int64(1)}
    fed = {name: fed[name] for name in fed if name in {value.name for value in original.graph.input}}
    np.testing.assert_allclose(evaluate(done.model, fed)["y"], evaluate(original, fed)["y"], rtol=0, atol=1e-5)
