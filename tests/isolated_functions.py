"""Functions that tests run in a process of its own, which imports little beside bnfold."""

import os
import signal
import threading
from pathlib import Path

from bnfold.activity import beside, doing
from bnfold.options import InspectOptions


def dying(_model: str, how: str, _options: InspectOptions) -> None:
    """What some runtime does to the process it is in."""
    with doing("running something"), beside(), doing("loading m"):
        if how.isdigit():
            os._exit(int(how))
        Path("temporary").joinpath(next(Path("temporary").glob("bnfold-*")).name, "left").write_bytes(b"left")
        os.kill(os.getpid(), signal.Signals[how])
        threading.Event().wait(60)


def raising(_model: str, options: InspectOptions) -> None:
    class Local(Exception):  # noqa: N818 - nobody else knows it
        pass

    assert not options.isolate
    raise {"": ZeroDivisionError("here"), "local": Local("there")}[options.explain or ""]
