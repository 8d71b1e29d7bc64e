"""Where results go: the report to its file, the text to standard output, and what an unlucky reader leaves behind."""

import os
import sys
from typing import TYPE_CHECKING

import click

from bnfold.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from bnfold.report import AnyReport
    from bnfold.report.files import ReportFile

_REPORT = "bnfold.report"


def reserve_report(ctx: click.Context, path: str | None, *taken: str | None) -> None:
    """Check now that the report can be written to `path`, which must be none of the files that are `taken`.

    From then on a failing run writes a report too. Raises `OutputError` or `UsageError`.
    """
    if path is not None:
        from bnfold.report.files import ReportFile

        ctx.meta[_REPORT] = ReportFile(path, taken=[name for name in taken if name is not None])


def owed_report(ctx: click.Context) -> bool:
    """Whether a report was asked for and not written yet."""
    return _REPORT in ctx.meta


def write_report(ctx: click.Context, report: "AnyReport") -> None:
    """Write the report where one was asked for, the first time only: a later failure does not replace the facts."""
    file: ReportFile | None = ctx.meta.pop(_REPORT, None)
    if file is None:
        return
    from bnfold.report import to_json

    if file.is_standard_output:
        write_out(to_json(report))
    else:
        file.write(to_json(report))


def show(ctx: click.Context, draw: "Callable[[Console], None]") -> None:
    """Draw on standard output, unless that is where the report goes."""
    file: ReportFile | None = ctx.meta.get(_REPORT)
    if file is not None and file.is_standard_output:
        return
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    with console.capture() as capture:
        draw(console)
    write_out(capture.get())


def write_out(text: str) -> None:
    """Write to standard output. A reader that went away is no failure; a full disk is an `OutputError`."""
    try:
        click.echo(text, nl=False)
    except BrokenPipeError:
        discard_standard_output()
    except OSError as error:
        discard_standard_output()
        raise OutputError(f"cannot write to standard output: {error.strerror or error}") from error


def discard_standard_output() -> None:
    """Let go of what is still buffered: it would fail again when the interpreter flushes it at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
