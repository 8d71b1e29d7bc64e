"""The forms a report can be written in, and how a file's name tells which."""

import os
from collections.abc import Mapping
from enum import StrEnum
from importlib.util import find_spec
from pathlib import PurePath
from typing import Any

from bnfold.errors import UsageError
from bnfold.report.document import Document
from bnfold.report.inspection import Inspection
from bnfold.report.json_report import to_data, to_json
from bnfold.report.report import AnyReport


class Format(StrEnum):
    """A form of the report; the value is its name on the command line."""

    JSON = "json"
    HTML = "html"
    MARKDOWN = "markdown"
    JUNIT = "junit"
    GITHUB = "github"
    SARIF = "sarif"


SUFFIXES = {
    ".json": Format.JSON,
    ".html": Format.HTML,
    ".htm": Format.HTML,
    ".md": Format.MARKDOWN,
    ".markdown": Format.MARKDOWN,
    ".xml": Format.JUNIT,
    ".sarif": Format.SARIF,
}

_NEEDS = {"jinja2": "Jinja2", "matplotlib": "matplotlib"}


def format_of(path: str | os.PathLike[str]) -> Format | None:
    """The format that the suffix names, or None."""
    return SUFFIXES.get(PurePath(path).suffix.lower())


def form_for(path: str | os.PathLike[str], asked: Format | None = None) -> Format:
    """The format of a file, from its suffix or as `asked`. Raises UsageError where they differ or neither tells."""
    by_suffix = format_of(path)
    if by_suffix is not None and asked not in (None, by_suffix):
        raise UsageError(f"{os.fspath(path)} is named like {by_suffix}, and --report-format asks for {asked}")
    form = by_suffix or asked
    if form is None:
        raise UsageError(
            f"{os.fspath(path)}: the name tells no format; "
            "use .json, .html, .md, .xml or .sarif, or add --report-format"
        )
    return form


def require(form: Format) -> None:
    """Raise UsageError where what a form needs is not installed. Nothing is imported for it."""
    missing = [name for module, name in _NEEDS.items() if form is Format.HTML and find_spec(module) is None]
    if missing:
        raise UsageError(f"an HTML report needs {' and '.join(missing)}: pip install 'bnfold[report]'")


def render(report: AnyReport | Inspection | Mapping[str, Any], form: Format | str) -> str:
    """The report, or the data of one, in that form: a `Format`, or "json", "html", "markdown", "junit", "github" or
    "sarif".

    Raises UsageError for data that is no report, and where the extra that HTML needs is not installed.
    """
    form = Format(form)
    require(form)
    if form is Format.JSON:
        return to_json(report)
    document = Document.of(to_data(report))
    match form:
        case Format.HTML:
            from bnfold.report.html import to_html

            return to_html(document)
        case Format.MARKDOWN:
            from bnfold.report.markdown import to_markdown

            return to_markdown(document)
        case Format.JUNIT:
            from bnfold.report.junit import to_junit

            return to_junit(document)
        case Format.GITHUB:
            from bnfold.report.annotations import to_annotations

            return to_annotations(document)
        case Format.SARIF:
            from bnfold.report.sarif import to_sarif

            return to_sarif(document)
