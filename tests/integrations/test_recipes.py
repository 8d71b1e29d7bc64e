"""Recipes of docs/recipes.md for tools that export, keep or serve models.

Ultralytics needs torchvision, so that an exporter with the attribute and the call that its own has (8.4:
`Exporter.file`, `run_callbacks`) stands in for it. MLflow is asked where it is installed.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from click.testing import CliRunner

import bnfold
from bnfold.cli import main

REPOSITORY = Path(__file__).parents[2]
MODEL = REPOSITORY / "models/digits_cnn.onnx"
PAGE = (REPOSITORY / "docs/recipes.md").read_text(encoding="utf-8")


def recipe(heading: str) -> str:
    """The first block of Python under a heading of the page."""
    found = re.search(r"^```python\n(.*?)^```$", PAGE.partition(f"\n## {heading}\n")[2], re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def operators(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


class Exporter:
    """As much of Ultralytics' exporter as a callback sees."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.callbacks: dict[str, list[Callable[[Any], None]]] = {"on_export_end": []}

    def add_callback(self, event: str, callback: Callable[[Any], None]) -> None:
        self.callbacks[event].append(callback)

    def export(self, format: str) -> None:  # noqa: A002 - Ultralytics' name
        assert format == "onnx"
        self.file.with_suffix(".onnx").write_bytes(MODEL.read_bytes())
        for callback in self.callbacks["on_export_end"]:
            callback(self)


def test_a_callback_of_ultralytics(tmp_path: Path) -> None:
    exec(recipe("Ultralytics"), {"bnfold": bnfold, "model": Exporter(tmp_path / "yolo.pt")})
    assert [path.name for path in tmp_path.iterdir()] == ["yolo.onnx"]
    assert "BatchNormalization" not in operators(tmp_path / "yolo.onnx")
    assert bnfold.verify(MODEL, tmp_path / "yolo.onnx").verdict == "equivalent"


def folded(source: Path, target: Path) -> None:
    done = CliRunner().invoke(
        main, ["batch", "optimize", str(source), "--output", str(target), "--copy-others", "--jobs", "1"]
    )
    assert done.exit_code == 0, done.output


def test_a_repository_of_triton(tmp_path: Path) -> None:
    """Versions are folders with numbers; the configuration names inputs and outputs, which stay."""
    version = tmp_path / "repository/digits/1"
    version.mkdir(parents=True)
    (version / "model.onnx").write_bytes(MODEL.read_bytes())
    config = 'backend: "onnxruntime"\ninput [{ name: "images" data_type: TYPE_FP32 dims: [1, 8, 8] }]\n'
    config += 'output [{ name: "logits" data_type: TYPE_FP32 dims: [10] }]\n'
    (version.parent / "config.pbtxt").write_text(config)
    folded(tmp_path / "repository", tmp_path / "folded")
    made = tmp_path / "folded/digits"
    assert (made / "config.pbtxt").read_text() == config
    assert "BatchNormalization" not in operators(made / "1/model.onnx")
    graph = onnx.load(made / "1/model.onnx").graph
    assert [each.name for each in (*graph.input, *graph.output)] == re.findall(r'name: "(\w+)"', config)


def test_a_folder_of_optimum(tmp_path: Path) -> None:
    """As `optimum-cli export onnx` writes it, with the weights in `model.onnx_data`."""
    source = tmp_path / "exported"
    source.mkdir()
    how = {"save_as_external_data": True, "location": "model.onnx_data", "size_threshold": 0}
    onnx.save(onnx.load(MODEL), source / "model.onnx", **how)
    (source / "config.json").write_text(json.dumps({"model_type": "resnet"}))
    (source / "preprocessor_config.json").write_text("{}")
    folded(source, tmp_path / "folded")
    names = {path.name for path in (tmp_path / "folded").iterdir() if path.is_file()}
    assert {"model.onnx", "config.json", "preprocessor_config.json"} <= names
    assert "BatchNormalization" not in operators(tmp_path / "folded/model.onnx")
    assert bnfold.verify(source / "model.onnx", tmp_path / "folded/model.onnx").verdict == "equivalent"


@pytest.mark.filterwarnings("ignore")  # MLflow warns of its own code as it is imported
def test_a_run_of_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.onnx").write_bytes(MODEL.read_bytes())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # mlflow-skinny has no other store on a disk
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    exec(recipe("MLflow"), {"bnfold": bnfold, "mlflow": mlflow})
    [model] = tmp_path.rglob("mlruns/**/model.onnx")
    assert "BatchNormalization" not in operators(model)
    [report] = tmp_path.rglob("mlruns/**/bnfold.json")
    assert json.loads(report.read_text())["verdict"] == "equivalent"
