"""The report as SARIF 2.1.0, the form that code scanning reads (OASIS, Static Analysis Results Interchange Format).

One result for a verdict that is not good, one for each guilty pass and broken proof, and one for each normalization
that stays: a note whose rule is the code of its reason. A good verdict is no result, since readers show results as
alerts; it stands in the properties of the run, as does any other.
"""

import json
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any, NamedTuple
from urllib.parse import quote

from bnfold.documentation import DOCUMENTATION, page_of_reason
from bnfold.report import words
from bnfold.report.document import Document
from bnfold.report.text import shortened

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_LONG = 1000

VERDICT, GUILTY_PASS, BROKEN_PROOF = "verdict", "guilty-pass", "broken-proof"
_RULES = {
    VERDICT: "The result was not shown to compute what the original does.",
    GUILTY_PASS: "Without this pass the result agrees with the original.",
    BROKEN_PROOF: "A change is more than rounding.",
}


def to_sarif(document: Document) -> str:
    """A SARIF log with one run. Equal documents give equal text."""
    findings = list(_findings(document))
    rules = {finding.rule: _rule(finding) for finding in findings}
    places = list(rules)
    driver: dict[str, Any] = {
        "name": "bnfold",
        "version": document.version,
        "informationUri": DOCUMENTATION,
        "rules": list(rules.values()),
    }
    invocation: dict[str, Any] = {"executionSuccessful": document.exit_code == 0, "exitCode": document.exit_code}
    if document.command:
        invocation["commandLine"] = document.command
    if document.kind == "failure":
        text = {"text": shortened(f"{document.error}: {document.explanation}", _LONG)}
        invocation["toolExecutionNotifications"] = [{"level": "error", "message": text}]
    run: dict[str, Any] = {
        "tool": {"driver": driver},
        "invocations": [invocation],
        "results": [_result(document, each, places.index(each.rule)) for each in findings],
        "columnKind": "unicodeCodePoints",
        "properties": {
            "kind": document.kind,
            "verdict": document.verdict,
            "summary": shortened(words.summary(document), _LONG),
            "environment": {shortened(key): shortened(value, _LONG) for key, value in document.environment},
        },
    }
    log = {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}
    return json.dumps(log, indent=2, ensure_ascii=False) + "\n"


class _Finding(NamedTuple):
    """A result. `says` is the text of its rule; `node` and `scope` are "" for a finding about the whole."""

    rule: str
    says: str
    level: str
    message: str
    node: str = ""
    scope: str = ""


def _findings(document: Document) -> Iterator[_Finding]:
    level = "error" if document.failed else "warning"
    if document.kind != "inspect" and not document.good:
        yield _Finding(VERDICT, _RULES[VERDICT], level, f"{words.headline(document)}: {words.summary(document)}")
    for each in document.passes:
        if each.verdict in ("guilty", "taken-back"):
            message = f"pass {shortened(each.name)}: {words.changed(each)}; {words.pass_verdict(each)}"
            yield _Finding(GUILTY_PASS, _RULES[GUILTY_PASS], level, message)
    for proof in document.proofs:
        if proof.standing == "broken":
            message = f"{shortened(', '.join(proof.rewrites))}: {proof.reason}"
            yield _Finding(BROKEN_PROOF, _RULES[BROKEN_PROOF], "error", message, proof.value, proof.scope)
    for fate in document.kept:
        message = f"{shortened(fate.node)} is kept: {words.outcome(fate)}"
        yield _Finding(fate.reason, fate.sentence, "note", message, fate.node, fate.scope)


def _rule(finding: _Finding) -> dict[str, Any]:
    rule: dict[str, Any] = {"id": shortened(finding.rule), "shortDescription": {"text": shortened(finding.says, _LONG)}}
    page = page_of_reason(finding.rule)
    return rule if page is None else rule | {"helpUri": page}


def _result(document: Document, finding: _Finding, index: int) -> dict[str, Any]:
    result: dict[str, Any] = {
        "ruleId": shortened(finding.rule),
        "ruleIndex": index,
        "level": finding.level,
        "message": {"text": shortened(finding.message, _LONG)},
    }
    location: dict[str, Any] = {}
    if document.file:
        location["physicalLocation"] = {"artifactLocation": {"uri": _uri(document.file)}}
    if finding.node:
        name, scope = shortened(finding.node), shortened(finding.scope)
        full = f"{scope}/{name}" if scope else name
        location["logicalLocations"] = [{"name": name, "fullyQualifiedName": full, "kind": "element"}]
    return result | ({"locations": [location]} if location else {})


def _uri(file: str) -> str:
    """The path as a URI: relative where the path is, so that a reader finds it in a checkout."""
    path = quote(shortened(file, _LONG))
    return f"file://{path}" if PurePath(file).is_absolute() else path
