"""The float values that a discrete or saturated output was made from, paired between two models.

ArgMax, TopK, a comparison or a Softmax at its ends hides differences, so what feeds them is compared as well. Names do
not pair values: a fold may leave the result of Conv under the name that BatchNormalization's had. What pairs them is
their use: where both models make an output by the same operators with the same attributes, the values that enter
those operators mean the same.
"""

from collections.abc import Iterable
from typing import NamedTuple

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

from bnfold.equivalence.operators import operator_of
from bnfold.equivalence.structure.scopes import Cutter, Value, same_bytes


class ValuePair(NamedTuple):
    """A value of the reference and the value of the candidate that means the same."""

    reference: str
    candidate: str


class Sources(NamedTuple):
    """The sources of one output. `complete`: it has no others, so that where these agree, the output must."""

    pairs: tuple[ValuePair, ...]
    complete: bool


def behind(reference: Cutter, candidate: Cutter) -> dict[str, Sources]:
    """For each output that a discrete or saturating operator made: what it was made from. Others are left out."""
    walk = _Walk(reference, candidate)
    found = {name: walk.sources(name) for name in reference.scopes[0].leaving}
    return {name: sources for name, sources in found.items() if sources.pairs}


def tapped(model: bytes, names: Iterable[str]) -> bytes:
    """The model with more outputs. What is appended to a protobuf message adds to its repeated fields."""
    graph = GraphProto(output=[ValueInfoProto(name=name) for name in names])
    return model + ModelProto(graph=graph).SerializeToString()


class _Walk:
    """From an output toward the inputs, in both models at once, while both say the same."""

    def __init__(self, reference: Cutter, candidate: Cutter) -> None:
        self.reference = reference
        self.candidate = candidate

    def sources(self, output: str) -> Sources:
        waiting = [(output, output, False)]
        seen: set[tuple[str, str, bool]] = set()
        pairs: dict[ValuePair, None] = {}
        complete = True
        while waiting:
            step = waiting.pop()
            if step in seen:
                continue
            seen.add(step)
            old, new, hidden = step
            before, after = self.reference.maker(old), self.candidate.maker(new)
            hides = before is not None and _hides(before)
            if before is None or after is None or not (hides or operator_of(before).transparent):
                end = True
            else:
                end = not self._alike(before, after, old, new)
            if not end and before is not None and after is not None:
                inputs = zip(before.input, after.input, strict=True)
                waiting += [(a, b, hidden or hides) for a, b in inputs if not self._same_given(a, b)]
            elif hidden and before is not None and after is not None:
                pairs[ValuePair(old, new)] = None
            else:
                complete = False
        return Sources(tuple(pairs), complete)

    def _alike(self, before: NodeProto, after: NodeProto, old: str, new: str) -> bool:
        return (
            before.op_type == after.op_type
            and before.domain == after.domain == ""
            and len(before.input) == len(after.input)
            and list(before.output).index(old) == list(after.output).index(new)
            and _attributes(before) == _attributes(after)
        )

    def _same_given(self, old: str, new: str) -> bool:
        """Not computed: absent, the same input of the model, or constants of the same bytes."""
        if not old or not new:
            return not old and not new
        if old in self.reference.scopes[0].entering:
            return old == new
        was, now = self.reference.stored(Value(0, old)), self.candidate.stored(Value(0, new))
        return was is not None and now is not None and same_bytes(was, now, self.reference, self.candidate)


def _attributes(node: NodeProto) -> dict[str, bytes]:
    return {attribute.name: attribute.SerializeToString(deterministic=True) for attribute in node.attribute}


def _hides(node: NodeProto) -> bool:
    if node.op_type == "Cast":
        to = next((attribute.i for attribute in node.attribute if attribute.name == "to"), 0)
        return to in _WHOLE_NUMBERS
    return operator_of(node).saturating or operator_of(node).discrete


_WHOLE_NUMBERS = {
    onnx.TensorProto.DataType.Value(name)
    for name in ("BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64")
} | {TensorProto.STRING}
