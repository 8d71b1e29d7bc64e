"""Python's cyclic garbage collector, held still while many small objects are made that all stay alive.

Every collection looks at all of them again and finds nothing: on a graph of 20,000 nodes that is a third of the time.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

MOST_UNSEEN = 1_000_000  # objects, some 100 MB; working on a graph of 20,000 nodes leaves a third of that

MANY = 10_000
"""Objects: fewer are looked at once more in less time than Python needs to count what a caller has frozen."""

_unseen = 0  # how many were declared old since a collection of everything


@contextmanager
def paused_collector() -> Iterator[None]:
    """Switch the collector off, and back on at the end if it was on. Reference counting goes on as always.

    What was made meanwhile, where it is much, counts as old at once: otherwise the very next allocation would have all
    of it looked at. Python does not notice that there are more old objects then, and would never look at them; so this
    looks, before it adds to `MOST_UNSEEN`: a process that works through many models does not keep them all.
    """
    global _unseen
    was_enabled = gc.isenabled()
    if was_enabled and _unseen > MOST_UNSEEN:
        gc.collect()
        _unseen = 0
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            made = gc.get_count()[0]
            if made > MANY and not gc.get_freeze_count():  # what a caller has frozen stays frozen
                _unseen += made
                gc.freeze()
                gc.unfreeze()  # to the oldest generation
            gc.enable()
