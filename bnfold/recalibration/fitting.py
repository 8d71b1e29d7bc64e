"""Scale and bias of a substitute, fitted in closed form to what BatchNormalization gives out.

With n the substitute's normalized data and y = k x + t BatchNormalization's output, over all values of a channel

    scale = cov(n, y) / var(n),  bias = mean(y) - scale mean(n)

is the least-squares fit of scale n + bias to y. Every BatchNormalization is fitted on the data that it sees itself.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnfold.batches import Data, Source
from bnfold.decisions import NodeKey, Refused
from bnfold.equivalence import tap
from bnfold.errors import UsageError
from bnfold.graph import Model
from bnfold.onnxfile import OnnxFile
from bnfold.passes import Fit, SubstituteBatchNormOptions
from bnfold.passes.normalization import is_batch_norm, read_parameters
from bnfold.progress import StageProgress
from bnfold.recalibration.targets import targets_of
from bnfold.statistics import Pooled, Statistics, moments_of

Vector = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Teacher:
    """A BatchNormalization in evaluation: y = k x + t, with its own scale, bias and epsilon; vectors of shape [C]."""

    k: Vector
    t: Vector
    scale: Vector
    bias: Vector
    epsilon: float
    groups: int


@dataclass(frozen=True)
class Fitted:
    """The distance of a substitute from its BatchNormalization, before and after fitting.

    The root of the mean squared difference over all values, as a share of the standard deviation of the output.
    """

    node: str
    groups: int
    before: float
    after: float

    def to_dict(self) -> dict[str, Any]:
        """The distance as the JSON report writes it."""
        return {"node": self.node, "groups": self.groups, "before": self.before, "after": self.after}


def normalized(values: NDArray[Any], groups: int, epsilon: float) -> Vector:
    """n(x) for x [N, C, ...] in float64: each image over groups of channels and all positions."""
    wide = values.astype(np.float64)
    rows = wide.reshape(len(wide), groups, -1)
    centred = rows - rows.mean(2, keepdims=True)
    deviation = np.sqrt((centred**2).mean(2, keepdims=True) + epsilon)
    result: Vector = (centred / deviation).reshape(wide.shape)
    return result


def fit(
    file: OnnxFile,
    model: Model,
    data: Data,
    options: SubstituteBatchNormOptions,
    known: Mapping[NodeKey, Statistics] | None = None,
    on_progress: StageProgress | None = None,
) -> tuple[dict[NodeKey, Fit], tuple[Fitted, ...]]:
    """Fit every chosen normalization of the main graph in one pass over `data`; `on_progress`: see `Source`.

    Raises UsageError.
    """
    teachers = dict(_teachers(model, options, known or {}))
    if not teachers:
        return {}, ()
    sums: dict[NodeKey, tuple[Pooled, Pooled, Pooled]] = {}
    for values in tap(file, list(teachers), Source(data, 1, on_progress).batches(), known=known or {}, by_batch=False):
        for place, teacher in teachers.items():
            x = values.pop(place)
            form = [-1 if axis == 1 else 1 for axis in range(x.ndim)]
            n = normalized(x, teacher.groups, teacher.epsilon)
            y = teacher.k.reshape(form) * x.astype(np.float64) + teacher.t.reshape(form)
            for merger, array in zip(sums.setdefault(place, _three(teacher.k.size)), (n, y, n + y), strict=True):
                merger.add(moments_of(array))
    if not sums:
        raise UsageError("the data holds no batch: nothing to fit to")
    fits = {}
    distances = []
    for place, teacher in teachers.items():
        fits[place], before, after = _solved(teacher, *(merger.statistics() for merger in sums[place]))
        distances.append(Fitted(place[1], teacher.groups, before, after))
    return fits, tuple(distances)


def _three(channels: int) -> tuple[Pooled, Pooled, Pooled]:
    return Pooled(channels), Pooled(channels), Pooled(channels)


def _teachers(
    model: Model, options: SubstituteBatchNormOptions, known: Mapping[NodeKey, Statistics]
) -> Iterable[tuple[NodeKey, Teacher]]:
    graph = model.main
    nodes = {(graph.scope, graph.label(node)): node for node in graph.nodes() if is_batch_norm(node)}
    for target in targets_of(model)[0]:
        if not options.chooses(target.place[1]):
            continue
        try:
            read = read_parameters(nodes[target.place], graph)
            groups = options.groups_of(read.scale.size)
        except Refused:  # the pass says why
            continue
        if groups == read.scale.size and graph.rank(nodes[target.place].input[0]) == 2:
            continue
        new = known.get(target.place)
        mean, variance = (read.mean, read.variance) if new is None else (new.mean, new.variance)
        k = read.scale / np.sqrt(variance + read.epsilon)
        yield target.place, Teacher(k, read.bias - mean * k, read.scale, read.bias, read.epsilon, groups)


def _solved(teacher: Teacher, n: Statistics, y: Statistics, both: Statistics) -> tuple[Fit, float, float]:
    """The fit, and the differences before and after it, from var(n + y) = var(n) + var(y) + 2 cov(n, y)."""
    covariance = (both.variance - n.variance - y.variance) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.where(n.variance > 0, covariance / n.variance, teacher.scale)
    best = Fit(scale, y.mean - scale * n.mean)

    def difference(scale: Vector, bias: Vector) -> float:
        offset = scale * n.mean + bias - y.mean
        squared = scale**2 * n.variance - 2 * scale * covariance + y.variance + offset**2
        return float(np.sqrt(np.maximum(squared, 0).mean() / max(y.variance.mean(), np.finfo(float).tiny)))

    return best, difference(teacher.scale, teacher.bias), difference(best.scale, best.bias)
