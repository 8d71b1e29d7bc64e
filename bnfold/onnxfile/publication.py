"""One output: written beside its place, checked there by whoever wants to, then published in one step or not at all."""

import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from bnfold.atomic import SUFFIX, place_of, sync
from bnfold.errors import OutputError
from bnfold.onnxfile.assembly import Assembly, Written
from bnfold.onnxfile.marks import SOURCE, set_mark
from bnfold.onnxfile.model_file import OnnxFile
from bnfold.onnxfile.new_files import NewFiles
from bnfold.onnxfile.old_data import named_data, superseded
from bnfold.onnxfile.output_lock import OutputLock
from bnfold.onnxfile.weight_layout import Layout, Weights


class Publication:
    """The output at `target`: a context manager that leaves behind either a published model or nothing new.

    `write` makes the model and its external data under names that nothing uses, `publish` moves the model to its place
    by os.replace: that is the commit. A symlink at the target stays one: what it points to is replaced. Raises
    OutputError, from the constructor where the output could never be written, and later with the old output intact.
    """

    def __init__(self, target: str | os.PathLike[str]) -> None:
        self._named = Path(target)
        if "\0" in os.fspath(self._named):
            raise OutputError(f"{str(self._named)!r}: cannot be written: there is a zero byte in the name")
        with self._errors():
            try:
                self.target = place_of(self._named)
            except (FileNotFoundError, NotADirectoryError) as error:
                raise OutputError(f"{self._named}: there is no directory {error.filename}; create it first") from None
            self._old = self._inspect()
        self._lock: OutputLock | None = None
        self._made: NewFiles | None = None
        self._written: Written | None = None
        self.left: tuple[Path, ...] = ()
        """Data of the output before this one, which was left because other files may name it."""

    def _inspect(self) -> os.stat_result | None:
        """Refuse early; the status of what is at the target now."""
        folder = self.target.parent
        if not self._named.name and not self.target.name:
            raise OutputError(f"{self._named}: is not a file name; give the output a name")
        if not folder.is_dir():
            raise OutputError(f"{self._named}: there is no directory {folder}; create it first")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise OutputError(f"{self._named}: the directory {folder} is not writable; choose another output")
        try:
            status = self.target.stat()
        except FileNotFoundError:
            return None
        if stat.S_ISDIR(status.st_mode):
            raise OutputError(f"{self._named}: is a directory; give the output a file name in it")
        if not stat.S_ISREG(status.st_mode):
            raise OutputError(f"{self._named}: is not a regular file; choose another output")
        if not os.access(self.target, os.W_OK):
            raise OutputError(f"{self._named}: is read-only; make it writable or choose another output")
        return status

    @property
    def path(self) -> Path:
        """The model as written and not yet published, loadable where it is. `write` must have been called."""
        assert self._written is not None, "nothing was written yet"
        return self._written.path

    def write(
        self,
        file: OnnxFile,
        *,
        untouched: bool,
        layout: Layout | None = None,
        progress: Callable[[int, int], None] | None = None,
        hashed: bool = True,
        ours: bool = False,
    ) -> Written:
        """Write the model. With `untouched` and the input's layout, the input file(s) are copied as they are.

        `progress` is called whenever bytes were written, with how many there are and about how many there will be. A
        second call replaces what the first wrote. Without `hashed` no sha256 is computed, of the input neither. A
        model that was made in the `workshop` is `ours`: its files are moved where they can be. Raises OutputError;
        ModelError if the input changed meanwhile.
        """
        layout = layout or Layout()
        self._discard()
        try:
            with self._errors():
                made = self._acquire()
                made.progress = (
                    None
                    if progress is None
                    else _summed(progress, file.nbytes + sum(d.nbytes for d in file.data_files))
                )
                assembly = Assembly(file, self.target, made, hashed=hashed, ours=ours)
                if hashed:
                    file.start_hash()
                if untouched and layout.weights is Weights.AS_INPUT:
                    self._written = assembly.copy()
                    if self._written is not None:
                        return self._written
                    self._discard()
                self._written = assembly.rewrite(layout)
                return self._written
        except BaseException:
            self._discard()
            raise

    @contextmanager
    def workshop(self) -> Iterator[Path]:
        """A hidden folder beside the target, in which a model can be made that `write` is then given as `ours`."""
        with self._errors():
            made = self._acquire()
        with made.workshop() as folder:
            yield folder

    def publish(self, source: bytes | None = None, *, durable: bool = True) -> None:
        """Make what was written durable and put it in its place: from here on it is the output.

        `source` marks it as made from that (`marks.SOURCE`), outside of its bytes. A file that is gone before this
        process is need not be `durable`, and waits for no disk.
        """
        self._mark(source)
        self._commit(self.target, durable=durable)

    def keep_as(self, path: str | os.PathLike[str], source: bytes | None = None) -> None:
        """Put what was written under another name in the same directory, and leave the target alone."""
        place = Path(path)
        with self._errors():
            if os.path.realpath(place.parent) != str(self.target.parent):
                raise OutputError(f"{place}: must be in the directory of {self.target}, where its external data is")
        self._mark(source)
        self._commit(self.target.parent / place.name, durable=True)

    def _mark(self, source: bytes | None) -> None:
        assert self._written is not None, "nothing was written yet"
        exchange = self._written.exchange
        for path in (self.path, *([exchange.first] if exchange is not None else ())) if source is not None else ():
            set_mark(path, SOURCE, source or b"")

    def __enter__(self) -> Self:
        try:
            with self._errors():
                self._acquire()
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._discard()
            self._release()
        except BaseException:  # a signal, in the middle of it
            self._discard()
            self._release()
            raise

    def _acquire(self) -> NewFiles:
        """Make sure that nobody else writes this output, and remove what a killed process left of it."""
        if self._lock is None:
            self._lock = OutputLock(self.target)
            try:
                self._lock.acquire()
                self._sweep(self._lock.leftovers())
                self._lock.forget()
            except BaseException:
                self._release()
                raise
        if self._made is None:
            self._made = NewFiles(self.target, self._old, self._lock)
        return self._made

    def _sweep(self, leftovers: list[Path]) -> None:
        used = named_data(self.target) if leftovers and self._old is not None else frozenset()
        for path in reversed(leftovers):  # what is in a folder before the folder
            if path.is_dir() and not path.is_symlink():
                if path.name.endswith(SUFFIX):
                    shutil.rmtree(path, ignore_errors=True)  # all that is in it was ours
            elif used is not None and path.relative_to(self.target.parent).as_posix() not in used:
                path.unlink(missing_ok=True)

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()
        self._lock = self._made = None

    def _commit(self, place: Path, *, durable: bool) -> None:
        assert self._written is not None, "nothing was written yet"
        assert self._made is not None
        exchange, now = self._written.exchange, self._written.data_files
        model = self.path if exchange is None else exchange.first
        with self._errors():
            if durable:
                self._made.sync()
            if exchange is not None:
                exchange.prepare()
            elif durable:
                sync(model)
            before = named_data(place) if place.exists() else None
            model.replace(place)
            self._written = None
            if exchange is None:
                self._made.keep()
            else:
                for path in now:
                    self._made.forget(path)
        with suppress(OSError):  # it is published already
            if durable:
                sync(place.parent)
            if exchange is not None and place == self.target:
                exchange.finish(place, self._made)
                now = (exchange.wanted,)
            old = superseded(place, before or (), now)
            self.left = old.left
            for path in old.removable:
                path.unlink()

    def _discard(self) -> None:
        """Remove everything that was written and not published."""
        if self._made is None:
            return
        written = self._written
        if written is not None and not (written.path if written.exchange is None else written.exchange.first).exists():
            for path in written.data_files:
                self._made.forget(path)  # interrupted right after the commit
            self._made.discard()
        else:
            self._made.discard()
        self._written = None

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or str(error)
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            advice = "free some space and run again" if full else "nothing was changed"
            raise OutputError(f"{self._named}: cannot be written: {reason}; {advice}") from error


def _summed(progress: Callable[[int, int], None], total: int) -> Callable[[int], None]:
    done = 0

    def add(count: int) -> None:
        nonlocal done
        done += count
        progress(done, total)

    return add
