"""What a value is before the model runs, and what is not known before."""

import numpy as np
import onnx
import pytest
from onnx import helper

from bnfold.graph import Graph, Model
from bnfold.onnxfile import read
from tests.fold_models import Row, numbers
from tests.oracle import evaluate

_CONSTANTS = {
    "a": numbers(2, 3),
    "a2": numbers(2, 3, seed=1),
    "v": numbers(3, low=0.1, seed=2),
    "i": np.array([1, 2], np.int64),
    "shape23": np.array([2, 3], np.int64),
    "shape4": np.array([2, 2, 3], np.int64),
    "minus": np.array([-1], np.int64),
    "bad_shape": np.array([2, -3], np.int64),
    "huge": np.array([2**20, 2**20], np.int64),
    "float_shape": np.array([2.0, 3.0], np.float32),
    "zero": np.array([0], np.int64),
    "one": np.array([1], np.int64),
    "twice": np.array([2, 2], np.int64),
    "negative_twice": np.array([2, -2], np.int64),
    "half": np.array(0.5, np.float16),
    "yes": np.array(True),
    "v2": numbers(2, low=0.1, seed=4),
    "two_": np.array([3], np.int64),
    "large": np.array([2**40], np.int64),
    "bytes": np.array([[1, -2], [3, 4]], np.int8),
    "bytes0": np.array(0, np.int8),
    "scale": np.array(0.05, np.float32),
    "widths": np.array([1, 0, 0, 2], np.int64),
    "axis1": np.array(1, np.int64),
    "corner": np.array([[1, 2], [0, 1]], np.int64),
    "corner_f": numbers(2, 2, seed=5),
    "row_": np.array([[1]], np.int64),
    "row_f": numbers(1, 3, seed=6),
    "twice_row": np.array([[1], [1]], np.int64),
    "twice_rows": numbers(2, 3, seed=7),
    "beyond": np.array([[0, 2, 0]], np.int64),
    "largest": np.array([2**40, 2**40], np.int64),
}


def _graph(text: str, opset: int = 18, inputs: dict[str, str] | None = None) -> tuple[onnx.ModelProto, Graph]:
    model = Row(text, inputs, _CONSTANTS, opset=opset).model()
    return model, Model(read(model.SerializeToString())).main


CONSTANT = {
    "Constant value": ("y = Constant<value = float[2] {1.5, -2.0}>()", 18),
    "Constant of a number": ("y = Constant<value_float = 1.5>()", 18),
    "Constant of numbers": ("y = Constant<value_floats = [1.5, 2.5]>()", 18),
    "Constant of an integer": ("y = Constant<value_int = 7>()", 18),
    "Constant of integers": ("y = Constant<value_ints = [7, 8]>()", 18),
    "Identity": ("y = Identity(a)", 18),
    "Identity of Identity": ("b_ = Identity(a) y = Identity(b_)", 18),
    "Add": ("y = Add(a, v)", 18),
    "Sub": ("y = Sub(a, v)", 18),
    "Mul": ("y = Mul(a, a2)", 18),
    "Div": ("y = Div(a, v)", 18),
    "Pow": ("y = Pow(v, v)", 18),
    "Neg": ("y = Neg(a)", 18),
    "Sqrt": ("y = Sqrt(v)", 18),
    "Reciprocal": ("y = Reciprocal(v)", 18),
    "Cast": ("y = Cast<to=1>(i)", 18),
    "CastLike": ("y = CastLike(half, x)", 18),
    "Reshape": ("y = Reshape(a, minus)", 18),
    "Transpose": ("y = Transpose(a)", 18),
    "Flatten": ("y = Flatten(a)", 18),
    "Squeeze": ("u = Unsqueeze(a, zero) y = Squeeze(u, zero)", 18),
    "Unsqueeze, opset 12": ("y = Unsqueeze<axes=[1]>(a)", 12),
    "Concat": ("y = Concat<axis=1>(a, a2)", 18),
    "Slice": ("y = Slice(a, zero, one)", 18),
    "Expand": ("y = Expand(v, shape4)", 18),
    "ConstantOfShape": ("y = ConstantOfShape(shape23)", 18),
    "ConstantOfShape with a value": ("y = ConstantOfShape<value = float[1] {2.5}>(shape23)", 18),
    "Shape": ("y = Shape(a)", 18),
    "Shape from a dim on": ("y = Shape<start=1>(a)", 18),
    "Expand to the shape of a constant": ("s = Shape(a) y = Expand(v, s)", 18),
    "Tile": ("y = Tile(a, twice)", 18),
    "ReduceMean": ("y = ReduceMean(a, zero)", 18),
    "ReduceL2": ("y = ReduceL2<axes=[1]>(a)", 17),
    "ReduceProd of integers": ("y = ReduceProd(i)", 18),
    "Sigmoid": ("y = Sigmoid(a)", 18),
    "Erf": ("y = Erf(a)", 18),
    "Softmax": ("y = Softmax<axis=0>(a)", 18),
    "Mean": ("y = Mean(a, v)", 18),
    "Pad": ("y = Pad(a, widths)", 18),
    "Pad, opset 10": ("y = Pad<pads=[0,1,2,0], value=0.5>(a)", 10),
    "CumSum": ("y = CumSum<exclusive=1, reverse=1>(a, axis1)", 18),
    "Trilu": ("y = Trilu<upper=0>(a)", 18),
    "Gemm": ("y = Gemm<transB=1, alpha=0.5>(a, a2)", 18),
    "Einsum": ('y = Einsum<equation="ij,kj->ik">(a, a2)', 18),
    "GatherElements": ("y = GatherElements<axis=1>(a, corner)", 18),
    "GatherND": ("y = GatherND(a, corner)", 18),
    "ScatterElements": ("y = ScatterElements<axis=1>(a, corner, corner_f)", 18),
    "ScatterND": ("y = ScatterND(a, row_, row_f)", 18),
    "CastLike of an integer": ("y = CastLike(i, x)", 18),
    "arithmetic of integers": ("y = Mul(i, i)", 18),
    "integers divided toward zero": ("n = Neg(i) t = Div(n, twice) y = Add(t, i)", 18),
    "a part of a split": ("z, y = Split<axis=0, num_outputs=2>(a)", 18),
    "Equal, Where, Pow": ("e = Equal(i, twice) p = Pow(v2, v2) y = Where(e, v2, p)", 18),
    "quantized and back": ("q = QuantizeLinear(v, scale, bytes0) y = DequantizeLinear(q, scale, bytes0)", 18),
    "a known size of a value": ("s = Shape(x) y = Gather(s, one)", 18),
    "a size from the back": ("y = Shape<start=-2>(x)", 18),
    "arithmetic on sizes": ("s = Shape(x) t = Slice(s, one, two_) y = Mul(t, twice)", 18),
}


@pytest.mark.parametrize("name", CONSTANT)
def test_constant(name: str) -> None:
    text, opset = CONSTANT[name]
    model, graph = _graph(text, opset)
    found = graph.constant("y")
    assert found is not None
    fed = {"x": np.zeros((1, 3, 6, 7), np.float32)} if "x)" in text else {}
    expected = evaluate(model, fed)["y"]
    np.testing.assert_allclose(found.exact(), expected, rtol=1e-6)
    assert found.shape == expected.shape
    declared = model.graph.output[0].type.tensor_type.elem_type
    assert found.dtype == helper.tensor_dtype_to_np_dtype(declared)


NOT_CONSTANT = {
    "an input": ("y = Identity(x)", 18),
    "one operand is not": ("y = Add(a, x)", 18),
    "a random number": ("y = RandomNormal<shape=[2,3]>()", 18),
    "another domain": ("y = acme.Identity(a)", 18),
    "broadcasting by attributes": ("y = Add<broadcast=1>(a, v)", 6),
    "two dtypes": ("y = Add(a, half)", 18),
    "integers that would wrap around": ("y = Mul(large, large)", 18),
    "integers divided by zero": ("y = Div(i, zero)", 18),
    "shapes that do not fit": ("y = Add(a, twice_f)", 18),
    "a size below zero": ("y = ConstantOfShape(bad_shape)", 18),
    "a size that does not fit into memory": ("y = ConstantOfShape(huge)", 18),
    "a shape of floats": ("y = Expand(v, float_shape)", 18),
    "a negative number of tiles": ("y = Tile(a, negative_twice)", 18),
    "the wrong number of tiles": ("y = Tile(a, one)", 18),
    "CastLike without a type": ("u = acme.What(x) y = CastLike(half, u)", 18),
    "no operator bnfold evaluates": ("y = Selu(a)", 18),
    "an element that is written twice": ("y = ScatterND(a, twice_row, twice_rows)", 18),
    "an index beyond the border": ("y = GatherElements<axis=0>(a, beyond)", 18),
    "integers whose product wraps around": ("y = ReduceProd(largest)", 18),
    "what does not fit together": ("y = Concat<axis=0>(a, v)", 18),
    "a quantized weight, which stays small": ("y = DequantizeLinear(bytes, scale)", 18),
    "a random number like a constant": ("y = RandomNormalLike(a)", 18),
    "what depends on a body": (
        "y = If<then_branch = g () => (float p) { p = Sum(a) }, else_branch = h () => (float q) { q = Sum(a) }>(yes)",
        18,
    ),
}


@pytest.mark.parametrize("name", NOT_CONSTANT)
def test_not_constant(name: str) -> None:
    text, opset = NOT_CONSTANT[name]
    model = Row(text, None, {**_CONSTANTS, "twice_f": numbers(2, 2)}, opset=opset)
    try:
        built = model.model()
    except onnx.shape_inference.InferenceError:
        pytest.fail("the row is no model")
    assert Model(read(built.SerializeToString())).main.constant("y") is None


@pytest.mark.parametrize("operator", ["Identity", "Neg"])
def test_an_expression_may_be_deep(operator: str) -> None:
    chain = " ".join(f"a{n + 1} = {operator}(a{n})" for n in range(3, 3000))
    _, graph = _graph(f"a3 = Identity(a) {chain} y = Identity(a3000)")
    assert graph.constant("y") is not None


def test_an_expression_that_is_too_large_is_left_to_the_runtime() -> None:
    constants = {"tall": np.zeros((5000, 1), np.float32), "wide": np.zeros((1, 5000), np.float32)}
    model = Row("y = Add(tall, wide)", None, constants).model()
    assert Model(read(model.SerializeToString())).main.constant("y") is None


def test_what_is_repeated_costs_no_memory() -> None:
    constants = {"shape": np.array([5000, 5000], np.int64)}
    model = Row("y = ConstantOfShape(shape)", None, constants).model()
    found = Model(read(model.SerializeToString())).main.constant("y")
    assert found is not None
    assert found.numpy().strides == (0, 0)


def test_values_of_an_expression_are_rounded_as_the_runtime_does() -> None:
    constants = {"p": np.array([2048, 1], np.float16), "q": np.array([1, 1], np.float16)}
    model = Row("y = Add(p, q)", None, constants).model()
    found = Model(read(model.SerializeToString())).main.constant("y")
    assert found is not None
    np.testing.assert_array_equal(found.exact(), [2048, 2])  # 2049 is no float16
