"""External data files that bnfold wrote for an output and that its new version does not use any more."""

import os
from collections.abc import Collection, Iterator
from dataclasses import field
from pathlib import Path

from google.protobuf.message import DecodeError
from onnx import ModelProto

from bnfold.errors import ModelError
from bnfold.onnxfile.marks import OUTPUT, mark_of
from bnfold.onnxfile.source import File
from bnfold.onnxfile.structure_reading import take_payloads
from bnfold.onnxfile.tensors import tensors
from bnfold.records import Record

SMALL = 16 << 20  # bytes: searching a file of this size is faster than looking through its structure
MOST_FILES = 5000  # looked through for a name, before that is given up


def named_data(model: Path) -> frozenset[str] | None:
    """The external data that the model at `model` names, whether or not it is there; None if it cannot be read."""
    try:
        file = File(model, what="the model")
        small = file.nbytes < SMALL
        searched = bytes(file.view()) if small else take_payloads(file, [])
        if b"location" not in searched:  # most models: no need to parse them
            return frozenset()
        proto = ModelProto.FromString(take_payloads(file, []) if small else searched)
    except (ModelError, ValueError, DecodeError):
        return None
    entries = [entry for tensor, _ in tensors(proto, thorough=True) for entry in tensor.external_data]
    return frozenset(entry.value for entry in entries if entry.key == "location" and isinstance(entry.value, str))


class Superseded(Record):
    """Data files that a new version does not need: `removable` are nobody else's, `left` may be somebody's."""

    removable: tuple[Path, ...] = ()
    left: tuple[Path, ...] = field(default=())


def superseded(target: Path, before: Collection[str], now: Collection[Path]) -> Superseded:
    """Of the data files that the old `target` named (`before`), those that the new one does not use (`now`).

    Removable is what bnfold wrote for `target`, in its own folder, and what no other file names that could be a model:
    whatever its suffix, in that folder, below it, or in the one above. Where there are too many files to look at, or
    one cannot be looked at, all stays.
    """
    old = {target.parent / location for location in before} - set(now)
    old = {path for path in old if mark_of(path, OUTPUT) == os.fsencode(target.name)}
    free = not_named_by_others({path for path in old if path.parent == target.parent}, target, {*old, *now})
    return Superseded(tuple(sorted(free)), tuple(sorted(old - free)))


def not_named_by_others(data: Collection[Path], target: Path, known: Collection[Path] = ()) -> set[Path]:
    """Of these files in the folder of `target`, those that no file but `target` names, the `known` left out."""
    free = set(data)
    try:
        for other in _others(target, {target, *data, *known}) if free else ():
            free = {path for path in free if not _may_name(other, path)}
            if not free:
                break
    except OSError:
        return set()
    return free


def _others(target: Path, known: set[Path]) -> Iterator[Path]:
    """Every other file that could hold a model with a name for the data of `target`. Raises OSError if that is many."""
    seen = 0
    for folder, walk in ((target.parent, True), (target.parent.parent, False)):
        for path in _files(folder, walk=walk):
            seen += 1
            if seen > MOST_FILES:
                raise OSError("too many files to look through")
            if path not in known:
                yield path


def _files(folder: Path, *, walk: bool) -> Iterator[Path]:
    def fail(error: OSError) -> None:
        raise error

    for where, _, names in os.walk(folder, onerror=fail):
        yield from (Path(where, name) for name in names)
        if not walk:
            return


def _may_name(other: Path, data: Path) -> bool:
    """Whether the file `other` could be a model that has its weights in `data`."""
    if not other.is_file():
        return False
    named = named_data(other)
    if named is None:  # no model that bnfold can read: perhaps one in another notation, which holds the name as it is
        return other.stat().st_size < SMALL and os.fsencode(data.name) in other.read_bytes()
    return any(os.path.realpath(other.parent / name) == os.path.realpath(data) for name in named) or any(
        os.path.realpath(Path(os.path.realpath(other)).parent / name) == os.path.realpath(data) for name in named
    )
