"""The magnitude of the terms of a linear piece of a graph: the same piece, on absolute values.

For y = W x + b this is |W| |x| + |b|, which is what rounding errors are measured against: where terms cancel, y is
small and its error is not.
"""

from collections.abc import Mapping

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from bnfold.equivalence.numbers.element_types import Array, rounding
from bnfold.equivalence.numbers.float64 import Evaluator, Unknowable
from bnfold.equivalence.operators import Magnitude, operator_of


class MagnitudeBound:
    """Built once for a piece of a graph, called with the absolute values that enter it.

    `changed`: constants that were rewritten, with the element type they are stored in: their entries count at least as
    the smallest normal number of it, below which rounding is absolute. Raises Unknowable for what is not linear.
    """

    def __init__(self, region: ModelProto, changed: Mapping[str, int]) -> None:
        inputs = {value.name for value in region.graph.input}
        self._evaluator = Evaluator(_absolute_model(region, inputs, changed))

    def __call__(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """|W| |x| + |b| for each output of the piece."""
        return self._evaluator({name: np.abs(array) for name, array in feed.items()})


def _absolute_model(region: ModelProto, inputs: set[str], changed: Mapping[str, int]) -> ModelProto:
    dynamic = set(inputs)
    computed: list[NodeProto] = []
    given: list[NodeProto] = []
    for node in region.graph.node:
        if any(name in dynamic for name in node.input) or any(attribute.HasField("g") for attribute in node.attribute):
            computed.append(node)
            dynamic.update(node.output)
        else:
            given.append(node)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in region.graph.initializer}
    constants |= _evaluate(region, given)
    model = ModelProto()
    model.CopyFrom(region)
    graph = model.graph
    del graph.node[:]
    del graph.initializer[:]
    for node in computed:
        made = _absolute(node, constants, dynamic)
        graph.node.extend(_with_negative_weights(made) if _is_cubic(made) else [made])
    negated = {node.input[3] for node in graph.node if node.op_type == "BatchNormalization"}
    for name, value in constants.items():
        graph.initializer.append(numpy_helper.from_array(_absolute_value(value, changed.get(name)), name))
        if name in negated:
            graph.initializer.append(numpy_helper.from_array(-np.abs(value.astype(np.float64)), name + _NEGATIVE))
    for node in graph.node:
        if node.op_type == "BatchNormalization":
            node.input[3] += _NEGATIVE
    return model


_NEGATIVE = "/negative"


def _evaluate(region: ModelProto, nodes: list[NodeProto]) -> dict[str, Array]:
    """Everything that constant nodes make, in float64."""
    if not nodes:
        return {}
    names = [name for node in nodes for name in node.output if name]
    model = ModelProto()
    model.CopyFrom(region)
    del model.graph.node[:]
    del model.graph.input[:]
    del model.graph.output[:]
    model.graph.node.extend(nodes)
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.DOUBLE, None) for name in names)
    return Evaluator(model)({})


def _absolute(node: NodeProto, constants: Mapping[str, Array], dynamic: set[str]) -> NodeProto:
    fresh = NodeProto()
    fresh.CopyFrom(node)
    match operator_of(node).magnitude:
        case Magnitude.ADDED:
            fresh.op_type = "Add"
        case Magnitude.SLOPED if _slope(node, constants) <= 1:
            fresh.op_type = "Identity"
            del fresh.input[1:]
            del fresh.attribute[:]
        case Magnitude.PRODUCT:
            factors = node.input if node.op_type == "Einsum" else node.input[:2]
            if sum(name in dynamic for name in factors) > 1 or (node.op_type == "Div" and node.input[1] in dynamic):
                raise Unknowable(f"{node.op_type} of two computed values is not linear")
            for attribute in fresh.attribute if node.op_type == "Gemm" else ():
                attribute.f = abs(attribute.f)  # alpha and beta; the others are integers
        case Magnitude.SAME if node.op_type != "BatchNormalization" or dynamic.isdisjoint(node.input[1:]):
            pass
        case Magnitude.SHAPES:
            pass
        case _:
            raise Unknowable(f"{node.op_type} is not linear")
    return fresh


def _is_cubic(node: NodeProto) -> bool:
    return any(attribute.name == "mode" and attribute.s == b"cubic" for attribute in node.attribute)


def _with_negative_weights(node: NodeProto) -> list[NodeProto]:
    """A cubic Resize: some of its weights are negative, so that on absolute values it is no bound.

    The largest value of a map times the sum of absolute weights is one; 0 times what the operator makes has its shape.
    """
    coefficient = next((attribute.f for attribute in node.attribute if attribute.name == "cubic_coeff_a"), -0.75)
    # Along each axis: 1 - 2 a / 4, at the middle between two values; with `exclude_outside` they are scaled up again.
    total = (1 + abs(coefficient)) ** 3
    name = node.output[0]
    resized = NodeProto()
    resized.CopyFrom(node)
    resized.output[0] = f"{name}/resized"
    return [
        resized,
        helper.make_node("GlobalMaxPool", [node.input[0]], [f"{name}/largest"]),
        helper.make_node("Constant", [], [f"{name}/none"], value=numpy_helper.from_array(np.zeros(()))),
        helper.make_node("Constant", [], [f"{name}/total"], value=numpy_helper.from_array(np.array(total))),
        helper.make_node("Mul", [f"{name}/resized", f"{name}/none"], [f"{name}/zeros"]),
        helper.make_node("Mul", [f"{name}/largest", f"{name}/total"], [f"{name}/bound"]),
        helper.make_node("Add", [f"{name}/bound", f"{name}/zeros"], [name]),
    ]


def _slope(node: NodeProto, constants: Mapping[str, Array]) -> float:
    if node.op_type == "LeakyRelu":
        return abs(next((attribute.f for attribute in node.attribute if attribute.name == "alpha"), 0.01))
    if node.op_type == "PRelu":
        slope = constants.get(node.input[1])
        return float(np.abs(slope.astype(np.float64)).max()) if slope is not None and slope.size else np.inf
    return 1.0


def _absolute_value(value: Array, stored: int | None) -> Array:
    """Shapes, axes and pads keep their sign: they are integers."""
    if value.dtype.kind not in "fV" and not value.dtype.name.startswith("bfloat"):
        return value
    absolute = np.abs(value.astype(np.float64))
    facts = rounding(stored) if stored is not None else None
    return absolute if facts is None else np.maximum(absolute, _SMALLEST_NORMAL.get(stored or 0, 0.0))


_SMALLEST_NORMAL: dict[int, float] = {
    TensorProto.FLOAT16: 2.0**-14,
    TensorProto.FLOAT: 2.0**-126,
    TensorProto.BFLOAT16: 2.0**-126,
    TensorProto.DOUBLE: 2.0**-1022,
}
