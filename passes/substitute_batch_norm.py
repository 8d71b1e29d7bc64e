"""substitute-batch-norm: another normalization in the place of BatchNormalization. Another function, on purpose.

y = scale n(x) + B, where n normalizes each image over groups of C / G channels and all positions: G = C is
InstanceNormalization, G = 1 normalizes over all of C, H, W. From opset 21 on it is GroupNormalization; before, Reshape
to [N, G, ...], InstanceNormalization, Reshape back, Mul, Add. Scale and B are its own, or fitted to what
BatchNormalization gives out.
"""

from collections.abc import Mapping
from dataclasses import field
from fnmatch import fnmatchcase
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from bnfold.decisions import Action, Decision, Reason, Refused
from bnfold.graph import Graph, Model, Tensor, number
from bnfold.passes.affine_ops import as_constant
from bnfold.passes.classification import Kind, classify
from bnfold.passes.normalization import DEFAULT_EPSILON, is_batch_norm, read_parameters
from bnfold.passes.protocol import Preserves
from bnfold.passes.step import known_rank, stored_vector
from bnfold.records import Record

MOST_GROUPS = 32
KINDS = ("group-norm", "instance-norm", "layer-norm")


class Fit(NamedTuple):
    """Scale and B for one substitute: float64 of shape [C] each."""

    scale: NDArray[np.float64]
    bias: NDArray[np.float64]


class SubstituteBatchNormOptions(Record):
    """`kind`: one of KINDS. `groups`: for group-norm; None takes the most, up to 32, of at least two channels each.

    `only`: shell patterns of node names; empty means all. `keep`: those that stay. `fits`: by scope and label.
    """

    kind: str = "group-norm"
    groups: int | None = None
    only: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    fits: Mapping[tuple[str, str], Fit] = field(default_factory=dict)

    def chooses(self, label: str) -> bool:
        """Whether a normalization of this name is to be substituted."""
        if any(fnmatchcase(label, pattern) for pattern in self.keep):
            return False
        return not self.only or any(fnmatchcase(label, pattern) for pattern in self.only)

    def groups_of(self, channels: int) -> int:
        """G for C channels. Raises `Refused` where the groups would not be of one size."""
        if self.kind == "instance-norm":
            return channels
        if self.kind == "layer-norm":
            return 1
        if self.groups is None:
            return max((g for g in range(1, min(MOST_GROUPS, channels // 2) + 1) if channels % g == 0), default=1)
        if channels % self.groups:
            raise Refused(Reason.UNEVEN_GROUPS, f"{channels} channels in {self.groups} groups")
        return self.groups


class SubstituteBatchNorm:
    """Replace BatchNormalization by a normalization that needs no stored statistics."""

    name: Final = "substitute-batch-norm"
    preserves: Final = Preserves.NOTHING

    def __init__(self, options: SubstituteBatchNormOptions | None = None) -> None:
        self.options = options or SubstituteBatchNormOptions()

    def run(self, model: Model) -> list[Decision]:
        """Edit `model`; one decision per BatchNormalization that was chosen."""
        decisions: list[Decision] = []
        for graph in model.graphs:
            for node in graph.nodes():
                if not is_batch_norm(node) or not self.options.chooses(graph.label(node)):
                    continue
                try:
                    decisions.append(self._substitute(node, graph))
                except Refused as refused:
                    reason, detail = refused.reason, refused.detail
                    decisions.append(
                        Decision(graph.label(node), node.op_type, graph.scope, Action.KEPT, (), reason, detail)
                    )
        return decisions

    def _substitute(self, node: NodeProto, graph: Graph) -> Decision:
        if classify(node, graph) is not Kind.INFERENCE:
            raise Refused(Reason.TRAIN_MODE)
        batch_norm, label = read_parameters(node, graph), graph.label(node)
        channels = batch_norm.scale.size
        groups, rank = self.options.groups_of(channels), known_rank(graph, node.input[0])
        if groups == channels and rank < 3:
            raise Refused(Reason.ONE_VALUE_PER_CHANNEL, f"{node.input[0]!r} has {rank} dims")
        if graph.opset < 7:
            raise Refused(Reason.OLD_OPSET, f"opset {graph.opset}")
        fit = self.options.fits.get((graph.scope, label), Fit(batch_norm.scale, batch_norm.bias))
        scale, bias = (stored_vector(values, batch_norm.dtype) for values in (fit.scale, fit.bias))
        epsilon = number(node, "epsilon", DEFAULT_EPSILON)
        if groups == channels:
            made = _single(node, "InstanceNormalization", scale, bias, graph)
        elif graph.opset >= 21:
            made = _single(node, "GroupNormalization", scale, bias, graph)
            graph.set_attribute(made, "num_groups", groups)
        else:
            made = _by_groups(node, groups, rank, (scale, bias), graph)
        graph.set_attribute(made, "epsilon", epsilon)
        fitted = "fitted" if (graph.scope, label) in self.options.fits else "its own"
        detail = f"{made.op_type} over {groups} groups of {channels // groups} channels, {fitted} scale and bias"
        target = (graph.label(made),)
        return Decision(label, "BatchNormalization", graph.scope, Action.SUBSTITUTED, target, detail=detail)


def _single(node: NodeProto, op_type: str, scale: Tensor, bias: Tensor, graph: Graph) -> NodeProto:
    """One operator with scale and B of shape [C] in the place of `node`, under its name."""
    made = NodeProto(op_type=op_type, domain=node.domain, name=node.name, doc_string=node.doc_string)
    made.input.extend([node.input[0], "", ""])
    made.output.append(node.output[0])
    graph.remove(node)
    graph.insert(made, before=node)
    for index, tensor, name in ((1, scale, "scale"), (2, bias, "bias")):
        graph.set_input(made, index, graph.add_constant(tensor, f"{graph.label(made)}_{name}", before=made))
    return made


def _by_groups(node: NodeProto, groups: int, rank: int, fit: tuple[Tensor, Tensor], graph: Graph) -> NodeProto:
    """Shape, Reshape, InstanceNormalization, Reshape, Mul, Add; the normalization is returned."""
    label, data, output, dtype = graph.label(node), node.input[0], node.output[0], fit[0].dtype
    fresh = graph.model.fresh_name
    names = {part: fresh(f"{label}_{part}") for part in ("shape", "grouped", "normalized", "restored", "scaled")}
    graph.remove(node)

    def insert(op_type: str, inputs: list[str], result: str) -> NodeProto:
        made = NodeProto(op_type=op_type, name=fresh(f"{label}_{op_type}"))
        made.input.extend(inputs)
        made.output.append(result)
        graph.insert(made, before=node)
        return made

    def constant(tensor: Tensor, part: str) -> str:
        return graph.add_constant(tensor, f"{label}_{part}", before=node)

    target = constant(Tensor.of(np.array([0, groups, -1]), np.dtype(np.int64)), "grouped_shape")
    unit = (constant(Tensor.of(np.ones(groups), dtype), "ones"), constant(Tensor.of(np.zeros(groups), dtype), "zeros"))
    scale, bias = (
        constant(Tensor.of(as_constant(tensor.exact().reshape(1, -1), rank), dtype), part)
        for tensor, part in zip(fit, ("scale", "bias"), strict=True)
    )
    insert("Shape", [data], names["shape"])
    insert("Reshape", [data, target], names["grouped"])
    made = insert("InstanceNormalization", [names["grouped"], *unit], names["normalized"])
    insert("Reshape", [names["normalized"], names["shape"]], names["restored"])
    insert("Mul", [names["restored"], scale], names["scaled"])
    insert("Add", [names["scaled"], bias], output)
    return made
