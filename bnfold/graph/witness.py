"""The second, unrelated opinion on a constant: shape inference on its type and shape, onnx.reference on its values.

onnx.reference 1.23 is wrong in places (Unsqueeze below operator set 13 with negative or unsorted axes gives another
shape, Slice with negative steps, Shape with `start` and `end` out of range), and nobody's evaluator is above that: a
value is believed where both say the same. A third opinion may come from above, where a runtime is at hand: it is given
as `Evaluations`, which notes what was believed and knows what was contradicted before.

Where an operator only keeps the elements of its operands in order, shape inference and the bytes of both say all there
is: onnx.reference, whose import takes longer than folding a network, is not asked then. Where the result is a vector of
all that scalars or vectors hold, its elements tell its shape, and shape inference is not asked either.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from onnx import AttributeProto, NodeProto, TypeProto, defs, helper, numpy_helper, shape_inference

from bnfold.graph.operator_values import LARGEST_RESULT_BYTES, Array
from bnfold.graph.tensor import FLOATS

# Different libraries round differently: in units of the roundoff of the dtype, of the largest value in sight.
_ROUNDING = 64
# onnx.reference has the operator from this operator set version on; it means the same where both have the attributes.
_IMPLEMENTED_SINCE = {"DequantizeLinear": 19}
# Operators whose result is the elements of their first inputs in order, and the operator set version from which on: one
# input, or all of them where the inputs are vectors. onnx.reference reads some axes otherwise below that.
_KEEPS_ORDER = {"Identity": 1, "Squeeze": 13, "Unsqueeze": 13}
_JOINS_VECTORS = {"Concat": 4}
# Data that may decide about a shape is shown to shape inference up to this size.
_SHOWN_BYTES = 4096
# Opinions on more are not kept: exporters repeat what computes sizes, with each layer.
_REMEMBERED_BYTES = 1024


class Evaluation(NamedTuple):
    """One evaluation of an operator, in `scope`, on constants; None stands for an operand that is left out.

    `known` marks the elements of the first value that count, all where it is None.
    """

    scope: str
    node: NodeProto
    opset: int
    operands: Sequence[Array | None]
    made: Sequence[Array]
    known: Array | None


@dataclass
class Evaluations:
    """The evaluations that were believed, kept for a third evaluator.

    `contradicted`: what that opinion has against outputs of operators, by scope and name; they are in dispute.
    """

    believed: list[Evaluation] = field(default_factory=list)
    contradicted: dict[tuple[str, str], str] = field(default_factory=dict)


def objection(
    node: NodeProto,
    operands: Sequence[Array | None],
    made: Sequence[Array],
    opset: int,
    known: Array | None = None,
    opinions: dict[Hashable, str | None] | None = None,
) -> str | None:
    """The objection to `made`, the values computed for `node` from `operands`; None where everything agrees.

    `known` marks the elements of the first value that count, all where it is None. `opinions`: those on the same
    operator with the same small operands, which are not asked for again.
    """
    asked = NodeProto()
    asked.CopyFrom(node)
    for said in ("name", "doc_string", "domain"):
        asked.ClearField(said)
    inputs = [f"operand{index}" if operand is not None else "" for index, operand in enumerate(operands)]
    asked.input[:] = inputs
    asked.output[:] = [f"result{index}" if name else "" for index, name in enumerate(node.output)]
    content = None if opinions is None else _content([*operands, *made, known])
    if opinions is None or content is None:
        return _objection(asked, operands, made, opset, known)
    question = (asked.SerializeToString(deterministic=True), opset, content)
    if question not in opinions:
        opinions[question] = _objection(asked, operands, made, opset, known)
    return opinions[question]


def _content(arrays: Sequence[Array | None]) -> Hashable | None:
    """All that arrays hold: their types, shapes and bytes, of one repeated number its own; None where that is much."""
    found: list[Hashable] = []
    nbytes = 0
    for array in arrays:
        if array is None:
            found.append(None)
            continue
        repeated = bool(array.size) and not any(array.strides)
        nbytes += array.itemsize if repeated else array.nbytes
        if nbytes > _REMEMBERED_BYTES or array.dtype.hasobject:
            return None
        found.append(
            (
                array.dtype.str,
                array.shape,
                repeated,
                array[(0,) * array.ndim].tobytes() if repeated else array.tobytes(),
            )
        )
    return tuple(found)


def _objection(
    asked: NodeProto, operands: Sequence[Array | None], made: Sequence[Array], opset: int, known: Array | None
) -> str | None:
    if _is_plain_vector(asked, operands, made, opset):
        return None
    given = {name: operand for name, operand in zip(asked.input, operands, strict=True) if operand is not None}
    inferred, against = _against_shape(asked, given, made, opset)
    if against or (inferred and _is_in_order(asked, operands, made, opset)):
        return against
    return _against_values(asked, given, made, opset, known)


def _against_shape(
    node: NodeProto, given: dict[str, Array], made: Sequence[Array], opset: int
) -> tuple[bool, str | None]:
    """Whether shape inference knows the type and the whole shape of each of `made`, and the objection to them."""
    types = {name: _type(array) for name, array in given.items()}
    data = {name: numpy_helper.from_array(array, name) for name, array in given.items() if array.nbytes <= _SHOWN_BYTES}
    imports = [helper.make_opsetid("", opset)]
    try:
        schema = defs.get_schema(node.op_type, opset, "")
        inferred = shape_inference.infer_node_outputs(schema, node, types, data, opset_imports=imports)
    except Exception as error:  # noqa: BLE001 - an operator that its own schema does not take
        return False, f"shape inference refuses it: {_line(error)}"
    complete = True
    for name, array in zip(node.output, made, strict=True):
        type_proto = inferred.get(name)
        if type_proto is None or not type_proto.HasField("tensor_type"):
            complete = False
            continue
        tensor = type_proto.tensor_type
        if tensor.elem_type and tensor.elem_type != helper.np_dtype_to_tensor_dtype(array.dtype):
            return complete, f"shape inference says element type {tensor.elem_type}"
        if not tensor.HasField("shape"):
            complete = False
            continue
        dims = [dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim]
        same = len(dims) == array.ndim and all(a in (None, b) for a, b in zip(dims, array.shape, strict=True))
        if not same:
            return complete, f"shape inference says {dims} and the specification {list(array.shape)}"
        complete = complete and bool(tensor.elem_type) and None not in dims
    return complete, None


def _is_in_order(node: NodeProto, operands: Sequence[Array | None], made: Sequence[Array], opset: int) -> bool:
    """Whether `made` is one value, of an operator that keeps the order, and holds its operands byte for byte."""
    since = {**_KEEPS_ORDER, **_JOINS_VECTORS}.get(node.op_type)
    if since is None or opset < since or len(made) != 1 or made[0].nbytes > LARGEST_RESULT_BYTES:
        return False
    kept = operands[:1] if node.op_type in _KEEPS_ORDER else operands
    if node.op_type in _JOINS_VECTORS and any(operand is None or operand.ndim != 1 for operand in kept):
        return False
    return b"".join(operand.tobytes() for operand in kept if operand is not None) == made[0].tobytes()


def _is_plain_vector(node: NodeProto, operands: Sequence[Array | None], made: Sequence[Array], opset: int) -> bool:
    """Whether `made` is one vector of all that a scalar or vectors hold, in order: it can have no other shape.

    Unsqueeze of a scalar along its axis, and Concat of vectors along theirs. Most networks have no other constant
    expressions, and the schemas that shape inference asks for take longer than their passes.
    """
    if not _is_in_order(node, operands, made, opset) or made[0].ndim != 1:
        return False
    kept = operands[:1] if node.op_type in _KEEPS_ORDER else operands
    if not kept or any(operand is None or operand.dtype != made[0].dtype for operand in kept):
        return False
    if node.op_type == "Concat":
        said = [(each.name, each.type, each.i) for each in node.attribute]
        return said in ([("axis", AttributeProto.INT, 0)], [("axis", AttributeProto.INT, -1)])
    if node.op_type != "Unsqueeze" or node.attribute or operands[0] is None or operands[0].ndim or len(operands) != 2:
        return False
    axes = operands[1]
    return axes is not None and axes.dtype == np.int64 and axes.shape == (1,) and int(axes[0]) in (0, -1)


def _type(array: Array) -> TypeProto:
    return helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)


def _against_values(
    node: NodeProto, given: dict[str, Array], made: Sequence[Array], opset: int, known: Array | None
) -> str | None:
    if sum(array.nbytes for array in made) > LARGEST_RESULT_BYTES:
        return None  # one number, repeated: onnx.reference would write it out
    from onnx.reference import ReferenceEvaluator

    types = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), None)
        for name, array in given.items()
    ]
    results = [name for name in node.output if name]
    outputs = [helper.make_empty_tensor_value_info(name) for name in results]
    model = helper.make_model(
        helper.make_graph([node], "constant", types, outputs),
        opset_imports=[helper.make_opsetid("", max(opset, _IMPLEMENTED_SINCE.get(node.op_type, 0)))],
    )
    try:
        with np.errstate(all="ignore"):
            evaluator = ReferenceEvaluator(model)
            others = dict(zip(results, evaluator.run(None, given), strict=True))
            vars(evaluator).clear()  # it refers to itself
    except Exception as error:  # noqa: BLE001 - whatever it cannot evaluate has no second opinion
        return f"onnx.reference cannot evaluate it: {_line(error)}"
    for index, (name, array) in enumerate(zip(node.output, made, strict=True)):
        if not name:
            continue
        other = np.asarray(others[name])
        if other.shape != array.shape or other.dtype != array.dtype:
            ours, theirs = (f"{each.dtype} {list(each.shape)}" for each in (array, other))
            return f"onnx.reference makes {theirs} of it, the specification {ours}"
        counts = known if index == 0 else None
        if not agree(array, other) and (counts is None or not agree(array[counts], other[counts])):
            return "onnx.reference makes other numbers of it"
    return None


def agree(one: Array, other: Array) -> bool:
    """Whether two evaluators that round differently may have computed the same: floats nearly, others exactly."""
    if _is_one(one, other):
        return True
    if one.dtype not in FLOATS:
        return bool(np.array_equal(one, other))
    if np.array_equal(one, other) or np.array_equal(one, other, equal_nan=True):  # a look for NaN takes much longer
        return True
    a, b = one.astype(np.float64), other.astype(np.float64)
    with np.errstate(all="ignore"):
        finite = np.isfinite(a) & np.isfinite(b)
        largest: Any = np.abs(a[finite]).max(initial=0.0)
        roundoff = FLOATS[one.dtype].roundoff
        close = np.abs(a - b) <= _ROUNDING * roundoff * largest
        return bool((close | (a == b) | (np.isnan(a) & np.isnan(b))).all())


def _is_one(one: Array, other: Array) -> bool:
    """Whether both are the same elements of the same memory, as the same rearrangement of one operand is."""
    if (one.dtype, one.shape, one.strides) != (other.dtype, other.shape, other.strides):
        return False
    return bool(one.__array_interface__["data"] == other.__array_interface__["data"])


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
