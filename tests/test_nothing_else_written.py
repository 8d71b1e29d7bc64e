"""In a new account nothing appears but what was asked for: no identifier, no database, no cache, no temporary file."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.test_pytest_plugin import INSTALLED

REPOSITORY = Path(__file__).parents[1]
BNFOLD = [sys.executable, "-m", "bnfold"]
LIBRARY = [sys.executable, "-c"]
PYTEST = [sys.executable, "-B", "-m", "pytest", "-q", "-p", "no:cacheprovider"]
PLUGIN = [] if INSTALLED else ["-p", "bnfold.pytest_plugin"]

ASKED = {
    "optimize": (
        [*BNFOLD, "optimize", "in.onnx", "out.onnx", "--proof", "--report", "r.json", "--report", "r.html"],
        {"out.onnx", "r.json", "r.html"},
    ),
    "verify": ([*BNFOLD, "verify", "in.onnx", "in.onnx", "--layers", "--report", "r.json"], {"r.json"}),
    "recalibrate": ([*BNFOLD, "recalibrate", "in.onnx", "out.onnx", "--data", "data.npz"], {"out.onnx"}),
    "with a limit": ([*BNFOLD, "optimize", "in.onnx", "out.onnx", "--timeout", "300"], {"out.onnx"}),
    "the library": ([*LIBRARY, "import bnfold; bnfold.optimize('in.onnx', 'out.onnx')"], {"out.onnx"}),
    "the library, isolated": (
        [*LIBRARY, "import bnfold; bnfold.optimize('in.onnx', 'out.onnx', isolate=True)"],
        {"out.onnx"},
    ),
    "a script of data": ([*BNFOLD, "recalibrate", "in.onnx", "out.onnx", "--data", "script.py:batches"], {"out.onnx"}),
    "a script of passes": ([*BNFOLD, "optimize", "in.onnx", "out.onnx", "--pass", "script.py:unchanged"], {"out.onnx"}),
    "export": (
        [*BNFOLD, "export", "module.py:make", "out.onnx", "--accept-initial-statistics", "--report", "r.md"],
        {"out.onnx", "r.md"},
    ),
    "batch": (
        [*BNFOLD, "batch", "optimize", "in.onnx", "--output", "all"],
        {"all", "all/in.onnx", "all/bnfold-batch", "all/bnfold-batch/manifest.jsonl", "all/bnfold-batch/reports"}
        | {"all/bnfold-batch/reports/in.onnx.json"}
        | {f"all/bnfold-batch/report.{form}" for form in ("json", "html", "md", "xml")},
    ),
    "the plugin": ([*PYTEST, *PLUGIN, "test_model.py"], set()),
}


MODULE = """
import torch

def make():
    import part_of_it
    return torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3)), (torch.zeros(1, 2, 5, 4),)
"""

SCRIPT = """
import numpy as np
import module

def batches():
    yield np.random.default_rng(0).random((64, 1, 8, 8), np.float32)

def unchanged(model):
    return model
"""


@pytest.fixture
def account(tmp_path: Path) -> Path:
    for name in ("home", "temporary", "work"):
        (tmp_path / name).mkdir()
    work = tmp_path / "work"
    (work / "in.onnx").write_bytes((REPOSITORY / "models/digits_cnn.onnx").read_bytes())
    np.savez(work / "data.npz", images=np.random.default_rng(0).random((64, 1, 8, 8), np.float32))
    (work / "module.py").write_text(MODULE)
    (work / "part_of_it.py").write_text("")
    (work / "script.py").write_text(SCRIPT)
    (work / "test_model.py").write_text("def test(assert_equivalent):\n    assert_equivalent('in.onnx', 'in.onnx')\n")
    return tmp_path


def written_by(command: list[str], account: Path, **variables: str) -> set[Path]:
    """The files and folders that a successful command makes, in an environment that knows no more than the account."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(account / "home"),
        "TMPDIR": str(account / "temporary"),
        "PYTHONPATH": str(REPOSITORY),
    }
    before = set(account.rglob("*"))
    done = subprocess.run(
        command, cwd=account / "work", env=environment | variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return set(account.rglob("*")) - before


@pytest.mark.parametrize("case", ASKED)
def test_exactly_the_files_that_were_asked_for(case: str, account: Path) -> None:
    command, asked = ASKED[case]
    assert written_by(command, account) == {account / "work" / name for name in asked}


TOLD = (
    "import os; from bnfold.equivalence.runtime.sessions import runtime; runtime(); "
    "print(os.environ['ORT_DISABLE_TELEMETRY'])"
)


@pytest.mark.parametrize(("said", "used"), [({}, "1"), ({"ORT_DISABLE_TELEMETRY": "0"}, "0")])
def test_a_value_that_the_user_set_wins(said: dict[str, str], used: str) -> None:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), "CI": "true", **said}
    done = subprocess.run([sys.executable, "-c", TOLD], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"{used}\n"
