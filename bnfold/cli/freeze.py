"""`bnfold freeze`: undo a forgotten .eval(), and nothing else."""

from typing import Any

import click

from bnfold.cli.delivery import reserve_reports
from bnfold.cli.optimize import deliver, layout_from, require_output, told
from bnfold.cli.options import (
    constants_option,
    external_data_option,
    feed_options,
    freeze_options,
    keep_option,
    layout_options,
    output_options,
    progress_option,
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
@layout_options
@feed_options
@progress_option
@verbosity_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    model: str,
    output: str | None,
    dry_run: bool,
    no_verify: bool,
    external_data: str | None,
    inline: bool,
    size_threshold: int | None,
    no_progress: bool,
    **options: Any,
) -> None:
    """Let every BatchNormalization of MODEL use its stored statistics and no Dropout drop, and write it to OUTPUT.

    Nothing is folded; `bnfold optimize` does both. The result is compared with MODEL under evaluation semantics.
    """
    require_output(ctx, output, dry_run=dry_run)
    reserve_reports(ctx, model, output, options["inputs"])
    from bnfold import api

    options |= {"dry_run": dry_run, "verify": not no_verify}
    options["layout"] = layout_from(external_data, size_threshold, inline=inline)
    deliver(ctx, told(ctx, lambda progress: api.freeze(model, output, progress=progress, **options), no_progress))
