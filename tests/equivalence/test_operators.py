"""One table says what each ONNX operator does; nothing that folds is missing from it."""

import numpy as np
import onnx
import pytest

from bnfold.equivalence import Standing, prove
from bnfold.equivalence.operators import OPERATORS, Magnitude, operator_of, reads_part
from bnfold.passes.affine_ops import AFFINE_OPS
from bnfold.passes.carriers import TOWARD_CONSUMERS, TOWARD_PRODUCER
from bnfold.passes.linear_ops import ABSORB_INPUT, ABSORB_OUTPUT
from tests.fold_models import INPUTS, build

OF_ANOTHER_DOMAIN = {"Scaler"}  # of ai.onnx.ml: a proof evaluates it
NORMALIZATIONS = {"InstanceNormalization"}
"""What takes up a map behind it, and lets none pass."""


@pytest.mark.parametrize("name", sorted({*TOWARD_PRODUCER, *TOWARD_CONSUMERS, *AFFINE_OPS} - OF_ANOTHER_DOMAIN))
def test_whatever_a_map_passes_has_a_row_that_a_proof_can_use(name: str) -> None:
    row = OPERATORS[name]
    assert row.crossed
    assert row.magnitude is not Magnitude.UNBOUNDED


@pytest.mark.parametrize("name", sorted({*ABSORB_OUTPUT, *ABSORB_INPUT} - NORMALIZATIONS))
def test_whatever_takes_up_a_map_has_a_row(name: str) -> None:
    assert OPERATORS[name].crossed


def test_every_row_is_an_operator_of_onnx() -> None:
    assert set(OPERATORS) <= {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}


def test_an_operator_of_another_domain_has_no_row() -> None:
    assert operator_of(onnx.helper.make_node("Conv", ["x"], ["y"])).crossed
    assert not operator_of(onnx.helper.make_node("Conv", ["x"], ["y"], domain="custom")).crossed


def test_a_row_says_which_inputs_are_read_in_part() -> None:
    cast = onnx.helper.make_node("CastLike", ["x", "like"], ["y"])
    assert [reads_part(cast, position) for position in (0, 1)] == [False, True]
    assert reads_part(onnx.helper.make_node("Shape", ["x"], ["y"]), 0)
    assert not reads_part(onnx.helper.make_node("Relu", ["x"], ["y"]), 0)


@pytest.mark.parametrize("wrong", [False, True], ids=["right", "wrong"])
def test_a_map_that_passes_a_tile_is_proved(wrong: bool) -> None:
    """Its row is all that a proof needs of a new carrier."""
    rng = np.random.default_rng(3)
    g, h, m = (rng.standard_normal(4).astype("f") for _ in range(3))
    v, w = rng.uniform(0.5, 2, 4).astype("f"), rng.standard_normal((4, 3, 1, 1)).astype("f")
    k = g.astype("d") / np.sqrt(v.astype("d") + np.float32(1e-5))
    folded = {"w2": (w * k.reshape(-1, 1, 1, 1)).astype("f"), "b2": (h - m * k).astype("f")}
    if wrong:
        folded["b2"] = folded["b2"][::-1].copy()
    repeats = np.array([1, 1, 2, 3])
    text = "c = Conv(x, w) t = Tile(c, r) i = Identity(t) y = BatchNormalization(i, g, h, m, v)"
    before = build(text, inputs=INPUTS, constants={"w": w, "r": repeats, "g": g, "h": h, "m": m, "v": v})
    after = build(
        "c = Conv(x, w2, b2) t = Tile(c, r) y = Identity(t)", inputs=INPUTS, constants={**folded, "r": repeats}
    )
    (proof,) = prove(before, after)
    assert proof.standing is (Standing.BROKEN if wrong else Standing.HOLDS), proof.reason
