"""unpack-sequences: SplitToSequence whose parts are taken out at constant positions becomes Split.

    SequenceAt(SplitToSequence(x, sizes), i) = Split(x, sizes)[i]

Sound where nothing else sees the sequence and each position is one of it. Where the parts lose their axis, each is a
Gather of that position. The parts keep their names.
"""

from typing import Final

import numpy as np
from onnx import NodeProto

from bnfold.decisions import Decision
from bnfold.graph import DEFAULT_DOMAINS, Graph, Model, Tensor, number
from bnfold.passes.protocol import Preserves

_MOST_PARTS = 1024
# From these operator set versions on Gather counts negative indices from the back, and Split reads its sizes.
_NEGATIVE_INDICES = 11
_SIZES_ARE_INPUT = 13


class UnpackSequences:
    """Make Split of SplitToSequence and SequenceAt."""

    name: Final = "unpack-sequences"
    preserves: Final = Preserves.EXACT

    def run(self, model: Model) -> list[Decision]:
        """Edit `model`; no decisions, since no normalization is concerned."""
        for graph in model.graphs:
            for node in graph.nodes_of(("SplitToSequence",)):
                if node.domain in DEFAULT_DOMAINS:
                    _unpack(graph, node)
        return []


def _unpack(graph: Graph, node: NodeProto) -> None:
    sequence = node.output[0]
    uses = graph.consumers(sequence)
    if graph.opset < _NEGATIVE_INDICES or graph.is_output(sequence) or not uses:
        return
    if any(use.graph is not graph or use.position or not _takes_part(use.node) for use in uses):
        return
    parts = [use.node for use in uses]
    positions = [_position(part, graph) for part in parts]
    places = [place for place in positions if place is not None]
    if len(places) < len(parts):
        return
    if _sizes_operand(node) is None and not number(node, "keepdims", 1):
        _as_gathers(graph, node, parts)
        return
    sizes = _sizes(graph, node)
    if sizes is not None and all(-len(sizes) <= place < len(sizes) for place in places):
        _as_split(graph, node, dict(zip(map(id, parts), places, strict=True)), parts, sizes)


def _takes_part(node: NodeProto) -> bool:
    return node.op_type == "SequenceAt" and node.domain in DEFAULT_DOMAINS


def _position(part: NodeProto, graph: Graph) -> int | None:
    constant = graph.constant(part.input[1])
    if constant is None or constant.shape or constant.dtype.kind not in "iu":
        return None
    return int(constant.numpy())


def _sizes_operand(node: NodeProto) -> str | None:
    return node.input[1] if len(node.input) > 1 and node.input[1] else None


def _sizes(graph: Graph, node: NodeProto) -> list[int] | None:
    """The size of each part; None where it is not known, or none that fits."""
    shape, axis = graph.shape(node.input[0]), number(node, "axis", 0)
    known = None if shape is None or not -len(shape) <= axis < len(shape) else shape[axis]
    whole = known if isinstance(known, int) and graph.has_proved_sizes(node.input[0]) else None
    operand = _sizes_operand(node)
    if operand is None:
        sizes = None if whole is None or whole > _MOST_PARTS else [1] * whole
    else:
        constant = graph.constant(operand)
        if (
            constant is None
            or constant.dtype.kind not in "iu"
            or len(constant.shape) > 1
            or constant.size > _MOST_PARTS
        ):
            return None
        if constant.shape:
            sizes = [int(size) for size in constant.numpy()]
        else:
            sizes = None if whole is None else _equal_parts(whole, int(constant.numpy()))
    if not sizes or min(sizes) < 0 or (whole is not None and sum(sizes) != whole):
        return None
    return sizes


def _equal_parts(whole: int, each: int) -> list[int] | None:
    """So many in each part, and what is left in the last."""
    if each <= 0 or whole > _MOST_PARTS * each:
        return None
    return [min(each, whole - start) for start in range(0, whole, each)]


def _as_gathers(graph: Graph, node: NodeProto, parts: list[NodeProto]) -> None:
    axis = number(node, "axis", 0)
    for part in parts:
        gather = NodeProto(op_type="Gather", name=part.name, input=[node.input[0], part.input[1]], output=part.output)
        graph.remove(part)
        graph.insert(gather, before=part)
        graph.set_attribute(gather, "axis", axis)
    graph.remove(node)


def _as_split(graph: Graph, node: NodeProto, places: dict[int, int], parts: list[NodeProto], sizes: list[int]) -> None:
    """One output for each part, under the name of the first that takes it; another that does gets a copy."""
    names: dict[int, str] = {}
    for part in parts:
        place = places[id(part)] % len(sizes)
        output = part.output[0]
        graph.remove(part)
        if place in names:
            copied = NodeProto(op_type="Identity", name=part.name, input=[names[place]], output=[output])
            graph.insert(copied, before=part)
        else:
            names[place] = output
    outputs = [
        names[place] if place in names else graph.model.fresh_name(f"{node.output[0]}_{place}")
        for place in range(len(sizes))
    ]
    split = NodeProto(op_type="Split", name=node.name, input=node.input[:1], output=outputs)
    graph.insert(split, before=node)
    graph.set_attribute(split, "axis", number(node, "axis", 0))
    if graph.opset < _SIZES_ARE_INPUT:
        graph.set_attribute(split, "split", sizes)
    else:
        stored = Tensor.of(np.array(sizes, np.int64), np.dtype(np.int64))
        graph.set_input(split, 1, graph.add_constant(stored, f"{graph.label(split)}_sizes", before=split))
    graph.remove(node)
