"""`bnfold passes`: what `optimize --pass` knows by name."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from bnfold.cli.delivery import write_out

if TYPE_CHECKING:
    from bnfold.rewriting import Listed


@click.command("passes", short_help="List the passes that optimize knows by name, and their options.")
def command() -> None:
    """List the passes that `bnfold optimize --pass NAME` knows: what each preserves, its options with their defaults,
    and where it comes from.

    Those of bnfold are in the built-in order, which `--pass default` stands for. A function of a script is a pass too:
    `--pass script.py:function`.
    """
    from bnfold.report.text import inert, one_line
    from bnfold.rewriting import listed

    for each in listed():
        first, *more = map(one_line, _lines(each))
        write_out("".join(f"{inert(line)}\n" for line in (first, *(f"  {line}" for line in more))))


def _lines(listed: "Listed") -> Iterator[str]:
    promise = f"preserves {listed.preserves}" if listed.preserves else "cannot be loaded"
    yield f"{listed.name}: {promise}, from {listed.source}"
    if listed.summary:
        yield listed.summary
    if listed.options:
        yield f"options: {', '.join(f'{name}={default}' for name, default in listed.options)}"
    if listed.problem:
        yield listed.problem
