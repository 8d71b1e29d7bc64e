"""The float values that a discrete or saturated output was made from, paired between two models.

ArgMax, TopK, a comparison or a Softmax at its ends hides differences, so what feeds them is compared as well. Names do
not pair values: a fold may leave the result of Conv under the name that BatchNormalization's had. What pairs them is
their use: where both models make an output by the same operators with the same attributes, the values that enter
those operators mean the same.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, numpy_helper

from bnfold.equivalence.operators import operator_of


@dataclass(frozen=True)
class Pair:
    """A value of the reference and the value of the candidate that means the same."""

    reference: str
    candidate: str


@dataclass(frozen=True)
class Sources:
    """What one output was made from. `complete`: from nothing else, so that where these agree, the output must."""

    pairs: tuple[Pair, ...]
    complete: bool


def behind(reference: ModelProto, candidate: ModelProto) -> dict[str, Sources]:
    """For each output that a discrete or saturating operator made: what it was made from. Others are left out."""
    walk = _Walk(_Scope(reference.graph), _Scope(candidate.graph))
    found = {value.name: walk.sources(value.name) for value in reference.graph.output}
    return {name: sources for name, sources in found.items() if sources.pairs}


def tapped(model: bytes, names: Iterable[str]) -> bytes:
    """The model with more outputs. What is appended to a protobuf message adds to its repeated fields."""
    graph = GraphProto(output=[ValueInfoProto(name=name) for name in names])
    return model + ModelProto(graph=graph).SerializeToString()


class _Scope:
    def __init__(self, graph: GraphProto) -> None:
        self.producers = {name: node for node in graph.node for name in node.output if name}
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.inputs = {value.name for value in graph.input} - set(self.constants)


class _Walk:
    """From an output toward the inputs, in both models at once, while both say the same."""

    def __init__(self, reference: _Scope, candidate: _Scope) -> None:
        self.reference = reference
        self.candidate = candidate

    def sources(self, output: str) -> Sources:
        waiting = [(output, output, False)]
        seen: set[tuple[str, str, bool]] = set()
        pairs: dict[Pair, None] = {}
        complete = True
        while waiting:
            step = waiting.pop()
            if step in seen:
                continue
            seen.add(step)
            old, new, hidden = step
            before, after = self.reference.producers.get(old), self.candidate.producers.get(new)
            hides = before is not None and _hides(before)
            if before is None or after is None or not (hides or operator_of(before).transparent):
                end = True
            else:
                end = not self._alike(before, after, old, new)
            if not end and before is not None and after is not None:
                inputs = zip(before.input, after.input, strict=True)
                waiting += [(a, b, hidden or hides) for a, b in inputs if not self._same_given(a, b)]
            elif hidden and before is not None and after is not None:
                pairs[Pair(old, new)] = None
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
        if old in self.reference.inputs:
            return old == new
        was, now = self.reference.constants.get(old), self.candidate.constants.get(new)
        if was is None or now is None or was.external_data or now.external_data:
            return False
        return list(was.dims) == list(now.dims) and bool(
            was.data_type == now.data_type and np.array_equal(numpy_helper.to_array(was), numpy_helper.to_array(now))
        )


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
