"""Passes by name, with their options: bnfold's own, those of scripts and of plugins, and other optimizers."""

import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from onnx import ModelProto

import bnfold
from bnfold.cli import main
from bnfold.decisions import Decision
from bnfold.errors import UsageError
from bnfold.graph import Model
from bnfold.passes import FoldBatchNorm, PassOptions, Preserves
from bnfold.pipeline import Rewrite
from bnfold.rewriting import FunctionPass, asked_passes, listed, registry
from bnfold.rewriting.optimizers import OPTIMIZERS, Optimizer

DIGITS = Path(__file__).parents[2] / "models/digits_cnn.onnx"

SCRIPT = """
from dataclasses import dataclass
import onnx
import beside

seen = []

def touches(model: onnx.ModelProto, *, text="a", times=1, really=False) -> None:
    import beside_lazily
    model.doc_string = f"{text}{times}{really}{beside.WORD}"

@dataclass(frozen=True)
class Noted:
    word: str = "noted"
    name = "noted"
    preserves = "exact"

    def run(self, model):
        model.proto.doc_string = self.word
        return []

def raises(model):
    raise ValueError("not\\ntoday")
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    (tmp_path / "beside.py").write_text("WORD = 'b'", "utf-8")
    (tmp_path / "beside_lazily.py").write_text("", "utf-8")
    path = tmp_path / "own.py"
    path.write_text(SCRIPT, "utf-8")
    return path


def made(*asked: Any, options: PassOptions | None = None) -> list[Any]:
    return [each for make in asked_passes(asked) for each in make(options or PassOptions(freeze=True))]


def names(*asked: Any) -> list[str]:
    return [each.name for each in made(*asked)]


def test_default_stands_for_the_built_in_order_and_may_stand_anywhere() -> None:
    own = ["freeze-batch-norm", "unpack-sequences", "fold-batch-norm", "merge-branches", "fold-constants"]
    assert names("default") == own
    assert names("merge-branches", "default", "fold-batch-norm") == ["merge-branches", *own, "fold-batch-norm"]


def test_options_of_a_built_in_pass_are_the_fields_of_its_options() -> None:
    fold = made("fold-batch-norm:lower=true,bias-adds=no,keep=a*+b")[0]
    assert isinstance(fold, FoldBatchNorm)
    assert (fold.options.lower, fold.options.bias_adds, fold.options.keep) == (True, False, ("a*", "b"))
    assert made("fold-batch-norm")[0].options.lower is False


WRONG = {
    "fold-batchnorm": r"there is no pass 'fold-batchnorm'; did you mean fold-batch-norm\?",
    "zzz": r"there is no pass 'zzz'; `bnfold passes` lists",
    "default:lower=true": r"--pass default: the built-in order takes the options of the command",
    "fold-batch-norm:lowr=true": r"--pass fold-batch-norm has no option 'lowr'; did you mean lower\?",
    "fold-batch-norm:lower=maybe": r"--pass fold-batch-norm: lower is true or false, not 'maybe'",
    "fold-batch-norm:lower": r"--pass fold-batch-norm: options are written name=value",
    "recalibrate-batch-norm": r"--pass recalibrate-batch-norm: the other options leave nothing for it to do",
    "onnxruntime:levl=basic": r"--pass onnxruntime has no option 'levl'; did you mean level\?",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_no_pass_is_called_and_no_option(text: str) -> None:
    with pytest.raises(UsageError, match=WRONG[text]):
        made(text)


def test_what_is_no_pass() -> None:
    class Half:
        name = "half"
        preserves = "everything"

        def run(self, model: Model) -> list[Decision]:
            raise AssertionError(model)

    with pytest.raises(UsageError, match=r"pass half: preserves is one of exact, algebraic, evaluation, nothing"):
        bnfold.optimize(DIGITS, passes=[Half()])
    with pytest.raises(UsageError, match=r"passes is a list of passes: names, pass objects and functions, not 7"):
        bnfold.optimize(DIGITS, passes=[7])
    with pytest.raises(UsageError, match=r"passes is a list of passes"):
        bnfold.optimize(DIGITS, passes="default")


# --- scripts


def test_a_function_of_a_script_with_options(script: Path) -> None:
    result = bnfold.optimize(DIGITS, passes=[f"{script}:touches:text=x,times=3,really=yes"], verify=False)
    assert result.model.doc_string == "x3Trueb"
    assert result.report.options["passes"] == [f"{script}:touches:text=x,times=3,really=yes"]
    for text, problem in {
        "touches:txt=1": "has no option 'txt'; it has text, times, really",
        "touches:times=x": "times is a whole number, not 'x'",
        "gone": f"{script}: has no pass and no function 'gone'",
        "seen": "is list, neither a pass nor a function",
    }.items():
        with pytest.raises(UsageError, match=problem):
            bnfold.optimize(DIGITS, passes=[f"{script}:{text}"])


def test_a_class_of_a_script_that_edits_past_the_door_is_seen_all_the_same(script: Path) -> None:
    result = bnfold.optimize(DIGITS, passes=[f"{script}:Noted:word=seen"])
    assert result.model.doc_string == "seen"
    (told,) = result.report.passes
    assert (told["name"], told["preserves"]) == ("noted", "exact")
    assert list(told["changes"]) == ["other"]


def test_a_script_that_raises_on_the_command_line(script: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    found = CliRunner().invoke(main, ["optimize", "--pass", f"{script}:raises", str(DIGITS), str(output)])
    line = SCRIPT.splitlines().index('    raise ValueError("not\\ntoday")') + 1
    assert found.exit_code == 2
    assert f"bnfold: the pass raises raised ValueError: not today ({script}, line {line})" in found.stderr
    assert not output.exists()


def test_the_script_is_never_what_is_written(script: Path) -> None:
    with pytest.raises(UsageError, match="would be written over the script of --pass"):
        bnfold.optimize(DIGITS, script, passes=[f"{script}:touches:times=2"], overwrite=True)


def test_several_passes_on_the_command_line_run_in_order(script: Path, tmp_path: Path) -> None:
    words = ["--pass", "default", "--pass", f"{script}:touches", "--pass", f"{script}:Noted"]
    found = CliRunner().invoke(main, ["optimize", *words, str(DIGITS), str(tmp_path / "out.onnx")])
    assert found.exit_code == 0, found.output
    assert bnfold.inspect(tmp_path / "out.onnx").normalizations == ()


# --- plugins


@dataclass(frozen=True)
class Plugin:
    """A plugin.

    With more to say.
    """

    strength: int = 3
    name = "plugged"
    preserves = Preserves.EXACT

    def run(self, model: Model) -> list[Decision]:
        raise AssertionError(model)


def a_function(model: ModelProto) -> None:
    """A function as a plugin."""


def plugins(monkeypatch: pytest.MonkeyPatch, **where: str) -> None:
    monkeypatch.setitem(sys.modules, "a_plugin", sys.modules[__name__])
    points = [EntryPoint(name, value, registry.GROUP) for name, value in where.items()]
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: points if group == "bnfold.passes" else [])


def test_plugins_come_from_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    plugins(monkeypatch, plugged="a_plugin:Plugin", function="a_plugin:a_function", gone="a_module_that_is_gone:x")
    (plugin,) = made("plugged:strength=5")
    assert plugin == Plugin(5)
    (function,) = made("function")
    assert isinstance(function, FunctionPass)
    assert function.name == "function"
    with pytest.raises(UsageError, match="the pass 'gone' cannot be loaded: ModuleNotFoundError"):
        made("gone")
    told = {each.name: each for each in listed()}
    assert told["plugged"].options == (("strength", "3"),)
    assert (told["plugged"].summary, told["plugged"].preserves) == ("A plugin.", "exact")
    assert told["function"].summary == "A function as a plugin."
    assert "cannot be loaded" in told["gone"].problem


# --- other optimizers


def test_the_command_lists_every_pass_with_its_options() -> None:
    found = CliRunner().invoke(main, ["passes"])
    assert found.exit_code == 0
    lines = found.output.splitlines()
    assert "recalibrate-batch-norm: preserves evaluation, from bnfold" in lines
    assert "  options: keep=none, keep_dropout=false, accept_initial_statistics=false" in lines
    for name, kind in OPTIMIZERS.items():
        assert f"{name}: preserves algebraic, from {kind.distribution or name}" in lines
    assert "skip_shape_inference=false" in found.output


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_that_is_not_installed_says_how_to_install_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    kind = OPTIMIZERS[name]
    with pytest.raises(UsageError, match=f"the pass {name} needs the package {kind.distribution or name}: pip install"):
        bnfold.optimize(DIGITS, passes=[name])


def test_every_optimizer_is_a_rewrite() -> None:
    assert list(OPTIMIZERS) == ["onnxsim", "onnxslim", "onnxscript", "onnxoptimizer", "onnxruntime", "aimet"]
    for kind in OPTIMIZERS.values():
        each: Optimizer = kind()
        assert isinstance(each, Rewrite)


@pytest.mark.parametrize("text", ["onnxruntime", "onnxruntime:level=extended", "onnxscript", "onnxscript:rewrites=no"])
def test_optimizers_run_behind_the_built_in_order(text: str, tmp_path: Path) -> None:
    report = bnfold.optimize(DIGITS, tmp_path / "out.onnx", passes=["default", text]).report
    assert report.verdict == "equivalent"
    assert report.passes[-1]["name"] == text.partition(":")[0]


def test_an_unknown_level_of_onnxruntime() -> None:
    with pytest.raises(UsageError, match="level is basic or extended, not 'all'"):
        bnfold.optimize(DIGITS, passes=["onnxruntime:level=all"])
