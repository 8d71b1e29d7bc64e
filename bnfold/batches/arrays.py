"""Arrays of .npy and .npz files, read a few rows at a time: memory does not grow with the size of the file.

The format is that of numpy.lib.format; an .npz file is a zip archive of .npy files.
"""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from bnfold.errors import UsageError
from bnfold.records import Record

_LONE = ""
"""The name of the array of an .npy file."""


class Rows:
    """An array in an open file, and the place up to which it was read."""

    def __init__(self, file: IO[bytes]) -> None:
        read_header = npy.read_array_header_1_0 if npy.read_magic(file) == (1, 0) else npy.read_array_header_2_0
        self.shape, transposed, self.dtype = read_header(file)
        if self.dtype.hasobject:
            raise ValueError("its elements are Python objects")
        self._file = file
        self._whole = self._transposed() if transposed else None
        self._at = 0

    @property
    def length(self) -> int:
        """The number of rows; -1 for a scalar, which has none."""
        return self.shape[0] if self.shape else -1

    def whole(self) -> NDArray[Any]:
        """All of it, where nothing was taken yet. Raises ValueError where the file ends before."""
        return self._read(self.shape) if self._whole is None else self._whole

    def take(self, rows: int) -> NDArray[Any]:
        """The next `rows` rows. Raises ValueError where the file ends before."""
        if self._whole is not None:
            self._at += rows
            return self._whole[self._at - rows : self._at]
        return self._read((rows, *self.shape[1:]))

    def _transposed(self) -> NDArray[Any]:
        """Stored column by column: there is no reading it by rows."""
        return self._read(self.shape[::-1]).transpose()

    def _read(self, shape: tuple[int, ...]) -> NDArray[Any]:
        wanted = int(np.prod(shape, dtype=object)) * self.dtype.itemsize
        data = self._file.read(wanted)
        if len(data) < wanted:
            raise ValueError("it ends in the middle of an array")
        return np.frombuffer(data, self.dtype).reshape(shape)


@contextmanager
def opened(file: Path) -> Iterator[dict[str, Rows]]:
    """The arrays of `file` by name, that of an .npy file as "", to be read inside the block.

    Raises UsageError where the file cannot be read, also in the middle.
    """
    try:
        with ExitStack() as stack:
            if file.suffix == ".npy":
                yield {_LONE: Rows(stack.enter_context(file.open("rb")))}
                return
            _check_is_archive(file)
            archive = stack.enter_context(zipfile.ZipFile(file))
            names = [name for name in archive.namelist() if name.endswith(".npy")]
            yield {name.removesuffix(".npy"): Rows(stack.enter_context(archive.open(name))) for name in names}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
        raise UsageError(f"{file}: cannot be read as an array: {error}") from error


def _check_is_archive(file: Path) -> None:
    with file.open("rb") as stream:
        if stream.read(len(npy.MAGIC_PREFIX)) == npy.MAGIC_PREFIX:
            raise UsageError(f"{file}: is no .npz but an .npy file, which holds one array without a name; rename it")


class Batch(Record):
    """The number of rows that run together, and whether the model takes no other number."""

    rows: int
    fixed: bool = False

    def starts(self, where: Path, length: int) -> range:
        """Where each batch of `length` rows begins. Raises UsageError where some would not fill a fixed one."""
        rest = length % self.rows
        if self.fixed and rest:
            raise UsageError(
                f"{where}: the model runs {self.rows} rows at a time, so of {length} the last {rest} cannot run: "
                "leave them out, or export the model with a dynamic batch"
            )
        return range(0, length, self.rows)


def batches_of(
    files: list[Path], names: list[str], batch: Batch | None, labels: str = ""
) -> Iterator[dict[str, NDArray[Any]]]:
    """A batch of rows at a time of the arrays for the inputs `names`, and of `labels` where a file has them.

    With `batch` None each file is one batch with every array it holds, of any shapes.
    """
    for file in files:
        with opened(file) as arrays:
            if batch is None:
                chosen = _inputs(file, arrays, names)
                others = {name: array for name, array in arrays.items() if array not in chosen.values()}
                yield {name: array.whole() for name, array in (chosen | others).items()}
                continue
            chosen = _with_labels(file, arrays, names, labels)
            length = chosen[names[0]].length
            for start in batch.starts(file, length):
                yield {name: array.take(min(batch.rows, length - start)) for name, array in chosen.items()}


def _with_labels(file: Path, arrays: dict[str, Rows], names: list[str], labels: str) -> dict[str, Rows]:
    """The arrays for the inputs, which hold the same number of rows, and the labels of these rows."""
    if not names:
        raise UsageError("the model has no inputs, so no data runs through it")
    labelled = bool(labels) and labels in arrays and labels not in names
    chosen = _inputs(file, arrays, names, labels if labelled else None)
    length = chosen[names[0]].length
    if length < 0 or any(array.length != length for array in chosen.values()):
        raise UsageError(f"{file}: its arrays do not hold the same number of rows")
    if labelled and arrays[labels].length == length:  # others, such as the names of classes, label no row
        chosen[labels] = arrays[labels]
    return chosen


def _inputs(file: Path, arrays: dict[str, Rows], names: list[str], labels: str | None = None) -> dict[str, Rows]:
    """Which array is for which input; a lone one besides the `labels` is for the lone input, whatever its name."""
    others = [name for name in arrays if name != labels]
    chosen = {name: arrays[name] for name in names if name in arrays}
    if not chosen and len(names) == len(others) == 1:
        chosen = {names[0]: arrays[others[0]]}
    missing = [name for name in names if name not in chosen]
    if missing and list(arrays) == [_LONE]:
        raise UsageError(f"{file}: holds one array, but the model has the inputs {', '.join(names)}; use .npz files")
    if missing:
        raise UsageError(f"{file}: has no array for input {missing[0]!r}; it has {', '.join(arrays) or 'none'}")
    return chosen
