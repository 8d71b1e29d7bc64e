"""A fold that is wrong is found, named, and taken back alone: bugs planted in the table of the passes."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import ModelProto, NodeProto

import bnfold
from bnfold.cli import main
from bnfold.decisions import Action, Reason
from bnfold.errors import VerificationError
from bnfold.graph import Graph
from bnfold.passes import fold
from bnfold.passes.affine import Affine
from bnfold.passes.step import Step
from tests.fold_models import CONSTANTS, INPUTS, build, numbers
from tests.oracle import evaluate

BN = "BatchNormalization"
LAYERS = 6


def chain(layers: int = LAYERS) -> ModelProto:
    """Convolutions with a normalization each: bn0, bn1, ..."""
    text, value = "", "x"
    for layer in range(layers):
        weight = "w" if layer == 0 else f"k{layer}"
        text += (
            f" c{layer} = Conv({value}, {weight}, b) n{layer} = {BN}(c{layer}, g, h, m, v) r{layer} = Relu(n{layer})"
        )
        value = f"r{layer}"
    weights = {f"k{layer}": numbers(4, 4, 1, 1, seed=layer) for layer in range(1, layers)}
    model = build(f"{text} y = Identity({value})", inputs=INPUTS, constants={**CONSTANTS, **weights})
    for node in model.graph.node:
        if node.op_type == BN:
            node.name = f"bn{node.output[0][1:]}"
    return model


def plant(monkeypatch: pytest.MonkeyPatch, wrong: Callable[[NodeProto], bool]) -> None:
    """Let Conv absorb a map as if its shift were 1 % larger, at the nodes that are `wrong`."""
    right = fold.TOWARD_PRODUCER["Conv"]

    def planted(node: NodeProto, index: int, affine: Affine, graph: Graph) -> list[Step]:
        if wrong(node):
            affine = Affine(affine.scale, affine.shift * 1.01, affine.has_scale, affine.has_shift)
        return right(node, index, affine, graph)

    monkeypatch.setitem(fold.TOWARD_PRODUCER, "Conv", planted)


def at(*layers: int) -> Callable[[NodeProto], bool]:
    return lambda node: node.output[0] in {f"c{layer}" for layer in layers}


@pytest.mark.parametrize("proof", ["auto", "never"])
@pytest.mark.parametrize("layers", [(2,), (0, 4)])
def test_rollback_takes_back_the_guilty_folds_alone(
    layers: tuple[int, ...], proof: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plant(monkeypatch, at(*layers))
    model, output = chain(), tmp_path / "out.onnx"
    report = bnfold.optimize(model, output, on_mismatch="rollback", proof=proof).report
    assert (report.verdict, report.exit_code, report.published) == ("equivalent", 0, str(output))
    assert report.attribution is not None
    names = [f"bn{layer}" for layer in layers]
    assert [each["node"] for each in report.attribution["guilty"]] == names
    assert (report.attribution["cleared"], report.attribution["rolled_back"]) == (True, True)
    kept = {decision.node: decision.reason for decision in report.decisions if decision.action is Action.KEPT}
    assert kept == dict.fromkeys(names, Reason.ROLLED_BACK)
    assert len(report.decisions) - len(kept) == LAYERS - len(layers)
    assert ", ".join(names) in report.explanation
    assert ("please report it" in report.explanation) is (proof != "never"), "only a broken proof is a bug for certain"
    assert report.input.sha256 == hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()

    feeds = {"x": numbers(2, 3, 6 + 2, 7 + 2)}
    published = onnx.load(output)
    assert sum(node.op_type == BN for node in published.graph.node) == len(layers)
    (was,), (now,) = evaluate(model, feeds).values(), evaluate(published, feeds).values()
    np.testing.assert_allclose(now, was, rtol=1e-4, atol=1e-4)


def test_a_mismatch_fails_by_default_and_names_the_guilty(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plant(monkeypatch, at(3))
    with pytest.raises(VerificationError, match=r"Without folding bn3 it agrees.*rollback") as failure:
        bnfold.optimize(chain(), tmp_path / "out.onnx", proof="never", keep_failed=True)
    report = failure.value.report
    assert (report.verdict, report.exit_code, report.published) == ("not-equivalent", 1, None)
    assert report.attribution["guilty"] == [{"node": "bn3", "scope": ""}]
    assert report.attribution["rolled_back"] is False
    assert all(decision.action is Action.FOLDED for decision in report.decisions)
    assert [path.name for path in tmp_path.iterdir()] == ["out.failed.onnx"]
    failed = onnx.load(tmp_path / "out.failed.onnx")
    assert not any(node.op_type == BN for node in failed.graph.node), "what failed is kept, not what was tried last"


def test_a_broken_proof_is_a_bug_and_points_at_the_guilty_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, at(5))
    with pytest.raises(VerificationError, match=r"The rewrite of bn5 is wrong.*please report it") as failure:
        bnfold.optimize(chain(), proof="always")
    report = failure.value.report
    assert report.attribution["tried"] <= 3
    standings = {proof["output"]: proof["standing"] for proof in report.verification["proofs"]}
    assert standings == {f"n{layer}": "broken" if layer == 5 else "holds" for layer in range(LAYERS)}


def test_what_no_rollback_can_mend_stays_a_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from bnfold.passes import freeze_batch_norm

    def wrong(node: NodeProto, graph: Graph) -> None:
        node.input[1] = node.input[4]
        graph.set_attribute(node, "training_mode", 0)

    monkeypatch.setattr(freeze_batch_norm, "set_inference_mode", wrong)
    model = build(f"c = Conv(x, w, b) y = {BN}<training_mode=1>(c, g, h, m, v)", inputs=INPUTS, constants=CONSTANTS)
    with pytest.raises(VerificationError, match="Leaving out folds does not help") as failure:
        bnfold.optimize(model, tmp_path / "out.onnx", on_mismatch="rollback", proof="never")
    assert failure.value.report.attribution["guilty"] == []
    assert list(tmp_path.iterdir()) == []


def test_a_run_of_operators_is_rolled_back_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, lambda node: node.output[0] == "c")
    text = "c = Conv(x, w, b) d = Sub(c, o) e = Mul(d, s) f = Add(e, o) r = Relu(f) y = Conv(r, k)"
    constants = {**CONSTANTS, "o": numbers(4, 1, 1), "s": numbers(4, 1, 1, seed=3), "k": numbers(4, 4, 1, 1)}
    result = bnfold.optimize(build(text, inputs=INPUTS, constants=constants), on_mismatch="rollback")
    assert [node.op_type for node in result.model.graph.node] == ["Conv", "Sub", "Mul", "Add", "Relu", "Conv"]
    (decision,) = result.report.decisions
    assert (decision.node, decision.op_type, decision.reason) == ("d", "Sub+Mul+Add", Reason.ROLLED_BACK)


def test_a_fold_in_a_nested_body_is_rolled_back_in_its_scope(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, lambda node: node.output[0] == "inner")
    text = (
        f"c = Conv(x, w, b) y0 = {BN}(c, g, h, m, v) r = Relu(y0) y = If(flag)<then_branch = t () => (s) "
        f"{{ inner = Conv(r, k) s = {BN}(inner, g, h, m, v) }}, else_branch = e () => (q) {{ q = Relu(r) }}>"
    )
    constants = {**CONSTANTS, "k": numbers(4, 4, 1, 1)}
    report = bnfold.optimize(build(text, inputs=INPUTS, constants=constants), on_mismatch="rollback").report
    assert report.attribution is not None
    assert report.attribution["guilty"] == [{"node": "s", "scope": "y.then_branch"}]
    assert {decision.node: decision.action for decision in report.decisions} == {"y0": "folded", "s": "kept"}


def test_the_command_line_rolls_back_and_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plant(monkeypatch, at(1))
    onnx.save(chain(), tmp_path / "in.onnx")
    paths = [str(tmp_path / name) for name in ("in.onnx", "out.onnx")]
    arguments = ["optimize", *paths, "--on-mismatch", "rollback", "--report", str(tmp_path / "report.json")]
    found = CliRunner().invoke(main, arguments)
    assert found.exit_code == 0, found.output
    assert "kept bn1: Folding it made the result differ" in found.output
    assert "Folding bn1 made the result differ; that was rolled back" in found.output
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["attribution"]["guilty"] == [{"node": "bn1", "scope": ""}]
    assert written["decisions"][1]["reason"]["code"] == "ROLLED_BACK"
    failed = CliRunner().invoke(main, ["optimize", *paths])
    assert failed.exit_code == 1
    assert "Without folding bn1 it agrees; --on-mismatch rollback publishes the rest" in failed.stderr
