"""Substitutes compute what they are called, fitted ones are closer, and nobody calls them equivalent."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto

import bnfold
from bnfold.decisions import Action, Decision, Reason
from bnfold.errors import UsageError
from bnfold.graph import Model
from bnfold.onnxfile import read, to_proto
from bnfold.passes import SubstituteBatchNorm, SubstituteBatchNormOptions
from tests.fold_models import CONSTANTS, Row, numbers
from tests.oracle import evaluate
from tests.passes.test_freeze_digits import MODELS, TRAIN, operators, run, session

BN = "BatchNormalization"
X = numbers(3, 4, 6, 7, seed=3) * 2 + 1
VECTORS = numbers(3, 4, seed=4)


def model_of(text: str = f"y = {BN}<epsilon=0.01>(c, g, h, m, v)", opset: int = 17) -> ModelProto:
    return Row(text, inputs={"c": "float[N,4,6,7]", "u": "float[N,4]"}, opset=opset, ir=3 if opset < 7 else 10).model()


def group_norm(x: np.ndarray, groups: int, epsilon: float = 0.01) -> np.ndarray:
    wide = x.astype(np.float64).reshape(len(x), groups, -1)
    normal = (wide - wide.mean(2, keepdims=True)) / np.sqrt(
        wide.var(2, keepdims=True) + np.float64(np.float32(epsilon))
    )
    scale, bias = (CONSTANTS[name].astype(np.float64).reshape(4, *[1] * (x.ndim - 2)) for name in "gh")
    return normal.reshape(x.shape) * scale + bias


CASES = {
    "group-norm": 2,
    "group-norm:1": 1,
    "group-norm:2": 2,
    "group-norm:4": 4,
    "instance-norm": 4,
    "layer-norm": 1,
}


@pytest.mark.parametrize("opset", [7, 13, 17, 18, 20, 21, 22])
@pytest.mark.parametrize("kind", CASES)
def test_a_substitute_computes_what_it_is_called(kind: str, opset: int) -> None:
    result = bnfold.optimize(model_of(opset=opset), substitute=kind, verify=False)
    np.testing.assert_allclose(evaluate(result.model, {"c": X})["y"], group_norm(X, CASES[kind]), rtol=1e-5, atol=1e-5)
    found = operators(result.model)
    if CASES[kind] == 4:
        assert found == ["InstanceNormalization"]
    elif opset >= 21:
        assert found == ["GroupNormalization"]
    else:
        assert found == ["Shape", "Reshape", "InstanceNormalization", "Reshape", "Mul", "Add"]
    assert result.model.opset_import[0].version == opset
    onnx.checker.check_model(result.model, full_check=True)
    (decision,) = result.report.decisions
    assert decision.action is Action.SUBSTITUTED


@pytest.mark.parametrize("kind", ["group-norm:2", "layer-norm"])
def test_vectors_are_normalized_over_their_features(kind: str) -> None:
    model = model_of(f"y = {BN}<epsilon=0.01>(u, g, h, m, v)")
    result = bnfold.optimize(model, substitute=kind, verify=False)
    expected = group_norm(VECTORS, CASES[kind])
    np.testing.assert_allclose(evaluate(result.model, {"u": VECTORS})["y"], expected, rtol=1e-5, atol=1e-5)


REFUSED = {
    "UNEVEN_GROUPS": ("group-norm:3", f"y = {BN}(c, g, h, m, v)", 17),
    "ONE_VALUE_PER_CHANNEL": ("instance-norm", f"y = {BN}(u, g, h, m, v)", 17),
}
LEFT_ALONE = {  # the second of each pair breaks exactly one precondition of the first
    "TRAIN_MODE": (f"y = {BN}(c, g, h, m, v)", f"y = {BN}<training_mode=1>(c, g, h, m, v)", 17),
    "MALFORMED": (f"y = {BN}(c, g, h, m, v)", f"y = {BN}(c, g, h, m)", 17),
    "SHAPE_UNKNOWN": (f"y = {BN}(c, g, h, m, v)", f"t = acme.Thing(c) y = {BN}(t, g, h, m, v)", 17),
    "UNEVEN_GROUPS": (f"y = {BN}(c, g, h, m, v)", f"y = {BN}(x, g3, h3, m3, v3)", 17),
    "OLD_OPSET": (f"y = {BN}(c, g, h, m, v)", f"y = {BN}<is_test=1>(c, g, h, m, v)", 6),
}


def substituted(model: ModelProto, **options: object) -> tuple[ModelProto, list[Decision]]:
    """What the pass alone makes of `model`."""
    file = read(model)
    edited = Model(file)
    given = SubstituteBatchNormOptions(**options) if options else None  # type: ignore[arg-type]  # from a test
    decisions = SubstituteBatchNorm(given).run(edited)
    edited.finish()
    return to_proto(file), decisions


@pytest.mark.parametrize("code", LEFT_ALONE)
def test_the_pass_leaves_alone(code: str) -> None:
    good, bad, opset = LEFT_ALONE[code]
    _, (done,) = substituted(model_of(good), groups=2)
    assert done.action is Action.SUBSTITUTED
    before = model_of(bad, opset)
    after, (decision,) = substituted(before, groups=2)
    assert (decision.action, decision.reason) == (Action.KEPT, Reason[code])
    assert after == before


@pytest.mark.parametrize(("channels", "groups"), [(1, 1), (2, 1), (7, 1), (9, 3), (64, 32), (80, 20), (96, 32)])
def test_unless_told_there_are_as_many_groups_of_one_size_as_can_be(channels: int, groups: int) -> None:
    assert SubstituteBatchNormOptions().groups_of(channels) == groups


def test_the_pass_has_options_of_its_own() -> None:
    after, (decision,) = substituted(model_of())
    assert decision.detail == "InstanceNormalization over 2 groups of 2 channels, its own scale and bias"
    np.testing.assert_allclose(evaluate(after, {"c": X})["y"], group_norm(X, 2), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("only", "keep"), [(("k",), ()), ((), ("y",)), (("?",), ("y", "nobody"))])
def test_the_pass_speaks_of_what_is_chosen_and_of_nothing_else(only: tuple[str, ...], keep: tuple[str, ...]) -> None:
    model = model_of(f"k = {BN}(c, g, h, m, v) r = Tanh(k) s = acme.{BN}(r, g, h, m, v) y = {BN}(s, g, h, m, v)")
    after, decisions = substituted(model, kind="instance-norm", only=only, keep=keep)
    assert [decision.node for decision in decisions] == ["k"]
    assert operators(after) == ["InstanceNormalization", "Tanh", BN, BN]


@pytest.mark.parametrize("code", REFUSED)
def test_left_alone(code: str) -> None:
    kind, text, opset = REFUSED[code]
    result = bnfold.optimize(model_of(text, opset), substitute=kind, fold=False)
    (decision,) = result.report.decisions
    assert (decision.action, decision.reason) == (Action.KEPT, Reason[code])
    assert result.report.verdict == "equivalent"


@pytest.mark.parametrize("kind", ["group", "group-norm:", "group-norm:0", "group-norm:-1", "instance-norm:2", ""])
def test_a_kind_that_does_not_exist(kind: str) -> None:
    with pytest.raises(UsageError, match="is no substitute"):
        bnfold.optimize(model_of(), substitute=kind)


def test_only_what_is_chosen_is_substituted() -> None:
    model = model_of(f"k = {BN}(c, g, h, m, v) r = Tanh(k) y = {BN}(r, g, h, m, v)")
    result = bnfold.optimize(model, substitute="instance-norm", substitute_only=("k",), verify=False)
    assert operators(result.model) == ["InstanceNormalization", "Tanh", BN]


def test_training_mode_over_one_image_is_instance_normalization_exactly() -> None:
    model = model_of(f"y = {BN}<training_mode=1, epsilon=0.01>(c, g, h, m, v)")
    result = bnfold.optimize(model, substitute="instance-norm", verify=False)
    for image in X:
        expected = evaluate(model, {"c": image[None]})["y"]  # the statistics of a batch of one
        found = evaluate(result.model, {"c": image[None]})["y"]
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["instance-norm", "group-norm:4"])
def test_train_mode_over_one_image_is_instance_normalization_when_run(kind: str) -> None:
    """By onnxruntime; running statistics are given out: those that nobody reads it would write into its weights."""
    text = f"y, a, b = {BN}<training_mode=1, epsilon=0.01>(c, g, h, m, v)"
    trains = Row(text, inputs={"c": "float[1,4,6,7]"}, outputs=("y", "a", "b"), opset=17, ir=10).model()
    result = bnfold.optimize(model_of(text), substitute=kind, verify=False)
    for image in X:
        expected = session(trains).run(["y"], {"c": image[None]})[0]
        found = session(result.model).run(["y"], {"c": image[None]})[0]
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


def outputs_of(model: ModelProto, value: str, images: np.ndarray) -> np.ndarray:
    """A value inside `model`, by onnxruntime."""
    shown = ModelProto()
    shown.CopyFrom(model)
    del shown.graph.output[:]
    shown.graph.output.add(name=value)
    return session(shown).run([value], {"images": images})[0].astype(np.float64)


@pytest.mark.parametrize("name", ["digits_cnn", "digits_autoencoder", "digits_preact", "digits_cnn_train"])
def test_fitted_is_closer_on_images_it_was_not_fitted_to(name: str) -> None:
    """Each normalization of each model alone: fitted to the training images, run on those held out."""
    with np.load(MODELS / "digits.npz") as file:
        images = file["images"]
    plain = bnfold.freeze(MODELS / f"{name}.onnx", verify=False).model
    nodes = [node for node in plain.graph.node if node.op_type == BN]
    for node in nodes:
        value = node.output[0]
        wanted = outputs_of(plain, value, images)
        distances = []
        for data in (MODELS / "digits_train.npz", None):
            made = bnfold.optimize(
                plain, substitute="group-norm", substitute_only=(node.name,), data=data, fold=False, verify=False
            ).model
            assert operators(made).count(BN) == len(nodes) - 1
            distances.append(np.sqrt(((outputs_of(made, value, images) - wanted) ** 2).mean() / wanted.var()))
        fitted, unfitted = distances
        print(f"{name} {node.name}: {fitted:.3f} fitted, {unfitted:.3f} unfitted")
        assert fitted < unfitted


@pytest.mark.parametrize("name", ["digits_cnn", "digits_autoencoder", "digits_preact", "digits_cnn_train"])
@pytest.mark.parametrize("kind", ["group-norm", "instance-norm", "layer-norm"])
def test_fitted_is_closer_on_every_model(name: str, kind: str) -> None:
    result = bnfold.optimize(
        MODELS / f"{name}.onnx", substitute=kind, data=MODELS / "digits_train.npz", fold=False, verify=False
    )
    fitted = result.report.fitted
    assert fitted
    assert all(each["after"] < each["before"] for each in fitted)
    substituted = {each.node for each in result.report.decisions if each.action is Action.SUBSTITUTED}
    assert {each["node"] for each in fitted} == substituted


def test_the_fit_is_that_of_least_squares() -> None:
    model = model_of()
    data = [X[:1], X[1:]]
    result = bnfold.optimize(model, substitute="group-norm:2", data=data, verify=False)
    plain = bnfold.optimize(model, substitute="group-norm:2", verify=False)
    teacher = evaluate(model, {"c": X})["y"]
    found, unfitted = (evaluate(each.model, {"c": X})["y"] for each in (result, plain))
    normal = (group_norm(X, 2) - CASES_BIAS) / CASES_SCALE
    for channel in range(4):
        design = np.stack([normal[:, channel].reshape(-1), np.ones(3 * 42)], 1)
        best, *_ = np.linalg.lstsq(design, teacher[:, channel].reshape(-1), rcond=None)
        np.testing.assert_allclose(found[:, channel].reshape(-1), design @ best, atol=1e-5)
    (told,) = result.report.fitted
    size = np.sqrt(teacher.var((0, 2, 3)).mean())
    assert told["after"] == pytest.approx(np.sqrt(((found - teacher) ** 2).mean()) / size, rel=1e-4)
    assert told["before"] == pytest.approx(np.sqrt(((unfitted - teacher) ** 2).mean()) / size, rel=1e-4)


CASES_SCALE, CASES_BIAS = (CONSTANTS[name].astype(np.float64).reshape(4, 1, 1) for name in "gh")


def test_nobody_calls_it_equivalent(tmp_path: Path) -> None:
    arguments = ("--substitute", "group-norm", "--data", MODELS / "digits_train.npz")
    result = run("optimize", TRAIN, tmp_path / "out.onnx", *arguments)
    assert result.exit_code == 0, result.stderr
    assert "equivalent" not in result.stdout
    assert "substituted: largest deviation" in result.stdout
    assert "another function" in result.stdout
    assert result.stdout.count("fitted /") == 5
    assert (tmp_path / "out.onnx").exists()
    assert BN not in operators(onnx.load(tmp_path / "out.onnx"))
