"""The constraints of each operator on the sizes of its inputs, checked on concrete sizes of every value.

A misfit names ways out: the value whose axis, or whose number of elements, would have to change, and what to.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from onnx import NodeProto

Shape = tuple[int, ...]


class Relation(StrEnum):
    """The relation of a size to the number that is wanted."""

    EQUAL = "equal"
    LEAST = "at least"
    MULTIPLE = "a multiple of"

    def holds(self, size: int, wanted: int) -> bool:
        """Whether `size` is what is wanted."""
        if self is Relation.EQUAL:
            return size == wanted
        return size >= wanted if self is Relation.LEAST else size > 0 and size % wanted == 0


class Way(NamedTuple):
    """`value` has to have `wanted` elements along `axis`; with `axis` None, in all."""

    value: str
    axis: int | None
    wanted: int
    relation: Relation = Relation.EQUAL

    def size(self, shape: Shape) -> int:
        """The size that is to change."""
        return math.prod(shape) if self.axis is None else shape[self.axis]


class Misfit(NamedTuple):
    """The misfit of the sizes at one node, in words, and the ways out, the likeliest first."""

    words: str
    ways: tuple[Way, ...]


class Known(NamedTuple):
    """A node and what is known where it stands: sizes of values, and small stored integers."""

    node: NodeProto
    shapes: Mapping[str, Shape]
    integers: Mapping[str, tuple[int, ...]]

    def shape(self, index: int) -> Shape | None:
        """The shape of an input; None where it is not known or not given."""
        name = self.name(index)
        return self.shapes.get(name) if name else None

    def name(self, index: int) -> str:
        """The name of an input; "" where it is not given."""
        return self.node.input[index] if index < len(self.node.input) else ""

    def given(self, index: int, attribute: str) -> tuple[int, ...] | None:
        """Integers that are an attribute in older operator sets and a stored input in newer ones."""
        for each in self.node.attribute:
            if each.name == attribute:
                return tuple(each.ints)
        return self.integers.get(self.name(index))

    def number(self, attribute: str, default: int) -> int:
        """An attribute that is one integer."""
        return next((each.i for each in self.node.attribute if each.name == attribute), default)

    def text(self, attribute: str, default: str) -> str:
        """An attribute that is text."""
        return next((each.s.decode() for each in self.node.attribute if each.name == attribute), default)


def misfits(known: Known) -> Iterator[Misfit]:
    """The misfits of one node with the sizes of its inputs and output."""
    rule = _RULES.get(known.node.op_type)
    if rule is not None:
        for ways in rule(known):
            yield Misfit(_words(known), tuple(ways))
    for name in known.node.output:
        for axis, size in enumerate(known.shapes.get(name, ())):
            if size < 1:
                yield Misfit(f"{_label(known.node)} has room for its window or slice", (_at_least(name, axis, 1),))


def shrinks(node: NodeProto, weight: Shape | None) -> bool:
    """Whether a window of `node`, whose kernel is `weight`, may be larger than what it slides over."""
    if node.op_type == "Pad":
        return True
    if node.op_type not in _SLIDE:
        return False
    attributes = {attribute.name: attribute for attribute in node.attribute}
    if "auto_pad" in attributes and attributes["auto_pad"].s.startswith(b"SAME"):
        return False
    kernel = tuple(attributes["kernel_shape"].ints) if "kernel_shape" in attributes else (weight or ())[2:]
    pads = tuple(attributes["pads"].ints) if "pads" in attributes else (0,) * 2 * len(kernel)
    dilations = tuple(attributes["dilations"].ints) if "dilations" in attributes else (1,) * len(kernel)
    if not kernel or node.op_type == "ConvTranspose" or len(pads) != 2 * len(kernel):
        return True
    both = zip(pads[: len(kernel)], pads[len(kernel) :], kernel, dilations, strict=False)
    return any(before + after < (size - 1) * dilation for before, after, size, dilation in both)


def _label(node: NodeProto) -> str:
    return f"{node.op_type} {node.name!r}" if node.name else node.op_type


def _words(known: Known) -> str:
    shapes = [(known.name(index), known.shape(index)) for index in range(1, len(known.node.input))]
    listed = [f"{name} [{','.join(map(str, shape))}]" for name, shape in shapes if shape]
    return f"{_label(known.node)} fits" + (f" {', '.join(listed[:3])}" if listed else "")


_Ways = Iterator[Sequence[Way]]


def _at_least(value: str, axis: int, wanted: int) -> Way:
    return Way(value, axis, wanted, Relation.LEAST)


def _same(known: Known, one: tuple[int, int], other: tuple[int, int]) -> _Ways:
    """Two axes, each (input, axis), are as long; either may change."""
    (a, axis), (b, other_axis) = one, other
    mine, yours = known.shape(a), known.shape(b)
    if mine is None or yours is None or not _has(mine, axis) or not _has(yours, other_axis):
        return
    if mine[axis] != yours[other_axis]:
        yield (
            Way(known.name(a), axis % len(mine), yours[other_axis]),
            Way(known.name(b), other_axis % len(yours), mine[axis]),
        )


def _has(shape: Shape, axis: int) -> bool:
    return -len(shape) <= axis < len(shape)


def _sized(known: Known, index: int, axis: int, wanted: int) -> _Ways:
    shape = known.shape(index)
    if shape is not None and _has(shape, axis) and shape[axis] != wanted:
        yield (Way(known.name(index), axis % len(shape), wanted),)


def _broadcast(known: Known) -> _Ways:
    yield from _aligned(known, range(len(known.node.input)), 0)


def _aligned(known: Known, indices: Sequence[int], skip: int) -> _Ways:
    """All axes from the right, the last `skip` left out, are as long or 1."""
    shapes = [(known.name(index), shape) for index in indices if (shape := known.shape(index)) is not None]
    for axis in range(1 + skip, 1 + max((len(shape) for _, shape in shapes), default=0)):
        long = [(name, len(shape) - axis, shape[-axis]) for name, shape in shapes if len(shape) >= axis]
        long = [each for each in long if each[2] != 1]
        for (name, at, size), (other, there, wanted) in itertools.pairwise(long):
            if size != wanted:
                yield Way(name, at, wanted), Way(other, there, size), Way(name, at, 1), Way(other, there, 1)


def _matmul(known: Known) -> _Ways:
    right = known.shape(1)
    if right is not None:
        yield from _same(known, (0, -1), (1, -2 if len(right) > 1 else 0))
        yield from _aligned(known, (0, 1), 2)


def _gemm(known: Known) -> _Ways:
    yield from _same(known, (0, 0 if known.number("transA", 0) else 1), (1, 1 if known.number("transB", 0) else 0))


def _conv(known: Known, weight: int = 1) -> _Ways:
    kernel = known.shape(weight)
    if kernel is not None and len(kernel) > 2:
        yield from _sized(known, 0, 1, kernel[1] * known.number("group", 1))


def _per_channel(known: Known) -> _Ways:
    yield from _same(known, (0, 1), (1, 0))


def _layer_norm(known: Known) -> _Ways:
    scale, data = known.shape(1), known.shape(0)
    if scale is not None and data is not None:
        for axis in range(1, len(scale) + 1):
            if scale[-axis] != 1:
                yield from _same(known, (0, -axis), (1, -axis))


def _recurrent(known: Known) -> _Ways:
    """X is [time, batch, features] or batch first, W [directions, gates, features].

    States are [directions, batch, units], or batch first as well.
    """
    batch_first = known.number("layout", 0)
    yield from _same(known, (0, 2), (1, 2))
    batch = (0, 0 if batch_first else 1)
    yield from _same(known, (4, 0), batch)
    for state in (5, 6) if known.node.op_type == "LSTM" else (5,):
        yield from _same(known, (state, 0 if batch_first else 1), batch)
        yield from _same(known, (state, 2), (2, 2))


def _concat(known: Known) -> _Ways:
    along = known.number("axis", 0)
    shapes = [known.shape(index) for index in range(len(known.node.input))]
    first = next((index for index, shape in enumerate(shapes) if shape is not None), None)
    for index, shape in enumerate(shapes):
        base = shapes[first] if first is not None else None
        if shape is None or base is None or len(shape) != len(base) or not _has(base, along):
            continue
        for axis in range(len(base)):
            if axis != along % len(base):
                yield from _same(known, (first or 0, axis), (index, axis))


def _split(known: Known) -> _Ways:
    parts, shape = known.given(1, "split"), known.shape(0)
    if parts and shape is not None:
        yield from _sized(known, 0, known.number("axis", 0), sum(parts))


def _reshape(known: Known) -> _Ways:
    """0 copies a size, -1 takes what is left: usually the batch, where it comes first."""
    target, shape = known.given(1, "shape"), known.shape(0)
    if target is None or shape is None:
        return
    if not known.number("allowzero", 0):
        if any(size == 0 and axis >= len(shape) for axis, size in enumerate(target)):
            return
        target = tuple(shape[axis] if size == 0 else size for axis, size in enumerate(target))
    elements, wanted, name = math.prod(shape), math.prod(size for size in target if size >= 0), known.name(0)
    if wanted < 1 or elements < 1:
        return
    if -1 not in target:
        if elements != wanted:
            yield (Way(name, None, wanted),)
    elif elements % wanted:
        rows = shape[0] if len(shape) > 1 else 1
        yield Way(name, None, wanted * rows), Way(name, None, wanted), Way(name, None, wanted, Relation.MULTIPLE)


def _expand(known: Known) -> _Ways:
    target, shape = known.given(1, "shape"), known.shape(0)
    if target is None or shape is None:
        return
    for axis, (size, wanted) in enumerate(zip(reversed(shape), reversed(target), strict=False)):
        if size not in {1, wanted} and wanted != 1:
            yield (Way(known.name(0), len(shape) - 1 - axis, wanted),)


def _pad(known: Known) -> _Ways:
    """A border that mirrors the inside is shorter than the inside; one that goes around it, no longer."""
    pads, shape = known.given(1, "pads"), known.shape(0)
    mode = known.text("mode", "constant")
    if pads is None or shape is None or mode == "constant":
        return
    axes = known.integers.get(known.name(3), tuple(range(len(shape))))
    room = {"reflect": 1, "wrap": 0}.get(mode)
    if len(pads) != 2 * len(axes) or not all(_has(shape, axis) for axis in axes):
        return
    for axis, before, after in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True):
        wanted = 1 if room is None else max(before, after) + room
        if max(before, after) > 0 and shape[axis] < wanted:
            yield (_at_least(known.name(0), axis % len(shape), wanted),)


def _gather(known: Known) -> _Ways:
    rows, shape, axis = known.integers.get(known.name(1)), known.shape(0), known.number("axis", 0)
    if rows and shape is not None and _has(shape, axis):
        wanted = max(max(row + 1, -row) for row in rows)
        if shape[axis] < wanted:
            yield (_at_least(known.name(0), axis % len(shape), wanted),)


def _squeeze(known: Known) -> _Ways:
    for axis in known.given(1, "axes") or ():
        yield from _sized(known, 0, axis, 1)


def _per_axis(known: Known) -> _Ways:
    scale = known.shape(1)
    if scale is not None and len(scale) == 1 and scale[0] != 1 and not known.number("block_size", 0):
        yield from _same(known, (0, known.number("axis", 1)), (1, 0))


def _blocks(known: Known) -> _Ways:
    shape, block = known.shape(0), known.number("blocksize", 1)
    if shape is None or len(shape) != 4 or block < 1:
        return
    wanted = {1: block * block} if known.node.op_type == "DepthToSpace" else {2: block, 3: block}
    for axis, multiple in wanted.items():
        if shape[axis] % multiple:
            yield (Way(known.name(0), axis, multiple, Relation.MULTIPLE),)


def _top_k(known: Known) -> _Ways:
    count, shape, axis = known.integers.get(known.name(1)), known.shape(0), known.number("axis", -1)
    if count and shape is not None and _has(shape, axis) and shape[axis] < count[0]:
        yield (_at_least(known.name(0), axis % len(shape), count[0]),)


def _einsum(known: Known) -> _Ways:
    terms = known.text("equation", "").partition("->")[0].replace(" ", "").split(",")
    seen: dict[str, tuple[int, int]] = {}
    for index, term in enumerate(terms):
        shape = known.shape(index)
        if "." in term or shape is None or len(shape) != len(term):
            continue
        for axis, letter in enumerate(term):
            if letter in seen:
                yield from _same(known, seen[letter], (index, axis))
            seen.setdefault(letter, (index, axis))


_SLIDE = {"Conv", "ConvInteger", "QLinearConv", "ConvTranspose", "DeformConv", "MaxPool", "AveragePool", "LpPool"}
_ELEMENTWISE = (
    "Add Sub Mul Div Pow Max Min Sum Mean And Or Xor Equal Less Greater LessOrEqual GreaterOrEqual Where PRelu Mod "
    "BitShift BitwiseAnd BitwiseOr BitwiseXor"
)
_RULES: dict[str, Callable[[Known], _Ways]] = {
    **dict.fromkeys(_ELEMENTWISE.split(), _broadcast),
    **dict.fromkeys(("MatMul", "MatMulInteger"), _matmul),
    "Gemm": _gemm,
    **dict.fromkeys(("Conv", "ConvInteger", "DeformConv"), _conv),
    "QLinearConv": lambda known: _conv(known, 3),
    **dict.fromkeys(("ConvTranspose", "BatchNormalization", "InstanceNormalization"), _per_channel),
    "GroupNormalization": lambda known: _per_channel(known) if known.number("num_groups", 1) == 1 else iter(()),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization"), _layer_norm),
    **dict.fromkeys(("RNN", "GRU", "LSTM"), _recurrent),
    "Concat": _concat,
    "Split": _split,
    "Reshape": _reshape,
    "Expand": _expand,
    "Pad": _pad,
    "Gather": _gather,
    "Squeeze": _squeeze,
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear"), _per_axis),
    **dict.fromkeys(("DepthToSpace", "SpaceToDepth"), _blocks),
    "TopK": _top_k,
    "Einsum": _einsum,
}
