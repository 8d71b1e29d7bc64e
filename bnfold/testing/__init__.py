"""Tests of a pass for its author: models from text, assertions on their results, and random models.

>>> from bnfold.testing import assert_folds, assert_left_alone, build, numbers
>>> nodes = "c = Conv(x, w) y = BatchNormalization(c, s, b, m, v)"
>>> constants = {"w": (4, 3, 1, 1), **dict.fromkeys("sbm", (4,)), "v": numbers(4, low=0.5, high=2)}
>>> model = build(nodes, inputs={"x": "float[N,3,6,7]"}, constants=constants)
>>> print(assert_folds(model, "Conv"))
equivalent: 1 normalization folded; 2 -> 1 nodes
>>> nodes = "r = Sigmoid(x) y = BatchNormalization(r, s, b, m, v)"
>>> alone = build(nodes, inputs={"x": "float[N,4]"}, constants=constants)
>>> print(assert_left_alone(alone, "BARRIER"))
equivalent: 1 normalization kept; 2 -> 2 nodes
"""

from bnfold.equivalence.structure.signature import every_node
from bnfold.testing.assertions import assert_folds, assert_left_alone, assert_survives
from bnfold.testing.models import build, numbers
from bnfold.testing.random_graphs import Case, seeded_case

__all__ = [
    "Case",
    "assert_folds",
    "assert_left_alone",
    "assert_survives",
    "build",
    "every_node",
    "numbers",
    "seeded_case",
]
