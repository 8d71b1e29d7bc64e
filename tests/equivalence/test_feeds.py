"""Feeds reach what they must: borders, branches, batches, tables, and sizes that show every tap."""

import math
from itertools import pairwise

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, parser

from bnfold.equivalence import Verdict, VerifyOptions, verify
from bnfold.equivalence.feeds import dynamic_sizes as sizes
from bnfold.equivalence.feeds.integer_ranges import IntegerRange
from bnfold.equivalence.feeds.seeded import KINDS, LARGEST_FEED, FeedPlan, build, schedule
from bnfold.equivalence.structure.signature import Port, signature_of

IMAGE = Port("x", TensorProto.FLOAT, ("N", 3, "H", "W"))


def graph(body: str, signature: str = "(float[N,3,H,W] x) => (float[N,C,A,B] y)") -> ModelProto:
    return parser.parse_model(f'<ir_version: 9, opset_import: ["" : 17]> agraph {signature} {{ {body} }}')


def first_shape(model: ModelProto) -> tuple[int, ...]:
    ports = signature_of(model).inputs
    return next(sizes.Sizes(model, ports, {}).variants(1))[ports[0].name]


@pytest.mark.parametrize(
    ("body", "least"),
    [
        ("y = Conv<kernel_shape=[7,7]>(x, w)", 8),
        ("y = Conv<kernel_shape=[3,3], dilations=[4,4]>(x, w)", 10),
        ("a = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x) y = Conv<kernel_shape=[5,5]>(a, w)", 12),
        ("a = Conv<kernel_shape=[3,3], strides=[4,4]>(x, w) y = AveragePool<kernel_shape=[3,3]>(a)", 16),
        ("y = Relu(x)", 2),
    ],
)
def test_every_window_sees_a_map_larger_than_itself(body: str, least: int) -> None:
    model = graph(body)
    model.graph.input.extend(graph("y = Relu(w)", "(float[4,3,7,7] w) => (float[4,3,7,7] y)").graph.input)
    batch, channels, height, width = first_shape(model)
    assert (batch, channels) == (1, 3)
    assert height >= least
    assert width > height


def test_sides_are_multiples_of_the_total_stride() -> None:
    down = "a = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x) b = MaxPool<kernel_shape=[3,3], strides=[4,4]>(a)"
    _, _, height, width = first_shape(graph(f"{down} y = Relu(b)"))
    assert height % 8 == width % 8 == 0


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_are_what_they_say_and_the_same_each_time(kind: str) -> None:
    plan = FeedPlan(f"f-{kind}", kind, {"x": (3, 3, 6, 7)})
    (one, two), other = (build(plan, [IMAGE], 0, {})["x"] for _ in range(2)), build(plan, [IMAGE], 1, {})["x"]
    np.testing.assert_array_equal(one, two)
    assert one.dtype == np.float32
    assert np.isfinite(one).all()
    assert (kind == "zero") == np.array_equal(one, other)
    match kind:
        case "zero":
            assert not one.any()
        case "constant":
            assert np.ptp(one, axis=(2, 3)).max() == 0
            assert (one > 0).any()
            assert (one < 0).any()
        case "uniform":
            assert 0 <= one.min() < one.max() < 1
        case "extreme":
            assert np.abs(one).max() > 1000
        case "impulses":
            places = {(int(h), int(w)) for h, w in np.argwhere(one[0, 0])}
            assert places == {(h, w) for h in (0, 3, 5) for w in (0, 3, 6)}
        case "mixed":
            assert len({round(float(np.abs(row).mean()), 3) for row in one}) == 3


def test_extreme_values_fit_into_float16() -> None:
    values = build(FeedPlan("e", "extreme", {"x": (4, 64)}), [Port("x", TensorProto.FLOAT16, ("N", 64))], 0, {})["x"]
    assert np.isfinite(values).all()
    assert np.abs(values).max() > 16


def test_integers_reach_the_ends_of_their_range_and_conditions_both_values() -> None:
    def values(elem_type: int, kind: str, limit: dict[str, int], shape: tuple[int, ...] = (400,)) -> np.ndarray:
        ranges = {name: IntegerRange(limit=size) for name, size in limit.items()}
        return build(FeedPlan("i", kind, {"x": shape}), [Port("x", elem_type, ("N",))], 0, ranges)["x"]

    pixels = values(TensorProto.UINT8, "normal", {})
    assert (pixels.min() < 10, pixels.max() > 245) == (True, True)
    assert set(values(TensorProto.INT64, "normal", {"x": 5})) == {0, 1, 2, 3, 4}
    assert set(values(TensorProto.INT64, "constant", {"x": 5})) == {4}
    assert {bool(values(TensorProto.BOOL, kind, {}, ())) for kind in KINDS} == {True, False}


def test_large_inputs_get_few_feeds_and_small_ones_all() -> None:
    assert sum(len(each.kinds) for each in schedule([IMAGE], {"x": (1, 3, 224, 224)}, batched=True)) == 2
    assert {each.batch for each in schedule([IMAGE], {"x": (1, 3, 224, 224)}, batched=True)} == {1, 2}
    assert {each.batch for each in schedule([IMAGE], {"x": (1, 3, 32, 32)}, batched=True)} == {1, 2, 5}
    assert [each.kinds for each in schedule([IMAGE], {"x": (1, 3, 32, 32)}, batched=False)] == [KINDS]


def test_a_large_model_is_run_on_all_its_feeds_with_optimizations_and_on_one_without() -> None:
    model = graph("y = Relu(x)", "(float[N,3,224,224] x) => (float[N,3,224,224] y)").SerializeToString()
    found = verify(model, model)
    assert found.verdict is Verdict.EQUIVALENT
    ran = {(m.where.feed, m.where.optimization) for m in found.measurements}
    assert ran == {("batch1-normal", "off"), ("batch1-normal", "on"), ("batch2-mixed", "on")}


def test_a_reference_that_overflows_is_fed_less() -> None:
    model = graph("y = Exp(x)", "(float[N,4] x) => (float[N,4] y)").SerializeToString()
    found = verify(model, model)
    damped = {feed["name"]: feed["damping"] for feed in found.feeds}
    assert damped["batch1-normal"] == 1
    assert damped["batch1-extreme"] > 1
    assert all(m.compared == m.count for m in found.measurements)


def test_large_models_are_proved_only_on_request() -> None:
    from onnx import numpy_helper

    proto = graph("y = MatMul(x, w)", "(float[N,2048] x) => (float[N,2048] y)")
    proto.graph.initializer.append(numpy_helper.from_array(np.ones((2048, 2048), np.float32), "w"))
    model = proto.SerializeToString()
    nudged = np.ones((2048, 2048), np.float32)
    nudged[0, 0] = np.nextafter(nudged[0, 0], np.float32(2))
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(nudged, "w"))
    other = proto.SerializeToString()
    for proof in ("auto", "always"):
        found = verify(model, other, VerifyOptions(proof=proof))
        assert (len(found.proofs), found.verdict, found.shown) == (1, Verdict.EQUIVALENT, "The one change is proved.")
    found = verify(model, other, VerifyOptions(proof="never"))
    assert (found.proofs, found.notes, found.shown) == ((), (), "")


# --- windows wherever they stand -------------------------------------------------------------------------------------


def test_windows_are_seen_whose_weight_is_a_node_or_in_a_body_or_in_a_function() -> None:
    def with_weight(body: str, inner: str = "") -> ModelProto:
        return parser.parse_model(
            f'<ir_version: 9, opset_import: ["" : 17, "local" : 1]> '
            f"agraph (float[N,1,H,W] x, bool c) => (float[N,1,A,B] y) {{ {body} }} {inner}"
        )

    constant = "w = Constant<value = float[1,1,7,7] {" + ", ".join(["1"] * 49) + "}>()"
    by_node = with_weight(f"{constant} v = Identity(w) y = Conv(x, v)")
    in_body = with_weight(
        "y = If(c) <then_branch = t () => (float[N,1,A,B] a) { a = MaxPool<kernel_shape=[7,7]>(x) }, "
        "else_branch = e () => (float[N,1,A,B] b) { b = MaxPool<kernel_shape=[7,7]>(x) }>"
    )
    function = '<opset_import: ["" : 17], domain: "local"> pool (a) => (b) { b = MaxPool<kernel_shape=[7,7]>(a) }'
    in_function = with_weight("y = local.pool(x)", function)
    for model in (by_node, in_body, in_function):
        assert first_shape(model)[2] >= 8


# --- both branches of an If ------------------------------------------------------------------------------------------

BRANCHES = """agraph (float[N,4] x{inputs}) => (float[N,4] y) <float bound = {{{bound}}}> {{ {condition}
    y = If (c) <then_branch = a () => (float[N,4] t) {{ t = {then}(x) }},
                else_branch = b () => (float[N,4] e) {{ e = {other}(x) }}> }}"""
CONDITIONS = {
    "an input": (", bool c", 0, ""),
    "one input and not another": (", bool p, bool q", 0, "n = Not(q) c = And(p, n)"),
    "three inputs, only one of them": (", bool p, bool q, bool r", 0, "n = Or(q, r) m = Not(n) c = And(p, m)"),
    "computed from data": ("", -0.4, "s = ReduceMean<keepdims=0>(x) c = Less(s, bound)"),
    "computed from large data only": ("", 60, "s = ReduceMean<keepdims=0>(x) c = Greater(s, bound)"),
    "computed from data all above a bound": ("", 5, "s = ReduceMin<keepdims=0>(x) c = Greater(s, bound)"),
    "computed from an integer": (", int64 i", 9, "f = Cast<to=1>(i) c = Greater(f, bound)"),
    "computed from the batch size": (
        "",
        2,
        "k = Shape<start=0, end=1>(x) f = Cast<to=1>(k) g = Greater(f, bound) c = Squeeze(g)",
    ),
}


@pytest.mark.parametrize(("inputs", "bound", "condition"), CONDITIONS.values(), ids=CONDITIONS)
@pytest.mark.parametrize("wrong", [{"then": "Celu"}, {"other": "Abs"}], ids=["then", "else"])
def test_both_branches_are_compared(inputs: str, bound: float, condition: str, wrong: dict[str, str]) -> None:
    def made(then: str = "Selu", other: str = "Neg") -> bytes:
        body = BRANCHES.format(inputs=inputs, bound=bound, condition=condition, then=then, other=other)
        return parser.parse_model(f'<ir_version: 9, opset_import: ["" : 17]> {body}').SerializeToString()

    right = verify(made(), made())
    assert (right.verdict, right.notes) == (Verdict.EQUIVALENT, ())
    assert verify(made(), made(**wrong)).verdict is Verdict.NOT_EQUIVALENT


def test_a_branch_that_nothing_reaches_is_reported() -> None:
    body = BRANCHES.format(
        inputs="", bound=-1, condition="s = ReduceL2<keepdims=0>(x) c = Greater(s, bound)", then="Selu", other="Neg"
    )
    model = parser.parse_model(f'<ir_version: 9, opset_import: ["" : 17]> {body}').SerializeToString()
    found = verify(model, model)
    assert found.verdict is Verdict.EQUIVALENT
    assert found.notes == ("Condition 'c' of an If was true on every feed: its other branch was not compared.",)
    assert not any(feed["name"].startswith("branch") for feed in found.feeds)


def test_sides_that_are_tried_in_turn_do_not_make_a_volume_of_gigabytes() -> None:
    """A side of 256 is a common picture; a cube of that side with six channels has 100 million elements."""
    model = graph("y = Relu(x)")
    picture, volume, declared = (
        (Port("x", TensorProto.FLOAT, dims),)
        for dims in (("N", 6, "H", "W"), ("N", 6, "D", "H", "W"), (1, 6, 256, 256, 256))
    )
    sides = {shape["x"][2] for shape in sizes.Sizes(model, picture, {}).variants(1)}
    assert {224, 256, 299} <= sides
    tried = [shape["x"] for shape in sizes.Sizes(model, volume, {}).variants(3)]
    assert max(map(math.prod, tried)) <= sizes.FALLBACK_ELEMENTS
    assert {64, 32, 16} <= {shape[2] for shape in tried}
    assert [shape["x"] for shape in sizes.Sizes(model, declared, {}).variants(1)] == [(1, 6, 256, 256, 256)]


# --- feeds that hurt no one ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rank", "most"), [(3, 3), (4, 9), (5, 27), (6, 81), (16, 81)])
def test_impulses_are_few_whatever_the_rank(rank: int, most: int) -> None:
    shape = (1, 1, *[3 if rank < 8 else 2] * (rank - 2))
    dims: tuple[int | str | None, ...] = shape
    found = build(FeedPlan("i", "impulses", {"x": shape}), [Port("x", TensorProto.FLOAT, dims)], 0, {})["x"]
    assert (1 if rank < 8 else 40) <= np.count_nonzero(found) <= most
    corners = [found[(0, 0, *[place] * (rank - 2))] for place in (0, shape[2] // 2, shape[2] - 1)]
    assert all(corners)


def test_a_model_of_sixteen_dimensions_is_verified() -> None:
    ones = ",".join("1" * 16)
    model = graph("y = Relu(x)", f"(float[{ones}] x) => (float[{ones}] y)").SerializeToString()
    assert verify(model, model).verdict is Verdict.EQUIVALENT


def test_many_dynamic_dimensions_get_few_values() -> None:
    """The sizes 2, 3, 4 and so on along ten axes are 40 million values."""
    port = Port("x", TensorProto.FLOAT, tuple(f"d{axis}" for axis in range(12)))
    [first, *_] = sizes.Sizes(graph("y = Relu(x)"), (port,), {}).variants(1)
    assert math.prod(first["x"]) < 1_000_000
    assert all(one != other for one, other in pairwise(first["x"][2:]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("elem_type", [TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64, TensorProto.BOOL])
def test_an_input_of_rank_0_is_an_array(kind: str, elem_type: int) -> None:
    found = build(FeedPlan("s", kind, {"x": ()}), [Port("x", elem_type, ())], 0, {})["x"]
    assert isinstance(found, np.ndarray)
    assert found.shape == ()


def test_a_model_with_a_float_of_rank_0_runs() -> None:
    model = graph("y = Max(x, floor)", "(float[N,4] x, float floor) => (float[N,4] y)").SerializeToString()
    found = verify(model, model)
    assert (found.verdict, found.notes) == (Verdict.EQUIVALENT, ())


def test_no_feed_is_made_that_is_larger_than_the_budget() -> None:
    side = math.isqrt(LARGEST_FEED) + 1
    signature = f"(float[{side},{side}] x) => (float y)"
    model = graph("y = ReduceMax<keepdims=0>(x)", signature).SerializeToString()
    other = graph("z = Identity(x) y = ReduceMax<keepdims=0>(z)", signature).SerializeToString()
    found = verify(model, other)
    assert (found.feeds, found.measurements) == ((), ())
    assert f"{side * side:,} values" in found.explanation
    assert "--inputs" in found.explanation


def test_no_feed_has_more_dims_than_arrays_have() -> None:
    signature = f"(float[{','.join(65 * '1')}] x) => (float y)"
    texts = ["z = Reshape(x, to)", "t = Identity(x) z = Reshape(t, to)"]
    protos = [
        graph(f"to = Constant<value_ints = [1]>() {text} y = ReduceMax<keepdims=0>(z)", signature) for text in texts
    ]
    found = verify(*(proto.SerializeToString() for proto in protos))
    assert (found.feeds, found.measurements) == ((), ())
    assert "input 'x' has 65 dimensions" in found.explanation


def test_a_model_without_outputs_says_so_and_is_fed_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from bnfold.equivalence.feeds import seeded

    monkeypatch.setattr(seeded, "build", lambda *_: pytest.fail("a feed was made"))
    protos = [graph("y = Relu(x)"), graph("z = Identity(x) y = Relu(z)")]
    for proto in protos:
        del proto.graph.output[:]
    found = verify(*(proto.SerializeToString() for proto in protos))
    assert "no outputs" in found.explanation
