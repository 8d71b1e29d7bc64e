"""What other optimizers rightly do is not accused."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import bnfold
from bnfold.rewriting import FunctionPass
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


def stores_once(model: ModelProto) -> None:
    """Equal initializers are one, as onnxsim, onnxoptimizer and onnxruntime store them, and an input is gone."""
    first: dict[bytes, str] = {}
    renamed = {tensor.name: first.setdefault(tensor.raw_data, tensor.name) for tensor in model.graph.initializer}
    for tensor in [tensor for tensor in model.graph.initializer if renamed[tensor.name] != tensor.name]:
        model.graph.initializer.remove(tensor)
    for node in model.graph.node:
        node.input[:] = [renamed.get(value, value) for value in node.input]
    read = {value for node in model.graph.node for value in node.input}
    for value in [value for value in model.graph.input if value.name not in read]:
        model.graph.input.remove(value)


def computes_in_double(model: ModelProto) -> None:
    """The same behind a Cast of what is stored."""
    stores_once(model)
    (norm,) = model.graph.node
    names = list(dict.fromkeys(norm.input))
    casts = [helper.make_node("Cast", [name], [f"{name}64"], name=name, to=TensorProto.DOUBLE) for name in names]
    back = [helper.make_node("Cast", [f"{name}64"], [name], to=TensorProto.FLOAT) for name in norm.output if name]
    for values in (norm.input, norm.output):
        values[:] = [name and f"{name}64" for name in values]
    model.graph.node.extend(back)
    for cast in reversed(casts):
        model.graph.node.insert(0, cast)


def test_statistics_behind_a_cast_stay_apart_too() -> None:
    zero, one = np.zeros(4, np.float32), np.ones(4, np.float32)
    model = build(
        "y, rm, rv = BatchNormalization<training_mode = 1>(x, one, zero, mean, var)",
        inputs={"x": "float[2,4,5,6]"},
        constants={"one": one, "zero": zero, "mean": zero, "var": one},
    )
    found = bnfold.optimize(model, passes=[FunctionPass(computes_in_double, "in-double", forgetful=True)])
    assert found.report.verdict == "equivalent"
    norm = next(node for node in found.model.graph.node if node.op_type == "BatchNormalization")
    assert list(norm.input) == ["x64", "one64", "zero64", "zero64_1", "one64_1"]
    onnx.checker.check_model(found.model, full_check=True)


@pytest.mark.parametrize("mode", ["inference", "training"])
def test_statistics_that_a_run_writes_into_stay_apart(mode: str) -> None:
    """onnxruntime writes into the stored statistics of what is in training mode: merged with a bias they change it."""
    zero, one = np.zeros(4, np.float32), np.ones(4, np.float32)
    outputs, attribute = ("y, rm, rv", "<training_mode = 1>") if mode == "training" else ("y", "")
    model = build(
        f"{outputs} = BatchNormalization{attribute}(x, one, zero, mean, var)",
        inputs={"x": "float[2,4,5,6]"},
        constants={"one": one, "zero": zero, "mean": zero, "var": one},
    )
    model.graph.input.add().CopyFrom(helper.make_tensor_value_info("unread", TensorProto.FLOAT, [3]))
    found = bnfold.optimize(model, passes=[FunctionPass(stores_once, "stores-once", forgetful=True)])
    assert found.report.verdict == "equivalent"
    assert list(found.model.graph.input) == list(model.graph.input)
    (norm,) = found.model.graph.node
    apart = ["one", "zero", "mean", "var"] if mode == "training" else ["one", "zero", "zero", "one"]
    assert list(norm.input) == ["x", *apart]
    onnx.checker.check_model(found.model, full_check=True)


@pytest.mark.parametrize("name", CASES)
def test_what_is_right_is_not_accused(name: str) -> None:
    function, model = CASES[name]
    report = bnfold.optimize(model, passes=[function]).report
    assert report.verdict == "equivalent"
    assert report.passes[0]["changes"]
