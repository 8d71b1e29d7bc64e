"""Where batches come from: a file, a folder, images, a function of a script, or any iterable.

Files are read in the order of their names, a batch at a time.
"""

import importlib.util
import os
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnfold.errors import BnfoldError, UsageError

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
Data = Iterable[Any] | Callable[[], Iterable[Any]]
Shape = tuple[int | str | None, ...]


@dataclass(frozen=True)
class ImageOptions:
    """How an image becomes numbers: ((value / 255) - mean) / std per channel, laid out as `layout` ("NCHW", "NHWC")."""

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: str = "NCHW"


class Source:
    """Data that is read `passes` times. Raises UsageError where it can be read only once but is needed more often."""

    def __init__(self, data: Data, passes: int) -> None:
        self._data = data
        if passes > 1 and not callable(data) and iter(data) is data:
            raise UsageError(
                f"the data is read {passes} times, but an iterator can be read once: give a list, a DataLoader or a "
                "function that returns an iterator, or use the fast mode"
            )

    def batches(self) -> Iterator[Any]:
        """The batches, from the beginning."""
        return iter(self._data() if callable(self._data) else self._data)


def data_source(
    path: str | os.PathLike[str], shapes: Mapping[str, Shape], batch: int | None, images: ImageOptions
) -> Callable[[], Iterable[Any]]:
    """What `path` names: an .npz file, a folder of .npy and .npz files or of images, or `script.py:function`.

    `shapes` are those of the model's inputs; where the first dim is fixed it is the batch, otherwise `batch` is. With
    `batch` None each file is one batch with every array it holds, whatever the shapes say. Raises UsageError.
    """
    text = os.fspath(path)
    fixed = [shape[0] for shape in shapes.values() if shape and isinstance(shape[0], int)]
    rows = None if batch is None else fixed[0] if fixed else batch
    script = script_of(text)
    if script is not None:
        return _function(*script)
    place = Path(text)
    if place.is_dir():
        return _folder(place, shapes, rows, images)
    if place.suffix not in (".npy", ".npz") or not place.is_file():
        raise UsageError(f"{text}: is no .npz file, no folder of .npy, .npz or image files, and no script.py:function")
    return lambda: _arrays([place], list(shapes), rows)


def script_of(text: str) -> tuple[Path, str] | None:
    """The script and the function that `script.py:function` names; None for what names a file or folder."""
    file, colon, function = text.rpartition(":")
    return (Path(file), function) if colon and file.endswith(".py") else None


def _function(script: Path, name: str) -> Callable[[], Iterable[Any]]:
    spec = importlib.util.spec_from_file_location(script.stem, script)
    if spec is None or spec.loader is None or not script.is_file():
        raise UsageError(f"{script}: there is no such script")
    module = importlib.util.module_from_spec(spec)
    with _blamed_on(str(script)):
        spec.loader.exec_module(module)
    function = getattr(module, name, None)
    if not callable(function):
        raise UsageError(f"{script}: has no function {name!r}")
    made: Callable[[], Iterable[Any]] = function

    def batches() -> Iterator[Any]:
        with _blamed_on(f"{script}:{name}"):
            yield from made()

    return batches


@contextmanager
def _blamed_on(place: str) -> Iterator[None]:
    """An exception of the user's own code is no fault of bnfold: it becomes a UsageError that says where it arose."""
    try:
        yield
    except BnfoldError:
        raise
    except Exception as error:
        raise UsageError(f"{place}: failed with {type(error).__name__}: {error}") from error


def _folder(
    folder: Path, shapes: Mapping[str, Shape], rows: int | None, images: ImageOptions
) -> Callable[[], Iterable[Any]]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    arrays = [path for path in files if path.suffix in (".npy", ".npz")]
    pictures = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    if arrays:
        return lambda: _arrays(arrays, list(shapes), rows)
    if not pictures:
        raise UsageError(f"{folder}: holds no .npy, .npz or image file")
    from bnfold.batches.images import image_batches, image_size

    if len(shapes) != 1:
        raise UsageError(f"{folder}: images are for a model with one input; this one has {', '.join(shapes)}")
    ((name, shape),) = shapes.items()
    size = image_size(name, shape, images)
    return lambda: image_batches(pictures, name, size, rows or 1, images)


def _arrays(files: list[Path], names: list[str], rows: int | None) -> Iterator[dict[str, NDArray[Any]]]:
    for file in files:
        arrays = _read(file, names, every=rows is None)
        if rows is None:
            yield arrays
            continue
        length = min(len(array) for array in arrays.values())
        if any(array.ndim == 0 or len(array) != length for array in arrays.values()):
            raise UsageError(f"{file}: its arrays do not hold the same number of rows")
        for start in range(0, length, rows):
            yield {name: array[start : start + rows] for name, array in arrays.items()}


def _read(file: Path, names: list[str], *, every: bool) -> dict[str, NDArray[Any]]:
    """The arrays for the inputs `names`, or `every` array; a lone one is for the lone input, whatever its name."""
    try:
        if file.suffix == ".npy":
            found = {names[0]: np.load(file, allow_pickle=False, mmap_mode="r")} if names else {}
        else:
            found = _read_archive(file, names, every=every)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UsageError(f"{file}: cannot be read as an array: {error}") from error
    if len(found) < len(names):
        raise UsageError(f"{file}: holds one array, but the model has the inputs {', '.join(names)}; use .npz files")
    return found


def _read_archive(file: Path, names: list[str], *, every: bool) -> dict[str, NDArray[Any]]:
    # Opened here, since numpy leaves the file of a broken archive open.
    with file.open("rb") as stream:
        loaded = np.load(stream, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            raise UsageError(f"{file}: is no .npz but an .npy file, which holds one array without a name; rename it")
        known = [name for name in names if name in loaded.files]
        if not known and len(names) == len(loaded.files) == 1:
            return {names[0]: loaded[loaded.files[0]]}
        found = {name: loaded[name] for name in (loaded.files if every else known)}
        missing = [name for name in names if name not in found]
        if missing:
            raise UsageError(f"{file}: has no array for input {missing[0]!r}; it has {', '.join(loaded.files)}")
    return found
