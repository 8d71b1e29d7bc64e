"""SARIF: of the shape that OASIS asks for, with a result for each thing that a person should look at."""

import json
from typing import Any

import jsonschema
import pytest

from bnfold.decisions import Reason
from bnfold.documentation import DOCUMENTATION
from bnfold.report import Format, render
from tests.report_samples import HOSTILE, OLD, decision, everything, hostile, old

# What SARIF 2.1.0 (sections 3.13 to 3.49) asks of the objects that are written here; no other property is.
TEXT = {"type": "object", "required": ["text"], "properties": {"text": {"type": "string"}}}
URI = {"type": "string", "pattern": r"^(https://|file:///)?[!$&'()*+,;=:@A-Za-z0-9._~%/#-]+$"}


def of(required: str = "", **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": required.split(),
        "additionalProperties": False,
    }


def several(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items, "uniqueItems": True}


STRING = {"type": "string"}
LEVEL = {"enum": ["none", "note", "warning", "error"]}
RULE = of("id", id=STRING, shortDescription=TEXT, helpUri=URI)
LOGICAL = of(name=STRING, fullyQualifiedName=STRING, kind=STRING)
LOCATION = of(
    physicalLocation=of(artifactLocation=of(uri=URI)),
    logicalLocations=several(LOGICAL),
)
RESULT = of(
    "message",
    ruleId=STRING,
    ruleIndex={"type": "integer", "minimum": -1},
    level=LEVEL,
    message=TEXT,
    locations={"type": "array", "items": LOCATION},
)
INVOCATION = of(
    "executionSuccessful",
    executionSuccessful={"type": "boolean"},
    exitCode={"type": "integer"},
    commandLine=STRING,
    toolExecutionNotifications={"type": "array", "items": of("message", level=LEVEL, message=TEXT)},
)
RUN = of(
    "tool",
    tool=of("driver", driver=of("name", name=STRING, version=STRING, informationUri=URI, rules=several(RULE))),
    invocations={"type": "array", "items": INVOCATION},
    results={"type": "array", "items": RESULT},
    columnKind={"enum": ["utf16CodeUnits", "unicodeCodePoints"]},
    properties={"type": "object"},
)
LOG = of("version runs", **{"$schema": URI, "version": {"const": "2.1.0"}, "runs": {"type": "array", "items": RUN}})


def run_of(report: Any) -> dict[str, Any]:
    """The run, after the log was held against the schema and every index against the rules."""
    log = json.loads(render(report, Format.SARIF))
    jsonschema.validate(log, LOG)
    [run] = log["runs"]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert len(set(rules)) == len(rules)
    for result in run["results"]:
        assert rules[result["ruleIndex"]] == result["ruleId"]
    found: dict[str, Any] = run
    return found


def told(run: dict[str, Any]) -> list[tuple[str, str]]:
    return [(result["level"], result["ruleId"]) for result in run["results"]]


@pytest.mark.parametrize("path", OLD, ids=lambda path: path.stem)
def test_it_has_the_shape(path: Any) -> None:
    run_of(old(path.stem))


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_names_keep_the_shape(text: str) -> None:
    run = run_of(hostile(text))
    assert all(len(result["message"]["text"]) < 1200 for result in run["results"])


def test_what_stays_is_a_note_with_its_node_and_the_page_of_its_reason() -> None:
    run = run_of(everything())
    assert told(run) == [
        ("warning", "guilty-pass"),
        ("note", "BARRIER"),
        ("note", "BARRIER"),
        ("note", "SHAPE_UNKNOWN"),
    ]
    first = run["results"][1]
    assert first["message"]["text"] == "kept1 is kept: The sentence of BARRIER. relu is Relu"
    [location] = first["locations"]
    assert location["physicalLocation"] == {"artifactLocation": {"uri": "fold.onnx"}}
    assert location["logicalLocations"] == [
        {"name": "kept1", "fullyQualifiedName": "if0/then/kept1", "kind": "element"}
    ]
    rule = run["tool"]["driver"]["rules"][1]
    assert rule["shortDescription"] == {"text": "The sentence of BARRIER."}
    assert rule["helpUri"] == f"{DOCUMENTATION}reasons.html#barrier"


@pytest.mark.parametrize(
    ("name", "results", "successful"),
    [
        ("optimize", [], True),
        ("substituted", [("warning", "verdict")], True),
        ("not-verified", [("warning", "verdict")], True),
        ("verify", [("error", "verdict")], False),
        ("failure", [("error", "verdict")], False),
        ("inspect", [], True),
    ],
)
def test_a_verdict_is_a_result_where_it_is_not_good(
    name: str, results: list[tuple[str, str]], successful: bool
) -> None:
    report = old(name)
    run = run_of(report)
    assert [each for each in told(run) if each[0] != "note"] == results
    assert run["invocations"][0]["executionSuccessful"] is successful
    assert run["properties"]["verdict"] == (report.get("verdict") or "")


def test_a_broken_proof_is_an_error() -> None:
    report = everything()
    report["verification"]["proofs"][1]["standing"] = "broken"
    assert ("error", "broken-proof") in told(run_of(report))


@pytest.mark.parametrize(
    ("path", "uri"),
    [
        ("models/a b#1.onnx", "models/a%20b%231.onnx"),
        ("/data/m.onnx", "file:///data/m.onnx"),
        ("ünïcode.onnx", "%C3%BCn%C3%AFcode.onnx"),
    ],
)
def test_a_path_is_a_uri(path: str, uri: str) -> None:
    report = everything()
    report["input"]["path"] = path
    assert run_of(report)["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == uri


def test_a_reason_of_a_later_version_has_no_page() -> None:
    report = everything()
    report["decisions"] = [decision("new", "kept", "OF_TOMORROW")]
    assert "OF_TOMORROW" not in {reason.code for reason in Reason}
    rule = run_of(report)["tool"]["driver"]["rules"][-1]
    assert (rule["id"], "helpUri" in rule) == ("OF_TOMORROW", False)
