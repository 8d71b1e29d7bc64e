"""The rules behind the verdict: tolerance by type and magnitude, noise, and values behind discrete outputs."""

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper, parser

from bnfold.equivalence import Limits, Measurement, Rule, Tolerance, Verdict, VerifyOptions, Where, measure, verify
from bnfold.equivalence.judging.noise import Elsewhere, noise
from bnfold.equivalence.structure.output_sources import ValuePair, behind, tapped
from bnfold.equivalence.structure.scopes import Cutter

RNG = np.random.default_rng(7)


def model(body: str, *, opset: int = 17, **weights: np.ndarray) -> ModelProto:
    proto = parser.parse_model(f'<ir_version: 9, opset_import: ["" : {opset}, "custom" : 1]> {body}')
    for name, value in weights.items():
        proto.graph.initializer.append(numpy_helper.from_array(value, name))
    return proto


def check(reference: ModelProto, candidate: ModelProto, **options: object) -> object:
    return verify(reference.SerializeToString(), candidate.SerializeToString(), VerifyOptions(**options))  # type: ignore[arg-type]


def measured(reference: np.ndarray, candidate: np.ndarray) -> Measurement:
    return measure(Where("y", "f"), reference, candidate)


# Errors as parts of the largest value: what the tolerance calls rounding, and what it does not.
@pytest.mark.parametrize(
    ("dtype", "rounding", "error"), [("float64", 1e-15, 1e-13), ("float32", 1e-6, 4e-6), ("float16", 1e-3, 4e-3)]
)
@pytest.mark.parametrize("magnitude", [1e-3, 1.0, 1e4])
def test_the_limit_follows_type_and_magnitude(dtype: str, rounding: float, error: float, magnitude: float) -> None:
    reference = (RNG.uniform(-1, 1, (2, 10)) * magnitude).astype(dtype)
    reference[0, 0] = magnitude
    for part, agrees in ((rounding, True), (error, None)):
        candidate = reference.copy()
        candidate[1, 3] += np.dtype(dtype).type(part * magnitude)
        assert Tolerance().judge(measured(reference, candidate)).agrees is agrees


def test_a_small_channel_is_not_hidden_by_a_large_one() -> None:
    reference = np.ones((1, 2, 8, 8), np.float32)
    reference[:, 1] *= 1e-4
    candidate = reference.copy()
    candidate[:, 1] *= np.float32(1.001)
    assert Tolerance().judge(measured(reference, candidate)).agrees is None
    # With one position per channel its value may be small by cancellation, so nothing can be said.
    assert Tolerance().judge(measured(reference[..., :1, :1], candidate[..., :1, :1])).agrees is True


@pytest.mark.parametrize("axis", [1, 3])
def test_channels_are_found_first_and_last(axis: int) -> None:
    reference = np.moveaxis(np.ones((1, 2, 8, 8), np.float32) * np.float32([1, 1e-4]).reshape(1, 2, 1, 1), 1, axis)
    candidate = reference + np.float32(1e-7)
    assert measured(reference, candidate).channel_rel == pytest.approx(1e-3, rel=0.01)


def test_outputs_that_are_not_rounded_must_be_equal() -> None:
    for dtype in (np.int64, np.uint8, bool, object):
        reference = np.array([0, 1, 1, 0]).astype(dtype)
        candidate = np.array([0, 1, 0, 0]).astype(dtype)
        found = Tolerance().judge(measured(reference, candidate))
        assert (found.agrees, found.rule) == (False, Rule.EXACT)
        assert Tolerance().judge(measured(reference, reference)).agrees is True


def test_infinities_and_nans_agree_only_with_their_own_kind() -> None:
    reference = np.array([np.nan, np.inf, -np.inf, 1.0], np.float32)
    assert Tolerance().judge(measured(reference, reference.copy())).agrees is True
    for place, value in ((0, 1.0), (1, -np.inf), (1, np.nan), (2, 3.4e38), (3, np.inf), (3, np.nan)):
        candidate = reference.copy()
        candidate[place] = value
        assert Tolerance().judge(measured(reference, candidate)).agrees is not True, (place, value)
        assert Tolerance().judge_without_truth(measured(reference, candidate)).agrees is False, (place, value)


def test_a_users_limit_decides_alone_and_by_output() -> None:
    reference = np.array([100.0, 1.0], np.float32)
    candidate = reference + np.float32(0.5)
    found = measured(reference, candidate)
    assert Tolerance(rtol=0.01).judge(found).agrees is True
    assert Tolerance(rtol=0.004).judge(found).agrees is False
    assert Tolerance(atol=0.6).judge(found).agrees is True
    assert Tolerance(outputs={"y": Limits(atol=0.6)}).judge(found).agrees is True
    assert Tolerance(rtol=1.0, outputs={"y": Limits(atol=0.1)}).judge(found).agrees is False
    assert Tolerance(outputs={"other": Limits(atol=9)}).judge(found).agrees is None


def test_measurements_are_what_they_say() -> None:
    reference = np.array([[1.0, 2.0, 4.0], [3.0, 1.0, 0.0]], np.float32)
    candidate = np.array([[1.0, 2.0, 4.0], [3.0, np.nextafter(np.float32(1), np.float32(2)), 3.5]], np.float32)
    found = measured(reference, candidate)
    assert (found.max_abs, found.worst_at, found.different, found.argmax_agreement) == (3.5, (1, 2), 2, 0.5)
    assert found.worst_reference == 0.0
    assert found.mean_abs == pytest.approx(3.5 / 6)
    assert found.reference_max_abs == 4.0
    assert sum(found.histogram) == 6
    near = measured(reference[1:, :2], candidate[1:, :2])
    assert near.max_ulp == 1
    assert near.snr_db > 100
    assert measured(np.float32([0.0]), np.float32([-1e-45])).max_ulp == 1


def test_equal_arrays_have_no_error_and_infinite_signal_to_noise() -> None:
    found = measured(RNG.standard_normal((3, 4)), np.zeros((3, 4)) + 1)
    same = measured(np.ones((3, 4), np.float16), np.ones((3, 4), np.float16))
    assert found.cosine < 0.9
    assert (same.max_abs, same.cosine, same.snr_db, same.relative) == (0, pytest.approx(1), np.inf, 0)


def test_the_noise_rule_compares_maximum_and_mean() -> None:
    truth = RNG.uniform(-1, 1, (4, 16, 8, 8))
    original = truth.astype(np.float32) + np.float32(1e-5) * RNG.standard_normal(truth.shape).astype(np.float32)
    fellow = truth.astype(np.float32) + np.float32(2e-5) * RNG.standard_normal(truth.shape).astype(np.float32)
    far = truth.astype(np.float32) + np.float32(6e-5) * RNG.standard_normal(truth.shape).astype(np.float32)
    channel = original.copy()
    channel[:, 3] += np.float32(2e-4)
    broad = original + np.float32(4.5e-5)
    for candidate, agrees in ((original, True), (fellow, True), (far, False), (channel, False), (broad, False)):
        found = noise(truth, [original], candidate)
        assert found is not None
        assert found.agrees is agrees


def test_the_worse_of_the_originals_two_errors_counts() -> None:
    truth = np.linspace(0.1, 1, 50)
    exact, rough = truth.astype(np.float32), truth.astype(np.float32) * np.float32(1 + 1e-5)
    candidate = truth.astype(np.float32) * np.float32(1 + 3e-5)
    assert noise(truth, [exact], candidate).agrees is False  # type: ignore[union-attr]
    assert noise(truth, [exact, rough], candidate).agrees is True  # type: ignore[union-attr]


def test_a_truth_the_original_is_far_from_is_not_believed() -> None:
    truth = np.linspace(1, 2, 50)
    wrong = (truth * 1.1).astype(np.float32)
    assert noise(truth, [wrong], wrong) is None


def test_where_the_original_overflows_the_candidate_must_be_near_the_truth() -> None:
    truth = np.array([1.0, 2.0, 30000.0])
    original = np.array([1.0, 2.0, np.inf], np.float16)
    assert noise(truth, [original], truth.astype(np.float16)).agrees  # type: ignore[union-attr]
    assert noise(truth, [original], np.array([1.0, 2.0, 25000.0], np.float16)) is None
    assert noise(truth, [original], np.array([1.0, np.nan, 30000.0], np.float16)) is None


DEEP = 24


def test_where_the_truth_is_zero_the_errors_elsewhere_count_as_they_are() -> None:
    """Float16 that cancels to exactly zero in one order and to a few steps in the other."""
    zero, exact = np.zeros(500), np.zeros(500, np.float16)
    candidate = np.full(500, 6e-7, np.float16)
    truth = np.linspace(-1, 1, 500)
    rounded = Elsewhere().and_on(truth, truth.astype(np.float16))
    assert rounded.least_max > 1e-4
    assert noise(zero, [exact], candidate).agrees is False  # type: ignore[union-attr]
    assert noise(zero, [exact], candidate, rounded).agrees is True  # type: ignore[union-attr]
    assert noise(zero, [exact], candidate + np.float16(0.01), rounded).agrees is False  # type: ignore[union-attr]
    assert rounded.and_on(zero, exact) == rounded, "an exact answer says nothing of the noise"
    finer = rounded.and_on(truth, truth.astype(np.float32))
    assert finer.least_max < 1e-6, "the smallest of all feeds counts"
    assert finer.relative_max == rounded.relative_max
    assert noise(zero, [candidate], candidate, rounded) is None, "an original that is off where it must be zero"


def deep(dtype: type, *, bump: float = 0.0) -> tuple[ModelProto, ModelProto]:
    """A chain that multiplies rounding errors, and the same chain with its products associated otherwise."""
    rng = np.random.default_rng(3)
    kind = {np.float32: "float", np.float16: "float16"}[dtype]
    weights = [np.linalg.qr(rng.standard_normal((24, 24)))[0] for _ in range(DEEP)]
    scales = [rng.uniform(0.05, 20, 24) for _ in range(DEEP)]
    one, two = {}, {}
    text_one, text_two, value = "", "", "x"
    for n, (w, s) in enumerate(zip(weights, scales, strict=True)):
        one[f"w{n}"], one[f"s{n}"] = w.astype(dtype), s.astype(dtype)
        two[f"w{n}"] = (one[f"w{n}"].astype(np.float64) * one[f"s{n}"].astype(np.float64)).astype(dtype)
        text_one += f" m{n} = MatMul({value}, w{n}) v{n} = Mul(m{n}, s{n})"
        text_two += f" v{n} = MatMul({value}, w{n})"
        value = f"v{n}"
    two["w5"][3] += dtype(bump) * two["w5"][3]
    frame = "agraph ({k}[N,24] x) => ({k}[N,24] y) {{ {body} y = Identity({last}) }}"
    return (
        model(frame.format(k=kind, body=text_one, last=value), **one),
        model(frame.format(k=kind, body=text_two, last=value), **two),
    )


def test_an_ill_conditioned_model_is_saved_by_the_noise_rule_and_a_bug_in_it_is_not() -> None:
    right = check(*deep(np.float32))
    assert right.verdict is Verdict.EQUIVALENT, right.explanation  # type: ignore[attr-defined]
    wrong = check(*deep(np.float32, bump=0.01))
    assert wrong.verdict is Verdict.NOT_EQUIVALENT  # type: ignore[attr-defined]
    assert "float64" in wrong.explanation  # type: ignore[attr-defined]


def classifier(head: str, *, shift: float = 0.0, signature: str = "(float[N,6] x) => (int64[N,1] y)") -> ModelProto:
    w = np.random.default_rng(5).standard_normal((6, 5)).astype(np.float32)
    b = np.linspace(-1, 1, 5).astype(np.float32)
    b[2] += np.float32(shift)
    return model(f"agraph {signature} {{ l = MatMul(x, w) z = Add(l, b) {head} }}", w=w, b=b)


HEADS = {
    "ArgMax": "y = ArgMax<axis=1>(z)",
    "ArgMax of Softmax": "s = Softmax(z) y = ArgMax<axis=1>(s)",
    "TopK": "k = Constant<value = int64[1] {1}>() v, y = TopK(z, k)",
    "comparison": "t = Constant<value = float[1] {100.0}>() g = Greater(z, t) c = Cast<to=7>(g) "
    "a = Constant<value = int64[1] {1}>() y = ReduceSum(c, a)",
}


@pytest.mark.parametrize("head", [HEADS[name] for name in ("ArgMax", "ArgMax of Softmax", "TopK")])
def test_a_difference_that_a_discrete_output_hides_is_found_behind_it(head: str) -> None:
    assert check(classifier(head), classifier(head)).verdict is Verdict.EQUIVALENT  # type: ignore[attr-defined]
    found = check(classifier(head), classifier(head, shift=1e-4))
    assert found.verdict is Verdict.NOT_EQUIVALENT  # type: ignore[attr-defined]
    assert "'z'" in found.explanation  # type: ignore[attr-defined]


def test_a_saturated_softmax_is_judged_on_what_it_was_made_of() -> None:
    head, signature = (
        "h = Constant<value = float {1000.0}>() t = Mul(z, h) y = Softmax(t)",
        "(float[N,6] x) => (float[N,5] y)",
    )
    right = classifier(head, signature=signature)
    assert check(right, right).verdict is Verdict.EQUIVALENT  # type: ignore[attr-defined]
    found = check(right, classifier(head, signature=signature, shift=1e-3))
    assert found.verdict is Verdict.NOT_EQUIVALENT  # type: ignore[attr-defined]


def test_a_label_that_flips_at_a_near_tie_is_no_fault() -> None:
    body = "agraph (float[N,2] x) => (int64[N,1] y) {{ {sum} y = ArgMax<axis=1>(z) }}"
    w = np.array([[0.1, 0.3], [0.2, 0.0]], np.float32)
    once = model(body.format(sum="z = MatMul(x, w)"), w=w)
    rounded = w.copy()
    rounded[0, 1] = np.nextafter(rounded[0, 1], np.float32(1))
    other = model(body.format(sum="z = MatMul(x, w)"), w=rounded)
    tie = {"x": np.float32([[1.0, 1.0]])}
    found = check(once, other, inputs=tie, proof="never")
    flipped = [judged for judged in found.judgements if judged.rule is Rule.BEHIND]  # type: ignore[attr-defined]
    assert found.verdict is Verdict.EQUIVALENT, found.explanation  # type: ignore[attr-defined]
    assert flipped


def test_another_threshold_behind_equal_values_is_no_near_tie() -> None:
    body = "agraph (float[N,6] x) => (bool[N,6] y) { r = Tanh(x) y = Greater(r, t) }"
    right, wrong = model(body, t=np.float32(0.5)), model(body, t=np.float32(0.3))
    assert check(right, right).verdict is Verdict.EQUIVALENT  # type: ignore[attr-defined]
    assert check(right, wrong).verdict is Verdict.NOT_EQUIVALENT  # type: ignore[attr-defined]


def test_values_are_paired_by_use_not_by_name() -> None:
    reference = model(
        "agraph (float[1,3,4,4] x, float[3] g) => (float[1,3,4,4] y) "
        "{ c = Neg(x) b = BatchNormalization(c, g, g, g, g) t = Transpose(b) y = Softmax(t) }"
    )
    candidate = model(
        "agraph (float[1,3,4,4] x, float[3] g) => (float[1,3,4,4] y) { c = Neg(x) t = Transpose(c) y = Softmax(t) }"
    )
    assert behind(Cutter(reference), Cutter(candidate))["y"].pairs == (ValuePair("b", "c"),)
    otherwise = model(
        "agraph (float[1,3,4,4] x, float[3] g) => (float[1,3,4,4] y) { t = Neg(x) y = Softmax<axis=1>(t) }"
    )
    assert "y" not in behind(Cutter(reference), Cutter(otherwise))


@pytest.mark.parametrize("reads", ["Shape", "Size"])
def test_a_value_that_only_lent_its_shape_is_not_behind_an_output(reads: str) -> None:
    """The two need not mean the same: any value of that shape would do."""
    body = "agraph (float[N,6] x) => (int64[%s] y, float[N,6] z) { a = Mul(x, t) y = %s(%s) z = Mul(a, t) }"
    size = "2" if reads == "Shape" else ""
    before, after = (model(body % (size, reads, value), t=np.float32(3)) for value in ("a", "x"))
    assert behind(Cutter(before), Cutter(after)) == {}
    scaled = f"agraph (float[N,6] x) => (int64[{size}] y, float[N,6] z) {{ z = Mul(x, t) y = {reads}(z) }}"
    found = check(before, model(scaled, t=np.float32(9)))
    assert found.verdict is Verdict.EQUIVALENT, found.explanation  # type: ignore[attr-defined]


def test_taps_keep_what_is_there() -> None:
    proto = classifier(HEADS["ArgMax"])
    names = [value.name for value in ModelProto.FromString(tapped(proto.SerializeToString(), ["l", "z"])).graph.output]
    assert names == ["y", "l", "z"]


def test_a_random_reference_cannot_be_verified_and_is_not_called_different() -> None:
    noisy = model("agraph (float[N,6] x) => (float[N,6] y) { r = RandomNormalLike(x) y = Add(x, r) }")
    twice = "agraph (float[N,6] x) => (float[N,6] y) { i = Neg(x) j = Neg(i) r = RandomNormalLike(x) y = Add(j, r) }"
    found = check(noisy, model(twice), proof="never")
    assert found.verdict is Verdict.NOT_VERIFIED  # type: ignore[attr-defined]
    assert "random" in found.explanation  # type: ignore[attr-defined]
    assert check(noisy, model(twice)).verdict is Verdict.EQUIVALENT, "it is proved"  # type: ignore[attr-defined]
    assert check(noisy, noisy).verdict is Verdict.EQUIVALENT, "it is the same"  # type: ignore[attr-defined]


def test_a_float16_weight_that_overflowed_in_the_fold_is_found() -> None:
    body = "agraph (float16[N,4] x) => (float16[N,4] y) { m = Mul(x, w) y = Mul(m, s) }"
    right = model(body, w=np.float16([2.0]), s=np.float16([0.5]))
    wrong = model(body, w=np.float16([np.inf]), s=np.float16([0.5]))
    found = check(right, wrong)
    assert found.verdict is Verdict.NOT_EQUIVALENT  # type: ignore[attr-defined]
    assert "infinite" in found.explanation  # type: ignore[attr-defined]
