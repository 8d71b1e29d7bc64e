"""The float64 oracle agrees with the ONNX backend's cases, with onnx.reference in float64, and with onnxruntime."""

import functools
from collections import defaultdict
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto, TensorProto, numpy_helper, parser
from onnx.reference import ReferenceEvaluator

from tests.backend_cases import BackendCase, backend_cases
from tests.oracle import evaluate
from tests.oracle_operators import OPERATORS, promote

FLOAT32 = 2e-5

# What the oracle gives on purpose, or leaves alone, and why.
OTHERWISE = {
    "test_bernoulli_expanded": "random",
    "test_bernoulli_double_expanded": "random",
    "test_bernoulli_seed_expanded": "random",
    "test_training_dropout": "random",
    "test_training_dropout_default": "random",
    "test_training_dropout_mask": "random",
    "test_training_dropout_default_mask": "random",
    "test_scan_sum": "opset 8's Scan, with sequence lengths",
    # The case takes the resized length as size * scale, not rounded down; onnxruntime and the oracle round first.
    "test_resize_downsample_scales_linear_align_corners": "fractional length",
    "test_resize_downsample_scales_cubic_align_corners": "fractional length",
}
NARROW = ("FLOAT16", "BFLOAT16", "FLOAT8", "FLOAT4")


def array_of(value: object) -> object:
    return numpy_helper.to_array(value) if isinstance(value, TensorProto) else value


@functools.cache
def cases_by_operator() -> dict[str, list[BackendCase]]:
    """The single-node cases of the onnx wheel whose every operator is the oracle's own, by operator."""
    chosen = defaultdict(list)
    for case in backend_cases():
        operators = {node.op_type for node in case.model.graph.node}
        rounds = "cast" in case.name and any(f"to_{name}" in case.name for name in NARROW)
        if case.name in OTHERWISE or rounds or not operators <= OPERATORS.keys() | {"If", "Loop", "Scan"}:
            continue
        for operator in operators:
            chosen[operator].append(case)
    return chosen


def assert_agrees(case: BackendCase) -> None:
    model = case.model
    names = [value.name for value in model.graph.input]
    for inputs, expected in case.data_sets:
        feeds = {name: array_of(value) for name, value in zip(names, inputs, strict=True) if value is not None}
        results = evaluate(model, feeds)
        for result, wanted in zip(results.values(), map(array_of, expected), strict=True):
            if not isinstance(wanted, np.ndarray):
                assert isinstance(result, list) or wanted is None or np.isscalar(wanted), case.name
                continue
            assert result.shape == wanted.shape, case.name
            coarse = wanted.dtype.itemsize < 4
            rounding = {"rtol": 1e-2, "atol": 1e-2} if coarse else {"rtol": case.rtol, "atol": 1e-5}
            np.testing.assert_allclose(result, promote(wanted), **rounding, err_msg=case.name)


NO_CASE = {"Bernoulli", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial"}


@pytest.mark.parametrize("operator", sorted(OPERATORS.keys() - NO_CASE))
def test_backend_cases(operator: str) -> None:
    cases = cases_by_operator()[operator]
    assert cases, "no case shows this operator"
    for case in cases:
        assert_agrees(case)


def model_of(text: str) -> ModelProto:
    model = parser.parse_model(text)
    onnx.checker.check_model(model)
    return model


def seeded(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def by_onnxruntime(model: ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def assert_as_onnxruntime(model: ModelProto, feeds: dict[str, np.ndarray]) -> None:
    results = evaluate(model, feeds)
    for result, other in zip(results.values(), by_onnxruntime(model, feeds), strict=True):
        assert result.dtype == (np.float64 if other.dtype.kind == "f" else other.dtype)
        assert result.shape == other.shape
        size = max(float(np.abs(other).max(initial=0)), 1.0)
        np.testing.assert_allclose(result, other, rtol=0, atol=FLOAT32 * size)


LINEAR = {
    "Conv 1d": ("Conv<pads=[2,1], strides=[2], dilations=[2]>", (2, 4, 13), (6, 4, 3)),
    "Conv 2d, groups": ("Conv<group=2, pads=[1,0,2,1], strides=[2,1]>", (2, 4, 7, 6), (6, 2, 3, 2)),
    "Conv 3d": ("Conv<pads=[1,0,1,0,1,1]>", (1, 3, 5, 4, 6), (5, 3, 3, 2, 3)),
    "Conv depthwise": ("Conv<group=6, pads=[1,1,1,1]>", (2, 6, 5, 4), (12, 1, 3, 3)),
    "Conv SAME_UPPER": ('Conv<auto_pad="SAME_UPPER", strides=[2,2]>', (1, 3, 6, 7), (4, 3, 3, 4)),
    "Conv SAME_LOWER": ('Conv<auto_pad="SAME_LOWER", strides=[2,3]>', (1, 3, 6, 7), (4, 3, 4, 3)),
    "Conv VALID": ('Conv<auto_pad="VALID", strides=[2,2]>', (1, 3, 6, 7), (4, 3, 3, 2)),
    "ConvTranspose 1d": ("ConvTranspose<strides=[3], output_padding=[1], pads=[1,0]>", (2, 4, 5), (4, 6, 3)),
    "ConvTranspose 2d, groups": (
        "ConvTranspose<group=2, strides=[2,3], output_padding=[1,2], pads=[1,0,0,2], dilations=[2,1]>",
        (2, 4, 5, 3),
        (4, 3, 3, 2),
    ),
    "ConvTranspose 3d": ("ConvTranspose<strides=[2,1,2], pads=[0,1,1,1,0,0]>", (1, 3, 2, 4, 3), (3, 5, 3, 2, 2)),
    "ConvTranspose SAME_UPPER": ('ConvTranspose<auto_pad="SAME_UPPER", strides=[2,2]>', (1, 3, 4, 3), (3, 5, 3, 3)),
    "ConvTranspose SAME_LOWER": ('ConvTranspose<auto_pad="SAME_LOWER", strides=[2,2]>', (1, 3, 4, 3), (3, 5, 3, 3)),
    "ConvTranspose output_shape": ("ConvTranspose<strides=[2,2], output_shape=[8,5]>", (1, 3, 4, 3), (3, 5, 3, 3)),
}


@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("case", LINEAR)
def test_convolutions_against_onnxruntime(case: str, bias: bool) -> None:
    operator, x, w = LINEAR[case]
    group = int(operator.split("group=")[1][0]) if "group=" in operator else 1
    outputs = w[1] * group if "Transpose" in operator else w[0]
    model = model_of(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[{",".join(map(str, x))}] x, float[{",".join(map(str, w))}] w, float[{outputs}] b) => (float[] y)
        {{ y = {operator}(x, w{", b" if bias else ""}) }}""".replace("float[] y", "float y")
    )
    assert_as_onnxruntime(model, {"x": seeded(1, *x), "w": seeded(2, *w), "b": seeded(3, outputs)})


ON_IMAGES = {   # on x [2, 4, 7, 6], s [4], opset 13 unless said
    "batch normalization": "y = BatchNormalization<epsilon=0.01>(x, s, t, u, v)",
    "max pool, ceil": "y = MaxPool<kernel_shape=[3,2], strides=[2,2], ceil_mode=1, pads=[1,0,0,1]>(x)",
    "max pool, dilated": "y = MaxPool<kernel_shape=[2,2], dilations=[2,3]>(x)",
    "max pool, SAME_LOWER": 'y = MaxPool<kernel_shape=[3,2], strides=[2,2], auto_pad="SAME_LOWER">(x)',
    "average pool": "y = AveragePool<kernel_shape=[3,2], strides=[2,1], pads=[1,1,0,1]>(x)",
    "average pool, pads counted": "y = AveragePool<kernel_shape=[3,2], pads=[1,1,1,0], count_include_pad=1>(x)",
    "average pool, ceil": "y = AveragePool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1>(x)",
    "average pool, ceil, pads counted":
        "y = AveragePool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1, pads=[1,1,1,1], count_include_pad=1>(x)",
    "average pool, SAME_UPPER": 'y = AveragePool<kernel_shape=[2,3], strides=[2,2], auto_pad="SAME_UPPER">(x)',
    "global pools": "a = GlobalAveragePool(x) b = GlobalMaxPool(x) y = Concat<axis=1>(a, b)",
    "local response": "y = LRN<size=3, alpha=0.3, beta=0.6, bias=1.5>(x)",
    "instance normalization": "y = InstanceNormalization(x, s, t)",
    "leaky": "y = LeakyRelu<alpha=0.3>(x)",
    "prelu": "a = Constant<value_ints=[1,2]>() p = Unsqueeze(t, a) y = PRelu(x, p)",
    "clip": "a = Constant<value=float {-0.5}>() b = Constant<value=float {0.7}>() y = Clip(x, a, b)",
    "softmax": "y = Softmax<axis=1>(x)",
    "log softmax": "y = LogSoftmax(x)",
    "curves": "a = Sigmoid(x) b = Tanh(x) c = HardSigmoid(x) d = Elu(x) e = Selu(x) y = Sum(a, b, c, d, e)",
    "more curves": "a = Softplus(x) b = Softsign(x) c = Celu<alpha=0.7>(x) d = Erf(x) y = Mean(a, b, c, d)",
    "slice":
        "a = Constant<value_ints=[5,-1]>() b = Constant<value_ints=[-9,1]>() c = Constant<value_ints=[2,-1]>() "
        "d = Constant<value_ints=[-2,-2]>() y = Slice(x, a, b, c, d)",
    "split": "a = Constant<value_ints=[3,1]>() b, c = Split<axis=1>(x, a) y = Concat<axis=1>(c, b)",
    "pad constant": "a = Constant<value_ints=[0,0,1,2,0,0,0,3]>() y = Pad(x, a, k)",
    "pad reflect": 'a = Constant<value_ints=[0,0,1,2,0,0,3,1]>() y = Pad<mode="reflect">(x, a)',
    "pad edge": 'a = Constant<value_ints=[0,0,1,2,0,0,0,3]>() y = Pad<mode="edge">(x, a)',
    "pad negative": "a = Constant<value_ints=[0,0,-1,2,0,0,1,-3]>() y = Pad(x, a)",
    "reduce": "y = ReduceMean<axes=[0,-1], keepdims=0>(x)",
    "shapes": "a = Shape(x) b = Constant<value_int=1>() c = Gather(a, b) d = Cast<to=1>(c) y = Div(x, d)",
    "integer division": "a = Shape(x) b = Constant<value_ints=[-3]>() y = Div(a, b)",
    "expand": "a = Constant<value_ints=[4,1,1]>() b = Reshape(t, a) c = Shape(x) y = Expand(b, c)",
    "flatten": "a = Flatten<axis=2>(x) y = Transpose(a)",
    "depth to space": 'a = DepthToSpace<blocksize=2, mode="CRD">(x) y = SpaceToDepth<blocksize=2>(a)',
    "nearest": "y = Resize(x, , f)",
    "nearest, floor": 'y = Resize<coordinate_transformation_mode="asymmetric", nearest_mode="floor">(x, , f)',
    "nearest, ceil": 'y = Resize<coordinate_transformation_mode="align_corners", nearest_mode="ceil">(x, , f)',
    "linear": 'y = Resize<mode="linear">(x, , f)',
    "linear, shrinking": 'y = Resize<mode="linear", coordinate_transformation_mode="align_corners">(x, , h)',
    "cubic": 'y = Resize<mode="cubic", cubic_coeff_a=-0.5>(x, , f)',
    "cubic, exclude outside": 'y = Resize<mode="cubic", exclude_outside=1>(x, , f)',
    "resize to sizes": 'y = Resize<mode="linear", coordinate_transformation_mode="pytorch_half_pixel">(x, , , z)',
    "if": (
        "a = ReduceMax<keepdims=0>(x) b = Constant<value=float {0.0}>() c = Greater(a, b) "
        "y = If(c)<then_branch=yes () => (float p) {p = Relu(x)}, else_branch=no () => (float q) {q = Neg(x)}>"
    ),
    "loop": (
        "n = Constant<value=int64 {3}>() c = Constant<value=bool {1}>() "
        "y, rows = Loop(n, c, x)<body=turn (int64 i, bool going, float was) => (bool again, float now, float row) "
        "{again = Identity(going) now = Add(was, x) row = ReduceMean<keepdims=0>(now)}>"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ON_IMAGES)
def test_operators_against_onnxruntime(case: str) -> None:
    model = model_of(
        f"""<ir_version: 8, opset_import: ["" : 13]>
        g (float[2,4,7,6] x, float[4] s, float[4] t, float[4] u, float[4] v, float k) => (y)
        <float[4] f = {{1.0, 1.0, 2.0, 1.7}}, float[4] h = {{1.0, 1.0, 0.5, 0.7}}, int64[4] z = {{2, 4, 5, 9}}>
        {{ {ON_IMAGES[case]} }}""".replace("=> (y)", f"=> ({OUTPUTS.get(case, 'float y')})")
    )
    size = (2, 4, 8, 6) if case == "depth to space" else (2, 4, 7, 6)
    if case == "depth to space":
        model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 8
    feeds = {"x": seeded(1, *size), "s": seeded(2, 4), "t": seeded(3, 4), "u": seeded(4, 4)}
    feeds |= {"v": np.abs(seeded(5, 4)) + np.float32(0.2), "k": np.array(1.5, np.float32)}
    assert_as_onnxruntime(model, feeds)


OUTPUTS = {"integer division": "int64 y", "loop": "float y, float rows"}


@pytest.mark.parametrize("name", ["Conv", "Gemm", "BatchNormalization", "AveragePool"])
def test_double_precision_against_the_reference(name: str) -> None:
    body = {
        "Conv": "y = Conv<group=2, pads=[1,0,2,1], strides=[2,1]>(x, w, b)",
        "Gemm": "a = Flatten(x) y = Gemm<alpha=0.3, beta=1.7, transA=1>(a, a, k)",
        "BatchNormalization": "y = BatchNormalization(x, s, s, s, v)",
        "AveragePool": "y = AveragePool<kernel_shape=[3,2], strides=[2,1], pads=[1,1,0,1]>(x)",
    }[name]
    model = parser.parse_model(f"""<ir_version: 8, opset_import: ["" : 15]>
        g (double[2,4,7,6] x, double[6,2,3,2] w, double[6] b, double[4] s, double[4] v, double k) => (double y)
        {{ {body} }}""")
    shapes = {"x": (2, 4, 7, 6), "w": (6, 2, 3, 2), "b": (6,), "s": (4,), "k": ()}
    feeds = {key: np.random.default_rng(7).normal(size=shape) for key, shape in shapes.items()}
    feeds["v"] = np.array([0.1, 0.5, 2.0, 3.0])
    (expected,) = ReferenceEvaluator(model).run(["y"], feeds)
    np.testing.assert_allclose(evaluate(model, feeds)["y"], expected, rtol=1e-13, atol=1e-13)


def test_a_float32_sum_that_cancels_is_exact_here() -> None:
    model = model_of("""<ir_version: 8, opset_import: ["" : 17]> g (float[1] x) => (float[1] y)
        <float[1] big = {100000000.0}> { a = Add(x, big) y = Sub(a, big) }""")
    feeds = {"x": np.array([0.25], np.float32)}
    assert by_onnxruntime(model, feeds)[0][0] == 0.0
    assert evaluate(model, feeds)["y"][0] == 0.25


def test_casts_between_floating_point_types_do_not_round() -> None:
    model = model_of("""<ir_version: 8, opset_import: ["" : 17]> g (float[1] x) => (float[1] y)
        { a = Cast<to=10>(x) y = Cast<to=1>(a) }""")
    tenth = np.array([0.1], np.float32)
    assert evaluate(model, {"x": tenth})["y"][0] == np.float64(tenth[0])


TRAIN = """<ir_version: 8, opset_import: ["" : %d]>
    g (float[5,3,4,2] x, float[3] s, float[3] t, float[3] u, float[3] v) => (float y) { %s }"""
SPELLINGS = {
    "opset 13": (13, "y, a, b, c, d = BatchNormalization<momentum=0.8>(x, s, t, u, v)"),
    "opset 15": (15, "y, a, b = BatchNormalization<momentum=0.8, training_mode=1>(x, s, t, u, v)"),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_train_mode_normalizes_with_the_batch(spelling: str) -> None:
    model = model_of(TRAIN % SPELLINGS[spelling])
    x, s, t, u = seeded(1, 5, 3, 4, 2), seeded(2, 3), seeded(3, 3), seeded(4, 3)
    feeds = {"x": x, "s": s, "t": t, "u": u, "v": np.abs(seeded(5, 3)) + 1}
    results = evaluate(model, feeds, fetch=["a", "b"])
    whole = x.astype(np.float64)
    mean, variance = whole.mean((0, 2, 3)), whole.var((0, 2, 3))
    np.testing.assert_allclose(results["y"].mean((0, 2, 3)), t, atol=1e-12)
    np.testing.assert_allclose(
        results["a"], np.float32(0.8) * u.astype(float) + (1 - np.float64(np.float32(0.8))) * mean
    )
    np.testing.assert_allclose(results["b"], 0.8 * feeds["v"] + 0.2 * variance, rtol=1e-7)
    np.testing.assert_allclose(by_onnxruntime(model, feeds)[0], results["y"], atol=1e-5)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_inference_uses_the_stored_statistics_whatever_the_file_says(spelling: str) -> None:
    model = model_of(TRAIN % SPELLINGS[spelling])
    feeds = {"x": seeded(1, 5, 3, 4, 2), "s": seeded(2, 3), "t": seeded(3, 3), "u": seeded(4, 3)}
    feeds["v"] = np.abs(seeded(5, 3)) + 1
    x, s, t, u, v = (array.astype(np.float64) for array in feeds.values())
    s, t, u, v = (vector.reshape(1, 3, 1, 1) for vector in (s, t, u, v))
    expected = (x - u) / np.sqrt(v + np.float64(np.float32(1e-5))) * s + t
    np.testing.assert_allclose(evaluate(model, feeds, inference=True)["y"], expected, rtol=1e-12)


def test_dropout_in_training_mode_is_refused_and_is_the_identity_in_inference() -> None:
    model = model_of("""<ir_version: 8, opset_import: ["" : 17]> g (float[4] x) => (float[4] y)
        <float r = {0.5}, bool train = {1}> { y = Dropout(x, r, train) }""")
    x = seeded(1, 4)
    with pytest.raises(ValueError, match="random"):
        evaluate(model, {"x": x})
    np.testing.assert_array_equal(evaluate(model, {"x": x}, inference=True)["y"], x.astype(np.float64))


def test_functions_with_attributes_and_defaults() -> None:
    model = model_of("""<ir_version: 10, opset_import: ["" : 17, "local" : 1]>
        g (float[4] x) => (float[4] y, float[4] z) {
            y = local.leak <slope = 0.5> (x)
            z = local.twice (x)
        }
        <domain: "local", opset_import: ["" : 17, "local" : 1]>
        leak <slope> (a) => (b) { b = LeakyRelu <alpha: float = @slope> (a) }
        <domain: "local", opset_import: ["" : 17, "local" : 1]>
        twice <slope: float = 0.25> (a) => (c) {
            b = local.leak <slope: float = @slope> (a)
            c = local.leak <slope = 2.0> (b)
        }
    """)
    x = np.array([-4.0, -1.0, 0.0, 2.0], np.float32)
    results = evaluate(model, {"x": x})
    np.testing.assert_array_equal(results["y"], [-2.0, -0.5, 0.0, 2.0])
    np.testing.assert_array_equal(results["z"], [-2.0, -0.5, 0.0, 2.0])


def test_an_overridable_initializer_can_be_fed_and_need_not_be() -> None:
    model = model_of("""<ir_version: 8, opset_import: ["" : 17]> g (float[2] x, float[2] w) => (float[2] y)
        <float[2] w = {2.0, 3.0}> { y = Mul(x, w) }""")
    ones = np.ones(2, np.float32)
    np.testing.assert_array_equal(evaluate(model, {"x": ones})["y"], [2.0, 3.0])
    np.testing.assert_array_equal(evaluate(model, {"x": ones, "w": 5 * ones})["y"], [5.0, 5.0])


def test_feeds_must_fit() -> None:
    model = model_of('<ir_version: 8, opset_import: ["" : 17]> g (float[1] x) => (float[1] y) { y = Relu(x) }')
    with pytest.raises(KeyError, match="nope"):
        evaluate(model, {"x": np.ones(1), "nope": np.ones(1)})
    with pytest.raises(KeyError, match="x"):
        evaluate(model, {})


def test_what_is_not_in_the_table_goes_to_the_reference() -> None:
    assert "CumSum" not in OPERATORS
    model = model_of("""<ir_version: 8, opset_import: ["" : 17]> g (float[3] x) => (float[3] y)
        <int64 axis = {0}> { y = CumSum(x, axis) }""")
    result = evaluate(model, {"x": np.array([0.1, 0.2, 0.3], np.float32)})["y"]
    assert result.dtype == np.float64
    np.testing.assert_array_equal(result, np.cumsum(np.array([0.1, 0.2, 0.3], np.float32).astype(np.float64)))


def test_bfloat16_weights_keep_their_values() -> None:
    weight = onnx.helper.make_tensor("w", TensorProto.BFLOAT16, [2], [1.0, 0.10009765625])
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Cast", ["w"], ["y"], to=TensorProto.FLOAT)],
        "g",
        [],
        [onnx.helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
        [weight],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    assert evaluate(model, {})["y"].tolist() == [1.0, 0.10009765625]


LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


@pytest.mark.parametrize("name", ["resnet50", "inception_v2", "shufflenet", "densenet121", "squeezenet"])
def test_light_graphs_against_onnxruntime_before_their_softmax(name: str) -> None:
    model = onnx.load(LIGHT / f"light_{name}.onnx")
    (last,) = (node for node in model.graph.node if node.output[0] == model.graph.output[0].name)
    if last.op_type == "Softmax":  # all its inputs are the same here: behind it every model looks right
        model.graph.output[0].name = last.input[0]
        del model.graph.output[0].type.tensor_type.shape.dim[:]
        model.graph.output[0].type.tensor_type.ClearField("shape")
        model.graph.node.remove(last)
    initializers = {tensor.name for tensor in model.graph.initializer}
    (image,) = (value.name for value in model.graph.input if value.name not in initializers)
    feeds = {image: seeded(1, 1, 3, 224, 224)}
    (result,) = evaluate(model, feeds).values()
    (other,) = by_onnxruntime(model, feeds)
    np.testing.assert_allclose(result, other, rtol=1e-5)


@pytest.mark.parametrize("name", ["digits_cnn", "digits_autoencoder", "digits_preact"])
def test_trained_models_against_onnxruntime(name: str) -> None:
    models = Path(__file__).parents[2] / "models"
    model = onnx.load(models / f"{name}.onnx")
    with np.load(models / "digits.npz") as file:
        assert_as_onnxruntime(model, {"images": file["images"][:32]})


def test_the_train_mode_model_in_inference_is_the_trained_network() -> None:
    models = Path(__file__).parents[2] / "models"
    with np.load(models / "digits.npz") as file:
        images, golden = file["images"], file["digits_cnn_logits"]
    logits = evaluate(onnx.load(models / "digits_cnn_train.onnx"), {"images": images}, inference=True)["logits"]
    np.testing.assert_allclose(logits, golden, rtol=0, atol=2e-5)
