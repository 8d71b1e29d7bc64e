"""`bnfold verify`: compare two models, write nothing but a report."""

from dataclasses import replace
from typing import Any

import click

from bnfold.cli.delivery import model_from, owed_report, require_file, reserve_reports, show, write_report
from bnfold.cli.options import flags_of, report_option, values_of, verbosity_of, verbosity_options
from bnfold.cli.sections import SectionedCommand
from bnfold.cli.shell import fail
from bnfold.errors import UsageError
from bnfold.options import VerifyOptions


@click.command("verify", cls=SectionedCommand, short_help="Compare two models on the same feeds.")
@click.argument("reference", type=click.Path(allow_dash=True))
@click.argument("candidate", type=click.Path(allow_dash=True))
@flags_of(VerifyOptions)
@report_option
@verbosity_options
@click.pass_context
def command(ctx: click.Context, /, reference: str, candidate: str, **given: Any) -> None:
    """Run REFERENCE, without any graph optimization, and CANDIDATE, without and with, on the same feeds, and compare.

    Exits 0 if they are equivalent or proved so, 1 if they are not or could not be compared.
    """
    options = values_of(VerifyOptions, given)
    if reference == candidate == "-":
        raise UsageError("standard input holds one model: name a file for the other")
    reserve_reports(ctx)
    require_file(reference, "verify")
    require_file(candidate, "verify")
    options = replace(options, distributions=owed_report(ctx))
    from bnfold import api
    from bnfold.report import ComparisonReport, print_comparison

    report = ComparisonReport.of(
        api.verify_with(model_from(reference), model_from(candidate), options), reference, candidate, options.to_dict()
    )
    try:
        show(ctx, lambda console: print_comparison(report, console, verbosity_of(ctx)))
    finally:
        write_report(ctx, report)
    if report.exit_code:
        found = "is not equivalent to" if report.verdict == "not-equivalent" else "was not verified against"
        fail(ctx, f"{candidate} {found} {reference}: {report.explanation}", report.exit_code)
