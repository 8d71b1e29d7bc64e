"""One report of all models of a batch: JSON, Markdown, JUnit XML and a page, written from the manifest."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import IO
from xml.sax.saxutils import escape as xml
from xml.sax.saxutils import quoteattr

from bnfold import __version__
from bnfold.errors import OutputError
from bnfold.fleet.finding import FOLDER
from bnfold.fleet.task import ORDER, Row, worst
from bnfold.report.text import one_line, shortened

KINDS = {
    0: "good",
    1: "not equivalent or not verified",
    3: "bad or unsupported model",
    4: "could not be written",
    5: "provider missing",
    6: "limit reached",
    70: "crashed",
}
_LONG = 300
_MOST_IN_MARKDOWN = 200

Rows = Callable[[], Iterable[Row]]


def write_all(output: Path, rows: Rows) -> list[Path]:
    """Write every form into the folder of the batch; `rows` gives the rows anew each time. Raises OutputError."""
    folder = output / FOLDER
    written = []
    forms: dict[str, Callable[[IO[str], Rows], None]] = {
        "report.json": _json,
        "report.md": _markdown,
        "report.xml": _junit,
        "report.html": _page,
    }
    for name, write in forms.items():
        target = folder / name
        temporary = folder / f".{name}.part"
        try:
            with temporary.open("w", encoding="utf-8") as stream:
                write(stream, rows)
            temporary.replace(target)
        except OSError as error:
            raise OutputError(f"{target}: {error.strerror or error}") from error
        written.append(target)
    return written


def counts(rows: Iterable[Row]) -> Counter[int]:
    """The number of models that ended with each exit code."""
    return Counter(row.exit_code for row in rows)


def kind_of(code: int) -> str:
    """An exit code in words."""
    return KINDS.get(code, f"exit code {code}")


def sentence(found: Counter[int]) -> str:
    """All counts in one line, the worst first."""
    total = sum(found.values())
    parts = [f"{found[code]:,} {kind_of(code)}" for code in sorted(found, key=_rank) if found[code]]
    return f"{total:,} models: {', '.join(parts)}" if total else "no models"


def _rank(code: int) -> int:
    return ORDER.index(code) if code in ORDER else -1


def _json(stream: IO[str], rows: Rows) -> None:
    found = counts(rows())
    head = {
        "format": 1,
        "bnfold": __version__,
        "kind": "batch",
        "exit_code": worst(found),
        "models": sum(found.values()),
    }
    head["outcomes"] = {str(code): number for code, number in sorted(found.items())}
    stream.write(json.dumps(head)[:-1] + ', "rows": [')
    for number, row in enumerate(rows()):
        stream.write((",\n" if number else "\n") + json.dumps(row.to_dict()))
    stream.write("\n]}\n")


def _markdown(stream: IO[str], rows: Rows) -> None:
    found = counts(rows())
    stream.write(f"**{sentence(found)}**\n\n")
    bad = list(_first(rows(), _MOST_IN_MARKDOWN, good=False))
    if not bad:
        return
    stream.write("| model | outcome | why |\n|---|---|---|\n")
    for row in bad:
        cells = (row.relative, kind_of(row.exit_code), shortened(one_line(row.message), _LONG))
        stream.write("| " + " | ".join(_cell(cell) for cell in cells) + " |\n")
    more = sum(found.values()) - found[0] - len(bad)
    if more > 0:
        stream.write(f"\nand {more:,} more\n")


def _cell(text: str) -> str:
    return escape(one_line(text)).replace("|", "\\|").replace("`", "\\`").replace("[", "\\[")


def _first(rows: Iterable[Row], most: int, *, good: bool) -> Iterator[Row]:
    for row in rows:
        if row.good == good:
            yield row
            most -= 1
            if not most:
                return


def _junit(stream: IO[str], rows: Rows) -> None:
    found = counts(rows())
    total = sum(found.values())
    failed, broken = found[1], total - found[0] - found[1]
    stream.write('<?xml version="1.0" encoding="UTF-8"?>\n')
    stream.write(f'<testsuites name="bnfold batch" tests="{total}" failures="{failed}" errors="{broken}">\n')
    for row in rows():
        name = quoteattr(one_line(row.relative))
        numbers = f'tests="1" failures="{int(row.exit_code == 1)}" errors="{int(row.exit_code not in (0, 1))}"'
        stream.write(f'  <testsuite name={name} {numbers} time="{row.seconds:.3f}">\n')
        case = f'    <testcase classname="bnfold.{row.command}" name={name} time="{row.seconds:.3f}"'
        if row.good:
            stream.write(f"{case}/>\n")
        else:
            tag = "failure" if row.exit_code == 1 else "error"
            why = quoteattr(shortened(one_line(row.message), _LONG))
            stream.write(f"{case}>\n      <{tag} type={quoteattr(kind_of(row.exit_code))} message={why}>")
            stream.write(f"{xml(one_line(row.message))}</{tag}>\n    </testcase>\n")
        stream.write("  </testsuite>\n")
    stream.write("</testsuites>\n")


def _page(stream: IO[str], rows: Rows) -> None:
    """One section for each outcome, the worst first: what one looks for is on top without any script."""
    found = counts(rows())
    style = files("bnfold.fleet").joinpath("page/style.css").read_text(encoding="utf-8")
    stream.write(
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>bnfold batch</title><style>{style}</style></head><body>\n<h1>{escape(sentence(found))}</h1>\n"
    )
    for code in sorted(found, key=_rank):
        tone = "good" if code == 0 else "bad"
        opened = "" if code == 0 and found[code] > 100 else " open"
        stream.write(
            f'<details class="{tone}"{opened}><summary>{escape(kind_of(code))}: {found[code]:,}</summary>\n<table>'
            "<thead><tr><th>model<th>verdict<th>nodes<th>normalizations<th>seconds<th>why</tr></thead><tbody>\n"
        )
        for row in rows():
            if row.exit_code == code:
                stream.write(_line(row))
        stream.write("</tbody></table></details>\n")
    stream.write(f"<footer>bnfold {escape(__version__)}</footer></body></html>\n")


def _line(row: Row) -> str:
    name = escape(one_line(row.relative))
    link = f"reports/{row.relative}.json"
    if row.report:
        from urllib.parse import quote

        name = f'<a href="{quote(link)}">{name}</a>'
    cells = (
        name,
        escape(row.verdict),
        _change(row.nodes),
        _change(row.normalizations),
        f"{row.seconds:.2f}",
        escape(shortened(one_line(row.message), _LONG)),
    )
    return "<tr>" + "".join(f"<td>{cell}" for cell in cells) + "</tr>\n"


def _change(pair: tuple[int | None, int | None]) -> str:
    before, after = pair
    if before is None:
        return ""
    return f"{before:,}" if after is None else f"{before:,} → {after:,}"
