"""How much memory Python's own objects and the arrays of numpy take at most while something runs."""

import gc
import tracemalloc
from collections.abc import Callable


def least_peak(run: Callable[[], object], times: int = 3) -> int:
    """Bytes at the highest moment of `run`, which is run `times` times: the least of what was seen.

    What other threads of the process and finalizers hold meanwhile is counted too, and comes and goes; what `run` holds
    is there each time.
    """
    peaks = []
    for _ in range(times):
        gc.collect()
        tracemalloc.start()
        try:
            run()
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    return min(peaks)
