"""The moments of one batch, per channel, in float64."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_BLOCK_ELEMENTS = 1 << 17
"""One million bytes of float64, which stay in the cache from one step to the next."""


class Statistics(NamedTuple):
    """The statistics of a BatchNormalization: mean and variance, float64 of shape [C] each."""

    mean: NDArray[np.float64]
    variance: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Moments:
    """`count` values per channel with their `mean` and `m2`, the sum of squared differences from it; shape [C]."""

    count: int
    mean: NDArray[np.float64]
    m2: NDArray[np.float64]

    @property
    def channels(self) -> int:
        """C."""
        return self.mean.size


def moments_of(values: NDArray[Any]) -> Moments:
    """The moments of `values` [N, C, ...] per channel: two passes in float64, the second corrected for rounding.

    Channels are taken a block at a time, so that the float64 copy stays small. Raises ValueError for fewer than 2 dims.
    """
    if values.ndim < 2:
        raise ValueError(f"values of shape {values.shape} have no channels")
    channels = values.shape[1]
    count = values.size // channels if channels else 0
    mean, m2 = np.zeros(channels), np.zeros(channels)
    step = max(1, _BLOCK_ELEMENTS // max(count, 1))
    for start in range(0, channels if count else 0, step):
        block = np.moveaxis(values[:, start : start + step], 1, 0)
        wide = block.reshape(block.shape[0], -1).astype(np.float64)
        own = wide.mean(1)
        wide -= own[:, None]
        rest = wide.sum(1)
        mean[start : start + step] = own + rest / count
        squares = np.multiply(wide, wide, out=wide).sum(1)
        m2[start : start + step] = np.maximum(squares - rest * rest / count, 0)
    return Moments(count, mean, m2)
