"""BatchNormalization read as a map: which form of the operator is one, and which is not."""

import numpy as np
import pytest

from bnfold.decisions import Action
from bnfold.graph import Model
from bnfold.onnxfile import read, to_proto
from bnfold.passes import FoldBatchNorm, FreezeBatchNorm
from bnfold.passes.normalization import Mode, describe, plain_affines, read_batch_norm
from bnfold.pipeline import run_passes
from tests.fold_models import CONSTANTS, Row, assert_same_function, check_folds, check_left_alone, fold, numbers

_N = "y = BatchNormalization"
_PARAMETERS = {
    "long_w": numbers(126, 4),
    "long_k": numbers(4, 126, 1),
    "g_row": CONSTANTS["g"].reshape(1, 4),
    "g_whole": CONSTANTS["g"].reshape(1, 4, 1, 1),
    "h_short": CONSTANTS["h"][:3],
    "m_long": numbers(5),
    "v_one": CONSTANTS["v"][:1],
    **{f"{name}_one": CONSTANTS[name][:1] for name in "ghm"},
    "w_one": numbers(1, 3, 3, 3),
    **{f"{name}_row": CONSTANTS[name].reshape(1, 4) for name in "hmv"},
    "g_integer": np.ones(4, np.int32),
    "v_zero": np.zeros(4, np.float32),
    "v_negative": np.array([1, 1, -1e-3, 1], np.float32),
    "v_slightly_negative": np.array([1, 1, -1e-6, 1], np.float32),
    "v_minus_epsilon": np.array([1, 1, -0.25, 1], np.float32),
    "v_nan": np.array([1, 1, np.nan, 1], np.float32),
    "v_infinite": np.array([1, 1, np.inf, 1], np.float32),
    "m_infinite": np.array([1, 1, -np.inf, 1], np.float32),
    "m_nan": np.array([1, 1, np.nan, 1], np.float32),
    "h_infinite": np.array([1, 1, np.inf, 1], np.float32),
    "h_nan": np.array([1, 1, np.nan, 1], np.float32),
    "g_nan": np.array([1, 1, np.nan, 1], np.float32),
    "g_infinite": np.array([np.inf, 1, 1, 1], np.float32),
    "shape4": np.array([4], np.int64),
    "no": np.array(False),
    "nothing": np.zeros(0, np.float32),
    "h_long": numbers(5, seed=1),
    "v_long": numbers(5, low=0.1),
}

FOLDS = {
    "default epsilon": Row(f"c = Conv(x, w, b) {_N}(c, g, h, m, v)"),
    "large epsilon": Row(f"c = Conv(x, w, b) {_N}<epsilon=0.5>(c, g, h, m, v)"),
    "epsilon zero": Row(f"c = Conv(x, w, b) {_N}<epsilon=0.0>(c, g, h, m, v)"),
    "variance zero": Row(f"c = Conv(x, w, b) {_N}<epsilon=0.1>(c, g, h, m, v_zero)"),
    "variance below zero by rounding": Row(f"c = Conv(x, w, b) {_N}<epsilon=0.1>(c, g, h, m, v_slightly_negative)"),
    "momentum means nothing": Row(f"c = Conv(x, w, b) {_N}<momentum=0.0>(c, g, h, m, v)"),
    "training_mode 0": Row(f"c = Conv(x, w, b) {_N}<training_mode=0>(c, g, h, m, v)"),
    "opset 6": Row(f"c = Conv(x, w, b) {_N}<is_test=1>(c, g, h, m, v)", opset=6),
    "opset 6, spatial": Row(f"c = Conv(x, w, b) {_N}<is_test=1, spatial=1>(c, g, h, m, v)", opset=6),
    "opset 7": Row(f"c = Conv(x, w, b) {_N}(c, g, h, m, v)", opset=7),
    "opset 8, spatial": Row(f"c = Conv(x, w, b) {_N}<spatial=1>(c, g, h, m, v)", opset=8),
    "opset 9": Row(f"c = Conv(x, w, b) {_N}(c, g, h, m, v)", opset=9),
    "opset 13": Row(f"c = Conv(x, w, b) {_N}(c, g, h, m, v)", opset=13),
    "opset 13, further outputs without a name": Row(
        'c = Conv(x, w, b) y, "", "", "", "" = BatchNormalization(c, g, h, m, v)', opset=13
    ),
    "opset 14": Row(f"c = Conv(x, w, b) {_N}(c, g, h, m, v)", opset=14),
    "opset 15": Row(f"c = Conv(x, w, b) {_N}(c, g, h, m, v)", opset=15),
    "opset 24": Row(f"c = Conv(x, w, b) {_N}(c, g, h, m, v)", opset=24, ir=10),
    "parameters behind Identity": Row(f"i = Identity(g) j = Identity(i) c = Conv(x, w, b) {_N}(c, j, h, m, v)"),
    "parameters from Constant": Row(
        f"k = Constant<value = float[4] {{1.0, 2.0, 3.0, 4.0}}>() c = Conv(x, w, b) {_N}(c, k, h, m, v)"
    ),
    "parameters from Constant floats": Row(
        f"k = Constant<value_floats = [1.0, 2.0, 3.0, 4.0]>() c = Conv(x, w, b) {_N}(c, k, h, m, v)"
    ),
    "parameters from ConstantOfShape": Row(
        f"k = ConstantOfShape<value = float[1] {{2.0}}>(shape4) c = Conv(x, w, b) {_N}(c, g, k, m, v)"
    ),
    "parameters from an expression": Row(f"k = Add(g, h) r = Sqrt(v) c = Conv(x, w, b) {_N}(c, k, h, m, r)"),
    "one channel": Row(f"c = Conv(x, w_one) {_N}(c, g_one, h_one, m_one, v_one)"),
    "one vector as every parameter": Row(f"c = Conv(x, w, b) {_N}(c, v, v, v, v)"),
}


@pytest.fixture(params=["one by one", "all at once"], autouse=True)
def _reading(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of plain ones are read by one array operation: with the same answers as one by one."""
    monkeypatch.setattr("bnfold.passes.normalization._WORTH_JOINING", 1 if request.param == "all at once" else 1000)


def test_spatial_zero_of_two_dims_folds() -> None:
    """There is one position, and both readings are the same."""
    row = Row(
        f"p = GlobalMaxPool(x) s = Flatten(p) c = Gemm(s, short_w, b) {_N}<spatial=0>(c, g, h, m, v)",
        constants={**_PARAMETERS, "short_w": numbers(3, 4)},
        opset=8,
    )
    check_folds(row, "GlobalMaxPool Flatten Gemm")


@pytest.mark.parametrize("name", FOLDS)
def test_folds(name: str) -> None:
    row = FOLDS[name]
    done = check_folds(Row(row.text, constants=_PARAMETERS, opset=row.opset, ir=row.ir), "Conv")
    assert done.decision().target == ("c",)
    assert done.decision().reason is None
    assert {tensor.name for tensor in done.model.graph.initializer} <= {"w", "b", "w_one", "c_folded"}


LEFT_ALONE = {
    "TRAIN_MODE: opset 6 by default": Row(f"c = Conv(x, w, b) {_N}</is_test=1|is_test=0/>(c, g, h, m, v)", opset=6),
    "TRAIN_MODE: opset 6 without the attribute": Row(
        f"c = Conv(x, w, b) {_N}</is_test=1|epsilon=1e-5/>(c, g, h, m, v)", opset=6
    ),
    "TRAIN_MODE: opset 7, five outputs": Row(
        "c = Conv(x, w, b) y/|, om, ov, sm, sv/ = BatchNormalization(c, g, h, m, v)", opset=7
    ),
    "TRAIN_MODE: opset 13, five outputs": Row(
        "c = Conv(x, w, b) y/|, om, ov, sm, sv/ = BatchNormalization(c, g, h, m, v)", opset=13
    ),
    "TRAIN_MODE: opset 13, one further output": Row(
        'c = Conv(x, w, b) y/|, "", ov/ = BatchNormalization(c, g, h, m, v)', opset=13
    ),
    "TRAIN_MODE: opset 14": Row(f"c = Conv(x, w, b) {_N}<training_mode=/0|1/>(c, g, h, m, v)", opset=14),
    "TRAIN_MODE: opset 18, three outputs": Row(
        "c = Conv(x, w, b) y/|, om, ov/ = BatchNormalization<training_mode=/0|1/>(c, g, h, m, v)"
    ),
    "SPATIAL_ZERO: opset 8": Row(f"c = Conv(x, w, b) {_N}<spatial=/1|0/>(c, g, h, m, v)", opset=8),
    "SPATIAL_ZERO: three dims": Row(
        f"r = Flatten(x) s = /Identity(r)|Unsqueeze<axes=[2]>(r)/ c = /Gemm(s, long_w, b)|Conv(s, long_k, b)/"
        f" {_N}<spatial=0>(c, g, h, m, v)",
        opset=8,
    ),
    "SPATIAL_ZERO: opset 6": Row(f"c = Conv(x, w, b) {_N}<is_test=1, spatial=/1|0/>(c, g, h, m, v)", opset=6),
    "SPATIAL_ZERO: opset 9, which has no such attribute": Row(
        f"c = Conv(x, w, b) {_N}<spatial=/1|0/>(c, g, h, m, v)", opset=9
    ),
    "MALFORMED: a parameter is missing": Row(f"c = Conv(x, w, b) {_N}(c, g, h, m/, v|/)"),
    "MALFORMED: a parameter is empty": Row(f'c = Conv(x, w, b) {_N}(c, g, /h|""/, m, v)'),
    "MALFORMED: statistics in inference mode": Row(
        "c = Conv(x, w, b) y/|, om, ov/ = BatchNormalization(c, g, h, m, v)"
    ),
    "PARAMETER_NOT_CONSTANT: scale": Row(f"c = Conv(x, w, b) {_N}(c, /g|loose4/, h, m, v)"),
    "PARAMETER_NOT_CONSTANT: B": Row(f"c = Conv(x, w, b) {_N}(c, g, /h|loose4/, m, v)"),
    "PARAMETER_NOT_CONSTANT: mean": Row(f"c = Conv(x, w, b) {_N}(c, g, h, /m|loose4/, v)"),
    "PARAMETER_NOT_CONSTANT: variance": Row(f"c = Conv(x, w, b) {_N}(c, g, h, m, /v|loose4/)"),
    "PARAMETER_NOT_CONSTANT: computed": Row(f"s = Add(g, /h|loose4/) c = Conv(x, w, b) {_N}(c, s, h, m, v)"),
    "PARAMETER_SHAPE: scale of rank 2": Row(f"c = Conv(x, w, b) {_N}(c, /g|g_row/, h, m, v)"),
    "PARAMETER_SHAPE: scale of rank 4": Row(f"c = Conv(x, w, b) {_N}(c, /g|g_whole/, h, m, v)"),
    "PARAMETER_SHAPE: all of rank 2": Row(f"c = Conv(x, w, b) {_N}(c, /g, h, m, v|g_row, h_row, m_row, v_row/)"),
    "UNSUPPORTED_DTYPE: integers": Row(f"c = Conv(x, w, b) {_N}(c, /g|g_integer/, h, m, v)"),
    "PARAMETER_SHAPE: B too short": Row(f"c = Conv(x, w, b) {_N}(c, g, /h|h_short/, m, v)"),
    "PARAMETER_SHAPE: mean too long": Row(f"c = Conv(x, w, b) {_N}(c, g, h, /m|m_long/, v)"),
    "PARAMETER_SHAPE: variance of one": Row(f"c = Conv(x, w, b) {_N}(c, g, h, m, /v|v_one/)"),
    "PARAMETER_SHAPE: B and mean too long": Row(f"c = Conv(x, w, b) {_N}(c, g, /h|h_long/, /m|m_long/, v)"),
    "PARAMETER_SHAPE: all but the scale too long": Row(
        f"c = Conv(x, w, b) {_N}(c, g, /h|h_long/, /m|m_long/, /v|v_long/)"
    ),
    "PARAMETER_SHAPE: all of one number on four channels": Row(
        f"c = Conv(x, w, b) {_N}(c, /g|g_one/, /h|h_one/, /m|m_one/, /v|v_one/)"
    ),
    "PARAMETER_SHAPE: all empty": Row(f"c = Conv(x, w, b) {_N}(c, /g|nothing/, /h|nothing/, /m|nothing/, /v|nothing/)"),
    "NOT_FINITE: variance + epsilon below 0": Row(f"c = Conv(x, w, b) {_N}(c, g, h, m, /v|v_negative/)"),
    "NOT_FINITE: variance + epsilon is 0": Row(
        f"c = Conv(x, w, b) {_N}<epsilon=/0.5|0.25/>(c, g, h, m, v_minus_epsilon)"
    ),
    "NOT_FINITE: epsilon 0 and variance 0": Row(f"c = Conv(x, w, b) {_N}<epsilon=/0.1|0.0/>(c, g, h, m, v_zero)"),
    "NOT_FINITE: variance NaN": Row(f"c = Conv(x, w, b) {_N}(c, g, h, m, /v|v_nan/)"),
    "NOT_FINITE: variance infinite": Row(f"c = Conv(x, w, b) {_N}(c, g, h, m, /v|v_infinite/)"),
    "NOT_FINITE: mean NaN": Row(f"c = Conv(x, w, b) {_N}(c, g, h, /m|m_nan/, v)"),
    "NOT_FINITE: mean infinite": Row(f"c = Conv(x, w, b) {_N}(c, g, h, /m|m_infinite/, v)"),
    "NOT_FINITE: scale NaN": Row(f"c = Conv(x, w, b) {_N}(c, /g|g_nan/, h, m, v)"),
    "NOT_FINITE: scale infinite": Row(f"c = Conv(x, w, b) {_N}(c, /g|g_infinite/, h, m, v)"),
    "NOT_FINITE: B NaN": Row(f"c = Conv(x, w, b) {_N}(c, g, /h|h_nan/, m, v)"),
    "NOT_FINITE: B infinite": Row(f"c = Conv(x, w, b) {_N}(c, g, /h|h_infinite/, m, v)"),
}


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_left_alone(name: str) -> None:
    row = LEFT_ALONE[name]
    check_left_alone(name, Row(row.text, constants=_PARAMETERS, opset=row.opset))


def test_what_is_not_finite_is_named() -> None:
    bad = np.array([1, np.inf, 2, np.nan], np.float32)
    for position, name in ((4, "variance"), (1, "scale"), (2, "B"), (3, "input_mean")):
        operands = ["c", "g", "h", "m", "v"]
        operands[position] = "bad"
        done = fold(Row(f"c = Conv(x, w, b) {_N}({', '.join(operands)})", constants={"bad": bad}).model())
        assert done.decision().detail.startswith(f"{name} inf in channel 1 and in 1 more")


@pytest.mark.parametrize("training", [0, 1])
def test_a_normalization_of_another_domain_is_none(training: int) -> None:
    model = Row(f"c = Conv(x, w, b) y = acme.BatchNormalization<training_mode={training}>(c, g, h, m, v)").model()
    file = read(model.SerializeToString())
    edited = Model(file)
    assert run_passes(edited, [FreezeBatchNorm(), FoldBatchNorm()]) == ()
    assert not edited.modified
    assert to_proto(file).SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True)


def test_an_operator_of_five_operands_need_not_be_a_normalization() -> None:
    model = Row(f"c = Conv(x, w, b) {_N}(c, g, h, m, v)").model()
    assert fold(model).modified
    model.graph.node[1].op_type = "Mul"
    done = fold(model)
    assert not done.modified
    assert done.decisions == ()


def test_a_value_of_one_dim_has_one_channel() -> None:
    row = Row(f"{_N}(line, g_one, h_one, m_one, v_one)", {"line": "float[N]"}, _PARAMETERS)
    graph = Model(read(row.model().SerializeToString())).main
    assert read_batch_norm(graph.nodes()[0], graph).affine.is_uniform


@pytest.mark.parametrize("attributes", ["epsilon=0.5", "epsilon=0.5, momentum=0.9, training_mode=0"])
def test_what_exporters_write_is_read_all_at_once(attributes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bnfold.passes.normalization._WORTH_JOINING", 1)
    graph = Model(read(Row(f"{_N}<{attributes}>(x, g3, h3, m3, v3)").model().SerializeToString())).main
    (node,) = graph.nodes()
    found, expected = plain_affines([node], graph)[id(node)], read_batch_norm(node, graph).affine
    np.testing.assert_array_equal(found.scale, expected.scale)
    np.testing.assert_array_equal(found.shift, expected.shift)


def test_the_long_name_of_the_default_domain_is_the_same_domain() -> None:
    model = Row("c = Conv(x, w, b) y = BatchNormalization(c, g, h, m, v)").model()
    for node in model.graph.node:
        node.domain = "ai.onnx"
    done = fold(model)
    assert done.operators == ["Conv"]
    assert_same_function(model, done.model)


def test_the_decision_names_the_node_or_its_output() -> None:
    model = Row("c = Conv(x, w, b) y = BatchNormalization(c, g, h, m, v)").model()
    model.graph.node[0].name, model.graph.node[1].name = "first", "second"
    decision = fold(model).decision()
    assert (decision.node, decision.op_type, decision.scope) == ("second", "BatchNormalization", "")
    assert (decision.action, decision.target) == (Action.FOLDED, ("first",))


def test_one_whose_output_has_no_name_is_malformed() -> None:
    row = Row('c = Conv(x, w, b) "" = BatchNormalization(c, g, h, m, v) y = Relu(x)')
    done = fold(row.model())
    assert not done.modified
    assert done.decision().reason is not None
    assert done.decision().reason.code == "MALFORMED"


@pytest.mark.parametrize(("text", "data"), [("y = Mul(b, x)", "x"), ("y = Mul(b, g)", "b")])
def test_description_of_one_in_disguise(text: str, data: str) -> None:
    graph = Model(read(Row(text, {"x": "float[N,4]"}).model().SerializeToString())).main
    facts = describe(graph.nodes()[0], graph)
    assert (facts.mode, facts.data, facts.epsilon, facts.momentum) == (Mode.INFERENCE, data, None, None)


@pytest.mark.parametrize(
    ("parameters", "channels"),
    [("g, h, m, v", 4), ("g_row, h, m, v", 4), ("loose, h, m, v", 4), ("loose, loose, loose, loose", None)],
)
def test_the_first_parameter_that_tells_the_channels_does(parameters: str, channels: int | None) -> None:
    row = Row(f"{_N}(x, {parameters})", {"x": "float[N,C,6,7]", "loose": "float[C]"}, _PARAMETERS)
    graph = Model(read(row.model().SerializeToString())).main
    assert describe(graph.nodes()[0], graph).channels == channels


@pytest.mark.parametrize(
    ("row", "how"),
    [
        (Row(f"{_N}(x, g3, h3, m3, v3)"), Mode.INFERENCE),
        (Row(f"{_N}<training_mode=1>(x, g3, h3, m3, v3)"), Mode.TRAIN),
        (Row(f"{_N}(x, g3, h3, m3, v3)", opset=6), Mode.TRAIN),
        (Row(f"{_N}<is_test=1>(x, g3, h3, m3, v3)", opset=6), Mode.INFERENCE),
        (Row("y, a = BatchNormalization(x, g3, h3, m3, v3)", opset=9), Mode.TRAIN),
        (Row(f"{_N}(x, g3, h3, m3, v3)", opset=9), Mode.INFERENCE),
    ],
)
def test_description(row: Row, how: Mode) -> None:
    graph = Model(read(row.model().SerializeToString())).main
    facts = describe(graph.nodes()[0], graph)
    assert facts.mode is how
    assert (facts.data, facts.channels) == ("x", 3)
    assert facts.epsilon == float(np.float32(1e-5))
    assert facts.momentum == float(np.float32(0.9))
