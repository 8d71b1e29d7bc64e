"""The comment on a pull request: its tables hold whatever the names are, and it fits."""

import re

import pytest

from bnfold.report import Format, render
from bnfold.report.markdown import MOST_ROWS, inert
from tests.report_samples import HOSTILE, decision, everything, hostile, old

COMMENT = 65_536  # characters that GitHub takes


def test_it_opens_with_the_verdict_and_the_numbers() -> None:
    lines = render(everything(), Format.MARKDOWN).splitlines()
    assert lines[0] == "### ✅ Equivalent: <code>fold.onnx</code>"
    assert "| nodes | 2 | 1 | −50 % |" in lines
    assert "**4 normalizations**: 3 kept, 1 partly folded." in lines
    names = "<code>bn7</code>, <code>bn8 &#40;if0/then&#41;</code>, pass <code>wrong</code>"
    blamed = "Without these folds and passes the result agrees. The result was made without them."
    guilty = f"**Guilty**: {names}. {blamed}"
    assert guilty in lines
    assert "| <code>fold-batch-norm</code> | 0.12 s | 5 nodes removed, 1 weight | proved |" in lines
    assert "| <code>wrong</code> | 0.12 s | 5 nodes removed, 1 weight | taken back |" in lines
    assert "**Task accuracy** of <code>y</code> on 1,000 labels: 99.50 % before, 99.00 % after." in lines
    kept = next(line for line in lines if line.startswith("| 2 |"))
    which = "<code>kept1 &#40;if0/then&#41;</code>, <code>kept2</code>"
    assert kept == f"| 2 | The sentence of BARRIER. <code>BARRIER</code> | {which} |"


def test_a_failure_says_so() -> None:
    text = render(old("verify"), Format.MARKDOWN)
    assert text.startswith("### ❌ Not equivalent: <code>other.onnx against fold.onnx</code>\n")
    assert "differs on 1 of 1 feed" in text
    assert render(old("failure"), Format.MARKDOWN).startswith("### ❌ Failed\n")


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_names_break_no_table_and_make_nothing(text: str) -> None:
    written = render(hostile(text), Format.MARKDOWN)
    columns = 0
    for line in written.splitlines():
        if not line.startswith("|"):
            columns = 0
            continue
        assert line.endswith("|")
        assert columns in (0, line.count("|"))
        columns = line.count("|")
    tags = set(re.findall(r"<(/?[a-z!][^>]*)>", written))
    assert tags <= {f"{end}{tag}" for tag in ("code", "details", "summary", "sub", "pre") for end in ("", "/")}
    # In <pre> nothing means anything; the words in bold are bnfold's own.
    rest = re.sub(r"<pre>.*?</pre>|^\*\*[\w ]+\*\*", "", written, flags=re.DOTALL | re.MULTILINE)
    assert not re.search(r"[`*_@~\[\]]|www\.", rest)


@pytest.mark.parametrize(
    "text", ["# h", "- x", "+ x", "1. x", "12) x", "> q", "a_b", "`c`", "a|b", "&amp;", "\\", "<b>", "---", "==="]
)
def test_a_sign_that_would_mean_something_is_an_entity(text: str) -> None:
    written = inert(text)
    assert written != text
    assert re.sub(r"&#(\d+);", lambda found: chr(int(found[1])), written) == text


def test_plain_names_stay_readable() -> None:
    assert inert("layer1.0/bn1-3, 0.5 is fine") == "layer1.0/bn1-3, 0.5 is fine"


def test_a_large_report_still_fits_in_a_comment_and_counts_what_it_leaves_out() -> None:
    report = old("optimize")
    report["decisions"] = [decision("<&>" * 40, "kept", f"REASON_{i}", "<>" * 300) for i in range(3000)]
    text = render(report, Format.MARKDOWN)
    assert len(text) < COMMENT
    assert "did not fit here" in text
    report["decisions"] = [decision(f"bn{i}") for i in range(MOST_ROWS + 7)]
    assert "\n7 more are in the JSON report." in render(report, Format.MARKDOWN)
