"""assume-spatial: spatial = 0 with one parameter per channel is read as spatial = 1, which its exporter meant.

Before opset 9, spatial = 0 normalizes every position with parameters of its own, of shape [C, H, W]. With parameters of
shape [C] that is a broken export, as MXNet's, which no runtime takes. Sound, as a change of meaning that was asked for,
where all four parameters are known to be of one dim: with two dims of data both mean the same.
Sources: ONNX operator changelog, BatchNormalization-1, -6, -7, -9.
"""

from typing import Final

from onnx import NodeProto

from bnfold.decisions import Action, Decision
from bnfold.graph import Graph, Model, number
from bnfold.passes.normalization import is_batch_norm
from bnfold.passes.protocol import Preserves


class AssumeSpatial:
    """Let every BatchNormalization that has one parameter per channel normalize per channel."""

    name: Final = "assume-spatial"
    preserves: Final = Preserves.EVALUATION

    def run(self, model: Model) -> list[Decision]:
        """Edit `model`; one decision per BatchNormalization that is read otherwise now."""
        decisions: list[Decision] = []
        for graph in model.graphs:
            for node in graph.nodes():
                if is_batch_norm(node) and has_meaningless_spatial_zero(node, graph):
                    graph.set_attribute(node, "spatial", 1)
                    detail = "its spatial = 0 was read as 1"
                    decisions.append(
                        Decision(graph.label(node), node.op_type, graph.scope, Action.FROZEN, detail=detail)
                    )
        return decisions


def has_meaningless_spatial_zero(node: NodeProto, graph: Graph) -> bool:
    """Whether a BatchNormalization asks for a parameter at each position, and has one for each channel."""
    if graph.opset >= 9 or len(node.input) != 5 or number(node, "spatial", 1) or graph.rank(node.input[0]) == 2:
        return False
    return all(graph.rank(value) == 1 for value in node.input[1:])
