"""A function as a pass: what it did not touch stays byte for byte, whatever its form loses on the way."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnx_ir as ir
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper, parser

import bnfold
from bnfold.errors import UsageError
from bnfold.rewriting import FunctionPass
from bnfold.rewriting.function_pass import form_of
from bnfold.rewriting.handing import Form

TEXT = """
<ir_version: 8, opset_import: ["" : 17, "local" : 1], producer_name: "exporter">
rich (float[N,3,8,8] x, float[4] b) => (float[N,4,8,8] y, float[N,4,8,8] z)
<float[4] b = {1,2,3,4}, float[4] unused = {1,1,1,1}>
{
    c = Conv <pads = [1,1,1,1]> (x, w, b)
    r = Relu (c)
    y = local.twice (r)
    choice = Constant <value = bool {1}> ()
    z = If (choice) <then_branch = t () => (float[N,4,8,8] q) { q = Relu (c) },
                     else_branch = e () => (float[N,4,8,8] p) { p = Neg (c) }>
}
<domain: "local", opset_import: ["" : 17]> twice (a) => (o) { o = Add (a, a) }
"""


def rich() -> ModelProto:
    """A model with all that tools lose: notes, descriptions, an overridable input, unused weights."""
    model = parser.parse_model(TEXT)
    random = np.random.default_rng(0)
    for name, shape in (("w", (4, 3, 3, 3)), ("large", (64, 64))):
        model.graph.initializer.append(numpy_helper.from_array(random.normal(size=shape).astype(np.float32), name))
    conv = model.graph.node[0]
    conv.name, conv.doc_string = "conv", "what the exporter said"
    for message in (conv, model, model.graph, model.functions[0]):
        message.metadata_props.add(key="author", value="somebody")
    model.doc_string, model.model_version, model.domain, model.graph.doc_string = "doc", 7, "a.b", "of the graph"
    noted = model.graph.quantization_annotation.add(tensor_name="c")
    noted.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="unused")
    model.graph.value_info.append(helper.make_tensor_value_info("c", TensorProto.FLOAT, ["N", 4, 8, 8]))
    for described in (model.graph.value_info[0], model.graph.input[0], model.graph.initializer[0]):
        described.doc_string = "described"
    onnx.checker.check_model(model)
    return model


def in_place(model: ModelProto) -> None:
    """Nothing."""


def a_copy(model: ModelProto) -> ModelProto:
    return ModelProto.FromString(model.SerializeToString())


def not_annotated(model: Any):  # type: ignore[no-untyped-def]  # noqa: ANN201
    return model


def looks_at_all(model: ModelProto, base_dir: str) -> None:
    for tensor in model.graph.initializer:
        assert numpy_helper.to_array(tensor, base_dir).size


def surgeon(graph: gs.Graph) -> gs.Graph:
    return graph


def surgeon_in_place(graph: gs.Graph) -> None:
    assert graph.nodes[0].op == "Conv"


def surgeon_looks(graph: gs.Graph) -> gs.Graph:
    assert graph.nodes[0].inputs[1].values.shape == (4, 3, 3, 3)
    return graph


def by_ir(model: ir.Model) -> ir.Model:
    return model


def by_ir_looks(model: ir.Model) -> None:
    for value in model.graph.initializers.values():
        assert value.const_value is not None
        assert value.const_value.numpy().size


NOTHING = [in_place, a_copy, not_annotated, looks_at_all, surgeon, surgeon_in_place, surgeon_looks, by_ir, by_ir_looks]


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("function", NOTHING, ids=lambda each: each.__name__)
def test_a_function_that_does_nothing_leaves_every_byte(
    function: Callable[..., Any], external: bool, tmp_path: Path
) -> None:
    source, output = tmp_path / "in.onnx", tmp_path / "out.onnx"
    if external:
        onnx.save(rich(), source, save_as_external_data=True, location="in.data", size_threshold=0)
    else:
        source.write_bytes(rich().SerializeToString())
    report = bnfold.optimize(source, output, passes=[function], verify=False).report
    assert output.read_bytes() == source.read_bytes()
    assert [each["verdict"] for each in report.passes] == ["unchanged"]


def scaled(tensor: TensorProto, base_dir: str = "") -> None:
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor, base_dir) * 2, tensor.name))


def scales(model: ModelProto) -> None:
    scaled(next(tensor for tensor in model.graph.initializer if tensor.name == "w"))


def scales_on_demand(model: ModelProto, base_dir: str) -> None:
    scaled(next(tensor for tensor in model.graph.initializer if tensor.name == "w"), base_dir)


def scales_by_surgeon(graph: gs.Graph) -> gs.Graph:
    graph.nodes[0].inputs[1].values = graph.nodes[0].inputs[1].values * 2
    return graph


def scales_by_ir(model: ir.Model) -> ir.Model:
    value = model.graph.initializers["w"]
    assert value.const_value is not None
    value.const_value = ir.tensor(value.const_value.numpy() * 2, name="w")
    return model


@pytest.mark.parametrize(
    "function", [scales, scales_on_demand, scales_by_surgeon, scales_by_ir], ids=lambda f: f.__name__
)
def test_only_what_a_function_touched_is_written_anew(function: Callable[..., Any]) -> None:
    model = rich()
    result = bnfold.optimize(model, passes=[function], verify=False)
    expected = rich()
    scaled(next(tensor for tensor in expected.graph.initializer if tensor.name == "w"))
    assert result.model.SerializeToString(deterministic=True) == expected.SerializeToString(deterministic=True)
    (told,) = result.report.passes
    assert told["changes"] == {"weights": {"count": 1, "names": ["w"]}}


def removes_a_relu(graph: gs.Graph) -> gs.Graph:
    relu = next(node for node in graph.nodes if node.op == "Relu")
    graph.nodes[2].inputs = relu.inputs
    relu.outputs.clear()
    return graph.cleanup()


def test_a_rewired_graph_keeps_its_notes_where_they_still_speak_of_something() -> None:
    made = bnfold.optimize(rich(), passes=[removes_a_relu], verify=False)
    model = made.model
    assert [node.op_type for node in model.graph.node] == ["Conv", "twice", "Constant", "If"]
    assert model.graph.node[0] == rich().graph.node[0]
    assert model.graph.node[3] == rich().graph.node[4]
    for field in ("metadata_props", "doc_string", "model_version", "functions", "opset_import", "producer_name"):
        assert getattr(model, field) == getattr(rich(), field), field
    for field in ("input", "output", "quantization_annotation", "value_info", "metadata_props"):
        assert getattr(model.graph, field) == getattr(rich().graph, field), field
    (told,) = made.report.passes
    assert told["changes"] == {"removed": {"count": 1, "names": ["r"]}, "rewired": {"count": 1, "names": ["y"]}}


def test_what_a_function_takes_out_on_purpose_stays_out() -> None:
    def strips(model: ModelProto) -> None:
        model.doc_string = ""
        del model.metadata_props[:]
        model.graph.node[0].doc_string = ""

    made = bnfold.optimize(rich(), passes=[strips]).model
    assert (made.doc_string, list(made.metadata_props), made.graph.node[0].doc_string) == ("", [], "")
    assert made.graph.metadata_props == rich().graph.metadata_props


def test_untouched_weights_stay_in_their_file(tmp_path: Path) -> None:
    source, output = tmp_path / "in.onnx", tmp_path / "out" / "out.onnx"
    output.parent.mkdir()
    onnx.save(rich(), source, save_as_external_data=True, location="in.data", size_threshold=0)
    bnfold.optimize(source, output, passes=[scales_by_ir], verify=False)
    written = onnx.load(output, load_external_data=False)
    places = {tensor.name: tensor.data_location for tensor in written.graph.initializer}
    assert places["large"] == TensorProto.EXTERNAL
    onnx.checker.check_model(onnx.load(output))


def test_a_weight_that_a_fold_computed_is_handed_over(tmp_path: Path) -> None:
    """One that is in no file yet: the function sees the folded numbers."""
    model = parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[1,64,4,4] x) => (float[1,640,4,4] y)
        <float[640] s = {1}, float[640] h = {0}> { c = Conv (x, w)  y = BatchNormalization (c, s, h, h, s) }
    """)
    del model.graph.initializer[:]
    random = np.random.default_rng(0)
    large = random.normal(size=(640, 64, 4, 4))[:, :, :1, :1].repeat(3, 2).repeat(3, 3)
    model.graph.node[0].attribute.append(helper.make_attribute("pads", [1, 1, 1, 1]))
    for name, values in (("w", large), ("s", np.full(640, 2.0)), ("h", np.zeros(640))):
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    seen = {}

    def looks(given: ModelProto, base_dir: str) -> None:
        seen.update({tensor.name: numpy_helper.to_array(tensor, base_dir) for tensor in given.graph.initializer})
        assert any(tensor.data_location == TensorProto.EXTERNAL for tensor in given.graph.initializer)

    source = tmp_path / "in.onnx"
    onnx.save(model, source)
    bnfold.optimize(source, tmp_path / "out.onnx", passes=["default", looks], verify=False)
    np.testing.assert_allclose(seen["w"], large * 2 / np.sqrt(2 + 1e-5), rtol=1e-5)


# --- forms


def test_the_annotation_tells_the_form() -> None:
    def quoted(model: "ir.Model") -> None: ...
    def unknown(model: "gs.Graph") -> None: ...
    def only_returned(graph) -> gs.Graph: ...  # type: ignore[no-untyped-def, empty-body]  # noqa: ANN001

    class Called:
        def __call__(self, model: ir.Model) -> None: ...

    assert form_of(quoted) is Form.IR
    assert form_of(unknown) is Form.GRAPHSURGEON
    assert form_of(only_returned) is Form.GRAPHSURGEON
    assert form_of(Called()) is Form.IR
    assert form_of(surgeon) is Form.GRAPHSURGEON
    assert form_of(looks_at_all) is Form.EXTERNAL
    assert form_of(not_annotated) is form_of(in_place) is form_of(print) is Form.PROTO


def test_what_is_no_model_is_said_in_one_sentence() -> None:
    with pytest.raises(
        UsageError, match=r"the pass seven returned int, which is no model \(.*test_functions.py, line \d+"
    ):
        bnfold.optimize(rich(), passes=[FunctionPass(lambda _: 7, "seven")])


def test_a_function_that_raises_is_one_sentence_with_its_name_and_line(tmp_path: Path) -> None:
    def divides(model: ModelProto) -> None:
        assert model.graph.node
        print(1 / 0)

    line = divides.__code__.co_firstlineno + 2
    place = rf"\({__file__}, line {line}\)"
    output = tmp_path / "out.onnx"
    with pytest.raises(UsageError, match=rf"^the pass divides raised ZeroDivisionError: division by zero {place}$"):
        bnfold.optimize(rich(), output, passes=[divides], keep_failed=True)
    assert list(tmp_path.iterdir()) == []


def test_a_large_model_in_memory_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bnfold.rewriting.function_pass._LARGE", 4096)
    told = r"The pass in_place was given the whole model in memory, 16,384 bytes of weights; a function that takes base"
    assert re.match(told, bnfold.optimize(rich(), passes=[in_place], verify=False).report.notes[-1])
    notes = bnfold.optimize(rich(), passes=[looks_at_all, by_ir, surgeon], verify=False).report.notes
    assert not any("in memory" in note for note in notes)
