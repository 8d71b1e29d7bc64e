"""Sizes of dynamic dimensions are solved: from stored tensors, from each other, from minima, and from refusals."""

from collections.abc import Mapping

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper, parser

from bnfold.equivalence import Verdict, VerifyOptions, verify
from bnfold.equivalence.feeds.dynamic_sizes import Sizes
from bnfold.equivalence.feeds.refusals import numbers, place, proposals
from bnfold.equivalence.runtime.reference_answers import run_seeded_feeds
from bnfold.equivalence.runtime.sessions import RunFailed
from bnfold.equivalence.runtime.spending import Purse
from bnfold.equivalence.structure.signature import signature_of

GENERATOR = np.random.default_rng(0)


def model(text: str, weights: Mapping[str, tuple[int, ...]], opset: int = 17) -> ModelProto:
    made = parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}, "local" : 1]> agraph {text}')
    for name, shape in weights.items():
        made.graph.initializer.append(numpy_helper.from_array(GENERATOR.normal(size=shape).astype(np.float32), name))
    return made


AXES = "<int64[1] zero = {0}, int64[1] one = {1}, int64[2] both = {0, 1}>"
SOLVED: dict[str, tuple[str, dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]] = {
    "a recurrent weight": (
        (
            f"(float[frames,features] x) => (float[frames,u] y) {AXES} {{ a = Unsqueeze(x, one) "
            "b = LSTM<hidden_size=6>(a, W, R) y = Squeeze(b, both) }"
        ),
        {"W": (1, 24, 13), "R": (1, 24, 6)},
        {"x": (1, 13)},
    ),
    "the state of a recurrence and its batch": (
        (
            "(float[s,b,f] x, float[c,h] i) => (float[p,q,r,t] y) <int64[1] zero = {0}> "
            "{ j = Unsqueeze(i, zero) y = GRU<hidden_size=5>(x, W, R, , , j) }"
        ),
        {"W": (1, 15, 7), "R": (1, 15, 5)},
        {"x": (1, 2, 7), "i": (2, 5)},
    ),
    "a kernel behind Unsqueeze and Transpose": (
        f"(float[frames,bins] x) => (float[p,q,r,t] y) {AXES} {{ a = Unsqueeze(x, both) y = Conv(a, k) }}",
        {"k": (4, 1, 9, 12)},
        {"x": (9, 13)},
    ),
    "channels that come last": (
        "(float[N,H,W,C] x) => (float[p,q,r,t] y) { a = Transpose<perm=[0,3,1,2]>(x) y = Conv(a, k) }",
        {"k": (4, 6, 3, 3)},
        {"x": (1, 4, 4, 6)},
    ),
    "a constant that is broadcast": (
        "(float[a,b,c] x) => (float[p,q,r] y) { y = Mul(x, k) }",
        {"k": (20, 3)},
        {"x": (1, 20, 3)},
    ),
    "what Reshape and Gemm are given": (
        "(float[N,2,H,W] x) => (float[N,p] y) <int64[2] s = {-1, 98}> { a = Reshape(x, s) y = Gemm(a, w) }",
        {"w": (98, 5)},
        {"x": (1, 2, 7, 7)},
    ),
    "what Flatten and Gemm are given": (
        (
            "(float[N,2,H,W] x) => (float[N,p] y) { a = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x) "
            "b = Flatten(a) y = Gemm(b, w) }"
        ),
        {"w": (50, 5)},
        {"x": (1, 2, 10, 10)},
    ),
    "what Reshape is given, far from the first guess": (
        "(float[N,3,H,W] x) => (float[A,B] y) <int64[2] s = {1, 150528}> { y = Reshape(x, s) }",
        {},
        {"x": (1, 3, 224, 224)},
    ),
    "two inputs that are multiplied": (
        "(float[a,b] x, float[c,d] z) => (float[p,q] y) { u = MatMul(x, w) y = MatMul(u, z) }",
        {"w": (11, 12)},
        {"x": (1, 11), "z": (12, 5)},
    ),
    "two inputs that are joined": (
        "(float[a,3,b] x, float[c,4,d] z) => (float[p,q,r] y) { u = Concat<axis=1>(x, z) y = Mul(u, w) }",
        {"w": (1, 1, 9)},
        {"x": (1, 3, 9), "z": (1, 4, 9)},
    ),
    "the room that a pool needs": (
        (
            "(float[N,W] x) => (float[p,q,r] y) <int64[1] one = {1}> { a = Unsqueeze(x, one) "
            "y = AveragePool<kernel_shape=[40]>(a) }"
        ),
        {},
        {"x": (1, 40)},
    ),
    "the room that a border needs": (
        '(float[N,W] x) => (float[p,q] y) <int64[4] s = {0, 33, 0, 2}> { y = Pad<mode="reflect">(x, s) }',
        {},
        {"x": (1, 34)},
    ),
    "parts of one length": (
        "(float[N,W] x) => (float[N,p] y, float[N,q] z) <int64[2] s = {9, 4}> { y, z = Split<axis=1>(x, s) }",
        {},
        {"x": (1, 13)},
    ),
    "blocks": (
        "(float[N,C,6,6] x) => (float[p,q,r,t] y) { y = DepthToSpace<blocksize=3>(x) }",
        {},
        {"x": (1, 9, 6, 6)},
    ),
    "rows that are always looked up": (
        "(float[N,W] x) => (float[N,q] y) <int64[2] s = {3, 29}> { y = Gather<axis=1>(x, s) }",
        {},
        {"x": (1, 30)},
    ),
    "letters of an Einsum": (
        '(float[a,b] x) => (float[p,q] y) { y = Einsum<equation="ij,jk->ik">(x, w) }',
        {"w": (8, 3)},
        {"x": (1, 8)},
    ),
    "normalization over the last axes": (
        "(float[a,b,c] x) => (float[p,q,r] y) { y = LayerNormalization<axis=1>(x, w) }",
        {"w": (6, 7)},
        {"x": (1, 6, 7)},
    ),
}


@pytest.mark.parametrize(("text", "weights", "expected"), SOLVED.values(), ids=SOLVED)
def test_sizes_are_solved_and_run(
    text: str, weights: dict[str, tuple[int, ...]], expected: dict[str, tuple[int, ...]]
) -> None:
    made = model(text, weights)
    assert next(Sizes(made, signature_of(made).inputs, {}).variants(1)) == expected
    found = verify(made.SerializeToString(), made.SerializeToString())
    assert found.verdict is Verdict.EQUIVALENT
    assert found.feeds[0]["shapes"] == {name: list(shape) for name, shape in expected.items()}


def test_a_batch_alone_is_guessed_and_solved_where_one_row_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    inferred: list[object] = []
    plain = model("(float[N,3] x) => (float[N,2] y) { y = MatMul(x, w) }", {"w": (3, 2)})
    four = model("(float[N,3] x) => (float[p,q] y) <int64[2] s = {4, 3}> { y = Reshape(x, s) }", {})
    for given, batch in ((plain, 1), (four, 4)):
        assert verify(given.SerializeToString(), given.SerializeToString()).verdict is Verdict.EQUIVALENT
        sizes = Sizes(given, signature_of(given).inputs, {})
        assert {"x": (batch, 3)} in list(sizes.variants(1))
        with monkeypatch.context() as patched:
            patched.setattr("bnfold.equivalence.feeds.size_solving.infer_shapes", inferred.append)
            assert next(Sizes(given, signature_of(given).inputs, {}).variants(1)) == {"x": (1, 3)}
    assert not inferred


def test_functions_are_looked_into() -> None:
    text = "(float[N,W] x) => (float[N,p] y) { y = local.dense(x, w) }"
    made = model(text, {"w": (11, 2)})
    function = '<opset_import: ["" : 17], domain: "local"> dense (a, b) => (c) { c = MatMul(a, b) }'
    made.functions.append(parser.parse_function(function))
    assert next(Sizes(made, signature_of(made).inputs, {}).variants(1)) == {"x": (1, 11)}


def test_bodies_are_looked_into() -> None:
    text = """(float[N,W] x, bool c) => (float[N,p] y) { y = If(c)
        <then_branch = a () => (float[N,p] t) { t = MatMul(x, w) },
         else_branch = b () => (float[N,q] e) { v = Identity(w) e = MatMul(x, v) }> }"""
    made = model(text, {"w": (11, 2)})
    assert next(Sizes(made, signature_of(made).inputs, {}).variants(1))["x"] == (1, 11)


def test_sizes_that_a_caller_gives_are_kept() -> None:
    made = model("(float[N,W] x, float[M,W] z) => (float[p,q] y) { y = Concat<axis=0>(x, z) }", {})
    sizes = Sizes(made, signature_of(made).inputs, {"x": (2, 9)})
    assert next(sizes.variants(1)) == {"x": (2, 9), "z": (1, 9)}


def test_a_window_larger_than_its_map_in_front_of_a_slice_ends_nothing() -> None:
    """Shape inference of Slice ends the process on the negative size that such a window makes."""
    text = (
        "(float[frames,bins] x) => (float[p,q,r] y) <int64[1] zero = {0}, int64[1] one = {1}, int64[1] end = {-7}> "
        "{ a = Unsqueeze(x, one) b = AveragePool<kernel_shape=[60]>(a) c = Slice(b, one, end, zero) y = Relu(c) }"
    )
    made = model(text, {})
    assert next(Sizes(made, signature_of(made).inputs, {}).variants(1)) == {"x": (9, 60)}
    assert verify(made.SerializeToString(), made.SerializeToString()).verdict is Verdict.EQUIVALENT


def test_what_a_refusal_says_leads_to_sizes_that_run() -> None:
    """The border is computed: no inference knows it, and the runtime alone says how long the axis must be."""
    text = (
        "(float[N,W] x) => (float[N,p] y) <int64[1] z = {0}, float[1] half = {33.5}> "
        '{ g = Cast<to=7>(half) a = Concat<axis=0>(z, g, z, g) y = Pad<mode="reflect">(x, a) }'
    )
    made = model(text, {}).SerializeToString()
    found = verify(made, made)
    assert found.verdict is Verdict.EQUIVALENT
    assert found.feeds[0]["shapes"] == {"x": [1, 34]}
    assert [line for line in found.sizes if line.startswith("W ") and "the runtime said" in line]


def test_a_number_that_is_no_size_makes_no_feed_that_keeps_a_network_busy() -> None:
    made = model("(float[N,3,H,W] x) => (float[N,3,h,w] y) { y = Relu(x) }", {})
    seen: list[tuple[int, ...]] = []

    def run(feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        shape = feed["x"].shape
        seen.append(shape)
        if shape[2:] != (64, 64):
            raise RunFailed(f"node 'reshape': shape {shape} holds 120000 numbers")
        return {"y": feed["x"]}

    found = run_seeded_feeds(made, signature_of(made), {}, 0, run, purse=Purse(0, 1))
    assert found.answers[0].shapes == {"x": (1, 3, 64, 64)}
    assert max(np.prod(shape) for shape in seen) <= 1 << 20


def test_how_each_size_was_found_is_told() -> None:
    made = model("(float[N,W] x) => (float[N,p] y) { y = MatMul(x, w) }", {"w": (11, 2)})
    found = verify(made.SerializeToString(), made.SerializeToString(), VerifyOptions(seed=3))
    assert "N (axis 0 of 'x') = 1: chosen" in found.sizes
    assert "W (axis 1 of 'x') = 11: MatMul fits w [11,2]" in found.sizes
    assert found.to_dict()["sizes"] == list(found.sizes)


@pytest.mark.parametrize(
    ("refusal", "expected"),
    [
        ("Got invalid dimensions for input: x for the following indices index: 1 Got: 7 Expected: 20", 20),
        ("Name:'lstm_3' Input W must have shape {1,100,7}. Actual:{1,100,138}", 138),
        ("Pad reflect: post-pad (64) exceeds maximum allowed (6) for axis 1. Input shape:{1,7}", 64),
    ],
)
def test_numbers_of_a_refusal_are_sizes_to_try(refusal: str, expected: int) -> None:
    assert next(proposals(refusal, {"batch": 1, "width": 7})) == ("width", expected)


def test_numbers_in_names_are_none() -> None:
    assert numbers("Name:'conv_7/12' Invalid input shape: {97}") == [97]
    assert place("Name:'conv_7' Invalid input shape: {97}") == ("'conv_7'",)
