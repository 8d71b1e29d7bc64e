"""Bars on standard error for what takes over a second; nothing at all for what does not, or where nobody looks."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bnfold.progress import Progress, Stage

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

PATIENCE = 1.0  # seconds before a stage is shown

_TEXT = {
    Stage.BATCHES: "reading data",
    Stage.NORMALIZATIONS: "folding",
    Stage.BYTES: "writing",
    Stage.FEEDS: "comparing",
}


@contextmanager
def bars(*, wanted: bool) -> Iterator[Progress | None]:
    """What to tell of a run's progress; None where standard error is no terminal, or bars are not wanted."""
    if not wanted or not sys.stderr.isatty():
        yield None
        return
    shown = _Bars()
    try:
        yield shown.tell
    finally:
        shown.close()


class _Bars:
    """One bar for each stage, the first shown when a stage has lasted a second. rich is imported only then."""

    def __init__(self) -> None:
        self._since: dict[Stage, float] = {}
        self._tasks: dict[Stage, TaskID] = {}
        self._display: RichProgress | None = None

    def tell(self, stage: Stage, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._since.setdefault(stage, now) < PATIENCE:
            return
        if self._display is None:
            self._display = _display()
            self._display.start()
        if stage not in self._tasks:
            self._tasks[stage] = self._display.add_task(_TEXT[stage], unit=stage.value, total=None)
        self._display.update(self._tasks[stage], completed=done, total=max(done, total) or None)

    def close(self) -> None:
        if self._display is not None:
            self._display.stop()


def _display() -> "RichProgress":
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f} {task.fields[unit]}"),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=Console(stderr=True), transient=True)
