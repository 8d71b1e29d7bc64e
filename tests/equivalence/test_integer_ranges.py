"""What integers an input may hold is read from the nodes that read it."""

import pytest
from onnx import ModelProto, parser

from bnfold.equivalence import Verdict, verify
from bnfold.equivalence.feeds.integer_ranges import IntegerRange, integer_ranges


def model(body: str, inputs: str, functions: str = "") -> ModelProto:
    text = (
        f'<ir_version: 8, opset_import: ["" : 17, "local" : 1]> agraph ({inputs}) => (float y) {{ {body} }} {functions}'
    )
    return parser.parse_model(text)


TABLE = "t = Constant<value = float[9,2] {" + ",".join("1" * 18) + "}>() "
ONE = "one = Constant<value = int64 {1}>() "
TABLES = {
    "an index": (TABLE + "y = Gather(t, i)", "int64[N] i", IntegerRange(0, 9)),
    "the other axis": (TABLE + "y = Gather<axis=1>(t, i)", "int64[N] i", IntegerRange(0, 2)),
    "through a Cast of a float": (TABLE + "j = Cast<to=7>(i) y = Gather(t, j)", "float[N] i", IntegerRange(0, 9)),
    "shifted up": (TABLE + ONE + "j = Add(i, one) y = Gather(t, j)", "int64[N] i", IntegerRange(-1, 8)),
    "shifted down": (TABLE + ONE + "j = Sub(i, one) y = Gather(t, j)", "int64[N] i", IntegerRange(1, 10)),
    "clipped": (TABLE + ONE + "j = Clip(i, one) y = Gather(t, j)", "int64[N] i", IntegerRange(0, 9)),
    "masked": (TABLE + ONE + "j = Where(m, i, one) y = Gather(t, j)", "int64[N] i, bool[N] m", IntegerRange(0, 9)),
    "wrapped as PyTorch does": (
        TABLE + "n = Constant<value_int=9>() j = Add(i, n) k = Where(m, j, i) y = Gather(t, k)",
        "int64[N] i, bool[N] m",
        IntegerRange(0, 9),
    ),
    "two tables": (
        TABLE + "u = Constant<value = float[4] {1,2,3,4}>() a = Gather(t, i) y = Gather(u, i)",
        "int64[N] i",
        IntegerRange(0, 4),
    ),
    "elements": (TABLE + "y = GatherElements(t, i)", "int64[N,2] i", IntegerRange(0, 9)),
    "one hot": ("d = Constant<value_int=6>() y = OneHot(i, d, v)", "int64[N] i, float[2] v", IntegerRange(0, 6)),
    "compared": (
        "c = Constant<value_int=16000>() e = Equal(i, c) y = Cast<to=1>(e)",
        "int64 i",
        IntegerRange(landmarks=(16000, 15999, 16001)),
    ),
    "a divisor": ("y = Div(j, i)", "int64[N] i, int64[N] j", IntegerRange(1)),
    "a divisor through arithmetic": (
        "k = Mul(i, i) l = Unsqueeze(k, j) y = Mod(j, l)",
        "int64[N] i, int64[N] j",
        IntegerRange(1),
    ),
    "a float that becomes a divisor": ("k = Cast<to=7>(i) y = Div(j, k)", "float[N] i, int64[N] j", IntegerRange(1)),
    "in a body": (
        TABLE + "y = If(c) <then_branch = a () => (float p) { p = Gather(t, i) }, "
        "else_branch = b () => (float q) { q = Gather(t, i) }>",
        "int64[N] i, bool c",
        IntegerRange(0, 9),
    ),
}


@pytest.mark.parametrize(("body", "inputs", "expected"), TABLES.values(), ids=TABLES)
def test_ranges(body: str, inputs: str, expected: IntegerRange) -> None:
    assert integer_ranges(model(body, inputs))["i"] == expected


def test_functions_are_entered_where_they_are_called() -> None:
    function = '<opset_import: ["" : 17], domain: "local"> look (t, k) => (r) { r = Gather(t, k) }'
    found = integer_ranges(model(TABLE + "j = Identity(i) y = local.look(t, j)", "int64[N] i", function))
    assert found["i"] == IntegerRange(0, 9)


def test_a_function_that_calls_itself_ends() -> None:
    function = '<opset_import: ["" : 17, "local" : 1], domain: "local"> f (k) => (r) { r = local.f(k) }'
    assert integer_ranges(model("y = local.f(i)", "int64[N] i", function)) == {}


def test_a_float_that_is_divided_by_is_left_as_it_is() -> None:
    assert integer_ranges(model("y = Div(j, i)", "float[N] i, float[N] j")) == {}


STEPS = {
    "STFT": "(float[1,64,1] x, int64 i, int64 j) => (float[A,B,C,D] y) { y = STFT<onesided=1>(x, i, , j) }",
    "Div": "(int64[N] x, int64[N] i) => (int64[N] y) { y = Div(x, i) }",
    "Mod": "(int64[N] x, int64[N] i) => (int64[N] y) { y = Mod(x, i) }",
    "Range": "(int64 i) => (int64[N] y) <int64 a = {0}, int64 b = {9}> { y = Range(a, b, i) }",
    "Slice": "(float[9] x, int64[1] i) => (float[N] y) <int64[1] a = {0}, int64[1] b = {9}> "
    "{ y = Slice(x, a, b, a, i) }",
    "TopK": "(float[9] x, int64[1] i) => (float[N] y, int64[N] z) { y, z = TopK(x, i) }",
}


@pytest.mark.parametrize("text", STEPS.values(), ids=STEPS)
def test_operators_that_step_by_an_input_run(text: str) -> None:
    made = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> agraph {text}').SerializeToString()
    found = verify(made, made)
    assert (found.verdict, found.notes) == (Verdict.EQUIVALENT, ())
