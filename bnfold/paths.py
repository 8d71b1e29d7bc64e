"""The paths of a run, known before its work: nothing that is written is something that is read.

Two paths are the same where the system says that they are one file, through links and whatever the case of the names;
of files that are not there yet, where their names are.
"""

import os
import stat
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bnfold.errors import UsageError

if TYPE_CHECKING:
    from bnfold.options import Options

_LONGEST_PATH = 1 << 16


class Use(NamedTuple):
    """One use of a path. `what`: its role, in the words of a message. A folder of data stands for the files in it."""

    what: str
    path: Path


def refuse_conflicts(read: Iterable[Use], written: Iterable[Use]) -> None:
    """Raise UsageError where something that is written is read as well, or is written twice."""
    outputs = [use for use in written if not _is_special(use.path)]
    for index, use in enumerate(outputs):
        for other in outputs[:index]:
            if is_same(use.path, other.path):
                raise UsageError(f"{use.path}: would be written twice, as {other.what} and as {use.what}")
    for use in read:
        for place in outputs:
            if is_same(use.path, place.path) or _holds(use.path, place.path):
                raise UsageError(
                    f"{place.path}: {place.what} would be written over {use.what}, which this run uses for something "
                    "else; choose another name"
                )


def is_same(one: Path, other: Path) -> bool:
    """Whether two paths are one file, or would be."""
    first, second = _status(one), _status(other)
    if first is not None and second is not None:
        return os.path.samestat(first, second)
    return first is second is None and _folded(one) == _folded(other)


def uses_of(options: "Options") -> Iterator[Use]:
    """The files, folders and scripts that the options name to be read."""
    from bnfold.batches import script_of

    for option, text in options.paths_read():
        script = script_of(text)
        yield (
            Use(f"the data of {option.flag}", Path(text))
            if script is None
            else Use(f"the script of {option.flag}", script[0])
        )


def data_of_model(path: str | os.PathLike[str]) -> list[str]:
    """The external data that the model at `path` names, whether or not that is there, in order."""
    from bnfold.onnxfile import named_data

    return sorted(named_data(Path(path)) or ())


def uses_of_model(path: str | os.PathLike[str], what: str, data: Iterable[str]) -> Iterator[Use]:
    """A model file and the external data that it names."""
    model = Path(path)
    yield Use(what, model)
    yield from (Use(f"external data of {what}", model.parent / name) for name in data)


def uses_of_output(
    output: str | os.PathLike[str], data_name: str | None, model: str | os.PathLike[str], data: Iterable[str]
) -> Iterator[Use]:
    """An output, the data that an output before it names there, and names that its own data may get.

    `data`: what `model`, from which it is made, names.
    """
    from bnfold.onnxfile import data_names

    target = Path(output)
    yield Use("OUTPUT", target)
    yield from (Use("the data of OUTPUT", target.parent / name) for name in data_of_model(target))
    for name in (data_name or f"{target.name}.data", *data):
        for place in data_names.candidates(target.parent / name, Path(model).name, target.name, str):
            yield Use("the data of OUTPUT", place)


def failed_copy(output: str | os.PathLike[str]) -> Path:
    """Where a result that failed is kept: NAME.failed.onnx beside `output`."""
    path = Path(output)
    return path.with_name(f"{path.stem}.failed{path.suffix or '.onnx'}")


def require_regular(path: str | os.PathLike[str], what: str) -> None:
    """Raise UsageError for what is neither a regular file nor missing: a pipe or a device may never end."""
    status = _status(Path(path))
    if status is not None and not stat.S_ISREG(status.st_mode):
        kind = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise UsageError(f"{os.fspath(path)}: {what} is {kind}; pass a regular file")


def require_utf8(path: str | os.PathLike[str], what: str) -> None:
    """Raise UsageError for a name that onnxruntime cannot open."""
    try:
        os.fsencode(path).decode()
    except UnicodeDecodeError:
        raise UsageError(
            f"{os.fspath(path)!r}: the name of {what} is not UTF-8, and onnxruntime opens no other; rename it"
        ) from None


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except (OSError, ValueError):
        return None


def _is_special(path: Path) -> bool:
    status = _status(path)
    return status is not None and not stat.S_ISREG(status.st_mode)


def _folded(path: Path) -> tuple[str, str]:
    """Where a file that is not there would be: the same for names that some file system takes for one."""
    # Longer ones than any system takes can be no file, and to resolve them takes quadratic time; nor can a zero byte.
    real = text = os.fspath(path)
    if len(text) <= _LONGEST_PATH and "\0" not in text:
        real = os.path.realpath(text)
    folder, name = os.path.split(real)
    return folder, unicodedata.normalize("NFC", name).casefold()


def _holds(folder: Path, file: Path) -> bool:
    """Whether `file` is one of the files of data in `folder`."""
    from bnfold.batches import DATA_SUFFIXES

    status = _status(file)
    if status is None or not folder.is_dir():
        return False
    found = (path for path in folder.rglob("*") if path.suffix.lower() in DATA_SUFFIXES)
    return any(os.path.samestat(each, status) for path in found if (each := _status(path)) is not None)
