"""The order of the walk: that of the data, whatever the file and the names say."""

import random

import numpy as np
import onnx
import pytest
from onnx import ModelProto, parser

import bnfold
from bnfold.graph import Model, Tensor
from bnfold.graph.dataflow import is_sorted, sort_by_dataflow
from bnfold.onnxfile import read
from tests.fold_models import Row, numbers

BRANCHES = """
    <ir_version: 8, opset_import: ["": 17]>
    g (float[N,3] x, bool c) => (float[N,3] y, float[N,3] z) {
        dead = Abs(x)
        deader = Ceil(dead)
        a = Neg(x)
        b = Exp(a)
        z = Floor(a)
        i = If(c) <then_branch = t () => (float[N,3] p) { q = Sin(b) p = Cos(q) },
                   else_branch = e () => (float[N,3] o) { o = Tanh(a) }>
        y = Add(i, b)
    }
"""
ORDER = ["Neg", "Exp", "If", "Add", "Floor", "Abs", "Ceil"]


def walk(model: ModelProto) -> list[list[str]]:
    return [[node.op_type for node in graph.by_dataflow()]
            for graph in Model(read(model.SerializeToString())).by_dataflow()]  # fmt: skip


@pytest.mark.parametrize("seed", range(5))
def test_no_order_of_the_file_changes_the_walk(seed: int) -> None:
    model = parser.parse_model(BRANCHES)
    assert walk(model) == [ORDER, ["Sin", "Cos"], ["Tanh"]]
    nodes = list(model.graph.node)
    random.Random(seed).shuffle(nodes)
    shuffled = ModelProto()
    shuffled.CopyFrom(model)
    del shuffled.graph.node[:]
    shuffled.graph.node.extend(nodes)
    assert walk(shuffled) == [ORDER, ["Sin", "Cos"], ["Tanh"]]
    assert not is_sorted(shuffled.graph) or [node.op_type for node in nodes].index("Neg") < 4
    sort_by_dataflow(shuffled.graph)
    assert is_sorted(shuffled.graph)
    assert [node.op_type for node in shuffled.graph.node] == ORDER


def test_a_value_that_a_body_reads_has_to_be_there() -> None:
    """Of the If that reads it, and not of the Add, whose operands are both there."""
    model = parser.parse_model(BRANCHES)
    assert is_sorted(model.graph)
    nodes = {node.output[0]: node for node in model.graph.node}
    order = [nodes[name] for name in ("a", "i", "b", "y", "z", "dead", "deader")]
    del model.graph.node[:]
    model.graph.node.extend(order)
    assert not is_sorted(model.graph)
    sort_by_dataflow(model.graph)
    assert is_sorted(model.graph)


def test_dead_ends_are_told_apart_by_what_they_are() -> None:
    text = "g (float[N] x) => (float[N] y) {{ y = Neg(x) {} }}"
    for dead in ("p = Ceil(x) q = Abs(y) r = Ceil(y)", "r = Ceil(y) q = Abs(y) p = Ceil(x)"):
        model = parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text.format(dead)}')
        [graph] = Model(read(model.SerializeToString())).graphs
        assert [(node.op_type, node.input[0]) for node in graph.by_dataflow()] == [
            ("Neg", "x"), ("Abs", "y"), ("Ceil", "x"), ("Ceil", "y")
        ]  # fmt: skip


def test_what_was_inserted_walks_along() -> None:
    graph = Model(read(parser.parse_model(BRANCHES).SerializeToString())).main
    before = graph.by_dataflow()[1]
    graph.add_behind(before, Tensor.of(np.ones(3), np.dtype(np.float32)))
    assert [node.op_type for node in graph.by_dataflow()][:4] == ["Neg", "Exp", "Add", "If"]


def test_decisions_are_told_in_the_order_of_the_file() -> None:
    text = "y = BatchNormalization(x, g3, g3, g3, g3) z = BatchNormalization(x, g3, g3, g3, g3)"
    model = Row(text, None, {"g3": numbers(3, low=0.5)}).model()
    model.graph.output.append(onnx.ValueInfoProto(name="z", type=model.graph.output[0].type))
    for outputs in (["y", "z"], ["z", "y"]):
        values = {value.name: onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in model.graph.output}
        del model.graph.output[:]
        model.graph.output.extend(values[name] for name in outputs)
        assert [each.node for each in bnfold.optimize(model, verify=False).report.decisions] == ["y", "z"]
