"""Models that no runtime would run: whatever is wrong with an operator is a reason, never a crash.

And constants as data, which do run: what a normalization makes of them is a constant as well.
"""

import numpy as np
import pytest

from bnfold.decisions import Action
from tests.fold_models import Row, assert_same_function, check_folds, check_left_alone, fold, numbers

B = "BatchNormalization"
_INPUTS = {
    "flat": "float[N,5]",
    "cx": "float[N,4,6,7]",
    "deep": "float[N,16,3,2]",
    "four": "float[4,3,6,7]",
}
_CONSTANTS = {
    "k": numbers(5, 4),
    "w16": numbers(16, 3, 1, 1),
    "three": numbers(3),
    "o": np.zeros(4, np.float32),
    "ones": np.ones(4, np.float32),
    "at1": np.array([1], np.int64),
    "at0": np.array([0], np.int64),
    "two": np.array([1, 2], np.int64),
    "at23": np.array([2, 3], np.int64),
    "at123": np.array([1, 2, 3], np.int64),
    "column": numbers(4, 1),
    "start": np.array([0], np.int64),
    "end": np.array([4], np.int64),
    "pads": np.array([0, 0, 1, 0, 0, 0, 0, 1], np.int64),
    "pads_odd": np.array([0, 0, 1, 0, 0, 0, 0], np.int64),
    "zero": np.array(0.0, np.float32),
    "zeros": np.zeros(2, np.float32),
    "scales": np.array([1, 1, 2, 2], np.float32),
    "scales_short": np.array([1, 1, 2], np.float32),
    "nothing": np.zeros(0, np.float32),
}

LEFT_ALONE = {
    "MALFORMED: Slice without starts": f'd = Conv(x, w, b) c = Slice(d, /start|""/, end, at1) y = {B}(c, g, h, m, v)',
    "MALFORMED: Slice without ends": f'd = Conv(x, w, b) c = Slice(d, start, /end|""/, at1) y = {B}(c, g, h, m, v)',
    "MALFORMED: Slice with a step of 0": (
        f"d = Conv(x, w, b) c = Slice(d, start, end, at1, /at1|at0/) y = {B}(c, g, h, m, v)"
    ),
    "MALFORMED: Slice with more axes than starts": (
        f"d = Conv(x, w, b) c = Slice(d, start, end, /at1|two/) y = {B}(c, g, h, m, v)"
    ),
    "MALFORMED: Slice with too few starts": (
        f"d = Conv(x, w, b) c = Slice(d, /start|start/, /end|two/, /at1|two/, /at1|two/) y = {B}(c, g, h, m, v)"
    ),
    "MALFORMED: Slice with too many axes and steps": (
        f"d = Conv(x, w, b) c = Slice(d, start, end, /at1|two/, /at1|two/) y = {B}(c, g, h, m, v)"
    ),
    "MALFORMED: Slice with too many steps": (
        f"d = Conv(x, w, b) c = Slice(d, start, end, at1, /at1|two/) y = {B}(c, g, h, m, v)"
    ),
    "MALFORMED: Pad with too few amounts": f"d = Conv(x, w, b) c = Pad(d, /pads|pads_odd/) y = {B}(c, pos, o, o, v)",
    "MALFORMED: Pad with two values": f"d = Conv(x, w, b) c = Pad(d, pads, /zero|zeros/) y = {B}(c, pos, o, o, v)",
    "MALFORMED: Pad with no value": f"d = Conv(x, w, b) c = Pad(d, pads, /zero|nothing/) y = {B}(c, pos, o, o, v)",
    "MALFORMED: DepthToSpace of block 0": (
        f"d = Conv(x, w16) c = DepthToSpace<blocksize=/2|0/>(d) y = {B}(c, g, h, m, v)"
    ),
    "WEIGHT_SHAPE: InstanceNormalization, scale too short": (
        f"c = InstanceNormalization(cx, /g|three/, h) y = {B}(c, g, h, m, v)"
    ),
    "WEIGHT_SHAPE: InstanceNormalization, both too short": (
        f"c = InstanceNormalization(cx, /g, h|three, three/) y = {B}(c, g, h, m, v)"
    ),
    "WEIGHT_SHAPE: InstanceNormalization, B too short": (
        f"c = InstanceNormalization(cx, g, /h|three/) y = {B}(c, g, h, m, v)"
    ),
    "WEIGHT_SHAPE: InstanceNormalization, scale and B in columns": (
        f"c = InstanceNormalization(cx, /g, h|column, column/) y = {B}(c, g, h, m, v)"
    ),
    "MALFORMED: Transpose of one axis": (
        f"d = Conv(x, w) c = Transpose<perm=/[0,1,3,2]|[0]/>(d) y = {B}(c, g, h, m, v)"
    ),
    "NOT_PER_CHANNEL: a normalization of a vector": (
        f"d = Conv(x, w, b) c = ReduceMean<keepdims=0>(d, /at23|at123/) y = {B}(c, g, h, m, v)"
    ),
    "NOT_BROADCASTABLE: Gemm, C too short": f"d = Gemm(flat, k, /b|three/) y = {B}(d, g, h, m, v)",
    "MALFORMED: MatMul of one": f"d = MatMul(flat/, k|/) y = {B}(d, g, h, m, v)",
    "WEIGHT_NOT_CONSTANT: Conv of one": f"d = Conv(x/, w|/) y = {B}(d, g, h, m, v)",
    "MALFORMED: a text for a number": f'd = Conv(x, w) y = {B}<epsilon=/0.1|"a"/>(d, g, h, m, v)',
    "MALFORMED: a list for a number": f"d = Conv(x, w) y = {B}<epsilon=/0.1|[0.1]/>(d, g, h, m, v)",
    "MALFORMED: a number for a list": (f"d = Conv(x, w) c = Transpose<perm=/[0,1,3,2]|1/>(d) y = {B}(c, g, h, m, v)"),
    "MALFORMED: a number for a text": (
        f'd = Conv(x, w) c = Resize<mode=/"linear"|1/>(d, "", scales) y = {B}(c, g, h, m, v)'
    ),
    "MALFORMED: Transpose that repeats an axis": (
        f"d = Conv(x, w) c = Transpose<perm=/[0,1,3,2]|[0,1,1,2]/>(d) y = {B}(c, g, h, m, v)"
    ),
}


@pytest.fixture(params=["one by one", "all at once"], autouse=True)
def _reading(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of plain normalizations are read by one array operation: with the same answers as one by one."""
    monkeypatch.setattr("bnfold.passes.normalization._WORTH_JOINING", 1 if request.param == "all at once" else 1000)


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_left_alone(name: str) -> None:
    positive = {"pos": numbers(4, low=0.5, high=2.0)}
    check_left_alone(name, Row(LEFT_ALONE[name], _INPUTS, {**_CONSTANTS, **positive}))


LACKING = {
    "Mul, one": (f"d = Conv(x, w, b) c = Mul(d, zero) y = {B}(c, g, h, m, v)", 1, "SHIFT_BLOCKED"),
    "Mul, both": (f"d = Conv(x, w, b) c = Mul(d, zero) y = {B}(c, pos, o, o, v)", 0, "MALFORMED"),
    "Sum, all": (f"d = Conv(x, w, b) c = Sum(d, d) y = {B}(c, g, h, m, v)", 0, "MALFORMED"),
}


@pytest.mark.parametrize("name", LACKING)
def test_an_operator_that_lacks_operands(name: str) -> None:
    """onnx itself cannot infer the shapes of these."""
    text, there, code = LACKING[name]
    model = Row(text, None, {**_CONSTANTS, "pos": numbers(4, low=0.5, high=2.0)}).model()
    del model.graph.node[1].input[there:]
    reason = fold(model).decision().reason
    assert reason is not None
    assert reason.code == code


@pytest.mark.parametrize("last", [f"u = {B}(d, g, h, m, v)", "u = Mul(d, column)"])
def test_an_operator_that_makes_nothing(last: str) -> None:
    model = Row(f"d = Conv(x, w, b) y = Sigmoid(d) {last}", None, _CONSTANTS).model()
    del model.graph.node[-1].output[:]
    done = fold(model)
    assert done.decisions == ()
    assert not done.modified


def test_scales_that_do_not_fit_the_rank() -> None:
    """The shape is what the file says, because nobody can infer it."""
    row = Row(f'd = Conv(x, w) c = Resize(d, "", /scales|scales_short/) y = {B}(c, g, h, m, v)', None, _CONSTANTS)
    model = row.bad().model()
    model.graph.value_info.append(Row("y = Relu(cx)", _INPUTS).model().graph.input[0])
    model.graph.value_info[-1].name = "c"
    done = fold(model)
    assert not done.modified
    assert done.decision().reason is not None
    assert done.decision().reason.code == "MALFORMED"


@pytest.mark.parametrize("operator", ["Add", "Sub"])
def test_an_old_sum_that_says_where_its_second_operand_begins(operator: str) -> None:
    """At opset 6 the axes of [4, 4, 5] need not be the last three: here they are the first three."""
    text = "d = Conv(four, w, b) e = Conv(x, w1) f = ReduceMean<axes=[3], keepdims=0>(e) "
    text += f"s = {operator}<broadcast=1, axis=0>(d, f)"
    row = Row(f"{text} y = {B}<is_test=1>(s, g, h, m, v)", {**_INPUTS, "x": "float[4,3,4,7]"}, opset=6)
    done = fold(row.model())
    assert not done.modified
    assert done.decision().reason is not None
    assert done.decision().reason.code == "MALFORMED"


# ------------------------------------------------------------------ constants as data

DATA = {"data": numbers(1, 4, 2, 2), "form": np.array([1, 4, 1, 1], np.int64), "row": numbers(1, 2, 4, 5)}
CONSTANT_DATA = {
    "an initializer": f"n = {B}(data, g, h, m, v) y = Add(n, cx1)",
    "an initializer read elsewhere": f"n = {B}(data, g, h, m, v) r = Relu(data) s = Add(n, r) y = Add(s, cx1)",
    "a Constant": f"k_ = Constant<value = float[1,4,1,1] {{1,2,3,4}}>() n = {B}(k_, g, h, m, v) y = Add(n, cx1)",
    "a Constant read elsewhere": (
        f"k_ = Constant<value = float[1,4,1,1] {{1,2,3,4}}>() n = {B}(k_, g, h, m, v) r = Add(n, k_) y = Add(r, cx1)"
    ),
    "an expression": (
        f"k_ = Constant<value_floats = [1.0, 2.0, 3.0, 4.0]>() r = Reshape(k_, form) n = {B}(r, g, h, m, v)"
        "y = Add(n, cx1)"
    ),
    "behind an Identity": f"i = Identity(data) n = {B}(i, g, h, m, v) y = Add(n, cx1)",
}


@pytest.mark.parametrize("name", CONSTANT_DATA)
def test_constant_data(name: str) -> None:
    row = Row(CONSTANT_DATA[name], {"cx1": "float[N,4,2,2]"}, DATA)
    original = row.model()
    done = fold(original)
    assert B not in done.operators
    assert done.decision().action is Action.FOLDED
    assert_same_function(original, done.model)
    assert not fold(done.model).modified


def test_constant_data_that_becomes_an_output() -> None:
    original = Row(f"i = Identity(data) y = {B}(i, g, h, m, v)", None, DATA).model()
    done = fold(original)
    assert B not in done.operators
    assert_same_function(original, done.model)


def test_a_constant_branch_behind_an_identity() -> None:
    names = {"x1": "float[1,3,6,7]"}
    wide = {name: numbers(6, seed=seed, low=0.2) for seed, name in enumerate(("g6", "h6", "m6", "v6"))}
    row = Row(
        f"c = Conv(x1, w, b) i = Identity(row) j = Concat<axis=1>(c, i) y = {B}(j, g6, h6, m6, v6)",
        names,
        {**DATA, **wide},
    )
    check_folds(row, "Conv Concat")
