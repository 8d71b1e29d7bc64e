"""models/digits_cnn_train.onnx: a real network exported without .eval(), from the shell to the predictions."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner, Result
from onnx import ModelProto, numpy_helper

import bnfold
from bnfold.cli import main
from bnfold.errors import StatisticsError

MODELS = Path(__file__).parents[2] / "models"
TRAIN = MODELS / "digits_cnn_train.onnx"


def session(model: ModelProto | Path) -> ort.InferenceSession:
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    return ort.InferenceSession(source, providers=["CPUExecutionProvider"])


def logits(model: ModelProto | Path, images: np.ndarray, batch: int) -> np.ndarray:
    runner = session(model)
    parts = [runner.run(None, {"images": images[at : at + batch]})[0] for at in range(0, len(images), batch)]
    return np.concatenate(parts)


def without_statistics() -> ModelProto:
    """The same export of a network whose running statistics were reset."""
    model = onnx.load(TRAIN)
    for tensor in model.graph.initializer:
        if tensor.name.endswith(("running_mean", "running_var")):
            values = np.full(tuple(tensor.dims), float(tensor.name.endswith("var")), np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return model


def operators(model: ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def held_out() -> dict[str, np.ndarray]:
    with np.load(MODELS / "digits.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def optimized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("digits") / "out.onnx"
    bnfold.optimize(TRAIN, target)
    return target


def test_nothing_of_training_is_left(optimized: Path) -> None:
    found = operators(onnx.load(optimized))
    assert "BatchNormalization" not in found
    assert "Dropout" not in found
    before, after = onnx.load(TRAIN), onnx.load(optimized)
    assert before.opset_import == after.opset_import
    assert before.ir_version == after.ir_version


def test_the_predictions_are_those_of_the_eval_network(optimized: Path, held_out: dict[str, np.ndarray]) -> None:
    found = logits(optimized, held_out["images"], 64)
    golden = held_out["digits_cnn_logits"]
    np.testing.assert_array_equal(found.argmax(1), golden.argmax(1))
    np.testing.assert_allclose(found, golden, rtol=0, atol=1e-6 * np.abs(golden).max())
    right = int((logits(MODELS / "digits_cnn.onnx", held_out["images"], 64).argmax(1) == held_out["labels"]).sum())
    assert int((found.argmax(1) == held_out["labels"]).sum()) == right == 494


def test_each_image_is_answered_alike_in_every_batch(optimized: Path, held_out: dict[str, np.ndarray]) -> None:
    images = held_out["images"]
    one, seven, many = (logits(optimized, images, batch) for batch in (1, 7, 64))
    limit = 1e-6 * np.abs(one).max()
    np.testing.assert_allclose(seven, one, rtol=0, atol=limit)
    np.testing.assert_allclose(many, one, rtol=0, atol=limit)


def test_the_report_says_what_was_frozen_and_how_far_training_mode_is(tmp_path: Path) -> None:
    result = run("optimize", TRAIN, tmp_path / "o.onnx", "--report", tmp_path / "r.json")
    assert result.exit_code == 0, result.stderr
    assert "in training mode the input answers otherwise" in result.stdout
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["verdict"] == "equivalent"
    assert [distance["output"] for distance in report["training_distance"]] == ["logits"]
    details = {decision["op_type"]: decision["detail"] for decision in report["decisions"]}
    assert details["BatchNormalization"] == "its stored statistics were frozen first"


def test_freezing_alone_folds_nothing(tmp_path: Path, held_out: dict[str, np.ndarray]) -> None:
    result = run("freeze", TRAIN, tmp_path / "f.onnx")
    assert result.exit_code == 0, result.stderr
    frozen = onnx.load(tmp_path / "f.onnx")
    assert operators(frozen).count("BatchNormalization") == 5
    assert "Dropout" not in operators(frozen)
    assert frozen.graph.initializer == onnx.load(TRAIN).graph.initializer
    golden = held_out["digits_cnn_logits"]
    found = logits(frozen, held_out["images"], 64)
    np.testing.assert_allclose(found, golden, rtol=0, atol=1e-6 * np.abs(golden).max())


def test_dropout_can_be_kept(tmp_path: Path) -> None:
    result = run("optimize", TRAIN, tmp_path / "o.onnx", "--keep-dropout")
    assert result.exit_code == 0, result.stderr
    assert operators(onnx.load(tmp_path / "o.onnx")).count("Dropout") == 1
    images = np.random.default_rng(0).random((4, 1, 8, 8), np.float32)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # or it removes Dropout by itself
    runner = ort.InferenceSession(str(tmp_path / "o.onnx"), options, providers=["CPUExecutionProvider"])
    first, second = (runner.run(None, {"images": images})[0] for _ in range(2))
    assert np.abs(first - second).max() > 0


def test_no_freeze_leaves_training_mode(tmp_path: Path) -> None:
    result = run("optimize", TRAIN, tmp_path / "o.onnx", "--no-freeze", "--no-verify")
    assert result.exit_code == 0, result.stderr
    assert onnx.load(tmp_path / "o.onnx") == onnx.load(TRAIN)


@pytest.mark.parametrize("command", ["optimize", "freeze"])
def test_statistics_that_were_never_updated_are_refused(command: str, tmp_path: Path) -> None:
    source, target, report = tmp_path / "in.onnx", tmp_path / "out.onnx", tmp_path / "r.json"
    onnx.save(without_statistics(), source)
    result = run(command, source, target, "--report", report)
    assert result.exit_code == 1
    assert "bnfold recalibrate" in result.stderr
    assert "--accept-initial-statistics" in result.stderr
    assert not target.exists()
    content = json.loads(report.read_text())
    assert (content["exit_code"], content["published"]) == (1, None)
    codes = [decision["reason"]["code"] for decision in content["decisions"] if decision["reason"]]
    assert codes == ["INITIAL_STATISTICS"] * 5
    accepted = run(command, source, target, "--accept-initial-statistics")
    assert accepted.exit_code == 0, accepted.stderr
    assert target.exists()


def test_the_library_raises_with_the_report() -> None:
    with pytest.raises(StatisticsError) as caught:
        bnfold.optimize(without_statistics())
    assert caught.value.exit_code == 1
    assert len(caught.value.report.decisions) == 6


def test_inspect_tells_and_fails_on_request(tmp_path: Path) -> None:
    told = run("inspect", TRAIN)
    assert told.exit_code == 0
    assert told.stdout.count("EXPORTED_IN_TRAINING_MODE: It was exported without .eval()") == 1
    assert "/17/Dropout: Dropout, train mode\n" in told.stdout
    assert run("inspect", TRAIN, "-q", "--fail-on", "EXPORTED_IN_TRAINING_MODE").exit_code == 1
    good = run("inspect", MODELS / "digits_cnn.onnx", "-q", "--fail-on", "EXPORTED_IN_TRAINING_MODE")
    assert (good.exit_code, good.output) == (0, "")
    bnfold.freeze(TRAIN, tmp_path / "f.onnx")
    frozen = run("inspect", tmp_path / "f.onnx", "-q", "--fail-on", "EXPORTED_IN_TRAINING_MODE")
    assert (frozen.exit_code, frozen.output) == (0, "")


def test_inspect_as_json_has_kinds_and_diagnoses(tmp_path: Path) -> None:
    onnx.save(without_statistics(), tmp_path / "in.onnx")
    found = json.loads(run("inspect", tmp_path / "in.onnx", "--json").stdout)["normalizations"]
    kinds = {info["op_type"]: info["kind"] for info in found}
    assert kinds == {"BatchNormalization": "train, statistics never updated", "Dropout": "train"}
    codes = {each["code"] for info in found for each in info["diagnoses"]}
    assert codes == {"EXPORTED_IN_TRAINING_MODE", "INITIAL_STATISTICS", "ONE_VALUE_PER_CHANNEL"}


def test_the_pre_commit_hook_asks_for_codes_that_exist() -> None:
    text = (MODELS.parent / ".pre-commit-hooks.yaml").read_text()
    (entry,) = (line.partition("entry: bnfold ")[2] for line in text.splitlines() if "entry:" in line)
    assert run(*entry.split(), MODELS / "digits_cnn.onnx", MODELS / "digits_preact.onnx").exit_code == 0
    assert run(*entry.split(), MODELS / "digits_cnn.onnx", TRAIN).exit_code == 1
