"""What the commands that write a model do alike: check where the result may go, make it, show and write the report."""

from typing import TYPE_CHECKING, Any

import click

from bnfold.cli.delivery import owed_report, reserve_reports, show, write_report
from bnfold.cli.options import verbosity_of, wants_progress
from bnfold.cli.shell import fail
from bnfold.cli.waiting import bars
from bnfold.errors import StatisticsError, UsageError, VerificationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from bnfold.onnxfile import Layout
    from bnfold.progress import Progress


def prepared(ctx: click.Context, options: dict[str, Any], *read: str | None) -> dict[str, Any]:
    """`writing_options` as keyword arguments of the api, after checking that result and report have a place.

    `read` are files that the command reads besides MODEL and --inputs. Raises UsageError and OutputError.
    """
    model, output = ctx.params["model"], ctx.params["output"]
    made = dict(options)
    if output is None and not made["dry_run"]:
        name = ctx.info_name
        raise UsageError(f"say where the result goes: bnfold {name} MODEL OUTPUT, or add --dry-run to write nothing")
    reserve_reports(ctx, model, output, made["inputs"], *read)
    made["checksums"] = owed_report(ctx)
    made["verify"] = not made.pop("no_verify")
    made["layout"] = _layout(made.pop("external_data"), made.pop("size_threshold"), inline=made.pop("inline"))
    return made


def _layout(external_data: str | None, size_threshold: int | None, *, inline: bool) -> "Layout | None":
    """Where the weights go; None for where the input has them. Raises UsageError for a contradiction."""
    if external_data is None:
        if size_threshold is not None:
            raise UsageError("--size-threshold says what --external-data moves: add that, or leave it out")
        if not inline:
            return None
    elif inline:
        raise UsageError("--external-data and --inline contradict each other")
    from bnfold.onnxfile import SIZE_THRESHOLD, Layout, Weights

    threshold = SIZE_THRESHOLD if size_threshold is None else size_threshold
    return Layout(Weights.INLINE) if inline else Layout(Weights.EXTERNAL, external_data or None, threshold)


def deliver(ctx: click.Context, make: "Callable[[Progress | None], Any]") -> None:
    """Show and write the report of what `make` makes, also where it raises one; leave with its exit code.

    `make` is given what to tell of its progress: bars on standard error, where that is a terminal.
    """
    from bnfold.report import print_console

    failure: StatisticsError | VerificationError | None = None
    try:
        with bars(wanted=wants_progress(ctx)) as progress:
            report = make(progress).report
    except (StatisticsError, VerificationError) as error:
        failure, report = error, error.report
    try:
        show(ctx, lambda console: print_console(report, console, verbosity_of(ctx)))
    finally:
        write_report(ctx, report)
    if failure is not None:
        raise failure
    if report.exit_code:
        fail(ctx, report.explanation or report.verdict, report.exit_code)
