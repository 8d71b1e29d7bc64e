"""Whatever environment a process is started in: the output depends on the model alone, and the exit code is told."""

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx
import pytest

from bnfold.documentation import page_of_exit_code
from tests.fold_models import Row

REPOSITORY = Path(__file__).parents[1]
MODEL = Row("c = Conv(x, w, b) y = BatchNormalization(c, g, h, m, v)").model()
BARE = {"PYTHONPATH": str(REPOSITORY)}


@dataclass(frozen=True)
class Environment:
    """How the command is started: the shell words around it, Python's flags, its variables, and its file names."""

    around: str = '"$@"'
    flags: Sequence[str] = ()
    variables: Mapping[str, str] = field(default_factory=lambda: {**os.environ, **BARE})
    name: str = "in.onnx"
    says: bool = True
    mode: int | None = None


ENVIRONMENTS = {
    "as ever": Environment(),
    "no variables at all": Environment(variables=BARE),
    "no home": Environment(variables={**os.environ, **BARE, "HOME": "/nowhere/at/all"}),
    "standard input closed": Environment('"$@" 0<&-'),
    "standard output closed": Environment('"$@" 1>&-', says=False),
    "standard error closed": Environment('"$@" 2>&-'),
    "output and error closed": Environment('"$@" 1>&- 2>&-', says=False),
    "all three closed": Environment('"$@" 0<&- 1>&- 2>&-', says=False),
    "working directory gone": Environment('mkdir gone; cd gone; rmdir ../gone; "$@"'),
    "locale C, a name that is not ASCII": Environment(
        variables={**BARE, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}, name="modèle µ.onnx"
    ),
    "warnings are errors": Environment(flags=("-W", "error")),
    "without assertions and docstrings": Environment(flags=("-OO",)),
    "umask of the generous": Environment('umask 000; "$@"', mode=0o666),
    "umask of the careful": Environment('umask 077; "$@"', mode=0o600),
    "standard error full": Environment('"$@" 2>/dev/full'),
}


def start(environment: Environment, folder: Path, *words: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, *environment.flags, "-m", "bnfold", *words]
    return subprocess.run(["/bin/sh", "-c", environment.around, "sh", *command], cwd=folder, capture_output=True,
                          check=False, env=environment.variables, timeout=300)  # fmt: skip


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What the output is in an ordinary environment."""
    import bnfold

    folder = tmp_path_factory.mktemp("expected")
    onnx.save(MODEL, folder / "in.onnx")
    bnfold.optimize(folder / "in.onnx", folder / "out.onnx")
    return (folder / "out.onnx").read_bytes()


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_the_output_is_the_same_in_every_environment(name: str, expected: bytes, tmp_path: Path) -> None:
    environment = ENVIRONMENTS[name]
    (tmp_path / environment.name).write_bytes(MODEL.SerializeToString())
    made = tmp_path / "out" / environment.name
    made.parent.mkdir()
    done = start(environment, tmp_path, "optimize", str(tmp_path / environment.name), str(made))
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""
    assert made.read_bytes() == expected
    assert (b"written: " in done.stdout) == environment.says
    assert [path.name for path in made.parent.iterdir()] == [made.name]
    if environment.mode is not None:
        assert stat.S_IMODE(made.stat().st_mode) == environment.mode


BAD = ["all three closed", "standard error closed", "no variables at all", "without assertions and docstrings",
       "warnings are errors", "locale C, a name that is not ASCII", "standard error full"]  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_the_exit_code_tells_where_nobody_can_be_told(name: str, tmp_path: Path) -> None:
    environment = ENVIRONMENTS[name]
    (tmp_path / environment.name).write_bytes(b"this is no model")
    done = start(environment, tmp_path, "inspect", str(tmp_path / environment.name))
    assert done.returncode == 3
    assert done.stderr.count(b"\n") == (0 if "closed" in name or "full" in name else 1)


def test_a_relative_path_where_the_working_directory_is_gone_is_one_line(tmp_path: Path) -> None:
    done = start(ENVIRONMENTS["working directory gone"], tmp_path, "optimize", "in.onnx", "out.onnx")
    assert done.returncode in (3, 4)
    assert done.stderr.count(b"\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device")
def test_standard_output_that_is_full_is_said_and_the_model_is_published(tmp_path: Path, expected: bytes) -> None:
    (tmp_path / "in.onnx").write_bytes(MODEL.SerializeToString())
    done = start(Environment('"$@" >/dev/full'), tmp_path, "optimize", "in.onnx", "out.onnx")
    assert (done.returncode, done.stdout) == (4, b"")
    told = f"bnfold: cannot write to standard output: No space left on device (see {page_of_exit_code(4)})\n"
    assert done.stderr == told.encode()
    assert (tmp_path / "out.onnx").read_bytes() == expected


@pytest.mark.skipif(shutil.which("setsid") is None, reason="there is no setsid")
def test_without_a_terminal(tmp_path: Path, expected: bytes) -> None:
    (tmp_path / "in.onnx").write_bytes(MODEL.SerializeToString())
    done = start(Environment('exec setsid -w "$@"'), tmp_path, "optimize", "in.onnx", "out.onnx")
    assert done.returncode == 0
    assert (tmp_path / "out.onnx").read_bytes() == expected
