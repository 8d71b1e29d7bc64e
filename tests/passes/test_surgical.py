"""A model with metadata everywhere comes out with only the folded nodes different."""

import copy
import itertools
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorAnnotation, helper, numpy_helper

from tests.fold_models import CONSTANTS, Row, assert_same_function, fold, numbers

B = "BatchNormalization"
TEXT = (
    f"d = Conv<pads=[1,1,1,1]>(x, w, b) n = {B}(d, g, h, m, v) r = Relu(n) e = Conv(r, w44) s = acme.Swoosh(e) "
    f"q = {B}(s, g_2, h_2, m_2, v_2) i = Identity(unread) t = Sigmoid(q) y = Add(t, late)"
)
_LATE = numbers(4, 1, 1, seed=3)


def _decorated() -> ModelProto:
    """Every field that ONNX has for people and tools is filled, on everything."""
    model = Row(
        TEXT,
        {"unread": "float[N,2]"},
        {"w44": numbers(4, 4, 1, 1), "late": _LATE},
        outputs=("y", "i"),
        ir=10,
    ).model()
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", 1, ["N", 4, 6, 7]))
    model.producer_name, model.producer_version, model.domain = "maker", "1.2", "org.example"
    model.model_version, model.doc_string = 7, "about the model"
    helper.set_model_props(model, {"author": "somebody", "empty": ""})
    graph = model.graph
    graph.name, graph.doc_string = "the graph", "about the graph"
    _label(graph, "graph")
    for node in graph.node:
        node.name, node.doc_string = f"node_{node.output[0]}", f"about {node.output[0]}"
        _label(node, node.name)
        for attribute in node.attribute:
            attribute.doc_string = f"about {attribute.name}"
    for tensor in graph.initializer:
        tensor.doc_string = f"about {tensor.name}"
        _label(tensor, tensor.name)
    for name in ("d", "n", "r", "e", "q"):
        graph.value_info.append(helper.make_tensor_value_info(name, 1, ["N", 4, 6, 7], doc_string=f"about {name}"))
        _label(graph.value_info[-1], name)
    for value in (*graph.input, *graph.output):
        value.doc_string = f"about {value.name}"
        _label(value, value.name)
    for name in ("w", "n", "r", "q"):
        annotation = TensorAnnotation(tensor_name=name)
        annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="late")
        graph.quantization_annotation.append(annotation)
    model.training_info.add().initialization.name = "training"
    function = onnx.parser.parse_function('<domain: "acme", opset_import: ["" : 18]> Swoosh (a) => (o) { o = Tanh(a) }')
    function.doc_string = "about the function"
    _label(function, "function")
    model.functions.append(function)
    return model


def _label(proto: Any, text: str) -> None:
    entry = proto.metadata_props.add()
    entry.key, entry.value = "label", text


def test_only_the_folded_nodes_differ() -> None:
    original = _decorated()
    done = fold(original)
    assert done.decision("node_n").target == ("node_d",)
    assert done.decision("node_q").reason is not None

    expected = copy.deepcopy(original)
    graph = expected.graph
    del graph.node[1]
    graph.node[0].output[0] = "n"
    kept = [tensor for tensor in graph.initializer if tensor.name not in {"g", "h", "m", "v"}]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    gone = [value for value in graph.value_info if value.name == "d"]
    graph.value_info.remove(gone[0])
    for tensor in graph.initializer:
        if tensor.name in {"w", "b"}:
            found = numpy_helper.from_array(done.constant(tensor.name))
            tensor.raw_data = found.raw_data
    assert done.model == expected, _first_difference(done.model, expected)
    assert not np.array_equal(done.constant("w"), CONSTANTS["w"])
    assert_same_function(original, done.model)


def _first_difference(found: ModelProto, expected: ModelProto) -> str:
    pairs = itertools.zip_longest(str(found).splitlines(), str(expected).splitlines())
    return next((f"{here!r} instead of {there!r}" for here, there in pairs if here != there), "only bytes differ")


def test_a_model_with_nothing_to_fold_is_the_same_model() -> None:
    original = _decorated()
    del original.graph.node[1]
    original.graph.node[0].output[0] = "n"
    done = fold(original)
    assert not done.modified
    assert done.model == original


def test_the_order_of_nodes_stays() -> None:
    """Also where nodes go in and out in the middle, and where the order is not the one a sort would give."""
    text = (
        f"z = Sigmoid(x2) d = Conv(x, w, b) a = Tanh(z) n = {B}(d, g, h, m, v) k = Relu(a) s = Sigmoid(n)"
        f"o = {B}(k, g3, h3, m3, v3) f = MatMul(o, w7) t = {B}(f, g3, h3, m3, v3) y = Conv<pads=[1,1,1,1]>(t, w)"
    )
    original = Row(text, constants={"w7": numbers(7, 7)}, outputs=("y", "s")).model()
    for node in original.graph.node:
        node.name = f"node_{node.output[0]}"
    done = fold(original)
    stayed = [node.name for node in done.model.graph.node if node.name.removeprefix("node_") in "zdansokfty"]
    assert stayed == [f"node_{name}" for name in "zdaksofy"]
    onnx.checker.check_model(done.model, full_check=True)
    assert_same_function(original, done.model)


@pytest.mark.parametrize("name", ["loose", "k"])
def test_a_type_of_a_constant_that_changes_its_shape_goes_with_it(name: str) -> None:
    """A bias of one number becomes one per channel: what the file said about its shape is no longer true."""
    constant = "k = Constant<value_float = 0.5>()" if name == "k" else ""
    text = f"{constant} f = Flatten(x) d = Gemm(f, w126, {name}) y = {B}(d, g, h, m, v)"
    model = Row(text, constants={"w126": numbers(126, 4), "loose": numbers(seed=1).reshape(())}).model()
    model.graph.value_info.append(helper.make_tensor_value_info(name, 1, []))
    onnx.checker.check_model(model, full_check=True)
    done = fold(model)
    assert done.operators == ["Flatten", "Gemm"]
    onnx.checker.check_model(done.model, full_check=True)
    assert_same_function(model, done.model)


def test_no_type_is_left_for_a_value_that_is_gone() -> None:
    text = f"d = MatMul(f, k) a = Identity(d) y = {B}(a, g, h, m, v)"
    model = Row(text, {"f": "float[N,5]"}, {"k": numbers(5, 4)}).model()
    for name in ("d", "a"):
        model.graph.value_info.append(helper.make_tensor_value_info(name, 1, ["N", 4]))
    done = fold(model)
    made = {name for node in done.model.graph.node for name in node.output}
    assert {value.name for value in done.model.graph.value_info} <= made
    assert {value.name for value in model.graph.value_info} > {value.name for value in done.model.graph.value_info}
    onnx.checker.check_model(done.model, full_check=True)


def test_a_new_name_is_not_one_that_the_file_describes() -> None:
    """A type or annotation of a value that is not there would otherwise describe the new constant."""
    model = Row(f"d = Conv(x, w, b) e = Conv(x2, w, b) n = {B}(d, g, h, m, v) y = Add(n, e)").model()
    model.graph.value_info.append(helper.make_tensor_value_info("w_folded", 1, [1]))
    done = fold(model)
    described = {value.name for value in done.model.graph.value_info}
    assert not described & {tensor.name for tensor in done.model.graph.initializer}


def test_the_same_bytes_each_time() -> None:
    original = _decorated()
    first, second = fold(original).model, fold(original).model
    assert first.SerializeToString() == second.SerializeToString()


def test_the_input_is_not_modified() -> None:
    original = _decorated()
    before = original.SerializeToString()
    fold(original)
    assert original.SerializeToString() == before
