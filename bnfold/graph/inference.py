"""onnx's shape inference, where it is safe to ask: some models make it write beyond its memory, or compute for ever."""

from collections.abc import Iterator

from onnx import FunctionProto, GraphProto, ModelProto, numpy_helper, shape_inference

# onnx counts the steps of a Slice of sizes in a C int (defs/tensor/defs.cc, its data propagation).
_FARTHEST = 2**31

Body = GraphProto | FunctionProto


def infer_shapes(model: ModelProto, structure: bytes | None = None) -> ModelProto:
    """`model` with every type that onnx infers, from known sizes too. `structure`: the same serialized, if at hand.

    Raises what onnx raises.
    """
    structure = model.SerializeToString() if structure is None else structure
    return shape_inference.infer_shapes(structure, data_prop=not _has_far_steps(model))


def bodies(model: ModelProto) -> Iterator[Body]:
    """The main graph, the functions, and every body nested in them."""
    waiting: list[Body] = [model.graph, *model.functions]
    while waiting:
        body = waiting.pop()
        yield body
        for node in body.node:
            for attribute in node.attribute or ():
                waiting += [attribute.g] if attribute.HasField("g") else attribute.graphs


def _has_far_steps(model: ModelProto) -> bool:
    """Whether a Slice has a stored step that leaves the range in which onnx counts."""
    steps = {
        node.input[4]
        for body in bodies(model)
        for node in body.node
        if node.op_type == "Slice" and len(node.input) > 4 and node.input[4]
    }
    return bool(steps) and any(abs(value) >= _FARTHEST for value in _stored(model, steps))


def _stored(model: ModelProto, names: set[str]) -> Iterator[int]:
    """The integers that `names` stand for in any body, where the model itself holds them."""
    for body in bodies(model):
        for tensor in body.initializer if isinstance(body, GraphProto) else ():
            if tensor.name in names and (tensor.raw_data or tensor.int64_data or tensor.int32_data):
                yield from numpy_helper.to_array(tensor).ravel().tolist()
        for node in body.node:
            if node.op_type == "Constant" and node.output[:1] and node.output[0] in names:
                for attribute in node.attribute:
                    yield from (attribute.i, *attribute.ints)
                    if attribute.HasField("t"):
                        yield from numpy_helper.to_array(attribute.t).ravel().tolist()
