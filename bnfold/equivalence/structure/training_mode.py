"""What runs in training mode, read from the protobuf alone: the spellings of every opset, scope by scope."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import (
    AttributeProto,
    FunctionProto,
    GraphProto,
    ModelProto,
    NodeProto,
    OperatorSetIdProto,
    TensorProto,
    helper,
    numpy_helper,
)

from bnfold.equivalence.operators import DEFAULT_DOMAINS, operator_of
from bnfold.onnxfile import label, payload_index, shared_names

Place = tuple[str, str]
"""The scope of a node ("" for the main graph) and its label."""


@dataclass
class Scope:
    """One graph or function body and what it can see: constants and the nodes that make its values."""

    body: GraphProto | FunctionProto
    path: str
    opset: int
    producers: dict[str, NodeProto] = field(default_factory=dict)
    stored: set[str] = field(default_factory=set)
    constants: dict[str, TensorProto | AttributeProto] = field(default_factory=dict)

    def place(self, node: NodeProto) -> Place:
        """The key by which a node is known."""
        return self.path, label(node, self._shared_names)

    @cached_property
    def _shared_names(self) -> frozenset[str]:
        return shared_names(self.body.node)

    def constant(self, value: str) -> NDArray[Any] | None:
        """A small constant, flattened; None where `value` is none."""
        found = self.constants.get(value)
        if found is None:
            return None
        if isinstance(found, TensorProto):
            return numpy_helper.to_array(found).reshape(-1)
        return np.asarray(helper.get_attribute_value(found), np.int64).reshape(-1)

    def readers(self, value: str) -> list[NodeProto]:
        """The nodes that read `value`, nested bodies included."""
        return [node for node in _all(self.body) if value in node.input]

    @cached_property
    def read(self) -> frozenset[str]:
        """Every value that a node reads, nested bodies included, or that leaves the scope."""
        outputs = [item if isinstance(item, str) else item.name for item in self.body.output]
        return frozenset(outputs).union(*(node.input for node in _all(self.body)))

    def is_read(self, value: str) -> bool:
        """Whether a node reads `value`, or it leaves the scope."""
        return bool(value) and value in self.read


def scopes(model: ModelProto, *, assume_constant_initializers: bool = False) -> Iterator[Scope]:
    """Every scope, outer ones first. `assume_constant_initializers`: no caller overrides one."""
    opset = _opset(model.opset_import)
    constant = assume_constant_initializers or model.ir_version < 4
    overridable = set() if constant else {value.name for value in model.graph.input}
    yield from _scopes(Scope(model.graph, "", opset), overridable)
    for function in model.functions:
        yield from _scopes(Scope(function, f"{function.domain}::{function.name}", _opset(function.opset_import)), set())


def is_batch_norm(node: NodeProto) -> bool:
    """ONNX's own operator."""
    return node.op_type == "BatchNormalization" and node.domain in DEFAULT_DOMAINS


def trains(node: NodeProto, opset: int) -> bool:
    """Whether a BatchNormalization normalizes with the batch, as its opset spells it."""
    if opset < 7:
        return not _integer(node, "is_test")
    return any(node.output[1:]) if opset < 14 else bool(_integer(node, "training_mode"))


def drops(node: NodeProto, scope: Scope) -> bool:
    """Whether `node` is a Dropout that drops in every run."""
    if node.op_type != "Dropout" or node.domain not in DEFAULT_DOMAINS:
        return False
    if scope.opset < 7:
        return not _integer(node, "is_test")
    if scope.opset < 12 or len(node.input) < 3 or not node.input[2]:
        return False
    flag = scope.constant(node.input[2])
    return flag is not None and bool(flag.any())


def has_training_nodes(model: ModelProto, *, assume_constant_initializers: bool = False) -> bool:
    """Whether anything runs in training mode. `assume_constant_initializers`: no caller overrides one."""
    return any(
        drops(node, scope) or (is_batch_norm(node) and trains(node, scope.opset))
        for scope in scopes(model, assume_constant_initializers=assume_constant_initializers)
        for node in scope.body.node
    )


def _scopes(scope: Scope, overridable: Collection[str]) -> Iterator[Scope]:
    """Enter what is constant in `scope`, then the bodies nested in it."""
    for tensor in getattr(scope.body, "initializer", ()):
        if tensor.name not in overridable:
            scope.stored.add(tensor.name)
            if payload_index(tensor) is None:
                scope.constants[tensor.name] = tensor
    for node in scope.body.node:
        scope.producers.update((output, node) for output in node.output)
        plain = node.domain in DEFAULT_DOMAINS and not any(_bodies(node)) and not operator_of(node).random
        if plain and not drops(node, scope) and all(value in scope.stored for value in node.input if value):
            scope.stored.update(output for output in node.output if output)
        if node.op_type == "Constant" and node.output:
            _read_constant(node, scope)
        elif node.op_type == "Identity" and node.output and set(node.input[:1]) & scope.constants.keys():
            scope.constants[node.output[0]] = scope.constants[node.input[0]]
    yield scope
    for node in list(scope.body.node):
        for name, body in _bodies(node):
            path = f"{scope.path}/{scope.place(node)[1]}.{name}".lstrip("/")
            seen = (dict(scope.producers), set(scope.stored), dict(scope.constants))
            yield from _scopes(Scope(body, path, scope.opset, *seen), ())


def _bodies(node: NodeProto) -> Iterator[tuple[str, GraphProto]]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.name, attribute.g
        yield from ((f"{attribute.name}[{index}]", body) for index, body in enumerate(attribute.graphs))


def _read_constant(node: NodeProto, scope: Scope) -> None:
    for attribute in node.attribute:
        if attribute.name == "value" and payload_index(attribute.t) is None:
            scope.constants[node.output[0]] = attribute.t
        elif attribute.name in ("value_int", "value_ints"):
            scope.constants[node.output[0]] = attribute


def _all(body: GraphProto | FunctionProto) -> Iterator[NodeProto]:
    for node in body.node:
        yield node
        for _, inner in _bodies(node):
            yield from _all(inner)


def _opset(imports: Iterable[OperatorSetIdProto]) -> int:
    versions = {entry.domain: entry.version for entry in imports}
    return next((versions[name] for name in DEFAULT_DOMAINS if name in versions), 1)


def _integer(node: NodeProto, name: str) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == name), 0)
