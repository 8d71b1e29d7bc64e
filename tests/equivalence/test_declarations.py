"""What a model says beside its operators decides what it computes as well: defaults of inputs, and of functions."""

import numpy as np
import pytest
from onnx import ModelProto, SparseTensorProto, numpy_helper, parser

from bnfold.equivalence import Standing, Verdict, VerifyOptions, prove, verify

MODEL = '<ir_version: 9, opset_import: ["": 17, "f": 1]> g '
FUNCTION = '<domain: "f", opset_import: ["": {opset}]> F <alpha: float = {alpha}, beta: float = {beta}> (a) => (b) '
SCALED = "(float[N,4] x, float[4] k) => (float[N,4] y) { a = Mul(x, k) y = Relu(a) }"
PICKED = "(float[N,4] x, int64[4] k) => (float[N,4] y) { a = Gather<axis=1>(x, k) y = Relu(a) }"
NARROW = "(float16[N,4] x, float16[4] k) => (float16[N,4] y) { a = Mul(x, k) y = Relu(a) }"


def with_default(text: str, values: object, kind: type = np.float32, *, ir_version: int = 9) -> ModelProto:
    made = parser.parse_model(MODEL + text)
    made.graph.initializer.append(numpy_helper.from_array(np.array(values, kind), "k"))
    made.ir_version = ir_version
    return made


def with_sparse_default(value: float, at: int = 1, size: int = 4) -> ModelProto:
    made = parser.parse_model(MODEL + SCALED)
    values, indices = numpy_helper.from_array(np.float32([value]), "k"), numpy_helper.from_array(np.array([at]), "at")
    made.graph.sparse_initializer.append(SparseTensorProto(values=values, indices=indices, dims=[size]))
    return made


def calling(*, opset: int = 17, alpha: float = 0.5, beta: float = 0.25, read: str = "alpha") -> ModelProto:
    body = f"{{ b = LeakyRelu<alpha: float = @{read}>(a) }}"
    function = FUNCTION.format(opset=opset, alpha=alpha, beta=beta) + body
    return parser.parse_model(f"{MODEL} (float[N,4] x) => (float[N,4] y) {{ n = Neg(x) y = f.F(n) }} {function}")


NEXT = float(np.nextafter(np.float32(4), np.float32(5)))
WRONG = {
    "a number": (with_default(SCALED, [1, 2, 3, 4]), with_default(SCALED, [1, 2, 3, 4.5])),
    "one in ten thousand": (with_default(SCALED, [1, 2, 3, 4]), with_default(SCALED, [1, 2, 3, 4.0004])),
    "a number of float16": (
        with_default(NARROW, [1, 2, 3, 4], np.float16),
        with_default(NARROW, [1, 2, 3, 4.5], np.float16),
    ),
    "a position": (with_default(PICKED, [0, 1, 2, 3], np.int64), with_default(PICKED, [0, 1, 2, 2], np.int64)),
    "a sparse number": (with_sparse_default(1), with_sparse_default(2)),
    "a sparse position": (with_sparse_default(1), with_sparse_default(1, at=2)),
    "of an attribute of a function": (calling(), calling(alpha=0.75)),
    "the attribute that a function reads": (calling(), calling(read="beta")),
}
RIGHT = {
    "the same": (with_default(SCALED, [1, 2, 3, 4]), with_default(SCALED, [1, 2, 3, 4])),
    "rounded otherwise": (with_default(SCALED, [1, 2, 3, 4]), with_default(SCALED, [1, 2, 3, NEXT])),
    "stored the same way, sparse": (with_sparse_default(1), with_sparse_default(1)),
    "of a function": (calling(), calling()),
    "constant below IR version 4": (
        with_default(SCALED, [1, 2, 3, 4], ir_version=3),
        with_default(SCALED, [1, 2, 3, 4], ir_version=3),
    ),
}


@pytest.mark.parametrize("pair", WRONG.values(), ids=WRONG)
def test_another_default_is_another_model(pair: tuple[ModelProto, ModelProto]) -> None:
    right, wrong = (each.SerializeToString() for each in pair)
    assert verify(right, wrong).verdict is Verdict.NOT_EQUIVALENT
    assert verify(right, wrong, VerifyOptions(proof="never")).verdict is Verdict.NOT_EQUIVALENT
    assert {proof.standing for proof in prove(*pair)} - {Standing.HOLDS}


@pytest.mark.parametrize("pair", RIGHT.values(), ids=RIGHT)
def test_the_same_default_is_no_change(pair: tuple[ModelProto, ModelProto]) -> None:
    assert {proof.standing for proof in prove(*pair)} <= {Standing.HOLDS}
    assert verify(*(each.SerializeToString() for each in pair)).verdict is Verdict.EQUIVALENT


def test_a_default_that_no_output_depends_on_may_differ() -> None:
    unread = "(float[N,4] x, float[4] k) => (float[N,4] y) { y = Relu(x) }"
    assert prove(with_default(unread, [1, 2, 3, 4]), with_default(unread, [1, 2, 3, 5])) == ()


def test_where_nobody_overrides_a_default_is_a_constant() -> None:
    pair = (with_default(SCALED, values).SerializeToString() for values in ([1, 2, 3, 4], [1, 2, 3, 5]))
    found = verify(*pair, VerifyOptions(assume_constant_initializers=True))
    assert found.verdict is Verdict.NOT_EQUIVALENT
    assert "is off by 1" in found.explanation


def test_the_proof_says_how_far_a_default_is_off() -> None:
    (proof,) = prove(*WRONG["a number"])
    assert (proof.output, proof.standing, proof.reason) == ("k", Standing.BROKEN, "its default is off by 0.5")


def test_functions_of_other_operator_sets_are_not_the_same_unseen() -> None:
    """Softmax goes along other axes since operator set 13."""
    text = MODEL + "(float[2,3,4] x) => (float[2,3,4] y) { y = f.F(x) } "
    old, new = (
        parser.parse_model(f'{text} <domain: "f", opset_import: ["": {opset}]> F (a) => (b) {{ b = Softmax(a) }}')
        for opset in (12, 13)
    )
    assert {proof.standing for proof in prove(old, new)} & {Standing.UNDECIDED, Standing.BROKEN}
