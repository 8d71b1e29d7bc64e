"""How far one output of the candidate is from the reference's, in numbers that can be judged now or later.

Nothing here decides: `Tolerance` does, from a Measurement alone, so a saved one can be judged again.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from bnfold.equivalence.numbers.element_types import Array, rounding_named, rounding_of

HISTOGRAM_EDGES = tuple(10.0**exponent for exponent in range(-12, 3))
"""Bins of |error| / magnitude. The first bin counts exact agreement, the second all below the first edge."""

_POSITIONS_PER_CHANNEL = 64


@dataclass(frozen=True)
class Where:
    """Which comparison a measurement belongs to. `optimization` is the candidate's: "off" or "on".

    `stage` is "output", or "behind" for a float value that a discrete or saturated output was made from.
    """

    output: str
    feed: str
    provider: str = "cpu"
    optimization: str = "off"
    stage: str = "output"
    precision: str = "strict"

    def __str__(self) -> str:
        what = (
            f"output {self.output!r}" if self.stage == "output" else f"{self.output!r}, which an output is made from,"
        )
        return f"{what} on feed {self.feed} ({self.provider}, optimization {self.optimization})"


@dataclass(frozen=True)
class Measurement:
    """One output on one feed. Errors are over the elements that are finite on both sides; arrays as float64.

    `max_rel`: largest |error| / |reference| where the reference is not 0. `channel_rel`: the largest error of a channel
    (axis 1 or the last) relative to the largest reference value of that channel; None where a channel has too few
    positions for its largest value to be typical. `max_ulp`: representable numbers between the two. `snr_db`: signal
    to error, infinite where equal. `argmax_agreement`: share of rows whose largest entry is at the same place, for
    outputs that look like scores [N, C]. `problem`: why the two could not be compared at all, "" where they were.
    `made_in`: the coarsest float type of what the output is made of, where that is known.
    """

    where: Where
    dtype: str = ""
    shape: tuple[int, ...] = ()
    problem: str = ""
    count: int = 0
    compared: int = 0
    different: int = 0
    max_abs: float = 0.0
    max_rel: float = 0.0
    mean_abs: float = 0.0
    rms: float = 0.0
    p99_abs: float = 0.0
    max_ulp: float = 0.0
    channel_rel: float | None = None
    cosine: float = 1.0
    snr_db: float = math.inf
    argmax_agreement: float | None = None
    reference_max_abs: float = 0.0
    reference_rms: float = 0.0
    new_nonfinite: int = 0
    lost_nonfinite: int = 0
    worst_at: tuple[int, ...] = ()
    worst_reference: float | None = None
    worst_candidate: float | None = None
    histogram: tuple[int, ...] = ()
    made_in: str = ""

    @property
    def computed_in(self) -> str:
        """The type whose rounding counts: the coarser one of the output's own and of what it is made of."""
        own, made = rounding_named(self.dtype), rounding_named(self.made_in)
        return self.made_in if own and made and made.unit > own.unit else self.dtype

    @property
    def output(self) -> str:
        """The name of the output."""
        return self.where.output

    @property
    def relative(self) -> float:
        """The largest error as a part of the largest reference value; infinite where that is 0 and the error is not."""
        if self.max_abs == 0:
            return 0.0
        return self.max_abs / self.reference_max_abs if self.reference_max_abs else math.inf

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: infinite numbers become None."""
        flat = asdict(self)
        flat.update(flat.pop("where"))
        flat["relative"] = self.relative
        return {key: _json(value) for key, value in flat.items()}

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> Self:
        """The inverse of `to_dict`, for judging a saved report again."""
        where = Where(**{key: saved[key] for key in Where.__dataclass_fields__})
        fields = {key: saved[key] for key in cls.__dataclass_fields__ if key != "where" and key in saved}
        if fields.get("snr_db") is None:
            fields["snr_db"] = math.inf
        for key in ("max_abs", "max_rel", "mean_abs", "rms", "p99_abs", "max_ulp", "reference_max_abs"):
            fields[key] = math.inf if fields.get(key) is None else fields[key]
        for key in ("shape", "worst_at", "histogram"):
            fields[key] = tuple(fields[key])
        return cls(where=where, **fields)


def measure(where: Where, reference: Array, candidate: Array, made_in: str = "") -> Measurement:
    """Compare one output. Shapes and dtypes must be the same: where they differ that is the finding."""
    described: dict[str, Any] = {"where": where, "dtype": reference.dtype.name, "shape": tuple(reference.shape)}
    described["made_in"] = made_in
    if reference.dtype != candidate.dtype:
        return Measurement(**described, problem=f"it is {candidate.dtype.name}, not {reference.dtype.name}")
    if reference.shape != candidate.shape:
        return Measurement(**described, problem=f"its shape is {candidate.shape}, not {reference.shape}")
    if rounding_of(reference.dtype) is None and reference.dtype.kind in "bOSU":
        different = reference != candidate
        return Measurement(**described, count=reference.size, compared=reference.size, different=int(different.sum()))
    if reference.dtype.kind == "c":
        reference, candidate = (np.stack([side.real, side.imag], -1) for side in (reference, candidate))
    return Measurement(**described, **_numbers(reference, candidate))


def _numbers(reference: Array, candidate: Array) -> dict[str, Any]:
    before, after = reference.astype(np.float64), candidate.astype(np.float64)
    finite_before, finite_after = np.isfinite(before), np.isfinite(after)
    # The same infinity or NaN on both sides agrees; anything else that is not finite is counted, not measured.
    same = (before == after) | (np.isnan(before) & np.isnan(after))
    both = finite_before & finite_after
    facts: dict[str, Any] = {
        "count": before.size,
        "compared": int(both.sum()),
        "different": int((~same).sum()),
        "new_nonfinite": int((~finite_after & ~same).sum()),
        "lost_nonfinite": int((~finite_before & finite_after).sum()),
    }
    if not facts["compared"]:
        return facts
    if not both.all():
        before, after = np.where(both, before, 0.0), np.where(both, after, 0.0)
    error = np.abs(after - before)
    worst = np.unravel_index(int(error.argmax()), error.shape)
    magnitude = float(np.abs(before).max())
    return facts | {
        "max_abs": float(error.max()),
        "max_rel": _largest_ratio(error, np.abs(before)),
        "mean_abs": float(error.sum() / facts["compared"]),
        "rms": _rms(error, facts["compared"]),
        "p99_abs": float(np.percentile(error[both], 99)),
        "max_ulp": _largest_ulp(reference[both], candidate[both]) if error.any() else 0.0,
        "channel_rel": _channel_relative(error, np.abs(before)),
        "cosine": _cosine(before, after),
        "snr_db": _snr(before, error),
        "argmax_agreement": _argmax_agreement(before, after),
        "reference_max_abs": magnitude,
        "reference_rms": _rms(before, facts["compared"]),
        "worst_at": tuple(int(index) for index in worst),
        "worst_reference": float(before[worst]),
        "worst_candidate": float(after[worst]),
        "histogram": _histogram(error[both], magnitude),
    }


def _largest_ratio(error: Array, magnitude: Array) -> float:
    nonzero = magnitude > 0
    return float((error[nonzero] / magnitude[nonzero]).max(initial=0.0))


def _channel_relative(error: Array, magnitude: Array) -> float | None:
    """Axis 1 holds channels in NCHW, the last axis in NHWC and in sequences: the larger ratio of the two counts."""
    ratios = []
    for axis in {1, error.ndim - 1} if error.ndim >= 3 else {1} if error.ndim == 2 else set():
        others = tuple(other for other in range(error.ndim) if other != axis)
        if error.size < _POSITIONS_PER_CHANNEL * error.shape[axis]:
            continue
        largest, scale = error.max(axis=others), magnitude.max(axis=others)
        alive = scale > 0
        ratios.append(float((largest[alive] / scale[alive]).max(initial=0.0)))
    return max(ratios, default=None)


def _largest_ulp(reference: Array, candidate: Array) -> float:
    """Both as integers in the order of the numbers they stand for, so that neighbours differ by 1 across 0 as well."""
    if rounding_of(reference.dtype) is None:
        return float(np.abs(candidate.astype(np.float64) - reference.astype(np.float64)).max())
    integers = np.dtype(f"i{reference.dtype.itemsize}")

    def ordered(values: Array) -> Array:
        bits = np.ascontiguousarray(values).view(integers)
        return np.where(bits < 0, np.iinfo(integers).min - bits, bits).astype(np.float64)

    return float(np.abs(ordered(candidate) - ordered(reference)).max())


def _rms(values: Array, count: int) -> float:
    peak = float(np.abs(values).max())
    return peak * math.sqrt(float(np.square(values / peak).sum()) / count) if peak else 0.0


def _cosine(before: Array, after: Array) -> float:
    norms = _rms(before, 1) * _rms(after, 1)
    if norms == 0 or not math.isfinite(norms):
        return 1.0 if not (before - after).any() else 0.0
    return float((before / _rms(before, 1) * (after / _rms(after, 1))).sum())


def _snr(before: Array, error: Array) -> float:
    noise, signal = _rms(error, 1), _rms(before, 1)
    if noise == 0:
        return math.inf
    return 20 * math.log10(signal / noise) if signal else -math.inf


def _argmax_agreement(before: Array, after: Array) -> float | None:
    if before.ndim != 2 or before.shape[1] < 2:
        return None
    return float((before.argmax(1) == after.argmax(1)).mean())


def _histogram(error: Array, magnitude: float) -> tuple[int, ...]:
    """Exact agreement, then one bin below each edge, then what is above the last."""
    ratios = error[error > 0] / magnitude if magnitude else np.full(int((error > 0).sum()), math.inf)
    bins = np.searchsorted(HISTOGRAM_EDGES, ratios, side="right")
    counts = np.bincount(bins, minlength=len(HISTOGRAM_EDGES) + 1)
    return (int((error == 0).sum()), *map(int, counts))


def _json(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, tuple):
        return [_json(item) for item in value]
    return value
