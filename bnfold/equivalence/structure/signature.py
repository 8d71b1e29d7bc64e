"""The signature of a model: its inputs and outputs, read from the structure without loading weights."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

from bnfold.graph import nodes_by_dataflow

Dim = int | str | None
"""A static size, the name of a dynamic one, or None for a dynamic dimension without a name."""

Source = Path | bytes
"""A model as verification takes it: the file itself, so that external data resolves, or its bytes."""


class Port(NamedTuple):
    """One input or output. `elem_type`: TensorProto.DataType, 0 for what is not a tensor. `dims` None: any rank."""

    name: str
    elem_type: int
    dims: tuple[Dim, ...] | None

    @property
    def type_name(self) -> str:
        """For people: `float32[batch,3,224,224]`."""
        kind = TensorProto.DataType.Name(self.elem_type).lower() if self.elem_type else "not a tensor"
        kind = {"float": "float32", "double": "float64"}.get(kind, kind)
        if self.dims is None:
            return kind
        return f"{kind}[{','.join('?' if dim is None else str(dim) for dim in self.dims)}]"


class Signature(NamedTuple):
    """The contract of a model: inputs a caller must give, inputs a caller may override, outputs, all in file order.

    `constant`: inputs a caller may override, but never does, as somebody says.
    """

    inputs: tuple[Port, ...]
    overridable: tuple[Port, ...]
    outputs: tuple[Port, ...]
    constant: tuple[Port, ...] = ()

    def without_overrides(self) -> "Signature":
        """The signature where no caller overrides anything."""
        return Signature(self.inputs, (), self.outputs, (*self.constant, *self.overridable))


def signature_of(model: ModelProto) -> Signature:
    """From IR version 4 on an input that has an initializer may be overridden; before, it is a constant."""
    initialized = {tensor.name for tensor in model.graph.initializer}
    initialized |= {tensor.values.name for tensor in model.graph.sparse_initializer}
    ports = [_port(value) for value in model.graph.input]
    return Signature(
        inputs=tuple(port for port in ports if port.name not in initialized),
        overridable=tuple(port for port in ports if port.name in initialized) if model.ir_version >= 4 else (),
        outputs=tuple(_port(value) for value in model.graph.output),
    )


def is_overridable(model: ModelProto) -> bool:
    """Whether callers may override an initializer."""
    return bool(signature_of(model).overridable)


def weight_count(model: ModelProto) -> int:
    """The number of elements in the initializers of the main graph."""
    return sum(math.prod(tensor.dims) for tensor in model.graph.initializer)


def every_node(graph: GraphProto | FunctionProto) -> Iterator[NodeProto]:
    """The nodes of a graph or function and of the bodies nested in it."""
    for node in graph.node:
        yield node
        for body in bodies(node):
            yield from every_node(body)


def every_node_by_dataflow(graph: GraphProto | FunctionProto) -> Iterator[NodeProto]:
    """The same, each behind those whose values it needs."""
    for node in nodes_by_dataflow(graph):
        yield node
        for body in bodies(node):
            yield from every_node_by_dataflow(body)


def every_graph(graph: GraphProto) -> Iterator[GraphProto]:
    """A graph and the bodies nested in it, at any depth."""
    yield graph
    for node in graph.node:
        for body in bodies(node):
            yield from every_graph(body)


def bodies(node: NodeProto) -> Iterator[GraphProto]:
    """The graphs nested in a node."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def difference(reference: Signature, candidate: Signature) -> str:
    """Why a caller of `reference` could not call `candidate` instead: one sentence, empty where they could.

    Names, order, element types, ranks and static sizes must be the same, and an input that takes any size must still
    take any. A dynamic output dimension may have become known; symbolic names may differ. Where the reference lets
    nobody override anything, the candidate may: whoever calls the reference will not.
    """
    for kind in ("inputs", "overridable", "outputs"):
        if kind == "overridable" and not reference.overridable:
            continue
        before: tuple[Port, ...] = getattr(reference, kind)
        after: tuple[Port, ...] = getattr(candidate, kind)
        word = "overridable inputs" if kind == "overridable" else kind
        if [port.name for port in before] != [port.name for port in after]:
            return f"The {word} differ: {_names(before)} in the reference, {_names(after)} in the candidate."
        for old, new in zip(before, after, strict=True):
            if old.elem_type != new.elem_type or _contradict(old.dims, new.dims, narrowing=kind == "outputs"):
                return (
                    f"The {word} differ: {old.name!r} is {old.type_name} in the reference, "
                    f"{new.type_name} in the candidate."
                )
    return ""


def _contradict(old: tuple[Dim, ...] | None, new: tuple[Dim, ...] | None, *, narrowing: bool) -> bool:
    if old is None or new is None:
        return not narrowing and old is None and new is not None
    if len(old) != len(new):
        return True
    for was, now in zip(old, new, strict=True):
        if isinstance(was, int) and isinstance(now, int) and was != now:
            return True
        if not narrowing and isinstance(now, int) and not isinstance(was, int):
            return True
    return False


def _port(value: ValueInfoProto) -> Port:
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        return Port(value.name, 0, None)
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return Port(value.name, tensor.elem_type, None)
    dims: list[Dim] = []
    for dim in tensor.shape.dim:
        if dim.HasField("dim_value") and dim.dim_value >= 0:
            dims.append(dim.dim_value)
        else:
            dims.append(dim.dim_param or None)
    return Port(value.name, tensor.elem_type, tuple(dims))


def _names(ports: tuple[Port, ...]) -> str:
    return ", ".join(port.name for port in ports) or "none"
