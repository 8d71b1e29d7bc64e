"""Where batches come from: a file, a folder, images, a function of a script, or any iterable.

Files are read in the order of their names, a batch at a time.
"""

import importlib.util
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from operator import length_hint
from pathlib import Path
from types import ModuleType
from typing import Any

from bnfold.batches.arrays import Batch, batches_of
from bnfold.errors import BnfoldError, UsageError
from bnfold.progress import StageProgress
from bnfold.records import Record

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
DATA_SUFFIXES = (".npy", ".npz", *IMAGE_SUFFIXES)
"""The suffixes of data in a folder; other files in it are left alone."""
Data = Iterable[Any] | Callable[[], Iterable[Any]]
Shape = tuple[int | str | None, ...]


class ImageOptions(Record):
    """The preparation of images: ((value / 255) - mean) / std per channel, laid out as `layout` ("NCHW", "NHWC")."""

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: str = "NCHW"


class _CompiledInMemory:
    """Inside, Python writes no bytecode. Threads may be inside at the same time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before = False

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                sys.dont_write_bytecode = self._before


_COMPILED_IN_MEMORY = _CompiledInMemory()


class Source:
    """Data each batch of which is run `runs` times. Raises UsageError where it cannot be read as often.

    `kept`: whoever reads it keeps what is needed for all runs after the first, and tells of them by `ran`.
    """

    def __init__(self, data: Data, runs: int, on_progress: StageProgress | None = None, *, kept: bool = False) -> None:
        self._data = data
        self._runs = runs
        self._progress = on_progress
        self._done = 0
        self._batches = length_hint(data)  # 0 where it is known only after they were read
        self.can_be_read_again = not can_be_read_once(data)
        if runs > 1 and not kept and not self.can_be_read_again:
            raise UsageError(
                f"the data is read {runs} times, but an iterator can be read once: give a list, a DataLoader or a "
                "function that returns an iterator"
            )

    def batches(self) -> Iterator[Any]:
        """The batches, from the beginning."""
        for batch in self._data() if callable(self._data) else self._data:
            yield batch
            self.ran()
        self._batches = self._batches or self._done

    def ran(self) -> None:
        """A batch was run."""
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self._runs * self._batches)


def can_be_read_once(data: Data) -> bool:
    """Whether `data` is an iterator, which is empty after its first pass."""
    return not callable(data) and iter(data) is data


_MOST_SHARDS = 256


def shards_of(path: str | os.PathLike[str], shapes: Mapping[str, Shape], batch: int | None) -> list[tuple[Path, ...]]:
    """The files that `path` names in parts, each of which makes the batches that it makes of the whole.

    Of arrays a file is the smallest part, of images as many as run together. Raises UsageError for what is no file and
    no folder of files.
    """
    place = Path(path)
    if not place.is_dir():
        if place.suffix not in (".npy", ".npz") or not place.is_file():
            raise UsageError(
                f"{path}: is no .npz file and no folder of .npy, .npz or image files, which several could read"
            )
        return [(place,)]
    files, are_images = _files_of(place)
    rows = _rows(shapes, batch)
    step = rows.rows if are_images and rows is not None else 1
    step *= max(1, -(-len(files) // (step * _MOST_SHARDS)))
    return [tuple(files[start : start + step]) for start in range(0, len(files), step)]


def data_source(
    path: str | os.PathLike[str],
    shapes: Mapping[str, Shape],
    batch: int | None,
    images: ImageOptions,
    labels: str = "",
    *,
    only: Sequence[Path] | None = None,
) -> Callable[[], Iterable[Any]]:
    """The data that `path` names: an .npz file, a folder of .npy and .npz files or of images, or `script.py:function`.

    `shapes` are those of the model's inputs; where the first dim is fixed it is the batch, otherwise `batch` is. An
    array of .npz files that is called `labels` comes with the inputs, cut alike. With `batch` None each file is one
    batch with every array it holds, whatever the shapes say. `only`: those of its files, see `shards_of`. Raises
    UsageError.
    """
    text = os.fspath(path)
    rows = _rows(shapes, batch)
    script = script_of(text)
    if script is not None:
        return _function(*script)
    place = Path(text)
    if place.is_dir():
        return _folder(place, shapes, rows, images, labels, only)
    if place.suffix not in (".npy", ".npz") or not place.is_file():
        raise UsageError(f"{text}: is no .npz file, no folder of .npy, .npz or image files, and no script.py:function")
    return lambda: batches_of([place], list(shapes), rows, labels)


def _rows(shapes: Mapping[str, Shape], batch: int | None) -> Batch | None:
    """The number of rows that run together: fixed by the model, else `batch`; None where each file is a batch."""
    fixed = [shape[0] for shape in shapes.values() if shape and isinstance(shape[0], int)]
    return None if batch is None else Batch(fixed[0], fixed=True) if fixed else Batch(batch)


def script_of(text: str) -> tuple[Path, str] | None:
    """The script and the function that `script.py:function` names; None for what names a file or folder."""
    file, colon, function = text.rpartition(":")
    return (Path(file), function) if colon and file.endswith(".py") else None


def _function(script: Path, name: str) -> Callable[[], Iterable[Any]]:
    """A function of a script, with whatever goes wrong in it as a UsageError that names the script."""
    function = load_script(script, name)
    if not callable(function):
        raise UsageError(f"{script}: has no function {name!r}")

    def batches() -> Iterator[Any]:
        with _of_script(script):
            yield from function()

    return batches


def load_script(script: Path, name: str) -> Any:
    """The object `name` of `script`, or None. Raises UsageError for an exception of the script."""
    with _of_script(script):
        return getattr(_loaded(script), name, None)


def _loaded(script: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"bnfold_data_{script.stem}", script)
    if spec is None or spec.loader is None or not script.is_file():
        raise UsageError(f"{script}: there is no such script")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses and pickle look for it
    spec.loader.exec_module(module)
    return module


@contextmanager
def _of_script(script: Path) -> Iterator[None]:
    """Inside, `script` finds the modules beside it, and what it raises is its own mistake."""
    with beside(script):
        try:
            yield
        except BnfoldError:
            raise
        except Exception as error:
            raise UsageError(f"{script}: raised {type(error).__name__}: {error}") from error


@contextmanager
def beside(script: Path) -> Iterator[None]:
    """Inside, modules beside `script` are found, and Python writes no compiled ones there, which nobody asked for."""
    folder = os.fspath(script.resolve().parent)
    sys.path.insert(0, folder)
    try:
        with _COMPILED_IN_MEMORY:
            yield
    finally:
        with suppress(ValueError):
            sys.path.remove(folder)


def _folder(
    folder: Path,
    shapes: Mapping[str, Shape],
    rows: Batch | None,
    images: ImageOptions,
    labels: str,
    only: Sequence[Path] | None,
) -> Callable[[], Iterable[Any]]:
    found, are_images = _files_of(folder)
    files = found if only is None else list(only)
    if not are_images:
        return lambda: batches_of(files, list(shapes), rows, labels)
    from bnfold.batches.images import image_batches, image_size

    if len(shapes) != 1:
        raise UsageError(f"{folder}: images are for a model with one input; this one has {', '.join(shapes)}")
    ((name, shape),) = shapes.items()
    size = image_size(name, shape, images)
    return lambda: image_batches(files, name, size, rows or Batch(1), images)


def _files_of(folder: Path) -> tuple[list[Path], bool]:
    """The files of data below a folder by name, arrays where there are any; whether they are images."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    arrays = [path for path in files if path.suffix in (".npy", ".npz")]
    pictures = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    if not arrays and not pictures:
        raise UsageError(f"{folder}: holds no .npy, .npz or image file")
    return arrays or pictures, not arrays
