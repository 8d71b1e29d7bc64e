"""What a pass makes is of the operator set that the model imports."""

import onnx
import pytest
from onnx import ModelProto, helper

import bnfold
from bnfold.errors import ModelError, VerificationError
from bnfold.graph import check_new_forms, forms_of
from bnfold.rewriting import FunctionPass
from bnfold.testing import build


def gemm(opset: int) -> ModelProto:
    text = "a = Gemm(x, w, b) y = Relu(a)"
    return build(text, inputs={"x": "float[2,3]"}, constants={"w": (3, 4), "b": (4,)}, opset=opset)


def without_bias(model: ModelProto) -> None:
    """What opset 11 allows, of a bias of zeros."""
    node = next(node for node in model.graph.node if node.op_type == "Gemm")
    del node.input[2:]


def lists_a_shape(model: ModelProto) -> None:
    """The attribute value_ints is of opset 12."""
    model.graph.node.insert(0, helper.make_node("Constant", [], ["s"], value_ints=[2, 4]))
    model.graph.node.append(helper.make_node("Reshape", ["y", "s"], ["z"]))
    model.graph.node[-2].output[0], model.graph.node[-1].output[0] = "z", "y"
    model.graph.node[-1].input[0] = "z"


WRONG = {
    "inputs": (without_bias, 9, r"Gemm 'a' is none of opset 9: .*input size 2 not in range"),
    "attribute": (lists_a_shape, 11, r"Constant 's' is none of opset 11: Unrecognized attribute: value_ints"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_pass_that_uses_what_its_opset_has_not_is_guilty(name: str) -> None:
    function, opset, said = WRONG[name]
    with pytest.raises(VerificationError, match=said) as failure:
        bnfold.optimize(gemm(opset), passes=[function])
    assert failure.value.report.passes[0]["verdict"] == "guilty"
    made = bnfold.optimize(gemm(opset), passes=[function], on_mismatch="rollback").model
    onnx.checker.check_model(made, full_check=True)


def test_what_was_wrong_already_is_no_fault_of_a_pass() -> None:
    model = gemm(9)
    without_bias(model)
    known = forms_of(model)
    model.graph.node[0].name, model.graph.node[0].input[0] = "other", "other"
    check_new_forms(known, model)
    with pytest.raises(ModelError, match="none of opset 9"):
        check_new_forms(forms_of(gemm(9)), model)


def test_bodies_and_functions_are_looked_at_too() -> None:
    body = "y = If(c) <then_branch = t () => (a) { a = Neg(x) }, else_branch = e () => (b) { b = Abs(x) }>"
    model = build(body, inputs={"x": "float[2,3]", "c": "bool"})
    known = forms_of(model)
    check_new_forms(known, model)
    model.graph.node[0].attribute[0].g.node[0].input.append("x")
    with pytest.raises(ModelError, match=r"'(a|b)' is none of opset 18"):
        check_new_forms(known, model)


def test_a_constant_that_a_tool_stores_in_a_body_is_none_of_its_inputs() -> None:
    """Up to IR version 3 each initializer is an input, and a body has those that its node gives it."""
    body = (
        "y = If(c) <then_branch = t () => (a) { k = Constant<value = float[1] {2.0}>() a = Mul(x, k) }, "
        "else_branch = e () => (b) { b = Abs(x) }>"
    )
    model = build(body, inputs={"x": "float[2,3]", "c": "bool"}, ir=3, opset=8)

    def stores(model: ModelProto) -> None:
        for attribute in model.graph.node[0].attribute:
            for node in [node for node in attribute.g.node if node.op_type == "Constant"]:
                attribute.g.initializer.add().CopyFrom(node.attribute[0].t)
                attribute.g.initializer[-1].name = node.output[0]
                attribute.g.node.remove(node)

    made = bnfold.optimize(model, passes=[FunctionPass(stores, "stores", forgetful=True)]).model
    onnx.checker.check_model(made)
