"""`FoldBatchNorm` among the passes of onnx-ir."""

from pathlib import Path

import onnx
import onnx_ir as ir
import pytest
from onnx_ir.passes.common import RemoveUnusedNodesPass

import bnfold
from bnfold.errors import UsageError, VerificationError
from bnfold.integrations.onnx_ir import FoldBatchNorm

MODEL = Path(__file__).parents[2] / "models/digits_cnn.onnx"


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def test_it_folds_in_a_sequence() -> None:
    given = ir.load(MODEL)
    folds = FoldBatchNorm()
    result = ir.passes.Sequential(folds, RemoveUnusedNodesPass())(given)
    assert result.modified
    assert "BatchNormalization" not in operators(result.model)
    assert operators(given).count("BatchNormalization") == 5
    assert folds.report is not None
    assert (folds.report.verdict, len(folds.report.decisions)) == ("equivalent", 5)
    assert bnfold.verify(MODEL, result.model).verdict == "equivalent"


def test_a_second_run_changes_nothing() -> None:
    folds = FoldBatchNorm(verify=False)
    once = folds(ir.load(MODEL))
    assert (once.modified, folds(once.model).modified) == (True, False)
    assert folds.report is not None
    assert folds.report.verdict == "not-verified"


def test_a_manager_stops_where_nothing_changes() -> None:
    result = ir.passes.PassManager([FoldBatchNorm(verify=False)], steps=3)(ir.load(MODEL))
    assert "BatchNormalization" not in operators(result.model)


def test_what_is_not_equivalent_is_not_given_on() -> None:
    """No limit is met by a rounding that is not zero."""
    folds = FoldBatchNorm(rtol=0.0, atol=0.0, proof="never")
    with pytest.raises(ir.passes.PassError) as raised:
        ir.passes.Sequential(folds)(ir.load(MODEL))
    assert isinstance(raised.value.__cause__, VerificationError)


def test_an_option_that_there_is_not_is_refused_at_once() -> None:
    with pytest.raises(TypeError):
        FoldBatchNorm(frobnicate=True)
    with pytest.raises(UsageError):
        FoldBatchNorm(seed=-1)


def test_weights_in_other_files_are_read(tmp_path: Path) -> None:
    onnx.save(onnx.load(MODEL), tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    given = ir.load(tmp_path / "m.onnx")
    result = FoldBatchNorm()(given)
    assert bnfold.verify(MODEL, result.model).verdict == "equivalent"
    assert any(isinstance(value.const_value, ir.ExternalTensor) for value in given.graph.initializers.values())
