"""A report's way to its file: noticed early where it cannot be written, and never half written."""

import errno
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from bnfold.addresses import is_address, require_remote, send_text
from bnfold.atomic import create, hidden_name, place_of
from bnfold.errors import OutputError


class ReportFile:
    """The place a report will be written to, checked before the work that it reports on.

    A regular file is written beside its place and moved there, so a reader sees the old report or the new one.
    A device or pipe (``/dev/stdout``) is written directly; the path ``-`` stands for standard output, which is the
    caller's to write. An address (``s3://``) is written at the end. Raises `OutputError` where that cannot work.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.is_standard_output = os.fspath(path) == "-"
        self._address = os.fspath(path) if is_address(path) else ""
        if self._address:
            require_remote(self._address)
        if self.is_standard_output or self._address:
            return
        try:
            self._special = _is_special(self.path)
            # A link is followed, so that the file it names is what gets replaced.
            self._target = self.path if self._special else place_of(self.path)
            if not self._special:
                handle, probe = self._beside()
                os.close(handle)
                probe.unlink()
        except OSError as error:
            raise self._failed(error) from error

    def write(self, text: str) -> None:
        """Put the text there, encoded as UTF-8. Raises `OutputError`; what was there before is then untouched."""
        if self._address:
            send_text(self._address, text)
            return
        try:
            if self._special:
                with self._target.open("w", encoding="utf-8") as stream:
                    stream.write(text)
            else:
                self._replace(text)
        except OSError as error:
            raise self._failed(error) from error

    def _replace(self, text: str) -> None:
        handle, temporary = self._beside()
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(text)
            temporary.replace(self._target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def _beside(self) -> tuple[int, Path]:
        """A new hidden file beside the target, open for writing."""
        old = None
        with suppress(FileNotFoundError):
            old = self._target.stat()
        path = self._target.with_name(hidden_name(self._target.name, secrets.token_hex(4)))
        return create(path, old), path

    def _failed(self, error: OSError) -> OutputError:
        return OutputError(f"the report cannot be written to {self.path}: {error.strerror or error}")


def _is_special(path: Path) -> bool:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return False
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "it is a directory", str(path))
    # What the shell redirected /dev/stdout to may be a regular file, but it is the shell's to open.
    return not stat.S_ISREG(mode) or path.is_relative_to("/dev")
