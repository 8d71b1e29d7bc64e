"""The sizes of pools that round up are those that onnxruntime computes, not what onnx's inference says of them."""

from itertools import product

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, parser

import bnfold
from bnfold.graph import Model, infer_shapes
from bnfold.onnxfile import read
from tests.fold_models import batch_norm, numbers

FORMS = [
    (kernel, step, pads, size)
    for kernel, step, pads, size in product((1, 2, 3), (1, 2, 3, 5), ((0, 0), (0, 1), (1, 0), (1, 1)), range(4, 9, 2))
    if max(pads) < kernel
]


def pooled(operator: str, nodes: str, size: int, rank: int = 1) -> ModelProto:
    sizes = ",".join(["1", "2", *[str(size)] * rank])
    text = f'<ir_version: 9, opset_import: ["": 18]> g (float[{sizes}] x) => (float[] y) {{ {nodes} }}'
    model = parser.parse_model(text.replace("Pool", operator))
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return model


def size_of(model: ModelProto) -> list[int | None]:
    dims = infer_shapes(model).graph.output[0].type.tensor_type.shape.dim
    return [dim.dim_value if dim.HasField("dim_value") else None for dim in dims]


def ran(model: ModelProto) -> list[int]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # it warns of what onnx infers
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (x,) = session.get_inputs()
    return list(session.run(None, {"x": np.zeros(x.shape, np.float32)})[0].shape)


@pytest.mark.parametrize("operator", ["MaxPool", "AveragePool", "LpPool"])
def test_sizes_are_those_of_the_runtime(operator: str) -> None:
    overcounted = 0
    for kernel, step, pads, size in FORMS:
        words = f"kernel_shape=[{kernel}], strides=[{step}], pads=[{pads[0]},{pads[1]}], ceil_mode=1"
        model = pooled(operator, f"y = Pool<{words}>(x)", size)
        found = infer_shapes(model)
        assert found.graph.node[0] == model.graph.node[0]
        assert size_of(model) == ran(model), (words, size)
        plain = onnx.shape_inference.infer_shapes(model).graph.output[0].type.tensor_type.shape
        overcounted += [dim.dim_value for dim in plain.dim] != size_of(model)
    assert overcounted > 10, "or this test has nothing to show any more"


def test_axes_round_each_in_its_own_way() -> None:
    """The first axis loses a window, the second one keeps it, and dilations count."""
    words = "kernel_shape=[2,2], strides=[2,3], pads=[0,0,1,0], dilations=[1,2], ceil_mode=1"
    model = pooled("MaxPool", f"y = Pool<{words}>(x)", 8, rank=2)
    assert size_of(model) == ran(model) == [1, 2, 4, 3]


def test_pools_in_a_row() -> None:
    pool = "Pool<kernel_shape=[1], strides=[2], ceil_mode=1>"
    model = pooled("MaxPool", f"a = {pool}(x) b = Relu(a) c = {pool}(b) y = {pool}(c)", 26)
    assert size_of(model) == ran(model) == [1, 2, 4]


def test_what_is_not_known_stays_so() -> None:
    model = pooled("MaxPool", "u = acme.What(x) y = Pool<kernel_shape=[1], strides=[2], ceil_mode=1>(u)", 26)
    model.opset_import.append(helper.make_opsetid("acme", 1))
    assert size_of(model) == []
    model = pooled("MaxPool", "y = Pool<kernel_shape=[1,1], strides=[2,2], ceil_mode=1>(x)", 6, rank=2)
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "H"
    assert size_of(model) == [1, 2, None, 3]


def test_a_body_and_an_operator_by_itself() -> None:
    """Behind an unknown operator each is asked by itself."""
    pool = "MaxPool<kernel_shape=[1], strides=[2], ceil_mode=1>"
    model = parser.parse_model(
        f"""<ir_version: 9, opset_import: ["": 18, "acme": 1]>
        g (float[1,2,6] x, bool t) => (float[1,2,n] y, float[1,2,m] z) <int64[3] to = {{1, 2, 6}}> {{
            y = If(t) <then_branch = a () => (float[1,2,n] r) {{ r = {pool}(x) }},
                       else_branch = b () => (float[1,2,n] s) {{ s = {pool}(x) }}>
            u = acme.What(x)
            v = Reshape(u, to)
            w = {pool}(v)
            z = Relu(w)
        }}"""
    )
    graph = Model(read(model.SerializeToString())).main
    assert graph.shape("y") == (1, 2, 3)
    assert graph.shape("w") == (1, 2, 3)


def test_a_fold_beside_such_a_pool_is_published() -> None:
    """Its declared size is right: without it onnxruntime, which infers as onnx does, cannot load what comes behind."""
    model = parser.parse_model(
        """<ir_version: 9, opset_import: ["": 18]> g (float[1,3,8,8] x) => (float[1,4,3,3] y) {
            c = Conv(x, w) b = BatchNormalization(c, g, h, m, v) n = Mul(b, s)
            a = MaxPool<kernel_shape=[1,1], strides=[2,2], ceil_mode=1>(n) y = Add(a, k) }"""
    )
    model.graph.value_info.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, [1, 4, 3, 3]))
    weights = {"w": numbers(4, 3, 3, 3), "k": numbers(1, 4, 3, 3), "s": numbers(4, 1, 1), **batch_norm(4, "")}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
    result = bnfold.optimize(model)
    assert result.report.verdict == "equivalent"
    assert [node.op_type for node in result.model.graph.node] == ["Conv", "MaxPool", "Add"]
    assert [value for value in result.model.graph.value_info if value.name == "a"] == [model.graph.value_info[0]]
