"""onnx's shape inference, where it is safe to ask: some models make it write beyond its memory, or compute for ever."""

from collections.abc import Iterator

from onnx import GraphProto, ModelProto, numpy_helper, shape_inference

from bnfold.graph.dataflow import Body, is_sorted, sort_by_dataflow

# onnx counts the steps of a Slice of sizes in a C int (defs/tensor/defs.cc, its data propagation).
_FARTHEST = 2**31
_STORED_IS_CONSTANT = 4  # the IR version from which on what is stored is constant unless it is an input


def infer_shapes(model: ModelProto, structure: bytes | None = None) -> ModelProto:
    """`model` with every type that onnx infers, from known sizes too. `structure`: the same serialized, if at hand.

    onnx looks at each node once, in the order that the file has them in, and below IR version 4 at no initializer that
    is no input: it is shown another spelling. Raises what onnx raises.
    """
    structure = model.SerializeToString() if structure is None else structure
    far = _has_far_steps(model)
    if model.ir_version >= _STORED_IS_CONSTANT and all(map(is_sorted, _outermost(model))):
        return shape_inference.infer_shapes(structure, data_prop=not far)
    ordered = ModelProto.FromString(structure)
    _unlist_initializers(ordered)
    for body in _outermost(ordered):
        sort_by_dataflow(body)
    found = shape_inference.infer_shapes(ordered, data_prop=not far)
    for body, made in zip(_outermost(model), _outermost(found), strict=True):
        _put_back(made, body)
    return found


def _unlist_initializers(model: ModelProto) -> None:
    """Below IR version 4 initializers are constants although they are inputs: write them as later versions do."""
    if model.ir_version < _STORED_IS_CONSTANT:
        model.ir_version = _STORED_IS_CONSTANT
        stored = {tensor.name for tensor in model.graph.initializer}
        inputs = [value for value in model.graph.input if value.name not in stored]
        del model.graph.input[:]
        model.graph.input.extend(inputs)


def _outermost(model: ModelProto) -> list[Body]:
    return [model.graph, *model.functions]


def _put_back(body: Body, like: Body) -> None:
    """Put the nodes of `body` into the order that they have in `like`, in nested bodies too."""
    position = {tuple(node.output): at for at, node in enumerate(like.node)}
    body.node.sort(key=lambda node: position[tuple(node.output)])
    for node, other in zip(body.node, like.node, strict=True):
        for attribute, wanted in zip(node.attribute, other.attribute, strict=True):
            if attribute.HasField("g"):
                _put_back(attribute.g, wanted.g)
            for made, graph in zip(attribute.graphs, wanted.graphs, strict=True):
                _put_back(made, graph)


def bodies(model: ModelProto) -> Iterator[Body]:
    """The main graph, the functions, and every body nested in them."""
    waiting = _outermost(model)
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
