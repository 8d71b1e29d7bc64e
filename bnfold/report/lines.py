"""The screen that the reports for a person are printed to: lines of text, coloured where somebody can see that.

It takes what `rich.console.Console.print` takes of it, so that one of those serves as well.
"""

import os
import shutil
import sys
from typing import Any, Protocol

_CODES = {"bold green": "1;32", "bold red": "1;31"}


class Screen(Protocol):
    """Something to print lines to: `Lines`, or a console of rich."""

    @property
    def width(self) -> int:
        """The number of characters in a line."""

    def print(self, *objects: Any, **how: Any) -> None:
        """Print one line; `style` is that of the whole line."""


class Lines:
    """Keeps what is printed. `coloured`: with the codes that terminals take for colours."""

    def __init__(self, width: int, *, coloured: bool = False) -> None:
        self.width = width
        self._coloured = coloured
        self._lines: list[str] = []

    @classmethod
    def for_standard_output(cls) -> "Lines":
        """A screen as wide as the terminal; in colour on a terminal, subject to NO_COLOR and FORCE_COLOR."""
        wanted = sys.stdout.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")
        wanted = wanted or bool(os.environ.get("FORCE_COLOR"))
        return cls(shutil.get_terminal_size().columns, coloured=wanted and not os.environ.get("NO_COLOR"))

    def print(self, *objects: Any, style: str | None = None, **_how: Any) -> None:
        """Keep one line."""
        text = " ".join(map(str, objects))
        if style is not None and self._coloured and text:
            text = f"\x1b[{_CODES[style]}m{text}\x1b[0m"
        self._lines.append(text)

    @property
    def text(self) -> str:
        """All lines, each with its end."""
        return "".join(f"{line}\n" for line in self._lines)
