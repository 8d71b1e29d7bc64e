"""A run that writes no report spends no time on checksums of the model."""

import hashlib
import json
from pathlib import Path
from typing import Any, NoReturn

import onnx
import pytest
from click.testing import CliRunner

import bnfold
from bnfold.cli import main
from bnfold.cli.shell import INTERNAL_ERROR
from bnfold.onnxfile import OnnxFile
from tests.fold_models import CONSTANTS, INPUTS, build

MODEL = build("c = Conv(x, w, b) y = BatchNormalization(c, g, h, m, v)", inputs=INPUTS, constants=CONSTANTS)
NOTHING_TO_FOLD = build("y = Conv(x, w, b)", inputs=INPUTS, constants=CONSTANTS)


def refuse(*_: Any, **__: Any) -> NoReturn:
    raise AssertionError("a checksum was started")


@pytest.fixture
def no_hashing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OnnxFile, "sha256", refuse)
    for room in ("model_file", "stream"):
        monkeypatch.setattr(f"bnfold.onnxfile.{room}.RunningHash", refuse)


@pytest.mark.usefixtures("no_hashing")
@pytest.mark.parametrize("model", [MODEL, NOTHING_TO_FOLD], ids=["folded", "copied"])
def test_without_checksums_nothing_is_hashed(model: onnx.ModelProto, tmp_path: Path) -> None:
    onnx.save(model, tmp_path / "in.onnx")
    for source in (tmp_path / "in.onnx", model):
        report = bnfold.optimize(source, tmp_path / "out.onnx", checksums=False).report
        assert report.input.to_dict()["sha256"] is None
        assert report.output is not None
        assert report.output.to_dict()["sha256"] is None


@pytest.mark.parametrize("model", [MODEL, NOTHING_TO_FOLD], ids=["folded", "copied"])
def test_a_known_checksum_is_repeated(model: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bnfold.onnxfile.model_file.RunningHash", refuse)
    onnx.save(model, tmp_path / "in.onnx")
    report = bnfold.optimize(tmp_path / "in.onnx", tmp_path / "out.onnx", known_sha256="ab" * 32).report
    assert report.input.sha256 == "ab" * 32
    assert report.output is not None
    assert (report.output.sha256 == hashlib.sha256((tmp_path / "out.onnx").read_bytes()).hexdigest()) == (
        model is MODEL
    )


@pytest.mark.usefixtures("no_hashing")
@pytest.mark.parametrize("command", ["optimize", "freeze"])
def test_the_command_line_hashes_for_a_report_only(command: str, tmp_path: Path) -> None:
    onnx.save(MODEL, tmp_path / "in.onnx")
    arguments = [command, str(tmp_path / "in.onnx"), str(tmp_path / "out.onnx")]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    assert CliRunner().invoke(main, [*arguments, "--report", str(tmp_path / "r.json")]).exit_code == INTERNAL_ERROR


def test_a_report_holds_the_checksums(tmp_path: Path) -> None:
    onnx.save(MODEL, tmp_path / "in.onnx")
    arguments = [
        "optimize",
        str(tmp_path / "in.onnx"),
        str(tmp_path / "out.onnx"),
        "--report",
        str(tmp_path / "r.json"),
    ]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    report = json.loads((tmp_path / "r.json").read_text())
    for side, name in (("input", "in.onnx"), ("output", "out.onnx")):
        assert report[side]["sha256"] == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()


def test_what_a_service_says_of_a_model_is_set_nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx.save(MODEL, tmp_path / "in.onnx")
    monkeypatch.setenv("BNFOLD_KNOWN_SHA256", "ab" * 32)
    arguments = [
        "optimize",
        str(tmp_path / "in.onnx"),
        str(tmp_path / "out.onnx"),
        "--report",
        str(tmp_path / "r.json"),
    ]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    assert "ab" * 32 not in (tmp_path / "r.json").read_text()
    assert CliRunner().invoke(main, [*arguments, "--known-sha256", "ab" * 32]).exit_code == 0
    assert "ab" * 32 in (tmp_path / "r.json").read_text()
