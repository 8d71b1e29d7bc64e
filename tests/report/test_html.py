"""The page: whole, self-contained, harmless, and the same bytes each time."""

import re
import subprocess
import sys
import time
from html.parser import HTMLParser
from typing import Any

import pytest

from bnfold.report import Format, render
from bnfold.report.html import MOST_CHARTS, MOST_ROWS, OPEN_ROWS
from tests.report_samples import HOSTILE, OLD, decision, everything, hostile, old

VOID = {"meta", "input", "br"}
TAGS = {
    *("html", "head", "meta", "title", "style", "body", "header", "main", "section", "div", "h1", "h2", "h3", "p"),
    *("table", "thead", "tbody", "tr", "th", "td", "details", "summary", "fieldset", "legend", "input", "label"),
    *("figure", "figcaption", "dl", "dt", "dd", "ul", "li", "code", "bdi", "span", "strong"),
    *("svg", "defs", "g", "path", "use", "text", "rect", "clippath"),
}


class Page(HTMLParser):
    """Everything that matters of a page; fails where elements are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def page(report: dict[str, Any]) -> Page:
    return Page(render(report, Format.HTML))


def harmless(found: Page) -> None:
    assert {tag for tag, _ in found.tags} <= TAGS
    for tag, attributes in found.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            assert name not in ("src", "srcset", "action", "formaction", "background", "data"), (tag, name)
            if name.endswith("href"):
                assert value is not None
                assert value.startswith("#")
    assert not re.search(r"@import|url\((?!#)", " ".join(str(a.get("style")) for _, a in found.tags))


@pytest.mark.parametrize("path", OLD, ids=lambda path: path.stem)
def test_a_page_is_well_formed_and_needs_nothing_else(path: Any) -> None:
    harmless(page(old(path.stem)))


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_names_are_text(text: str) -> None:
    found = page(hostile(text))
    harmless(found)
    assert found.text.count("Recalibrated statistics") == 1
    assert all(character.isprintable() for character in found.text)
    if len(text) > 200:
        assert text not in found.text
        assert "x…x" in found.text


def test_the_style_sheet_holds_nothing_of_the_report_and_reaches_nowhere() -> None:
    (style,) = re.findall(r"<style>(.*?)</style>", render(hostile("</style>{}"), Format.HTML), re.DOTALL)
    assert not re.search(r"url\(|@import|https?:|expression|&", style)


def test_it_says_what_there_is_to_say() -> None:
    text = page(everything()).text
    for words in (
        "✓ Equivalent",
        "Written to r.onnx",
        "Nodes 2 1 −50 %",
        "3 kept, 1 partly folded.",
        "2 The sentence of BARRIER. BARRIER",
        "kept1 in if0/then",
        "y ✓ agrees cpu off tolerance",
        "y ! differs on 1 of 1 feed openvino, deploy off tolerance 0.5 0.25",
        "z behind an output ✗ differs on 1 of 1 feed",
        "its shape is (1,), not (2,)",
        "99.9 %",
        "on cpu: 840 values",
        "All 5 comparisons",
        "a note",
        "Training mode The original runs in training mode",
        "y 2.12",
        "had no statistics",
        "Left as they were: kept1 in if0/then NO_PRODUCER",
        "bn 2 0.8 0.125",
        "1 holds, 1 compared by running only",
        "Guilty Without these folds and passes the result agrees. The result was made without them.",
        "pass wrong bn7 bn8 in if0/then",
        "Passes In the order in which they ran.",
        "fold-batch-norm 0.12 s 5 nodes removed, 1 weight bn1, conv ✓ proved",
        "own 0.12 s 1 node added, 1 rewired, 1 changed, a a, a, a, a ! compared by running only: y",
        "wrong 0.12 s 5 nodes removed, 1 weight bn1, conv ! taken back",
        "9 models made and compared",
        "Of y on 1,000 labels: Model Right Accuracy before 995 99.50 % after 990 99.00 %",
        "The first that diverges is 'r'.",
        "c conv ✓ agrees 1e-07 1e-08",
        "r relu ✗ differs it is int8",
        "bn2, bn3 y ! by running only – Custom is not known",
        "openvino, optimization on, strict OpenVINOExecutionProvider 7 5 Conv, 2 Relu",
        "bnfold optimize fold.onnx r.onnx --inputs x.npz --recalibrate x.npz",
        "onnxruntime 1.24.0",
        "processor Some CPU",
        "user-0 x [4, 2, 5, 7]",
    ):
        assert words in text, words


@pytest.mark.parametrize(
    ("name", "headline"),
    [
        ("verify", "✗ Not equivalent"),
        ("substituted", "! Substituted"),
        ("not-verified", "! Not verified"),
        ("failure", "✗ Failed"),
        ("inspect", "ℹ 2 normalizations"),
    ],
)
def test_the_verdict_stands_on_top_and_not_by_colour_alone(name: str, headline: str) -> None:
    text = page(old(name)).text
    assert headline in text
    assert text.index(headline) < 250


def test_what_differs_on_purpose_is_not_marked_as_wrong() -> None:
    assert "✗" not in page(old("substituted")).text


def test_tables_name_their_columns_and_rows_and_regions_can_be_reached() -> None:
    found = page(everything())
    assert {attributes.get("scope") for attributes in found.all("th")} == {"row", "col"}
    assert len(found.all("table")) == len([a for a in found.all("div") if "wide" in str(a.get("class"))])
    assert all(a.get("aria-label") for a in found.all("div") if a.get("role") == "region")
    ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert found.all("html")[0]["lang"] == "en"


def test_every_action_has_a_filter() -> None:
    found = page(everything())
    radios = [a["id"] for a in found.all("input")]
    assert [a["for"] for a in found.all("label")] == radios
    assert len(radios) == 1 + 2
    rows = [str(a["class"]).split()[1] for a in found.all("tr") if "fate" in str(a.get("class"))]
    assert sorted(rows) == ["a1", "a1", "a1", "a2"]
    style = render(everything(), Format.HTML)
    for number in (1, 2):
        assert f"#show-{number}:checked ~ .wide .fate:not(.a{number}) {{ display: none; }}" in style


def test_thousands_of_normalizations_are_folded_up_and_quick() -> None:
    report = old("optimize")
    report["decisions"] = [
        decision(f"layer{i}", "kept" if i % 3 else "folded", "BARRIER" * (i % 3)) for i in range(5000)
    ]
    began = time.perf_counter()
    text = render(report, Format.HTML)
    assert time.perf_counter() - began < 20
    assert len(text) < 3_000_000
    assert text.count("<details open>") == 0
    report["decisions"] = report["decisions"][:OPEN_ROWS]
    assert render(report, Format.HTML).count("<details open>") == 1


def test_what_is_left_out_is_counted() -> None:
    report = old("optimize")
    first = report["verification"]["measurements"][0]
    report["verification"]["measurements"] = [first | {"output": f"y{i % 300}"} for i in range(MOST_ROWS + 5)]
    text = page(report).text
    assert "100 more are in the JSON report" in text
    assert f"The {MOST_CHARTS} with the largest errors, of 300" in text
    assert f"The first {MOST_ROWS:,}; all are in the JSON report" in text


def test_equal_reports_give_equal_bytes_in_every_process() -> None:
    code = "from tests.report_samples import *; from bnfold.report import *; import hashlib\n"
    code += "print(hashlib.sha256(render(everything(), Format.HTML).encode()).hexdigest())"
    seen = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env).stdout
        for env in ({"PYTHONHASHSEED": "1", "PYTHONPATH": ":".join(sys.path)}, {"PYTHONPATH": ":".join(sys.path)})
    }
    assert len(seen) == 1


def test_settings_for_plots_of_ones_own_change_nothing() -> None:
    from matplotlib import rc_context, rcParams

    before = render(everything(), Format.HTML)
    with rc_context({"font.size": 40, "axes.spines.top": True, "svg.fonttype": "path"}):
        assert render(everything(), Format.HTML) == before
        assert rcParams["font.size"] == 40


def test_a_chart_without_a_limit_has_no_line() -> None:
    report = old("optimize")
    with_line = render(report, Format.HTML)
    for each in report["verification"]["measurements"]:
        each["judgement"] = {"agrees": True, "rule": "noise", "limit": 0.0}
    assert ("> tolerance</text>" in with_line, "> tolerance</text>" in render(report, Format.HTML)) == (True, False)
