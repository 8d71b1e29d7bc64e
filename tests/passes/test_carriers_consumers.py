"""Operators that let a map pass toward the consumers, and the condition of each: a normalization in front of them.

The normalized value is a graph input, so the only way is down: into what follows the carrier, or nowhere.
"""

import numpy as np
import pytest

from bnfold.decisions import Action, Refused
from bnfold.passes.layout import relaid
from bnfold.passes.step import Dims
from tests.fold_models import Row, batch_norm, check_folds, check_left_alone, completing, feeds, fold, int64, numbers
from tests.oracle import evaluate

_INPUTS = {
    "p": "float[N,4,6,7]",
    "p2": "float[N,4,6,7]",
    "four": "float[N,4,4,5]",
    "even": "float[N,4,6,8]",
    "deep": "float[N,16,3,2]",
    "one_row": "float[N,4,1,6]",
    "gate": "float[N,4,1,1]",
    "four_six": "float[N,4,4,6]",
    "two_rows": "float[N,1,2,7]",
    "single": "float[1,1]",
    "row": "float[N,1,6,7]",
    "two": "float[N,2,6,7]",
    "tokens": "float[N,4,9]",
    "late": "bool",
    "loose_number": "float",
    "narrow": "float[N,4,6,1]",
}


_CONSTANTS = {
    **batch_norm(16, "16"),
    **batch_norm(2, "2"),
    "g_positive": numbers(4, low=0.5, high=2.0),
    "g_some_zero": np.array([0.5, 0, 1, 2], np.float32),
    "o": np.zeros(4, np.float32),
    "ones": np.ones(4, np.float32),
    "twice4": np.full(4, 2.0, np.float32),
    "same": np.full(4, 0.5, np.float32),
    "alone_g": numbers(1, seed=1),
    "alone_v": numbers(1, low=0.2),
    "g16_blocks": np.tile(numbers(4, seed=1), 4),
    "h16_blocks": np.tile(numbers(4, seed=2), 4),
    "m16_blocks": np.tile(numbers(4, seed=3), 4),
    "v16_blocks": np.tile(numbers(4, low=0.2, high=2), 4),
    "g16_runs": np.repeat(numbers(4, seed=1), 4),
    "h16_runs": np.repeat(numbers(4, seed=2), 4),
    "m16_runs": np.repeat(numbers(4, seed=3), 4),
    "v16_runs": np.repeat(numbers(4, low=0.2, high=2), 4),
    "u": numbers(5, 4, 1, 1),
    "u_kernel": numbers(5, 4, 2, 2),
    "u_line": numbers(5, 4, 1),
    "u1": numbers(5, 1, 1, 1),
    "u2": numbers(5, 2, 1, 1),
    "u3": numbers(5, 3, 1, 1),
    "u6": numbers(5, 6, 1, 1),
    "u8": numbers(5, 8, 1, 1),
    "u16": numbers(5, 16, 1, 1),
    "u_rows": numbers(5, 6, 1),
    "k": numbers(4, 5),
    "k168": numbers(168, 5),
    "slope": numbers(4, 1, 1),
    "no": np.array(False),
    "yes": np.array(True),
    "half": np.array(0.5, np.float32),
    "value": np.array(-0.75, np.float32),
    "zero": np.array(0.0, np.float32),
    "to_rows": int64(-1, 1, 6, 7),
    "scalar": int64(),
    "pads_one": int64(0, 1, 1, 0, 0, 0, 0, 2),
    "to_line": int64(-1, 4, 42),
    "to_mixed": int64(-1, 6, 28, 1),
    "to_mixed4": int64(-1, 6, 7, 4),
    "at0": int64(0),
    "at1": int64(1),
    "at2": int64(2),
    "at3": int64(3),
    "start": int64(1),
    "end": int64(3),
    "huge": int64(2**62),
    "step2": int64(2),
    "minus_one": int64(-1),
    "far_back": int64(-100),
    "halves": int64(2, 2),
    "halves6": int64(3, 3),
    "spatial": int64(2, 3),
    "scales": np.array([1, 1, 2, 1.5], np.float32),
    "scales_sly": np.array([1, 1.2, 1, 1], np.float32),
    "pads": int64(0, 0, 1, 0, 0, 0, 0, 2),
    "pads_channels": int64(0, 1, 1, 0, 0, 1, 0, 2),
    "constant": numbers(2, 2, 6, 7),
}
_row = completing(_INPUTS, _CONSTANTS)
N = "n = BatchNormalization(p, g, h, m, v)"
SCALE = "n = BatchNormalization(p, g_positive, o, o, v)"
SHIFT = "n = BatchNormalization<epsilon=0.0>(p, ones, h, o, ones)"


DOWN = {
    "Identity": Row(f"{N} c = Identity(n) y = Conv(c, u)"),
    "Dropout": Row(f"{N} c = Dropout(n, half, no) y = Conv(c, u)"),
    "Transpose": Row(f"{N} c = Transpose<perm=[0,2,3,1]>(n) y = MatMul(c, k)"),
    "Transpose, rotating": Row(f"{N} e = Transpose<perm=[1,2,3,0]>(n) c = Transpose<perm=[3,0,1,2]>(e) y = Conv(c, u)"),
    "Reshape": Row(f"{N} c = Reshape(n, to_line) y = Conv(c, u_line)"),
    "Flatten": Row(f"{N} c = Flatten(n) y = Gemm(c, k168)"),
    "Squeeze": Row("n = BatchNormalization(one_row, g, h, m, v) c = Squeeze(n, at2) y = Conv(c, u_line)"),
    "Squeeze behind a dynamic size": Row(
        "n = BatchNormalization(dynamic, g, h, m, v) c = Squeeze(n, at3) y = Conv(c, u_line)",
        {"dynamic": "float[N,4,H,1]"},
    ),
    "Unsqueeze": Row("n = BatchNormalization(tokens, g, h, m, v) c = Unsqueeze(n, at2) y = Conv(c, u)"),
    "GlobalAveragePool": Row(f"{N} c = GlobalAveragePool(n) y = Conv(c, u)"),
    "ReduceMean": Row(f"{N} c = ReduceMean<keepdims=0>(n, spatial) y = Gemm(c, k)"),
    "ReduceMean over the batch": Row(f"{N} c = ReduceMean<keepdims=0>(n, at0) d = Unsqueeze(c, at0) y = Conv(d, u)"),
    "ReduceMean over the batch, its dim kept": Row(f"{N} c = ReduceMean(n, at0) y = Conv(c, u)"),
    "AveragePool": Row(f"{N} c = AveragePool<kernel_shape=[2,2], pads=[1,0,0,1]>(n) y = Conv(c, u)"),
    "AveragePool, counted, scale": Row(
        f"{SCALE} c = AveragePool<kernel_shape=[2,2], pads=[1,0,0,1], count_include_pad=1>(n) y = Conv(c, u)"
    ),
    "MaxPool": Row(
        "n = BatchNormalization(p, g_positive, h, m, v)"
        "c = MaxPool<kernel_shape=[2,2], pads=[1,0,0,1]>(n) y = Conv(c, u)"
    ),
    "GlobalMaxPool": Row("n = BatchNormalization(p, g_some_zero, h, m, v) c = GlobalMaxPool(n) y = Conv(c, u)"),
    "Relu": Row(f"{SCALE} c = Relu(n) y = Conv(c, u)"),
    "LeakyRelu, padding": Row(f"{SCALE} c = LeakyRelu(n) y = Conv<pads=[1,0,0,1]>(c, u_kernel)"),
    "PRelu": Row(f"{SCALE} c = PRelu(n, slope) y = Conv(c, u)"),
    "Resize": Row(f'{N} c = Resize<mode="cubic">(n, "", scales) y = Conv(c, u)'),
    "Upsample": Row(f'{N} c = Upsample<mode="linear">(n, scales) y = Conv(c, u)', opset=9),
    "Pad, reflect": Row(f'{N} c = Pad<mode="reflect">(n, pads) y = Conv(c, u_kernel)'),
    "Pad, constant, scale": Row(f"{SCALE} c = Pad(n, pads) y = Conv(c, u_kernel)"),
    "Pad, one map for all": Row(
        "n = BatchNormalization(p, same, same, o, same) c = Pad(n, pads, value) y = Conv(c, u)"
    ),
    "Pad, one map for all, opset 10": Row(
        "n = BatchNormalization(p, same, same, o, same)c = Pad<pads=[0,0,1,0,0,0,0,2], value=1.5>(n) y = Conv(c, u)",
        opset=10,
    ),
    "Pad of the channels, one number for all": Row(
        'n = BatchNormalization(row, alone_g, alone_g, alone_g, alone_v) c = Pad<mode="edge">(n, pads_one)'
        "y = Conv(c, u2)"
    ),
    "Pad, the value in the map": Row(
        "n = BatchNormalization<epsilon=0.0>(p, twice4, ones, o, ones) c = Pad(n, pads, one_) y = Conv(c, u)",
        constants={"one_": np.array(1, np.float32)},
    ),
    "Concat": Row(f"{N} c = Concat<axis=1>(two, n) y = Conv(c, u6)"),
    "Concat, negative axis": Row(f"{N} c = Concat<axis=-3>(n, two) y = Conv(c, u6)"),
    "Concat of one": Row(f"{N} c = Concat<axis=2>(n) y = Conv(c, u)"),
    "Concat of rows, one number for all": Row(
        "n = BatchNormalization(row, alone_g, alone_g, alone_g, alone_v) c = Concat<axis=2>(n, two_rows)"
        "t = Transpose<perm=[0,2,1,3]>(c) y = Conv(t, u8)"
    ),
    "Concat of one channel": Row(
        "n = BatchNormalization(row, alone_g, alone_g, alone_g, alone_v) c = Concat<axis=1>(two, n) y = Conv(c, u3)"
    ),
    "Split of channels": Row(
        f"{N} c, d = Split<axis=1>(n, halves) y = Conv(c, u2) z = Conv(d, u2)", outputs=("y", "z")
    ),
    "Split of rows": Row(f"{N} c, d = Split<axis=2>(n, halves6) y = Conv(c, u) z = Conv(d, u)", outputs=("y", "z")),
    "Split, negative axis": Row(
        f"{N} c, d = Split<axis=-3>(n, halves) y = Conv(c, u2) z = Conv(d, u2)", outputs=("y", "z")
    ),
    "Slice of channels": Row(f"{N} c = Slice(n, start, end, at1) y = Conv(c, u2)"),
    "Slice of channels backwards": Row(f"{N} c = Slice(n, minus_one, far_back, at1, minus_one) y = Conv(c, u)"),
    "Slice of rows": Row(f"{N} c = Slice(n, start, end, at2) y = Conv(c, u)"),
    "Slice, opset 9": Row(f"{N} c = Slice<starts=[1], ends=[3], axes=[1]>(n) y = Conv(c, u2)", opset=9),
    "DepthToSpace, equal numbers": Row(
        "n = BatchNormalization(deep, g16_blocks, h16_blocks, m16_blocks, v16_blocks)"
        "c = DepthToSpace<blocksize=2>(n) y = Conv(c, u)"
    ),
    "DepthToSpace, CRD, equal numbers": Row(
        "n = BatchNormalization(deep, g16_runs, h16_runs, m16_runs, v16_runs)"
        'c = DepthToSpace<blocksize=2, mode="CRD">(n) y = Conv(c, u)'
    ),
    "SpaceToDepth": Row("n = BatchNormalization(even, g, h, m, v) c = SpaceToDepth<blocksize=2>(n) y = Conv(c, u16)"),
    "Add of another branch, shift": Row(f"{SHIFT} c = Add(n, p2) y = Conv(c, u)"),
    "Add, broadcasting the other": Row(f"{SHIFT} c = Add(gate, n) y = Conv(c, u)"),
    "Sub from another branch, shift": Row(f"{SHIFT} c = Sub(p2, n) y = Conv(c, u)"),
    "Sub of another branch, shift": Row(f"{SHIFT} c = Sub(n, p2) y = Conv(c, u)"),
    "Sum of three, shift": Row(f"{SHIFT} c = Sum(p2, n, gate) y = Conv(c, u)"),
    "Add that broadcasts it": Row(
        "n = BatchNormalization<epsilon=0.0>(gate, ones, h, o, ones) c = Add(n, p2) y = Conv(c, u)"
    ),
    "Mul by another branch, scale": Row(f"{SCALE} c = Mul(n, p2) y = Conv(c, u)"),
    "Mul by a gate that is broadcast, scale": Row(
        "n = BatchNormalization(gate, g, o, o, v) c = Mul(p2, n) y = Conv<pads=[1,0,0,1]>(c, u_kernel)"
    ),
    "Div by another branch, scale": Row(f"{SCALE} c = Div(n, p2) y = Conv(c, u)"),
    "two ways, joined by Concat": Row(f"{N} c = Identity(n) y = Conv(c, u) z = Conv(n, u)", outputs=("y", "z")),
}


@pytest.mark.parametrize("name", DOWN)
def test_toward_the_consumers(name: str) -> None:
    row = _row(DOWN[name])
    left = " ".join(node.op_type for node in row.model().graph.node if node.op_type != "BatchNormalization")
    decision = check_folds(row, left.replace("MatMul", "MatMul Add")).decision()
    assert (decision.node, decision.action) == ("n", Action.FOLDED)


NOT_DOWN = {
    "BARRIER: Dropout, training_mode": Row(f"{N} c = Dropout(n, half, /no|yes/) y = Conv(c, u)"),
    "BARRIER: Dropout, mask read": Row(
        f"{N} c, mask = Dropout(n, half, no) y = Conv(c, u) z = Cast<to=1>(/late|mask/)", outputs=("y", "z")
    ),
    "BARRIER: Dropout, training_mode computed": Row(f"{N} c = Dropout(n, half, /no|late/) y = Conv(c, u)"),
    "BARRIER: MaxPool, indices read": Row(
        "n = BatchNormalization(p, g_positive, h, m, v) c, i = MaxPool<kernel_shape=[2,2]>(n) y = Conv(c, u)",
        outputs=("y", "/y|i/"),
    ),
    "WRONG_AXIS: Transpose": Row(
        "n = BatchNormalization(four, g, h, m, v) c = Transpose<perm=/[0,1,3,2]|[0,2,1,3]/>(n) y = Conv(c, u)"
    ),
    "WRONG_AXIS: Squeeze": Row(
        "n = BatchNormalization(column, g, h, m, v) c = Squeeze(n, /at3|at0/) y = Conv(c, u_line)",
        {"column": "float[1,4,4,1]"},
    ),
    "WRONG_AXIS: Unsqueeze": Row(
        "n = BatchNormalization(line, g, h, m, v) c = Unsqueeze(n, /at2|at0/) y = Conv(c, u)", {"line": "float[4,4,5]"}
    ),
    "WRONG_AXIS: Reshape": Row(f"{N} c = Reshape(n, /to_line|to_mixed/) y = /Conv(c, u_line)|Conv(c, u6)/"),
    "NOT_PER_CHANNEL: ReduceMean over the channels": Row(
        f"{N} c = ReduceMean<keepdims=0>(n, /at2|at1/) y = Conv(c, /u_line|u_rows/)"
    ),
    "NOT_PER_CHANNEL: ReduceMean over the channels, their dim kept": Row(
        f"{N} c = ReduceMean(n, /at2|at1/) y = Conv(c, /u|u1/)"
    ),
    "NOT_PER_CHANNEL: ReduceMean over everything": Row(f"{N} c = ReduceMean(n/, at2|/) y = Conv(c, /u|u1/)"),
    "BARRIER: read as the value of a Pad": Row(
        "n = BatchNormalization(/row|single/, alone_g, alone_g, alone_g, alone_v) r = Reshape(n, /to_rows|scalar/)"
        'c = Pad<mode=/"edge"|"constant"/>(/r, pads|p, pads, r/) y = Conv(c, /u1|u/)'
    ),
    "PADDED_BORDER: Pad with a constant, every scale 0": Row(
        "n = BatchNormalization(p, /same|o/, same, o, same) c = Pad(n, pads) y = Conv(c, u)"
    ),
    "PADDED_BORDER: AveragePool counts its padding": Row(
        f"{SHIFT} c = AveragePool<kernel_shape=[2,2], pads=[1,0,0,0], count_include_pad=/0|1/>(n) y = Conv(c, u)"
    ),
    "NEGATIVE_SCALE: MaxPool": Row(
        "n = BatchNormalization(p, /g_positive|g/, h, m, v) c = MaxPool<kernel_shape=[2,2]>(n) y = Conv(c, u)"
    ),
    "PADDED_BORDER: AveragePool counts its padding, pads": Row(
        f"{SHIFT} c = AveragePool<kernel_shape=[2,2], pads=/[0,0,0,0]|[0,0,0,1]/, count_include_pad=1>(n) "
        "y = Conv(c, u)"
    ),
    "PADDED_BORDER: AveragePool counts, SAME_LOWER": Row(
        f'{SHIFT} c = AveragePool<kernel_shape=[2,2], auto_pad=/"VALID"|"SAME_LOWER"/, count_include_pad=1>(n) '
        "y = Conv(c, u)"
    ),
    "PADDED_BORDER: AveragePool counts, ceil_mode": Row(
        f"{SHIFT} c = AveragePool<kernel_shape=[2,2], strides=[2,2], ceil_mode=/0|1/, count_include_pad=1>(n) "
        "y = Conv(c, u)"
    ),
    "NEGATIVE_SCALE: GlobalMaxPool": Row(
        "n = BatchNormalization(p, /g_positive|g/, h, m, v) c = GlobalMaxPool(n) y = Conv(c, u)"
    ),
    "NEGATIVE_SCALE: LeakyRelu": Row(
        "n = BatchNormalization(p, /g_positive|g/, o, o, v) c = LeakyRelu(n) y = Conv(c, u)"
    ),
    "NEGATIVE_SCALE: PRelu": Row(
        "n = BatchNormalization(p, /g_positive|g/, o, o, v) c = PRelu(n, slope) y = Conv(c, u)"
    ),
    "NEGATIVE_SCALE: Relu, a scale of 0": Row(
        "n = BatchNormalization(p, /g_positive|g_some_zero/, o, o, v) c = Relu(n) y = Conv(c, u)"
    ),
    "SHIFT_BLOCKED: LeakyRelu": Row(f"{SHIFT} c = /Identity|LeakyRelu/(n) y = Conv(c, u)"),
    "SHIFT_BLOCKED: PRelu": Row(f"{SHIFT} c = /Identity(n)|PRelu(n, slope)/ y = Conv(c, u)"),
    "BARRIER: Resize crops": Row(
        f'{N} c = Resize<mode="linear", coordinate_transformation_mode=/"half_pixel"|"tf_crop_and_resize"/>'
        "(n, roi, scales) y = Conv(c, u)",
        constants={"roi": np.array([0, 0, 0, 0, 1, 1, 1, 1], np.float32)},
    ),
    "BARRIER: Resize of an unknown mode": Row(
        f'{N} c = Resize<mode=/"linear"|"lanczos"/>(n, "", scales) y = Conv(c, u)'
    ),
    "NOT_PER_CHANNEL: Upsample of the channels to as many": Row(
        f'{N} c = Upsample<mode="linear">(n, /scales|scales_sly/) y = Conv(c, u)', opset=9
    ),
    "SHAPE_UNKNOWN: Resize by computed scales": Row(
        f'{N} c = Resize(n, "", /scales|loose_scales/) y = Conv(c, u)', {"loose_scales": "float[4]"}
    ),
    "SHAPE_UNKNOWN: Reshape to a computed shape": Row(
        f"{N} c = Reshape(n, /to_line|loose_shape/) y = Conv(c, u_line)", {"loose_shape": "int64[D]"}
    ),
    "SHAPE_UNKNOWN: ReduceMean over computed axes": Row(
        f"{N} c = ReduceMean(n, /at2|loose_index/) y = Conv(c, u)", {"loose_index": "int64[1]"}
    ),
    "SHAPE_UNKNOWN: Pad by computed amounts": Row(
        f'{N} c = Pad<mode="edge">(n, /pads|loose_pads/) y = Conv(c, u)', {"loose_pads": "int64[8]"}
    ),
    "SHAPE_UNKNOWN: Split into computed sizes": Row(
        f"{N} c, d = Split<axis=1>(n, /halves|loose_sizes/) y = Conv(c, u2) z = Conv(d, u2)",
        {"loose_sizes": "int64[2]"},
        outputs=("y", "z"),
    ),
    "SHAPE_UNKNOWN: Slice by computed bounds": Row(
        f"{N} c = Slice(n, /start|loose_index/, end, at2) y = Conv(c, u)", {"loose_index": "int64[1]"}
    ),
    "SHAPE_UNKNOWN: Concat with a branch of unknown channels": Row(
        f"{N} c = Concat<axis=1>(/two|loose_two/, n) y = Conv(c, u6)", {"loose_two": "float[N,C,6,7]"}
    ),
    "SHAPE_UNKNOWN: Flatten of an unknown size": Row(
        "n = BatchNormalization(/p|dynamic/, g, h, m, v) c = Flatten(n) y = Gemm(c, k168)",
        {"dynamic": "float[N,4,H,7]"},
    ),
    "SHIFT_BLOCKED: Relu": Row(f"{SHIFT} c = /Identity|Relu/(n) y = Conv(c, u)"),
    "NEGATIVE_SCALE: Relu": Row("n = BatchNormalization(p, /g_positive|g/, o, o, v) c = Relu(n) y = Conv(c, u)"),
    "NOT_PER_CHANNEL: Resize of the channels to as many": Row(
        f'{N} c = Resize<mode="linear">(n, "", /scales|scales_sly/) y = Conv(c, u)'
    ),
    "PADDED_BORDER: Pad with a constant": Row(f'{SHIFT} c = Pad<mode=/"edge"|"constant"/>(n, pads) y = Conv(c, u)'),
    "PADDED_BORDER: Pad with a constant, a scale of 0": Row(
        "n = BatchNormalization(p, /g_positive|g_some_zero/, o, o, v) c = Pad(n, pads) y = Conv(c, u)"
    ),
    "BIAS_NOT_CONSTANT: Pad with a computed value": Row(
        f"{SCALE} c = Pad(n, pads, /zero|loose_number/) y = Conv(c, u)"
    ),
    "WRONG_AXIS: Concat of rows": Row(f"{N} c = Concat<axis=/1|2/>(n, p2) y = Conv(c, /u8|u/)"),
    "NOT_ALL_ABSORB: Concat of it twice": Row(f"{N} c = Concat<axis=1>(n, /p2|n/) y = Conv(c, u8)"),
    "NOT_ALL_ABSORB: two ways into one Concat": Row(
        f"{N} i = /Identity(p)|Identity(n)/ c = Concat<axis=1>(n, i) y = Conv(c, u8)"
    ),
    "NOT_ALL_ABSORB: two ways into one Add": Row(f"{SHIFT} i = /Identity(p)|Identity(n)/ c = Add(n, i) y = Conv(c, u)"),
    "GRAPH_INPUT: one output of a Split is unread": Row(
        f"{N} c, d = Split<axis=1>(n, halves) y = Conv(c, u2) z = /Conv(d, u2)|Conv(p, u)/", outputs=("y", "z")
    ),
    "WRONG_AXIS: DepthToSpace": Row(
        "n = BatchNormalization(deep, /g16_blocks|g16_runs/, h16_blocks, m16_blocks, v16_blocks)"
        "c = DepthToSpace<blocksize=2>(n) y = Conv(c, u)"
    ),
    "WRONG_AXIS: DepthToSpace, CRD": Row(
        "n = BatchNormalization(deep, g16_runs, h16_runs, m16_runs, v16_runs)"
        'c = DepthToSpace<blocksize=2, mode=/"CRD"|"DCR"/>(n) y = Conv(c, u)'
    ),
    "NOT_ALL_ABSORB: Add of another branch, scale": Row(
        "n = BatchNormalization<epsilon=0.0>(p, /ones|twice4/, /h|o/, o, ones) c = Add(n, p2) y = Conv(c, u)"
    ),
    "SHIFT_BLOCKED: Mul by another branch": Row(
        "n = BatchNormalization<epsilon=0.0>(p, /twice4|ones/, /o|h/, o, ones) c = Mul(n, p2) y = Conv(c, u)"
    ),
    "NOT_ALL_ABSORB: Sub of another branch, scale": Row(
        "n = BatchNormalization<epsilon=0.0>(p, /ones|twice4/, /h|o/, o, ones) c = Sub(n, p2) y = Conv(c, u)"
    ),
    "NOT_ALL_ABSORB: Sum of three, scale": Row(
        "n = BatchNormalization<epsilon=0.0>(p, /ones|twice4/, /h|o/, o, ones) c = Sum(p2, n, gate) y = Conv(c, u)"
    ),
    "SHIFT_BLOCKED: Div by another branch": Row(
        "n = BatchNormalization<epsilon=0.0>(p, /twice4|ones/, /o|h/, o, ones) c = Div(n, p2) y = Conv(c, u)"
    ),
    "BARRIER: something divided by it": Row(f"{SCALE} c = /Div(n, p2)|Div(p2, n)/ y = Conv(c, u)"),
    "SHAPE_UNKNOWN: Transpose of unknown rank": Row(
        f"{N} d = Reshape(n, /to_same|loose_shape/) c = Identity(d) y = Conv(c, u)",
        {"loose_shape": "int64[D]"},
        {"to_same": int64(-1, 4, 6, 7)},
    ),
    "MALFORMED: Add that says by attributes how it broadcasts": Row(
        "n = BatchNormalization<is_test=1, epsilon=0.0>(/p|tall/, ones, h, o, ones)"
        "c = /Add(n, p2)|Add<broadcast=1, axis=1>(other, n)/ y = Conv(c, /u|u_kernel/)",
        {"tall": "float[6,4]", "other": "float[3,6,4,4]"},
        opset=6,
    ),
    "BARRIER: read as the slope of a PRelu": Row(
        "n = BatchNormalization(slope_in, g_positive, o, o, v) c = /Relu(n)|PRelu(p, n)/ y = Conv(c, u)",
        {"slope_in": "float[1,4,1,1]"},
    ),
}


# Not linear in each channel, or not with the numbers the channels have there.
BARRIERS = {
    "Cast to int32": "c = Cast<to=6>(n)",
    "Clip": "c = Clip(n, value, half)",
    "Gelu": "c = Gelu(n)",
    "HardSigmoid": "c = HardSigmoid(n)",
    "HardSwish": "c = HardSwish(n)",
    "InstanceNormalization": "c = InstanceNormalization(n, g, h)",
    "LogSoftmax": "c = LogSoftmax<axis=1>(n)",
    "QuantizeLinear": "c = QuantizeLinear(n, half)",
    "Sigmoid": "c = Sigmoid(n)",
    "Softmax": "c = Softmax<axis=1>(n)",
    "Tanh": "c = Tanh(n)",
}


@pytest.mark.parametrize("name", BARRIERS)
def test_nothing_is_moved_across_a_barrier(name: str) -> None:
    text = f"{N} /c = Identity(n) y = Conv(c, u)|{BARRIERS[name]} y = Identity(c)/"
    check_left_alone(f"BARRIER: {name}", _row(Row(text, {"narrow_": "float16"}, opset=20)))


@pytest.mark.parametrize("name", NOT_DOWN)
def test_not_toward_the_consumers(name: str) -> None:
    check_left_alone(name, _row(NOT_DOWN[name]))


# What has to be known of the shapes around a Reshape: its good side folds, its bad one could be laid out otherwise.
_KEEP = "s = Concat<axis=0>(loose, four1, loose)"
RESHAPES = {
    "SHAPE_UNKNOWN: the number of channels": "n = BatchNormalization(/thin|open/, g, h, m, v) "
    "c = Reshape(n, to_thin) y = Conv(c, u_line)",
    "SHAPE_UNKNOWN: a vector of channels": "n = BatchNormalization(/thin|vector/, g, h, m, v) "
    "c = Reshape(n, to_thin) y = Conv(c, u_line)",
    "SHAPE_UNKNOWN: what is behind the channels is computed": f"{_KEEP} n = BatchNormalization(thin, g, h, m, v) "
    "c = Reshape(n, /to_thin|s/) y = Conv(c, u_line)",
    "SHAPE_UNKNOWN: what was behind the channels was computed": f"{_KEEP} t = Reshape(thin, /to_thin|s/) "
    "n = BatchNormalization(t, g, h, m, v) c = Reshape(n, to_thin) y = Conv(c, u_line)",
    "SHAPE_UNKNOWN: how the dims that are symbols are shared out": (
        "n = BatchNormalization(/whole|dynamic/, g, h, m, v) c = Reshape(n, to_eight) y = Conv(c, u8_line)"
    ),
    "WRONG_AXIS: a dim that holds the channels one and a half times": (
        "n = BatchNormalization(/pair|halves_/, g, h, m, v) c = Reshape(n, to_twelve) y = Gemm<transA=1>(c, k12)"
    ),
    "NOT_PER_CHANNEL: no elements, of which the channels are gone": (
        "n = BatchNormalization(none_behind, g, h, m, v) c = Reshape<allowzero=1>(n, /two_four_zero|zero_four/) "
        "y = /Conv(c, u_line)|Gemm(c, k)/"
    ),
    "NOT_PER_CHANNEL: no elements, moved from the batch behind the channels": (
        "n = BatchNormalization(/none_behind|none_before/, g, h, m, v) c = Reshape<allowzero=1>(n, two_four_zero) "
        "y = Conv(c, u_line)"
    ),
}


@pytest.mark.parametrize("name", RESHAPES)
def test_what_has_to_be_known_of_a_reshape(name: str) -> None:
    inputs = {
        "loose": "int64[1]",
        "thin": "float[N,4,1]",
        "open": "float[N,C,1]",
        "vector": "float[4]",
        "whole": "float[1,4,6]",
        "dynamic": "float[N,4,H]",
        "pair": "float[1,4,6]",
        "halves_": "float[2,4,3]",
        "none_behind": "float[2,4,0]",
        "none_before": "float[0,4,5]",
    }
    constants = {
        "four1": int64(4),
        "to_thin": int64(-1, 4, 1),
        "to_eight": int64(1, 8, 3),
        "to_twelve": int64(12, 2),
        "two_four_zero": int64(2, 4, 0),
        "zero_four": int64(0, 4),
        "u8_line": numbers(5, 8, 1),
        "k12": numbers(12, 5),
    }
    check_left_alone(name, _row(Row(RESHAPES[name], inputs, constants)))


@pytest.mark.parametrize(
    ("source", "target"),
    [(("N", 4, 1), (None, 4, None)), ((None, 4, None), ("N", 4, 1))],
    ids=["behind", "before"],
)
def test_dims_that_nobody_knows_are_not_taken_for_the_same(source: Dims, target: Dims) -> None:
    channels = np.arange(4.0).reshape(1, 4)
    assert relaid(channels, ("N", 4, 1), ("N", 4, 1)).shape == (1, 4, 1)
    with pytest.raises(Refused, match="SHAPE_UNKNOWN"):
        relaid(channels, source, target)


def test_a_reshape_to_more_elements_than_a_map_may_have_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shape of a few bytes may say so; the map for it would fill memory."""
    monkeypatch.setattr("bnfold.passes.layout.MOST_ELEMENTS", 8)
    assert relaid(np.arange(4.0), (4, 2), (8,)).shape == (8,)
    with pytest.raises(Refused, match="SEARCH_LIMIT"):
        relaid(np.arange(4.0), (4, 3), (12,))


def test_padding_with_zeros_that_stay_zeros_is_not_touched() -> None:
    done = fold(_row(DOWN["Pad, constant, scale"]).model())
    assert list(done.model.graph.node[0].input) == ["p", "pads"]


def test_one_number_for_all_passes_whatever_the_shape() -> None:
    """It has no axis to be lost: not by a Reshape to who knows what, nor by a mean over who knows which axes."""
    text = (
        "n = BatchNormalization(row, alone_g, alone_g, alone_g, alone_v) a = Reshape(n, form) b_ = Transpose(a) "
        "c = ReduceMean(b_, index) d = Reshape(c, image) y = Conv(d, u1)"
    )
    row = Row(text, {**_INPUTS, "form": "int64[D]", "index": "int64[1]", "image": "int64[4]"}, _CONSTANTS)
    original = row.model()
    done = fold(original)
    assert done.operators == ["Reshape", "Transpose", "ReduceMean", "Reshape", "Conv"]
    fed = feeds(original, 2) | {"form": int64(2, 42), "index": int64(0), "image": int64(1, 1, 1, 2)}
    np.testing.assert_allclose(evaluate(done.model, fed)["y"], evaluate(original, fed)["y"], rtol=1e-5)


# Each stands between `n` of unknown rank and a Reshape: a scale or a shift for all alone.
ONE_FOR_ALL = {
    "Slice": ("g", "h", "c = Slice(a, start, end, at1)"),
    "DepthToSpace": ("g", "h", "c = DepthToSpace<blocksize=2>(a)"),
    "SpaceToDepth": ("g", "h", "c = SpaceToDepth<blocksize=2>(a)"),
    "Mul by another": ("g", "0", "c = Mul(a, open)"),
    "Add of another": ("1", "h", "c = Add(a, open)"),
    "Mul, Add of one number": ("g", "h", "i = Identity(a) e = Mul(i, value) c = Add(e, value)"),
}


@pytest.mark.parametrize("name", ONE_FOR_ALL)
def test_one_number_for_all_passes_without_a_shape(name: str) -> None:
    scale, shift, carrier = ONE_FOR_ALL[name]
    parameters = {"g": numbers(1, seed=1), "h": numbers(1, seed=2), "0": np.zeros(1, np.float32)}
    parameters["1"] = np.ones(1, np.float32)
    text = f"n = BatchNormalization<epsilon=0.0>(row, scale1, shift1, zero1, one1) a = Reshape(n, form) {carrier} "
    text += "d = Reshape(c, image) y = Conv(d, u1)" if "value" not in carrier else "y = Relu(c)"
    constants = {"scale1": parameters[scale], "shift1": parameters[shift]}
    constants |= {"zero1": parameters["0"], "one1": parameters["1"]}
    inputs = {"form": "int64[D]", "image": "int64[4]", "open": "float[N,4,6,8]", "row": "float[N,1,8,24]"}
    original = _row(Row(text, inputs, constants)).model()
    done = fold(original)
    assert done.operators == [node.op_type for node in original.graph.node][1:], done.decisions
    fed = feeds(original, 2) | {"form": int64(2, 4, 6, 8), "image": int64(-1, 1, 1, 1)}
    fed = {name: fed[name] for name in fed if name in {value.name for value in original.graph.input}}
    np.testing.assert_allclose(evaluate(done.model, fed)["y"], evaluate(original, fed)["y"], rtol=0, atol=1e-5)


# With as many rows as channels only the axis tells whether it is the rows that are scaled.
_BACK = "s = Transpose<perm=/[0,1,3,2]|[0,2,1,3]/>(c) y = Conv(s, u)"
ON_THE_ROWS = {
    "GlobalAveragePool": "c = GlobalAveragePool(t) f = Flatten(c) y = Gemm(f, k)",
    "AveragePool": f"c = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(t) {_BACK}",
    "MaxPool": f"c = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(t) {_BACK}",
    "GlobalMaxPool": "c = GlobalMaxPool(t) y = Conv(c, u)",
    "SpaceToDepth": "c = SpaceToDepth<blocksize=2>(t) y = Conv(c, u16)",
}


@pytest.mark.parametrize("name", ON_THE_ROWS)
def test_what_has_its_channels_on_axis_1_lets_no_map_of_the_rows_pass(name: str) -> None:
    text = "n = BatchNormalization(four_six, g_positive, h, o, v) t = Transpose<perm=/[0,1,3,2]|[0,2,1,3]/>(n)"
    check_left_alone(f"WRONG_AXIS: {name}", _row(Row(f"{text} {ON_THE_ROWS[name]}")))
