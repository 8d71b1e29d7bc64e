"""What `bnfold` exports: all that a user names, and nothing that a user would not."""

import ast
import doctest
import importlib
import inspect
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bnfold
from bnfold.decisions import Action, Decision, Reason
from bnfold.report import Inspection, ModelSummary, NormalizationInfo, Report

REPOSITORY = Path(__file__).parents[1]

EXPORTED = """
    Action Batch BnfoldError CalibrationOptions Client Decision Exported Finding FreezeOptions InspectOptions Inspection
    Layout
    Measurement ModelError ModelWarning NormalizationInfo NotEquivalentError OptimizeOptions OutputError
    ProviderError Reason RecalibrateOptions RemoteJob Report ReportedError ResourceLimitError Result Row ServiceError
    Stage StatisticsError UsageError Verdict Verification VerificationError VerifyOptions Weights __version__
    assert_equivalent batch export freeze inspect optimize recalibrate render verify
"""


def test_the_exported_names() -> None:
    assert sorted(bnfold.__all__) == sorted(EXPORTED.split())
    assert dir(bnfold) == sorted(bnfold.__all__)
    for name in bnfold.__all__:
        assert getattr(bnfold, name) is not None


def test_the_type_checker_sees_the_same_names() -> None:
    tree = ast.parse((REPOSITORY / "bnfold/__init__.py").read_text("utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            assert alias.name == alias.asname
            seen[alias.name] = node.module
    assert seen == bnfold._HOME


def test_every_error_is_exported() -> None:
    errors = importlib.import_module("bnfold.errors")
    raised = {name for name, each in vars(errors).items() if inspect.isclass(each) and issubclass(each, Exception)}
    assert raised <= set(bnfold.__all__)


@pytest.mark.parametrize("name", ["optimize", "freeze", "recalibrate", "inspect", "verify", "assert_equivalent"])
def test_the_types_of_a_public_function_are_exported(name: str) -> None:
    """What a signature names of bnfold is there under that name."""
    signature = str(inspect.signature(getattr(bnfold, name)))
    named = set(re.findall(r"bnfold\.[\w.]*?(\w+)(?=[\s,)\]|'\"]|$)", signature))
    named |= set(re.findall(r"'([A-Z][a-z]\w+)", signature))
    assert {each for each in named if not each.startswith("_")} <= set(bnfold.__all__)


# --- print and notebooks


def report(**changes: Any) -> Report:
    folded = Decision("bn1", "BatchNormalization", "", Action.FOLDED, target=("conv",))
    kept = Decision("<b>\n", "BatchNormalization", "", Action.KEPT, reason=Reason.BARRIER)
    before, after = (
        ModelSummary("in.onnx", None, 9000, 18, 2, 18, 9),
        ModelSummary("o.onnx", None, 8000, 1300, 1, 18, 9),
    )
    return Report("equivalent", 0, (folded, kept, folded), before, after, **changes)


def test_print_of_a_result_is_one_line() -> None:
    result = bnfold.Result(None, report(published="o.onnx"))
    assert str(result) == "equivalent: 2 normalizations folded, 1 kept; 18 -> 1,300 nodes; written to o.onnx"
    assert repr(result) == f"<Result {result}>"
    assert str(result.report) == str(result)
    failed = Report("not-equivalent", 1, (), report().input, explanation="Output y\nis off.")
    assert str(failed) == "not-equivalent: no normalization; Output y\\nis off."


def test_a_result_that_holds_a_model_prints_as_short() -> None:
    result = bnfold.optimize(REPOSITORY / "models/digits_cnn.onnx", verify=False)
    assert result.model is not None
    assert max(len(str(result)), len(repr(result))) < 120


def test_a_notebook_sees_a_table_with_every_name_escaped() -> None:
    page = bnfold.Result(None, report(published="<o>.onnx"))._repr_html_()
    assert page.count("<table>") == page.count("</table>") == 2
    assert "&lt;b&gt;\\n" in page
    assert "<b>\n" not in page
    assert "written to &lt;o&gt;.onnx" in page
    assert Reason.BARRIER.sentence in page


def test_an_inspection_prints_one_line_and_a_table() -> None:
    kept = Decision("b", "BatchNormalization", "", Action.KEPT, reason=Reason.BARRIER)
    info = NormalizationInfo("b", "BatchNormalization", "", "inference", 8, 1e-5, 0.9, "Relu r", kept)
    found = Inspection(ModelSummary("in.onnx", None, 1, 3, 1, 18, 9), (info,) * 25)
    assert str(found) == "in.onnx: 3 nodes; 25 normalizations would be kept"
    assert repr(found) == f"<Inspection {found}>"
    assert found._repr_html_().count("<tr>") == 21
    assert "and 5 more" in found._repr_html_()


def test_a_verification_prints_one_line() -> None:
    model = (REPOSITORY / "models/digits_cnn.onnx").read_bytes()
    found = bnfold.verify(model, model)
    assert re.fullmatch(r"equivalent: largest deviation \S+ in output 'logits' on feed .*", str(found))
    assert repr(found) == f"<Verification {found}>"
    page = found._repr_html_()
    assert page.startswith("<p><b>equivalent</b> </p><table>")
    assert page.count("<tr>") == 2
    (first, *_) = found.measurements
    many = tuple(replace(first, where=replace(first.where, output=f"<{number}>")) for number in range(25))
    page = replace(found, measurements=many)._repr_html_()
    assert page.count("<tr>") == 21
    assert "and 5 more outputs" in page
    assert "&lt;0&gt;" in page
    assert "<0>" not in page


# --- examples


def documented() -> list[str]:
    paths = [*(REPOSITORY / "bnfold").rglob("*.py"), *(REPOSITORY / "passes").rglob("*.py")]
    found = set()
    for path in paths:
        if ">>>" in path.read_text("utf-8"):
            parts = path.relative_to(REPOSITORY).with_suffix("").parts
            parts = ("bnfold", *parts) if parts[0] == "passes" else parts
            found.add(".".join(part for part in parts if part != "__init__"))
    return sorted(found)


@pytest.mark.parametrize("module", documented())
def test_the_examples_of_the_docstrings(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(REPOSITORY / "models/digits_cnn.onnx", "in.onnx")
    np.savez("data.npz", images=np.random.default_rng(0).random((64, 1, 8, 8), np.float32))
    failed, tried = doctest.testmod(importlib.import_module(module))
    assert tried
    assert not failed
