"""`bnfold report`: what can be done with a saved report."""

from pathlib import Path

import click

from bnfold.cli.delivery import reserve_reports, show, write_out, write_report
from bnfold.cli.mistakes import Group
from bnfold.cli.options import REPORT_FORMATS, report_option, verbosity_of, verbosity_options
from bnfold.cli.parameters import limit_per_output, output_limit
from bnfold.cli.shell import fail
from bnfold.options import LimitByOutput
from bnfold.paths import Use, refuse_conflicts


@click.group("report", cls=Group, usual="render", suffix=".json", short_help="Show a saved report, or judge it again.")
def command() -> None:
    """Show a report that was saved as JSON in another form, or judge its measurements again."""


@command.command("render", short_help="Write a saved report as HTML, Markdown, JUnit XML, SARIF or annotations.")
@click.argument("report", type=click.Path())
@click.argument("output", type=click.Path(allow_dash=True))
@click.option("--report-format", type=click.Choice(REPORT_FORMATS), help="Where the name of OUTPUT does not tell.")
@verbosity_options
def render_command(report: str, output: str, report_format: str | None) -> None:
    """Write the JSON report REPORT to OUTPUT, in the form that its name tells: .html, .md, .xml for JUnit, or
    .sarif.

    - is standard output, and needs --report-format.
    """
    from bnfold.report import read_report, render
    from bnfold.report.files import ReportFile
    from bnfold.report.formats import Format, form_for, require

    form = form_for(output, Format(report_format) if report_format else None)
    require(form)
    if output != "-":
        refuse_conflicts([Use("REPORT", Path(report))], [Use("OUTPUT", Path(output))])
    file = ReportFile(output)
    text = render(read_report(report), form)
    if file.is_standard_output:
        write_out(text)
    else:
        file.write(text)


@command.command("judge", short_help="Judge a saved report again with other tolerances, and run nothing.")
@click.argument("report", type=click.Path())
@click.option(
    "--rtol",
    type=output_limit,
    multiple=True,
    callback=limit_per_output,
    metavar="[OUTPUT:]NUMBER",
    help="Relative tolerance of every output or of one, like 1e-4 or logits:1e-3. Repeatable.",
)
@click.option(
    "--atol",
    type=output_limit,
    multiple=True,
    callback=limit_per_output,
    metavar="[OUTPUT:]NUMBER",
    help="Absolute tolerance, likewise.",
)
@report_option
@verbosity_options
@click.pass_context
def judge_command(ctx: click.Context, /, report: str, rtol: LimitByOutput | None, atol: LimitByOutput | None) -> None:
    """Judge the measurements in the JSON report REPORT again, and print what changed.

    Without tolerances, those that it was judged with apply. Exits 0 where the verdict is good, 1 where it is not.
    """
    reserve_reports(ctx)
    from bnfold.report import judge_report, print_judged, read_report

    judged = judge_report(read_report(report), rtol, atol)
    try:
        show(ctx, lambda console: print_judged(judged, console, verbosity_of(ctx)))
    finally:
        write_report(ctx, judged.report)
    if judged.exit_code:
        fail(ctx, f"{report}: {judged.report['explanation'] or judged.verdict}", judged.exit_code)
