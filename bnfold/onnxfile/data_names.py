"""Names for external data files."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

HASHED = re.compile(r"-[0-9a-f]{12}$")


def is_plain(location: str) -> bool:
    """Whether a location from a model may name a file that bnfold creates: relative, no `..`, nothing hidden."""
    path = PurePosixPath(location)
    return bool(path.parts) and not path.is_absolute() and not any(part.startswith(".") for part in path.parts)


def candidates(wanted: Path, source: str | None, target: str, sha256: Callable[[], str]) -> Iterator[Path]:
    """Where a data file with the given hash may go, best first: the name it had, the same with the input model's name
    replaced by the output's, and then one that says what is in it. All but the last may be taken.

    `source` and `target` are the file names of the models. The last candidate, `stem-<12 hex digits>.suffix`, depends
    on the content alone: the same input gives the same name, however often it is written.
    """
    yield wanted
    name = wanted.name
    for old, new in () if source is None else ((source, target), (Path(source).stem, Path(target).stem)):
        if old != new and name.startswith(old):
            name = new + name.removeprefix(old)
            yield wanted.with_name(name)
            break
    suffix = wanted.suffix
    stem = HASHED.sub("", name.removesuffix(suffix))
    yield wanted.with_name(f"{stem}-{sha256()[:12]}{suffix}")
