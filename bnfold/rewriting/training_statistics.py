"""Stored statistics of a BatchNormalization in training mode, which nothing else may read.

onnxruntime writes the running statistics of such a node into the buffers of its third and fourth parameter while it
runs (onnxruntime#29790). A tool that stores equal initializers once lets it write into a scale or a bias as well: by
the specification the model is what it was, but every run answers otherwise.
"""

from collections import Counter
from collections.abc import Iterator

from onnx import GraphProto, ModelProto, NodeProto

from bnfold.equivalence.structure.signature import every_graph
from bnfold.graph.sameness import domain_of

_STATISTICS = (3, 4)
"""The inputs that hold the running mean and variance."""
INITIALIZERS_ARE_NO_INPUTS = 4
"""The first IR version of which that is so."""


def part_statistics(made: ModelProto, before: ModelProto) -> None:
    """Give each a value of its own again; a node that shared one in `before` already and was left alone goes on to.

    An initializer is stored once more, under the name that it had where that is free; a node that makes one, such as a
    Cast of what is stored, is there once more.
    """
    formerly = {norm.output[0]: norm for graph in every_graph(before.graph) for norm in _training(graph)}
    read_before = _read(before.graph)
    names = {name for graph in every_graph(made.graph) for name in _names(graph)}
    for graph in list(every_graph(made.graph)):
        stored = {tensor.name: tensor for tensor in graph.initializer}
        makers = {node.output[0]: node for node in graph.node if len(node.output) == 1}
        read = _read(graph)
        given = {value.name for value in graph.input} if made.ir_version >= INITIALIZERS_ARE_NO_INPUTS else set()
        for norm in [norm for inner in every_graph(graph) for norm in _training(inner)]:
            old = formerly.get(norm.output[0])
            for at in _STATISTICS:
                name = norm.input[at]
                was_shared = old is not None and old.input[at] == name and read_before[name] > 1
                if read[name] < 2 or name in given or was_shared:
                    continue
                if name in stored:
                    own = _free(name if old is None else old.input[at], names)
                    graph.initializer.add().CopyFrom(stored[name])
                    graph.initializer[-1].name = own
                elif name in makers:
                    own = _free(name, names)
                    _insert_copy(graph, makers[name], own)
                else:
                    continue
                norm.input[at] = own
                read[name] -= 1


def _insert_copy(graph: GraphProto, node: NodeProto, output: str) -> None:
    """A node that does the same, behind it, and makes `output`."""
    own = NodeProto()
    own.CopyFrom(node)
    own.output[0] = output
    if own.name:
        own.name = output
    graph.node.insert(list(graph.node).index(node) + 1, own)


def _training(graph: GraphProto) -> list[NodeProto]:
    """The nodes that may run in training mode: by their attribute, or up to opset 13 by their outputs."""
    return [
        node
        for node in graph.node
        if node.op_type == "BatchNormalization"
        and domain_of(node) == ""
        and len(node.input) > max(_STATISTICS)
        and (any(node.output[1:]) or any(each.name == "training_mode" and each.i for each in node.attribute))
    ]


def _read(graph: GraphProto) -> Counter[str]:
    """The number of readers of each value, nested bodies and outputs included."""
    found: Counter[str] = Counter()
    for each in every_graph(graph):
        found.update(value.name for value in each.output)
        for node in each.node:
            found.update(node.input)
    return found


def _names(graph: GraphProto) -> Iterator[str]:
    for node in graph.node:
        yield from node.output
    yield from (value.name for value in graph.input)
    yield from (tensor.name for tensor in graph.initializer)
    yield from (tensor.values.name for tensor in graph.sparse_initializer)


def _free(name: str, names: set[str]) -> str:
    """`name`, with a number behind it where it is taken; from now on it is."""
    found, number = name, 0
    while found in names:
        number += 1
        found = f"{name}_{number}"
    names.add(found)
    return found
