"""What is said of a model as a whole, and the words of decisions that people asked about."""

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper

import bnfold
from bnfold.decisions import Action, Decision, Reason
from bnfold.testing import build
from tests.fold_models import Row, batch_norm

N = "BatchNormalization"
CONSTANTS = {
    **batch_norm(4, ""),
    "g6": np.ones(7, np.float32),
    "axes": np.array([-1], np.int64),
    "two": np.float32(2),
    "eps": np.float32(1e-5),
    "scale_q": np.full(4, 100, np.int8),
    "small": np.float32(0.01),
    "no_point": np.int8(0),
    "k": np.array([2.0, 0.0, 3.0, 0.5], np.float32).reshape(4, 1, 1),
    "k_up": np.array([2.0, 0.25, 3.0, 0.5], np.float32).reshape(4, 1, 1),
    "t": np.array([1.0, 2.0, 3.0, 4.0], np.float32).reshape(4, 1, 1),
    "w44": np.ones((4, 4, 1, 1), np.float32),
}
LAYER_NORM = "a = ReduceMean<axes=[-1]>(x) d = Sub(x, a) s = Pow(d, two) u = ReduceMean<axes=[-1]>(s) e = Add(u, eps)"
OTHERS = {
    "LayerNormalization": "y = LayerNormalization(x, g6)",
    "InstanceNormalization": "c = Conv(x, w, b) y = InstanceNormalization(c, g, h)",
    "LpNormalization": "y = LpNormalization(x)",
    "LRN": "y = LRN<size=3>(x)",
    "normalization written in operators": f"{LAYER_NORM} r = Sqrt(e) y = Div(d, r)",
}


def model_of(text: str, **more: object) -> ModelProto:
    return Row(text, constants=CONSTANTS, **more).model()  # type: ignore[arg-type]


@pytest.mark.parametrize("name", OTHERS)
def test_a_model_without_batch_normalization_is_told_what_it_has(name: str) -> None:
    notes = bnfold.inspect(model_of(OTHERS[name])).notes
    assert f"The model has 1 {name}: they take mean or deviation from each input anew" in notes[0]
    assert "PyTorch's exporters fold" in notes[1]


def test_a_model_without_any_is_told_where_they_may_have_gone() -> None:
    [note] = bnfold.optimize(model_of("c = Conv(x, w, b) y = Relu(c)")).report.notes
    assert "PyTorch's exporters fold" in note


def test_a_model_that_has_them_is_told_nothing() -> None:
    assert not bnfold.inspect(model_of(f"c = Conv(x, w, b) y = {N}(c, g, h, m, v)")).notes


def test_a_declaration_that_was_dropped_is_told() -> None:
    model = model_of("c = Conv(x, w, b) p = Mul(c, k_up) q = Add(p, t) y = Relu(q)")
    model.graph.value_info.append(helper.make_tensor_value_info("c", TensorProto.FLOAT, ["N", 9, 6, 7]))
    report = bnfold.optimize(model).report
    assert report.notes == ("What the file declared of 'c' contradicts what its operators make, and was dropped.",)


def test_quantized_parameters_are_told_by_optimize_too() -> None:
    text = (
        "c = Conv(x, w, b) q = QuantizeLinear(c, small, no_point) d = DequantizeLinear(q, small, no_point)"
        f" s = DequantizeLinear(scale_q, small, no_point) n = {N}(d, s, h, m, v)"
        " y = QuantizeLinear(n, small, no_point)"
    )
    report = bnfold.optimize(model_of(text)).report
    assert [
        each for each in report.notes if "[QUANTIZED_BEFORE_FOLDING]" in each and "Fold the float model first" in each
    ]


def _decisions(model: ModelProto) -> dict[str, Decision]:
    return {info.node: info.decision for info in bnfold.inspect(model).normalizations}


def test_messages_name_operators_and_values_of_the_input() -> None:
    """What is left of p is an Add that no file has yet."""
    text = (
        "c = Conv(x, w, b) p = Mul(c, k_up) q = Add(p, t) r = Relu(q) e = Conv(r, w44)"
        " s = Add(e, c) i = Mul(s, k) j = Add(i, t) o = Relu(j) y = Conv(o, w44)"
    )
    decisions = _decisions(model_of(text))
    assert (decisions["p"].action, decisions["p"].partly) == (Action.FOLDED, True)
    assert decisions["p"].outcome == "partly folded"
    detail = decisions["i"].detail
    assert "'c' is read by p" in detail
    assert "a scale of 0 in channel 1 at o" in detail
    inspection = bnfold.inspect(model_of(text))
    assert str(inspection).endswith("1 normalization would be partly folded, 1 kept")


def test_what_was_merged_says_what_stood_in_the_way() -> None:
    text = "r = Sigmoid(c4) n = Mul(r, k_up) p = Sub(n, t) q = Div(p, k_up) y = Sigmoid(q)"
    decision = _decisions(model_of(text, inputs={"c4": "float[N,4,6,7]"}))["n"]
    assert (decision.action, decision.reason) == (Action.MERGED, Reason.BARRIER)
    assert decision.detail == "before it: r is Sigmoid; behind it: y is Sigmoid"


def test_a_model_that_draws_random_numbers_is_said_to() -> None:
    inputs, constants = {"x": "float[2,3,4,5]"}, {"w": (4, 3, 1, 1)}
    made = build("n = RandomUniformLike(x) m = Mul(x, n) y = Conv(m, w)", inputs=inputs, constants=constants)
    assert any(
        "The model draws random numbers (1 RandomUniformLike), so each run answers otherwise" in note
        for note in (*bnfold.inspect(made).notes, *bnfold.optimize(made, verify=False).report.notes)
    )
    plain = build("y = Conv(x, w)", inputs=inputs, constants=constants)
    assert not any("random" in note for note in bnfold.optimize(plain).report.notes)
