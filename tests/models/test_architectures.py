"""Every architecture exports in silence, agrees with PyTorch, and holds the normalizations it should."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto, numpy_helper

from tests.architectures import (
    ARCHITECTURES,
    TRAIN_MODE_OPSETS,
    UNSUPPORTED,
    Exported,
    Exporter,
    exported,
    exported_in_train_mode,
    neighbourhoods,
    trained,
)
from tests.light_graphs import light
from tests.oracle import evaluate
from tests.shared import FOLDER

# Around each BatchNormalization, as the TorchScript exporter leaves it.
AROUND = {
    "conformer": {"Conv > Mul Sigmoid": 1},
    "conv1d": {"Conv > Relu": 1, "Conv > Elu": 1, "ConvTranspose > output": 1},
    "conv3d": {"Conv > Relu": 1, "AveragePool > Conv": 1, "Conv > ConvTranspose": 1, "ConvTranspose > Relu": 1},
    "densenet": {"Conv > Relu": 4, "MaxPool > Relu": 1, "Concat > Relu": 3, "AveragePool > Relu": 1},
    "frozen_batch_norm": {},
    "gan_generator": {"ConvTranspose > Relu": 2, "ConvTranspose > LeakyRelu": 1},
    "levit": {"Conv > HardSwish": 3, "Conv > Reshape Shape": 1, "Flatten > Reshape": 22, "ReduceMean > Gemm": 2},
    "mlp": {"Gemm > Relu": 1, "MatMul > Relu": 1, "Relu > Gemm": 1},
    "mobilenet_v2": {"Conv > Clip": 9, "Conv > Add Conv": 2, "Conv > Add": 2},
    "preact_resnet": {"Conv > Relu": 3, "Add > Relu": 2},
    "sequence_mlp": {"Transpose > Transpose": 2},
    "siamese": {"Conv > Relu": 2, "Sub > output": 1},
    "small_cnn": {"Conv > Relu": 2, "Gemm > output": 1},
    "squeeze_excite": {"Conv > HardSwish": 1, "Conv > GlobalAveragePool Mul": 1, "Conv > Relu": 1},
    "super_resolution": {"DepthToSpace > PRelu": 1, "Resize > Pad": 1},
    "unet": {"Conv > Relu": 7, "ConvTranspose > Concat": 1, "Concat > Conv": 2},
}

# The same for the dynamo exporter with optimize=False. A CastLike only asks for the type: it belongs to the zero bias
# that is written for a Conv without one.
AROUND_DYNAMO = {
    "batch_statistics": {"Conv > Relu": 1},
    "conv1d": {"Conv > Relu": 1, "Conv > CastLike CastLike Mul": 1, "ConvTranspose > output": 1},
    "levit": {"Conv > HardSwish": 3, "Conv > Reshape": 1, "Reshape > Reshape": 22, "ReduceMean > Gemm": 2},
    "mlp": {"Gemm > Relu": 2, "Relu > Gemm": 1},
    "mobilenet_v2": {"Conv > CastLike CastLike Clip": 9, "Conv > Add CastLike Conv": 2, "Conv > Add": 2},
    "unet": {"Conv > Relu": 7, "ConvTranspose > Concat": 1, "Concat > CastLike Conv": 2},
}

# And by default, where onnxscript has folded what it can: these are left.
AROUND_OPTIMIZED = {
    "densenet": {"MaxPool > Relu": 1, "Concat > Relu": 3, "AveragePool > Relu": 1},
    "siamese": {"Conv > Relu": 2, "Sub > output": 1},
    "super_resolution": {"DepthToSpace > PRelu": 1, "Resize > Pad": 1},
}

# Without constant folding the neighbours are the same, but weights and parameters are expressions.
UNFOLDED = ("frozen_batch_norm", "levit", "mlp", "sequence_mlp")

CASES: list[tuple[Exporter, str, dict[str, int]]] = [
    *(("torchscript", name, around) for name, around in AROUND.items()),
    *(("torchscript-unfolded", name, AROUND[name]) for name in UNFOLDED),
    *(("dynamo", name, around) for name, around in AROUND_DYNAMO.items()),
    *(("dynamo-optimized", name, around) for name, around in AROUND_OPTIMIZED.items()),
]


def by_onnxruntime(model: bytes, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"]).run(None, feeds)


def attribute(node: onnx.NodeProto, name: str, default: object) -> object:
    return next((onnx.helper.get_attribute_value(entry) for entry in node.attribute if entry.name == name), default)


def normalizations(model: ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == "BatchNormalization"]


def test_every_architecture_is_looked_at() -> None:
    without_torchscript = {name for name, exporter in UNSUPPORTED if exporter == "torchscript"}
    assert AROUND.keys() | without_torchscript == ARCHITECTURES.keys()
    assert without_torchscript <= AROUND_DYNAMO.keys()


# The dynamo exporter takes eighteen seconds for this one.
SLOW = {("dynamo", "levit")}
MARKED = [
    pytest.param(*case, id=f"{case[1]}-{case[0]}", marks=[pytest.mark.soak] if case[:2] in SLOW else [])
    for case in CASES
]


@pytest.mark.parametrize(("exporter", "name", "around"), MARKED)
def test_neighbours_of_each_normalization(exporter: Exporter, name: str, around: dict[str, int]) -> None:
    model = exported(name, exporter).proto
    onnx.checker.check_model(model, full_check=True)
    assert neighbourhoods(model) == around
    assert all(attribute(node, "training_mode", 0) == 0 and len(node.output) == 1 for node in normalizations(model))


@pytest.mark.parametrize(
    ("exporter", "name"), [pytest.param(*case.values[:2], id=case.id, marks=case.marks) for case in MARKED]
)
def test_onnxruntime_and_the_oracle_agree_with_torch(exporter: Exporter, name: str) -> None:
    made = exported(name, exporter)
    (expected,) = made.expected
    size = float(np.abs(expected).max())
    assert expected.std() > 0.1
    np.testing.assert_allclose(by_onnxruntime(made.model, made.feeds)[0], expected, rtol=0, atol=5e-6 * size)
    (exact,) = evaluate(made.proto, made.feeds).values()
    np.testing.assert_allclose(exact, expected, rtol=0, atol=5e-6 * size)


@pytest.mark.parametrize("name", sorted(AROUND))
def test_the_batch_is_dynamic(name: str) -> None:
    made = exported(name)
    (whole,) = by_onnxruntime(made.model, made.feeds)
    (first,) = by_onnxruntime(made.model, {key: value[:1] for key, value in made.feeds.items()})
    np.testing.assert_allclose(first, whole[:1], rtol=0, atol=5e-6 * float(np.abs(whole).max()))


@pytest.mark.parametrize("name", sorted(AROUND.keys() - {"frozen_batch_norm"}))
def test_statistics_are_not_trivial(name: str) -> None:
    signs = set()
    for key, variance in trained(name).state_dict().items():
        if key.endswith("running_var"):
            prefix = key.removesuffix("running_var")
            mean, gamma = (
                trained(name).get_buffer(f"{prefix}running_mean"),
                trained(name).get_parameter(f"{prefix}weight"),
            )
            assert (mean.abs() / variance.sqrt()).max() > 0.1, key
            assert (variance - 1).abs().max() > 0.1, key
            assert gamma.std() > 0.1, key
            signs |= set(gamma.sign().tolist())
    assert signs == {-1.0, 1.0}


def test_shared_weights_are_read_twice() -> None:
    first, second, _ = normalizations(exported("siamese").proto)
    assert list(first.input)[1:] == list(second.input)[1:]


def test_a_linear_without_constant_folding_transposes_its_weight() -> None:
    model = exported("mlp", "torchscript-unfolded").proto
    (transpose,) = (node for node in model.graph.node if node.op_type == "Transpose")
    assert transpose.input[0] in {tensor.name for tensor in model.graph.initializer}
    (matmul,) = (node for node in model.graph.node if node.op_type == "MatMul")
    assert matmul.input[1] == transpose.output[0]


@pytest.mark.parametrize(("exporter", "operators"), [("torchscript", 4), ("torchscript-unfolded", 36)])
def test_a_frozen_batch_norm_is_arithmetic(exporter: Exporter, operators: int) -> None:
    model = exported("frozen_batch_norm", exporter).proto
    kinds = {node.op_type for node in model.graph.node} - {"Conv", "Relu", "Constant", "Reshape", "Sqrt"}
    assert kinds <= {"Mul", "Add", "Sub", "Div"}
    assert len([node for node in model.graph.node if node.op_type not in {"Conv", "Relu"}]) == operators


def test_a_reader_of_shapes_stands_beside_the_normalizations_of_levit() -> None:
    model = exported("levit").proto
    flattened = [node.input[0] for node in model.graph.node if node.op_type == "Flatten"]
    readers = [sorted(node.op_type for node in model.graph.node if value in node.input) for value in flattened]
    assert len(readers) == 22
    assert all("Shape" in others for others in readers)


def test_batch_statistics_come_from_the_data() -> None:
    model = exported("batch_statistics", "dynamo").proto
    (node,) = normalizations(model)
    producers = {name: other.op_type for other in model.graph.node for name in other.output}
    assert producers[node.input[3]] == "ReduceMean"
    assert node.input[4] not in {tensor.name for tensor in model.graph.initializer}


def test_the_dynamo_exporter_hides_a_missing_bias_behind_a_computed_zero() -> None:
    model = exported("mobilenet_v2", "dynamo").proto
    producers = {name: node for node in model.graph.node for name in node.output}
    biases = [node.input[2] for node in model.graph.node if node.op_type == "Conv"]
    assert len(biases) == 13
    for bias in biases:
        assert producers[bias].op_type == "Expand"
        assert producers[producers[bias].input[0]].op_type == "CastLike"


TRAIN_MODE = [(exporter, opset) for exporter, opsets in TRAIN_MODE_OPSETS.items() for opset in opsets]


@pytest.mark.parametrize(("exporter", "opset"), TRAIN_MODE)
def test_train_mode_exports(exporter: Exporter, opset: int) -> None:
    made = exported_in_train_mode(exporter, opset)
    model = made.proto
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]
    nodes = normalizations(model)
    assert len(nodes) == 3
    form = {(len(node.output), attribute(node, "training_mode", 0)) for node in nodes}
    assert form == {(1, 0) if exporter == "dynamo" else (3, 1) if opset >= 14 else (5, 0)}
    (dropout,) = (node for node in model.graph.node if node.op_type == "Dropout")
    assert (len(dropout.input) == 3) == (opset >= 12)
    by_onnxruntime(made.model, made.feeds)
    (frozen,) = evaluate(model, made.feeds, inference=True).values()
    np.testing.assert_allclose(frozen, made.expected[0], rtol=0, atol=5e-6 * float(np.abs(made.expected[0]).max()))


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_only_the_torchscript_exporter_moves_the_statistics(exporter: Exporter) -> None:
    model = exported_in_train_mode(exporter, 18).proto
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    moved = {
        key: not np.array_equal(stored[key], value.numpy())
        for key, value in trained("small_cnn").state_dict().items()
        if key.endswith(("running_mean", "running_var"))
    }
    assert set(moved.values()) == {exporter == "torchscript"}


def test_dynamo_does_not_write_older_opsets() -> None:
    made: Exported = exported("mlp", "dynamo", 13)
    assert made.proto.opset_import[0].version == 18


@pytest.mark.parametrize("name", ["densenet121", "inception_v2", "squeezenet"])
def test_light_graphs_with_random_weights(name: str) -> None:
    model = light(name)
    onnx.checker.check_model(model)
    assert "ConstantOfShape" not in {node.op_type for node in model.graph.node}
    assert neighbourhoods(model) == neighbourhoods(light(name, seed=None))
    initializers = {tensor.name for tensor in model.graph.initializer}
    assert initializers <= {value.name for value in model.graph.input}  # as IR version 3 demands
    (image,) = (value.name for value in model.graph.input if value.name not in initializers)
    feeds = {image: np.random.default_rng(1).normal(size=(1, 3, 224, 224)).astype(np.float32)}
    (exact,) = evaluate(model, feeds).values()
    assert exact.shape[:2] == (1, 1000)
    assert 0.01 < exact.std() < 1000
    (other,) = by_onnxruntime(model.SerializeToString(), feeds)
    np.testing.assert_allclose(other, exact, rtol=0, atol=2e-6 * float(np.abs(exact).max()))


def test_exporting_is_silent_and_gives_the_same_bytes_in_another_process() -> None:
    script = """
import hashlib
import tests.architectures as architectures
for exporter in ("torchscript", "dynamo"):
    print(hashlib.sha256(architectures.exported("mlp", exporter).model).hexdigest())
architectures.exported_in_train_mode("torchscript", 13)
"""
    command = [sys.executable, "-W", "error", "-c", script]
    alone = {name: value for name, value in os.environ.items() if name != FOLDER}
    process = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2], env=alone
    )
    assert process.stderr == ""
    here = [hashlib.sha256(exported("mlp", exporter).model).hexdigest() for exporter in ("torchscript", "dynamo")]
    assert process.stdout.split() == here
