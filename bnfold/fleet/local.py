"""Workers on this machine: processes that live through many models, each in the care of one driver.

A model that crashes its worker, needs too long or too much memory is a row of its own; the next one gets a new worker.
"""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace

from bnfold.errors import ResourceLimitError
from bnfold.fleet.task import Row, Task

_LOOK_EVERY = 0.2  # seconds: how soon a stop is noticed
_MODELS_A_WORKER = 200
"""After so many a worker is replaced, so that what libraries keep does not pile up."""
_CRASHED = 70


@dataclass
class _Worker:
    process: "subprocess.Popen[bytes]"
    tasks: int
    rows: int
    task: Task | None = None
    attempt: int = 1
    begun: float = 0.0
    taken: int = 0
    ended: bool = False
    answer: bytearray = field(default_factory=bytearray)

    def give(self, task: Task, attempt: int) -> None:
        self.task, self.attempt, self.begun = task, attempt, time.monotonic()
        self.taken += 1
        self.answer.clear()
        with suppress(BrokenPipeError):  # it died meanwhile: the answer's end says so
            os.write(self.tasks, task.to_json().encode() + b"\n")

    def end(self) -> int:
        """Kill it where it still lives; how it ended. Called again, say it again."""
        if self.process.poll() is None:
            self.process.kill()
        code = self.process.wait()
        if not self.ended:
            self.ended = True
            os.close(self.tasks)
            os.close(self.rows)
        return code


class LocalWorkers:
    """`jobs` processes. `timeout` in seconds and `max_memory` in bytes are of each model; `retries` of a crash.

    `module`: the one that is run in each process.
    """

    def __init__(
        self,
        jobs: int,
        *,
        timeout: float | None = None,
        max_memory: int | None = None,
        retries: int = 0,
        module: str = "bnfold.fleet.worker",
    ) -> None:
        self._module = module
        self._jobs = jobs
        self._timeout = timeout
        self._max_memory = max_memory
        self._retries = retries
        self._finishing = False
        self._ending = False

    def finish(self) -> None:
        """Let what runs come to its end, and begin nothing more."""
        self._finishing = True

    def kill(self) -> None:
        """End at once; what runs leaves no row."""
        self._finishing = self._ending = True

    def run(self, tasks: Iterator[Task]) -> Iterator[Row]:
        """A row for each task, in the order in which they end. Tasks are taken when a worker is free."""
        idle: list[_Worker] = []
        busy: list[_Worker] = []
        again: list[tuple[Task, int]] = []
        first = ((task, 1) for task in tasks)
        try:
            while True:
                while not self._finishing and len(busy) < self._jobs:
                    given = again.pop() if again else next(first, None)
                    if given is None:
                        break
                    worker = idle.pop() if idle else self._started()
                    worker.give(*given)
                    busy.append(worker)
                if not busy or self._ending:
                    return
                for worker in self._ready(busy):
                    busy.remove(worker)
                    row = self._row(worker) or self._died(worker)
                    if not worker.ended and worker.taken < _MODELS_A_WORKER:
                        idle.append(worker)
                    else:
                        worker.end()
                    if worker.ended and row.exit_code == _CRASHED and worker.attempt <= self._retries:
                        assert worker.task is not None
                        again.append((worker.task, worker.attempt + 1))
                    else:
                        yield row
        finally:
            for worker in [*idle, *busy]:
                worker.end()

    def _started(self) -> _Worker:
        tasks_read, tasks_write = os.pipe()
        rows_read, rows_write = os.pipe()
        line = [
            *(sys.executable, "-m", self._module, str(os.getpid())),
            *(str(tasks_read), str(rows_write), str(self._max_memory or 0)),
        ]
        process = subprocess.Popen(  # noqa: S603 - our own interpreter, no shell
            line,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=(tasks_read, rows_write),
            start_new_session=True,
        )
        os.close(tasks_read)
        os.close(rows_write)
        return _Worker(process, tasks_write, rows_read)

    def _ready(self, busy: list[_Worker]) -> list[_Worker]:
        """The workers that have answered, died, or worked too long."""
        readable, _, _ = select.select([worker.rows for worker in busy], [], [], _LOOK_EVERY)
        found = []
        for worker in busy:
            if worker.rows in readable:
                chunk = os.read(worker.rows, 1 << 16)
                worker.answer += chunk
                if not chunk or worker.answer.endswith(b"\n"):
                    found.append(worker)
            elif self._timeout is not None and time.monotonic() - worker.begun > self._timeout:
                found.append(worker)
        return found

    def _row(self, worker: _Worker) -> Row | None:
        """The answer of the worker; None where it gave none."""
        if not worker.answer.endswith(b"\n"):
            return None
        return replace(Row.from_dict(json.loads(worker.answer)), attempts=worker.attempt)

    def _died(self, worker: _Worker) -> Row:
        task = worker.task
        assert task is not None
        seconds = time.monotonic() - worker.begun
        late = self._timeout is not None and seconds > self._timeout
        if not late:
            worker.process.wait()  # it has closed its end, and is about to be gone
        code = worker.end()
        if late:
            message = f"took longer than {self._timeout:g} seconds and was stopped; allow more if you trust the model"
            exit_code = ResourceLimitError.exit_code
        elif code == -signal.SIGKILL or (code == -signal.SIGABRT and self._max_memory is not None):
            message = f"was stopped by {signal.Signals(-code).name}, most likely for lack of memory; allow more"
            exit_code = ResourceLimitError.exit_code
        else:
            how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
            message = f"onnx or onnxruntime ended the process {how}; do not use this model if you do not trust it"
            exit_code = _CRASHED
        _sweep(task)
        return Row(
            task.relative,
            task.key,
            task.command,
            exit_code,
            message=message,
            seconds=round(seconds, 3),
            attempts=worker.attempt,
        )


def _sweep(task: Task) -> None:
    """Remove what a killed worker had begun to write."""
    if task.output:
        from bnfold.errors import BnfoldError
        from bnfold.onnxfile import Publication

        with suppress(BnfoldError), Publication(task.output):
            pass
