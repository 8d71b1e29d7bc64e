"""`Step`: what one operator takes of an affine map, and what it passes on; and how operators read their parameters.

A handler of a table looks at one node, changes nothing, and returns the steps that are possible there, the best first.
It raises `Refused` with the reason where none is.
"""

from collections.abc import Callable, Collection, Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from bnfold.decisions import Reason, Refused
from bnfold.graph import FLOATS, Graph, Tensor, numbers, text
from bnfold.passes.affine import MOST_ELEMENTS, Affine, Vector, all_finite

Dims = tuple[int | str | None, ...]

# What the sum of the squares of numbers that fit stays below; for float64 no more than that it is finite.
_LARGEST_SQUARES = {dtype: limits.largest ** (1 if dtype == np.float64 else 2) for dtype, limits in FLOATS.items()}


class NewConstant(NamedTuple):
    """Input `position` of `node` is to read `tensor`."""

    node: NodeProto
    position: int
    tensor: Tensor


class NewAttribute(NamedTuple):
    """Attribute `name` of `node` is to be `value`."""

    node: NodeProto
    name: str
    value: Any


class Step(NamedTuple):
    """The change of one node so that its output (or input) is mapped, and the maps left to its neighbours.

    `passes_on` holds (index, map) pairs: input indices where the walk goes toward the producers, output indices where
    it goes toward the consumers. `add` is a constant to be added to the node's first output by an Add of its own.
    """

    constants: tuple[NewConstant, ...] = ()
    attributes: tuple[NewAttribute, ...] = ()
    passes_on: tuple[tuple[int, Affine], ...] = ()
    add: Tensor | None = None

    def also(self, constants: Iterable[NewConstant], attributes: Iterable[NewAttribute] = ()) -> "Step":
        """This step, and these changes too."""
        return self._replace(constants=(*self.constants, *constants), attributes=(*self.attributes, *attributes))


# (node, output or input index, map, graph) -> possible steps, the best first
Handler = Callable[[NodeProto, int, Affine, Graph], list[Step]]


def pass_on(*pairs: tuple[int, Affine]) -> Step:
    """A step that takes nothing and passes `pairs` on."""
    return Step(passes_on=tuple((index, affine) for index, affine in pairs if not affine.is_identity))


def constant_input(node: NodeProto, index: int, graph: Graph, reason: Reason = Reason.WEIGHT_NOT_CONSTANT) -> Tensor:
    """The constant that input `index` reads. Raises `Refused` with `reason`."""
    name = node.input[index] if index < len(node.input) else ""
    tensor = graph.constant(name)
    if tensor is None:
        graph.require_undisputed(name)
        raise Refused(reason, f"{name!r} of {graph.known_as(node)}")
    return tensor


def optional_constant_input(node: NodeProto, index: int, graph: Graph, reason: Reason) -> Tensor | None:
    """The constant at an input that may be absent (or ""): None then."""
    if index >= len(node.input) or not node.input[index]:
        return None
    return constant_input(node, index, graph, reason)


def stored_vector(values: NDArray[np.float64], dtype: np.dtype) -> Tensor:
    """`values` as a tensor of `dtype`. Raises `Refused` where that is no float type, or rounding makes one infinite."""
    if dtype not in FLOATS:
        raise Refused(Reason.UNSUPPORTED_DTYPE, f"a constant of {dtype}")
    flat = values.reshape(-1)
    within = flat.dot(flat) <= _LARGEST_SQUARES[dtype]  # the quickest look, and enough for all but the largest numbers
    if not within and (not all_finite(values) or np.abs(values).max(initial=0.0) > FLOATS[dtype].largest):
        raise Refused(Reason.WEIGHT_OVERFLOW, f"{np.abs(values).max():.4g} in {dtype}")
    return Tensor.of(values, dtype)


def known_shape(graph: Graph, value: str) -> Dims:
    """The shape of `value`, with at least its rank known. Raises `Refused`."""
    shape = graph.shape(value)
    if shape is None:
        raise Refused(Reason.SHAPE_UNKNOWN, repr(value))
    return shape


def known_rank(graph: Graph, value: str) -> int:
    """The rank of `value`. Raises `Refused`."""
    return len(known_shape(graph, value))


def known_dim(graph: Graph, value: str, axis: int) -> int:
    """The size of one dim of `value`, counted from the front. Raises `Refused`, and IndexError where it has fewer."""
    if axis < 0:  # counted from the back, and further than to the front
        raise Refused(Reason.MALFORMED, f"dim {axis} of {value!r}")
    size = known_shape(graph, value)[axis]
    if not isinstance(size, int):
        raise Refused(Reason.SHAPE_UNKNOWN, f"dim {axis} of {value!r}")
    if not 0 <= size <= MOST_ELEMENTS:
        raise Refused(Reason.SEARCH_LIMIT, f"dim {axis} of {value!r} is {size}")
    return size


def require_axes(affine: Affine, axes: Collection[int], node: NodeProto, graph: Graph) -> None:
    """Raise `Refused` where the map varies along other axes."""
    others = [axis for axis in affine.axes if axis not in axes]
    if others:
        raise Refused(Reason.WRONG_AXIS, f"axis {others[0]}, along which {graph.known_as(node)} takes no map")


def vectors(
    affine: Affine, axis: int, size: int, node: NodeProto, graph: Graph, verb: str = "makes"
) -> tuple[Vector, Vector]:
    """Scale and shift of the map along the one `axis` where `node` can take it up, each of shape [size].

    Raises `Refused` where it varies along another axis, or has another number of channels.
    """
    require_axes(affine, (axis,), node, graph)
    scale, shift = affine.scale.reshape(-1), affine.shift.reshape(-1)
    if scale.size not in (1, size):
        raise Refused(Reason.WEIGHT_SHAPE, f"{graph.known_as(node)} {verb} {size} channels, the map has {scale.size}")
    return (scale, shift) if scale.size == size else (np.repeat(scale, size), np.repeat(shift, size))


def pads_with_zeros(node: NodeProto) -> bool:
    """Whether the windows of a convolution or pooling may reach over the border of its input."""
    return any(numbers(node, "pads")) or text(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID")
