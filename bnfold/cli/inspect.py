"""`bnfold inspect`: what is in a model, and what would become of it."""

from functools import partial
from typing import Any

import click

from bnfold.cli.delivery import model_from, require_file, show, write_out
from bnfold.cli.mistakes import say
from bnfold.cli.options import flags_of, values_of, verbosity_of, verbosity_options
from bnfold.cli.parameters import known_codes
from bnfold.cli.sections import SectionedCommand
from bnfold.cli.shell import fail
from bnfold.documentation import page_of_reason
from bnfold.errors import BnfoldError, UsageError
from bnfold.options import InspectOptions


@click.command(
    "inspect", cls=SectionedCommand, short_help="List every normalization and what optimize would do with it, and why."
)
@click.argument("models", type=click.Path(allow_dash=True), nargs=-1, required=True, metavar="MODEL...")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text, of one model.")
@click.option(
    "--fail-on",
    multiple=True,
    metavar="CODE",
    callback=known_codes,
    help="Exit with 1 where a normalization has this diagnosis, or would be kept for this reason. Repeatable.",
)
@flags_of(InspectOptions)
@verbosity_options
@click.pass_context
def command(
    ctx: click.Context, /, models: tuple[str, ...], as_json: bool, fail_on: tuple[str, ...], **given: Any
) -> None:
    """List every normalization of each MODEL: where it is, its mode, channels, epsilon and momentum, what feeds it,
    and what `bnfold optimize` with the same options would do with it and why; and what a person should know of it,
    such as that it was exported without .eval(). Nothing is written, nothing is run.
    """
    from bnfold import api
    from bnfold.report import print_inspection, to_json

    if as_json and len(models) > 1:
        raise UsageError("--json prints one model: inspect them one by one")
    options = values_of(InspectOptions, given)
    found: list[tuple[str, str]] = []
    failures: list[BnfoldError] = []
    for model in models:
        try:
            require_file(model, "inspect")
            inspection = api.inspect_with(model_from(model), options)
        except BnfoldError as error:
            if len(models) == 1:
                raise
            failures.append(error)
            say(str(error))
            continue
        if as_json:
            write_out(to_json(inspection))
        else:
            show(ctx, partial(print_inspection, inspection, verbosity=verbosity_of(ctx)))
        found += [(model, code) for code in sorted(inspection.codes & set(fail_on))]
    if failures:
        fail(ctx, f"{len(failures)} of {len(models)} models could not be read", failures[0].exit_code)
    if found:
        told = "; ".join(f"{model}: {code}" for model, code in found)
        fail(ctx, told, BnfoldError.exit_code, page_of_reason(found[0][1]))
