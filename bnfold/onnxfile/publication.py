"""One output: written beside its place, checked there by whoever wants to, then published in one step or not at all."""

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from bnfold.errors import OutputError
from bnfold.onnxfile.claim import Claim, Identity, hidden_name, identity
from bnfold.onnxfile.data_names import candidates, is_plain
from bnfold.onnxfile.layout import DataFile, Layout, Plan, Weights, arrange
from bnfold.onnxfile.model_file import OnnxFile
from bnfold.onnxfile.old_data import locations_of, mark, superseded
from bnfold.onnxfile.payload import Payload, Span
from bnfold.onnxfile.source import File, sha256_of
from bnfold.onnxfile.splice import Place, Structure
from bnfold.onnxfile.stream import Writer


@dataclass(frozen=True)
class Written:
    """What `Publication.write` wrote: the model file, its size in bytes and sha256, and the data files beside it.

    `moved` is true if weights went to external data because the model file would have passed 2 GiB.
    """

    path: Path
    nbytes: int
    sha256: str
    data_files: tuple[Path, ...] = ()
    moved: bool = False


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
            self.target = Path(os.path.realpath(self._named))
            self._old = self._inspect()
        self._claim: Claim | None = None
        self._path: Path | None = None
        self._used: list[Path] = []
        self._temporary: list[Path] = []
        self._data: list[tuple[Path, Identity]] = []
        self._directories: list[Path] = []

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
        assert self._path is not None, "nothing was written yet"
        return self._path

    def write(self, file: OnnxFile, *, untouched: bool, layout: Layout | None = None) -> Written:
        """Write the model. With `untouched` and the input's layout, the input file(s) are copied as they are.

        Called again, it replaces what it wrote before. Raises OutputError; ModelError if the input changed meanwhile.
        """
        layout = layout or Layout()
        self._discard()
        try:
            with self._errors():
                self._acquire()
                file.start_hash()
                if untouched and layout.weights is Weights.AS_INPUT:
                    if (written := self._copy(file)) is not None:
                        return written
                    self._discard()
                return self._rewrite(file, layout)
        except BaseException:
            self._discard()
            raise

    def publish(self) -> None:
        """Make what was written durable and put it in its place: from here on it is the output."""
        self._commit(self.target)

    def keep_as(self, path: str | os.PathLike[str]) -> None:
        """Put what was written under another name in the same directory, and leave the target alone."""
        place = Path(path)
        with self._errors():
            if os.path.realpath(place.parent) != str(self.target.parent):
                raise OutputError(f"{place}: must be in the directory of {self.target}, where its external data is")
        self._commit(self.target.parent / place.name)

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
        self._discard()
        self._release()

    def _release(self) -> None:
        if self._claim is not None:
            self._claim.release()
            self._claim = None

    def _acquire(self) -> None:
        if self._claim is None:
            self._claim = Claim(self.target)
            if found := self._claim.leftovers():
                used = locations_of(self.target) if self._old is not None else frozenset()
                for path in found:
                    if used is not None and path.relative_to(self.target.parent).as_posix() not in used:
                        path.unlink(missing_ok=True)
            self._claim.forget()

    def _commit(self, place: Path) -> None:
        with self._errors():
            folders = {self.path.parent: None}
            for path, _ in self._data:
                _sync(path)
                folders[path.parent] = None
            _sync(self.path)
            for folder in folders:
                _sync(folder)
            before = locations_of(place) if place.exists() else None
            self.path.replace(place)
            used = self._used
            self._forget()
        with suppress(OSError):  # it is published already
            _sync(place.parent)
            for path in superseded(place, before or (), used):
                path.unlink()

    def _forget(self) -> None:
        self._path = None
        self._used, self._temporary, self._data, self._directories = [], [], [], []
        if self._claim is not None:
            self._claim.forget()

    def _discard(self) -> None:
        """Remove everything that was written and not published."""
        if self._path is not None and not self._path.exists():
            self._forget()  # interrupted right after the commit
            return
        for path in self._temporary:
            with suppress(OSError):
                path.unlink()
        for path, made in self._data:
            with suppress(OSError):
                if identity(path.stat()) == made:
                    path.unlink()
        for folder in reversed(self._directories):
            with suppress(OSError):
                folder.rmdir()
        self._forget()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or str(error)
            advice = (
                "free some space and run again"
                if error.errno in (errno.ENOSPC, errno.EDQUOT)
                else "nothing was changed"
            )
            raise OutputError(f"{self._named}: cannot be written: {reason}; {advice}") from error

    # --- files

    @contextmanager
    def _new_file(self, folder: Path, name: str, file: OnnxFile, *, hashed: bool) -> Iterator[tuple[Path, Writer]]:
        """A new file under a name of no consequence, with the permissions that the output shall have."""
        path = folder / hidden_name(name, secrets.token_hex(4))
        assert self._claim is not None
        self._claim.announce(path)
        self._temporary.append(path)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            if self._old is not None:
                with suppress(OSError):  # only root may give files away
                    os.fchown(descriptor, self._old.st_uid, self._old.st_gid)
                os.fchmod(descriptor, stat.S_IMODE(self._old.st_mode))
            writer = Writer(descriptor, file.release, hashed=hashed)
            try:
                yield path, writer
            finally:
                writer.abandon()
        finally:
            os.close(descriptor)
            file.release()

    def _written(
        self, path: Path, writer: Writer, file: OnnxFile, sha256: str, data: list[Path], *, moved: bool = False
    ) -> Written:
        file.check_unchanged()
        self._path, self._used = path, data
        return Written(path, writer.nbytes, sha256, tuple(data), moved)

    # --- an untouched model

    def _copy(self, file: OnnxFile) -> Written | None:
        """Copy model and data byte for byte; None if a data file's name is taken, so that the model must be changed."""
        data: dict[Path, None] = {}
        for stored in file.payloads:
            if stored.location is None:
                continue
            assert isinstance(stored.payload, Span)
            assert isinstance(stored.payload.origin, File)
            place = self._place(stored.location)
            if place is None:
                return None
            if place not in data and not self._copy_data(stored.payload.origin, place, file):
                return None
            data[place] = None
        with self._new_file(self.target.parent, self.target.name, file, hashed=False) as (path, writer):
            writer.append(Span(file.source, 0, file.source.nbytes))
            writer.finish()
            return self._written(path, writer, file, file.sha256(), list(data))

    def _copy_data(self, origin: File, place: Path, file: OnnxFile) -> bool:
        with suppress(FileNotFoundError):
            status = place.stat()
            return origin.is_same_file(status) or (
                status.st_size == origin.nbytes and sha256_of(place) == sha256_of(origin.path)
            )
        self._make_folder(place.parent)
        with self._new_file(place.parent, place.name, file, hashed=False) as (path, writer):
            writer.append(Span(origin, 0, origin.nbytes))
            writer.finish()
        return self._name_data(path, place)

    # --- a changed model

    def _rewrite(self, file: OnnxFile, layout: Layout) -> Written:
        structure = Structure(file.proto)
        default_name = f"{self.target.name}.data"
        plan = arrange(file.proto, file.payloads, structure.indices, structure.nbytes, layout, default_name)
        if plan.proto is not file.proto:
            structure = Structure(plan.proto)
        places: dict[int, Place] = {}
        data = [self._write_data(data, plan, file, places) for data in plan.data_files]
        pieces = structure.splice(plan.payloads, places.get)
        with self._new_file(self.target.parent, self.target.name, file, hashed=True) as (path, writer):
            for item in pieces.items:
                if isinstance(item, bytes):
                    writer.write(item)
                else:
                    writer.append(item)
            return self._written(path, writer, file, writer.finish(), data, moved=plan.moved)

    def _write_data(self, data: DataFile, plan: Plan, file: OnnxFile, places: dict[int, Place]) -> Path:
        """Write one data file, name it, and record where each payload in it is. Equal ranges are written once."""
        offsets: dict[int, int] = {}
        known: dict[Payload, int] = {}
        wanted = self._place(data.location) or self.target.parent / f"{self.target.name}.data"
        self._make_folder(wanted.parent)
        with self._new_file(wanted.parent, wanted.name, file, hashed=os.path.lexists(wanted)) as (path, writer):
            for index in data.indices:
                payload = plan.payloads[index].payload
                if isinstance(payload, Span) and payload in known:
                    offsets[index] = known[payload]
                    continue
                writer.pad(data.alignment(payload))
                offsets[index] = writer.nbytes
                if isinstance(payload, Span):
                    known[payload] = writer.nbytes
                writer.append(payload)
            sha256, nbytes = writer.finish(), writer.nbytes
        place = self._settle(path, wanted, sha256, nbytes, file)
        location = place.relative_to(self.target.parent).as_posix()
        for index, offset in offsets.items():
            places[index] = Place(location, offset, plan.payloads[index].payload.nbytes)
        return place

    def _settle(self, path: Path, wanted: Path, sha256: str, nbytes: int, file: OnnxFile) -> Path:
        """Give a data file a name that nothing uses, or leave it to an equal file that the old output uses."""
        source_name = None if file.path is None else file.path.name
        for place in candidates(wanted, source_name, self.target.name, lambda: sha256 or sha256_of(path)):
            if place == self.target:
                continue
            if self._name_data(path, place):
                return place
            with suppress(OSError):
                if (
                    place.stat().st_size == nbytes
                    and self._is_of_old_output(place)
                    and sha256_of(place) == (sha256 or sha256_of(path))
                ):
                    path.unlink()
                    return place
        raise OutputError(f"{self._named}: found no free name for external data like {wanted.name}")

    def _is_of_old_output(self, place: Path) -> bool:
        if self._old is None:
            return False
        return place.relative_to(self.target.parent).as_posix() in (locations_of(self.target) or ())

    def _name_data(self, path: Path, place: Path) -> bool:
        """Rename a finished file to `place`; False if that exists."""
        mark(path, self.target)
        made = identity(path.stat())
        assert self._claim is not None
        self._claim.announce(place, made)
        self._data.append((place, made))
        try:
            os.link(path, place)
            path.unlink()
        except FileExistsError:
            self._data.pop()
            return False
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK) or os.path.lexists(place):
                raise
            path.rename(place)
        return True

    def _place(self, location: str) -> Path | None:
        """Where in the target's directory a location is; None if it cannot be used there."""
        if not is_plain(location):
            return None
        folder, place = self.target.parent, self.target.parent / location
        inside = Path(os.path.realpath(place.parent)) == place.parent
        return place if inside and place != self.target and place != folder else None

    def _make_folder(self, folder: Path) -> None:
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        for path in reversed(missing):
            self._directories.append(path)
            path.mkdir()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
