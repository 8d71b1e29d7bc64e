"""`isolate=True`: a call in a process of its own gives what the call itself gives, and survives what that does not."""

import os
import re
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon
import pytest

import bnfold
from bnfold.errors import BnfoldError, ModelError, ModelWarning, OutputError, ResourceLimitError, UsageError
from bnfold.isolated import isolated
from bnfold.options import InspectOptions
from bnfold.progress import Stage
from tests.fold_models import Row, numbers
from tests.isolated_functions import dying, raising

REPOSITORY = Path(__file__).parents[1]
MODEL = Row("c = Conv(x, w, b) y = BatchNormalization(c, g, h, m, v)").model()
# The least integer divided by minus one: x86 processors trap, and onnxruntime 1.32 dies of it.
TRAP = Row(
    "c = Conv(x, w, b) y = BatchNormalization(c, g, h, m, v)"
    " i = Cast<to=7>(y) o = Sub(i, i) n = Add(o, least) d = Add(o, minus) z = Div(n, d)",
    None,
    {"least": np.array(-(1 << 63)), "minus": np.array(-1)},
    outputs=("y", "z"),
).model()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to work in, another for temporary files, which stays empty."""
    for name in ("out", "temporary"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.chdir(tmp_path)
    onnx.save(MODEL, "in.onnx")
    yield tmp_path
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_path_to_a_path() -> None:
    here, there = bnfold.optimize("in.onnx", "out/a.onnx"), bnfold.optimize("in.onnx", "out/b.onnx", isolate=True)
    assert Path("out/a.onnx").read_bytes() == Path("out/b.onnx").read_bytes()
    assert there.report.decisions == here.report.decisions
    assert there.report.verdict == "equivalent"
    assert "isolate" not in there.report.to_dict()["options"]


@pytest.mark.parametrize("kind", [bytes, onnx.ModelProto, onnx_graphsurgeon.Graph])
def test_the_result_is_of_the_kind_that_was_given(kind: type) -> None:
    given: Any = {bytes: MODEL.SerializeToString(), onnx.ModelProto: MODEL}.get(kind)
    given = onnx_graphsurgeon.import_onnx(MODEL) if given is None else given
    made = bnfold.optimize(given, isolate=True).model
    assert isinstance(made, kind)
    if kind is onnx.ModelProto:
        assert made == bnfold.optimize(MODEL).model


def test_every_function_takes_it() -> None:
    batches = [{"x": numbers(8, 3, 6, 7)}]
    assert bnfold.inspect("in.onnx", isolate=True).normalizations == bnfold.inspect("in.onnx").normalizations
    assert bnfold.verify("in.onnx", MODEL, isolate=True).verdict == "equivalent"
    assert bnfold.assert_equivalent("in.onnx", "in.onnx", isolate=True).verdict == "equivalent"
    assert bnfold.freeze("in.onnx", isolate=True).report.verdict == "equivalent"
    there = bnfold.recalibrate("in.onnx", batches, isolate=True)
    assert there.model == bnfold.recalibrate("in.onnx", batches).model


def test_progress_is_told_here() -> None:
    told: list[tuple[Stage, int, int]] = []
    thread = threading.get_ident()

    def progress(stage: Stage, done: int, of: int) -> None:
        assert threading.get_ident() == thread
        told.append((stage, done, of))

    bnfold.optimize("in.onnx", "out/o.onnx", isolate=True, progress=progress)
    assert {stage for stage, _, _ in told} >= {Stage.NORMALIZATIONS, Stage.FEEDS}


def test_what_progress_raises_stops_it() -> None:
    def progress(*_: Any) -> None:
        raise LookupError

    with pytest.raises(LookupError):
        bnfold.optimize("in.onnx", "out/o.onnx", isolate=True, progress=progress)
    assert list(Path("out").iterdir()) == []


def test_errors_come_back_as_themselves() -> None:
    Path("bad.onnx").write_bytes(b"bad")
    for kind, call in {
        ModelError: lambda isolate: bnfold.optimize("bad.onnx", isolate=isolate),
        OutputError: lambda isolate: bnfold.optimize("in.onnx", "nowhere/o.onnx", isolate=isolate),
        UsageError: lambda isolate: bnfold.verify("in.onnx", "in.onnx", input_shapes={"z": (1,)}, isolate=isolate),
    }.items():
        with pytest.raises(kind) as here:
            call(False)
        with pytest.raises(kind) as there:
            call(True)
        assert str(here.value) == str(there.value)
        assert vars(here.value) == vars(there.value)


def test_a_failed_verification_brings_its_report() -> None:
    other = replace_weight(MODEL)
    with pytest.raises(bnfold.NotEquivalentError) as raised:
        bnfold.assert_equivalent(MODEL, other, isolate=True)
    assert raised.value.verification.verdict == "not-equivalent"


def replace_weight(model: onnx.ModelProto) -> onnx.ModelProto:
    other = onnx.ModelProto()
    other.CopyFrom(model)
    [weight] = [tensor for tensor in other.graph.initializer if tensor.name == "w"]
    weight.CopyFrom(onnx.numpy_helper.from_array(numbers(4, 3, 3, 3, seed=9), "w"))
    return other


def test_warnings_are_given_here() -> None:
    model = Row("c = Conv(x, w, b) d = Relu(c) y = BatchNormalization(d, g, h, m, v)").model()
    for node in model.graph.node:
        node.name = "alike"
    with pytest.warns(ModelWarning, match="more than one node named 'alike'"):
        bnfold.inspect(model, isolate=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ModelWarning):
            bnfold.inspect(model, isolate=True)


def test_what_cannot_be_pickled_is_named_as_such() -> None:
    with pytest.raises(UsageError, match=r"cannot be pickled .*generator"):
        bnfold.recalibrate("in.onnx", ({"x": numbers(8, 3, 6, 7)} for _ in range(2)), isolate=True)
    with pytest.raises(UsageError, match="cannot be pickled"):
        bnfold.recalibrate("in.onnx", lambda: [{"x": numbers(8, 3, 6, 7)}], isolate=True)


def test_from_many_threads_at_once() -> None:
    def one(number: int) -> str:
        return bnfold.optimize("in.onnx", f"out/{number}.onnx", isolate=True).report.verdict

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(one, range(4))) == {"equivalent"}


def test_nothing_of_it_stays_open() -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir())) if sys.platform == "linux" else 0

    bnfold.inspect("in.onnx", isolate=True)
    before = descriptors(), threading.active_count()
    bnfold.inspect("in.onnx", isolate=True)
    with pytest.raises(ModelError):
        bnfold.inspect("nothing.onnx", isolate=True)
    assert (descriptors(), threading.active_count()) == before


# ---------------------------------------------------------------------- what it is for


ENDS: dict[str, tuple[type[BaseException], str]] = {
    "SIGFPE": (
        ModelError,
        r"^m: makes onnx or onnxruntime crash \(SIGFPE\) while it was running something, beside loading m; do not",
    ),
    "SIGSEGV": (
        ModelError,
        r"^m: makes onnx or onnxruntime crash \(SIGSEGV\) while it was running something, beside loading m; do not",
    ),
    "SIGKILL": (
        ResourceLimitError,
        "^m: was stopped by SIGKILL while it was running something, beside loading m, most likely",
    ),
    "SIGTERM": (ResourceLimitError, "^m: was stopped by SIGTERM"),
    "SIGINT": (KeyboardInterrupt, "^$"),
    "7": (BnfoldError, "^m: the isolated process ended with exit code 7 and without a result"),
}


@pytest.mark.parametrize("how", ENDS)
def test_a_process_that_dies_is_an_error_and_leaves_nothing(how: str) -> None:
    kind, words = ENDS[how]
    with pytest.raises(kind, match=words):
        isolated(dying, "m", how, options=InspectOptions(isolate=True))


def test_an_error_that_is_none_of_bnfolds_says_where_it_comes_from() -> None:
    with pytest.raises(ZeroDivisionError, match="here") as raised:
        isolated(raising, "m", options=InspectOptions(isolate=True))
    assert "in raising" in raised.value.__notes__[0]
    with pytest.raises(BnfoldError, match=r"Local in the isolated process: .*there"):
        isolated(raising, "m", options=InspectOptions(isolate=True, explain="local"))


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "bnfold", *words], capture_output=True, text=True, check=False,
                          env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, timeout=300)  # fmt: skip


RUN = """
import numpy, onnxruntime
onnxruntime.InferenceSession("trap.onnx").run(None, {"x": numpy.ones((1, 3, 6, 7), "f")})
"""


def test_a_model_that_the_runtime_dies_of() -> None:
    """Not a pretended crash: this very runtime, this very model."""
    onnx.save(TRAP, "trap.onnx")
    quiet = os.environ | {"ORT_DISABLE_TELEMETRY": "1"}  # or it leaves a file among the temporary ones
    alone = subprocess.run([sys.executable, "-c", RUN], capture_output=True, check=False, env=quiet)
    if alone.returncode != -signal.SIGFPE:
        pytest.skip("this onnxruntime, on this processor, survives it")
    words = "trap.onnx: makes onnx or onnxruntime crash (SIGFPE) while it was running trap.onnx in onnxruntime"
    done = command("optimize", "trap.onnx", "out/o.onnx")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith(f"bnfold: {words} (cpu, optimization off), feed ")
    assert done.stderr.count("\n") == 1
    with pytest.raises(ModelError) as raised:
        bnfold.optimize("trap.onnx", "out/o.onnx", isolate=True)
    assert str(raised.value).startswith(words)
    assert list(Path("out").iterdir()) == []
    assert command("optimize", "trap.onnx", "out/o.onnx", "--no-verify").returncode == 0


STAGES = {
    "inferring shapes": ("bnfold.graph.shapes.infer_shapes", "running the pass .*, inferring shapes with onnx"),
    "a pass": ("bnfold.passes.fold_batch_norm.FoldBatchNorm.run", "running the pass fold-batch-norm"),
    "a proof": ("bnfold.equivalence.proofs.piece.composed", "proving what was changed"),
    "constants": ("bnfold.equivalence.runtime.computed_constants.opened", "computing 1 constants in onnxruntime"),
}
PROGRAM = """
import os, signal, sys
from unittest import mock
def dies(*_, **__):
    os.kill(os.getpid(), signal.SIGFPE)
    signal.pause()
mock.patch({where!r}, dies).start()
sys.argv = ["bnfold", "optimize", "in.onnx", "out/o.onnx"]
from bnfold.__main__ import run
run()
"""


@pytest.mark.parametrize("stage", STAGES)
def test_the_sentence_names_the_stage(stage: str) -> None:
    where, words = STAGES[stage]
    text = "f = Flatten(x) c = Gemm(f, k) e = Exp(g) y = Mul(c, e)"
    onnx.save(Row(text, None, {"k": numbers(126, 4)}).model(), "in.onnx")
    done = subprocess.run([sys.executable, "-c", PROGRAM.format(where=where)], capture_output=True, text=True,
                          check=False, env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, timeout=300)  # fmt: skip
    assert done.returncode == 3, done.stderr
    pattern = rf"bnfold: in.onnx: makes onnx or onnxruntime crash \(SIGFPE\) while it was {words}; do not use it .*\n"
    assert re.fullmatch(pattern, done.stderr), done.stderr
    assert list(Path("out").iterdir()) == []


def test_options_are_made_anew_for_it() -> None:
    assert replace(InspectOptions(isolate=True), isolate=False) == InspectOptions()
