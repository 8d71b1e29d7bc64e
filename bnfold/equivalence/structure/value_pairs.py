"""Which values inside two models mean the same, where one was made from the other by rewrites nobody tells about.

Names alone do not say: a fold may leave the scaled result of Conv under the name that the unscaled one had, or give it
the name of the normalization's. Use does. Two nodes that are alike (operator, attributes, constants) make the same of
the same; and where what they make means the same, so does what they read. So pairs spread forward from the inputs as
long as nothing was changed, and backward from the outputs. A node whose constants changed ends neither: going backward
through it, the operators that are one affine map per channel are passed over, since they are what a fold moves into
constants. In front of it a value is paired again where its name is the same and what makes it is *settled*: nothing on
the way to it was changed, or a whole affine map went into constants. Where a part of one is left (the scale moved on,
an Add for the shift stays), a value may carry another scale under its old name, and is not paired.

What one model stores under the name of what the other computes is taken for that constant. Where it is another number,
its readers are the first to differ, which is where a person has to look.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto

from onnx import NodeProto, TensorProto

from bnfold.equivalence.operators import operator_of
from bnfold.equivalence.structure.output_sources import ValuePair
from bnfold.equivalence.structure.scopes import Cutter, Value, same_bytes


def pairs(reference: Cutter, candidate: Cutter) -> tuple[ValuePair, ...]:
    """Values of the main graphs that are computed and comparable, outputs included, in the order of the reference."""
    stored = _stored(reference) | _stored(candidate)
    search = _Search(_Side(reference, stored), _Side(candidate, stored))
    search.forward()
    search.settle()
    search.backward()
    return tuple(ValuePair(old, new) for old, new in search.found.items())


def _stored(index: Cutter) -> set[str]:
    """The constants that stand in the main graph of a model: initializers, and what Constant nodes hold."""
    scope = index.scopes[0]
    held = {name for node in scope.nodes if node.op_type == "Constant" for name in node.output}
    return held.union(scope.initializers).difference(scope.entering)


class _Trust(Enum):
    """The relation of two values. SAME: they mean the same. INSIDE: an affine map apart, within what was folded."""

    SAME = auto()
    INSIDE = auto()
    BEFORE = auto()  # in front of a node whose constants changed: the same again once nothing folded lies between


@dataclass(frozen=True)
class _Use:
    """One computed input of a node."""

    position: int
    name: str


class _Side:
    """The main graph of one model: what of it is computed, which is all that is not constant.

    `stored`: names of what one of the two models stores.
    """

    def __init__(self, index: Cutter, stored: set[str]) -> None:
        self.index = index
        self.scope = index.scopes[0]
        self.nodes = list(self.scope.nodes)
        made = (name for name in self.scope.producers if Value(0, name) not in index.constant_made)
        self.computed = set(self.scope.entering).union(made) - stored

    def made_by(self, name: str) -> NodeProto | None:
        return self.index.maker(name)

    def held(self, name: str) -> TensorProto | None:
        """The tensor that stands in the file under a name: an initializer, or in a Constant node."""
        maker = self.made_by(name)
        if maker is None or maker.op_type != "Constant":
            return self.index.stored(Value(0, name))
        return next((attribute.t for attribute in maker.attribute if attribute.name == "value"), None)

    def readers(self, name: str) -> list[NodeProto]:
        return [self.nodes[position] for position in self.scope.readers.get(name, ())]

    def uses(self, node: NodeProto) -> list[_Use]:
        return [_Use(position, name) for position, name in enumerate(node.input) if name in self.computed]

    def constants(self, node: NodeProto) -> dict[int, str]:
        return {at: name for at, name in enumerate(node.input) if name and name not in self.computed}


class _Search:
    def __init__(self, before: _Side, after: _Side) -> None:
        self.before = before
        self.after = after
        self.found: dict[str, str] = {}
        self.settled = set[str]()
        self._same: dict[tuple[str, str], bool] = {}
        self._kinds: dict[int, bytes] = {}

    def forward(self) -> None:
        """From the inputs: alike nodes that read the same make the same.

        Nodes of one operator whose attributes differ, as in training mode, were meant to make the same where all that
        they read and make goes by the same names.
        """
        meanings = {name: name for name in set(self.before.scope.entering)}
        readers: dict[tuple[bytes, tuple[_Use, ...]], list[NodeProto]] = {}
        for node in self.after.nodes:
            readers.setdefault((self._kind(node), tuple(self.after.uses(node))), []).append(node)
        for node in self.before.nodes:
            uses = self.before.uses(node)
            if not uses or any(use.name not in meanings for use in uses):
                continue
            key = self._kind(node), tuple(_Use(use.position, meanings[use.name]) for use in uses)
            alike = next((other for other in readers.get(key, ()) if self._same_constants(node, other)), None)
            if alike is None and self._meant_the_same(node, key):
                meanings[node.output[0]] = self.found[node.output[0]] = node.output[0]
            if alike is not None and len(alike.output) == len(node.output):
                found = {old: new for old, new in zip(node.output, alike.output, strict=True) if old and new}
                meanings |= found
                self.found |= found

    def _meant_the_same(self, node: NodeProto, key: tuple[bytes, tuple[_Use, ...]]) -> bool:
        other = self.after.made_by(node.output[0])
        if other is None or other.op_type != node.op_type or other.output[0] != node.output[0]:
            return False
        constants = self.before.constants(node) == self.after.constants(other)
        return constants and self._kind(other) != key[0] and tuple(self.after.uses(other)) == key[1]

    def settle(self) -> None:
        """Names that both models have and that mean the same in both as far as what makes them can tell."""
        self.settled = set(self.before.scope.entering)
        for node in self.before.nodes:
            for name in node.output:
                if name in self.after.scope.producers and name in self.before.computed and self._is_settled(node, name):
                    self.settled.add(name)

    def _is_settled(self, before: NodeProto, name: str) -> bool:
        after = self.after.made_by(name)
        assert after is not None
        if self.found.get(name) == name:
            return True
        if self._kind(before) != self._kind(after):
            return _passed_over(before, self.before) is not None and not operator_of(after).affine
        inputs = _matched(before, self.before.uses(before), self.after.uses(after))
        if self._same_constants(before, after):
            return bool(inputs) and all(was == now and was in self.settled for was, now in inputs)
        # Its constants took up a map: one in front of it that is gone, and none behind it.
        return all(self._is_gone(was, now) for was, now in inputs) and self._keeps_readers(name)

    def _is_gone(self, was: str, now: str) -> bool:
        before = self.before.made_by(was)
        return was != now and before is not None and _passed_over(before, self.before) is not None

    def _keeps_readers(self, name: str) -> bool:
        def affine_readers(side: _Side) -> list[bytes]:
            return sorted(self._kind(node) for node in side.readers(name) if operator_of(node).affine)

        return affine_readers(self.before) == affine_readers(self.after)

    def backward(self) -> None:
        """From the outputs: what alike nodes read to make the same means the same."""
        waiting = [(name, name, _Trust.SAME) for name in self.before.scope.leaving]
        seen: set[tuple[str, str, _Trust]] = set()
        while waiting:
            old, new, trust = step = waiting.pop()
            before, after = self.before.made_by(old), self.after.made_by(new)
            if step in seen or before is None or after is None:
                continue
            seen.add(step)
            if trust is _Trust.BEFORE and old == new and old in self.settled:
                trust = _Trust.SAME
            if trust is _Trust.SAME:
                self.found.setdefault(old, new)
            waiting += self._beyond(old, new, before, after, trust)
        order = [name for node in self.before.nodes for name in node.output if name in self.found]
        self.found = {name: self.found[name] for name in order if name in self.before.computed}

    def _beyond(
        self, old: str, new: str, before: NodeProto, after: NodeProto, trust: _Trust
    ) -> Iterator[tuple[str, str, _Trust]]:
        if self._kind(before) == self._kind(after) and list(before.output).index(old) == list(after.output).index(new):
            inputs = _matched(before, self.before.uses(before), self.after.uses(after))
            changed = not self._same_constants(before, after)
            for was, now in inputs:
                if changed:
                    yield was, now, _Trust.SAME if was == now and was in self.settled else _Trust.BEFORE
                else:
                    yield was, now, trust
            return
        inside = _Trust.INSIDE if trust is _Trust.SAME else trust
        for side, node, mine in ((self.before, before, True), (self.after, after, False)):
            through = _passed_over(node, side)
            if through is not None:
                yield (through, new, inside) if mine else (old, through, inside)
                return

    def _made_alike(self, before: NodeProto | None, after: NodeProto | None) -> bool:
        if before is None or after is None:
            return False
        return self._kind(before) == self._kind(after) and self._same_constants(before, after)

    def _same_constants(self, before: NodeProto, after: NodeProto) -> bool:
        was, now = self.before.constants(before), self.after.constants(after)
        return was.keys() == now.keys() and all(self._same_constant(was[at], now[at]) for at in was)

    def _same_constant(self, old: str, new: str) -> bool:
        if (old, new) not in self._same:
            was, now = self.before.held(old), self.after.held(new)
            if was is not None and now is not None:
                same = same_bytes(was, now, self.before.index, self.after.index)
            elif old == new and (was is None) != (now is None):
                same = True  # one model computes what the other stores
            else:
                same = self._made_alike(self.before.made_by(old), self.after.made_by(new))
            self._same[old, new] = same
        return self._same[old, new]

    def _kind(self, node: NodeProto) -> bytes:
        """Operator and attributes, without names."""
        if id(node) not in self._kinds:
            plain = NodeProto(op_type=node.op_type, domain=node.domain)
            plain.attribute.extend(sorted(node.attribute, key=lambda attribute: attribute.name))
            for attribute in plain.attribute:
                attribute.ClearField("doc_string")
            self._kinds[id(node)] = plain.SerializeToString(deterministic=True)
        return self._kinds[id(node)]


def _matched(node: NodeProto, before: list[_Use], after: list[_Use]) -> list[tuple[str, str]]:
    """Inputs by position; those of a commutative operator by name where the names are the same in another order."""
    old, new = [use.name for use in before], [use.name for use in after]
    if operator_of(node).commutative and sorted(old) == sorted(new):
        return [(name, name) for name in old]
    if [use.position for use in before] != [use.position for use in after]:
        return []
    return list(zip(old, new, strict=True))


def _passed_over(node: NodeProto, side: _Side) -> str | None:
    """The data that one affine map per channel, or nothing at all, is applied to; None for any other node."""
    uses, known = side.uses(node), operator_of(node)
    if (known.unchanging or known.affine) and len(uses) == 1:
        return uses[0].name
    return None
