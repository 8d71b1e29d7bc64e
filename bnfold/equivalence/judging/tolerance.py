"""When an output agrees: the tolerance, by element type and by how large the output is.

Folding changes only how results are rounded, so errors are measured in unit roundoffs u of the type that the output
was computed in (not the one it is cast to at the end), and against the output's own magnitude: an absolute number
would pass a broken small output and fail an innocent large one. `TIGHT` is what rounding alone hardly ever exceeds in
a network of ordinary depth. What lies beyond is excused only by evidence (`evidence.py`); `LOOSE` decides where there
is none.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, field
from enum import StrEnum
from typing import Any, NamedTuple, Self

import numpy as np

from bnfold.equivalence.judging.measurement import Measurement
from bnfold.equivalence.numbers.element_types import rounding_of
from bnfold.errors import UsageError
from bnfold.options import LimitByOutput
from bnfold.records import Record

# In unit roundoffs of the output's type. float16 and bfloat16 round after every node, and few nodes lie between
# input and output in terms of such coarse steps: the same count of steps is a much larger part of the value.
TIGHT = {"float64": 64.0, "float32": 32.0, "float16": 4.0, "bfloat16": 4.0}
LOOSE = {"float64": 1024.0, "float32": 512.0, "float16": 32.0, "bfloat16": 8.0}
CHANNEL_ALLOWANCE = 8.0
"""A channel far smaller than its output is held to this many times the ratio that the whole output is held to."""


class Rule(StrEnum):
    """Which rule decided about a measurement."""

    EXACT = "exact"
    TOLERANCE = "tolerance"
    UNTOUCHED = "untouched"
    SAME_SETTING = "same-setting"
    PROVED = "proved"
    BEHIND = "behind"
    NOISE = "noise"
    USER = "user"
    STRUCTURE = "structure"
    NON_FINITE = "non-finite"


class Limits(Record):
    """A limit set by the user: |error| <= atol + rtol * the largest |reference| of that output."""

    rtol: float = 0.0
    atol: float = 0.0

    def __str__(self) -> str:
        return f"rtol {self.rtol:g} and atol {self.atol:g}"


class Judgement(NamedTuple):
    """`agrees` is None where the tolerance alone cannot tell and the noise rule has to."""

    agrees: bool | None
    rule: Rule
    limit: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {"agrees": self.agrees, "rule": self.rule.value, "limit": self.limit}


class Tolerance(Record):
    """`rtol` and `atol`, for all outputs or in `outputs` for one, replace the default limits by type.

    Where either is given it alone decides for that output: the noise rule does not overrule a user.
    """

    rtol: float | None = None
    atol: float | None = None
    outputs: Mapping[str, Limits] = field(default_factory=dict)

    @classmethod
    def of(cls, rtol: LimitByOutput | None = None, atol: LimitByOutput | None = None) -> Self:
        """From numbers, or numbers by output name; the name "" stands for all outputs that are not named."""
        relative, absolute = ({"": each} if isinstance(each, float | int) else each or {} for each in (rtol, atol))
        overall = {"rtol": relative.get(""), "atol": absolute.get("")}
        names = [name for name in dict.fromkeys((*relative, *absolute)) if name]
        outputs = {
            name: Limits(relative.get(name, overall["rtol"] or 0.0), absolute.get(name, overall["atol"] or 0.0))
            for name in names
        }
        return cls(**overall, outputs=outputs)

    def __str__(self) -> str:
        """For people: what holds for all outputs, then what holds for one."""
        overall = self._overall()
        per_output = [f"{limits} for output {name!r}" for name, limits in self.outputs.items()]
        return ", ".join([str(overall) if overall else "the tolerances by element type", *per_output])

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {"rtol": self.rtol, "atol": self.atol, "outputs": {name: asdict(x) for name, x in self.outputs.items()}}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`, also from JSON, which has an infinite limit as a string."""
        outputs = {
            name: Limits(float(limits["rtol"]), float(limits["atol"])) for name, limits in saved["outputs"].items()
        }
        rtol, atol = (None if saved[name] is None else float(saved[name]) for name in ("rtol", "atol"))
        return cls(rtol, atol, outputs)

    @property
    def is_set(self) -> bool:
        """Whether anything replaces the limits by type."""
        return self._overall() is not None or bool(self.outputs)

    def check_outputs(self, names: Iterable[str]) -> None:
        """Raises UsageError where a limit is for an output that is none of `names`."""
        known = dict.fromkeys(names)
        for name in self.outputs:
            if name not in known:
                raise UsageError(f"a tolerance for {name!r}: the model has no such output; it has {', '.join(known)}.")

    def judge(self, measured: Measurement) -> Judgement:
        """Exact where there is nothing to round; by magnitude for floats; no new NaN or infinity, ever."""
        if measured.problem:
            return Judgement(agrees=False, rule=Rule.STRUCTURE)
        if measured.new_nonfinite:
            return Judgement(agrees=False, rule=Rule.NON_FINITE)
        if measured.different == 0:
            return Judgement(agrees=True, rule=Rule.EXACT)
        limits = self._limits(measured.output)
        if limits is not None and not measured.lost_nonfinite:
            limit = limits.atol + limits.rtol * measured.reference_max_abs
            return Judgement(agrees=_is_number(measured) and measured.max_abs <= limit, rule=Rule.USER, limit=limit)
        unit = _UNITS.get(measured.computed_in)
        if unit is None:
            return Judgement(agrees=False, rule=Rule.EXACT)
        if measured.lost_nonfinite:
            return Judgement(agrees=None, rule=Rule.NON_FINITE)
        ratio = TIGHT[measured.computed_in] * unit[0]
        limit = max(ratio * measured.reference_max_abs, unit[1])
        close = measured.max_abs <= limit
        if measured.channel_rel is not None and measured.max_abs > unit[1]:
            close = close and measured.channel_rel <= CHANNEL_ALLOWANCE * ratio
        return Judgement(agrees=True if close else None, rule=Rule.TOLERANCE, limit=limit)

    def judge_without_truth(self, measured: Measurement) -> Judgement:
        """The last word where `judge` could not tell and the noise of the model cannot be measured."""
        first = self.judge(measured)
        if first.agrees is not None:
            return first
        if measured.lost_nonfinite:
            return Judgement(agrees=False, rule=Rule.NON_FINITE)
        unit = _UNITS[measured.computed_in]
        limit = max(LOOSE[measured.computed_in] * unit[0] * measured.reference_max_abs, unit[1])
        return Judgement(agrees=measured.max_abs <= limit, rule=Rule.TOLERANCE, limit=limit)

    def _limits(self, output: str) -> Limits | None:
        for name in names_of(output):
            if name in self.outputs:
                return self.outputs[name]
        return self._overall()

    def _overall(self) -> Limits | None:
        if self.rtol is None and self.atol is None:
            return None
        return Limits(rtol=self.rtol or 0.0, atol=self.atol or 0.0)


def names_of(output: str) -> Iterator[str]:
    """The names a limit may be given under: that of the output, and for `y[3]`, an item of a sequence or map, `y`."""
    yield output
    while output.endswith("]") and "[" in output:
        output = output.rpartition("[")[0]
        yield output


def owners_of(value: str) -> Iterator[str]:
    """The outputs that `value` may be a part of: itself, and for `y.length`, the length of a sequence, `y`."""
    yield from names_of(value)
    if value.endswith(".length"):
        yield from names_of(value.removesuffix(".length"))


def _is_number(measured: Measurement) -> bool:
    """Text, truth values and labels have no distance; a tolerance says nothing about them."""
    return math.isfinite(measured.max_abs) and measured.dtype not in {"bool", "object", "str"}


def _units() -> dict[str, tuple[float, float]]:
    facts = {name: rounding_of(np.dtype(name)) for name in ("float64", "float32", "float16")}
    return {name: (fact.unit, fact.tiny) for name, fact in facts.items() if fact}


_UNITS = _units() | {"bfloat16": (2.0**-8, 2.0**-126)}
