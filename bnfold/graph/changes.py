"""The differences between two structures of one model: nodes added, removed, rewired or changed, and weights."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from typing import Any, NamedTuple

from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto

from bnfold.graph.graph import STORED
from bnfold.graph.model import Edit
from bnfold.graph.sameness import same_attribute, same_node, same_operator, same_tensor
from bnfold.records import Record

MOST_NAMED = 50
"""Nodes and weights of one kind of change that a report names; the others are counted."""

_KINDS = {
    "insert": "added",
    "remove": "removed",
    "set-input": "rewired",
    "rename-output": "rewired",
    "drop-outputs": "rewired",
    "set-attribute": "changed",
    "set-constant": "weights",
    "add-constant": "weights",
    STORED: "weights",
}


class Changes(Record):
    """The changes of a pass, by the names that people use, with the scope where that is not the main graph.

    `added`, `removed`, `rewired` (other inputs or outputs), `changed` (another operator or other attributes): nodes.
    `weights`: constants that are new, gone or hold other numbers. `other`: what else a model holds.
    `touched`: the names of all those nodes and weights, and of the values that they make or made.
    """

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    rewired: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    other: tuple[str, ...] = ()
    touched: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return any(getattr(self, kind) for kind in KINDS)

    def to_dict(self) -> dict[str, Any]:
        """Of each kind, how many there are, and the first by name."""
        return {
            kind: {"count": len(found), "names": list(found[:MOST_NAMED])}
            for kind in KINDS
            if (found := getattr(self, kind))
        }

    @classmethod
    def of_edits(cls, edits: Iterable[Edit]) -> "Changes":
        """The sum of edits made through `Graph`. A node that one pass inserts and removes again is no change."""
        found: dict[str, dict[str, None]] = {kind: {} for kind in KINDS}
        for kind, scope, node in edits:
            found[_KINDS[kind]][_placed(node, scope)] = None
        for name in found["added"].keys() & found["removed"].keys():
            del found["added"][name], found["removed"][name]
        gone = found["added"].keys() | found["removed"].keys()
        for kind in ("rewired", "changed"):
            found[kind] = {name: None for name in found[kind] if name not in gone}
        touched = frozenset(name.partition(" (")[0] for names in found.values() for name in names)
        return cls(**{kind: tuple(names) for kind, names in found.items()}, touched=touched)


KINDS = tuple(each.name for each in fields(Changes) if each.name != "touched")
"""The kinds of changes, in the order in which people are told."""


def _placed(name: str, scope: str) -> str:
    return f"{name} ({scope})" if scope else name


class _Place(NamedTuple):
    """A node or a weight: the scope it stands in, and the value that tells it from the others there."""

    scope: str
    value: str


def changes_between(before: ModelProto, after: ModelProto) -> Changes:
    """The changes from `before` to `after`. Both are structures over the same payloads."""
    old, new = _Contents(before), _Contents(after)
    added = {place: node for place, node in new.nodes.items() if place not in old.nodes}
    removed = {place: node for place, node in old.nodes.items() if place not in new.nodes}
    moved = dict(_moved(removed, added))
    rewired = list(moved.values())
    changed: list[_Place] = []
    for place, node in new.nodes.items():
        former = old.nodes.get(place)
        if former is None or _same_alone(node, former):
            continue
        alike = node.op_type == former.op_type and _same_attributes(node, former)
        (rewired if alike else changed).append(place)
    weights = [place for place, tensor in new.weights.items() if not _holds(old.weights.get(place), tensor)]
    weights += [place for place in old.weights if place not in new.weights]
    added = {place: node for place, node in added.items() if place not in moved.values()}
    removed = {place: node for place, node in removed.items() if place not in moved}
    shown = {**removed, **added, **{place: new.nodes[place] for place in (*rewired, *changed)}}
    touched = {place.value for place in weights}
    for node in shown.values():
        touched.update((node.name, *node.output))
    for place in (*moved, *rewired, *changed):
        touched.update(old.nodes[place].output if place in old.nodes else ())
    other = tuple(_others(before, after))
    same = not (added or removed or rewired or changed or weights or other)
    if same and before.SerializeToString(deterministic=True) != after.SerializeToString(deterministic=True):
        other = ("names, descriptions or the order of nodes",)
    return Changes(
        added=tuple(_called(added)),
        removed=tuple(_called(removed)),
        rewired=tuple(_called({place: new.nodes[place] for place in rewired})),
        changed=tuple(_called({place: new.nodes[place] for place in changed})),
        weights=tuple(_placed(place.value, place.scope) for place in dict.fromkeys(weights)),
        other=other,
        touched=frozenset(touched - {""}),
    )


def _others(before: ModelProto, after: ModelProto) -> Iterator[str]:
    """The differences of the interface and of the versions."""
    if before.graph.input != after.graph.input:
        yield "inputs"
    if before.graph.output != after.graph.output:
        yield "outputs"
    if before.opset_import != after.opset_import:
        yield "operator sets"
    if before.ir_version != after.ir_version:
        yield "IR version"
    if before.metadata_props != after.metadata_props:
        yield "metadata"


def _called(nodes: Mapping[_Place, NodeProto]) -> Iterator[str]:
    for place, node in nodes.items():
        yield _placed(node.name or place.value or node.op_type, place.scope)


def _moved(removed: Mapping[_Place, NodeProto], added: Mapping[_Place, NodeProto]) -> Iterator[tuple[_Place, _Place]]:
    """Nodes that make their value under another name now, told by their own name."""
    new = {(place.scope, node.op_type, node.name): place for place, node in added.items() if node.name}
    for place, node in removed.items():
        now = new.get((place.scope, node.op_type, node.name)) if node.name else None
        if now is not None:
            yield place, now


def _same_alone(one: NodeProto, other: NodeProto) -> bool:
    """Whether two nodes are the same, what stands in their bodies left aside."""
    if not any(attribute.HasField("g") or attribute.graphs for attribute in one.attribute):
        return same_node(one, other)
    return one.input[:] == other.input[:] and one.op_type == other.op_type and _same_attributes(one, other)


def _same_attributes(one: NodeProto, other: NodeProto) -> bool:
    if not any(attribute.HasField("g") or attribute.graphs for attribute in (*one.attribute, *other.attribute)):
        shell = NodeProto()
        shell.CopyFrom(other)
        del shell.output[:]
        shell.output.extend(one.output)
        return same_operator(one, shell)
    ones, others = ({a.name: a for a in node.attribute if not _has_body(a)} for node in (one, other))
    return ones.keys() == others.keys() and all(same_attribute(ones[name], others[name]) for name in ones)


def _has_body(attribute: AttributeProto) -> bool:
    return attribute.HasField("g") or bool(attribute.graphs)


def _holds(old: TensorProto | None, new: TensorProto) -> bool:
    return old is not None and same_tensor(old, new)


class _Contents:
    """The nodes and weights of a model, bodies included, by their places."""

    def __init__(self, model: ModelProto) -> None:
        self.nodes: dict[_Place, NodeProto] = {}
        self.weights: dict[_Place, TensorProto] = {}
        self._enter(model.graph, "")
        for function in model.functions:
            self._enter(function, f"{function.domain}::{function.name}")

    def _enter(self, body: GraphProto | FunctionProto, scope: str) -> None:
        if isinstance(body, GraphProto):
            self.weights.update({_Place(scope, tensor.name): tensor for tensor in body.initializer})
        without: Counter[str] = Counter()
        for node in body.node:
            value = next((output for output in node.output if output), "")
            if not value:  # nothing tells such nodes apart but their order
                without[node.op_type] += 1
                value = f"{node.op_type} {without[node.op_type]}"
            self.nodes[_Place(scope, value)] = node
            for attribute in node.attribute:
                inner = f"{scope}/{value}.{attribute.name}".lstrip("/")
                if attribute.HasField("g"):
                    self._enter(attribute.g, inner)
                for number, graph in enumerate(attribute.graphs):
                    self._enter(graph, f"{inner}[{number}]")
