"""The plugin in a pytest of its own, as a user's pipeline loads it."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from onnx import parser

REPOSITORY = Path(__file__).parents[1]
INSTALLED = any(point.value == "bnfold.pytest_plugin" for point in entry_points(group="pytest11", name="bnfold"))
# `-p` takes the place of the entry point where the installed metadata is older than this checkout.
PLUGIN = () if INSTALLED else ("-p", "bnfold.pytest_plugin")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, factor in (("a", 2.0), ("b", 2.0), ("c", 2.5)):
        body = f"agraph (float[N,4] x) => (float[N,4] y) <float k = {{{factor}}}> {{ y = Mul(x, k) }}"
        model = parser.parse_model(f'<ir_version: 9, opset_import: ["" : 17]> {body}')
        (tmp_path / f"{name}.onnx").write_bytes(model.SerializeToString())
    (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    (tmp_path / "test_models.py").write_text(
        "def test_right(assert_equivalent):\n"
        "    assert assert_equivalent('a.onnx', 'b.onnx').verdict == 'equivalent'\n\n"
        "def test_wrong(assert_equivalent):\n"
        "    assert_equivalent('a.onnx', 'c.onnx')\n"
    )
    return tmp_path


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", *PLUGIN, *arguments]
    path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COV"))}
    return subprocess.run(
        command, cwd=folder, env=environment | {"PYTHONPATH": path}, capture_output=True, text=True, check=False
    )


@dataclass(frozen=True)
class Ran:
    code: int
    text: str


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """The same inside this process, where bnfold, onnx and onnxruntime are imported, and without other plugins."""
    monkeypatch.chdir(folder)
    for name in [name for name in os.environ if name.startswith("PYTEST")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")

    def run_here(*arguments: str) -> Ran:
        sys.modules.pop("test_models", None)
        code = pytest.main(["-p", "bnfold.pytest_plugin", "--capture=sys", "--import-mode=importlib", *arguments])
        return Ran(int(code), "".join(capsys.readouterr()))

    return run_here


def test_the_fixture_passes_and_fails_and_shows_the_report(folder: Path) -> None:
    done = run(folder)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 failed, 1 passed" in done.stdout
    assert "c.onnx is not equivalent to a.onnx [not-equivalent]" in done.stdout
    section = done.stdout.partition("Captured bnfold call")[2]
    assert "DIFFERS (tolerance" in section
    assert "not-equivalent: largest deviation" in section
    assert "assertions.py" not in done.stdout  # the traceback ends in the test


def test_options_of_the_command_line_are_the_defaults(here: Callable[..., Ran]) -> None:
    assert here("--bnfold-rtol", "1.0").code == 0
    assert here("--bnfold-rtol", "y:1.0", "--bnfold-seed", "5").code == 0
    done = here("--bnfold-seed", "5", "--bnfold-atol", "y:1e-9")
    assert done.code == 1
    assert "seed=5" in done.text
    done = here("--bnfold-provider", "cuda")
    assert "2 failed" in done.text
    assert "ProviderError" in done.text


def test_a_test_overrules_the_command_line(folder: Path, here: Callable[..., Ran]) -> None:
    text = "def test_wrong(assert_equivalent):\n    assert_equivalent('a.onnx', 'c.onnx', rtol=1.0)\n"
    (folder / "test_models.py").write_text(text)
    assert here("--bnfold-rtol", "1e-9").code == 0


def test_a_wrong_option_is_a_usage_error_of_pytest(here: Callable[..., Ran]) -> None:
    done = here("--bnfold-rtol", "much")
    assert "--bnfold-rtol: 'much' is not a number" in done.text
    assert done.code != 0


def test_loading_the_plugin_imports_nothing_heavy(folder: Path) -> None:
    (folder / "test_models.py").write_text(
        "import sys\n\n"
        "def test_light(pytestconfig):\n"
        "    assert 'bnfold.pytest_plugin' in sys.modules\n"
        "    heavy = {'numpy', 'onnx', 'onnxruntime', 'torch', 'rich', 'bnfold.api', 'bnfold.cli', 'click'}\n"
        "    assert heavy.isdisjoint(sys.modules), heavy & set(sys.modules)\n"
    )
    done = run(folder)
    assert done.returncode == 0, done.stdout


def test_the_help_names_the_options_and_the_fixture(here: Callable[..., Ran]) -> None:
    assert "--bnfold-provider" in here("--help").text
    assert "assert_equivalent" in here("--fixtures").text


def test_the_entry_point_is_declared() -> None:
    import tomllib

    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"bnfold": "bnfold.pytest_plugin"}
