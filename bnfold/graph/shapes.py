"""Types and shapes of values: what shape inference says, else what the file says, else what follows further.

onnx's inference knows nothing of initializers that are no inputs below IR version 4, gives up where the file declares
something else, and stops at an operator it cannot follow. So it is asked without the declarations: those that
contradict it are stale, and nothing believes them. Where it stops, each operator is asked by itself, with the constants
and the partly known sizes that it reads.
"""

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

import onnx
from onnx import (
    FunctionProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    TypeProto,
    defs,
    helper,
    numpy_helper,
    shape_inference,
)

from bnfold.decisions import Refused
from bnfold.graph.attributes import DEFAULT_DOMAINS, number
from bnfold.graph.dataflow import nested_in, read_around
from bnfold.graph.inference import bodies, count_as_runtimes_do, infer_shapes, sizes_of

if TYPE_CHECKING:
    from bnfold.graph.graph import Graph
    from bnfold.graph.model import Model

# Operands that may decide about a shape are shown to inference up to this size.
_SHOWN_BYTES = 4096
# Shapes that are asked for while a constant is evaluated that is needed for another shape, and so on.
_DEEPEST = 16
_FUNCTIONS_SINCE = 8  # the IR version from which on a model may have functions
_MADE_OF_SIZES = frozenset({"ConstantOfShape", "Range"})  # whose first input decides the shape too
_ML_DOMAIN = "ai.onnx.ml"
# The input that is the shape of the output.
_TARGETS = {"Reshape": 1, "Resize": 3}


def inferred(structure: bytes) -> ModelProto:
    """The model in `structure` with every type that can be inferred, whatever it declares of values and outputs."""
    try:
        bare = ModelProto.FromString(structure)
        for body in bodies(bare):
            del body.value_info[:]
        for value in bare.graph.output:
            if value.type.HasField("tensor_type"):
                value.type.tensor_type.ClearField("shape")
        if any(entry.domain == _ML_DOMAIN for entry in bare.opset_import):
            _write_scalers_as_casts(bare)
        return infer_shapes(bare)
    except (shape_inference.InferenceError, onnx.checker.ValidationError, RuntimeError, ValueError):
        return onnx.load_model_from_string(structure)  # then only what the file says is known, and refusals say so


def _write_scalers_as_casts(model: ModelProto) -> None:
    """Inference knows no Scaler: it makes float32 of the shape it reads, as a Cast does."""
    for node in model.graph.node:
        if node.op_type == "Scaler" and node.domain == _ML_DOMAIN:
            node.op_type, node.domain = "Cast", ""
            del node.attribute[:]
            node.attribute.append(helper.make_attribute("to", TensorProto.FLOAT))


def has_rank(found: TypeProto | None) -> bool:
    """Whether `found` is no tensor, or one whose rank is known."""
    return found is not None and (not found.HasField("tensor_type") or found.tensor_type.HasField("shape"))


def agreed(found: Sequence[TypeProto | None]) -> TypeProto | None:
    """What all of `found` say: the type of a value that is each of them in turn."""
    first, *others = found or [None]
    if first is None or not others or not first.HasField("tensor_type"):
        return first if all(other == first for other in others) else None
    both = TypeProto()
    both.CopyFrom(first)
    for other in others:
        if other is None or other.tensor_type.elem_type != both.tensor_type.elem_type:
            return None
        if not other.tensor_type.HasField("shape") or len(sizes_of(other)) != len(both.tensor_type.shape.dim):
            both.tensor_type.ClearField("shape")
            continue
        for dim, size in zip(both.tensor_type.shape.dim, sizes_of(other), strict=True):
            if not dim.HasField("dim_value") or dim.dim_value != size:
                dim.Clear()
    return both


def contradicts(declared: TypeProto, found: TypeProto) -> bool:
    """Whether no value can be of both types."""
    if not (declared.HasField("tensor_type") and found.HasField("tensor_type")):
        return bool(declared.WhichOneof("value") != found.WhichOneof("value"))
    one, other = declared.tensor_type, found.tensor_type
    if one.elem_type and other.elem_type and one.elem_type != other.elem_type:
        return True
    if not (one.HasField("shape") and other.HasField("shape")):
        return False
    sizes, others = sizes_of(declared), sizes_of(found)
    return len(sizes) != len(others) or any(None not in (a, b) and a != b for a, b in zip(sizes, others, strict=True))


def known_sizes(found: TypeProto | None) -> list[int | None] | None:
    """The size of each dim, None where it is not known; None where not even the rank is."""
    return sizes_of(found) if found is not None and found.tensor_type.HasField("shape") else None


def merged(declared: TypeProto | None, found: TypeProto | None) -> TypeProto | None:
    """Both types together, where they do not contradict each other: numbers first, then the names of the file."""
    if declared is None or found is None:
        return found if declared is None else declared
    if not (found.HasField("tensor_type") and declared.HasField("tensor_type")):
        return found
    both, other = TypeProto(), declared if has_rank(found) else found
    both.CopyFrom(found if has_rank(found) else declared)
    both.tensor_type.elem_type = both.tensor_type.elem_type or other.tensor_type.elem_type
    for dim, said in zip(both.tensor_type.shape.dim, other.tensor_type.shape.dim, strict=False):
        if not dim.HasField("dim_value") and (said.dim_value > 0 or said.dim_param):
            dim.CopyFrom(said)
    return both


def follow(model: "Model", graph: "Graph", value: str) -> TypeProto | None:
    """The type of a value that inference knows no rank of, from the operators in front of it, one by one.

    Each value is settled once, without recursion; what the file declares of one is believed where nothing follows.
    """
    waiting = [(graph, value)]
    while waiting:
        home, name = waiting[-1]
        settled = model.settled_types(home)
        if name not in settled:
            node = home.producer(name)
            unsettled = _unsettled_holder(model, home, name) if node is None else _unsettled_operands(model, home, node)
            if unsettled:
                waiting += unsettled
                continue
            made = {} if node is None else _outputs(model, home, node)
            operands = [] if node is None else _operands(home, node)
            for output in [name] if node is None else [name, *node.output]:
                if output and output not in settled and home.defines(output):
                    found = merged(made.get(output), model.noted_type(home, output))
                    settled[output] = model.believed(home, output, found)
                    model.note_unproved(home, output, operands)
        waiting.pop()
    return model.settled_types(graph)[value]


def _operands(graph: "Graph", node: NodeProto) -> list[tuple["Graph", str]]:
    """What `node` and its bodies read, each with the scope that defines it."""
    homes = [(graph.resolve(operand), operand) for operand in [*node.input, *_read_by_bodies(node)] if operand]
    return [(home, operand) for home, operand in homes if home is not None]


def _read_by_bodies(node: NodeProto) -> dict[str, None]:
    return {value: None for body in nested_in([node]) for value in read_around(body)}


def _unsettled_operands(model: "Model", graph: "Graph", node: NodeProto) -> list[tuple["Graph", str]]:
    return [
        (home, operand)
        for home, operand in _operands(graph, node)
        if operand not in model.settled_types(home) and not model.is_settled_by(home, model.noted_type(home, operand))
    ]


def _unsettled_holder(model: "Model", graph: "Graph", value: str) -> list[tuple["Graph", str]]:
    """The first output of the node whose body `graph` is: that inference also finds the arguments of the body."""
    holder = model.holders.get(id(graph)) if graph.is_input(value) else None
    if holder is None or graph.parent is None or not holder.output:
        return []
    output = holder.output[0]
    known = not graph.parent.defines(output) or output in model.settled_types(graph.parent)
    return [] if known else [(graph.parent, output)]


def _outputs(model: "Model", graph: "Graph", node: NodeProto) -> dict[str, TypeProto]:
    """The types that follow for the outputs of `node` from those of its operands, which are settled."""
    if model.nesting >= _DEEPEST or (node.domain not in DEFAULT_DOMAINS and not model.is_function_call(node)):
        return {}
    model.nesting += 1
    try:
        if model.is_function_call(node):
            return _results_of(model, graph, node)
        operands = [graph.value_type(operand) if operand else None for operand in node.input]
        found = _asked_as_a_model(graph, node) if any(nested_in([node])) else _asked(graph, node, operands)
        if not all(has_rank(found.get(output)) for output in node.output[:1]):
            shape = _special(graph, node)
            if shape is not None:
                elem_type = operands[0].tensor_type.elem_type if operands[0] is not None else TensorProto.UNDEFINED
                found[node.output[0]] = helper.make_tensor_type_proto(elem_type, shape)
    except (Refused, IndexError, ValueError, TypeError, OverflowError):  # what no runtime takes has no shape
        return {}
    else:
        return found
    finally:
        model.nesting -= 1


def _results_of(model: "Model", graph: "Graph", call: NodeProto) -> dict[str, TypeProto]:
    """The types that follow for a call of a function from its operands, else those that every call of it has."""
    own = _asked_as_a_model(graph, call)
    if all(has_rank(own.get(output)) for output in call.output if output):
        return own
    common = model.results_of(call)
    found = {output: merged(common.get(output), own.get(output)) for output in call.output}
    return {output: kind for output, kind in found.items() if kind is not None}


def _asked(graph: "Graph", node: NodeProto, operands: Sequence[TypeProto | None]) -> dict[str, TypeProto]:
    """The result of onnx's inference for this one operator, which is shown the constants that the operator reads."""
    if any(each.ref_attr_name for each in node.attribute):
        return {}
    asked = NodeProto()
    asked.CopyFrom(node)
    asked.domain = ""
    asked.input[:] = [f"operand{index}" if name else "" for index, name in enumerate(node.input)]
    types, data, guessed = {}, {}, False
    for index, (name, operand) in enumerate(zip(node.input, operands, strict=True)):
        if not name:
            continue
        if operand is None or (operand.HasField("tensor_type") and not operand.tensor_type.elem_type):
            guessed = True  # inference wants an element type: any will do for a shape
            operand = _as_float(operand)
        types[f"operand{index}"] = operand
        constant = graph.constant(name) if index or node.op_type in _MADE_OF_SIZES else None
        if constant is not None and constant.nbytes <= _SHOWN_BYTES and constant.dtype.kind in "iuf":
            data[f"operand{index}"] = numpy_helper.from_array(constant.numpy())
    count_as_runtimes_do(asked, known_sizes(operands[0]) if operands else None)
    try:
        schema = defs.get_schema(node.op_type, graph.opset, "")
        imports = [helper.make_opsetid("", graph.opset)]
        found = shape_inference.infer_node_outputs(schema, asked, types, data, opset_imports=imports)
    except Exception:  # noqa: BLE001 - whatever the operator's own inference does not take
        return {}
    if guessed:
        for type_proto in found.values():
            if type_proto.HasField("tensor_type"):
                type_proto.tensor_type.elem_type = TensorProto.UNDEFINED
    return found


def _asked_as_a_model(graph: "Graph", node: NodeProto) -> dict[str, TypeProto]:
    """The result of onnx's inference for an operator with bodies or a call, in a model with all that it reads.

    Within a function onnx infers nothing, and in a body it sees no constant of the scopes around. What it finds of the
    values in the bodies is noted too.
    """
    model = graph.model
    nodes = [node, *(inner for body in _all_nested(node) for inner in body.node)]
    if any(each.ref_attr_name for inner in nodes for each in inner.attribute):
        return {}
    asked = ModelProto(ir_version=max(model.proto.ir_version, _FUNCTIONS_SINCE))
    asked.opset_import.extend((graph.function or model.proto).opset_import)
    asked.functions.extend(_called(model, nodes))
    asked.graph.node.append(node)
    names: set[str] = set()  # of sizes: inference makes up more of them, and begins anew with each model
    for operand in dict.fromkeys([*node.input, *_read_by_bodies(node)]):
        constant = graph.constant(operand) if operand else None
        if constant is not None and constant.nbytes <= _SHOWN_BYTES and constant.dtype.kind in "iuf":
            asked.graph.initializer.append(numpy_helper.from_array(constant.numpy(), operand))
        elif operand and (kind := graph.value_type(operand)) is not None:
            asked.graph.input.append(helper.make_value_info(operand, kind))
            names.update(dim.dim_param for dim in kind.tensor_type.shape.dim)
    found = inferred(asked.SerializeToString()).graph
    for body in _all_nested(found.node[0]):
        for value in (*body.value_info, *body.input, *body.output):
            _forget_names_but(names, value.type)
    model.note_bodies(graph, node, found.node[0])
    types = {value.name: value.type for value in found.value_info if value.name in node.output}
    for kind in types.values():
        _forget_names_but(names, kind)
    return types


def _called(model: "Model", nodes: Sequence[NodeProto]) -> Iterator[FunctionProto]:
    """The model-local functions that `nodes` call, and those that these call."""
    entered = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        function = model.functions.get((node.domain, node.op_type))
        if function is not None and id(function) not in entered:
            entered.add(id(function))
            yield function
            waiting += function.node
            waiting += [inner for held in function.node for body in _all_nested(held) for inner in body.node]


def _all_nested(node: NodeProto) -> Iterator[GraphProto]:
    for body in nested_in([node]):
        yield body
        for inner in body.node:
            yield from _all_nested(inner)


def _forget_names_but(known: AbstractSet[str], kind: TypeProto) -> None:
    """Leave of the sizes in `kind` the numbers, and the names that are `known`."""
    for dim in kind.tensor_type.shape.dim if kind.HasField("tensor_type") else ():
        if dim.HasField("dim_param") and dim.dim_param not in known:
            dim.Clear()


def _as_float(operand: TypeProto | None) -> TypeProto:
    typed = TypeProto()
    if operand is not None:
        typed.CopyFrom(operand)
    typed.tensor_type.elem_type = TensorProto.FLOAT
    return typed


def _special(graph: "Graph", node: NodeProto) -> list[int | None] | None:
    """The shape of the first output where inference needs to know more than it takes."""
    if node.op_type in ("Conv", "ConvTranspose"):  # the rank and the channels are those of the weight
        weight = graph.shape(node.input[1])
        if weight is None or len(weight) < 3:
            return None
        channels = weight[0] if node.op_type == "Conv" else weight[1]
        if node.op_type == "ConvTranspose" and isinstance(channels, int):
            channels *= number(node, "group", 1)
        return [None, channels if isinstance(channels, int) else None, *[None] * (len(weight) - 2)]
    target = _TARGETS.get(node.op_type)
    sizes = None if target is None or len(node.input) <= target else graph.partly(node.input[target])
    if sizes is None:
        return None
    exact = node.op_type != "Reshape"
    values = [int(size) for size in sizes.values]
    return [size if known and (exact or size > 0) else None for size, known in zip(values, sizes.known, strict=True)]
