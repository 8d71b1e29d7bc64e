"""Which sizes dynamic dimensions get, so that every node of the model sees more than one tap of its kernel.

At 1x1 a padded 3x3 convolution reads its centre tap alone and a wrong border cannot be seen. So height and width are
made large enough that each node that slides a window gets a map larger than that window, counting the strides before
it, and a multiple of the total stride, which is what encoder-decoder models need.
"""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from onnx import GraphProto, ModelProto, NodeProto

from bnfold.equivalence.operators import operator_of
from bnfold.equivalence.structure.signature import Dim, Port, every_node
from bnfold.errors import UsageError

Shapes = dict[str, tuple[int, ...]]
"""A concrete shape for every input."""

LARGEST_SIDE = 512
FALLBACK_SIDES = (224, 256, 64, 299, 32, 28, 16, 8, 4, 2)
FALLBACK_ELEMENTS = 8 << 20
"""Larger inputs are not tried: a side of 256 is 64 Ki pixels of a picture, but 16 Mi voxels of a volume."""
_NON_SPATIAL_SIDE = 5


@dataclass(frozen=True)
class Sides:
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
    for node in itertools.chain(every_node(model.graph), *map(every_node, model.functions)):
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


def variants(
    model: ModelProto, ports: tuple[Port, ...], fixed: Mapping[str, tuple[int, ...]], batch: int
) -> Iterator[Shapes]:
    """Every set of shapes worth trying at one batch size, without repetition. Raises UsageError for a bad `fixed`."""
    check_overrides(ports, fixed)
    sides = windows(model)
    known = _sizes_weights_imply(model.graph, ports)
    seen: list[Shapes] = []
    for side, step in ((sides.first, sides.step), *((other, 0) for other in FALLBACK_SIDES)):
        for stretch in dict.fromkeys((step, 0)):
            shapes = _assign(ports, fixed, known, batch, side, stretch)
            if seen and max(map(math.prod, shapes.values()), default=0) > FALLBACK_ELEMENTS:
                continue
            if shapes not in seen:
                seen.append(shapes)
                yield shapes


def smallest(model: ModelProto, ports: tuple[Port, ...], fixed: Mapping[str, tuple[int, ...]]) -> Shapes:
    """Every dynamic dimension at 1, where a kernel reads its centre tap alone: a size many models do not support."""
    return _assign(ports, fixed, _sizes_weights_imply(model.graph, ports), 1, 1, 0)


def check_overrides(ports: tuple[Port, ...], fixed: Mapping[str, tuple[int, ...]]) -> None:
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


def _assign(
    ports: tuple[Port, ...],
    fixed: Mapping[str, tuple[int, ...]],
    known: Mapping[tuple[str, int], int],
    batch: int,
    side: int,
    stretch: int,
) -> Shapes:
    """The same symbolic name gets the same size everywhere; a size given by the user or a weight wins."""
    symbols: dict[str, int] = {}
    for port in ports:
        for axis, dim in enumerate(port.dims or ()):
            size = fixed[port.name][axis] if port.name in fixed else known.get((port.name, axis))
            if isinstance(dim, str) and size is not None:
                symbols.setdefault(dim, size)
    shapes: Shapes = {}
    for port in ports:
        if port.name in fixed:
            shapes[port.name] = tuple(fixed[port.name])
            continue
        dims = port.dims if port.dims is not None else (None,)
        chosen = []
        for axis, dim in enumerate(dims):
            size = dim if isinstance(dim, int) else known.get((port.name, axis))
            if size is None and isinstance(dim, str):
                size = symbols.get(dim)
            if size is None:
                size = _dynamic_size(dims, axis, batch, side, stretch)
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
    return side + stretch * (axis - 2 if axis >= 2 else 0)


def _sizes_weights_imply(graph: GraphProto, ports: tuple[Port, ...]) -> dict[tuple[str, int], int]:
    """Sizes that an input's direct reader leaves no choice about: channels of a Conv, columns of a Gemm."""
    weights = {tensor.name: tensor for tensor in graph.initializer}
    ranks = {port.name: len(port.dims) for port in ports if port.dims is not None}
    implied: dict[tuple[str, int], int] = {}
    for node in graph.node:
        if len(node.input) < 2 or node.input[0] not in ranks or node.input[1] not in weights:
            continue
        name, dims = node.input[0], list(weights[node.input[1]].dims)
        options = {attribute.name: attribute.i for attribute in node.attribute}
        if node.op_type == "Conv" and len(dims) > 2:
            implied[name, 1] = dims[1] * options.get("group", 1)
        elif node.op_type in {"ConvTranspose", "BatchNormalization"}:
            implied[name, 1] = dims[0]
        elif node.op_type == "Gemm" and len(dims) == 2:
            implied[name, 0 if options.get("transA") else 1] = dims[1 if options.get("transB") else 0]
        elif node.op_type == "MatMul" and len(dims) >= 2:
            implied[name, ranks[name] - 1] = dims[-2]
    return implied


def _listed(names: Mapping[str, Port]) -> str:
    return ", ".join(names) or "none"


def _text(shape: tuple[int, ...]) -> str:
    return ",".join(map(str, shape)) or "scalar"
