"""`Affine`: y = S x + T for each element of a value, in float64, with S and T no larger than they have to be."""

import math
from collections.abc import Callable
from typing import Self

import numpy as np
from numpy.typing import NDArray

from bnfold.decisions import Reason, Refused

Vector = NDArray[np.float64]
Array = NDArray[np.float64]

# Elements of one map. No weight has so many channels; a shape of a few bytes may say so, and fill memory.
MOST_ELEMENTS = 1 << 24


def all_finite(values: Array) -> bool:
    """Whether no element is NaN or infinite. The sum of squares is the quickest look that none can hide from."""
    flat = values.reshape(-1)
    return math.isfinite(flat.dot(flat)) or bool(np.isfinite(flat).all())


class Affine:
    """The map y = scale * x + shift of every element of a value. Immutable.

    `scale` and `shift` are float64 arrays of one shape. Their axes are those of the value, counted from the front: an
    axis along which neither varies has size 1, and such axes at the end are left out, so that the rank of the value
    need not be known. A map per channel of axis 1 has shape [1, C]; one number everywhere, which is *uniform*, has
    shape []. Who knows them may give `has_scale` and `has_shift`.
    """

    __slots__ = ("_has_scale", "_has_shift", "scale", "shift")

    def __init__(
        self, scale: Array, shift: Array, has_scale: bool | None = None, has_shift: bool | None = None
    ) -> None:
        self.scale = scale
        self.shift = shift
        self._has_scale = has_scale
        self._has_shift = has_shift

    def __repr__(self) -> str:
        return f"Affine({self.scale.tolist()}, {self.shift.tolist()})"

    @classmethod
    def of(cls, scale: Array, shift: Array) -> Self:
        """The map of two arrays, their axes from the front. Raises `Refused` where it is not finite or too large."""
        rank = max(scale.ndim, shift.ndim)
        scale, shift = _padded(scale, rank), _padded(shift, rank)
        if scale.shape != shift.shape:
            if math.prod(np.broadcast_shapes(scale.shape, shift.shape)) > MOST_ELEMENTS:
                raise Refused(Reason.SEARCH_LIMIT, f"scales of shape {scale.shape} and shifts of shape {shift.shape}")
            scale, shift = (np.ascontiguousarray(a) for a in np.broadcast_arrays(scale, shift))
        if not (all_finite(scale) and all_finite(shift)):
            raise Refused(Reason.NOT_FINITE, _first_not_finite(scale, shift))
        form = _without_ones_behind(scale.shape)
        return cls(scale.reshape(form), shift.reshape(form))

    @classmethod
    def along(cls, scale: Vector, shift: Vector, axis: int) -> Self:
        """The map of vectors of shape [C] or [1] along `axis`. Raises `Refused` where a number is not finite."""
        form = (1,) * axis + (-1,)
        return cls.of(scale.reshape(form), shift.reshape(form))

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes along which it varies."""
        return tuple(axis for axis, size in enumerate(self.scale.shape) if size > 1)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of `scale` and `shift`."""
        return self.scale.shape

    @property
    def is_uniform(self) -> bool:
        """Whether one number serves all elements, so that it means the same on every axis and at every shape."""
        return not self.scale.ndim

    @property
    def is_identity(self) -> bool:
        """Whether the map changes nothing."""
        return not self.has_scale and not self.has_shift

    @property
    def has_scale(self) -> bool:
        """Whether any scale is not 1."""
        if self._has_scale is None:
            self._has_scale = bool((self.scale != 1).any())
        return self._has_scale

    @property
    def has_shift(self) -> bool:
        """Whether any shift is not 0."""
        if self._has_shift is None:
            self._has_shift = bool(self.shift.any())
        return self._has_shift

    def then(self, later: "Affine") -> "Affine":
        """This map followed by `later`: x -> later.scale * (scale * x + shift) + later.shift."""
        rank = max(len(self.shape), len(later.shape))
        one, two = self.at_rank(rank), later.at_rank(rank)
        with np.errstate(over="ignore", invalid="ignore"):
            return Affine.of(two.scale * one.scale, two.scale * one.shift + two.shift)

    def only_scale(self) -> "Affine":
        """The map without its shift."""
        return Affine.of(self.scale, np.zeros(()))

    def at_rank(self, rank: int) -> "Affine":
        """The map in arrays of `rank` axes. Raises ValueError where it has more."""
        return Affine(_padded(self.scale, rank), _padded(self.shift, rank), self._has_scale, self._has_shift)

    def moved(self, move: Callable[[Array, float], Array]) -> "Affine":
        """The map after `move`, which rearranges scales and shifts; its second argument is what changes nothing.

        An axis along which every number is the same then is one along which nothing varies.
        """
        scale, shift = move(self.scale, 1.0), move(self.shift, 0.0)
        for axis, size in enumerate(scale.shape):
            first = (slice(None),) * axis + (slice(0, 1),)
            if size > 1 and (scale == scale[first]).all() and (shift == shift[first]).all():
                scale, shift = scale[first], shift[first]
        return Affine.of(scale, shift)


def _padded(array: Array, rank: int) -> Array:
    if array.ndim > rank:
        raise ValueError(f"a map of {array.ndim} axes for a value of {rank}")
    return array if array.ndim == rank else array.reshape(array.shape + (1,) * (rank - array.ndim))


def _first_not_finite(scale: Array, shift: Array) -> str:
    """``scale inf in channel 3``; the place along each axis on which the numbers vary."""
    for name, array in (("scale", scale), ("shift", shift)):
        places = np.argwhere(~np.isfinite(array))
        if len(places):
            value = array[tuple(places[0])]
            channel = [int(at) for at, size in zip(places[0], array.shape, strict=True) if size > 1]
            where = f" in channel {', '.join(map(str, channel))}" if channel else ""
            return f"{name} {value:.4g}{where}"
    return ""


def _without_ones_behind(shape: tuple[int, ...]) -> tuple[int, ...]:
    rank = len(shape)
    while rank and shape[rank - 1] == 1:
        rank -= 1
    return shape[:rank]


IDENTITY = Affine(np.ones(()), np.zeros(()))
