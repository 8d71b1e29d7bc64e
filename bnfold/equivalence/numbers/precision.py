"""In which precision the values of a model are made."""

from collections.abc import Iterable

from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto

from bnfold.equivalence.numbers.element_types import rounding
from bnfold.equivalence.structure.scopes import reads
from bnfold.equivalence.structure.signature import every_node


def coarsest(model: ModelProto) -> dict[str, str]:
    """For each value of the main graph, the coarsest float type that anything it is made of has, as numpy names it.

    A float32 network behind a cast to double computes with the precision of float32. Values that no float enters are
    left out.
    """
    called = {(each.domain, each.name, each.overload): _inside(each) for each in model.functions}
    types: dict[str, int] = {}
    for value in model.graph.input:
        _note(types, [value.name], value.type.tensor_type.elem_type)
    for tensor in model.graph.initializer:
        _note(types, [tensor.name], tensor.data_type)
    for sparse in model.graph.sparse_initializer:
        _note(types, [sparse.values.name], sparse.values.data_type)
    nodes = [
        (node, list(reads(node)), (_held(node), called.get((node.domain, node.op_type, node.overload), 0)))
        for node in model.graph.node
    ]
    open_before = -1
    while len(types) != open_before:  # once more where the file's order is not that of the data
        open_before = len(types)
        for node, read, own in nodes:
            for kind in dict.fromkeys((*(types[name] for name in read if name in types), *own)):
                _note(types, node.output, kind)
    return {name: _NAMES[kind] for name, kind in types.items() if kind in _NAMES}


_NAMES: dict[int, str] = {
    TensorProto.DOUBLE: "float64",
    TensorProto.FLOAT: "float32",
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
}


def _note(types: dict[str, int], names: Iterable[str], kind: int) -> None:
    for name in names:
        types[name] = _coarser(types.get(name, 0), kind)


def _coarser(one: int, other: int) -> int:
    if one == other:
        return one
    return max(one, other, key=lambda kind: unit.unit if (unit := rounding(kind)) else 0.0)


def _held(node: NodeProto) -> int:
    """The coarsest type that a node stores, casts to, or holds in its bodies."""
    kind = 0
    for attribute in node.attribute:
        if attribute.type == AttributeProto.INT and attribute.name in {"to", "dtype"}:
            kind = _coarser(kind, attribute.i)
        elif attribute.type == AttributeProto.TENSOR:
            kind = _coarser(kind, attribute.t.data_type)
        elif attribute.name in {"value_float", "value_floats"}:
            kind = _coarser(kind, TensorProto.FLOAT)
        for body in [attribute.g] if attribute.HasField("g") else attribute.graphs:
            kind = _coarser(kind, _inside(body))
    return kind


def _inside(body: GraphProto | FunctionProto) -> int:
    kind = 0
    for node in every_node(body):
        kind = _coarser(kind, _held(node))
    for tensor in body.initializer if isinstance(body, GraphProto) else ():
        kind = _coarser(kind, tensor.data_type)
    return kind
