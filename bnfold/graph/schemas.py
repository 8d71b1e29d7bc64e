"""Whether nodes are what their operators allow, in the version that the model imports: inputs, outputs, attributes.

A runtime may take more than the specification does, and the next tool in line may not.
"""

from collections.abc import Collection, Iterable, Iterator

from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, checker

from bnfold.errors import ModelError
from bnfold.graph.attributes import DEFAULT_DOMAINS

Form = tuple[int, bytes]
"""An operator with its attributes and how many values it reads and makes, in a version of the operator set."""


def forms_of(model: ModelProto) -> set[Form]:
    """The forms of ONNX's own operators in a model, those in bodies and functions included."""
    return {_form(version, node) for version, node in _nodes(model)}


def check_new_forms(known: Collection[Form], model: ModelProto) -> None:
    """Raise ModelError for a node of a form that is not `known` and that the specification forbids.

    What is wrong in a model already is so in `known`. What a node runs inside is looked at node by node.
    """
    contexts: dict[int, checker.C.CheckerContext] = {}
    for version, node in _nodes(model):
        has_bodies = any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute)
        if has_bodies or _form(version, node) in known:
            continue
        if version not in contexts:
            contexts[version] = checker.C.CheckerContext()
            contexts[version].ir_version = model.ir_version
            contexts[version].opset_imports = {"": version}
        try:
            checker.check_node(node, contexts[version])
        except checker.ValidationError as problem:
            name = node.name or next(filter(None, node.output), "")
            said = str(problem).splitlines()[0].rstrip(".")
            raise ModelError(f"{node.op_type} {name!r} is none of opset {version}: {said}") from problem


def _form(version: int, node: NodeProto) -> Form:
    bare = NodeProto(op_type=node.op_type)
    bare.input.extend("x" if name else "" for name in node.input)
    bare.output.extend("x" if name else "" for name in node.output)
    bare.attribute.extend(sorted(node.attribute, key=lambda attribute: attribute.name))
    return version, bare.SerializeToString(deterministic=True)


def _nodes(model: ModelProto) -> Iterator[tuple[int, NodeProto]]:
    """Nodes of ONNX's own operators in the model and its functions, each with the version that counts there."""
    version = _version(model.opset_import)
    bodies: list[tuple[int, GraphProto | FunctionProto]] = [(version, model.graph)]
    bodies += [(_version(function.opset_import) or version, function) for function in model.functions]
    for own, body in bodies:
        if own:
            yield from ((own, node) for node in _inside(body) if node.domain in DEFAULT_DOMAINS)


def _version(imports: Iterable[OperatorSetIdProto]) -> int:
    return next((entry.version for entry in imports if entry.domain in DEFAULT_DOMAINS), 0)


def _inside(body: GraphProto | FunctionProto) -> Iterator[NodeProto]:
    for node in body.node:
        yield node
        for attribute in node.attribute:
            for graph in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                yield from _inside(graph)
