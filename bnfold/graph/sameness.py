"""Whether two nodes, tensors or graphs are the same, however they are written down.

Tools write the same thing in other words: attributes in another order, numbers as raw bytes or as a list, an absent
input at the end or none. Labels and descriptions (names of nodes, doc strings, metadata) are not what something is.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import numpy as np
from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto, SparseTensorProto, TensorProto, numpy_helper

from bnfold.graph.attributes import DEFAULT_DOMAINS
from bnfold.onnxfile import payload_index

_T = TypeVar("_T")


def same_node(one: NodeProto, other: NodeProto) -> bool:
    """Whether two nodes do the same with the same values under the same names."""
    return same_operator(one, other) and _until_absent(one.input) == _until_absent(other.input)


def same_operator(one: NodeProto, other: NodeProto) -> bool:
    """Whether two nodes are the same operator with the same attributes, and make the same values."""
    if one.op_type != other.op_type or domain_of(one) != domain_of(other) or one.overload != other.overload:
        return False
    if _until_absent(one.output) != _until_absent(other.output) or len(one.attribute) != len(other.attribute):
        return False
    attributes = {attribute.name: attribute for attribute in other.attribute}
    return all(
        attribute.name in attributes and same_attribute(attribute, attributes[attribute.name])
        for attribute in one.attribute
    )


def domain_of(node: NodeProto) -> str:
    """The operator set of a node, the standard's by one name."""
    return "" if node.domain in DEFAULT_DOMAINS else node.domain


def _until_absent(values: Sequence[str]) -> list[str]:
    found = list(values)
    while found and not found[-1]:
        found.pop()
    return found


def same_attribute(one: AttributeProto, other: AttributeProto) -> bool:
    """Whether two attributes of one name hold the same."""
    if one.type != other.type or one.ref_attr_name != other.ref_attr_name:
        return False
    match one.type:
        case AttributeProto.TENSOR:
            return same_tensor(one.t, other.t)
        case AttributeProto.GRAPH:
            return same_graph(one.g, other.g)
        case AttributeProto.TENSORS:
            return _all(same_tensor, one.tensors, other.tensors)
        case AttributeProto.GRAPHS:
            return _all(same_graph, one.graphs, other.graphs)
        case AttributeProto.SPARSE_TENSOR:
            return same_sparse_tensor(one.sparse_tensor, other.sparse_tensor)
    first, second = AttributeProto(), AttributeProto()
    first.CopyFrom(one)
    second.CopyFrom(other)
    for each in (first, second):
        each.ClearField("doc_string")
    return first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)


def same_tensor(one: TensorProto, other: TensorProto) -> bool:
    """Whether two tensors of one model hold the same numbers in the same shape and type, whatever they are called."""
    if one.data_type != other.data_type or one.dims[:] != other.dims[:]:
        return False
    first, second = payload_index(one), payload_index(other)
    if first is not None or second is not None:
        return first == second
    if one.raw_data or other.raw_data:
        return _bytes_of(one) == _bytes_of(other)
    return _numbers(one) == _numbers(other)


def _bytes_of(tensor: TensorProto) -> bytes:
    if tensor.raw_data or tensor.data_type == TensorProto.STRING:
        return tensor.raw_data
    return np.ascontiguousarray(numpy_helper.to_array(tensor)).tobytes()


def _numbers(tensor: TensorProto) -> bytes:
    """The fields that hold numbers or texts."""
    bare = TensorProto()
    bare.CopyFrom(tensor)
    for field in ("name", "doc_string", "metadata_props", "raw_data"):
        bare.ClearField(field)
    return bare.SerializeToString(deterministic=True)


def same_sparse_tensor(one: SparseTensorProto, other: SparseTensorProto) -> bool:
    """Whether two sparse tensors hold the same."""
    alike = same_tensor(one.values, other.values) and same_tensor(one.indices, other.indices)
    return alike and one.dims[:] == other.dims[:]


def same_graph(one: GraphProto, other: GraphProto) -> bool:
    """Whether two bodies compute the same by the same operators in the same order."""
    named = {tensor.name: tensor for tensor in other.initializer}
    return (
        [value.name for value in one.input] == [value.name for value in other.input]
        and [value.name for value in one.output] == [value.name for value in other.output]
        and len(one.initializer) == len(other.initializer)
        and all(tensor.name in named and same_tensor(tensor, named[tensor.name]) for tensor in one.initializer)
        and len(one.sparse_initializer) == len(other.sparse_initializer)
        and _all(same_node, one.node, other.node)
    )


def same_function(one: FunctionProto, other: FunctionProto) -> bool:
    """Whether two model-local functions of one name compute the same by the same operators in the same order."""
    return (
        one.input[:] == other.input[:]
        and one.output[:] == other.output[:]
        and one.attribute[:] == other.attribute[:]
        and _all(same_node, one.node, other.node)
    )


def _all(same: Callable[[_T, _T], bool], ones: Iterable[_T], others: Iterable[_T]) -> bool:
    first, second = list(ones), list(others)
    return len(first) == len(second) and all(map(same, first, second))
