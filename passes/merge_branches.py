"""merge-branches: parallel linear branches become one linear operator.

    conv_1(x) + ... - conv_n(x) + k x + t + x = conv(x)

Sound where all of them read the very same value, with stored weights and zeros as padding, and make the same positions,
and nothing but their sum sees what they make: the one kernel has the taps of all, the identity is a Dirac kernel, and a
BatchNormalization of x is one with its scales; one that is subtracted counts times -1. Transposed convolutions and
matrix products likewise. Done only where the one is no more work than the branches were.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Final, NamedTuple

import numpy as np
from onnx import NodeProto

from bnfold.decisions import Action, Decision, Reason, Refused
from bnfold.graph import DEFAULT_DOMAINS, Graph, Model, Tensor, number, numbers, paused_collector, text
from bnfold.passes import fold
from bnfold.passes.affine import Affine, Vector
from bnfold.passes.affine_ops import constant_operand, is_affine_op, is_transparent, read_affine
from bnfold.passes.fold_batch_norm import FoldBatchNorm, FoldBatchNormOptions
from bnfold.passes.linear_kernel import (
    Kernel,
    flipped,
    identity,
    read_average_pool,
    read_conv,
    read_gemm,
    read_matmul,
    read_pad,
    read_windows,
    stored_operand,
    stored_weight,
    turned,
)
from bnfold.passes.normalization import is_batch_norm
from bnfold.passes.protocol import Preserves
from bnfold.passes.step import NewAttribute, NewConstant, known_rank, require_axes, stored_vector
from bnfold.passes.weights import check_range
from bnfold.records import Record

_SUMS = ("Add", "Sum", "Sub")
LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_LONGEST = 6  # operators of one branch
_SPREADING = "transposed convolution"
_MIXED = "mixed"


class MergeBranchesOptions(Record):
    """`keep`: shell patterns of node names that stay. `forbidden`: scope and label of what was found to be wrong."""

    keep: tuple[str, ...] = ()
    forbidden: frozenset[tuple[str, str]] = frozenset()


class Operand(NamedTuple):
    """Input `position` of `node`, one of the operators of a sum. `negative`: the sum counts it times -1."""

    node: NodeProto
    position: int
    negative: bool

    @property
    def key(self) -> tuple[int, int]:
        """The identity of the operand."""
        return id(self.node), self.position

    @property
    def value(self) -> str:
        """The value that is read there."""
        return self.node.input[self.position]


class Branch(NamedTuple):
    """One operand of a sum: computed by `nodes` in order, the first of which reads `source`; none where it is that.

    `read_at`: the input at which each of them reads the one before.
    """

    operand: Operand
    source: str
    nodes: tuple[NodeProto, ...]
    read_at: tuple[int, ...]

    @property
    def linear(self) -> NodeProto | None:
        """The last of its operators that has a matrix or a kernel."""
        return next((node for node in reversed(self.nodes) if node.op_type in LINEAR), None)


class Summing(NamedTuple):
    """A sum of more than two values, perhaps: its operators, the last first, and what they add up or subtract."""

    nodes: list[NodeProto]
    operands: list[Operand]


class MergeBranches:
    """Make one operator of parallel linear branches.

    `folding`: how folding goes on behind what was merged.
    """

    name: Final = "merge-branches"
    preserves: Final = Preserves.ALGEBRAIC

    def __init__(
        self, options: MergeBranchesOptions | None = None, folding: FoldBatchNormOptions | None = None
    ) -> None:
        self.options = options or MergeBranchesOptions()
        self._folding = folding

    def run(self, model: Model) -> list[Decision]:
        """Edit `model`; one decision per branch that has others beside it, and per normalization that this lets fold.

        A merge may open the way for a fold, and that for another merge, so until none is left.
        """
        decisions: dict[tuple[str, str], Decision] = {}
        with paused_collector(), np.errstate(all="ignore"):  # what is not finite is refused
            merged = True
            while merged:
                model.bury_the_dead()  # what only dead constants ask the type of has one reader less
                found, merged = self._merge_all(model)
                for decision in found:
                    _note(decision, decisions)
                    for target in decision.target:  # what stayed alone at first has taken in another one now
                        if (decision.scope, target) in decisions:
                            del decisions[decision.scope, target]
                if merged and self._folding is not None:
                    model.look_again_everywhere()  # a kernel tells the rank of what it makes, a sum need not
                    for decision in FoldBatchNorm(replace(self._folding, lower=False)).run(model):
                        _note(decision, decisions)
        return [*decisions.values(), *self._lowered(model)]

    def _merge_all(self, model: Model) -> tuple[list[Decision], bool]:
        """Merge until nothing is left to merge: the decisions, and whether anything was."""
        found: list[Decision] = []
        start = len(model.edits)
        while True:
            before = len(model.edits)
            for graph in model.by_dataflow():
                found += self._scope(graph)
            if len(model.edits) == before:
                return found, before > start

    def _lowered(self, model: Model) -> list[Decision]:
        """Write the normalizations that stay as Mul and Add last: before, one might have been a branch."""
        return FoldBatchNorm(self._folding).run(model) if self._folding is not None and self._folding.lower else []

    def _scope(self, graph: Graph) -> Iterator[Decision]:
        for node in graph.by_dataflow_of(_SUMS):
            if is_sum(node, graph) and graph.producer(node.output[0]) is node:
                follower = _only_reader(node.output[0], graph)
                if follower is None or not is_sum(follower, graph):
                    yield from self._decide(collect_sum(node, graph), graph)

    def _decide(self, summing: Summing, graph: Graph) -> Iterator[Decision]:
        """The first branches of `summing` that become one operator, or why none of those side by side do."""
        branches = [read_branch(operand, graph) for operand in summing.operands]
        for source in dict.fromkeys(branch.source for branch in branches):
            beside = [branch for branch in branches if branch.source == source]
            beside += _hindered(source, branches, graph)
            kinds = dict.fromkeys(kind for branch in beside if (kind := _kind(branch)) is not None)
            for kind in kinds:
                alike = [branch for branch in beside if _kind(branch) in (kind, None)]
                if len(alike) < 2:
                    if len(kinds) > 1:
                        refused = Refused(Reason.KERNELS_DIFFER, " and ".join(kinds))
                        yield _kept(_linear(alike[0]), refused, summing, graph)
                    continue
                refusals: dict[int, Refused] = {}
                clusters = self._clusters(alike, kind, summing, refusals, graph)
                for branch in alike:
                    if id(branch) in refusals and branch.linear is not None:
                        yield _kept(branch.linear, refusals[id(branch)], summing, graph)
                if clusters:
                    yield from _merged(clusters[0], summing, graph)
                    return  # the sum is another one now

    def _clusters(
        self, alike: Sequence[Branch], kind: str, summing: Summing, refusals: dict[int, Refused], graph: Graph
    ) -> list["Cluster"]:
        """The branches of one source in groups that can be one operator each; why another cannot goes to `refusals`.

        The largest kernel comes first, and takes in whichever makes it no more work than the two were.
        """
        read: list[Part] = []
        for branch in alike:
            try:
                self._require_free(branch, summing, graph)
                kernel = _kernel_of(branch, kind, alike, graph)
                read.append(Part(branch, kernel.negated() if branch.operand.negative else kernel))
            except Refused as refused:
                refusals[id(branch)] = refused
            except fold.DO_NOT_FIT:
                refusals[id(branch)] = Refused(Reason.MALFORMED, f"the operands of {label_of(branch.nodes[-1], graph)}")
        clusters: list[Cluster] = []
        for part in sorted(read, key=lambda part: (part.branch.linear is None, -part.kernel.work)):
            refusal = _take_in(part, clusters, summing, graph)
            if refusal is not None:
                refusals[id(part.branch)] = refusal
        found = [cluster for cluster in clusters if cluster.change is not None]
        if refusals:  # one that stays alone does so for what hinders those beside it
            first = next(iter(refusals.values()))
            refusals |= {id(branch): first for branch in alike if id(branch) not in refusals}
        for cluster in found:
            for part in cluster.parts:
                refusals.pop(id(part.branch), None)
        return found

    def _require_free(self, branch: Branch, summing: Summing, graph: Graph) -> None:
        """Raise `Refused` where something was asked to stay, sees what goes, or has the name that would be used."""
        for node in branch.nodes:
            label = label_of(node, graph)
            if any(fnmatchcase(label, each) for each in self.options.keep):
                raise Refused(Reason.KEPT_ON_REQUEST, label)
            if (graph.scope, label) in self.options.forbidden:
                raise Refused(Reason.ROLLED_BACK, label)
            for value in node.output:
                if graph.is_output(value):
                    raise Refused(Reason.VALUE_IS_OUTPUT, repr(value))
                if len(graph.consumers(value)) > 1:
                    raise Refused(Reason.OTHER_CONSUMER, repr(value))
        root = label_of(summing.nodes[0], graph)
        if (graph.scope, root) in self.options.forbidden:
            raise Refused(Reason.ROLLED_BACK, root)
        values = [branch.source, *(node.output[0] for node in (*summing.nodes, *branch.nodes))]
        values += [operand.value for operand in summing.operands]
        hidden = [value for value in values if graph.is_hidden(value)]
        if hidden:
            raise Refused(Reason.NAME_TAKEN, repr(hidden[0]))


def _note(decision: Decision, decisions: dict[tuple[str, str], Decision]) -> None:
    """Note what became of a node; that it stays is the last word only where it is the first."""
    key = decision.scope, decision.node
    if decision.action is not Action.KEPT or key not in decisions:
        decisions[key] = decision


def label_of(node: NodeProto, graph: Graph) -> str:
    """The label of the node in the input, or its own where a pass has made it."""
    return (graph.model.first_labels or {}).get(id(node)) or graph.label(node)


# ---------------------------------------------------------------------- sums and their branches


def is_sum(node: NodeProto, graph: Graph) -> bool:
    """Whether `node` adds up or subtracts computed values, two or more, that it broadcasts as numpy does."""
    if node.op_type not in _SUMS or node.domain not in DEFAULT_DOMAINS or node.attribute or len(node.output) != 1:
        return False
    return sum(bool(value) and graph.constant(value) is None for value in node.input) > 1


def _only_reader(value: str, graph: Graph) -> NodeProto | None:
    """The one node of this scope that reads `value`, where nothing else sees it."""
    uses = graph.consumers(value)
    return uses[0].node if len(uses) == 1 and uses[0].graph is graph and not graph.is_output(value) else None


def collect_sum(root: NodeProto, graph: Graph) -> Summing:
    """The sum that ends in `root`: sums that only another one of it reads belong to it."""
    nodes, operands, waiting = [], [], [(root, False)]
    while waiting:
        node, negative = waiting.pop()
        nodes.append(node)
        for position, value in enumerate(node.input):
            maker = graph.producer(value)
            counts_negative = negative != (node.op_type == "Sub" and position == 1)
            if maker is not None and is_sum(maker, graph) and _only_reader(value, graph) is node:
                waiting.append((maker, counts_negative))
            else:
                operands.append(Operand(node, position, counts_negative))
    return Summing(nodes, operands)


def read_branch(operand: Operand, graph: Graph) -> Branch:
    """Back from an operand over what is linear and read by nothing else."""
    nodes: list[NodeProto] = []
    read_at: list[int] = []
    value, reader = operand.value, operand.node
    while len(nodes) < _LONGEST and _only_reader(value, graph) is reader:
        maker = graph.producer(value)
        position = None if maker is None or graph.model.owner(maker) is not graph else _data_input(maker, graph)
        if maker is None or position is None:
            break
        nodes.append(maker)
        read_at.append(position)
        value, reader = maker.input[position], maker
    return Branch(operand, value, tuple(reversed(nodes)), tuple(reversed(read_at)))


def _hindered(source: str, branches: Sequence[Branch], graph: Graph) -> Iterator[Branch]:
    """Operators that read `source` and would be branches, if nothing else saw what they make."""
    for branch in branches:
        maker = graph.producer(branch.operand.value)
        if branch.nodes or branch.source == source or maker is None or graph.model.owner(maker) is not graph:
            continue
        position = _data_input(maker, graph) if maker.op_type in LINEAR else None
        if position is not None and maker.input[position] == source:
            yield Branch(branch.operand, source, (maker,), (position,))


def _data_input(node: NodeProto, graph: Graph) -> int | None:
    """The input that a linear operator is linear in; None for what is no linear operator or lacks one."""
    if node.domain not in DEFAULT_DOMAINS or not node.input or len(node.output) != 1:
        return None
    if node.op_type in ("Conv", "ConvTranspose", "Gemm", "BatchNormalization", "AveragePool", "Neg"):
        return 0
    if is_transparent(node, graph) or (node.op_type == "Pad" and text(node, "mode", "constant") == "constant"):
        return 0
    try:
        if node.op_type == "MatMul":
            return 1 - stored_operand(node, graph)
        if is_affine_op(node):
            index, _ = constant_operand(node, graph)
            return None if node.op_type == "Div" and index == 0 else 1 - index
    except Refused:
        pass
    return None


# ---------------------------------------------------------------------- branches as numbers


def _kind(branch: Branch) -> str | None:
    """The kind of a branch's linear operators, which can be merged within one kind only; None where there is none."""
    kinds = [
        _kind_of(node, at) for node, at in zip(branch.nodes, branch.read_at, strict=True) if node.op_type in LINEAR
    ]
    if not kinds:
        return None
    first = kinds.pop(0)
    return first if set(kinds) <= {"right" if first == "transposed" else first} else _MIXED


def _kind_of(node: NodeProto, read_at: int) -> str:
    """The axis of a convolution is 1; a matrix stands at the right of the data, at its left, or at the right of x^T."""
    if node.op_type == "Conv":
        return "convolution"
    if node.op_type == "ConvTranspose":
        return _SPREADING
    if node.op_type == "MatMul":
        return "right" if read_at == 0 else "left"
    return "transposed" if any(each.name == "transA" and each.i for each in node.attribute) else "right"


def _kernel_of(branch: Branch, kind: str, alike: Sequence[Branch], graph: Graph) -> Kernel:
    """The kernel that a branch applies to its source. Raises `Refused` where it is none."""
    if kind == _MIXED:
        raise Refused(Reason.KERNELS_DIFFER, "linear operators of two kinds in a row")
    kernel: Kernel | None = None
    for node in branch.nodes:
        if node.op_type in LINEAR:
            outer = read_linear(node, graph)
            kernel = outer if kernel is None else kernel.then(outer)
        elif node.op_type in ("AveragePool", "Pad"):
            if kind == _SPREADING:
                raise Refused(Reason.KERNELS_DIFFER, f"{kind} and {node.op_type}")
            kernel = kernel or _neutral(kind, alike, graph)
            channels, axes = kernel.channels[1], len(kernel.windows)
            pools = node.op_type == "AveragePool"
            outer = read_average_pool(node, channels, graph) if pools else read_pad(node, channels, axes, graph)
            kernel = kernel.then(outer)
        elif node.op_type == "Neg":
            kernel = (kernel or _neutral(kind, alike, graph)).negated()
        elif not is_transparent(node, graph):
            kernel = kernel or _neutral(kind, alike, graph)
            kernel = kernel.mapped(_on_channels(node, kind, graph), graph)
    return kernel or _neutral(kind, alike, graph)


def _neutral(kind: str, alike: Sequence[Branch], graph: Graph) -> Kernel:
    """The kernel of the source itself, with the channels and axes that an operator beside it reads."""
    if kind == "transposed":
        raise Refused(Reason.KERNELS_DIFFER, "the operator beside it transposes what it reads")
    for node in (node for branch in alike for node in branch.nodes):
        if node.op_type in LINEAR:
            kernel = read_linear(node, graph)
            return identity(kernel.channels[0], len(kernel.windows))
    raise Refused(Reason.SHAPE_UNKNOWN, "nothing beside it says how many channels there are")


def _on_channels(node: NodeProto, kind: str, graph: Graph) -> Affine:
    """The map that `node` is, on axis 1 as of a convolution. Raises `Refused` where it lies on another axis."""
    member = read_affine(node, graph)
    affine = member.affine
    if kind in ("convolution", _SPREADING) or affine.is_uniform:
        return affine
    axis = known_rank(graph, node.input[member.data]) - (2 if kind == "left" else 1)
    require_axes(affine, (axis,), node, graph)
    return Affine.along(affine.scale.reshape(-1), affine.shift.reshape(-1), 1)


def read_linear(node: NodeProto, graph: Graph) -> Kernel:
    """An operator of `LINEAR` with stored weights. Raises `Refused`."""
    if node.op_type == "Gemm":
        return read_gemm(node, graph)
    if node.op_type == "MatMul":
        return read_matmul(node, graph)
    return read_conv(node, graph)


# ---------------------------------------------------------------------- the one operator


def _linear(branch: Branch) -> NodeProto:
    """The operator of `LINEAR` of a branch that has one."""
    assert branch.linear is not None
    return branch.linear


class Part(NamedTuple):
    """A branch, and what it computes."""

    branch: Branch
    kernel: Kernel


class Change(NamedTuple):
    """The change of the operator of `survivor`: its new constants and attributes; `add` holds its shift."""

    survivor: Branch
    linear: NodeProto
    add: NodeProto | None
    constants: tuple[NewConstant, ...]
    attributes: tuple[NewAttribute, ...]


class Cluster(NamedTuple):
    """Branches that can be one operator, the largest first: their sum, and how one of several becomes it."""

    parts: tuple[Part, ...]
    kernel: Kernel
    change: Change | None

    def joined_by(self, part: Part, summing: Summing, graph: Graph) -> "Cluster":
        """Join this branch with another. Raises `Refused` where they cannot be one operator."""
        kernel = self.kernel.plus(part.kernel)
        parts = (*self.parts, part)
        return Cluster(parts, kernel, _change(parts, kernel, summing, graph))


def _take_in(part: Part, clusters: list[Cluster], summing: Summing, graph: Graph) -> Refused | None:
    """Let the first of `clusters` that can take in a branch, or make it a cluster; why none can."""
    refusal = None
    for place, cluster in enumerate(clusters):
        try:
            clusters[place] = cluster.joined_by(part, summing, graph)
        except Refused as refused:
            refusal = refusal or refused
        else:
            return None
    if part.branch.linear is not None:
        clusters.append(Cluster((part,), part.kernel, None))
    return refusal


def _change(parts: Sequence[Part], kernel: Kernel, summing: Summing, graph: Graph) -> Change:
    """The change by which one of `parts` computes `kernel`. Raises `Refused` where none has room."""
    linear = [part for part in parts if part.branch.linear is not None]
    dtypes = {_weight(part.branch, graph).dtype for part in linear}
    if len(dtypes) > 1:
        raise Refused(Reason.UNSUPPORTED_DTYPE, " and ".join(sorted(map(str, dtypes))))
    (dtype,) = dtypes
    check_range(_magnitudes(kernel, dtype), _typed(kernel.weight, dtype), (0,))
    signs = {id(part): _sign_left(part, parts, summing) for part in linear}
    able = [part for part in linear if signs[id(part)]]
    if not able:
        raise Refused(Reason.MORE_NODES, f"what {label_of(summing.nodes[0], graph)} subtracts would have to be negated")
    survivor = max(able, key=lambda part: _fitness(part, kernel))
    branch = survivor.branch
    kernel = kernel if signs[id(survivor)] > 0 else kernel.negated()
    assert branch.linear is not None
    if branch.linear.op_type in ("Conv", "ConvTranspose"):
        return _new_conv(branch, branch.linear, kernel, dtype, graph)
    if branch.linear.op_type == "Gemm":
        return _new_gemm(branch, branch.linear, kernel, dtype, graph)
    return _new_matmul(branch, branch.linear, kernel, dtype, graph)


def _sign_left(survivor: Part, parts: Sequence[Part], summing: Summing) -> int:
    """How the sum counts `survivor` when the other `parts` are gone: 1 or -1; 0 where that negates something else.

    What a Sub subtracted from goes: what it subtracts, if that is the survivor alone, is negated by its weights.
    """
    gone = {part.branch.operand.key for part in parts if part is not survivor}
    reader = {value: Operand(node, at, False) for node in summing.nodes for at, value in enumerate(node.input)}
    value, sign = survivor.branch.operand.value, -1 if survivor.branch.operand.negative else 1
    for node in reversed(summing.nodes):  # what is added first comes first
        left = [at for at in range(len(node.input)) if (id(node), at) not in gone]
        if not left:
            gone.add(reader[node.output[0]].key)
        elif len(left) == 1:
            alone = node.input[left[0]] == value
            if node.op_type == "Sub" and left[0] == 1:
                if not alone:
                    return 0
                sign = -sign
            value = node.output[0] if alone else value
    return sign


def _new_conv(branch: Branch, node: NodeProto, kernel: Kernel, dtype: np.dtype, graph: Graph) -> Change:
    weight = turned(kernel.weight, kernel.group) if kernel.transposed else kernel.weight
    constants = (_stored(node, 1, weight, dtype), *_shift(node, 2, kernel.bias, dtype))
    return Change(branch, node, None, constants, tuple(_window_attributes(node, kernel, graph)))


def _new_gemm(branch: Branch, node: NodeProto, kernel: Kernel, dtype: np.dtype, graph: Graph) -> Change:
    matrix = kernel.weight if number(node, "transB", 0) else flipped(kernel.weight)
    constants = (_stored(node, 1, matrix, dtype), *_shift(node, 2, kernel.bias, dtype))
    scales = ("alpha", "beta")
    attributes: list[NewAttribute] = [
        NewAttribute(node, name, 1.0) for name in scales if number(node, name, 1.0) != 1.0
    ]
    if _kind(branch) == "transposed" and not number(node, "transA", 0):  # an operator in front of it turned its data
        attributes.append(NewAttribute(node, "transA", 1))
    if graph.opset < 7 and kernel.bias.any():
        attributes.append(NewAttribute(node, "broadcast", 1))
    return Change(branch, node, None, constants, tuple(attributes))


def _new_matmul(branch: Branch, node: NodeProto, kernel: Kernel, dtype: np.dtype, graph: Graph) -> Change:
    """A MatMul has room for a shift only where an Add of a constant stands behind it."""
    right = _kind(branch) == "right"
    matrix = _stored(node, 1 if right else 0, flipped(kernel.weight) if right else kernel.weight, dtype)
    add = _add_behind(branch)
    if add is None:
        if kernel.bias.any():
            raise Refused(Reason.MORE_NODES, f"{label_of(node, graph)} has no room for a shift")
        return Change(branch, node, None, (matrix,), ())
    if not right and known_rank(graph, node.output[0]) < 2:
        raise Refused(Reason.NOT_BROADCASTABLE, f"{label_of(node, graph)} makes a vector")
    index, _ = constant_operand(add, graph)
    column = kernel.bias.reshape((-1,) if right else (-1, 1))
    return Change(branch, node, add, (matrix, NewConstant(add, index, stored_vector(column, dtype))), ())


def _weight(branch: Branch, graph: Graph) -> Tensor:
    """The weight of the operator that a branch may lend."""
    node = branch.linear
    assert node is not None
    return stored_weight(node, stored_operand(node, graph) if node.op_type == "MatMul" else 1, graph)


def _magnitudes(kernel: Kernel, dtype: np.dtype) -> Tensor:
    """The largest weight of each output channel of what is added up, as a tensor of one number per channel."""
    return Tensor.of(kernel.magnitude.reshape(-1, *[1] * (len(kernel.weight.shape) - 1)), dtype)


def _fitness(part: Part, kernel: Kernel) -> tuple[bool, ...]:
    """The fitness of a branch to be the one whose operator stays: room for a shift, then few changes."""
    branch = part.branch
    assert branch.linear is not None
    room = branch.linear.op_type != "MatMul" or _add_behind(branch) is not None
    return (
        branch.linear.op_type != "MatMul",
        room and bool(kernel.bias.any()),
        len(branch.nodes) == 1,
        (part.kernel.windows == kernel.windows and part.kernel.group == kernel.group),
    )


def _add_behind(branch: Branch) -> NodeProto | None:
    """The last operator of a branch, where it adds a constant to a matrix product."""
    return branch.nodes[-1] if branch.nodes[-1].op_type == "Add" else None


def _stored(node: NodeProto, position: int, weight: Tensor, dtype: np.dtype) -> NewConstant:
    return NewConstant(node, position, _typed(weight, dtype))


def _typed(weight: Tensor, dtype: np.dtype) -> Tensor:
    """A weight, rounded once where it is stored as `dtype`."""
    return Tensor.made(weight.shape, dtype, weight.exact)


def _shift(node: NodeProto, position: int, bias: Vector, dtype: np.dtype) -> tuple[NewConstant, ...]:
    """A bias; none where there is none and none is needed."""
    there = position < len(node.input) and bool(node.input[position])
    return (NewConstant(node, position, stored_vector(bias, dtype)),) if there or bias.any() else ()


def _window_attributes(node: NodeProto, kernel: Kernel, graph: Graph) -> Iterator[NewAttribute]:
    """The attributes that a Conv needs to read the windows of `kernel`, or a ConvTranspose to write to them."""
    now = read_windows(node, stored_weight(node, 1, graph).shape[2:], graph)
    if number(node, "group", 1) != kernel.group:
        yield NewAttribute(node, "group", kernel.group)
    if now == kernel.windows:
        return
    ones = [1] * len(kernel.windows)
    if text(node, "auto_pad", "NOTSET") != "NOTSET":
        yield NewAttribute(node, "auto_pad", "NOTSET")
    pads = [window.cropped[:2] if kernel.transposed else window.pads for window in kernel.windows]
    added = [window.cropped[2] if kernel.transposed else 0 for window in kernel.windows]
    wanted = {
        "kernel_shape": ([window.taps for window in kernel.windows], []),
        "pads": ([*(before for before, _ in pads), *(behind for _, behind in pads)], [0, 0] * len(ones)),
        "output_padding": (added, [0] * len(ones)),
        "strides": ([window.stride for window in kernel.windows], ones),
        "dilations": ([window.step for window in kernel.windows], ones),
    }
    for name, (new, default) in wanted.items():
        if numbers(node, name, default) not in (new, []):
            yield NewAttribute(node, name, new)


# ---------------------------------------------------------------------- the edits


def _merged(cluster: Cluster, summing: Summing, graph: Graph) -> Iterator[Decision]:
    """Make one operator of the branches of `cluster`; the decisions on what is gone."""
    assert cluster.change is not None
    change = cluster.change
    decisions = list(_decisions(cluster, change, summing, graph))
    for constant in change.constants:
        graph.set_constant(*constant)
    for attribute in change.attributes:
        graph.set_attribute(*attribute)
    place = change.survivor.nodes.index(change.linear)
    if place:
        graph.set_input(change.linear, change.survivor.read_at[place], change.survivor.source)
    for node, at in list(zip(change.survivor.nodes, change.survivor.read_at, strict=True))[place + 1 :]:
        if node is not change.add:
            graph.bypass(node, at, toward_producer=True)
    absorbed = [part.branch for part in cluster.parts if part.branch is not change.survivor]
    value = change.survivor.operand.value
    _drop_operands(summing, {branch.operand.key for branch in absorbed}, change.survivor.operand, graph)
    for branch in absorbed:
        _remove(branch.nodes, graph)
    _remove(change.survivor.nodes[:place], graph)
    holder = graph.producer(value)
    if holder is change.linear or (holder is not None and holder is change.add):  # something else is still added
        graph.rename_output(holder, "merged")
    yield from decisions


def _remove(nodes: Sequence[NodeProto], graph: Graph) -> None:
    for node in reversed(nodes):
        graph.model.forget_value_info(graph, *node.output)
        graph.remove(node)


def _drop_operands(summing: Summing, gone: set[tuple[int, int]], survivor: Operand, graph: Graph) -> None:
    """Let the sum do without these operands: an operator that is left with one of them goes, too.

    A part of the sum that held some of the branches and not all of them is another value now, and gets another name.
    """
    readers = {value: Operand(node, at, False) for node in summing.nodes for at, value in enumerate(node.input)}
    held: dict[int, set[tuple[int, int]]] = {id(node): set() for node in summing.nodes}  # by each part of the sum
    branches = {*gone, survivor.key}
    for node in reversed(summing.nodes):  # what is added first comes first
        held[id(node)] |= branches & {(id(node), at) for at in range(len(node.input))}
        reader = readers.get(node.output[0])
        if reader is not None:
            held[id(reader.node)] |= held[id(node)]
    for node in reversed(summing.nodes):
        left = [at for at in range(len(node.input)) if (id(node), at) not in gone]
        is_whole = held[id(node)] == branches
        is_changed = bool(held[id(node)]) and not is_whole
        if not left:
            gone.add(readers[node.output[0]].key)
            _remove([node], graph)
        elif len(left) == 1:
            graph.bypass(node, left[0], toward_producer=is_whole)
        else:
            kept = node if len(left) == len(node.input) else _shortened(node, left, graph)
            if is_changed:
                graph.rename_output(kept, "merged")


def _shortened(node: NodeProto, left: Sequence[int], graph: Graph) -> NodeProto:
    """Put a node that reads only the inputs that are `left` in the place of `node`."""
    shorter = NodeProto()
    shorter.CopyFrom(node)
    del shorter.input[:]
    shorter.input.extend(node.input[at] for at in left)
    graph.remove(node)
    graph.insert(shorter, before=node)
    return shorter


def _decisions(cluster: Cluster, change: Change, summing: Summing, graph: Graph) -> Iterator[Decision]:
    root = summing.nodes[0]
    target, detail = (label_of(change.linear, graph),), f"a branch of {label_of(root, graph)}"
    for part in cluster.parts:
        nodes = [node for node in part.branch.nodes if not is_transparent(node, graph)]
        has_decision = False
        for node in nodes:
            if node is not change.linear and (is_batch_norm(node) or node.op_type in LINEAR):
                action = Action.FOLDED if is_batch_norm(node) else Action.MERGED
                yield Decision(label_of(node, graph), node.op_type, graph.scope, action, target, detail=detail)
                has_decision = True
        if not has_decision and part.branch is not change.survivor:
            node, op_types = (nodes[0], "+".join(each.op_type for each in nodes)) if nodes else (root, root.op_type)
            yield Decision(label_of(node, graph), op_types, graph.scope, Action.MERGED, target, detail=detail)


def _kept(node: NodeProto, refused: Refused, summing: Summing, graph: Graph) -> Decision:
    detail = f"a branch of {label_of(summing.nodes[0], graph)}: {refused.detail}"
    label = label_of(node, graph)
    return Decision(label, node.op_type, graph.scope, Action.KEPT, reason=refused.reason, detail=detail)
