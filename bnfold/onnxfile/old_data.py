"""External data files that bnfold wrote for an output and that its new version does not use any more."""

import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from bnfold.errors import ModelError
from bnfold.onnxfile.model_file import read
from bnfold.onnxfile.skeleton import take_payloads
from bnfold.onnxfile.source import File

ATTRIBUTE = "user.bnfold.output"  # an extended attribute: the name of the model that a data file was written for


SMALL = 16 << 20  # bytes: searching a file of this size is faster than looking through its structure


def mark(path: Path, target: Path) -> None:
    """Mark a data file as written for `target`; where the file system cannot, it will simply never be removed."""
    if hasattr(os, "setxattr"):
        with suppress(OSError):
            os.setxattr(path, ATTRIBUTE, os.fsencode(target.name))


def locations_of(model: Path) -> frozenset[str] | None:
    """The external data that the model at `model` names; None if it cannot be read."""
    try:
        file = File(model, what="the model")
        searched = bytes(file.view()) if file.nbytes < SMALL else take_payloads(file, [])
        if b"location" not in searched:  # most models: no need to parse them
            return frozenset()
        return frozenset(stored.location for stored in read(model).payloads if stored.location is not None)
    except (ModelError, ValueError):
        return None


def superseded(target: Path, before: Collection[str], now: Collection[Path]) -> list[Path]:
    """Of the data files that the old `target` named (`before`), those that bnfold wrote for it, that the new one does
    not use (`now`), and that no other model in the directory names.
    """
    old = {target.parent / location for location in before} - set(now)
    old = {path for path in old if _is_marked(path, target)}
    if not old:
        return []
    for other in sorted(target.parent.glob("*.onnx")):
        if other == target:
            continue
        named = locations_of(other)
        old = set() if named is None else old - {target.parent / location for location in named}
    return sorted(old)


def _is_marked(path: Path, target: Path) -> bool:
    if not hasattr(os, "getxattr"):
        return False
    with suppress(OSError):
        return os.getxattr(path, ATTRIBUTE, follow_symlinks=False) == os.fsencode(target.name)
    return False
