"""`bnfold freeze`: undo a forgotten .eval(), and nothing else."""

from typing import Any

import click

from bnfold.cli.options import (
    flags_of,
    known_hash_option,
    model_and_output,
    progress_option,
    report_option,
    verbosity_options,
)
from bnfold.cli.remote import server_option
from bnfold.cli.sections import SectionedCommand
from bnfold.cli.writing import deliver, prepared
from bnfold.options import FreezeOptions


@click.command(
    "freeze",
    cls=SectionedCommand,
    short_help="Give a model exported in training mode the meaning it has in evaluation.",
)
@model_and_output
@flags_of(FreezeOptions)
@report_option
@server_option
@progress_option
@known_hash_option
@verbosity_options
@click.pass_context
def command(ctx: click.Context, /, model: str, output: str | None, **given: Any) -> None:
    """Let every BatchNormalization of MODEL use its stored statistics and no Dropout drop, and write it to OUTPUT.

    Nothing is folded; `bnfold optimize` does both. The result is compared with MODEL under evaluation semantics.
    """
    deliver(ctx, model, output, prepared(ctx, FreezeOptions, given))
