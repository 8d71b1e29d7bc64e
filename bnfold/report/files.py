"""A report's way to its file: noticed early where it cannot be written, and never half written."""

import errno
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from bnfold.errors import OutputError


class ReportFile:
    """The place a report will be written to, checked before the work that it reports on.

    A regular file is written beside its place and moved there, so a reader sees the old report or the new one.
    A device or pipe (``/dev/stdout``) is written directly; the path ``-`` stands for standard output, which is the
    caller's to write. Raises `OutputError` where that cannot work.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.is_standard_output = os.fspath(path) == "-"
        if self.is_standard_output:
            return
        try:
            self._special = _is_special(self.path)
            # A link is followed, so that the file it names is what gets replaced.
            self._target = self.path if self._special else Path(os.path.realpath(self.path))
            if not self._special:
                handle, probe = self._beside()
                os.close(handle)
                probe.unlink()
        except OSError as error:
            raise self._failed(error) from error

    def write(self, text: str) -> None:
        """Put the text there, encoded as UTF-8. Raises `OutputError`; what was there before is then untouched."""
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
            with suppress(FileNotFoundError):
                temporary.chmod(stat.S_IMODE(self._target.stat().st_mode))
            temporary.replace(self._target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def _beside(self) -> tuple[int, Path]:
        """A new file beside the target, open for writing, with the permissions that `open` would give it."""
        path = self._target.with_name(f".{self._target.name[:60]}.{secrets.token_hex(4)}.tmp")
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666), path

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
