"""Workflow commands of GitHub Actions: one line each, whatever stands in the names."""

import re

import pytest

from bnfold.report import Format, render
from tests.report_samples import HOSTILE, decision, everything, hostile, old

COMMAND = re.compile(r"::(error|warning|notice) (?:file=([^,:\r\n]+),)?title=([^,:\r\n]+)::([^\r\n]+)")


def commands(text: str) -> list[tuple[str, str, str, str]]:
    found = []
    for line in text.splitlines():
        match = COMMAND.fullmatch(line)
        assert match, line
        found.append(match.groups())
    return found


@pytest.mark.parametrize(
    ("name", "level", "file"),
    [
        ("optimize", "notice", "kept.onnx"),
        ("substituted", "warning", "fold.onnx"),
        ("not-verified", "warning", "fold.onnx"),
        ("verify", "error", "other.onnx"),
        ("failure", "error", None),
        ("inspect", "notice", "kept.onnx"),
    ],
)
def test_the_level_tells_the_verdict(name: str, level: str, file: str | None) -> None:
    first = commands(render(old(name), Format.GITHUB))[0]
    assert first[:2] == (level, file)
    assert first[2].startswith("bnfold%3A ")


def test_there_is_one_for_each_reason_and_not_for_each_normalization() -> None:
    report = everything()
    report["decisions"] += [decision(f"more{i}", "kept", "BARRIER") for i in range(7)]
    found = commands(render(report, Format.GITHUB))
    assert [level for level, *_ in found] == ["notice", "warning", "notice", "notice"]
    assert found[1][2:] == ("bnfold%3A pass wrong", "5 nodes removed, 1 weight; taken back")
    assert found[2][2] == "bnfold%3A 9 normalizations kept"
    assert found[2][3] == "The sentence of BARRIER. [BARRIER] kept1 (if0/then), kept2, more0, more1, more2 and 4 more"


def test_a_broken_proof_is_an_error() -> None:
    report = everything()
    report["verification"]["proofs"][1]["standing"] = "broken"
    assert ("error", "fold.onnx", "bnfold%3A broken proof", "bn2, bn3: Custom is not known") in commands(
        render(report, Format.GITHUB)
    )


def test_signs_that_mean_something_are_escaped() -> None:
    report = old("verify") | {"explanation": "100 % off\nby far", "candidate": "a,b:c%.onnx"}
    (found,) = commands(render(report, Format.GITHUB))
    assert found[1] == "a%2Cb%3Ac%25.onnx"
    assert found[3].endswith("100 %25 off by far")


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_names_start_no_command(text: str) -> None:
    if not text:
        return
    commands(render(hostile(text), Format.GITHUB))
