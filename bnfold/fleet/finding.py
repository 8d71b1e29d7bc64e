"""Which models a batch is about: a folder, a pattern or a list; and where each result goes in a mirrored tree."""

import glob
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bnfold.errors import OutputError, UsageError

SUFFIX = ".onnx"
FOLDER = "bnfold-batch"
"""The folder below the output that holds manifest and reports."""

_MAGIC = frozenset("*?[")


@dataclass(frozen=True)
class Models:
    """`root`: what the paths in the mirrored tree are relative to. `output`: where that tree goes.

    What lies in an output below the root is the result of an earlier model, and none of the models.
    """

    root: Path
    what: str
    output: Path | None = None

    def __iter__(self) -> Iterator[Path]:
        """The models, in the order of their paths within each folder. Raises UsageError for a list that names none."""
        results = None if self.output is None else Path(os.path.realpath(self.output))
        root = Path(os.path.realpath(self.root))
        below = results is not None and results != root and results.is_relative_to(root)
        for path in self._named():
            if not (below and results is not None and Path(os.path.realpath(path.parent)).is_relative_to(results)):
                yield path

    def _named(self) -> Iterator[Path]:
        source = Path(self.what)
        if source.is_dir():
            yield from _below(source.absolute())
        elif _MAGIC & set(self.what) and not source.exists():
            for name in sorted(glob.iglob(self.what, recursive=True)):  # noqa: PTH207 - ** of the whole text
                if Path(name).is_file():
                    yield Path(name).absolute()
        else:
            yield from _listed(source)

    def relative(self, path: Path) -> str:
        """The path in the mirrored tree, with forward slashes."""
        return path.relative_to(self.root).as_posix()


def found(what: str, output: Path | None = None) -> Models:
    """The models that `what` names: a folder, a pattern with * ? [ or **, a .txt list of paths, or one model.

    Raises UsageError where there is no such thing.
    """
    return Models(_root(what), what, output)


def _root(what: str) -> Path:
    path = Path(what)
    if path.is_dir():
        return path.absolute()
    if path.is_file():
        if path.suffix == SUFFIX:
            return path.absolute().parent
        places = list(_listed(path))
        return Path(os.path.commonpath([place.parent for place in places])) if places else path.absolute().parent
    if _MAGIC & set(what):
        fixed = []
        for part in path.absolute().parts[:-1]:
            if _MAGIC & set(part):
                break
            fixed.append(part)
        return Path(*fixed)
    raise UsageError(f"{what}: there is no such folder or file; a pattern needs quotes, like 'models/**/*.onnx'")


def _below(folder: Path) -> Iterator[Path]:
    """Every model below a folder; what an earlier batch wrote of itself is left out."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise UsageError(f"{folder}: {error.strerror or error}") from error
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            if entry.name != FOLDER:
                yield from _below(Path(entry.path))
        elif entry.name.lower().endswith(SUFFIX) and entry.is_file():
            yield Path(entry.path)


def _listed(path: Path) -> Iterator[Path]:
    if path.suffix == SUFFIX:
        yield path.absolute()
        return
    try:
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                name = line.strip()
                if name and not name.startswith("#"):
                    yield (path.absolute().parent / name).absolute()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no list of models, one path a line: {error}") from error


def copy_others(models: Models, output: Path) -> int:
    """Copy what is no model and no external data of one into the mirrored tree; how many files were copied.

    Raises OutputError.
    """
    from bnfold.errors import ModelError
    from bnfold.onnxfile import read

    left_out: set[Path] = set()
    for path in models:
        left_out.add(path)
        try:
            left_out |= {path.parent / name for name in read(path).data_names}
        except ModelError:
            continue
    copied = 0
    for folder, folders, names in os.walk(models.root):
        folders[:] = sorted(name for name in folders if name != FOLDER and not _is_within(output, Path(folder) / name))
        for name in sorted(names):
            source = Path(folder) / name
            if source in left_out or _is_within(source, output):
                continue
            target = output / source.relative_to(models.root)
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)
            except OSError as error:
                raise OutputError(f"{target}: {error.strerror or error}") from error
            copied += 1
    return copied


def _is_within(path: Path, folder: Path) -> bool:
    return path == folder or path.is_relative_to(folder)
