"""The report as one page: no scripts, nothing from the network, everything in the file.

The page is `page/report.html.jinja`; Jinja2 escapes every text that it puts in. Needs the extra "report".
"""

from typing import Any

from bnfold.report import words
from bnfold.report.charts import error_histogram
from bnfold.report.document import Document
from bnfold.report.text import number, shortened

MOST_CHARTS = 12
"""Histograms on a page; the outputs that err least have none where there are more."""

MOST_ROWS = 2000
"""Rows of a table of measurements; what deviates most comes first."""

MOST_COMPARISONS = 200
"""Outputs times settings in the first table of the comparison."""

OPEN_ROWS = 60
"""A table of more normalizations than this starts folded up."""


def to_html(document: Document) -> str:
    """The page. Equal documents give equal bytes. Raises ImportError where Jinja2 or matplotlib is missing."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("bnfold.report", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "shortened": shortened}
    environment.globals["words"] = words
    return environment.get_template("report.html.jinja").render(_content(document))


def _content(document: Document) -> dict[str, Any]:
    measured = sorted(document.measured, key=lambda each: each.badness, reverse=True)
    histograms = document.histograms
    return {
        "document": document,
        "tone": "bad" if document.failed else "good" if document.good else "open",
        "reasons": words.by_reason(document.kept),
        "gains_left": words.by_reason(document.gains_kept),
        "measured": measured[:MOST_ROWS],
        "most_rows": MOST_ROWS,
        "histograms": histograms[:MOST_CHARTS],
        "charts": _charts(document),
        "most_drift": max((drift.mean or 0.0 for drift in _drifts(document)), default=0.0),
        "open_rows": OPEN_ROWS,
        "most_comparisons": MOST_COMPARISONS,
        "scores": any(each.argmax_agreement is not None for each in document.measured),
        "broken": any(each.new_nonfinite for each in document.measured),
    }


def _charts(document: Document) -> list[Any]:
    from markupsafe import Markup

    if not document.histograms:
        return []
    from bnfold.equivalence import HISTOGRAM_EDGES

    drawn = document.histograms[:MOST_CHARTS]
    # matplotlib made it, from numbers alone: no text of a model is in it.
    return [Markup(error_histogram(each, HISTOGRAM_EDGES, f"chart{at}")) for at, each in enumerate(drawn)]  # noqa: S704


def _drifts(document: Document) -> Any:
    return () if document.recalibration is None else document.recalibration.drifts
