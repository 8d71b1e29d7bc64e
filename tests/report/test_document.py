"""A report as people read it: what is grouped and summed, and what damaged files do."""

import json
from pathlib import Path
from typing import Any

import pytest

from bnfold.errors import UsageError
from bnfold.report import Format, read_report, render
from bnfold.report.document import Document
from tests.report_samples import HOSTILE, OLD, everything, hostile, old


def test_measurements_are_grouped_by_output_and_setting() -> None:
    comparisons = Document.of(everything()).comparisons
    assert [(each.output, each.provider, each.optimization, each.decides) for each in comparisons] == [
        ("y", "cpu", "off", True),
        ("y", "cpu", "on", True),
        ("y", "openvino", "off", False),
        ("z", "cpu", "off", True),
        ("labels", "cpu", "off", True),
    ]
    assert [len(each.differing) for each in comparisons] == [0, 0, 1, 1, 0]


def test_what_differs_is_worse_than_what_deviates_more() -> None:
    report = everything()
    first, second = report["verification"]["measurements"][:2]
    first |= {"feed": "a", "relative": 1e-3}
    second |= {"feed": "b", "relative": 1e-6, "optimization": "off"}
    second["judgement"]["agrees"] = False
    assert Document.of(report).comparisons[0].worst.feed == "b"


def test_errors_are_summed_over_feeds_for_each_output_and_provider() -> None:
    histograms = {(each.output, each.provider): each for each in Document.of(everything()).histograms}
    assert set(histograms) == {("y", "cpu"), ("y", "openvino"), ("labels", "cpu")}
    assert sum(histograms["y", "cpu"].counts) == 2 * 420
    limits = [
        m["judgement"]["limit"] / m["reference_max_abs"] for m in old("recalibrated")["verification"]["measurements"]
    ]
    assert histograms["y", "cpu"].limit == min(limits)


def test_histograms_of_another_length_are_summed_where_they_meet() -> None:
    report = old("optimize")
    for each, counts in zip(report["verification"]["measurements"], ([1, 2, 3], [10]), strict=True):
        each["histogram"] = counts
    assert Document.of(report).histograms[0].counts == (11, 2, 3)


def test_infinite_numbers_are_known_to_be_none() -> None:
    report = everything()
    report["verification"]["measurements"][0] |= {"max_abs": None, "relative": "Infinity"}
    measured = Document.of(report).measured[0]
    assert (measured.max_abs, measured.relative) == (None, None)
    assert Document.of(report).histograms[0].output == "y"


@pytest.mark.parametrize("form", Format)
@pytest.mark.parametrize("path", OLD, ids=lambda path: path.stem)
def test_old_reports_can_be_written_in_every_form(path: Path, form: Format) -> None:
    assert render(read_report(path), form)


@pytest.mark.parametrize("form", Format)
def test_the_same_report_gives_the_same_text(form: Format) -> None:
    assert render(everything(), form) == render(everything(), form)


@pytest.mark.parametrize("form", Format)
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_names_can_be_encoded_and_do_not_make_it_endless(form: Format, text: str) -> None:
    written = render(hostile(text), form).encode("utf-8")
    assert len(written) < (1_000_000 if form is Format.JSON else 120_000)


DAMAGE: dict[str, dict[str, Any]] = {
    "no decisions": {"decisions": 3},
    "a decision of another kind": {"decisions": [1]},
    "a number that is none": {"exit_code": "zero"},
    "no models": {"input": None},
    "a verification that is none": {"verification": [1, 2]},
    "measurements that are none": {"verification": {"measurements": [{}]}},
    "options that are none": {"options": 7},
    "a count beyond all files": {"input": old("optimize")["input"] | {"nodes": 1 << 70}},
    "a count below zero": {"output": old("optimize")["output"] | {"bytes": -1}},
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_report_is_a_usage_error(damage: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="the report is damaged"):
        Document.of(old("optimize") | damage)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("\udcff", "is not JSON"),
        ("[]", "is no report of bnfold"),
        ('{"kind": "optimize"}', "is no report of bnfold"),
        ('{"kind": "sarif", "format": 1}', "is no report of bnfold"),
        ('{"kind": "optimize", "format": 2}', "has format 2, this bnfold reads 1"),
    ],
)
def test_another_file_is_a_usage_error(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "r.json").write_text(content, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(UsageError, match=message):
        read_report(tmp_path / "r.json")


def test_a_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the report: No such file"):
        read_report(tmp_path / "r.json")


def test_unknown_keys_are_passed_over() -> None:
    report = json.loads(json.dumps(everything()))
    report["added"] = report["decisions"][0]["added"] = report["verification"]["measurements"][0]["added"] = 1
    assert Document.of(report) == Document.of(everything())
