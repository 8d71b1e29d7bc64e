"""Readers that share a value out among themselves: what changes the part of one is no matter to the others."""

import numpy as np
import pytest

import bnfold
from bnfold.decisions import Action
from bnfold.equivalence import Standing, prove
from bnfold.passes import FoldBatchNormOptions
from tests.fold_models import Row, batch_norm, check_folds, check_left_alone, fold, int64, numbers

_INPUTS = {"rows": "float[N,3,5]", "x": "float[2,3,8,7]", "tokens": "float[N,5]"}


_CONSTANTS = {
    **batch_norm(4, "4"),
    **{name: array for c in (2, 3) for name, array in batch_norm(c, str(c)).items()},
    "w8": numbers(8, 3, 1, 1),
    "k": numbers(5, 6),
    "s": numbers(6, seed=1),
    "t": numbers(6, seed=2),
    "s2": numbers(6, seed=3),
    "one4": np.ones(4, np.float32),
    "zero4": np.zeros(4, np.float32),
    "i0": int64(0),
    "i1": int64(1),
    "i2": int64(2),
    "i3": int64(3),
    "i4": int64(4),
    "i6": int64(6),
    "i8": int64(8),
    "front": int64(0, 1, 2, 3),
    "behind": int64(7, 6, 5, 4),
    "odd": int64(4, 5, 6, 3),
    "sizes": int64(4, 4),
    "together": int64(0, 2, 28, 8),
}
BN4 = "BatchNormalization({}, g4, h4, m4, v4)"
HALVES = "d = Conv(x, w8) a = Slice(d, i0, i4, i1) e = Slice(d, i4, i8, i1)"
INSTANCE = "z = InstanceNormalization(e, one4, zero4)"
FOLDS = {
    "two slices": (f"{HALVES} y = {BN4.format('a')} {INSTANCE}", "Conv Slice Slice InstanceNormalization"),
    "two slices, each with its own": (
        f"{HALVES} y = {BN4.format('a')} z = BatchNormalization(e, h4, g4, m4, v4)", "Conv Slice Slice",
    ),
    "three slices": (
        ("d = Conv(x, w8) a = Slice(d, i0, i2, i1) e = Slice(d, i2, i4, i1) f = Slice(d, i4, i8, i1)"
         "y = BatchNormalization(a, g2, h2, m2, v2) p = Sigmoid(e) q = Relu(f) z = Concat<axis=1>(p, q)"),
        "Conv Slice Slice Slice Sigmoid Relu Concat",
    ),
    "Gather": (
        f"d = Conv(x, w8) a = Gather<axis=1>(d, front) e = Gather<axis=1>(d, behind) y = {BN4.format('a')} {INSTANCE}",
        "Conv Gather Gather InstanceNormalization",
    ),
    "one behind a Transpose": (
        (f"d = Conv(x, w8) a = Slice(d, i0, i4, i1) t_ = Transpose<perm=[0,2,3,1]>(d) e = Slice(t_, i4, i8, i3)"
         f"y = {BN4.format('a')} z = Relu(e)"),
        "Conv Slice Transpose Slice Relu",
    ),
    "a Split beside a Slice": (
        f"d = Conv(x, w8) a = Slice(d, i0, i4, i1) u, e = Split<axis=1>(d, sizes) y = {BN4.format('a')} {INSTANCE}",
        "Conv Slice Split InstanceNormalization",
    ),
}  # fmt: skip
# Readers that all ask for the same map, none of which could be moved alone.
SIBLINGS = {
    "the same map behind each slice": (
        ("a = MatMul(tokens, k) p = Add(a, t) u = Unsqueeze(p, i1) c = Concat<axis=1>(u, u)"
         "e = Slice(c, i0, i1, i1) f = Slice(c, i1, i2, i1) q = Mul(e, s) y = Add(q, t) r = Mul(f, s) z = Add(r, t)"),
        "MatMul Add Unsqueeze Concat Slice Slice",
    ),
    "two readers of one value": (
        f"d = Conv(x, w) q = {BN4.format('d')} r = {BN4.format('d')} y = Relu(q) z = Sigmoid(r)", "Conv Relu Sigmoid",
    ),
    "rows of one value": (
        (f"d = Conv(x, w) a = Slice(d, i0, i2, i2) e = Slice(d, i2, i8, i2) q = {BN4.format('a')} y = Relu(q)"
         f"r = {BN4.format('e')} z = Sigmoid(r)"),
        "Conv Slice Slice Relu Sigmoid",
    ),
    "each part of a product without a bias": (
        ("a = MatMul(rows, k) e = Slice(a, i0, i1, i1) f = Slice(a, i1, i3, i1) q = Mul(e, s) n = Add(q, t) "
         "r = Mul(f, s) l = Add(r, t) y = Relu(n) z = Sigmoid(l)"),
        "MatMul Add Slice Slice Relu Sigmoid",
    ),
    "some rows of a product, the others unread": (
        ("a = MatMul(rows, k) p = Add(a, t) e = Slice(p, i0, i1, i1) f = Slice(p, i1, i2, i1) q = Mul(e, s) "
         "n = Add(q, t) r = Mul(f, s) l = Add(r, t) y = Relu(n) z = Sigmoid(l)"),
        "MatMul Add Slice Slice Relu Sigmoid",
    ),
    "every output of a Split": (
        (f"d = Conv(x, w1_) a, e = Split<axis=3>(d, widths) q = {BN4.format('a')} y = Relu(q) r = {BN4.format('e')} "
         "z = Sigmoid(r)"),
        "Conv Split Relu Sigmoid",
    ),
}  # fmt: skip


def _row(text: str) -> Row:
    constants = {**_CONSTANTS, "w1_": numbers(4, 3, 1, 1), "widths": int64(3, 4)}
    return Row(text, _INPUTS, constants, outputs=("y", "z"))


@pytest.mark.parametrize("name", [*FOLDS, *SIBLINGS])
def test_folds(name: str) -> None:
    text, left = {**FOLDS, **SIBLINGS}[name]
    row = _row(text)
    done = check_folds(row, left)
    assert {decision.action for decision in done.decisions} == {Action.FOLDED}
    assert len(done.decisions) == text.count("BatchNormalization") + text.count("Mul(") - text.count("MatMul(")


LEFT_ALONE = {
    "OTHER_CONSUMER: the slices overlap": f"d = Conv(x, w8) a = Slice(d, i0, i4, i1) e = Slice(d, /i4|i3/, i8, i1) "
    f"y = {BN4.format('a')} z = Sigmoid(e)",
    "OTHER_CONSUMER: an index is read twice": (
        f"d = Conv(x, w8) a = Gather<axis=1>(d, front) e = Gather<axis=1>(d, /behind|odd/) y = {BN4.format('a')} "
        "z = Sigmoid(e)"
    ),
    "OTHER_CONSUMER: all of it is read as well": f"{HALVES} y = {BN4.format('a')} z = Sigmoid(/e|d/)",
    "OTHER_CONSUMER: all of it is read behind a Reshape": (
        f"{HALVES} r = Reshape(d, together) y = {BN4.format('a')} z = Sigmoid(/e|r/)"
    ),
}
del LEFT_ALONE["OTHER_CONSUMER: all of it is read behind a Reshape"]


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_left_alone(name: str) -> None:
    check_left_alone(name, _row(LEFT_ALONE[name]))


def test_no_add_is_made_for_what_nobody_reads() -> None:
    """It would be more work than the maps of a few rows were."""
    slices = "a = MatMul(rows, k) e = Slice(a, i0, i1, i1) f = Slice(a, i1, {}, i1)"
    maps = "q = Mul(e, s) n = Add(q, t) r = Mul(f, s) l = Add(r, t) y = Relu(n) z = Sigmoid(l)"
    assert fold(_row(f"{slices.format('i3')} {maps}").model()).modified
    done = fold(_row(f"{slices.format('i2')} {maps}").model())
    assert not done.modified


UNLIKE = {
    "other numbers": "z_ = BatchNormalization(d, h4, g4, m4, v4) z = Sigmoid(z_)",
    "another reader": "z = Sigmoid(d)",
}


@pytest.mark.parametrize("name", UNLIKE)
def test_siblings_that_ask_for_something_else_stay(name: str) -> None:
    done = fold(_row(f"d = Conv(x, w) q = {BN4.format('d')} y = Relu(q) {UNLIKE[name]}").model())
    assert not done.modified
    assert {decision.reason and decision.reason.code for decision in done.decisions} == {"OTHER_CONSUMER"}


@pytest.mark.parametrize("options", [{"keep": ("r",)}, {"forbidden": frozenset({("", "r")})}])
def test_a_sibling_that_is_to_stay_holds_the_others(options: dict[str, object]) -> None:
    model = _row(SIBLINGS["two readers of one value"][0]).model()
    assert not fold(model, FoldBatchNormOptions(**options)).modified  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["two slices", "the same map behind each slice"])
def test_optimize_publishes_it(name: str) -> None:
    text, _ = {**FOLDS, **SIBLINGS}[name]
    assert bnfold.optimize(_row(text).model()).report.verdict == "equivalent"


def test_it_is_proved_where_nothing_else_in_front_of_it_is() -> None:
    """The value that is shared out is another one under its old name, read by parts alone."""
    text = (
        "c = Conv(x, w3_) f = Reshape(c, flat) n = BatchNormalization(f, tg, th, tm, tv) r = Reshape(n, apart) "
        "d = Conv(r, w8) a = Slice(d, i0, i4, i1) e = Slice(d, i4, i6, i1) o = Slice(d, i6, i8, i1) "
        f"p = {BN4.format('a')} q = BatchNormalization<epsilon=0.0>(e, one2, zero2, zero2, one2) l = LeakyRelu(o) "
        "y = Concat<axis=1>(p, q, l) z = Sigmoid(l)"
    )
    row = _row(text)
    constants = {
        **(row.constants or {}),
        **{f"t{name}": np.tile(array, 2) for name, array in batch_norm(3, "").items()},
        "w3_": numbers(3, 3, 1, 1),
        "flat": int64(1, 6, 8, 7),
        "apart": int64(2, 3, 8, 7),
        "one2": np.ones(2, np.float32),
        "zero2": np.zeros(2, np.float32),
    }
    model = Row(text, _INPUTS, constants, ("y", "z")).model()
    assert {proof.standing for proof in prove(model, fold(model).model)} == {Standing.HOLDS}
