"""Expressions of constants alone, in the types that the model says.

A float32 constant that is the product of two others is rounded whenever the model runs: that belongs to what the model
means. onnx.reference computes it, with kernels of `kernels` where it is known to be wrong, and is not believed where a
result has another shape or another type than ONNX's shape inference, which shares nothing with it, says. Where all
elements stay in order, as in the target shapes that exporters write, there is nothing to compute, and nothing is asked.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto, helper, numpy_helper

from bnfold.equivalence.numbers.element_types import Array
from bnfold.equivalence.numbers.float64 import Unknowable
from bnfold.equivalence.operators import DEFAULT_DOMAINS, operator_of
from bnfold.graph import infer_shapes
from bnfold.lifetime import emptied_at_the_end

_IN_ORDER_SINCE = {"Constant": 1, "Identity": 1, "Squeeze": 13, "Unsqueeze": 13, "Concat": 4}
"""Operators that keep the elements of their first inputs in order, and the operator set version from which on: Concat
those of vectors."""


def evaluate(model: ModelProto, given: Mapping[str, Array] | None = None) -> dict[str, Array]:
    """The outputs of a model whose inputs are `given`: none, or values of which only the sizes are read.

    Raises Unknowable where they cannot be computed or are not believed.
    """
    in_order = None if given else _in_order(model)
    if in_order is not None:
        return in_order
    from onnx.reference import ReferenceEvaluator

    from bnfold.equivalence.numbers.kernels import CONSTANT_OPERATORS

    names = [value.name for value in model.graph.output]
    try:
        with np.errstate(all="ignore"):
            reference = emptied_at_the_end(ReferenceEvaluator(model, new_ops=CONSTANT_OPERATORS))
            values = reference.run(names, dict(given or {}))
        found = {name: np.asarray(value) for name, value in zip(names, values, strict=True)}
    except Exception as error:  # onnx.reference raises what numpy and it see fit
        raise Unknowable(f"onnx.reference cannot compute a constant: {error}") from error
    check(model, found)
    return found


def _in_order(model: ModelProto) -> dict[str, Array] | None:
    """The outputs where every node keeps its elements in order, in the shapes that inference says; None elsewhere."""
    opset = max((entry.version for entry in model.opset_import if entry.domain in DEFAULT_DOMAINS), default=1)
    for node in model.graph.node:
        if node.domain not in DEFAULT_DOMAINS or opset < _IN_ORDER_SINCE.get(node.op_type, opset + 1):
            return None
    try:
        inferred = infer_shapes(model)
    except Exception:  # noqa: BLE001 - inference raises what it sees fit, and says nothing then
        return None
    kinds = {info.name: info.type.tensor_type for info in (*inferred.graph.value_info, *inferred.graph.output)}
    known = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            parts = [numpy_helper.to_array(each.t) for each in node.attribute if each.name == "value"]
        else:
            read = node.input if node.op_type == "Concat" else node.input[:1]
            parts = [known[name] for name in read if name in known]
            if len(parts) != len(read) or (node.op_type == "Concat" and any(part.ndim != 1 for part in parts)):
                return None
        array = _joined(parts, kinds.get(node.output[0]))
        if array is None:
            return None
        known[node.output[0]] = array
    names = [value.name for value in model.graph.output]
    return {name: known[name] for name in names} if known.keys() >= set(names) else None


def _joined(parts: list[Array], kind: TypeProto.Tensor | None) -> Array | None:
    """The elements of `parts` in order, in a shape that is wholly known; None where it is not, or does not fit."""
    if not parts or kind is None or not kind.elem_type or not kind.HasField("shape"):
        return None
    dims = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in kind.shape.dim]
    flat = np.concatenate([part.reshape(-1) for part in parts])
    fits = flat.dtype == helper.tensor_dtype_to_np_dtype(kind.elem_type) and flat.size == math.prod(dims)
    return flat.reshape(dims) if fits and min(dims, default=0) >= 0 else None


def check(model: ModelProto, found: dict[str, Array]) -> None:
    """Raises Unknowable where shape inference contradicts a value."""
    try:
        inferred = infer_shapes(model)
    except Exception:  # noqa: BLE001 - inference raises what it sees fit, and says nothing then
        return
    for info in (*inferred.graph.value_info, *inferred.graph.output):
        array, kind = found.get(info.name), info.type.tensor_type
        if array is None or not info.type.HasField("tensor_type"):
            continue
        if kind.elem_type and helper.tensor_dtype_to_np_dtype(kind.elem_type) != array.dtype:
            raise Unknowable(f"constant {info.name!r} has type {array.dtype} where ONNX's inference says another")
        dims = [dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim]
        if kind.HasField("shape") and not _fits(array.shape, dims):
            raise Unknowable(f"constant {info.name!r} has shape {array.shape} where ONNX's inference says another")


def _fits(shape: Sequence[int], dims: Sequence[int | None]) -> bool:
    return len(shape) == len(dims) and all(size == dim or dim is None for size, dim in zip(shape, dims, strict=True))


def store_constants(model: ModelProto) -> None:
    """Let initializers stand for what nodes make of initializers, in place. Raises Unknowable."""
    graph = model.graph
    known = {tensor.name for tensor in graph.initializer}
    made: list[NodeProto] = []
    rest: list[NodeProto] = []
    for node in graph.node:
        plain = node.domain in DEFAULT_DOMAINS and node.op_type != "Dropout" and not operator_of(node).random
        has_body = any(each.HasField("g") or each.graphs for each in node.attribute)
        if plain and not has_body and all(name in known for name in node.input if name):
            made.append(node)
            known.update(name for name in node.output if name)
        else:
            rest.append(node)
    if not made:
        return
    wanted = {name for node in rest for name in _reads(node)} | {value.name for value in graph.output}
    names = [name for node in made for name in node.output if name in wanted]
    constants = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    constants.graph.name = "constants"
    constants.graph.node.extend(made)
    read = {name for node in made for name in node.input}
    constants.graph.initializer.extend(tensor for tensor in graph.initializer if tensor.name in read)
    constants.graph.output.extend(ValueInfoProto(name=name) for name in names)
    graph.initializer.extend(_tensor(array, name) for name, array in evaluate(constants).items())
    remaining = GraphProto(node=rest)
    del graph.node[:]
    graph.node.extend(remaining.node)


def _tensor(array: Array, name: str) -> TensorProto:
    try:
        return numpy_helper.from_array(array, name)
    except Exception as error:  # a sequence, or a type that ONNX does not store
        raise Unknowable(f"constant {name!r} is no tensor") from error


def _reads(node: NodeProto) -> set[str]:
    """Names a node or a body inside it reads; too many do no harm."""
    found = set(node.input)
    for attribute in node.attribute:
        for graph in [attribute.g] if attribute.HasField("g") else attribute.graphs:
            found |= {value.name for value in graph.output}.union(*map(_reads, graph.node))
    return found
