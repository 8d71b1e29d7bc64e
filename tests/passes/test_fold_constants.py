"""fold-constants: which expressions of constants are stored, which stay, and that every bit is that of onnxruntime."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

import bnfold
from bnfold.graph import STORED, Model
from bnfold.onnxfile import read, to_proto
from bnfold.passes import FoldConstants
from bnfold.passes.fold_constants import EXACT
from bnfold.pipeline import run_passes
from tests.backend_cases import backend_cases
from tests.fold_models import build, numbers

Array = NDArray[Any]

F = np.float32
CONSTANTS: Mapping[str, Array] = {
    "zero": np.array(0.0),  # float64
    "six": np.array(6, np.int64),
    "small": numbers(4),
    "half": numbers(4).astype(np.float16),
    "wide": numbers(4).astype(np.float64),
    "bf": np.array([-0.0, 1.0], F),
    "w": numbers(24, 30),
    "w2": numbers(24, 30, seed=2),
    "i0": np.array(0),
    "i1": np.array(1),
    "i01": np.array([0, 1]),
    "ax0": np.array([0]),
    "col": np.array([-1, 24]),
    "shape4": np.array([4]),
    "wide_shape": np.array([1000, 4]),
    "negative": np.array([-4.0, -1.0, -2.0, -3.0], F),
    "three": np.array(3.0, F),
}
INPUTS = {"x": "float[2,24]", "xn": "float[N,24]", "x4": "float[4]", "h4": "float16[4]", "d4": "double[4]"}


def model(text: str, outputs: tuple[str, ...] = ("y",), opset: int = 18, ir: int = 9, **more: Array) -> ModelProto:
    return build(text, inputs=INPUTS, constants={**CONSTANTS, **more}, outputs=outputs, opset=opset, ir=ir)


def folded(proto: ModelProto) -> tuple[ModelProto, list[str]]:
    """What the pass makes of a model, and the values that it stores."""
    edited = Model(read(proto))
    run_passes(edited, [FoldConstants()])
    return to_proto(edited.file), [edit.node for edit in edited.edits if edit.kind == STORED]


def run(proto: ModelProto, feed: Mapping[str, Array] | None = None) -> list[Any]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    types = {"tensor(float)": F, "tensor(double)": np.float64, "tensor(float16)": np.float16, "tensor(bool)": np.bool_}
    given = {
        value.name: random.normal(size=[size if isinstance(size, int) else 3 for size in value.shape]).astype(
            types[value.type]
        )
        for value in session.get_inputs()
    }
    return session.run(None, {**given, **(feed or {})})


def bits(array: Array) -> tuple[Any, ...]:
    return array.dtype, array.shape, array.tobytes()


# The nodes, and the values that are stored.
CHOICE = " y = If(flag)<then_branch = g1 () => (float[4] p) {{ {} }}, else_branch = g2 () => (float[4] q) {{ {} }}>"
TARGET = "n = Gather(s, i0) u = Unsqueeze(n, ax0) c = Concat<axis=0>(u, col)"
SUM = "y0 = MatMul(x12, p) y1 = MatMul(x12, q2) y = Add(y0, y1)"
STORES: dict[str, tuple[str, set[str]]] = {
    "bounds of a Clip": ("lo = CastLike(zero, x4) hi = CastLike(six, x4) y = Clip(x4, lo, hi)", {"lo", "hi"}),
    "a size": (f"s = Shape(x) {TARGET} y = Reshape(x, c)", {"c"}),
    "a size beside one that varies": (
        "s = Shape(xn) n = Gather(s, i1) f = Cast<to=1>(n) y = Div(xn, f)",
        {"f"},
    ),
    "sizes of integers": ("s = Shape(x) a = Mul(s, i01) b = Sub(a, i1) f = Cast<to=1>(b) y = MatMul(f, q)", {"f"}),
    "a matrix that only this reads": ("t = Transpose<perm=[1,0]>(w2) y = Gemm(t, x2t)", {"t"}),
    "one operation of IEEE 754": ("a = Add(small, small) m = Mul(a, small) d = Div(m, small) y = Add(x4, d)", {"d"}),
    "a conversion": ("h = Cast<to=10>(small) y = Add(h4, h)", {"h"}),
    "comparisons": ("g = Greater(small, three) k = Where(g, small, negative) y = Add(x4, k)", {"k"}),
    "a choice": ("m = Max(small, negative) n = Neg(m) y = Add(x4, n)", {"n"}),
    "what stands behind what stays": ("e = Exp(small) a = Add(small, small) s = Add(e, a) y = Add(x4, s)", {"a"}),
    "several parts": (f"p, q2 = Split<axis=0>(w2, parts) {SUM}", {"p", "q2"}),
    "parts of one matrix that nobody else reads": (
        f"p = Slice(w2, i0v, i12v, ax0) q2 = Slice(w2, i12v, i24v, ax0) {SUM}",
        {"p", "q2"},
    ),
    "read in a body": (
        "a = Add(small, small)" + CHOICE.format("p = Mul(x4, a)", "q = Sub(x4, a)"),
        {"a"},
    ),
    "made in a body": (
        CHOICE.format("a = Add(small, small) p = Mul(x4, a)", "s = Shape(x4) f = Cast<to=1>(s) q = Sub(x4, f)"),
        {"a", "f"},
    ),
    "whatever the order of nodes": ("y = Add(x4, d) d = Mul(a, small) a = Add(small, small)", {"d"}),
}
MORE: dict[str, Array] = {
    "q": numbers(2, 3),
    "x2t": numbers(24, 5),
    "parts": np.array([12, 12]),
    "i0v": np.array([0]),
    "i12v": np.array([12]),
    "i24v": np.array([24]),
}
MORE_INPUTS = {"x12": "float[3,12]", "flag": "bool"}


def built(text: str, outputs: tuple[str, ...] = ("y",), **options: Any) -> ModelProto:
    return build(text, inputs={**INPUTS, **MORE_INPUTS}, constants={**CONSTANTS, **MORE}, outputs=outputs, **options)


@pytest.mark.parametrize("name", STORES)
def test_an_expression_of_constants_is_stored(name: str) -> None:
    text, expected = STORES[name]
    before = built(text)
    after, stored = folded(before)
    assert set(stored) == expected
    assert after.ByteSize() <= before.ByteSize() + 1024 * len(stored)
    assert [bits(array) for array in run(after)] == [bits(array) for array in run(before)]
    again, more = folded(after)
    assert (again, more) == (after, [])


# What is not stored, each for one reason.
STAYS: dict[str, str] = {
    "a function that libraries round otherwise": "e = Exp(small) y = Add(x4, e)",
    "a root": "r = Sqrt(three) y = Mul(x4, r)",
    "a sum of more than two": "s = Sum(small, small, small) y = Add(x4, s)",
    "a sum over an axis": "s = ReduceSum(small) y = Mul(x4, s)",
    "arithmetic in float16": "a = Add(half, half) y = Add(h4, a)",
    "float64 to float16": "h = Cast<to=10>(wide) y = Add(h4, h)",
    "a choice between two zeros": "m = Max(bf, bf) y = Concat<axis=0>(x4, m)",
    "a NaN": "n = Sub(inf, inf) y = Mul(x4, n)",
    "a size that varies": "s = Shape(xn) f = Cast<to=1>(s) y = MatMul(f, q)",
    "a result of the model": "y = Add(small, small)",
    "a large one": "e = Expand(three, wide_shape) y = Add(x4, e)",
    "another large one": "e = ConstantOfShape(wide_shape) y = Add(x4, e)",
    "a matrix that something else reads": "t = Transpose<perm=[1,0]>(w2) z = Gemm(t, x2t) y = Gemm<transA=1>(z, w2)",
    "a copy of what something else reads": "i = Identity(w2) y = MatMul(x, i) u = MatMul(x, w2)",
    "quantized": "d = DequantizeLinear(bytes, step) y = Add(x4, d)",
    "another domain": "a = other.Add(small, small) y = Add(x4, a)",
}


@pytest.mark.parametrize("name", STAYS)
def test_what_is_not_the_same_bits_everywhere_or_too_large_stays(name: str) -> None:
    more = {"inf": np.array(np.inf, F), "bytes": np.ones(4, np.int8), "step": np.array(0.5, F)}
    outputs = ("y", "u") if " u = " in STAYS[name] else ("y",)
    before = build(
        STAYS[name], inputs={**INPUTS, **MORE_INPUTS}, constants={**CONSTANTS, **MORE, **more}, outputs=outputs
    )
    after, stored = folded(before)
    assert stored == []
    assert after == before


def test_the_file_never_grows_by_more_than_what_is_small() -> None:
    """Each value alone would be too large; all that are computed from one matrix are no larger than that."""
    text = " ".join(f"s{i} = Slice(big, b{i}, b{i + 1}, ax0) y{i} = MatMul(x64, s{i})" for i in range(4))
    bounds = {f"b{i}": np.array([16 * i]) for i in range(5)}
    stored: dict[str, list[str]] = {}
    for name, reader in (("alone", ""), ("shared", " z = MatMul(x64b, big)")):
        outputs = tuple(f"y{i}" for i in range(4)) + (("z",) if reader else ())
        inputs = {"x64": "float[2,16]", "x64b": "float[2,64]"}
        constants = {"big": numbers(64, 64), "ax0": CONSTANTS["ax0"], **bounds}
        before = build(text + reader, inputs=inputs, constants=constants, outputs=outputs)
        after, stored[name] = folded(before)
        assert after.ByteSize() <= before.ByteSize() + 1024
    assert stored == {"alone": ["s0", "s1", "s2", "s3"], "shared": []}


def test_a_size_that_only_the_file_declares_is_not_believed() -> None:
    """Whoever gives a model another batch size forgets what it declares of the values inside."""
    text = f"r = Relu(xn) s = Shape(r) {TARGET} y = Reshape(r, c)"
    before = built(text)
    assert folded(before)[1] == []
    before.graph.value_info.append(helper.make_tensor_value_info("r", TensorProto.FLOAT, [1, 24]))
    assert folded(before)[1] == []
    by_output = built(text, outputs=("y", "r"))
    by_output.graph.output[1].CopyFrom(helper.make_tensor_value_info("r", TensorProto.FLOAT, [1, 24]))
    assert folded(by_output)[1] == []


def test_a_size_inside_a_loop_is_not_believed() -> None:
    body = onnx.parser.parse_graph(
        "b (int64 i, bool c, float[2] v) => (bool c2, float[M] v2)"
        " { c2 = Identity(c) s = Shape(v) f = Cast<to=1>(s) g = Concat<axis=0>(v, v) v2 = Mul(g, f) }"
    )
    loop = helper.make_node("Loop", ["trips", "go", "x2"], ["y"], body=body)
    graph = helper.make_graph(
        [loop],
        "g",
        [helper.make_tensor_value_info("x2", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.array(2), "trips"), numpy_helper.from_array(np.array(True), "go")],
    )
    before = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    assert folded(before)[1] == []


def test_where_initializers_are_inputs_a_constant_node_holds_it() -> None:
    before = built("a = Add(small, small) y = Mul(x4, a)", ir=3)
    after, stored = folded(before)
    assert stored == ["a"]
    assert [node.op_type for node in after.graph.node] == ["Constant", "Mul"]
    assert {value.name for value in after.graph.input} == {value.name for value in before.graph.input} - {"small"}
    assert [bits(array) for array in run(after)] == [bits(array) for array in run(before)]


@pytest.mark.parametrize(("opset", "kept"), [(8, []), (9, ["s"])])
def test_a_constant_node_holds_integers_from_operator_set_9_on(opset: int, kept: list[str]) -> None:
    before = built("s = Shape(x4) y = Reshape(x4, s)", ir=3, opset=opset)
    after, stored = folded(before)
    assert stored == kept
    onnx.shape_inference.infer_shapes(after, strict_mode=True)
    assert [bits(array) for array in run(after)] == [bits(array) for array in run(before)]


def test_in_a_function_a_constant_node_holds_it() -> None:
    function = onnx.parser.parse_function(
        '<opset_import: ["" : 18], domain: "own"> f (v) => (r)'
        " { c = Constant<value = float[4] {1.0, 2.0, 3.0, 4.0}>() a = Add(c, c) r = Mul(v, a) }"
    )
    before = built("y = own.f(x4)")
    before.functions.append(function)
    before.opset_import.append(helper.make_opsetid("own", 1))
    after, stored = folded(before)
    assert stored == ["a"]
    assert [node.op_type for node in after.functions[0].node] == ["Constant", "Mul"]
    assert [bits(array) for array in run(after)] == [bits(array) for array in run(before)]


def test_a_large_one_lies_where_the_matrix_lay(tmp_path: Path) -> None:
    big = numbers(64, 48)
    before = build(
        "t = Transpose<perm=[1,0]>(big) y = MatMul(x64, t)", inputs={"x64": "float[2,48]"}, constants={"big": big}
    )
    source, target = tmp_path / "in.onnx", tmp_path / "out.onnx"
    onnx.save(before, source, save_as_external_data=True, location="in.data", size_threshold=1024)
    result = bnfold.optimize(source, target)
    assert [each["value"] for each in result.report.stored] == ["t"]
    after = onnx.load(target, load_external_data=False)
    held = next(tensor for tensor in after.graph.initializer if tensor.name == "t")
    assert held.data_location == TensorProto.EXTERNAL
    whole = onnx.load(target)
    held = next(tensor for tensor in whole.graph.initializer if tensor.name == "t")
    np.testing.assert_array_equal(numpy_helper.to_array(held), big.T)


@pytest.mark.parametrize("name", ["bounds of a Clip", "a size", "a size beside one that varies", "made in a body"])
def test_what_is_stored_is_proved(name: str) -> None:
    text, expected = STORES[name]
    before = built(text)
    result = bnfold.optimize(before)
    assert {each["value"] for each in result.report.stored} == expected
    assert any("stored" in note for note in result.report.notes)
    verification = result.report.verification
    assert verification is not None
    assert {proof["standing"] for proof in verification["proofs"]} <= {"holds"}
    assert bnfold.optimize(before, fold_constants=False).model == before


def test_another_number_stored_is_no_proof() -> None:
    before = built(STORES["a size"][0])
    after, _ = folded(before)
    held = next(tensor for tensor in after.graph.initializer if tensor.name == "c")
    held.CopyFrom(numpy_helper.from_array(np.array([24, 2, 1]), "c"))
    assert bnfold.verify(before, after).verdict == "not-equivalent"


def test_inspect_tells_it() -> None:
    assert bnfold.inspect(built(STORES["a size"][0])).notes[-1] == "1 expression of constants is stored."


def test_every_bit_is_that_of_onnxruntime() -> None:
    """The node tests of ONNX with constants for inputs: what is stored of them is what onnxruntime computes."""
    compared = 0
    for case in backend_cases():
        whole = case.model
        if len(whole.graph.node) != 1 or whole.graph.node[0].op_type not in EXACT:
            continue
        proto, results = with_constants(whole, case.data_sets[0][0])
        if proto is None:
            continue
        after, stored = folded(proto)
        if not stored:
            continue
        try:
            expected = dict(zip(results, run(proto), strict=True))
        except Exception as error:  # noqa: BLE001 - what onnxruntime does not run it does not contradict
            assert "NOT_IMPLEMENTED" in str(error) or "INVALID_GRAPH" in str(error), case.name  # noqa: PT017 - kinds
            continue
        for tensor in after.graph.initializer:
            if tensor.name in stored:
                assert bits(numpy_helper.to_array(tensor)) == bits(expected[tensor.name + "_copy"]), case.name
                compared += 1
    assert compared > 100


def with_constants(whole: ModelProto, inputs: list[Any]) -> tuple[ModelProto | None, list[str]]:
    """The one node of `whole` with stored operands, which bodies read that are chosen at run time."""
    proto = ModelProto()
    proto.CopyFrom(whole)
    graph = proto.graph
    for value, array in zip(whole.graph.input, inputs, strict=False):
        if not isinstance(array, np.ndarray) or array.dtype == object:
            return None, []
        graph.initializer.append(numpy_helper.from_array(array, value.name))
    outputs = list(graph.output)
    del graph.input[:]
    del graph.output[:]
    graph.input.append(helper.make_tensor_value_info("flag", TensorProto.BOOL, []))
    results = []
    for value in outputs:
        copied = f"{value.name}_copy"
        branches = {
            side: helper.make_graph(
                [helper.make_node("Identity", [value.name], [f"{copied}_{side}"])],
                side,
                [],
                [helper.make_empty_tensor_value_info(f"{copied}_{side}")],
            )
            for side in ("then", "else")
        }
        graph.node.append(
            helper.make_node("If", ["flag"], [copied], then_branch=branches["then"], else_branch=branches["else"])
        )
        graph.output.append(helper.make_tensor_value_info(copied, value.type.tensor_type.elem_type, None))
        results.append(copied)
    return proto, results
