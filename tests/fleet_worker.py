"""A worker for tests, whose models misbehave by their names. Every execution leaves a line in a file."""

import os
import signal
import time
from pathlib import Path

from bnfold.fleet import worker
from bnfold.fleet.task import Row, Task


def done(task: Task) -> Row:
    with Path(task.report).parent.joinpath("executions").open("a", encoding="utf-8") as log:
        log.write(f"{task.relative}\n")
    if "segfault" in task.relative:
        os.kill(os.getpid(), signal.SIGSEGV)
    if "kill" in task.relative:
        os.kill(os.getpid(), signal.SIGKILL)
    if "endless" in task.relative:
        time.sleep(600)
    if "slow" in task.relative:
        time.sleep(0.3)
    return Row(task.relative, task.key, task.command, 3 if "bad" in task.relative else 0)


if __name__ == "__main__":
    worker.main(done)
