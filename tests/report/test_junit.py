"""JUnit XML: of the shape that dashboards read, with one failure for each thing that failed."""

from xml.etree import ElementTree as ET

import pytest

from bnfold.report import Format, render
from tests.report_samples import HOSTILE, OLD, everything, hostile, old

# The elements of junit-10.xsd of Jenkins' xunit plugin: attributes (the first is required), and children in order.
SHAPE = {
    "testsuites": ({"name", "tests", "failures", "errors", "disabled", "time"}, ["testsuite"]),
    "testsuite": (
        {"name", "tests", "failures", "errors", "skipped", "time", "timestamp", "hostname", "id", "package"},
        ["properties", "testcase", "system-out", "system-err"],
    ),
    "properties": (set(), ["property"]),
    "property": ({"name", "value"}, []),
    "testcase": ({"name", "classname", "assertions", "time", "status"}, ["skipped", "error", "failure", "system-out"]),
    "skipped": ({"type", "message"}, []),
    "system-out": (set(), []),
    "error": ({"type", "message"}, []),
    "failure": ({"type", "message"}, []),
}


def checked(text: str) -> ET.Element:
    """The root, after every element was held against `SHAPE` and every count against what is there."""
    root = ET.fromstring(text)
    assert root.tag == "testsuites"
    for element in root.iter():
        attributes, children = SHAPE[element.tag]
        assert set(element.attrib) <= attributes
        tags = [child.tag for child in element]
        assert tags == sorted(tags, key=children.index)
        if element.tag in ("testsuite", "testcase", "property"):
            assert "name" in element.attrib
        for counted, tag in (
            ("tests", "testcase"),
            ("failures", "failure"),
            ("errors", "error"),
            ("skipped", "skipped"),
        ):
            if counted in element.attrib:
                assert int(element.attrib[counted]) == sum(1 for _ in element.iter(tag))
    return root


def outcomes(root: ET.Element, suite: str) -> dict[str, str]:
    cases = root.findall(f"testsuite[@name='bnfold.{suite}']/testcase")
    return {case.attrib["name"]: next((child.tag for child in case), "passed") for case in cases}


@pytest.mark.parametrize("path", OLD, ids=lambda path: path.stem)
def test_it_has_the_shape(path: object) -> None:
    checked(render(old(path.stem), Format.JUNIT))  # type: ignore[attr-defined]  # parametrized with paths


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_names_are_legal_xml(text: str) -> None:
    root = checked(render(hostile(text), Format.JUNIT))
    assert len(outcomes(root, "normalizations")) in (1, 2)  # all of one name, one of another op_type or scope
    assert all(len(value) < 1000 for element in root.iter() for value in element.attrib.values())


def test_each_output_in_each_setting_is_a_case() -> None:
    root = checked(render(everything(), Format.JUNIT))
    assert outcomes(root, "equivalence") == {
        "verdict": "passed",
        "output y (cpu, optimization off)": "passed",
        "output y (cpu, optimization on)": "passed",
        "output y (openvino, optimization off, precision deploy)": "skipped",
        "value z behind an output (cpu, optimization off)": "failure",
        "output labels (cpu, optimization off)": "passed",
    }


def test_what_stays_is_skipped_with_its_reason() -> None:
    root = checked(render(everything(), Format.JUNIT))
    assert outcomes(root, "normalizations") == {
        "y": "passed",
        "kept1 (if0/then)": "skipped",
        "kept2": "skipped",
        "kept3": "skipped",
    }
    skipped = root.find(".//testcase[@name='kept2']/skipped")
    assert skipped is not None
    assert skipped.attrib["message"] == "kept [BARRIER]: The sentence of BARRIER."
    assert outcomes(root, "proofs") == {"bn1": "passed", "bn2, bn3": "skipped"}


def test_each_pass_is_a_case_with_its_time() -> None:
    root = checked(render(everything(), Format.JUNIT))
    found = {case.attrib["name"]: case for case in root.findall("testsuite[@name='bnfold.passes']/testcase")}
    assert [case.attrib["time"] for case in found.values()] == ["0.125"] * 4
    told = {name: (case.findtext("system-out"), case.find("skipped") is not None) for name, case in found.items()}
    assert told == {
        "fold-batch-norm": ("5 nodes removed, 1 weight; proved", False),
        "own": ("1 node added, 1 rewired, 1 changed, a; compared by running only: y", False),
        "wrong": ("5 nodes removed, 1 weight; taken back", True),
        "idle": (None, False),
    }


@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        ("optimize", "passed"),
        ("substituted", "skipped"),
        ("not-verified", "skipped"),
        ("verify", "failure"),
        ("failure", "error"),
        ("inspect", "passed"),
    ],
)
def test_the_verdict_is_a_case_of_its_own(name: str, outcome: str) -> None:
    assert outcomes(checked(render(old(name), Format.JUNIT)), "equivalence")["verdict"] == outcome


def test_a_run_that_failed_without_comparing_is_a_failure() -> None:
    report = old("not-verified") | {"exit_code": 1}
    assert outcomes(checked(render(report, Format.JUNIT)), "equivalence") == {"verdict": "failure"}
