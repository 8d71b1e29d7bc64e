"""The bound of rounding errors bounds them, also where operators are not linear, and not by much more."""

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper, parser

from bnfold.equivalence.numbers.float64 import Evaluator, Unknowable
from bnfold.equivalence.proofs.magnitude import MagnitudeBound

UNIT = 2.0**-24
RNG = np.random.default_rng(0)
CONSTANTS = {
    "w": RNG.standard_normal((4, 4)),
    "u": RNG.standard_normal((4, 4)),
    "k": RNG.standard_normal((3, 2, 2)),
    "s": np.array([1.5, -2.0, 0.5, 3.0]),
    "p": np.array([1.5, -4.0, 0.25, 2.0]),
    "none": np.array([0.0]),
}
BOUNDED = {
    "linear": "y = MatMul(x, w)",
    "a difference": "a = MatMul(x, w) b = MatMul(x, u) y = Sub(a, b)",
    "a product": "a = MatMul(x, w) b = MatMul(x, u) y = Mul(a, b)",
    "a product of three": "a = MatMul(x, w) b = MatMul(x, u) c = Mul(a, b) y = Mul(c, a)",
    "a product of matrices": "a = MatMul(x, w) b = Transpose<perm=[0,2,1]>(x) y = MatMul(a, b)",
    "a Gemm of two": "a = Flatten<axis=2>(x) b = MatMul(a, w) y = Gemm<transB=1, alpha=-2.0, beta=-1.0>(b, a, none)",
    "a quotient": "a = MatMul(x, w) b = MatMul(x, u) y = Div(a, b)",
    "a constant over it": "a = MatMul(x, w) y = Div(s, a)",
    "a quotient of quotients": "a = MatMul(x, w) b = MatMul(x, u) c = Div(a, b) d = Add(b, s) y = Div(d, c)",
    "a steep slope": "a = MatMul(x, w) y = PRelu(a, p)",
    "a steep slope of one number": "a = MatMul(x, w) y = LeakyRelu<alpha=3.0>(a)",
    "a gentle slope": "a = MatMul(x, w) y = LeakyRelu<alpha=-0.5>(a)",
    "a normalization": "a = MatMul(x, w) y = InstanceNormalization<epsilon=0.5>(a, s, p)",
    "behind a normalization": "a = MatMul(x, w) b = InstanceNormalization(a, s, p) y = Mul(b, a)",
    "in a function": "a = MatMul(x, w) y = own.square(a)",
}
UNBOUNDED = {
    "a slope that is computed": "y = PRelu(x, x)",
    "a scale that is computed": "a = ReduceMean<axes=[0,2], keepdims=0>(x) y = InstanceNormalization(x, a, s)",
    "what saturates": "y = Softmax(x)",
    "three factors": 'y = Einsum<equation="nct,nct,nct->nct">(x, x, x)',
    "what another operator hides": "a = Softmax(x) y = Div(x, a)",
}


def region(body: str, rounded: int | None = None) -> ModelProto:
    """The piece; with `rounded`, a seed, each constant is off by one roundoff."""
    made = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17, "own" : 1]> agraph (double[3,4,4] x) => (double[A,B,C] y) '
        f'{{ {body} }} <domain: "own", opset_import: ["" : 17]> square (a) => (b) {{ b = Mul(a, a) }}'
    )
    signs = np.random.default_rng(rounded)
    for name, array in CONSTANTS.items():
        moved = array if rounded is None else array * (1 + UNIT * signs.choice([-1, 1], array.shape))
        made.graph.initializer.append(numpy_helper.from_array(moved, name))
    return made


@pytest.mark.parametrize("body", BOUNDED.values(), ids=BOUNDED)
def test_errors_are_within_the_bound_and_near_it(body: str) -> None:
    largest = 0.0
    for seed in range(20):
        x = np.random.default_rng([1, seed]).standard_normal((3, 4, 4))
        was, now = (Evaluator(region(body, rounded))({"x": x})["y"] for rounded in (None, seed))
        bound = MagnitudeBound(region(body), {})({"x": x})["y"]
        assert bound.shape == was.shape
        share = np.abs(now - was) / (2 * UNIT * bound)  # two operators with constants may follow each other
        assert share.max() <= 1 + 1e-6  # what is bounded to first order
        largest = max(largest, float(share.max()))
    assert largest > 0.03


@pytest.mark.parametrize("body", UNBOUNDED.values(), ids=UNBOUNDED)
def test_what_has_no_bound_says_so(body: str) -> None:
    with pytest.raises(Unknowable):
        MagnitudeBound(region(body), {})({"x": np.ones((3, 4, 4))})


def test_what_is_divided_by_zero_has_no_finite_bound() -> None:
    bound = MagnitudeBound(region("a = Relu(x) y = Div(x, a)"), {})
    assert bound.divides
    x = np.ones((3, 4, 4))
    x[1, 2, 3] = -1
    found = bound({"x": x})["y"]
    assert np.argwhere(~np.isfinite(found)).tolist() == [[1, 2, 3]]
    assert not MagnitudeBound(region("y = Div(x, s)"), {}).divides


def test_a_maximum_does_not_pass_over_what_is_no_number() -> None:
    """0 / 0 in each window but one: the maximum of it is said to have no bound, not that of the numbers beside it."""
    bound = MagnitudeBound(region("b = Div(x, x) y = MaxPool<kernel_shape=[2], strides=[2]>(b)"), {})
    x = np.zeros((3, 4, 4))
    x[1, 2] = 1
    found = bound({"x": x})["y"]
    assert (found == np.inf).sum() == 3 * 4 * 2 - 2
    assert np.isfinite(found[1, 2]).all()


def test_what_a_pad_puts_in_counts_as_large_as_it_is() -> None:
    """Below opset 11 it is an attribute, whose sign let the terms of a row of padding seem to cancel."""
    model = parser.parse_model("""<ir_version: 7, opset_import: ["" : 9]>
    g (float[1,2] x) => (float[1,2] y) <float[2] b = {1.5, -0.25}>
    { p = Pad <mode = "constant", pads = [0, 1, 0, 0], value: float = -2.0> (x)
      s = Slice <axes = [1], starts = [0], ends = [2]> (p)
      y = Add (s, b) }""")
    made = MagnitudeBound(model, {})({"x": np.array([[-3.0, 5.0]])})["y"]
    assert made.tolist() == [[2.0 + 1.5, 3.0 + 0.25]]
