"""freeze-batch-norm: what is frozen computes what evaluation asks for, and what must not be frozen stays as it is."""

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from bnfold.decisions import Action, Reason
from bnfold.graph import Model
from bnfold.onnxfile import read, to_proto
from bnfold.passes import FreezeBatchNorm, PassOptions, default_passes
from bnfold.pipeline import run_passes
from tests.fold_models import Folded, Row, batch_norm, numbers
from tests.oracle import evaluate

BN = "BatchNormalization"
T = f"{BN}<training_mode=1, epsilon=0.01>"
CONSTANTS = {
    "m0": np.zeros(4, np.float32),
    "v1": np.ones(4, np.float32),
    "ratio": np.float32(0.4),
    "yes": np.array(True),
    "v_negative": np.array([1, 1, -0.5, 1], np.float32),
    "back_axes": np.array([1, 2], np.int64),
    "in_row": np.array([1, 6, 6, 7], np.int64),
    "in_line": np.array([1, 6, 42], np.int64),
    "in_three": np.array([1, 3, 12, 7], np.int64),
    "in_one": np.array([1, 6, 1], np.int64),
    "flat_back": np.array([2, 3], np.int64),
    "w3": numbers(2, 4, 3),
    "w_integers": np.arange(24).reshape(2, 4, 3),
    "g_integers": np.arange(1, 5),
    "h_lone": numbers(1),
    "back": np.array([2, 3, 6, 7], np.int64),
    "sideways": np.array([3, 2, 6, 7], np.int64),
    **{f"{name}_twice": np.tile(array, 2) for name, array in batch_norm(3, "").items()},
    **batch_norm(6, "6"),
    "to_rows": np.array([1, 4, 27], np.int64),
    "from_rows": np.array([4, 3, 3, 3], np.int64),
    **{f"{name}_half": array.astype(np.float16) for name, array in batch_norm(4, "").items()},
}
INPUTS = {
    "c": "float[N,4,6,7]",
    "x": "float[N,3,6,7]",
    "p": "float[2,3,6,7]",
    "p2": "float[2,3]",
    "p_half": "float16[2,3,6,7]",
    "images": "float[2,3,H,W]",
    "flag": "bool",
    "g_in": "float[4]",
    "g_in6": "float[6]",
    "to": "int64[D]",
    "same": "int64[4]",
}
FEEDS = {
    "c": numbers(5, 4, 6, 7, seed=3),
    "x": numbers(5, 3, 6, 7, seed=4),
    "p": numbers(2, 3, 6, 7, seed=5),
    "p2": numbers(2, 3, seed=6),
    "images": numbers(2, 3, 6, 7, seed=7),
    "flag": np.array(True),
    "g_in6": numbers(6, seed=10),
    "to": np.array([2, 3, 6, 7]),
    "same": np.array([2, 3, 6, 7]),
}


def model_of(text: str, opset: int = 17, outputs: tuple[str, ...] = ("y",)) -> ModelProto:
    ir = 3 if opset < 7 else 9
    return Row(text, inputs=INPUTS, constants=CONSTANTS, outputs=outputs, opset=opset, ir=ir).model()


def freeze(model: ModelProto, *, fold: bool = False, **options: object) -> Folded:
    file = read(model)
    edited = Model(file)
    decisions = run_passes(edited, default_passes(PassOptions(freeze=True, fold=fold, **options)))  # type: ignore[arg-type]  # from a table
    return Folded(to_proto(file), decisions, edited.modified)


def difference(before: ModelProto, after: ModelProto) -> float:
    """Between evaluation semantics of what was and plain semantics of what is, relative to the largest value."""
    feeds = {value.name: FEEDS[value.name] for value in before.graph.input if value.name in FEEDS}
    old, new = evaluate(before, feeds, inference=True), evaluate(after, feeds)
    assert list(old) == list(new)
    assert all(old[name].shape == new[name].shape for name in old)
    return max(float(np.abs(old[name] - new[name]).max() / np.abs(old[name]).max()) for name in old)


def assert_valid(model: ModelProto) -> None:
    """The checker wants shapes of outputs, which shape inference does not give for every training mode."""
    checked = ModelProto()
    checked.CopyFrom(onnx.shape_inference.infer_shapes(model, strict_mode=True))
    bodies = [attribute.g for node in checked.graph.node for attribute in node.attribute if attribute.HasField("g")]
    for body in (checked.graph, *bodies):
        del body.value_info[:]
    for value in [value for body in (checked.graph, *bodies) for value in body.output]:
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
        value.type.tensor_type.shape.SetInParent()
    onnx.checker.check_model(checked)


FREEZES = {
    "opset 6": (f"y = {BN}(c, g, h, m, v)", 6),
    "opset 6, is_test 0, five outputs": (f"y, a, b, d, e = {BN}<is_test=0>(c, g, h, m, v)", 6),
    "opset 7, five outputs": (f"y, a, b, d, e = {BN}(c, g, h, m, v)", 7),
    "opset 9, four outputs": (f"y, a, b, d = {BN}(c, g, h, m, v)", 9),
    "opset 13, five outputs": (f"y, a, b, d, e = {BN}<epsilon=0.01>(c, g, h, m, v)", 13),
    "opset 14, one output": (f"y = {T}(c, g, h, m, v)", 14),
    "opset 15, two outputs": (f"y, a = {T}(c, g, h, m, v)", 15),
    "opset 22, three outputs": (f"y, a, b = {T}(c, g, h, m, v)", 22),
    "parameters behind Identity": (f"i = Identity(m) y, a, b = {T}(c, g, h, i, v)", 17),
    "in a body": (
        (
            f"y = If(flag)<then_branch = t () => (s) {{ s, a, b = {T}(c, g, h, m, v) }}, "
            "else_branch = e () => (q) { q = Relu(c) }>"
        ),
        17,
    ),
}


@pytest.mark.parametrize("name", FREEZES)
def test_frozen(name: str) -> None:
    text, opset = FREEZES[name]
    before = model_of(text, opset)
    result = freeze(before)
    assert [decision.action for decision in result.decisions] == [Action.FROZEN]
    assert result.every_operator.count(BN) == 1
    feeds = {"flag": np.array(True)} if "flag" in text else {}
    old = evaluate(before, {"c": FEEDS["c"], **feeds}, inference=True)["y"]
    np.testing.assert_allclose(evaluate(result.model, {"c": FEEDS["c"], **feeds})["y"], old, rtol=1e-12)
    batch = evaluate(before, {"c": FEEDS["c"], **feeds})["y"]
    assert np.abs(batch - old).max() > 0.1, "or this test cannot tell the modes apart"
    assert result.model.ir_version == before.ir_version
    assert list(result.model.opset_import) == list(before.opset_import)
    assert list(result.model.graph.initializer) == list(before.graph.initializer)
    assert_valid(result.model)


def test_a_frozen_normalization_is_folded_next_and_both_are_said() -> None:
    result = freeze(model_of(f"k = Conv(x, w, b) y, a, b2 = {T}(k, g, h, m, v)"), fold=True)
    assert result.operators == ["Conv"]
    decision = result.decision()
    assert (decision.action, decision.target) == (Action.FOLDED, ("k",))
    assert decision.detail == "its stored statistics were frozen first"


def test_a_frozen_normalization_that_cannot_be_folded_says_why() -> None:
    result = freeze(model_of(f"k = Tanh(c) y, a, b = {T}(k, g, h, m, v)"), fold=True)
    decision = result.decision()
    assert (decision.action, decision.reason) == (Action.FROZEN, Reason.BARRIER)


LEFT_ALONE = {   # the second of each pair breaks exactly one precondition of the first
    "INITIAL_STATISTICS": (f"y = {T}(c, g, h, m0, v)", f"y = {T}(c, g, h, m0, v1)"),
    "STATISTICS_READ": (
        f"y, a, b = {T}(c, g, h, m, v)",
        f"z, a, b = {T}(c, g, h, m, v) f = Unsqueeze(a, back_axes) y = Add(z, f)",
    ),
    "PARAMETER_NOT_CONSTANT": (f"y = {T}(c, g, h, m, v)", f"y = {T}(c, g_in, h, m, v)"),
    "NOT_FINITE": (f"y = {T}(c, g, h, m, v)", f"y = {T}(c, g, h, m, v_negative)"),
    "BATCH_STATISTICS": (
        f"y = {T}(c, g, h, m, v)",
        ("n = ReduceMean<axes=[0,2,3], keepdims=0>(c) o = Mul(c, c) u = ReduceMean<axes=[0,2,3], keepdims=0>(o) "
        f"y = {T}(c, g, h, n, u)"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("code", LEFT_ALONE)
def test_left_alone(code: str) -> None:
    good, bad = LEFT_ALONE[code]
    assert freeze(model_of(good)).decision().action is Action.FROZEN
    before = model_of(bad)
    result = freeze(before)
    assert (result.decision().action, result.decision().reason) == (Action.KEPT, Reason[code])
    assert result.model == before
    assert not result.modified


@pytest.mark.parametrize("which", ["a", "b"])
def test_statistics_that_are_an_output_keep_training_mode(which: str) -> None:
    before = model_of(f"y, a, b = {T}(c, g, h, m, v)", outputs=("y", which))
    result = freeze(before)
    assert result.decision().reason is Reason.STATISTICS_READ
    assert result.model == before


MALFORMED = {"four operands": ("input", 4), "no data": ("input", 0), "no output": ("output", 0)}


@pytest.mark.parametrize("name", MALFORMED)
@pytest.mark.parametrize("data", ["c", "w3"])
def test_what_lacks_an_operand_is_left_alone(name: str, data: str) -> None:
    """Constant data is a kind of its own, unless the rest is missing."""
    before = model_of(f"k = {T}(data, g, h, m, v) y = Relu(c)".replace("data", data))
    field, first = MALFORMED[name]
    del getattr(before.graph.node[0], field)[first:]
    result = freeze(before)
    assert (result.decision().action, result.decision().reason) == (Action.KEPT, Reason.MALFORMED)
    assert result.model == before
    assert not result.modified


@pytest.mark.parametrize("operator", ["Mul(c, c)", "Div(c, c)", f"acme.{BN}(c, g, h, m, v)", "acme.Dropout(c)"])
def test_other_operators_have_no_training_mode(operator: str) -> None:
    """At opset 6, where a BatchNormalization or Dropout without attributes trains."""
    before = model_of(f"y = {operator}", 6)
    result = freeze(before)
    assert result.decisions == ()
    assert result.model == before


def test_batch_statistics_in_operators_are_told() -> None:
    text = "a = ReduceMean<axes=[0,2,3]>(c) d = Sub(c, a) e = Mul(d, d) f = ReduceMean<axes=[0,2,3]>(e) r = Sqrt(f) "
    before = model_of(f"{text} y = Div(d, r)")
    result = freeze(before)
    decision = result.decision()
    assert (decision.node, decision.op_type) == ("y", "Sub+Div")
    assert (decision.action, decision.reason) == (Action.KEPT, Reason.BATCH_STATISTICS)
    assert result.model == before


# Statistics that are computed: the first of each pair are those of the batch, the second are not quite.
_MEAN = "n = ReduceMean<axes=[0,2,3], keepdims=0>(c) a = ReduceMean<axes=[0,2,3]>(c) d = Sub(c, a) e = Mul(d, d) "
_LAST = "r = Reshape(c, flat) t = Transpose<perm=[0,2,1]>(r) "
COMPUTED = {
    "over the axes": _MEAN + "u = ReduceMean<axes=[0,2,3], keepdims=0>(e)",
    "as TorchScript writes it": f"{_LAST} n = ReduceMean<axes=[0,1], keepdims=0>(t) a = ReduceMean<axes=[0,1]>(t)"
    " d = Sub(t, a) e = Mul(d, d) u = ReduceMean<axes=[0,1], keepdims=0>(e)",
    "behind Casts": f"{_MEAN} o = Cast<to=11>(e) i = ReduceMean<axes=[0,2,3], keepdims=0>(o) u = Cast<to=1>(i)",
}
NOT_QUITE = {
    "a difference of squares, which rounds": "n = ReduceMean<axes=[0,2,3], keepdims=0>(c) s = Mul(c, c)"
    " q = ReduceMean<axes=[0,2,3], keepdims=0>(s) p = Mul(n, n) u = Sub(q, p)",
    "behind a Cast that rounds": f"{_MEAN} o = Cast<to=10>(e) i = Cast<to=1>(o)"
    " u = ReduceMean<axes=[0,2,3], keepdims=0>(i)",
    "behind a Cast to integers": f"{_MEAN} o = Cast<to=6>(e) i = Cast<to=1>(o)"
    " u = ReduceMean<axes=[0,2,3], keepdims=0>(i)",
    "an unbiased variance": f"{_MEAN} w_ = ReduceMean<axes=[0,2,3], keepdims=0>(e) u = Mul(w_, unbiased)",
    "a sum over a fixed number": f"{_MEAN} w_ = ReduceSum(e, all_axes) i = Squeeze(w_, all_axes) u = Div(i, count)",
    "about another centre": "n = ReduceMean<axes=[0,2,3], keepdims=0>(c) a = Mul(c, unbiased) d = Sub(c, a)"
    " e = Mul(d, d) u = ReduceMean<axes=[0,2,3], keepdims=0>(e)",
    "an average of absolute values": f"{_MEAN} o = Abs(d) u = ReduceMean<axes=[0,2,3], keepdims=0>(o)",
}
_COMPUTED_CONSTANTS = {
    **CONSTANTS,
    "flat": np.array([0, 4, -1], np.int64),
    "unbiased": np.float32(1.25),
    "all_axes": np.array([0, 2, 3], np.int64),
    "count": np.float32(84),
}


def _with_computed(text: str) -> ModelProto:
    return Row(f"{text} y = {T}(c, g, h, n, u)", INPUTS, _COMPUTED_CONSTANTS, opset=17).model()


@pytest.mark.parametrize("name", COMPUTED)
def test_statistics_of_the_batch_are_read_in_inference_mode(name: str) -> None:
    before = _with_computed(COMPUTED[name])
    result = freeze(before)
    assert (result.decision().action, result.decision().reason) == (Action.KEPT, Reason.BATCH_STATISTICS)
    node = result.model.graph.node[-1]
    assert [(each.name, each.i) for each in node.attribute if each.name == "training_mode"] == [("training_mode", 0)]
    feeds = {"c": FEEDS["c"]}
    np.testing.assert_allclose(evaluate(result.model, feeds)["y"], evaluate(before, feeds)["y"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NOT_QUITE)
def test_other_statistics_stay_in_training_mode(name: str) -> None:
    before = _with_computed(NOT_QUITE[name])
    result = freeze(before)
    assert not result.modified
    assert result.model == before


def test_spatial_zero_is_left_alone() -> None:
    assert (
        freeze(model_of(f"y, a, b, d, e = {BN}<spatial=0>(c, g, h, m, v)", 7)).decision().reason is Reason.SPATIAL_ZERO
    )


def test_initial_statistics_can_be_accepted() -> None:
    before = model_of(f"y = {T}(c, g, h, m0, v1)")
    result = freeze(before, accept_initial_statistics=True)
    assert result.decision().action is Action.FROZEN
    assert difference(before, result.model) < 1e-12


def test_what_is_kept_on_request_stays_in_training_mode() -> None:
    before = model_of(f"k = {T}(c, g, h, m, v) y = Dropout(k, ratio, yes)")
    result = freeze(before, keep=("k", "y"))
    assert {decision.reason for decision in result.decisions} == {Reason.KEPT_ON_REQUEST}
    assert result.model == before


def test_an_overridable_statistic_is_not_frozen() -> None:
    before = model_of(f"y = {T}(c, g, h, m, v)")
    before.graph.input.append(onnx.helper.make_tensor_value_info("m", 1, [4]))
    assert freeze(before).decision().reason is Reason.OVERRIDABLE_PARAMETER


# ---------------------------------------------------------------------- constant data


def test_constant_data_is_evaluated_and_then_folded() -> None:
    """Weight standardization: the weights of a Conv are normalized, as one row with a channel for each filter."""
    text = (
        f"r = Reshape(w, to_rows) n, a, d = {T}(r, g, h, m0, v1) s = Reshape(n, from_rows) k = Conv(x, s, b) "
        f"y = {BN}(k, g, h, m, v)"
    )
    before = model_of(text)
    result = freeze(before, fold=True)
    assert result.operators == ["Conv"]
    evaluated = result.decision("n")
    assert (evaluated.action, evaluated.detail) == (Action.FOLDED, "its data is constant, so it was evaluated")
    truth = evaluate(before, {"x": FEEDS["x"]})["y"]
    np.testing.assert_allclose(evaluate(result.model, {"x": FEEDS["x"]})["y"], truth, atol=1e-5)


ON_CONSTANTS = {  # the second of each pair breaks exactly one precondition of the first
    "PARAMETER_NOT_CONSTANT: scale": ("w3, g, h", "w3, g_in, h", 17),
    "PARAMETER_NOT_CONSTANT: B": ("w3, g, h", "w3, g, g_in", 17),
    "PARAMETER_SHAPE: scale": ("w3, g, h", "w3, g3, h", 17),
    "PARAMETER_SHAPE: scale and B": ("w3, g, h", "w3, g3, h3", 17),
    "PARAMETER_SHAPE: one number for B": ("w3, g, h", "w3, g, h_lone", 17),
    "PARAMETER_SHAPE: data of one dim": ("w3, g, h", "g, g, h", 17),
    "UNSUPPORTED_DTYPE: data": ("w3, g, h", "w_integers, g, h", 17),
    "UNSUPPORTED_DTYPE: scale": ("w3, g, h", "w3, g_integers, h", 17),
    "UNSUPPORTED_DTYPE: B": ("w3, g, h", "w3, g, g_integers", 17),
    "SPATIAL_ZERO": ("w3, g, h", "w3, g, h", 7),
}


@pytest.mark.parametrize("name", ON_CONSTANTS)
def test_constant_data_that_is_left_alone(name: str) -> None:
    good, bad, opset = ON_CONSTANTS[name]
    if opset == 7:
        text = f"n, a1, a2, a3, a4 = {BN}<spatial=/1|0/>({{}}, m, v) y = Relu(n)"
    else:
        text = f"n = {T}({{}}, m, v) y = Relu(n)"
    first, second = text.replace("/1|0/", "1").format(good), text.replace("/1|0/", "0").format(bad)
    assert freeze(model_of(first, opset)).decision().action is Action.FOLDED
    before = model_of(second, opset)
    result = freeze(before)
    assert (result.decision().action, result.decision().reason) == (Action.KEPT, Reason[name.split(":")[0]])
    assert result.model == before


def test_constant_data_that_is_an_output_is_left_alone() -> None:
    result = freeze(model_of(f"r = Reshape(w, to_rows) y = {T}(r, g, h, m, v)"))
    assert result.decision().reason is Reason.VALUE_IS_OUTPUT
    assert not result.modified


# ---------------------------------------------------------------------- InstanceNorm between Reshapes


def wrapped(parameters: str, target: str = "back") -> str:
    return f"r = Reshape(p, in_row) n, a, b = {T}(r, {parameters}) y = Reshape(n, {target})"


def test_a_wrapped_instance_norm_becomes_one() -> None:
    before = model_of(wrapped("g_twice, h_twice, m_twice, v_twice"))
    result = freeze(before)
    assert result.operators == ["InstanceNormalization"]
    assert result.decision().action is Action.SUBSTITUTED
    # Another shape is another constant: a value_info of the old name would be wrong about it.
    assert list(result.model.graph.node[0].input) == ["p", "g_twice_once", "h_twice_once"]
    assert result.constant("g_twice_once").shape == (3,)
    assert {tensor.name for tensor in result.model.graph.initializer} == {"g_twice_once", "h_twice_once"}
    truth = evaluate(before, {"p": FEEDS["p"]})["y"]  # exactly: what training mode computes
    np.testing.assert_allclose(evaluate(result.model, {"p": FEEDS["p"]})["y"], truth, rtol=1e-12, atol=1e-12)
    assert_valid(result.model)


@pytest.mark.parametrize("case", [wrapped("g6, h6, m6, v6"), wrapped("g_twice, h_twice, m_twice, v_twice", "sideways")])
def test_where_the_reshapes_mean_more_they_stay(case: str) -> None:
    before = model_of(case)
    result = freeze(before)
    assert result.operators == ["Reshape", "InstanceNormalization", "Reshape"]
    truth = evaluate(before, {"p": FEEDS["p"]})["y"]
    np.testing.assert_allclose(evaluate(result.model, {"p": FEEDS["p"]})["y"], truth, rtol=1e-12, atol=1e-12)


RESHAPES_STAY = {  # operators left where the Reshapes do not go
    "read twice behind": (
        wrapped("g_twice, h_twice, m_twice, v_twice") + " u = Reshape(n, back) z = Neg(u)",
        ("y", "z"),
    ),
    "read in front": (wrapped("g_twice, h_twice, m_twice, v_twice") + " z = Neg(r)", ("y", "z")),
    "an output in front": (wrapped("g_twice, h_twice, m_twice, v_twice"), ("y", "r")),
    "a scale that does not repeat": (wrapped("g6, h_twice, m_twice, v_twice"), ("y",)),
    "a B that does not repeat": (wrapped("g_twice, h6, m_twice, v_twice"), ("y",)),
    "a scale that is computed": (wrapped("g_in6, h_twice, m_twice, v_twice"), ("y",)),
    "other channels": (wrapped("g3, h3, m3, v3").replace("in_row", "in_three"), ("y",)),
    "vectors": (wrapped("g_twice, h_twice, m_twice, v_twice", "flat_back").replace("p, in_row", "p2, in_one"), ("y",)),
    "a shape nobody knows": (
        "u = Reshape(p, to) " + wrapped("g_twice, h_twice, m_twice, v_twice", "to").replace("(p,", "(u,"),
        ("y",),
    ),
}


@pytest.mark.parametrize("name", RESHAPES_STAY)
def test_reshapes_that_do_more_than_move_the_rows_stay(name: str) -> None:
    text, outputs = RESHAPES_STAY[name]
    before = model_of(text, outputs=outputs)
    result = freeze(before)
    stayed = [
        "InstanceNormalization" if operator == BN else operator for operator in Folded(before, (), False).operators
    ]
    assert result.operators == stayed
    assert result.decision().action is Action.SUBSTITUTED
    feeds = {value.name: FEEDS[value.name] for value in before.graph.input}
    for output, truth in evaluate(before, feeds).items():
        np.testing.assert_allclose(evaluate(result.model, feeds)[output], truth, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("unknown", [(), (0,), (1,), (2, 3)])
def test_reshapes_go_where_the_shape_behind_is_known_to_be_that_in_front(unknown: tuple[int, ...]) -> None:
    """A dim that nobody knows need not be the same behind, or may be split between rows and channels otherwise.

    What is known is what the file says: beside an operator without operands onnx infers no shape.
    """
    before = model_of(wrapped("g_twice, h_twice, m_twice, v_twice", "same").replace("(p,", "(images,"))
    before.graph.node.add(op_type="Sum", output=["nothing"])
    for value in (before.graph.input[0], before.graph.output[0]):
        value.type.CopyFrom(onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, [2, 3, "H", "W"]))
        for axis in unknown:
            value.type.tensor_type.shape.dim[axis].Clear()
    result = freeze(before)
    assert ("Reshape" in result.operators) is bool(unknown)
    for model in (before, result.model):
        del model.graph.node[-1]
    feeds = {name: FEEDS[name] for name in ("images", "same")}
    truth = evaluate(before, feeds)["y"]
    np.testing.assert_allclose(evaluate(result.model, feeds)["y"], truth, rtol=1e-12, atol=1e-12)


def test_reshapes_go_whatever_the_number_of_dims_between_them() -> None:
    before = model_of(wrapped("g_twice, h_twice, m_twice, v_twice").replace("in_row", "in_line"))
    result = freeze(before)
    assert result.operators == ["InstanceNormalization"]
    truth = evaluate(before, {"p": FEEDS["p"]})["y"]
    np.testing.assert_allclose(evaluate(result.model, {"p": FEEDS["p"]})["y"], truth, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("outside", ["front", "behind"])
def test_a_reshape_in_another_scope_stays(outside: str) -> None:
    reshape, rest = "r = Reshape(p, in_row)", f"n = {T}(r, g_twice, h_twice, m_twice, v_twice)"
    before, inside = (
        (reshape, f"{rest} s = Reshape(n, back)")
        if outside == "front"
        else (f"{reshape} {rest}", "s = Reshape(n, back)")
    )
    model = model_of(
        f"{before} y = If(flag) <then_branch = t () => (float[2,3,6,7] s) {{ {inside} }}, "
        "else_branch = e () => (float[2,3,6,7] q) { q = Relu(p) }>"
    )
    result = freeze(model)
    assert result.every_operator.count("Reshape") == 2
    assert result.every_operator.count("InstanceNormalization") == 1
    feeds = {"p": FEEDS["p"], "flag": np.array(True)}
    np.testing.assert_allclose(evaluate(result.model, feeds)["y"], evaluate(model, feeds)["y"], rtol=1e-12, atol=1e-12)


def test_a_reshape_behind_that_makes_nothing_stays() -> None:
    before = model_of(wrapped("g_twice, h_twice, m_twice, v_twice") + " z = Relu(p)", outputs=("z", "y"))
    del before.graph.output[1:]
    del before.graph.node[2].output[:]
    assert freeze(before).operators == ["Reshape", "InstanceNormalization", "Reshape", "Relu"]


WRAPPED_LEFT_ALONE = {
    "OLD_OPSET": (
        (
            f"r = Reshape<shape=[1,6,6,7]>(p) n = {BN}<consumed_inputs=[0,0,0,1,1]>(r, g6, h6, m6, v6) "
            "y = Reshape<shape=[2,3,6,7]>(n)"
        ),
        4,
    ),
    "UNSUPPORTED_DTYPE": (wrapped("g6, h6, m6, v6").replace("(p,", "(p_half,"), 17),
}


@pytest.mark.parametrize("code", WRAPPED_LEFT_ALONE)
def test_a_wrapped_instance_norm_that_is_left_alone(code: str) -> None:
    text, opset = WRAPPED_LEFT_ALONE[code]
    before = model_of(text, opset)
    result = freeze(before)
    assert (result.decision().action, result.decision().reason) == (Action.KEPT, Reason[code])
    assert result.model == before


def test_statistics_of_a_wrapped_instance_norm_that_are_read() -> None:
    before = model_of(wrapped("g6, h6, m6, v6"), outputs=("y", "a"))
    assert freeze(before).decision().reason is Reason.STATISTICS_READ


# ---------------------------------------------------------------------- Dropout


DROPOUTS = {
    "between": ("k = Relu(c) d = Dropout(k, ratio, yes) y = Neg(d)", 17, ["Relu", "Neg"]),
    "at the end": ("k = Relu(c) y, mask = Dropout(k, ratio, yes)", 17, ["Relu"]),
    "at the beginning": ("k = Dropout(c, ratio, yes) y = Relu(k)", 17, ["Relu"]),
    "opset 6": ("k = Dropout<ratio=0.4>(c) y = Relu(k)", 6, ["Relu"]),
    "read twice": ("r = Relu(c) k = Dropout(r, ratio, yes) q = Neg(k) y = Add(k, q)", 17, ["Relu", "Neg", "Add"]),
    "from input to output": ("y = Dropout(c, ratio, yes)", 17, ["Dropout"]),
    "from input to output, opset 6": ("y = Dropout(c)", 6, ["Dropout"]),
}


@pytest.mark.parametrize("name", DROPOUTS)
def test_dropout_lets_everything_through(name: str) -> None:
    text, opset, operators = DROPOUTS[name]
    before = model_of(text, opset)
    result = freeze(before)
    assert result.operators == operators
    assert result.decision().action is (Action.FROZEN if "Dropout" in operators else Action.REMOVED)
    feeds = {"c": FEEDS["c"]}
    expected = evaluate(before, feeds, inference=True)["y"]
    for _ in range(2):  # were it still random, one of them would differ
        np.testing.assert_array_equal(evaluate(result.model, feeds)["y"], expected)
    assert_valid(result.model)


def test_a_mask_that_is_read_becomes_all_true() -> None:
    before = model_of("k, mask = Dropout(c, ratio, yes) f = Cast<to=1>(mask) y = Add(k, f)")
    result = freeze(before)
    assert result.decision().action is Action.FROZEN
    np.testing.assert_allclose(evaluate(result.model, {"c": FEEDS["c"]})["y"], FEEDS["c"].astype(np.float64) + 1)


@pytest.mark.parametrize(("field", "left"), [("input", []), ("output", []), ("output", ["", "mask"])])
@pytest.mark.parametrize("opset", [6, 17])
def test_dropout_that_lacks_its_operand_is_left_alone(field: str, left: list[str], opset: int) -> None:
    before = model_of(f"k, mask = Dropout({'c' if opset == 6 else 'c, ratio, yes'}) y = Relu(c)", opset)
    del getattr(before.graph.node[0], field)[:]
    getattr(before.graph.node[0], field).extend(left)
    result = freeze(before)
    assert result.decisions == ()
    assert result.model == before


def test_dropout_is_kept_on_request() -> None:
    before = model_of(f"k = {T}(c, g, h, m, v) y = Dropout(k, ratio, yes)")
    result = freeze(before, keep_dropout=True)
    assert [(d.action, d.reason) for d in result.decisions] == [
        (Action.FROZEN, None),
        (Action.KEPT, Reason.KEPT_ON_REQUEST),
    ]
    assert result.operators == [BN, "Dropout"]


def test_dropout_decided_by_an_input_is_left_alone() -> None:
    before = model_of("y = Dropout(c, ratio, flag)")
    result = freeze(before)
    assert result.decision().reason is Reason.DECIDED_AT_RUN_TIME
    assert result.model == before


# ---------------------------------------------------------------------- the pass as a whole


def test_a_model_in_inference_mode_is_not_touched() -> None:
    before = model_of(f"k = {BN}(c, g, h, m, v) d = Dropout(k, ratio) y = Relu(d)")
    file = read(before)
    model = Model(file)
    assert FreezeBatchNorm().run(model) == []
    assert not model.modified
    assert to_proto(file) == before


def test_the_pass_has_options_of_its_own() -> None:
    model = Model(read(model_of(f"k = {T}(c, g, h, m, v) y = Dropout(k, ratio, yes)")))
    assert [decision.action for decision in FreezeBatchNorm().run(model)] == [Action.FROZEN, Action.REMOVED]


def test_freezing_twice_changes_nothing_more() -> None:
    once = freeze(model_of(f"k, a, b = {T}(c, g, h, m, v) y = Dropout(k, ratio, yes)")).model
    again = freeze(once)
    assert not again.modified
    assert again.decisions == ()
