"""Runs of affine operators: folded as one, merged into fewer, lowered, or kept because somebody asked for it."""

from itertools import takewhile
from typing import Any

import numpy as np
import pytest
from onnx import NodeProto, shape_inference

from bnfold.decisions import Action, Reason
from bnfold.graph import Graph
from bnfold.passes import FoldBatchNormOptions, runs
from bnfold.passes.affine_ops import AffineOp
from tests.fold_models import Row, assert_same_function, check_folds, check_left_alone, completing, fold, numbers

_CONSTANTS = {
    "c": numbers(4, 1, 1),
    "c2": numbers(4, 1, 1, seed=1),
    "c3": numbers(3, 1, 1, seed=2),
    "c32": numbers(3, 1, 1, seed=5),
    "c33": numbers(3, 1, 1, seed=6),
    "number": numbers(seed=4),
    "rows": numbers(6, 1),
    "w_c": numbers(5, 3, 1, 1),
    "zero3": np.zeros(3, np.float32),
    "one3": np.ones(3, np.float32),
    "g_zero": np.array([1, 0, 1], np.float32),
    "g_positive": numbers(3, low=0.5, high=2.0),
    "v_tiny": np.full(3, 1e-30, np.float32),
    "lone": numbers(1),
    "v_lone": numbers(1, low=0.2),
    "row": numbers(1, 3, 6, 7),
}
B3 = "BatchNormalization"


_row = completing({}, _CONSTANTS)


# Sigmoid on both sides: nothing can be moved out of the run.
def _shut(run: str) -> str:
    return f"a = Sigmoid(x) {run} y = Sigmoid(z)"


MERGES = {
    "two normalizations": (
        _shut(f"n = {B3}(a, g3, h3, m3, v3) z = {B3}(n, h3, g3, m3, v3)"),
        "Sigmoid BatchNormalization Sigmoid",
    ),
    "three normalizations": (
        _shut(f"n = {B3}(a, g3, h3, m3, v3) o = {B3}(n, h3, g3, m3, v3) z = {B3}<epsilon=0.5>(o, g3, h3, m3, v3)"),
        "Sigmoid BatchNormalization Sigmoid",
    ),
    "Mul, Add, normalization": (
        _shut(f"n = Mul(a, c3) o = Add(n, c32) z = {B3}(o, g3, h3, m3, v3)"),
        "Sigmoid BatchNormalization Sigmoid",
    ),
    "normalization, Mul, Add": (
        _shut(f"n = {B3}(a, g3, h3, m3, v3) o = Mul(c3, n) z = Add(o, c32)"),
        "Sigmoid BatchNormalization Sigmoid",
    ),
    "on both sides": (
        _shut(f"k = Sub(c33, a) n = {B3}(k, g3, h3, m3, v3) z = Div(n, c32)"),
        "Sigmoid BatchNormalization Sigmoid",
    ),
    "one number and a normalization": (
        _shut(f"n = Mul(a, number) z = {B3}(n, g3, h3, m3, v3)"),
        "Sigmoid BatchNormalization Sigmoid",
    ),
    "four operators": (
        _shut("n = Sub(a, c3) o = Div(n, c32) p = Mul(o, c33) z = Add(p, c3)"),
        "Sigmoid Mul Add Sigmoid",
    ),
    "three operators to one": (_shut("n = Mul(a, c3) o = Div(n, c32) z = Mul(o, c33)"), "Sigmoid Mul Sigmoid"),
    "four operators of one number and channels": (
        _shut("n = Sub(a, number) o = Div(n, c32) p = Mul(o, c33) z = Add(p, number)"),
        "Sigmoid Mul Add Sigmoid",
    ),
}


@pytest.mark.parametrize("name", MERGES)
def test_merges(name: str) -> None:
    text, left = MERGES[name]
    row = _row(Row(text))
    # The one that stays is kept, with the reason why nothing takes it up.
    done = check_folds(row, left, action=Action.KEPT if text.count(B3) == 1 else Action.MERGED)
    if B3 in text:
        assert {d.reason and d.reason.code for d in done.decisions} == {"BARRIER"}
    before, after = len(row.model().graph.node), len(done.operators)
    assert after < before
    if "BatchNormalization" in left:
        statistics = {tensor.name for tensor in done.model.graph.initializer}
        assert {"m3", "v3"} <= statistics  # of the one that stays


def test_a_merged_normalization_goes_into_a_convolution_whole() -> None:
    row = _row(Row(f"a = Conv(x, w, b) n = {B3}(a, g, h, m, v) o = Mul(n, c) y = {B3}(o, g_2, h_2, m_2, v_2)"))
    done = check_folds(row, "Conv")
    assert [decision.node for decision in done.decisions] == ["n", "y"]
    assert {decision.target for decision in done.decisions} == {("a",)}


def test_what_changes_nothing_is_taken_out() -> None:
    row = _row(Row(_shut(f"z = {B3}<epsilon=0.0>(a, one3, zero3, zero3, one3)")))
    done = check_folds(row, "Sigmoid Sigmoid")
    assert done.decision().target == ()


@pytest.mark.parametrize(("before", "behind"), [("Sigmoid", ""), ("", "Sigmoid")])
def test_what_changes_nothing_asks_nothing_of_its_neighbours(before: str, behind: str) -> None:
    """An output on one side, on the other an operator that nothing passes."""
    text = f"d = {before or 'Identity'}(x) " if before else ""
    text += f"n = BatchNormalization<epsilon=0.0>({'d' if before else 'x'}, one3, o3, o3, one3)"
    text = text.replace("n =", "y =") if before else f"{text} y = {behind}(n)"
    constants = {"one3": np.ones(3, np.float32), "o3": np.zeros(3, np.float32)}
    assert fold(Row(text, constants=constants).model()).operators == ["Sigmoid"]


@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize(
    "text", [f"y = {B3}<epsilon=0.0>(x, one3, zero3, zero3, one3)", "d = Mul(x, two3) y = Div(d, two3)"]
)
def test_what_changes_nothing_stays_between_an_input_and_an_output(text: str, lower: bool) -> None:
    """Both names can be seen from outside."""
    two = {"two3": np.full((3, 1, 1), 2, np.float32)}
    done = fold(_row(Row(text, constants=two)).model(), FoldBatchNormOptions(lower=lower))
    assert not done.modified
    assert done.decision().reason is not None


# Channels and rows are four each, so that only the axis tells where the run of the first Mul ends.
ON_TWO_AXES = {
    "channels": ("n = Mul(a, ch) z = Mul(n, rows4)", "Mul"),
    "channels and one number": ("n = Mul(a, ch) o = Mul(n, number) z = Mul(o, rows4)", "Mul+Mul"),
    "one number and channels": ("n = Mul(a, number) o = Mul(n, ch) z = Mul(o, rows4)", "Mul+Mul"),
    # A bias of the channels is no normalization, but what begins behind it is one.
    "one number and rows": ("b_ = Add(a, ch) n = Mul(b_, number) z = Mul(n, rows4)", "Mul+Mul"),
}


@pytest.mark.parametrize("name", ON_TWO_AXES)
def test_a_run_lies_on_one_axis(name: str) -> None:
    text, run = ON_TWO_AXES[name]
    constants = {"ch": numbers(4, 1, 1, seed=7), "rows4": numbers(4, 1, seed=8)}
    original = _row(Row(f"a = Sigmoid(square) {text} y = Sigmoid(z)", {"square": "float[N,4,4,5]"}, constants)).model()
    done = fold(original)
    assert done.decision("n").op_type == run
    assert_same_function(original, done.model)


def test_each_operator_is_read_into_one_run_also_where_the_last_one_comes_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """None of these takes another one up, because their product has no room. Runs that overlap take quadratic time."""
    length = 6
    chain = " ".join(f"a{i + 1} = Mul(a{i}, faint)" for i in range(length))
    faint = (numbers(3, 1, 1) * 1e-30).astype(np.float32)
    model = _row(Row(f"a0 = Sigmoid(x) {chain} y = Sigmoid(a{length})", constants={"faint": faint})).model()
    model = shape_inference.infer_shapes(model)  # which onnx can do only while they are in order
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    were_read: list[str] = []
    read_affine = runs.read_affine  # type: ignore[attr-defined]  # it imports the name

    def noted(node: NodeProto, graph: Graph) -> AffineOp:
        were_read.append(node.output[0])
        return read_affine(node, graph)

    monkeypatch.setattr(runs, "read_affine", noted)
    done = fold(model)
    assert [decision.action for decision in done.decisions] == [Action.KEPT]
    assert sorted(were_read) == [f"a{i + 1}" for i in range(length)]


def test_only_the_run_up_to_another_reader_is_one() -> None:
    text = f"a = Conv(x, w, b) n = {B3}(a, g, h, m, v) o = {B3}(n, g_2, h_2, m_2, v_2) y = Add(n, o)"
    done = check_folds(_row(Row(text)), "Conv BatchNormalization Add")
    assert done.decision("n").action is Action.FOLDED
    assert done.decision("o").action is Action.KEPT


def test_only_the_run_up_to_an_output_is_one() -> None:
    text = f"a = Conv(x, w, b) n = {B3}(a, g, h, m, v) y = {B3}(n, g_2, h_2, m_2, v_2)"
    done = check_folds(_row(Row(text, outputs=("n", "y"))), "Conv BatchNormalization")
    assert done.decision("y").action is Action.KEPT


LEFT_ALONE = {
    "BARRIER: nothing to merge it with": Row(
        f"a = /Identity|Sigmoid/(x) n = {B3}(a, g3, h3, m3, v3) i = Identity(n) y = /Conv(i, w)|Sigmoid(i)/"
    ),
}


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_left_alone(name: str) -> None:
    check_left_alone(name, _row(LEFT_ALONE[name]))


def test_two_operators_stay_two() -> None:
    row = _row(Row(_shut("n = Mul(a, c3) z = Add(n, c32)")))
    done = fold(row.model())
    assert not done.modified
    assert (done.decision().node, done.decision().op_type) == ("n", "Mul+Add")
    assert done.decision().action is Action.KEPT


# ------------------------------------------------------------------ only the scale

SEPARATED = {
    "scale into the producer": (
        f"d = Conv(x, w, b) a = Relu(d) z = {B3}(a, g_four, h, m, v) y = Sigmoid(z)",
        "Conv Relu Add Sigmoid",
    ),
    "scale into the consumer": (
        f"a = Sigmoid(x) z = {B3}(a, g3, h3, m3, v3) y = Conv<pads=[1,1,0,1]>(z, w, b)",
        "Sigmoid Add Conv",
    ),
    "scale of a run into the producer": (
        "d = Conv(x, w, b) a = Relu(d) n = Mul(a, g_column) z = Add(n, c) y = Sigmoid(z)",
        "Conv Relu Add Sigmoid",
    ),
}


@pytest.mark.parametrize("name", SEPARATED)
def test_only_the_scale(name: str) -> None:
    text, left = SEPARATED[name]
    positive = numbers(4, low=0.5, high=2.0)
    row = _row(Row(text, constants={"g_four": positive, "g_column": positive.reshape(4, 1, 1)}))
    decision = check_folds(row, left).decision()
    assert decision.detail == "its scale was folded; its shift stays as an Add"


@pytest.mark.parametrize(
    ("text", "opset", "reason"),
    [
        # Each breaks one condition under which a scale is separated from its shift.
        (f"d = Conv(x, w, b) a = Relu(d) y = {B3}<epsilon=0.0>(a, one4, h, zero4, one4)", 18, "SHIFT_BLOCKED"),
        (f"d = Conv(x, w, b) a = Relu(d) y = {B3}(a, g_four, h, m, v)", 6, "SHIFT_BLOCKED"),
        (f"d = Conv(x, w, b) a = Relu(d) y = {B3}(a, g, h, m, v)", 18, "NEGATIVE_SCALE"),
        (f"a = Sigmoid(x) z = {B3}(a, g_zero, h3, m3, v3) y = Conv<pads=[1,1,0,1]>(z, w, b)", 18, "BARRIER"),
    ],
)
def test_a_scale_is_not_separated(text: str, opset: int, reason: str) -> None:
    if opset < 7:
        text = text.replace(f"{B3}(", f"{B3}<is_test=1>(")
    extra = {
        "one4": np.ones(4, np.float32),
        "zero4": np.zeros(4, np.float32),
        "g_four": numbers(4, low=0.5, high=2.0),
    }
    row = _row(Row(text, constants=extra, opset=opset))
    original = row.model()
    done = fold(original)
    assert not done.modified
    assert done.decision().reason is not None
    assert done.decision().reason.code == reason


def test_a_shift_that_would_not_be_finite_is_not_separated() -> None:
    """t / k overflows where k is tiny, though k x + t does not."""
    text = f"a = Sigmoid(x) z = {B3}<epsilon=0.0>(a, g_tiny, h_huge, zero3, one3) y = Conv<pads=[1,1,0,1]>(z, w, b)"
    extra = {"g_tiny": np.full(3, 1e-20, np.float32), "h_huge": np.full(3, 1e30, np.float32)}
    done = fold(_row(Row(text, constants=extra)).model())
    assert not done.modified


def test_both_misses_are_told() -> None:
    told = {
        "y = Sigmoid(z)": ("BARRIER", "before it: a is Sigmoid; behind it: y is Sigmoid"),
        "y = acme.Thing(z)": ("BARRIER", "before it: a is Sigmoid; behind it: y is acme::Thing (UNKNOWN_OPERATOR)"),
    }
    for behind, expected in told.items():
        decision = fold(_row(Row(f"a = Sigmoid(x) z = {B3}(a, g3, h3, m3, v3) {behind}")).model()).decision()
        assert decision.reason is not None
        assert (decision.reason.code, decision.detail) == expected


# The walk says once what is passed on, and nothing of a map that changes nothing.
WALKS = {
    "a shift, to one of two": (
        f"d = Conv(x, w, b) e = Conv(x2, w) c = Add(d, e) y = {B3}<epsilon=0.0>(c, one4, h, zero4, one4)",
        ["c (Add) passes on shift", "d (Conv) takes it up"],
    ),
    "a scale, to both": (
        f"d = Conv(x, w, b) e = Conv(x2, w) c = Add(d, e) y = {B3}(c, g, zero4, zero4, v)",
        ["c (Add) passes on scale", "d (Conv) takes it up", "c (Add) passes on scale", "e (Conv) takes it up"],
    ),
    "a scale, to the first, where the second stops it": (
        f"d = Conv(x, w, b) e = Sigmoid(four) c = Add(d, e) y = {B3}(c, g, zero4, zero4, v)",
        ["c (Add) passes on scale", "d (Conv) takes it up", "c (Add) passes on scale"],
    ),
}


@pytest.mark.parametrize("name", WALKS)
def test_the_walk_is_told(name: str) -> None:
    text, steps = WALKS[name]
    constants = {"one4": np.ones(4, np.float32), "zero4": np.zeros(4, np.float32)}
    model = _row(Row(text, {"four": "float[N,4,4,5]"}, constants)).model()
    heading, *walk = fold(model, FoldBatchNormOptions(explain="y")).decision().walk
    assert heading == "into the operators before it:"
    told = takewhile(lambda line: not line.startswith("  stopped"), walk)
    assert list(told) == [f"  {step}" for step in steps]


def test_of_two_ways_to_the_producers_the_whole_one_is_told() -> None:
    """A Sub in front could take the shift up, and the scale would come further: to no place either."""
    text = "a = Sigmoid(x) r = Relu(a) n = Sub(r, c3) z = Mul(n, c_positive) y = Sigmoid(z)"
    decision = fold(_row(Row(text, constants={"c_positive": numbers(3, 1, 1, low=0.5, high=2.0)})).model()).decision()
    assert decision.reason is not None
    assert decision.reason.code == "SHIFT_BLOCKED"


def test_a_miss_without_a_detail_is_the_reason_itself() -> None:
    """Before opset 7 no Add could hold what a MatMul has no bias for."""
    row = Row(f"d = MatMul(f, k) z = {B3}<is_test=1>(d, g, h, m, v) y = Sigmoid(z)", {"f": "float[N,5]"}, opset=6)
    decision = fold(_row(Row(row.text, row.inputs, {"k": numbers(5, 4)}, opset=6)).model()).decision()
    assert decision.reason is not None
    assert (decision.reason.code, decision.detail) == (
        "OLD_OPSET",
        "before it: the same; behind it: y is Sigmoid (BARRIER)",
    )


def test_a_scale_of_zero_is_told_where_it_stops_the_walk() -> None:
    text = f"a = Sigmoid(x) z = {B3}(a, g_zero, h3, m3, v3) y = Conv<pads=[1,1,0,1]>(z, w, b)"
    walk = fold(_row(Row(text)).model(), FoldBatchNormOptions(explain="z")).decision().walk
    alone = walk[walk.index("its scale alone into all operators behind it:") + 1]
    assert alone.endswith("[ZERO_SCALE]")


# ------------------------------------------------------------------ options

LOWER = FoldBatchNormOptions(lower=True)


@pytest.mark.parametrize(
    ("run", "left"),
    [
        (f"z = {B3}(a, g3, h3, m3, v3)", "Sigmoid Mul Add Sigmoid"),
        (f"z = {B3}(a, g3, zero3, zero3, v3)", "Sigmoid Mul Sigmoid"),
        (f"z = {B3}<epsilon=0.0>(a, one3, h3, zero3, one3)", "Sigmoid Add Sigmoid"),
    ],
)
def test_lower(run: str, left: str) -> None:
    row = _row(Row(_shut(run), options=LOWER))
    original = row.model()
    done = fold(original, LOWER)
    assert done.operators == left.split()
    assert done.decision().action is Action.LOWERED
    assert done.decision().op_type == B3
    assert_same_function(original, done.model)
    assert not fold(done.model, LOWER).modified


def test_lower_folds_first() -> None:
    row = _row(Row(f"d = Conv(x, w, b) y = {B3}(d, g, h, m, v)", options=LOWER))
    assert check_folds(row, "Conv").decision().action is Action.FOLDED


def test_lower_needs_a_broadcasting_mul() -> None:
    text = f"a = Sigmoid(x) z = {B3}<is_test=1>(a, g3, h3, m3, v3) y = Sigmoid(z)"
    done = fold(_row(Row(text, opset=6)).model(), LOWER)
    assert not done.modified
    assert done.decision().reason is not None
    assert done.decision().reason.code == "OLD_OPSET"


def test_a_scaling_that_lowering_made_is_no_normalization_of_the_input() -> None:
    """Its channels are counted by no shape, so it is looked at again without being understood."""
    text = f"a = Sigmoid(free) z = {B3}(a, g3, h3, m3, v3) y = Sigmoid(z)"
    done = fold(_row(Row(text, {"free": "float[A,B,C,D]"})).model(), LOWER)
    assert done.operators == ["Sigmoid", "Mul", "Add", "Sigmoid"]
    assert done.decision().action is Action.LOWERED


def test_lower_needs_a_dtype() -> None:
    text = f"u = acme.Thing(x) z = {B3}(u, lone, lone, lone, v_lone) y = Sigmoid(z)"
    done = fold(_row(Row(text)).model(), LOWER)
    assert not done.modified
    assert done.decision().reason is not None
    assert done.decision().reason.code == "SHAPE_UNKNOWN"


def test_lower_takes_the_dtype_of_the_output_where_the_input_has_none() -> None:
    """The file says what comes out."""
    model = _row(Row(f"u = acme.Thing(x) y = {B3}(u, lone, lone, lone, v_lone)")).model()
    assert fold(model, LOWER).operators == ["Thing", "Mul", "Add"]


def test_lower_needs_a_rank() -> None:
    text = f"r = Reshape(x, to) z = {B3}(r, g3, h3, m3, v3) y = Sigmoid(z)"
    done = fold(_row(Row(text, {"to": "int64[D]"})).model(), LOWER)
    assert not done.modified
    assert done.decision().reason is not None
    assert done.decision().reason.code == "SHAPE_UNKNOWN"


KEPT = f"d = Conv(x, w, b) n = {B3}(d, g, h, m, v) y = {B3}(n, g_2, h_2, m_2, v_2)"


@pytest.mark.parametrize(
    ("keep", "kept", "folded"),
    [
        (("n",), ["n"], ["y"]),
        (("y",), ["y"], ["n"]),
        (("*",), ["n", "y"], []),
        (("[a-m]", "nobody"), [], ["n", "y"]),
        (("N",), [], ["n", "y"]),  # names are case-sensitive
    ],
)
def test_keep(keep: tuple[str, ...], kept: list[str], folded: list[str]) -> None:
    original = _row(Row(KEPT)).model()
    done = fold(original, FoldBatchNormOptions(keep=keep))
    reasons = {d.node: d.reason.code for d in done.decisions if d.reason is not None}
    assert reasons == dict.fromkeys(kept, "KEPT_ON_REQUEST")
    assert [d.node for d in done.decisions if d.action is Action.FOLDED] == folded
    assert_same_function(original, done.model)


def test_keep_splits_a_disguised_run() -> None:
    text = "d = Conv(x, w, b) n = Mul(d, c) y = Mul(n, c2)"
    original = _row(Row(text)).model()
    done = fold(original, FoldBatchNormOptions(keep=("y",)))
    assert done.operators == ["Conv", "Mul"]
    np.testing.assert_array_equal(done.constant("c2"), _CONSTANTS["c2"])
    assert_same_function(original, done.model)
    reasons = [(d.node, d.reason and d.reason.code) for d in done.decisions]
    assert sorted(reasons) == [("n", None), ("y", "KEPT_ON_REQUEST")]


def test_keep_has_nothing_to_say_to_what_the_pass_itself_made() -> None:
    """The Add that holds the shift is looked at again in the next round, and has no name in the input."""
    text = f"d = Conv(x, w, b) a = Relu(d) y = {B3}(a, g_four, h, m, v)"
    model = _row(Row(text, constants={"g_four": numbers(4, low=0.5, high=2.0)})).model()
    assert fold(model, FoldBatchNormOptions(keep=("nobody",))).operators == ["Conv", "Relu", "Add"]


@pytest.mark.parametrize("linear", [True, False])
def test_keep_says_nothing_of_what_has_nothing_linear_beside_it(linear: bool) -> None:
    text = "d = Conv(x, w, b) y = Add(d, c)" if linear else "d = Conv(x, w, b) r = Relu(d) y = Add(r, c)"
    done = fold(_row(Row(text)).model(), FoldBatchNormOptions(keep=("*",)))
    assert [(each.reason, each.gain) for each in done.decisions] == [(Reason.KEPT_ON_REQUEST, True)] * linear
    assert not done.modified


def test_keep_is_the_reason_whatever_else_there_is() -> None:
    row = _row(Row(f"d = Conv(x, w, b) y = {B3}<training_mode=1>(d, g, h, m, v)"))
    for keep, code in (((), "TRAIN_MODE"), (("y",), "KEPT_ON_REQUEST")):
        reason = fold(row.model(), FoldBatchNormOptions(keep=keep)).decision().reason
        assert reason is not None
        assert reason.code == code


@pytest.mark.parametrize(("place", "stays"), [(("", "n"), True), (("", "o"), True), (("body", "n"), False)])
def test_what_is_forbidden_stays_with_its_run(place: tuple[str, str], stays: bool) -> None:
    text = f"d = Conv(x, w, b) n = {B3}(d, g, h, m, v) o = Mul(n, c) s = Sigmoid(o) e = Conv(s, w44)"
    original = _row(Row(f"{text} y = {B3}(e, g, h, m, v)", constants={"w44": numbers(4, 4, 1, 1)})).model()
    done = fold(original, FoldBatchNormOptions(forbidden=frozenset({place})))
    left = [B3, "Mul"] if stays else []
    assert done.operators == ["Conv", *left, "Sigmoid", "Conv"]
    decision = done.decision("n")
    assert decision.action is (Action.KEPT if stays else Action.FOLDED)
    assert (decision.reason is not None and decision.reason.code) == ("ROLLED_BACK" if stays else False)
    assert done.decision("y").action is Action.FOLDED
    assert_same_function(original, done.model)


def test_a_walk_tells_what_passes_and_where_it_is_taken_up() -> None:
    row = _row(
        Row(
            f"d = Conv(x, w, b) i = Identity(d) y = {B3}(i, g, /h, m|o4, o4/, v)",
            constants={"o4": np.zeros(4, np.float32)},
        )
    )
    for side, passed in ((row.good(), "scale and shift"), (row.bad(), "scale")):
        assert fold(side.model(), FoldBatchNormOptions(explain="y")).decision().walk == (
            "into the operators before it:",
            f"  i (Identity) passes on {passed}",
            "  d (Conv) takes it up",
        )


def test_progress_is_told_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bnfold.passes.fold_batch_norm._PROGRESS_EVERY", 2)
    told: list[tuple[int, int]] = []
    text = "d = Conv(x, w, b) a0 = Sigmoid(d) " + " ".join(
        f"n{i} = Mul(a{i}, c) a{i + 1} = Sigmoid(n{i})" for i in range(5)
    )
    options = FoldBatchNormOptions(on_progress=lambda done, total: told.append((done, total)))
    assert not fold(_row(Row(f"{text} y = Relu(a5)")).model(), options).modified
    assert told == [(0, 5), (2, 5), (4, 5)]


def test_a_walk_is_told_of_what_was_asked_for_and_of_nothing_else() -> None:
    text = f"a = Sigmoid(x) n = {B3}(a, g3, h3, m3, v3) s = Sigmoid(n) o = {B3}(s, g3, h3, m3, v3) y = Sigmoid(o)"
    done = fold(_row(Row(text)).model(), FoldBatchNormOptions(explain="n"))
    assert done.decision("n").walk[0] == "into the operators before it:"
    assert done.decision("o").walk == ()


def test_what_is_no_normalization_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from bnfold.passes import fold_batch_norm

    collect, starts = fold_batch_norm.collect_run, []  # type: ignore[attr-defined]  # it imports the name

    def counted(*arguments: Any) -> Any:
        starts.append(arguments[0])
        return collect(*arguments)

    monkeypatch.setattr(fold_batch_norm, "collect_run", counted)
    text = "a0 = Sigmoid(x) " + " ".join(f"a{i + 1} = Add(a{i}, c3)" for i in range(20))
    assert not fold(_row(Row(f"{text} y = Sigmoid(a20)")).model()).modified
    assert len(starts) == 1


@pytest.mark.parametrize(("permutation", "left"), [("[0,1,3,2]", 1), ("[0,2,1,3]", 2)])
def test_a_normalization_takes_another_one_up_on_its_own_axis_only(permutation: str, left: int) -> None:
    """Channels and rows are four each, so that only the axis tells."""
    text = (
        f"a = Sigmoid(square) n = {B3}(a, g, h, m, v) t = Transpose<perm={permutation}>(n)"
        f"z = {B3}(t, g_2, h_2, m_2, v_2) y = Sigmoid(z)"
    )
    original = _row(Row(text, {"square": "float[N,4,4,5]"})).model()
    done = fold(original)
    assert done.operators.count(B3) == left
    assert_same_function(original, done.model)
