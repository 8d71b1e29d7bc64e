"""The report as workflow commands of GitHub Actions, which show as annotations of a run and of a pull request.

The form is ``::error file=NAME,title=TITLE::MESSAGE``; percent signs and line breaks are escaped in it, and in the
properties colons and commas as well (docs.github.com, "Workflow commands for GitHub Actions"). GitHub shows ten of each
level per step, so there is one for the verdict, one for each reason for which normalizations stay, and one for each
broken proof and each guilty pass.
"""

from collections.abc import Iterator

from bnfold.report import words
from bnfold.report.document import Document
from bnfold.report.text import number, shortened

NAMED = 5
"""Normalizations that an annotation names; it counts the others."""


def to_annotations(document: Document) -> str:
    """One command a line."""
    return "".join(f"{line}\n" for line in _lines(document))


def _lines(document: Document) -> Iterator[str]:
    level = "error" if document.failed else "notice" if document.good or document.kind == "inspect" else "warning"
    text = words.summary(document) or words.headline(document)
    yield _command(level, document, f"bnfold: {words.headline(document)}", text)
    for each in document.passes:
        if each.verdict in ("guilty", "taken-back"):
            level = "error" if document.failed else "warning"
            verdict = words.pass_verdict(each)
            yield _command(level, document, f"bnfold: pass {shortened(each.name)}", f"{words.changed(each)}; {verdict}")
    for proof in document.proofs:
        if proof.standing == "broken":
            names = shortened(", ".join(proof.rewrites))
            yield _command("error", document, "bnfold: broken proof", f"{names}: {proof.reason}")
    for (code, sentence), fates in words.by_reason(document.kept).items():
        nodes = [words.placed(shortened(fate.node), shortened(fate.scope)) for fate in fates]
        more = f" and {number(len(nodes) - NAMED)} more" if len(nodes) > NAMED else ""
        title = f"bnfold: {words.count(len(nodes), 'normalization')} kept"
        yield _command("notice", document, title, f"{sentence} [{code}] {', '.join(nodes[:NAMED])}{more}")


def _command(level: str, document: Document, title: str, message: str) -> str:
    properties = f"file={_property(document.file)}," if document.file else ""
    return f"::{level} {properties}title={_property(title)}::{_data(shortened(message, 1000))}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
