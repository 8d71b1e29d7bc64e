"""Outputs of one model under the names of another's: exporters make names up, and callers may go by position."""

from collections.abc import Mapping, MutableSequence

from onnx import ModelProto, NodeProto

from bnfold.equivalence.structure.signature import Signature, difference, every_graph, every_node

_OLD = "bnfold__named_before_"


def renamed_outputs(reference: Signature, candidate: Signature) -> dict[str, str]:
    """Candidate's name -> reference's, for outputs of one count and of the same types; empty where none differs."""
    pairs = list(zip(candidate.outputs, reference.outputs, strict=False))
    names = {mine.name: other.name for mine, other in pairs}
    if len(reference.outputs) != len(candidate.outputs) or all(old == new for old, new in names.items()):
        return {}
    taken = {port.name for port in reference.outputs}
    if taken == {port.name for port in candidate.outputs} or taken & {port.name for port in candidate.inputs}:
        return {}
    ports = tuple(type(port)(names[port.name], port.elem_type, port.dims) for port in candidate.outputs)
    paired = Signature(candidate.inputs, candidate.overridable, ports, candidate.constant)
    return {} if difference(reference, paired) else names


def rename_outputs(model: ModelProto, names: Mapping[str, str]) -> None:
    """Give the outputs of `model` other names. What goes by such a name inside the model gets another one.

    An output that is an input or stored as well is made anew by an Identity.
    """
    graph = model.graph
    given = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    new = {old: name for old, name in names.items() if old != name and old not in given}
    everywhere = {name: _OLD + name for name in names.values() if names.get(name) != name} | new
    for node in every_node(graph):
        _rename(node.input, everywhere)
        _rename(node.output, everywhere)
    for holder in every_graph(graph):
        for tensor in holder.initializer:
            tensor.name = everywhere.get(tensor.name, tensor.name)
        for value in (*holder.value_info, *holder.input, *(holder.output if holder is not graph else ())):
            value.name = everywhere.get(value.name, value.name)
    for value in graph.output:
        if value.name in given and names[value.name] != value.name:
            source = everywhere.get(value.name, value.name)
            graph.node.append(NodeProto(op_type="Identity", input=[source], output=[names[value.name]]))
        value.name = names[value.name]


def _rename(values: MutableSequence[str], names: Mapping[str, str]) -> None:
    for index, name in enumerate(values):
        if name in names:
            values[index] = names[name]
