"""Workers of a dask cluster: each model in a process of its own, since a dask worker may start no children of its own
kind and does not see what they need.
"""

import threading
from collections.abc import Iterator
from typing import Any

from bnfold.cluster import connected
from bnfold.fleet.task import Row, Task

_AHEAD = 2
"""Tasks handed over for each thread of the cluster: more would only wait there."""


class ClusterWorkers:
    """The cluster at `address`. `timeout` in seconds and `max_memory` in bytes are of each model.

    Raises UsageError where dask is missing or the cluster cannot be reached.
    """

    def __init__(
        self, address: str, *, timeout: float | None = None, max_memory: int | None = None, retries: int = 0
    ) -> None:
        self._client = connected(address)
        self._limits = {"timeout": timeout, "max_memory": max_memory, "retries": retries}
        self._finishing = threading.Event()
        self._ending = threading.Event()

    def finish(self) -> None:
        """Let what was handed over come to its end, and begin nothing more."""
        self._finishing.set()

    def kill(self) -> None:
        """End at once."""
        self._finishing.set()
        self._ending.set()

    def run(self, tasks: Iterator[Task]) -> Iterator[Row]:
        """A row for each task. Each future is released once its row is here, so that none runs twice for its result."""
        from distributed import as_completed

        running = as_completed(loop=self._client.loop)
        waiting = 0
        try:
            while not self._ending.is_set():
                most = max(1, sum(self._client.nthreads().values())) * _AHEAD
                while not self._finishing.is_set() and waiting < most:
                    task = next(tasks, None)
                    if task is None:
                        self._finishing.set()
                        break
                    running.add(
                        self._client.submit(
                            work, task.to_json(), self._limits, key=f"bnfold-{task.relative}-{task.key}", pure=False
                        )
                    )
                    waiting += 1
                if not waiting:
                    return
                future = next(running)
                waiting -= 1
                if future.status == "finished":
                    yield Row.from_dict(future.result())
                else:
                    relative, key = future.key.removeprefix("bnfold-").rsplit("-", 1)
                    yield Row(relative, key, "", 70, message=f"the cluster gave the model up: {future.exception()}")
                future.release()
        finally:
            self._client.close()


def work(text: str, limits: dict[str, Any]) -> dict[str, Any]:
    """One task in a process of its own, on whatever machine this is called."""
    from bnfold.fleet.local import LocalWorkers

    workers = LocalWorkers(1, **limits)
    (row,) = workers.run(iter([Task.from_json(text)]))
    return row.to_dict()
