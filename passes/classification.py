"""The kind of a BatchNormalization or Dropout, whichever way its opset spells it.

A BatchNormalization in training mode is one of: a forgotten `.eval()` with stored statistics worth using; one whose
statistics were never updated; a computation on constants (weight standardization); an InstanceNormalization between two
Reshapes. And one in inference mode may still normalize with the batch, where operators compute its statistics from its
own input. Sources: ONNX operator changelog, BatchNormalization-1 to -15, Dropout-1 to -22; PyTorch 2.13's exporters.
"""

import math
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from bnfold.decisions import Refused
from bnfold.graph import DEFAULT_DOMAINS, FLOAT_TYPES, FLOATS, Call, Graph, NoValueError, number, numbers, values_of
from bnfold.passes.normalization import Mode, is_batch_norm, mode, require_whole

Array = NDArray[Any]

_MOST_NODES_BACK = 32
# Of the data on which statistics that are computed are compared with their definition.
_MOST_ELEMENTS = 1 << 22
# The data that they are compared on: its dtype, its mean, and how far the two may be apart.
_TRIALS = ((np.float64, 0.0, 1e-9), (np.float64, 0.0, 1e-9), (np.float32, 4096.0, 1e-2))
_EXACT_ENOUGH = frozenset({np.dtype(np.float32), np.dtype(np.float64)})
_ON_THE_WAY = frozenset(
    {"Identity", "Cast", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Sub", "Mul", "Pow", "Div", "Abs"}
)
_AVERAGES = frozenset({"ReduceMean", "ReduceSum", "ReduceSumSquare", "GlobalAveragePool"})


class Kind(StrEnum):
    """The kind of a normalization."""

    INFERENCE = "inference"
    TRAIN = "train"
    NEVER_UPDATED = "train, statistics never updated"
    CONSTANT_DATA = "train, on constant data"
    WRAPPED_INSTANCE_NORM = "instance normalization in disguise"
    BATCH_STATISTICS = "batch statistics in disguise"


class Disguise(NamedTuple):
    """Batch statistics written as operators: (x - mean) / root, with `mean` and `root` computed from x itself.

    `first` subtracts and `last` divides (or multiplies by a reciprocal).
    """

    data: str
    first: NodeProto
    last: NodeProto


def classify(node: NodeProto, graph: Graph) -> Kind:
    """The kind of a BatchNormalization.

    Raises `Refused` where its mode depends on the caller of a function, or it lacks an operand.
    """
    how = mode(node, graph)
    require_whole(node)
    computed = reads_batch_statistics(node, graph)
    if how is Mode.INFERENCE and not computed:
        return Kind.INFERENCE
    if how is Mode.TRAIN and graph.constant(node.input[0]) is not None:
        return Kind.CONSTANT_DATA
    if how is Mode.TRAIN and is_wrapped_instance_norm(node, graph):
        return Kind.WRAPPED_INSTANCE_NORM
    if computed:
        return Kind.BATCH_STATISTICS
    return Kind.NEVER_UPDATED if has_initial_statistics(node, graph) else Kind.TRAIN


def has_initial_statistics(node: NodeProto, graph: Graph) -> bool:
    """Whether the stored mean is 0 and the stored variance 1 in every channel: what a new layer starts with."""
    return _statistics_are(0, 1, node, graph)


def has_lost_statistics(node: NodeProto, graph: Graph) -> bool:
    """Whether the stored mean and variance are 0 in every channel."""
    return _statistics_are(0, 0, node, graph)


def _statistics_are(mean: int, variance: int, node: NodeProto, graph: Graph) -> bool:
    stored = [graph.constant(value) for value in node.input[3:5]]
    return all(
        tensor is not None and tensor.size and bool((tensor.numpy() == number_).all())
        for tensor, number_ in zip(stored, (mean, variance), strict=True)
    )


def reads_batch_statistics(node: NodeProto, graph: Graph) -> bool:
    """Whether both statistics are averages over the very value that is normalized."""
    data, _, _, mean, variance = graph.read_by(node)
    return _is_average_of(mean, data, graph) and _is_average_of(variance, data, graph)


def are_batch_statistics(node: NodeProto, graph: Graph) -> bool:
    """Whether what `node` reads as statistics are the very mean and population variance of its data, as batch mode has.

    The operators that compute them are rational functions of the data: where they agree with the definition on random
    numbers, they are it. Sizes that are not known are tried twice, so that no constant stands for one of them. What is
    it in real arithmetic alone, as a difference of squares, is not: far from 0 nothing would be left of it in float32.
    Neither is what float16 holds: runtimes compute the statistics of the batch in float32.
    """
    shape = graph.shape(node.input[0])
    if shape is None or len(shape) < 2 or graph.dtype(node.input[0]) not in _EXACT_ENOUGH:
        return False
    return all(_are_those_of(node, shape, trial, graph) for trial in range(len(_TRIALS)))


def _are_those_of(node: NodeProto, shape: Sequence[int | str | None], trial: int, graph: Graph) -> bool:
    dtype, centre, tolerance = _TRIALS[trial]
    dims = [size if isinstance(size, int) else 2 + axis + trial for axis, size in enumerate(shape)]
    if not 0 < math.prod(dims) <= _MOST_ELEMENTS:
        return False
    data = np.random.default_rng(trial).normal(centre, size=dims).astype(dtype)
    axes, exact = tuple(axis for axis in range(len(dims)) if axis != 1), data.astype(np.float64)
    for value, expected in zip(node.input[3:5], (exact.mean(axes), exact.var(axes)), strict=True):
        made = _computed_from(value, node.input[0], data, graph)
        if made is None or made.shape != expected.shape or not np.allclose(made, expected, tolerance, tolerance):
            return False
    return True


def _computed_from(value: str, data: str, numbers_: Array, graph: Graph) -> Array | None:
    """The number `value` in the dtype of these numbers, where `data` holds them; None where that cannot be told."""
    known: dict[str, Array | None] = {data: numbers_}
    waiting = [value]
    while waiting:
        name = waiting[-1]
        if name in known:
            waiting.pop()
            continue
        constant = graph.constant(name) if name else None
        maker = graph.producer(name) if name else None
        if constant is not None or not name:
            known[name] = None if constant is None else _as_float(constant.numpy(), numbers_.dtype)
        elif maker is None or maker.domain not in DEFAULT_DOMAINS or len(known) > _MOST_NODES_BACK:
            return None
        elif missing := [operand for operand in maker.input if operand not in known]:
            waiting += missing
        elif maker.op_type == "Cast":
            made_in = FLOAT_TYPES.get(number(maker, "to", 0))
            known[name] = known[maker.input[0]] if made_in in _EXACT_ENOUGH else None
        else:
            try:
                made = values_of(Call(maker, [known[operand] for operand in maker.input], graph.opset))
            except (NoValueError, Refused, ValueError, IndexError, TypeError):
                return None
            known[name] = made[maker.output[:].index(name)]
    return known[value]


def _as_float(array: Array, dtype: np.dtype) -> Array:
    return array.astype(dtype) if array.dtype in FLOATS else array


def _is_average_of(value: str, data: str, graph: Graph) -> bool:
    """Whether `value` is computed from `data` and constants alone, by operators that make up a mean or a variance."""
    if graph.producer(value) is None:
        return False
    averaged, waiting, seen = False, [value], set[str]()
    reached = False
    while waiting:
        name = waiting.pop()
        if name == data:
            reached = True
            continue
        if not name or name in seen or graph.constant(name) is not None:
            continue
        seen.add(name)
        maker = graph.producer(name)
        if maker is None or maker.domain not in DEFAULT_DOMAINS or len(seen) > _MOST_NODES_BACK:
            return False
        if maker.op_type in _AVERAGES:
            averaged = True
        elif maker.op_type not in _ON_THE_WAY:
            # What both are made from, as where a Reshape of x stands before the averages.
            return False
        waiting.extend(maker.input)
    return reached and averaged


def is_wrapped_instance_norm(node: NodeProto, graph: Graph) -> bool:
    """Whether `node` stands between Reshape to [1, N*C, ...] and a Reshape back: how exporters write InstanceNorm.

    With one row in the batch, the statistics of the batch are those of each channel of that row.
    """
    data, output = node.input[0], node.output[0]
    before = graph.producer(data)
    uses = graph.consumers(output)
    if before is None or before.op_type != "Reshape" or before.domain not in DEFAULT_DOMAINS:
        return False
    if graph.is_output(output) or not uses or any(use.node.op_type != "Reshape" for use in uses):
        return False
    target = _reshaped_to(before, graph)
    return target is not None and len(target) >= 3 and target[0] == 1


def _reshaped_to(node: NodeProto, graph: Graph) -> list[int] | None:
    if graph.opset < 5:
        return numbers(node, "shape")
    tensor = graph.constant(node.input[1]) if len(node.input) > 1 else None
    return None if tensor is None else [int(dim) for dim in tensor.numpy().reshape(-1)]


# ---------------------------------------------------------------------- batch statistics without the operator


def find_disguise(node: NodeProto, graph: Graph) -> Disguise | None:
    """Batch statistics that end at `node`: x - mean(x), divided by (or times the reciprocal of) a root of var(x).

    The average has to run over the batch, axis 0: over other axes alone it is a layer or instance normalization, which
    computes the same for each image whatever stands beside it.
    """
    if node.op_type not in ("Div", "Mul") or node.domain not in DEFAULT_DOMAINS or len(node.input) != 2:
        return None
    for position in (0,) if node.op_type == "Div" else (0, 1):
        first = graph.producer(node.input[position])
        if first is None or first.op_type != "Sub" or len(first.input) != 2:
            continue
        data, mean = first.input
        if not _averages_over_batch(mean, data, graph):
            continue
        root = _radicand(node.input[1 - position], graph, reciprocal=node.op_type == "Mul")
        if root is not None and _is_variance_of(root, data, node.input[position], graph):
            return Disguise(data, first, node)
    return _scaled_by_batch_root(node, graph) if node.op_type == "Mul" else None


def _scaled_by_batch_root(node: NodeProto, graph: Graph) -> Disguise | None:
    """x (g / root) + (b - mean (g / root)), as Keras writes it: the Mul of x by the reciprocal root, perhaps times g.

    The shift comes by another Add, so `node` is the first and the last operator on the way of x.
    """
    for position in (0, 1):
        data, factor = node.input[position], graph.producer(node.input[1 - position])
        maker = graph.producer(data)
        if factor is None or (maker is not None and maker.op_type == "Sub"):
            continue
        value = node.input[1 - position]
        if factor.op_type == "Mul" and len(factor.input) == 2:
            computed = [operand for operand in factor.input if graph.constant(operand) is None]
            value = computed[0] if len(computed) == 1 else value
        variance = _without_constant(_radicand(value, graph, reciprocal=True), graph)
        if (
            variance is not None
            and _averages_over_batch(variance, None, graph)
            and _is_average_of(variance, data, graph)
        ):
            return Disguise(data, node, node)
    return None


def _without_constant(value: str | None, graph: Graph) -> str | None:
    """v where `value` is v, or v plus a constant; None where it is neither."""
    maker = graph.producer(value) if value else None
    if maker is None or maker.op_type != "Add":
        return value
    computed = [operand for operand in maker.input if graph.constant(operand) is None]
    return computed[0] if len(computed) == 1 else None


def _averages_over_batch(value: str, data: str | None, graph: Graph) -> bool:
    """Whether `value` is an average over the batch, of `data` where that is given."""
    maker = graph.producer(value)
    while maker is not None and maker.op_type in ("Reshape", "Squeeze", "Unsqueeze", "Identity") and maker.input:
        maker = graph.producer(maker.input[0])
    if maker is None or maker.op_type != "ReduceMean" or (data is not None and data not in maker.input[:1]):
        return False
    axes = _axes(maker, graph)
    if axes is None or 0 not in axes:
        return False
    rank = graph.rank(maker.input[0])
    return 1 not in axes or (rank is not None and len(set(axes)) == rank - 1)  # channels may stand last


def _axes(node: NodeProto, graph: Graph) -> list[int] | None:
    """Axes an average runs over, from the front; None where they are computed, or all axes are meant."""
    if len(node.input) > 1:
        tensor = graph.constant(node.input[1])
        axes = None if tensor is None else [int(axis) for axis in tensor.numpy().reshape(-1)]
    else:
        axes = numbers(node, "axes") or None
    if axes is None or all(axis >= 0 for axis in axes):
        return axes
    rank = graph.rank(node.input[0])
    return None if rank is None else [axis + rank if axis < 0 else axis for axis in axes]


def _radicand(value: str, graph: Graph, *, reciprocal: bool) -> str | None:
    """v where `value` is sqrt(v), or 1 / sqrt(v)."""
    maker = graph.producer(value)
    if reciprocal:
        if maker is None or maker.op_type not in ("Reciprocal", "Div") or not maker.input:
            return None
        maker = graph.producer(maker.input[-1])
    if maker is not None and maker.op_type == "Pow" and len(maker.input) == 2:
        exponent = graph.constant(maker.input[1])
        return maker.input[0] if exponent is not None and exponent.size == 1 and exponent.exact() == 0.5 else None
    return maker.input[0] if maker is not None and maker.op_type == "Sqrt" and maker.input else None


def _is_variance_of(value: str, data: str, centred: str, graph: Graph) -> bool:
    """Whether `value` is an average of squares of `data` or `centred`, perhaps plus a constant."""
    variance = _without_constant(value, graph)
    if variance is None:
        return False
    return _is_average_of(variance, data, graph) or _is_average_of(variance, centred, graph)


# ---------------------------------------------------------------------- Dropout


def is_dropout(node: NodeProto) -> bool:
    """Whether `node` is ONNX's own Dropout."""
    return node.op_type == "Dropout" and node.domain in DEFAULT_DOMAINS


def dropout_mode(node: NodeProto, graph: Graph) -> Mode | None:
    """The mode of a Dropout, None where a caller decides it while the model runs.

    Opset 1-6: `is_test` (absent means train). 7-11: it does nothing. 12+: the third input, absent means inference.
    """
    if graph.opset < 7:
        return Mode.INFERENCE if number(node, "is_test", 0) else Mode.TRAIN
    if len(node.input) < 3 or not node.input[2]:
        return Mode.INFERENCE
    training = graph.constant(node.input[2])
    if training is None or training.size != 1:
        return None
    return Mode.TRAIN if bool(training.numpy().reshape(-1)[0]) else Mode.INFERENCE


def is_in_train_mode(node: NodeProto, graph: Graph) -> bool:
    """Whether `node` is a BatchNormalization or Dropout that runs, or may run, in training mode."""
    if not (is_batch_norm(node) or is_dropout(node)):
        return False
    try:
        how = mode(node, graph) if is_batch_norm(node) else dropout_mode(node, graph)
    except Refused:
        return False
    return how is not Mode.INFERENCE
