"""Wrong twins by kind: each is found with the default options, or named as compared by running only.

The proofs alone name every one of them.
"""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from bnfold.equivalence import Standing, Verdict, prove, verify
from bnfold.equivalence.structure.signature import every_node

GENERATOR = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return GENERATOR.normal(size=shape).astype(np.float32)


WEIGHTS = {
    "k": normal(4, 2, 3, 3),
    "d": normal(4, 1, 3, 3),
    "kt": normal(2, 3, 3, 3),
    "m": normal(6, 5),
    "b": normal(5),
    "c": normal(4),
    "t": normal(12, 4),
    "g": np.abs(normal(2)),
    "h": normal(2),
    "v": np.abs(normal(2)) + 1,
    "W": normal(1, 20, 3),
    "R": normal(1, 20, 5),
    "WG": normal(1, 15, 3),
    "RG": normal(1, 15, 5),
    "BG": normal(1, 30),
    "q": np.float32(0.05),
    "z": np.uint8(128),
    "zero": np.array(0),
    "one": np.array(1),
    "two": np.array(2),
    "onev": np.array([1]),
    "twov": np.array([2]),
    "sizes": np.array([1, 2]),
    "large": np.float32(60000),
}
IMAGE = "(float[N,2,H,W] x) => (float[N,C,P,Q] y)"
ROWS = "(float[N,6] x) => (float[N,M] y)"
SEQUENCE = "(float[S,N,3] x) => (float[S,D,N,5] y)"
FUNCTION = """
<domain: "local", opset_import: ["" : 17]>
twice (a) => (r) { f = Constant<value_float = 2.0>() r = Mul(a, f) }
"""
LOOP = ROWS + (
    " { y = Loop(three, , x) <body = l (int64 i, bool o, float[N,6] s) => (bool p, float[N,6] r) "
    "{ p = Identity(o) r = Sin(s) }> }"
)
BRANCHES = ROWS + (
    " { n = ReduceSum<keepdims=0>(x) l = Greater(n, q) y = If(l) <then_branch = a () => (float[N,M] p) { p = Neg(x) },"
    " else_branch = e () => (float[N,M] r) { r = Relu(x) }> }"
)
# (what, the graph, the text in it that is changed, and what it becomes)
CHANGES: list[tuple[str, str, str, str]] = [
    ("Conv pads", IMAGE + " { y = Conv<pads=[1,1,1,1]>(x, k) }", "[1,1,1,1]", "[0,0,2,2]"),
    ("Conv strides", IMAGE + " { y = Conv<strides=[2,2]>(x, k) }", "[2,2]", "[2,1]"),
    ("Conv dilations", IMAGE + " { y = Conv<dilations=[1,1], pads=[1,1,1,1]>(x, k) }", "s=[1,1], p", "s=[2,2], p"),
    ("Conv auto_pad", IMAGE + ' { y = Conv<auto_pad="SAME_UPPER", strides=[2,2]>(x, k) }', "UPPER", "LOWER"),
    (
        "ConvTranspose output_padding",
        IMAGE + " { y = ConvTranspose<strides=[2,2], pads=[1,1,1,1]>(x, kt) }",
        "[1,1,1,1]",
        "[0,0,2,2]",
    ),
    ("MaxPool kernel", IMAGE + " { y = MaxPool<kernel_shape=[2,2], pads=[0,0,1,1]>(x) }", "[2,2]", "[3,3]"),
    ("MaxPool dilations", IMAGE + " { y = MaxPool<kernel_shape=[2,2], dilations=[1,1]>(x) }", "ns=[1,1]", "ns=[2,2]"),
    (
        "AveragePool count_include_pad",
        IMAGE + " { y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=0>(x) }",
        "pad=0",
        "pad=1",
    ),
    (
        "AveragePool ceil_mode",
        IMAGE + " { y = AveragePool<kernel_shape=[2,2], strides=[2,2], ceil_mode=0>(x) }",
        "mode=0",
        "mode=1",
    ),
    ("LpPool p", IMAGE + " { y = LpPool<kernel_shape=[2,2], p=2>(x) }", "p=2", "p=1"),
    ("LRN alpha", IMAGE + " { y = LRN<size=3, alpha=0.5>(x) }", "0.5", "0.6"),
    ("LRN size", IMAGE + " { y = LRN<size=3, alpha=0.5>(x) }", "size=3", "size=1"),
    (
        "BatchNormalization epsilon",
        IMAGE + " { y = BatchNormalization<epsilon=0.001>(x, g, h, h, v) }",
        "0.001",
        "0.002",
    ),
    ("BatchNormalization order", IMAGE + " { y = BatchNormalization(x, g, h, h, v) }", "g, h, h, v", "v, h, h, g"),
    (
        "InstanceNormalization epsilon",
        IMAGE + " { y = InstanceNormalization<epsilon=0.00001>(x, g, h) }",
        "0.00001",
        "0.1",
    ),
    ("LayerNormalization axis", ROWS + " { y = LayerNormalization<axis=1>(x, six) }", "axis=1", "axis=0"),
    ("Elu alpha", ROWS + " { y = Elu<alpha=1.0>(x) }", "1.0", "1.1"),
    ("LeakyRelu alpha", ROWS + " { y = LeakyRelu<alpha=0.1>(x) }", "0.1", "0.11"),
    ("ThresholdedRelu", ROWS + " { y = ThresholdedRelu<alpha=1.0>(x) }", "1.0", "1.2"),
    ("HardSigmoid", ROWS + " { y = HardSigmoid<alpha=0.2>(x) }", "0.2", "0.16"),
    ("Selu gamma", ROWS + " { y = Selu<gamma=1.05>(x) }", "1.05", "1.06"),
    ("another activation", ROWS + " { y = Softplus(x) }", "Softplus", "Relu"),
    ("HardSwish for Relu", ROWS + " { y = HardSwish(x) }", "HardSwish", "Relu"),
    ("Softmax axis", IMAGE + " { y = Softmax<axis=1>(x) }", "axis=1", "axis=3"),
    ("LogSoftmax for Softmax", ROWS + " { y = Softmax<axis=1>(x) }", "Softmax", "LogSoftmax"),
    ("Transpose perm", IMAGE + " { y = Transpose<perm=[0,1,3,2]>(x) }", "[0,1,3,2]", "[0,1,2,3]"),
    ("Concat order", ROWS + " { a = Neg(x) y = Concat<axis=1>(a, x) }", "(a, x)", "(x, a)"),
    ("Gather axis", ROWS + " { y = Gather<axis=1>(x, sizes) }", "sizes", "twov"),
    ("Gather another table row", "(int64[N] x) => (float[N,M] y) { y = Gather(t, x) }", "(t, x)", "(u, x)"),
    ("Slice ends", IMAGE + " { y = Slice(x, onev, fourv, twov) }", "onev", "zerov"),
    ("Split sizes", ROWS + " { y, r = Split<axis=1>(x, split) }", "(x, split)", "(x, splot)"),
    ("Pad value", IMAGE + " { y = Pad(x, pads, large) }", "large", "q"),
    ("Pad mode", IMAGE + ' { y = Pad<mode="reflect">(x, pads) }', "reflect", "edge"),
    ("Resize mode", IMAGE + ' { y = Resize<mode="linear">(x, , scales) }', "linear", "nearest"),
    (
        "Resize coordinates",
        IMAGE + ' { y = Resize<mode="linear", coordinate_transformation_mode="half_pixel">(x, , scales) }',
        "half_pixel",
        "align_corners",
    ),
    ("Resize rounding", IMAGE + ' { y = Resize<nearest_mode="floor">(x, , scales) }', "floor", "ceil"),
    ("ReduceMean axes", IMAGE + " { y = ReduceMean<axes=[2], keepdims=1>(x) }", "[2]", "[3]"),
    ("ReduceMax for ReduceMean", IMAGE + " { y = ReduceMean<axes=[2]>(x) }", "ReduceMean", "ReduceMax"),
    ("ReduceSumSquare for ReduceSum", IMAGE + " { y = ReduceL2<axes=[2]>(x) }", "ReduceL2", "ReduceL1"),
    ("CumSum exclusive", ROWS + " { y = CumSum<exclusive=0>(x, one) }", "exclusive=0", "exclusive=1"),
    ("CumSum reverse", ROWS + " { y = CumSum(x, one) }", "CumSum(", "CumSum<reverse=1>("),
    ("TopK largest", ROWS + " { y, i = TopK<axis=1>(x, twov) }", "axis=1", "axis=1, largest=0"),
    ("TopK k", ROWS + " { y, i = TopK<axis=1>(x, twov) }", "twov", "onev"),
    ("ArgMax for ArgMin", "(float[N,6] x) => (int64[N,M] y) { y = ArgMax<axis=1>(x) }", "ArgMax", "ArgMin"),
    (
        "ArgMax last index",
        "(float[N,6] x) => (int64[N,M] y) { a = Relu(x) y = ArgMax<axis=1>(a) }",
        "<axis=1>",
        "<axis=1, select_last_index=1>",
    ),
    ("Clip bound", ROWS + " { y = Clip(x, , large) }", "large", "larger"),
    ("Clip left out", ROWS + " { y = Clip(x, , large) }", ", large", ""),
    ("Gemm alpha", ROWS + " { y = Gemm<alpha=1.0>(x, m, b) }", "1.0", "1.001"),
    ("Gemm beta", ROWS + " { y = Gemm<beta=1.0>(x, m, b) }", "1.0", "1.01"),
    ("a bias left out", ROWS + " { y = Gemm(x, m, b) }", ", b", ""),
    ("Sub for Add", ROWS + " { a = MatMul(x, m) y = Add(a, b) }", "Add", "Sub"),
    ("a Div turned", ROWS + " { a = Exp(x) y = Div(x, a) }", "(x, a)", "(a, x)"),
    ("Pow", ROWS + " { y = Pow(x, two) }", "two", "one"),
    ("Mod", ROWS + " { y = Mod<fmod=1>(x, large) }", "large", "larger"),
    ("Where turned", ROWS + " { l = Greater(x, q) n = Neg(x) y = Where(l, n, x) }", "(l, n, x)", "(l, x, n)"),
    (
        "GreaterOrEqual for Greater",
        "(int64[N,6] x) => (int64[N,M] y) { l = Greater(x, two) y = Cast<to=7>(l) }",
        "Greater",
        "GreaterOrEqual",
    ),
    ("Einsum equation", ROWS + ' { y = Einsum<equation="ni,ij->nj">(x, m) }', "ni,ij->nj", "ni,ij->ni"),
    ("Cast through int8", ROWS + " { a = Cast<to=6>(x) y = Cast<to=1>(a) }", "to=6", "to=3"),
    ("Cast through float16", ROWS + " { a = Cast<to=11>(x) y = Cast<to=1>(a) }", "to=11", "to=10"),
    (
        "QuantizeLinear scale",
        ROWS + " { a = QuantizeLinear(x, q, z) y = DequantizeLinear(a, q, z) }",
        "(x, q, z)",
        "(x, qq, z)",
    ),
    (
        "QuantizeLinear zero",
        ROWS + " { a = QuantizeLinear(x, q, z) y = DequantizeLinear(a, q, z) }",
        "(x, q, z)",
        "(x, q, zz)",
    ),
    ("LSTM recurrence", SEQUENCE + " { y = LSTM<hidden_size=5>(x, W, R) }", "(x, W, R)", "(x, W, R2)"),
    ("LSTM input_forget", SEQUENCE + " { y = LSTM<hidden_size=5>(x, W, R) }", "size=5", "size=5, input_forget=1"),
    ("LSTM clip", SEQUENCE + " { y = LSTM<hidden_size=5>(x, W, R) }", "size=5", "size=5, clip=0.3"),
    ("LSTM direction", SEQUENCE + ' { y = LSTM<hidden_size=5, direction="forward">(x, W, R) }', "forward", "reverse"),
    (
        "GRU linear_before_reset",
        SEQUENCE + " { y = GRU<hidden_size=5, linear_before_reset=0>(x, WG, RG, BG) }",
        "set=0",
        "set=1",
    ),
    ("RNN activation", SEQUENCE + ' { y = RNN<hidden_size=5, activations=["Tanh"]>(x, WR, RR) }', "Tanh", "Relu"),
    ("If branch", BRANCHES, "p = Neg", "p = Abs"),
    ("Loop count", LOOP, "three", "two"),
    ("Loop body", LOOP, "Sin", "Cos"),
    (
        "Scan body",
        ROWS + " { y = Scan(x) <num_scan_inputs=1, body = l (float[6] s) => (float[6] r) { r = Sin(s) }> }",
        "Sin",
        "Cos",
    ),
    ("a function", ROWS + " { y = local.twice(x) }" + FUNCTION, "2.0", "2.5"),
    (
        "GatherElements",
        ROWS + " { i = Cast<to=7>(x) j = Clip(i, zero, two) y = GatherElements<axis=1>(x, j) }",
        "axis=1",
        "axis=0",
    ),
    (
        "ScatterElements reduction",
        ROWS + ' { i = Cast<to=7>(x) j = Clip(i, zero, two) y = ScatterElements<axis=1, reduction="add">(x, j, x) }',
        "add",
        "mul",
    ),
    ("OneHot axis", "(int64[N] x) => (float[N,M] y) { y = OneHot<axis=1>(x, five, offon) }", "offon", "offtwo"),
    ("Trilu", ROWS + " { y = Trilu<upper=1>(x) }", "upper=1", "upper=0"),
    (
        "DepthToSpace mode",
        '(float[N,8,H,W] x) => (float[N,C,P,Q] y) { y = DepthToSpace<blocksize=2, mode="DCR">(x) }',
        "DCR",
        "CRD",
    ),
    ("GlobalMaxPool", IMAGE + " { y = GlobalMaxPool(x) }", "Max", "Average"),
    ("Dropout left in training", ROWS + " { y = Dropout(x, q, false) }", "false", "true"),
    (
        "GridSample",
        "(float[N,2,5,5] x, float[N,3,3,2] s) => (float[N,2,3,3] y) { y = GridSample<align_corners=0>(x, s) }",
        "ners=0",
        "ners=1",
    ),
    (
        "NegativeLogLikelihood weight",
        "(float[N,2] x, int64[N] s) => (float y) { y = NegativeLogLikelihoodLoss(x, s, g) }",
        ", g)",
        ")",
    ),
    ("a tiny channel", IMAGE + " { y = Conv(x, tiny) }", "tiny", "flip"),
    ("one weight of a millionth", ROWS + " { y = MatMul(x, m) }", "(x, m)", "(x, m2)"),
    (
        "outputs exchanged",
        "(float[N,6] x) => (float[N,6] y, float[N,6] w) { y = Sin(x) w = Cos(x) }",
        "y = Sin(x) w = Cos(x)",
        "y = Cos(x) w = Sin(x)",
    ),
    ("Round for Floor", ROWS + " { y = Floor(x) }", "Floor", "Round"),
    ("Erf for Tanh", ROWS + " { y = Erf(x) }", "Erf", "Tanh"),
    ("IsNaN", "(float[N,6] x) => (bool[N,M] y) { y = IsNaN(x) }", "IsNaN", "IsInf"),
    ("Mish for Softplus", ROWS + " { a = Softplus(x) b2 = Tanh(a) y = Mul(x, b2) }", "(x, b2)", "(a, b2)"),
    ("NonZero", "(float[N,6] x) => (int64[K,L] y) { a = Relu(x) y = NonZero(a) }", "(a)", "(x)"),
    ("Expand", "(float[1,6] x) => (float[N,M] y) { y = Expand(x, shape) }", "shape", "shope"),
    ("ReverseSequence", "(float[6,N,3] x, int64[N] s) => (float[6,N,3] y) { y = Neg(x) }", "Neg", "Abs"),
]
WEIGHTS |= {
    "six": normal(6),
    "u": WEIGHTS["t"] + np.eye(12, 4, -9, dtype=np.float32),
    "zerov": np.array([0]),
    "fourv": np.array([4]),
    "five": np.array(5),
    "three": np.array(3),
    "split": np.array([2, 4]),
    "splot": np.array([3, 3]),
    "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    "scales": np.array([1, 1, 2, 1.5], np.float32),
    "larger": np.float32(90000),
    "qq": np.float32(0.06),
    "zz": np.uint8(127),
    "R2": WEIGHTS["R"] * np.float32(1.1),
    "WR": normal(1, 5, 3),
    "RR": normal(1, 5, 5),
    "offon": np.array([0, 1], np.float32),
    "offtwo": np.array([0, 2], np.float32),
    "shape": np.array([3, 6]),
    "shope": np.array([4, 6]),
    "false": np.array(False),
    "true": np.array(True),
    "tiny": WEIGHTS["k"] * np.array([1, 1, 1e-9, 1], np.float32)[:, None, None, None],
    "flip": WEIGHTS["k"] * np.array([1, 1, -1e-9, 1], np.float32)[:, None, None, None],
    "m2": WEIGHTS["m"] + np.float32(1e-6) * np.eye(6, 5, dtype=np.float32),
}


def model(text: str) -> bytes:
    made = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17, "local" : 1]> agraph {text}')
    used = {name for node in made.graph.node for name in node.input}
    made.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(values), name) for name, values in WEIGHTS.items() if name in used
    )
    return made.SerializeToString()


@pytest.mark.parametrize(("text", "was", "now"), [each[1:] for each in CHANGES], ids=[each[0] for each in CHANGES])
def test_a_change_is_found_or_named(text: str, was: str, now: str) -> None:
    assert was in text
    found = verify(model(text), model(text.replace(was, now)))
    assert found.verdict is Verdict.NOT_EQUIVALENT or found.by_running_only, str(found)
    assert found.measurements or "candidate" in found.explanation


@pytest.mark.parametrize(("text", "was", "now"), [each[1:] for each in CHANGES], ids=[each[0] for each in CHANGES])
def test_the_proofs_name_the_value_that_a_change_ends_in(text: str, was: str, now: str) -> None:
    before, after = (onnx.load_from_string(model(each)) for each in (text, text.replace(was, now)))
    was_there, is_there = (
        [node for part in (each.graph, *each.functions) for node in every_node(part)] for each in (before, after)
    )
    changed = {name for node in was_there if node not in is_there for name in node.output}
    changed |= {
        name for node in was_there if not changed.isdisjoint(node.input) for name in node.output
    }  # of a Constant
    named = {proof.output for proof in prove(before, after) if proof.standing is not Standing.HOLDS}
    assert named & changed, (named, changed)
