"""`bnfold freeze`: undo a forgotten .eval(), and nothing else."""

from typing import Any

import click

from bnfold.cli.delivery import reserve_report
from bnfold.cli.optimize import deliver, require_output
from bnfold.cli.options import (
    constants_option,
    external_data_option,
    feed_options,
    freeze_options,
    keep_option,
    output_options,
    report_option,
    verbosity_options,
)


@click.command("freeze", short_help="Give a model exported in training mode the meaning it has in evaluation.")
@click.argument("model", type=click.Path())
@click.argument("output", type=click.Path(), required=False)
@output_options
@report_option
@freeze_options
@keep_option
@constants_option
@external_data_option
@feed_options
@verbosity_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    model: str,
    output: str | None,
    report_path: str | None,
    dry_run: bool,
    no_verify: bool,
    **options: Any,
) -> None:
    """Let every BatchNormalization of MODEL use its stored statistics and no Dropout drop, and write it to OUTPUT.

    Nothing is folded; `bnfold optimize` does both. The result is compared with MODEL under evaluation semantics.
    """
    require_output(ctx, output, dry_run=dry_run)
    reserve_report(ctx, report_path, model, output, options["inputs"])
    from bnfold import api

    deliver(ctx, lambda: api.freeze(model, output, dry_run=dry_run, verify=not no_verify, **options))
