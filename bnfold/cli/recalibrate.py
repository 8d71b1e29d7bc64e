"""`bnfold recalibrate`: new statistics for BatchNormalization, from data or from a file of weights."""

from typing import Any

import click

from bnfold.cli.options import data_options, given_data_options, writing_options
from bnfold.cli.writing import deliver, prepared
from bnfold.errors import UsageError


@click.command("recalibrate", short_help="Compute the statistics of every BatchNormalization anew, from data.")
@click.option(
    "--data",
    metavar="DATA",
    help="An .npz file, a folder of .npy, .npz or image files, or script.py:function, which returns batches.",
)
@click.option("--statistics-from", type=click.Path(), metavar="FILE", help="Take them from a safetensors file instead.")
@data_options
@writing_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    model: str,
    output: str | None,
    data: str | None,
    statistics_from: str | None,
    mode: str,
    statistics: str,
    batch_size: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    image_layout: str,
    labels: str | None,
    **options: Any,
) -> None:
    """Give every BatchNormalization of MODEL the mean and variance that it sees in DATA, in inference mode, and write
    the result to OUTPUT. Nothing is folded; `bnfold optimize --recalibrate DATA` does both.

    The drift of every normalization is printed, the largest first: stale statistics are at the top. Where DATA holds
    labels, so is the share of right answers before and after.
    """
    if (data is None) is (statistics_from is None):
        raise UsageError("say where the statistics come from: --data DATA, or --statistics-from FILE")
    options = prepared(ctx, options, statistics_from, data)
    from bnfold import api

    if data is None:
        if given := given_data_options(ctx):
            raise UsageError(f"{given[0]} says how data is read, and --statistics-from reads none")
        options |= {"fold": False, "statistics_from": statistics_from}
        deliver(ctx, lambda progress: api.optimize(model, output, progress=progress, **options))
        return
    options |= {"mode": mode, "statistics": statistics, "batch_size": batch_size, "labels": labels}
    options |= {"mean": mean, "std": std, "image_layout": image_layout}
    deliver(ctx, lambda progress: api.recalibrate(model, data, output, progress=progress, **options))
