"""The common part of the commands that write a model: check the output, make it, show and write the report."""

import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bnfold import process
from bnfold.cli.delivery import (
    model_from,
    owed_report,
    refuse_output_over_what_is_read,
    require_file,
    reserve_reports,
    show,
    write_file_out,
    write_report,
)
from bnfold.cli.options import asked_reports, known_hash_of, values_of, verbosity_of
from bnfold.cli.remote import deliver_from, server_of
from bnfold.cli.shell import fail
from bnfold.cli.waiting import shown
from bnfold.errors import ReportedError, UsageError
from bnfold.lifetime import process_ends_with_the_call
from bnfold.options import FreezeOptions, OptimizeOptions, RecalibrateOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from bnfold.report import Report

WritingOptions = TypeVar("WritingOptions", FreezeOptions, OptimizeOptions, RecalibrateOptions)
AnyWritingOptions = TypeVar("AnyWritingOptions", bound=FreezeOptions | OptimizeOptions | RecalibrateOptions)


def prepared(ctx: click.Context, options: type[WritingOptions], given: Mapping[str, Any]) -> WritingOptions:
    """The options that the command was given, after checking that result and report have a place.

    Raises UsageError and OutputError.
    """
    output = ctx.params["output"]
    made = values_of(options, given)
    if output is None and not made.dry_run:
        name = ctx.info_name
        raise UsageError(f"say where the result goes: bnfold {name} MODEL OUTPUT, or add --dry-run to write nothing")
    from bnfold.addresses import is_address

    named = {output, ctx.params["model"]}
    if server_of(ctx) is not None and any(each == "-" or is_address(each) for each in named):
        raise UsageError("a service is given files: name MODEL and OUTPUT as paths of this machine")
    if "-" in named:
        _check_streams(ctx, output, made)
    refuse_output_over_what_is_read(ctx)
    reserve_reports(ctx)
    require_file(ctx.params["model"], str(ctx.info_name))
    owed = owed_report(ctx)
    return replace(made, checksums=owed, distributions=owed, known_sha256=known_hash_of(ctx))


def _check_streams(
    ctx: click.Context, output: str | None, options: FreezeOptions | OptimizeOptions | RecalibrateOptions
) -> None:
    """Raise UsageError for what cannot be read from standard input, or written to standard output."""
    if output != "-":
        return
    if sys.stdout.isatty():
        raise UsageError("a model is not written to a terminal: redirect standard output, or name a file")
    if "-" in asked_reports(ctx)[0] or asked_reports(ctx)[1] == "github":
        raise UsageError("the model goes to standard output: name a file for the report")
    if options.keep_failed:
        raise UsageError("--keep-failed writes beside OUTPUT: name a file, not -")
    from bnfold.onnxfile import Weights

    if options.layout is not None and options.layout.weights is Weights.EXTERNAL:
        raise UsageError("--external-data writes beside OUTPUT: name a file, not -")


@contextmanager
def _written_to(output: str | None, model: str) -> Iterator[str | None]:
    """Where the model is published: at `output`, or for - in a file that goes to standard output at the end."""
    if output != "-":
        yield output
        return
    with tempfile.TemporaryDirectory(prefix="bnfold-") as folder:
        place = Path(folder, "out.onnx" if model == "-" else Path(model).name)
        yield str(place)
        if place.exists():
            write_file_out(place)


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

    if process.owned():
        process_ends_with_the_call()
    source = model_from(model)
    delivered(ctx, model, output, options, lambda place, asked: api.optimize_with(source, place, asked).report)


def delivered(
    ctx: click.Context,
    model: str,
    output: str | None,
    options: AnyWritingOptions,
    make: "Callable[[str | None, AnyWritingOptions], Report]",
) -> None:
    """Let `make` make the model at a place; show and write its report, and leave with its exit code."""
    from bnfold.report import print_console

    failure: ReportedError | None = None
    try:
        with shown(ctx) as progress, _written_to(output, model) as place:
            report = make(place, replace(options, progress=progress))
            if output == "-" and report.published is not None:
                report = replace(report, published="standard output")
    except ReportedError as error:
        failure, report = error, error.report
    try:
        show(ctx, lambda console: print_console(report, console, verbosity_of(ctx)))
    finally:
        write_report(ctx, report)
    if failure is not None:
        raise failure
    if report.exit_code:
        fail(ctx, report.explanation or report.verdict, report.exit_code)
