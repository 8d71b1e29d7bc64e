"""`bnfold optimize`: fold, verify, publish."""

from typing import Any

import click

from bnfold.cli.delivery import reserve_report, show, write_report
from bnfold.cli.options import (
    external_data_option,
    feed_options,
    report_option,
    rewrite_options,
    verbosity_of,
    verbosity_options,
)
from bnfold.cli.shell import fail
from bnfold.errors import UsageError, VerificationError


@click.command("optimize", short_help="Fold every BatchNormalization that can be, verify, and write the result.")
@click.argument("model", type=click.Path())
@click.argument("output", type=click.Path(), required=False)
@click.option("--dry-run", is_flag=True, help="Do everything but write OUTPUT, which may then be left out.")
@click.option("--no-verify", is_flag=True, help="Publish without running the models.")
@click.option("--allow-unverified", is_flag=True, help="Publish also what could not be run and so not compared.")
@click.option("--keep-failed", is_flag=True, help="Write a result that failed beside OUTPUT, as NAME.failed.onnx.")
@report_option
@rewrite_options
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
    """Fold every BatchNormalization of MODEL that can be folded, and write the result to OUTPUT.

    OUTPUT is written only after the very bytes to be published were run against MODEL and found equivalent.
    Whatever stood at OUTPUT before stays there otherwise.
    """
    if output is None and not dry_run:
        raise UsageError("say where the result goes: bnfold optimize MODEL OUTPUT, or add --dry-run to write nothing")
    reserve_report(ctx, report_path, model, output, options["inputs"])
    from bnfold import api
    from bnfold.report import Report, print_console

    def deliver(report: Report) -> None:
        try:
            show(ctx, lambda console: print_console(report, console, verbosity_of(ctx)))
        finally:
            write_report(ctx, report)

    try:
        report = api.optimize(model, output, dry_run=dry_run, verify=not no_verify, **options).report
    except VerificationError as failure:
        deliver(failure.report)
        raise
    deliver(report)
    if report.exit_code:
        fail(ctx, report.explanation or report.verdict, report.exit_code)
