"""How much a verification runs: an estimate of the work, a budget of it, and sessions that are made meanwhile."""

import threading
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper, parser

from bnfold import optimize
from bnfold.equivalence import Verdict, verification, verify
from bnfold.equivalence.judging import run_plan
from bnfold.equivalence.judging.changes import Changes, find_changes
from bnfold.equivalence.judging.measurement import Where, measure
from bnfold.equivalence.judging.run_plan import BY_RUNNING, FLOOR, LEAN, plan_of
from bnfold.equivalence.judging.tolerance import Tolerance
from bnfold.equivalence.numbers.element_types import Feed, Outputs
from bnfold.equivalence.runtime import opening, sessions
from bnfold.equivalence.runtime.opening import Ahead, Setting, running
from bnfold.equivalence.runtime.sessions import RunFailed, Session
from bnfold.equivalence.runtime.spending import Purse, spending
from bnfold.equivalence.structure.work import Work, work_of
from bnfold.onnxfile import Publication


def model(body: str, **weights: np.ndarray) -> ModelProto:
    proto = parser.parse_model(f'<ir_version: 9, opset_import: ["": 17]> {body}')
    proto.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in weights.items())
    return proto


def products(text: str, **weights: np.ndarray) -> float:
    """The products of one run, without what nodes and elements are counted for."""
    found, nodes = work_of(model(f"agraph {text}", **weights)), text.count(" = ")
    return round(found.run - 200_000 * nodes, -4)


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def test_each_weight_counts_at_the_positions_where_it_is_used() -> None:
    image = "(float[1,64,128,128] x) => (float y)"
    wide = zeros(100, 64, 9, 9)
    plain = products(image + " { y = Conv(x, w) }", w=wide)
    assert plain == pytest.approx(wide.size * 128 * 128, rel=0.05)
    assert products(image + " { y = Conv<strides=[2,2]>(x, w) }", w=wide) == pytest.approx(plain / 4, rel=0.05)
    pooled = " { a = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x) y = Conv(a, w) }"
    assert products(image + pooled, w=wide) == pytest.approx(plain / 4, rel=0.05)
    grown = " { a = ConvTranspose<strides=[2,2]>(x, v) y = Conv(a, w) }"
    up = zeros(64, 64, 2, 2)
    assert products(image + grown, v=up, w=wide) == pytest.approx(4 * plain + up.size * 128 * 128, rel=0.05)
    resized = " { a = Resize(x, , scales) y = Conv(a, w) }"
    scales = np.float32([1, 1, 3, 3])
    assert products(image + resized, scales=scales, w=wide) == pytest.approx(9 * plain, rel=0.05)
    flat = " { p = GlobalAveragePool(x) f = Flatten(p) y = Gemm(f, w) }"
    assert products(image + flat, w=zeros(64, 5000)) < 64 * 5000 + 2e7
    assert products("(float[1,500,64] x) => (float y) { y = MatMul(x, w) }", w=zeros(64, 5000)) == pytest.approx(
        500 * (64 + 210) * 5000, rel=0.05
    )


def test_a_session_costs_by_weights_and_nodes() -> None:
    small = work_of(model("agraph (float[1,4] x) => (float y) { y = Gemm(x, w) }", w=zeros(4, 5)))
    large = work_of(model("agraph (float[1,4] x) => (float y) { y = Gemm(x, w) }", w=zeros(4, 50_000)))
    assert large.session - small.session == pytest.approx(200 * 4 * 49_995)
    assert large.both_once == 2 * (large.session + large.run)


@pytest.mark.parametrize("proved", [True, False])
def test_what_is_small_is_run_on_everything(proved: bool) -> None:
    plan = plan_of(Work(1e7, 1e6), heavy=False, all_proved=proved, thorough=False)
    assert not plan.is_lean
    assert plan.purse.affords(1e9)


def test_what_is_proved_is_run_as_users_run_it_and_further_as_the_floor_lasts() -> None:
    middling = plan_of(Work(1e8, 1e8), heavy=False, all_proved=True, thorough=False)
    assert (middling.is_lean, middling.base) == (True, LEAN)
    assert middling.allowance == FLOOR - middling.work.both_once
    assert middling.loads_both
    large = plan_of(Work(1e10, 1e9), heavy=False, all_proved=True, thorough=False)
    assert large.is_lean
    assert not large.purse.affords(1)
    assert not large.loads_both


def test_what_is_compared_by_running_costs_four_times_both_sessions_at_most() -> None:
    work = Work(1e9, 2e9)
    plan = plan_of(work, heavy=False, all_proved=False, thorough=False)
    assert not plan.is_lean
    assert plan.allowance + 3 * work.session == BY_RUNNING * work.both_once
    assert plan.purse.affords(1)
    assert not plan.purse.affords(10)


def test_thorough_knows_no_budget() -> None:
    plan = plan_of(Work(1e12, 1e12), heavy=True, all_proved=True, thorough=True)
    assert not plan.is_lean
    assert plan.purse.affords(1e9)


def test_a_purse_pays_until_it_is_empty() -> None:
    purse = Purse(left=5.0, price=2.0)
    purse.pay(2)
    assert not purse.affords(1)
    assert purse.affords(0.5)


# --- sessions that are made ahead -------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = model("agraph (float[N,4] x) => (float[N,4] y) { y = Relu(x) }")
    target = tmp_path / "relu.onnx"
    target.write_bytes(made.SerializeToString())
    return target


def test_a_session_that_was_begun_is_taken_once(path: Path) -> None:
    feed = {"x": np.float32([[-1, 2, -3, 4]])}
    with spending() as counted, Ahead() as ahead:
        ahead.begin(path, LEAN)
        ahead.begin(path, Setting())
        for _ in range(2):
            with running(path, LEAN) as session:
                assert session.run(feed)["y"].tolist() == [[0, 2, 0, 4]]
        ahead.drop()
    assert counted["sessions"] == 3
    assert [thread for thread in threading.enumerate() if thread.name == "bnfold-open"] == []


def test_a_model_that_cannot_be_loaded_says_so_where_its_session_is_taken(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"nothing")
    with Ahead() as ahead:
        ahead.begin(broken, LEAN)
        with pytest.raises(RunFailed), running(broken, LEAN):
            pass


def test_a_session_that_nobody_takes_is_gone_in_the_end(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"nothing")
    with Ahead() as ahead:
        ahead.begin(broken, LEAN)
    assert [thread for thread in threading.enumerate() if thread.name == "bnfold-open"] == []


@pytest.mark.parametrize("large", [True, False])
def test_of_large_models_only_one_of_the_two_is_in_memory(
    large: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    alive: list[str] = []
    most = 0
    load, close = sessions.loaded, Session.close

    def loaded(source: Path, *others: object) -> Session:
        nonlocal most
        alive.append(source.name)
        most = max(most, len(alive))
        made = load(source, *others)  # type: ignore[arg-type]  # what `loaded` takes
        names[id(made)] = source.name
        return made

    def closed(session: Session) -> None:
        close(session)
        if id(session) in names:
            alive.remove(names.pop(id(session)))

    names: dict[int, str] = {}
    monkeypatch.setattr(opening, "loaded", loaded)
    monkeypatch.setattr(Session, "close", closed)
    monkeypatch.setattr(run_plan, "FLOOR", 0.0)
    if large:
        monkeypatch.setattr(run_plan, "_LARGE_SESSION", 0.0)
    folded = "agraph (float[N,4] x) => (float[N,5] y) { y = Gemm(x, w, b) }"
    apart = "agraph (float[N,4] x) => (float[N,5] y) { z = MatMul(x, w) y = Add(z, b) }"
    weights = {"w": np.ones((4, 5), np.float32), "b": np.arange(5, dtype=np.float32)}
    paths = [tmp_path / "apart.onnx", tmp_path / "folded.onnx"]
    for path, body in zip(paths, (apart, folded), strict=True):
        path.write_bytes(model(body, **weights).SerializeToString())
    found = verify(*paths)
    assert (found.verdict, found.shown, found.spent["sessions"]) == (Verdict.EQUIVALENT, "The one change is proved.", 2)
    assert {measured.where.optimization for measured in found.measurements} == {"on"}
    assert most == 1 or not large
    assert alive == []
    weights["b"] = weights["b"] + np.float32(1e-3)
    paths[1].write_bytes(model(folded, **weights).SerializeToString())
    assert verify(*paths).verdict is Verdict.NOT_EQUIVALENT
    assert alive == []


def test_the_input_is_loaded_beside_the_passes_where_its_verification_begins_with_running_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "in.onnx"
    weights = {"w": np.ones((4, 5), np.float32), **{name: np.full(5, 0.5, np.float32) for name in "sbmv"}}
    body = "agraph (float[N,4] x) => (float[N,5] y) { z = MatMul(x, w) y = BatchNormalization(z, s, b, m, v) }"
    path.write_bytes(model(body, **weights).SerializeToString())
    begun: list[str] = []
    begin, write = Ahead.begin, Publication.write

    def noted(ahead: Ahead, source: Path, setting: Setting) -> None:
        begun.append(source.name)
        begin(ahead, source, setting)

    def written(*given: object, **options: object) -> object:
        begun.append("written")
        return write(*given, **options)  # type: ignore[arg-type]  # what `write` takes

    monkeypatch.setattr(Ahead, "begin", noted)
    monkeypatch.setattr(Publication, "write", written)
    thorough = run_plan.FLOOR
    monkeypatch.setattr(run_plan, "FLOOR", 0.0)
    found = optimize(path, tmp_path / "out.onnx").report
    assert found.verdict == "equivalent"
    assert found.verification is not None
    assert found.verification["spent"]["sessions"] == 2
    assert begun[:2] == ["in.onnx", "written"]
    assert begun[2].startswith(".out.onnx")  # beside the proofs of it
    begun.clear()
    assert optimize(path, tmp_path / "unproved.onnx", proof="never").report.verdict == "equivalent"
    monkeypatch.setattr(run_plan, "FLOOR", thorough)
    assert optimize(path, tmp_path / "small.onnx").report.verdict == "equivalent"
    assert begun == ["written"] * 2
    assert [thread for thread in threading.enumerate() if thread.name == "bnfold-open"] == []


@pytest.fixture
def apart_and_folded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Path]:
    """Two models whose one change is proved, so that they run beside its proof."""
    monkeypatch.setattr(run_plan, "FLOOR", 0.0)
    weights = {"w": np.ones((4, 5), np.float32), "b": np.arange(5, dtype=np.float32)}
    texts = {
        "apart.onnx": "agraph (float[N,4] x) => (float[N,5] y) { z = MatMul(x, w) y = Add(z, b) }",
        "folded.onnx": "agraph (float[N,4] x) => (float[N,5] y) { y = Gemm(x, w, b) }",
    }
    for name, text in texts.items():
        (tmp_path / name).write_bytes(model(text, **weights).SerializeToString())
    return [tmp_path / name for name in texts]


def test_both_models_run_beside_the_proofs(monkeypatch: pytest.MonkeyPatch, apart_and_folded: list[Path]) -> None:
    ran: list[str] = []
    run = Session.run

    def noted(session: Session, feed: Feed) -> Outputs:
        ran.append(threading.current_thread().name)
        if len(ran) > 1:
            both.set()
        return run(session, feed)

    def proved(*given: object) -> Changes:
        assert both.wait(60)
        return find_changes(*given)  # type: ignore[arg-type]  # what it takes

    both = threading.Event()
    monkeypatch.setattr(Session, "run", noted)
    monkeypatch.setattr(verification, "find_changes", proved)
    found = verify(*apart_and_folded)
    assert (found.verdict, found.spent["sessions"], found.spent["runs"]) == (Verdict.EQUIVALENT, 2, len(ran))
    assert set(ran) == {"bnfold-run"}


def test_what_runs_beside_the_proofs_ends_where_they_are_interrupted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(run_plan, "FLOOR", 0.0)
    started = threading.Event()
    run = Session.run

    def noted(session: Session, feed: Feed) -> Outputs:
        started.set()
        return run(session, feed)

    def interrupted(*_: object) -> Changes:
        assert started.wait(60)
        raise KeyboardInterrupt

    endless = """agraph (float[1] x) => (float[1] y) <bool t = {1}> { a = Relu(x) b = OPERATOR(a) y = Loop (, t, b)
        <body = b (int64 i, bool c, float[1] a) => (bool d, float[1] r) { d = Identity(c) r = Neg(a) }> }"""
    paths = [tmp_path / name for name in ("before.onnx", "after.onnx")]
    for path, operator in zip(paths, ("Relu", "Identity"), strict=True):
        path.write_bytes(model(endless.replace("OPERATOR", operator)).SerializeToString())
    monkeypatch.setattr(Session, "run", noted)
    monkeypatch.setattr(verification, "find_changes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        verify(*paths)
    assert [thread for thread in threading.enumerate() if thread.name.startswith("bnfold")] == []


def test_a_candidate_that_does_not_run_is_told_although_all_is_proved(
    monkeypatch: pytest.MonkeyPatch, apart_and_folded: list[Path]
) -> None:
    run, ran = Session.run, 0

    def failing(session: Session, feed: Feed) -> Outputs:
        nonlocal ran
        ran += 1
        if ran > 1:
            raise RunFailed("it has no memory left")
        return run(session, feed)

    monkeypatch.setattr(Session, "run", failing)
    monkeypatch.setattr(verification, "_own_failure", lambda *_: None)
    monkeypatch.setattr(run_plan, "FLOOR", 1e6)  # one feed
    found = verify(*apart_and_folded)
    assert found.verdict is Verdict.NOT_EQUIVALENT
    assert "onnxruntime runs the reference but not the candidate (cpu, optimization on)" in found.explanation
    assert "it has no memory left" in found.explanation


def test_a_session_of_the_block_around_is_taken_and_not_begun_again(path: Path) -> None:
    with Ahead() as outer:
        outer.begin(path, LEAN)
        with spending() as counted, Ahead() as inner:
            inner.begin(path, LEAN)
            assert inner.take(path, Setting()) is None
            taken = inner.take(path, LEAN)
            assert taken is not None
            taken.close()
            assert outer.take(path, LEAN) is None
        assert counted["sessions"] == 1


def test_without_a_report_only_what_the_verdict_rests_on_is_measured() -> None:
    generator = np.random.default_rng(0)
    old = generator.standard_normal((1, 3, 40, 50)).astype(np.float32)
    new = old + np.float32(1e-3) * generator.standard_normal(old.shape).astype(np.float32)
    new[0, 0, 0, 0] = np.inf
    everything, little = (measure(Where("y", "f"), old, new, distributions=each) for each in (True, False))
    assert everything.histogram
    assert not little.histogram
    for tolerance in (Tolerance(), Tolerance(atol=1.0)):
        assert tolerance.judge(little) == tolerance.judge(everything)
        assert tolerance.judge_without_truth(little) == tolerance.judge_without_truth(everything)
    for name in ("max_abs", "relative", "channel_rel", "different", "compared", "new_nonfinite", "worst_at"):
        assert getattr(little, name) == getattr(everything, name)
