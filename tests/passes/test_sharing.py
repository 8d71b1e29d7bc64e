"""Who else reads it: shared weights, graph outputs, overridable initializers, names that are taken."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from bnfold.decisions import Action
from tests.fold_models import CONSTANTS, Row, assert_same_function, check_folds, check_left_alone, fold, numbers

B = "BatchNormalization"
_CONSTANTS = {"w44": numbers(4, 4, 1, 1), "shape": np.array([4], np.int64), "c_scalar": numbers(seed=7).reshape(())}

FOLDS = {
    "the weight of two convolutions, one normalized": Row(
        f"d = Conv(x, w, b) e = Conv(x2, w, b) n = {B}(d, g, h, m, v) y = Add(n, e)"
    ),
    "the weight of two convolutions, both normalized": Row(
        f"d = Conv(x, w, b) e = Conv(x2, w, b) n = {B}(d, g, h, m, v) o = {B}(e, h, g, m, v)"
        "s = Sigmoid(o) y = Mul(n, s)"
    ),
    "a weight that is also data": Row(
        f"d = Conv(x, w, b) n = {B}(d, g, h, m, v)"
        " p = ReduceMax<keepdims=0>(x) q = Mul(w, p) s = ReduceMax<keepdims=0>(q) y = Mul(n, s)"
    ),
    "one vector as bias and parameter": Row(f"d = Conv(x, w, h) y = {B}(d, g, h, m, v)"),
    "one vector as the bias of two": Row(f"d = Conv(x, w, b) n = {B}(d, g, h, m, v) y = Conv(n, w44, b)"),
    "parameters of two normalizations": Row(
        f"d = Conv(x, w, b) n = {B}(d, g, h, m, v) s = Sigmoid(n) e = Conv(s, w44) y = {B}(e, g, h, m, v)"
    ),
    "the weight behind an Identity": Row(
        f"i = Identity(w) d = Conv(x, i, b) e = Conv(x2, w) n = {B}(d, g, h, m, v) y = Add(n, e)"
    ),
    "the shape of the convolution's output": Row(
        f"d = Conv(x, w, b) s = Shape(d) r = Cast<to=1>(s) q = ReduceMean<keepdims=0>(r) n = {B}(d, g, h, m, v)"
        "y = Mul(n, q)"
    ),
    "the type of the convolution's output": Row(
        f"d = Conv(x, w, b) q = CastLike(half, d) n = {B}(d, g, h, m, v) y = Mul(n, q)",
        constants={"half": np.array(0.5)},
    ),
}
_LEFT = {
    "the weight behind an Identity": "Conv Conv Add",
    "the type of the convolution's output": "Conv",
}


@pytest.mark.parametrize("name", FOLDS)
def test_folds(name: str) -> None:
    row = FOLDS[name]
    row = Row(row.text, row.inputs, {**_CONSTANTS, **(row.constants or {})})
    left = " ".join(node.op_type for node in row.model().graph.node if node.op_type != B)
    done = check_folds(row, _LEFT.get(name, left))
    assert {decision.action for decision in done.decisions} == {Action.FOLDED}


def test_a_weight_that_another_operator_reads_is_copied() -> None:
    done = fold(FOLDS["the weight of two convolutions, one normalized"].model())
    np.testing.assert_array_equal(done.constant("w"), CONSTANTS["w"])
    np.testing.assert_array_equal(done.constant("b"), CONSTANTS["b"])
    first, second = done.model.graph.node[0], done.model.graph.node[1]
    assert list(second.input) == ["x2", "w", "b"]
    assert list(first.input) == ["x", "w_folded", "b_folded"]


@pytest.mark.parametrize("value", ["w", "b", "g"])
def test_a_constant_that_is_an_output_keeps_its_value(value: str) -> None:
    row = Row(f"d = Conv(x, w, b) y = {B}(d, g, h, m, v)", outputs=("y", value))
    done = check_folds(row, "Conv")
    np.testing.assert_array_equal(done.constant(value), CONSTANTS[value])


LEFT_ALONE = {
    "OTHER_CONSUMER: the convolution is read elsewhere": Row(
        f"d = Conv(x, w, b) y = {B}(d, g, h, m, v) z = Sigmoid(/y|d/)", outputs=("y", "z")
    ),
    "VALUE_IS_OUTPUT: the convolution is an output": Row(
        f"d = Conv(x, w, b) y = {B}(d, g, h, m, v)", outputs=("y", "/y|d/")
    ),
    "OTHER_CONSUMER: a nested body reads the convolution": Row(
        f"d = Conv(x, w, b) y = {B}(d, g, h, m, v)"
        "z = If(flag) <then_branch = t () => (float[N,C,H,W] p) { p = Sigmoid(/y|d/) },"
        "else_branch = e () => (float[N,C,H,W] q) { q = Tanh(y) }>",
        outputs=("y", "z"),
    ),
    "VALUE_IS_OUTPUT: a nested body gives the convolution out": Row(
        f"d = Conv(x, w, b) y = {B}(d, g, h, m, v)"
        "z = If(flag) <then_branch = t () => (float[N,C,H,W] /p|d/) { p = Sigmoid(y) },"
        "else_branch = e () => (float[N,C,H,W] q) { q = Tanh(y) }>",
        outputs=("y", "z"),
    ),
    "OTHER_CONSUMER: it reads the convolution twice": Row(
        f"d = Conv(x, w, b) e = Conv(x, w) p = Mul(d, /e|d/) y = {B}(p, g, o, o, v)",
        constants={"o": np.zeros(4, np.float32)},
    ),
}


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_left_alone(name: str) -> None:
    check_left_alone(name, LEFT_ALONE[name])


def test_who_reads_it_twice_is_named() -> None:
    row = LEFT_ALONE["OTHER_CONSUMER: it reads the convolution twice"].bad()
    assert "'d' is read by p" in fold(row.model()).decision().detail


# ------------------------------------------------------------------ initializers that are inputs

PLAIN = f"d = Conv(x, w, b) y = {B}(d, g, h, m, v)"


def _overridable(*names: str) -> onnx.ModelProto:
    model = Row(PLAIN).model()
    for tensor in model.graph.initializer:
        if tensor.name in names:
            model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return model


OVERRIDABLE = {
    "w": "WEIGHT_NOT_CONSTANT",
    "b": "BIAS_NOT_CONSTANT",
    **dict.fromkeys("ghmv", "OVERRIDABLE_PARAMETER"),
}


@pytest.mark.parametrize("name", OVERRIDABLE)
def test_an_initializer_that_a_caller_may_replace_is_no_constant(name: str) -> None:
    original = _overridable(name)
    done = fold(original)
    assert not done.modified
    assert done.decision().reason is not None
    assert done.decision().reason.code == OVERRIDABLE[name]
    assert done.model.SerializeToString(deterministic=True) == original.SerializeToString(deterministic=True)


@pytest.mark.parametrize("name", OVERRIDABLE)
def test_unless_they_are_assumed_to_be_constant(name: str) -> None:
    original = _overridable(name)
    done = fold(original, assume=True)
    assert done.operators == ["Conv"]
    onnx.checker.check_model(done.model, full_check=True)
    assert [value.name for value in done.model.graph.input] == [value.name for value in original.graph.input]
    # The input stays, so its default stays with it, for whoever feeds it by name.
    assert name in {tensor.name for tensor in done.model.graph.initializer}
    assert_same_function(original, done.model)


def test_an_overridable_initializer_of_another_operator_stays() -> None:
    model = Row(f"d = Conv(x, w, b) n = {B}(d, g, h, m, v) y = Mul(n, s)", constants={"s": numbers(7)}).model()
    model.graph.input.append(helper.make_tensor_value_info("s", 1, [7]))
    done = fold(model)
    assert done.operators == ["Conv", "Mul"]
    assert list(done.model.graph.input) == list(model.graph.input)
    np.testing.assert_array_equal(done.constant("s"), numbers(7))


@pytest.mark.parametrize(
    ("text", "opset"),
    [
        (PLAIN, 8),
        (f"d = Conv(x, w) y = {B}(d, g, h, m, v)", 8),  # a new bias has to become an input
        (f"f = Flatten(x) d = Gemm(f, k, c_scalar) y = {B}(d, g, h, m, v)", 8),  # the bias changes its shape
        (f"d = Conv(x, w, b) e = Conv(x2, w, b) n = {B}(d, g, h, m, v) y = Add(n, e)", 8),
        (f"a = Sigmoid(x) n = {B}(a, g3, h3, m3, v3) y = Conv<pads=[1,1,1,1]>(n, w, b)", 8),  # an Add of a new constant
    ],
)
def test_ir_version_3_stays_ir_version_3(text: str, opset: int) -> None:
    """There every initializer is also an input, and a constant all the same."""
    row = Row(text, constants={**_CONSTANTS, "k": numbers(126, 4)}, opset=opset, ir=3)
    original = row.model()
    onnx.checker.check_model(original, full_check=True)
    done = fold(original)
    assert B not in done.operators
    onnx.checker.check_model(done.model, full_check=True)
    inputs = {value.name: [d.dim_value for d in value.type.tensor_type.shape.dim] for value in done.model.graph.input}
    assert {tensor.name: list(tensor.dims) for tensor in done.model.graph.initializer}.items() <= inputs.items()
    fed = {value.name for value in done.model.graph.input} - {tensor.name for tensor in done.model.graph.initializer}
    assert fed == {name for name in ("x", "x2") if name in inputs}
    assert_same_function(original, done.model)
    assert not fold(done.model).modified


# ------------------------------------------------------------------ what passes through


def test_sparse_initializers_pass_through_and_are_no_weights() -> None:
    model = Row(
        f"d = Conv(x, w, b) n = {B}(d, g, h, m, v) e = MatMul(n, s) y = Relu(e)", constants={"s": numbers(5, 2)}
    ).model()
    kept = [tensor for tensor in model.graph.initializer if tensor.name != "s"]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    values = numpy_helper.from_array(np.array([1.5, -2], np.float32), "s")
    model.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, numpy_helper.from_array(np.array([1, 6]), "s_indices"), [5, 2])
    )
    done = fold(model)
    assert done.operators == ["Conv", "MatMul", "Relu"]
    assert list(done.model.graph.sparse_initializer) == list(model.graph.sparse_initializer)
    assert_same_function(model, done.model)


def test_a_sparse_weight_is_not_folded_into() -> None:
    model = Row(f"d = MatMul(f, s) y = {B}(d, g, h, m, v)", {"f": "float[N,5]"}, {"s": numbers(5, 4)}).model()
    assert fold(model).modified
    kept = [tensor for tensor in model.graph.initializer if tensor.name != "s"]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    values = numpy_helper.from_array(np.array([1.5, -2], np.float32), "s")
    model.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, numpy_helper.from_array(np.array([1, 6]), "i"), [5, 4])
    )
    done = fold(model)
    assert not done.modified
    assert done.decision().reason is not None
    assert done.decision().reason.code == "WEIGHT_NOT_CONSTANT"


def test_operators_of_other_domains_pass_through() -> None:
    text = f'a = acme.Weird<size=3, text="t">(x, w) d = Conv(x, w, b) n = {B}(d, g, h, m, v) y = acme.Conv(n, a, b)'
    original = Row(text).model()
    done = fold(original)
    assert done.operators == ["Weird", "Conv", "Conv"]
    np.testing.assert_array_equal(done.constant("w"), CONSTANTS["w"])  # acme.Weird reads it
    np.testing.assert_array_equal(done.constant("b"), CONSTANTS["b"])
    nodes = {node.output[0]: node for node in done.model.graph.node}
    assert nodes["a"] == original.graph.node[0]
    assert nodes["y"] == original.graph.node[3]


def test_another_domains_convolution_takes_nothing_up() -> None:
    done = fold(Row(f"d = acme.Conv(x, w, b) y = {B}(d, g, h, m, v)").model())
    assert not done.modified
    assert done.decision().reason is not None
    assert done.decision().reason.code == "UNKNOWN_OPERATOR"


# ------------------------------------------------------------------ names

TAKEN = {
    "a value": "t = Sigmoid(x) w_folded = Identity(t) d = Conv(x, w, b) e = Conv(w_folded, w, b)",
    "a node": "d = Conv(x, w, b) e = Conv(x2, w, b)",
    "an initializer": "d = Conv(x, w, b) i = Add(x, w_folded) e = Conv(i, w, b)",
    "an input": "d = Conv(x, w, b) e = Conv(w_folded, w, b)",
    "an output": "d = Conv(x, w, b) e = Conv(x2, w, b) w_folded = Sigmoid(e)",
    "a value of a nested body": (
        "d = Conv(x, w, b) e = Conv(x2, w, b) z = If(flag) <then_branch = t () => (float[N,C,H,W] p) "
        "{ w_folded = Sigmoid(x) p = Tanh(w_folded) }, else_branch = e () => (float[N,C,H,W] q) { q = Tanh(x) }>"
    ),
}


@pytest.mark.parametrize("name", TAKEN)
def test_a_new_constant_collides_with_nothing(name: str) -> None:
    outputs = {"an output": ("y", "w_folded"), "a value of a nested body": ("y", "z")}.get(name, ("y",))
    row = Row(
        f"{TAKEN[name]} n = {B}(d, g, h, m, v) y = Add(n, e)",
        {"w_folded": "float[N,3,6,7]"} if name == "an input" else None,
        {"w_folded": numbers(7, seed=3)} if name == "an initializer" else None,
        outputs,
    )
    original = row.model()
    if name == "a node":
        original.graph.node[0].name = "w_folded"
    done = fold(original)
    onnx.checker.check_model(done.model)
    assert "w_folded_1" in {tensor.name for tensor in done.model.graph.initializer}
    assert_same_function(original, done.model)
