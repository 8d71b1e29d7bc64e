"""Pieces that differ at numbers which never enter them are not broken; those that differ where they are used are."""

import numpy as np
import pytest
from onnx import ModelProto

import bnfold
from bnfold.equivalence.numbers.float64 import Unknowable
from bnfold.equivalence.proofs.made_values import depend_on_each_other, made_together
from bnfold.equivalence.proofs.obligations import Correspondence
from bnfold.equivalence.structure.scopes import Cutter, Value
from bnfold.testing import build, numbers

START = "c = Conv<pads=[1,1,1,1]>(x, w)\nr = Relu(c)\nn = Neg(c)\nz = Relu(n)\n"


def model(text: str) -> ModelProto:
    constants = {"w": numbers(4, 3, 3, 3), "some": np.float32(0.5), "large": np.float32(3.0)}
    return build(START + text, inputs={"x": "float[N,3,6,7]"}, constants=constants, outputs=("y",))


RIGHT = {
    "a second Relu": ("q = Relu(r) y = Neg(q)", "y = Neg(r)"),
    "Abs of what is not negative": ("q = Abs(r) y = Neg(q)", "y = Neg(r)"),
    "the larger of a value and its Relu": ("q = Max(c, r) y = Neg(q)", "y = Neg(r)"),
    "the smaller of a value and its Relu": ("q = Min(c, r) y = Neg(q)", "y = Neg(c)"),
    "both halves of a value": ("d = Sub(r, z) s = Sub(d, c) q = Add(s, c) y = Neg(q)", "y = Neg(c)"),
}
WRONG = {
    "a Relu of less": ("l = Sub(r, some) q = Relu(l) y = Neg(q)", "l = Sub(r, some) y = Neg(l)"),
    "Abs of what may be negative": ("q = Abs(c) y = Neg(q)", "y = Neg(c)"),
    "the larger for the value": ("q = Max(c, r) y = Neg(q)", "y = Neg(c)"),
    "the smaller for the Relu": ("q = Min(c, r) y = Neg(q)", "y = Neg(r)"),
    "one half of a value": ("d = Sub(r, z) s = Sub(d, c) q = Add(s, c) y = Neg(q)", "y = Neg(r)"),
    "a bound that is reached": ("l = Min(r, large) y = Neg(l)", "y = Neg(r)"),
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_rewrite_is_compared_by_running(name: str) -> None:
    was, now = (model(text) for text in RIGHT[name])
    found = bnfold.verify(was, now)
    assert found.verdict == "equivalent"
    assert "broken" not in {proof.standing for proof in found.proofs}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_rewrite_is_still_refused(name: str) -> None:
    was, now = (model(text) for text in WRONG[name])
    assert bnfold.verify(was, now).verdict == "not-equivalent"


def together(text: str, *names: str) -> list[dict[str, np.ndarray]]:
    cutter = Cutter(model(text))
    shapes = Correspondence(cutter, Cutter(model(text))).shapes
    return list(made_together([Value(0, name) for name in names], cutter, shapes, 0))


def test_values_are_those_of_the_same_inputs() -> None:
    for values in together("y = Neg(r)", "c", "r", "z"):
        np.testing.assert_array_equal(values["r"], np.maximum(values["c"], 0))
        np.testing.assert_array_equal(values["z"], np.maximum(-values["c"], 0))
    sizes = [np.abs(values["c"]).max() for values in together("y = Neg(r)", "c")]
    assert max(sizes) > 1000 * min(sizes)


def test_an_input_is_a_value_too() -> None:
    (first, *_) = together("y = Neg(r)", "x", "r")
    assert first["x"].shape[1] == 3
    with pytest.raises(Unknowable, match="the inputs themselves"):
        together("y = Neg(r)", "x")


def test_integers_are_not_drawn() -> None:
    gather = build(
        "e = Gather(w, i)\ny = Relu(e)", inputs={"i": "int64[N]"}, constants={"w": numbers(4, 3)}, outputs=("y",)
    )
    cutter = Cutter(gather)
    with pytest.raises(Unknowable, match="not drawn"):
        list(made_together([Value(0, "e")], cutter, Correspondence(cutter, Cutter(gather)).shapes, 0))


def test_which_values_depend_on_each_other() -> None:
    cutter = Cutter(model("y = Neg(r)"))

    def depend(*names: str) -> bool:
        return depend_on_each_other([Value(0, name) for name in names], cutter)

    assert depend("c", "r")
    assert depend("z", "x")
    assert not depend("r", "z")
    assert not depend("c")
