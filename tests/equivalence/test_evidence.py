"""The chain of judgement: no right model is accused where rounding is amplified or the runtime differs from itself."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper, parser

import bnfold
from bnfold.equivalence import Limits, Rule, Tolerance, Verdict, VerifyOptions, Where, measure, verify
from bnfold.equivalence.judging import run_plan
from bnfold.equivalence.judging.changes import Changes, find_changes
from bnfold.equivalence.judging.evidence import Evidence, judge
from bnfold.equivalence.judging.findings import Comparing, Finding
from bnfold.equivalence.judging.judge import Judge
from bnfold.equivalence.judging.noise import Instrument, Moved, Noise, shaken_noise
from bnfold.equivalence.judging.run_plan import LEAN, RunPlan
from bnfold.equivalence.numbers.element_types import distance
from bnfold.equivalence.numbers.precision import coarsest
from bnfold.equivalence.runtime import opening, sessions
from bnfold.equivalence.runtime.reference_answers import Answer
from bnfold.equivalence.runtime.references import ModelReference
from bnfold.equivalence.runtime.shaken_model import shaken_feed, shaken_model
from bnfold.equivalence.structure.dependence import reached
from bnfold.equivalence.structure.given_model import GivenModel
from bnfold.equivalence.structure.scopes import Cutter
from bnfold.onnxfile import read
from bnfold.testing import build, numbers

RNG = np.random.default_rng(7)


def model(body: str, functions: str = "", **weights: np.ndarray) -> ModelProto:
    domains = '"" : 17, "custom" : 1, "local" : 1, "ai.onnx.ml" : 2'
    proto = parser.parse_model(f"<ir_version: 9, opset_import: [{domains}]> {body} {functions}")
    proto.graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items())
    return proto


def check(reference: ModelProto, candidate: ModelProto, **options: object) -> bnfold.equivalence.Verification:
    return verify(reference.SerializeToString(), candidate.SerializeToString(), VerifyOptions(**options))  # type: ignore[arg-type]


WHERE = Where("y", "f")
FAR = measure(WHERE, np.float32([1.0, 2.0]), np.float32([1.0, 2.1]))
LOUD = Noise(0.1, 0.1, 0.1, 0.1, 1e-7, Instrument.SHAKEN)
QUIET = LOUD._replace(original_max=1e-6, original_rms=1e-6)


@pytest.mark.parametrize(
    ("evidence", "agrees", "rule"),
    [
        (Evidence(), None, Rule.TOLERANCE),
        (Evidence(untouched=True), True, Rule.UNTOUCHED),
        (Evidence(same_setting=True), True, Rule.SAME_SETTING),
        (Evidence(proved=True), True, Rule.PROVED),
        (Evidence(behind=True), True, Rule.BEHIND),
        (Evidence(noise=LOUD), True, Rule.NOISE),
        (Evidence(noise=QUIET), False, Rule.NOISE),
        (Evidence(proved=True, noise=QUIET), True, Rule.PROVED),
    ],
    ids=str,
)
def test_each_kind_of_evidence_excuses_a_deviation(evidence: Evidence, agrees: bool | None, rule: Rule) -> None:
    judged = judge(FAR, Tolerance(), evidence)
    assert (judged.agrees, judged.rule) == (agrees, rule)


def test_a_users_limit_overrules_everything_but_what_is_the_same() -> None:
    strict = Tolerance(outputs={"y": Limits(atol=1e-9)})
    for evidence in (Evidence(proved=True), Evidence(behind=True), Evidence(noise=LOUD)):
        assert judge(FAR, strict, evidence).agrees is False
    assert judge(FAR, strict, Evidence(untouched=True)).agrees is True
    assert judge(FAR, strict, Evidence(same_setting=True)).agrees is True


def test_a_value_that_is_infinite_in_the_candidate_alone_is_excused_by_the_same_setting_only() -> None:
    infinite = measure(WHERE, np.float32([1.0, 2.0]), np.float32([1.0, np.inf]))
    for evidence in (Evidence(proved=True), Evidence(behind=True), Evidence(noise=LOUD)):
        assert judge(infinite, Tolerance(), evidence).agrees is False
    assert judge(infinite, Tolerance(), Evidence(same_setting=True)).agrees is True


def test_noise_compares_with_how_far_the_shaken_reference_moved() -> None:
    reference = RNG.standard_normal(1000).astype(np.float32)
    moved = Moved.between(reference, reference + np.float32(1e-4) * RNG.standard_normal(1000).astype(np.float32))
    assert moved is not None
    near, far = reference + np.float32(1e-4), reference + np.float32(1e-2)
    for candidate, agrees in ((near, True), (far, False)):
        found = shaken_noise(reference, candidate, [moved])
        assert found is not None
        assert found.agrees is agrees
        assert 100 < found.amplification < 10_000
    assert shaken_noise(reference, near, []) is None
    assert Moved.between(reference, reference[:3]) is None, "another shape says nothing of rounding"
    assert Moved.between(reference, np.full_like(reference, np.nan)) is None
    few = reference[:3]
    assert shaken_noise(few, few + np.float32(0.01), [moved._replace(largest=0, rms=0)], elsewhere=0.1).agrees  # type: ignore[union-attr]


# --- models that differ from themselves in the runtime ---------------------------------------------------------------

HALF = (
    "agraph (float[N,32] x) => (float[N,8] y) "
    "{ h = Cast<to=10>(x) a = MatMul(h, w) b = Tanh(a) c = MatMul(b, v) d = Sub(c, e) y = Cast<to=1>(d) }"
)
STEPS = (
    "agraph (float[N,8] x) => (float[N,8] y) { a = MatMul(x, w) "
    "q = QuantizeLinear(a, s, z) d = DequantizeLinear(q, s, z) "
    "b = MatMul(d, v) p = QuantizeLinear(b, s, z) y = DequantizeLinear(p, s, z) }"
)


def half(nudge: float = 0.0) -> ModelProto:
    generator = np.random.default_rng(1)
    w, v = (generator.standard_normal(shape).astype(np.float16) for shape in ((32, 32), (32, 8)))
    w[3] += np.float16(nudge)
    return model(HALF, w=w, v=v, e=np.float16(0.5))


def steps(nudge: float = 0.0) -> ModelProto:
    generator = np.random.default_rng(2)
    w, v = (generator.standard_normal((8, 8)).astype(np.float32) for _ in range(2))
    w[3] += np.float32(nudge)
    return model(STEPS, w=w, v=v, s=np.float32(0.1), z=np.uint8(128))


LOOP = """agraph (float[N,8] x) => (float[N,8] y) {
    n = Constant<value = int64 {12}>() t = Constant<value = bool {1}>()
    y = Loop(n, t, x) <body = b (int64 i, bool c, float[A,B] u) => (bool c2, float[A,B] r)
        { c2 = Identity(c) m = MatMul(u, w) k = Add(m, a) %s }> }"""


def loop(ending: str, factor: float = 1.0) -> ModelProto:
    """A chaotic map, twelve times: it amplifies rounding thousands of times, and a Loop has no float64 truth."""
    w = np.float32(1.2) * np.random.default_rng(3).standard_normal((8, 8)).astype(np.float32)
    return model(LOOP % ending, w=w * np.float32(factor), a=np.float32(0.25))


@pytest.mark.parametrize("proto", [half(), steps(), loop("r = Sin(k)")], ids=["float16 inside", "quantized", "loop"])
def test_a_model_equals_itself_whatever_the_runtime_does(proto: ModelProto) -> None:
    found = check(proto, proto)
    assert (found.verdict, found.shown) == (
        Verdict.EQUIVALENT,
        "The two differ in nothing that their outputs depend on.",
    )
    copied = ModelProto.FromString(proto.SerializeToString())
    copied.doc_string = "another file"
    assert check(proto, copied).verdict is Verdict.EQUIVALENT


def test_a_right_rewrite_of_something_chaotic_is_judged_by_how_far_rounding_moves_it() -> None:
    """x - 1 + 1 is no proof's affair inside a Loop, and rounds otherwise."""
    right = loop("one = Constant<value = float {1.0}>() h = Sub(k, one) g = Add(h, one) r = Sin(g)")
    found = check(loop("r = Sin(k)"), right, proof="never")
    assert found.verdict is Verdict.EQUIVALENT, found.explanation
    rules = {judged.rule for judged in found.judgements}
    assert Rule.NOISE in rules
    assert any(noise is not None and noise.instrument is Instrument.SHAKEN for noise in found.noises)
    assert any("rounding is amplified" in note for note in found.notes)
    wrong = loop("r = Sin(k)", factor=1.03)
    assert check(loop("r = Sin(k)"), wrong, proof="never").verdict is Verdict.NOT_EQUIVALENT


def test_where_an_output_cancels_the_words_say_so_and_no_number_without_meaning() -> None:
    stored = {"t": np.full(1, 1 / 3, np.float32), "h": np.full(1, 3, np.float32)}
    one, other = (
        build(f"a = Mul(x, {first}) b = Mul(a, {second}) y = Sub(b, x)", inputs={"x": "float[N,40]"}, constants=stored)
        for first, second in (("t", "h"), ("h", "t"))
    )
    found = check(one, other)
    assert found.verdict is Verdict.EQUIVALENT
    assert any("it cancels here" in note for note in found.notes)


def test_float16_inside_is_judged_as_float16_and_a_wrong_weight_is_found() -> None:
    assert check(half(), half(1e-4), proof="never").verdict is Verdict.EQUIVALENT
    assert check(half(), half(0.25), proof="never").verdict is Verdict.NOT_EQUIVALENT


def test_a_wrong_weight_before_a_quantization_is_found() -> None:
    assert check(steps(), steps(0.5), proof="never").verdict is Verdict.NOT_EQUIVALENT


# --- what outputs are ------------------------------------------------------------------------------------------------


def test_a_cast_at_the_end_makes_nothing_more_precise() -> None:
    body = "agraph (float[N,64] x) => (double[N,8] y) { m = MatMul(x, w) s = Mul(m, f) t = Tanh(s) y = Cast<to=11>(t) }"
    w = RNG.standard_normal((64, 8)).astype(np.float32)
    before, after = model(body, w=w, f=np.float32(1.1)), model(body, w=w * np.float32(1.1), f=np.float32(1))
    found = check(before, after, proof="never")
    assert found.verdict is Verdict.EQUIVALENT, found.explanation
    outputs = [measured for measured in found.measurements if measured.where.stage == "output"]
    assert {(measured.dtype, measured.computed_in) for measured in outputs} == {("float64", "float32")}
    wrong = model(body, w=w * np.float32(1.1001), f=np.float32(1))
    assert check(before, wrong, proof="never").verdict is Verdict.NOT_EQUIVALENT


def test_types_are_those_of_everything_a_value_is_made_of() -> None:
    proto = half()
    assert coarsest(proto) == {"x": "float32", "w": "float16", "v": "float16", "e": "float16"} | dict.fromkeys(
        "habcdy", "float16"
    )
    assert coarsest(loop("r = Sin(k)"))["y"] == "float32"


def test_floats_in_a_map_are_those_of_the_model() -> None:
    body = (
        "agraph (float[N,3] x) => (seq(map(string, float)) y) "
        '{{ a = MatMul(x, w) {} y = ai.onnx.ml.ZipMap<classlabels_strings=["p","q","r"]>(b) }}'
    )
    w = RNG.standard_normal((3, 3)).astype(np.float32)
    before = model(body.format("t = Mul(a, f) b = Tanh(t)"), w=w, f=np.float32(1.1))
    after = model(body.format("b = Tanh(a)"), w=w * np.float32(1.1))
    found = check(before, after, proof="never")
    assert found.verdict is Verdict.EQUIVALENT, found.explanation
    assert {m.dtype for m in found.measurements} == {"float32", "int64"}
    assert check(before, model(body.format("b = Tanh(a)"), w=w), proof="never").verdict is Verdict.NOT_EQUIVALENT


def test_an_output_that_no_change_reaches_is_equivalent_by_definition() -> None:
    body = "agraph (float[N,4] x) => (float[N,4] y, float[N,4] z) {{ y = RandomNormalLike(x) z = {}(x) }}"
    found = check(model(body.format("Neg")), model(body.format("Abs")))
    assert found.verdict is Verdict.NOT_EQUIVALENT
    judged = zip(found.measurements, found.judgements, strict=True)
    assert all(judgement.agrees for measured, judgement in judged if measured.output == "y")
    assert "'z'" in found.explanation


# --- what the files tell ---------------------------------------------------------------------------------------------


def test_a_change_inside_a_body_or_a_function_reaches_what_runs_it() -> None:
    functions = """<opset_import: ["" : 17], domain: "local"> inner (a) => (b) { b = Neg(a) }
                   <opset_import: ["" : 17, "local" : 1], domain: "local">
                   outer (a) => (b) { c = local.inner(a) b = Abs(c) }"""
    proto = model(
        "agraph (float[N] x) => (float[N] y, float[N] z) { p = local.outer(x) y = Exp(p) z = Neg(x) }", functions
    )
    assert reached(Cutter(proto), [("local::inner", "b")]) == {"p", "y"}
    repeated = loop("r = Sin(k)")
    path = next(scope.path for scope in Cutter(repeated).scopes if scope.path)
    assert reached(Cutter(repeated), [(path, "k")]) == {"y"}
    assert reached(Cutter(repeated), [("", "n")]) == {"n", "y"}


def test_what_could_not_be_proved_is_listed_with_the_value_it_ends_in() -> None:
    body = (
        "agraph (float[N,4] x) => (float[N,4] y, float[N,4] z) {{ a = custom.Magic(x) b = {} y = Neg(b) z = Abs(x) }}"
    )
    before, after = model(body.format("custom.Trick(a)")), model(body.format("custom.Other(a)"))
    changes = find_changes(Cutter(before), Cutter(after), 0)
    assert [proof.output for proof in changes.open] == ["b"]
    assert changes.sentence == "0 of 1 changes are proved. Compared by running only: what became of b."
    assert (changes.is_proved("y"), changes.is_proved("z"), changes.is_untouched("z")) == (False, True, True)
    assert (changes.is_proved("nobody"), changes.is_untouched("nobody")) == (False, False)
    assert not Changes().is_proved("z"), "nobody looked"


# --- the shaken model ------------------------------------------------------------------------------------------------


def test_every_stored_float_moves_to_a_neighbour_and_the_file_stays(tmp_path: Path) -> None:
    functions = """<opset_import: ["" : 17], domain: "local">
                   twice (a) => (b) { k = Constant<value_float = 2.5>() b = Mul(a, k) }"""
    body = """agraph (float[1,1,4,4] x, bool c) => (float[1,1,8,8] y) {
        m = Mul(x, w) f = local.twice(m) g = Add(f, v) t = Constant<value = float[3] {0.5, 1.5, 2.5}>()
        i = If(c) <then_branch = yes () => (float[1,1,4,4] p) { e = Constant<value_floats = [0.25]>() p = Add(g, e) },
                   else_branch = no () => (float[1,1,4,4] q) { q = Identity(g) }>
        y = Resize(i, , s) }"""
    proto = model(body, functions, w=RNG.standard_normal((64, 1, 4, 4)).astype(np.float32)[:1], v=np.float32([2.0]),
                  s=np.float32([1, 1, 2, 2]), big=RNG.standard_normal(5000).astype(np.float16))  # fmt: skip
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0, location="m.data")
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with shaken_model(read(tmp_path / "m.onnx"), 1) as path:
        moved = onnx.load(path)
    assert not path.exists()
    still = onnx.load(tmp_path / "m.onnx")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files
    old, new = (
        {tensor.name: numpy_helper.to_array(tensor) for tensor in each.graph.initializer} for each in (still, moved)
    )
    for name in ("w", "big"):
        steps_up = np.nextafter(old[name], np.array(np.inf, old[name].dtype))
        steps_down = np.nextafter(old[name], np.array(-np.inf, old[name].dtype))
        assert np.all((new[name] == steps_up) | (new[name] == steps_down))
        assert 0.4 < float((np.abs(new[name]) > np.abs(old[name])).mean()) < 0.6
    assert (old["s"] == new["s"]).all(), "sizes are no measured values"
    assert (old["v"] == new["v"]).all()
    assert moved.functions[0].node[0].attribute[0].f == pytest.approx(2.5, abs=1e-6)
    assert moved.functions[0].node[0].attribute[0].f != 2.5
    constants = {node.output[0]: node for node in moved.graph.node if node.op_type == "Constant"}
    assert (numpy_helper.to_array(constants["t"].attribute[0].t) != np.float32([0.5, 1.5, 2.5])).all()
    (branch,) = (
        a.g for node in moved.graph.node if node.op_type == "If" for a in node.attribute if a.name == "then_branch"
    )
    assert branch.node[0].attribute[0].floats[0] != 0.25
    whole = still.SerializeToString()
    with shaken_model(read(whole), 1) as one, shaken_model(read(whole), 2) as two:
        assert one.read_bytes() != two.read_bytes()


def test_only_floats_that_measure_something_are_shaken_in_a_feed() -> None:
    feed = {
        "x": np.float32([[0.1, 0.0, 1e30, np.inf]]),
        "h": np.float16([0.1, 65504.0, 6e-8]),
        "n": np.array([3]),
        "size": np.float32([2.0]),
    }
    moved = shaken_feed(feed, 0)
    assert (moved["x"] != feed["x"]).tolist() == [[True, False, True, False]]
    assert (moved["h"] != feed["h"]).tolist() == [True, False, True]
    assert moved["n"] is feed["n"]
    assert moved["size"] is feed["size"]
    assert all(moved[name].dtype == feed[name].dtype for name in feed)  # type: ignore[attr-defined]  # an array


# --- what is run, and what that costs ---------------------------------------------------------------------------------


def wide(factor: float = 1.0, *, folded: bool = False) -> ModelProto:
    """A layer of a million weights, and a scale behind it that may be folded."""
    body = "agraph (float[N,640] x) => (float[N,1600] y) { %s r = Relu(m) y = Neg(r) }"
    generator = np.random.default_rng(4)
    w = generator.standard_normal((640, 1600)).astype(np.float32)
    s = generator.uniform(0.5, 2, 1600).astype(np.float32)
    if folded:
        return model(body % "m = MatMul(x, w)", w=w * s * np.float32(factor))
    return model(body % "n = MatMul(x, w) m = Mul(n, s)", w=w, s=s)


@pytest.fixture
def a_tenth(monkeypatch: pytest.MonkeyPatch) -> None:
    """A million weights are a large model."""
    for name in ("FLOOR", "_LARGE_RUN", "_LARGE_SESSION"):
        monkeypatch.setattr(run_plan, name, getattr(run_plan, name) / 10)


@pytest.mark.usefixtures("a_tenth")
def test_a_large_model_whose_changes_are_proved_is_run_once_as_users_run_it() -> None:
    before, after = wide(), wide(folded=True)
    found = check(before, after)
    assert (found.verdict, found.shown) == (Verdict.EQUIVALENT, "The one change is proved.")
    assert dict(found.spent) | {"million products": 0} == {"proofs": 1, "sessions": 2, "runs": 2, "million products": 0}
    assert found.spent["million products"] == pytest.approx(2 * 200 * 640 * 1600 / 1e6, rel=0.1)
    assert {(m.where.feed, m.where.optimization) for m in found.measurements} == {("batch1-normal", "on")}
    thorough = check(before, after, thorough=True)
    assert thorough.spent["runs"] > 20
    assert {m.where.optimization for m in thorough.measurements} == {"off", "on"}


@pytest.mark.parametrize(
    ("off", "said", "shaken"), [(1e-6, False, False), (1e-4, True, False), (1e-3, True, True)], ids=str
)
def test_a_large_model_that_is_proved_is_shaken_only_where_rounding_takes_half_of_the_digits(
    off: float, said: bool, shaken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what is usual nothing is said; of what is more, by how much rounding is amplified."""
    asked: list[Finding] = []
    monkeypatch.setattr(Judge, "_find_noise", lambda _, finding: asked.append(finding))
    once = Answer("f", {}, dict, {"y": np.float32([1.0])})
    was, now = np.float32([1.0, 2.0]), np.float32([1.0, 2.0 + 2 * off])
    known = Evidence(proved=True)
    measured = measure(WHERE, was, now)
    found = Finding(measured, once, LEAN, "y", judge(measured, Tolerance(), known), known, now)
    assert (found.judgement.rule, found.judgement.agrees) == (Rule.TOLERANCE if off < 1e-5 else Rule.PROVED, True)
    model_reference = ModelReference(GivenModel.of(half().SerializeToString()))
    lean = RunPlan(LEAN, is_lean=True, is_large=True)
    notes = Judge(model_reference, b"", Comparing(Tolerance()), {}, plan=lean).conditioning([found])
    assert bool(notes) == said
    assert bool(asked) == shaken
    if said:
        times = off / 2**-24
        assert notes[0].endswith(f"so that this is rounding, amplified {float(f'{times:.2g}'):,.0f} times.")


@pytest.mark.usefixtures("a_tenth")
def test_a_large_model_that_is_not_proved_is_run_on_everything() -> None:
    unproved = check(wide(), wide(folded=True), proof="never")
    assert unproved.verdict is Verdict.EQUIVALENT
    assert unproved.spent["runs"] > 20
    wrong = check(wide(), wide(1.001, folded=True))
    assert wrong.verdict is Verdict.NOT_EQUIVALENT
    assert wrong.spent["runs"] > 10
    nan = check(wide(), wide(np.inf, folded=True))
    assert nan.verdict is Verdict.NOT_EQUIVALENT


@pytest.mark.parametrize("optimization", sessions.Optimization)
def test_threads_that_wait_for_work_do_not_spin(optimization: sessions.Optimization) -> None:
    options = sessions.quiet_options(optimization)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_sessions_get_the_threads_that_were_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    made = sessions.quiet_options

    def noted(optimization: sessions.Optimization) -> object:
        options = made(optimization)
        seen.append(options.intra_op_num_threads)
        return options

    monkeypatch.setattr(opening, "quiet_options", noted)
    check(half(), half(1e-4), threads=3)
    assert set(seen) == {3}
    seen.clear()
    check(half(), half(1e-4))
    assert set(seen) == {1}  # a model so small that a second thread only waits


# --- measurements of many numbers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["float32", "float64", "float16", "int64"])
def test_what_is_summed_in_blocks_is_what_is_summed_at_once(kind: str) -> None:
    """100,003 numbers, which no block divides."""
    generator = np.random.default_rng(6)
    before = (100 * generator.standard_normal(100_003)).astype(kind)
    after = (before + generator.choice([0, 1], before.shape)).astype(kind)
    found = measure(WHERE, before, after)
    old, new = before.astype(np.float64), after.astype(np.float64)
    error = np.abs(new - old)
    assert found.max_abs == error.max()
    assert found.mean_abs == pytest.approx(error.mean())
    assert found.rms == pytest.approx(np.sqrt((error**2).mean()))
    assert found.reference_rms == pytest.approx(np.sqrt((old**2).mean()))
    assert found.cosine == pytest.approx(float(old @ new / np.sqrt((old @ old) * (new @ new))))
    assert found.max_rel == pytest.approx(float((error[old != 0] / np.abs(old[old != 0])).max()))
    assert found.p99_abs == pytest.approx(float(np.percentile(error, 99)))
    assert (found.different, sum(found.histogram), found.histogram[0]) == (
        int((error > 0).sum()),
        100_003,
        int((error == 0).sum()),
    )
    assert measure(WHERE, before, before).histogram[0] == 100_003


def test_a_difference_that_overflows_float32_is_still_a_number() -> None:
    found = measure(WHERE, np.float32([3e38, 1.0]), np.float32([-3e38, 1.0]))
    assert found.max_abs == pytest.approx(6e38, rel=1e-3)
    assert (found.compared, found.new_nonfinite) == (2, 0)


def test_nothing_is_measured_of_nothing() -> None:
    found = measure(WHERE, np.zeros((0, 4), np.float32), np.zeros((0, 4), np.float32))
    assert (found.count, found.compared, found.different, found.problem) == (0, 0, 0, "")


def test_a_setting_in_which_the_reference_drifts_from_run_to_run_is_not_compared() -> None:
    """onnxruntime's optimizer stores equal initializers once, and what is in training mode writes into its mean."""
    zero, one = np.zeros(4, np.float32), np.ones(4, np.float32)
    constants = {"one": one, "zero": zero, "mean": zero, "var": one, "k": numbers(4, 1, 1)}
    norm = "n, rm, rv = BatchNormalization<training_mode = 1>(d, one, zero, mean, var) y = Mul(n, k)"

    def built(text: str, k: np.ndarray) -> ModelProto:
        return build(f"{text} {norm}", inputs={"x": "float[2,4,5,6]"}, constants={**constants, "k": k})

    reference = built("c = Neg(x) d = Neg(c)", constants["k"])
    right, wrong = (built("d = Identity(x)", constants["k"] * factor) for factor in (np.float32(1), np.float32(1.01)))
    found = check(reference, right, proof="never")
    assert found.verdict is Verdict.EQUIVALENT, found.explanation
    assert check(reference, wrong, proof="never").verdict is Verdict.NOT_EQUIVALENT


def test_epsilon_is_a_float32_where_all_else_is_a_double() -> None:
    """What folds with 1e-5 is as right as what folds with the nearest float32, and 1.01e-5 is wrong."""
    names = ("s", "h", "m", "v")
    s, h, m, v = values = [numbers(4, seed=seed, low=0.3, high=2.0, dtype=np.float64) for seed in range(4)]

    def folded(epsilon: float) -> ModelProto:
        k = s / np.sqrt(v + epsilon)
        constants = {"k": k.reshape(4, 1, 1), "t": (h - m * k).reshape(4, 1, 1)}
        return build("a = Mul(x, k) y = Add(a, t)", inputs=inputs, constants=constants)

    inputs = {"x": "double[2,4,3,5]"}
    constants = dict(zip(names, values, strict=True))
    reference = build("y = BatchNormalization(x, s, h, m, v)", inputs=inputs, constants=constants)
    for epsilon, verdict in ((1e-5, Verdict.EQUIVALENT), (1.01e-5, Verdict.NOT_EQUIVALENT)):
        assert check(reference, folded(epsilon), proof="never").verdict is verdict


BEFORE_THE_END = {
    "a Cast to float16": "h = Cast<to=10>(c)\nd = Cast<to=1>(h)",
    "a Cast to bfloat16": "h = Cast<to=16>(c)\nd = Cast<to=1>(h)",
    "a Clip": "low = Constant<value_float = -1.5>()\nhigh = Constant<value_float = 1.5>()\nd = Clip(c, low, high)",
    "a Round": "hundred = Constant<value_float = 100.0>()\nq = Mul(c, hundred)\nr = Round(q)\nd = Div(r, hundred)",
}


@pytest.mark.parametrize("proof", ["auto", "always", "never"])
@pytest.mark.parametrize("end", ["Tanh", "Softmax<axis=1>", "Sigmoid"])
@pytest.mark.parametrize("added", BEFORE_THE_END)
def test_what_is_added_before_a_saturated_output_does_not_pass_for_the_value_before_it(
    added: str, end: str, proof: Any
) -> None:
    """The value before it is untouched; what the end reads in the candidate is another one."""

    def made(middle: str, read: str) -> ModelProto:
        text = f"c = Conv<pads=[1,1,1,1]>(x, w)\n{middle}\ny = {end}({read})"
        return build(text, inputs={"x": "float[N,3,6,7]"}, constants={"w": numbers(4, 3, 3, 3)}, outputs=("y",))

    assert bnfold.verify(made("", "c"), made(BEFORE_THE_END[added], "d"), proof=proof).verdict == "not-equivalent"
    renamed = made("d = Identity(c)", "d")
    assert bnfold.verify(made("", "c"), renamed, proof=proof).verdict == "equivalent"


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int32, np.int64, np.uint64])
def test_integers_are_as_far_apart_as_they_are(kind: type) -> None:
    """float64 holds no odd number beyond 2**53, and the difference of two integers may not fit into their type."""
    least, most = np.iinfo(kind).min, np.iinfo(kind).max
    old, new = np.array([least, most, most - 1, 5], kind), np.array([most, least, most, 5], kind)
    widest = float(int(most) - int(least))
    assert distance(old, new).tolist() == [widest, widest, 1.0, 0.0]
    for distributions in (True, False):
        found = measure(Where("y", "f"), old[2:], new[2:], distributions=distributions)
        assert (found.max_abs, found.different, found.worst_at) == (1.0, 1, (0,))
        assert Tolerance().judge(found).agrees is False


def test_a_large_integer_that_is_off_by_one_is_wrong() -> None:
    text = '<ir_version: 9, opset_import: ["": 17]> g (int64[N,2] x) => (int64[N,2] y) { a = Mul(x, x) y = Add(a, k) }'
    pair = []
    for value in (2**60, 2**60 + 1):
        made = parser.parse_model(text)
        made.graph.initializer.append(numpy_helper.from_array(np.array([value]), "k"))
        pair.append(made.SerializeToString())
    assert verify(*pair).verdict is Verdict.NOT_EQUIVALENT
    assert verify(pair[0], pair[0]).verdict is Verdict.EQUIVALENT
