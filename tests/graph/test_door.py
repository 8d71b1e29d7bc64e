"""The one door for edits: the index stays true, what changed is recorded, and what has to stay can be told."""

import numpy as np
import pytest
from onnx import ModelProto, helper, numpy_helper

from bnfold.graph import Edit, Graph, Model, Tensor
from bnfold.onnxfile import read, to_proto
from tests.fold_models import CONSTANTS, Row, build, feeds, numbers
from tests.oracle import evaluate

TEXT = "d = Conv(x, w, b) r = Relu(d) y = Sigmoid(r)"


def _graph(text: str = TEXT, **more: object) -> Graph:
    return Model(read(Row(text, **more).model().SerializeToString())).main  # type: ignore[arg-type]


def _check_index(model: Model) -> None:
    """What the index says is what a fresh look at the protobuf says."""
    model.finish()
    fresh = Model(read(to_proto(model.file).SerializeToString()))
    for graph, again in zip(model.graphs, fresh.graphs, strict=True):
        for node in graph.nodes():
            assert (graph.read_by(node), graph.made_by(node)) == (node.input[:], node.output[:])
            assert node in graph.nodes_of({node.op_type})
            assert node in graph.by_dataflow_of({node.op_type})
        assert [node.output[0] for node in graph.nodes()] == [node.output[0] for node in again.nodes()]
        values = {value for node in again.nodes() for value in (*node.input, *node.output) if value}
        for value in values:
            found = sorted((graph.label(use.node), use.position) for use in graph.consumers(value))
            assert found == sorted((again.label(use.node), use.position) for use in again.consumers(value)), value
            made, expected = graph.producer(value), again.producer(value)
            assert (made and made.output[0]) == (expected and expected.output[0]), value
            assert graph.is_output(value) == again.is_output(value)
            assert (graph.constant(value) is None) == (again.constant(value) is None), value


def test_questions() -> None:
    text = f"{TEXT} z = If(flag) <then_branch = t () => (float[N,C,H,W] p) {{ p = Tanh(d) }}, else_branch = e () => "
    graph = _graph(text + "(float[N,C,H,W] q) { q = Identity(r) }> s = Shape(y)", outputs=("y", "z"))
    node = graph.producer("d")
    assert node is not None
    assert node.op_type == "Conv"
    assert graph.producer("x") is None
    assert graph.producer("w") is None
    assert graph.producer("nobody") is None
    assert [(use.node.op_type, use.position) for use in graph.consumers("d")] == [("Relu", 0), ("Tanh", 0)]
    assert [use.node.op_type for use in graph.consumers("y")] == ["Shape"]
    assert graph.readers("y") == []
    assert graph.consumers("nobody") == []
    assert graph.is_output("y")
    assert not graph.is_output("d")
    assert graph.is_input("x")
    assert not graph.is_input("w")
    assert graph.shape("d") == ("N", 4, 4, 5)
    assert graph.rank("d") == 4
    assert graph.dtype("d") == np.float32
    assert graph.shape("nobody") is None
    inner = graph.model.graphs[1]
    assert inner.parent is graph
    assert inner.producer("d") is node
    assert inner.shape("d") == ("N", 4, 4, 5)
    assert inner.opset == graph.opset == 18


def test_what_is_left_out_is_no_value() -> None:
    """An output and an input of no name have nothing to do with each other."""
    graph = _graph('d, "" = Dropout(x) y = Clip(d, "", top)', constants={"top": np.float32(1)})
    assert graph.producer("") is None
    assert graph.consumers("") == []
    assert not graph.defines("")


def test_labels() -> None:
    graph = _graph()
    node = graph.nodes()[0]
    assert graph.label(node) == "d"
    node.name = "first"
    assert graph.label(node) == "first"
    assert graph.label(helper.make_node("Print", ["x"], [""])) == "Print"


def test_nothing_is_modified_by_questions() -> None:
    graph = _graph()
    graph.shape("d")
    graph.constant("w")
    assert not graph.model.modified
    assert graph.model.edits == []


def test_set_constant_in_place() -> None:
    graph = _graph()
    graph.set_constant(graph.nodes()[0], 2, Tensor.of(np.arange(4.0), np.dtype(np.float32)))
    assert list(graph.nodes()[0].input) == ["x", "w", "b"]
    found = graph.constant("b")
    assert found is not None
    np.testing.assert_array_equal(found.numpy(), np.arange(4, dtype=np.float32))
    assert graph.model.edits == [Edit("set-constant", "", "d")]
    _check_index(graph.model)


@pytest.mark.parametrize(
    ("text", "outputs"),
    [
        ("d = Conv(x, w, b) e = Conv(x, w, b) y = Add(d, e)", ("y",)),
        ("d = Conv(x, w, b) y = Relu(d)", ("y", "b")),
        ("i = Identity(b) d = Conv(x, w, i) y = Relu(d)", ("y",)),
    ],
)
def test_set_constant_copies_what_others_see(text: str, outputs: tuple[str, ...]) -> None:
    graph = _graph(text, outputs=outputs)
    node = graph.producer("d")
    assert node is not None
    graph.set_constant(node, 2, Tensor.of(np.arange(4.0), np.dtype(np.float32)))
    assert node.input[2].endswith("_folded")
    found = graph.constant("b")
    assert found is not None
    np.testing.assert_array_equal(found.numpy(), CONSTANTS["b"])
    _check_index(graph.model)


def test_set_constant_where_there_was_none() -> None:
    graph = _graph("d = Conv(x, w) y = Relu(d)")
    graph.set_constant(graph.nodes()[0], 2, Tensor.of(np.arange(4.0), np.dtype(np.float32)))
    assert list(graph.nodes()[0].input) == ["x", "w", "d_folded"]
    _check_index(graph.model)


def test_set_constant_of_another_shape_takes_a_new_name() -> None:
    graph = _graph()
    graph.set_constant(graph.nodes()[0], 2, Tensor.of(np.arange(5.0), np.dtype(np.float32)))
    assert list(graph.nodes()[0].input) == ["x", "w", "b_folded"]
    _check_index(graph.model)
    assert "b" not in {tensor.name for tensor in graph.model.proto.graph.initializer}


def test_set_input_fills_what_is_absent() -> None:
    graph = _graph("d = Conv(x, w) y = Relu(d)")
    node = graph.nodes()[1]
    graph.set_input(node, 3, "x")
    assert list(node.input) == ["d", "", "", "x"]
    assert [use.position for use in graph.consumers("x")] == [0, 3]


@pytest.mark.parametrize("toward_producer", [True, False])
def test_bypass(toward_producer: bool) -> None:
    graph = _graph("d = Conv(x, w, b) r = Relu(d) t = Tanh(r) y = Sigmoid(t)")
    graph.bypass(graph.nodes()[1], toward_producer=toward_producer)
    first, last = graph.nodes()[0], graph.nodes()[1]
    assert (first.output[0], last.input[0]) == (("r", "r") if toward_producer else ("d", "d"))
    _check_index(graph.model)


def test_bypass_of_an_output_renames_what_makes_it() -> None:
    graph = _graph("d = Conv(x, w, b) s = Shape(d) y = Relu(d)", outputs=("y", "s"))
    node = graph.nodes()[2]
    assert not graph.can_bypass(node, toward_producer=False)
    assert graph.can_bypass(node, toward_producer=True)
    graph.bypass(node, toward_producer=True)
    assert [list(node.input) for node in graph.nodes()] == [["x", "w", "b"], ["y"]]
    _check_index(graph.model)


@pytest.mark.parametrize(
    ("text", "outputs", "toward_producer"),
    [
        ("d = Conv(x, w, b) y = Relu(d)", ("y",), False),  # y has to keep its name
        ("y = Relu(x)", ("y",), True),  # an input has to keep its name
        ("d = Conv(x, w, b) y = Relu(d)", ("y", "d"), True),  # both are outputs
        ("d = Conv(x, w, b) y = Relu(d) z = Tanh(d)", ("y", "z"), True),  # somebody else reads it
    ],
)
def test_no_bypass_where_a_visible_name_would_change(
    text: str, outputs: tuple[str, ...], toward_producer: bool
) -> None:
    graph = _graph(text, outputs=outputs)
    node = graph.producer("y")
    assert node is not None
    assert not graph.can_bypass(node, toward_producer=toward_producer)
    with pytest.raises(ValueError, match="cannot be bypassed"):
        graph.bypass(node, toward_producer=toward_producer)


@pytest.mark.parametrize(
    "text",
    [
        "d = Conv(x, w, b) r = BatchNormalization(d, g, h, m, v) y = Sigmoid(r)",
        "d = Conv(x, w) r = BatchNormalization(d, g, h, m, v) y = Sigmoid(r)",
        "d = Conv(x, w, b) r = BatchNormalization(d, g, h, m, v) y = Sigmoid(r) e = Shape(d) z = Conv(x, w, b)",
    ],
)
def test_absorb_is_new_constants_and_a_bypass(text: str) -> None:
    outputs = ("y", "e", "z") if "z = " in text else ("y",)
    weight, bias = (Tensor.of(np.full(size, 2.0), np.dtype(np.float32)) for size in (CONSTANTS["w"].shape, (4,)))
    one, other = _graph(text, outputs=outputs), _graph(text, outputs=outputs)
    assert one.absorb(one.nodes()[1], [(1, weight), (2, bias)]) == "d"
    for index, tensor in ((1, weight), (2, bias)):
        other.set_constant(other.nodes()[0], index, tensor)
    other.bypass(other.nodes()[1], toward_producer=True)
    assert one.model.edits == other.model.edits
    _check_index(one.model)
    other.model.finish()
    assert to_proto(one.model.file) == to_proto(other.model.file)


def test_nothing_is_absorbed_whose_input_others_read() -> None:
    graph = _graph("d = Conv(x, w, b) r = BatchNormalization(d, g, h, m, v) y = Add(r, d)")
    with pytest.raises(ValueError, match="cannot be absorbed"):
        graph.absorb(graph.nodes()[1], [])
    assert not graph.model.modified


def test_bypass_reaches_readers_in_bodies() -> None:
    text = "d = Conv(x, w, b) r = Relu(d) y = If(flag) <then_branch = t () => (float[N,C,H,W] p) { p = Tanh(r) },"
    graph = _graph(text + "else_branch = e () => (float[N,C,H,W] q) { q = Identity(r) }>")
    graph.bypass(graph.nodes()[1], toward_producer=False)
    assert [list(inner.nodes()[0].input) for inner in graph.model.graphs[1:]] == [["d"], ["d"]]
    _check_index(graph.model)


def test_set_attribute() -> None:
    graph = _graph("d = LeakyRelu<alpha=0.5>(x) y = Elu(d)")
    first, second = graph.nodes()
    graph.set_attribute(first, "alpha", 0.25)
    graph.set_attribute(second, "alpha", 2.0)
    assert [(a.name, a.f) for node in (first, second) for a in node.attribute] == [("alpha", 0.25), ("alpha", 2.0)]
    assert [edit.kind for edit in graph.model.edits] == ["set-attribute"] * 2


def test_add_behind_keeps_the_name_that_readers_know() -> None:
    graph = _graph(TEXT, outputs=("y", "d"))
    original = to_proto(graph.model.file)
    graph.add_behind(graph.nodes()[0], Tensor.of(np.full((4, 1, 1), 2.0), np.dtype(np.float32)))
    assert [node.op_type for node in graph.nodes()] == ["Conv", "Add", "Relu", "Sigmoid"]
    assert graph.shape("d_unshifted") == ("N", 4, 4, 5)
    _check_index(graph.model)
    fed = feeds(original, 1)
    before = evaluate(Row(TEXT, outputs=("y", "d")).model(), fed)["d"]
    np.testing.assert_allclose(evaluate(to_proto(graph.model.file), fed)["d"], before + 2, rtol=1e-12)


def test_replace_stands_where_the_run_stood() -> None:
    graph = _graph("a = Sigmoid(x) d = Relu(a) r = Tanh(d) z = Neg(a) y = Add(r, z)")
    _, relu, tanh, *_ = graph.nodes()
    number = Tensor.of(np.asarray(2.0), np.dtype(np.float32))
    made = graph.replace([relu, tanh], "a", [("Mul", number), ("Add", number)])
    assert [node.op_type for node in graph.nodes()] == ["Sigmoid", "Mul", "Add", "Neg", "Add"]
    assert made[-1].output[0] == "r"
    assert graph.shape(made[0].output[0]) == ("N", 3, 6, 7)
    _check_index(graph.model)


def test_edits_of_edits_stay_in_order() -> None:
    graph = _graph("a = Relu(x) y = Tanh(a)")
    first, second = graph.nodes()
    one = helper.make_node("Neg", ["a"], ["p"])
    two = helper.make_node("Abs", ["p"], ["q"])
    graph.insert(one, after=first)
    graph.insert(two, after=one)
    graph.insert(helper.make_node("Ceil", ["x"], ["r"]), before=first)
    graph.set_input(second, 0, "q")
    assert [node.op_type for node in graph.nodes()] == ["Ceil", "Relu", "Neg", "Abs", "Tanh"]
    graph.remove(one)
    graph.set_input(two, 0, "a")
    assert [node.op_type for node in graph.nodes()] == ["Ceil", "Relu", "Abs", "Tanh"]
    _check_index(graph.model)


def test_what_nobody_reads_any_more_goes() -> None:
    text = "k = Constant<value = float[1] {2.0}>() i = Identity(m) j = Add(i, k) l = Sigmoid(j) y = Add(x, l)"
    graph = _graph(text, constants={"m": numbers(1)})
    graph.set_input(graph.nodes()[-1], 1, "x")
    graph.remove(graph.nodes()[3])
    graph.model.finish()
    assert [node.op_type for node in graph.nodes()] == ["Add"]
    assert [tensor.name for tensor in graph.model.proto.graph.initializer] == []


def test_what_nobody_read_before_stays() -> None:
    model = build("y = Relu(x) z = Tanh(y)", inputs={"x": "float[N,3]"}, constants={}, outputs=("z",))
    model.graph.initializer.append(helper.make_tensor("idle", 1, [1], [1.0]))
    model.graph.node.insert(0, helper.make_node("Identity", ["idle"], ["unread"]))
    graph = Model(read(model.SerializeToString())).main
    graph.bypass(graph.nodes()[1], toward_producer=False)
    graph.model.finish()
    assert [node.op_type for node in graph.nodes()] == ["Identity", "Tanh"]
    assert [tensor.name for tensor in graph.model.proto.graph.initializer] == ["idle"]


def test_fresh_names() -> None:
    graph = _graph("w_1 = Relu(x) y = Tanh(w_1)")
    graph.nodes()[0].name = "node"
    graph = Model(read(to_proto(graph.model.file).SerializeToString())).main
    assert graph.model.fresh_name("new") == "new"
    assert graph.model.fresh_name("new") == "new_1"
    assert graph.model.fresh_name("w_1") == "w_1_1"
    assert graph.model.fresh_name("x") == "x_1"
    assert graph.model.fresh_name("node") == "node_1"


def test_shapes_are_those_before_the_first_edit() -> None:
    graph = _graph()
    graph.bypass(graph.nodes()[1], toward_producer=True)
    assert graph.shape("r") == ("N", 4, 4, 5)


def test_wrong_types_in_the_file_do_not_stop_the_questions() -> None:
    model = Row(TEXT).model()
    model.graph.value_info.append(helper.make_tensor_value_info("d", 1, [1, 2]))
    graph = Model(read(model.SerializeToString())).main
    assert graph.shape("d") == ("N", 4, 4, 5)  # what the operators make, whatever the file declares


def _weight_in_a_node(**options: object) -> ModelProto:
    values = ", ".join(str(number % 5 - 2) for number in range(12))
    text = f"k = Constant<value = float[4,3,1,1] {{{values}}}>() d = Conv(x, k) y = Relu(d)"
    return Row(text, **options).model()  # type: ignore[arg-type]  # the fields of a row


@pytest.mark.parametrize("index", [1, 2])
def test_a_weight_in_a_node_is_an_initializer_once_its_operator_is_edited(index: int) -> None:
    """onnxruntime's quantize_dynamic takes no Conv that has a bias and its weight in a Constant node."""
    graph = Model(read(_weight_in_a_node().SerializeToString())).main
    conv = graph.nodes()[1]
    shape = (4, 3, 1, 1) if index == 1 else (4,)
    graph.set_constant(conv, index, Tensor.of(np.ones(shape, np.float32), np.dtype(np.float32)))
    graph.model.finish()
    made = graph.model.proto.graph
    assert [node.op_type for node in made.node] == ["Conv", "Relu"]
    assert {tensor.name for tensor in made.initializer} == {"k"} | set(made.node[0].input[2:])
    expected = numpy_helper.to_array(_weight_in_a_node().graph.node[0].attribute[0].t) if index == 2 else np.ones(shape)
    (weight,) = (tensor for tensor in made.initializer if tensor.name == "k")
    np.testing.assert_array_equal(numpy_helper.to_array(weight), expected)


def test_a_weight_in_a_node_stays_there_where_an_initializer_has_to_be_an_input() -> None:
    graph = Model(read(_weight_in_a_node(ir=3).SerializeToString())).main
    graph.set_constant(graph.nodes()[1], 1, Tensor.of(np.ones((4, 3, 1, 1), np.float32), np.dtype(np.float32)))
    graph.model.finish()
    assert [node.op_type for node in graph.model.proto.graph.node] == ["Constant", "Conv", "Relu"]
