"""`bnfold optimize`: fold, verify, publish."""

from typing import Any

import click

from bnfold.cli.options import data_options, given_data_options, lower_option, mismatch_option, writing_options
from bnfold.cli.writing import deliver, prepared
from bnfold.errors import UsageError


@click.command("optimize", short_help="Fold every BatchNormalization that can be, verify, and write the result.")
@click.option("--no-freeze", is_flag=True, help="Leave what runs in training mode as it is, Dropout included.")
@lower_option
@click.option(
    "--recalibrate",
    metavar="DATA",
    help="Compute new statistics from data first; for DATA and the options of images see bnfold recalibrate.",
)
@click.option("--statistics-from", type=click.Path(), metavar="FILE", help="Take statistics from a safetensors file.")
@click.option(
    "--substitute",
    metavar="KIND",
    help="Another normalization instead: group-norm, group-norm:G, instance-norm or layer-norm. Changes the function.",
)
@click.option(
    "--substitute-only",
    multiple=True,
    metavar="PATTERN",
    help="Substitute only the normalizations whose node name matches this shell pattern. Repeatable.",
)
@click.option("--data", metavar="DATA", help="Fit the substitutes to what BatchNormalization gives out on this data.")
@data_options
@mismatch_option
@writing_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    model: str,
    output: str | None,
    no_freeze: bool,
    recalibrate: str | None,
    mode: str,
    statistics: str,
    batch_size: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    image_layout: str,
    labels: str | None,
    **options: Any,
) -> None:
    """Fold every BatchNormalization of MODEL that can be folded, and write the result to OUTPUT.

    What was exported without .eval() is given its meaning in evaluation first.

    OUTPUT is written only after the very bytes to be published were run against MODEL and found equivalent.
    Whatever stood at OUTPUT before stays there otherwise.
    """
    options = prepared(ctx, options, options["statistics_from"], recalibrate, options["data"])
    options["freeze"] = not no_freeze
    if options["substitute"] is None and (options["data"] is not None or options["substitute_only"]):
        raise UsageError("--data and --substitute-only belong to --substitute; data for statistics is --recalibrate")
    from bnfold import api

    if recalibrate is not None or options["data"] is not None:
        from bnfold.recalibration import CalibrationOptions, ImageOptions

        images = ImageOptions(mean, std, image_layout)
        calibration = CalibrationOptions(mode, statistics, batch_size, images, labels)
        options |= {"recalibrate": recalibrate, "calibration": calibration}
    elif given := given_data_options(ctx):
        raise UsageError(f"{given[0]} says how data is read: give some, with --recalibrate or --substitute and --data")
    deliver(ctx, lambda progress: api.optimize(model, output, progress=progress, **options))
