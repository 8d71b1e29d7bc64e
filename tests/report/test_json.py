import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bnfold.decisions import Action, Decision, Reason
from bnfold.report import (
    FORMAT_VERSION,
    ComparisonReport,
    FailureReport,
    Inspection,
    ModelSummary,
    NormalizationInfo,
    Report,
    to_json,
)

SUMMARY = ModelSummary("in.onnx", "a" * 64, 41_234, 17, 3, 18, 9)
KEPT = Decision("bn", "BatchNormalization", "body", Action.KEPT, reason=Reason.BARRIER, detail="relu2")


def read(report: Any) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    text = to_json(report)
    assert text.endswith("}\n")
    assert text.isascii()
    content: dict[str, Any] = json.loads(text, parse_constant=refuse)
    return content


def test_a_report_has_the_keys_scripts_rely_on() -> None:
    report = Report("equivalent", 0, (KEPT,), SUMMARY, SUMMARY, "out.onnx", {"measurements": []}, options={"seed": 0})
    content = read(report)
    assert list(content) == [
        "format",
        "bnfold",
        "kind",
        "verdict",
        "exit_code",
        "explanation",
        "input",
        "output",
        "published",
        "weights_moved",
        "passes",
        "notes",
        "decisions",
        "stored",
        "verification",
        "attribution",
        "training_distance",
        "recalibration",
        "fitted",
        "accuracy",
        "options",
        "environment",
    ]
    assert (content["format"], content["kind"], content["verdict"]) == (FORMAT_VERSION, "optimize", "equivalent")
    assert content["input"] == {
        "path": "in.onnx",
        "sha256": "a" * 64,
        "bytes": 41_234,
        "nodes": 17,
        "batch_normalizations": 3,
        "opset": 18,
        "ir_version": 9,
    }
    assert content["decisions"] == [
        {
            "node": "bn",
            "op_type": "BatchNormalization",
            "scope": "body",
            "action": "kept",
            "target": [],
            "reason": {"code": "BARRIER", "sentence": Reason.BARRIER.sentence},
            "detail": "relu2",
        }
    ]


def test_what_is_missing_is_null() -> None:
    content = read(Report("not-verified", 0, (), SUMMARY))
    assert (content["output"], content["published"], content["verification"]) == (None, None, None)


def test_a_failure_never_looks_like_success() -> None:
    content = read(FailureReport("ModelError", "in.onnx is empty", 3))
    assert content["verdict"] == "not-verified"
    assert content["exit_code"] == 3
    assert (content["error"], content["explanation"]) == ("ModelError", "in.onnx is empty")


def test_a_comparison_names_both_models() -> None:
    content = read(ComparisonReport("not-equivalent", 1, "a.onnx", "b.onnx", {"largest": None}))
    assert (content["kind"], content["reference"], content["candidate"]) == ("verify", "a.onnx", "b.onnx")


def test_an_inspection_gives_momentum_in_both_conventions() -> None:
    info = NormalizationInfo("bn", "BatchNormalization", "", "train", 8, 1e-5, 0.75, "Conv c", KEPT)
    content = read(Inspection(SUMMARY, (info,)))
    assert content["normalizations"][0]["momentum"] == {"onnx": 0.75, "pytorch": 0.25}
    assert content["normalizations"][0]["decision"]["reason"]["code"] == "BARRIER"


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (float("nan"), "NaN"),
        (float("inf"), "Infinity"),
        (-float("inf"), "-Infinity"),
        (np.float32(0.5), 0.5),
        (np.float32("inf"), "Infinity"),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.array([[1, 2]]), [[1, 2]]),
        (Path("a/b"), "a/b"),
        (Action.KEPT, "kept"),
        ({"x": (1, 2)}, {"x": [1, 2]}),
        ("\udce9\x1b", "\udce9\x1b"),
        (True, True),
        (None, None),
    ],
)
def test_any_option_value_is_written_as_json(value: Any, written: Any) -> None:
    assert read(Report("equivalent", 0, (), SUMMARY, options={"value": value}))["options"]["value"] == written


def test_what_cannot_be_json_is_refused_instead_of_guessed() -> None:
    with pytest.raises(TypeError, match="cannot hold a object"):
        to_json(Report("equivalent", 0, (), SUMMARY, options={"value": object()}))


def test_the_environment_names_versions_and_neither_machine_nor_person(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("USER", "HOME", "HOSTNAME"):
        monkeypatch.setenv(variable, f"the-{variable}")
    environment = read(Report("equivalent", 0, (), SUMMARY))["environment"]
    assert list(environment) == ["python", "platform", "processor", "packages"]
    assert environment["packages"]["numpy"] == np.__version__
    assert environment == read(FailureReport("ModelError", "in.onnx is empty", 3))["environment"]
    text = json.dumps(environment)
    assert platform.node() not in text
    assert "the-" not in text


def test_a_given_environment_is_kept() -> None:
    given = {"python": "3.11.0", "platform": "", "processor": "", "packages": {}}
    assert read(Report("equivalent", 0, (), SUMMARY, environment=given))["environment"] == given
