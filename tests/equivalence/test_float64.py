"""The float64 evaluation agrees with PyTorch, an implementation that shares no line with it."""

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper, parser
from torch.nn import functional

from bnfold.equivalence.numbers.constant_expressions import store_constants
from bnfold.equivalence.numbers.float64 import Evaluator, Unknowable
from bnfold.equivalence.numbers.kernels import Reference
from bnfold.equivalence.runtime.sessions import Optimization, opened, quiet_options
from bnfold.equivalence.runtime.torch_reference import ModuleReference
from tests.float64_operators import GENERATORS, answers

RNG = np.random.default_rng(0)


def run(op: str, inputs: list[np.ndarray], **attributes: object) -> np.ndarray:
    names = [f"i{n}" for n in range(len(inputs))]
    graph = helper.make_graph(
        [helper.make_node(op, names, ["y"], **attributes)],
        "g",
        [helper.make_tensor_value_info("i0", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(a, n) for a, n in zip(inputs[1:], names[1:], strict=True)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)])
    return Evaluator(model)({"i0": inputs[0]})["y"]


def close(mine: np.ndarray, theirs: torch.Tensor) -> None:
    assert mine.dtype == np.float64
    np.testing.assert_allclose(mine, theirs.numpy(), rtol=1e-12, atol=1e-12)


def tensors(*arrays: np.ndarray) -> list[torch.Tensor]:
    return [torch.from_numpy(array) for array in arrays]


CONVOLUTIONS = {
    "1d": ((2, 4, 9), (6, 4, 3), {"strides": [2], "pads": [1, 1]}),
    "2d groups": (
        (2, 4, 7, 9),
        (6, 2, 3, 2),
        {"group": 2, "dilations": [2, 1], "strides": [1, 2], "pads": [2, 1, 2, 1]},
    ),
    "depthwise": ((1, 6, 5, 6), (12, 1, 3, 3), {"group": 6, "pads": [1, 1, 1, 1]}),
    "3d": ((1, 2, 4, 5, 6), (3, 2, 2, 3, 2), {"pads": [1, 0, 1, 1, 0, 1]}),
}


@pytest.mark.parametrize(("shape", "kernel", "attributes"), CONVOLUTIONS.values(), ids=CONVOLUTIONS)
@pytest.mark.parametrize("bias", [True, False])
def test_conv(shape: tuple[int, ...], kernel: tuple[int, ...], attributes: dict[str, object], bias: bool) -> None:
    x, w, b = RNG.standard_normal(shape), RNG.standard_normal(kernel), RNG.standard_normal(kernel[0])
    rank = len(shape) - 2
    conv = (functional.conv1d, functional.conv2d, functional.conv3d)[rank - 1]
    options = {
        name: attributes[key] for name, key in (("stride", "strides"), ("dilation", "dilations")) if key in attributes
    }
    expected = conv(
        *tensors(x, w),
        *(tensors(b) if bias else [None]),
        padding=attributes.get("pads", [0] * rank)[:rank],
        groups=attributes.get("group", 1),
        **options,
    )
    close(run("Conv", [x, w, b] if bias else [x, w], **attributes), expected)


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_conv_with_automatic_padding(auto_pad: str) -> None:
    x, w = RNG.standard_normal((1, 1, 6)), RNG.standard_normal((1, 1, 4))
    margins = {"SAME_UPPER": (1, 2), "SAME_LOWER": (2, 1), "VALID": (0, 0)}[auto_pad]
    expected = functional.conv1d(torch.from_numpy(np.pad(x, ((0, 0), (0, 0), margins))), torch.from_numpy(w))
    close(run("Conv", [x, w], auto_pad=auto_pad), expected)


TRANSPOSED = {
    "1d": ((2, 4, 5), (4, 3, 3), {"strides": [2]}),
    "2d groups": ((2, 4, 5, 3), (4, 3, 3, 2), {"group": 2, "strides": [2, 3], "pads": [1, 0, 1, 0]}),
    "dilated": ((1, 2, 4, 5), (2, 3, 3, 3), {"dilations": [2, 1], "strides": [3, 2], "output_padding": [1, 1]}),
    "3d": ((1, 2, 3, 2, 4), (2, 2, 2, 3, 2), {"pads": [0, 1, 0, 0, 1, 0]}),
}


@pytest.mark.parametrize(("shape", "kernel", "attributes"), TRANSPOSED.values(), ids=TRANSPOSED)
def test_conv_transpose(shape: tuple[int, ...], kernel: tuple[int, ...], attributes: dict[str, object]) -> None:
    x, w = RNG.standard_normal(shape), RNG.standard_normal(kernel)
    b = RNG.standard_normal(kernel[1] * attributes.get("group", 1))
    rank = len(shape) - 2
    conv = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)[rank - 1]
    expected = conv(
        *tensors(x, w, b),
        stride=attributes.get("strides", [1] * rank),
        padding=attributes.get("pads", [0] * rank)[:rank],
        output_padding=attributes.get("output_padding", [0] * rank),
        groups=attributes.get("group", 1),
        dilation=attributes.get("dilations", [1] * rank),
    )
    close(run("ConvTranspose", [x, w, b], **attributes), expected)


def test_conv_transpose_to_a_given_shape_crops_or_extends() -> None:
    x, w = RNG.standard_normal((1, 2, 5)), RNG.standard_normal((2, 3, 3))
    whole = functional.conv_transpose1d(*tensors(x, w), stride=2)
    close(run("ConvTranspose", [x, w], strides=[2], output_shape=[10], auto_pad="SAME_UPPER"), whole[..., :10])
    close(run("ConvTranspose", [x, w], strides=[2], output_shape=[10], auto_pad="SAME_LOWER"), whole[..., 1:])
    longer = run("ConvTranspose", [x, w], strides=[2], output_shape=[13])
    assert longer.shape == (1, 3, 13)


POOLS = {
    "plain": {"kernel_shape": [3, 2], "strides": [2, 1]},
    "padded": {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
    "ceil": {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1},
    "ceil, last window in the padding": {
        "kernel_shape": [2, 2],
        "strides": [4, 4],
        "pads": [1, 1, 1, 1],
        "ceil_mode": 1,
    },
}


@pytest.mark.parametrize("attributes", POOLS.values(), ids=POOLS)
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_pools(op: str, attributes: dict[str, object]) -> None:
    x = RNG.standard_normal((2, 3, 8, 9)) - 3
    options = {
        "stride": attributes["strides"],
        "padding": attributes.get("pads", [0, 0])[:2],
        "ceil_mode": bool(attributes.get("ceil_mode")),
    }
    if op == "MaxPool":
        expected = functional.max_pool2d(torch.from_numpy(x), attributes["kernel_shape"], **options)
    else:
        expected = functional.avg_pool2d(
            torch.from_numpy(x), attributes["kernel_shape"], **options, count_include_pad=False
        )
    close(run(op, [x], **attributes), expected)


def test_average_pool_that_counts_its_padding() -> None:
    x = RNG.standard_normal((1, 2, 6, 7))
    expected = functional.avg_pool2d(torch.from_numpy(x), 3, padding=1, count_include_pad=True)
    close(run("AveragePool", [x], kernel_shape=[3, 3], strides=[3, 3], pads=[1] * 4, count_include_pad=1), expected)


def test_stored_numbers_casts_functions_and_bodies_are_all_widened() -> None:
    model = parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 17, "local" : 1]>'
        "agraph (bool c, float[N] x) => (float[N] y) <float[1] w = {0.1}> {"
        "  a = Cast<to=1>(x) k = Constant<value = float[1] {0.3}>() b = Mul(a, w) d = local.third(b)"
        "  y = If (c) <then_branch = t () => (float[N] p) { q = Constant<value = float[1] {0.7}>() p = Add(d, q) },"
        "              else_branch = e () => (float[N] r) { r = Add(d, k) }>"
        "}"
        '<domain: "local", opset_import: ["" : 17]> third (v) => (u) '
        "{ s = Constant<value = float[1] {0.33}>() z = Mul(v, s) u = Cast<to=1>(z) }"
    )
    x = np.array([1 / 3, 5.0], np.float32)
    w, third, then = (np.float64(np.float32(value)) for value in (0.1, 0.33, 0.7))
    got = Evaluator(model)({"c": np.array(True), "x": x})["y"]
    np.testing.assert_array_equal(got, x.astype(np.float64) * w * third + then)


def test_what_cannot_be_known_says_why() -> None:
    text = '<ir_version: 9, opset_import: ["" : 17, "custom": 1]> agraph (float[N] x) => (float[N] y) { y = %s }'
    for body, why in (("custom.Magic(x)", "Magic"), ("RandomNormalLike(x)", "RandomNormalLike")):
        with pytest.raises(Unknowable, match=why):
            Evaluator(parser.parse_model(text % body))
    fine = Evaluator(parser.parse_model(text % "Relu(x)"))
    with pytest.raises(Unknowable, match="cannot run"):
        fine({})


@pytest.mark.parametrize(("opset", "attributes"), [(6, "is_test=1"), (9, "momentum=0.8"), (13, ""), (15, "")])
def test_batch_normalization_is_inference_in_every_opset(opset: int, attributes: str) -> None:
    text = (
        f'<ir_version: 8, opset_import: ["" : {opset}]> agraph (float[N,3,H] x, float[3] g, float[3] h, float[3] m, '
        f"float[3] v) => (float[N,3,H] y) {{ y = BatchNormalization<epsilon=0.01, {attributes}>(x, g, h, m, v) }}"
    ).replace(", >", ">")
    x, (g, h, m), v = RNG.standard_normal((2, 3, 4)), RNG.standard_normal((3, 3)), RNG.uniform(1, 2, 3)
    got = Evaluator(parser.parse_model(text))({"x": x, "g": g, "h": h, "m": m, "v": v})["y"]
    tx, tm, tv, tg, th = tensors(x, m, v, g, h)
    np.testing.assert_allclose(got, functional.batch_norm(tx, tm, tv, tg, th, eps=0.01).numpy(), rtol=1e-6)


@pytest.mark.parametrize("opset", [9, 13, 15])
def test_batch_normalization_in_a_function_is_inference_too(opset: int) -> None:
    """onnx.reference gives functions operators of its own, and mixes in the statistics of the batch up to opset 13."""
    model = parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : {opset}, "local" : 1]> agraph (float[N,3,H] x, float[3] g, float[3] v) '
        "=> (float[N,3,H] y) { y = local.outer<near=0.5>(x, g, v) } "
        f'<domain: "local", opset_import: ["" : {opset}]> inner<near>(x, g, v) => (y) '
        "{ y = BatchNormalization<epsilon: float = @near>(x, g, g, g, v) } "
        f'<domain: "local", opset_import: ["" : {opset}, "local" : 1]> outer<near>(x, g, v) => (y) '
        "{ y = local.inner<near: float = @near>(x, g, v) }"
    )
    x, g, v = RNG.standard_normal((2, 3, 4)), RNG.standard_normal(3), RNG.uniform(1, 2, 3)
    got = Evaluator(model)({"x": x, "g": g, "v": v})["y"]
    tx, tg, tv = tensors(x, g, v)
    close(got, functional.batch_norm(tx, tg, tv, tg, tg, eps=0.5))


def test_overloads_of_a_function_are_told_apart() -> None:
    """onnx.reference looks functions up by domain and name."""
    text = '<domain: "local", opset_import: ["" : 17], overload: "%s"> f (x) => (y) { y = %s(x) }'
    model = parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 17, "local" : 1]> agraph (float[N] x) => (float[N] a, float[N] b) '
        "{ a = local.f:one(x) b = local.f:two(x) } " + text % ("one", "Neg") + text % ("two", "Abs")
    )
    x = np.array([-2.0, 3.0])
    got = Evaluator(model)({"x": x})
    np.testing.assert_array_equal(got["a"], -x)
    np.testing.assert_array_equal(got["b"], abs(x))


def test_a_shaken_module_keeps_its_integers() -> None:
    class Counting(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.factor = torch.nn.Parameter(torch.full((8,), 3.0))
            self.added = torch.nn.Parameter(torch.arange(8), requires_grad=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.factor + self.added

    model = parser.parse_model('<ir_version: 9, opset_import: ["" : 17]> g (float[8] x) => (float[8] y) {y = Relu(x)}')
    got = ModuleReference(Counting(), model).truth(1)({"x": np.ones(8, np.float32)}, ["y"])["y"]
    assert {abs(value) for value in got - 3 - np.arange(8)} == {3 * 2.0**-24}


def test_a_constant_that_a_batch_normalization_makes_is_inference_too() -> None:
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 11]> agraph (float[1,2] x) => (float[1,2] y) '
        "<float[1,2] c = {3, 5}, float[2] g = {2, 4}, float[2] v = {1, 4}> "
        "{ k = BatchNormalization<epsilon=0>(c, g, g, g, v) y = Add(x, k) }"
    )
    store_constants(model)
    assert [node.op_type for node in model.graph.node] == ["Add"]
    np.testing.assert_array_equal(Evaluator(model)({"x": np.zeros((1, 2))})["y"], [[4, 6]])


def test_shaken_numbers_are_off_by_one_roundoff_of_their_own_type() -> None:
    model = parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 17]> agraph (float[N,64] x) => (float[64] a, double[64] b, int64[64] c) '
        "<float16[64] h, double[64] d, int64[64] i> "
        "{ w = Cast<to=1>(h) a = Identity(w) b = Identity(d) c = Identity(i) }"
    )
    stored = {"h": np.full(64, 3, np.float16), "d": np.full(64, 3.0), "i": np.full(64, 3)}
    del model.graph.initializer[:]
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in stored.items())
    feed = {"x": np.zeros((1, 64))}
    first, again, other = (Evaluator(model, shake)(feed) for shake in (1, 1, 2))
    assert set(first["a"]) == {3 * (1 - 2.0**-11), 3 * (1 + 2.0**-11)}
    assert len(set(first["b"])) > 1
    np.testing.assert_array_max_ulp(first["b"], stored["d"], 1)
    np.testing.assert_array_equal(first["c"], stored["i"])
    np.testing.assert_array_equal(first["a"], again["a"])
    assert (first["a"] != other["a"]).any()
    np.testing.assert_array_equal(Evaluator(model)(feed)["a"], np.full(64, 3.0))


TRAINING = {
    "opset 6 by default": (6, "y = BatchNormalization(x, g, g, g, g)"),
    "opset 9 with five outputs": (9, "y, a, b, c, d = BatchNormalization(x, g, g, g, g)"),
    "opset 15": (15, "y, a, b = BatchNormalization<training_mode=1>(x, g, g, g, g)"),
    "per position": (8, "y = BatchNormalization<spatial=0>(x, g, g, g, g)"),
}


@pytest.mark.parametrize(("opset", "body"), TRAINING.values(), ids=TRAINING)
def test_batch_normalization_in_training_has_no_truth(opset: int, body: str) -> None:
    graph = f"agraph (float[N,3,H] x, float[3] g) => (float[N,3,H] y) {{ {body} }}"
    text = f'<ir_version: 8, opset_import: ["" : {opset}]> {graph}'
    with pytest.raises(Unknowable, match="training mode"):
        Evaluator(parser.parse_model(text))({"x": np.ones((1, 3, 2)), "g": np.ones(3)})


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
@pytest.mark.parametrize(
    ("opset", "along"),
    [(10, ""), *((opset, along) for opset in (13, 17, 19, 21) for along in ("", "<axis=1>", "<axis=-2>"))],
)
def test_quantization_is_what_the_runtime_does_at_every_opset(opset: int, kind: type, along: str) -> None:
    """onnx.reference begins at opset 19. One scale, or one per channel of the second axis."""
    nodes = f"q = QuantizeLinear{along}(x, s, z) y = DequantizeLinear{along}(q, s, z)"
    head = f'<ir_version: 8, opset_import: ["" : {opset}]> agraph (float[2,3,5] x) => (float[2,3,5] y)'
    model = parser.parse_model(f"{head} {{ {nodes} }}")
    generator = np.random.default_rng(opset)
    scale = np.asarray(generator.uniform(0.01, 0.2, 3 if along else ()), np.float32)
    zero = np.asarray(generator.integers(0, 100, 3 if along else ()), kind)
    model.graph.initializer.extend([numpy_helper.from_array(scale, "s"), numpy_helper.from_array(zero, "z")])
    x = (5 * generator.standard_normal((2, 3, 5))).astype(np.float32)
    with opened(model.SerializeToString(), quiet_options(Optimization.OFF), ["CPUExecutionProvider"]) as session:
        expected = session.run({"x": x})["y"]
    np.testing.assert_allclose(Reference(model).run(None, {"x": x})[0], expected, atol=1e-6)


AS_THE_RUNTIME = {
    "Upsample, scales an attribute": (7, 'y = Upsample<mode="nearest", scales=[1.0, 1.0, 2.5, 1.0]>(x)'),
    "Upsample, linear": (8, 'y = Upsample<mode="linear", scales=[1.0, 1.0, 2.0, 3.0]>(x)'),
    "Upsample, scales an input": (9, 'y = Upsample<mode="nearest">(x, s)'),
    "Pad takes away": (11, "y = Pad(x, p)"),
    "Pad takes away by attributes": (9, "y = Pad<pads=[0,0,-1,2,0,0,1,-2], value=0.5>(x)"),
    "Pad takes away and mirrors": (13, 'y = Pad<mode="reflect">(x, p)'),
    "Pad repeats the last": (18, 'y = Pad<mode="edge">(x, q, , a)'),
    "Pad with a number": (13, "y = Pad(x, p, v)"),
}


@pytest.mark.parametrize(("opset", "body"), AS_THE_RUNTIME.values(), ids=AS_THE_RUNTIME)
def test_what_the_reference_lacks_is_what_the_runtime_does(opset: int, body: str) -> None:
    model = parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : {opset}]> agraph (float[2,3,5,6] x) => (float[A,B,C,D] y) '
        "<float[4] s = {1, 1, 2, 3}, int64[8] p = {0, 0, -2, 1, 0, 0, 1, -3}, int64[4] q = {-1, 1, 2, -2}, "
        f"int64[2] a = {{-1, 2}}, float v = {{0.25}}> {{ {body} }}"
    )
    x = RNG.standard_normal((2, 3, 5, 6)).astype(np.float32)
    with opened(model.SerializeToString(), quiet_options(Optimization.OFF), ["CPUExecutionProvider"]) as session:
        expected = session.run({"x": x})["y"]
    found = Evaluator(model)({"x": x})["y"]
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_operators_of_every_version_are_what_onnxruntime_computes() -> None:
    """Windows, normalizations, coordinates, and what flattened its operand once."""
    found, wrong = answers(0, 5 * len(GENERATORS))
    assert not wrong
    assert {name for name, answer in found if answer == "same"} == {*GENERATORS}


@pytest.mark.soak
def test_soak_of_operators() -> None:
    assert not answers(1_000, 20_000)[1]
