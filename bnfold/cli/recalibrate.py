"""`bnfold recalibrate`: new statistics for BatchNormalization, from data or from a file of weights."""

from typing import Any

import click

from bnfold.cli.options import (
    flags_of,
    given_flags,
    known_hash_option,
    model_and_output,
    progress_option,
    report_option,
    verbosity_options,
)
from bnfold.cli.sections import SectionedCommand
from bnfold.cli.writing import deliver, prepared
from bnfold.errors import UsageError
from bnfold.options import CalibrationOptions, RecalibrateOptions


@click.command(
    "recalibrate",
    cls=SectionedCommand,
    short_help="Compute the statistics of every BatchNormalization anew, from data.",
)
@model_and_output
@flags_of(RecalibrateOptions)
@report_option
@progress_option
@known_hash_option
@verbosity_options
@click.pass_context
def command(ctx: click.Context, /, model: str, output: str | None, **given: Any) -> None:
    """Give every BatchNormalization of MODEL the mean and variance that it sees in DATA, in inference mode, and write
    the result to OUTPUT. Nothing is folded; `bnfold optimize --recalibrate DATA` does both.

    The drift of every normalization is printed, the largest first: stale statistics are at the top. Where DATA holds
    labels, so is the share of right answers before and after.
    """
    if (given["data"] is None) is (given["statistics_from"] is None):
        raise UsageError("say where the statistics come from: --data DATA, or --statistics-from FILE")
    if given["data"] is None and (flags := given_flags(ctx, CalibrationOptions)):
        raise UsageError(f"{flags[0]} says how data is read, and --statistics-from reads none")
    deliver(ctx, model, output, prepared(ctx, RecalibrateOptions, given))
