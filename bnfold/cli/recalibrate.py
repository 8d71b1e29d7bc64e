"""`bnfold recalibrate`: new statistics for BatchNormalization, from data or from a file of weights."""

from typing import Any

import click

from bnfold.cli.delivery import reserve_reports
from bnfold.cli.optimize import deliver, require_output
from bnfold.cli.options import (
    calibration_options,
    constants_option,
    external_data_option,
    feed_options,
    freeze_options,
    keep_option,
    output_options,
    report_option,
    verbosity_of,
    verbosity_options,
)
from bnfold.cli.progress import progress_bar
from bnfold.errors import UsageError


@click.command("recalibrate", short_help="Compute the statistics of every BatchNormalization anew, from data.")
@click.argument("model", type=click.Path())
@click.argument("output", type=click.Path(), required=False)
@click.option(
    "--data",
    metavar="DATA",
    help="An .npz file, a folder of .npy, .npz or image files, or script.py:function, which returns batches.",
)
@click.option("--statistics-from", type=click.Path(), metavar="FILE", help="Take them from a safetensors file instead.")
@calibration_options
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
    data: str | None,
    statistics_from: str | None,
    dry_run: bool,
    no_verify: bool,
    **options: Any,
) -> None:
    """Give every BatchNormalization of MODEL the mean and variance that it sees in DATA, in inference mode, and write
    the result to OUTPUT. Nothing is folded; `bnfold optimize --recalibrate DATA` does both.

    The drift of every normalization is printed, the largest first: stale statistics are at the top.
    """
    if (data is None) is (statistics_from is None):
        raise UsageError("say where the statistics come from: --data DATA, or --statistics-from FILE")
    require_output(ctx, output, dry_run=dry_run)
    reserve_reports(ctx, model, output, options["inputs"], statistics_from)
    from bnfold import api

    options |= {"dry_run": dry_run, "verify": not no_verify}
    if data is None:
        for name in ("mode", "statistics", "batch_size", "mean", "std", "image_layout"):
            del options[name]
        deliver(ctx, lambda: api.optimize(model, output, fold=False, statistics_from=statistics_from, **options))
        return
    with progress_bar(quiet=verbosity_of(ctx) < 0) as progress:
        deliver(ctx, lambda: api.recalibrate(model, data, output, progress=progress, **options))
