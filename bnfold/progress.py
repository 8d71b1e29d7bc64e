"""Progress of a long run: its stages, and the callbacks that are called with them."""

from collections.abc import Callable
from enum import StrEnum


class Stage(StrEnum):
    """The stages of a run: what a progress callback counts."""

    BATCHES = "batches"
    NORMALIZATIONS = "normalizations"
    BYTES = "bytes"
    FEEDS = "feeds"


Progress = Callable[[Stage, int, int], None]
"""Is called now and then with the stage, how much of it is done, and about how much there is (0: not known)."""

StageProgress = Callable[[int, int], None]
"""A progress callback of one stage: (done, total)."""
