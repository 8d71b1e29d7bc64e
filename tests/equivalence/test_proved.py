"""The verdict `proved`: only where every rewrite is, and nothing else has changed."""

from dataclasses import replace

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper, parser

import bnfold
from bnfold.equivalence import Proving, Standing, Verdict, VerifyOptions, prove, verify
from bnfold.equivalence.proofs.piece_sizes import InputShapes
from tests.random_graphs import seeded_case

W = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
S = np.linspace(0.5, 2, 4).astype(np.float32)
BEFORE = "agraph (float[N,3] x) => (float[N,4] z) { n = custom.Magic(x) c = MatMul(n, w) y = Mul(c, s) z = Add(y, s) }"
AFTER = "agraph (float[N,3] x) => (float[N,4] z) { n = custom.Magic(x) y = MatMul(n, w2) z = Add(y, s) }"


def model(body: str, **weights: np.ndarray) -> ModelProto:
    proto = parser.parse_model(f'<ir_version: 9, opset_import: ["" : 17, "custom" : 1]> {body}')
    for name, value in weights.items():
        proto.graph.initializer.append(numpy_helper.from_array(value, name))
    return proto


def check(candidate: ModelProto, proof: Proving = "auto") -> tuple[Verdict, str]:
    reference = model(BEFORE, w=W, s=S)
    found = verify(reference.SerializeToString(), candidate.SerializeToString(), VerifyOptions(proof=proof))
    assert not found.measurements
    return found.verdict, found.explanation


def test_proofs_of_all_rewrites_stand_in_for_a_run() -> None:
    verdict, explanation = check(model(AFTER, w2=W * S, s=S))
    assert verdict is Verdict.PROVED
    assert "custom:Magic" in explanation
    assert check(model(AFTER, w2=W * S, s=S), "never")[0] is Verdict.NOT_VERIFIED


def test_a_broken_proof_names_the_normalization() -> None:
    verdict, explanation = check(model(AFTER, w2=W * S * np.float32(1.001), s=S))
    assert verdict is Verdict.NOT_EQUIVALENT
    assert "The rewrite of y is wrong" in explanation


def test_a_broken_proof_overrules_outputs_that_agree() -> None:
    body = "agraph (float[N,3] x) => (float[N,4] z) {{ {} t = Mul(y, tiny) z = Add(t, one) }}"
    tiny = {"tiny": np.float32(1e-9), "one": np.ones(4, np.float32)}
    before = model(body.format("c = MatMul(x, w) y = Mul(c, s)"), w=W, s=S, **tiny).SerializeToString()
    after = model(body.format("y = MatMul(x, w2)"), w2=W * S * np.float32(1.01), **tiny).SerializeToString()
    assert verify(before, after, VerifyOptions(proof="never")).verdict is Verdict.EQUIVALENT
    found = verify(before, after)
    assert found.verdict is Verdict.NOT_EQUIVALENT
    assert found.measurements
    # Who says how close is close enough is asked no more, unless the proof was asked for.
    lenient = VerifyOptions(rtol=0.1)
    loose = verify(before, after, lenient)
    assert loose.verdict is Verdict.EQUIVALENT
    assert any("is no rounding" in note for note in loose.notes)
    assert verify(before, after, replace(lenient, proof="always")).verdict is Verdict.NOT_EQUIVALENT


@pytest.mark.parametrize(
    ("front", "stored", "off", "verdict"),
    [
        ("h = Identity(v)", np.float16, 1.01, Verdict.NOT_EQUIVALENT),
        ("h = Identity(v)", np.float16, 1 + 2.0**-9, Verdict.EQUIVALENT),
        ("h = Cast<to=10>(v)", np.float32, 1.01, Verdict.NOT_EQUIVALENT),
        ("h = Cast<to=10>(v)", np.float32, 1 + 2.0**-9, Verdict.EQUIVALENT),
    ],
)
def test_what_another_tool_rounds_is_told_by_the_type_that_it_stores(
    front: str, stored: type, off: float, verdict: Verdict
) -> None:
    """16 units of roundoff of float16 are less than one hundredth, and outputs that agree excuse no more."""
    body = "agraph (float16[N,3] x) => (float16[N,4] z) {{ {} {} t = Mul(y, tiny) z = Add(t, one) }}"
    rest = {"tiny": np.float16(1e-4), "one": np.ones(4, np.float16), "s": S.astype(np.float16)}
    moved = (W * S).astype(stored)
    moved[1, 2] *= stored(off)
    before = model(body.format(front, "c = MatMul(x, h) y = Mul(c, s)"), v=W.astype(stored), **rest)
    after = model(body.format(front, "y = MatMul(x, h)"), v=moved, **rest)
    assert verify(before.SerializeToString(), after.SerializeToString()).verdict is verdict


ELSEWHERE = {
    "another operator": (model(AFTER.replace("Add(y, s)", "Sub(y, s)"), w2=W * S, s=S), Verdict.NOT_EQUIVALENT, "z"),
    "another constant": (model(AFTER, w2=W * S, s=S * 2), Verdict.NOT_EQUIVALENT, "z"),
    "a node more": (
        model(AFTER.replace("z = Add(y", "r = Relu(y) z = Add(r"), w2=W * S, s=S),
        Verdict.NOT_EQUIVALENT,
        "z",
    ),
    "upstream": (model(AFTER.replace("Magic", "Trick"), w2=W * S, s=S), Verdict.NOT_VERIFIED, "Magic"),
}


@pytest.mark.parametrize(("candidate", "verdict", "what"), ELSEWHERE.values(), ids=ELSEWHERE)
def test_a_change_elsewhere_is_no_rewrite(candidate: ModelProto, verdict: Verdict, what: str) -> None:
    found, explanation = check(candidate)
    assert found is verdict
    assert what in explanation


def test_a_weight_shared_with_a_node_outside_and_edited_in_place_is_wrong() -> None:
    body = (
        "agraph (float[N,3] x) => (float[N,4] z, float[N,4] q) "
        "{{ n = custom.Magic(x) {} z = Add(y, s) q = MatMul(x, w) }}"
    )
    before = model(body.format("c = MatMul(n, w) y = Mul(c, s)"), w=W, s=S).SerializeToString()
    after = model(body.format("y = MatMul(n, w)"), w=W * S, s=S).SerializeToString()
    found = verify(before, after)
    assert found.verdict is Verdict.NOT_EQUIVALENT
    assert {proof.output: proof.standing.value for proof in found.proofs} == {"y": "holds", "q": "broken"}


def test_an_undecided_proof_is_none() -> None:
    after = AFTER.replace("n = custom.Magic(x)", "m = Identity(x) n = custom.Magic(m)").replace("x) y", "m) y")
    verdict, explanation = check(model(after.replace("custom.Magic", "custom.Trick"), w2=W * S, s=S))
    assert verdict is Verdict.NOT_VERIFIED
    assert "Nor is it proved" in explanation


def test_a_value_inside_a_rewrite_that_is_an_output_too_is_wrong() -> None:
    body = "agraph (float[N,3] x) => (float[N,4] z, float[N,4] c) {{ n = custom.Magic(x) {} z = Add(y, s) }}"
    before = model(body.format("c = MatMul(n, w) y = Mul(c, s)"), w=W, s=S).SerializeToString()
    after = model(body.format("c = MatMul(n, w) d = Mul(c, s) y = Mul(d, t)"), w=W * S, s=S, t=1 / S)
    found = verify(before, after.SerializeToString())
    assert found.verdict is Verdict.NOT_EQUIVALENT
    assert "'c'" in found.explanation


def test_what_a_file_declares_is_believed_where_inference_says_nothing() -> None:
    made = model(
        "agraph (float[N,2,8,8] x) => (float[A,B,C,D] y) "
        "{ p = MaxPool<kernel_shape=[2,2]>(x) q = custom.Magic(p) r = Relu(q) y = Relu(r) }"
    )
    for name, shape in (("p", [1, 7, 7, 2]), ("q", [3, 5]), ("r", [3, 5])):
        made.graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    shapes = InputShapes(made)
    assert [shapes.dims(name) for name in "pqr"] == [(None, 2, 7, 7), (3, 5), (3, 5)]


@pytest.mark.parametrize("seen", [True, False], ids=["an output between", "no output between"])
def test_what_was_undone_on_the_way_need_not_be_read(seen: bool) -> None:
    """The reference goes on from a value that it makes of the one from which the candidate goes on."""
    outputs = "float[N,6,5] s, float[N,1,6,5] y" if seen else "float[N,1,6,5] y, float[N,6,5] z"
    text = f"agraph (float[N,1,6,5] x) => ({outputs}) <int64[1] one = {{1}}, int64[4] sizes = {{-1, 1, 6, 5}}> "
    text += "{ g = Sigmoid(x) s = Squeeze(g, one) z = Exp(s) BODY }"
    before = model(text.replace("BODY", "u = Unsqueeze(s, one) r = Reshape(u, sizes) y = Relu(r)")).SerializeToString()
    right, wrong = (model(text.replace("BODY", f"y = Relu({each})")).SerializeToString() for each in "gx")
    found = verify(before, right)
    assert found.verdict is Verdict.EQUIVALENT
    assert [proof.standing.value for proof in found.proofs] == ["holds"]
    assert verify(before, wrong).verdict is Verdict.NOT_EQUIVALENT


@pytest.mark.parametrize(("operator", "verdict"), [("Relu", Verdict.EQUIVALENT), ("custom.Magic", Verdict.PROVED)])
def test_sizes_that_are_read_are_those_of_the_model(operator: str, verdict: Verdict) -> None:
    """The heads of an attention: at operator set 11 onnx infers nothing of a Reshape whose target is computed."""
    text = (
        "agraph (int64[B,S] ids) => (y) <int64[1] zero = {0}, int64[1] last = {-1}, int64[1] open = {2147483647}, "
        "int64[1] rank = {2}, int64[1] wide = {24}, int64[1] heads = {4}> { e = Gather(w, ids) s = Shape(ids) "
        "two = Slice(s, zero, rank) target = Concat<axis = 0>(two, wide) r = Reshape(e, target) "
        "q, k = Split<axis = 2, split = [8, 16]>(r) TOLD "
        f"to = Concat<axis = 0>(two, heads, each) u = Reshape(q, to) y = {operator}(u) }}"
    )
    computed = "t = Shape(q) size = Slice(t, last, open) each = Div(size, heads)"
    before, right, wrong = (
        model(text.replace("TOLD", told).replace("each)", each), w=np.ones((6, 24), np.float32))
        for told, each in ((computed, "each)"), ("", "two_each)"), ("", "three)"))
    )
    for made in (before, right, wrong):
        made.ir_version, made.opset_import[0].version = 6, 11
        for name, size in (("two_each", 2), ("three", 3)):
            made.graph.initializer.append(numpy_helper.from_array(np.array([size]), name))
    assert verify(before.SerializeToString(), right.SerializeToString()).verdict is verdict
    assert verify(before.SerializeToString(), wrong.SerializeToString()).verdict is Verdict.NOT_EQUIVALENT


def test_nothing_is_broken_at_sizes_that_are_made_up() -> None:
    """A custom operator makes the value of which a size is read: what is stored instead of it may be that size."""
    text = (
        "agraph (float[N,3] x) => (z) <int64[1] one = {{1}}, int64[1] two = {{2}}, int64[1] four = {{4}}> "
        "{{ n = custom.Magic(x) s = Shape(n) {} z = Expand(x, t) }}"
    )
    before = model(text.format("t = Slice(s, one, two)")).SerializeToString()
    found = verify(before, model(text.format("t = Identity(four)")).SerializeToString())
    assert found.verdict is Verdict.NOT_VERIFIED
    assert [proof.standing.value for proof in found.proofs] == ["undecided"]


def test_what_has_no_elements_at_the_sizes_tried_shows_nothing() -> None:
    """A random network whose piece ends in a Slice: at maps of five positions nothing is left of it."""
    right = seeded_case(610_724).model
    wrong = bnfold.optimize(right, verify=False, freeze=False).model
    (node,) = (each for each in wrong.graph.node if each.output[0] == "v27")
    assert node.op_type == "BatchNormalization"
    node.input[1], node.input[4] = node.input[4], node.input[1]  # the gain and the variance
    assert {proof.standing for proof in prove(right, wrong)} - {Standing.HOLDS}
