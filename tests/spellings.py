"""Other spellings of a model: what it computes is the same, and so is what can be folded in it."""

from collections.abc import Callable, Iterator

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, ValueInfoProto, helper, version_converter


def graphs_of(graph: GraphProto) -> Iterator[GraphProto]:
    """The graph and the bodies nested in it."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for body in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                yield from graphs_of(body)


def _copy(model: ModelProto) -> ModelProto:
    made = ModelProto()
    made.CopyFrom(model)
    return made


def _in_order(model: ModelProto, order: Callable[[int], list[int]]) -> ModelProto:
    made = _copy(model)
    for graph in graphs_of(made.graph):
        nodes = [NodeProto.FromString(node.SerializeToString()) for node in graph.node]
        del graph.node[:]
        graph.node.extend(nodes[at] for at in order(len(nodes)))
    return made


def shuffled(model: ModelProto) -> ModelProto:
    """The nodes of every scope in some order."""
    random = np.random.default_rng(len(model.SerializeToString()))
    return _in_order(model, lambda count: [int(at) for at in random.permutation(count)])


def backwards(model: ModelProto) -> ModelProto:
    """The nodes of every scope, the last first."""
    return _in_order(model, lambda count: list(range(count))[::-1])


def renamed(model: ModelProto) -> ModelProto:
    """Every value inside has another name; so have the nodes."""
    made = _copy(model)
    kept = {value.name for value in (*made.graph.input, *made.graph.output)}
    names: dict[str, str] = {}

    def other(name: str) -> str:
        return name if not name or name in kept else names.setdefault(name, f"v{len(names):04d}.{name[::-1]}")

    for graph in graphs_of(made.graph):
        for tensor in graph.initializer:
            tensor.name = other(tensor.name)
        for value in graph.value_info if graph is made.graph else (*graph.value_info, *graph.input, *graph.output):
            value.name = other(value.name)
        for node in graph.node:
            node.input[:] = [other(name) for name in node.input]
            node.output[:] = [other(name) for name in node.output]
    return made


def as_constant_nodes(model: ModelProto) -> ModelProto:
    """Every initializer that no caller can replace is made by a Constant node."""
    made = _copy(model)
    fixed = {value.name for value in made.graph.input}
    for graph in graphs_of(made.graph):
        outside = fixed if graph is made.graph else set()
        stored = [tensor for tensor in graph.initializer if tensor.name not in outside]
        nodes = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in stored]
        rest = [NodeProto.FromString(node.SerializeToString()) for node in graph.node]
        left = [tensor for tensor in graph.initializer if tensor.name in outside]
        del graph.node[:], graph.initializer[:]
        graph.node.extend([*nodes, *rest])
        graph.initializer.extend(left)
    return made


def _constants_not_listed(model: ModelProto) -> ModelProto:
    """Below IR version 4 what is stored is constant although it is an input; from there on only where it is none."""
    made = _copy(model)
    if made.ir_version < 4:
        stored = {tensor.name for tensor in made.graph.initializer}
        ports = [value for value in made.graph.input if value.name not in stored]
        del made.graph.input[:]
        made.graph.input.extend(ports)
    return made


def _of_ir(model: ModelProto, version: int, *, listed: bool) -> ModelProto:
    """Initializers are constants there; they are `listed` as inputs or not."""
    made = _copy(model)
    made.ir_version = version
    there = {value.name for value in made.graph.input}
    for tensor in made.graph.initializer if listed else ():
        if tensor.name not in there:
            made.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return made


def below_ir_4(model: ModelProto) -> ModelProto:
    """IR version 3, whose initializers are inputs."""
    return _of_ir(model, 3, listed=True)


def below_ir_4_and_not_listed(model: ModelProto) -> ModelProto:
    """IR version 3 with initializers that are no inputs, as onnxruntime takes it."""
    return _of_ir(model, 3, listed=False)


def of_the_newest_ir(model: ModelProto) -> ModelProto:
    """The newest IR version that onnxruntime 1.32 takes."""
    return _of_ir(_constants_not_listed(model), min(13, onnx.IR_VERSION), listed=False)


def _outputs_as_in(model: ModelProto, suffix: str) -> list[ValueInfoProto]:
    return [ValueInfoProto(name=f"{value.name}{suffix}", type=value.type) for value in model.graph.output]


def in_a_branch(model: ModelProto) -> ModelProto:
    """All nodes in the branch of an If that is taken on an input; the other one gives zeros of no meaning."""
    made = _copy(model)
    inside = GraphProto(name="taken", node=made.graph.node, value_info=made.graph.value_info)
    names = {value.name for value in made.graph.output}
    for node in [node for graph in graphs_of(inside) for node in graph.node]:
        node.input[:] = [f"{name} inside" if name in names else name for name in node.input]
        node.output[:] = [f"{name} inside" if name in names else name for name in node.output]
    for graph in graphs_of(inside):
        for value in graph.output:
            value.name = f"{value.name} inside" if value.name in names else value.name
    inside.output.extend(_outputs_as_in(model, " inside"))
    del inside.value_info[:]
    other = GraphProto(name="not taken", output=_outputs_as_in(model, " outside"))
    for value in other.output:
        kind = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type or 1)
        shape = [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]
        zero = onnx.numpy_helper.from_array(np.zeros(shape, kind))
        other.node.append(helper.make_node("Constant", [], [value.name], value=zero))
        value.type.tensor_type.ClearField("shape")
    for value in inside.output:
        value.type.tensor_type.ClearField("shape")
    branch = helper.make_node("If", ["take it"], [value.name for value in made.graph.output])
    branch.attribute.append(AttributeProto(name="then_branch", type=AttributeProto.GRAPH, g=inside))
    branch.attribute.append(AttributeProto(name="else_branch", type=AttributeProto.GRAPH, g=other))
    del made.graph.node[:], made.graph.value_info[:]
    made.graph.node.append(branch)
    made.graph.input.append(helper.make_tensor_value_info("take it", onnx.TensorProto.BOOL, []))
    return made


def in_a_function(model: ModelProto) -> ModelProto:
    """All nodes, those that make the constants too, in a function that the graph calls with its inputs."""
    made = as_constant_nodes(_constants_not_listed(model))
    given = [value.name for value in made.graph.input]
    results = [value.name for value in made.graph.output]
    function = helper.make_function("spelled", "Whole", given, results, made.graph.node, list(made.opset_import))
    made.functions.append(function)
    del made.graph.node[:], made.graph.value_info[:]
    made.graph.node.append(helper.make_node("Whole", given, results, domain="spelled"))
    made.opset_import.append(helper.make_opsetid("spelled", 1))
    made.ir_version = max(made.ir_version, 8)
    return made


def of_opset(version: int) -> Callable[[ModelProto], ModelProto]:
    """As onnx converts it; raises what that raises for what it cannot convert."""

    def converted(model: ModelProto) -> ModelProto:
        return version_converter.convert_version(model, version)

    return converted


SPELLINGS: dict[str, Callable[[ModelProto], ModelProto]] = {
    "shuffled": shuffled,
    "backwards": backwards,
    "renamed": renamed,
    "constant nodes": as_constant_nodes,
    "IR 3": below_ir_4,
    "IR 3, not listed": below_ir_4_and_not_listed,
    "newest IR": of_the_newest_ir,
    "in a branch": in_a_branch,
    "in a function": in_a_function,
    "opset 13": of_opset(13),
    "opset 21": of_opset(21),
}
