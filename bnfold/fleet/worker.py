"""A worker: a process that takes tasks as lines of JSON and answers each with a row. Run by `local`.

    python -m bnfold.fleet.worker PARENT TASKS ROWS MAX_MEMORY

TASKS and ROWS are descriptors that the parent hands over; MAX_MEMORY is in bytes, 0 for no limit.
"""

import ctypes
import json
import os
import resource
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from bnfold.fleet.task import Row, Task

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(do: "Callable[[Task], Row] | None" = None) -> None:
    """Work until there are no more tasks; `do` does one, by default what `work` does."""
    parent, tasks, rows, memory = map(int, sys.argv[1:5])
    with suppress(OSError, AttributeError):  # where it exists
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is for the parent, who lets this one finish
    if os.getppid() != parent:
        return
    if memory:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        most = memory if hard == resource.RLIM_INFINITY else min(hard, memory)
        resource.setrlimit(resource.RLIMIT_DATA, (most, hard))
    from bnfold.fleet.task import Task

    if do is None:
        from bnfold.fleet.work import done

        do = done
    with os.fdopen(tasks, "rb") as lines, os.fdopen(rows, "wb", buffering=0) as answers:
        for line in lines:
            answers.write(json.dumps(do(Task.from_json(line)).to_dict()).encode() + b"\n")


if __name__ == "__main__":
    main()
