"""Every hostile model gets its answer: an exit code, one line, and nothing on the disk but what belongs there."""

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner

from bnfold.cli import main
from bnfold.onnxfile import read
from tests.hostile_models import TABLE

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
SECONDS, KIBIBYTES = 10, 500 << 10
ADVICE = re.compile(
    r"again|first|\?( \(see [^)]*\))?$|rename|upgrade|fetch|pass a|put the|give each|copy|keep one|inline|download|"
    "load it into",
    re.MULTILINE,
)
# In a process of its own, measured: what differs in kind.
SAMPLE = [
    "noise", "3,000 bodies deep", "long cycle", "functions like a billion laughs", "a terabyte announced",
    "data in a fifo", "data 2^60 long", "variance NaN", "names that draw on the terminal", "a name of a megabyte",
    "a constant doubled 60 times", "a constant of 2^40 zeros", "50,000 Identities", "a trillion ways",
    "2,000 bodies side by side", "12 bodies deep and broad",
]  # fmt: skip


def contents(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted(folder.rglob("*")):
        is_file = path.is_file() and not path.is_symlink()
        found[path.relative_to(folder).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest() if is_file else ""
    return found


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    for name in ("in", "out", "temporary"):
        (tmp_path / name).mkdir()
    (tmp_path / "out" / "o.onnx").write_bytes(b"old")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "in", tmp_path / "out"


def arguments(name: str) -> list[str]:
    return ["optimize", "in/in.onnx", "out/o.onnx", "--report", "report.json", *TABLE[name].options]


def check(name: str, exit_code: int, stderr: str, out: Path) -> None:
    hostile = TABLE[name]
    assert exit_code == hostile.code, stderr
    assert [path.name for path in out.iterdir()] == ["o.onnx"]
    report = json.loads(Path("report.json").read_text())
    assert report["exit_code"] == exit_code
    if exit_code:
        assert stderr.startswith("bnfold: ")
        assert stderr.count("\n") == 1
        assert stderr.rstrip("\n").isprintable()
        assert hostile.words in stderr
        assert "in.onnx" in stderr
        assert len(stderr) < 2500
        assert hostile.code == 1 or ADVICE.search(stderr), stderr
        assert (out / "o.onnx").read_bytes() == b"old"
        return
    assert stderr == ""
    onnx.load(out / "o.onnx", load_external_data=False)
    if hostile.reason:
        decision = next(each for each in report["decisions"] if each["node"] == "bn")
        assert (decision["action"], decision["reason"]["code"]) == ("kept", hostile.reason)
        assert next(each for each in report["decisions"] if each["node"] == "sound")["action"] == "folded"


@pytest.mark.parametrize("name", TABLE)
def test_a_hostile_model_gets_its_answer(name: str, folders: tuple[Path, Path]) -> None:
    source, out = folders
    TABLE[name].make(source)
    before = contents(source)
    started = time.process_time()
    result = CliRunner().invoke(main, arguments(name))
    assert time.process_time() - started < SECONDS
    check(name, result.exit_code, result.stderr, out)
    assert contents(source) == before


# The peak memory of a process counts what it was forked from, and pytest is large by now: a small process in between.
MEASURE = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
print(code, usage.ru_utime + usage.ru_stime, usage.ru_maxrss)
"""


@pytest.mark.parametrize("name", SAMPLE)
def test_a_process_stays_small_and_quick_on_a_hostile_model(name: str, folders: tuple[Path, Path]) -> None:
    source, out = folders
    TABLE[name].make(source)
    before = contents(source)
    command = [sys.executable, "-m", "bnfold", *arguments(name)]
    measured = subprocess.run(
        [sys.executable, "-c", MEASURE, *command], capture_output=True, text=True, env=ENVIRONMENT, check=True
    )
    code, seconds, kibibytes = measured.stdout.split()
    check(name, int(code), measured.stderr, out)
    assert contents(source) == before
    assert float(seconds) < SECONDS
    assert int(kibibytes) < KIBIBYTES


def test_the_table_is_as_long_as_it_should_be() -> None:
    assert len(TABLE) >= 60
    assert set(SAMPLE) <= TABLE.keys()
    assert {hostile.code for hostile in TABLE.values()} == {0, 1, 3}


def test_what_is_read_is_still_a_model_for_every_answer_but_a_refusal(folders: tuple[Path, Path]) -> None:
    source, _ = folders
    TABLE["variance NaN"].make(source)
    assert read(source / "in.onnx").proto.graph.node
