"""A difference that no output shows is no bug; the least one that an output shows, however hidden, is."""

import re

import numpy as np
import pytest
from onnx import ModelProto

import bnfold
from bnfold.equivalence import prove
from bnfold.equivalence.numbers.float64 import Unknowable
from bnfold.equivalence.proofs.obligations import Correspondence
from bnfold.equivalence.proofs.reaching import reaches_an_output
from bnfold.equivalence.structure.scopes import Cutter
from bnfold.testing import build, numbers

W, B, LOGITS = numbers(4, 3, 3, 3), numbers(4), numbers(300)
CONSTANTS = {
    "w": W,
    "b": B,
    "s": numbers(4, seed=1),
    "h": numbers(4, seed=2),
    "nothing": np.zeros(4, np.float32),
    "one": np.float32(1),
    "two": np.float32(2),
    "hundred": np.float32(100),
    "zero": np.zeros((1, 4, 1, 1), np.float32),
    "even": np.array([1, 0, 1, 0], np.float32).reshape(1, 4, 1, 1),
    "odd": W * np.array([1, 3, 1, 3], np.float32)[:, None, None, None],
    "scaled": W * np.array([1, 1.001, 1, 1], np.float32)[:, None, None, None],
    "moved": B + np.array([0, 0.001, 0, 0], np.float32),
    "all_moved": B + np.float32(0.01),
    "classes": numbers(4, 300),
    "c": LOGITS,
    "c_moved": LOGITS + np.float32(0.001) * np.eye(300, dtype=np.float32)[7],
    "k": numbers(2, 4, 2, 2),
    "e": numbers(2),
    "e_moved": numbers(2) * np.float32(1.01),
    "q": np.float32(0.5),
    "z": np.int8(0),
}


def model(text: str) -> ModelProto:
    used = text.replace("(", " ").replace(")", " ").replace(",", " ").split()
    constants = {name: value for name, value in CONSTANTS.items() if name in used}
    return build(text, inputs={"x": "float[2,3,6,7]"}, constants=constants, outputs=("y",))


CONV = "a = Conv(x, w, b) "
RIGHT = {
    "a channel times zero behind Relu": (CONV, "r = Relu(a) d = Mul(r, even) y = Add(d, one)", ("w", "odd")),
    "never above zero": (CONV, "t = Tanh(a) d = Sub(t, hundred) r = Relu(d) y = Add(r, one)", ("b", "nothing")),
    "a shift before Softmax": ("i = Conv(x, w, b) a = Add(i, one) ", "y = Softmax<axis = 1>(a)", ("one", "two")),
    "a scale before ArgMax": ("i = Conv(x, w, b) a = Mul(i, two) ", "y = ArgMax<axis = 1>(a)", ("two", "q")),
}
PROVED = {
    "a bias before InstanceNormalization": (
        CONV,
        "d = InstanceNormalization(a, s, h) y = Add(d, one)",
        ("b", "nothing"),
    ),
    "less what the mean is": (CONV, "g = GlobalAveragePool(a) d = Sub(a, g) y = Relu(d)", ("b", "nothing")),
    "less itself": (CONV, "d = Sub(a, a) y = Add(d, one)", ("b", "nothing")),
    "times zero": (CONV, "d = Mul(a, zero) y = Add(d, one)", ("b", "nothing")),
    "a channel times zero": (CONV, "d = Mul(a, even) y = Add(d, one)", ("w", "odd")),
}
CHANGED = {"a shift": ("b", "moved"), "a weight": ("w", "scaled"), "all shifts": ("b", "all_moved")}
HIDING = {
    "ArgMax": "y = ArgMax<axis = 1>(a)",
    "Sign": "y = Sign(a)",
    "Round": "y = Round(a)",
    "QuantizeLinear": "y = QuantizeLinear(a, q, z)",
    "Greater": "y = Greater(a, one)",
    "Sigmoid at its ends": "t = Mul(a, hundred) y = Sigmoid(t)",
    "Relu of little": "t = Sub(a, hundred) y = Relu(t)",
    "a mean that is not taken out": "g = GlobalAveragePool(a) d = Add(a, g) y = Relu(d)",
    "the largest": "y = ReduceMax<axes = [1]>(a)",
    "a small part": "t = Div(a, hundred) u = Div(t, hundred) v = Div(u, hundred) y = Add(v, one)",
}
HIDDEN_FROM = {("ArgMax", "all shifts")}  # a shift of all classes changes no order


def both(start: str, rest: str, change: tuple[str, str]) -> tuple[ModelProto, ModelProto]:
    old, new = change
    return model(start + rest), model(re.sub(rf"\b{old}\b", new, start) + rest)


@pytest.mark.parametrize("name", RIGHT)
def test_what_no_output_shows_is_compared_by_running(name: str) -> None:
    found = bnfold.verify(*both(*RIGHT[name]))
    assert found.verdict == "equivalent", found.explanation
    assert [(proof.standing, proof.unseen) for proof in found.proofs] == [("undecided", True)]
    assert "no output shows it" in found.proofs[0].reason


@pytest.mark.parametrize("name", PROVED)
def test_what_cancels_at_once_is_proved(name: str) -> None:
    found = bnfold.verify(*both(*PROVED[name]))
    assert found.verdict == "equivalent"
    assert [proof.standing for proof in found.proofs] == ["holds"]


WRONG = [(hiding, what) for hiding in HIDING for what in CHANGED if (hiding, what) not in HIDDEN_FROM]


@pytest.mark.parametrize(("hiding", "what"), WRONG)
def test_what_an_output_shows_is_wrong_however_it_hides(hiding: str, what: str) -> None:
    was, now = both(CONV, HIDING[hiding], CHANGED[what])
    assert [proof.standing for proof in prove(was, now)] == ["broken"]


def test_one_of_many_classes_is_not_hidden_by_the_others() -> None:
    text = "i = Conv(x, w, b) g = GlobalAveragePool(i) f = Flatten(g) a = Gemm(f, classes, c) y = ArgMax<axis = 1>(a)"
    was, now = model(text), model(text.replace("classes, c)", "classes, c_moved)"))
    assert [proof.standing for proof in prove(was, now)] == ["broken"]


def test_another_wrong_value_is_still_found() -> None:
    text = CONV + "g = GlobalAveragePool(a) n = Sub(a, g) r = Sigmoid(n) y = Conv(r, k, e)"
    unseen = text.replace("w, b)", "w, nothing)")
    found = [
        {proof.output: str(proof.standing) for proof in prove(model(text), model(other))}
        for other in (unseen, unseen.replace("k, e)", "k, e_moved)"))
    ]
    assert found == [{"r": "holds"}, {"a": "undecided", "y": "broken"}]


def test_a_large_model_is_not_run_in_float64() -> None:
    text = CONV + "t = Tanh(a) d = Sub(t, hundred) y = Relu(d)"
    large = [
        build(text.replace("b)", bias), inputs={"x": "float[1,3,3000,3000]"}, constants=CONSTANTS)
        for bias in ("b)", "nothing)")
    ]
    common = Correspondence(*map(Cutter, large))
    obligations, _ = common.obligations()
    (obligation,) = (each for each in obligations.values() if not each.settled)
    with pytest.raises(Unknowable, match="too large"):
        reaches_an_output(obligation, common, 0)
    assert [proof.standing for proof in prove(*large)] == ["broken"]
