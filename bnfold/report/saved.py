"""Reports read back from their files."""

import json
import os
import stat
from typing import Any

from bnfold.errors import UsageError
from bnfold.report.document import Document
from bnfold.report.report import FORMAT_VERSION

LARGEST = 1 << 30  # bytes
KINDS = ("optimize", "verify", "failure", "inspect")


def read_report(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The data of a JSON report. Raises UsageError where the file is none, is damaged, or is of another format."""
    name = os.fspath(path)
    try:
        content = json.loads(_bytes_of(name))
    except OSError as error:
        raise UsageError(f"{name}: cannot read the report: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{name}: is not JSON ({error}); pass what --report FILE.json wrote") from error
    if not isinstance(content, dict) or content.get("kind") not in KINDS or "format" not in content:
        raise UsageError(f"{name}: is no report of bnfold; pass what --report FILE.json wrote")
    if content["format"] != FORMAT_VERSION:
        raise UsageError(
            f"{name}: has format {content['format']!r}, this bnfold reads {FORMAT_VERSION}: use the one that wrote it"
        )
    try:
        Document.of(content)
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from error
    return content


def _bytes_of(path: str) -> bytes:
    """The bytes of a file or of a pipe that somebody writes to. Raises OSError and UsageError, and waits for nobody."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):
            raise UsageError(f"{path}: is not a regular file; pass what --report FILE.json wrote")
        os.set_blocking(file.fileno(), True)
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise UsageError(f"{path}: is larger than any report of bnfold; pass what --report FILE.json wrote")
    return content
