"""The command of a report makes the same call of the api again."""

import shlex
import sys
import types
from functools import partial
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from onnx import ModelProto

from bnfold.batches.sources import load_script
from bnfold.cli import main
from bnfold.errors import UsageError
from bnfold.options import OptimizeOptions
from bnfold.passes import FoldBatchNorm, FoldBatchNormOptions
from bnfold.report import FailureReport, ModelSummary, Report
from bnfold.report.document import Document
from bnfold.report.json_report import to_data
from bnfold.report.reproduction import reproduction
from bnfold.rewriting import asked_passes
from tests.report_samples import old

SUMMARY = ModelSummary("in.onnx", "a" * 64, 1, 1, 1, 18, 9)

MODELS = "in.onnx out.onnx"
COMMANDS = [
    f"optimize {MODELS}",
    "optimize in.onnx --dry-run",
    "optimize 'my model.onnx' out.onnx --no-verify --allow-unverified --keep-failed --no-freeze",
    f"optimize {MODELS} --seed 7 --input-shape x:[1,3,8,8] --input-shape s:[] --inputs x.npz --rtol 0.001 --atol 1e-08",
    f"optimize {MODELS} --provider cpu --provider openvino --keep 'bn*' --keep x --lower",
    f"optimize {MODELS} --keep-dropout --accept-initial-statistics --assume-constant-initializers",
    f"optimize {MODELS} --strict-external-data --external-data=w.bin --size-threshold 10",
    f"optimize {MODELS} --inline",
    f"optimize {MODELS} --proof --on-mismatch rollback",
    f"freeze {MODELS} --no-proof",
    f"optimize {MODELS} --rtol y:0:0.001 --rtol 0.01 --atol z:1e-08 --strict-placement --inputs f.py:feeds",
    f"optimize {MODELS} --recalibrate data --mode fast --statistics torch --batch-size 8 --mean 0.5,0.25 --std 0.5",
    f"optimize {MODELS} --recalibrate data --image-layout NHWC",
    f"optimize {MODELS} --substitute group-norm:2 --substitute-only 'a*' --data d.npz --batch-size 4",
    f"optimize {MODELS} --statistics-from w.safetensors",
    f"freeze {MODELS} --keep bn",
    f"recalibrate {MODELS} --statistics-from w.safetensors",
    f"recalibrate {MODELS} --mode fast --data f.py:batches",
]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    from bnfold import optimization

    made: list[Any] = []
    monkeypatch.chdir(tmp_path)
    Path("x.npz").touch()
    Path("f.py").touch()
    Path("d.npz").touch()
    Path("data").mkdir()

    def stopped(request: optimization.Request) -> Any:
        made.append({**request.options.to_dict(), "model": request.model, "output": request.output})
        raise click.exceptions.Exit(0)

    monkeypatch.setattr(optimization, "optimize", stopped)
    return made


@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_makes_the_same_call(calls: list[Any], command: str) -> None:
    def run(text: str) -> dict[str, Any]:
        result = CliRunner().invoke(main, shlex.split(text))
        assert result.exit_code == 0, result.output
        found: dict[str, Any] = calls.pop()
        return found

    first = run(command)
    model, output = first["model"], first["output"]
    options = {name: value for name, value in first.items() if name not in ("model", "output")}
    before = ModelSummary(model, "a" * 64, 1, 1, 1, 18, 9)
    after = ModelSummary(output, "a" * 64, 1, 1, 1, 18, 9)
    told = reproduction(to_data(Report("equivalent", 0, (), before, after, options=options)))
    assert sorted(shlex.split(told)) == sorted(["bnfold", *shlex.split(command)])
    assert run(told.removeprefix("bnfold ")) == first


def test_a_comparison_is_made_again() -> None:
    assert reproduction(old("verify")) == "bnfold verify fold.onnx other.onnx --inputs x.npz"


@pytest.mark.parametrize(
    "options", [{"inputs": True}, {"recalibrate": True}, {"substitute": "layer-norm", "data": True}]
)
def test_data_that_came_from_python_is_in_no_command(options: dict[str, Any]) -> None:
    assert reproduction(to_data(Report("equivalent", 0, (), SUMMARY, SUMMARY, options=options))) == ""


def clean(model: ModelProto) -> None:
    """A pass that a script has."""


def test_a_function_of_a_script_is_named_by_its_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text("def clean(model):\n    pass\n", "utf-8")
    own = load_script(Path("own.py"), "clean")
    module = types.ModuleType("own")
    module.__file__, module.__dict__["clean"] = str(tmp_path / "own.py"), own
    own.__module__ = "own"
    monkeypatch.setitem(sys.modules, "own", module)
    options = OptimizeOptions(passes=[own, FoldBatchNorm(), "default", "./a.py:b:c=1"]).to_dict()
    assert options["passes"] == ["own.py:clean", "fold-batch-norm", "default", "./a.py:b:c=1"]
    told = reproduction(to_data(Report("equivalent", 0, (), SUMMARY, SUMMARY, options=options)))
    assert told.startswith("bnfold optimize in.onnx in.onnx --pass own.py:clean --pass fold-batch-norm --pass default")


class Own:
    """A pass that is an object of Python."""

    name = "own"
    preserves = "exact"

    def run(self, _model: Any) -> list[Any]:
        return []


def made() -> Any:
    def inner(model: ModelProto) -> None:
        """One that no name leads to."""

    return inner


FROM_PYTHON = {
    "<lambda>": lambda _: None,
    "<partial>": partial(clean),
    "<own>": Own(),
    "<fold-batch-norm>": FoldBatchNorm(FoldBatchNormOptions(lower=True)),
    "<inner>": made(),
}


@pytest.mark.parametrize("name", FROM_PYTHON)
def test_a_pass_that_no_command_can_name_is_said_to_be_one(name: str) -> None:
    each = FROM_PYTHON[name]
    options = OptimizeOptions(passes=["default", each]).to_dict()
    assert options["passes"] == ["default", name]
    document = Document.of(to_data(Report("equivalent", 0, (), SUMMARY, SUMMARY, options=options)))
    assert document.command == ""
    assert document.no_command.startswith(f"No command makes it again: {name} is a function or an object of Python")
    with pytest.raises(UsageError, match="came from Python"):
        asked_passes(options["passes"])


def test_a_model_that_was_no_file_is_in_no_command() -> None:
    nowhere = ModelSummary(None, "a" * 64, 1, 1, 1, 18, 9)
    assert reproduction(to_data(Report("equivalent", 0, (), nowhere, nowhere))) == ""
    assert reproduction(to_data(Report("equivalent", 0, (), SUMMARY, nowhere))) == "bnfold optimize in.onnx --dry-run"


def test_a_failure_before_the_options_are_known_has_none() -> None:
    assert reproduction(FailureReport("ModelError", "no", 3).to_dict()) == ""


def test_an_option_of_a_later_version_is_spelled_like_the_others() -> None:
    options = {"new_flag": True, "off": False, "new_number": 3, "by_name": {"y": 0.5, "": 2}, "nothing": None}
    report = to_data(Report("equivalent", 0, (), SUMMARY, SUMMARY, options=options))
    assert (
        reproduction(report) == "bnfold optimize in.onnx in.onnx --new-flag --new-number 3 --by-name y:0.5 --by-name 2"
    )
