"""Direct folds: BatchNormalizations right behind a Conv with small stored weights, thousands of them found at once.

The output channels of a convolution know nothing of each other, so convolutions whose kernels have one shape are
together one convolution with the channels of all. The table is asked once for that one (`linear_ops.output_conv`), and
what it answers is cut up again: the same numbers as one by one, without an array operation for each. Whatever is
unusual in any way is left to the walk of `fold.py`, which finds the same plans.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from onnx import NodeProto

from bnfold.decisions import Refused
from bnfold.graph import DEFAULT_DOMAINS, Graph, PlainConstant, Tensor
from bnfold.passes.affine import Affine
from bnfold.passes.affine_ops import is_affine_op
from bnfold.passes.linear_ops import ABSORB_OUTPUT

WORTH_JOINING = 16
MOST_BYTES = 1 << 20  # of the weights that are looked at together

_FLOAT = np.dtype(np.float32)


class ConvBatchNorm(NamedTuple):
    """A BatchNormalization, which is `affine`, behind the Conv that can take it up, and the constants of that one."""

    node: NodeProto
    conv: NodeProto
    affine: Affine
    weight: PlainConstant
    bias: PlainConstant | None


class DirectFold(NamedTuple):
    """`conv` takes up `node` when its weight and bias become `constants`, by input index."""

    node: NodeProto
    conv: NodeProto
    constants: list[tuple[int, Tensor]]

    def is_possible(self, graph: Graph) -> bool:
        """Whether no edit since has come between."""
        if graph.model.was_edited(self.conv) or graph.model.was_edited(self.node):
            return False
        value = self.node.input[0]
        return graph.producer(value) is self.conv and graph.can_bypass(self.node, toward_producer=True)

    def apply(self, graph: Graph) -> str:
        """Make the edits; the label of the Conv."""
        return graph.absorb(self.node, self.constants)


class DirectFolds:
    """The direct folds of one scope, each applied when its turn comes.

    They do not come between each other, so only after another edit does one need a new look.
    """

    def __init__(self, nodes: Iterable[NodeProto], known: Mapping[int, Affine], graph: Graph) -> None:
        self._folds = direct_folds(nodes, known, graph)
        self._graph = graph
        self._edits = graph.model.edits
        self._undisturbed = len(self._edits)

    def apply(self, node: NodeProto) -> str | None:
        """Fold `node` where that is known to be possible; the label of the Conv that took it up, or None."""
        fold = self._folds.get(id(node))
        if fold is None:
            return None
        undisturbed = len(self._edits) == self._undisturbed
        if not undisturbed and not fold.is_possible(self._graph):
            return None
        label = fold.apply(self._graph)
        if undisturbed:
            self._undisturbed = len(self._edits)
        return label


def direct_folds(nodes: Iterable[NodeProto], known: Mapping[int, Affine], graph: Graph) -> dict[int, DirectFold]:
    """The folds among `nodes`, BatchNormalizations whose maps are `known` by the id of the node; by that id, too."""
    groups: dict[tuple[tuple[int, ...], bool], list[ConvBatchNorm]] = {}
    for node in nodes if len(known) >= WORTH_JOINING else ():
        affine = known.get(id(node))
        pair = None if affine is None else _pair(node, affine, graph)
        if pair is not None:
            groups.setdefault((pair.weight.shape[1:], pair.bias is not None), []).append(pair)
    return {id(fold.node): fold for pairs in groups.values() for part in _parts(pairs) for fold in _folds(part, graph)}


def _pair(node: NodeProto, affine: Affine, graph: Graph) -> ConvBatchNorm | None:
    conv = graph.producer(graph.read_by(node)[0])
    if conv is None or conv.op_type != "Conv" or conv.domain not in DEFAULT_DOMAINS:
        return None
    if not (affine.has_scale and affine.has_shift) or not graph.can_bypass(node, toward_producer=True):
        return None
    readers = graph.readers(graph.made_by(node)[0])
    if len(readers) == 1 and is_affine_op(readers[0].node):  # more than this one may be moved together
        return None
    plain = [graph.plain_constant(constant) for constant in graph.read_by(conv)[1:]]
    if len(plain) not in (1, 2) or plain[0] is None or (1, plain[0].shape[0]) != affine.shape:
        return None
    if len(plain) == 2 and (plain[1] is None or (1, *plain[1].shape) != affine.shape):
        return None
    return ConvBatchNorm(node, conv, affine, plain[0], plain[1] if len(plain) == 2 else None)


def _parts(pairs: Sequence[ConvBatchNorm]) -> Iterator[Sequence[ConvBatchNorm]]:
    step = max(1, MOST_BYTES // max(len(pair.weight.raw) for pair in pairs))
    for start in range(0, len(pairs), step):
        yield pairs[start : start + step]


def _folds(pairs: Sequence[ConvBatchNorm], graph: Graph) -> Iterator[DirectFold]:
    """The folds of `pairs` as the table makes them, each with all of its channels; none where it refuses one."""
    scale = np.concatenate([pair.affine.scale for pair in pairs], axis=1)
    shift = np.concatenate([pair.affine.shift for pair in pairs], axis=1)
    constants = {"weight": _stacked([pair.weight for pair in pairs])}
    if pairs[0].bias is not None:
        constants["bias"] = _stacked([pair.bias for pair in pairs if pair.bias is not None])
    conv = NodeProto(op_type="Conv", input=["", *constants])
    try:
        (step,) = ABSORB_OUTPUT["Conv"](conv, 0, Affine(scale, shift, True, True), graph.sketch(constants))
    except Refused:
        return
    new = [(position, tensor.numpy()) for _, position, tensor in step.constants]
    start = 0
    for pair in pairs:
        end = start + pair.affine.scale.size
        cut = [(position, Tensor.of(values[start:end], _FLOAT)) for position, values in new]
        yield DirectFold(pair.node, pair.conv, cut)
        start = end


def _stacked(constants: Sequence[PlainConstant]) -> Tensor:
    """Constants one behind the other along their first axis."""
    values = np.frombuffer(b"".join([constant.raw for constant in constants]), "<f4")
    return Tensor.of(values.reshape(-1, *constants[0].shape[1:]), _FLOAT)
