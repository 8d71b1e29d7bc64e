"""Progress on standard error: bars for people, for what takes over a second; lines of JSON for programs."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import click

from bnfold.cli.options import wants_json_progress, wants_progress
from bnfold.progress import Progress, Stage

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

PATIENCE = 1.0  # seconds before a stage is shown
EVERY = 0.1  # seconds between two lines of JSON of one stage

_TEXT = {
    Stage.BATCHES: "reading data",
    Stage.NORMALIZATIONS: "folding",
    Stage.BYTES: "writing",
    Stage.FEEDS: "comparing",
}


@contextmanager
def bars(*, wanted: bool) -> Iterator[Progress | None]:
    """A callback that shows progress as bars; None where standard error is no terminal, or bars are not wanted."""
    if not wanted or not sys.stderr.isatty():
        yield None
        return
    shown = _Bars()
    try:
        yield shown.tell
    finally:
        shown.close()


@contextmanager
def shown(ctx: click.Context) -> Iterator[Progress | None]:
    """The progress callback of this command, as its flags ask for it."""
    if wants_json_progress(ctx):
        yield _Lines().tell
        return
    with bars(wanted=wants_progress(ctx)) as progress:
        yield progress


class _Lines:
    """A line ``{"stage": ..., "done": ..., "total": ...}`` where a stage begins and ends, and now and then between."""

    def __init__(self) -> None:
        self._written: dict[Stage, float] = {}

    def tell(self, stage: Stage, done: int, total: int) -> None:
        now = time.monotonic()
        if stage in self._written and done != total and now - self._written[stage] < EVERY:
            return
        self._written[stage] = now
        sys.stderr.write(json.dumps({"stage": stage.value, "done": done, "total": total}) + "\n")
        sys.stderr.flush()


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
        with suppress(OSError):  # the terminal went away: a signal says so, or nobody cares
            self._show(stage, done, total)

    def close(self) -> None:
        if self._display is not None:
            with suppress(OSError):
                self._display.stop()

    def _show(self, stage: Stage, done: int, total: int) -> None:
        if self._display is None:
            self._display = _display()
            self._display.start()
        if stage not in self._tasks:
            self._tasks[stage] = self._display.add_task(_TEXT[stage], unit=stage.value, total=None)
        self._display.update(self._tasks[stage], completed=done, total=max(done, total) or None)


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
