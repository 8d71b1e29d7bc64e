"""Putting an output together: its data files first, under names that nothing uses, then the model that names them."""

import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from bnfold.errors import OutputError
from bnfold.onnxfile.data_names import candidates, is_plain
from bnfold.onnxfile.exchange import Exchange, is_possible
from bnfold.onnxfile.model_file import OnnxFile
from bnfold.onnxfile.new_files import NewFiles
from bnfold.onnxfile.old_data import named_data, not_named_by_others
from bnfold.onnxfile.payload import Payload, Span
from bnfold.onnxfile.source import File, Source, sha256_of
from bnfold.onnxfile.stream import Writer
from bnfold.onnxfile.structure_writing import DataRange, Structure
from bnfold.onnxfile.weight_layout import Arrangement, DataFile, Layout, Weights, arrange


class Written(NamedTuple):
    """The files that `Publication.write` wrote: the model, its size in bytes and sha256, and the data files beside it.

    `sha256` is "" where it was not wanted. `moved` is true if weights went to external data because the model file
    would have passed 2 GiB. `exchange`: how the data gets the name that the old data has, which the model has in it.
    """

    path: Path
    nbytes: int
    sha256: str
    data_files: tuple[Path, ...] = ()
    moved: bool = False
    exchange: Exchange | None = None


class Assembly:
    """Writes `file` beside `target`. Methods raise OSError, OutputError, and ModelError if the input changed.

    Where the files of `file` are `ours`, in a workshop of `made`, a copy needs no bytes: each gets its name here.
    """

    def __init__(self, file: OnnxFile, target: Path, made: NewFiles, *, hashed: bool, ours: bool = False) -> None:
        self._file = file
        self._ours = ours
        self._taken: list[Path] = []  # files that have a name here
        self._target = target
        self._folder = target.parent
        self._made = made
        self._hashed = hashed

    # --- byte for byte

    def copy(self) -> Written | None:
        """Copy model and data as they are; None if a data file's name is taken, so that the model must be changed."""
        data: dict[Path, None] = {}
        for stored in self._file.payloads:
            if stored.location is None:
                continue
            assert isinstance(stored.payload, Span)
            assert isinstance(stored.payload.origin, File)
            place = self._place(stored.location)
            if place is None:
                return None
            if place not in data and not self._copy_data(stored.payload.origin, place):
                return None
            data[place] = None
        source = self._file.source
        path = self._same(source, self._folder, self._target.name)
        self._file.check_unchanged()
        for ready in self._taken:
            ready.unlink()  # onnx refuses data of two names
        return Written(path, self._file.nbytes, self._file.sha256() if self._hashed else "", tuple(data))

    def _same(self, source: Source, folder: Path, name: str) -> Path:
        """A hidden file with the content of `source`."""
        if self._ours and isinstance(source, File):
            taken = self._made.take(source.path, folder, name)
            if taken is not None:
                self._taken.append(source.path)
                return taken
        with self._made.create(folder, name, self._file.release, hashed=False) as (path, writer):
            writer.append(Span(source, 0, source.nbytes))
            writer.finish()
        return path

    def _copy_data(self, origin: File, place: Path) -> bool:
        with suppress(FileNotFoundError):
            status = place.stat()
            same_size = status.st_size == origin.nbytes
            return origin.is_same_file(status) or (same_size and sha256_of(place) == sha256_of(origin.path))
        self._made.make_folder(place.parent)
        return self._made.name(self._same(origin, place.parent, place.name), place)

    # --- changed

    def rewrite(self, layout: Layout) -> Written:
        """Write the model as it is now, with the weights where `layout` wants them."""
        file = self._file
        structure = Structure(file.proto)
        default_name = f"{self._target.name}.data"
        plan = arrange(file.proto, file.payloads, structure.indices, structure.nbytes, layout, default_name)
        if plan.proto is not file.proto:
            structure = Structure(plan.proto)
        places: dict[int, DataRange] = {}
        data = [self._write_data(data, plan, places) for data in plan.data_files]
        first = self._write_model(structure, plan, places, data, self._folder)
        wanted = self._old_data(layout, data)
        if wanted is None:
            return first
        named = {index: DataRange(wanted.name, place.offset, place.nbytes) for index, place in places.items()}
        folder = self._made.hidden_folder(data[0], wanted)
        last = self._write_model(structure, plan, named, data, folder)
        return last._replace(exchange=Exchange(first.path, last.path, data[0], wanted))

    def _old_data(self, layout: Layout, data: list[Path]) -> Path | None:
        """The file of the name that was asked for, where it holds the old data of the model that is written in place.

        None where the data has that name, or other files may look for what is there.
        """
        if layout.weights is not Weights.EXTERNAL or layout.name is None or len(data) != 1:
            return None
        wanted, source = self._place(layout.name), self._file.path
        if wanted is None or wanted == data[0] or source is None or Path(os.path.realpath(source)) != self._target:
            return None
        if not self._is_of_old_output(wanted) or not is_possible(data[0], wanted, self._made):
            return None
        return wanted if not_named_by_others([wanted], self._target, data) else None

    def _write_model(
        self, structure: Structure, plan: Arrangement, places: dict[int, DataRange], data: list[Path], folder: Path
    ) -> Written:
        pieces = structure.splice(plan.payloads, places.get)
        with self._made.create(folder, self._target.name, self._file.release, hashed=self._hashed) as (path, writer):
            for item in pieces.items:
                if isinstance(item, bytes):
                    writer.write(item)
                else:
                    writer.append(item)
            return self._written(path, writer, writer.finish(), data, moved=plan.moved)

    def _written(self, path: Path, writer: Writer, sha256: str, data: list[Path], *, moved: bool = False) -> Written:
        self._file.check_unchanged()
        return Written(path, writer.nbytes, sha256, tuple(data), moved)

    def _write_data(self, data: DataFile, plan: Arrangement, places: dict[int, DataRange]) -> Path:
        """Write one data file, name it, and record where each payload in it is. Equal ranges are written once."""
        offsets: dict[int, int] = {}
        known: dict[Payload, int] = {}
        wanted = self._place(data.location) or self._folder / f"{self._target.name}.data"
        self._made.make_folder(wanted.parent)
        taken = os.path.lexists(wanted)  # then the name depends on the hash
        with self._made.create(wanted.parent, wanted.name, self._file.release, hashed=taken) as (path, writer):
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
            sha256 = writer.finish()
        place = self._settle(path, wanted, sha256)
        location = place.relative_to(self._folder).as_posix()
        for index, offset in offsets.items():
            places[index] = DataRange(location, offset, plan.payloads[index].payload.nbytes)
        return place

    def _settle(self, path: Path, wanted: Path, sha256: str) -> Path:
        """Give a data file a name that nothing uses, or leave it to an equal file that the old output uses."""
        source = None if self._file.path is None else self._file.path.name

        def content() -> str:
            nonlocal sha256
            sha256 = sha256 or sha256_of(path)
            return sha256

        for place in candidates(wanted, source, self._target.name, content):
            if place == self._target:
                continue
            if self._made.name(path, place):
                return place
            same_size = place.is_file() and place.stat().st_size == path.stat().st_size
            if same_size and self._is_of_old_output(place) and sha256_of(place) == content():
                path.unlink()
                return place
        raise OutputError(f"{self._target}: found no free name for external data like {wanted.name}")

    def _is_of_old_output(self, place: Path) -> bool:
        return place.relative_to(self._folder).as_posix() in (named_data(self._target) or ())

    def _place(self, location: str) -> Path | None:
        """Where in the target's directory a location is; None if it cannot be used there."""
        if not is_plain(location):
            return None
        place = self._folder / location
        inside = Path(os.path.realpath(place.parent)) == place.parent
        return place if inside and place != self._target else None
