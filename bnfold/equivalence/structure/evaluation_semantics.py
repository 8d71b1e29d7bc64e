"""A model with evaluation semantics, written from the protobuf alone: what a train-mode export was meant to compute.

Independent of the passes that freeze, so that one mistake is not made twice. No copy made here holds a
BatchNormalization in training mode whose running statistics nobody reads: such a node writes into the buffers of its
initializers while it runs (onnxruntime#29790), and with a single output it does not load at all. NodeKey the statistics
of the batch are really meant, they are computed by operators of their own.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from bnfold.decisions import NodeKey
from bnfold.equivalence.structure.scopes import Scopes
from bnfold.equivalence.structure.training_mode import (
    VisibleScope,
    drops,
    is_batch_norm,
    trains,
    visible_scopes,
)
from bnfold.statistics import Statistics


def evaluate_in_place(
    model: ModelProto,
    *,
    stays: Collection[NodeKey] = (),
    own: Collection[NodeKey] = (),
    statistics: Mapping[NodeKey, Statistics] | None = None,
    assume_constant_initializers: bool = False,
    assume_spatial: bool = False,
) -> None:
    """Give `model` evaluation semantics: stored statistics, or those in `statistics`; Dropout lets everything through.

    The statistics of the batch stay where they are really meant: for data that is constant, between a Reshape to one
    row and a Reshape back (an InstanceNormalization), and at the places in `stays`; those in `own` read them as stored
    ones. `assume_constant_initializers`: no caller overrides one. `assume_spatial`: spatial = 0 was meant to be
    spatial = 1; no runtime takes it with parameters of [C], which alone can mean that.
    """

    def edit(node: NodeProto, scope: VisibleScope) -> list[NodeProto]:
        if drops(node, scope):
            _let_through(node, scope.opset)
        if not is_batch_norm(node):
            return []
        if assume_spatial:
            _let_be_spatial(node)
        place = scope.key(node)
        if statistics and place in statistics:
            made = _store(node, statistics[place], scope, model)
            _use_stored(node, scope.opset)
            return made
        if not trains(node, scope.opset):
            return []
        if place not in own and (place in stays or scope.is_constant(node.input[0]) or _is_instance_norm(node, scope)):
            return _write_out(node, scope)
        _use_stored(node, scope.opset)
        return []

    _edit_all(model, edit, assume_constant_initializers=assume_constant_initializers)


def make_runnable(
    model: ModelProto,
    *,
    own: Collection[NodeKey] = (),
    assume_constant_initializers: bool = False,
    dropping: int | None = None,
) -> None:
    """Let every BatchNormalization in training mode use the batch by operators of their own, and no Dropout drop.

    At the places in `own` the model has such operators. `dropping`: a seed with which each Dropout does drop, for what
    the model answers as it stands.
    """

    def edit(node: NodeProto, scope: VisibleScope) -> list[NodeProto]:
        if drops(node, scope):
            if dropping is None or scope.opset < 12:
                _let_through(node, scope.opset)
            else:
                _set(node, "seed", dropping)
        if not (is_batch_norm(node) and trains(node, scope.opset)):
            return []
        if scope.key(node) in own:
            _use_stored(node, scope.opset)
            return []
        return _write_out(node, scope)

    _edit_all(model, edit, assume_constant_initializers=assume_constant_initializers)


def use_batch_in_place(model: ModelProto, places: Collection[NodeKey]) -> None:
    """Let the normalizations at `places` use the statistics of the batch, whatever mode they are in."""
    chosen = set(places)

    def edit(node: NodeProto, scope: VisibleScope) -> list[NodeProto]:
        return _write_out(node, scope) if is_batch_norm(node) and scope.key(node) in chosen else []

    _edit_all(model, edit)


def _edit_all(
    model: ModelProto,
    edit: Callable[[NodeProto, VisibleScope], list[NodeProto]],
    *,
    assume_constant_initializers: bool = False,
) -> None:
    """Let `edit` change each node and say what is to stand before it. Inner scopes first: outer nodes are copied."""
    index = Scopes(model, assume_constant_initializers=assume_constant_initializers)
    for scope in reversed(list(visible_scopes(index))):
        ordered: list[NodeProto] = []
        for node in scope.body.node:
            ordered += [*edit(node, scope), node]
        if len(ordered) > len(scope.body.node):
            del scope.body.node[:]
            scope.body.node.extend(ordered)


def _use_stored(node: NodeProto, opset: int) -> None:
    if opset < 7:
        _set(node, "is_test", 1)
    elif opset >= 14:
        _set(node, "training_mode", 0)
    del node.output[1:]


def _let_be_spatial(node: NodeProto) -> None:
    """1 is the default."""
    kept = [attribute for attribute in node.attribute if attribute.name != "spatial"]
    del node.attribute[:]
    node.attribute.extend(kept)


def _let_through(node: NodeProto, opset: int) -> None:
    if opset < 7:
        _set(node, "is_test", 1)
    else:
        del node.input[2:]


def _store(node: NodeProto, statistics: Statistics, scope: VisibleScope, model: ModelProto) -> list[NodeProto]:
    """Let the node read `statistics` from Constant nodes of their own, in the dtype of what it reads now."""
    dtype = _stored_dtype(node, scope, model)
    made: list[NodeProto] = []
    for index, values in ((3, statistics.mean), (4, statistics.variance)):
        name = f"{node.output[0]}__statistics_{index}"
        tensor = numpy_helper.from_array(values.astype(dtype), name)
        made.append(helper.make_node("Constant", [], [name], value=tensor))
        node.input[index] = name
    return made


def _stored_dtype(node: NodeProto, scope: VisibleScope, model: ModelProto) -> np.dtype[np.generic]:
    for value in (node.input[3], node.input[4], node.input[1]):
        for body in (scope.body, model.graph):
            for tensor in getattr(body, "initializer", ()):
                if tensor.name == value:
                    return np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
    return np.dtype(np.float32)


def _write_out(node: NodeProto, scope: VisibleScope) -> list[NodeProto]:
    """The statistics of the batch as operators: Reshape to [N, C, S], two averages, and an inference operator.

    Its other outputs become what onnxruntime gives out: running statistics and, up to opset 13, the mean of the batch
    and the inverse of its deviation.
    """
    if scope.opset < 5:
        return []
    made = _Operators(node.output[0], scope.opset)
    axes = made.constant([0, 2], "axes")

    def average(value: str, name: str) -> str:
        if scope.opset >= 18:
            return made.add("ReduceMean", [value, axes], name, keepdims=1)
        return made.add("ReduceMean", [value], name, keepdims=1, axes=[0, 2])

    flat = made.constant([-1], "flat")
    rows = made.add("Reshape", [node.input[0], made.constant([0, 0, -1], "rows_shape")], "rows")
    mean = average(rows, "mean")
    centred = made.add("Sub", [rows, mean], "centred")
    variance = average(made.add("Mul", [centred, centred], "squares"), "variance")
    batch = [made.add("Reshape", [value, flat], f"batch_{i}") for i, value in enumerate((mean, variance))]
    for output, old, new in zip(node.output[1:3], node.input[3:5], batch, strict=False):
        if scope.is_read(output):
            _write_running(output, old, new, _float(node, "momentum", 0.9), made)
    for index, output in enumerate(node.output[3:5]):
        if scope.is_read(output):
            _write_saved(output, index, batch[index], _float(node, "epsilon", 1e-5), made)
    node.input[3], node.input[4] = batch
    _use_stored(node, scope.opset)
    return made.nodes


def _write_running(output: str, old: str, new: str, momentum: float, made: "_Operators") -> None:
    """momentum old + (1 - momentum) new."""
    parts = []
    for value, factor, name in ((old, momentum, "old"), (new, 1 - momentum, "new")):
        weight = made.constant(factor, f"{output}_{name}_factor", np.float32)
        if made.opset >= 15:
            weight = made.add("CastLike", [weight, value], f"{output}_f{name}")
        parts.append(made.add("Mul", [value, weight], f"{output}_{name}"))
    made.nodes.append(helper.make_node("Add", parts, [output]))


def _write_saved(output: str, index: int, value: str, epsilon: float, made: "_Operators") -> None:
    """The mean of the batch (`index` 0), or the inverse of its deviation."""
    if not index:
        made.nodes.append(helper.make_node("Identity", [value], [output]))
        return
    raised = made.add("Add", [value, made.constant([epsilon], f"{output}_epsilon", np.float32)], f"{output}_raised")
    root = made.add("Sqrt", [raised], f"{output}_root")
    made.nodes.append(helper.make_node("Reciprocal", [root], [output]))


class _Operators:
    """Nodes whose values are named after `base`, for one version of the operator set."""

    def __init__(self, base: str, opset: int) -> None:
        self.opset = opset
        self.nodes: list[NodeProto] = []
        self._base = base

    def add(self, op_type: str, inputs: list[str], name: str, **attributes: Any) -> str:
        """A node of one output, whose name is returned."""
        output = f"{self._base}__{name}"
        self.nodes.append(helper.make_node(op_type, inputs, [output], **attributes))
        return output

    def constant(self, values: object, name: str, dtype: type = np.int64) -> str:
        """A Constant, whose output is returned."""
        return self.add("Constant", [], name, value=numpy_helper.from_array(np.asarray(values, dtype)))


def _float(node: NodeProto, name: str, default: float) -> float:
    return next((attribute.f for attribute in node.attribute if attribute.name == name), default)


def _is_instance_norm(node: NodeProto, scope: VisibleScope) -> bool:
    """Between a Reshape to one row and Reshapes alone: each channel of each image has its own statistics."""
    before = scope.producer(node.input[0])
    if before is None or before.op_type != "Reshape" or len(before.input) < 2:
        return False
    target = scope.flat(before.input[1])
    behind = scope.readers(node.output[0])
    if target is None or target.size < 3 or target[0] != 1 or node.output[0] in scope.scope.leaving:
        return False
    return bool(behind) and all(each.op_type == "Reshape" and each.input[0] == node.output[0] for each in behind)


def _set(node: NodeProto, name: str, value: int) -> None:
    for attribute in node.attribute:
        if attribute.name == name:
            attribute.CopyFrom(helper.make_attribute(name, value))
            return
    node.attribute.append(helper.make_attribute(name, value))
