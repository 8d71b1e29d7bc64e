"""Delivery of results: reports to their files, text to standard output, also where the reader of a pipe is gone."""

import os
import shutil
import sys
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from bnfold.cli.configuration import file_of
from bnfold.cli.options import asked_reports, values_of
from bnfold.errors import BnfoldError, ModelError, OutputError, UsageError
from bnfold.options import COMMANDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from bnfold.paths import Use
    from bnfold.report import AnyReport
    from bnfold.report.files import ReportFile
    from bnfold.report.formats import Format
    from bnfold.report.lines import Screen

_DESTINATIONS = "bnfold.report.destinations"
_DATA_NAMES = "bnfold.data_names"

_OPTIONS_OF = {"export": "optimize"}
"""The commands that take the options of another one."""


class _Destination(NamedTuple):
    """`alone`: nothing else goes to standard output."""

    file: "ReportFile"
    form: "Format"
    alone: bool


def reserve_reports(ctx: click.Context) -> None:
    """Check now that every report asked for can be made and written, none to a file that the command uses otherwise.

    From then on a failing run writes them too. Raises `OutputError` or `UsageError`.
    """
    paths, form = asked_reports(ctx)
    if paths or form:
        from bnfold.paths import Use, refuse_conflicts

        used = [*_read_by_command_line(ctx), *_read(ctx), *_written(ctx)]
        refuse_conflicts(used, [Use("--report", Path(path)) for path in paths if path != "-"])
        ctx.meta[_DESTINATIONS] = list(_destinations(paths, form))


def refuse_output_over_what_is_read(ctx: click.Context) -> None:
    """Raise UsageError where OUTPUT is a file that the command line itself reads; of the others the api knows."""
    from bnfold.paths import refuse_conflicts

    read = list(_read_by_command_line(ctx))
    for use in _written(ctx) if read else ():  # one by one: of the names that its data may get some may be the same
        refuse_conflicts(read, [use])


def _read_by_command_line(ctx: click.Context) -> "Iterator[Use]":
    """The files that the command reads before it calls the api: configuration, the script of a module, its weights."""
    from bnfold.batches import script_of
    from bnfold.paths import Use

    if (file := file_of(ctx)) is not None:
        yield Use("the configuration", file.path)
    if (script := script_of(ctx.params.get("model") or "")) is not None:
        yield Use("the script of MODEL", script[0])
    if ctx.params.get("checkpoint") is not None:
        yield Use("the data of --checkpoint", Path(ctx.params["checkpoint"]))


def _read(ctx: click.Context) -> "Iterator[Use]":
    """The files that the api reads for the command."""
    from bnfold.paths import Use, uses_of, uses_of_model

    given = ctx.params
    for name in ("model", "reference", "candidate"):
        if name in given:
            yield from uses_of_model(given[name], name.upper(), _data_of(ctx, given[name]))
    if "report" in given:
        yield Use("REPORT", Path(given["report"]))
    if (options := COMMANDS.get(_OPTIONS_OF.get(str(ctx.info_name), str(ctx.info_name)))) is not None:
        yield from uses_of(values_of(options, given))


def _written(ctx: click.Context) -> "Iterator[Use]":
    """The files that the command writes beside its reports."""
    from bnfold.paths import Use, failed_copy, uses_of_output

    given = ctx.params
    if given.get("output") not in {None, "-"}:
        data = _data_of(ctx, given["model"])
        yield from uses_of_output(given["output"], given.get("external_data"), given["model"], data)
        yield Use("the failed result", failed_copy(given["output"]))


def _data_of(ctx: click.Context, model: str) -> list[str]:
    """The external data that a model names, from one reading of the model for all who ask."""
    from bnfold.paths import data_of_model

    known: dict[str, list[str]] = ctx.meta.setdefault(_DATA_NAMES, {})
    if model not in known:
        known[model] = data_of_model(model)
    return known[model]


def _destinations(paths: tuple[str, ...], asked: str | None) -> "Iterator[_Destination]":
    """Where a suffix tells the format, that one; else `asked`, which without a file for it is standard output's."""
    from bnfold.report.files import ReportFile
    from bnfold.report.formats import Format, form_for, format_of, require

    if paths.count("-") > 1:
        raise UsageError("only one report can go to standard output")
    default = Format(asked) if asked else Format.JSON
    for path in paths:
        form = format_of(path) or default
        if asked is None and PurePath(path).suffix:
            form = form_for(path)  # raises where the suffix is that of something else
        require(form)
        yield _Destination(ReportFile(path), form, alone=path == "-")
    by_suffix = [format_of(path) for path in paths]
    if asked is None or None in by_suffix or default in by_suffix:
        return
    if paths and default is not Format.GITHUB:
        form_for(paths[0], default)  # raises: no file is left that this format could be meant for
    require(default)
    yield _Destination(ReportFile("-"), default, alone=default is not Format.GITHUB)


def owed_report(ctx: click.Context) -> bool:
    """Whether a report was asked for and not written yet."""
    return _DESTINATIONS in ctx.meta


def write_report(ctx: click.Context, report: "AnyReport | Mapping[str, Any]") -> None:
    """Write every report that was asked for, the first time only: a later failure does not replace the facts.

    All are tried; the first that could not be written is raised.
    """
    destinations = ctx.meta.pop(_DESTINATIONS, ())
    if not destinations:
        return
    from bnfold.report import render

    failures: list[BnfoldError] = []
    for destination in destinations:
        try:
            text = render(report, destination.form)
            if destination.file.is_standard_output:
                write_out(text)
            else:
                destination.file.write(text)
        except BnfoldError as error:
            failures.append(error)
    if failures:
        raise failures[0]


def require_file(model: str, command: str) -> None:
    """Raise ModelError for a folder in a model's place, UsageError for an address that nothing installed can open."""
    from bnfold.addresses import is_address, require_remote

    if is_address(model):
        require_remote(model)
    if os.path.isdir(model):  # noqa: PTH112 - no more imports than needed
        raise ModelError(
            f"{model} is a directory; pass a file, or let bnfold batch {command} {model} --output FOLDER do the same "
            "with every model in it"
        )


def model_from(path: str) -> str | bytes:
    """The model as the api takes it: for - what stands on standard input."""
    return sys.stdin.buffer.read() if path == "-" else path


def write_file_out(path: Path) -> None:
    """Write a file to standard output, as bytes. A reader that went away is an `OutputError` too: it got no model."""
    try:
        with path.open("rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer, 1 << 20)
        sys.stdout.buffer.flush()
    except OSError as error:
        discard_standard_output()
        raise OutputError(f"cannot write to standard output: {error.strerror or error}") from error


def show(ctx: click.Context, draw: "Callable[[Screen], None]") -> None:
    """Draw on standard output, unless that is where a report goes alone; where the model goes there, beside it."""
    if any(destination.alone for destination in ctx.meta.get(_DESTINATIONS, ())):
        return
    from bnfold.report.lines import Lines

    lines = Lines.for_standard_output()
    draw(lines)
    if ctx.params.get("output") == "-":
        click.echo(lines.text, nl=False, err=True)
    else:
        write_out(lines.text)


def write_out(text: str) -> None:
    """Write to standard output. A reader that went away is no failure; a full disk is an `OutputError`."""
    try:
        click.echo(text, nl=False)
    except BrokenPipeError:
        discard_standard_output()
    except OSError as error:
        discard_standard_output()
        raise OutputError(f"cannot write to standard output: {error.strerror or error}") from error


def discard_standard_output() -> None:
    """Let go of what is still buffered: it would fail again when the interpreter flushes it at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
