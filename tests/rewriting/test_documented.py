"""The passes that docs/passes.md writes out, with the tests that stand beside them there, and from the command line."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from bnfold.batches.sources import load_script
from bnfold.cli import main
from bnfold.testing import build

REPOSITORY = Path(__file__).parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TEXT = "\n\n".join(BLOCK.findall((REPOSITORY / "docs/passes.md").read_text("utf-8")))
TESTS = re.findall(r"^def (test_\w+)", TEXT, re.MULTILINE)


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "own.py"
    path.write_text(TEXT, "utf-8")
    return path


def test_there_are_two_passes_with_their_tests() -> None:
    assert len(TESTS) == 5
    assert re.findall(r"^class (\w+)", TEXT, re.MULTILINE) == ["MergeTransposes", "ErfToGelu"]
    body = TEXT[TEXT.index("class MergeTransposes") : TEXT.index("def is_transpose")]
    assert len(body.split("def run")[1].strip().splitlines()) <= 20


@pytest.mark.parametrize("name", TESTS)
def test_what_stands_beside_them(name: str, script: Path) -> None:
    load_script(script, name)()


def test_on_the_command_line(script: Path, tmp_path: Path) -> None:
    model = tmp_path / "in.onnx"
    made = build("t = Transpose(x) u = Transpose(t) y = Relu(u)", inputs={"x": "float[2,3]"})
    model.write_bytes(made.SerializeToString())
    words = ["optimize", "--pass", f"{script}:MergeTransposes", "--pass", f"{script}:ErfToGelu", str(model)]
    found = CliRunner().invoke(main, [*words, str(tmp_path / "out.onnx")])
    assert found.exit_code == 0, found.output
    assert re.search(r"^pass merge-transposes \(\d\.\d\d s\): 2 nodes removed.*: proved$", found.output, re.MULTILINE)
    assert re.search(r"^pass erf-to-gelu \(\d\.\d\d s\): changed nothing$", found.output, re.MULTILINE)
