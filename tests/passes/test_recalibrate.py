"""recalibrate-batch-norm: a normalization gets the statistics it is given, or keeps its own and says why."""

import numpy as np
import pytest
from onnx import ModelProto, helper

from bnfold.decisions import Action, Decision, Reason, Refused
from bnfold.graph import Model
from bnfold.onnxfile import read, to_proto
from bnfold.passes import PassOptions, RecalibrateBatchNorm, RecalibrateBatchNormOptions, default_passes
from bnfold.passes.recalibrate_batch_norm import require_recalibratable
from bnfold.pipeline import run_passes
from bnfold.statistics import Statistics
from tests.fold_models import Folded, Row, numbers
from tests.oracle import evaluate

BN = "BatchNormalization"
INPUTS = {"c": "float[N,4,6,7]", "flag": "bool"}
CONSTANTS = {
    "m_integers": np.arange(4),
    "v_integers": np.arange(1, 5),
    "limit": np.float32(3),
}
NEW = Statistics(numbers(4, seed=21).astype(np.float64), numbers(4, seed=22, low=0.2, high=2.0).astype(np.float64))
DATA = numbers(3, 4, 6, 7, seed=23)


def model_of(text: str, opset: int = 17, outputs: tuple[str, ...] = ("y",)) -> ModelProto:
    ir = 3 if opset < 7 else 9
    return Row(text, inputs=INPUTS, constants=CONSTANTS, outputs=outputs, opset=opset, ir=ir).model()


def recalibrated(model: ModelProto, *places: tuple[str, str]) -> Folded:
    """New statistics for the normalization called n, or those at `places`."""
    file = read(model)
    edited = Model(file)
    statistics = dict.fromkeys(places or [("", "n")], NEW)
    decisions = run_passes(edited, default_passes(PassOptions(statistics=statistics, fold=False)))
    return Folded(to_proto(file), decisions, edited.modified)


def kept(decision: Decision) -> Reason | None:
    assert decision.action is Action.KEPT
    return decision.reason


def expected(model: ModelProto) -> np.ndarray:
    """What n computes with the new statistics, in float64."""
    stored = {tensor.name: np.frombuffer(tensor.raw_data, np.float32) for tensor in model.graph.initializer}
    scale, bias = (stored[name].astype(np.float64).reshape(4, 1, 1) for name in "gh")
    mean, variance = (
        values.astype(np.float32).astype(np.float64).reshape(4, 1, 1) for values in (NEW.mean, NEW.variance)
    )
    return scale * (DATA - mean) / np.sqrt(variance + np.float64(np.float32(1e-5))) + bias


SPELLINGS = {
    "inference": ("n = {}(c, g, h, m, v) y = Identity(n)", 17),
    "training mode": ("n = {}<training_mode=1>(c, g, h, m, v) y = Identity(n)", 17),
    "training mode, opset 6": ("n = {}(c, g, h, m, v) y = Identity(n)", 6),
    "training mode, opset 13": ("n, a, b, d, e = {}(c, g, h, m, v) y = Identity(n)", 13),
    "statistics of the batch": (
        (
            "a = ReduceMean<axes=[0,2,3], keepdims=0>(c) q = Mul(c, c) b = ReduceMean<axes=[0,2,3], keepdims=0>(q) "
            "n = {}(c, g, h, a, b) y = Identity(n)"
        ),
        17,
    ),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_new_statistics_are_used(name: str) -> None:
    text, opset = SPELLINGS[name]
    before = model_of(text.replace("{}", BN), opset)
    result = recalibrated(before)
    assert result.decision().action is Action.RECALIBRATED
    assert result.operators == [BN, "Identity"]
    np.testing.assert_allclose(evaluate(result.model, {"c": DATA})["y"], expected(before), rtol=1e-12, atol=1e-12)


LEFT_ALONE = {
    "STATISTICS_READ": (f"n, a, b = {BN}<training_mode=1>(c, g, h, m, v) y = Add(n, limit) z = Relu(a)", 17),
    "SPATIAL_ZERO": (f"n = {BN}<spatial=0>(c, g, h, m, v) y = Relu(n) z = Relu(c)", 7),
    "UNSUPPORTED_DTYPE": (f"n = {BN}(c, g, h, m_integers, v_integers) y = Relu(n) z = Relu(c)", 17),
    "SHAPE_UNKNOWN": (f"t = acme.Thing(c) n = {BN}(t, t, t, t, t) y = Relu(n) z = Relu(c)", 17),
}


@pytest.mark.parametrize("code", LEFT_ALONE)
def test_left_alone(code: str) -> None:
    text, opset = LEFT_ALONE[code]
    before = model_of(text, opset, outputs=("y", "z"))
    graph = Model(read(before)).main
    node = next(node for node in graph.nodes() if node.op_type == BN)
    with pytest.raises(Refused) as refusal:  # before any statistics are computed
        require_recalibratable(node, graph)
    assert refusal.value.reason is Reason[code]
    result = recalibrated(before)
    assert kept(result.decision()) is Reason[code]
    assert result.model == before
    assert not result.modified


@pytest.mark.parametrize("statistic", ["m", "v"])
def test_a_statistic_that_a_caller_may_give_is_left_alone(statistic: str) -> None:
    before = model_of(f"n = {BN}(c, g, h, m, v) y = Relu(n)")
    before.graph.input.append(helper.make_tensor_value_info(statistic, 1, [4]))
    result = recalibrated(before)
    assert kept(result.decision()) is Reason.OVERRIDABLE_PARAMETER
    assert result.model == before


@pytest.mark.parametrize("left", [["c", "g", "h", "m"], [], ["c", "g", "h", "m", ""], ["c", "g", "h", "m", "v", "v"]])
def test_what_lacks_an_operand_is_left_alone(left: list[str]) -> None:
    before = model_of(f"n = {BN}(c, g, h, m, v) y = Relu(n)")
    del before.graph.node[0].input[:]
    before.graph.node[0].input.extend(left)
    result = recalibrated(before)
    assert kept(result.decision()) is Reason.MALFORMED
    assert result.model == before


@pytest.mark.parametrize("outputs", [[], [""]])
def test_what_makes_nothing_is_left_alone(outputs: list[str]) -> None:
    before = model_of(f"o = {BN}(c, g, h, m, v) y = Relu(c)")
    before.graph.node[0].name = "n"
    del before.graph.node[0].output[:]
    before.graph.node[0].output.extend(outputs)
    result = recalibrated(before)
    assert kept(result.decision()) is Reason.MALFORMED
    assert result.model == before


def test_what_is_no_batch_normalization_gets_no_statistics() -> None:
    before = model_of(f"n = acme.{BN}(c, g, h, m, v) y = Relu(n)")
    result = recalibrated(before)
    assert result.decisions == ()
    assert result.model == before


def test_without_statistics_nothing_is_done() -> None:
    model = Model(read(model_of(f"n = {BN}(c, g, h, m, v) y = Relu(n)")))
    assert RecalibrateBatchNorm().run(model) == []
    assert RecalibrateBatchNorm(RecalibrateBatchNormOptions()).run(model) == []
    assert not model.modified


MEAN = "a = ReduceMean<axes=[0,2,3], keepdims=0>(c)"
WHAT_STAYS = {  # of what computes the mean, where something else needs it
    "nothing": (f"{MEAN} n = {BN}(c, g, h, a, v) y = Relu(n)", ("y",), [BN, "Relu"]),
    "what is read": (
        f"{MEAN} i = Identity(a) n = {BN}(c, g, h, i, v) y = Relu(n) z = Neg(a)",
        ("y", "z"),
        ["ReduceMean", BN, "Relu", "Neg"],
    ),
    "what is an output": (
        f"{MEAN} i = Identity(a) n = {BN}(c, g, h, i, v) y = Relu(n)",
        ("y", "a"),
        ["ReduceMean", BN, "Relu"],
    ),
    "what nothing read before": (f"{MEAN} n = {BN}(c, g, h, a, v) y = Relu(n) z = Neg(c)", ("y",), [BN, "Relu", "Neg"]),
    "what leaves an output out, as others leave inputs out": (
        f'{MEAN} i, "" = Dropout(a) n = {BN}(c, g, h, i, v) y = Clip(n, "", limit) u, "" = Dropout(c)',
        ("y",),
        [BN, "Clip", "Dropout"],
    ),
}


@pytest.mark.parametrize("name", WHAT_STAYS)
def test_what_computed_a_statistic_goes_unless_something_else_needs_it(name: str) -> None:
    text, outputs, left = WHAT_STAYS[name]
    assert recalibrated(model_of(text, outputs=outputs)).operators == left


def test_what_computed_a_statistic_outside_a_body_goes() -> None:
    before = model_of(
        f"{MEAN} y = If(flag)<then_branch = t () => (float[N,4,6,7] s) {{ s = {BN}(c, g, h, a, v) }}, "
        "else_branch = e () => (float[N,4,6,7] q) { q = Relu(c) }>"
    )
    (place,) = [(graph.scope, "s") for graph in Model(read(before)).graphs if graph.scope.endswith("then_branch")]
    result = recalibrated(before, place)
    assert result.decision().action is Action.RECALIBRATED
    assert sorted(result.every_operator) == [BN, "If", "Relu"]
    found = evaluate(result.model, {"c": DATA, "flag": np.array(True)})["y"]
    np.testing.assert_allclose(found, expected(before), rtol=1e-12, atol=1e-12)
