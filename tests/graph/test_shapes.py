"""Shapes from everywhere: inference, the file where it does not contradict that, and each operator by itself."""

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import bnfold
from bnfold.graph import Model
from bnfold.onnxfile import read
from tests.fold_models import Row, check_folds, check_left_alone, fold, numbers
from tests.oracle import evaluate


def _shape(model: ModelProto, value: str) -> tuple[int | str | None, ...] | None:
    return Model(read(model.SerializeToString())).main.shape(value)


# The rank of the value in front is known to nobody but the operator that makes it.
SHAPES = {
    "a Conv behind an unknown operator": ("u = acme.What(x) z = Conv(u, w, b) y = Relu(z)", (None, 4, None, None)),
    "a ConvTranspose, in groups": (
        "u = acme.What(x) z = ConvTranspose<group=2>(u, w) y = Relu(z)",
        (None, 6, None, None),
    ),
    "a Conv whose weight is computed": (
        "e = Exp(w) u = acme.What(x) z = Conv(u, e) y = Relu(z)",
        (None, 4, None, None),
    ),
    "what follows from that": ("u = acme.What(x) c = Conv(u, w, b) z = GlobalMaxPool(c) y = Relu(z)", (None, 4, 1, 1)),
    "a Reshape to sizes known in part": (
        "s = Shape(x) n = Gather(s, zero1) k = Cast<to=6>(n) t = Concat<axis=0>(k, k126) z = Reshape(x, t) y = Relu(z)",
        (None, 126),
    ),
    "sizes known in part that go through floats": (
        (
            "s = Shape(x) f_ = Cast<to=1>(s) i = Floor(f_) k = Cast<to=7>(i) n = Gather(k, zero1) l_ = Cast<to=7>(k126)"
            " t = Concat<axis=0>(n, l_) z = Reshape(x, t) y = Relu(z)"
        ),
        (None, 126),
    ),
    "one of them chosen": (
        (
            "s = Shape(x) n = Gather(s, zero1) t = Concat<axis=0>(n, minus) e = Equal(t, minus) c = Where(e, l126, t)"
            " z = Reshape(x, c) y = Relu(z)"
        ),
        (None, 126),
    ),
    "one of them chosen that nobody knows": (
        (
            "s = Shape(x) n = Gather(s, zero1) t = Concat<axis=0>(l126, n) e = Equal(l126, l126) c = Where(e, n, l126)"
            " j = Concat<axis=0>(c, l126) z = Reshape(x, j) y = Relu(z)"
        ),
        (None, 126),
    ),
    "a product of sizes": (
        (
            "s = Shape(x) n = Gather(s, zero1) r_ = Slice(s, one1, four) q = ReduceProd<axes=[0], keepdims=1>(r_)"
            " t = Concat<axis=0>(n, q) z = Reshape(x, t) y = Relu(z)"
        ),
        (None, 126),
    ),
    "a Reshape to the shape of another value": ("s = Shape(x2) z = Reshape(x, s) y = Relu(z)", (None, 3, 6, 7)),
    "a Resize to sizes known in part": (
        "s = Shape(x) n = Slice(s, zero1, two) t = Concat<axis=0>(n, k9) z = Resize(x, , , t) y = Relu(z)",
        (None, 3, 9, 9),
    ),
    "nothing that tells": ("u = acme.What(x) z = Relu(u) y = Relu(z)", None),
    "a weight that nobody knows": ("u = acme.What(x) e = acme.What(w) z = Conv(u, e) y = Relu(z)", None),
    "a target that nobody knows": ("z = Reshape(x, form) y = Relu(z)", None),
}
_STORED = {
    "zero1": np.array([0], np.int64),
    "two": np.array([2], np.int64),
    "k126": np.array([126], np.int32),
    "l126": np.array([126], np.int64),
    "minus": np.array([-1], np.int64),
    "one1": np.array([1], np.int64),
    "four": np.array([4], np.int64),
    "k9": np.array([9, 9], np.int64),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shape(name: str) -> None:
    text, expected = SHAPES[name]
    model = Row(text, {"form": "int64[D]"}, _STORED, opset=13).model()
    shape = _shape(model, "z")
    if shape is not None:
        shape = tuple(size if isinstance(size, int) else None for size in shape)
    assert shape == expected


def test_folds_below_ir_version_4() -> None:
    check_folds(Row("c = Conv(x, w, b) u = Unsqueeze<axes=[1,2]>(g) y = Mul(c, u)", opset=7, ir=3), "Conv")


def test_folds_behind_a_target_computed_through_int32() -> None:
    row = Row(
        "t = Transpose<perm=[0,2,3,1]>(x) s = Shape(x) n = Gather(s, zero1) k = Cast<to=6>(n)"
        " j = Concat<axis=0>(k, k126) i = Cast<to=7>(j) r = Reshape(t, i) d = Mul(r, p) y = MatMul(d, q)",
        constants={**_STORED, "p": numbers(126), "q": numbers(126, 5)},
        opset=13,
    )
    original = row.model()
    done = fold(original)
    assert "Mul" not in done.operators
    fed = {"x": numbers(2, 3, 6, 7)}
    np.testing.assert_allclose(evaluate(done.model, fed)["y"], evaluate(original, fed)["y"], rtol=0, atol=2e-5)


def test_a_target_that_a_caller_gives_says_nothing() -> None:
    row = Row(
        "r = Reshape(x, /pair|form/) d = Mul(r, p) y = MatMul(d, q)",
        {"form": "int64[D]"},
        {"pair": np.array([-1, 126], np.int64), "p": numbers(126), "q": numbers(126, 5)},
        opset=13,
    )
    check_left_alone("SHAPE_UNKNOWN", row)


def _declaring(*declared: onnx.ValueInfoProto) -> ModelProto:
    text = "c = Conv(x, w, b) n = BatchNormalization(c, g, h, m, v) r = Relu(n) k = Mul(r, s) y = Relu(k)"
    model = Row(text, constants={"s": numbers(4, 1, 1)}).model()
    model.graph.value_info.extend(declared)
    return model


def _info(name: str, *shape: int | str, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


@pytest.mark.parametrize(
    "stale", [_info("r"), _info("r", "N", 4, 7), _info("r", "N", 5, 4, 5), _info("r", "N", 4, 4, 5, kind=11)], ids=str
)
def test_a_declaration_that_contradicts_inference_is_dropped(stale: onnx.ValueInfoProto) -> None:
    done = fold(_declaring(_info("k", "N", 4, 4, 5), stale))
    assert [each.name for each in done.model.graph.value_info] == ["k"]
    assert _shape(_declaring(stale), "r") == ("N", 4, 4, 5)


def test_a_declaration_names_what_inference_leaves_open() -> None:
    model = Row("z = Reshape(x, form) y = Relu(z)", {"form": "int64[2]"}, opset=13).model()
    model.graph.value_info.append(_info("z", "rows", 126))
    assert _shape(model, "z") == ("rows", 126)
    model.graph.value_info[0].CopyFrom(_info("z", "rows", 126, 1))
    assert _shape(model, "z") in ((None, None), ("rows", 126, 1))


def test_a_model_that_nothing_changed_keeps_its_declarations() -> None:
    model = _declaring(_info("r"))
    del model.graph.node[1:3]
    model.graph.node[1].input[0] = "c"
    model.graph.initializer.append(numpy_helper.from_array(numbers(1), "unused"))
    opened = Model(read(model.SerializeToString()))
    opened.main.shape("c")
    opened.finish()
    assert [each.name for each in opened.proto.graph.value_info] == ["r"]


def test_a_long_chain_of_unknown_shapes_is_followed_once() -> None:
    chain = " ".join(f"a{n + 1} = Relu(a{n})" for n in range(3000))
    model = Row(f"u = acme.What(x) a0 = Conv(u, w) {chain} y = Relu(a3000)").model()
    assert _shape(model, "a3000") == (None, 4, None, None)


# onnx counts in a C int there: it writes beyond its memory, or never ends.
FAR = {
    "a step": ("a", 1 << 31, False),
    "a step back": ("a", -(1 << 62), False),
    "the farthest": ("a", -(1 << 63), False),
    "a Constant": (f"k = Constant<value_ints=[{1 << 40}]>() ", None, False),
    "in a body": ("If", 1 << 40, False),
    "as far as it goes": ("a", (1 << 31) - 1, True),
    "an end is no step": ("end", 1 << 40, True),
}


@pytest.mark.parametrize("name", FAR)
def test_onnx_is_not_asked_about_steps_that_it_cannot_count(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    how, step, propagates = FAR[name]
    stored = {"zero": np.array([0]), "one": np.array([1]), "a": np.array([step if how != "end" else 1])}
    end = "far" if how == "end" else "one"
    text = f"s = Shape(x) t = Slice(s, zero, {end}, zero, {'k' if step is None else 'a'})"
    text = f"{how}{text}" if step is None else text
    if how == "If":
        text = (
            f"q = If(yes) <then_branch = p () => (int64[M] t) {{ {text} }}, "
            "else_branch = n () => (int64[M] u) { u = Shape(x) }>"
        )
        stored["yes"] = np.array(True)
    model = Row(f"{text} y = Relu(x)", None, stored | {"far": np.array([1 << 40])}).model()
    asked: list[bool] = []
    right = onnx.shape_inference.infer_shapes

    def noted(structure: bytes, *, data_prop: bool) -> ModelProto:
        asked.append(data_prop)
        return right(structure, data_prop=False)

    monkeypatch.setattr("onnx.shape_inference.infer_shapes", noted)
    assert bnfold.optimize(model).report.exit_code == 0
    assert set(asked) == {propagates}


# ---------------------------------------------------------------------- inside a function

CALLS = """
    <ir_version: 8, opset_import: ["": 17, "f": 1]>
    g (float[N,3,4] x, float[5,3,4] z) => (float[N,3,4] y, float[M,L] w) {{ {} }}
    <domain: "f", opset_import: ["": 17]> Inner (a) => (b) {{ h = Neg(a) b = Relu(h) }}
    <domain: "f", opset_import: ["": 17]> Turned <order> (k) => (l) {{ l = Transpose<perm: ints = @order>(k) }}
"""
_OUTER = '<domain: "f", opset_import: ["": 17, "f": 1]> Outer (p) => (q) { q = f.Inner(p) }'
INSIDE = {
    "of the only call": ("y = f.Inner(x) w = Flatten(z)", "h", ("N", 3, 4)),
    "what all calls have in common": ("t = f.Inner(z) u = f.Inner(x) y = Add(t, u) w = Flatten(z)", "h", (None, 3, 4)),
    "calls of another rank": ("y = f.Inner(x) t = Flatten(z) w = f.Inner(t)", "h", None),
    "a function that a function calls": ("t = Neg(x) y = f.Outer(t) w = Flatten(z)", "h", ("N", 3, 4)),
    "what such a call makes": ("t = Neg(x) y = f.Outer(t) w = Flatten(z)", "q", ("N", 3, 4)),
    "what the branches of an If have in common": ("y = f.Chosen(x, z) w = Flatten(z)", "e", (None, 3, 4)),
    "what a Loop makes": ("y = f.Looped(x) w = Flatten(z)", "made", (None, 4, 3, "N")),
    "a constant around a body": ("y = f.Looped(x) w = Flatten(z)", "m", (4, 2, "N")),
    "an argument of a body that declares no size": ("y = f.Scanned(x) w = Flatten(z)", "o", (3, 4)),
    "what a Scan makes": ("y = f.Scanned(x) w = Flatten(z)", "made", ("N", 4, 3)),
    "what an attribute of the call decides": ("y = Neg(x) t = f.Turned<order=[2, 0, 1]>(z) w = Flatten(t)", "l", None),
}


_OTHERS = {
    "f.Outer": _OUTER,
    "f.Chosen": """
        <domain: "f", opset_import: ["": 17, "f": 1]> Chosen (p, q) => (r) {
            c = Constant<value = bool {1}>() s = f.Inner(p)
            d = If(c) <then_branch = a () => (float[?,?,?] i) { i = f.Inner(s) },
                       else_branch = b () => (float[?,?,?] j) { j = Neg(q) }> e = Neg(d) r = Relu(e) }""",
    "f.Looped": """
        <domain: "f", opset_import: ["": 17]> Looped (p) => (r) {
            n = Constant<value = int64 {6}>() c = Constant<value = bool {1}>() z = Constant<value = int64[1] {1}>()
            u = Constant<value = int64[1] {3}>() t = Transpose<perm = [2, 1, 0]>(p)
            v, made = Loop(n, c, t) <body = l (int64 at, bool on, float[?,?,?] o) => (
                bool on, float[?,?,?] o, float[?,?,?] s) { m = Slice(t, z, u, z) s = Relu(t) }> r = Transpose(v) }""",
    "f.Scanned": """
        <domain: "f", opset_import: ["": 17]> Scanned (p) => (r) {
            made = Scan<num_scan_inputs = 1, body = l (float[?,?] o) => (float[?,?] s) { s = Transpose(o) }>(p)
            r = Transpose<perm = [0, 2, 1]>(made) }""",
}


@pytest.mark.parametrize("name", INSIDE)
def test_shape_inside_a_function(name: str) -> None:
    text, value, expected = INSIDE[name]
    whole = CALLS.format(text) + "".join(other for call, other in _OTHERS.items() if call in text)
    model = Model(read(onnx.parser.parse_model(whole).SerializeToString()))
    [home] = [graph for graph in model.graphs if graph.defines(value)]
    assert home.shape(value) == expected


AROUND = {
    "a Slice": ("n = Neg(x) s = Slice(n, zero1, two, one1)", ("N", 2, 6, 7)),
    "a ConstantOfShape": ("s = ConstantOfShape(k9) n = Neg(x)", (9, 9)),
    "what is made of one": ("c = ConstantOfShape(k9) n = Neg(x) s = MatMul(c, c)", (9, 9)),
    "a Range": ("n = Neg(x) s = Range(three, nine, three)", (2,)),
}


@pytest.mark.parametrize("name", AROUND)
def test_a_branch_sees_the_constants_around_it(name: str) -> None:
    """onnx's inference does not: what is cut out of a value by stored numbers has no sizes for it."""
    made, expected = AROUND[name]
    text = f"""
        i = If(t) <then_branch = a () => (float[N,M] p) {{ {made} p = Flatten(n) }},
                   else_branch = b () => (float[N,M] o) {{ o = Flatten(x) }}> y = Relu(i)"""
    sizes = {"one1": np.array([1]), "k9": np.array([9, 9]), "three": np.array(3), "nine": np.array(9)}
    row = Row(text, constants={**_STORED, **sizes, "t": np.array(True)}, opset=13)
    model = Model(read(row.model().SerializeToString()))
    [home] = [graph for graph in model.graphs if graph.defines("s")]
    assert home.shape("s") == expected


def test_a_body_in_a_function_has_the_opset_of_the_function() -> None:
    text = """
        <ir_version: 8, opset_import: ["": 17, "f": 1]> g (float[2,3] x, bool c) => (float[2,3] y) { y = f.Old(x, c) }
        <domain: "f", opset_import: ["": 12]> Old (p, c) => (q) {
            q = If(c) <then_branch = a () => (float[2,3] i) { i = Neg(p) }, else_branch = b () => (float[2,3] j) {
                j = Relu(p) }> }"""
    model = Model(read(onnx.parser.parse_model(text).SerializeToString()))
    assert [graph.opset for graph in model.graphs] == [17, 12, 12, 12]
