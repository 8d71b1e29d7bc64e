"""`bnfold freeze`: undo a forgotten .eval(), and nothing else."""

from typing import Any

import click

from bnfold.cli.options import writing_options
from bnfold.cli.writing import deliver, prepared


@click.command("freeze", short_help="Give a model exported in training mode the meaning it has in evaluation.")
@writing_options
@click.pass_context
def command(ctx: click.Context, /, model: str, output: str | None, **options: Any) -> None:
    """Let every BatchNormalization of MODEL use its stored statistics and no Dropout drop, and write it to OUTPUT.

    Nothing is folded; `bnfold optimize` does both. The result is compared with MODEL under evaluation semantics.
    """
    options = prepared(ctx, options)
    from bnfold import api

    deliver(ctx, lambda progress: api.freeze(model, output, progress=progress, **options))
