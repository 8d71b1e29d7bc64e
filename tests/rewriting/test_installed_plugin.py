"""A plugin as its users have it: a distribution that pip has installed, found by the command line in a new process."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import onnx
import pytest

from bnfold.testing import build

REPOSITORY = Path(__file__).parents[2]
PACKAGE = '''
from dataclasses import dataclass

import onnx


@dataclass(frozen=True)
class Stamp:
    """Write a word into the description of the model."""

    word: str = "stamped"
    name = "stamp"
    preserves = "exact"

    def run(self, model):
        model.proto.doc_string = self.word
        return []


def negates(model):
    """Turn the sign of every weight, which is wrong."""
    for tensor in model.graph.initializer:
        values = -onnx.numpy_helper.to_array(tensor)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
'''
FILES = {
    "stamping.py": PACKAGE,
    "stamping-1.2.dist-info/METADATA": "Metadata-Version: 2.1\nName: stamping\nVersion: 1.2\n",
    "stamping-1.2.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: a test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "stamping-1.2.dist-info/entry_points.txt": (
        "[bnfold.passes]\nstamp = stamping:Stamp\nnegates = stamping:negates\nlost = stamping:lost\n"
    ),
}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("pip")
    folder = tmp_path_factory.mktemp("plugin")
    wheel = folder / "stamping-1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in FILES.items():
            archive.writestr(name, text)
        record = "".join(f"{name},,\n" for name in [*FILES, "stamping-1.2.dist-info/RECORD"])
        archive.writestr("stamping-1.2.dist-info/RECORD", record)
    target = folder / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--target", target, wheel], check=True, capture_output=True)
    return target


def bnfold(installed: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, (str(installed), str(REPOSITORY), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "bnfold", *map(str, words)]
    return subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False, timeout=300
    )


def test_it_is_listed_with_its_distribution_and_its_options(installed: Path) -> None:
    found = bnfold(installed, "passes")
    assert found.returncode == 0, found.stderr
    assert "stamp: preserves exact, from stamping" in found.stdout
    assert "  options: word=stamped" in found.stdout
    assert "negates: preserves algebraic, from stamping" in found.stdout
    assert "cannot be loaded: AttributeError" in found.stdout


def test_it_runs_by_name_under_the_same_verdict(installed: Path, tmp_path: Path) -> None:
    given, made = tmp_path / "in.onnx", tmp_path / "out.onnx"
    onnx.save(build("y = Conv(x, w)", inputs={"x": "float[1,3,6,7]"}, constants={"w": (4, 3, 1, 1)}), given)
    found = bnfold(installed, "optimize", "--pass", "stamp:word=seen", "--pass", "default", given, made)
    assert found.returncode == 0, found.stderr
    assert onnx.load(made).doc_string == "seen"
    found = bnfold(installed, "optimize", "--pass", "negates", given, tmp_path / "other.onnx")
    assert found.returncode == 1
    assert "Without the pass negates it agrees" in found.stderr + found.stdout
    assert not (tmp_path / "other.onnx").exists()
    found = bnfold(installed, "optimize", "--pass", "lost", given, tmp_path / "other.onnx")
    assert found.returncode == 2
    assert "the pass 'lost' of stamping cannot be loaded: AttributeError" in found.stderr
