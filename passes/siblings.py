"""Siblings: runs that each read a part of one value, which may be given the maps of all of them at once.

Sound where every reader of the value leads, across operators that only rearrange, to such a run, and no element is read
by two that ask for different numbers. What nobody reads is free.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from onnx import NodeProto

from bnfold.decisions import Reason, Refused
from bnfold.graph import DEFAULT_DOMAINS, Graph
from bnfold.passes.affine import Affine, Array
from bnfold.passes.affine_ops import is_affine_op
from bnfold.passes.carriers import REARRANGING, joined_axis, leaving_the_rest, part
from bnfold.passes.layout import Move, padded
from bnfold.passes.runs import Run, collect_run
from bnfold.passes.step import known_dim

_MOST = 64  # runs behind one value


class Family(NamedTuple):
    """The value that all `runs` read parts of, what makes it, and the map of it that makes up for all of them.

    `is_whole`: every element of it is read by one of them.
    """

    value: str
    maker: NodeProto
    runs: list[Run]
    affine: Affine
    is_whole: bool


class _Branch(NamedTuple):
    run: Run
    moves: list[Move]


def family(run: Run, graph: Graph) -> Family:
    """The nearest value whose readers all lead to runs, `run` among several. Raises `Refused` where there is none."""
    value = run.first.node.input[run.first.data]
    maker = graph.producer(value)
    alone = len(graph.readers(value)) == 1
    while alone and maker is not None and _rearranges(maker):
        value = maker.input[0]
        alone = len(graph.readers(value)) == 1 and maker.op_type != "Split"
        maker = graph.producer(value)
    if maker is None or alone:
        raise Refused(Reason.OTHER_CONSUMER, repr(graph.known_value(value)))
    branches = list(_branches(value, [], graph))
    return Family(value, maker, [branch.run for branch in branches], *_together(branches))


def _rearranges(node: NodeProto) -> bool:
    return (node.op_type in REARRANGING or node.op_type == "Split") and node.domain in DEFAULT_DOMAINS


def _branches(value: str, moves: Sequence[Move], graph: Graph, depth: int = 0) -> Iterator[_Branch]:
    """The runs behind every reader of `value`. Raises `Refused` where one leads elsewhere."""
    uses = graph.readers(value)
    if not uses or len(uses) > _MOST or depth > _MOST or graph.is_output(value):
        raise Refused(Reason.OTHER_CONSUMER, repr(graph.known_value(value)))
    for use in uses:
        node = use.node
        if use.graph is not graph:
            raise Refused(Reason.OTHER_CONSUMER, f"{graph.known_value(value)!r} is read by {use.graph.known_as(node)}")
        if is_affine_op(node) and node.output:
            yield _Branch(collect_run(node, graph, frozenset()), list(moves))
        elif not _rearranges(node) or use.position:
            raise Refused(Reason.OTHER_CONSUMER, f"{graph.known_value(value)!r} is read by {graph.known_as(node)}")
        elif node.op_type == "Split":
            axis = joined_axis(node, 0, value, graph)
            sizes = [known_dim(graph, output, axis) for output in node.output]
            for number, output in enumerate(node.output):
                if graph.readers(output) or graph.is_output(output):
                    yield from _branches(output, [*moves, part(axis, sizes, number)], graph, depth + 1)
        else:
            own = leaving_the_rest(REARRANGING[node.op_type](node, graph))
            yield from _branches(node.output[0], [*moves, *own], graph, depth + 1)


def _together(branches: Sequence[_Branch]) -> tuple[Affine, bool]:
    """The map that is each branch's where that reads, and whether that is everywhere.

    Raises `Refused` where two ask for different numbers.
    """
    scale: Array = np.full((), np.nan)
    shift: Array = scale
    for run, moves in branches:
        affine = run.affine
        scale = _joined(scale, _back(affine.scale, moves))
        shift = _joined(shift, _back(affine.shift, moves))
    is_whole = not np.isnan(scale).any()
    for axis in range(scale.ndim):  # what nobody reads gets the numbers of what lies beside it
        scales, shifts = _alike(scale, axis), _alike(shift, axis)
        if scales is not None and shifts is not None:
            scale, shift = scales, shifts
    unread = np.isnan(scale)
    whole = Affine.of(np.where(unread, 1.0, scale), np.where(unread, 0.0, shift))
    return whole.moved(lambda array, _: array), is_whole


def _alike(array: Array, axis: int) -> Array | None:
    """The array with one element along `axis`, where all that are no NaN are the same there; else None."""
    low = np.fmin.reduce(array, axis=axis, keepdims=True)
    return low if bool(((array == low) | np.isnan(array)).all()) else None


def _back(array: Array, moves: Sequence[Move]) -> Array:
    for move in reversed(moves):
        array = move.back(array, np.nan)
    return array


def _joined(one: Array, other: Array) -> Array:
    rank = max(one.ndim, other.ndim)
    one, other = np.broadcast_arrays(padded(one, rank), padded(other, rank))
    if ((one != other) & ~np.isnan(one) & ~np.isnan(other)).any():
        raise Refused(Reason.NOT_ALL_ABSORB, "readers of one value ask for different numbers")
    return np.where(np.isnan(one), other, one)
