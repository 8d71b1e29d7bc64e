"""`--provider` as people type it: what is missing is never called equivalent, and nothing is published."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from bnfold.cli import main
from tests.cli.test_processes import MODEL, MODULE, REPOSITORY, run

DATA = REPOSITORY / "models/digits.npz"
ASKED = [("cuda",), ("cpu", "cuda"), ("cuda", "cpu")]
COMMANDS = ("optimize", "freeze", "recalibrate", "verify")


@pytest.fixture(scope="module", autouse=True)
def without_cuda() -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")


def words(command: str, folder: Path, *options: str) -> list[str]:
    operands = [str(MODEL), str(MODEL)] if command == "verify" else [str(MODEL), str(folder / "out.onnx")]
    data = ["--data", str(DATA)] if command == "recalibrate" else []
    return [command, *operands, *data, *options]


@pytest.mark.parametrize("asked", ASKED, ids=" and ".join)
@pytest.mark.parametrize("command", COMMANDS)
def test_cuda_on_the_cpu_wheel_ends_with_exit_code_5_and_publishes_nothing(
    command: str, asked: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "out.onnx").write_bytes(b"what was there before")
    report = tmp_path / "report.json"
    options = [each for name in asked for each in ("--provider", name)]
    options += ["--report", str(report), "--keep-failed" if command == "optimize" else "-q"]
    done = CliRunner().invoke(main, words(command, tmp_path, *options))
    assert done.exit_code == 5
    assert done.stderr.startswith("bnfold: provider cuda: this onnxruntime has none; pip install 'bnfold[gpu]'")
    assert done.stderr.count("\n") == 1
    assert "equivalent" not in done.stdout
    assert (tmp_path / "out.onnx").read_bytes() == b"what was there before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.onnx", "report.json"]
    content = json.loads(report.read_text())
    assert (content["verdict"], content["exit_code"], content["error"]) == ("not-verified", 5, "ProviderError")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_provider_nobody_knows_is_wrong_usage_and_the_known_are_listed(command: str, tmp_path: Path) -> None:
    done = run(*MODULE, *words(command, tmp_path, "--provider", "tensorrt"))
    assert done.returncode == 2
    assert "known are cpu, cuda, openvino, webgpu" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
