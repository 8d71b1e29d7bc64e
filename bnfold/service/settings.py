"""The settings of a service."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bnfold.errors import UsageError
from bnfold.paths import require_regular

_GIBIBYTE = 1 << 30
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_SHORTEST_TOKEN = 16


@dataclass(frozen=True)
class Settings:
    """`tokens`: the names of those who may, by token; none: everyone who reaches the address, which is loopback.

    Sizes are in bytes, times in seconds. `max_upload`: of one file. `max_queued`: jobs that wait or run. `retention`:
    how long content that no job uses is kept. `min_free`: disk that an upload leaves free.
    """

    data: Path
    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    tokens: Mapping[str, str] = field(default_factory=dict)
    max_upload: int = 4 * _GIBIBYTE
    max_queued: int = 100
    retention: float = 7 * 86400.0
    min_free: int = _GIBIBYTE // 4
    job_timeout: float = 3600.0
    job_memory: int = 16 * _GIBIBYTE

    def __post_init__(self) -> None:
        """Raises UsageError for an address that others reach without a token, and for numbers out of range."""
        if self.host not in _LOOPBACK and not self.tokens:
            raise UsageError(
                f"--host {self.host} can be reached by others: give --token-file FILE, one NAME:TOKEN a line, "
                "or leave the host at 127.0.0.1"
            )
        if not 0 <= self.port <= 65535 or self.workers < 1 or self.max_queued < 1:
            raise UsageError("--port is 0 to 65535, and --workers and --max-queued are at least 1")

    def who(self, given: str | None) -> str | None:
        """The name that a token belongs to, compared in constant time; "" where no token is needed."""
        if not self.tokens:
            return ""
        found = None
        for token, name in self.tokens.items():
            if secrets.compare_digest(token.encode(), (given or "").encode()):
                found = name
        return found


def read_tokens(path: Path) -> dict[str, str]:
    """Names by token from a file with NAME:TOKEN on each line; empty lines and # comments are skipped.

    Raises UsageError for a file that cannot be read, a line without a name, and a token shorter than 16 characters.
    """
    require_regular(path, "the file of --token-file")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--token-file {path}: {error}") from error
    tokens: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        name, colon, token = text.partition(":")
        if not colon or not name.strip() or len(token.strip()) < _SHORTEST_TOKEN:
            raise UsageError(
                f"--token-file {path}, line {number}: expected NAME:TOKEN, "
                f"a token of {_SHORTEST_TOKEN} characters or more"
            )
        tokens[token.strip()] = name.strip()
    if not tokens:
        raise UsageError(f"--token-file {path} holds no token")
    return tokens
