"""Model-local functions: weights inside, weights as arguments, attributes of the caller."""

import numpy as np
import onnx
import pytest
from onnx import ModelProto, parser

import bnfold
from tests.oracle import evaluate

MODEL = """
    <ir_version: 9, opset_import: ["" : 17, "local" : 1]>
    g (float[N,2,5,6] x) => (float[N,3,3,4] y, float[N,3,3,4] z)
    <float[3] s1 = {{1.5,2,0.5}}, float[3] s2 = {{0.5,-1,3}},
     float[3] b = {{1,-2,3}}, float[3] m = {{0.5,1,-1}}, float[3] v = {{1,2,3}}>
    {{ {calls} }}
    <domain: "local", opset_import: ["" : {opset}]>
    {function}
"""
PARAMETERS = "(x, w, s, b, m, v) => (y) { c = Conv(x, w) y = BatchNormalization(c, s, b, m, v) }"
TWO_CALLS = "y = local.block(x, w1, s1, b, m, v) z = local.block(x, w2, s2, b, m, v)"


def model(calls: str, function: str, opset: int = 17) -> ModelProto:
    made = parser.parse_model(MODEL.format(calls=calls, function=function, opset=opset))
    rng = np.random.default_rng(7)
    for name in ("w1", "w2"):
        values = rng.normal(size=(3, 2, 3, 3)).astype(np.float32)
        made.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    column = np.array([1.5, 2, 0.5], np.float32).reshape(3, 1, 1)
    made.graph.initializer.append(onnx.numpy_helper.from_array(column, "column"))
    onnx.checker.check_model(made)
    return made


def everywhere(made: ModelProto) -> list[str]:
    return [node.op_type for body in (made.graph, *made.functions) for node in body.node]  # type: ignore[attr-defined]  # a join


def assert_same(before: ModelProto, after: ModelProto) -> None:
    x = np.random.default_rng(1).normal(size=(2, 2, 5, 6)).astype(np.float32)
    old, new = evaluate(before, {"x": x}), evaluate(after, {"x": x})
    for name, values in old.items():
        np.testing.assert_allclose(new[name], values, rtol=0, atol=2e-6 * np.abs(values).max())


def test_weights_as_arguments_are_folded_call_by_call() -> None:
    original = model(TWO_CALLS, "block " + PARAMETERS)
    result = bnfold.optimize(original)
    assert sorted(everywhere(result.model)) == ["Conv", "Conv"]
    assert [decision.action for decision in result.report.decisions] == ["folded", "folded"]
    assert_same(original, result.model)


SCALED = "(x, w, s) => (y) { c = Conv(x, w) y = Mul(c, s) }"
COLUMNS = "y = local.block(x, w1, column) z = local.block(x, w2, column)"


def test_a_factor_as_an_argument_is_folded_call_by_call() -> None:
    original = model(COLUMNS, "block " + SCALED)
    result = bnfold.optimize(original)
    assert sorted(everywhere(result.model)) == ["Conv", "Conv"]
    assert not result.model.functions
    assert_same(original, result.model)


def test_a_factor_that_no_call_knows_leaves_the_function_alone() -> None:
    calls = "p = GlobalMaxPool(x) r = ReduceMax(p) " + COLUMNS.replace("column", "r")
    original = model(calls, "block " + SCALED)
    result = bnfold.optimize(original)
    assert [function.name for function in result.model.functions] == ["block"]
    assert result.model == original


def test_an_epsilon_of_the_caller_is_used_call_by_call() -> None:
    body = PARAMETERS.replace("BatchNormalization(", "BatchNormalization<epsilon: float = @epsilon>(")
    calls = TWO_CALLS.replace("block(", "block<epsilon=0.5>(", 1).replace(
        "z = local.block(", "z = local.block<epsilon=0.001>("
    )
    original = model(calls, "block <epsilon> " + body)
    result = bnfold.optimize(original)
    assert sorted(everywhere(result.model)) == ["Conv", "Conv"]
    assert_same(original, result.model)


def test_a_function_by_the_name_of_an_operator_is_not_that_operator() -> None:
    """A runtime may take the function."""
    nodes = "c = Conv(x, w) r = Relu(c) y = BatchNormalization(r, s, z, z, v)"
    graph = f"g (float[N,2,5,6] x) => (float[N,3,3,4] y) {{ {nodes} }}"
    original = parser.parse_model(f'<ir_version: 9, opset_import: ["" : 17]> {graph}')
    values = {"w": np.ones((3, 2, 3, 3)), "s": np.full(3, 2.0), "z": np.zeros(3), "v": np.ones(3)}
    for name, array in values.items():
        original.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    assert everywhere(bnfold.optimize(original, verify=False).model) == ["Conv", "Relu"]
    tanh = onnx.helper.make_node("Tanh", ["a"], ["b"])
    opsets = [onnx.helper.make_opsetid("", 17)]
    original.functions.append(onnx.helper.make_function("", "Relu", ["a"], ["b"], [tanh], opsets))
    (decision,) = bnfold.optimize(original, verify=False).report.decisions
    assert (decision.action, decision.reason.name) == ("kept", "UNKNOWN_OPERATOR")


def test_a_function_that_holds_its_weights_stays_a_function() -> None:
    constants = " ".join(
        f"{name} = Constant<value = float[3] {{{values}}}>()"
        for name, values in {"s": "1.5,2,0.5", "b": "1,-2,3", "m": "0.5,1,-1", "v": "1,2,3"}.items()
    )
    body = (
        f"(x, w) => (y) {{ {constants} wc = Constant<value = float[3,2,1,1] {{1,2,3,4,5,6}}>() "
        "c = Conv(x, wc) y = BatchNormalization(c, s, b, m, v) }"
    )
    original = parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 17, "local" : 1]> '
        "g (float[N,2,5,6] x) => (float[N,3,5,6] y, float[N,3,5,6] z) "
        "{ y = local.block(x, x) r = Relu(x) z = local.block(r, x) } "
        '<domain: "local", opset_import: ["" : 17]> block ' + body
    )
    result = bnfold.optimize(original)
    assert len(result.model.functions) == 1
    assert "BatchNormalization" not in everywhere(result.model)
    assert [node.op_type for node in result.model.graph.node] == ["block", "Relu", "block"]
    assert_same(original, result.model)


def test_arguments_that_are_no_constants_leave_the_function_alone() -> None:
    calls = "p = GlobalMaxPool(x) q = ReduceMax<keepdims=0>(p) r = Mul(s1, q) " + TWO_CALLS.replace("s1", "r").replace(
        "s2", "r"
    )
    original = model(calls, "block " + PARAMETERS)
    result = bnfold.optimize(original)
    (decision,) = result.report.decisions
    assert (decision.action, decision.scope, decision.reason.name) == ("kept", "local::block", "PARAMETER_NOT_CONSTANT")
    assert result.model == original


@pytest.mark.parametrize("command", ["optimize", "inspect"])
def test_another_opset_in_the_function_is_no_reason_to_fail(command: str) -> None:
    original = model(TWO_CALLS, "block " + PARAMETERS, opset=16)
    getattr(bnfold, command)(original)
