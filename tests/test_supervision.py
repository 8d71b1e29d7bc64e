"""Two processes: the one that waits says what became of the one that works, and leaves nothing of it."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import onnx
import pytest

from tests.cli.test_processes import ENVIRONMENT, MODULE
from tests.cli.test_processes import MODEL as DIGITS

REPOSITORY = Path(__file__).parents[1]

# A command whose runtime does what the test says, at the first feed.
DYING = """
    import ctypes, os, signal, sys, time
    from bnfold.equivalence.runtime import sessions
    from bnfold.__main__ import run

    def dying(self, feed):
        {act}

    sessions.Session.run = dying
    sys.argv = ["bnfold", *sys.argv[1:]]
    run()
"""
CRASH = "os.kill(os.getpid(), signal.{name}); time.sleep(60)"


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("temporary", "out"):
        (tmp_path / name).mkdir()
    monkeypatch.setitem(ENVIRONMENT, "TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.chdir(tmp_path)
    Path("in.onnx").write_bytes(DIGITS.read_bytes())
    Path("out/o.onnx").write_bytes(b"old")
    return tmp_path / "temporary"


def check_nothing_is_left(temporary: Path) -> None:
    assert [path.name for path in Path("out").iterdir()] == ["o.onnx"]
    assert Path("out/o.onnx").read_bytes() == b"old"
    assert list(temporary.iterdir()) == []


def act(what: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = textwrap.dedent(DYING).format(act=what)
    return subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False,
                          env=ENVIRONMENT, timeout=120)  # fmt: skip


DOING = "while it was running in.onnx in onnxruntime (cpu, optimization off), feed batch1-"
DEATHS = {
    "SIGFPE": (3, f"bnfold: in.onnx: makes onnx or onnxruntime crash (SIGFPE) {DOING}"),
    "SIGSEGV": (3, f"bnfold: in.onnx: makes onnx or onnxruntime crash (SIGSEGV) {DOING}"),
    "SIGKILL": (6, f"bnfold: in.onnx: was stopped by SIGKILL {DOING}"),
}


@pytest.mark.parametrize("name", DEATHS)
def test_a_runtime_that_dies_is_one_line_a_report_and_nothing_else(name: str, temporary: Path) -> None:
    code, words = DEATHS[name]
    done = act(CRASH.format(name=name), "optimize", "in.onnx", "out/o.onnx", "--report", "r.json")
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith(words)
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert json.loads(Path("r.json").read_text())["exit_code"] == code
    check_nothing_is_left(temporary)


def test_verify_says_so_as_well(temporary: Path) -> None:
    done = act(CRASH.format(name="SIGABRT"), "verify", "in.onnx", "in.onnx")
    assert done.returncode == 3
    assert done.stderr.startswith("bnfold: in.onnx: makes onnx or onnxruntime crash (SIGABRT)")
    check_nothing_is_left(temporary)


def test_memory_that_is_limited_from_outside_is_named(temporary: Path) -> None:
    limited = "import resource; resource.setrlimit(resource.RLIMIT_DATA, (1 << 40, resource.RLIM_INFINITY))"
    program = textwrap.dedent(DYING).format(act=CRASH.format(name="SIGABRT"))
    done = subprocess.run([sys.executable, "-c", f"{limited}\n{program}", "optimize", "in.onnx", "out/o.onnx"],
                          capture_output=True, text=True, check=False, env=ENVIRONMENT, timeout=120)  # fmt: skip
    assert (done.returncode, "most likely for lack of memory" in done.stderr) == (6, True)
    check_nothing_is_left(temporary)


def test_a_signal_that_is_nobodys_fault_is_passed_to_whoever_waits(temporary: Path) -> None:
    """As Ctrl-backslash would have ended a single process."""
    done = act(CRASH.format(name="SIGQUIT"), "verify", "in.onnx", "in.onnx")
    assert (done.returncode, done.stderr) == (-signal.SIGQUIT, "")
    assert list(temporary.iterdir()) == []


def test_the_parent_imports_next_to_nothing() -> None:
    program = (
        f"import sys; sys.path.insert(0, {str(REPOSITORY)!r})\n"
        "import bnfold.__main__ as entry; from bnfold import streams, supervision; streams.repair()\n"
        "supervision.split = lambda: print(*sorted(sys.modules)) or supervision.End(0, 0, False, '', '')\n"
        "sys.stdout.flush()\nimport os; os._exit = sys.exit\nentry.run()"
    )
    done = subprocess.run([sys.executable, "-I", "-c", program],
                          capture_output=True, text=True, check=True)  # fmt: skip
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "bnfold" in loaded
    assert not loaded & {"onnx", "onnxruntime", "numpy", "google", "click", "rich", "tempfile", "asyncio", "ctypes"}


SLEEPING = "print('at work', flush=True); time.sleep(600)"


def started(what: str = SLEEPING, *, group: bool = False, beside: bool = False) -> subprocess.Popen[bytes]:
    """`group`: in a session of its own. `beside`: in a group of its own, in the session of these tests."""
    program = textwrap.dedent(DYING).format(act=what)
    process = subprocess.Popen([sys.executable, "-c", program, "optimize", "in.onnx", "out/o.onnx"], env=ENVIRONMENT,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=group,
                               process_group=0 if beside else None)  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == b"at work\n"
    return process


SIGNALS = [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "stopped by SIGTERM"),
           (signal.SIGHUP, 129, "stopped by SIGHUP")]  # fmt: skip


@pytest.mark.parametrize("whole_group", [False, True])
@pytest.mark.parametrize(("number", "code", "words"), SIGNALS)
def test_signals_reach_the_child_once(
    number: signal.Signals, code: int, words: str, whole_group: bool, temporary: Path
) -> None:
    """To the parent alone, as `kill` does, or to both, as a terminal and `timeout` do."""
    with started(group=True) as process:
        (os.killpg if whole_group else os.kill)(process.pid, number)
        assert process.communicate(timeout=60)[1].decode() == f"bnfold: {words}\n"
    assert process.returncode == code
    check_nothing_is_left(temporary)


def state_of(number: int) -> str:
    return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]


def wait_for(state: str, number: int) -> None:
    deadline = time.monotonic() + 60
    while state_of(number) not in state:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_both_stop_and_go_on_together(temporary: Path) -> None:
    """In a group whose parent is in another one of the same session, as under a shell: the kernel stops no orphans."""
    with started(beside=True) as process:
        child = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())
        process.send_signal(signal.SIGTSTP)
        wait_for("T", process.pid)
        wait_for("T", child)
        process.send_signal(signal.SIGCONT)
        wait_for("SR", child)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 143
    check_nothing_is_left(temporary)


def at_a_terminal(act_on: str, *, patience: int = 0) -> tuple[int, str]:
    """A command whose standard streams are a terminal: what it ends with and what is to be seen there.

    By default it shows its bars from the beginning, as where the work takes long.
    """
    program = textwrap.dedent(DYING).format(act=SLEEPING)
    program = f"import bnfold.cli.waiting\nbnfold.cli.waiting.PATIENCE = {patience}\n{program}"
    child, terminal = pty.fork()
    if child == 0:
        os.execve(sys.executable, [sys.executable, "-c", program, "optimize", "in.onnx", "out/o.onnx"], ENVIRONMENT)
    seen = b""
    deadline = time.monotonic() + 60
    while b"at work" not in seen and time.monotonic() < deadline:
        if select.select([terminal], [], [], 1)[0]:
            seen += os.read(terminal, 4096)
    if act_on == "hang up":
        os.close(terminal)
    else:
        os.write(terminal, b"\x03")
        while time.monotonic() < deadline:
            try:
                piece = os.read(terminal, 4096)
            except OSError:  # nobody has it open any more
                break
            seen += piece
        os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), seen.decode()


@pytest.mark.parametrize("patience", [0, 1000])
def test_ctrl_c_at_a_terminal_is_one_line(patience: int, temporary: Path) -> None:
    code, seen = at_a_terminal("ctrl-c", patience=patience)
    assert code == 130
    assert seen.count("bnfold: interrupted") == 1
    check_nothing_is_left(temporary)


# The kernel may give a signal to any thread; Python's handlers run in the main one, when that comes back from its call.
ELSEWHERE = (
    "import threading; threading.Thread(target=time.sleep, args=(600,), daemon=True).start();"
    " signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP});"
    f" import atexit; atexit.register(open, 'unwound', 'w'); {SLEEPING}"
)


@pytest.mark.parametrize(("number", "code", "words"), SIGNALS)
def test_a_signal_that_does_not_end_the_call_that_waits_is_heard(
    number: signal.Signals, code: int, words: str, temporary: Path
) -> None:
    with started(ELSEWHERE, group=True) as process:
        process.send_signal(number)
        assert process.communicate(timeout=60)[1].decode() == f"bnfold: {words}\n"
    assert process.returncode == code
    assert Path("unwound").exists()
    check_nothing_is_left(temporary)


DEAF = f"signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals()); {SLEEPING}"


@pytest.mark.parametrize(("number", "code", "words"), SIGNALS)
def test_a_child_that_hears_nothing_is_ended(number: signal.Signals, code: int, words: str, temporary: Path) -> None:
    """As while native code computes in the main thread."""
    with started(DEAF, group=True) as process:
        process.send_signal(number)
        assert process.communicate(timeout=120)[1].decode() == f"bnfold: {words}\n"
    assert process.returncode == code
    check_nothing_is_left(temporary)


def test_a_terminal_that_goes_away(temporary: Path) -> None:
    assert at_a_terminal("hang up")[0] == 129
    check_nothing_is_left(temporary)


def test_within_it_a_model_is_optimized_as_ever() -> None:
    done = subprocess.run([*MODULE, "optimize", "in.onnx", "out/o.onnx"], input="unread",
                          capture_output=True, text=True, check=False, env=ENVIRONMENT)  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert len(onnx.load("out/o.onnx").graph.node) < len(onnx.load("in.onnx").graph.node)
