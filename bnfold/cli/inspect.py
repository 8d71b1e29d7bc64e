"""`bnfold inspect`: what is in a model, and what would become of it."""

from typing import Any

import click

from bnfold.cli.delivery import show, write_out
from bnfold.cli.options import external_data_option, rewrite_options, verbosity_of, verbosity_options


@click.command("inspect", short_help="List every normalization and what optimize would do with it, and why.")
@click.argument("model", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
@rewrite_options
@external_data_option
@verbosity_options
@click.pass_context
def command(ctx: click.Context, /, model: str, as_json: bool, **options: Any) -> None:
    """List every normalization of MODEL: where it is, its mode, channels, epsilon and momentum, what feeds it,
    and what `bnfold optimize` with the same options would do with it and why. Nothing is written, nothing is run.
    """
    from bnfold import api
    from bnfold.report import print_inspection, to_json

    inspection = api.inspect(model, **options)
    if as_json:
        write_out(to_json(inspection))
    else:
        show(ctx, lambda console: print_inspection(inspection, console, verbosity_of(ctx)))
