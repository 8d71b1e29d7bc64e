"""The report as JUnit XML, the form that CI dashboards read.

One suite for the verdict with a case per output and setting, one for the passes, one for the normalizations, where
those that stay are skipped with their reason, and one for the proofs. The case "verdict" is always there: a run that
compared nothing must not look like one where nothing was wrong.
"""

from collections.abc import Iterable
from xml.etree import ElementTree as ET

from bnfold.report import words
from bnfold.report.document import Comparison, Document
from bnfold.report.text import shortened

_LONG = 500


def to_junit(document: Document) -> str:
    """An XML document. Equal documents give equal text; the only times in it are those of passes."""
    subject = shortened(document.subject, 200)
    root = ET.Element("testsuites", name=f"bnfold {document.kind} {subject}".rstrip())
    _add_suite(root, "equivalence", [_verdict(document), *map(_compared, document.comparisons)], document)
    _add_suite(root, "passes", _passes(document), document)
    _add_suite(root, "normalizations", _normalizations(document), document)
    _add_suite(root, "proofs", _proofs(document), document)
    _count(root, "tests", "failures", "errors")
    ET.indent(root)
    text: str = ET.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def _add_suite(root: ET.Element, name: str, cases: Iterable[ET.Element], document: Document) -> None:
    cases = list(cases)
    if not cases:
        return
    suite = ET.SubElement(root, "testsuite", name=f"bnfold.{name}")
    if name == "equivalence":
        properties = ET.SubElement(suite, "properties")
        for key, value in (("bnfold", document.version), *document.environment):
            ET.SubElement(properties, "property", name=shortened(key), value=shortened(value))
    suite.extend(cases)
    _count(suite, "tests", "failures", "errors", "skipped")


_COUNTED = {"tests": "testcase", "failures": "failure", "errors": "error", "skipped": "skipped"}


def _count(element: ET.Element, *attributes: str) -> None:
    for attribute in attributes:
        element.set(attribute, str(sum(1 for _ in element.iter(_COUNTED[attribute]))))


def _case(suite: str, name: str, outcome: str = "", message: str = "", text: str = "") -> ET.Element:
    case = ET.Element("testcase", classname=f"bnfold.{suite}", name=shortened(name, 250))
    if outcome:
        result = ET.SubElement(case, outcome, message=shortened(message, _LONG))
        result.text = text or None
        if outcome != "skipped":
            result.set("type", outcome)
    return case


def _verdict(document: Document) -> ET.Element:
    if document.kind == "failure":
        return _case("equivalence", "verdict", "error", f"{document.error}: {document.explanation}")
    message = f"{words.headline(document)}: {words.summary(document)}"
    if document.failed:
        return _case("equivalence", "verdict", "failure", message)
    if document.kind == "inspect" or document.good:
        return _case("equivalence", "verdict")
    return _case("equivalence", "verdict", "skipped", message)


def _compared(comparison: Comparison) -> ET.Element:
    what = f"value {comparison.output} behind an output" if comparison.behind else f"output {comparison.output}"
    name = f"{shortened(what, 150)} ({words.setting(comparison)})"
    if not comparison.differing:
        return _case("equivalence", name)
    worst = comparison.worst
    message = f"{words.judged(comparison)}; the largest {words.deviation(worst)} on feed {worst.feed}"
    feeds = "\n".join(f"feed {each.feed}: the {words.deviation(each)}" for each in comparison.differing[:100])
    if not comparison.decides:
        return _case("equivalence", name, "skipped", f"{message}; this precision does not decide")
    return _case("equivalence", name, "failure", message, shortened(feeds, 20_000))


def _passes(document: Document) -> Iterable[ET.Element]:
    outcomes = {"guilty": "failure", "taken-back": "skipped", "not-verified": "skipped", "open": "skipped"}
    for each in document.passes:
        case = _case("passes", each.name, outcomes.get(each.verdict, ""), words.pass_verdict(each))
        if each.seconds is not None:
            case.set("time", f"{each.seconds:.3f}")
        if words.changed(each):
            ET.SubElement(case, "system-out").text = shortened(
                f"{words.changed(each)}; {words.pass_verdict(each)}", _LONG
            )
        yield case


def _normalizations(document: Document) -> Iterable[ET.Element]:
    for fate in document.fates:
        name = words.placed(shortened(fate.node), shortened(fate.scope))
        if fate.action == "kept":
            yield _case("normalizations", name, "skipped", f"kept [{fate.reason}]: {words.outcome(fate)}")
        else:
            yield _case("normalizations", name)


def _proofs(document: Document) -> Iterable[ET.Element]:
    outcomes = {"broken": "failure", "undecided": "skipped"}
    for proof in document.proofs:
        message = proof.reason
        if proof.standing == "undecided":
            message = f"compared by running only, in {words.placed(proof.value, proof.scope)}: {proof.reason}"
        yield _case("proofs", ", ".join(proof.rewrites), outcomes.get(proof.standing, ""), message)
