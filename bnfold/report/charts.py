"""Histograms of errors as SVG, drawn by matplotlib: colours come from the page, so that they follow light and dark."""

import io
import math
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bnfold import process
from bnfold.report.document import Histogram

_INK, _BAR, _LIMIT = "#010203", "#010204", "#010205"
_COLOURS = {_INK: "var(--ink)", _BAR: "var(--accent)", _LIMIT: "var(--bad)"}
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: smaller, in the page's font, and a screen reader can read it
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def error_histogram(histogram: Histogram, edges: Sequence[float], name: str) -> str:
    """An `<svg>` element of how many values have which error, as a part of the output's largest value.

    `edges`, each ten times the one before, are those of the bins. The first bar counts values that are the same, the
    next those with an error below the first edge. `name` must differ between the charts of a page. Equal arguments give
    equal text.
    """
    # The figure is made without pyplot, which would look for a display and keep the figure.
    with _without_a_new_cache():
        from matplotlib import rc_context, rcdefaults, rcParams
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
        from matplotlib.ticker import FuncFormatter

    with rc_context():
        rcdefaults()  # what a user set for plots of their own is not meant for this
        rcParams.update(_SETTINGS | {"svg.hashsalt": name})
        figure = Figure(figsize=(5.2, 2.1))
        FigureCanvasSVG(figure)
        figure.subplots_adjust(left=0.14, right=0.99, bottom=0.22, top=0.96)
        axes = figure.subplots()
        axes.patch.set_visible(False)
        axes.bar(range(len(histogram.counts)), histogram.counts, width=0.86, color=_BAR, linewidth=0)
        axes.set_yscale("symlog", linthresh=1)
        axes.set_ylim(0, 2 * max(*histogram.counts, 1))
        axes.set_xlim(-0.7, len(histogram.counts) - 0.3)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.set_ylabel("values")
        axes.set_xlabel("|error| / largest value")
        ticks = {0.0: "equal"} | {1.5 + at: f"{edge:.0e}" for at, edge in enumerate(edges) if at % 3 == 0}
        axes.set_xticks(list(ticks), list(ticks.values()))
        if histogram.limit is not None and edges[0] <= histogram.limit <= edges[-1]:
            place = 1.5 + math.log10(histogram.limit / edges[0])
            axes.axvline(place, color=_LIMIT, linewidth=1.2, linestyle=(0, (4, 2)))
            axes.text(place, 1, " tolerance", color=_LIMIT, va="top", transform=axes.get_xaxis_transform())
        drawn = io.StringIO()
        no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(drawn, format="svg", transparent=True, metadata=no_metadata)
    return _embedded(drawn.getvalue())


@contextmanager
def _without_a_new_cache() -> Iterator[None]:
    """Have the command leave no list of fonts below the home folder, where matplotlib writes one when it is imported.

    A list that is there already is used. As a library bnfold leaves matplotlib to the caller.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))  # noqa: PTH111 - never raises
    if not process.owned() or "MPLCONFIGDIR" in os.environ or (home / "matplotlib").exists():
        yield
        return
    with tempfile.TemporaryDirectory(prefix="bnfold-") as folder:
        os.environ["MPLCONFIGDIR"] = folder
        try:
            yield
        finally:
            del os.environ["MPLCONFIGDIR"]


def _embedded(text: str) -> str:
    """The `<svg>` element alone, without the ids that nothing refers to, in the colours and the font of the page."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r"font-family: [^;\"]*; ?", "", text)
    text = re.sub(r"\s*\n\s*", "\n", text)
    for colour, variable in _COLOURS.items():
        text = text.replace(colour, variable)
    return text.replace("<svg ", '<svg aria-hidden="true" ', 1).rstrip()
