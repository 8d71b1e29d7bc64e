"""What the commands that write a model do alike: check where the result may go, make it, show and write the report."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

import click

from bnfold.cli.delivery import owed_report, reserve_reports, show, write_report
from bnfold.cli.options import values_of, verbosity_of
from bnfold.cli.remote import deliver_from, server_of
from bnfold.cli.shell import fail
from bnfold.cli.waiting import shown
from bnfold.errors import StatisticsError, UsageError, VerificationError
from bnfold.options import FreezeOptions, OptimizeOptions, RecalibrateOptions

WritingOptions = TypeVar("WritingOptions", FreezeOptions, OptimizeOptions, RecalibrateOptions)


def prepared(ctx: click.Context, options: type[WritingOptions], given: Mapping[str, Any]) -> WritingOptions:
    """The options that the command was given, after checking that result and report have a place.

    Raises UsageError and OutputError.
    """
    output = ctx.params["output"]
    made = values_of(options, given)
    if output is None and not made.dry_run:
        name = ctx.info_name
        raise UsageError(f"say where the result goes: bnfold {name} MODEL OUTPUT, or add --dry-run to write nothing")
    if output == "-":
        raise UsageError("a model is not written to standard output; name a file, ./- for one of that name")
    reserve_reports(ctx)
    return replace(made, checksums=owed_report(ctx), distributions=owed_report(ctx))


def deliver(
    ctx: click.Context, model: str, output: str | None, options: FreezeOptions | OptimizeOptions | RecalibrateOptions
) -> None:
    """Make the model, show and write its report, also that of a failure, and leave with its exit code.

    With --server the service does that, where the command has that option.
    """
    if (server := server_of(ctx)) is not None and not isinstance(options, RecalibrateOptions):
        deliver_from(server, ctx, model, output, options)
        return
    from bnfold import api
    from bnfold.report import print_console

    failure: StatisticsError | VerificationError | None = None
    try:
        with shown(ctx) as progress:
            report = api.optimize_with(model, output, replace(options, progress=progress)).report
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
