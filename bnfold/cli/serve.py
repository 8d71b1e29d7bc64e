"""`bnfold serve`: the optimization service."""

from pathlib import Path

import click

from bnfold import supervision
from bnfold.cli.parameters import nbytes, seconds, size
from bnfold.errors import UsageError


@click.command("serve", short_help="Serve optimization over HTTP, with a page.")
@click.option("--host", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one.")
@click.option(
    "--data",
    type=click.Path(file_okay=False),
    default="bnfold-service",
    show_default=True,
    metavar="DIR",
    help="Folder for models, jobs and results.",
)
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Jobs that run at once.")
@click.option(
    "--token-file",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Who may: NAME:TOKEN on each line. Needed on any address that is not loopback.",
)
@click.option("--max-upload", type=nbytes, default="4G", show_default=True, metavar="SIZE", help="Of one file.")
@click.option("--max-queued", type=click.IntRange(min=1), default=100, show_default=True, help="Jobs that wait or run.")
@click.option(
    "--retention-days",
    type=click.FloatRange(min=0),
    default=7.0,
    show_default=True,
    metavar="DAYS",
    help="How long content that no job uses, and results, are kept.",
)
@click.option("--job-timeout", type=seconds, default="3600", show_default=True, metavar="SECONDS", help="Of one job.")
@click.option("--job-memory", type=size, default="16G", show_default=True, metavar="SIZE", help="Of one job.")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
def command(
    host: str,
    port: int,
    data: str,
    workers: int,
    token_file: str | None,
    max_upload: int,
    max_queued: int,
    retention_days: float,
    job_timeout: float,
    job_memory: int,
    log_format: str,
) -> None:
    """Serve optimization over HTTP to a team: models and reports stay on this machine.

    The page at the address takes a model and shows what becomes of it; /openapi.json describes the API. Each job runs
    as an ordinary command in a process of its own. Everything is kept in the folder --data.
    """
    try:
        from bnfold.service.server import serve
        from bnfold.service.settings import Settings, read_tokens
    except ModuleNotFoundError as error:
        raise UsageError(f"the service needs {error.name}: pip install 'bnfold[serve,cpu]'") from error
    settings = Settings(
        data=Path(data).absolute(),
        host=host,
        port=port,
        workers=workers,
        tokens=read_tokens(Path(token_file)) if token_file is not None else {},
        max_upload=max_upload,
        max_queued=max_queued,
        retention=retention_days * 86400,
        job_timeout=job_timeout,
        job_memory=job_memory,
    )
    supervision.unhurried()
    serve(settings, json_log=log_format == "json")
