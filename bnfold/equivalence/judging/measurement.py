"""The distance of one output of the candidate from the reference's, in numbers that can be judged now or later.

Nothing here decides: `Tolerance` does, from a Measurement alone, so a saved one can be judged again.
"""

import math
from collections.abc import Iterator
from typing import Any, Self

import numpy as np

from bnfold.equivalence.numbers.element_types import Array, distance, rounding_named, rounding_of
from bnfold.records import Record

HISTOGRAM_EDGES = tuple(10.0**exponent for exponent in range(-12, 3))
"""Bins of |error| / magnitude. The first bin counts exact agreement, the second all below the first edge."""

_POSITIONS_PER_CHANNEL = 64
_BLOCK = 1 << 13
"""So few numbers that BLAS takes no second thread for a product, which costs more than it saves."""
_SAMPLE = 1 << 18


class Where(Record):
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


class Measurement(Record):
    """One output on one feed. Errors are over the elements that are finite on both sides; arrays as float64.

    `max_rel`: largest |error| / |reference| where the reference is not 0. `channel_rel`: the largest error of a channel
    (axis 1 or the last) relative to the largest reference value of that channel; None where a channel has too few
    positions for its largest value to be typical. `p99_abs`: of many elements, that of a part. `max_ulp`: representable
    numbers between the two. `snr_db`: signal to error, infinite where equal. `argmax_agreement`: share of rows whose
    largest entry is at the same place, for outputs that look like scores [N, C]. `problem`: why the two could not be
    compared at all, "" where they were.
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
        flat = dict(vars(self))
        flat.update(vars(flat.pop("where")))
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


def measure(
    where: Where, reference: Array, candidate: Array, made_in: str = "", *, distributions: bool = True
) -> Measurement:
    """Compare one output. Shapes and dtypes must be the same: where they differ that is the finding.

    Without `distributions` only what a verdict rests on is measured: no means, no shares and no histogram.
    """
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
    return Measurement(**described, **_numbers(reference, candidate, distributions=distributions))


def _numbers(reference: Array, candidate: Array, *, distributions: bool) -> dict[str, Any]:
    """The numbers of two arrays of one type and shape, in the type that they are compared in, sums in float64."""
    if not reference.size:
        return {}
    if _have_same_bits(reference, candidate):
        return _equal(reference)
    wide = np.float32 if reference.dtype.name in {"float32", "float16", "bfloat16"} else np.float64
    before: Array = np.ascontiguousarray(reference, wide)
    after: Array = np.ascontiguousarray(candidate, wide)
    are_integers = reference.dtype.kind in "iu"
    if are_integers:
        error, is_finite = distance(reference, candidate).reshape(before.shape), True
    else:
        error, is_finite = _apart(before, after)
    if not is_finite and wide is np.float32:  # the difference of two large numbers may overflow
        before, after = before.astype(np.float64), after.astype(np.float64)
        error, is_finite = _apart(before, after)
    facts: dict[str, Any] = {"count": before.size, "compared": before.size, "new_nonfinite": 0, "lost_nonfinite": 0}
    both = None
    if not is_finite:
        finite_before, finite_after = np.isfinite(before), np.isfinite(after)
        # The same infinity or NaN on both sides agrees; anything else that is not finite is counted, not measured.
        same = (before == after) | (np.isnan(before) & np.isnan(after))
        both = finite_before & finite_after
        facts |= {
            "compared": int(np.count_nonzero(both)),
            "different": int(np.count_nonzero(~same)),
            "new_nonfinite": int(np.count_nonzero(~finite_after & ~same)),
            "lost_nonfinite": int(np.count_nonzero(~finite_before & finite_after)),
        }
        if not facts["compared"]:
            return facts
        before, after, error = (np.where(both, side, 0) for side in (before, after, error))
    else:
        facts["different"] = int(np.count_nonzero(error))
    worst = np.unravel_index(int(error.argmax()), error.shape)
    magnitude = _peak(before)
    facts |= {
        "max_abs": float(error[worst]) if are_integers else abs(float(after[worst]) - float(before[worst])),
        "channel_rel": _channel_relative(error, before),
        "reference_max_abs": magnitude,
        "worst_at": tuple(int(index) for index in worst),
        "worst_reference": float(before[worst]),
        "worst_candidate": float(after[worst]),
    }
    if not distributions:
        return facts
    counted = error if both is None else error[both]
    return (
        facts
        | _sums(before, after, error, facts["compared"], magnitude)
        | {
            "p99_abs": _p99(counted),
            "max_ulp": _largest_ulp(reference, candidate, both) if facts["max_abs"] else 0.0,
            "argmax_agreement": _argmax_agreement(before, after),
            "histogram": _histogram(counted, magnitude),
        }
    )


def _apart(before: Array, after: Array) -> tuple[Array, bool]:
    """The distance of each two elements, and whether all of them are finite."""
    with np.errstate(all="ignore"):
        error: Array = np.subtract(after, before)
        return np.abs(error, out=error), bool(np.isfinite(error.max()))


def _have_same_bits(reference: Array, candidate: Array) -> bool:
    if reference.dtype.kind not in "fiuV":
        return False
    integers = f"u{reference.dtype.itemsize}"
    one, other = (np.ascontiguousarray(side).reshape(-1).view(integers) for side in (reference, candidate))
    return bool(np.array_equal(one[:_BLOCK], other[:_BLOCK]) and np.array_equal(one[_BLOCK:], other[_BLOCK:]))


def _equal(values: Array) -> dict[str, Any]:
    """The numbers of two arrays that are the same."""
    wide = values.astype(np.float32) if values.dtype.kind == "V" or values.dtype.name == "bfloat16" else values
    finite = np.isfinite(wide)
    count, compared = values.size, int(np.count_nonzero(finite))
    facts: dict[str, Any] = {"count": count, "compared": compared}
    if not compared:
        return facts
    if compared < count:
        wide = np.where(finite, wide, 0)
    first = float(wide.reshape(-1)[0])
    return facts | {
        "channel_rel": 0.0 if _channel_axes(wide) else None,
        "argmax_agreement": 1.0 if wide.ndim == 2 and wide.shape[1] > 1 else None,
        "reference_max_abs": _peak(wide),
        "reference_rms": _rms(wide, compared),
        "worst_at": (0,) * wide.ndim,
        "worst_reference": first,
        "worst_candidate": first,
        "histogram": (compared, *[0] * (len(HISTOGRAM_EDGES) + 1)),
    }


def _peak(values: Array) -> float:
    return max(float(values.max()), -float(values.min()))


def _blocks(*arrays: Array) -> Iterator[tuple[Array, ...]]:
    """Equal parts of all arrays, flat and in float64, small enough for the caches of a processor."""
    flat = [array.reshape(-1) for array in arrays]
    for start in range(0, flat[0].size, _BLOCK):
        yield tuple(array[start : start + _BLOCK].astype(np.float64) for array in flat)


def _sums(before: Array, after: Array, error: Array, compared: int, magnitude: float) -> dict[str, Any]:
    """The sums over all elements, each divided by the largest of its kind, so that no square overflows."""
    peaks = magnitude or 1.0, _peak(after) or 1.0, float(error.max()) or 1.0
    total = largest_ratio = 0.0
    squares, product = np.zeros(3), 0.0
    for old, new, apart in _blocks(before, after, error):
        total += float(apart.sum())
        sides = old / peaks[0], new / peaks[1], apart / peaks[2]
        squares += [float(side @ side) for side in sides]
        product += float(sides[0] @ sides[1])
        np.abs(old, out=old)
        ratios = np.divide(apart, old, out=np.zeros_like(apart), where=old > 0)
        largest_ratio = max(largest_ratio, float(ratios.max()))
    norms = np.sqrt(squares)
    rms, signal = peaks[2] * norms[2] / math.sqrt(compared), peaks[0] * norms[0] / math.sqrt(compared)
    cosine = product / float(norms[0] * norms[1]) if norms[0] and norms[1] else float(not squares[2])
    snr = math.inf if rms == 0 else 20 * math.log10(signal / rms) if signal else -math.inf
    return {
        "max_rel": largest_ratio,
        "mean_abs": total / compared,
        "rms": float(rms),
        "cosine": cosine,
        "snr_db": snr,
        "reference_rms": float(signal),
    }


def _p99(error: Array) -> float:
    """Of many elements, from every so-many-th; between two of them, as numpy.percentile interpolates."""
    flat = error.reshape(-1)
    flat = flat[:: 1 + flat.size // _SAMPLE]
    place = 0.99 * (flat.size - 1)
    low, high = math.floor(place), math.ceil(place)
    sorted_there = np.partition(flat, (low, high))
    below, above = float(sorted_there[low]), float(sorted_there[high])
    return below + (above - below) * (place - low)


def _channel_axes(values: Array) -> list[int]:
    """Axis 1 holds channels in NCHW, the last axis in NHWC and in sequences."""
    axes = {1, values.ndim - 1} if values.ndim >= 3 else {1} if values.ndim == 2 else set()
    return sorted(axis for axis in axes if values.size >= _POSITIONS_PER_CHANNEL * values.shape[axis])


def _channel_relative(error: Array, before: Array) -> float | None:
    """The larger of what both counts say."""
    ratios = []
    for axis in _channel_axes(error):
        others = tuple(other for other in range(error.ndim) if other != axis)
        largest = error.max(axis=others)
        scale = np.maximum(before.max(axis=others), -before.min(axis=others))
        alive = scale > 0
        ratios.append(float((largest[alive] / scale[alive]).max(initial=0.0)))
    return max(ratios, default=None)


def _largest_ulp(reference: Array, candidate: Array, both: Array | None) -> float:
    """Both as integers in the order of the numbers they stand for, so that neighbours differ by 1 across 0 as well."""
    if both is not None:
        reference, candidate = reference[both], candidate[both]
    if rounding_of(reference.dtype) is None:
        return float(distance(reference, candidate).max())
    integers = np.dtype(f"i{reference.dtype.itemsize}")

    def ordered(values: Array) -> Array:
        bits = values.view(integers)
        sign = bits >> (8 * integers.itemsize - 1)  # all ones where negative
        order: Array = (bits ^ (sign & np.iinfo(integers).max)) - sign
        return order.astype(np.float64)

    flat = [np.ascontiguousarray(side).reshape(-1) for side in (reference, candidate)]
    parts = ([side[start : start + _BLOCK] for side in flat] for start in range(0, flat[0].size, _BLOCK))
    return max(float(np.abs(ordered(now) - ordered(was)).max()) for was, now in parts)


def _rms(values: Array, count: int) -> float:
    peak = _peak(values)
    squares = sum(float(part @ part) for part in (block / peak for (block,) in _blocks(values))) if peak else 0.0
    return peak * math.sqrt(squares / count)


def _argmax_agreement(before: Array, after: Array) -> float | None:
    if before.ndim != 2 or before.shape[1] < 2:
        return None
    return float((before.argmax(1) == after.argmax(1)).mean())


def _histogram(error: Array, magnitude: float) -> tuple[int, ...]:
    """Exact agreement, then one bin below each edge, then what is above the last."""
    exact = error.size - int(np.count_nonzero(error))
    if not magnitude:
        return (exact, *[0] * len(HISTOGRAM_EDGES), error.size - exact)
    below = np.zeros(len(HISTOGRAM_EDGES), np.int64)
    for (block,) in _blocks(error):
        block /= magnitude
        largest = block.max()
        below += [block.size if largest < edge else int(np.count_nonzero(block < edge)) for edge in HISTOGRAM_EDGES]
    counts = np.diff(np.concatenate([[exact], below, [error.size]]))
    return (exact, *map(int, counts))


def _json(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, tuple):
        return [_json(item) for item in value]
    return value
