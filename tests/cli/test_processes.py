"""bnfold as people run it: real processes, real models, pipes, full disks and Ctrl-C."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import bnfold
from bnfold.documentation import page_of_exit_code

REPOSITORY = Path(__file__).parents[2]
MODEL = REPOSITORY / "models/digits_cnn.onnx"
SCRIPT = shutil.which("bnfold", path=str(Path(sys.executable).parent))

MODULE = [sys.executable, "-m", "bnfold"]
ENTRIES = [
    pytest.param(MODULE, id="python -m bnfold"),
    pytest.param(
        [SCRIPT or "bnfold"],
        id="bnfold",
        marks=pytest.mark.skipif(SCRIPT is None, reason="bnfold is not installed beside this interpreter"),
    ),
]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(REPOSITORY), "COLUMNS": "80", "NO_COLOR": "1"}


def run(*command: str, **options: str) -> subprocess.CompletedProcess[str]:
    environment = ENVIRONMENT | options
    encoding = options.get("PYTHONIOENCODING", "utf-8")
    return subprocess.run(command, capture_output=True, encoding=encoding, check=False, env=environment, timeout=300)


@pytest.mark.parametrize("entry", ENTRIES)
def test_both_entry_points_answer(entry: list[str]) -> None:
    assert run(*entry, "--version").stdout == f"bnfold {bnfold.__version__}\n"
    assert "optimize" in run(*entry, "--help").stdout


LEFT_BY_A_SESSION = """
import numpy as np
from bnfold.process import give_back_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20

{call}
first = np.ones(24 << 20, np.uint8)
del first                                   # glibc now keeps blocks of up to 24 MiB
before = resident()
second = np.ones(20 << 20, np.uint8)
on_top = [bytes(1000) for _ in range(1000)]
del second
print(resident() - before)
"""


FREED = """
import resource
import numpy as np
from bnfold.process import give_back_memory, reuse_memory, trim

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20

give_back_memory()
{call}
before = resident()
for _ in range(20):
    block = np.ones(2 << 20, np.uint8)
    del block
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    block = np.ones(2 << 20, np.uint8)
    del block
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
block = np.ones(16 << 20, np.uint8)
del block
trim(64 << 20)
kept = resident() - before
trim()
print(faults, resident() - before, kept)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_freed_memory_is_used_again_until_it_is_given_back() -> None:
    cleared, reused = (
        [float(each) for each in run(sys.executable, "-c", FREED.format(call=call)).stdout.split()]
        for call in ("", "reuse_memory()")
    )
    if cleared[0] < 8_000:
        pytest.skip("this C library or this system gives memory otherwise")
    assert reused[0] < 1_000
    assert reused[1] < 4
    assert reused[2] > 12  # 16 MiB, which are not much


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_weights_of_one_session_are_gone_when_the_next_is_open() -> None:
    kept, returned = (
        float(run(sys.executable, "-c", LEFT_BY_A_SESSION.format(call=call)).stdout)
        for call in ("", "give_back_memory()")
    )
    if kept < 15:
        pytest.skip("this C library does not keep what is freed")
    assert returned < 5


@pytest.mark.parametrize("entry", ENTRIES)
def test_optimize_inspect_verify_on_a_real_model(entry: list[str], tmp_path: Path) -> None:
    output, report = tmp_path / "folded.onnx", tmp_path / "report.json"
    before = MODEL.read_bytes()
    done = run(*entry, "optimize", str(MODEL), str(output), "--report", str(report))
    assert (done.returncode, done.stderr) == (0, "")
    assert "\nequivalent: " in done.stdout
    assert f"\nwritten: {output}\n" in done.stdout
    content = json.loads(report.read_text())
    assert (content["verdict"], content["exit_code"], content["published"]) == ("equivalent", 0, str(output))
    assert content["input"]["batch_normalizations"] == len(content["decisions"])
    assert content["output"]["batch_normalizations"] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folded.onnx", "report.json"]
    assert MODEL.read_bytes() == before

    verified = run(*entry, "verify", str(MODEL), str(output))
    assert (verified.returncode, verified.stderr) == (0, "")
    assert verified.stdout.startswith("equivalent: ")

    inspected = json.loads(run(*entry, "inspect", "--json", str(MODEL)).stdout)
    assert len(inspected["normalizations"]) == inspected["model"]["batch_normalizations"] > 0
    assert {info["decision"]["action"] for info in inspected["normalizations"]} == {"folded"}
    assert json.loads(run(*entry, "inspect", "--json", str(output)).stdout)["normalizations"] == []


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"", "empty"), (b"this is not a model, only text\n", ""), (MODEL.read_bytes()[:20_000], ""), (None, "")],
    ids=["empty", "text", "truncated", "missing"],
)
def test_what_is_no_model_is_one_line_and_exit_3(tmp_path: Path, content: bytes | None, says: str) -> None:
    broken = tmp_path / "broken.onnx"
    if content is not None:
        broken.write_bytes(content)
    for command in (["optimize", str(broken), str(tmp_path / "out.onnx")], ["inspect", str(broken)]):
        done = run(*MODULE, *command)
        assert (done.returncode, done.stdout) == (3, "")
        assert done.stderr.count("\n") == 1
        assert done.stderr.startswith("bnfold: ")
        assert str(broken) in done.stderr
        assert says in done.stderr
        assert "Traceback (most recent call last)" in run(*MODULE, *command, "-vv").stderr
    assert list(tmp_path.iterdir()) == ([broken] if content is not None else [])


def test_a_folder_that_does_not_exist_is_exit_4(tmp_path: Path) -> None:
    done = run(*MODULE, "optimize", str(MODEL), str(tmp_path / "missing" / "out.onnx"))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (4, "", 1)
    assert list(tmp_path.iterdir()) == []


def test_a_mismatch_is_exit_1_and_leaves_nothing(tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    output.write_bytes(b"the last good one")
    done = run(*MODULE, "optimize", str(MODEL), str(output), "--rtol", "0", "--atol", "0", "--report", "-")
    assert done.returncode == 1
    assert json.loads(done.stdout)["verdict"] == "not-equivalent"
    assert done.stderr.startswith("bnfold: ")
    assert done.stderr.count("\n") == 1
    assert output.read_bytes() == b"the last good one"
    assert list(tmp_path.iterdir()) == [output]


WITHOUT_ONNXRUNTIME = "import sys; sys.modules['onnxruntime'] = None; from bnfold.cli import main; main(sys.argv[1:])"


def test_without_onnxruntime_it_says_what_to_install(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_ONNXRUNTIME, "optimize", str(MODEL), str(tmp_path / "out.onnx")]
    done = run(*command)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "bnfold[cpu]" in done.stderr
    assert "--no-verify" in done.stderr
    assert list(tmp_path.iterdir()) == []

    unverified = run(*command, "--no-verify")
    assert (unverified.returncode, unverified.stderr) == (0, "")
    assert "\nnot-verified\n" in unverified.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["out.onnx"]


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    done = run(*MODULE, "optimize", str(MODEL), str(tmp_path / "out.onnx"), "--dry-run")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("\nnothing was written: this was a dry run\n")
    assert list(tmp_path.iterdir()) == []


def test_keep_failed_writes_under_another_name(tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    done = run(*MODULE, "optimize", str(MODEL), str(output), "--rtol", "0", "--atol", "0", "--keep-failed", "-q")
    assert (done.returncode, done.stdout) == (1, "")
    assert [path.name for path in tmp_path.iterdir()] == ["out.failed.onnx"]


def test_a_reader_that_goes_away_is_no_failure(tmp_path: Path) -> None:
    command = [*MODULE, "optimize", str(MODEL), str(tmp_path / "out.onnx"), "-v"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0
    assert (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize("arguments", [["--help"], ["optimize", "--help"], ["inspect", str(MODEL)]])
def test_a_full_disk_under_standard_output_is_exit_4(arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*MODULE, *arguments], stdout=full, stderr=subprocess.PIPE, check=False, env=ENVIRONMENT)
    assert done.returncode == 4
    assert done.stderr.startswith(b"bnfold: ")
    assert done.stderr.endswith(f"No space left on device (see {page_of_exit_code(4)})\n".encode())
    assert done.stderr.count(b"\n") == 1


def test_a_terminal_that_cannot_show_a_letter_gets_an_escape(tmp_path: Path) -> None:
    missing = tmp_path / "łódź.onnx"
    done = run(*MODULE, "inspect", str(missing), PYTHONIOENCODING="latin-1")
    assert done.returncode == 3
    assert r"\u0142ód\u017a.onnx" in done.stderr


def test_ctrl_c_is_exit_130_and_one_line() -> None:
    program = textwrap.dedent(
        """
        import sys, time, types
        import bnfold
        from bnfold.cli import main

        def optimize(*args, **kwargs):
            print("working", flush=True)
            time.sleep(60)

        sys.modules["bnfold.api"] = bnfold.api = types.SimpleNamespace(optimize_with=optimize)
        main(["optimize", "in.onnx", "out.onnx"])
        """
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"working\n"
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == b"bnfold: interrupted\n"
    assert process.returncode == 130


def test_ctrl_c_during_the_first_imports_is_no_traceback() -> None:
    program = textwrap.dedent(
        """
        import sys
        import bnfold.__main__

        class Interrupt:
            def find_spec(self, name, *args):
                if name == "click":
                    raise KeyboardInterrupt

        sys.meta_path.insert(0, Interrupt())
        bnfold.__main__.run()
        """
    )
    done = run(sys.executable, "-c", program)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "bnfold: interrupted\n")


@pytest.mark.skipif(SCRIPT is None, reason="bnfold is not installed beside this interpreter")
def test_the_shell_completes_commands_and_options() -> None:
    assert "_BNFOLD_COMPLETE" in run(str(SCRIPT), _BNFOLD_COMPLETE="bash_source").stdout
    commands = run(str(SCRIPT), _BNFOLD_COMPLETE="bash_complete", COMP_WORDS="bnfold ", COMP_CWORD="1").stdout
    assert "plain,optimize" in commands
    options = run(str(SCRIPT), _BNFOLD_COMPLETE="bash_complete", COMP_WORDS="bnfold verify --r", COMP_CWORD="2").stdout
    assert "plain,--report" in options


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize("ending", ["time.sleep(0.1); print('whole', flush=True)", "while True: pass"])
def test_a_signal_waits_for_the_end_of_an_import_but_not_for_ever(
    tmp_path: Path, number: signal.Signals, ending: str
) -> None:
    """In the middle of one Python wraps it in a RuntimeError, and extension modules abort."""
    (tmp_path / "slow.py").write_text(f"import os, time\nos.kill(os.getpid(), {number.value})\n{ending}\n")
    code = (
        "from bnfold import signals\nimport signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "signals._MOST_OFTEN = 100\nsignals.listen()\ntry:\n    import slow\n    import time\n"
        # What comes just before a system call is handled when that returns: many short ones.
        "    for _ in range(600): time.sleep(0.1)\n"
        "except KeyboardInterrupt as interrupt: print(type(interrupt).__name__)"
    )
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{REPOSITORY}"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=50
    )
    raised = "KeyboardInterrupt" if number == signal.SIGINT else "Terminated"
    assert done.stdout.split() == (["whole", raised] if "whole" in ending else [raised])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize(
    "dropping",
    [
        pytest.param("class Dying:\n    __del__ = send\nDying()\n", id="destructor"),
        pytest.param(
            "class Dying: ...\ndying = Dying()\nwatch = weakref.ref(dying, send)\ndel dying\n", id="weak reference"
        ),
        pytest.param("gc.callbacks.append(send)\ngc.collect()\n", id="collection"),
    ],
)
def test_a_signal_that_python_drops_is_not_lost(number: signal.Signals, dropping: str) -> None:
    """What destructors and callbacks raise is printed, `Exception ignored in`, and gone."""
    code = (
        "from bnfold import signals\nimport gc, signal, sys, time, weakref\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\nsignals.listen()\n"
        "def send(*_):\n"
        "    gc.callbacks.clear()\n"
        f"    signal.raise_signal({number.value})\n"
        "    for _ in range(1000): pass\n"  # the handler has run by then
        "    print('not raised')\n"
        f"try:\n{textwrap.indent(dropping, '    ')}"
        "    print('dropped', flush=True)\n"
        "    for _ in range(600): time.sleep(0.1)\n"
        "except KeyboardInterrupt as interrupt: print(*signals.farewell(interrupt))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=50)
    said = "interrupted" if number == signal.SIGINT else f"stopped by {number.name}"
    assert done.stdout.splitlines() == ["dropped", f"{said} {128 + number}"]
    assert done.stderr == ""


def test_what_python_drops_besides_is_said_as_ever() -> None:
    code = "from bnfold import signals\nsignals.listen()\nclass Dying:\n    def __del__(self): 1 / 0\nDying()\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=50)
    assert "ZeroDivisionError" in done.stderr
