"""Every block of code in README.md and docs/ is run, or says beside it why not.

Commands of bnfold run in this process, other commands in a shell, Python of one page in one namespace. `pip` is one
that installs nothing, and fails for an extra that there is not.
"""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from bnfold.cli import main
from tests.test_docs_reasons import load

REPOSITORY = Path(__file__).parents[1]
PAGES = sorted((REPOSITORY / "docs").glob("*.md"))
BLOCK = re.compile(
    r"(?:<!-- not run: (?P<why>[^\n]+) -->\n\n?)?^```(?P<kind>[^\n]+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
SHOWN = {"text", "json", "{toctree}", "{click} bnfold.cli:main", "{include} ../CONTRIBUTING.md", "{eval-rst}"}
"""Kinds of blocks that are no code to run."""

PIP = """#!{python}
import re, sys, tomllib
known = tomllib.load(open({project!r}, "rb"))["project"]["optional-dependencies"]
lists = [found for each in sys.argv[1:] for found in re.findall(r"^(?:bnfold|\\.)\\[(.*)\\]$", each)]
asked = [name for found in lists for name in found.split(",")]
sys.exit([name for name in asked if name not in known] or 0)
"""


@dataclass(frozen=True)
class Block:
    kind: str
    text: str


def blocks(path: Path) -> Iterator[Block]:
    for found in BLOCK.finditer(path.read_text(encoding="utf-8")):
        if found["kind"] not in SHOWN and found["why"] is None:
            yield Block(found["kind"], found["text"])


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the models that the pages speak of."""
    model = onnx.load(REPOSITORY / "models/digits_cnn.onnx")
    for name in ("model", "in", "trained", "deployed"):
        onnx.save(model, tmp_path / f"{name}.onnx")
    train = onnx.ModelProto.FromString(model.SerializeToString())
    for node in train.graph.node:
        if node.op_type == "BatchNormalization":
            next(each for each in node.attribute if each.name == "training_mode").i = 1
            node.output.extend([f"{node.output[0]}_mean", f"{node.output[0]}_var"])
    onnx.save(train, tmp_path / "train.onnx")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "repository/digits/1").mkdir(parents=True)
    onnx.save(model, tmp_path / "repository/digits/1/model.onnx")
    (tmp_path / "models").symlink_to(REPOSITORY / "models")
    images = np.random.default_rng(0).normal(size=(16, 1, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "images.npz", images=images)
    (tmp_path / "model.py").write_text(
        "import torch\n\n\ndef make():\n"
        "    module = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4))\n"
        "    module(torch.randn(4, 1, 8, 8))\n"
        "    return module, (torch.rand(2, 1, 8, 8),)\n"
    )
    (tmp_path / "script.py").write_text("def function(model):\n    return None\n")
    (tmp_path / "own.py").write_text("\n\n".join(each.text for each in blocks(REPOSITORY / "docs/passes.md")))
    assert CliRunner().invoke(main, ["optimize", "model.onnx", "--dry-run", "--report", "report.json"]).exit_code == 0
    (tmp_path / "bin").mkdir()
    pip = tmp_path / "bin/pip"
    pip.write_text(PIP.format(python=sys.executable, project=str(REPOSITORY / "pyproject.toml")))
    pip.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def run(line: str) -> None:
    if line.startswith("bnfold ") and not re.search(r"[|>$&]", line):
        done = CliRunner().invoke(main, shlex.split(line, comments=True)[1:])
        assert done.exit_code == 0, f"{line}\n{done.output}"
        return
    finished = subprocess.run(["bash", "-ec", line], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, f"{line}\n{finished.stdout}{finished.stderr}"


@pytest.mark.parametrize("path", [path for path in PAGES if list(blocks(path))], ids=lambda path: path.stem)
@pytest.mark.usefixtures("place")
def test_every_block_runs(path: Path) -> None:
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks(path):
        if block.kind == "python":
            exec(compile(block.text, f"{path.name}", "exec"), names)
        else:
            assert block.kind == "bash", block.kind
            for line in filter(None, block.text.splitlines()):
                run(line)


GALLERY = sorted((REPOSITORY / "docs/gallery").glob("*.py"))


def test_the_gallery_shows_every_script() -> None:
    index = (REPOSITORY / "docs/gallery/index.md").read_text(encoding="utf-8")
    assert {f"{path.name}" for path in GALLERY} == set(re.findall(r"{literalinclude} (\S+)", index))
    assert len(GALLERY) == 3


@pytest.mark.parametrize("path", GALLERY, ids=lambda path: path.stem)
def test_a_script_of_the_gallery_runs(path: Path) -> None:
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), {"__name__": "__main__", "__file__": str(path)})


def test_every_reason_and_diagnosis_has_a_picture() -> None:
    pictures = load("pictures")
    for page, examples in pictures.pages().items():
        for code, example in examples.items():
            drawn = pictures.drawn(example, code)
            assert drawn.startswith("<svg ")
            assert "NaN" not in drawn
            assert drawn.count("<rect ") >= 3, (page, code)


def test_the_site_lists_every_page() -> None:
    index = (REPOSITORY / "docs/index.md").read_text(encoding="utf-8")
    listed = {name for block in re.findall(r"```{toctree}\n(.*?)```", index, re.DOTALL) for name in block.split()}
    assert {path.stem for path in PAGES} - {"index"} <= listed


def test_the_extra_of_the_site_is_what_its_configuration_names() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = {re.split(r"[><=]", each)[0] for each in project["optional-dependencies"]["docs"]}
    assert named == {"sphinx", "myst-parser", "furo", "sphinx-click"}
