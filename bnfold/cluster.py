"""A dask cluster that is there already: its client, or a sentence on why there is none."""

from typing import Any

from bnfold.errors import UsageError

PATIENCE = "10s"
"""For the scheduler to answer for the first time."""


def connected(address: str) -> Any:
    """A `distributed.Client` of the scheduler at `address`, which the caller closes.

    Raises UsageError where dask is missing or the cluster cannot be reached.
    """
    try:
        import distributed
    except ModuleNotFoundError as error:
        raise UsageError("a scheduler needs dask: pip install 'bnfold[dask]'") from error
    client: Any = distributed.Client
    try:
        return client(address, timeout=PATIENCE, set_as_default=False)
    except (OSError, ValueError) as error:
        raise UsageError(f"the scheduler {address} cannot be reached: {error}") from error
