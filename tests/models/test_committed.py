"""The files in models/ are what models/README.md says they are."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto, NodeProto, numpy_helper

MODELS = Path(__file__).parents[2] / "models"
NORMALIZATIONS = {"digits_cnn": 5, "digits_autoencoder": 6, "digits_preact": 11, "digits_cnn_train": 5}


def load(name: str) -> ModelProto:
    return onnx.load(MODELS / f"{name}.onnx")


def attributes(node: NodeProto) -> dict[str, object]:
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def run(model: ModelProto, images: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images})[0]


@pytest.fixture(scope="module")
def held_out() -> dict[str, np.ndarray]:
    with np.load(MODELS / "digits.npz") as file:
        return dict(file)


@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_opset_ir_version_size_and_normalizations(name: str) -> None:
    model = load(name)
    onnx.checker.check_model(model, full_check=True)
    normalizations = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    assert len(normalizations) == NORMALIZATIONS[name]
    assert {attributes(node)["training_mode"] for node in normalizations} == {int(name.endswith("_train"))}
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
    assert model.ir_version == 8
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    size = (MODELS / f"{name}.onnx").stat().st_size
    assert f"| {size:,} |" in (MODELS / "README.md").read_text(encoding="utf-8")


def test_everything_committed_is_small() -> None:
    assert sum(file.stat().st_size for file in MODELS.iterdir() if file.is_file()) < 2_000_000


@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_every_normalization_has_statistics_that_training_spread(name: str) -> None:
    model = load(name)
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    behind = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "Identity"}
    for node in model.graph.node:
        if node.op_type != "BatchNormalization":
            continue
        _, _, mean, variance = (arrays[behind.get(value, value)].astype(np.float64) for value in node.input[1:])
        gamma, beta = (arrays[value].astype(np.float64) for value in node.input[1:3])
        scale = gamma / np.sqrt(variance + 1e-5)
        shift = beta - mean * scale
        assert np.abs(scale - 1).max() > 0.1, node.name
        assert np.abs(shift).max() > 0.1, node.name
        assert mean.size == 1 or scale.std() > 0.05, node.name


@pytest.mark.parametrize(("name", "right"), [("digits_cnn", 494), ("digits_preact", 493)])
def test_held_out_accuracy(name: str, right: int, held_out: dict[str, np.ndarray]) -> None:
    logits = run(load(name), held_out["images"])
    assert int((logits.argmax(1) == held_out["labels"]).sum()) == right
    assert f"{right} of 500 right" in (MODELS / "README.md").read_text(encoding="utf-8")


def test_held_out_reconstruction_error(held_out: dict[str, np.ndarray]) -> None:
    images = held_out["images"]
    reconstruction = run(load("digits_autoencoder"), images)
    assert float(np.mean((reconstruction - images) ** 2)) == pytest.approx(0.00836, abs=5e-6)


def test_the_golden_logits_are_those_of_digits_cnn(held_out: dict[str, np.ndarray]) -> None:
    logits = run(load("digits_cnn"), held_out["images"])
    np.testing.assert_allclose(logits, held_out["digits_cnn_logits"], rtol=0, atol=2e-5)


def test_the_train_mode_export_holds_the_trained_weights_and_statistics() -> None:
    model, train = load("digits_cnn"), load("digits_cnn_train")
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    train_weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in train.graph.initializer}
    assert weights.keys() == train_weights.keys()
    for name, array in weights.items():
        np.testing.assert_array_equal(array, train_weights[name], err_msg=name)


def test_the_train_mode_export_is_in_train_mode() -> None:
    model = load("digits_cnn_train")
    nodes = Counter(node.op_type for node in model.graph.node)
    assert nodes["Dropout"] == 1
    constants = {node.output[0]: attributes(node)["value"] for node in model.graph.node if node.op_type == "Constant"}
    (dropout,) = (node for node in model.graph.node if node.op_type == "Dropout")
    assert numpy_helper.to_array(constants[dropout.input[2]]) == np.True_
    assert all(len(node.output) == 3 for node in model.graph.node if node.op_type == "BatchNormalization")


def test_held_out_and_training_images_are_disjoint(held_out: dict[str, np.ndarray]) -> None:
    with np.load(MODELS / "digits_train.npz") as file:
        assert file.files == ["images"]
        train = file["images"]
    assert held_out["images"].dtype == train.dtype == np.float32
    assert held_out["images"].shape == (500, 1, 8, 8)
    assert train.shape == (1297, 1, 8, 8)
    assert not {image.tobytes() for image in train} & {image.tobytes() for image in held_out["images"]}
