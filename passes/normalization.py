"""Reading BatchNormalization: whether it is in inference mode, and which per-channel map it is then.

Sources: ONNX operator changelog, BatchNormalization-1, -6, -7, -9, -14, -15.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from onnx import AttributeProto, NodeProto

from bnfold.decisions import Reason, Refused
from bnfold.graph import DEFAULT_DOMAINS, FLOATS, Graph, Tensor, number
from bnfold.passes.affine import Affine, Vector

DEFAULT_EPSILON = float(np.float32(1e-5))  # attributes are float32
DEFAULT_MOMENTUM = float(np.float32(0.9))
_WORTH_JOINING = 16
PARAMETERS = ("scale", "B", "input_mean", "input_var")


class Mode(StrEnum):
    """The statistics that the operator normalizes with: the stored ones, or those of the batch."""

    INFERENCE = "inference"
    TRAIN = "train"


def is_batch_norm(node: NodeProto) -> bool:
    """Whether `node` is ONNX's own BatchNormalization."""
    return node.op_type == "BatchNormalization" and node.domain in DEFAULT_DOMAINS


def mode(node: NodeProto, graph: Graph) -> Mode:
    """Opset 1-6: `is_test` (absent means train). 7-13: train iff there is a second output. 14+: `training_mode`."""
    opset = graph.opset
    if opset < 7:
        return Mode.INFERENCE if number(node, "is_test", 0) else Mode.TRAIN
    if opset < 14:
        return Mode.TRAIN if any(node.output[1:]) else Mode.INFERENCE
    return Mode.TRAIN if number(node, "training_mode", 0) else Mode.INFERENCE


class Description(NamedTuple):
    """The facts on one normalization that people ask for. `data` is the value it normalizes.

    `channels` is None where the parameters do not tell; `epsilon` and `momentum` (the share of the old statistic that
    stays) are None for operators that have none.
    """

    mode: Mode
    data: str
    channels: int | None
    epsilon: float | None
    momentum: float | None


def describe(node: NodeProto, graph: Graph) -> Description:
    """The facts about a BatchNormalization, or about an operator that may be one in disguise."""
    if not is_batch_norm(node):
        computed = [value for value in node.input if graph.constant(value) is None]
        constants = [tensor for value in node.input if (tensor := graph.constant(value)) is not None]
        large = [size for tensor in constants for size in tensor.shape if size != 1]
        channels = large[0] if len(large) == 1 else None
        return Description(Mode.INFERENCE, (computed or list(node.input) or [""])[0], channels, None, None)
    try:
        how, epsilon, momentum = (
            mode(node, graph),
            number(node, "epsilon", DEFAULT_EPSILON),
            number(node, "momentum", DEFAULT_MOMENTUM),
        )
    except Refused:  # an attribute that the caller of a function gives
        how, epsilon, momentum = Mode.INFERENCE, None, None
    shapes = [graph.shape(value) for value in node.input[1:5]]
    sizes = [shape[0] for shape in shapes if shape is not None and len(shape) == 1 and isinstance(shape[0], int)]
    return Description(how, node.input[0] if node.input else "", sizes[0] if sizes else None, epsilon, momentum)


def scale_and_shift(scale: Vector, bias: Vector, mean: Vector, deviation: Vector) -> tuple[Vector, Vector]:
    """k = scale / deviation and t = bias - mean * k for each channel; deviation is sqrt(variance + epsilon)."""
    k = scale / deviation
    return k, bias - mean * k


class BatchNorm(NamedTuple):
    """The constants of one inference-mode BatchNormalization: float64 of shape [C] each, and epsilon."""

    scale: NDArray[np.float64]
    bias: NDArray[np.float64]
    mean: NDArray[np.float64]
    variance: NDArray[np.float64]
    epsilon: float
    dtype: np.dtype

    @property
    def deviation(self) -> NDArray[np.float64]:
        """sqrt(variance + epsilon), shape [C]."""
        return np.sqrt(self.variance + self.epsilon)

    @property
    def affine(self) -> Affine:
        """The map on axis 1: see `scale_and_shift`."""
        with np.errstate(all="ignore"):
            return Affine.along(*scale_and_shift(self.scale, self.bias, self.mean, self.deviation), 1)

    def parameters_for(self, affine: Affine) -> tuple[Tensor, Tensor]:
        """New `scale` and `B` with which this operator, its statistics unchanged, computes `affine`."""
        k, t = affine.scale.reshape(-1), affine.shift.reshape(-1)
        return Tensor.of(k * self.deviation, self.dtype), Tensor.of(t + k * self.mean, self.dtype)


def read_batch_norm(node: NodeProto, graph: Graph) -> BatchNorm:
    """The constants of `node`. Raises `Refused` with the reason why it is no constant per-channel map."""
    if mode(node, graph) is Mode.TRAIN:
        raise Refused(Reason.TRAIN_MODE)
    if any(node.output[1:]):
        raise Refused(Reason.MALFORMED, f"{len(node.input)} inputs, {len(node.output)} outputs")
    return read_parameters(node, graph)


def require_whole(node: NodeProto) -> None:
    """Raise `Refused` unless a BatchNormalization reads its five operands and makes something of them."""
    read, made = node.input[:], node.output[:]
    if len(read) != 5 or not all(read) or not made or not made[0]:
        raise Refused(Reason.MALFORMED, f"{len(read)} inputs, {len(made)} outputs")


def read_parameters(node: NodeProto, graph: Graph) -> BatchNorm:
    """The constants of `node`, whatever mode it is in. Raises `Refused` with the reason why they are not usable."""
    require_whole(node)
    if not number(node, "spatial", 1) and graph.rank(node.input[0]) != 2:  # of opsets before 9
        raise Refused(Reason.SPATIAL_ZERO)  # with two dims there is one position, and both mean the same
    parameters = [_parameter(node, index, graph) for index in range(1, 5)]
    channels = parameters[0].shape
    for name, parameter in zip(PARAMETERS, parameters, strict=True):
        if len(parameter.shape) != 1 or parameter.shape != channels or not parameter.size:
            raise Refused(Reason.PARAMETER_SHAPE, f"{name} has shape {list(parameter.shape)}")
        if parameter.dtype not in FLOATS:
            raise Refused(Reason.UNSUPPORTED_DTYPE, f"{name} is {parameter.dtype}")
    if channels == (1,) and _has_more_channels(node.input[0], graph):
        raise Refused(Reason.PARAMETER_SHAPE, f"one number for the channels of {node.input[0]!r}")
    scale, bias, mean, variance = (parameter.exact() for parameter in parameters)
    epsilon = number(node, "epsilon", DEFAULT_EPSILON)
    shifted = variance + epsilon
    _require_numbers(variance, (shifted > 0) & np.isfinite(shifted), "variance", f", epsilon {epsilon:.4g}")
    for name, values in zip(PARAMETERS, (scale, bias, mean), strict=False):
        _require_numbers(values, np.isfinite(values), name)
    return BatchNorm(scale, bias, mean, variance, epsilon, parameters[0].dtype)


def _require_numbers(values: Vector, sound: NDArray[np.bool_], name: str, more: str = "") -> None:
    """Raise `Refused` with the first channel whose number is not `sound`, and how many there are."""
    if not sound.all():
        channel = int(np.flatnonzero(~sound)[0])
        others = int((~sound).sum()) - 1
        also = f" and in {others} more" if others else ""
        raise Refused(Reason.NOT_FINITE, f"{name} {values[channel]:.4g} in channel {channel}{also}{more}")


def _has_more_channels(value: str, graph: Graph) -> bool:
    """Whether dim 1 is known not to be 1. Any other count has to match the weights, so only this one needs a look."""
    shape = graph.shape(value)
    size = shape[1] if shape is not None and len(shape) > 1 else None
    return isinstance(size, int) and size != 1


def plain_affines(nodes: Sequence[NodeProto], graph: Graph) -> dict[int, Affine]:
    """The maps of the BatchNormalizations among `nodes` of `graph`, by the id of the node, where nothing is unusual.

    Every plain one (inference mode, four stored float32 vectors of one length, finite, positive variance) has the
    very numbers that `read_batch_norm` gives; one array operation serves thousands of them. The others are left out,
    and so are those of one channel, whose data needs a look.
    """
    epsilons = {id(node): _plain_epsilon(node, graph) for node in nodes if is_batch_norm(node)}
    plain = [node for node in nodes if epsilons.get(id(node)) is not None]
    if len(plain) < _WORTH_JOINING or graph.opset < 9:
        return {}
    _, *parameters = zip(*map(graph.read_by, plain), strict=True)
    joined = [column for values in parameters if (column := graph.joined_vectors(values)) is not None]
    if len(joined) < len(PARAMETERS):
        return {}
    (scale, sizes), (bias, *b), (mean, *m), (variance, *v) = joined
    if not (b == m == v == [sizes]):
        return {}
    with np.errstate(all="ignore"):
        shifted = variance + np.repeat([epsilons[id(node)] for node in plain], sizes)
        k, t = scale_and_shift(scale, bias, mean, np.sqrt(shifted))
        sound = (shifted > 0) & np.isfinite(shifted) & np.isfinite(k) & np.isfinite(t)
    lengths = np.array(sizes, np.intp)
    ends = np.cumsum(lengths)
    starts = ends - lengths
    found = np.logical_and.reduceat(sound, starts)
    scales, shifts = np.logical_or.reduceat(k != 1, starts), np.logical_or.reduceat(t != 0, starts)
    columns = (array.tolist() for array in (starts, ends, found, scales, shifts))
    k, t = k.reshape(1, -1), t.reshape(1, -1)
    return {
        id(node): Affine(k[:, start:end], t[:, start:end], has_scale, has_shift)
        for node, start, end, fine, has_scale, has_shift in zip(plain, *columns, strict=True)
        if fine and end > start + 1
    }


def _plain_epsilon(node: NodeProto, graph: Graph) -> float | None:
    """The epsilon of a BatchNormalization in inference mode; None where its form is unusual in any way."""
    made = graph.made_by(node)
    if len(graph.read_by(node)) != 5 or len(made) != 1 or not made[0]:
        return None
    epsilon = None
    for attribute in node.attribute[:]:
        if attribute.ref_attr_name:
            return None
        if attribute.name == "epsilon" and attribute.type == AttributeProto.FLOAT and epsilon is None:
            epsilon = attribute.f
        elif attribute.name != "momentum" and (attribute.name != "training_mode" or attribute.i):
            return None
    return DEFAULT_EPSILON if epsilon is None else epsilon


def _parameter(node: NodeProto, index: int, graph: Graph) -> Tensor:
    value = node.input[index]
    tensor = graph.constant(value)
    if tensor is None:
        graph.require_undisputed(value)
        reason = Reason.OVERRIDABLE_PARAMETER if graph.is_overridable(value) else Reason.PARAMETER_NOT_CONSTANT
        raise Refused(reason, f"{PARAMETERS[index - 1]} {value!r}")
    return tensor
