"""Wrong twins of right models, by kind: each is found by running, and no right one is accused of what feeds reach."""

from collections.abc import Mapping

import numpy as np
import pytest
from onnx import ModelProto, helper, numpy_helper, parser

from bnfold.equivalence import Verdict, VerifyOptions, verify
from bnfold.equivalence.feeds.bounds import bounds
from bnfold.equivalence.feeds.integer_ranges import IntegerRange
from bnfold.equivalence.feeds.seeded import TABLE_FEEDS, table_rows

GENERATOR = np.random.default_rng(0)
Weights = Mapping[str, np.ndarray]


def normal(*shape: int) -> np.ndarray:
    return GENERATOR.normal(size=shape).astype(np.float32)


def model(text: str, weights: Weights | None = None) -> bytes:
    made = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> agraph {text}')
    for name, values in (weights or {}).items():
        made.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
    return made.SerializeToString()


def changed(values: np.ndarray, at: tuple[int, ...], by: float) -> np.ndarray:
    wrong = values.copy()
    wrong[at] += by
    return wrong


TABLE, LARGE, KERNEL, DENSE = normal(300, 4), normal(2000, 2), normal(3, 2, 3, 3), normal(6, 5)
R, W = normal(1, 20, 5), normal(1, 20, 3)
RG, WG = normal(2, 15, 5), normal(2, 15, 3)
TINY = DENSE * np.array([1, 1, 1e-6, 1, 1], np.float32)
TINY_KERNEL = KERNEL * np.array([1, 1e-6, 1], np.float32)[:, None, None, None]
FLIP = np.array([1, -1, 1], np.float32)[:, None, None, None]

LOOKED_UP = "(int64[N,L] i) => (float[N,L,E] y) { y = Gather(t, i) }"
CAST = "(float[N,L] i) => (float[N,L,E] y) { j = Cast<to=7>(i) k = Clip(j, zero) y = Gather(t, k) }"
SHIFTED = "(int64[N] i) => (float[N,E] y) <int64 one = {1}> { j = Add(i, one) y = Gather(t, j) }"
ONE_HOT = (
    "(int64[N] i) => (float[N,E] y) <int64 d = {300}, float[2] v = {0, 1}> { h = OneHot(i, d, v) y = MatMul(h, t) }"
)
DATA = "(float[N,2,H,W] x) => (float[N,C,P,Q] y)"
POOL = DATA + " {{ a = Conv<pads=[1,1,1,1]>(x, w) y = {0}(a) }}"
LSTM = "(float[s,b,3] x) => (float[s,d,b,u] y) { y = LSTM<hidden_size=5>(x, W, R) }"
GRU = '(float[s,b,3] x) => (float[s,d,b,u] y) { y = GRU<hidden_size=5, direction="bidirectional">(x, W, R) }'
CLIPPED = (
    "(float[N,6] x) => (float[N,5] y) <float low = {{-{0}}}, float high = {{{0}}}> "
    "{{ a = MatMul(x, w) y = Clip(a, low, high) }}"
)
ABOVE = (
    "(float[N,6] x) => (float[N,6] y) <float bound = {{{0}}}> {{ g = Greater(x, bound) n = Neg(x) y = Where(g, n, x) }}"
)
BATCH = """(float[N,4] x) => (float[N,4] y) <int64 bound = {{{0}}}, int64[1] zero = {{0}}> {{
    n = Shape<start=0, end=1>(x) s = Squeeze(n, zero) c = Greater(s, bound)
    y = If(c) <then_branch = a () => (float[N,4] p) {{ p = {1}(x) }},
               else_branch = b () => (float[N,4] q) {{ q = Relu(x) }}> }}"""

TWINS: dict[str, tuple[bytes, bytes]] = {
    "a table row, deep in the table": (
        model(LOOKED_UP, {"t": TABLE}),
        model(LOOKED_UP, {"t": changed(TABLE, (217, 1), 0.5)}),
    ),
    "a table row behind Cast and Clip": (
        model(CAST, {"t": TABLE, "zero": np.array(0)}),
        model(CAST, {"t": changed(TABLE, (131, 0), 0.5), "zero": np.array(0)}),
    ),
    "a table row behind Add": (model(SHIFTED, {"t": TABLE}), model(SHIFTED, {"t": changed(TABLE, (188, 3), 0.5)})),
    "a row of a one-hot product": (model(ONE_HOT, {"t": TABLE}), model(ONE_HOT, {"t": changed(TABLE, (277, 2), 0.5)})),
    "a row of a table of two thousand": (
        model(LOOKED_UP, {"t": LARGE}),
        model(LOOKED_UP, {"t": changed(LARGE, (1777, 1), 0.5)}),
    ),
    "a Clip at ten thousand": (
        model(CLIPPED.format(10000), {"w": DENSE}),
        model("(float[N,6] x) => (float[N,5] y) { y = MatMul(x, w) }", {"w": DENSE}),
    ),
    "a Clip that the other has not": (
        model("(float[N,6] x) => (float[N,5] y) { y = MatMul(x, w) }", {"w": DENSE}),
        model(CLIPPED.format(50000), {"w": DENSE}),
    ),
    "a Clip at another bound": (
        model(CLIPPED.format(10000), {"w": DENSE}),
        model(CLIPPED.format(90000), {"w": DENSE}),
    ),
    "a comparison with a large number": (model(ABOVE.format(20000)), model(ABOVE.format(30000))),
    "SAME_UPPER for SAME_LOWER in a pool": (
        model(POOL.format('MaxPool<kernel_shape=[3,3], strides=[2,2], auto_pad="SAME_UPPER">'), {"w": KERNEL}),
        model(POOL.format('MaxPool<kernel_shape=[3,3], strides=[2,2], auto_pad="SAME_LOWER">'), {"w": KERNEL}),
    ),
    "explicit pads for SAME_UPPER, right for even sizes": (
        model(POOL.format('AveragePool<kernel_shape=[3,3], strides=[2,2], auto_pad="SAME_UPPER">'), {"w": KERNEL}),
        model(POOL.format("AveragePool<kernel_shape=[3,3], strides=[2,2], pads=[0,0,1,1]>"), {"w": KERNEL}),
    ),
    "ceil_mode for floor": (
        model(POOL.format("MaxPool<kernel_shape=[2,2], strides=[2,2]>"), {"w": KERNEL}),
        model(POOL.format("MaxPool<kernel_shape=[2,2], strides=[2,2], ceil_mode=1>"), {"w": KERNEL}),
    ),
    "ceil_mode at the second level": (
        model(
            POOL.format("MaxPool<kernel_shape=[2,2], strides=[2,2]>")
            .replace("y = Max", "b = MaxPool<kernel_shape=[2,2], strides=[2,2], ceil_mode=1>(a) y = Max")
            .replace("(a) }", "(b) }"),
            {"w": KERNEL},
        ),
        model(
            POOL.format("MaxPool<kernel_shape=[2,2], strides=[2,2], ceil_mode=1>")
            .replace("y = Max", "b = MaxPool<kernel_shape=[2,2], strides=[2,2], ceil_mode=1>(a) y = Max")
            .replace("(a) }", "(b) }"),
            {"w": KERNEL},
        ),
    ),
    "a tiny channel of a Conv with its sign flipped": (
        model(DATA + " { y = Conv<pads=[1,1,1,1]>(x, w) }", {"w": TINY_KERNEL}),
        model(DATA + " { y = Conv<pads=[1,1,1,1]>(x, w) }", {"w": TINY_KERNEL * FLIP}),
    ),
    "a tiny channel behind a pool": (
        model(DATA + " { a = Conv(x, w) y = AveragePool<kernel_shape=[2,2]>(a) }", {"w": TINY_KERNEL}),
        model(DATA + " { a = Conv(x, w) y = AveragePool<kernel_shape=[2,2]>(a) }", {"w": TINY_KERNEL * FLIP}),
    ),
    "a tiny column of a product": (
        model("(float[N,6] x) => (float[N,5] y) { y = MatMul(x, w) }", {"w": TINY}),
        model(
            "(float[N,6] x) => (float[N,5] y) { y = MatMul(x, w) }",
            {"w": TINY * np.array([1, 1, -1, 1, 1], np.float32)},
        ),
    ),
    "a recurrence weight of an LSTM": (
        model(LSTM, {"W": W, "R": R}),
        model(LSTM, {"W": W, "R": changed(R, (0, 7, 2), 0.5)}),
    ),
    "a recurrence weight of a GRU, backward": (
        model(GRU, {"W": WG, "R": RG}),
        model(GRU, {"W": WG, "R": changed(RG, (1, 3, 3), 0.5)}),
    ),
    "all recurrence weights": (model(LSTM, {"W": W, "R": R}), model(LSTM, {"W": W, "R": np.zeros_like(R)})),
    "another function for more than three rows": (
        model(BATCH.format(3, "Relu")),
        model(BATCH.format(3, "Abs")),
    ),
    "another function for more than four rows": (model(BATCH.format(4, "Relu")), model(BATCH.format(4, "Abs"))),
    "another function for more than thirty rows": (model(BATCH.format(30, "Relu")), model(BATCH.format(30, "Abs"))),
}


@pytest.mark.parametrize(("right", "wrong"), TWINS.values(), ids=TWINS)
def test_a_wrong_twin_is_found_by_running(right: bytes, wrong: bytes) -> None:
    options = VerifyOptions(proof="never")
    found = verify(right, wrong, options)
    assert found.verdict is Verdict.NOT_EQUIVALENT
    assert found.measurements or "candidate" in found.explanation


@pytest.mark.parametrize("right", [right for right, _ in TWINS.values()], ids=TWINS)
def test_a_right_twin_is_not_accused(right: bytes) -> None:
    """An Identity more, so that the two are not the same file."""
    other = ModelProto.FromString(right)
    name = other.graph.output[0].name
    for node in other.graph.node:
        for index, output in enumerate(node.output):
            if output == name:
                node.output[index] = "before_identity"
    other.graph.node.append(helper.make_node("Identity", ["before_identity"], [name]))
    assert verify(right, other.SerializeToString(), VerifyOptions(proof="never")).verdict is Verdict.EQUIVALENT


def test_float16_is_fed_between_eight_and_its_overflow() -> None:
    text = "(float16[N,4] x) => (float16[N,4] y) { y = Clip(x, low, high) }"
    right, wrong = (model(text, {"low": np.float16(-end), "high": np.float16(end)}) for end in (300, 200))
    assert verify(right, wrong, VerifyOptions(proof="never")).verdict is Verdict.NOT_EQUIVALENT
    assert verify(right, right).verdict is Verdict.EQUIVALENT


def test_rows_that_no_feed_reads_are_named() -> None:
    shapes = {"i": (1, 4)}
    plans, told = table_rows(shapes, lambda batch: {"i": (batch, 4)}, {"i": IntegerRange(0, 100_000)})
    assert len(plans) == TABLE_FEEDS
    assert {plan.shapes["i"] for plan in plans} == {(64, 4)}
    assert f"{100_000 - TABLE_FEEDS * 256} of the 100000 rows that input 'i' may read" in told
    plans, told = table_rows(shapes, lambda batch: {"i": (batch, 4)}, {"i": IntegerRange(0, 9)})
    assert [plan.row for plan in plans] == [0, 4, 8]
    assert told == ""


def test_bounds_are_read_from_attributes_constants_and_both_models() -> None:
    old = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 10]> agraph (float[N] x) => (float[N] y) '
        "{ y = Clip<max=500.0, min=-7.0>(x) }"
    )
    new = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> agraph (float[N] x) => (float[N] y) '
        "{ c = Constant<value = float {-20000}>() m = Constant<value = float {-3.4e38}>() a = Max(x, c) y = Max(a, m) }"
    )
    assert bounds(old, new) == (20000, 500, 7)
