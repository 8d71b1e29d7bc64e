"""Recalibration as people run it: the memory that real processes take, Ctrl-C in the middle of the data."""

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.cli.test_processes import ENVIRONMENT, MODULE
from tests.fold_models import Row
from tests.passes.test_freeze_digits import TRAIN, without_statistics

BATCH = (64, 1, 8, 8)
ROOM = 12 << 20
"""Bytes by which the peak of two runs may differ."""
FEW, MANY = 8, 40

# A small process starts each run: on Linux a child's peak counts from that of the process it was forked from.
LAUNCHER = textwrap.dedent(
    """
    import os, subprocess, sys
    with subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL) as child:
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    print(child.returncode, usage.ru_maxrss * 1024)
    """
)


def peak(*arguments: object) -> int:
    """The largest resident memory, in bytes, of a run of bnfold that has to succeed."""
    command = [sys.executable, "-c", LAUNCHER, *MODULE, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=ENVIRONMENT, timeout=300)
    code, memory = map(int, done.stdout.split())
    assert code == 0, done.stderr
    return memory


def script(folder: Path, batches: int) -> str:
    """Batches that are made as they are read, of [64, 1, 8, 8], with labels."""
    (folder / f"data{batches}.py").write_text(
        "import numpy as np\n"
        "def batches():\n"
        f"    for seed in range({batches}):\n"
        f"        yield np.random.default_rng(seed).random({BATCH}, np.float32), np.full(64, seed % 10)\n"
    )
    return f"{folder / f'data{batches}.py'}:batches"


def archive(folder: Path, images: np.ndarray) -> Path:
    np.savez(folder / f"{len(images)}.npz", c=images, labels=np.arange(len(images)) % 4, unused=images)
    return folder / f"{len(images)}.npz"


def compressed(folder: Path, images: np.ndarray) -> Path:
    np.savez_compressed(folder / f"{len(images)}c.npz", c=images)
    return folder / f"{len(images)}c.npz"


def array(folder: Path, images: np.ndarray) -> Path:
    np.save(folder / f"{len(images)}.npy", images)
    return folder / f"{len(images)}.npy"


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    onnx.save(without_statistics(), tmp_path / "in.onnx")
    return tmp_path / "in.onnx"


HOW = {
    "fast": ("--mode", "fast"),
    "exact, in a file": ("--spill-limit", "1M", "--spill", "."),
    "exact, nothing kept": ("--spill-limit", "0"),
}


@pytest.mark.parametrize("how", HOW)
def test_peak_memory_does_not_grow_with_the_number_of_batches(how: str, empty: Path, tmp_path: Path) -> None:
    """Each batch makes 0.7 MiB of values that are measured: nearly twice the room, were they kept."""
    few, many = (
        peak("recalibrate", empty, tmp_path / "o.onnx", *HOW[how], "--data", script(tmp_path, batches))
        for batches in (FEW, MANY)
    )
    print(f"{how}: {few >> 20} MiB for {FEW} batches, {many >> 20} MiB for {MANY}")
    assert many <= few + ROOM


@pytest.mark.parametrize("form", [archive, compressed, array])
def test_peak_memory_does_not_grow_with_the_size_of_a_file(form: object, tmp_path: Path) -> None:
    """A batch of 64 rows is 1 MiB."""
    model = Row("y = BatchNormalization(c, g, h, m, v)", inputs={"c": "float[N,4,32,32]"}, opset=17).model()
    onnx.save(model, tmp_path / "in.onnx")
    generator = np.random.default_rng(0)
    images = [generator.integers(4, size=(64 * batches, 4, 32, 32)).astype(np.float32) for batches in (4, 28)]
    few, many = (
        peak("recalibrate", tmp_path / "in.onnx", tmp_path / "o.onnx", "--data", form(tmp_path, some))  # type: ignore[operator]  # one of the functions above
        for some in images
    )
    print(f"{form}: {few >> 20} MiB for 4 batches, {many >> 20} MiB for 28")
    assert many <= few + ROOM


def test_peak_memory_of_fitting_does_not_grow_either(tmp_path: Path) -> None:
    few, many = (
        peak("optimize", TRAIN, tmp_path / "o.onnx", "--substitute", "group-norm", "--data", script(tmp_path, batches))
        for batches in (FEW, MANY)
    )
    assert many <= few + ROOM


def everything(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


@pytest.mark.parametrize("command", [("recalibrate", "--data"), ("optimize", "--recalibrate")])
def test_ctrl_c_leaves_nothing_behind(command: tuple[str, str], empty: Path, tmp_path: Path) -> None:
    """Data without end, interrupted between two batches; what stood at the output stays."""
    (tmp_path / "temporary").mkdir()
    (tmp_path / "endless.py").write_text(
        "import numpy as np\n"
        "def batches():\n"
        "    while True:\n"
        f"        yield np.random.default_rng(0).random({BATCH}, np.float32)\n"
        "        print('a batch was read', flush=True)\n"
    )
    (tmp_path / "out.onnx").write_bytes(b"the last good one")
    before = everything(tmp_path)
    name, option = command
    arguments = [*MODULE, name, str(empty), str(tmp_path / "out.onnx"), option, f"{tmp_path / 'endless.py'}:batches"]
    environment = ENVIRONMENT | {"TMPDIR": str(tmp_path / "temporary"), "PYTHONDONTWRITEBYTECODE": "1"}
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"a batch was read\n"
        assert everything(tmp_path) > before, "or nothing could have been left behind"
        process.send_signal(signal.SIGINT)
        while process.stdout.readline():
            pass
        assert process.stderr.read() == b"bnfold: interrupted\n"
    assert process.returncode == 130
    assert everything(tmp_path) == before
    assert (tmp_path / "out.onnx").read_bytes() == b"the last good one"
