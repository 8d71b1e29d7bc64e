"""Which normalizations can be given new statistics, and in which order: each after those that its data depends on."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from bnfold.decisions import NodeKey, Refused
from bnfold.graph import Graph, Model
from bnfold.passes.classification import is_wrapped_instance_norm
from bnfold.passes.normalization import describe, is_batch_norm, require_whole
from bnfold.passes.recalibrate_batch_norm import require_recalibratable


@dataclass(frozen=True, eq=False)
class Target:
    """One BatchNormalization of the main graph.

    `level` counts the normalizations on the longest way to it, itself included: 1 for those that depend on no other.
    `mean` and `variance` are the stored ones (float64 of shape [C]), or None where the model computes them; `epsilon`
    is the attribute.
    """

    place: NodeKey
    level: int
    epsilon: float
    mean: NDArray[np.float64] | None
    variance: NDArray[np.float64] | None


def targets_of(model: Model, keep: Iterable[str] = ()) -> tuple[list[Target], dict[NodeKey, Refused]]:
    """The normalizations to compute statistics for, in the order of the graph, and why others are left out.

    Left out without a word are those that have no statistics of their own: on constant data, between the Reshapes of
    an InstanceNormalization, and those that `keep` names.
    """
    graph, patterns = model.main, tuple(keep)
    levels: dict[str, int] = {}
    found: list[Target] = []
    refused: dict[NodeKey, Refused] = {}
    for node in graph.nodes():
        level = max((levels.get(value, 0) for value in reads(node)), default=0)
        place = (graph.scope, graph.label(node))
        if is_batch_norm(node) and not any(fnmatchcase(place[1], pattern) for pattern in patterns):
            try:
                require_whole(node)
                if graph.constant(node.input[0]) is None and not is_wrapped_instance_norm(node, graph):
                    level = levels.get(node.input[0], 0) + 1
                    require_recalibratable(node, graph)
                    found.append(_target(node, place, level, graph))
            except Refused as why:
                refused[place] = why
        levels.update(dict.fromkeys(node.output, level))
    return found, refused


def reads(node: NodeProto) -> Iterator[str]:
    """The values a node reads, those that its bodies take from outside included."""
    yield from node.input
    for attribute in node.attribute:
        for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            for inner in body.node:
                yield from reads(inner)
            yield from (value.name for value in body.output)


def _target(node: NodeProto, place: NodeKey, level: int, graph: Graph) -> Target:
    stored = [graph.constant(value) for value in node.input[3:5]]
    mean, variance = (None if tensor is None else tensor.exact() for tensor in stored)
    epsilon = describe(node, graph).epsilon
    return Target(place, level, 0.0 if epsilon is None else epsilon, mean, variance)
