"""The process of a service: uvicorn, its signals, its log."""

import json
import logging
import socket
import sys
from datetime import UTC, datetime
from types import FrameType

import uvicorn

from bnfold.errors import UsageError
from bnfold.service.app import Service, create_app
from bnfold.service.settings import Settings

_GRACE = 1  # seconds for requests that are being answered
_OWN = frozenset({"job", "jobs", "command", "state", "exit_code", "removed"})


class _Server(uvicorn.Server):
    """Ends open event streams first: uvicorn would wait for them as long as it waits at all."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._service.stopping.set()
        super().handle_exit(sig, frame)


class _JsonLines(logging.Formatter):
    """One JSON object a line: time, level, message, and what belongs to a job. Names of models are never in it."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **{name: value for name, value in vars(record).items() if name in _OWN},
        }
        if record.exc_info:
            entry["error"] = self.formatException(record.exc_info)
        return json.dumps(entry)


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = " ".join(f"{name}={value}" for name, value in vars(record).items() if name in _OWN)
        return f"{super().format(record)} {fields}".rstrip()


def serve(settings: Settings, *, json_log: bool = False) -> None:
    """Serve until a signal says stop. Raises UsageError where the address cannot be used or the folder not written."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines() if json_log else _Text("%(asctime)s %(levelname)s %(message)s"))
    for name in ("bnfold.service", "uvicorn.error"):
        log = logging.getLogger(name)
        log.handlers, log.propagate = [handler], False
        log.setLevel(logging.INFO)
    try:
        settings.data.mkdir(parents=True, exist_ok=True)
        app = create_app(settings)
    except OSError as error:
        raise UsageError(f"--data {settings.data}: {error.strerror or error}") from error
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_GRACE,
        timeout_keep_alive=30,
        limit_concurrency=500,
        h11_max_incomplete_event_size=64 << 10,
    )
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((settings.host, settings.port))
    except OSError as error:
        listening.close()
        raise UsageError(f"cannot listen on {settings.host} port {settings.port}: {error.strerror or error}") from error
    port = listening.getsockname()[1]
    shown = f"[{settings.host}]" if ":" in settings.host else settings.host
    logging.getLogger("bnfold.service").info("serving on http://%s:%d", shown, port)
    _Server(config, app.state.service).run(sockets=[listening])
