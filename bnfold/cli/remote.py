"""`--server URL`: a service does the work, with the exit codes and the files of the command on this machine."""

import json
import os
from pathlib import Path
from typing import Any

import click

from bnfold.cli.delivery import owed_report, show, write_report
from bnfold.cli.options import verbosity_of
from bnfold.cli.sections import PROCESS, SectionedOption
from bnfold.cli.shell import fail
from bnfold.errors import BnfoldError, UsageError
from bnfold.options import FreezeOptions, OptimizeOptions, options_of

TOKEN = "BNFOLD_TOKEN"  # noqa: S105 - the name of a variable
_LOCAL = frozenset(
    {
        "dry_run",
        "keep_failed",
        "checksums",
        "distributions",
        "progress",
        "fold",
        "calibration",
        "strict_external_data",
        "overwrite",
    }
)
_ANSWER = "bnfold.server"


def _remember(ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
    ctx.meta[_ANSWER] = value


server_option = click.option(
    "--server",
    metavar="URL",
    expose_value=False,
    callback=_remember,
    cls=SectionedOption,
    section=PROCESS,
    help=f"A service (bnfold serve) does the work; its token is that in {TOKEN}.",
)


def server_of(ctx: click.Context) -> str | None:
    """The service that was asked for."""
    found: str | None = ctx.meta.get(_ANSWER)
    return found


def deliver_from(
    url: str, ctx: click.Context, model: str, output: str | None, options: FreezeOptions | OptimizeOptions
) -> None:
    """Let the service at `url` make the model, write it and its report here, and leave with its exit code.

    Raises UsageError for options that only this machine can serve, and ServiceError.
    """
    from bnfold.optimization import Request
    from bnfold.optimization.made_elsewhere import publish_made
    from bnfold.report import render
    from bnfold.service.client import Client, RemoteJob, ServiceError

    if output is None:
        raise UsageError("--server writes its result: name OUTPUT, and leave out --dry-run")
    command = str(ctx.info_name)
    client = Client(url, os.environ.get(TOKEN))
    job: RemoteJob | None = None
    report: dict[str, Any] | None = None

    def make(folder: Path) -> Path | None:
        nonlocal job, report
        job = client.wait(client.submit(command, asked, model=client.upload(model)).id)
        try:
            report = json.loads(client.report(job.id))
        except ServiceError:
            if not job.message:
                raise
        if job.state != "succeeded":
            return None
        return client.download(job.id, folder / Path(output).name)[0]

    asked = _asked(options)
    publish_made(Request(model, output, OptimizeOptions.of(options)), make)
    assert job is not None
    if report is not None:
        text = render(report, "markdown") if verbosity_of(ctx) > 0 else _summary(report)
        show(ctx, lambda console: console.print(text))
        if owed_report(ctx):
            write_report(ctx, report)
    if job.exit_code is None:
        fail(ctx, f"the service ended the job: {job.message or job.state}", BnfoldError.exit_code)
    if job.exit_code:
        fail(ctx, job.message or str(job.verdict), job.exit_code)


def _asked(options: FreezeOptions | OptimizeOptions) -> dict[str, Any]:
    """The options that are not at their defaults. Raises UsageError for what another machine cannot have."""
    changed = options.changed()
    asked = {name: value for name, value in changed.items() if name not in _LOCAL}
    local = [each.flag or each.name for each in options_of(type(options)) if each.name in asked and not each.remote]
    local += [f"--{name.replace('_', '-')}" for name in ("dry_run", "keep_failed") if name in changed]
    if local:
        raise UsageError(f"{local[0]} is about this machine; it does not go with --server")
    return asked


def _summary(report: dict[str, Any]) -> str:
    before, after = report.get("input") or {}, report.get("output") or {}
    change = f"{before.get('nodes')} nodes -> {after.get('nodes')}" if after else f"{before.get('nodes')} nodes"
    normalizations = f"BatchNormalization {before.get('batch_normalizations')} -> {after.get('batch_normalizations')}"
    return f"{report.get('verdict')}: {change}, {normalizations}"
