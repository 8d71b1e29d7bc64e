"""Which BatchNormalizations in training mode are given, as stored statistics, the very ones they compute.

Told by evaluating the operators that make them, in float64 on random data: rational functions of the data that agree
there with the mean and the population variance are those. Independent of the pass that asks the same.
"""

import math

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper

from bnfold.decisions import NodeKey
from bnfold.equivalence.numbers.float64 import Evaluator, Unknowable
from bnfold.equivalence.operators import DEFAULT_DOMAINS
from bnfold.equivalence.structure.scopes import Scopes
from bnfold.equivalence.structure.signature import every_graph
from bnfold.equivalence.structure.training_mode import VisibleScope, is_batch_norm, trains, visible_scopes
from bnfold.graph import infer_shapes

_MOST_NODES = 64
_MOST_ELEMENTS = 1 << 22
_RANKS = range(2, 6)


def places_with_their_own_statistics(index: Scopes) -> frozenset[NodeKey]:
    """Scope and label of each BatchNormalization in training mode whose input_mean and input_var are its data's own."""
    candidates = [
        (scope, node)
        for scope in visible_scopes(index)
        for node in scope.body.node
        if is_batch_norm(node) and trains(node, scope.opset) and all(map(scope.producer, node.input[3:5]))
    ]
    if not candidates:
        return frozenset()
    shapes = _shapes(index.model)
    return frozenset(scope.key(node) for scope, node in candidates if _reads_its_own(node, scope, shapes))


def _shapes(model: ModelProto) -> dict[str, list[int | None]]:
    """The inferred shapes of values by name; a name that two scopes use is left out."""
    try:
        inferred = infer_shapes(model)
    except Exception:  # noqa: BLE001 - inference raises what it sees fit; sizes are tried then
        return {}
    found: dict[str, list[int | None]] = {}
    twice: set[str] = set()
    for graph in every_graph(inferred.graph):
        for value in (*graph.value_info, *graph.input, *graph.output):
            if value.type.tensor_type.HasField("shape"):
                dims = [dim.dim_value or None for dim in value.type.tensor_type.shape.dim]
                if found.setdefault(value.name, dims) != dims:
                    twice.add(value.name)
    return {name: dims for name, dims in found.items() if name not in twice}


def _reads_its_own(node: NodeProto, scope: VisibleScope, shapes: dict[str, list[int | None]]) -> bool:
    data, statistics = node.input[0], list(node.input[3:5])
    piece = _piece(data, statistics, scope)
    if piece is None:
        return False
    try:
        evaluator = Evaluator(piece)
    except Unknowable:
        return False
    known = shapes.get(data)
    if known is not None:
        return len(known) > 1 and all(_agree(evaluator, data, statistics, known, trial) for trial in range(2))
    answers = [_agree(evaluator, data, statistics, [None] * rank, trial) for rank in _RANKS for trial in range(2)]
    return False not in answers and True in answers


def _agree(evaluator: Evaluator, data: str, statistics: list[str], known: list[int | None], trial: int) -> bool | None:
    """Whether the statistics are those of random data of that shape; None where they have none of it."""
    dims = [2 + axis + trial if size is None else size for axis, size in enumerate(known)]
    if not 0 < math.prod(dims) <= _MOST_ELEMENTS:
        return False
    array = np.random.default_rng([trial, 0xBA7C]).normal(1.0, 2.0, dims)
    axes = tuple(axis for axis in range(len(dims)) if axis != 1)
    try:
        made = evaluator({data: array}, statistics)
    except Unknowable:
        return None
    expected = (array.mean(axes), array.var(axes))
    if any(made[name].shape != right.shape for name, right in zip(statistics, expected, strict=True)):
        return None
    return all(np.allclose(made[name], right, 1e-9, 1e-12) for name, right in zip(statistics, expected, strict=True))


def _piece(data: str, statistics: list[str], scope: VisibleScope) -> ModelProto | None:
    """The operators between `data` and `statistics` as a model; None where they read anything else that is computed."""
    wanted, found = [*statistics], dict[int, NodeProto]()
    stored: dict[str, TensorProto] = {}
    seen = {data, ""}
    while wanted:
        name = wanted.pop()
        if name in seen:
            continue
        seen.add(name)
        constant, maker = scope.constant(name), scope.producer(name)
        if isinstance(constant, TensorProto) and maker is None:
            stored[name] = constant
        elif maker is None or maker.domain not in DEFAULT_DOMAINS or len(found) >= _MOST_NODES:
            return None
        else:
            found[id(maker)] = maker
            wanted += maker.input
    nodes = [node for node in scope.body.node if id(node) in found]
    tensors = []
    for name, tensor in stored.items():
        copied = TensorProto()
        copied.CopyFrom(tensor)
        copied.name = name
        tensors.append(copied)
    ends = [helper.make_tensor_value_info(name, TensorProto.DOUBLE, None) for name in dict.fromkeys(statistics)]
    start = helper.make_tensor_value_info(data, TensorProto.DOUBLE, None)
    graph = helper.make_graph(nodes, "statistics", [start], ends, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", scope.opset)])
