"""A job: a command, the models it is about, and its options. The same job always has the same key."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from bnfold import __version__
from bnfold.errors import UsageError

COMMANDS: Mapping[str, tuple[str, ...]] = {
    "optimize": ("model",),
    "freeze": ("model",),
    "inspect": ("model",),
    "recalibrate": ("model", "data"),
    "substitute": ("model",),
    "verify": ("reference", "candidate"),
}
"""The roles of the content that each command works on."""

WRITING = frozenset({"optimize", "freeze", "recalibrate", "substitute"})
"""The commands that write a model."""

_DECIDING = ("numpy", "onnx", "onnxruntime", "onnxruntime-gpu")
"""The packages whose versions decide about numbers."""


@dataclass(frozen=True)
class Job:
    """`contents`: a content hash (hexadecimal SHA-256) for each role of the command. `options`: JSON values."""

    command: str
    contents: Mapping[str, str]
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises UsageError for an unknown command and for roles that are not the command's."""
        roles = COMMANDS.get(self.command)
        if roles is None:
            raise UsageError(f"command is one of {', '.join(COMMANDS)}, not {self.command!r}")
        missing = [role for role in roles if role not in self.contents]
        strange = [role for role in self.contents if role not in roles]
        if missing or strange:
            raise UsageError(f"{self.command} takes {' and '.join(roles)}, not {', '.join(self.contents) or 'nothing'}")

    @property
    def key(self) -> str:
        """32 hexadecimal digits: the hash of command, contents, options and the versions that decide about numbers."""
        identity = {
            "command": self.command,
            "contents": dict(self.contents),
            "options": dict(self.options),
            "versions": versions(),
        }
        text = json.dumps(identity, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def versions() -> dict[str, str]:
    """The versions of bnfold and of the installed packages that decide about numbers."""
    found = {"bnfold": __version__}
    for name in _DECIDING:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
