"""Progress of a long run: its stages, and the callbacks that are called with them."""

from collections.abc import Callable
from enum import StrEnum


class Stage(StrEnum):
    """What is being counted."""

    BATCHES = "batches"
    NORMALIZATIONS = "normalizations"
    BYTES = "bytes"
    FEEDS = "feeds"


Progress = Callable[[Stage, int, int], None]
"""Is called now and then with the stage, how much of it is done, and about how much there is (0: not known)."""

StageProgress = Callable[[int, int], None]
"""The same for one stage."""
