"""spatial = 0 with one parameter per channel, which no runtime takes, is read as spatial = 1 on request."""

import numpy as np
import pytest

import bnfold
from bnfold.decisions import Action, Reason
from tests.fold_models import Row
from tests.oracle import evaluate

N = "BatchNormalization"
ROWS = {   # text, opset
    "opset 6": (f"c = Conv(x, w, b) y = {N}<is_test=1, spatial=0>(c, g, h, m, v)", 6),
    "opset 8": (f"c = Conv(x, w, b) y = {N}<spatial=0>(c, g, h, m, v)", 8),
    "nothing takes it up": (f"c = Conv(x, w, b) r = Sigmoid(c) s = {N}<spatial=0>(r, g, h, m, v) y = Sigmoid(s)", 7),
}  # fmt: skip
LEFT = {
    "a parameter for each position": (f"y = {N}<spatial=0>(x, p, p, p, q)", 8),
    "opset 9, which has no such attribute": (f"c = Conv(x, w, b) y = {N}<spatial=0>(c, g, h, m, v)", 9),
}
CONSTANTS = {"p": np.zeros((3, 6, 7), np.float32), "q": np.ones((3, 6, 7), np.float32)}


@pytest.mark.parametrize("name", ROWS)
def test_it_is_read_as_one(name: str) -> None:
    text, opset = ROWS[name]
    model = Row(text, constants=CONSTANTS, opset=opset).model()
    meant = Row(text.replace("spatial=0", "spatial=1"), constants=CONSTANTS, opset=opset).model()
    assert [each.decision.reason for each in bnfold.inspect(model).normalizations] == [Reason.SPATIAL_ZERO]
    result = bnfold.optimize(model, assume_spatial=True)
    assert result.report.verdict == ("proved" if opset == 6 else "equivalent")  # onnxruntime has no kernel for opset 6
    [decision] = result.report.decisions
    assert decision.action is (Action.FROZEN if "Sigmoid" in text else Action.FOLDED)
    assert "its spatial = 0 was read as 1" in decision.detail or decision.reason is Reason.BARRIER
    feeds = {"x": np.random.default_rng(0).normal(size=(2, 3, 6, 7)).astype(np.float32)}
    np.testing.assert_allclose(evaluate(result.model, feeds)["y"], evaluate(meant, feeds)["y"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", LEFT)
def test_nothing_else_is_read_otherwise(name: str) -> None:
    text, opset = LEFT[name]
    model = Row(text, constants=CONSTANTS, opset=opset).model()
    [found] = bnfold.inspect(model, assume_spatial=True).normalizations
    assert (found.decision.action, found.decision.reason) == (Action.KEPT, Reason.SPATIAL_ZERO)


def test_what_says_so_names_the_option() -> None:
    text, opset = ROWS["opset 8"]
    [found] = bnfold.inspect(Row(text, opset=opset).model()).normalizations
    assert "--assume-spatial" in Reason.SPATIAL_ZERO.sentence
    assert [each.code for each in found.diagnoses] == ["SPATIAL_ZERO"]
