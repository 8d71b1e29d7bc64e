"""Results that take seconds to make, kept for the run of the tests: in this process, and on disk for its siblings."""

import functools
import os
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

FOLDER = "BNFOLD_TESTS_SHARED"
"""The environment variable that names the folder; without it, each process makes its own."""

_P = ParamSpec("_P")
_R = TypeVar("_R")


def shared(make: Callable[_P, _R]) -> Callable[_P, _R]:
    """`make`, called once for each choice of arguments: plain values, which name the file, for what can be pickled."""

    @functools.cache
    @functools.wraps(make)
    def kept(*arguments: _P.args, **keywords: _P.kwargs) -> _R:
        folder = os.environ.get(FOLDER)
        if folder is None:
            return make(*arguments, **keywords)
        path = Path(folder) / "-".join([make.__name__, *map(str, arguments), *map(str, sorted(keywords.items()))])
        if path.exists():
            found: _R = pickle.loads(path.read_bytes())
            return found
        found = make(*arguments, **keywords)
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as stream:
            stream.write(pickle.dumps(found))
        Path(stream.name).replace(path)  # whole, or not there
        return found

    return kept
