"""The screen of the command line: plain lines, coloured where a terminal shows that."""

import io

import pytest

from bnfold.report.lines import Lines


def test_lines_are_kept_as_they_are_printed() -> None:
    lines = Lines(80)
    lines.print("a [red]b[/red]", style="bold green", soft_wrap=True, highlight=False)
    lines.print("")
    assert lines.text == "a [red]b[/red]\n\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("terminal", "environment", "coloured"),
    [
        (True, {"TERM": "xterm"}, True),
        (True, {"TERM": "dumb"}, False),
        (True, {"TERM": "xterm", "NO_COLOR": "1"}, False),
        (False, {"TERM": "xterm"}, False),
        (False, {"FORCE_COLOR": "1"}, True),
        (False, {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
    ],
)
def test_the_verdict_is_coloured_where_that_is_seen_and_wanted(
    terminal: bool, environment: dict[str, str], coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TERM", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stdout", Terminal() if terminal else io.StringIO())
    lines = Lines.for_standard_output()
    lines.print("equivalent", style="bold green")
    assert lines.text == ("\x1b[1;32mequivalent\x1b[0m\n" if coloured else "equivalent\n")


def test_the_lines_are_as_wide_as_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "33")
    assert Lines.for_standard_output().width == 33
