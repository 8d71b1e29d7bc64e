"""The manifest of a batch: one line of JSON for each model that is done, on the disk before the next is begun.

A batch that was killed goes on from it, and one that ran to its end does nothing.
"""

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

from bnfold.errors import OutputError
from bnfold.fleet.task import Row

NAME = "manifest.jsonl"


class Manifest:
    """The manifest in a folder, open for appending."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._mend()
            self._file: IO[bytes] = self.path.open("ab")
        except OSError as error:
            raise OutputError(f"{self.path}: {error.strerror or error}") from error

    def _mend(self) -> None:
        """Cut off half a line that a killed process left."""
        with suppress(FileNotFoundError), self.path.open("r+b") as stream:
            text = stream.read()
            stream.truncate(text.rfind(b"\n") + 1)

    def add(self, row: Row) -> None:
        """Write a line, and wait until the disk has it. Raises OutputError."""
        try:
            self._file.write(json.dumps(row.to_dict()).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise OutputError(f"{self.path}: {error.strerror or error}") from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def rows(folder: Path) -> Iterator[Row]:
    """The rows of a manifest, of each model the last alone, in the order of their paths."""
    places: dict[str, int] = {}
    try:
        stream = (folder / NAME).open("rb")
    except FileNotFoundError:
        return
    with stream:
        while True:
            place = stream.tell()
            line = stream.readline()
            if not line.endswith(b"\n"):
                break
            with suppress(ValueError, KeyError, TypeError):
                places[str(json.loads(line)["relative"])] = place
        for _, place in sorted(places.items()):
            stream.seek(place)
            with suppress(ValueError, KeyError, TypeError):
                yield Row.from_dict(json.loads(stream.readline()))
