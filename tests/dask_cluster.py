"""A dask cluster on this machine, for tests."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def cluster(workers: int = 1, *, processes: bool = False) -> Iterator[Any]:
    """A LocalCluster of workers with one thread each, which waits as long as a busy machine needs to start it."""
    pytest.importorskip("distributed")
    import dask
    import distributed

    patience = {"distributed.comm.timeouts.connect": "300s", "distributed.comm.timeouts.tcp": "300s"}
    with (
        dask.config.set(patience),
        distributed.LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=processes, dashboard_address=":0", silence_logs=50
        ) as made,
    ):
        yield made
