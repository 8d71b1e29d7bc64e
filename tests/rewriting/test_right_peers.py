"""What other optimizers rightly do is not accused."""

from collections.abc import Callable

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import bnfold
from bnfold.testing import build, numbers

HALF = np.float16


def stores_a_shape(model: ModelProto) -> None:
    """The sizes of a value of fixed size are a constant, which may be an output."""
    shape = next(node for node in model.graph.node if node.op_type == "Shape")
    model.graph.node.remove(shape)
    model.graph.initializer.append(numpy_helper.from_array(np.array([3, 1, 6, 5]), shape.output[0]))


def computes_half_in_float(model: ModelProto) -> None:
    """Casts around operators on float16, as onnxruntime writes them; what two constants give is stored in float32."""
    product = next(node for node in model.graph.node if node.output[0] == "p")
    values = {tensor.name: numpy_helper.to_array(tensor).astype(np.float32) for tensor in model.graph.initializer}
    whole = values[product.input[0]] * values[product.input[1]]
    made = [
        helper.make_node("Cast", ["x"], ["x32"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["x32", "whole"], ["m32"]),
        helper.make_node("Cast", ["m32"], ["m"], to=TensorProto.FLOAT16),
    ]
    rest = [node for node in model.graph.node if node.output[0] not in ("p", "m")]
    del model.graph.node[:]
    model.graph.node.extend([*made, *rest])
    model.graph.initializer.append(numpy_helper.from_array(whole, "whole"))


CASES: dict[str, tuple[Callable[[ModelProto], None], ModelProto]] = {
    "shape": (
        stores_a_shape,
        build("s = Shape(x) y = Relu(x)", inputs={"x": "float[3,1,6,5]"}, outputs=["y", "s"]),
    ),
    "half": (
        computes_half_in_float,
        build(
            "p = Mul(a, b) m = Mul(x, p) y = Relu(m)",
            inputs={"x": "float16[2,8,4,4]"},
            constants={"a": numbers(8, 1, 1, dtype=HALF), "b": numbers(8, 1, 1, seed=1, dtype=HALF)},
        ),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_right_is_not_accused(name: str) -> None:
    function, model = CASES[name]
    report = bnfold.optimize(model, passes=[function]).report
    assert report.verdict == "equivalent"
    assert report.passes[0]["changes"]
