"""Whole runs on real models: every normalization gone, the numbers the same, a second run finds nothing to do."""

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import bnfold
from bnfold.decisions import Reason
from bnfold.equivalence import Verdict
from tests import light_graphs
from tests.oracle import evaluate

MODELS = Path(__file__).parents[2] / "models"
LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
DIGITS = ("digits_cnn", "digits_autoencoder", "digits_preact")
LIGHT_COUNTS = {"light_resnet50": 53, "light_inception_v2": 69, "light_shufflenet": 49, "light_densenet121": 121}


def digits() -> dict[str, np.ndarray]:
    with np.load(MODELS / "digits.npz") as arrays:
        return dict(arrays)


def batch_norms(model: onnx.ModelProto) -> int:
    return sum(node.op_type == "BatchNormalization" for node in model.graph.node)


def run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def largest_error(outputs: list[np.ndarray], truth: dict[str, np.ndarray]) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(outputs, truth.values(), strict=True))


def assert_as_exact_as_the_original(original: onnx.ModelProto, folded: onnx.ModelProto, feeds: dict) -> None:
    """At most twice the float32 error that the original itself has, measured against float64."""
    truth = evaluate(original, feeds)
    own, now = largest_error(run(original, feeds), truth), largest_error(run(folded, feeds), truth)
    assert now <= 2 * own, (now, own)


@pytest.mark.parametrize("name", DIGITS)
def test_digits_models_lose_every_batch_norm(name: str, tmp_path: Path) -> None:
    source, output = MODELS / f"{name}.onnx", tmp_path / "out.onnx"
    before = hashlib.sha256(source.read_bytes()).hexdigest()
    result = bnfold.optimize(source, output)
    folded = onnx.load(output)
    assert result.report.verdict == Verdict.EQUIVALENT
    assert result.report.exit_code == 0
    assert batch_norms(folded) == 0
    onnx.checker.check_model(folded, full_check=True)
    assert hashlib.sha256(source.read_bytes()).hexdigest() == before == result.report.input.sha256
    assert hashlib.sha256(output.read_bytes()).hexdigest() == result.report.output.sha256

    images = digits()["images"]
    assert_as_exact_as_the_original(onnx.load(source), folded, {"images": images[:64]})

    again = bnfold.optimize(output, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == output.read_bytes()
    assert all(decision.action == "kept" for decision in again.report.decisions)


@pytest.mark.parametrize("name", ["digits_cnn", "digits_preact"])
def test_accuracy_stays_to_the_last_image(name: str) -> None:
    held_out = digits()
    original = onnx.load(MODELS / f"{name}.onnx")
    folded = bnfold.optimize(original).model
    predictions = [run(model, {"images": held_out["images"]})[0].argmax(axis=1) for model in (original, folded)]
    np.testing.assert_array_equal(predictions[0], predictions[1])
    assert (predictions[1] == held_out["labels"]).mean() > 0.97


@pytest.mark.parametrize("name", ["light_densenet121", "light_shufflenet"])
def test_light_graphs_as_shipped(name: str, tmp_path: Path) -> None:
    """Opset 9, IR version 3, weights from ConstantOfShape, some initializers listed as inputs."""
    source = LIGHT / f"{name}.onnx"
    original = onnx.load(source)
    assert batch_norms(original) == LIGHT_COUNTS[name]
    result = bnfold.optimize(source, tmp_path / "out.onnx")
    folded = onnx.load(tmp_path / "out.onnx")
    assert result.report.verdict == Verdict.EQUIVALENT
    assert batch_norms(folded) == 0
    assert len(result.report.decisions) >= LIGHT_COUNTS[name]
    assert folded.ir_version == original.ir_version
    assert folded.opset_import == original.opset_import
    assert len(folded.graph.node) <= len(original.graph.node)
    onnx.checker.check_model(folded, full_check=True)

    bnfold.optimize(tmp_path / "out.onnx", tmp_path / "again.onnx", verify=False)
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "out.onnx").read_bytes()


@pytest.mark.parametrize("name", LIGHT_COUNTS)
def test_light_graphs_with_weights_that_can_tell(name: str) -> None:
    """As shipped all weights are alike and hide a wrong fold; with random ones a fold shows in every output."""
    original = light_graphs.light(name.removeprefix("light_"))
    result = bnfold.optimize(original, verify=False)
    folded = result.model
    kept = Counter(decision.reason for decision in result.report.decisions if decision.action == "kept")
    # DenseNet normalizes what earlier layers go on reading, and a scale of either sign does not pass the Relu behind.
    assert kept == ({Reason.OTHER_CONSUMER: 61} if name == "light_densenet121" else {})
    assert batch_norms(folded) == kept.total()
    stored = {tensor.name for tensor in original.graph.initializer}
    (value,) = (value for value in original.graph.input if value.name not in stored)
    shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    feeds = {value.name: np.random.default_rng(0).normal(size=shape).astype(np.float32)}
    assert_as_exact_as_the_original(original, folded, feeds)


def test_every_kind_of_model_comes_back_as_it_came(tmp_path: Path) -> None:
    import onnx_graphsurgeon
    import onnx_ir

    path = MODELS / "digits_cnn.onnx"
    proto = onnx.load(path)
    copy = proto.SerializeToString()
    graph = onnx_graphsurgeon.import_onnx(proto)
    nodes = len(graph.nodes)
    assert isinstance(bnfold.optimize(path).model, onnx.ModelProto)
    assert isinstance(bnfold.optimize(proto).model, onnx.ModelProto)
    assert isinstance(bnfold.optimize(path.read_bytes()).model, bytes)
    optimized = bnfold.optimize(graph).model
    assert isinstance(optimized, onnx_graphsurgeon.Graph)
    assert "BatchNormalization" not in {node.op for node in optimized.nodes}
    model = onnx_ir.from_proto(proto)
    lighter = bnfold.optimize(model).model
    assert isinstance(lighter, onnx_ir.Model)
    assert "BatchNormalization" not in {node.op_type for node in lighter.graph}
    assert bnfold.verify(model, lighter).verdict == "equivalent"
    assert "BatchNormalization" in {node.op_type for node in model.graph}
    assert proto.SerializeToString() == copy
    assert len(graph.nodes) == nodes
    assert bnfold.optimize(path, tmp_path / "out.onnx").model is None


def test_a_model_that_cannot_be_run_nor_proved_is_not_published(tmp_path: Path) -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17, "my.ops" : 1]>
        g (float[N,2,5,5] x) => (float[N,3,5,5] y)
        <float[3,2,1,1] w = {1,2,3,4,5,6}, float[3] s = {1,2,3}, float[3] b = {1,2,3}, float[3] m = {1,2,3},
         float[3] v = {1,2,3}>
        { a = my.ops.Strange(x) c = Conv(a, w) y = BatchNormalization(c, s, b, m, v) }
    """)
    onnx.save(model, tmp_path / "in.onnx")
    with pytest.raises(bnfold.ReportedError) as raised:
        bnfold.optimize(tmp_path / "in.onnx", tmp_path / "out.onnx", proof="never")
    assert raised.value.exit_code == 1
    assert raised.value.report.verdict == Verdict.NOT_VERIFIED
    assert not (tmp_path / "out.onnx").exists()
    for allowed in ({"allow_unverified": True, "proof": "never"}, {"verify": False}):
        report = bnfold.optimize(tmp_path / "in.onnx", tmp_path / "out.onnx", **allowed).report
        assert (report.exit_code, batch_norms(onnx.load(tmp_path / "out.onnx"))) == (0, 0)
        (tmp_path / "out.onnx").unlink()


def test_a_mismatch_is_not_published(tmp_path: Path) -> None:
    """A tolerance that rounding cannot meet stands in for a wrong fold."""
    before = sorted(tmp_path.iterdir())
    with pytest.raises(bnfold.ReportedError) as raised:
        bnfold.optimize(MODELS / "digits_cnn.onnx", tmp_path / "out.onnx", rtol=0.0, atol=0.0)
    assert raised.value.exit_code == 1
    assert raised.value.report.verdict == Verdict.NOT_EQUIVALENT
    assert sorted(tmp_path.iterdir()) == before


def test_a_failed_result_can_be_kept_for_a_look(tmp_path: Path) -> None:
    with pytest.raises(bnfold.BnfoldError):
        bnfold.optimize(MODELS / "digits_cnn.onnx", tmp_path / "out.onnx", rtol=0.0, atol=0.0, keep_failed=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out.failed.onnx"]
    assert batch_norms(onnx.load(tmp_path / "out.failed.onnx")) == 0


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    report = bnfold.optimize(MODELS / "digits_cnn.onnx", tmp_path / "out.onnx", dry_run=True).report
    assert (report.verdict, report.published) == (Verdict.EQUIVALENT, None)
    assert list(tmp_path.iterdir()) == []
