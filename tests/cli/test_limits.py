"""Being stopped: by a limit, by a signal, in the middle of native code. Real processes, since each ends."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner
from onnx import parser

from bnfold.cli import main

MODULE = [sys.executable, "-m", "bnfold"]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
HEADER = '<ir_version: 8, opset_import: ["": 17]> '
ENDLESS = """g (float[1] x) => (float[1] y) <bool t = {1}> { y = Loop (, t, x)
    <body = b (int64 i, bool c, float[1] a) => (bool d, float[1] r) { d = Identity(c) r = Neg(a) }> }"""
GREEDY = """g (float[1] x) => (float[1] y) <int64[1] n = {100000000000}>
    { z = ConstantOfShape(n) w = Add(z, x) y = ReduceSum<keepdims = 1>(w) }"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setitem(ENVIRONMENT, "TMPDIR", str(folder))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "o.onnx").write_bytes(b"old")
    return folder


def save(text: str) -> str:
    onnx.save(parser.parse_model(HEADER + text), "in.onnx")
    return "in.onnx"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*MODULE, *arguments], capture_output=True, text=True, check=False, env=ENVIRONMENT)


def left_in(temporary: Path) -> list[str]:
    return [path.name for path in temporary.iterdir()]


def check_nothing_happened(temporary: Path) -> None:
    assert [path.name for path in Path("out").iterdir()] == ["o.onnx"]
    assert Path("out/o.onnx").read_bytes() == b"old"
    assert left_in(temporary) == []


LIMITED = [
    (ENDLESS, ["--timeout", "3"], "in.onnx: took longer than --timeout 3 seconds and was stopped; allow more time if"),
    (GREEDY, ["--max-memory", "512M"], "in.onnx: needs more memory than --max-memory allows; allow more if you trust"),
]


@pytest.mark.parametrize(("text", "limit", "words"), LIMITED)
def test_a_model_that_needs_more_than_it_may_is_stopped(
    text: str, limit: list[str], words: str, temporary: Path
) -> None:
    started = time.monotonic()
    done = run("optimize", save(text), "out/o.onnx", "--report", "report.json", *limit)
    assert done.returncode == 6, done.stderr
    assert done.stderr.startswith(f"bnfold: {words}")
    assert done.stderr.count("\n") == 1
    assert time.monotonic() - started < 60
    report = json.loads(Path("report.json").read_text())
    assert (report["exit_code"], report["error"]) == (6, "ResourceLimitError")
    check_nothing_happened(temporary)


def test_verify_and_inspect_have_limits_as_well(temporary: Path) -> None:
    model = save(ENDLESS)
    assert run("verify", model, model, "--timeout", "3").returncode == 6
    assert run("verify", save(GREEDY), model, "--max-memory", "512M").returncode == 6
    assert "0 normalizations" in run("inspect", model, "--max-memory", "512M", "--timeout", "60").stdout
    check_nothing_happened(temporary)


def test_within_its_limits_a_command_does_what_it_does_without(temporary: Path) -> None:
    model = Path(__file__).parents[2] / "models" / "digits_cnn.onnx"
    plain = run("optimize", str(model), "plain.onnx")
    limited = run("optimize", str(model), "limited.onnx", "--timeout", "100", "--max-memory", "2G")
    assert (plain.returncode, limited.returncode) == (0, 0)
    assert limited.stdout.replace("limited", "plain") == plain.stdout
    assert Path("limited.onnx").read_bytes() == Path("plain.onnx").read_bytes()
    missing = run("optimize", "missing.onnx", "out/o.onnx", "--timeout", "100")
    assert missing.returncode == 3
    assert missing.stderr.startswith("bnfold: missing.onnx: cannot read the model")
    assert missing.stderr.count("\n") == 1
    check_nothing_happened(temporary)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--timeout", "0"), ("--timeout", "-1"), ("--timeout", "nan"), ("--timeout", "inf"), ("--timeout", "soon"),
        ("--max-memory", "1M"), ("--max-memory", "2 apples"), ("--max-memory", "-2G"), ("--max-memory", "9999999T"),
    ],
)  # fmt: skip
def test_limits_that_make_no_sense_are_wrong_usage(arguments: tuple[str, str]) -> None:
    result = CliRunner().invoke(main, ["optimize", "in.onnx", "out/o.onnx", *arguments])
    assert result.exit_code == 2
    assert arguments[0] in result.stderr


@pytest.mark.parametrize("limit", [[], ["--timeout", "100"]])
@pytest.mark.parametrize(
    ("number", "code", "words"),
    [
        (signal.SIGTERM, 143, "stopped by SIGTERM"),
        (signal.SIGHUP, 129, "stopped by SIGHUP"),
        (signal.SIGINT, 130, "interrupted"),
    ],
)
def test_a_signal_while_onnxruntime_runs_without_end_leaves_nothing(
    number: signal.Signals, code: int, words: str, limit: list[str], temporary: Path
) -> None:
    save(ENDLESS)
    command = [*MODULE, "optimize", "in.onnx", "out/o.onnx", *limit]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as process:
        deadline = time.monotonic() + 60
        while len(list(Path("out").iterdir())) < 3 and time.monotonic() < deadline:
            time.sleep(0.02)  # until the result is written and about to be verified
        time.sleep(0.5)
        process.send_signal(number)
        assert process.communicate(timeout=30)[1] == f"bnfold: {words}\n"
    assert process.returncode == code
    check_nothing_happened(temporary)


DEAF = """
    import ctypes, sys, types
    import bnfold
    from bnfold.__main__ import run
    from bnfold.onnxfile import Publication, read

    def optimize(model, output, options):
        with Publication(output) as publication:
            publication.write(read(model), untouched=False)
            {act}

    sys.modules["bnfold.api"] = bnfold.api = types.SimpleNamespace(optimize_with=optimize)
    sys.argv = ["bnfold", "optimize", "in.onnx", "out/o.onnx", *sys.argv[1:]]
    run()
"""
HANG = "import signal, time; signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals()); time.sleep(60)"


def act(what: str, *limit: str) -> subprocess.CompletedProcess[str]:
    save(ENDLESS)
    program = textwrap.dedent(DEAF).format(act=what)
    return subprocess.run([sys.executable, "-c", program, *limit], capture_output=True, text=True, check=False,
                          env=ENVIRONMENT, timeout=50)  # fmt: skip


def test_a_process_that_does_not_listen_is_killed_and_swept_after(temporary: Path) -> None:
    done = act(HANG, "--timeout", "2")
    assert (done.returncode, done.stderr.count("\n")) == (6, 1), done.stderr
    assert "took longer than" in done.stderr
    check_nothing_happened(temporary)


CRASHES = [
    ("ctypes.string_at(0)", ["--timeout", "50"], 3, "crash (SIGSEGV)"),
    ("import os; os.abort()", ["--max-memory", "1G"], 6, "SIGABRT, most likely for lack of memory"),
    ("import os; os.kill(os.getpid(), 9)", ["--timeout", "50"], 6, "SIGKILL, most likely for lack of memory"),
]


@pytest.mark.parametrize(("what", "limit", "code", "words"), CRASHES)
def test_a_crash_of_native_code_is_one_line_and_swept_after(
    what: str, limit: list[str], code: int, words: str, temporary: Path
) -> None:
    done = act(what, *limit)
    assert done.returncode == code, done.stderr
    assert words in done.stderr.splitlines()[-1]
    check_nothing_happened(temporary)


def test_a_child_does_not_outlive_its_parent(temporary: Path) -> None:
    save(ENDLESS)
    command = [*MODULE, "optimize", "in.onnx", "out/o.onnx", "--timeout", "100"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=ENVIRONMENT) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while not children.read_text():
            time.sleep(0.02)
        child = int(children.read_text())
        time.sleep(0.5)
        process.kill()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{child}/cmdline").exists() and Path(f"/proc/{child}/cmdline").read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert Path("out/o.onnx").read_bytes() == b"old"
    Path("out/o.onnx").unlink()
    assert run("optimize", str(Path(__file__).parents[2] / "models/digits_cnn.onnx"), "out/o.onnx").returncode == 0
    assert [path.name for path in Path("out").iterdir()] == ["o.onnx"]
    assert len(left_in(temporary)) <= 1  # the parent's own empty folder
