"""Which sizes dynamic dimensions get, so that every node of the model sees more than one tap of its kernel.

At 1x1 a padded 3x3 convolution reads its centre tap alone and a wrong border cannot be seen. So height and width are
made large enough that each node that slides a window gets a map larger than that window, counting the strides before
it, and a multiple of the total stride, which is what encoder-decoder models need.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

from onnx import ModelProto, NodeProto

from bnfold.equivalence.feeds.refusals import proposals
from bnfold.equivalence.feeds.size_solving import LARGEST_INPUT, Shapes, SizeSolver, Unknown, Unknowns
from bnfold.equivalence.operators import operator_of
from bnfold.equivalence.structure.signature import Dim, Port, every_node_by_dataflow
from bnfold.errors import UsageError

LARGEST_SIDE = 512
SOLVED_FIRST = 2000
"""Nodes up to which sizes are inferred, at some 40 microseconds a node, before anything is run."""
FALLBACK_SIDES = (224, 256, 64, 299, 32, 28, 16, 8, 4, 2)
FALLBACK_ELEMENTS = LARGEST_INPUT
"""Larger inputs are not tried: a side of 256 is 64 Ki pixels of a picture, but 16 Mi voxels of a volume."""
_NON_SPATIAL_SIDE = 5
_STRETCHED = 4
"""Axes in a row that get different sizes. With ten the product of all would be some 40 million."""


class Sides(NamedTuple):
    """The spatial side to use first, and the step by which other sides may differ from it."""

    first: int
    step: int


def windows(model: ModelProto) -> Sides:
    """One walk over the nodes in order: the total stride in front of each window, times the window plus one.

    Bodies and functions are walked through as well, the latter as if they stood at the beginning.
    """
    weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    stride_at: dict[str, float] = {}
    side, step = 2.0, 1.0
    for node in itertools.chain(every_node_by_dataflow(model.graph), *map(every_node_by_dataflow, model.functions)):
        if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
            weights[node.output[0]] = tuple(node.attribute[0].t.dims)
        elif node.op_type == "Identity" and node.input[0] in weights:
            weights[node.output[0]] = weights[node.input[0]]
        before = max((stride_at.get(name, 1.0) for name in node.input if name), default=1.0)
        stride = 1.0
        if operator_of(node).windowed:
            kernel, dilation, stride = _window(node, weights)
            side = max(side, before * (dilation * (kernel - 1) + 2))
            if node.op_type == "ConvTranspose":
                stride = 1.0 / stride
        after = max(before * stride, 1.0)
        step = max(step, after)
        for name in node.output:
            stride_at[name] = after
    step = math.ceil(step)
    return Sides(first=min(step * math.ceil(side / step), LARGEST_SIDE), step=step)


def _window(node: NodeProto, weights: Mapping[str, tuple[int, ...]]) -> tuple[int, int, float]:
    attributes = {attribute.name: list(attribute.ints) for attribute in node.attribute if attribute.ints}
    kernel = attributes.get("kernel_shape") or list(weights.get(node.input[1], ())[2:] if len(node.input) > 1 else ())
    return max(kernel, default=3), max(attributes.get("dilations", [1])), float(max(attributes.get("strides", [1])))


class Sizes:
    """The sizes that the inputs of one model may have. Raises UsageError for a bad `fixed`.

    `fixed`: shapes that the caller gives, by input. What is left is guessed from the windows of the model, and
    corrected by what the nodes accept.
    """

    def __init__(self, model: ModelProto, ports: tuple[Port, ...], fixed: Mapping[str, Sequence[int]]) -> None:
        check_overrides(ports, fixed)
        self._model, self._ports, self._fixed = model, ports, fixed
        self._unknowns = Unknowns(ports, fixed)
        guessed = self._has_batches_alone or len(model.graph.node) > SOLVED_FIRST
        self._orders = (False, True) if guessed else (True, False)
        self._solver = SizeSolver(model, self._unknowns)
        self._reasons: dict[tuple[tuple[str, tuple[int, ...]], ...], Mapping[Unknown, str]] = {}

    @property
    def _has_batches_alone(self) -> bool:
        """Whether nothing is open but the first axis of inputs that have others."""
        several = all(port.dims is not None and len(port.dims) > 1 for port in self._ports)
        return several and set(self._unknowns) <= set(self._unknowns.leading())

    @cached_property
    def _sides(self) -> Sides:
        return windows(self._model)

    def variants(self, batch: int, like: Shapes | None = None) -> Iterator[Shapes]:
        """Every set of shapes worth trying at one batch size, without repetition: solved ones, then guesses alone.

        Of a large model, where solving costs much, guesses come first, and of one whose batch alone is open, where they
        are hardly ever wrong. `like`: what the reference took at another batch size.
        """
        seen: list[Shapes] = []
        if like is not None:
            seen.append(self.rebatched(like, batch))
            yield seen[0]
        for solving in self._orders:
            for first in self._guesses(batch):
                shapes = self._solved(first) if solving else first
                if shapes not in seen:
                    seen.append(shapes)
                    yield shapes

    def shifted(self, shapes: Shapes, by: int) -> Shapes:
        """`shapes` with other sizes, odd for even, where an axis neither comes first nor is decided by a node."""
        reasons = self._reasons.get(tuple(shapes.items()), {})
        values = self._unknowns.values(shapes)
        free = [unknown for unknown in values if unknown not in reasons and unknown not in self._unknowns.leading()]
        return self._unknowns.shapes(shapes, values | {unknown: values[unknown] + by for unknown in free})

    def rebatched(self, like: Shapes, batch: int) -> Shapes:
        """`like`, one row, with another batch size."""
        values = self._unknowns.values(like) | dict.fromkeys(self._batch(like), batch)
        shapes = self._unknowns.shapes(like, values)
        self._reasons[tuple(shapes.items())] = self._reasons.get(tuple(like.items()), {})
        return shapes

    def smallest(self) -> Iterator[Shapes]:
        """Every dynamic dimension at 1, or as small as the nodes accept: sizes many models do not support."""
        ones = _assign(self._ports, self._fixed, 1, 1, 0)
        yield ones
        solved = self._solved(ones)
        if solved != ones:
            yield solved

    def batched(self, first: Shapes) -> bool:
        """Whether a dimension that comes first somewhere may have another size than in `first`."""
        return bool(self._batch(first))

    def _batch(self, shapes: Shapes) -> list[Unknown]:
        """The unknowns that are 1 as a batch is in `shapes`, and that no node decided."""
        values = self._unknowns.values(shapes)
        return [unknown for unknown in self._unknowns.leading() if values[unknown] == 1]

    def after(self, refusal: str, shapes: Shapes) -> Iterator[Shapes]:
        """Other shapes, from the numbers in what a runtime said when it refused `shapes`."""
        values = self._unknowns.values(shapes)
        for unknown, size in proposals(refusal, values):
            yield self._solved(self._unknowns.shapes(shapes, values | {unknown: size}), {unknown: size}, refusal)

    def described(self, shapes: Shapes) -> list[str]:
        """For people: how each dynamic size in `shapes` was found."""
        reasons = self._reasons.get(tuple(shapes.items()), {})
        return [
            f"{self._unknowns.label(unknown)} = {size}: {reasons.get(unknown, 'chosen')}"
            for unknown, size in self._unknowns.values(shapes).items()
        ]

    def _guesses(self, batch: int) -> Iterator[Shapes]:
        if self._has_batches_alone:
            yield _assign(self._ports, self._fixed, batch, 1, 0)
            return
        first, step = self._sides.first, self._sides.step
        for number, (side, stretches) in enumerate([(first, (step, 0)), *((side, (0,)) for side in FALLBACK_SIDES)]):
            for stretch in stretches:
                shapes = _assign(self._ports, self._fixed, batch, side, stretch)
                if not number or max(map(math.prod, shapes.values()), default=0) <= FALLBACK_ELEMENTS:
                    yield shapes

    def _solved(self, first: Shapes, kept: Mapping[Unknown, int] | None = None, refusal: str = "") -> Shapes:
        solution = self._solver.solve(first, kept)
        reasons = dict.fromkeys(kept or {}, f"the runtime said: {refusal}") | dict(solution.reasons)
        self._reasons[tuple(solution.shapes.items())] = reasons
        return solution.shapes


def check_overrides(ports: tuple[Port, ...], fixed: Mapping[str, Sequence[int]]) -> None:
    """Raises UsageError where `--input-shape` names no input or contradicts its static dimensions."""
    by_name = {port.name: port for port in ports}
    for name, shape in fixed.items():
        port = by_name.get(name)
        if port is None:
            raise UsageError(f"input shape for {name!r}: the model has no such input; it has {_listed(by_name)}.")
        if any(size < 0 for size in shape):
            raise UsageError(f"input shape {_text(shape)} for {name!r}: a size cannot be negative.")
        if port.dims is None:
            continue
        if len(shape) != len(port.dims) or any(
            isinstance(dim, int) and dim != size for dim, size in zip(port.dims, shape, strict=True)
        ):
            raise UsageError(f"input shape {_text(shape)} for {name!r}: the model declares {port.type_name}.")


def _assign(ports: tuple[Port, ...], fixed: Mapping[str, Sequence[int]], batch: int, side: int, stretch: int) -> Shapes:
    """Assign sizes: a symbolic name gets the same size everywhere; a size given by the user wins."""
    symbols: dict[str, int] = {}
    for port in ports:
        for dim, size in zip(port.dims or (), fixed.get(port.name, ()), strict=False):
            if isinstance(dim, str):
                symbols.setdefault(dim, size)
    shapes: Shapes = {}
    for port in ports:
        if port.name in fixed:
            shapes[port.name] = tuple(fixed[port.name])
            continue
        dims = port.dims if port.dims is not None else (None,)
        chosen = []
        for axis, dim in enumerate(dims):
            known = dim if isinstance(dim, int) else symbols.get(dim or "")
            size = _dynamic_size(dims, axis, batch, side, stretch) if known is None else known
            if isinstance(dim, str):
                symbols.setdefault(dim, size)
            chosen.append(size)
        shapes[port.name] = tuple(chosen)
    return shapes


def _dynamic_size(dims: tuple[Dim, ...], axis: int, batch: int, side: int, stretch: int) -> int:
    if axis == 0:
        return batch
    if len(dims) < 3:
        return 1 if side == 1 else max(_NON_SPATIAL_SIDE, min(side, 16))
    # Height and width differ, so that a model with its axes swapped is not taken for a right one.
    return side + stretch * ((axis - 2) % _STRETCHED if axis >= 2 else 0)


def _listed(names: Mapping[str, Port]) -> str:
    return ", ".join(names) or "none"


def _text(shape: Sequence[int]) -> str:
    return ",".join(map(str, shape)) or "scalar"
