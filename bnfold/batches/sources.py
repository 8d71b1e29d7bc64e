"""Where batches come from: a file, a folder, images, a function of a script, or any iterable.

Files are read in the order of their names, a batch at a time.
"""

import importlib.util
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnfold.errors import UsageError

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


def data_source(path: str | os.PathLike[str], shapes: dict[str, Shape], batch: int, images: ImageOptions) -> Data:
    """What `path` names: an .npz file, a folder of .npy and .npz files or of images, or `script.py:function`.

    `shapes` are those of the model's inputs; where the first dim is fixed it is the batch, otherwise `batch` is.
    Raises UsageError.
    """
    text = os.fspath(path)
    fixed = [shape[0] for shape in shapes.values() if shape and isinstance(shape[0], int)]
    rows = fixed[0] if fixed else batch
    file, colon, function = text.rpartition(":")
    if colon and file.endswith(".py"):
        return _function(Path(file), function)
    place = Path(text)
    if place.is_dir():
        return _folder(place, shapes, rows, images)
    if place.suffix not in (".npy", ".npz") or not place.is_file():
        raise UsageError(f"{text}: is no .npz file, no folder of .npy, .npz or image files, and no script.py:function")
    return lambda: _arrays([place], list(shapes), rows)


def _function(script: Path, name: str) -> Callable[[], Iterable[Any]]:
    spec = importlib.util.spec_from_file_location(script.stem, script)
    if spec is None or spec.loader is None or not script.is_file():
        raise UsageError(f"{script}: there is no such script")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function = getattr(module, name, None)
    if not callable(function):
        raise UsageError(f"{script}: has no function {name!r}")
    found: Callable[[], Iterable[Any]] = function
    return found


def _folder(folder: Path, shapes: dict[str, Shape], rows: int, images: ImageOptions) -> Callable[[], Iterable[Any]]:
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
    return lambda: image_batches(pictures, name, size, rows, images)


def _arrays(files: list[Path], names: list[str], rows: int) -> Iterator[dict[str, NDArray[Any]]]:
    for file in files:
        arrays = _read(file, names)
        length = min(len(array) for array in arrays.values())
        if any(array.ndim == 0 or len(array) != length for array in arrays.values()):
            raise UsageError(f"{file}: its arrays do not hold the same number of rows")
        for start in range(0, length, rows):
            yield {name: array[start : start + rows] for name, array in arrays.items()}


def _read(file: Path, names: list[str]) -> dict[str, NDArray[Any]]:
    """The arrays for the inputs `names`; a lone array is taken whatever its name, where there is one input."""
    try:
        loaded = np.load(file, allow_pickle=False, mmap_mode="r" if file.suffix == ".npy" else None)
        if file.suffix == ".npy":
            found = {names[0]: loaded}
        else:
            with loaded:
                chosen = [name for name in names if name in loaded.files]
                if not chosen and len(names) == len(loaded.files) == 1:
                    return {names[0]: loaded[loaded.files[0]]}
                found = {name: loaded[name] for name in chosen}
                missing = [name for name in names if name not in found]
                if missing:
                    raise UsageError(f"{file}: has no array for input {missing[0]!r}; it has {', '.join(loaded.files)}")
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(f"{file}: cannot be read as an array: {error}") from error
    if len(found) < len(names):
        raise UsageError(f"{file}: holds one array, but the model has the inputs {', '.join(names)}; use .npz files")
    return found
