"""`bnfold batch`: one command for many models."""

import json
import os
import sys
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bnfold.cli.configuration import File, file_of, settings_for
from bnfold.cli.delivery import write_out
from bnfold.cli.options import verbosity_of, verbosity_options, wants_progress
from bnfold.cli.parameters import seconds, size
from bnfold.cli.shell import fail
from bnfold.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from bnfold.fleet.batch import Batch
    from bnfold.fleet.task import Row

_MOST_FAILURES = 50
"""So many are listed at a terminal; the reports have all."""
_COMMANDS = ("optimize", "freeze", "inspect", "verify", "recalibrate")


@click.command(
    "batch",
    short_help="Do one command with many models.",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": True},
)
@click.argument("command", type=click.Choice(_COMMANDS), metavar="COMMAND")
@click.argument("models", metavar="MODELS")
@click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="[OPTIONS OF COMMAND]...")
@click.option("--output", required=True, type=click.Path(file_okay=False), metavar="DIR", help="Where the tree goes.")
@click.option("--jobs", type=click.IntRange(min=1), default=None, help="Processes at once.  [default: processors]")
@click.option("--scheduler", metavar="ADDRESS", help="A dask cluster does the work, like tcp://host:8786.")
@click.option("--resume/--no-resume", default=True, help="Skip what an earlier run did.  [default: resume]")
@click.option("--retries", type=click.IntRange(min=0), default=0, show_default=True, help="Of a model that crashes.")
@click.option("--fail-fast", is_flag=True, help="Begin nothing more after the first failure.")
@click.option("--copy-others", is_flag=True, help="Bring along what is no model.")
@click.option(
    "--reference", type=click.Path(), metavar="DIR", help="For verify: models of the same paths to compare with."
)
@click.option("--timeout", type=seconds, metavar="SECONDS", help="Of each model.")
@click.option("--max-memory", type=size, metavar="SIZE", help="Of each model.")
@click.option("--progress", type=click.Choice(["text", "json"]), default="text", help="A line of JSON for each model.")
@verbosity_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    command: str,
    models: str,
    options: tuple[str, ...],
    output: str,
    jobs: int | None,
    scheduler: str | None,
    progress: str,
    **how: Any,
) -> None:
    """Do COMMAND (optimize, freeze, inspect, verify or recalibrate) with each of MODELS: a folder, a pattern in quotes
    like 'models/**/*.onnx', or a .txt list of paths. The tree is mirrored below --output.

    Options of COMMAND follow like those of batch. --output/bnfold-batch keeps a manifest, so that a batch that was
    stopped goes on, the report of each model, and one of all as report.json, .html, .md and .xml.

    Ctrl-C lets what runs come to its end, twice ends it. The exit code is the worst of any model, in the order
    70, 4, 6, 5, 3, 1, 0.
    """
    from bnfold.fleet.batch import batch
    from bnfold.fleet.summary import counts, sentence, write_all

    asked = _options_of(command, options, file_of(ctx))
    asked.pop("scheduler", None)  # of a single recalibration: here whole models go to the cluster
    running = batch(
        command,
        models,
        output,
        jobs=jobs or len(os.sched_getaffinity(0)),
        scheduler=scheduler,
        **how,
        **asked,
    )
    if progress == "text" and wants_progress(ctx) and verbosity_of(ctx) == 0 and sys.stdout.isatty():
        _watch(running)
    else:
        _follow(running, partial(_tell, ctx, as_json=progress == "json"))
    written = write_all(Path(output).absolute(), running.rows)
    found = counts(running.rows())
    if verbosity_of(ctx) >= 0 and progress != "json":
        again = f" ({running.skipped:,} done before)" if running.skipped else ""
        write_out(f"{sentence(found)}{again}\nreport: {written[-1]}\n")
    if running.cancelled and not running.exit_code:
        fail(ctx, "stopped; run it again to go on", 130)
    if running.exit_code:
        bad = sum(number for code, number in running.codes.items() if code)
        fail(
            ctx, f"{bad:,} of {sum(running.codes.values()):,} models did not end well: {written[1]}", running.exit_code
        )


def _watch(running: "Batch") -> None:
    """Show a table at the terminal while the batch runs, and its failures at the end."""
    from bnfold.cli.batch_table import LiveTable

    with LiveTable(sum(1 for _ in running.models)) as table:
        _follow(running, lambda row: table.add(row, running.skipped))
    bad = (row for row in running.rows() if not row.good)
    for row in islice(bad, _MOST_FAILURES):
        write_out(_line(row))
    if more := sum(1 for _ in bad):
        write_out(f"and {more:,} more\n")


def _tell(ctx: click.Context, row: "Row", *, as_json: bool) -> None:
    """Write one row: every one as JSON or where progress is wanted, failures always."""
    if as_json:
        write_out(json.dumps(row.to_dict()) + "\n")
    elif not row.good or verbosity_of(ctx) > 0 or (wants_progress(ctx) and verbosity_of(ctx) >= 0):
        write_out(_line(row))


def _follow(running: "Batch", tell: "Callable[[Row], None]") -> None:
    """Tell each row as it comes; the first Ctrl-C lets what runs end, the second does not."""
    rows = iter(running)
    while True:
        try:
            for row in rows:
                tell(row)
        except KeyboardInterrupt:
            if running.cancelled:
                running.cancel(now=True)
                raise
            running.cancel()
            click.echo("bnfold: what runs comes to its end; Ctrl-C again ends it", err=True)
            rows = iter(running)
            continue
        return


def _line(row: "Row") -> str:
    from bnfold.report.text import inert, one_line

    said = row.verdict or ("done" if row.good else f"exit code {row.exit_code}")
    why = f": {row.message}" if row.message and not row.good else ""
    return inert(one_line(f"{row.relative}: {said}{why}")) + "\n"


def _options_of(command: str, words: tuple[str, ...], file: File | None) -> dict[str, Any]:
    """The options of the command, read as the command itself reads them. Raises a usage error of click's."""
    from bnfold.cli.options import flags_of, values_of
    from bnfold.options import COMMANDS

    kind = COMMANDS[command]
    taken: dict[str, Any] = {}

    @click.command(command)
    @flags_of(kind)
    def reader(**given: Any) -> None:
        taken.update(given)

    try:
        configured = settings_for(reader, file)
        reader.main(
            list(words),
            prog_name=f"bnfold batch {command}",
            standalone_mode=False,
            default_map={name: setting.value for name, setting in configured.items()},
        )
    except click.exceptions.NoArgsIsHelpError as error:
        raise UsageError(str(error)) from error
    return values_of(kind, taken).changed()
