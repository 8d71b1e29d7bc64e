"""Where channels go, against numpy: an array that holds the number of its channel at each position is moved as well."""

import math
from collections.abc import Sequence

import numpy as np
import pytest

from bnfold.equivalence.proofs.rearrangement import axes_of, order_of, reshaped

RESHAPED: dict[str, tuple[list[int], list[int], tuple[int, ...] | None]] = {
    "split in two": ([2, 8, 4, 5], [-1, 2, 4, 4, 5], (1, 2)),
    "split in three": ([2, 8, 3], [2, 2, 2, 2, 3], (1, 2, 3)),
    "maps flattened": ([2, 8, 4, 5], [0, 0, -1], (1,)),
    "everything flattened behind one position": ([3, 6, 1, 1], [0, -1], (1,)),
    "an axis of one in between": ([3, 6, 4], [3, 6, 1, 4], (1,)),
    "an axis of one in front": ([3, 6, 4], [3, 1, 6, 4], (2,)),
    "the batch merged into nothing": ([3, 6, 4], [3, 1, 3, 2, 4], (2, 3)),
    "channels with the batch": ([3, 6, 4], [18, 4], None),
    "channels with the map": ([3, 6, 4], [3, 24], None),
    "across the channels": ([3, 6, 4], [3, 4, 6], None),
    "one channel": ([3, 1, 4], [3, 4], None),
}


def numbered(sizes: Sequence[int]) -> np.ndarray:
    """The number of its channel at each position, channels along axis 1."""
    return np.broadcast_to(np.arange(sizes[1]).reshape(1, -1, *[1] * (len(sizes) - 2)), sizes)


@pytest.mark.parametrize(("sizes", "target", "axes"), RESHAPED.values(), ids=RESHAPED)
def test_the_axes_that_take_up_the_channels(sizes: list[int], target: list[int], axes: tuple[int, ...] | None) -> None:
    new = reshaped(sizes, target, keeps_zero=False)
    assert new is not None
    known = [sizes[at] if size == 0 else size for at, size in enumerate(target)]
    made = numbered(sizes).reshape(known)
    assert new == made.shape
    assert axes_of(new, sizes[1], math.prod(sizes[2:])) == axes
    if axes is not None:
        flat = np.moveaxis(made, axes, range(len(axes))).reshape(sizes[1], -1)
        assert np.array_equal(flat, np.broadcast_to(np.arange(sizes[1])[:, None], flat.shape))


@pytest.mark.parametrize("perm", [[0, 2, 1, 3, 4], [3, 2, 1, 0, 4], [4, 0, 2, 1, 3], [1, 2, 0, 4, 3]])
def test_the_order_in_which_split_channels_lie_behind_a_transpose(perm: list[int]) -> None:
    split = [2, 3, 4, 5, 6]
    made = numbered([2, 12, 5, 6]).reshape(split).transpose(perm)
    axes = perm.index(1), perm.index(2)
    order = order_of(made.shape, axes)
    assert order is not None
    flat = np.moveaxis(made, sorted(axes), (0, 1)).reshape(12, -1)
    assert np.array_equal(flat, np.broadcast_to(order[:, None], flat.shape))


def test_there_is_no_order_where_other_axes_lie_between_or_a_size_is_unknown() -> None:
    assert order_of([2, 3, 5, 4], [1, 3]) is None
    assert order_of([2, None, 4], [1, 2]) is None


def test_sizes_that_are_not_known() -> None:
    assert reshaped([None, 8, 4], [-1, 2, 4, 4], keeps_zero=False) == (None, 2, 4, 4)
    assert reshaped([None, 8, 4], [0, -1], keeps_zero=False) == (None, 32)
    assert reshaped([None, None, 4], [0, -1], keeps_zero=False) == (None, None)
    assert reshaped([None, 8, 4, 5], [0, 0, -1], keeps_zero=False) == (None, 8, 20)
    assert reshaped([None, 8, 5], [0, 2, 4, -1], keeps_zero=False) == (None, 2, 4, 5)
    assert reshaped([None, 8, 5], [0, 3, -1], keeps_zero=False) is None
    assert reshaped([0, 8, 5], [0, -1, 4], keeps_zero=False) == (0, None, 4)
    assert reshaped([3, 8], [0, 0, 0], keeps_zero=False) is None
    assert reshaped([3, 8], [5, -1], keeps_zero=False) is None
    assert reshaped([0, 8], [0, 4], keeps_zero=True) == (0, 4)
    assert axes_of((None, 2, 4, 4), 8, 4) == (1, 2)
    assert axes_of((2, None, 4), 8, 4) is None
