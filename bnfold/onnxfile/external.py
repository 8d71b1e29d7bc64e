"""Which external data a model may name, and where its bytes are.

The rule is onnxruntime's: the file must lie, symlinks resolved, inside the directory of the model's path or inside the
directory of the real model file (a Hugging Face cache links both into its blobs). `strict` is the rule of `onnx.load`:
no symlinks, no hard links and no `..` at all.
"""

import os
from pathlib import Path

from onnx import TensorProto

from bnfold.errors import ModelError
from bnfold.onnxfile.payload import Span, Stored
from bnfold.onnxfile.source import File
from bnfold.onnxfile.tensor_sizes import raw_nbytes

LONGEST_PATH = 4096  # characters: PATH_MAX of Linux
AGAIN = "save the model again, with its data beside it"


class ExternalData:
    """The external data files of one model, each opened once."""

    def __init__(self, model: Path, *, strict: bool) -> None:
        self._model = model
        self._strict = strict
        self._base = os.path.realpath(model.parent)
        self._bases = [self._base] if strict else [self._base, os.path.realpath(Path(os.path.realpath(model)).parent)]
        self._files: dict[str, File] = {}

    @property
    def files(self) -> tuple[File, ...]:
        """The files that tensors use, in the order in which they were first named."""
        return tuple(dict.fromkeys(self._files.values()))

    def stored(self, tensor: TensorProto) -> Stored:
        """Where the bytes of an external tensor are. Raises ModelError."""
        entries: dict[str, str] = {}
        for entry in tensor.external_data:
            if entry.key in entries:
                raise self._error(tensor, f"names its external data {entry.key} twice; {AGAIN}")
            entries[entry.key] = entry.value
        location = entries.get("location")
        if not isinstance(location, str) or not location:
            raise self._error(tensor, f"is stored externally but names no file; {AGAIN}")
        file = self._files.get(location)
        if file is None:
            file = self._files[location] = self._open(tensor, location)
        offset = self._number(tensor, entries, "offset") or 0
        length = self._number(tensor, entries, "length")
        try:
            expected = raw_nbytes(tensor)
        except ValueError as error:
            raise self._error(tensor, str(error)) from error
        if expected is None and tensor.data_type in (TensorProto.STRING, TensorProto.UNDEFINED):
            raise self._error(tensor, f"has a type that cannot be stored externally; {AGAIN}")
        if length is None:
            length = max(file.nbytes - offset, 0) if expected is None else expected
        elif expected is not None and length != expected:
            raise self._error(
                tensor, f"has {length} bytes of external data where its shape and type need {expected}; {AGAIN}"
            )
        if offset + length > file.nbytes:
            raise self._error(
                tensor,
                f"needs bytes {offset} to {offset + length} of {location!r}, which has only {file.nbytes}: "
                "the data file is truncated or not the one of this model; copy both again",
            )
        return Stored(Span(file, offset, length), location)

    def _number(self, tensor: TensorProto, entries: dict[str, str], key: str) -> int | None:
        text = entries.get(key)
        if text is None:
            return None
        if not (text.isascii() and text.isdigit() and len(text) < 20):
            raise self._error(
                tensor, f"has the external data {key} {str(text)[:40]!r}, which is not a byte count; {AGAIN}"
            )
        return int(text)

    def _open(self, tensor: TensorProto, location: str) -> File:
        if len(location) > LONGEST_PATH:  # to resolve one takes time that grows with the square of its length
            raise self._error(tensor, f"names external data by a path of {len(location)} characters; {AGAIN}")
        if "\0" in location:
            raise self._error(tensor, f"names external data by a path with a zero byte in it; {AGAIN}")
        if Path(location).is_absolute():
            raise self._error(
                tensor, f"names external data by an absolute path ({location!r}), which is not allowed; {AGAIN}"
            )
        named = self._model.parent / location
        real = os.path.realpath(named)
        if self._strict:
            self._check_strict(tensor, location, named)
        if not any(Path(real).is_relative_to(base) for base in self._bases):
            raise self._error(
                tensor,
                f"names external data outside the model's directory ({location!r}), which is not allowed; "
                "put the file beside the model",
            )
        try:
            file = File(Path(real), what=f"the external data {location!r} of tensor {tensor.name!r}")
        except ModelError as error:
            raise ModelError(f"{self._model}: {error}") from error
        if self._strict and file.status.st_nlink > 1:
            raise self._error(
                tensor,
                f"names external data ({location!r}) that has hard links, which is not allowed here; copy the file",
            )
        if os.path.realpath(real) != real:  # somebody put a link there just now
            raise self._error(tensor, f"names external data ({location!r}) that is being replaced; run again")
        return next((other for other in self._files.values() if other.is_same_file(file.status)), file)

    def _check_strict(self, tensor: TensorProto, location: str, named: Path) -> None:
        if ".." in Path(location).parts:
            raise self._error(
                tensor, f"names external data by a path with '..' ({location!r}), which is not allowed here; {AGAIN}"
            )
        for path in (named, *named.parents[: len(Path(location).parts) - 1]):
            if path.is_symlink():
                raise self._error(
                    tensor, f"names external data through a symlink ({path}), which is not allowed here; copy the file"
                )

    def _error(self, tensor: TensorProto, problem: str) -> ModelError:
        return ModelError(f"{self._model}: tensor {tensor.name!r} {problem}")
