"""A proof holds for a right rewrite whatever its rounding, and breaks at the smallest wrong one."""

import numpy as np
import pytest
from ml_dtypes import bfloat16
from onnx import ModelProto, numpy_helper, parser

from bnfold.equivalence import Proof, Standing, prove

DTYPES = {"float": np.float32, "float16": np.float16, "double": np.float64}


def model(body: str, weights: dict[str, np.ndarray], *, opset: int = 17) -> ModelProto:
    proto = parser.parse_model(f'<ir_version: 9, opset_import: ["" : {opset}, "custom" : 1]> {body}')
    for name, value in weights.items():
        proto.graph.initializer.append(numpy_helper.from_array(value, name))
    return proto


def statistics(channels: int, dtype: type, seed: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "g": rng.uniform(0.5, 1.5, channels).astype(dtype),
        "h": rng.standard_normal(channels).astype(dtype),
        "m": rng.standard_normal(channels).astype(dtype),
        "v": rng.uniform(0.2, 2.0, channels).astype(dtype),
    }


def affine(stats: dict[str, np.ndarray], epsilon: float = float(np.float32(1e-5))) -> tuple[np.ndarray, np.ndarray]:
    g, h, m, v = (stats[name].astype(np.float64) for name in "ghmv")
    scale = g / np.sqrt(v + epsilon)
    return scale, h - m * scale


def conv_pair(
    kind: str, *, w: np.ndarray | None = None, b: np.ndarray | None = None, group: int = 1
) -> tuple[ModelProto, ModelProto, dict[str, np.ndarray]]:
    """Conv -> BatchNormalization and the Conv that took it up; `w` and `b` replace the right new parameters."""
    dtype = DTYPES[kind]
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((6, 4 // group, 3, 3)).astype(dtype)
    stats = statistics(6, dtype)
    scale, shift = affine(stats)
    right_w = (weight.astype(np.float64) * scale.reshape(-1, 1, 1, 1)).astype(dtype)
    signature = f"agraph ({kind}[N,4,H,W] x) => ({kind}[N,6,H,W] z)"
    attributes = f"pads=[1,1,1,1], group={group}"
    before = model(
        f"{signature} {{ n = Neg(x) c = Conv<{attributes}>(n, w) y = BatchNormalization(c, g, h, m, v) z = Relu(y) }}",
        {"w": weight, **stats},
    )
    after = model(
        f"{signature} {{ n = Neg(x) y = Conv<{attributes}>(n, w2, b2) z = Relu(y) }}",
        {"w2": right_w if w is None else w, "b2": shift.astype(dtype) if b is None else b},
    )
    return before, after, {"w": right_w, "b": shift.astype(dtype)}


def only(proofs: tuple[Proof, ...]) -> Proof:
    (proof,) = proofs
    return proof


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("group", [1, 2])
def test_a_right_fold_holds_in_every_type(kind: str, group: int) -> None:
    before, after, _ = conv_pair(kind, group=group)
    proof = only(prove(before, after))
    assert proof.standing is Standing.HOLDS, proof.reason
    assert proof.used <= 0.6
    assert proof.used > 0 or kind == "double"  # which nothing rounds but the computation itself


def nudged(array: np.ndarray, index: tuple[int, ...], steps: int) -> np.ndarray:
    """The entry moved by this many representable numbers."""
    moved = array.copy()
    for _ in range(steps):
        moved[index] = np.nextafter(moved[index], array.dtype.type(np.inf))
    return moved


@pytest.mark.parametrize("kind", ["float", "float16"])
def test_a_bias_that_is_many_roundings_off_breaks_it(kind: str) -> None:
    _, _, right = conv_pair(kind)
    before, after, _ = conv_pair(kind, b=nudged(right["b"], (3,), 25))
    proof = only(prove(before, after))
    assert proof.standing is Standing.BROKEN
    assert "'y'" in proof.reason
    assert proof.used > 1


def test_what_arithmetic_in_float32_makes_is_neither_an_identity_nor_a_bug() -> None:
    """As other optimizers fold: each step rounded, the shift of what cancels by more than storing it rounds."""
    stats = {name: array.astype("f") for name, array in statistics(6, np.float32).items()}
    scale = stats["g"] / np.sqrt(stats["v"] + np.float32(1e-5))
    shift = (np.float32(0) - stats["m"]) * scale + stats["h"]
    weight = np.random.default_rng(0).standard_normal((6, 4, 3, 3)).astype("f")
    coarse = conv_pair("float", w=weight * scale.reshape(-1, 1, 1, 1), b=nudged(shift, (3,), 4))
    proof = only(prove(*coarse[:2]))
    assert proof.standing is Standing.UNDECIDED
    assert "arithmetic in float32" in proof.reason


WRONG = {
    "one percent in one bias": lambda right: {"b": right["b"] * np.float32([1, 1, 1.01, 1, 1, 1])},
    "one percent in one weight": lambda right: {
        "w": np.where(np.arange(216).reshape(6, 4, 3, 3) == 99, 1.01, 1).astype("f") * right["w"]
    },
    "two channels swapped": lambda right: {"w": right["w"][[1, 0, 2, 3, 4, 5]]},
    "kernel transposed": lambda right: {"w": np.ascontiguousarray(right["w"].swapaxes(2, 3))},
    "epsilon forgotten": lambda _: {"b": affine(statistics(6, np.float32), 0.0)[1].astype(np.float32)},
    "bias forgotten": lambda right: {"b": np.zeros_like(right["b"])},
    "rounded through float16": lambda right: {"w": right["w"].astype(np.float16).astype(np.float32)},
    "NaN": lambda right: {"b": right["b"] * np.float32([1, 1, 1, 1, 1, np.nan])},
    "infinity": lambda right: {"b": right["b"] + np.float32([0, 0, 0, 0, 0, np.inf])},
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_a_wrong_fold_breaks_it(wrong: object) -> None:
    _, _, right = conv_pair("float")
    before, after, _ = conv_pair("float", **wrong(right))  # type: ignore[operator]
    assert only(prove(before, after)).standing is Standing.BROKEN


def test_a_wrong_border_alone_breaks_it() -> None:
    """BatchNormalization before a padded Conv: right everywhere but where zeros are read."""
    dtype = np.float32
    stats = statistics(4, dtype)
    scale, shift = affine(stats)
    w = np.random.default_rng(0).standard_normal((6, 4, 3, 3)).astype(dtype)
    folded = {
        "w2": (w * scale.reshape(1, -1, 1, 1)).astype(dtype),
        "b2": np.einsum("oihw,i->o", w.astype(np.float64), shift).astype(dtype),
    }
    text = "agraph (float[N,4,9,9] x) => (float[N,6,H,W] y) {{ {body} }}"
    for pads, standing in (("[0,0,0,0]", Standing.HOLDS), ("[0,0,1,0]", Standing.BROKEN)):
        before = model(
            text.format(body=f"b = BatchNormalization(x, g, h, m, v) y = Conv<pads={pads}>(b, w)"), {"w": w, **stats}
        )
        after = model(text.format(body=f"y = Conv<pads={pads}>(x, w2, b2)"), folded)
        assert only(prove(before, after)).standing is standing


def test_grouped_conv_transpose_gemm_and_matmul_hold() -> None:
    dtype, rng = np.float32, np.random.default_rng(0)
    stats = statistics(6, dtype)
    scale, shift = affine(stats)
    w = rng.standard_normal((4, 3, 2, 3)).astype(dtype)
    per_output = scale.reshape(2, 1, 3, 1, 1)
    before = model(
        "agraph (float[N,4,H,W] x) => (float[N,6,A,B] y) "
        "{ c = ConvTranspose<group=2, strides=[2,1]>(x, w) y = BatchNormalization(c, g, h, m, v) }",
        {"w": w, **stats},
    )
    text = "agraph (float[N,4,H,W] x) => (float[N,6,A,B] y) { y = ConvTranspose<group=2, strides=[2,1]>(x, w2, b2) }"
    grouped = (w.reshape(2, 2, 3, 2, 3) * per_output).reshape(w.shape).astype(dtype)
    after = model(text, {"w2": grouped, "b2": shift.astype(dtype)})
    assert only(prove(before, after)).standing is Standing.HOLDS
    wrong_axis = (w.reshape(2, 2, 3, 2, 3) * scale.reshape(3, 1, 2, 1, 1).transpose(2, 1, 0, 3, 4)).reshape(w.shape)
    broken = model(text, {"w2": wrong_axis.astype(dtype), "b2": shift.astype(dtype)})
    assert only(prove(before, broken)).standing is Standing.BROKEN

    k, bias = rng.standard_normal((6, 5)).astype(dtype), rng.standard_normal(6).astype(dtype)
    before = model(
        "agraph (float[N,5] x) => (float[N,6] y) "
        "{ c = Gemm<transB=1, beta=0.5, alpha=2.0>(x, k, b) y = BatchNormalization(c, g, h, m, v) }",
        {"k": k, "b": bias, **stats},
    )
    text = "agraph (float[N,5] x) => (float[N,6] y) { y = Gemm<transB=1, alpha=2.0>(x, k2, b2) }"
    k2 = (k * scale[:, None]).astype(dtype)
    right, twice = (bias * 0.5 * scale + shift, (bias * 0.5 * scale + shift) * 0.5)
    for new, standing in ((right, Standing.HOLDS), (twice, Standing.BROKEN)):
        after = model(text, {"k2": k2, "b2": new.astype(dtype)})
        assert only(prove(before, after)).standing is standing


CROSSED = {
    "Relu": ("r = Relu(c)", Standing.HOLDS, 1.0),
    "Relu with a negative scale": ("r = Relu(c)", Standing.BROKEN, -1.0),
    "MaxPool": ("r = MaxPool<kernel_shape=[2,2]>(c)", Standing.HOLDS, 1.0),
    "Transpose": ("t = Transpose<perm=[0,1,3,2]>(c) r = Identity(t)", Standing.HOLDS, -1.0),
    "LeakyRelu": ("r = LeakyRelu<alpha=0.1>(c)", Standing.HOLDS, 1.0),
    "Sigmoid": ("r = Sigmoid(c)", Standing.BROKEN, 1.0),
}


@pytest.mark.parametrize(("between", "standing", "sign"), CROSSED.values(), ids=CROSSED)
def test_a_scale_that_crossed_an_operator(between: str, standing: Standing, sign: float) -> None:
    w = np.random.default_rng(0).standard_normal((6, 4, 1, 1)).astype(np.float32)
    s = np.linspace(0.5, 2, 6).astype(np.float32).reshape(6, 1, 1) * np.float32([1, 1, sign, 1, 1, 1]).reshape(6, 1, 1)
    frame = "agraph (float[N,4,H,W] x) => (float[N,6,A,B] y) {{ c = Conv(x, {w}) {between} {last} }}"
    before = model(frame.format(w="w", between=between, last="y = Mul(r, s)"), {"w": w, "s": s})
    after = model(frame.format(w="w2", between=between, last="y = Identity(r)"), {"w2": w * s[..., None]})
    proofs = prove(before, after)
    assert any(proof.standing is Standing.BROKEN for proof in proofs) is (standing is Standing.BROKEN)
    if standing is Standing.HOLDS:
        assert only(proofs).normalizations == ("y",)


@pytest.mark.parametrize("inside", [False, True], ids=["beside it", "in a body"])
@pytest.mark.parametrize("gain", [0.0, 0.5])
def test_what_multiplies_by_zero_makes_up_for_a_scale_that_is_gone(gain: float, inside: bool) -> None:
    """As normalizations that start at zero do: their constants stay as they were, whatever they read."""
    rng, stats = np.random.default_rng(0), statistics(4, np.float32)
    scale, shift = affine(stats)
    w = rng.standard_normal((5, 4, 3, 3)).astype(np.float32)
    beside = {"k": np.full(4, gain, np.float32), **{name: rng.random(4).astype(np.float32) for name in "bnu"}}
    one = "c = Conv<pads=[1,1,1,1]>(s, {w}) a = Relu(c)"
    other = "d = BatchNormalization(s, k, b, n, u) e = Relu(d)"
    text = f"{{front}} {one} {other}"
    head = "(float[N,4,H,W] x) => (float[N,5,A,B] a, float[N,4,A,B] e)"
    if inside:
        text = (
            f"{{front}} y = If(o) <then_branch = yes () => (float[N,K,A,B] a) {{{{ {one} }}}}, "
            f"else_branch = no () => (float[N,K,A,B] e) {{{{ {other} }}}}>"
        )
        head = "(float[N,4,H,W] x, bool o) => (float[N,K,A,B] y)"
    front = "p = MaxPool<kernel_shape=[2,2]>(x)"
    was = text.format(front=f"{front} s = BatchNormalization(p, g, h, m, v)", w="w")
    now = text.format(front=f"{front} s = Add(p, t)", w="w2")
    before = model(f"agraph {head} {{ {was} }}", {"w": w, **stats, **beside})
    moved = {"t": (shift / scale).astype(np.float32).reshape(4, 1, 1)}
    right = (w * scale.reshape(1, -1, 1, 1)).astype(np.float32)
    wrong = right.copy()
    wrong[2, 3] *= 1.001
    after, other_way = (
        model(f"agraph {head} {{ {now} }}", {"w2": weight, **moved, **beside}) for weight in (right, wrong)
    )
    standings = {proof.standing for proof in prove(before, after)}
    assert standings == {Standing.HOLDS} if not gain else Standing.BROKEN in standings
    assert any(proof.standing is Standing.BROKEN for proof in prove(before, other_way))


def test_rewrites_that_share_a_node_are_proved_together() -> None:
    dtype = np.float32
    first, second = statistics(4, dtype, 1), statistics(6, dtype, 2)
    (k1, t1), (k2, t2) = affine(first), affine(second)
    w = np.random.default_rng(0).standard_normal((6, 4, 1, 1)).astype(dtype)
    text = "agraph (float[N,4,H,W] x) => (float[N,6,H,W] y) {{ {body} }}"
    before = model(
        text.format(
            body="a = BatchNormalization(x, g, h, m, v) c = Conv(a, w) y = BatchNormalization(c, g2, h2, m2, v2)"
        ),
        {"w": w, **first, **{name + "2": value for name, value in second.items()}},
    )
    new_w = (w * k1.reshape(1, -1, 1, 1) * k2.reshape(-1, 1, 1, 1)).astype(dtype)
    new_b = (k2 * np.einsum("oihw,i->o", w.astype(np.float64), t1) + t2).astype(dtype)
    after = model(text.format(body="y = Conv(x, w2, b2)"), {"w2": new_w, "b2": new_b})
    proof = only(prove(before, after))
    assert proof.standing is Standing.HOLDS, proof.reason
    assert proof.normalizations == ("a", "y")


def test_a_value_may_have_another_name() -> None:
    before, after, _ = conv_pair("float")
    for node in after.graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                names[index] = {"y": "c"}.get(name, name)
    proof = only(prove(before, after))
    assert proof.standing is Standing.HOLDS, proof.reason
    assert (proof.output, proof.normalizations) == ("y", ("y",))


def test_nothing_is_proved_of_models_that_cannot_be_compared() -> None:
    before, after, _ = conv_pair("float")
    older = ModelProto()
    older.CopyFrom(after)
    older.opset_import[0].version = 15
    assert "operator sets" in only(prove(before, older)).reason
    after.graph.output[0].name = "other"
    assert "outputs differ" in only(prove(before, after)).reason
    assert only(prove(before, after)).standing is Standing.UNDECIDED


def test_an_operator_nobody_knows_upstream_does_not_matter_and_inside_it_does() -> None:
    before, after, _ = conv_pair("float")
    for proto in (before, after):
        proto.graph.node[0].domain, proto.graph.node[0].op_type = "custom", "Magic"
        del proto.graph.value_info[:]
    assert only(prove(before, after)).standing is Standing.HOLDS
    after.graph.node[0].op_type = "Trick"
    inside = prove(before, after)[0]
    assert inside.standing is Standing.UNDECIDED
    assert "Magic" in inside.reason


def test_a_rewrite_in_a_nested_body_is_proved_there() -> None:
    dtype = np.float32
    stats = statistics(4, dtype)
    scale, shift = affine(stats)
    w = np.random.default_rng(0).standard_normal((3, 4)).astype(dtype)
    frame = (
        "agraph (bool p, float[N,3] x) => (float[N,4] z) "
        "{{ z = If (p) <then_branch = t () => (float[N,4] y) {{ {body} }},"
        " else_branch = e () => (float[N,4] q) {{ q = MatMul(x, w) }}> }}"
    )
    before = model(frame.format(body="c = MatMul(x, w) y = BatchNormalization(c, g, h, m, v)"), {"w": w, **stats})
    body = "c = MatMul(x, w2) y = Add(c, b2)"
    weights = {"w": w, "w2": (w * scale).astype(dtype), "b2": shift.astype(dtype)}
    assert only(prove(before, model(frame.format(body=body), weights))).standing is Standing.HOLDS
    weights["b2"] = weights["b2"] * dtype(1.001)
    assert only(prove(before, model(frame.format(body=body), weights))).standing is Standing.BROKEN


def test_float16_weights_below_the_smallest_normal_number_are_rounded_absolutely() -> None:
    before, _, right = conv_pair("float16")
    small = np.float16(2.0**-13)
    tiny_before, tiny_after, _ = conv_pair("float16", w=(right["w"].astype(np.float64) * small).astype(np.float16))
    for index, tensor in enumerate(tiny_before.graph.initializer):
        if tensor.name == "w":
            scaled = numpy_helper.to_array(tensor) * np.float16(1)
            tiny_before.graph.initializer[index].CopyFrom(numpy_helper.from_array(scaled, "w"))
    # The weights of the reference are scaled through a Mul, exact in float16, so that only the candidate rounds.
    tiny_before.graph.initializer.append(numpy_helper.from_array(small, "small"))
    body = list(tiny_before.graph.node)
    del tiny_before.graph.node[:]
    tiny_before.graph.node.extend(parser.parse_graph("g () => () { ws = Mul(w, small) }").node)
    body[1].input[1] = "ws"
    tiny_before.graph.node.extend(body)
    assert before is not None
    assert only(prove(tiny_before, tiny_after)).standing is Standing.HOLDS


def test_a_merge_that_leaves_a_normalization_and_constant_expressions_is_proved() -> None:
    dtype = np.float32
    first, second = statistics(4, dtype, 1), statistics(4, dtype, 2)
    (k1, t1), (k2, t2) = affine(first), affine(second)
    frame = "agraph (float[N,4,H] x) => (float[N,4,H] y) {{ {body} }}"
    before = model(
        frame.format(
            body="a = BatchNormalization(x, g, h, m, v) n = Neg(a) b = BatchNormalization(n, g2, h2, m2, v2) "
            "y = Sub(b, o)"
        ),
        {**first, **{name + "2": value for name, value in second.items()}, "o": np.float32([0.25])},
    )
    # y = k2 (-(k1 x + t1)) + t2 - 1/4, written with mean 0, variance 1 and epsilon 0.
    merged = {"s": -k1 * k2, "t": t2 - k2 * t1 - 0.25}
    for factor, standing in ((1.0, Standing.HOLDS), (1.0001, Standing.BROKEN)):
        weights = {name: (value * factor).astype(dtype) for name, value in merged.items()}
        weights |= {"zero": np.zeros(4, dtype), "half": np.full(4, 0.5, dtype)}
        body = "one = Add(half, half) y = BatchNormalization<epsilon=0.0>(x, s, t, zero, one)"
        proof = only(prove(before, model(frame.format(body=body), weights)))
        assert proof.standing is standing, proof.reason


@pytest.mark.parametrize(
    ("last", "now", "standing"),
    [
        ("y = PRelu(c, small)", "y = PRelu(d, small2)", Standing.HOLDS),
        ("y = PRelu(c, large)", "y = PRelu(d, large2)", Standing.HOLDS),
        ("y = Mul(c, c)", "e = Identity(d) y = Mul(d, e)", Standing.HOLDS),  # of the same
        ("y = Div(one, c)", "y = Div(one2, d)", Standing.HOLDS),
        ("y = Div(c, zero)", "y = Div(d, zero)", Standing.UNDECIDED),
        ("y = Sub(c, one)", "y = Sub(d, one2)", Standing.HOLDS),
        ("n = Neg(c) y = Abs(n)", "n = Neg(d) m = Identity(n) y = Abs(m)", Standing.HOLDS),
    ],
)
def test_only_what_an_error_cannot_grow_in_is_bounded(last: str, now: str, standing: Standing) -> None:
    frame = "agraph (float[N,4] x) => (float[N,4] y) {{ {} {} }}"
    rng = np.random.default_rng(0)
    w = (rng.choice([-1, 1], (4, 4)) * rng.uniform(1.9, 2.0, (4, 4))).astype(np.float32)
    # The next number above one that is just below a power of two is off by one roundoff, as what is stored may be.
    constants = {"small": np.float32([0.99]), "large": np.float32([3.99]), "one": np.float32([1.0])}
    constants["zero"] = np.float32([0.0])
    nudged = {f"{name}2": np.nextafter(value, np.float32(np.inf)) for name, value in constants.items()}
    before = model(frame.format("c = MatMul(x, w)", last), {"w": w, **constants})
    after = model(frame.format("d = MatMul(x, w2)", now), {"w2": np.nextafter(w, np.float32(np.inf)), **nudged})
    proof = prove(before, after)[-1]
    assert proof.output == "y"
    assert proof.standing is standing, proof.reason
    assert bool(proof.reason) is (standing is not Standing.HOLDS)


@pytest.mark.parametrize("wrong", [False, True], ids=["right", "wrong"])
def test_a_value_is_added_beside_a_kernel_that_may_hold_it(wrong: bool) -> None:
    """x - (x - w * x) is x - (1 - w) * x."""
    w = np.random.default_rng(0).standard_normal((3, 3, 1, 1)).astype(np.float32)
    moved = np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1) - w
    frame = "agraph (float[N,3,4,5] x) => (float[N,3,4,5] y) {{ {} }}"
    before = model(frame.format("c = Conv(x, w) s = Sub(x, c) y = Sub(x, s)"), {"w": w})
    after = model(frame.format("s = Conv(x, w2) y = Sub(x, s)"), {"w2": moved * 1.001 if wrong else moved})
    proof = prove(before, after)[-1]
    assert proof.standing is (Standing.BROKEN if wrong else Standing.HOLDS), proof.reason


IF = (
    "i = If (t) <then_branch = p () => (float[4,2] q) {q = MatMul(d, x)}, "
    "else_branch = o () => (float[4,2] n) {n = MatMul(e, x)}>"
)
COMPUTED = "h = Shape(x) o = Slice(h, one, two, zero) j = Concat<axis=0>(o, m) i = Reshape(x, j)"
SIZES = {
    "rows of a product from the left": ("float[A,B] x", "i = Neg(x)"),
    "rows behind others that tell them": ("float[A,B] x", "a = Mul(x, r) i = Relu(a)"),
    "rows that an If hands on": ("bool t, float[3,2] x", IF),
    "sizes that are computed": ("float[A,4] x", COMPUTED),
}


@pytest.mark.parametrize(("inputs", "front"), SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("wrong", [False, True], ids=["right", "wrong"])
def test_sizes_that_the_piece_does_not_tell_are_those_of_the_model(inputs: str, front: str, wrong: bool) -> None:
    rng = np.random.default_rng(0)
    w, k, d, e = (rng.standard_normal(shape).astype(np.float32) for shape in ((5, 4), (5, 1), (4, 3), (4, 3)))
    numbers = {name: np.array([value]) for name, value in (("zero", 0), ("one", 1), ("two", 2), ("m", -1))}
    constants = {"d": d, "e": e, "r": np.ones((4, 1), np.float32), **numbers}
    signature = f"agraph ({inputs}) => (float[C,D] y) {{{{ {{}} }}}}"
    before = model(signature.format(f"{front} c = MatMul(w, i) y = Mul(c, k)"), {"w": w, "k": k, **constants})
    after = model(signature.format(f"{front} y = MatMul(w2, i)"), {"w2": w * k * (1.001 if wrong else 1), **constants})
    proof = prove(before, after)[-1]
    assert proof.standing is (Standing.BROKEN if wrong else Standing.HOLDS), proof.reason


@pytest.mark.parametrize(
    ("rows", "row", "standing"),
    [("2", 0, Standing.HOLDS), ("2", 3e-5, Standing.BROKEN), ("N", 0, Standing.UNDECIDED)],
)
def test_what_takes_one_batch_alone_is_proved_where_the_model_has_no_other(
    rows: str, row: float, standing: Standing
) -> None:
    """A bias with two rows, for one that the reference multiplies by zero."""
    rng = np.random.default_rng(0)
    w, k, t = (rng.standard_normal(shape).astype(np.float32) for shape in ((4, 3), 3, 3))
    signature = f"agraph (float[{rows},4] x) => (float[{rows},3] y) {{{{ {{}} }}}}"
    before = model(
        signature.format("c = Gemm<beta=0.0>(x, w, c0) d = Mul(c, k) y = Add(d, t)"),
        {"w": w, "k": k, "t": t, "c0": np.ones((2, 3), np.float32)},
    )
    bias = np.stack([t, t * np.float32(1 + row)])
    after = model(signature.format("y = Gemm(x, w2, c2)"), {"w2": w * k, "c2": bias})
    proof = prove(before, after)[-1]
    assert proof.standing is standing, proof.reason


@pytest.mark.parametrize("batch", [2, 5, 64])
@pytest.mark.parametrize("wrong", [False, True], ids=["right", "wrong"])
def test_a_batch_that_the_model_never_has_accuses_nobody(wrong: bool, batch: int) -> None:
    """Any other one goes into the width, where the channels come to lie elsewhere.

    The weight that is wrong is one that only impulses show, as it is small beside the others.
    """
    rng = np.random.default_rng(0)
    w, k = (rng.standard_normal(shape).astype(np.float32) for shape in ((3, 3, 1, 1), (3, 1, 1)))
    w[0, 1] = 1e-9
    constants = {"r": np.array([2, 1, 1, 1]), "i": np.array([2 * batch, 3, 4, -1]), "k": k}
    shapes = f"(float[{batch},3,4,5] x) => (float[{2 * batch},3,4,5] y)"
    text = f"agraph {shapes} {{{{ c = Conv(x, w) t = Tile(c, r) {{}} }}}}"
    before = model(text.format("s = Reshape(t, i) y = Mul(s, k)"), {"w": w, **constants})
    folded = w * k[:, None]
    folded[0, 1] *= -1 if wrong else 1
    after = model(text.format("y = Reshape(t, i)"), {"w": folded, **constants})
    proof = prove(before, after)[-1]
    assert proof.standing is (Standing.BROKEN if wrong else Standing.HOLDS), proof.reason


def calling(text: str, weight: np.ndarray) -> ModelProto:
    """A model that calls a function that is not linear."""
    function = '<domain: "custom", opset_import: ["" : 17]> f (a) => (b) { c = Softmax(a) b = Mul(c, c) }'
    body = f"agraph (float[N,4,5,6] x) => (float[N,4,5,6] y) {{ {text} y = Add(p, r) }}"
    made = parser.parse_model(f'<ir_version: 9, opset_import: ["" : 17, "custom" : 1]> {body} {function}')
    constants = {"w": weight, "k": np.float32(2)}
    made.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    return made


def test_what_is_computed_once_instead_of_twice_is_no_bug() -> None:
    """The candidate reads the first of two equal values in both places, which are entered at values of one function."""
    weight = np.random.default_rng(0).standard_normal((4, 4, 1, 1)).astype(np.float32)
    twice = calling("p = custom.f(x) q = custom.f(x) i = Identity(w) r = Conv(q, i)", weight)
    assert prove(twice, calling("p = custom.f(x) r = Conv(p, w)", weight)) == ()
    folds = calling("p = custom.f(x) q = custom.f(x) c = Conv(q, w) r = Mul(c, k)", weight)
    folded = prove(folds, calling("p = custom.f(x) r = Conv(p, w)", 2 * weight))
    assert Standing.BROKEN not in {proof.standing for proof in folded}
    wrong = prove(twice, calling("p = custom.f(x) n = Neg(x) r = Conv(n, w)", weight))
    assert Standing.HOLDS not in {proof.standing for proof in wrong}


@pytest.mark.parametrize(("auto", "pads"), [("SAME_LOWER", "1,1,1,0"), ("SAME_UPPER", "1,0,1,1")])
def test_padding_by_size_is_looked_at_in_sizes_that_pad_alike(auto: str, pads: str) -> None:
    """7 columns in steps of 2 need one column more; 6 columns, to which a map is cut for a proof, need none."""
    signature = "agraph (float[N,3,5,47] x) => (float[N,6,5,24] y)"
    weight = np.random.default_rng(0).standard_normal((6, 3, 3, 2)).astype(np.float32)
    before = model(f'{signature} {{ y = Conv<auto_pad="{auto}", strides=[1,2]>(x, w) }}', {"w": weight})
    right, wrong = (
        model(f"{signature} {{ y = Conv<pads=[{each}], strides=[1,2]>(x, w) }}", {"w": weight})
        for each in (pads, "1,1,1,0" if auto == "SAME_UPPER" else "1,0,1,1")
    )
    assert only(prove(before, right)).standing is Standing.HOLDS
    assert only(prove(before, wrong)).standing is Standing.BROKEN


@pytest.mark.parametrize("seed", range(4))
def test_a_maximum_over_what_is_mostly_zero_hides_nothing(seed: int) -> None:
    """Of nine negated results of a Relu one is nearly always 0, whatever the others are."""
    text = (
        "agraph (float[N,4,H,W] x) => (float[N,4,H,W] y) { s = Sin(x) m = Mul(s, k) r = Relu(m) n = Neg(r) "
        "p = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(n) y = Mul(p, %s) }"
    )
    weights = {"k": np.ones((4, 1, 1), np.float32), "two": np.array(2, np.float32), "one": np.array(1, np.float32)}
    before, right = model(text % "two", weights), model(text % "one", weights | {"k": 2 * weights["k"]})
    assert {proof.standing for proof in prove(before, right, seed)} == {Standing.HOLDS}
    wrong = model(text % "one", weights | {"k": np.array([2, 2, 2, 3], np.float32).reshape(4, 1, 1)})
    assert Standing.HOLDS not in {proof.standing for proof in prove(before, wrong, seed)}


@pytest.mark.parametrize("seed", range(4))
def test_a_mean_of_maxima_does_not_commute_with_a_relu(seed: int) -> None:
    """Of 25 random numbers the largest is nearly always positive."""
    mean, maximum = "kernel_shape=[3,3], pads=[1,1,1,1]", "kernel_shape=[5,5], pads=[2,2,2,2]"
    text = "agraph (float[N,4,H,W] x) => (float[N,4,H,W] y) { s = Neg(x) %s y = Neg(d) }"
    before = model(text % f"m = MaxPool<{maximum}>(s) r = Relu(m) d = AveragePool<{mean}>(r)", {})
    after = model(text % f"n = MaxPool<{maximum}>(s) a = AveragePool<{mean}>(n) d = Relu(a)", {})
    assert Standing.HOLDS not in {proof.standing for proof in prove(before, after, seed)}


def test_a_relu_that_a_bias_keeps_from_its_kink_is_not_nothing() -> None:
    text = "agraph (float[N,4,H,W] x) => (float[N,4,H,W] y) { s = Neg(x) %s y = Neg(d) }"
    weights = {"far": np.full((4, 1, 1), 1000, np.float32)}
    before = model(text % "a = Add(s, far) r = Relu(a) d = Sub(r, far)", weights)
    assert Standing.HOLDS not in {proof.standing for proof in prove(before, model(text % "d = Identity(s)", {}))}


def test_a_fold_in_float32_whose_terms_cancel_is_no_bug() -> None:
    """beta and mean * k are nearly equal: what rounding makes of the product is large beside what is left."""
    weight = np.random.default_rng(0).standard_normal((4, 3, 1, 1)).astype(np.float32)
    stats = {name: np.full(4, number, np.float32) for name, number in (("g", 1.1), ("m", 2.3), ("v", 0.7))}
    k = stats["g"] / np.sqrt(stats["v"] + np.float32(1e-5))
    stats["h"] = (stats["m"] * k * np.float32(1 + 1e-7)).astype(np.float32)
    signature = "agraph (float[N,3,4,5] x) => (float[N,4,4,5] y)"
    same = 'auto_pad="SAME_UPPER"'
    before = model(
        f"{signature} {{ c = Conv<{same}>(x, w) y = BatchNormalization(c, g, h, m, v) }}", {"w": weight, **stats}
    )
    folded = {"w2": weight * k.reshape(-1, 1, 1, 1), "b2": stats["h"] - stats["m"] * k}
    found = only(prove(before, model(f"{signature} {{ y = Conv<{same}>(x, w2, b2) }}", folded)))
    assert found.standing is not Standing.BROKEN, found.reason
    folded["b2"] = folded["b2"] + np.float32(1e-4)
    found = only(prove(before, model(f"{signature} {{ y = Conv<{same}>(x, w2, b2) }}", folded)))
    assert found.standing is Standing.BROKEN


@pytest.mark.parametrize(("order", "turned"), [("", True), ("<perm=[1,0]>", True), ("<perm=[0,1]>", False)])
def test_weights_behind_a_transpose_are_those_that_it_makes(order: str, turned: bool) -> None:
    """As exporters write linear layers; square, so that no size tells the two apart."""
    weight, stats = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32), statistics(4, np.float32)
    scale, shift = affine(stats)
    signature = "agraph (float[N,4] x) => (float[N,4] z)"
    before = model(
        f"{signature} {{ t = Transpose{order}(w) c = MatMul(x, t) y = BatchNormalization(c, g, h, m, v) z = Relu(y) }}",
        {"w": weight, **stats},
    )
    for used, standing in ((turned, Standing.HOLDS), (not turned, Standing.BROKEN)):
        folded = ((weight.T if used else weight).astype(np.float64) * scale).astype(np.float32)
        after = model(
            f"{signature} {{ c = MatMul(x, w2) y = Add(c, b2) z = Relu(y) }}",
            {"w2": folded, "b2": shift.astype(np.float32)},
        )
        assert only(prove(before, after)).standing is standing


@pytest.mark.parametrize(("factor", "standing"), [(1.0, Standing.HOLDS), (1.05, Standing.BROKEN)])
def test_weights_that_a_model_computes_in_bfloat16_may_round_as_it_does(factor: float, standing: Standing) -> None:
    rng = np.random.default_rng(0)
    a, k = rng.standard_normal((4, 5)).astype(bfloat16), rng.uniform(0.5, 2.0, 5).astype(bfloat16)
    signature = "agraph (bfloat16[N,4] x) => (bfloat16[N,5] z)"
    before = model(f"{signature} {{ t = Mul(a, k) c = MatMul(x, t) y = Mul(c, k) z = Relu(y) }}", {"a": a, "k": k})
    exact = a.astype(np.float64) * k.astype(np.float64) ** 2
    after = model(f"{signature} {{ y = MatMul(x, w2) z = Relu(y) }}", {"w2": (factor * exact).astype(bfloat16)})
    assert only(prove(before, after)).standing is standing


@pytest.mark.parametrize("index", range(8))
def test_an_element_that_is_picked_out_of_all_rows_is_tried_with_both_signs(index: int) -> None:
    """One number decides what is compared: where it is above the kink, a Relu is what an Identity is."""
    text = """agraph (float[N,2,3,3] x) => (float[1] y) {{
        a = Sigmoid(x) b = Sub(a, half) r = {0}(b) f = Flatten<axis=0>(r) y = Gather<axis=1>(f, index) }}"""
    weights = {"index": np.array([index]), "half": np.float32(0.5)}
    relu, identity = (model(text.format(kind).replace("[1] y", "[1,1] y"), weights) for kind in ("Relu", "Identity"))
    assert {proof.standing for proof in prove(relu, relu)} <= {Standing.HOLDS}
    assert {proof.standing for proof in prove(relu, identity)} & {Standing.BROKEN, Standing.UNDECIDED}


@pytest.mark.parametrize(("first", "second", "right"), [("b2", "b1", True), ("b2", "b2", False), ("b1", "b12", False)])
@pytest.mark.parametrize("between", ["s = Add(u, x0)", "t = Sub(x0, u) s = Neg(t)", "t = Add(u, x0) s = Sub(t, x1)"])
def test_a_bias_may_move_to_what_is_added_behind_it(first: str, second: str, right: bool, between: str) -> None:
    """Each branch is another one then, and so is the sum in between; their sum is not."""
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal((4, 3, 3, 3)).astype(np.float32) for name in ("w1", "w2")}
    weights |= {name: rng.standard_normal(4).astype(np.float32) for name in ("b1", "b2")}
    weights["b12"] = weights["b1"] + weights["b2"]
    text = """agraph (float[N,3,6,7] x, float[N,4,4,5] x0, float[N,4,4,5] x1) => (float[N,4,4,5] y) {{
        v = Conv(x, w1, {0}) u = Conv(x, w2, {1}) {2} y = Add(v, s) }}"""
    before, after = (model(text.format(*biases, between), weights) for biases in (("b1", "b2"), (first, second)))
    standings = {proof.standing for proof in prove(before, after)}
    assert standings == {Standing.HOLDS} if right else Standing.BROKEN in standings


IMAGE = "agraph (float[1,2,{0},5] x) => (float[1,2,A,B] y) "
TURNS_ON_SIZES = {
    "ceil_mode, at a size that it rounds": (
        IMAGE.format(8) + "{ y = MaxPool<kernel_shape=[3,2], strides=[2,1], ceil_mode=%s>(x) }",
        ("1", "0"),
    ),
    "ceil_mode, at any size": (
        IMAGE.format("H") + "{ y = MaxPool<kernel_shape=[3,2], strides=[2,1], ceil_mode=%s>(x) }",
        ("1", "0"),
    ),
    "the place of what is one pixel": (
        IMAGE.format(6) + '{ y = Resize<mode="nearest", coordinate_transformation_mode="%s">(x, , scales) }',
        ("half_pixel", "pytorch_half_pixel"),
    ),
}


@pytest.mark.parametrize("name", TURNS_ON_SIZES)
def test_what_turns_on_sizes_is_not_proved_at_others(name: str) -> None:
    text, values = TURNS_ON_SIZES[name]
    weights = {"scales": np.float32([1, 1, 0.2, 1])} if "scales" in text else {}
    before, after = (model(text % value, weights) for value in values)
    assert {proof.standing for proof in prove(before, after)} & {Standing.UNDECIDED, Standing.BROKEN}
    assert {proof.standing for proof in prove(before, before)} <= {Standing.HOLDS}
