"""No evaluator of constants is believed alone: what two that share nothing do not agree on is in dispute."""

from collections import Counter
from collections.abc import Callable, Hashable
from itertools import count, islice
from typing import Any

import numpy as np
import onnx.reference
import pytest
from onnx import ModelProto, parser

from bnfold.graph import Model, agree, operator_values
from bnfold.graph.operator_values import Call
from bnfold.graph.witness import objection
from bnfold.onnxfile import read
from tests.constant_expressions import GENERATORS, expression, proofs_verdict, told, verdict
from tests.fold_models import Row, check_left_alone, numbers

_AXES = {
    "a": numbers(4),
    "b": numbers(2, 3),
    "deep": numbers(2, 3, 1, 1),
    "from_": np.array([-1]),
    "to": np.array([-9]),
}


def _expressions(start: int, number: int) -> list[tuple[int, ModelProto]]:
    made = ((seed, expression(seed)) for seed in count(start))
    return list(islice(((seed, model) for seed, model in made if model is not None), number))


def _wrong(start: int, number: int) -> tuple[list[str], Counter[str]]:
    found: Counter[str] = Counter()
    wrong = []
    for seed, model in _expressions(start, number):
        answer, proofs = verdict(model), proofs_verdict(model)
        found[answer] += 1
        found[f"{proofs} by the proof"] += 1
        if "WRONG" in (answer, proofs):
            wrong.append(f"{seed}: fold: {answer}, proof: {proofs}: {told(model)}")
    return wrong, found


def test_what_is_believed_is_what_onnxruntime_computes() -> None:
    wrong, found = _wrong(0, 6 * len(GENERATORS))
    assert not wrong
    assert found["believed"] > 5 * len(GENERATORS), found
    assert found["believed by the proof"] > 5 * len(GENERATORS), found


@pytest.mark.soak
def test_soak_of_constant_expressions() -> None:
    wrong, _ = _wrong(1_000, 20_000)
    assert not wrong


# Where onnx.reference 1.23 is wrong, or has no answer: no value is believed, although ours follows the specification.
DISPUTED = {
    "Unsqueeze-11, negative axes": ("y = Unsqueeze<axes=[-2, -1]>(a)", 11),
    "Unsqueeze-12, a negative axis between": ("y = Unsqueeze<axes=[-3, -1]>(b)", 12),
    "Unsqueeze-7, unsorted": ("y = Unsqueeze<axes=[1, 0]>(a)", 7),
    "Slice-13, before the first element and back": ("y = Slice(a, to, to, from_, from_)", 13),
    "Shape-15, an end before the first dim": ("y = Shape<end=-6>(deep)", 15),
    "what is computed from one": ("u = Unsqueeze<axes=[-2, -1]>(a) y = Neg(u)", 11),
    "another operator of the same": ("u = Unsqueeze<axes=[-2, -1]>(a) v = Mul(u, u) y = Relu(v)", 11),
}


# What onnxruntime computes otherwise than the specification says, or where that says nothing: the proof has no value.
UNDEFINED = {
    "Slice backwards with an open end": ("y = Slice(b, from_, open, from_, from_)", 18),
    "the mean of nothing": ("y = ReduceMean<axes=[0]>(none)", 13),
    "the mean of nothing, axes as an input": ("y = ReduceMean(none, from_)", 18),
    "a product of integers that overflows": ("y = ReduceProd(large, from_)", 18),
    "a sum of integers that overflows": ("y = ReduceSum<axes=[0]>(large)", 11),
}


@pytest.mark.parametrize("name", UNDEFINED)
def test_what_is_undefined_is_no_constant_and_no_value_of_the_proof(name: str) -> None:
    text, opset = UNDEFINED[name]
    stored = {**_AXES, "open": np.array([(1 << 63) - 1]), "none": numbers(0)}
    stored["large"] = np.array([2_000_000_000, 2_000_000_000], np.int32)
    model = Row(text, None, stored, opset=opset).model()
    del model.graph.input[:]
    assert (verdict(model), proofs_verdict(model)) == ("no value", "no value")


@pytest.mark.parametrize("name", DISPUTED)
def test_a_dispute_is_no_constant(name: str) -> None:
    text, opset = DISPUTED[name]
    graph = Model(read(Row(text, None, _AXES, opset=opset).model().SerializeToString())).main
    assert graph.constant("y") is None
    assert graph.dispute("y") is not None


_VECTORS = [np.array([7, -1]), np.array([5])]
IN_ORDER = {
    "Unsqueeze": ("y = Unsqueeze(x, axes)", [np.array(5), np.array([0])], np.array([5])),
    "Squeeze": ("y = Squeeze(x, axes)", [np.array([[5, 6]]), np.array([0])], np.array([5, 6])),
    "Concat": ("y = Concat<axis=0>(x, z)", _VECTORS, np.array([7, -1, 5])),
}


@pytest.mark.parametrize("name", IN_ORDER)
def test_what_keeps_its_elements_in_order_needs_no_onnx_reference(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, operands, made = IN_ORDER[name]
    node = parser.parse_node(text)
    with monkeypatch.context() as without:
        without.setattr(onnx.reference, "ReferenceEvaluator", None)
        assert objection(node, operands, [made], 17) is None
        assert objection(node, operands, [made.reshape(1, -1, 1)], 17) is not None
        assert objection(node, operands, [made.astype(np.float32)], 17) is not None
        assert "cannot evaluate" in str(objection(node, operands, [made + 1], 17))
    assert objection(node, operands, [made + 1], 17) == "onnx.reference makes other numbers of it"


_FIRST = np.array([0])
PLAIN: dict[str, tuple[str, list[np.ndarray], np.ndarray]] = {
    "Unsqueeze": ("y = Unsqueeze(x, axes)", [np.array(5), _FIRST], np.array([5])),
    "Unsqueeze, from the back": ("y = Unsqueeze(x, axes)", [np.array(5), -1 - _FIRST], np.array([5])),
    "Concat": ("y = Concat<axis=0>(x, z)", _VECTORS, np.array([7, -1, 5])),
    "Concat, from the back": ("y = Concat<axis=-1>(x, z)", _VECTORS, np.array([7, -1, 5])),
}
# Each is no operator of the standard in one way, or takes a look at the shape.
NOT_PLAIN: dict[str, tuple[str, list[np.ndarray], np.ndarray]] = {
    "an axis that is not there": ("y = Unsqueeze(x, axes)", [np.array(5), _FIRST + 1], np.array([5])),
    "two axes": ("y = Unsqueeze(x, axes)", [np.array(5), np.array([0, 1])], np.array([5])),
    "axes of another type": ("y = Unsqueeze(x, axes)", [np.array(5), _FIRST.astype(np.int32)], np.array([5])),
    "no axes": ("y = Unsqueeze(x)", [np.array(5)], np.array([5])),
    "an attribute too many": ("y = Unsqueeze<axes=[0]>(x, axes)", [np.array(5), _FIRST], np.array([5])),
    "another type": ("y = Concat<axis=0>(x, z)", [np.array([7]), np.array([0], np.int32)], np.array([7])),
    "no axis": ("y = Concat(x, z)", _VECTORS, np.array([7, -1, 5])),
    "another axis": ("y = Concat<axis=1>(x, z)", _VECTORS, np.array([7, -1, 5])),
    "an axis of another type": ("y = Concat<axis=0.0>(x, z)", _VECTORS, np.array([7, -1, 5])),
    "an attribute of another name": ("y = Concat<axes=0>(x, z)", _VECTORS, np.array([7, -1, 5])),
    "another operator": ("y = Squeeze(x, axes)", [np.array([[5, 6]]), _FIRST], np.array([5, 6])),
}


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_vector_needs_no_schema(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, operands, made = PLAIN[name]
    monkeypatch.setattr(onnx.shape_inference, "infer_node_outputs", None)
    assert objection(parser.parse_node(text), operands, [made], 17) is None
    assert objection(parser.parse_node(text), operands, [made + 1], 17) is not None
    assert objection(parser.parse_node(text), operands, [made.reshape(1, -1)], 17) is not None


@pytest.mark.parametrize("name", NOT_PLAIN)
def test_what_is_no_plain_vector_is_looked_up(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, operands, made = NOT_PLAIN[name]
    monkeypatch.setattr(onnx.shape_inference, "infer_node_outputs", None)
    assert "shape inference refuses it" in str(objection(parser.parse_node(text), operands, [made], 17))


def test_one_array_agrees_with_itself_whatever_it_holds() -> None:
    values = np.array([[1, np.nan, -0.0], [np.inf, 2, 3]], np.float32)
    assert agree(values.T, values.T)
    assert agree(values, values.copy())
    assert not agree(values, values[:, ::-1])
    square = np.arange(4).reshape(2, 2)
    assert not agree(square, square.T)


def test_matrices_that_are_joined_are_not_in_order() -> None:
    node, rows = parser.parse_node("y = Concat<axis=1>(x, z)"), [np.array([[1], [2]]), np.array([[3], [4]])]
    assert objection(node, rows, [np.array([[1, 3], [2, 4]])], 17) is None
    assert objection(node, rows, [np.array([[1, 2], [3, 4]])], 17) == "onnx.reference makes other numbers of it"


def test_what_is_no_constant_is_not_in_dispute() -> None:
    graph = Model(read(Row("r = Relu(x) y = Add(r, a)", None, {"a": numbers(7)}).model().SerializeToString())).main
    assert graph.dispute("y") is None
    assert graph.dispute("a") is None
    assert graph.dispute("nobody") is None


_S = {"s": numbers(4), "t": numbers(4)}
LEFT_ALONE = {
    "CONSTANT_DISPUTED: a map of its own": Row(
        "c = Conv(x, w, b) u = Unsqueeze<axes=/[1, 2]|[-2, -1]/>(s) y = Mul(c, u)", None, _S, opset=11
    ),
    "CONSTANT_DISPUTED: a divisor": Row(
        "c = Conv(x, w, b) u = Unsqueeze<axes=/[1, 2]|[-2, -1]/>(s) y = Div(c, u)", None, _S, opset=11
    ),
    "CONSTANT_DISPUTED: a parameter": Row(
        "k = Unsqueeze<axes=/[1, 2]|[-2, -1]/>(g) l = Squeeze<axes=[1, 2]>(k) c = Conv(x, w, b)"
        " y = BatchNormalization(c, l, h, m, v)",
        opset=11,
    ),
    "CONSTANT_DISPUTED: the weight": Row(
        "k = Unsqueeze<axes=/[2, 3]|[-2, -1]/>(flat) c = Conv(x, k, b) y = BatchNormalization(c, g, h, m, v)",
        None,
        {"flat": numbers(4, 3)},
        opset=11,
    ),
    "CONSTANT_DISPUTED: the bias": Row(
        "k = Unsqueeze<axes=/[1, 2]|[-2, -1]/>(b) l = Squeeze<axes=[1, 2]>(k) c = Conv(x, w, l)"
        " y = BatchNormalization(c, g, h, m, v)",
        opset=11,
    ),
}


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_left_alone(name: str) -> None:
    check_left_alone(name.partition(":")[0], LEFT_ALONE[name])


def _instead(function: Callable[[np.ndarray], np.ndarray]) -> Callable[[Call], Any]:
    return lambda call: function(call.operand())


PLANTED: dict[str, tuple[str, int, Callable[[Call], Any]]] = {
    "another axis": ("y = Unsqueeze<axes=[1]>(a)", 12, _instead(lambda a: a.reshape(1, -1))),
    "another order": ("y = Transpose(b)", 18, _instead(lambda b: b.reshape(3, 2))),
    "another dtype": ("y = Identity(n)", 18, _instead(lambda n: n)),
    "another rounding": ("y = Exp(a)", 18, _instead(lambda a: np.exp(a).astype(np.float16).astype(np.float32))),
    "another shape": ("y = Flatten(b)", 18, _instead(lambda b: b.reshape(1, -1))),
    "another epsilon": ("y = Sqrt(p)", 18, _instead(lambda p: np.sqrt(p + np.float32(1e-3)))),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_a_dispute(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, opset, planted = PLANTED[name]
    stored = {**_AXES, "p": numbers(4, low=0.5), "n": numbers(4)}
    if name == "another dtype":
        text, planted = "z = Neg(n) y = Neg(z)", _instead(lambda n: -n.astype(np.float64))
    model = Row(text, None, stored, opset=opset).model()
    assert Model(read(model.SerializeToString())).main.constant("y") is not None
    monkeypatch.setitem(operator_values.OPERATORS, model.graph.node[0].op_type, planted)
    graph = Model(read(model.SerializeToString())).main
    assert graph.constant("y") is None
    assert graph.dispute("y") is not None


def test_the_same_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exporters repeat what computes sizes with each layer; another value, type, shape or operator is another thing."""
    asked: list[str] = []
    evaluator = onnx.reference.ReferenceEvaluator

    def counted(model: ModelProto) -> onnx.reference.ReferenceEvaluator:
        asked.append(model.graph.node[0].op_type)
        return evaluator(model)

    monkeypatch.setattr(onnx.reference, "ReferenceEvaluator", counted)
    opinions: dict[Hashable, str | None] = {}
    one, rows = np.array([1, 2]), np.array([[1, 2]])

    def opinion(text: str, operands: list[np.ndarray], made: np.ndarray) -> str | None:
        return objection(parser.parse_node(text), operands, [made], 17, None, opinions)

    for name in "abc":
        assert opinion(f"{name} = Add({name}1, {name}2)", [one, one], one + one) is None
    assert asked == ["Add"]
    assert "other numbers" in str(opinion("a = Add(b, c)", [one, one], one))
    assert opinion("a = Add(b, c)", [one, one + 1], one + one + 1) is None
    assert opinion("a = Add(b, c)", [one.astype(np.int32)] * 2, (one + one).astype(np.int32)) is None
    assert opinion("a = Add(b, c)", [rows, rows], rows + rows) is None
    assert opinion("a = Sub(b, c)", [rows, rows], rows - rows) is None
    assert len(asked) == 6
    of_a_number = np.broadcast_to(np.zeros((), np.float32), (300, 400))
    other = np.broadcast_to(np.zeros((), np.float32), (400, 300))
    assert opinion("a = Shape(b)", [of_a_number], np.array([300, 400])) is None
    assert "other numbers" in str(opinion("a = Shape(b)", [other], np.array([300, 400])))
