"""The proof of every single rewrite: the piece of the graph before and after it, in float64, with stored parameters.

Both pieces are affine (or affine between the kinks of operators an affine map may cross), so agreement on random
points is identity with probability 1. The only difference allowed is what storing the new parameters rounded:

    |after - before| <= 2 u (|W'| |x| + |b'|)

with u the unit roundoff of the type they are stored in. Beyond it is a bug, within it is rounding: no tolerance is
chosen. Nothing here uses the code that folds.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from onnx import AttributeProto, ModelProto, TensorProto

from bnfold.equivalence.element_types import Array, rounding
from bnfold.equivalence.float64 import Evaluator, Unknowable
from bnfold.equivalence.magnitude import Magnitude
from bnfold.equivalence.regions import Cutter, Region, Uncut, same_bytes
from bnfold.equivalence.shapes import InputShapes

_IMPULSE = 64.0
_FEWEST_ROWS, _MOST_ROWS, _IMPULSE_COST = 2, 32, 1 << 21
_ARITHMETIC = 2.0**-44
"""What float64 itself may lose in sums of a few thousand terms."""


@dataclass(frozen=True)
class Rewrite:
    """What one rewrite touched, by the values around it: `inputs` enter it, `outputs` leave it.

    Outside these values both models are the same, and these mean the same in both. `renamed`: names in the candidate,
    where they differ from those in the reference. `name`: what to call it in messages, such as the normalization.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    name: str = ""
    renamed: Mapping[str, str] = field(default_factory=dict)


class Standing(StrEnum):
    """HOLDS: identity up to rounding. BROKEN: a bug. UNDECIDED: this piece cannot be evaluated; `reason` says why."""

    HOLDS = "holds"
    BROKEN = "broken"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Proof:
    """One group of rewrites that share nodes, usually one. `used`: the largest share of the allowed error, 1 = all."""

    rewrites: tuple[Rewrite, ...]
    standing: Standing
    reason: str = ""
    used: float = 0.0
    max_abs: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "rewrites": [rewrite.name or ", ".join(rewrite.outputs) for rewrite in self.rewrites],
            "standing": self.standing.value,
            "reason": self.reason,
            "used": self.used if math.isfinite(self.used) else None,
            "max_abs": self.max_abs if math.isfinite(self.max_abs) else None,
        }


def prove(
    reference: Path | bytes | ModelProto,
    candidate: Path | bytes | ModelProto,
    rewrites: Sequence[Rewrite],
    seed: int = 0,
) -> tuple[Proof, ...]:
    """One proof per rewrite, or per group of rewrites that share nodes. Raises ModelError for what is not a model."""
    return prove_with(Cutter(reference), Cutter(candidate), rewrites, seed)


def prove_with(before: Cutter, after: Cutter, rewrites: Sequence[Rewrite], seed: int = 0) -> tuple[Proof, ...]:
    """As `prove`, for models that were read already."""
    shapes = InputShapes(before.model)
    return tuple(_prove(group, before, after, shapes, seed) for group in _groups(rewrites, before))


@dataclass(frozen=True)
class _Group:
    rewrites: tuple[Rewrite, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    renamed: Mapping[str, str]
    reason: str = ""


def _groups(rewrites: Sequence[Rewrite], before: Cutter) -> Iterator[_Group]:
    """Rewrites whose nodes in the reference overlap are one: a Conv that took up a map on either side."""
    regions: list[Region | None] = []
    reasons: list[str] = []
    for rewrite in rewrites:
        try:
            regions.append(before.region(rewrite.inputs, rewrite.outputs))
            reasons.append("")
        except Uncut as why:
            regions.append(None)
            reasons.append(f"before the rewrite, {why}")
    owner: dict[tuple[int, int], int] = {}
    leader = list(range(len(rewrites)))

    def find(index: int) -> int:
        while leader[index] != index:
            leader[index] = leader[leader[index]]
            index = leader[index]
        return index

    for index, region in enumerate(regions):
        for node in region.nodes if region else ():
            if region and before.scopes[region.scope].nodes[node].op_type != "Constant":
                leader[find(index)] = find(owner.setdefault((region.scope, node), index))
    for head in dict.fromkeys(find(index) for index in range(len(rewrites))):
        members = [index for index in range(len(rewrites)) if find(index) == head]
        yield _merged(members, rewrites, regions, reasons, before)


def _merged(
    members: list[int],
    rewrites: Sequence[Rewrite],
    regions: Sequence[Region | None],
    reasons: Sequence[str],
    before: Cutter,
) -> _Group:
    chosen = tuple(rewrites[index] for index in members)
    inputs = dict.fromkeys(name for rewrite in chosen for name in rewrite.inputs)
    outputs = dict.fromkeys(name for rewrite in chosen for name in rewrite.outputs)
    if len(members) > 1:
        present = [region for region in regions if region is not None and regions.index(region) in members]
        scope = before.scopes[present[0].scope]
        inside = {node for region in present for node in region.nodes}
        made = {name for node in inside for name in scope.nodes[node].output}
        read_outside = {
            name for index, node in enumerate(scope.nodes) if index not in inside for name in node.input
        } | {value.name for value in before.model.graph.output}
        read_inside = {name for node in inside for name in scope.nodes[node].input}
        inputs = dict.fromkeys(name for name in inputs if name not in made)
        outputs = dict.fromkeys(name for name in outputs if name in read_outside or name not in read_inside)
    renamed = {old: new for rewrite in chosen for old, new in rewrite.renamed.items()}
    reason = next((reasons[index] for index in members if reasons[index]), "")
    return _Group(chosen, tuple(inputs), tuple(outputs), renamed, reason)


def _prove(group: _Group, before: Cutter, after: Cutter, shapes: InputShapes, seed: int) -> Proof:
    if group.reason:
        return Proof(group.rewrites, Standing.UNDECIDED, group.reason)
    inputs = tuple(group.renamed.get(name, name) for name in group.inputs)
    outputs = tuple(group.renamed.get(name, name) for name in group.outputs)
    try:
        old_region = before.region(group.inputs, group.outputs)
        new_region = after.region(inputs, outputs)
    except Uncut as why:
        return Proof(group.rewrites, Standing.UNDECIDED, str(why))
    old = before.cut(old_region, group.inputs, group.outputs)
    new = after.cut(new_region, inputs, outputs)
    weights = sum(math.prod(tensor.dims) for tensor in new.graph.initializer)
    changed = _changed(old_region, new_region, before, after, new)
    try:
        run_old, run_new, size = Evaluator(old), Evaluator(new), Magnitude(new, changed)
    except Unknowable as why:
        return Proof(group.rewrites, Standing.UNDECIDED, str(why))
    reason = "no shapes for its inputs are known"
    for sizes in shapes.candidates(old, group.inputs):
        try:
            return _compare(group, sizes, seed, run_old, run_new, size, changed, weights)
        except Unknowable as why:
            reason = str(why)
    return Proof(group.rewrites, Standing.UNDECIDED, reason)


def _compare(
    group: _Group,
    sizes: Mapping[str, tuple[int, ...]],
    seed: int,
    run_old: Evaluator,
    run_new: Evaluator,
    size: Magnitude,
    changed: Mapping[str, int],
    weights: int,
) -> Proof:
    unit = max((facts.unit for kind in changed.values() if (facts := rounding(kind))), default=0.0)
    used = largest = 0.0
    for number, (feed, needed) in enumerate(_feeds(sizes, seed, weights)):
        try:
            answers = run_old(feed)
        except Unknowable:
            if needed:
                raise
            continue
        renamed = {group.renamed.get(name, name): array for name, array in feed.items()}
        results = run_new(renamed)
        terms = size(renamed)
        for name in group.outputs:
            other = group.renamed.get(name, name)
            was, now, scale = answers[name], results[other], terms[other]
            if was.shape != now.shape:
                return Proof(group.rewrites, Standing.BROKEN, f"{name!r} has shape {now.shape}, not {was.shape}")
            share, error = _share(was, now, scale, unit)
            largest = max(largest, error)
            used = max(used, share)
            if not share <= 1:
                place = _place(was, now)
                text = f"{name!r} is off by {error:.3g} at {list(place)}, {share:.3g} times what rounding allows"
                return Proof(group.rewrites, Standing.BROKEN, f"{text} (input {number})", share, error)
    return Proof(group.rewrites, Standing.HOLDS, "", used, largest)


def _share(was: Array, now: Array, scale: Array, unit: float) -> tuple[float, float]:
    """The largest error as a part of what is allowed, and itself. Infinite where only `now` is not finite."""
    if not was.size:
        return 0.0, 0.0
    with np.errstate(all="ignore"):
        error = np.abs(now - was)
        error[(was == now) | (np.isnan(was) & np.isnan(now))] = 0.0
        error[np.isnan(error)] = np.inf
        allowed = (2 * unit + _ARITHMETIC) * scale
        parts = np.where(error > 0, error / allowed, 0.0)
    worst = float(parts.max())
    return (math.inf if math.isnan(worst) else worst), float(error.max())


def _place(was: Array, now: Array) -> tuple[int, ...]:
    with np.errstate(all="ignore"):
        error = np.nan_to_num(np.abs(now - was), nan=np.inf)
    return tuple(int(index) for index in np.unravel_index(int(error.argmax()), error.shape))


def _feeds(sizes: Mapping[str, tuple[int, ...]], seed: int, weights: int) -> Iterator[tuple[dict[str, Array], bool]]:
    """Zeros leave the shift alone, one impulse per row leaves single weights alone, the others mix everything.

    The last feed has another batch than the rest, which a piece with a fixed batch need not support: the flag says so.
    Large weights get fewer impulses: the three others find what is wrong with more than a few of their numbers.
    """
    generator = np.random.default_rng([seed, 0x9E3779B9])
    kinds: tuple[Callable[[tuple[int, ...]], Array], ...] = (
        np.zeros,
        lambda shape: generator.standard_normal(shape),
        lambda shape: _border(generator.standard_normal(shape)),
    )
    if all(len(shape) > 1 and shape[0] == len(kinds) for shape in sizes.values()):
        rows = {name: [kind((1, *shape[1:])) for kind in kinds] for name, shape in sizes.items()}
        yield {name: np.concatenate(arrays) for name, arrays in rows.items()}, True
    else:
        for kind in kinds:
            yield {name: kind(shape) for name, shape in sizes.items()}, True
    count = max(_FEWEST_ROWS, min(_MOST_ROWS, _IMPULSE_COST // max(weights, 1)))
    yield {name: _impulses(shape, generator, count) for name, shape in sizes.items()}, False


def _impulses(shape: tuple[int, ...], generator: np.random.Generator, count: int) -> Array:
    """Row i is zero but for one channel in the middle of the map: every weight that reads it shows alone."""
    if len(shape) < 2:
        return generator.standard_normal(shape)
    channel_axis = 1 if len(shape) != 3 or shape[1] >= shape[2] else 2
    channels = generator.permutation(shape[channel_axis])[:count]
    values = np.zeros((count, *shape[1:]))
    for row in range(count):
        place: list[int] = [row, *(size // 2 for size in shape[1:])]
        if len(channels):
            place[channel_axis] = int(channels[row % len(channels)])
            values[tuple(place)] = _IMPULSE
    return values


def _border(values: Array) -> Array:
    """Only the first and last position of every spatial axis keep their values."""
    keep = np.zeros(values.shape, bool)
    for axis in range(2, values.ndim):
        edge: list[slice | list[int]] = [slice(None)] * values.ndim
        edge[axis] = [0, -1]
        keep[tuple(edge)] = True
    return np.where(keep, values, 0.0) if values.ndim > 2 else values


def _changed(old: Region, new: Region, before: Cutter, after: Cutter, model: ModelProto) -> dict[str, int]:
    """Float constants of the new piece that the old one does not hold under the same name, with their types."""
    kinds: dict[str, int] = {}
    for name in new.constants:
        tensor = after.scopes[new.scope].constant(name)
        same = before.scopes[old.scope].constant(name)
        if tensor is None or rounding(tensor.data_type) is None:
            continue
        if same is None or not same_bytes(same, tensor, before, after):
            kinds[name] = tensor.data_type
    known = [node.SerializeToString() for node in before.nodes(old)]
    for node in model.graph.node:
        if node.op_type == "Constant" and node.SerializeToString() not in known:
            for attribute in node.attribute:
                if attribute.type == AttributeProto.TENSOR and rounding(attribute.t.data_type) is not None:
                    kinds[node.output[0]] = attribute.t.data_type
                elif attribute.name in {"value_float", "value_floats"}:
                    kinds[node.output[0]] = TensorProto.FLOAT
    return kinds
