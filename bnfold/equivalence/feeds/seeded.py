"""Seeded inputs that make a wrong model show: several kinds of values at several sizes, each with a name.

Zeros and constants reveal shifts, impulses at corners and edges reveal borders, a batch of several rows reveals what
depends on the batch, large magnitudes reveal overflow. (seed, feed name, input name, shape) decide every array, so a
failure can be replayed. What a model costs decides how many feeds it gets, never how long they took: a run is the
same on every machine.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple
from zlib import crc32

import numpy as np
from onnx import TensorProto

from bnfold.equivalence.feeds.integer_ranges import IntegerRange
from bnfold.equivalence.feeds.size_solving import Shapes
from bnfold.equivalence.numbers.element_types import Array, Feed, is_float, numpy_type
from bnfold.equivalence.structure.signature import Port
from bnfold.equivalence.structure.work import HEAVY_ELEMENTS

KINDS = ("normal", "impulses", "uniform", "mixed", "constant", "zero", "extreme")
LARGEST_FEED = 1 << 27
"""Values in all inputs of one feed together: 512 MiB of float32. Nothing larger is made up."""
_NEAR_A_LANDMARK = 0.5
"""The share of a wild feed's numbers that the model compares its input with."""
_INSIDE = 0.25
"""The distance of floats that become integers from the next one, whether they are cut off or rounded."""
_MOST_IMPULSES = 81
"""Positions with an impulse per row and channel: every corner, edge and centre up to four spatial axes."""
_LARGEST_IN_16_BITS = 2.0**13
_EXTREME, _EXTREME_IN_16_BITS = 2.0**10, 2.0**8
_BEYOND = 4.0
"""The spread of a feed's values beyond a bound of the model, as a multiple."""
MANY, TABLE_FEEDS = 64, 8
"""Rows of the feed with many, and how many feeds a table is read with."""


class FeedPlan(NamedTuple):
    """One feed before its arrays are made.

    `overrides`: inputs with a default that this feed replaces. `damping` divides float values; it is raised when the
    reference itself overflows. `magnitude` multiplies them. `row`: where an enumeration of table rows begins.
    """

    name: str
    kind: str
    shapes: Shapes
    overrides: tuple[Port, ...] = ()
    damping: float = 1.0
    costly: bool = False
    magnitude: float = 1.0
    row: int = 0

    @property
    def cost(self) -> int:
        """The number of values fed; the cost of a run is about proportional to it."""
        return elements(self.shapes)


class Round(NamedTuple):
    """Feeds at one batch size. `costly`: run them once per provider, with optimizations on, as users do."""

    batch: int
    kinds: tuple[str, ...]
    costly: bool = False


def schedule(ports: Sequence[Port], first: Shapes, *, batched: bool) -> tuple[Round, ...]:
    """The rounds in order. A model with large inputs gets two feeds; another one gets them all.

    `first`: the shapes for batch 1. `batched`: whether the batch is dynamic at all.
    """
    if elements({port.name: first[port.name] for port in ports}) >= HEAVY_ELEMENTS:
        second = Round(2, ("mixed",), costly=True) if batched else Round(1, ("impulses",), costly=True)
        return Round(1, ("normal",)), second
    if not batched:
        return (Round(1, KINDS),)
    return Round(1, KINDS), Round(5, ("normal", "mixed")), Round(2, ("normal",))


def beyond_bounds(shapes: Shapes, bounds: Sequence[float]) -> Iterator[FeedPlan]:
    """Feeds that reach where the model cuts off or compares, and farther than other feeds do."""
    for bound in bounds:
        yield FeedPlan(f"beyond-{bound:.6g}", "normal", shapes, magnitude=_BEYOND * bound)


def table_rows(
    shapes: Shapes, larger: Callable[[int], Shapes], ranges: Mapping[str, IntegerRange]
) -> tuple[list[FeedPlan], str]:
    """Feeds in which each integer input goes through all rows of the table that it reads, as far as a few can.

    `larger`: the shapes at another batch size. The second is a sentence on rows that no feed reads, or "".
    """
    tables = {name: each.limit - each.least for name, each in ranges.items() if each.limit and name in shapes}
    wanted = max((math.ceil(rows / max(math.prod(shapes[name]), 1)) for name, rows in tables.items()), default=0)
    if wanted <= 1 and not tables:
        return [], ""
    if wanted > TABLE_FEEDS:
        grown = larger(min(MANY, math.ceil(wanted / TABLE_FEEDS)))
        shapes = grown if elements(grown) <= HEAVY_ELEMENTS else shapes
    number = max(math.ceil(rows / max(math.prod(shapes[name]), 1)) for name, rows in tables.items())
    each = {name: math.prod(shapes[name]) for name in tables}
    heavy = elements(shapes) >= HEAVY_ELEMENTS
    plans = [
        FeedPlan(f"rows-{at}", "rows", shapes, costly=heavy, row=at * max(each.values()))
        for at in range(min(number, 1 if heavy else TABLE_FEEDS))
    ]
    left = {name: rows - len(plans) * each[name] for name, rows in tables.items() if rows > len(plans) * each[name]}
    unread = ", ".join(
        f"{count} of the {tables[name]} rows that input {name!r} may read" for name, count in left.items()
    )
    return plans, f"No feed reads {unread}: what those rows hold was not compared by running." if unread else ""


def elements(shapes: Shapes) -> int:
    """The number of values in a feed of these shapes."""
    return sum(map(math.prod, shapes.values()))


def build(plan: FeedPlan, ports: Sequence[Port], seed: int, ranges: Mapping[str, IntegerRange]) -> Feed:
    """The arrays of one feed. `ranges`: what integer inputs may hold, where the model says it."""
    feed: Feed = {}
    for port in ports:
        generator = np.random.default_rng([seed, crc32(plan.name.encode()), crc32(port.name.encode())])
        shape = plan.shapes[port.name]
        feed[port.name] = np.asarray(_array(port, plan, shape, generator, ranges.get(port.name, IntegerRange())))
    for port in plan.overrides:
        generator = np.random.default_rng([seed, crc32(plan.name.encode()), crc32(port.name.encode())])
        shape = tuple(dim for dim in port.dims or () if isinstance(dim, int))
        # Positive, since an override may be a variance.
        feed[port.name] = generator.uniform(0.5, 1.5, shape).astype(numpy_type(port.elem_type))
    return feed


def overridable_floats(ports: Sequence[Port]) -> tuple[Port, ...]:
    """The overridable inputs that can safely be replaced: floats of static shape (integers are often shapes)."""
    return tuple(
        port
        for port in ports
        if port.elem_type
        and is_float(port.elem_type)
        and port.dims is not None
        and all(isinstance(dim, int) for dim in port.dims)
    )


def _array(
    port: Port, plan: FeedPlan, shape: tuple[int, ...], generator: np.random.Generator, allowed: IntegerRange
) -> Array:
    dtype = numpy_type(port.elem_type)
    if port.elem_type == TensorProto.STRING:
        return np.array([f"text {n}" for n in generator.integers(0, 100, math.prod(shape))], object).reshape(shape)
    if port.elem_type == TensorProto.BOOL:
        return _booleans(plan.kind, shape, generator)
    if np.issubdtype(dtype, np.complexfloating):
        parts = [_FILL[plan.kind](shape, generator) for _ in range(2)]
        return np.asarray(parts[0] + 1j * parts[1]).astype(dtype)
    if is_float(port.elem_type) and allowed.limit is None:
        values = np.asarray(_FILL[plan.kind](shape, generator) / plan.damping)  # numpy makes a number of rank 0
        if plan.kind == "extreme":
            values *= _EXTREME if dtype.itemsize >= 4 else _EXTREME_IN_16_BITS
        values *= min(plan.magnitude, _LARGEST_IN_16_BITS) if dtype.name == "float16" else plan.magnitude
        return values.astype(dtype)
    if plan.kind == "rows" and allowed.limit is not None:
        rows = allowed.limit - allowed.least
        whole: Array = allowed.least + (plan.row + np.arange(math.prod(shape)).reshape(shape)) % rows
    else:
        whole = _integers(dtype, port.elem_type, plan.kind, shape, generator, allowed)
    if is_float(port.elem_type):
        whole = whole + _INSIDE * np.sign(whole)  # rounding of the input must not make it another integer
    return whole.astype(dtype)


def _integers(
    dtype: np.dtype[np.generic],
    elem_type: int,
    kind: str,
    shape: tuple[int, ...],
    generator: np.random.Generator,
    allowed: IntegerRange,
) -> Array:
    """Pixels use the whole range; wider integers are mostly indices, lengths or labels, so they stay small."""
    low = allowed.least
    if kind == "zero":
        return np.full(shape, low).astype(dtype)
    if kind == "wild" and allowed.landmarks and generator.random() < _NEAR_A_LANDMARK:
        return np.full(shape, generator.choice(allowed.landmarks)).astype(dtype)
    if allowed.limit is not None:
        high = allowed.limit
    elif elem_type in {TensorProto.UINT8, TensorProto.INT8}:
        facts = np.iinfo(dtype.name)
        low, high = low or int(facts.min), int(facts.max) + 1
    else:
        high = low + (16 if kind == "wild" else 2)
    if kind == "constant":
        return np.full(shape, high - 1).astype(dtype)
    return generator.integers(low, high, shape).astype(dtype)


def _booleans(kind: str, shape: tuple[int, ...], generator: np.random.Generator) -> Array:
    """A scalar condition is true in some kinds and false in others, so that both branches of an If are run."""
    if kind != "wild" and (kind in {"zero", "constant"} or math.prod(shape) == 1):
        return np.full(shape, kind in {"constant", "normal", "mixed", "extreme"})
    return generator.integers(0, 2, shape).astype(bool)


def _normal(shape: tuple[int, ...], generator: np.random.Generator) -> Array:
    return generator.standard_normal(shape, np.float32).astype(np.float64)


def _uniform(shape: tuple[int, ...], generator: np.random.Generator) -> Array:
    return generator.random(shape, np.float32).astype(np.float64)


def _constant(shape: tuple[int, ...], generator: np.random.Generator) -> Array:
    """One value per row and channel, both signs: within a channel nothing changes except at a padded border."""
    channels = shape[:2] + (1,) * (len(shape) - 2)
    return np.broadcast_to(generator.standard_normal(channels), shape).copy()


def _zero(shape: tuple[int, ...], generator: np.random.Generator) -> Array:  # noqa: ARG001 - one of the fillers
    return np.zeros(shape)


def _impulses(shape: tuple[int, ...], generator: np.random.Generator) -> Array:
    """Zero, but for one position at every corner, at the middle of every edge and in the centre.

    In more than four spatial axes only some of these positions, the first and the last corner and the centre included.
    """
    values = np.zeros(shape)
    if not values.size:
        return values
    if len(shape) < 3:
        row = values.reshape(-1, shape[-1] if shape else 1)
        row[np.arange(len(row)), np.arange(len(row)) % row.shape[1]] = generator.uniform(1, 2, len(row))
        return values
    for spatial in _places(shape[2:], generator):
        place: tuple[slice | int, ...] = (slice(None), slice(None), *spatial)
        values[place] = generator.uniform(0.5, 2.0, shape[:2]) * generator.choice([-1.0, 1.0], shape[:2])
    return values


def _places(sizes: tuple[int, ...], generator: np.random.Generator) -> Iterator[tuple[int, ...]]:
    if 3 ** len(sizes) <= _MOST_IMPULSES:
        yield from itertools.product(*((0, size // 2, size - 1) for size in sizes))
        return
    for at in (0, 2, 1):
        yield tuple((0, size // 2, size - 1)[at] for size in sizes)
    for drawn in generator.integers(0, 3, (_MOST_IMPULSES - 3, len(sizes))):
        yield tuple((0, size // 2, size - 1)[at] for at, size in zip(drawn, sizes, strict=True))


def _mixed(shape: tuple[int, ...], generator: np.random.Generator) -> Array:
    """Every row of the batch another kind: what one feed can show, at the price of one run."""
    fillers = (_uniform, _impulses, _constant, _normal)
    if not shape:
        return _normal(shape, generator)
    rows = [fillers[row % len(fillers)]((1, *shape[1:]), generator) for row in range(shape[0])]
    return np.concatenate(rows) if rows else np.zeros(shape)


def _wild(shape: tuple[int, ...], generator: np.random.Generator) -> Array:
    """Any magnitude from 0.01 to 1000 around any centre, for conditions that nothing else fulfils."""
    spread, centre = (float(10 ** generator.uniform(-2, 3)) for _ in range(2))
    return spread * _normal(shape, generator) + centre * float(generator.choice([-1.0, 0.0, 1.0]))


_FILL: dict[str, Callable[[tuple[int, ...], np.random.Generator], Array]] = {
    "normal": _normal,
    "impulses": _impulses,
    "uniform": _uniform,
    "mixed": _mixed,
    "constant": _constant,
    "zero": _zero,
    "extreme": _normal,
    "wild": _wild,
    "rows": _normal,
}
