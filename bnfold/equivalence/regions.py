"""The smallest piece of a model between named values, cut out as a model of its own with the parameters it stores."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from bnfold.onnxfile import OnnxFile, payload_index, read


class Uncut(Exception):  # noqa: N818 - a fact about the model, not a mistake of the caller
    """There is no such piece; the message says why, without a full stop."""


@dataclass(frozen=True)
class Region:
    """`nodes` in the order of the file, `constants` the initializers they read, `scope` the graph they lie in."""

    scope: int
    nodes: tuple[int, ...]
    constants: tuple[str, ...]


@dataclass
class Scope:
    """One graph, nested body or function: who makes what, and which constants are visible."""

    nodes: Sequence[NodeProto]
    parent: "Scope | None"
    initializers: dict[str, TensorProto] = field(default_factory=dict)
    entering: frozenset[str] = frozenset()
    leaving: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.producers = {name: index for index, node in enumerate(self.nodes) for name in node.output if name}

    def constant(self, name: str) -> TensorProto | None:
        """An initializer of this scope or of one around it."""
        if name in self.initializers:
            return self.initializers[name]
        hidden = name in self.producers or name in self.entering
        return None if hidden or self.parent is None else self.parent.constant(name)


class Cutter:
    """Cuts regions out of one model. The weights stay in their file until a region needs them."""

    def __init__(self, source: Path | bytes | ModelProto) -> None:
        self.file: OnnxFile = read(source)
        self.model = self.file.proto
        self.scopes = list(_scopes(self.model))

    def region(self, inputs: Iterable[str], outputs: Sequence[str]) -> Region:
        """What lies between. Raises Uncut where another computed value enters, or an output is made nowhere."""
        index, scope = self._scope_of(outputs)
        stop = set(inputs)
        needed: set[int] = set()
        constants: dict[str, None] = {}
        waiting = [name for name in outputs if name not in stop]
        seen = set(waiting)
        while waiting:
            name = waiting.pop()
            if name in scope.producers:
                node = scope.producers[name]
                if node in needed:
                    continue
                needed.add(node)
                for other in reads(scope.nodes[node]):
                    if other not in seen and other not in stop:
                        seen.add(other)
                        waiting.append(other)
            elif scope.constant(name) is not None:
                constants[name] = None
            else:
                raise Uncut(f"value {name!r} enters it as well")
        return Region(index, tuple(sorted(needed)), tuple(constants))

    def nodes(self, region: Region) -> list[NodeProto]:
        """The nodes of a region."""
        return [self.scopes[region.scope].nodes[index] for index in region.nodes]

    def tensor(self, region: Region, name: str) -> TensorProto:
        """A constant of a region, with its bytes."""
        found = self.scopes[region.scope].constant(name)
        if found is None:
            raise Uncut(f"constant {name!r} is gone")
        return self.with_bytes(found)

    def with_bytes(self, tensor: TensorProto) -> TensorProto:
        """The tensor itself where it holds its bytes, else a copy that does."""
        index = payload_index(tensor)
        if index is None:
            return tensor
        whole = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        whole.raw_data = b"".join(bytes(chunk) for chunk in self.file.payloads[index].payload.chunks())
        return whole

    def cut(self, region: Region, inputs: Sequence[str], outputs: Sequence[str]) -> ModelProto:
        """A model of the region alone, its inputs and outputs untyped."""
        graph = GraphProto(name="region")
        for node in self.nodes(region):
            copied = graph.node.add()
            copied.CopyFrom(node)
            for attribute in copied.attribute:
                if attribute.HasField("t"):
                    attribute.t.CopyFrom(self.with_bytes(attribute.t))
        graph.initializer.extend(self.tensor(region, name) for name in region.constants)
        graph.input.extend(ValueInfoProto(name=name) for name in inputs)
        graph.output.extend(ValueInfoProto(name=name) for name in outputs)
        return helper.make_model(
            graph,
            ir_version=self.model.ir_version,
            opset_imports=self.model.opset_import,
            functions=self.model.functions,
        )

    def _scope_of(self, outputs: Sequence[str]) -> tuple[int, Scope]:
        found = [
            (index, scope)
            for index, scope in enumerate(self.scopes)
            if all(name in scope.producers for name in outputs)
        ]
        if len(found) != 1:
            where = "nowhere" if not found else "in several scopes"
            raise Uncut(f"{', '.join(map(repr, outputs)) or 'nothing'} is computed {where}")
        return found[0]


def _scopes(model: ModelProto) -> Iterator[Scope]:
    main = _graph_scope(model.graph, None)
    yield main
    yield from _nested(main)
    for function in model.functions:
        scope = _function_scope(function)
        yield scope
        yield from _nested(scope)


def _nested(scope: Scope) -> Iterator[Scope]:
    for node in scope.nodes:
        for attribute in node.attribute:
            for graph in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                inner = _graph_scope(graph, scope)
                yield inner
                yield from _nested(inner)


def _graph_scope(graph: GraphProto, parent: Scope | None) -> Scope:
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    return Scope(
        graph.node,
        parent,
        initializers,
        frozenset(value.name for value in graph.input) - set(initializers),
        tuple(value.name for value in graph.output),
    )


def _function_scope(function: FunctionProto) -> Scope:
    return Scope(function.node, None, {}, frozenset(function.input), tuple(function.output))


def reads(node: NodeProto) -> Iterator[str]:
    """Inputs, and what nested bodies read from outside."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for graph in [attribute.g] if attribute.HasField("g") else attribute.graphs:
            inside = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
            inside |= {name for inner in graph.node for name in inner.output}
            for inner in graph.node:
                yield from (name for name in reads(inner) if name not in inside)
            yield from (value.name for value in graph.output if value.name not in inside)


def same_bytes(one: TensorProto, other: TensorProto, first: Cutter, second: Cutter) -> bool:
    """Whether two tensors, each of its own model, hold the same numbers."""
    if one.data_type != other.data_type or list(one.dims) != list(other.dims):
        return False
    a, b = first.with_bytes(one), second.with_bytes(other)
    if a.HasField("raw_data") and b.HasField("raw_data"):
        return bool(a.raw_data == b.raw_data)
    blank_a, blank_b = TensorProto(), TensorProto()
    blank_a.CopyFrom(a)
    blank_b.CopyFrom(b)
    for blank in (blank_a, blank_b):
        blank.name = blank.doc_string = ""
    return blank_a == blank_b
