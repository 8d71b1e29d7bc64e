"""The report as GitHub-flavoured Markdown, short enough for a comment on a pull request."""

import html
import re
from collections.abc import Iterable, Sequence

from bnfold.report import words
from bnfold.report.document import Document, Fate, Placed, Recalibration, ShownAccuracy
from bnfold.report.text import number, shortened

MOST_ROWS = 100
"""Rows of a table."""

NAMED = 5
"""Normalizations that are named for a reason; the others are counted."""

MOST_CHARACTERS = 60_000
"""GitHub takes comments of 65,536 characters."""

_SIGNS = {"✓": "✅", "✗": "❌", "!": "⚠️", "ℹ": "ℹ️"}
# Whatever could mean something to Markdown, to HTML, or to GitHub itself (@user, #1, www.example.com, :smile:).
_MEANINGFUL = re.compile(r"[\\`*_\[\](){}<>&|~$:@#!^=\"]|^[-+]|^\d(?=\d*[.)]\s)|(?<=www)\.", re.IGNORECASE)


def to_markdown(document: Document) -> str:
    """A heading with the verdict, before and after, what stays and why; the rest is folded up."""
    blocks = [_head(document)]
    if document.attribution is not None:
        names = [_code(words.placed(*place)) for place in document.attribution.guilty[:MOST_ROWS]]
        names += [f"pass {_code(name)}" for name in document.attribution.passes[:MOST_ROWS]]
        guilty = "Guilty" if document.attribution.passes else "Guilty folds"
        blocks.append(f"**{guilty}**: {', '.join(names) or 'none'}. {words.blamed(document.attribution)}")
    if document.before is not None and document.after is not None:
        blocks.append(_before_after(document))
    if document.fates:
        blocks += _normalizations(document)
    if document.gains:
        blocks += _gains(document)
    if document.passes:
        blocks.append(_passes(document))
    blocks += _comparison(document)
    blocks += _changes(document)
    blocks.append(_made(document))
    return "\n\n".join(_fitting(block for block in blocks if block)) + "\n"


def _fitting(blocks: Iterable[str]) -> Iterable[str]:
    """The blocks, without those that would make the whole too long for a comment."""
    left = MOST_CHARACTERS
    omitted = 0
    for block in blocks:
        if len(block) <= left:
            left -= len(block)
            yield block
        else:
            omitted += 1
    if omitted:
        yield f"{words.count(omitted, 'part')} of the report did not fit here: see its JSON or HTML form."


def inert(text: str, most: int = 80) -> str:
    """Text that shows as it is wherever it stands: every sign that could mean something is a numeric entity."""
    return _MEANINGFUL.sub(lambda found: f"&#{ord(found[0])};", shortened(text, most))


def _code(text: str, most: int = 80) -> str:
    # An HTML element, since a code span of Markdown ends at a backtick and does not know entities.
    return f"<code>{inert(text, most)}</code>" if text else ""


def _head(document: Document) -> str:
    sign = _SIGNS[words.symbol(document)]
    subject = f": {_code(document.subject, 120)}" if document.subject else ""
    lines = [f"### {sign} {words.headline(document)}{subject}"]
    if text := words.summary(document):
        lines.append(inert(text, 1000))
    if document.error:
        lines.append(_code(document.error))
    if document.kind == "optimize":
        lines.append(f"Written to {_code(document.published)}." if document.published else "Nothing was written.")
    return "\n\n".join(lines)


def _before_after(document: Document) -> str:
    before, after = document.before, document.after
    assert before is not None
    assert after is not None
    pairs = (
        ("nodes", before.nodes, after.nodes),
        ("BatchNormalization", before.batch_normalizations, after.batch_normalizations),
        ("bytes", before.nbytes, after.nbytes),
    )
    rows = [(label, number(old), number(new), words.change(old, new)) for label, old, new in pairs]
    return _table(("", "before", "after", "change"), rows, right=(1, 2, 3))


def _normalizations(document: Document) -> Iterable[str]:
    would = "would be " if document.kind == "inspect" else ""
    counts = ", ".join(f"{number(counted)} {would}{inert(action)}" for action, counted in document.actions.items())
    yield f"**{words.count(len(document.fates), 'normalization')}**: {counts}."
    yield from _reasons(document.kept)
    yield _each(document.fates, "normalization")


def _gains(document: Document) -> Iterable[str]:
    would = "would be " if document.kind == "inspect" else ""
    counts = ", ".join(f"{number(counted)} {would}{inert(action)}" for action, counted in document.gain_actions.items())
    yield f"**{words.count(len(document.gains), *words.GAINS)}** beside linear operators: {counts}."
    yield from _reasons(document.gains_kept)
    yield _each(document.gains, "gain or bias")


def _reasons(kept: Sequence[Fate]) -> Iterable[str]:
    if kept:
        rows = [
            (number(len(fates)), f"{inert(sentence, 200)} {_code(code)}", _listed(fates))
            for (code, sentence), fates in words.by_reason(kept).items()
        ]
        yield _table(("kept", "why", "which"), rows, right=(0,))


def _each(fates: Sequence[Fate], what: str) -> str:
    rows = [(_code(words.placed(fate.node, fate.scope)), inert(fate.action), _went(fate)) for fate in fates]
    return _folded("Each of them", _table((what, "became", ""), rows))


def _passes(document: Document) -> str:
    rows = [
        (_code(each.name), words.took(each), inert(words.changed(each), 200), inert(words.pass_verdict(each), 300))
        for each in document.passes
    ]
    return _folded(
        words.count(len(rows), "pass", "passes"), _table(("pass", "time", "changed", "verdict"), rows, right=(1,))
    )


def _listed(fates: Sequence[Fate]) -> str:
    names = [_code(words.placed(fate.node, fate.scope)) for fate in fates[:NAMED]]
    more = f" and {number(len(fates) - NAMED)} more" if len(fates) > NAMED else ""
    return ", ".join(names) + more


def _went(fate: Fate) -> str:
    target = f"into {_code(', '.join(fate.target))}" if fate.target else ""
    return " ".join(text for text in (target, _code(fate.reason), inert(fate.detail, 200)) if text)


def _comparison(document: Document) -> Iterable[str]:
    if not document.measured:
        return
    rows = []
    for each in document.comparisons:
        worst = each.worst
        numbers = (words.size(worst.max_abs), words.size(worst.relative))
        figures = (inert(worst.problem), "") if worst.problem else numbers
        verdict = words.judged(each) + ("" if each.decides else " (does not decide)")
        rows.append((_code(each.output), inert(words.setting(each)), verdict, inert(each.rules), *figures))
    header = ("output", "setting", "verdict", "decided by", "deviation", "relative")
    yield _folded(words.count(len(document.measured), "comparison"), _table(header, rows, right=(4, 5)))


def _changes(document: Document) -> Iterable[str]:
    """The sections on everything else that was done or found."""
    if document.recalibration is not None:
        yield _drifted(document.recalibration)
    if document.fitted:
        fits = [(_code(each.node), words.known(each.before), words.known(each.after)) for each in document.fitted]
        header = ("normalization", "before fitting", "after")
        yield _folded(f"{words.count(len(fits), 'substitute')} fitted", _table(header, fits, right=(1, 2)))
    if document.accuracy is not None:
        yield _accurate(document.accuracy)
    yield inert(document.divergence, 500)
    yield "\n".join(
        f"- In training mode the original answers otherwise: the {inert(words.deviation(each), 300)} in "
        f"{inert(words.place(each), 300)}."
        for each in document.training_distance[:MOST_ROWS]
    )
    if document.proofs:
        yield from _proved(document)
    if document.placements:
        yield _ran(document.placements)
    yield "\n".join(f"- {inert(note, 300)}" for note in document.notes[:MOST_ROWS])


def _drifted(recalibration: Recalibration) -> str:
    rows = [
        (_code(words.placed(drift.node, drift.scope)), words.known(drift.mean), words.known(drift.deviation))
        for drift in recalibration.drifts
    ]
    header = ("normalization", "mean moved by (deviations)", "deviation, factor")
    return _folded(f"{words.count(len(rows), 'normalization')} recalibrated", _table(header, rows, right=(1, 2)))


def _accurate(accuracy: ShownAccuracy) -> str:
    if accuracy.problem:
        return f"Task accuracy was not measured: {inert(accuracy.problem, 500)}"
    shares = ", ".join(f"{100 * part:.2f} % {inert(model)}" for model, part in accuracy.shares().items())
    return f"**Task accuracy** of {_code(accuracy.output)} on {words.count(accuracy.labels, 'label')}: {shares}."


def _proved(document: Document) -> Iterable[str]:
    counts = ", ".join(f"{number(found)} {inert(standing)}" for standing, found in document.standings.items())
    yield f"**{words.count(len(document.proofs), 'proof')}** of single rewrites: {counts}."
    refuted = [proof for proof in document.proofs if proof.standing == "broken"]
    for title, proofs in (("Those that do not hold", refuted), ("Compared by running only", document.by_running_only)):
        rows = [
            (_code(", ".join(each.rewrites)), _code(words.placed(each.value, each.scope)), inert(each.reason, 200))
            for each in proofs
        ]
        if rows:
            yield _folded(title, _table(("rewrite of", "ends in", "why"), rows))


def _ran(placements: Iterable[Placed]) -> str:
    rows = []
    for placed in placements:
        asked = inert(f"{placed.provider}, optimization {placed.optimization}, {placed.precision}")
        rows += [(asked, inert(ran), number(nodes), inert(operators, 200)) for ran, nodes, operators in placed.nodes]
    return _folded("Where the nodes ran", _table(("asked for", "ran on", "nodes", "operators"), rows, right=(2,)))


def _made(document: Document) -> str:
    versions = (("bnfold", document.version), *document.environment)
    facts = ", ".join(f"{inert(key)} {inert(value)}" for key, value in versions)
    command = f"\n\n<pre>{html.escape(shortened(document.command, 2000))}</pre>" if document.command else ""
    why = f"\n\n{inert(document.no_command, 400)}" if document.no_command and not document.command else ""
    return f"<sub>{facts}</sub>{command}{why}"


def _folded(title: str, body: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{body}\n\n</details>"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Iterable[int] = ()) -> str:
    ruler = ["---:" if at in set(right) else "---" for at in range(len(header))]
    lines = [header, ruler, *rows[:MOST_ROWS]]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    if len(rows) > MOST_ROWS:
        text += f"\n\n{number(len(rows) - MOST_ROWS)} more are in the JSON report."
    return text
