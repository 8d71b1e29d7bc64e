"""`bnfold optimize`: fold, verify, publish."""

from dataclasses import replace
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
from bnfold.cli.remote import server_option
from bnfold.cli.sections import SectionedCommand
from bnfold.cli.writing import deliver, prepared
from bnfold.errors import UsageError
from bnfold.options import CalibrationOptions, OptimizeOptions


@click.command(
    "optimize",
    cls=SectionedCommand,
    short_help="Fold every BatchNormalization that can be, verify, and write the result.",
)
@model_and_output
@flags_of(OptimizeOptions)
@report_option
@server_option
@progress_option
@known_hash_option
@verbosity_options
@click.pass_context
def command(ctx: click.Context, /, model: str, output: str | None, **given: Any) -> None:
    """Fold every BatchNormalization of MODEL that can be folded, and write the result to OUTPUT.

    What was exported without .eval() is given its meaning in evaluation first.

    OUTPUT is written only after the very bytes to be published were run against MODEL and found equivalent.
    Whatever stood at OUTPUT before stays there otherwise.
    """
    options = prepared(ctx, OptimizeOptions, given)
    if options.substitute is None and (options.data is not None or options.substitute_only):
        raise UsageError("--data and --substitute-only belong to --substitute; data for statistics is --recalibrate")
    if options.recalibrate is None and options.data is None:
        if flags := given_flags(ctx, CalibrationOptions):
            raise UsageError(
                f"{flags[0]} says how data is read: give some, with --recalibrate or --substitute and --data"
            )
        options = replace(options, calibration=None)
    deliver(ctx, model, output, options)
