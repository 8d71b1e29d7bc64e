"""A model that stands at the output already: replaced where it was made from the same model, or on request.

A mark on the file, which is no part of its bytes, says what it was made from. Without one the result itself tells: the
old output is the same file, or it has the operators and names of the result where those are not the input's own.
"""

import filecmp
import hashlib
import os
from pathlib import Path
from typing import NamedTuple

from onnx import ModelProto

from bnfold.errors import UsageError
from bnfold.onnxfile import SOURCE, OnnxFile, mark_of, outline, structure_at
from bnfold.optimization.request import Request
from bnfold.paths import is_same
from bnfold.sources import is_path


class ExistingOutput(NamedTuple):
    """A model at `path` of which nothing says what it was made from: its outline, and that of the input."""

    path: Path
    outline: bytes
    input_outline: bytes

    def require_made_from_input(self, result: OnnxFile, written: Path) -> None:
        """Raise UsageError unless the model could be a former `result`, which lies `written` in another place."""
        now = outline(result.proto)
        if now == self.outline != self.input_outline:
            return
        if not filecmp.cmp(self.path, written, shallow=False):
            raise _refusal(self.path)


def existing_output(request: Request, file: OnnxFile) -> ExistingOutput | None:
    """The file at the output that has to be looked at again when there is a result, or None.

    `file` is the input, not edited. Raises UsageError for a model that cannot have been made from it.
    """
    if request.target is None or request.options.overwrite:
        return None
    if request.failed_copy is not None:
        _undecided(request.failed_copy, request, file)  # by its name it is a former failed result, or one of nobody's
    path = Path(request.target)
    if is_path(request.model) and is_same(path, Path(request.model)):
        return None
    old = _undecided(path, request, file)
    return None if old is None else ExistingOutput(path, outline(old), outline(file.proto))


def _undecided(path: Path, request: Request, file: OnnxFile) -> ModelProto | None:
    """The model at `path` where it may have been made from the input; None where it was, or there is none.

    Raises UsageError for one that cannot have been made from it.
    """
    old = structure_at(path) if path.is_file() else None
    if old is None:
        return None
    mark, ours = mark_of(Path(os.path.realpath(path)), SOURCE), source_mark(request)
    if mark is not None and mark == ours:
        return None
    if (mark is not None and ours is not None) or _signature(old) != _signature(file.proto):
        raise _refusal(path)
    return old


def source_mark(request: Request) -> bytes | None:
    """The mark of an output that was made from this input; None for a model that is no file."""
    if not is_path(request.model):
        return None
    return hashlib.sha256(os.fsencode(os.path.realpath(request.model))).hexdigest()[:32].encode()


def _signature(proto: ModelProto) -> tuple[list[str], list[str]]:
    stored = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value.name for value in proto.graph.input if value.name not in stored]
    return inputs, [value.name for value in proto.graph.output]


def _refusal(path: Path) -> UsageError:
    return UsageError(
        f"{path}: is a model already, and nothing shows that it was made from this one; choose another output, or pass "
        "--overwrite to replace it"
    )
