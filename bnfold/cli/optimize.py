"""`bnfold optimize`: fold, verify, publish."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from bnfold.cli.delivery import reserve_reports, show, write_report
from bnfold.cli.options import (
    calibration_options,
    external_data_option,
    feed_options,
    freeze_options,
    layout_options,
    output_options,
    progress_option,
    report_option,
    rewrite_options,
    verbosity_of,
    verbosity_options,
)
from bnfold.cli.progress import progress_bar
from bnfold.cli.shell import fail
from bnfold.cli.waiting import bars
from bnfold.errors import StatisticsError, UsageError, VerificationError

if TYPE_CHECKING:
    from bnfold.onnxfile import Layout
    from bnfold.progress import Progress


@click.command("optimize", short_help="Fold every BatchNormalization that can be, verify, and write the result.")
@click.argument("model", type=click.Path())
@click.argument("output", type=click.Path(), required=False)
@output_options
@report_option
@click.option("--no-freeze", is_flag=True, help="Leave what runs in training mode as it is, Dropout included.")
@freeze_options
@click.option(
    "--recalibrate",
    metavar="DATA",
    help="Compute new statistics from data first; for DATA and the options of images see bnfold recalibrate.",
)
@click.option("--statistics-from", type=click.Path(), metavar="FILE", help="Take statistics from a safetensors file.")
@calibration_options
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
@rewrite_options
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
    no_freeze: bool,
    recalibrate: str | None,
    mode: str,
    statistics: str,
    batch_size: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    image_layout: str,
    external_data: str | None,
    inline: bool,
    size_threshold: int | None,
    no_progress: bool,
    **options: Any,
) -> None:
    """Fold every BatchNormalization of MODEL that can be folded, and write the result to OUTPUT.

    What was exported without .eval() is given its meaning in evaluation first.

    OUTPUT is written only after the very bytes to be published were run against MODEL and found equivalent.
    Whatever stood at OUTPUT before stays there otherwise.
    """
    require_output(ctx, output, dry_run=dry_run)
    reserve_reports(ctx, model, output, options["inputs"])
    from bnfold import api

    options |= {"dry_run": dry_run, "verify": not no_verify, "freeze": not no_freeze}
    options["layout"] = layout_from(external_data, size_threshold, inline=inline)
    if options["substitute"] is None and (options["data"] is not None or options["substitute_only"]):
        raise UsageError("--data and --substitute-only belong to --substitute; data for statistics is --recalibrate")
    if recalibrate is None and options["data"] is None:
        deliver(ctx, told(ctx, lambda progress: api.optimize(model, output, progress=progress, **options), no_progress))
        return
    from bnfold.recalibration import CalibrationOptions, ImageOptions

    with progress_bar(quiet=no_progress or verbosity_of(ctx) < 0) as progress:
        images = ImageOptions(mean, std, image_layout)
        calibration = CalibrationOptions(mode, statistics, batch_size, images, progress)
        deliver(ctx, lambda: api.optimize(model, output, recalibrate=recalibrate, calibration=calibration, **options))


def layout_from(external_data: str | None, size_threshold: int | None, *, inline: bool) -> "Layout | None":
    """Where the weights go; None for where the input has them. Raises UsageError for a contradiction."""
    if external_data is None:
        if size_threshold is not None:
            raise UsageError("--size-threshold says what --external-data moves: add that, or leave it out")
        if not inline:
            return None
    elif inline:
        raise UsageError("--external-data and --inline contradict each other")
    from bnfold.onnxfile import SIZE_THRESHOLD, Layout, Weights

    threshold = SIZE_THRESHOLD if size_threshold is None else size_threshold
    return Layout(Weights.INLINE) if inline else Layout(Weights.EXTERNAL, external_data or None, threshold)


def told(ctx: click.Context, make: "Callable[[Progress | None], Any]", no_progress: bool) -> Callable[[], Any]:
    """`make` with bars on standard error while it runs, where there is a terminal."""

    def run() -> Any:
        with bars(wanted=not no_progress and verbosity_of(ctx) >= 0) as progress:
            return make(progress)

    return run


def require_output(ctx: click.Context, output: str | None, *, dry_run: bool) -> None:
    """Raise UsageError where there is neither an output nor a dry run."""
    if output is None and not dry_run:
        name = ctx.info_name
        raise UsageError(f"say where the result goes: bnfold {name} MODEL OUTPUT, or add --dry-run to write nothing")


def deliver(ctx: click.Context, make: Callable[[], Any]) -> None:
    """Show and write the report of what `make` makes, also where it raises one; leave with its exit code."""
    from bnfold.report import print_console

    failure: StatisticsError | VerificationError | None = None
    try:
        report = make().report
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
