"""`bnfold schema`: the JSON Schema of the report."""

import click

from bnfold.cli.delivery import write_out


@click.command("schema", short_help="Print the JSON Schema of the report.")
@click.option("--strict", is_flag=True, help="One that refuses keys it does not list, which later versions may add.")
def command(strict: bool) -> None:
    """Print the JSON Schema of what `--report FILE.json` and `inspect --json` write.

    A report of the same format that a later version wrote, with keys of its own, is valid too; --strict finds what is
    misspelt.
    """
    from bnfold.report import to_json
    from bnfold.report.schema import schema

    write_out(to_json(schema(strict=strict)))
