"""Dims below zero, as some exporters write those that are dynamic: shape inference would compute with them.

Of [-1, 4, -1, -1] it makes [-1, 36] in a Flatten, which is a size like any other.
"""

from collections.abc import Iterator

from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, TypeProto

# How a varint of protobuf ends for every number from -2^35 to -1, and hardly anything else.
_NEGATIVE = b"\xff\xff\xff\xff\x01"


def without_negative_dims(structure: bytes) -> bytes:
    """The serialized model, each negative dim of a value a dynamic one without a name."""
    if _NEGATIVE not in structure:
        return structure
    model = ModelProto.FromString(structure)
    changed = False
    for kind in _types(model):
        for dim in kind.tensor_type.shape.dim:
            if dim.dim_value < 0:
                dim.ClearField("value")
                changed = True
    return model.SerializeToString() if changed else structure


def _types(model: ModelProto) -> Iterator[TypeProto]:
    bodies: list[GraphProto | FunctionProto] = [model.graph, *model.functions]
    for body in bodies:  # grows while it is walked
        ports = (*body.input, *body.output) if isinstance(body, GraphProto) else ()
        yield from (value.type for value in (*body.value_info, *ports) if value.type.HasField("tensor_type"))
        for node in body.node:
            for attribute in node.attribute:
                if attribute.type == AttributeProto.GRAPH:
                    bodies.append(attribute.g)
                bodies.extend(attribute.graphs)
