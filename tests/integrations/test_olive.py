"""`FoldBatchNorm` as a pass of Olive, where Olive is installed; it asks for versions of its own of much else."""

import json
from pathlib import Path
from typing import Any

import onnx
import pytest

pytest.importorskip("olive.passes")

MODEL = Path(__file__).parents[2] / "models/digits_cnn.onnx"
PACKAGE = {
    "passes": {
        "FoldBatchNorm": {
            "module_path": "bnfold.integrations.olive.FoldBatchNorm",
            "supported_providers": ["*"],
            "supported_accelerators": ["*"],
            "supported_precisions": ["*"],
        }
    }
}


def operators(path: Path) -> set[str]:
    return {node.op_type for node in onnx.load(path).graph.node}


def test_it_folds_a_model(tmp_path: Path) -> None:
    from olive.model import ONNXModelHandler
    from olive.passes.olive_pass import create_pass_from_dict

    from bnfold.integrations.olive import FoldBatchNorm

    made = create_pass_from_dict(FoldBatchNorm, {"options": {"seed": 1}}, disable_search=True)
    result = made.run(ONNXModelHandler(str(MODEL)), str(tmp_path / "out"))
    assert "BatchNormalization" not in operators(Path(result.model_path))


def test_it_is_a_step_of_a_workflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from olive.workflows import run

    monkeypatch.chdir(tmp_path)
    (tmp_path / "package.json").write_text(json.dumps(PACKAGE), encoding="utf-8")
    workflow: dict[str, Any] = {
        "input_model": {"type": "ONNXModel", "model_path": str(MODEL)},
        "passes": {"fold": {"type": "FoldBatchNorm"}},
        "cache_dir": str(tmp_path / "cache"),
        "output_dir": str(tmp_path / "out"),
    }
    run(workflow, package_config=str(tmp_path / "package.json"))
    [found] = (tmp_path / "out").rglob("*.onnx")
    assert "BatchNormalization" not in operators(found)
