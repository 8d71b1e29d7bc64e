"""Initializers that are also inputs, through verification: a contract with callers, unless nobody replaces them."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import ModelProto, helper

import bnfold
from bnfold.cli import main
from bnfold.errors import UsageError
from tests.fold_models import CONSTANTS, Row, numbers

BN = "BatchNormalization"
CONV = f"d = Conv(x, w, b) y = {BN}(d, g, h, m, v)"
T = f"{BN}<training_mode=1>"
MORE = {
    "yes": np.array(True),
    "ratio": np.float32(0.4),
    "rows": np.array([1, 6, 6, 7]),
    "back": np.array([2, 3, 6, 7]),
    "data": numbers(2, 4, 3),
    **{f"{name}6": numbers(6, seed=seed, low=0.5, high=2.0) for seed, name in enumerate("ghmv")},
}
ASSUMED = "Inputs with a default were taken to be constant"


def model_of(*names: str, text: str = CONV, opset: int = 17, ir: int = 9) -> ModelProto:
    """The model of `text` in which a caller may replace the initializers `names`."""
    model = Row(text, {"p": "float[2,3,6,7]"}, MORE, opset=opset, ir=ir).model()
    for tensor in model.graph.initializer if ir >= 4 else ():
        if tensor.name in names:
            model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return model


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def operators(model: ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("proof", ["never", "always"])
@pytest.mark.parametrize("names", ["w", "b", "g", "m", "ghmv", "wbghmv"])
def test_where_nobody_replaces_them_the_fold_is_equivalent(names: str, proof: str) -> None:
    model = model_of(*names)
    result = bnfold.optimize(model, assume_constant_initializers=True, proof=proof)  # type: ignore[arg-type]  # of two
    assert operators(result.model) == ["Conv"]
    assert (result.report.verdict, result.report.exit_code) == ("equivalent", 0)
    found = result.report.verification
    assert found is not None
    assert "overrides" not in [feed["name"] for feed in found["feeds"]]
    assert [note for note in found["notes"] if note.startswith(ASSUMED)]
    assert [proved["standing"] for proved in found["proofs"]] == ["holds"] * (proof == "always")
    # The signature stays: who feeds them by name all the same still can, and what they replace still has its value.
    assert list(result.model.graph.input) == list(model.graph.input)
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in result.model.graph.initializer}
    for name in names:
        np.testing.assert_array_equal(stored[name], CONSTANTS[name])


def test_the_report_names_no_more_than_a_few() -> None:
    notes = bnfold.optimize(model_of(*"wbghmv"), assume_constant_initializers=True).report.verification["notes"]  # type: ignore[index]
    assert [note for note in notes if "('w', 'b', 'g' and 3 more)" in note]


def test_unless_told_so_they_are_replaced_in_a_feed_and_nothing_is_folded() -> None:
    model = model_of("g")
    result = bnfold.optimize(model)
    assert result.model == model
    assert result.report.verdict == "equivalent"
    found = result.report.verification
    assert found is not None
    assert "overrides" in [feed["name"] for feed in found["feeds"]]
    assert not [note for note in found["notes"] if note.startswith(ASSUMED)]


@pytest.mark.parametrize("ir", [3, 9])
def test_where_there_are_none_nothing_is_said(ir: int) -> None:
    found = bnfold.optimize(model_of(opset=8 if ir == 3 else 17, ir=ir), assume_constant_initializers=True).report
    assert found.verdict == "equivalent"
    assert found.verification is not None
    assert not [note for note in found.verification["notes"] if note.startswith(ASSUMED)]


def test_feeding_one_that_is_assumed_to_be_constant_is_a_mistake(tmp_path: Path) -> None:
    feed = {"x": numbers(2, 3, 6, 7), "g": numbers(4, seed=9)}
    with pytest.raises(UsageError, match="'g' replaces an initializer, and --assume-constant-initializers says"):
        bnfold.optimize(model_of("g"), inputs=feed, assume_constant_initializers=True)
    onnx.save(model_of("g"), tmp_path / "in.onnx")
    np.savez(tmp_path / "feed.npz", **feed)
    command = ["optimize", tmp_path / "in.onnx", tmp_path / "out.onnx", "--inputs", tmp_path / "feed.npz"]
    result = run(*command, "--assume-constant-initializers")
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "'g' replaces an initializer" in result.stderr
    assert not (tmp_path / "out.onnx").exists()
    assert run(*command).exit_code == 0  # either of the two alone is fine
    assert (
        bnfold.optimize(model_of("g"), inputs={"x": feed["x"]}, assume_constant_initializers=True).report.exit_code == 0
    )


def test_the_folded_model_keeps_its_word_only_where_nobody_replaces_them(tmp_path: Path) -> None:
    """`verify` judges the contract as well, and takes the same assumption."""
    before, after = tmp_path / "in.onnx", tmp_path / "out.onnx"
    onnx.save(model_of("g"), before)
    assert run("optimize", before, after, "--assume-constant-initializers").exit_code == 0
    contract = run("verify", before, after)
    assert contract.exit_code == 1
    assert "feed overrides" in contract.stdout
    for more in ((), ("--layers",), ("--proof",)):
        assumed = run("verify", before, after, "--assume-constant-initializers", "-v", *more)
        assert assumed.exit_code == 0, assumed.stderr
        assert f"note: {ASSUMED} ('g')" in assumed.stdout
    for assume, verdict in ((False, "not-equivalent"), (True, "equivalent")):
        found = bnfold.verify(before, after, assume_constant_initializers=assume)
        assert found.verdict.value == verdict


def test_a_proof_holds_for_the_values_that_nobody_replaces() -> None:
    """Where onnxruntime runs nothing, the proof alone decides."""
    text = f"d = Conv(x, w, b) n = {BN}(d, g, h, m, v) y = acme.Thing(n)"
    result = bnfold.optimize(model_of("g", text=text), assume_constant_initializers=True)
    assert operators(result.model) == ["Conv", "Thing"]
    assert result.report.verdict == "proved"


TRAINED = {  # what evaluation makes of it depends on initializers that a caller might replace
    "statistics": (f"n = {T}(d, g, h, m, v)", ("g", "m"), ["Conv", "Relu"]),
    "Dropout": ("n = Dropout(d, ratio, yes)", ("yes",), ["Conv", "Relu"]),
    "data": (f"e = {T}(data, g, h, m, v) s = ReduceSum<keepdims=0>(e) n = Add(d, s)", ("data",), ["Conv", "Relu"]),
    "a shape": (
        (
            f"r = Reshape(p, rows) i = {T}(r, g6, h6, m6, v6) q = Reshape(i, back) "
            "s = ReduceSum<keepdims=0>(q) n = Add(d, s)"
        ),
        ("rows",),
        ["Conv", "Reshape", "InstanceNormalization"],
    ),
}


@pytest.mark.parametrize("name", TRAINED)
def test_evaluation_semantics_take_them_for_constants_as_well(name: str) -> None:
    text, names, first = TRAINED[name]
    result = bnfold.optimize(
        model_of(*names, text=f"d = Conv(x, w, b) {text} y = Relu(n)"), assume_constant_initializers=True
    )
    assert operators(result.model)[: len(first)] == first
    assert result.report.verdict == "equivalent"
