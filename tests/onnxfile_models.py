"""Small models with a bulky tensor in every place where ONNX allows one."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, SparseTensorProto, TensorProto, helper, numpy_helper

BULKY = 1100  # float32 elements: 4400 bytes


def weight(name: str, *dims: int) -> TensorProto:
    """A float32 tensor whose values depend on its name and shape."""
    rng = np.random.default_rng(sum(name.encode()))
    return numpy_helper.from_array(rng.random(dims or (BULKY,), dtype=np.float32), name)


def value(name: str, *dims: int | str, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, list(dims))


def chain(*weights: TensorProto) -> ModelProto:
    """x + w0 + w1 + ..., all of one shape."""
    nodes = [helper.make_node("Add", [f"v{i}", w.name], [f"v{i + 1}"], name=f"add{i}") for i, w in enumerate(weights)]
    dims = list(weights[0].dims)
    graph = helper.make_graph(nodes, "chain", [value("v0", *dims)], [value(f"v{len(weights)}", *dims)], list(weights))
    return model(graph)


def model(graph: GraphProto, functions: tuple[onnx.FunctionProto, ...] = ()) -> ModelProto:
    opsets = [helper.make_opsetid("", 18)] + ([helper.make_opsetid("local", 1)] if functions else [])
    return helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=10)


def sparse(name: str) -> SparseTensorProto:
    values = weight(name)
    indices = numpy_helper.from_array(np.arange(BULKY, dtype=np.int64) * 2, f"{name}_indices")
    return helper.make_sparse_tensor(values, indices, [2 * BULKY])


def everywhere() -> ModelProto:
    """Bulky tensors in initializers, sparse initializers, all kinds of attributes, bodies, functions, training."""
    inner = helper.make_graph(
        [helper.make_node("Constant", [], ["k"], value=weight("deep_constant"))],
        "inner",
        [],
        [value("k", BULKY)],
        [weight("deep_initializer")],
    )
    choice = helper.make_node("If", ["c"], ["i"], then_branch=inner, else_branch=inner)
    outer = helper.make_graph([choice], "outer", [], [value("i", BULKY)], [weight("middle_initializer")])
    nodes = [
        helper.make_node("If", ["c"], ["a"], then_branch=outer, else_branch=outer),
        helper.make_node("Constant", [], ["b"], value=weight("constant")),
        helper.make_node("Constant", [], ["s"], sparse_value=sparse("sparse_constant")),
        helper.make_node("Called", ["a"], ["d"], domain="local"),
        helper.make_node("Custom", ["d"], ["y"], domain="custom"),
    ]
    lists = [
        helper.make_attribute("many", [weight("first"), weight("small", 3), weight("second")]),
        helper.make_attribute("graphs", [inner, inner]),
        helper.make_attribute("sparse", [sparse("one_of_many")]),
    ]
    nodes[-1].attribute.extend(lists)
    graph = helper.make_graph(
        nodes,
        "main",
        [value("c", kind=TensorProto.BOOL)],
        [value("y", BULKY)],
        [weight("initializer"), weight("tiny", 2)],
        doc_string="documented",
        sparse_initializer=[sparse("sparse_initializer")],
    )
    called = helper.make_function(
        "local",
        "Called",
        ["p"],
        ["q"],
        [
            helper.make_node("Constant", [], ["w"], value=weight("in_function")),
            helper.make_node("Add", ["p", "w"], ["q"]),
        ],
        [helper.make_opsetid("", 18)],
        attribute_protos=[helper.make_attribute("default", weight("function_default"))],
    )
    whole = model(graph, (called,))
    training = whole.training_info.add()
    training.initialization.CopyFrom(helper.make_graph([], "init", [], [], [weight("training_initialization")]))
    training.algorithm.CopyFrom(helper.make_graph([], "step", [], [], [weight("training_algorithm")]))
    whole.metadata_props.add(key="author", value="somebody")
    return whole


def save_external(
    proto: ModelProto,
    path: Path,
    location: str | None = "weights.data",
    *,
    attributes: bool = False,
    threshold: int = 1024,
) -> None:
    """Save with onnx itself, in one data file or (location None) in one per tensor. `proto` is not modified."""
    copy = ModelProto()
    copy.CopyFrom(proto)
    onnx.save(
        copy,
        path,
        save_as_external_data=True,
        all_tensors_to_one_file=location is not None,
        location=location,
        size_threshold=threshold,
        convert_attribute=attributes,
    )


def loaded(path: Path) -> ModelProto:
    """The model as onnx.load sees it, without the traces of having been external."""
    whole = onnx.load(path)
    for tensor in tensors_of(whole.graph):
        tensor.ClearField("data_location")
    return whole


def tensors_of(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                yield attribute.t
            elif attribute.type == AttributeProto.GRAPH:
                yield from tensors_of(attribute.g)


def names(folder: Path) -> set[str]:
    """Every file below a directory, hidden ones included."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
