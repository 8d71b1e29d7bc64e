"""`ChannelAffine`: y_c = scale_c * x_c + shift_c for each channel c on one axis, in float64."""

import math
from typing import Self

import numpy as np
from numpy.typing import NDArray

from bnfold.decisions import Reason, Refused

Vector = NDArray[np.float64]


def all_finite(values: NDArray[np.float64]) -> bool:
    """Whether no element is NaN or infinite. The sum of squares is the quickest look that none can hide from."""
    flat = values.reshape(-1)
    return math.isfinite(flat.dot(flat)) or bool(np.isfinite(flat).all())


class ChannelAffine:
    """The map y = scale * x + shift along `axis` of a value, counted from the front. Immutable.

    `scale` and `shift` are float64 of shape [C]. With C = 1 the map is *uniform*: the same number everywhere, so that
    it means the same on every axis and at every shape. Who knows them may give `has_scale` and `has_shift`.
    """

    __slots__ = ("_has_scale", "_has_shift", "axis", "scale", "shift")

    def __init__(
        self, scale: Vector, shift: Vector, axis: int, has_scale: bool | None = None, has_shift: bool | None = None
    ) -> None:
        self.scale = scale
        self.shift = shift
        self.axis = axis
        self._has_scale = has_scale
        self._has_shift = has_shift

    def __repr__(self) -> str:
        return f"ChannelAffine({self.scale}, {self.shift}, axis={self.axis})"

    @classmethod
    def of(cls, scale: Vector, shift: Vector, axis: int) -> Self:
        """The map with `scale` and `shift` brought to one shape. Raises `Refused` where a number is not finite."""
        if scale.shape != shift.shape:
            scale, shift = (np.ascontiguousarray(a) for a in np.broadcast_arrays(scale, shift))
        if not (all_finite(scale) and all_finite(shift)):
            raise Refused(Reason.NOT_FINITE)
        return cls(scale, shift, axis)

    @property
    def channels(self) -> int:
        """C, or 1 for a uniform map."""
        return self.scale.size

    @property
    def is_uniform(self) -> bool:
        """Whether one number serves all channels."""
        return self.scale.size == 1

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

    def then(self, later: "ChannelAffine") -> "ChannelAffine":
        """This map followed by `later`: x -> later.scale * (scale * x + shift) + later.shift."""
        axis = later.axis if self.is_uniform else self.axis
        with np.errstate(over="ignore", invalid="ignore"):
            return ChannelAffine.of(later.scale * self.scale, later.scale * self.shift + later.shift, axis)

    def on_axis(self, axis: int) -> "ChannelAffine":
        """The same numbers along another axis."""
        return ChannelAffine(self.scale, self.shift, axis)

    def only_scale(self) -> "ChannelAffine":
        """The map without its shift."""
        return ChannelAffine(self.scale, np.zeros_like(self.shift), self.axis)

    def expanded(self, channels: int) -> "ChannelAffine":
        """A uniform map written out for `channels` channels; any other map as it is."""
        if not self.is_uniform:
            return self
        return ChannelAffine(np.repeat(self.scale, channels), np.repeat(self.shift, channels), self.axis)

    def rearranged(self, channels: NDArray[np.int64], axis: int) -> "ChannelAffine":
        """The map whose channel i is channel `channels[i]` of this one, along `axis`."""
        if self.is_uniform:
            return self.on_axis(axis)
        return ChannelAffine(self.scale[channels], self.shift[channels], axis)

    def embedded(self, channels: NDArray[np.int64], total: int) -> "ChannelAffine":
        """The map on `total` channels that is this one on `channels` and changes nothing on the others."""
        scale, shift = np.ones(total), np.zeros(total)
        scale[channels], shift[channels] = self.scale, self.shift
        return ChannelAffine(scale, shift, self.axis)


IDENTITY = ChannelAffine(np.ones(1), np.zeros(1), 0)
