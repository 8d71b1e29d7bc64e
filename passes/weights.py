"""Weights that can be scaled: stored as floats, or as integers behind a DequantizeLinear.

Of a quantized weight the quantization scales are scaled, and the integers stay what they are: w = (q - zero_point) * s
becomes (q - zero_point) * (k s). A scale for the whole tensor becomes one per channel (opset 13 and later). Runtimes
want positive scales, so a negative k needs a zero point of 0 and negates the integers of its channel, which must not
hold the smallest one: it has no negative.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from bnfold.decisions import Reason, Refused
from bnfold.graph import DEFAULT_DOMAINS, FLOATS, Graph, Tensor, number, numbers
from bnfold.passes.affine import Affine, Vector
from bnfold.passes.step import NewAttribute, NewConstant, Step, constant_input, stored_vector

FEW_BYTES = 64
"""Constants up to this size are stored as what is computed from them, in a wider type too."""


class FloatWeight:
    """A weight stored in a dtype that products can be stored in; `shape` and `dtype` are its own.

    `late`: its range may be looked at when it is written.
    """

    __slots__ = ("_index", "_late", "_node", "dtype", "shape", "tensor")

    def __init__(self, node: NodeProto, index: int, tensor: Tensor, *, late: bool) -> None:
        self._node = node
        self._index = index
        self._late = late
        self.tensor = tensor
        self.shape = tensor.shape
        self.dtype = tensor.dtype

    def scaled(self, affine: Affine, factor: Vector, axes: tuple[int, ...]) -> Step:
        """The weight times `factor`, the scales of `affine` along `axes`. Raises `Refused` where that has no room."""
        if not affine.has_scale:
            return Step()
        scaled = self.tensor.scaled(factor, *axes)
        if self._late and all(scaled.is_streamed_along(axis) for axis in axes):
            for axis in axes:
                scaled = scaled.looked_at(axis, partial(_check_source, self.tensor, scaled))
        else:
            check_range(self.tensor, scaled, axes)
        return Step((NewConstant(self._node, self._index, scaled),))


@dataclass(frozen=True, eq=False)
class QuantizedWeight:
    """The weight that `node`, a DequantizeLinear of constants, makes for one reader."""

    node: NodeProto
    integers: Tensor
    scale: Tensor
    zero_point: Tensor | None
    axis: int | None
    opset: int

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight."""
        return self.integers.shape

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the dequantized weight."""
        return self.scale.dtype

    @cached_property
    def tensor(self) -> Tensor:
        """The dequantized weight, in float64 until it is stored."""
        values = self.integers.numpy().astype(np.float64)
        if self.zero_point is not None:
            values = values - self._along_axis(self.zero_point.numpy().astype(np.float64))
        return Tensor.of(values * self._along_axis(self.scale.exact()), self.dtype)

    def _along_axis(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        form = [1] * len(self.shape)
        if self.axis is not None:
            form[self.axis] = values.size
        return values.reshape(form)

    def scaled(self, affine: Affine, factor: Vector, axes: tuple[int, ...]) -> Step:
        """The weight times `factor`, by way of its quantization scales. Raises `Refused` where that is impossible."""
        if not affine.has_scale:
            return Step()
        k, axis = self._per_channel(factor, axes)
        if (k == 0).any():
            raise Refused(Reason.ZERO_SCALE, f"at {self.node.output[0]!r}")
        constants = self._negated(k, axis)
        scale = np.abs(k) * self.scale.exact().reshape(-1)
        constants.append(NewConstant(self.node, 1, _stored_scale(scale, self.scale.dtype)))
        if self.axis is not None:
            return Step(tuple(constants))
        if self.opset < 13:
            raise Refused(Reason.OLD_OPSET, f"{self.node.output[0]!r} has one quantization scale for all channels")
        if self.zero_point is not None:
            repeated = np.repeat(self.zero_point.numpy().reshape(-1), k.size)
            constants.append(NewConstant(self.node, 2, Tensor.of(repeated, self.zero_point.dtype)))
        return Step(tuple(constants), (NewAttribute(self.node, "axis", axis),))

    def _per_channel(self, factor: Vector, axes: tuple[int, ...]) -> tuple[Vector, int]:
        """The factor as one number per index of one axis, which must be that of the quantization."""
        for position, axis in enumerate(axes):
            k = np.take(factor, 0, axis=1 - position) if len(axes) == 2 else factor
            rest = [1] * len(axes)
            rest[position] = -1
            if (factor == k.reshape(rest)).all() and self.axis in (None, axis):
                return np.broadcast_to(k, (self.shape[axis],)).copy(), axis
        raise Refused(Reason.WRONG_AXIS, f"{self.node.output[0]!r} is quantized along axis {self.axis}")

    def _negated(self, k: Vector, axis: int) -> list[NewConstant]:
        if (k > 0).all():
            return []
        integers = self.integers.numpy()
        lowest = np.iinfo(integers.dtype).min if integers.dtype.kind == "i" else 0
        negative = np.moveaxis(integers, axis, 0)[k < 0]
        symmetric = self.zero_point is None or not self.zero_point.numpy().any()
        if lowest >= 0 or not symmetric or (negative == lowest).any():
            raise Refused(Reason.NEGATIVE_SCALE, f"at the quantized weight {self.node.output[0]!r}")
        sign = np.where(k < 0, -1, 1).astype(integers.dtype)
        form = [1] * integers.ndim
        form[axis] = -1
        return [NewConstant(self.node, 0, Tensor.of(integers * sign.reshape(form), self.integers.dtype))]


def _stored_scale(scale: Vector, dtype: np.dtype) -> Tensor:
    """Quantization scales must stay normal numbers."""
    tensor = stored_vector(scale, dtype)
    _require_normal(scale, dtype)
    return tensor


def _require_normal(scale: NDArray[np.float64], dtype: np.dtype) -> None:
    sizes = np.abs(scale)
    if (sizes < FLOATS[dtype].smallest_normal).any():
        raise Refused(Reason.WEIGHT_UNDERFLOW, f"a quantization scale of {sizes.min():.4g} in {dtype}")


@dataclass(frozen=True, eq=False)
class FactoredWeight:
    """The weight that `node`, a Mul of something stored small and a `factor`, makes for one reader: int8 times scales.

    The factor takes the map up, so that what is stored small stays small. A Div divides by it.
    """

    node: NodeProto
    index: int
    factor: Tensor
    tensor: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight."""
        return self.tensor.shape

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the weight."""
        return self.tensor.dtype

    def scaled(self, affine: Affine, factor: Vector, axes: tuple[int, ...]) -> Step:
        """The weight times `factor`, by way of its own factor. Raises `Refused` where that has no room."""
        if not affine.has_scale:
            return Step()
        check_range(self.tensor, self.tensor.scaled(factor, *axes), axes)
        factor = np.broadcast_to(factor, [self.shape[axis] for axis in axes])
        rank = len(self.shape)
        form = [1] * rank
        for axis, size in zip(axes, factor.shape, strict=True):
            form[axis] = size
        own = self.factor.exact().reshape([1] * (rank - len(self.factor.shape)) + list(self.factor.shape))
        if self.node.op_type == "Div" and (factor == 0).any():
            raise Refused(Reason.ZERO_SCALE, f"at {self.node.output[0]!r}")
        new = own / factor.reshape(form) if self.node.op_type == "Div" else own * factor.reshape(form)
        _require_normal(new[new != 0], self.dtype)  # no runtime asks anything of these scales
        return Step((NewConstant(self.node, self.index, stored_vector(new, self.dtype)),))


@dataclass(frozen=True, eq=False)
class TransposedWeight:
    """The weight that a Transpose makes of another one, for one reader: its axis n is axis `order[n]` of that."""

    weight: QuantizedWeight | FactoredWeight
    order: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight."""
        return tuple(self.weight.shape[axis] for axis in self.order)

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the weight."""
        return self.weight.dtype

    @cached_property
    def tensor(self) -> Tensor:
        """The weight, in float64 until it is stored."""
        return Tensor.of(self.weight.tensor.exact().transpose(self.order), self.dtype)

    def scaled(self, affine: Affine, factor: Vector, axes: tuple[int, ...]) -> Step:
        """The weight times `factor`, by way of what is transposed. Raises `Refused` where that is impossible."""
        inner = [self.order[axis] for axis in axes]
        return self.weight.scaled(affine, factor.transpose(np.argsort(inner)), tuple(sorted(inner)))


Weight = FloatWeight | QuantizedWeight | FactoredWeight | TransposedWeight


def read_weight(node: NodeProto, index: int, graph: Graph) -> Weight:
    """The weight at input `index` of `node`. Raises `Refused` where it is no constant that can be scaled."""
    value = node.input[index] if index < len(node.input) else ""
    tensor = graph.constant(value)
    if tensor is not None:
        if tensor.dtype not in FLOATS:
            raise Refused(Reason.UNSUPPORTED_DTYPE, f"{value!r} is {tensor.dtype}")
        factored = _factored(value, tensor, graph)
        if factored is not None:
            return factored
        return FloatWeight(node, index, tensor, late=graph.model.looks_late)
    maker = graph.producer(value)
    turned = None
    if maker is not None and maker.op_type == "Transpose" and maker.domain in DEFAULT_DOMAINS and maker.input:
        turned, maker = maker, graph.producer(maker.input[0])
    if maker is None or maker.op_type != "DequantizeLinear" or maker.domain not in DEFAULT_DOMAINS:
        graph.require_undisputed(value)
        raise Refused(Reason.WEIGHT_NOT_CONSTANT, f"{value!r} of {graph.known_as(node)}")
    if turned is None:
        return _read_quantized(maker, value, graph)
    if len(graph.readers(value)) != 1 or graph.is_output(value):
        raise Refused(Reason.OTHER_CONSUMER, f"the dequantized weight {value!r}")
    weight = _read_quantized(maker, turned.input[0], graph)
    return TransposedWeight(weight, _order(turned, weight.shape, graph))


def _order(node: NodeProto, shape: tuple[int, ...], graph: Graph) -> tuple[int, ...]:
    """The order of axes that a Transpose gives a value of that shape."""
    order = tuple(numbers(node, "perm", range(len(shape))[::-1]))
    if sorted(order) != list(range(len(shape))):
        raise Refused(Reason.MALFORMED, f"the attributes of {graph.known_as(node)}")
    return order


def _factored(value: str, tensor: Tensor, graph: Graph) -> FactoredWeight | TransposedWeight | None:
    """The weight as a product, where it is one of something stored smaller than the weight and a stored factor."""
    maker = graph.producer(value)
    if maker is None or maker.op_type not in ("Mul", "Div", "Transpose") or maker.domain not in DEFAULT_DOMAINS:
        return None
    if len(graph.readers(value)) != 1 or graph.is_output(value) or graph.stored_bytes(value) >= tensor.nbytes:
        return None
    if maker.op_type == "Transpose":
        before = graph.constant(maker.input[0])
        inner = None if before is None else _factored(maker.input[0], before, graph)
        return TransposedWeight(inner, _order(maker, inner.shape, graph)) if isinstance(inner, FactoredWeight) else None
    if len(maker.input) != 2:
        return None
    for index in (0, 1) if maker.op_type == "Mul" else (1,):
        factor, other = (graph.constant(maker.input[place]) for place in (index, 1 - index))
        stored = graph.producer(maker.input[index]) is None and graph.producer(maker.input[1 - index]) is not None
        is_small = graph.stored_bytes(maker.input[1 - index]) <= FEW_BYTES
        if stored and not is_small and factor is not None and other is not None and other.shape == tensor.shape:
            return FactoredWeight(maker, index, factor, tensor)
    return None


def _read_quantized(maker: NodeProto, value: str, graph: Graph) -> QuantizedWeight:
    if len(graph.readers(value)) != 1 or graph.is_output(value):
        raise Refused(Reason.OTHER_CONSUMER, f"the dequantized weight {value!r}")
    integers, scale = constant_input(maker, 0, graph), constant_input(maker, 1, graph)
    zero_point = constant_input(maker, 2, graph) if len(maker.input) > 2 and maker.input[2] else None
    if number(maker, "block_size", 0) or len(scale.shape) > 1 or scale.dtype not in FLOATS:
        raise Refused(Reason.UNSUPPORTED_DTYPE, f"{value!r} is quantized in blocks or with scales of {scale.dtype}")
    if integers.dtype.kind not in "iu" or scale.dtype != graph.dtype(value):
        raise Refused(Reason.UNSUPPORTED_DTYPE, f"{value!r} is dequantized from {integers.dtype}")
    axis = None
    if scale.shape not in ((), (1,)):
        axis = number(maker, "axis", 1)
        axis += len(integers.shape) if axis < 0 else 0
        if not 0 <= axis < len(integers.shape) or scale.size != integers.shape[axis]:
            raise Refused(Reason.WEIGHT_SHAPE, f"the quantization scales of {value!r} have shape {list(scale.shape)}")
    if zero_point is not None and zero_point.shape != scale.shape:
        raise Refused(Reason.WEIGHT_SHAPE, f"the zero points of {value!r} have shape {list(zero_point.shape)}")
    return QuantizedWeight(maker, integers, scale, zero_point, axis, graph.opset)


def check_range(weight: Tensor, scaled: Tensor, axes: tuple[int, ...]) -> None:
    """Refuse a scaled weight that is not finite in its dtype, or a channel of it that would vanish in the rounding.

    A channel whose largest weight stays in the normal range has a rounding error of at most one unit roundoff of that
    weight in every element, so only channels that fall below the range as a whole are refused. A dead channel, which
    lay below it before, stays dead.
    """
    if scaled.has_only_normals():
        return
    for axis in axes:
        _check_axis(weight.dtype, scaled.magnitude(axis), partial(weight.magnitude, axis))


def _check_source(weight: Tensor, scaled: Tensor, largest: Vector) -> None:
    """Check the overflow by the largest values of the source along an axis that both are scaled along."""
    _check_axis(weight.dtype, scaled.times_factors(largest), partial(weight.times_factors, largest))


def _check_axis(dtype: np.dtype, largest: Vector, before: Callable[[], Vector]) -> None:
    limits = FLOATS[dtype]
    if not (largest <= limits.largest).all():
        raise Refused(Reason.WEIGHT_OVERFLOW, f"{largest.max():.4g} in {dtype}")
    small = (largest < limits.smallest_normal) & (largest > 0)
    if small.any() and (before()[small] >= limits.smallest_normal).any():
        raise Refused(Reason.WEIGHT_UNDERFLOW, f"{largest[small].min():.4g} in {dtype}")
