"""Counterexamples that random graphs found, each at its smallest. Every one is judged as the random graphs are."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper, parser

from tests.random_graph_judge import judge

Array = NDArray[Any]


def numbers(*shape: int, seed: int = 0, low: float = 0.5, high: float = 2.0) -> Array:
    """Numbers of both signs, none near zero."""
    generator = np.random.default_rng([seed, *shape])
    values = generator.uniform(low, high, shape) * generator.choice([-1.0, 1.0], shape)
    return np.asarray(values, np.float32)


def batch_norm(channels: int, suffix: str = "", seed: int = 1) -> dict[str, Array]:
    names = [f"{name}{suffix}" for name in "ghm"]
    made = {name: numbers(channels, seed=seed + place) for place, name in enumerate(names)}
    return {**made, f"v{suffix}": abs(numbers(channels, seed=seed + 3))}


def build(text: str, constants: dict[str, Array], *, opset: int = 17, ir_version: int = 8) -> ModelProto:
    """`text` is a graph, with the functions of the model behind it, in the syntax of `onnx.parser`."""
    imports = f'"" : {opset}' + (', "local" : 1' if "local" in text else "")
    model = parser.parse_model(f"<ir_version: {ir_version}, opset_import: [{imports}]> {text}")
    for name, values in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
        if ir_version < 4:
            element = onnx.helper.np_dtype_to_tensor_dtype(values.dtype)
            model.graph.input.append(onnx.helper.make_tensor_value_info(name, element, values.shape))
    return model


def judged(model: ModelProto, *, folded: int = 0, merged: int = 0) -> None:
    """Hold `model` to all promises, and say how many normalizations are to be folded and merged."""
    feeds = {}
    initialized = {tensor.name for tensor in model.graph.initializer}
    for entry in model.graph.input:
        if entry.name not in initialized:
            shape = tuple(dim.dim_value for dim in entry.type.tensor_type.shape.dim)
            feeds[entry.name] = np.asarray(True) if entry.type.tensor_type.elem_type == 9 else numbers(*shape, seed=99)
    result = judge(model, [feeds])
    assert result.actions["folded "] == folded, result.actions
    assert sum(count for action, count in result.actions.items() if action.startswith("merged ")) == merged


def test_an_identity_between_input_and_output_stays() -> None:
    one, zero = np.ones(4, np.float32), np.zeros(4, np.float32)
    text = "g (float[1,4,5] x) => (float[1,4,5] y) { y = BatchNormalization<epsilon=0.0>(x, one, zero, zero, one) }"
    judged(build(text, {"one": one, "zero": zero}))


def test_edits_of_a_body_survive_new_nodes_around_it() -> None:
    """Writing the order of the outer nodes copies them with their bodies, which have to be finished first."""
    text = """g (float[2,3,5] x) => (float[2,3,5] y, float[2,4,4] z) {
        a = BatchNormalization(x, g0, h0, m0, v0)
        y = BatchNormalization(a, g1, h1, m1, v1)
        z = Scan<num_scan_inputs = 1, body = b (float[3,5] r) => (float[4,4] o) {
            u = Unsqueeze(r, zero)
            c = Conv(u, w)
            n = BatchNormalization(c, g, h, m, v)
            o = Squeeze(n, zero)
        }>(y)
    }"""
    constants = {"zero": np.asarray([0], np.int64), "w": numbers(4, 3, 2), **batch_norm(4), **batch_norm(3, "0")}
    judged(build(text, {**constants, **batch_norm(3, "1", seed=7)}), folded=1, merged=1)


def test_a_decision_names_what_the_input_calls_it() -> None:
    """A merge gives the normalization that remains the name of the output of the run."""
    text = """g (float[1,4,5] x) => (float[1,4,5] y) {
        a = BatchNormalization(x, g, h, m, v)
        b = BatchNormalization(a, g1, h1, m1, v1)
        y = Sub(b, c)
    }"""
    judged(build(text, {"c": numbers(4, 1), **batch_norm(4), **batch_norm(4, "1", seed=7)}), merged=1)


@pytest.mark.parametrize("order", ["first", "last"])
def test_one_channel_is_still_an_axis(order: str) -> None:
    """A BatchNormalization of one channel cannot take up a map of the last axis."""
    normalized, scaled = "BatchNormalization({}, g, h, m, v)", "Mul({}, row)"
    first, second = (normalized, scaled) if order == "first" else (scaled, normalized)
    text = f"""g (float[1,1,5,7] x) => (float[1,1,5,7] y) {{
        a = {first.format("x")}
        b = {second.format("a")}
        y = Add(b, one)
    }}"""
    judged(build(text, {"row": numbers(7), "one": numbers(), **batch_norm(1)}), folded=1)


def test_a_body_gets_no_initializers_where_they_have_to_be_inputs() -> None:
    text = """g (float[2,3,5] x, bool c) => (float[2,4,4] y) {
        y = If<then_branch = t () => (float[2,4,4] o) {
            d = Conv(x, w)
            o = BatchNormalization(d, g, h, m, v)
        }, else_branch = e () => (float[2,4,4] p) {
            f = Conv(x, w)
            p = Relu(f)
        }>(c)
    }"""
    judged(build(text, {"w": numbers(4, 3, 2), **batch_norm(4)}, opset=11, ir_version=3), folded=1)


def test_a_constant_in_a_function_is_a_tensor() -> None:
    text = """g (float[2,3,5] x) => (float[2,3,5] y) { y = local.f(x) }
    <domain: "local", opset_import: ["" : 17]> f (a) => (o) {
        w = Constant<value = float[3,3,1] {1, 2, 3, 4, 5, 6, 7, 8, 9}>()
        one = Constant<value = float[3] {1, 2, 3}>()
        two = Constant<value = float[3] {2, 1, 4}>()
        c = Conv(a, w)
        o = BatchNormalization(c, one, two, one, two)
    }"""
    judged(build(text, {}), folded=1)


def test_who_looks_at_the_shape_of_a_value_that_goes_finds_another_one() -> None:
    text = """g (float[1,4,5,7] x) => (float[1,4,5,7] y, int64[4] s) {
        a = Mul(x, k)
        b = Add(a, one)
        c = Mul(b, one)
        y = Add(c, one)
        s = Shape(c)
    }"""
    judged(build(text, {"k": numbers(4, 1, 1), "one": numbers()}), merged=1)


@pytest.mark.parametrize("operands", ["n, s", "s, n"])
def test_a_sum_with_a_constant_takes_a_shift_as_it_is(operands: str) -> None:
    """Not as Sub does."""
    text = f"""g (float[1,3,5] x) => (float[1,4,5] y) {{
        n = BatchNormalization(x, g, h, m, v)
        o = Sum({operands})
        y = Conv(o, w)
    }}"""
    judged(build(text, {"s": numbers(3, 1), "w": numbers(4, 3, 1), **batch_norm(3)}), folded=1)


VECTORS = {
    "a shift that is one number": """g (float[3] x) => (float[4,1] y) {
        d = MatMul(w, x)
        r = Reshape(d, column)
        y = BatchNormalization(r, g, h, m, v)
    }""",
    "as many matrices as rows": """g (float[3] x) => (float[4,4] y) {
        d = MatMul(stack, x)
        a = Mul(d, k)
        y = Add(a, k)
    }""",
    "the rows of a matrix": """g (float[3] x) => (float[4] y) {
        d = MatMul(w, x)
        a = Mul(d, k)
        b = Sub(a, k)
        y = Div(b, k)
    }""",
}


@pytest.mark.parametrize("name", VECTORS)
def test_a_matrix_times_a_vector_has_its_rows_on_the_last_axis(name: str) -> None:
    constants = {"w": numbers(4, 3), "stack": numbers(4, 4, 3), "k": numbers(4)}
    constants |= {"column": np.asarray([4, 1], np.int64), **batch_norm(1)}
    text = VECTORS[name]
    used = {key: values for key, values in constants.items() if f"{key}," in text or f"{key})" in text}
    judged(build(text, used), folded=1)


def test_what_stayed_and_is_read_no_longer_is_said_to_be_removed() -> None:
    """The sizes of a normalization that stays are stored, and nothing else was read of it."""
    text = """g (float[2,2,3] x) => (float[3,4] y) {
        [product] a = MatMul(x, w)
        [norm] b = BatchNormalization(a, g, h, m, v)
        [sizes] s = Shape(b)
        [reshape] r = Reshape(x, s)
        [flatten] f = Reshape(r, pairs)
        [last] y = MatMul(f, k)
    }"""
    constants = {"w": numbers(3, 3), "pairs": np.asarray([3, 4], np.int64), "k": numbers(4, 4), **batch_norm(2)}
    x = numbers(2, 2, 3, seed=99)
    assert judge(build(text, constants), [{"x": x}]).actions == {"removed ": 1}
