"""Types and shapes of values: what shape inference says, else what the file says, else what follows further.

onnx's inference knows nothing of initializers that are no inputs below IR version 4, gives up where the file declares
something else, and stops at an operator it cannot follow. So it is asked without the declarations: those that
contradict it are stale, and nothing believes them. Where it stops, each operator is asked by itself, with the constants
and the partly known sizes that it reads.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import onnx
from onnx import (
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
from bnfold.graph.inference import bodies, infer_shapes

if TYPE_CHECKING:
    from bnfold.graph.graph import Graph
    from bnfold.graph.model import Model

# Operands that may decide about a shape are shown to inference up to this size.
_SHOWN_BYTES = 4096
# Shapes that are asked for while a constant is evaluated that is needed for another shape, and so on.
_DEEPEST = 16
_ML_DOMAIN = "ai.onnx.ml"
# The input that is the shape of the output.
_TARGETS = {"Reshape": 1, "Resize": 3}


def inferred(structure: bytes, *, lists_initializers: bool) -> ModelProto:
    """The model in `structure` with every type that can be inferred, whatever it declares of values and outputs.

    `lists_initializers`: initializers are constants although they are inputs, as below IR version 4.
    """
    try:
        bare = ModelProto.FromString(structure)
        for body in bodies(bare):
            del body.value_info[:]
        for value in bare.graph.output:
            if value.type.HasField("tensor_type"):
                value.type.tensor_type.ClearField("shape")
        if any(entry.domain == _ML_DOMAIN for entry in bare.opset_import):
            _write_scalers_as_casts(bare)
        if lists_initializers:
            bare.ir_version = 4
            stored = {tensor.name for tensor in bare.graph.initializer}
            inputs = [value for value in bare.graph.input if value.name not in stored]
            del bare.graph.input[:]
            bare.graph.input.extend(inputs)
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


def contradicts(declared: TypeProto, found: TypeProto) -> bool:
    """Whether no value can be of both types."""
    if not (declared.HasField("tensor_type") and found.HasField("tensor_type")):
        return bool(declared.WhichOneof("value") != found.WhichOneof("value"))
    one, other = declared.tensor_type, found.tensor_type
    if one.elem_type and other.elem_type and one.elem_type != other.elem_type:
        return True
    if not (one.HasField("shape") and other.HasField("shape")):
        return False
    sizes, others = _sizes(declared), _sizes(found)
    return len(sizes) != len(others) or any(None not in (a, b) and a != b for a, b in zip(sizes, others, strict=True))


def _sizes(tensor: TypeProto) -> list[int | None]:
    """The size of each dim, None where it is not known: a number below zero is how some exporters say that."""
    dims = tensor.tensor_type.shape.dim
    return [dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else None for dim in dims]


def known_sizes(found: TypeProto | None) -> list[int | None] | None:
    """The size of each dim, None where it is not known; None where not even the rank is."""
    return _sizes(found) if found is not None and found.tensor_type.HasField("shape") else None


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
            unsettled = [] if node is None else _unsettled_operands(model, home, node)
            if unsettled:
                waiting += unsettled
                continue
            made = {} if node is None else _outputs(model, home, node)
            operands = [] if node is None else _operands(home, node)
            for output in [name] if node is None else [name, *node.output]:
                if output and output not in settled and home.defines(output):
                    found = merged(model.noted_type(home, output), made.get(output))
                    settled[output] = model.believed(home, output, found)
                    model.note_unproved(home, output, operands)
        waiting.pop()
    return model.settled_types(graph)[value]


def _operands(graph: "Graph", node: NodeProto) -> list[tuple["Graph", str]]:
    homes = [(graph.resolve(operand), operand) for operand in node.input if operand]
    return [(home, operand) for home, operand in homes if home is not None]


def _unsettled_operands(model: "Model", graph: "Graph", node: NodeProto) -> list[tuple["Graph", str]]:
    return [
        (home, operand)
        for home, operand in _operands(graph, node)
        if not has_rank(model.noted_type(home, operand)) and operand not in model.settled_types(home)
    ]


def _outputs(model: "Model", graph: "Graph", node: NodeProto) -> dict[str, TypeProto]:
    """The types that follow for the outputs of `node` from those of its operands, which are settled."""
    if node.domain not in DEFAULT_DOMAINS or model.is_function_call(node) or model.nesting >= _DEEPEST:
        return {}
    model.nesting += 1
    try:
        operands = [graph.value_type(operand) if operand else None for operand in node.input]
        found = _asked(graph, node, operands)
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


def _asked(graph: "Graph", node: NodeProto, operands: Sequence[TypeProto | None]) -> dict[str, TypeProto]:
    """The result of onnx's inference for this one operator, which is shown the constants that the operator reads."""
    if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
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
        constant = graph.constant(name) if index else None
        if constant is not None and constant.nbytes <= _SHOWN_BYTES and constant.dtype.kind in "iuf":
            data[f"operand{index}"] = numpy_helper.from_array(constant.numpy())
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
