"""Proofs reach the user: `proved` where onnxruntime cannot run the model, and no right model is accused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import ModelProto

import bnfold
from bnfold.cli import main
from bnfold.errors import UsageError, VerificationError
from tests import architectures, light_graphs
from tests.fold_models import CONSTANTS, INPUTS, build, numbers
from tests.optimization.test_rollback import plant
from tests.random_graphs import seeded_case

BN = "BatchNormalization"
MODELS = Path(__file__).parents[2] / "models"
WIDE = {name: array.astype(np.float64) for name, array in CONSTANTS.items()}


def unknown(model: ModelProto) -> ModelProto:
    """The same with an operator that nobody knows at the place of the first."""
    model.graph.node[0].op_type, model.graph.node[0].domain = "Magic", "custom"
    model.opset_import.append(onnx.helper.make_opsetid("custom", 1))
    del model.graph.value_info[:]
    return model


def custom(text: str, **constants: Any) -> ModelProto:
    """A model whose input goes through an operator that nobody knows."""
    return unknown(build(f"a = Abs(x) {text}", inputs=INPUTS, constants={**CONSTANTS, **constants}))


def old_opset() -> ModelProto:
    return build(f"c = Conv(x, w, b) y = {BN}<is_test=1>(c, g, h, m, v)", inputs=INPUTS, constants=CONSTANTS, opset=6)


UNRUNNABLE = {
    "custom operator": custom(f"c = Conv(a, w, b) y = {BN}(c, g, h, m, v)"),
    "carriers": custom(f"c = Conv(a, w, b) p = AveragePool<kernel_shape=[2,2]>(c) y = {BN}(p, g, h, m, v)"),
    "opset 6": old_opset(),
    "float64 Conv": build(
        f"c = Conv(x, w, b) y = {BN}(c, g, h, m, v)", inputs={"x": "double[N,3,6,7]"}, constants=WIDE
    ),
}


@pytest.mark.parametrize("model", UNRUNNABLE.values(), ids=UNRUNNABLE)
def test_a_model_that_cannot_be_run_is_proved_and_published(model: ModelProto, tmp_path: Path) -> None:
    onnx.save(model, tmp_path / "in.onnx")
    arguments = [
        "optimize",
        str(tmp_path / "in.onnx"),
        str(tmp_path / "out.onnx"),
        "--report",
        str(tmp_path / "r.json"),
    ]
    found = CliRunner().invoke(main, arguments)
    assert found.exit_code == 0, found.output
    assert "\nproved\n" in found.output
    assert "Every rewrite is proved in float64 instead" in found.output
    report = json.loads((tmp_path / "r.json").read_text())
    assert (report["verdict"], report["exit_code"], report["published"]) == ("proved", 0, str(tmp_path / "out.onnx"))
    assert [proof["standing"] for proof in report["verification"]["proofs"]] == ["holds"]
    assert not any(node.op_type == BN for node in onnx.load(tmp_path / "out.onnx").graph.node)
    compared = CliRunner().invoke(main, ["verify", str(tmp_path / "in.onnx"), str(tmp_path / "out.onnx")])
    assert (compared.exit_code, "\nproved\n" in f"\n{compared.output}") == (0, True)


def test_without_proofs_it_stays_not_verified(tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match="custom:Magic") as failure:
        bnfold.optimize(UNRUNNABLE["custom operator"], tmp_path / "out.onnx", proof="never")
    assert (failure.value.report.verdict, list(tmp_path.iterdir())) == ("not-verified", [])


def test_an_undecided_proof_leaves_it_not_verified(tmp_path: Path) -> None:
    """The scale went through a Transpose and a pool on whose padding runtimes do not agree."""
    text = (
        "a = Abs(x2) p = GlobalAveragePool(x) q = Conv(p, w1) c = Conv(x, w, b) "
        "o = AveragePool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1], ceil_mode=1, count_include_pad=1>(c) "
        "t = Mul(o, q) e = Transpose<perm=[0,2,3,1]>(t) d = Mul(e, s) y = Relu(d)"
    )
    constants = {**CONSTANTS, "s": numbers(4)}
    model = unknown(build(text, inputs=INPUTS, constants=constants, outputs=("y", "a")))
    with pytest.raises(VerificationError, match=r"Nor is it proved.*ceil_mode") as failure:
        bnfold.optimize(model, tmp_path / "out.onnx")
    assert (failure.value.report.verdict, list(tmp_path.iterdir())) == ("not-verified", [])
    allowed = bnfold.optimize(model, tmp_path / "out.onnx", allow_unverified=True).report
    assert (allowed.verdict, allowed.exit_code) == ("not-verified", 0)


def test_a_wrong_fold_in_a_model_that_cannot_be_run_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plant(monkeypatch, lambda node: node.output[0] == "c")
    model = custom(f"c = Conv(a, w, b) n = {BN}(c, g, h, m, v) r = Relu(n) d = Conv(r, k) y = {BN}(d, g, h, m, v)",
                   k=numbers(4, 4, 1, 1))  # fmt: skip
    with pytest.raises(VerificationError, match=r"rewrite of n is wrong.*Without folding n it agrees.*report"):
        bnfold.optimize(model, tmp_path / "out.onnx")
    assert list(tmp_path.iterdir()) == []
    report = bnfold.optimize(model, tmp_path / "out.onnx", on_mismatch="rollback").report
    assert (report.verdict, report.exit_code) == ("proved", 0)
    assert {decision.node: decision.action for decision in report.decisions} == {"n": "kept", "y": "folded"}


def test_a_frozen_model_that_cannot_be_run_is_proved_against_evaluation_semantics() -> None:
    model = custom(f"c = Conv(a, w, b) y, mean, variance = {BN}<training_mode=1>(c, g, h, m, v)")
    assert bnfold.optimize(model).report.verdict == "proved"
    frozen = bnfold.freeze(model).report
    assert (frozen.verdict, frozen.explanation.endswith("nothing that their outputs depend on.")) == ("proved", True)


def test_what_was_substituted_is_not_asked_for_a_proof() -> None:
    model = build(f"c = Conv(x, w, b) y = {BN}(c, g, h, m, v)", inputs=INPUTS, constants=CONSTANTS)
    assert bnfold.optimize(model, substitute="layer-norm", proof="always").report.verdict == "substituted"


def test_verify_proves_any_two_files_unless_told_not_to(tmp_path: Path) -> None:
    model = MODELS / "digits_cnn.onnx"
    bnfold.optimize(model, tmp_path / "out.onnx")
    assert bnfold.verify(model, tmp_path / "out.onnx", proof="never").proofs == ()
    assert len(bnfold.verify(model, tmp_path / "out.onnx").proofs) == 5
    found = CliRunner().invoke(main, ["verify", str(model), str(tmp_path / "out.onnx"), "--report", "-"])
    assert len(json.loads(found.output)["verification"]["proofs"]) == 5


def test_a_word_that_is_no_choice_is_refused() -> None:
    with pytest.raises(UsageError, match="proof is one of auto, always, never"):
        bnfold.optimize(MODELS / "digits_cnn.onnx", proof="perhaps")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="on_mismatch is one of fail, rollback"):
        bnfold.optimize(MODELS / "digits_cnn.onnx", on_mismatch="shrug")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(path.stem for path in MODELS.glob("*.onnx")))
def test_every_rewrite_of_the_trained_models_is_proved(name: str) -> None:
    report = bnfold.optimize(MODELS / f"{name}.onnx", proof="always").report
    assert report.verdict == "equivalent"
    assert report.verification is not None
    assert {proof["standing"] for proof in report.verification["proofs"]} == {"holds"}


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
@pytest.mark.parametrize("name", ["densenet", "frozen_batch_norm", "mobilenet_v2", "preact_resnet", "squeeze_excite"])
def test_every_rewrite_of_exported_networks_is_proved(name: str, exporter: Any) -> None:
    report = bnfold.optimize(architectures.exported(name, exporter).proto, proof="always").report
    assert report.verdict == "equivalent"
    assert report.verification is not None
    assert {proof["standing"] for proof in report.verification["proofs"]} == {"holds"}


def test_no_fold_of_a_random_model_is_accused() -> None:
    """57: a slice of a Gemm. 90: behind an InstanceNormalization. 129: in a body. 232: a negative alpha. 307: a shift
    across MatMul. 721: across several."""
    from bnfold.equivalence import prove

    standings = []
    for seed in (57, 90, 129, 193, 228, 232, 307, 443, 521, 721, *range(40)):
        model = seeded_case(seed).model
        folded = bnfold.optimize(model, verify=False, freeze=False).model
        standings += [(seed, proof.standing.value, proof.reason) for proof in prove(model, folded)]
    assert [found for found in standings if found[1] == "broken"] == []
    assert sum(found[1] == "holds" for found in standings) > 40


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ["resnet50", "inception_v2", "shufflenet", "densenet121"])
def test_every_rewrite_of_the_real_graphs_is_proved(name: str) -> None:
    from bnfold.equivalence import prove

    model = light_graphs.light(name)
    folded = bnfold.optimize(model, verify=False).model
    assert {proof.standing.value for proof in prove(model, folded)} == {"holds"}
