"""Turns words that come out of a model or an exception into text that is safe and short enough to print.

Names in a model are untrusted: one may hold line breaks, terminal escape sequences, or what a CI service obeys.
"""

import re

_COMMAND = re.compile(r"^\s*:(?=:)|##\w*(?=\[)")


def printable(text: str) -> str:
    r"""The text with every character that cannot be shown, lone surrogates included, written as an escape (``\n``)."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def one_line(text: str) -> str:
    """The text on one line: runs of white space become one space, what cannot be shown becomes an escape."""
    return printable(" ".join(text.split()))


def inert(line: str) -> str:
    r"""The line with a backslash where a CI service would obey: ``::error::`` at its beginning, ``##[error]`` anywhere.

    GitHub Actions and Azure Pipelines read commands from what a step prints, whoever wrote the words.
    """
    return _COMMAND.sub(r"\g<0>\\", line)


def shortened(text: str, most: int = 120) -> str:
    """The text, or its beginning and end where it is longer than `most` characters."""
    if len(text) <= most:
        return text
    return f"{text[: most * 2 // 3]}…{text[-(most // 4) :]}"


def number(value: float | None) -> str:
    """An integer with thousands separators, a float with three significant digits, or "?" where it is not known."""
    if value is None:
        return "?"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"
