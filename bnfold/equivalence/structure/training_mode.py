"""Nodes in training mode, read from the protobuf alone: the spellings of every opset, scope by scope."""

from collections.abc import Iterator
from functools import cached_property
from typing import Any

from numpy.typing import NDArray
from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto, TensorProto

from bnfold.decisions import NodeKey
from bnfold.equivalence.operators import DEFAULT_DOMAINS
from bnfold.equivalence.structure.scopes import Scope, Scopes
from bnfold.equivalence.structure.signature import every_node
from bnfold.onnxfile import label
from bnfold.records import Record


class VisibleScope(Record):
    """One scope of the index, and what its nodes can see."""

    index: Scopes
    scope: Scope

    @property
    def body(self) -> GraphProto | FunctionProto:
        """The graph or function, which may be edited from the innermost scope outwards."""
        return self.scope.body

    @property
    def opset(self) -> int:
        """The version of ONNX's own operators."""
        return self.index.opset(self.scope.number)

    def key(self, node: NodeProto) -> NodeKey:
        """The key by which a node is known."""
        return self.scope.path, label(node, self.scope.shared_names)

    def producer(self, name: str) -> NodeProto | None:
        """The node that makes what is read as `name`, in this scope or around it."""
        value = self.index.resolve(self.scope.number, name)
        place = None if value is None else self.index.producer(value)
        return None if place is None else self.index.node(place)

    def is_constant(self, name: str) -> bool:
        """Whether no caller can influence what is read as `name`."""
        return self.index.is_constant(self.scope.number, name)

    def constant(self, name: str) -> TensorProto | AttributeProto | None:
        """A small constant as it is written; None where `name` is none."""
        return self.index.constant(self.scope.number, name)

    def flat(self, name: str) -> NDArray[Any] | None:
        """The numbers of a small constant, flattened; None where `name` is none."""
        return self.index.flat(self.scope.number, name)

    def readers(self, name: str) -> list[NodeProto]:
        """The nodes that read `name`, nested bodies included."""
        return [node for node in every_node(self.body) if name in node.input]

    @cached_property
    def _read(self) -> frozenset[str]:
        return frozenset(self.scope.leaving).union(*(node.input for node in every_node(self.body)))

    def is_read(self, name: str) -> bool:
        """Whether a node reads `name`, or it leaves the scope."""
        return bool(name) and name in self._read


def visible_scopes(index: Scopes) -> Iterator[VisibleScope]:
    """Every scope, outer ones first."""
    return (VisibleScope(index, scope) for scope in index.scopes)


def is_batch_norm(node: NodeProto) -> bool:
    """ONNX's own operator."""
    return node.op_type == "BatchNormalization" and node.domain in DEFAULT_DOMAINS


def trains(node: NodeProto, opset: int) -> bool:
    """Whether a BatchNormalization normalizes with the batch, as its opset spells it."""
    if opset < 7:
        return not _integer(node, "is_test")
    return any(node.output[1:]) if opset < 14 else bool(_integer(node, "training_mode"))


def drops(node: NodeProto, scope: VisibleScope) -> bool:
    """Whether `node` is a Dropout that drops in every run."""
    return scope.index.drops(scope.scope.number, node)


def has_training_nodes(index: Scopes) -> bool:
    """Whether anything runs in training mode."""
    return any(
        drops(node, scope) or (is_batch_norm(node) and trains(node, scope.opset))
        for scope in visible_scopes(index)
        for node in scope.body.node
    )


def _integer(node: NodeProto, name: str) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == name), 0)
