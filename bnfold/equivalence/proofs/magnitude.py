"""The magnitude of the terms of a piece of a graph: the same piece, on absolute values.

For y = W x + b this is |W| |x| + |b|, which is what rounding errors are measured against: where terms cancel, y is
small and its error is not. A product of two computed values is bounded by that of their bounds, twice, since each of
them is off; a computed divisor and an InstanceNormalization need the values themselves.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import onnx.inliner
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from bnfold.equivalence.numbers.element_types import Array, rounding
from bnfold.equivalence.numbers.float64 import Evaluator, Unknowable
from bnfold.equivalence.operators import Magnitude, operator_of

_BOUNDS = "bnfold.bounds"
"""The domain of the operators of `numbers.bounds`, which imports the reference evaluator."""


class MagnitudeBound:
    """Built once for a piece of a graph, called with the values that enter it.

    `changed`: constants that were rewritten, with the element type they are stored in: their entries count at least as
    the smallest normal number of it, below which rounding is absolute. `divides`: a divisor is computed. Raises
    Unknowable for what has no such bound.
    """

    def __init__(self, region: ModelProto, changed: Mapping[str, int]) -> None:
        if region.functions:
            region = onnx.inliner.inline_local_functions(region)
        model = _AbsoluteModel(region, changed)
        self._evaluator = Evaluator(model.made)
        self.divides = model.divides
        self._plain = bool(model.actual)

    def __call__(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """|W| |x| + |b| for each output of the piece; infinite or NaN behind a division by zero."""
        given = {name: np.abs(array) for name, array in feed.items()}
        if self._plain:
            given |= {name + _ACTUAL: array for name, array in feed.items()}
        return self._evaluator(given)


_ACTUAL = "/actual"
"""Values that are not those of the absolute model, but of the piece itself."""


class _AbsoluteModel:
    """`made`: the model that makes the bounds. `actual`: the values of the piece itself that it needs."""

    def __init__(self, region: ModelProto, changed: Mapping[str, int]) -> None:
        self.dynamic = {value.name for value in region.graph.input}
        self.actual: dict[str, None] = {}
        self.divides = False
        computed: list[NodeProto] = []
        given: list[NodeProto] = []
        for node in region.graph.node:
            if any(name in self.dynamic for name in node.input) or any(
                attribute.HasField("g") for attribute in node.attribute
            ):
                computed.append(node)
                self.dynamic.update(node.output)
            else:
                given.append(node)
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in region.graph.initializer}
        self.constants |= _evaluate(region, given)
        self.made = ModelProto()
        self.made.CopyFrom(region)
        graph = self.made.graph
        del graph.node[:]
        del graph.initializer[:]
        for node in computed:
            graph.node.extend(self._bound(node))
        negated = {node.input[3] for node in graph.node if node.op_type == "BatchNormalization"}
        for name, value in self.constants.items():
            graph.initializer.append(numpy_helper.from_array(_absolute_value(value, changed.get(name)), name))
            if name in negated:
                graph.initializer.append(numpy_helper.from_array(-np.abs(value.astype(np.float64)), name + _NEGATIVE))
        for node in graph.node:
            if node.op_type == "BatchNormalization":
                node.input[3] += _NEGATIVE
        if self.actual:
            self._add_actual(computed, region)
        if any(node.domain == _BOUNDS for node in graph.node):
            self.made.opset_import.append(helper.make_opsetid(_BOUNDS, 1))

    def _bound(self, node: NodeProto) -> list[NodeProto]:
        """The nodes that make the bound of what `node` makes, under the same name."""
        match operator_of(node).magnitude:
            case Magnitude.ADDED:
                return [_copied(node, op_type="Add")]
            case Magnitude.SLOPED:
                return self._steep(node)
            case Magnitude.PRODUCT:
                return self._product(node)
            case Magnitude.NORMALIZED if self.dynamic.isdisjoint(node.input[1:]):
                self.actual[node.input[0]] = None
                inputs = [node.input[0] + _ACTUAL, *node.input]
                made = helper.make_node("Normalized", inputs, node.output, domain=_BOUNDS)
                made.attribute.extend(node.attribute)
                return [made]
            case Magnitude.SAME if node.op_type != "BatchNormalization" or self.dynamic.isdisjoint(node.input[1:]):
                return _with_negative_weights(node) if _is_cubic(node) else [_without_signs(_copied(node))]
            case Magnitude.SHAPES:
                return [_copied(node)]
        raise Unknowable(f"{node.op_type} is not linear")

    def _steep(self, node: NodeProto) -> list[NodeProto]:
        slope = _slope(node, self.constants)
        if not np.isfinite(slope):
            raise Unknowable(f"{node.op_type} has a slope that is computed")
        if slope <= 1:
            made = _copied(node, op_type="Identity")
            del made.input[1:]
            del made.attribute[:]
            return [made]
        factor = f"{node.output[0]}/slope"
        self.constants[factor] = np.array(slope)
        return [helper.make_node("Mul", [node.input[0], factor], node.output)]

    def _product(self, node: NodeProto) -> list[NodeProto]:
        made = _without_signs(_copied(node))
        if node.op_type == "Div" and node.input[1] in self.dynamic:
            self.divides = True
            self.actual[node.input[1]] = None
            inputs = [node.input[0], node.input[1] + _ACTUAL, node.input[1]]
            return [helper.make_node("Quotient", inputs, node.output, domain=_BOUNDS)]
        factors = list(node.input if node.op_type == "Einsum" else node.input[:2])
        several = sum(name in self.dynamic for name in factors)
        if several > 2:
            raise Unknowable(f"{node.op_type} of {several} computed values is not linear")
        if several < 2:
            return [made]
        made.output[0] += "/once"
        return [made, helper.make_node("Twice", made.output, node.output, domain=_BOUNDS)]

    def _add_actual(self, computed: Iterable[NodeProto], region: ModelProto) -> None:
        """The piece itself, as far as its own values are needed, beside the absolute one."""
        graph = self.made.graph
        for value in region.graph.input:
            graph.input.add().CopyFrom(value)
            graph.input[-1].name += _ACTUAL
        needed, nodes = set(self.actual), list[NodeProto]()
        for node in reversed(list(computed)):
            if needed.isdisjoint(node.output):
                continue
            if any(attribute.HasField("g") for attribute in node.attribute):
                raise Unknowable(f"{node.op_type} in front of what is not linear")
            needed.update(node.input)
            made = _copied(node)
            made.input[:] = [name + _ACTUAL if name else "" for name in node.input]
            made.output[:] = [name + _ACTUAL if name else "" for name in node.output]
            nodes.append(made)
        for name in needed & self.constants.keys():
            graph.initializer.append(numpy_helper.from_array(self.constants[name], name + _ACTUAL))
        bounds = list(graph.node)
        del graph.node[:]
        graph.node.extend([*reversed(nodes), *bounds])


def _without_signs(node: NodeProto) -> NodeProto:
    """The node with what its attributes hold of terms and factors, as a Pad below opset 11 does, made positive."""
    for attribute in node.attribute if node.op_type in ("Gemm", "Pad") else ():
        attribute.f = abs(attribute.f)  # alpha, beta and value; the others are integers
    return node


def _copied(node: NodeProto, op_type: str = "") -> NodeProto:
    made = NodeProto()
    made.CopyFrom(node)
    made.op_type = op_type or node.op_type
    return made


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
