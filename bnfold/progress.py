"""Progress of a long run: its stages, and the callback that is told of them."""

from collections.abc import Callable
from enum import StrEnum


class Stage(StrEnum):
    """What is being counted."""

    BATCHES = "batches"
    NORMALIZATIONS = "normalizations"
    BYTES = "bytes"
    FEEDS = "feeds"


# Called now and then with the stage, how much of it is done, and about how much there is (0 where nobody knows).
Progress = Callable[[Stage, int, int], None]
