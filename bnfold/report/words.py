"""The words that every written form of a report has for the same thing."""

import math
from typing import TYPE_CHECKING

from bnfold.report.text import number

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bnfold.report.document import Comparison, Document, Fate, Measured, PassRun, ShownAttribution

GAINS = ("gain or bias", "gains and biases")
"""What constant maps beside a linear operator are called, which are no normalizations: one, and several."""

HEADLINES = {
    "equivalent": "Equivalent",
    "proved": "Proved equivalent",
    "substituted": "Substituted",
    "not-equivalent": "Not equivalent",
    "not-verified": "Not verified",
}


def headline(document: "Document") -> str:
    """The verdict in two words."""
    if document.kind == "failure":
        return "Failed"
    if document.kind == "inspect":
        return count(len(document.fates), "normalization")
    return HEADLINES.get(document.verdict, document.verdict)


def symbol(document: "Document") -> str:
    """A sign for the verdict, so that it does not hang on colour."""
    if document.kind == "inspect":
        return "ℹ"
    return "✗" if document.failed else "✓" if document.good else "!"


def summary(document: "Document") -> str:
    """One sentence or two on the verdict: the largest deviation where something was compared, and the explanation."""
    parts = []
    largest = document.largest
    if largest is not None and not (document.failed and document.explanation):
        compared = count(len(document.measured), "comparison")
        parts.append(f"The largest {deviation(largest)} in {place(largest)}; {compared}.")
    if document.explanation:
        parts.append(document.explanation)
    return " ".join(parts)


def place(measured: "Measured") -> str:
    """``output "y", feed normal, cpu, optimization on``."""
    what = f'the value "{measured.output}" behind an output' if measured.behind else f'output "{measured.output}"'
    precision = "" if measured.precision == "strict" else f", precision {measured.precision}"
    return f"{what}, feed {measured.feed}, {measured.provider}, optimization {measured.optimization}{precision}"


def deviation(measured: "Measured") -> str:
    """``deviation is 3.1e-07 (1.2e-07 of the largest value)``."""
    if measured.problem:
        return f"problem is that {measured.problem}"
    return f"deviation is {size(measured.max_abs)} ({size(measured.relative)} of the largest value)"


def setting(comparison: "Comparison") -> str:
    """``cpu, optimization off``."""
    precision = "" if comparison.decides else f", precision {comparison.precision}"
    return f"{comparison.provider}, optimization {comparison.optimization}{precision}"


def judged(comparison: "Comparison") -> str:
    """``agrees``, or on how many feeds it does not."""
    if not comparison.differing:
        return "agrees"
    return f"differs on {len(comparison.differing)} of {count(len(comparison.measured), 'feed')}"


def by_reason(kept: "Iterable[Fate]") -> "dict[tuple[str, str], list[Fate]]":
    """What stays, by code and sentence of the reason, the most frequent first."""
    groups: dict[tuple[str, str], list[Fate]] = {}
    for fate in kept:
        groups.setdefault((fate.reason, fate.sentence), []).append(fate)
    return dict(sorted(groups.items(), key=lambda item: -len(item[1])))


def blamed(attribution: "ShownAttribution") -> str:
    """The words before the names of the guilty: whether they explain the difference, and what was done."""
    what = "passes" if attribution.passes and not attribution.guilty else "folds"
    if attribution.passes and attribution.guilty:
        what = "folds and passes"
    if not attribution.guilty and not attribution.passes:
        return "No fold explains the difference: it lies outside of them."
    if not attribution.cleared:
        return f"Without these {what} it still differs:"
    done = "The result was made without them." if attribution.rolled_back else "Nothing was taken back."
    return f"Without these {what} the result agrees. {done}"


PASS_VERDICTS = {
    "unchanged": "changed nothing",
    "proved": "proved",
    "compared": "compared by running only",
    "guilty": "GUILTY",
    "taken-back": "taken back",
    "not-verified": "not verified",
    "open": "not judged alone",
}


def pass_verdict(each: "PassRun") -> str:
    """The part of a pass in the verdict, with what there is to say of it."""
    word = PASS_VERDICTS.get(each.verdict, each.verdict)
    if each.verdict == "compared" and each.detail:
        return each.detail
    return f"{word}: {each.detail}" if each.detail else word


def changed(each: "PassRun") -> str:
    """``2 nodes added, 1 removed, 3 weights``, or "" for nothing."""
    parts = []
    for kind, counted in each.counts.items():
        if kind == "weights":
            parts.append(count(counted, "weight"))
        elif kind != "other":
            parts.append(f"{count(counted, 'node')} {kind}" if not parts else f"{number(counted)} {kind}")
    return ", ".join([*parts, *(each.names[-each.counts["other"] :] if each.counts.get("other") else ())])


def took(each: "PassRun") -> str:
    """``0.31 s``, or "" where nobody measured."""
    return "" if each.seconds is None else f"{each.seconds:.2f} s"


def outcome(fate: "Fate") -> str:
    """Where a normalization went, or why it stays."""
    target = f"into {', '.join(fate.target)}" if fate.target else ""
    return " ".join(text for text in (target, fate.sentence, fate.detail) if text)


def placed(node: str, scope: str) -> str:
    """The node, with its scope where that is not the main graph."""
    return f"{node} ({scope})" if scope else node


def change(before: int, after: int) -> str:
    """``−28 %``, or "" where there is nothing to compare with."""
    if not before or before == after:
        return "" if before or not after else "new"
    percent = 100 * (after - before) / before
    return f"{'+' if percent > 0 else '−'}{abs(percent):.3g} %"


def size(value: float | None) -> str:
    """An error: three digits, or "infinite" for what JSON cannot hold."""
    return "infinite" if value is None else f"{value:.3g}"


def known(value: float | None) -> str:
    """A number with three digits, or a dash where there is none."""
    return "–" if value is None else number(value)


def exact(value: float | None) -> str:
    """A number near 1 with the digits that tell it from 1."""
    return "–" if value is None else f"{value:.9g}"


def share(value: float | None) -> str:
    """A part of 1 as ``99.8 %``, rounded down to what it surely is."""
    return "–" if value is None else f"{math.floor(1000 * value) / 10:g} %"


def count(counted: int, noun: str, several: str = "") -> str:
    """``1 node``, ``12 nodes``."""
    return f"{number(counted)} {noun if counted == 1 else several or f'{noun}s'}"
