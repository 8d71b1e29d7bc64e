"""A report in one line for `print`, and as a small table for a notebook. Every name out of a model is escaped."""

from collections import Counter
from collections.abc import Iterable, Iterator
from html import escape
from typing import TYPE_CHECKING

from bnfold.decisions import Action, Decision
from bnfold.report.text import number, printable, shortened
from bnfold.report.words import GAINS

if TYPE_CHECKING:
    from bnfold.report.inspection import Inspection
    from bnfold.report.report import Report

MOST_ROWS = 20
"""Normalizations in a table; the others are counted below it."""

_ROWS = (("nodes", "nodes"), ("BatchNormalization", "batch_normalizations"), ("bytes", "nbytes"))


def report_line(report: "Report") -> str:
    """``equivalent: 5 normalizations folded, 1 kept; 18 -> 13 nodes; written to out.onnx``."""
    parts = [_actions(report.decisions)]
    if report.output is not None:
        parts.append(f"{number(report.input.nodes)} -> {number(report.output.nodes)} nodes")
    if report.published is not None:
        parts.append(f"written to {_short(report.published)}")
    elif report.exit_code and report.explanation:
        parts.append(_short(report.explanation, 200))
    return f"{report.verdict}: {'; '.join(parts)}"


def inspection_line(inspection: "Inspection") -> str:
    """``in.onnx: 18 nodes; 5 normalizations would be folded, 1 kept``."""
    path = "the model" if inspection.model.path is None else _short(inspection.model.path)
    decisions = [info.decision for info in inspection.normalizations]
    found = _actions(decisions, "would be ") if decisions else "no normalization"
    return f"{path}: {number(inspection.model.nodes)} nodes; {found}"


def report_table(report: "Report") -> str:
    """HTML: the verdict, before and after, and what stays and why."""
    parts = [f"<p><b>{escape(str(report.verdict))}</b> {escape(_short(report.explanation, 400))}</p>"]
    if report.output is not None:
        rows = [
            (name, number(getattr(report.input, field)), number(getattr(report.output, field))) for name, field in _ROWS
        ]
        parts.append(_table(("", "before", "after"), rows))
    kept = [decision for decision in report.decisions if decision.action is Action.KEPT]
    parts += _decided([decision for decision in kept if not decision.gain])
    if report.published is not None:
        parts.append(f"<p>written to {escape(_short(report.published))}</p>")
    return "".join(parts)


def inspection_table(inspection: "Inspection") -> str:
    """HTML: the model in numbers, and what would become of each normalization."""
    decisions = [info.decision for info in inspection.normalizations if not info.decision.is_gain_that_stays]
    return "".join([f"<p>{escape(inspection_line(inspection))}</p>", *_decided(decisions)])


def _actions(decisions: Iterable[Decision], would_be: str = "") -> str:
    """``5 normalizations folded, 1 kept; 3 gains and biases folded``."""
    kinds = Counter[tuple[bool, str]]((decision.gain, decision.outcome) for decision in decisions).most_common()
    found = []
    for gain, one, several in ((False, "normalization", "normalizations"), (True, *GAINS)):
        counts = [(action, count) for (kind, action), count in kinds if kind is gain]
        if counts:
            (action, count), *others = counts
            first = f"{number(count)} {one if count == 1 else several} {would_be}{action}"
            found.append(", ".join([first, *(f"{number(n)} {word}" for word, n in others)]))
        elif not gain:
            found.append("no normalization")
    return "; ".join(found)


def _decided(decisions: list[Decision]) -> Iterator[str]:
    rows = [
        (_short(each.node), each.op_type, each.action.value, "" if each.reason is None else each.reason.sentence)
        for each in decisions[:MOST_ROWS]
    ]
    if rows:
        yield _table(("normalization", "operator", "action", "reason"), rows)
    if len(decisions) > MOST_ROWS:
        yield f"<p>and {len(decisions) - MOST_ROWS} more</p>"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    def row(cells: Iterable[str], tag: str) -> str:
        return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"

    return f"<table>{row(head, 'th')}{''.join(row(cells, 'td') for cells in rows)}</table>"


def _short(text: str, most: int = 120) -> str:
    return shortened(printable(text), most)
