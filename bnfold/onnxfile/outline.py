"""The outline of a model: its operators and names without the numbers in it."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from google.protobuf.message import DecodeError
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

from bnfold.errors import ModelError
from bnfold.onnxfile.source import File
from bnfold.onnxfile.structure_reading import take_payloads


def structure_at(path: Path) -> ModelProto | None:
    """The structure of the model at `path`, whether or not its external data is there; None for what is no model."""
    try:
        proto = ModelProto.FromString(take_payloads(File(path, what="the model"), []))
    except (ModelError, ValueError, DecodeError):
        return None
    return proto if proto.graph.output else None


def outline(proto: ModelProto) -> bytes:
    """A hash of what a model consists of: signature, nodes, attributes, names, types and shapes of initializers.

    Two models of one architecture and one naming have the same, whatever their weights are.
    """
    digest = hashlib.sha256()
    for word in _of_graph(proto.graph):
        digest.update(word + b"\0")
    for function in proto.functions:
        for name in (function.domain, function.name, *function.input, *function.output):
            digest.update(name.encode("utf-8", "surrogateescape") + b"\0")
        for word in _of_nodes(function.node):
            digest.update(word + b"\0")
    return digest.digest()


def _of_graph(graph: GraphProto) -> Iterator[bytes]:
    for value in (*graph.input, *graph.output):
        yield value.name.encode("utf-8", "surrogateescape")
    for tensor in graph.initializer:
        yield from _of_tensor(tensor)
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: Iterable[NodeProto]) -> Iterator[bytes]:
    for node in nodes:
        for word in (node.domain, node.op_type, *node.input, "->", *node.output):
            yield word.encode("utf-8", "surrogateescape")
        for attribute in node.attribute:
            yield from _of_attribute(attribute)


def _of_attribute(attribute: AttributeProto) -> Iterator[bytes]:
    yield attribute.name.encode("utf-8", "surrogateescape")
    if attribute.HasField("t"):
        yield from _of_tensor(attribute.t)
    elif attribute.HasField("g"):
        yield from _of_graph(attribute.g)
    elif attribute.graphs:
        for graph in attribute.graphs:
            yield from _of_graph(graph)
    elif not attribute.tensors and not attribute.HasField("sparse_tensor"):
        yield attribute.SerializeToString(deterministic=True)


def _of_tensor(tensor: TensorProto) -> Iterator[bytes]:
    yield f"{tensor.name} {tensor.data_type} {list(tensor.dims)}".encode("utf-8", "surrogateescape")
