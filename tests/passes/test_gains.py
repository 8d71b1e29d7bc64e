"""Constant gains and biases, which are no normalization, go into the linear operator right beside them."""

from collections.abc import Sequence

import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper

import bnfold
from bnfold.decisions import Action, Decision, Reason
from bnfold.graph import Model
from bnfold.onnxfile import read
from bnfold.passes import FoldBatchNorm, FoldBatchNormOptions, Preserves
from bnfold.pipeline import run_passes
from tests.fold_models import (
    Row,
    assert_same_function,
    assert_well_formed,
    batch_norm,
    check_folds,
    completing,
    fold,
    numbers,
)

_INPUTS = {"flat": "float[N,5]", "tokens": "float[N,7,5]", "one_map": "float[N,1,6,7]", "p": "float[N,4,6,7]"}
_CONSTANTS = {
    "one": numbers(seed=1),
    "one1": numbers(1, seed=2),
    "two1": numbers(1, seed=3),
    "c": numbers(4, 1, 1),
    "last": numbers(4),
    "m": numbers(1, 1, 1, 1, seed=4),
    "k": numbers(5, 4),
    "k45": numbers(4, 5),
    "k43": numbers(4, 3, seed=6),
    "h3": numbers(3, seed=7),
    "wt": numbers(3, 4, 2, 2),
    "w_one": numbers(2, 1, 3, 3),
    "u": numbers(5, 4, 1, 1),
    "u3": numbers(5, 4, 3, 3),
    "plane": numbers(1, 7, 4),
    "heads": np.array([0, 7, 2, 2], np.int64),
    "each": numbers(2, 1, 2, seed=11, low=0.5, high=2.0),
    "everywhere": numbers(2, 7, 2, seed=12, low=0.5, high=2.0),
    "half": np.array(0.5, np.float32),
    "root2": np.array(2**0.5, np.float32),
    "g5": numbers(5, low=0.5, high=2.0),
    "epsilon": np.array(1e-5, np.float32),
    "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64),
    "axis_last": np.array([-1], np.int64),
    **batch_norm(5, "_5"),
}


_row = completing(_INPUTS, _CONSTANTS)

FOLDS = {
    "a bias per channel behind Conv": ("d = Conv(x, w) y = Add(d, c)", "Conv"),
    "a bias per channel behind Conv that has one": ("d = Conv(x, w, b) y = Add(c, d)", "Conv"),
    "the same, subtracted": ("d = Conv<pads=[1,1,1,1]>(x, w, b) y = Sub(d, c)", "Conv"),
    "a bias behind ConvTranspose": ("d = ConvTranspose<strides=[2,2]>(x, wt) y = Add(d, c)", "ConvTranspose"),
    "a bias behind Gemm": ("d = Gemm(flat, k) y = Add(d, last)", "Gemm"),
    "a bias behind MatMul and Add": ("d = MatMul(tokens, k) e = Add(d, last) i = Identity(e) y = Add(i, last)",
                                     "MatMul Add Identity"),
    "two biases behind MatMul": ("d = MatMul(tokens, k) e = Add(d, last) y = Add(e, last)", "MatMul Add"),
    "a gain behind Conv": ("d = Conv(x, w) y = Mul(d, one)", "Conv"),
    "gain and bias of one number": ("d = Conv(x, w) e = Mul(one1, d) y = Add(e, two1)", "Conv"),
    "a division": ("d = Gemm(flat, k) y = Div(d, one)", "Gemm"),
    "a constant minus, and numbers behind": (
        "d = Conv(x, w, b) e = Sub(c, d) f = Add(e, one) g_ = Mul(f, one1) y = Conv(g_, u)", "Conv Conv",
    ),
    "a constant minus": ("d = Conv(x, w, b) y = Sub(c, d)", "Conv"),
    "a gain before a padded Conv": ("r = Sigmoid(p) n = Mul(r, one1) y = Conv<pads=[1,1,1,1]>(n, u3)", "Sigmoid Conv"),
    "a bias before a Conv": ("n = Add(p, one1) y = Conv(n, u3)", "Conv"),
    "a map of one channel before a Conv": ("n = Sub(one_map, m) e = Div(n, m) y = Conv(e, w_one)", "Conv"),
    "a bias before a MatMul that has one": ("n = Add(tokens, one) d = MatMul(n, k) y = Add(d, last)", "MatMul Add"),
    "a gain before a MatMul": ("n = Mul(tokens, one) y = MatMul(n, k)", "MatMul"),
    "the scale alone before a padded Conv": (
        "r = Sigmoid(p) n = Mul(r, one1) e = Add(n, two1) y = Conv<pads=[1,1,1,1]>(e, u3)", "Sigmoid Add Conv",
    ),
    "behind a Transpose": ("d = Conv(x, w) t = Transpose<perm=[0,2,3,1]>(d) y = Add(t, last)", "Conv Transpose"),
    "an Add of a whole plane is the bias of a MatMul": (
        "d = MatMul(tokens, k) e = Add(d, plane) i = Identity(e) y = Mul(i, one)", "MatMul Add Identity",
    ),
    "a gain for each head and feature": (
        ("d = MatMul(tokens, k) r = Reshape(d, heads) q = Transpose<perm=[0,2,1,3]>(r) s = Mul(q, each)"
        " y = Div(s, each)"),
        "MatMul Reshape Transpose",
    ),
    "one that divides": (
        "d = MatMul(tokens, k) r = Reshape(d, heads) q = Transpose<perm=[0,2,1,3]>(r) y = Div(q, each)",
        "MatMul Reshape Transpose",
    ),
    "a Gain behind each of two": (
        "d = Conv(x, w) e = Mul(d, one1) f = HardSwish(e) g_ = Mul(f, two1) y = Conv<pads=[1,1,1,1]>(g_, u3)",
        "Conv HardSwish Conv",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDS)
def test_goes_into_the_linear_operator(name: str) -> None:
    text, left = FOLDS[name]
    done = check_folds(_row(Row(text)), left)
    assert {decision.action for decision in done.decisions} == {Action.FOLDED}
    untouched = fold(_row(Row(text)).model(), FoldBatchNormOptions(bias_adds=False))
    assert not untouched.modified
    assert untouched.decisions or "each" in text
    assert {(each.is_gain_that_stays, each.reason) for each in untouched.decisions} <= {(True, Reason.KEPT_ON_REQUEST)}


# Each breaks one condition of a model that folds. What stays beside a linear operator has its decision.
LEFT_ALONE = {
    "its operator has another reader": Row("d = Conv(x, w) y = Add(d, c) z = Sigmoid(/x|d/)", outputs=("y", "z")),
    "its operator makes an output": Row("d = Conv(x, w) y = Add(d, c)", outputs=("y", "/y|d/")),
    "an activation between": Row("d = Conv(x, w) r = /Identity|Relu/(d) y = Mul(r, half)"),
    "a pooling between": Row("d = Conv(x, w) r = /Identity(d)|GlobalAveragePool(d)/ y = Mul(r, half)"),
    "the bias is computed": Row("d = Conv(x, w, /b|loose4/) y = Add(d, c)"),
    "the weight is computed": Row("d = Conv(x, /w|loose_w/) y = Mul(d, one)"),
    "a padded border": Row("n = Add(p, one1) y = Conv<pads=/[0,0,0,0]|[0,1,0,0]/>(n, u3)"),
    "MatMul has no bias": Row("d = MatMul(tokens, k) /e = Mul(d, one) y = Mul(e, one)|y = Add(d, last)/"),
    "c - x behind a MatMul": Row("d = MatMul(tokens, k) /y = Mul(d, one)|y = Sub(last, d)/"),
    "another axis": Row("d = Conv(x, w) y = Add(d, /c|row/)", constants={"row": numbers(5)}),
    "a constant chain that no linear operator stands beside": Row(
        "d = /MatMul(tokens, k)|Sigmoid(other)/ e = Add(d, plane) i = Identity(e) y = Add(i, one)",
        {"other": "float[N,7,4]"},
    ),
    "the scale of an attention's queries": Row(
        "d = MatMul(tokens, k) r = Reshape(d, heads) q = Transpose<perm=[0,2,1,3]>(r) s = Mul(q, half)"
        "y = /Relu(s)|MatMul(s, keys)/",
        {"keys": "float[N,2,2,7]"},
    ),
    "a gain for each head, position and feature": Row(
        "d = MatMul(tokens, k) r = Reshape(d, heads) q = Transpose<perm=[0,2,1,3]>(r) y = Mul(q, /each|everywhere/)"
    ),
    "a number for each head and feature divided": Row(
        "d = MatMul(tokens, k) r = Reshape(d, heads) q = Transpose<perm=[0,2,1,3]>(r) y = Div(/q, each|each, q/)"
    ),
    "the end of a Gelu": Row(
        "a = Div(tokens, root2) e = Erf(a) f = Add(e, one) g_ = /Sub|Mul/(tokens, f) n = Mul(g_, half) y = MatMul(n, k)"
    ),
    "the bias of a LayerNormalization": Row(
        "m_ = ReduceMean(tokens, axis_last) d = Sub(tokens, m_) s = Mul(d, d) v_ = ReduceMean(s, axis_last)"
        "a = Add(v_, epsilon) r = Sqrt(a) n = /Add|Div/(d, r) e = Mul(n, g5) f = Add(e, h_5) y = MatMul(f, k)"
    ),
}

# Why those stay that a linear operator stands beside. Of the others nothing is said: they are no normalization.
REASONS = {
    "its operator has another reader": Reason.OTHER_CONSUMER,
    "its operator makes an output": Reason.VALUE_IS_OUTPUT,
    "the bias is computed": Reason.BIAS_NOT_CONSTANT,
    "the weight is computed": Reason.WEIGHT_NOT_CONSTANT,
    "a padded border": Reason.PADDED_BORDER,
    "another axis": Reason.WRONG_AXIS,
    "the scale of an attention's queries": Reason.PART_OF_A_PATTERN,
    "the end of a Gelu": Reason.PART_OF_A_PATTERN,
    "the bias of a LayerNormalization": Reason.PART_OF_A_PATTERN,
}


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_stays_where_it_is(name: str) -> None:
    row = _row(LEFT_ALONE[name])
    assert fold(row.good().model()).modified, "even without the difference"
    done = fold(row.bad().model())
    assert not done.modified, done.decisions
    expected = [REASONS[name]] if name in REASONS else []
    assert [each.reason for each in done.decisions] == expected
    assert all(each.is_gain_that_stays for each in done.decisions)


def test_the_decision_says_what_it_was() -> None:
    decision = fold(_row(Row("d = Conv(x, w) e = Mul(d, one) y = Add(e, c)")).model()).decision()
    assert (decision.node, decision.op_type, decision.target) == ("e", "Mul+Add", ("d",))
    assert decision.detail == "a gain or bias beside a linear operator"


STAYS = {
    Reason.KEPT_ON_REQUEST: FoldBatchNormOptions(keep=("y",)),
    Reason.ROLLED_BACK: FoldBatchNormOptions(forbidden=frozenset({("", "y")})),
}


@pytest.mark.parametrize("reason", STAYS)
def test_one_that_is_to_stay_stays(reason: Reason) -> None:
    done = fold(_row(Row("d = Conv(x, w) y = Add(d, c)")).model(), STAYS[reason])
    assert not done.modified
    assert (done.decision().reason, done.decision().gain) == (reason, True)


DOES_NOTHING = {
    "behind a Conv": "d = Conv(x, w) y = Add(d, zeros)",
    "behind a Conv, times one": "d = Conv(x, w) y = Mul(d, unit)",
    "in front of a padded Conv": "n = Add(p, zeros) y = Conv<pads=[1,1,1,1]>(n, u3)",
}
_NOTHING = {"zeros": np.zeros((4, 1, 1), np.float32), "unit": np.ones(1, np.float32)}


@pytest.mark.parametrize("name", DOES_NOTHING)
def test_one_that_does_nothing_goes(name: str) -> None:
    done = check_folds(_row(Row(DOES_NOTHING[name], constants=_NOTHING)), "Conv")
    assert done.decision().action is Action.FOLDED


def test_one_that_does_nothing_stays_where_nothing_linear_is_beside_it() -> None:
    done = fold(_row(Row("d = Sigmoid(p) e = Add(d, zeros) y = Relu(e)", constants=_NOTHING)).model())
    assert not done.modified
    assert done.decisions == ()


def test_one_that_a_caller_may_replace_stays() -> None:
    model = _row(Row("d = Conv(x, w) y = Add(d, c)")).model()
    model.graph.input.append(helper.make_tensor_value_info("c", TensorProto.FLOAT, [4, 1, 1]))
    done = fold(model)
    assert not done.modified
    assert (done.decision().reason, done.decision().gain) == (Reason.OVERRIDABLE_PARAMETER, True)


def test_a_longer_one_is_told_of_once() -> None:
    text = "d = Conv(x, w, b) e = Sub(c, d) f = Add(e, one) g_ = Mul(f, one1) y = Conv(g_, u)"
    done = fold(_row(Row(text)).model(), FoldBatchNormOptions(bias_adds=False))
    assert [each.op_type for each in done.decisions] == ["Sub+Add+Mul"]


def test_one_that_a_later_pass_removes_has_no_decision() -> None:
    class RemoveIt:
        name = "remove-it"
        preserves = Preserves.NOTHING

        def run(self, model: Model) -> list[Decision]:
            graph = model.graphs[0]
            node = next(each for each in graph.nodes() if each.output[0] == "e")
            graph.bypass(node, 0, toward_producer=False)
            return []

    text = "d = Conv(x, w) e = Mul(d, one) y = Relu(e)"
    keeping = FoldBatchNorm(FoldBatchNormOptions(bias_adds=False))
    for passes, expected in (([keeping], ["e"]), ([keeping, RemoveIt()], [])):
        model = Model(read(_row(Row(text)).model().SerializeToString()))
        assert [each.node for each in run_passes(model, passes)] == expected


def test_its_walk_is_told() -> None:
    model = _row(Row("d = Conv(x, w) y = Add(d, c)")).model()
    walk = fold(model, FoldBatchNormOptions(explain="y")).decision().walk
    assert walk == ("into the operators before it:", "  d (Conv) takes it up")


def test_optimize_publishes_it_proved() -> None:
    model = _row(Row(FOLDS["a Gain behind each of two"][0])).model()
    result = bnfold.optimize(model, proof="always")
    assert result.report.verdict == "equivalent"
    assert {proof["standing"] for proof in result.report.verification["proofs"]} == {"holds"}
    assert len(bnfold.optimize(model, bias_adds=False).model.graph.node) == len(model.graph.node)


# ------------------------------------------------------------------ Scaler


def _scaled(
    offset: Sequence[float], scale: Sequence[float], *, shape: Sequence[int | str] = ("N", 5), dtype: int = 1
) -> ModelProto:
    """Scaler, MatMul and Add, as scikit-learn's converters write a pipeline."""
    row = _row(Row("a = Identity(z) d = MatMul(a, k) y = Add(d, last)", {"z": f"float[{','.join(map(str, shape))}]"}))
    model = row.model()
    model.graph.node[0].CopyFrom(
        helper.make_node("Scaler", ["z"], ["a"], domain="ai.onnx.ml", offset=offset, scale=scale)
    )
    model.graph.input[0].type.tensor_type.elem_type = dtype
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    return model


@pytest.mark.parametrize("numbers_", [([0.5, 2, -1, 0.25, 3], [1, 0.5, 3, 0.25, 2]), ([0.5], [2.0])])
def test_a_scaler_goes_into_what_follows(numbers_: tuple[list[float], list[float]]) -> None:
    model = _scaled(*numbers_)
    done = fold(model)
    assert done.operators == ["MatMul", "Add"]
    assert done.decision().op_type == "Scaler"
    assert_well_formed(model, done.model)
    assert_same_function(model, done.model)


def test_a_scaler_of_one_number_has_no_axis() -> None:
    model = _scaled([0.5], [2.0], shape=("N", 7, 5))
    done = fold(model)
    assert done.operators == ["MatMul", "Add"]
    assert_same_function(model, done.model)


SCALERS = {
    "PARAMETER_SHAPE": {"offset": [0.5] * 5, "scale": [2.0] * 4},
    "UNSUPPORTED_DTYPE": {"offset": [0.5] * 5, "scale": [2.0] * 5, "dtype": 11},
    "NOT_PER_CHANNEL": {"offset": [0.5] * 5, "scale": [2.0] * 5, "shape": ("N", 7, 5)},
}


@pytest.mark.parametrize("reason", SCALERS)
def test_a_scaler_that_is_no_map_stays(reason: str) -> None:
    assert not fold(_scaled(**SCALERS[reason])).modified  # type: ignore[arg-type]


def _into_a_linear_model(op_type: str, **attributes: object) -> ModelProto:
    """Scaler and a linear model of ai.onnx.ml, as scikit-learn's converters write a pipeline."""
    model = _scaled([0.5, 2, -1, 0.25, 3], [1, 0.5, 3, 0.25, 2])
    outputs = ["l", "y"] if op_type == "LinearClassifier" else ["y"]
    coefficients = numbers(3, 5, seed=9).reshape(-1).tolist()
    linear = helper.make_node(op_type, ["a"], outputs, domain="ai.onnx.ml", coefficients=coefficients, **attributes)
    del model.graph.node[1:]
    model.graph.node.append(linear)
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3]))
    return model


INTO_LINEAR_MODELS = {
    "a classifier": ("LinearClassifier", {"intercepts": [0.5, -0.5, 0.25], "classlabels_ints": [0, 1, 2]}),
    "its probabilities": (
        "LinearClassifier",
        {"intercepts": [0.5, -0.5, 0.25], "classlabels_strings": ["a", "b", "c"], "post_transform": "SOFTMAX"},
    ),
    "a regressor": ("LinearRegressor", {"intercepts": [0.5, -0.5, 0.25], "targets": 3}),
    "a regressor without intercepts": ("LinearRegressor", {"targets": 3}),
}


@pytest.mark.parametrize("name", INTO_LINEAR_MODELS)
def test_a_scaler_goes_into_a_linear_model(name: str) -> None:
    op_type, attributes = INTO_LINEAR_MODELS[name]
    model = _into_a_linear_model(op_type, **attributes)
    done = fold(model)
    assert done.operators == [op_type]
    assert done.decision().target == (done.model.graph.node[0].output[0],)
    made, expected = (_answers(each) for each in (done.model, model))
    for one, other in zip(made, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-6)
    assert bnfold.optimize(model).report.verdict == "equivalent"


def _answers(model: ModelProto) -> list[np.ndarray]:
    """What onnxruntime answers."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["y"], {"z": numbers(4, 5, seed=10)})


BESIDE_LINEAR_MODELS = {
    "WEIGHT_SHAPE": ("LinearClassifier", {"classlabels_ints": [0, 1, 2]}),  # the rows are counted by the intercepts
    "WEIGHT_SHAPE: coefficients": ("LinearRegressor", {"targets": 4}),
    "UNKNOWN_OPERATOR": ("SVMRegressor", {"n_supports": 3}),
}


@pytest.mark.parametrize("name", BESIDE_LINEAR_MODELS)
def test_a_scaler_stays_in_front_of_a_model_that_cannot_take_it_up(name: str) -> None:
    op_type, attributes = BESIDE_LINEAR_MODELS[name]
    done = fold(_into_a_linear_model(op_type, **attributes))
    assert not done.modified
    assert done.decision().reason.code == name.split(":")[0]  # type: ignore[union-attr]
