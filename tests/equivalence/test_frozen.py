"""The reference of a frozen model: evaluation semantics, written from the protobuf and not by the pass."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto

from bnfold.equivalence import Verdict, VerifyOptions, verify_frozen
from bnfold.equivalence.structure.evaluation_semantics import evaluate_in_place, make_runnable
from bnfold.equivalence.structure.scopes import Scopes
from bnfold.equivalence.structure.training_mode import has_training_nodes
from bnfold.statistics import Statistics
from tests.fold_models import Row, batch_norm, every_node, numbers
from tests.oracle import evaluate

BN = "BatchNormalization"
T = f"{BN}<training_mode=1, epsilon=0.01>"
CONSTANTS = {
    "ratio": np.float32(0.4),
    "yes": np.array(True),
    "in_row": np.array([1, 6, 6, 7], np.int64),
    "back": np.array([2, 3, 6, 7], np.int64),
    "to_rows": np.array([1, 4, 27], np.int64),
    "from_rows": np.array([4, 3, 3, 3], np.int64),
    **{f"{name}_twice": np.tile(array, 2) for name, array in batch_norm(3, "").items()},
}
INPUTS = {"c": "float[N,4,6,7]", "x": "float[N,3,6,7]", "p": "float[2,3,6,7]", "flag": "bool", "u": "float[N,4]"}
FEEDS = {
    "c": numbers(5, 4, 6, 7, seed=3),
    "x": numbers(5, 3, 6, 7, seed=4),
    "p": numbers(2, 3, 6, 7, seed=5),
    "u": numbers(5, 4, seed=6),
    "flag": np.array(True),
}
MODELS = {   # text, opset, whether evaluation differs from training mode
    "opset 7": (f"y, a, b, d, e = {BN}(c, g, h, m, v)", 7, True),
    "opset 13": (f"y, a, b, d, e = {BN}(c, g, h, m, v)", 13, True),
    "opset 9, four outputs": (f"y, a, b, d = {BN}(c, g, h, m, v)", 9, True),
    "opset 15, one output": (f"y = {T}(c, g, h, m, v)", 15, True),
    "opset 18, three outputs": (f"y, a, b = {T}(c, g, h, m, v)", 18, True),
    "rank 2": (f"y = {T}(u, g, h, m, v)", 18, True),
    "in a body": (
        (
            f"y = If(flag)<then_branch = t () => (s) {{ s, a, b = {T}(c, g, h, m, v) }}, "
            "else_branch = e () => (q) { q = Relu(c) }>"
        ),
        17,
        True,
    ),
    "constant data": (
        f"r = Reshape(w, to_rows) n = {T}(r, g, h, m, v) s = Reshape(n, from_rows) y = Conv(x, s, b)",
        17,
        False,
    ),
    "instance norm": (
        f"r = Reshape(p, in_row) n, a, d = {T}(r, g_twice, h_twice, m_twice, v_twice) y = Reshape(n, back)",
        17,
        False,
    ),
}  # fmt: skip


def model_of(text: str, opset: int = 17, outputs: tuple[str, ...] = ("y",)) -> ModelProto:
    return Row(text, inputs=INPUTS, constants=CONSTANTS, outputs=outputs, opset=opset).model()


def feeds_of(model: ModelProto) -> dict[str, np.ndarray]:
    return {value.name: FEEDS[value.name] for value in model.graph.input}


def run(model: ModelProto) -> dict[str, np.ndarray]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    results = [session.run(names, feeds_of(model)) for _ in range(3)]
    for again in results[1:]:  # buffers that a run writes into would show (onnxruntime#29790), and so would Dropout
        for one, other in zip(results[0], again, strict=True):
            np.testing.assert_array_equal(one, other)
    return dict(zip(names, results[0], strict=True))


def assert_safe(model: ModelProto) -> None:
    """No BatchNormalization is left in training mode, by any spelling."""
    assert not has_training_nodes(Scopes(model))
    for node in every_node(model.graph):
        if node.op_type == BN:
            assert len(node.output) == 1
            assert all(attribute.name != "training_mode" or not attribute.i for attribute in node.attribute)


@pytest.mark.parametrize("name", MODELS)
def test_evaluation_semantics(name: str) -> None:
    text, opset, differs = MODELS[name]
    original, model = model_of(text, opset), model_of(text, opset)
    assert has_training_nodes(Scopes(original))
    evaluate_in_place(model)
    assert_safe(model)
    expected = evaluate(original, feeds_of(original), inference=differs)["y"]
    np.testing.assert_allclose(run(model)["y"], expected, atol=2e-5)
    other = evaluate(original, feeds_of(original), inference=not differs)["y"]
    assert np.abs(other - expected).max() > 0.1, "or this test could not tell"


@pytest.mark.parametrize("name", MODELS)
def test_training_mode_by_operators(name: str) -> None:
    text, opset, _ = MODELS[name]
    original, model = model_of(text, opset), model_of(text, opset)
    make_runnable(model)
    assert_safe(model)
    expected = evaluate(original, feeds_of(original))["y"]
    np.testing.assert_allclose(run(model)["y"], expected, atol=2e-5)


@pytest.mark.parametrize("opset", [13, 15, 18])
def test_running_statistics_that_are_read_are_computed(opset: int) -> None:
    spelled = f"y, a, b, d, e = {BN}<momentum=0.8>" if opset < 14 else f"y, a, b = {BN}<training_mode=1, momentum=0.8>"
    original = model_of(f"{spelled}(c, g, h, m, v)", opset, ("y", "a", "b"))
    model = model_of(f"{spelled}(c, g, h, m, v)", opset, ("y", "a", "b"))
    evaluate_in_place(model, stays={("", "y")})
    assert_safe(model)
    expected = evaluate(original, feeds_of(original))
    for output, values in run(model).items():
        np.testing.assert_allclose(values, expected[output], atol=2e-5)


@pytest.mark.parametrize("opset", [9, 13])
@pytest.mark.parametrize("read", ["d", "e"])
def test_saved_statistics_that_are_read_leave_nothing_in_training_mode(opset: int, read: str) -> None:
    """Its unread running statistics would be written into m and v, which another node reads (onnxruntime#29790)."""
    text = f"y, a, b, d, e = {BN}(c, g, h, m, v) z = {BN}(c, g, h, m, v)"
    original = model_of(text, opset, ("y", "z", read))
    model = model_of(text, opset, ("y", "z", read))
    evaluate_in_place(model, stays={("", "y")})
    assert_safe(model)
    found = run(model)
    plain = model_of(f"z = {BN}(c, g, h, m, v)", opset, ("z",))
    np.testing.assert_allclose(found["z"], evaluate(plain, feeds_of(plain))["z"], atol=2e-5)
    # As onnxruntime has them: the mean of the batch, and one over its deviation.
    alone = model_of(f"y, a, b, d, e = {BN}(c, g, h, m, v)", opset, ("y", "a", "b", read))
    assert has_training_nodes(Scopes(original))
    np.testing.assert_allclose(found[read], run(alone)[read], rtol=1e-5)
    np.testing.assert_allclose(found["y"], run(alone)["y"], atol=2e-5)


def test_dropout_lets_everything_through() -> None:
    for text, opset in (("y = Dropout(c, ratio, yes)", 17), ("k = Relu(c) y, z = Dropout(k, ratio, yes)", 13)):
        model = model_of(text, opset)
        evaluate_in_place(model)
        assert not has_training_nodes(Scopes(model))
        np.testing.assert_array_equal(
            run(model)["y"], evaluate(model_of(text, opset), feeds_of(model), inference=True)["y"]
        )


def test_new_statistics_take_the_place_of_the_stored() -> None:
    text = f"k = {T}(c, g, h, m, v) y = {BN}(k, g, h, m, v)"
    model, changed = model_of(text), model_of(text)
    new = Statistics(np.linspace(-1, 1, 4), np.linspace(0.5, 2, 4))
    evaluate_in_place(model, statistics={("", "y"): new})
    assert_safe(model)
    for name, values in (("m_new", new.mean), ("v_new", new.variance)):
        changed.graph.initializer.append(onnx.numpy_helper.from_array(values.astype(np.float32), name))
    changed.graph.node[1].input[3], changed.graph.node[1].input[4] = "m_new", "v_new"
    np.testing.assert_allclose(run(model)["y"], evaluate(changed, feeds_of(changed), inference=True)["y"], atol=2e-5)


# ---------------------------------------------------------------------- the verdict


def frozen(text: str) -> ModelProto:
    """The right answer, written by hand."""
    return model_of(text.replace("training_mode=1", "training_mode=0"))


TRAINED = f"k = Conv(x, w, b) y = {T}(k, g, h, m, v)"


def test_a_frozen_model_is_equivalent_and_its_distance_is_told() -> None:
    found = verify_frozen(model_of(TRAINED).SerializeToString(), frozen(TRAINED).SerializeToString())
    assert found.verification.verdict is Verdict.EQUIVALENT
    assert "The reference is the input model with evaluation semantics." in found.verification.notes
    (distance,) = found.training_distance
    assert distance.where.output == "y"
    assert distance.max_abs > 0.1


def test_the_distance_of_a_dropout_is_what_dropping_makes_and_the_same_each_time() -> None:
    text = "k = Relu(c) y = Dropout(k, ratio, yes)"
    models = model_of(text).SerializeToString(), model_of("k = Relu(c) y = Identity(k)").SerializeToString()
    one, again = (verify_frozen(*models).training_distance for _ in range(2))
    assert one[0].max_abs > 0.1
    assert one == again


def test_no_distance_is_told_where_nothing_is_in_training_mode_or_it_makes_no_difference() -> None:
    inference = frozen(TRAINED).SerializeToString()
    statistics = {("", "y"): Statistics(np.zeros(4), np.ones(4))}
    found = verify_frozen(inference, inference, statistics=statistics)
    assert found.verification.measurements
    assert found.training_distance == ()
    idle = "z = Constant<value = float {0}>() k = Relu(c) y = Dropout(k, z, yes)"
    found = verify_frozen(
        model_of(idle).SerializeToString(), model_of("k = Relu(c) y = Identity(k)").SerializeToString()
    )
    assert found.verification.verdict is Verdict.EQUIVALENT
    assert found.training_distance == ()


def test_what_is_frozen_wrongly_is_found() -> None:
    wrong = frozen(TRAINED)
    wrong.graph.node[1].input[3] = "h"  # another mean
    found = verify_frozen(model_of(TRAINED).SerializeToString(), wrong.SerializeToString())
    assert found.verification.verdict is Verdict.NOT_EQUIVALENT


def test_what_still_trains_is_no_evaluation() -> None:
    data = model_of(TRAINED).SerializeToString()
    assert verify_frozen(data, data).verification.verdict is Verdict.NOT_EQUIVALENT
    stayed = verify_frozen(data, data, stays={("", "y")})
    assert stayed.verification.verdict is Verdict.EQUIVALENT
    assert any("stays in training mode" in note for note in stayed.verification.notes)


def test_a_dropout_that_is_kept_can_be_compared() -> None:
    text = f"k = {T}(c, g, h, m, v) y = Dropout(k, ratio, yes)"
    candidate = frozen(text)
    found = verify_frozen(model_of(text).SerializeToString(), candidate.SerializeToString())
    assert found.verification.verdict is Verdict.EQUIVALENT
    candidate.graph.node[0].input[3] = "h"
    found = verify_frozen(model_of(text).SerializeToString(), candidate.SerializeToString())
    assert found.verification.verdict is Verdict.NOT_EQUIVALENT


def test_a_model_in_inference_mode_is_compared_as_it_is() -> None:
    data = frozen(TRAINED).SerializeToString()
    found = verify_frozen(data, data, VerifyOptions(seed=3))
    assert found.verification.verdict is Verdict.EQUIVALENT
    assert found.training_distance == ()
    assert not any("evaluation" in note for note in found.verification.notes)


def test_the_input_is_not_modified() -> None:
    before = model_of(TRAINED)
    data = before.SerializeToString()
    verify_frozen(data, frozen(TRAINED).SerializeToString())
    assert data == before.SerializeToString()
