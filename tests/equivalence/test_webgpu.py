"""WebGPU for real, over any Vulkan driver: docs/providers.md says how to have one without a graphics card.

Every run is a process of its own: the driver's threads do not get into that of the tests.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper, parser

pytestmark = pytest.mark.webgpu

REPOSITORY = Path(__file__).parents[2]
EP_NAME = "WebGpuExecutionProvider"


def bnfold(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bnfold", *map(str, arguments), "--provider", "webgpu"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "NO_COLOR": "1"} | environment,
        cwd=REPOSITORY,
        timeout=300,
    )


@pytest.fixture(scope="module", autouse=True)
def driver() -> None:
    if importlib.util.find_spec("onnxruntime_ep_webgpu") is None:
        pytest.skip("the plugin is not installed: pip install onnxruntime-ep-webgpu")
    model = REPOSITORY / "models/digits_cnn.onnx"
    done = bnfold("verify", model, model)
    if done.returncode == 5:
        pytest.skip(done.stderr.strip().splitlines()[-1])


@pytest.mark.parametrize("name", ["digits_cnn", "digits_autoencoder", "digits_preact", "digits_cnn_train"])
def test_each_model_is_folded_and_equivalent_and_the_compute_nodes_ran_there(name: str, tmp_path: Path) -> None:
    output, report = tmp_path / "folded.onnx", tmp_path / "report.json"
    done = bnfold("optimize", f"models/{name}.onnx", output, "--report", report)
    content = json.loads(report.read_text())
    assert (done.returncode, content["verdict"]) == (0, "equivalent"), done.stdout + done.stderr
    placements = content["verification"]["placements"]
    assert [(place["optimization"], place["precision"]) for place in placements] == [
        ("off", "strict"),
        ("on", "strict"),
    ]
    for place in placements:
        assert EP_NAME in place["effective"]
        assert place["nodes"][EP_NAME]["Conv"] >= 2
    assert f" nodes on {EP_NAME}" in done.stdout


def test_a_wrong_model_is_found_out(tmp_path: Path) -> None:
    model = onnx.load(REPOSITORY / "models/digits_cnn.onnx")
    weight = next(each for each in model.graph.initializer if len(each.dims) == 4)
    wrong = numpy_helper.to_array(weight) * (1 + 1e-3)
    weight.CopyFrom(numpy_helper.from_array(wrong.astype("float32"), weight.name))
    onnx.save(model, tmp_path / "wrong.onnx")
    done = bnfold("verify", "models/digits_cnn.onnx", tmp_path / "wrong.onnx")
    assert done.returncode == 1
    assert "not-equivalent" in done.stdout


TRAINING = {
    "opset 15": (
        '<ir_version: 8, opset_import: ["" : 15]> agraph (float[2,3,4,4] x) => (float[2,3,4,4] y) '
        "<float[3] s = {1, 2, 3}, float[3] b = {0, 1, 2}, float[3] m = {3, 2, 1}, float[3] v = {2, 4, 8}> "
        "{ y, rm, rv = BatchNormalization<training_mode=1>(x, s, b, m, v) }"
    ),
    "opset 9": (
        '<ir_version: 8, opset_import: ["" : 9]> agraph (float[2,3,4,4] x) => (float[2,3,4,4] y) '
        "<float[3] s = {1, 2, 3}, float[3] b = {0, 1, 2}, float[3] m = {3, 2, 1}, float[3] v = {2, 4, 8}> "
        "{ y, rm, rv, sm, sv = BatchNormalization(x, s, b, m, v) }"
    ),
}


@pytest.mark.parametrize("text", TRAINING.values(), ids=TRAINING)
def test_training_mode_is_never_equivalent(text: str, tmp_path: Path) -> None:
    """It refuses the newer spelling, and silently runs inference for the older one."""
    onnx.save(parser.parse_model(text), tmp_path / "train.onnx")
    done = bnfold("verify", tmp_path / "train.onnx", tmp_path / "train.onnx")
    assert done.returncode == 1, done.stdout
    assert done.stdout.startswith("not-")
    assert "webgpu, optimization off" in done.stderr


def test_without_a_driver_it_cannot_be_started_and_nothing_is_published(tmp_path: Path) -> None:
    nowhere = {"VK_ICD_FILENAMES": "/nowhere.json", "VK_DRIVER_FILES": "/nowhere.json"}
    done = bnfold("optimize", "models/digits_cnn.onnx", tmp_path / "folded.onnx", **nowhere)
    assert done.returncode == 5, done.stderr
    assert done.stderr.splitlines()[-1].startswith("bnfold: provider webgpu: it ")
    assert not list(tmp_path.iterdir())
