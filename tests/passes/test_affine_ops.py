"""Mul, Add, Sub and Div by constants: which of them are a per-channel map, and how they take up another one."""

import numpy as np
import pytest

from bnfold.decisions import Action, Reason, Refused
from bnfold.graph import Model
from bnfold.onnxfile import read
from bnfold.passes.affine_ops import read_affine
from tests.fold_models import Row, batch_norm, check_folds, check_left_alone, completing, fold, numbers

_INPUTS = {
    "wide": "float[N,3,6,4]",  # as many columns as channels
    "flat": "float[N,5]",
    "square4": "float[N,4,4,4]",
    "p": "float[N,4,4,5]",
    "q": "float[N,1,4,5]",
    "rows": "float[4,5]",
    "thin": "float[N,3,1,1]",
    "loose_c": "float[4,1,1]",
    "free": "float[A,B,C,D]",
}
_CONSTANTS = {
    "c": numbers(4, 1, 1),
    "c2": numbers(4, 1, 1, seed=1),
    "c3": numbers(4, 1, 1, seed=2),
    "c4": numbers(4, 1, 1, seed=3),
    "c_front": numbers(1, 4, 1, 1),
    "c_batch": numbers(4, 1, 1, 1),
    "c_five": numbers(1, 1, 4, 1, 1),
    "c_last": numbers(4),
    "c_row": numbers(4, 1),
    "c_two": numbers(4, 4, 1),
    "c_other": numbers(3, 1, 1),
    "c_negative": numbers(4, 1, 1, low=-2.0, high=-0.5),
    "g_positive": numbers(4, low=0.5, high=2.0),
    "c_nan": np.array([1, np.nan, 1, 1], np.float32).reshape(4, 1, 1),
    "c_zero": np.array([1, 0, 1, 1], np.float32).reshape(4, 1, 1),
    "c_double": numbers(4, 1, 1, dtype=np.float64),
    "one": numbers(),
    "one1": numbers(1),
    "one5": numbers(1, 1, 1, 1, 1),
    "flat4": numbers(4),
    "k": numbers(5, 4),
    "s_slice": numbers(1, 1, 4, 5),
    "s_whole": numbers(1, 4, 4, 5),
    "s_plane": numbers(4, 5),
    "s_batch": numbers(2, 4, 4, 5),
    "s_channels": numbers(4, 1, 1, seed=9),
    "s_wide": numbers(1, 4, 4, 5, seed=4),
    **batch_norm(1, "1"),
}
_row = completing(_INPUTS, _CONSTANTS)
_POOL = "AveragePool<kernel_shape=[1,1]>"  # lets every map pass, and ends a run
_BN = "BatchNormalization"


# What is a map: each is folded into the convolution before it.
IS_A_MAP = {
    "Mul": Row("d = Conv(x, w, b) y = Mul(d, c)"),
    "Mul, constant first": Row("d = Conv(x, w, b) y = Mul(c, d)"),
    "Mul, rank of the data": Row("d = Conv(x, w) y = Mul(d, c_front)"),
    "Div": Row("d = Conv(x, w, b) y = Div(d, c)"),
    "Mul, Add": Row("d = Conv(x, w, b) e = Mul(d, c) y = Add(e, c2)"),
    "Add, Mul": Row("d = Conv(x, w, b) e = Add(c2, d) y = Mul(e, c)"),
    "Sub, Div, Mul, Add": Row("d = Conv(x, w, b) e = Sub(d, c) f = Div(e, c2) h_ = Mul(f, c3) y = Add(h_, c4)"),
    "Sub, Div, Mul, Add, constants first": Row(
        "d = Conv(x, w, b) e = Sub(c, d) f = Div(e, c2) h_ = Mul(c3, f) y = Add(c4, h_)"
    ),
    "Mul, Sub, constant minus": Row("d = Conv(x, w) e = Mul(d, c) y = Sub(c2, e)"),
    "Add of one number": Row("d = Conv(x, w) e = Mul(d, c) y = Add(e, one)"),
    "Mul of one number": Row("d = Conv(x, w) e = Mul(d, one) y = Mul(e, c)"),
    "Div by one number in a list": Row("d = Conv(x, w) e = Div(d, one1) y = Mul(e, c)"),
    "as many columns as channels": Row("d = Conv<pads=[1,1,1,1]>(wide, w) y = Mul(d, c)"),
    "vector behind Gemm": Row("d = Gemm(flat, k) y = Mul(d, flat4)"),
    "frozen normalization": Row(
        "k_ = Add(v, one) l_ = Sqrt(k_) i_ = Div(g, l_) a_ = Reshape(i_, form) n_ = Mul(m, i_) o_ = Sub(h, n_)"
        "e_ = Reshape(o_, form) d = Conv(x, w) f = Mul(d, a_) y = Add(f, e_)",
        constants={"form": np.array([1, 4, 1, 1], np.int64), "one": np.array(1e-5, np.float32)},
    ),
}


@pytest.mark.parametrize("name", IS_A_MAP)
def test_is_a_map(name: str) -> None:
    row = IS_A_MAP[name]
    operators = "Gemm" if "Gemm" in row.text else "Conv"
    decision = check_folds(_row(row), operators).decision()
    assert decision.target == ("d",)


def test_the_decision_says_what_the_run_was_made_of() -> None:
    row = _row(IS_A_MAP["Sub, Div, Mul, Add"])
    assert fold(row.model()).decision().op_type == "Sub+Div+Mul+Add"


# What is none: nothing changes, and nothing is said where it is surely no gain. The good side folds.
IS_NO_MAP = {
    "constant divided by the data": Row("d = Conv(x, w, b) y = Div(/d, c|c, d/)"),
    "full shape": Row("d = Conv(p, w4) y = Mul(d, /c|c_two/)", constants={"w4": numbers(4, 4, 1, 1)}),
    "broadcasts up": Row("d = Conv(x, w) y = Mul(d, /c_front|c_five/)"),
    "not constant": Row("d = Conv(x, w) y = Mul(d, /c|loose_c/)"),
    "of another dtype": Row("d = Conv(x, w) y = Mul(d, /c|c_cast/)", {"c_cast": "float[4,1,1]"}),
    "infinite": Row("d = Conv(x, w) y = Div(d, /c|c_zero/)"),
    "NaN": Row("d = Conv(x, w) y = Mul(d, /c|c_nan/)"),
    "of another domain": Row("d = Conv(x, w) y = /Mul|acme.Mul/(d, c)"),
}
# It would be one, and stands beside a linear operator.
_SAID = {"infinite": Reason.NOT_FINITE, "NaN": Reason.NOT_FINITE}


@pytest.mark.parametrize("name", IS_NO_MAP)
def test_is_no_map(name: str) -> None:
    row = _row(IS_NO_MAP[name])
    assert fold(row.good().model()).modified
    original = row.bad().model()
    done = fold(original)
    assert not done.modified
    said = [_SAID[name]] if name in _SAID else []
    assert [each.reason for each in done.decisions if each.is_gain_that_stays] == said
    assert done.model.SerializeToString(deterministic=True) == original.SerializeToString(deterministic=True)


def test_a_constant_on_a_dim_of_unknown_size_is_no_map() -> None:
    text = "d = Relu(/p|free/) y = Mul(d, c)"
    row = _row(Row(text))
    assert fold(row.good().model()).decision().action is Action.KEPT  # seen, but there is nowhere to put it
    reason = fold(row.bad().model()).decision().reason
    assert reason is not None
    assert reason.code == "SHAPE_UNKNOWN"


# A normalization for all that is known, or none at all: what scales a value of unknown rank by a constant.
OF_UNKNOWN_RANK = {
    "Mul": ("y = Mul(u, /flat4|one1/)", "SHAPE_UNKNOWN"),
    "Mul, constant first": ("y = Mul(/flat4|one1/, u)", "SHAPE_UNKNOWN"),
    "Div": ("y = Div(u, /c|one1/)", "SHAPE_UNKNOWN"),
    "an input": ("y = Mul(anything, /flat4|one1/)", "SHAPE_UNKNOWN"),
    "an Add": ("y = /Mul|Add/(u, c)", "SHAPE_UNKNOWN"),
    "a constant divided by it": ("y = Div(/u, c|c, u/)", "SHAPE_UNKNOWN"),
    "of groups": ("n = InstanceNormalization(p, g, h) r = Reshape(/p|n/, form) y = Mul(r, c)", "SHAPE_UNKNOWN"),
    "of groups, laid out anew": (
        "n = InstanceNormalization(u, g, h) r = /Relu(n)|Reshape(n, form)/ y = Mul(r, c)",
        "SHAPE_UNKNOWN",
    ),
    "of groups, normalized": (
        "n = /Relu(p)|InstanceNormalization(p, g, h)/ r = Reshape(n, form) y = Mul(r, c)",
        "SHAPE_UNKNOWN",
    ),
    "of something divided by a root": (
        "a = Add(u, u) s = Sqrt(a) e = /Sub|Div/(u, s) y = Mul(e, c)",
        "SHAPE_UNKNOWN",
    ),
    "of a normalization written as operators": (
        "a = Add(u, u) s = /Relu|Sqrt/(a) e = Div(u, s) y = Mul(e, c)",
        "SHAPE_UNKNOWN",
    ),
}


@pytest.mark.parametrize("name", OF_UNKNOWN_RANK)
def test_what_may_be_a_normalization_of_unknown_rank(name: str) -> None:
    text, code = OF_UNKNOWN_RANK[name]
    row = _row(Row(f"u = Reshape(p, form) {text}", {"form": "int64[D]", "anything": "float[]"}))
    decision = fold(row.good().model()).decision()
    assert (decision.action, decision.op_type) == (Action.KEPT, row.good().text.split()[-2].split("(")[0])
    assert decision.reason is not None
    assert decision.reason.code == code
    assert fold(row.bad().model()).decisions == ()


def test_two_large_dims_are_no_map_whatever_the_shape() -> None:
    graph = Model(read(_row(Row("y = Mul(free, c_two)")).model().SerializeToString())).main
    with pytest.raises(Refused, match="NOT_PER_CHANNEL"):
        read_affine(graph.nodes()[0], graph)


def test_a_map_of_integers_is_no_normalization() -> None:
    row = _row(Row("y = Mul(/p|n/, /c|c_int/)", {"n": "int32[N,4,4,5]"}, {"c_int": np.arange(4).reshape(4, 1, 1)}))
    assert fold(row.good().model()).decision().action is Action.KEPT
    row = Row(row.text, row.inputs, {**(row.constants or {}), "c_int": np.arange(4, dtype=np.int32).reshape(4, 1, 1)})
    assert fold(row.bad().model()).decisions == ()


def test_an_operator_of_one_operand_is_no_map() -> None:
    model = _row(Row("y = Mul(p, c)")).model()
    del model.graph.node[0].input[1:]
    assert fold(model).decisions == ()


def test_one_number_on_a_value_of_unknown_rank() -> None:
    done = fold(
        _row(Row(f"u = Reshape(p, form) d = {_BN}(u, g, h, m, v) y = Mul(d, one)", {"form": "int64[D]"})).model()
    )
    assert done.operators == ["Reshape", _BN]


def test_one_number_of_too_high_a_rank_adds_a_dim_and_is_no_map() -> None:
    row = _row(Row("d = Conv(x, w) y = Mul(d, /one1|one5/)"))
    graph = Model(read(row.good().model().SerializeToString())).main
    assert read_affine(graph.nodes()[1], graph).affine.is_uniform
    graph = Model(read(row.bad().model().SerializeToString())).main
    with pytest.raises(Refused, match="NOT_PER_CHANNEL"):
        read_affine(graph.nodes()[1], graph)


def test_an_old_operator_that_says_by_attributes_how_it_broadcasts_is_no_map() -> None:
    """At opset 6 the axis of [4] is what the attribute says, here not the last one."""
    graph = Model(read(_row(Row("y = Mul<broadcast=1, axis=1>(square4, c_last)", opset=6)).model().SerializeToString()))
    with pytest.raises(Refused, match="MALFORMED"):
        read_affine(graph.main.nodes()[0], graph.main)


def test_the_gain_of_a_normalization_written_as_operators_stays() -> None:
    """x / sqrt(computed) * gain: runtimes recognize that pattern, so the gain is not moved into what follows."""
    text = "a = Add(z, z) r = /Relu|Sqrt/(a) e = Div(p, r) f = Mul(e, c) y = Conv(f, w4)"
    row = _row(Row(text, {"z": "float[N,1,1,1]"}, {"w4": numbers(3, 4, 1, 1)}))
    assert fold(row.good().model()).operators == ["Add", "Relu", "Div", "Conv"]
    decision = fold(row.bad().model()).decision()
    assert (decision.reason, decision.gain) == (Reason.PART_OF_A_PATTERN, True)
    with_statistics = Row(row.text.replace("Mul(e, c)", f"{_BN}(e, g, h, m, v)"), row.inputs, row.constants)
    assert fold(with_statistics.bad().model()).operators == ["Add", "Sqrt", "Div", "Conv"]


LEFT_ALONE = {
    "WRONG_AXIS: a vector aligns with the last axis": Row("d = Conv<pads=[1,1,1,1]>(wide, w) y = Mul(d, /c|c_last/)"),
    "WRONG_AXIS: a column aligns with the rows": Row(
        "d = Conv(square4, w4) y = Mul(d, /c|c_row/)", constants={"w4": numbers(4, 4, 1, 1)}
    ),
    "WRONG_AXIS: one number per row of the batch": Row(
        "d = Conv(x, w) y = Mul(d, /c|c_batch/)", {"x": "float[4,3,6,7]"}
    ),
}


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_left_alone(name: str) -> None:
    check_left_alone(name, _row(LEFT_ALONE[name]))


# How they take up another map: a BatchNormalization behind (its scale and shift) or in front of them. Sigmoid stops
# what passes on. `s_whole` is no per-channel map, so it is not part of the run.
_B = f"y = {_BN}(d, g, h, m, v)"
TAKES_UP = {
    "Add of a full shape, behind Conv": Row(f"e = Conv(p, w4) d = Add(e, s_whole) {_B}"),
    "Add of a full shape, constant first": Row(f"e = Conv(p, w4) d = Add(s_whole, e) {_B}"),
    "Sub of a full shape": Row(f"e = Conv(p, w4) d = Sub(e, s_whole) {_B}"),
    "full shape minus": Row(f"e = Conv(p, w4) d = Sub(s_whole, e) {_B}"),
    "Add of a plane": Row(f"e = Conv(p, w4) d = Add(e, s_plane) {_B}"),
    "Add that broadcasts the batch": Row(f"e = Conv(p, w4) d = Add(e, s_batch) {_B}", {"p": "float[1,4,4,5]"}),
    "Mul by a full shape takes the scale": Row(f"e = Relu(p) d = Mul(e, s_whole) y = {_BN}(d, g, o, o, v)"),
    "Mul by a plane takes the scale": Row(f"e = Relu(p) d = Mul(s_plane, e) y = {_BN}(d, g, o, o, v)"),
    "Div by a full shape takes the scale": Row(f"e = Relu(p) d = Div(e, s_whole) y = {_BN}(d, g, o, o, v)"),
    "Mul by one row passes the shift on": Row(
        f"a = Relu(p) e = Add(a, s_whole) d = Mul(e, one) f = {_POOL}(d) y = {_BN}(f, g, h, m, v)"
    ),
    "Mul passes the shift on to an Add of a full shape": Row(
        f"a = Relu(p) e = Add(a, s_whole) d = Mul(e, c_negative) f = MaxPool<kernel_shape=[2,1]>(d) "
        f"y = {_BN}(f, g_positive, h, m, v)"
    ),
    "Div passes the shift on to an Add of a full shape": Row(
        f"a = Relu(p) e = Add(a, s_whole) d = Div(e, c_negative) f = MaxPool<kernel_shape=[2,1]>(d) "
        f"y = {_BN}(f, g_positive, h, m, v)"
    ),
    "in front of an Add of a full shape": Row(f"d = {_BN}(p, g, h, m, v) e = Add(d, s_whole) y = Conv(e, w4)"),
    "in front of an Add, constant first": Row(f"d = {_BN}(p, g, h, m, v) e = Add(s_whole, d) y = Conv(e, w4)"),
    "in front of a Sub of a full shape": Row(f"d = {_BN}(p, g, h, m, v) e = Sub(d, s_whole) y = Conv(e, w4)"),
    "in front of full shape minus": Row(f"d = {_BN}(p, g, h, m, v) e = Sub(s_whole, d) y = Conv(e, w4)"),
    "in front of a Mul by a full shape": Row(f"d = {_BN}(p, g, o, o, v) e = Mul(d, s_whole) y = Relu(e)"),
    "in front of a Div by a full shape": Row(f"d = {_BN}(p, g, o, o, v) e = Div(d, s_whole) y = Relu(e)"),
    "a shift behind a Mul by a plane": Row(
        f"r = Relu(p) a = Add(r, s_whole) d = Mul(a, s_plane) f = {_POOL}(d) "
        f"y = {_BN}<epsilon=0.0>(f, ones4, h, z4, ones4)"
    ),
    "a shift in front of a Mul by a plane": Row(
        f"d = {_BN}<epsilon=0.0>(p, ones4, h, z4, ones4) f = {_POOL}(d) e = Mul(f, s_plane) y = Add(e, s_whole)"
    ),
    "a shift on the channels in front of a Mul on the rows": Row(
        f"d = {_BN}<epsilon=0.0>(p, ones4, h, z4, ones4) f = {_POOL}(d) e = Mul(f, c_row) y = Add(e, s_whole)"
    ),
    "in front of a pool and Mul": Row(
        f"d = {_BN}(p, g, h, m, v) f = {_POOL}(d) e = Mul(f, c) a = Add(e, s_whole) y = Relu(a)"
    ),
    "in front of a pool and Div": Row(
        f"d = {_BN}(p, g, h, m, v) f = {_POOL}(d) e = Div(f, c) a = Add(e, s_whole) y = Relu(a)"
    ),
    "Mul takes the scale, where Relu lets it not pass from an Add": Row(
        f"a = Relu(p) e = Add(a, s_whole) d = Mul(e, c) y = {_BN}(d, g, h, m, v)"
    ),
    "Div takes the scale, where Relu lets it not pass from an Add": Row(
        f"a = Relu(p) e = Add(a, s_whole) d = Div(e, c) y = {_BN}(d, g, h, m, v)"
    ),
    "one number in front of a pool and Mul by the rows": Row(
        f"d = {_BN}(one_map, g1, h1, m1, v1) f = {_POOL}(d) e = Mul(f, c_row) y = Add(e, s_whole)",
        {"one_map": "float[N,1,4,5]"},
    ),
    "in front of a pool and Mul, constant first": Row(
        f"d = {_BN}(p, g, h, m, v) f = {_POOL}(d) e = Mul(one, f) a = Sub(s_whole, e) y = Relu(a)"
    ),
}
_TAKES_UP = {
    "w4": numbers(3, 4, 1, 1),
    "o": np.zeros(4, np.float32),
    "z4": np.zeros(4, np.float32),
    "ones4": np.ones(4, np.float32),
}


@pytest.mark.parametrize("name", TAKES_UP)
def test_takes_up(name: str) -> None:
    row = _row(TAKES_UP[name])
    square = "Conv(p" in row.text
    row = Row(row.text, row.inputs, {**row.constants, **_TAKES_UP, **({"w4": numbers(4, 4, 1, 1)} if square else {})})
    left = [node.op_type for node in row.model().graph.node if node.op_type != _BN]
    check_folds(row, " ".join(left))


NOT_TAKEN = {
    "NOT_PER_CHANNEL: the other operand broadcasts the channels": Row(
        f"e = Mul(/p|q/, s_slice) d = Add(e, s_whole) y = {_BN}(d, g_positive, o, o, v)"
    ),
    "NOT_PER_CHANNEL: the other operand has no channel axis": Row(
        f"e = Mul(/p|rows/, s_plane) d = Add(e, s_batch) y = {_BN}(d, g_positive, o, o, v)", {"p": "float[2,4,4,5]"}
    ),
    "SHAPE_UNKNOWN: the channels of the other operand are unknown": Row(
        f"e = Mul(/p|free/, s_slice) d = Add(e, s_whole) y = {_BN}(d, g_positive, o, o, v)"
    ),
    "BARRIER: constant divided by it": Row(f"d = {_BN}(p, g, o, o, v) f = {_POOL}(d) y = Div(/f, s_whole|s_whole, f/)"),
    "BARRIER: constant divided by what comes before": Row(
        f"e = Sigmoid(p) d = Div(/e, s_whole|s_whole, e/) y = {_BN}(d, g_positive, o, o, v)"
    ),
    "WEIGHT_OVERFLOW: Div by a full shape, scale 0": Row(f"d = {_BN}(p, /g|g_zero/, o, o, v) y = Div(d, s_whole)"),
}


@pytest.mark.parametrize("name", NOT_TAKEN)
def test_not_taken(name: str) -> None:
    zero = np.array([1, 0, 1, 1], np.float32)
    ones = np.ones(4, np.float32)
    row = _row(NOT_TAKEN[name])
    check_left_alone(name, Row(row.text, row.inputs, {**row.constants, **_TAKES_UP, "g_zero": zero, "ones": ones}))


FIRST_NOT_FINITE = {
    "y = Div(d, c_zero)": "scale inf in channel",
    "y = Mul(d, infinite1)": "scale inf",
    "e = Mul(d, c) y = Add(e, infinite1)": "shift inf",
}


@pytest.mark.parametrize("text", FIRST_NOT_FINITE)
def test_what_is_not_finite_is_named(text: str) -> None:
    constants = {"infinite1": np.array([np.inf], np.float32)}
    done = fold(_row(Row(f"d = Conv(x, w) {text}", constants=constants)).model())
    details = [each.detail for each in done.decisions if each.reason is Reason.NOT_FINITE]
    assert [detail.rstrip(" 0123456789") for detail in details] == [FIRST_NOT_FINITE[text]]
