"""Real failures of real processes: full disks, system calls that fail, SIGKILL at any moment, eight at once.

Whatever happens, the output is the old file or the new one, and the next run leaves nothing else beside it.
"""

import hashlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bnfold.documentation import page_of_exit_code

# Without compiled modules: Python would leave half of one where files may not grow, and every later run read it.
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "PYTHONDONTWRITEBYTECODE": "1"}
COMMAND = [sys.executable, "-m", "bnfold", "optimize", "--no-verify", "in.onnx"]
ELSEWHERE = f"choose another output (see {page_of_exit_code(4)})\n"
SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
static int failing(const char *name) { const char *which = getenv("FAILING"); return which && !strcmp(which, name); }
int fsync(int fd) {
    static int (*real)(int);
    if (failing("fsync")) { errno = EIO; return -1; }
    if (!real) real = dlsym(RTLD_NEXT, "fsync");
    return real(fd);
}
int rename(const char *from, const char *to) {
    static int (*real)(const char *, const char *);
    if (failing("rename")) { errno = EDQUOT; return -1; }
    if (!real) real = dlsym(RTLD_NEXT, "rename");
    return real(from, to);
}
int link(const char *from, const char *to) {
    static int (*real)(const char *, const char *);
    if (failing("link")) { errno = EIO; return -1; }
    if (!real) real = dlsym(RTLD_NEXT, "link");
    return real(from, to);
}
ssize_t pwrite64(int fd, const void *data, size_t count, off_t place) {
    static ssize_t (*real)(int, const void *, size_t, off_t);
    if (failing("pwrite")) { errno = EDQUOT; return -1; }
    if (!real) real = dlsym(RTLD_NEXT, "pwrite64");
    return real(fd, data, count, place);
}
"""


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    save_model("in.onnx")
    Path("out").mkdir()
    Path("out/o.onnx").write_bytes(b"old")
    before = Path("in.onnx").read_bytes(), Path("in.data").read_bytes()
    yield
    assert (Path("in.onnx").read_bytes(), Path("in.data").read_bytes()) == before


def save_model(path: str) -> None:
    """Three megabytes of weights in a data file, a Conv and a BatchNormalization to fold."""
    arrays = {"w": np.ones((512, 512, 3, 1), np.float32)} | {name: np.full(512, 1.5, np.float32) for name in "gbmv"}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("BatchNormalization", ["c", *"gbmv"], ["y"]),
    ]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 512, None, None]) for name in "xy"]
    weights = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path, save_as_external_data=True, location="in.data")


def run(output: str = "out/o.onnx", **options: object) -> subprocess.CompletedProcess[str]:
    given = {"env": ENVIRONMENT} | options
    return subprocess.run([*COMMAND, output], capture_output=True, text=True, check=False, **given)  # type: ignore[call-overload]


def names(folder: str = "out") -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def check_refused(done: subprocess.CompletedProcess[str], words: str) -> None:
    assert done.returncode == 4, done.stderr
    assert words in done.stderr
    assert done.stderr.startswith("bnfold: out/o.onnx: cannot be written: ")
    assert done.stderr.count("\n") == 1
    assert names() == ["o.onnx"]
    assert Path("out/o.onnx").read_bytes() == b"old"


@pytest.mark.parametrize("limit", [0, 1_000, 100_000, 3_000_000])
def test_a_file_size_limit(limit: int) -> None:
    done = run(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    check_refused(done, "File too large")


FAILURES = {
    "fsync": "Input/output error",
    "link": "Input/output error",
    "rename": "Disk quota exceeded; free some space and run again",
    "pwrite": "Disk quota exceeded; free some space and run again",
}


@pytest.mark.parametrize("call", FAILURES)
def test_system_calls_that_fail_below_python(call: str) -> None:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler to make the library that fails")
    Path("shim.c").write_text(SHIM)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", "shim.so", "shim.c", "-ldl"], check=True)
    environment = ENVIRONMENT | {"LD_PRELOAD": str(Path("shim.so").resolve()), "FAILING": call}
    check_refused(run(env=environment), FAILURES[call])
    assert run(env=environment | {"FAILING": ""}).returncode == 0


def test_a_read_only_file_system() -> None:
    with mounted("out", "size=16m"):
        Path("out/o.onnx").write_bytes(b"old")
        subprocess.run(["mount", "-o", "remount,ro", "out"], check=True)
        done = run()
        assert done.returncode == 4
        assert done.stderr == f"bnfold: out/o.onnx: the directory {Path('out').resolve()} is not writable; {ELSEWHERE}"
        assert names() == ["o.onnx"]
        assert Path("out/o.onnx").read_bytes() == b"old"


def test_a_directory_that_vanishes_while_the_output_is_made() -> None:
    """Removed as soon as something hidden appears in it: one line, exit code 4, and nothing comes back."""
    process = subprocess.Popen([*COMMAND, "out/o.onnx"], stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    while len(names()) < 2 and process.poll() is None:
        time.sleep(0.001)
    shutil.rmtree("out", ignore_errors=True)
    message = process.communicate()[1]
    if process.returncode:
        assert process.returncode == 4, message
        assert message.startswith("bnfold: out/o.onnx: cannot be written: ")
        assert message.count("\n") == 1
    assert not Path("out").exists() or not [name for name in names() if name.startswith(".")]


@contextmanager
def mounted(folder: str, options: str) -> Iterator[None]:
    """A small tmpfs. Skips the test where this process may not mount one."""
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", folder], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("this process may not mount a small tmpfs")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk() -> None:
    with mounted("out", "size=2m"):
        Path("out/o.onnx").write_bytes(b"old")
        check_refused(run(), "No space left on device; free some space and run again")


def test_a_device_that_is_always_full() -> None:
    done = run("/dev/full")
    assert (done.returncode, done.stderr) == (4, f"bnfold: /dev/full: is not a regular file; {ELSEWHERE}")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*COMMAND, "out/o.onnx"], stdout=full, stderr=subprocess.PIPE, check=False, env=ENVIRONMENT
        )
    assert done.returncode == 4
    assert Path("out/o.onnx").read_bytes() != b"old"  # published; only the news of it was lost
    assert len(names()) == 2


def digests(folder: str = "out") -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(Path(folder).iterdir())}


MODELS = Path("out"), Path("beside")


def place_models(in_place: Path) -> None:
    """An old output, and a model with its data file that is to be optimized where it is."""
    for folder in MODELS:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    Path("out/o.onnx").write_bytes(b"old")
    shutil.copy("in.onnx", in_place)
    shutil.copy("in.data", in_place.parent)


def interrupt_at_random_moments(counts: dict[signal.Signals, int]) -> Counter[signal.Signals]:
    """Send each signal to so many runs, half of which write over their own input; how many of them it reached."""
    in_place = Path("beside/in.onnx")
    jobs = [["out/o.onnx"], [str(in_place)]]
    started, both = [], []
    for arguments in jobs:
        place_models(in_place)
        before = time.monotonic()
        assert start(arguments).wait() == 0
        started.append(time.monotonic() - before)
        assert start(arguments).wait() == 0
        both.append(names(str(Path(arguments[0]).parent)))
    moments = random.Random(7)
    reached = Counter[signal.Signals]()
    for turn, number in enumerate(Counter(counts).elements()):
        arguments, folder = jobs[turn % 2], MODELS[turn % 2]
        place_models(in_place)
        old = digests(str(folder))
        process = start(arguments)
        time.sleep(started[turn % 2] * moments.uniform(0.4, 1.05))
        process.send_signal(number)
        process.wait()
        reached[number] += process.returncode != 0
        published = digests(str(folder))[Path(arguments[0]).name] != old[Path(arguments[0]).name]
        if published:
            assert loaded(arguments[0]).graph.node[0].op_type == "Conv"  # its data file is there and complete
            assert len(loaded(arguments[0]).graph.node) == 1
        elif folder == in_place.parent:
            assert len(loaded(in_place).graph.node) == 2
        if number is not signal.SIGKILL:
            assert process.returncode in (0, 128 + number, -number)  # the last before anybody listened
            assert digests(str(folder)) == old or (published and not hidden(folder))
        assert start(arguments).wait() == 0
        assert not hidden(folder)
        assert len(loaded(arguments[0]).graph.node) == 1
        assert set(names(str(folder))) <= {*both[turn % 2], "in.data"}
    return reached


def start(arguments: list[str]) -> subprocess.Popen[bytes]:
    source = "in.onnx" if arguments[0].startswith("out/") else arguments[0]
    return subprocess.Popen(
        [*COMMAND[:-1], source, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=ENVIRONMENT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where a shell started this behind it
    )


def loaded(path: str | Path) -> onnx.ModelProto:
    """The model with its weights, as anybody would load it."""
    return onnx.load(path)


def hidden(folder: Path) -> list[str]:
    return [name for name in names(str(folder)) if name.startswith(".")]


@pytest.mark.timeout(300)
def test_a_signal_at_random_moments() -> None:
    """Each to a run that writes elsewhere and to one that writes over its input; the soak below does it by hundreds."""
    interrupt_at_random_moments({signal.SIGKILL: 3, signal.SIGTERM: 1, signal.SIGINT: 1})


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_signal_at_two_hundred_random_moments(number: signal.Signals) -> None:
    """`pytest -m soak -rA tests/test_broken_machines.py` tells how many of them the signal reached at work."""
    reached = interrupt_at_random_moments({number: 200})[number]
    print(f"{number.name} reached {reached} of 200 runs")
    assert reached >= 50


def test_eight_processes_on_one_output() -> None:
    processes = [
        subprocess.Popen([*COMMAND, "out/o.onnx"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                         env=ENVIRONMENT)
        for _ in range(8)
    ]  # fmt: skip
    answers = [(process.communicate()[1], process.returncode) for process in processes]
    assert {code for _, code in answers} <= {0, 4}
    assert 0 in {code for _, code in answers}
    for message, code in answers:
        if code:
            assert "o.onnx: is being written by another bnfold; wait for it, or choose another output" in message
            assert message.count("\n") == 1
    assert len(onnx.load("out/o.onnx").graph.node) == 1
    assert len(names()) == 2
