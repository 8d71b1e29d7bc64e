"""The noise rule: a candidate may be as far off as rounding alone moves the original, times four.

Where an error is larger than rounding usually is, a wrong model and a deep or ill-conditioned right one look alike
against the reference. Two instruments tell them apart. The float64 truth: the reference's own error says how much
noise this model makes on this feed, in its worse setting of onnxruntime's optimizations. The shaken reference: the
reference itself, run with every stored number and every number it is fed moved to a neighbour.
"""

import math
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple, Self

import numpy as np

from bnfold.equivalence.numbers.element_types import Array, distance, rounding_named, rounding_of

ALLOWANCE = 4.0
SHAKEN_ALLOWANCE = 2.0
"""The allowance where the truth moves with every stored number off by one roundoff: few are off by as much."""
_BELIEVED = 8.0
"""A truth is believed where the original is at most this many times as far from it as its shaken copies."""
FEW = 256
"""An output with fewer elements than this may have a small error by luck, so other feeds are asked as well."""

_JUMP = 64.0
"""Of the rounding of the largest value: what is off by more than this has jumped, where the others have not."""


class Instrument(StrEnum):
    """The instrument that the noise was measured with."""

    FLOAT64 = "float64"
    SHAKEN = "shaken"


class Noise(NamedTuple):
    """FLOAT64: errors against the truth, over the elements where that is finite. SHAKEN: distances from the reference.

    `original`: the larger of the reference's errors with and without optimizations, or how far it moved at most when
    it was shaken. `floor`: what storing the result in its type may cost, so that an original that happens to be exact
    does not forbid rounding.
    """

    candidate_max: float
    candidate_rms: float
    original_max: float
    original_rms: float
    floor: float
    instrument: Instrument = Instrument.FLOAT64

    @property
    def agrees(self) -> bool:
        """Both the largest and the mean error: one wrong channel raises the mean before it raises the maximum."""
        return (
            self.candidate_max <= ALLOWANCE * self.original_max + self.floor
            and self.candidate_rms <= ALLOWANCE * self.original_rms + self.floor
        )

    @property
    def amplification(self) -> float:
        """The amplification of rounding: the movement of the result over the rounding of the result itself."""
        return self.original_max / self.floor if self.floor else 1.0

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: infinite becomes None."""
        numbers = {
            name: value if math.isfinite(value) else None
            for name, value in (
                ("candidate_max", self.candidate_max),
                ("candidate_rms", self.candidate_rms),
                ("original_max", self.original_max),
                ("original_rms", self.original_rms),
                ("floor", self.floor),
                ("amplification", self.amplification),
            )
        }
        return numbers | {"instrument": self.instrument.value}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`, also for what was saved before there was more than one instrument."""
        names = ("candidate_max", "candidate_rms", "original_max", "original_rms", "floor")
        numbers = {name: math.inf if saved[name] is None else float(saved[name]) for name in names}
        return cls(**numbers, instrument=Instrument(saved.get("instrument", "float64")))


class Elsewhere(NamedTuple):
    """The original's largest and mean error on all feeds together.

    `relative_*`: the worst of any, over the largest and the mean value of the truth there. `least_*`: the smallest of
    any that is not exact, as it is: what counts where the truth is zero throughout and nothing can be relative to it.
    """

    relative_max: float = 0.0
    relative_rms: float = 0.0
    least_max: float = 0.0
    least_rms: float = 0.0

    def and_on(self, truth: Array, original: Array) -> "Elsewhere":
        """With one more feed; unchanged where the original's error cannot be told, or is zero."""
        exact = truth.astype(np.float64)
        if truth.shape != original.shape or not exact.any() or not np.isfinite(exact).all():
            return self
        error = np.abs(original.astype(np.float64) - exact)
        if not error.any() or not np.isfinite(error).all():
            return self
        largest, mean = float(error.max()), _rms(error)
        return Elsewhere(
            max(self.relative_max, largest / float(np.abs(exact).max())),
            max(self.relative_rms, mean / _rms(np.abs(exact))),
            min(self.least_max or math.inf, largest),
            min(self.least_rms or math.inf, mean),
        )

    def errors(self, exact: Array) -> tuple[float, float]:
        """The largest and the mean error to be expected where the truth is `exact`."""
        scale = float(exact.max())
        if scale == 0:
            return self.least_max, self.least_rms
        return self.relative_max * scale, self.relative_rms * _rms(exact)


def noise(
    truth: Array,
    originals: Sequence[Array],
    candidate: Array,
    elsewhere: Elsewhere | None = None,
    shaken: Sequence[Array] = (),
    made_in: str = "",
) -> Noise | None:
    """None where the truth cannot be believed: another shape, or the original itself farther from it than sqrt(u).

    `elsewhere`: what the original's error is on other feeds, where its error on this one may be small by luck.
    `shaken`: the truth where every stored number is off by one roundoff. Where these are as far from the truth as the
    original is, the model is ill-conditioned, and the truth is believed nevertheless. `made_in`: the coarsest type of
    what the output is made of, by name.

    An original that overflowed where the truth is finite has an infinite error there; the candidate is then judged
    on the rest, and must be finite and within sqrt(u) of the truth where the original is not.
    """
    rounding = rounding_of(candidate.dtype)
    if rounding is None or any(array.shape != truth.shape for array in (*originals, candidate)):
        return None
    exact = truth.astype(np.float64)
    known = np.isfinite(exact) & (np.abs(exact) <= rounding.largest)
    if not known.any():
        return None
    scale = float(np.abs(exact[known]).max())
    unit = max(rounding.unit, made.unit if (made := rounding_named(made_in)) else 0.0)
    coarse = math.sqrt(unit) * scale
    with np.errstate(invalid="ignore"):
        errors = [np.abs(array.astype(np.float64) - exact)[known] for array in originals]
        mine = np.abs(candidate.astype(np.float64) - exact)[known]
    sound = np.all([np.isfinite(error) for error in errors], axis=0)
    if not sound.any() or not np.isfinite(mine).all() or mine[~sound].max(initial=0.0) > coarse:
        return None
    own = max(float(error[sound].max()) for error in errors)
    expected = (elsewhere or Elsewhere()).errors(np.abs(exact[known]))
    moved = [np.abs(array - exact)[known][sound] for array in shaken]
    moved = [error * (SHAKEN_ALLOWANCE / ALLOWANCE) for error in moved if np.isfinite(error).all()]
    spread = max((float(error.max(initial=0.0)) for error in moved), default=0.0)
    if own > max(coarse, _BELIEVED * spread) or (scale and expected[0] > coarse):
        return None
    return Noise(
        candidate_max=float(mine[sound].max()),
        candidate_rms=_rms(mine[sound]),
        original_max=max(expected[0], own, *(float(error.max()) for error in moved)),
        original_rms=max(expected[1], *(_rms(error[sound]) for error in errors), *map(_rms, moved)),
        floor=max(rounding.unit * scale, rounding.tiny),
    )


def shaken_noise(
    reference: Array, candidate: Array, moved: Sequence["Moved"], made_in: str = "", elsewhere: float = 0.0
) -> Noise | None:
    """The noise from the distance of the candidate and the movement of the shaken reference, both in one setting.

    None where nothing is comparable. `elsewhere`: how far it moves on other feeds, as a part of its largest value.
    """
    if not moved or reference.shape != candidate.shape or reference.dtype.kind not in "fiuV":
        return None
    was, error = _where_both_are_finite(reference, candidate)
    if not error.size:
        return None
    scale = float(np.abs(was).max())
    units = [facts for facts in (rounding_of(reference.dtype), rounding_named(made_in)) if facts]
    return Noise(
        candidate_max=float(error.max()),
        candidate_rms=_rms(error),
        original_max=max(elsewhere * scale, *(each.largest for each in moved)),
        original_rms=max(elsewhere * _rms(np.abs(was)), *(each.rms for each in moved)),
        floor=max((max(facts.unit * scale, facts.tiny) for facts in units), default=0.0),
        instrument=Instrument.SHAKEN,
    )


def _where_both_are_finite(reference: Array, candidate: Array) -> tuple[Array, Array]:
    """The reference there, and how far the candidate is off, both in float64 and flat."""
    with np.errstate(all="ignore"):
        known = np.isfinite(reference) & np.isfinite(candidate)
        return reference.astype(np.float64)[known], distance(reference, candidate)[known]


def are_jumps(reference: Array, candidate: Array) -> bool:
    """Whether a few elements differ by far and all others hardly, as behind a rounding to steps with a near tie."""
    facts = rounding_of(reference.dtype)
    if facts is None or reference.shape != candidate.shape:
        return False
    was, error = _where_both_are_finite(reference, candidate)
    if not error.size:
        return False
    floor = max(facts.unit * float(np.abs(was).max()), facts.tiny)
    return int(np.count_nonzero(error > _JUMP * floor)) <= max(1, error.size // 100)


class Moved(NamedTuple):
    """The movement of an output when the model was shaken once: largest, mean, and as a part of its scale."""

    largest: float
    rms: float
    relative: float

    @classmethod
    def between(cls, reference: Array, shaken: Array) -> Self | None:
        """None where the two cannot be compared, or where shaking made values that are not finite."""
        if reference.shape != shaken.shape or not reference.size or reference.dtype.kind not in "fiuV":
            return None
        with np.errstate(all="ignore"):
            finite = np.isfinite(reference)
            if not finite.any() or not np.isfinite(shaken)[finite].all():
                return None
            error = distance(reference, shaken)[finite]
        largest, scale = float(error.max()), float(np.abs(reference.astype(np.float64)[finite]).max())
        return cls(largest, _rms(error), largest / scale if scale else 0.0)


def _rms(error: Array) -> float:
    peak = float(error.max(initial=0.0))
    return peak * math.sqrt(float(np.square(error / peak).mean())) if peak else 0.0
