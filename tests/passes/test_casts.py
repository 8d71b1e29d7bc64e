"""Casts and Identities: transparent where they change nothing, one way and for a scale alone where they round."""

import ml_dtypes
import numpy as np
import pytest

import bnfold
from bnfold.decisions import Action
from tests.fold_models import Row, batch_norm, check_folds, check_left_alone, completing, fold, numbers

_INPUTS = {
    "half": "float16[N,3,6,7]",
    "brain": "bfloat16[N,3,6,7]",
    "p": "float[N,4,6,7]",
    "like": "float",
    "like16": "float16",
}
_CONSTANTS = {
    **{f"{name}16": array.astype(np.float16) for name, array in batch_norm(4, "").items()},
    **{f"{name}64": array.astype(np.float64) for name, array in batch_norm(4, "").items()},
    "w16": numbers(4, 3, 3, 3, dtype=np.float16),
    "wb": numbers(4, 3, 3, 3, dtype=ml_dtypes.bfloat16),
    "u": numbers(5, 4, 1, 1),
    "u16": numbers(5, 4, 1, 1, dtype=np.float16),
    "u64": numbers(5, 4, 1, 1, dtype=np.float64),
    "o": np.zeros(4, np.float32),
    "o16": np.zeros(4, np.float16),
    "o64": np.zeros(4),
    "ones": np.ones(4, np.float32),
    "t": numbers(4),
    "s": numbers(4, seed=1),
    "c3": numbers(3, 1, 1),
    "c32": numbers(3, 1, 1, seed=2),
}
B = "BatchNormalization(c, g, h, m, v)"
SCALE = "BatchNormalization(c, g, o, o, v)"


_row = completing(_INPUTS, _CONSTANTS)

FOLDS = {
    "to its own type": (Row(f"d = Conv(x, w, b) c = Cast<to=1>(d) y = {B}"), "Conv Cast"),
    "to its own type, CastLike": (Row(f"d = Conv(x, w, b) c = CastLike(d, like) y = {B}"), "Conv CastLike"),
    "to its own type, toward the consumer": (
        Row("n = BatchNormalization(p, g, h, m, v) c = Cast<to=1>(n) y = Conv(c, u)"),
        "Cast Conv",
    ),
    "as Keras writes it on torch": (
        Row(
            "d = Conv(x, w, b) e = Transpose<perm=[0,2,3,1]>(d) k = Cast<to=1>(e) i = Sub(k, t) j = Mul(i, s)"
            "q = Add(j, b) r = Cast<to=1>(q) y = Relu(r)"
        ),
        "Conv Transpose Cast Cast Relu",
    ),
    "between the operators of one": (
        Row("a = Sub(x, c3) i = Identity(a) e = Cast<to=1>(i) f = Div(e, c32) j = Identity(f) y = Conv(j, w, b)"),
        "Identity Conv",
    ),
    "a scale, into weights of half the width": (Row(f"d = Conv(half, w16) c = Cast<to=1>(d) y = {SCALE}"), "Conv Cast"),
    "a scale, into bfloat16": (Row(f"d = Conv(brain, wb) c = Cast<to=1>(d) y = {SCALE}", opset=22), "Conv Cast"),
    "a scale, from double": (
        Row("d = Conv(x, w) c = Cast<to=11>(d) y = BatchNormalization(c, g64, o64, o64, v64)"),
        "Conv Cast",
    ),
    "a scale, toward the narrower consumer": (
        Row("n = BatchNormalization(p, g, o, o, v) c = Cast<to=10>(n) y = Conv(c, u16)"),
        "Cast Conv",
    ),
    "a scale, toward the narrower consumer, CastLike": (
        Row("n = BatchNormalization(p, g, o, o, v) c = CastLike(n, like16) y = Conv(c, u16)"),
        "CastLike Conv",
    ),
    "the scale alone, its shift stays": (Row(f"d = Conv(half, w16) c = Cast<to=1>(d) y = {B}"), "Conv Cast Add"),
}


@pytest.mark.parametrize("name", FOLDS)
def test_folds(name: str) -> None:
    row, left = FOLDS[name]
    narrow = any(f" {kind}," in row.text.replace("(", " ") for kind in ("half", "brain")) or "to=10" in row.text
    done = check_folds(_row(row), left, rtol=2e-2 if narrow or "like16" in row.text else 2e-6)
    assert {decision.action for decision in done.decisions} == {Action.FOLDED}


LEFT_ALONE = {
    "ROUNDING_CAST: a shift": Row(
        "d = Conv(half, w16) c = Cast<to=1>(d) y = BatchNormalization<epsilon=0.0>(c, /s|ones/, /o|h/, o, ones)"
    ),
    "ROUNDING_CAST: into the wider type": Row(
        "d = Conv(x, w, b) c = Cast<to=/1|10/>(d) y = BatchNormalization(c, /g, o, o, v|g16, o16, o16, v16/)"
    ),
    "ROUNDING_CAST: into the wider type, CastLike": Row(
        "d = Conv(x, w, b) c = CastLike(d, /like|like16/) y = BatchNormalization(c, /g, o, o, v|g16, o16, o16, v16/)"
    ),
    "ROUNDING_CAST: from one short type to the other": Row(
        "d = Conv(brain, wb) c = Cast<to=/1|10/>(d) y = BatchNormalization(c, /g, o, o, v|g16, o16, o16, v16/)"
    ),
    "ROUNDING_CAST: toward the wider consumer": Row(
        "n = BatchNormalization(p, g, o, o, v) c = Cast<to=/1|11/>(n) y = Conv(c, /u|u64/)"
    ),
    "BARRIER: an integer between": Row(f"d = Conv(x, w, b) e = Cast<to=/1|6/>(d) c = Cast<to=1>(e) y = {B}"),
}


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_left_alone(name: str) -> None:
    check_left_alone(name, _row(LEFT_ALONE[name]))


# What changes nothing belongs to the run it stands in, but is no reason to touch one.
BETWEEN = {
    "two normalizations": (
        "n = BatchNormalization(a, g3, h3, m3, v3) i = Identity(n) z = BatchNormalization(i, h3, g3, m3, v3)",
        "BatchNormalization",
    ),
    "two normalizations, inference Dropout": (
        "n = BatchNormalization(a, g3, h3, m3, v3) i = Dropout(n) z = BatchNormalization(i, h3, g3, m3, v3)",
        "BatchNormalization",
    ),
    "three products": ("n = Mul(a, c3) i = Identity(n) o = Div(i, c32) e = Cast<to=1>(o) z = Mul(e, c3)", "Mul"),
    "no fewer operators": ("n = Mul(a, c3) i = Identity(n) z = Add(i, c32)", "Mul Identity Add"),
    "in front and behind": (
        "i = Identity(a) n = Mul(i, c3) o = Mul(n, c32) z = Cast<to=1>(o)",
        "Identity Mul Cast",
    ),
    "that rounds": (
        "n = Mul(a, c3) i = Cast<to=10>(n) e = Cast<to=1>(i) z = Mul(e, c32)",
        "Mul Cast Cast Mul",
    ),
}


@pytest.mark.parametrize("name", BETWEEN)
def test_a_run_is_not_split(name: str) -> None:
    text, left = BETWEEN[name]
    row = _row(Row(f"a = Sigmoid(x) {text} y = Sigmoid(z)"))
    assert fold(row.model()).operators == ["Sigmoid", *left.split(), "Sigmoid"]


def test_a_run_ends_where_an_identity_has_two_readers() -> None:
    text = "a = Sigmoid(x) n = Mul(a, c3) i = Identity(n) o = Mul(i, c32) y = Sigmoid(o) z = Sigmoid(i)"
    assert not fold(_row(Row(text, outputs=("y", "z"))).model()).modified


def test_the_decision_names_what_does_something() -> None:
    row = _row(Row("a = Sub(x, c3) i = Identity(a) y_ = Div(i, c32) y = Conv(y_, w, b)"))
    assert fold(row.model()).decision().op_type == "Sub+Div"


@pytest.mark.parametrize("name", ["as Keras writes it on torch", "a scale, into weights of half the width"])
def test_the_proof_holds(name: str) -> None:
    """Nothing of it is left to running alone."""
    report = bnfold.optimize(_row(FOLDS[name][0]).model(), proof="always").report
    assert report.verdict == "equivalent"
    assert {proof["standing"] for proof in report.verification["proofs"]} == {"holds"}
