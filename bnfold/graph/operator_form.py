"""Whether nodes have the form that the specification of their operator asks for: inputs, outputs and attributes.

Nobody asks beforehand, since onnxruntime is the judge of what runs, and a pass refuses by itself what it cannot read.
Where something failed that should not have, this tells whether the model is to blame.
"""

from collections.abc import Iterator, Sequence
from typing import cast

import onnx
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto

from bnfold.onnxfile import label, shared_names


def malformed_node(model: ModelProto) -> str | None:
    """The fault of the first node that breaks its operator's schema, in words; None where there is none."""
    defined = {(function.domain, function.name) for function in model.functions}
    bodies: list[ModelProto | FunctionProto] = [model, *model.functions]
    for holder in bodies:
        versions = {_domain(entry.domain): entry.version for entry in holder.opset_import}
        body = holder.graph if isinstance(holder, ModelProto) else holder
        for node, name in _nodes(body):
            version = versions.get(_domain(node.domain))
            if version is None or (node.domain, node.op_type) in defined:
                continue
            problem = _problem(node, version)
            if problem is not None:
                return f"node {name!r} ({node.op_type}) {problem}"
    return None


def _domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def _nodes(body: GraphProto | FunctionProto) -> Iterator[tuple[NodeProto, str]]:
    """Each node with its label, those of nested bodies included."""
    shared = shared_names(body.node)
    for node in body.node:
        yield node, label(node, shared)
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _nodes(inner)


def _problem(node: NodeProto, version: int) -> str | None:
    try:
        schema = onnx.defs.get_schema(node.op_type, version, _domain(node.domain))
    except onnx.defs.SchemaError:
        return None
    return (
        _count("input", node.input, schema.inputs, schema.min_input, schema.max_input)
        or _count("output", node.output, schema.outputs, schema.min_output, schema.max_output)
        or _attributes(node, schema)
    )


def _count(
    what: str, names: Sequence[str], ports: Sequence[onnx.defs.OpSchema.FormalParameter], least: int, most: int
) -> str | None:
    if not least <= len(names) <= most:
        wanted = f"{least}" if least == most else f"at least {least}" if len(names) < least else f"at most {most}"
        return f"has {len(names)} {what}s, and the operator takes {wanted}"
    required = onnx.defs.OpSchema.FormalParameterOption.Single
    for name, port in zip(names, ports, strict=False):
        if not name and port.option == required:
            return f"leaves out its {what} {port.name!r}, which the operator needs"
    return None


def _attributes(node: NodeProto, schema: onnx.defs.OpSchema) -> str | None:
    given = {attribute.name: attribute for attribute in node.attribute}
    if len(given) < len(node.attribute):
        return "has an attribute twice"
    for name, known in schema.attributes.items():
        attribute = given.get(name)
        if attribute is None:
            if known.required:
                return f"lacks the attribute {name!r}, which the operator needs"
            continue
        kinds = [AttributeProto.AttributeType.Name(kind) for kind in (attribute.type, cast("int", known.type))]
        if not attribute.ref_attr_name and kinds[0] != kinds[1]:
            return f"has the attribute {name!r} as {kinds[0]}, and the operator takes {kinds[1]}"
    return None
