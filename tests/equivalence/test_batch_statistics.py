"""BatchNormalizations that read, as stored statistics, those that training mode computes: told without the pass."""

import numpy as np
import pytest
from onnx import ModelProto

import bnfold
from bnfold.equivalence import Verdict, verify_frozen
from bnfold.equivalence.numbers.batch_statistics import places_with_their_own_statistics
from bnfold.equivalence.structure.scopes import Scopes
from tests.fold_models import Row, batch_norm

T = "BatchNormalization<training_mode=1>"
_MEAN = "n = ReduceMean<axes=[0,2,3], keepdims=0>(c) a = ReduceMean<axes=[0,2,3]>(c) d = Sub(c, a) e = Mul(d, d) "
THEIR_OWN = {
    "over the axes": f"{_MEAN} u = ReduceMean<axes=[0,2,3], keepdims=0>(e)",
    "as TorchScript writes it": "r = Reshape(c, flat) t = Transpose<perm=[0,2,1]>(r)"
    " n = ReduceMean<axes=[0,1], keepdims=0>(t) a = ReduceMean<axes=[0,1]>(t) d = Sub(t, a) e = Mul(d, d)"
    " u = ReduceMean<axes=[0,1], keepdims=0>(e)",
}
OTHERS = {
    "an unbiased variance": f"{_MEAN} i = ReduceMean<axes=[0,2,3], keepdims=0>(e) u = Mul(i, unbiased)",
    "of another value": "s = Sigmoid(c) n = ReduceMean<axes=[0,2,3], keepdims=0>(s) a = ReduceMean<axes=[0,2,3]>(s)"
    " d = Sub(s, a) e = Mul(d, d) u = ReduceMean<axes=[0,2,3], keepdims=0>(e)",
    "another variance": f"{_MEAN} o = Abs(d) u = ReduceMean<axes=[0,2,3], keepdims=0>(o)",
    "those of each image": "p = ReduceMean<axes=[2,3], keepdims=0>(c) n = Reshape(p, channels)"
    " a = ReduceMean<axes=[2,3]>(c) d = Sub(c, a) e = Mul(d, d) i = ReduceMean<axes=[2,3], keepdims=0>(e)"
    " u = Reshape(i, channels)",
}
CONSTANTS = {
    "flat": np.array([0, 4, -1], np.int64),
    "channels": np.array([-1], np.int64),
    "unbiased": np.float32(1.25),
    **batch_norm(4, ""),
}


def model_of(text: str, *, stored: bool = False) -> ModelProto:
    mode = "BatchNormalization" if stored else T
    inputs = {"x": "float[N,3,6,7]"}
    return Row(f"c = Conv(x, w, b) {text} y = {mode}(c, g, h, n, u)", inputs, CONSTANTS, opset=17).model()


@pytest.mark.parametrize("name", THEIR_OWN)
def test_statistics_of_the_data_itself_are_told(name: str) -> None:
    assert places_with_their_own_statistics(Scopes(model_of(THEIR_OWN[name]))) == {("", "y")}
    assert not places_with_their_own_statistics(Scopes(model_of(THEIR_OWN[name], stored=True)))


@pytest.mark.parametrize("name", OTHERS)
def test_other_statistics_are_not(name: str) -> None:
    assert not places_with_their_own_statistics(Scopes(model_of(OTHERS[name])))


@pytest.mark.parametrize("name", OTHERS)
def test_inference_mode_with_other_statistics_is_not_equivalent(name: str) -> None:
    before, wrong = (model_of(OTHERS[name], stored=stored).SerializeToString() for stored in (False, True))
    assert verify_frozen(before, wrong, stays={("", "y")}).verification.verdict is Verdict.NOT_EQUIVALENT


@pytest.mark.parametrize("name", THEIR_OWN)
@pytest.mark.parametrize("seed", range(3))
def test_inference_mode_is_equivalent_on_every_feed(name: str, seed: int) -> None:
    """Also on a constant channel, where 1 / sqrt(epsilon) multiplies what is left of the centred value."""
    report = bnfold.optimize(model_of(THEIR_OWN[name]), seed=seed).report
    assert report.verdict == "equivalent"
    assert "inference mode now" in report.decisions[0].detail
    assert not report.training_distance
