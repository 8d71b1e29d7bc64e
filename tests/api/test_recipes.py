"""The recipes of docs/recipes.md: what stands behind bnfold takes what it makes, in the order that the page gives."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto

import bnfold
from tests.fold_models import Row, numbers

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Path(__file__).parents[2] / "docs/recipes.md"
FEED = {"x": numbers(4, 3, 6, 7, seed=3)}
N = "BatchNormalization"
# A weight in a Constant node, which onnxruntime's quantize_dynamic does not take for one.
TEXT = (
    "a = Constant<value = float[4,3,1,1] {0.5, -1., 2., 0.25, 1., -0.5, 1.5, 2., -2., 1., 0.5, 0.75}>()"
    f" c = Conv(x, a) n = {N}(c, g, h, m, v) r = Relu(n) d = Conv<pads=[1,1,1,1]>(r, u) y = {N}(d, g, h, m, v)"
)


@pytest.fixture(scope="module")
def folded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("folded") / "folded.onnx"
    model = Row(TEXT, {"x": "float[4,3,6,7]"}, {"u": numbers(4, 4, 3, 3)}, opset=17).model()
    bnfold.optimize(model, path)
    assert [node.op_type for node in onnx.load(path).graph.node] == ["Conv", "Relu", "Conv"]
    return path


def answer(path: Path | str, options: ort.SessionOptions | None = None) -> np.ndarray:
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    [value] = session.run(None, FEED)
    return np.asarray(value)


def relative(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).max() / np.abs(other).max())


def test_the_page_has_the_recipes() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for words in ("quantize_dynamic", "quantize_static", "convert_float_to_float16", "save_model_format", "OpenVINO"):
        assert words in page


@pytest.mark.parametrize("level", ["DISABLE_ALL", "ENABLE_BASIC", "ENABLE_EXTENDED", "ENABLE_ALL"])
def test_onnxruntime_at_every_level(level: str, folded: Path) -> None:
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_{level}")
    assert relative(answer(folded, options), answer(folded)) < 1e-5


def test_fold_then_quantize_dynamically(folded: Path, tmp_path: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(folded, tmp_path / "q.onnx")
    assert "ConvInteger" in {node.op_type for node in onnx.load(tmp_path / "q.onnx").graph.node}
    assert relative(answer(tmp_path / "q.onnx"), answer(folded)) < 0.1


def test_fold_then_quantize_statically(folded: Path, tmp_path: Path) -> None:
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
        def __init__(self) -> None:
            self.feeds: Iterator[dict[str, np.ndarray]] = iter([FEED])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.feeds, None)

    quantize_static(folded, tmp_path / "q.onnx", Reader())
    operators = [node.op_type for node in onnx.load(tmp_path / "q.onnx").graph.node]
    assert N not in operators
    assert "QuantizeLinear" in operators
    assert relative(answer(tmp_path / "q.onnx"), answer(folded)) < 0.2


def test_fold_then_convert_to_float16(folded: Path, tmp_path: Path) -> None:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    made: ModelProto = convert_float_to_float16(onnx.load(folded), keep_io_types=True)
    onnx.save(made, tmp_path / "half.onnx")
    assert relative(answer(tmp_path / "half.onnx"), answer(folded)) < 0.01
    assert {tensor.data_type for tensor in made.graph.initializer} == {onnx.TensorProto.FLOAT16}


def test_fold_then_save_as_ort(folded: Path, tmp_path: Path) -> None:
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "m.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    expected = answer(folded, options)
    assert relative(answer(tmp_path / "m.ort"), expected) < 1e-6
