"""`--report`, `--report-format`, `bnfold report` and `bnfold schema`: which form goes where, and when it is refused."""

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner, Result

import bnfold
from bnfold.cli import main
from bnfold.cli.options import REPORT_FORMATS
from bnfold.decisions import Action, Decision, Reason
from bnfold.documentation import page_of_exit_code
from bnfold.errors import ModelError
from bnfold.report import Format, ModelSummary, Report, formats
from bnfold.report.schema import schema
from tests.report_samples import everything, old

SUMMARY = ModelSummary("in.onnx", "a" * 64, 41_234, 17, 3, 18, 9)
KEPT = Decision("bn", "BatchNormalization", "", Action.KEPT, reason=Reason.BARRIER)
EQUIVALENT = Report("equivalent", 0, (KEPT,), SUMMARY, SUMMARY, "out.onnx")


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("optimize", "verify", "failure"):
        Path(f"{name}.json").write_text(json.dumps(old(name)))
    for name in ("d.md", "d.py"):
        Path(name).touch()


@pytest.fixture
def outcome(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What `optimize` gives or raises, as the only item; emptied where it is called."""
    holder: list[Any] = [EQUIVALENT]

    def optimize_with(*_: Any) -> Any:
        found = holder.pop()
        if isinstance(found, Exception):
            raise found
        return SimpleNamespace(report=found)

    fake = ModuleType("bnfold.api")
    fake.optimize_with = optimize_with  # type: ignore[attr-defined]  # a stand-in for the module
    monkeypatch.setitem(sys.modules, "bnfold.api", fake)
    monkeypatch.setattr(bnfold, "api", fake, raising=False)
    return holder


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def optimized(*arguments: str) -> Result:
    return run("optimize", "in.onnx", "out.onnx", *arguments)


def form_of(text: str) -> Format | None:
    starts = {"{": Format.JSON, "<!DOCTYPE html>": Format.HTML, "###": Format.MARKDOWN, "::": Format.GITHUB}
    starts["<?xml"] = Format.JUNIT
    return next((form for start, form in starts.items() if text.startswith(start)), None)


def test_the_command_line_knows_the_formats() -> None:
    assert [form.value for form in Format] == list(REPORT_FORMATS)


ALL = {
    "r.json": "json",
    "r.html": "html",
    "r.HTM": "html",
    "r.md": "markdown",
    "r.markdown": "markdown",
    "r.xml": "junit",
}


@pytest.mark.parametrize("result", [EQUIVALENT, ModelError("in.onnx is empty")], ids=["good", "failing"])
def test_every_report_is_written_in_the_form_of_its_suffix(outcome: list[Any], result: Any) -> None:
    outcome[:] = [result]
    optimized(*(argument for name in ALL for argument in ("--report", name)))
    assert {name: form_of(Path(name).read_text()) for name in ALL} == ALL
    ET.parse("r.xml")


@pytest.mark.parametrize(
    ("arguments", "files", "output"),
    [
        (["--report", "r"], {"r": "json"}, None),
        (["--report", "r", "--report-format", "junit"], {"r": "junit"}, None),
        (["--report", "r", "--report", "r.md", "--report-format", "html"], {"r": "html", "r.md": "markdown"}, None),
        (["--report", "r", "--report-format", "github"], {"r": "github"}, None),
        (
            ["--report", "r.md", "--report", "r.json", "--report-format", "json"],
            {"r.md": "markdown", "r.json": "json"},
            None,
        ),
        (["--report", "-"], {}, "json"),
        (["--report", "-", "--report", "r.md"], {"r.md": "markdown"}, "json"),
        (["--report", "-", "--report-format", "markdown"], {}, "markdown"),
        (["--report", "-", "--report-format", "github"], {}, "github"),
        (["--report-format", "json"], {}, "json"),
        (["--report-format", "junit"], {}, "junit"),
    ],
)
def test_where_a_name_tells_nothing_the_format_is_what_was_asked_for(
    outcome: list[Any], arguments: list[str], files: dict[str, str], output: str | None
) -> None:
    result = optimized(*arguments)
    assert result.exit_code == 0
    assert outcome == []
    assert {name: form_of(Path(name).read_text()) for name in files} == files
    assert form_of(result.stdout) == output
    if output is not None:
        assert "written: out.onnx" not in result.stdout


@pytest.mark.parametrize("files", [[], ["--report", "r.json"], ["--report", "r.json", "--report", "r.md"]])
def test_annotations_come_after_the_text(outcome: list[Any], files: list[str]) -> None:
    result = optimized(*files, "--report-format", "github")
    assert result.exit_code == 0
    text, _, annotations = result.stdout.partition("written: out.onnx\n")
    assert "kept bn: " in text
    assert annotations.startswith("::notice file=in.onnx,title=bnfold%3A Equivalent::")
    assert len(list(Path().glob("r.*"))) == len(files) / 2
    outcome.append(ModelError("in.onnx is empty"))
    failed = optimized("--report-format", "github", "-q")
    assert (failed.exit_code, failed.stdout) == (3, "::error title=bnfold%3A Failed::in.onnx is empty\n")
    assert outcome == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--report", "r.json", "--report", "r.json"], "would be written twice"),
        (["--report", "r.json", "--report", "./r.json"], "would be written twice"),
        (["--report", "d.md", "--recalibrate", "d.md"], "which this run uses for something else"),
        (["--report", "d.py", "--report-format", "json", "--recalibrate", "./d.py:f"], "which this run uses for"),
        (
            ["--report", "d.md", "--substitute", "layer-norm", "--data", "d.md"],
            "which this run uses for something else",
        ),
        (["--report", "r.md", "--report-format", "junit"], "r.md is named like markdown, and --report-format asks for"),
        (["--report", "-", "--report", "-"], "only one report can go to standard output"),
        (["--report-format", "yaml"], "'yaml' is not one of"),
    ],
)
def test_a_contradiction_is_refused_before_the_work(outcome: list[Any], arguments: list[str], message: str) -> None:
    result = optimized(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert outcome == [EQUIVALENT]
    assert not list(Path().glob("r.*"))


@pytest.mark.parametrize(
    ("missing", "named"), [(["jinja2"], "Jinja2"), (["jinja2", "matplotlib"], "Jinja2 and matplotlib")]
)
def test_html_without_its_extra_is_refused_before_the_work(
    outcome: list[Any], monkeypatch: pytest.MonkeyPatch, missing: list[str], named: str
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(formats, "find_spec", lambda name: None if name in missing else found(name))
    message = f"bnfold: an HTML report needs {named}: pip install 'bnfold[report]'\n"
    result = optimized("--report", "r.html")
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", message)
    assert outcome == [EQUIVALENT]
    result = run("report", "render", "optimize.json", "r.html")
    assert (result.exit_code, result.stderr) == (2, message)
    assert optimized("--report", "r.md", "--report", "r.xml").exit_code == 0


@pytest.mark.usefixtures("outcome")
def test_one_report_that_cannot_be_written_does_not_lose_the_others() -> None:
    result = optimized("--report", "/dev/full", "--report", "r.md")
    assert result.exit_code == 4
    told = f"the report cannot be written to /dev/full: No space left on device (see {page_of_exit_code(4)})"
    assert result.stderr == f"bnfold: {told}\n"
    assert form_of(Path("r.md").read_text()) == "markdown"


# ---------------------------------------------------------------------- bnfold report render


@pytest.mark.parametrize("name", ALL)
def test_a_saved_report_is_rendered_as_the_run_would_have(name: str) -> None:
    Path("all.json").write_text(json.dumps(everything()))
    result = run("report", "render", "all.json", name)
    assert (result.exit_code, result.output) == (0, "")
    assert form_of(Path(name).read_text()) == ALL[name]
    assert Path(name).read_text() == bnfold_render(everything(), ALL[name])


def bnfold_render(report: dict[str, Any], form: str) -> str:
    from bnfold.report import render

    return render(report, Format(form))


def test_a_saved_report_is_rendered_to_standard_output() -> None:
    result = run("report", "render", "verify.json", "-", "--report-format", "github")
    assert result.stdout.startswith("::error file=other.onnx,")
    assert form_of(run("report", "render", "verify.json", "x", "--report-format", "junit").stdout) is None
    assert form_of(Path("x").read_text()) == "junit"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["verify.json", "-"], 2, "-: the name tells no format"),
        (["verify.json", "r.txt"], 2, "r.txt: the name tells no format"),
        (["verify.json", "r.md", "--report-format", "html"], 2, "r.md is named like markdown"),
        (["missing.json", "r.md"], 2, "missing.json: cannot read the report: No such file"),
        (["verify.json", "verify.json"], 2, "which this run uses for something else"),
        (["verify.json", "missing/r.md"], 4, "the report cannot be written to missing/r.md"),
        (["damaged.json", "r.md"], 2, "damaged.json: the report is damaged: KeyError: 'bnfold'"),
    ],
)
def test_what_cannot_be_rendered_is_one_line(arguments: list[str], code: int, message: str) -> None:
    Path("damaged.json").write_text('{"kind": "optimize", "format": 1}')
    result = run("report", "render", *arguments)
    assert result.exit_code == code
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not Path("r.md").exists()


# ---------------------------------------------------------------------- bnfold report judge


def test_the_same_tolerances_change_nothing() -> None:
    result = run("report", "judge", "optimize.json")
    assert (result.exit_code, result.stdout) == (0, "equivalent: as before; 0 comparisons judged otherwise\n")
    result = run("report", "judge", "verify.json")
    assert result.exit_code == 1
    assert result.stdout == "not-equivalent: as before; 0 comparisons judged otherwise\n"
    assert result.stderr.startswith("bnfold: verify.json: Output 'y' on feed user-0")


@pytest.mark.parametrize("rtol", ["1e-2", "y:1e-2"])
def test_a_generous_tolerance_makes_it_equivalent(rtol: str) -> None:
    result = run("report", "judge", "verify.json", "--rtol", rtol)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[-1] == "equivalent: it was not-equivalent; 2 comparisons judged otherwise"
    assert lines[0] == (
        'deviation 0.0118 in output "y", feed user-0, cpu, optimization off: '
        "DIFFERED (tolerance), now agrees (user, at most 0.135)"
    )


@pytest.mark.parametrize(
    "limits", [["--rtol", "1e-12"], ["--rtol", "1", "--rtol", "y:1e-12"], ["--atol", "y:1e-12", "--atol", "1"]]
)
def test_a_strict_tolerance_makes_it_differ(limits: list[str]) -> None:
    result = run("report", "judge", "optimize.json", *limits)
    assert result.exit_code == 1
    assert "not-equivalent: it was equivalent; 2 comparisons judged otherwise" in result.stdout
    assert "2 of 2 measurements do not agree" in result.stderr


def test_a_limit_for_an_output_that_is_not_there_names_those_that_are() -> None:
    result = run("report", "judge", "verify.json", "--rtol", "other:9")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "bnfold: a tolerance for 'other': the model has no such output; it has y.\n"


def test_without_limits_those_saved_in_the_report_judge() -> None:
    assert run("report", "judge", "verify.json", "--rtol", "y:1e-2", "--report", "generous.json").exit_code == 0
    result = run("report", "judge", "generous.json", "--report", "again.json")
    assert (result.exit_code, result.stdout) == (0, "equivalent: as before; 0 comparisons judged otherwise\n")
    limits = "the tolerances by element type, rtol 0.01 and atol 0 for output 'y'"
    assert json.loads(Path("again.json").read_text())["verification"]["notes"][-1] == f"Judged again with {limits}."
    assert run("report", "judge", "again.json", "--atol", "1e-9").exit_code == 1


def test_the_judgement_can_be_written_and_says_what_it_rests_on() -> None:
    arguments = ["--rtol", "y:1e-2", "--atol", "1e-9", "--report", "new.json", "--report", "new.md"]
    assert run("report", "judge", "verify.json", *arguments).exit_code == 0
    new, before = json.loads(Path("new.json").read_text()), old("verify")
    assert (new["verdict"], new["exit_code"], new["explanation"]) == ("equivalent", 0, "")
    limits = "rtol 0 and atol 1e-09, rtol 0.01 and atol 1e-09 for output 'y'"
    assert new["verification"]["notes"][-1] == f"Judged again with {limits}."
    assert all(each["judgement"]["agrees"] for each in new["verification"]["measurements"])
    for part in (new, before, new["verification"], before["verification"]):
        for key in ("verdict", "exit_code", "explanation", "verification", "measurements", "largest", "notes"):
            part.pop(key, None)
        part.pop("tolerance", None)
    assert new == before
    assert Path("new.md").read_text().startswith("### ✅ Equivalent")


def test_what_is_another_function_on_purpose_stays_that() -> None:
    Path("s.json").write_text(json.dumps(old("substituted")))
    for limits in ([], ["--rtol", "100"]):
        result = run("report", "judge", "s.json", *limits)
        assert result.exit_code == 0
        assert result.stdout.splitlines()[-1].startswith("substituted: as before;")


def test_an_infinite_limit_comes_back_from_its_file() -> None:
    report = old("optimize")
    report["verification"]["measurements"][0]["judgement"]["limit"] = "Infinity"
    Path("infinite.json").write_text(json.dumps(report))
    assert run("report", "judge", "infinite.json").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["failure.json"], "a report of kind failure that compares nothing cannot be judged again"),
        (["optimize.json", "--rtol", "-1"], "'-1' is not a number from 0 up"),
        (["optimize.json", "--rtol", ":1"], "':1' names no output"),
        (["optimize.json", "--rtol", "y:"], "'' is not a number from 0 up"),
        (["optimize.json", "--rtol", "1", "--rtol", "2"], "more than one limit"),
        (["optimize.json", "--rtol", "y:1", "--rtol", "y:2"], "more than one limit"),
        (["optimize.json", "--report", "optimize.json"], "which this run uses for something else"),
        (["missing.json"], "missing.json: cannot read the report"),
    ],
)
def test_what_cannot_be_judged_is_a_usage_error(arguments: list[str], message: str) -> None:
    result = run("report", "judge", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_quiet_judges_in_silence() -> None:
    assert run("report", "judge", "optimize.json", "-q").output == ""


# ---------------------------------------------------------------------- bnfold schema


@pytest.mark.parametrize("strict", [False, True])
def test_the_schema_is_printed(strict: bool) -> None:
    result = run("schema", *(["--strict"] if strict else []))
    assert result.exit_code == 0
    assert json.loads(result.stdout) == schema(strict=strict)
