"""Every TensorProto of a model, wherever ONNX allows one."""

from collections.abc import Iterable, Iterator

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto

from bnfold.onnxfile.tensor_sizes import check_contents

Found = tuple[TensorProto, NodeProto | None]

# Operators of the standard whose attributes hold tensors or graphs.
HOLDERS = frozenset({"Constant", "ConstantOfShape", "If", "Loop", "Scan", "SequenceMap"})


def tensors(model: ModelProto, *, thorough: bool) -> Iterator[Found]:
    """Each tensor with the node whose attribute it is (None for initializers).

    Looking at every attribute of every node costs as much as parsing the model; unless `thorough`, only operators of
    the ONNX standard that hold tensors or graphs are looked into.
    """
    graphs = [model.graph]
    for training in model.training_info:
        graphs += [training.initialization, training.algorithm]
    for graph in graphs:
        yield from _of_graph(graph, thorough=thorough)
    for function in model.functions:
        yield from _of_attributes(function.attribute_proto, None, thorough=thorough)
        yield from _of_nodes(function.node, thorough=thorough)


def check_tensors_in(body: GraphProto) -> None:
    """Raise ValueError, in the middle of a sentence, unless every tensor in `body` has the data of its shape.

    For the bodies that operators outside the standard hold: reading the model does not look into them.
    """
    for tensor, _ in _of_graph(body, thorough=True):
        if tensor.data_location != TensorProto.EXTERNAL:
            try:
                check_contents(tensor)
            except ValueError as error:
                raise ValueError(f"tensor {tensor.name!r} {error}") from error


def _of_graph(graph: GraphProto, *, thorough: bool) -> Iterator[Found]:
    for tensor in graph.initializer:
        yield tensor, None
    yield from _of_sparse(graph.sparse_initializer, None)
    yield from _of_nodes(graph.node, thorough=thorough)


def _of_nodes(nodes: Iterable[NodeProto], *, thorough: bool) -> Iterator[Found]:
    for node in nodes:
        if thorough or node.op_type in HOLDERS:
            yield from _of_attributes(node.attribute, node, thorough=thorough)


def _of_attributes(attributes: Iterable[AttributeProto], node: NodeProto | None, *, thorough: bool) -> Iterator[Found]:
    for attribute in attributes:
        if attribute.HasField("t"):
            yield attribute.t, node
        for tensor in attribute.tensors:
            yield tensor, node
        if attribute.HasField("sparse_tensor"):
            yield from _of_sparse([attribute.sparse_tensor], node)
        yield from _of_sparse(attribute.sparse_tensors, node)
        if attribute.HasField("g"):
            yield from _of_graph(attribute.g, thorough=thorough)
        for graph in attribute.graphs:
            yield from _of_graph(graph, thorough=thorough)


def _of_sparse(sparse_tensors: Iterable[SparseTensorProto], node: NodeProto | None) -> Iterator[Found]:
    for sparse in sparse_tensors:
        if sparse.HasField("values"):
            yield sparse.values, node
        if sparse.HasField("indices"):
            yield sparse.indices, node


def initializers(model: ModelProto) -> Iterator[TensorProto]:
    """The dense initializers of the main graph and of graphs in attributes: what onnxruntime lets lie in external data
    (a tensor that is an attribute must be inline: "external data for value attribute is not supported").
    """
    yield from _initializers_of(model.graph)
    for function in model.functions:
        yield from _initializers_below(function.node)


def _initializers_of(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    yield from _initializers_below(graph.node)


def _initializers_below(nodes: Iterable[NodeProto]) -> Iterator[TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _initializers_of(attribute.g)
            for graph in attribute.graphs:
                yield from _initializers_of(graph)
