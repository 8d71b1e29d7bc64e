"""OpenVINO for real: as a plugin beside onnxruntime, and compiled into the onnxruntime of another wheel.

The second shares its module with the first and is taken from the folder ONNXRUNTIME_OPENVINO:

    pip install onnxruntime-ep-openvino
    pip install --no-deps --target FOLDER onnxruntime-openvino
    ONNXRUNTIME_OPENVINO=FOLDER pytest -m openvino

Every run is a process of its own, so neither a plugin nor a second onnxruntime gets into that of the tests.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import numpy_helper

from tests import intel_processor

pytestmark = pytest.mark.openvino

REPOSITORY = Path(__file__).parents[2]
MODELS = ("digits_autoencoder", "digits_cnn_train", "digits_cnn", "digits_preact")
EP_NAME = "OpenVINOExecutionProvider"


class Bnfold:
    """The command line in a process where OpenVINO is; `run` answers the exit code, the outputs and the report."""

    def __init__(self, module: str, folders: list[str]) -> None:
        self.module = module
        self.environment = os.environ | {"PYTHONPATH": os.pathsep.join([*folders, str(REPOSITORY)]), "NO_COLOR": "1"}

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", self.module, *map(str, arguments)]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=self.environment, cwd=REPOSITORY, timeout=300
        )
        if done.returncode == intel_processor.UNKNOWN_LAYOUT:
            pytest.skip("the plugin offers no device on this processor, and onnxruntime's memory is laid out otherwise")
        return done

    def reported(self, report: Path, *arguments: object) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
        done = self.run(*arguments, "--provider", "openvino", "--report", report)
        return done, json.loads(report.read_text()) if report.exists() else {}


def plugin() -> Bnfold:
    if importlib.util.find_spec("onnxruntime_ep_openvino") is None:
        pytest.skip("the plugin is not installed: pip install onnxruntime-ep-openvino")
    return Bnfold("tests.intel_processor", [])


def compiled_in() -> Bnfold:
    folder = os.environ.get("ONNXRUNTIME_OPENVINO", "")
    if not (Path(folder) / "onnxruntime").is_dir() or not folder:
        pytest.skip("ONNXRUNTIME_OPENVINO names no folder with the onnxruntime of onnxruntime-openvino")
    return Bnfold("bnfold", [folder])


@pytest.fixture(params=[plugin, compiled_in], ids=["plugin", "compiled in"])
def bnfold(request: pytest.FixtureRequest) -> Bnfold:
    return request.param()


@pytest.mark.parametrize("name", [*MODELS[:2], *(pytest.param(name, marks=pytest.mark.soak) for name in MODELS[2:])])
def test_each_model_is_folded_and_equivalent_and_every_node_ran_there(
    bnfold: Bnfold, name: str, tmp_path: Path
) -> None:
    output, report = tmp_path / "folded.onnx", tmp_path / "report.json"
    done, content = bnfold.reported(report, "optimize", f"models/{name}.onnx", output)
    assert (done.returncode, content["verdict"]) == (0, "equivalent"), done.stdout + done.stderr
    assert content["output"]["batch_normalizations"] == 0
    placements = content["verification"]["placements"]
    assert [(place["optimization"], place["precision"]) for place in placements] == [
        ("off", "strict"),
        ("on", "strict"),
        ("on", "deploy"),
    ]
    for place in placements:
        assert place["provider"] == "openvino"
        assert EP_NAME in place["effective"]
        assert set(place["nodes"]) == {EP_NAME}
        assert place["nodes"][EP_NAME]["Conv"] >= 2
    assert f"\nopenvino, optimization off: {sum(placements[0]['nodes'][EP_NAME].values())} nodes on {EP_NAME}\n" in (
        done.stdout
    )
    assert onnx.load(output).graph.node


def test_a_wrong_model_is_found_out(bnfold: Bnfold, tmp_path: Path) -> None:
    model = onnx.load(REPOSITORY / "models/digits_cnn.onnx")
    weight = next(each for each in model.graph.initializer if len(each.dims) == 4)
    wrong = numpy_helper.to_array(weight) * (1 + 1e-3)
    weight.CopyFrom(numpy_helper.from_array(wrong.astype("float32"), weight.name))
    onnx.save(model, tmp_path / "wrong.onnx")
    done, content = bnfold.reported(
        tmp_path / "report.json", "verify", "models/digits_cnn.onnx", tmp_path / "wrong.onnx"
    )
    assert (done.returncode, content["verdict"]) == (1, "not-equivalent")


def test_the_precision_of_its_defaults_is_seen_and_decides_nothing(tmp_path: Path) -> None:
    """In bfloat16 where the processor has instructions for it: 8 bits, so that an error is above 1e-4."""
    model = "models/digits_cnn.onnx"
    done, content = plugin().reported(tmp_path / "report.json", "verify", model, model)
    assert (done.returncode, content["verdict"]) == (0, "equivalent"), done.stdout + done.stderr
    relative: dict[str, list[float]] = {"strict": [], "deploy": []}
    for measurement in content["verification"]["measurements"]:
        relative[measurement["precision"]].append(measurement["relative"])
    assert max(relative["strict"]) < 4e-6
    assert "\nbeside the verdict: largest deviation " in done.stdout
    flags = Path("/proc/cpuinfo").read_text().split() if Path("/proc/cpuinfo").exists() else []
    if not {"avx512_bf16", "amx_bf16"} & set(flags):
        pytest.skip("this processor has no instructions for bfloat16")
    assert 1e-4 < max(relative["deploy"]) < 0.1
    assert "at its own defaults, optimization on: agrees (untouched)" in done.stdout


def test_on_another_processor_the_plugin_says_that_it_offers_no_device(tmp_path: Path) -> None:
    here = plugin()
    import onnxruntime

    vendors = {each.device.vendor_id for each in onnxruntime.get_ep_devices()}
    if intel_processor.INTEL in vendors:
        pytest.skip("this processor is Intel's")
    here.module = "bnfold"
    done = here.run("optimize", "models/digits_cnn.onnx", tmp_path / "folded.onnx", "--provider", "openvino")
    assert done.returncode == 5
    assert "it offers no device on this machine; pip install" in done.stderr
    assert not list(tmp_path.iterdir())
