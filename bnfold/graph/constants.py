"""Values that are known before the model runs: initializers, Constant nodes, and expressions of constants.

Exporters hide weights behind operators: Identity where two layers share one, Expand and CastLike where a bias is
missing, Transpose in front of a MatMul, ConstantOfShape instead of stored zeros, ReduceL2 and Div for a weight norm,
QuantizeLinear for quantization-aware training. A value is constant where every operand is, or where it is a size that
is known; sizes may be known in part. A computed value is believed where two evaluators that share nothing agree on it
(`operator_values` and `witness`), and where nobody above contradicted it (`Evaluations`); else it is in dispute, and
nothing is made of it.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from bnfold.decisions import Refused
from bnfold.graph.attributes import DEFAULT_DOMAINS, attribute
from bnfold.graph.operator_values import (
    LARGEST_BROADCAST_BYTES,
    LARGEST_RESULT_BYTES,
    OPERATORS,
    REARRANGEMENTS,
    Call,
    NoValueError,
    values_of,
)
from bnfold.graph.tensor import Tensor
from bnfold.graph.witness import Evaluation, objection

if TYPE_CHECKING:
    from bnfold.graph.graph import Graph

# Of all expressions of a model together: bytes that were computed, and bytes that are kept.
LARGEST_WORK_BYTES = 4 << 30
LARGEST_KEPT_BYTES = 1 << 30
# Shapes of values that are asked for while another one is.
_DEEPEST = 16
_MOST_SIZES = 4096

_SIZES = frozenset({"Shape", "Size"})
# Operators that know a part of their result where they know a part of an operand: each element is made by itself.
_EACH_BY_ITSELF = frozenset(
    {"Abs", "Add", "And", "Cast", "Ceil", "Div", "Equal", "Floor", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"}
    | {"Max", "Min", "Mod", "Mul", "Neg", "Not", "Or", "Round", "Sub", "Where"}
)
_IN_PART = frozenset(REARRANGEMENTS) | _EACH_BY_ITSELF


class PartlyKnown(NamedTuple):
    """Numbers, rank 0 or 1, of which some are known: `values` there, and what a size of 1 makes elsewhere."""

    values: NDArray[Any]
    known: NDArray[np.bool_]


Operand: TypeAlias = PartlyKnown | NDArray[Any] | None
"""An array, numbers that are known in part, or None where the operand is absent."""


class _Asked:
    """A value that is asked for, and the operand of its operator that is looked at next."""

    __slots__ = ("graph", "position", "value")

    def __init__(self, graph: "Graph", value: str) -> None:
        self.graph = graph
        self.value = value
        self.position = 0


def settle(graph: "Graph", value: str) -> Tensor | None:
    """The value where it is the same in every run, else None; `value` is defined in `graph`.

    What it is computed from is settled with it, each value once, without recursion: linear in the operators.
    """
    waiting = [_Asked(graph, value)]
    while waiting:
        asked = waiting[-1]
        home, name = asked.graph, asked.value
        if name not in home._constants:
            node = home._producers.get(name)
            if name in home._initializers:
                home._constants[name] = home._initializer(name)
            elif node is None or not _may_be_evaluated(node):
                home._constants[name] = None
            elif (missing := _next_operand(asked, node)) is not None:
                waiting.append(missing)
                continue
            elif name not in home._constants:
                _settle_outputs(home, node)
        waiting.pop()
    return graph._constants[value]


def _may_be_evaluated(node: NodeProto) -> bool:
    return (node.op_type in OPERATORS or node.op_type == "Constant") and node.domain in DEFAULT_DOMAINS


def _next_operand(asked: _Asked, node: NodeProto) -> _Asked | None:
    """The next operand that has to be settled first; None where all are, or where one is found not to be constant."""
    graph, inputs = asked.graph, node.input
    while asked.position < len(inputs):
        operand, position = inputs[asked.position], asked.position
        if operand and not _is_only_typed(node, position):
            home = graph.resolve(operand)
            if home is not None and operand not in home._constants:
                return _Asked(home, operand)
            if home is None or (home._constants[operand] is None and not _may_be_partial(node, operand, home)):
                graph._constants[asked.value] = None
                if home is not None and operand in home._disputes:
                    graph._disputes[asked.value] = home._disputes[operand]
                return None
        asked.position += 1
    return None


def _is_only_typed(node: NodeProto, position: int) -> bool:
    return node.op_type in _SIZES or (node.op_type == "CastLike" and position == 1)


def _may_be_partial(node: NodeProto, operand: str, home: "Graph") -> bool:
    return operand in home._partly and node.op_type in _IN_PART


def _settle_outputs(graph: "Graph", node: NodeProto) -> None:
    """Evaluate `node`, whose operands are settled, and enter every output."""
    made: Sequence[Tensor | None] = ()
    model = graph.model
    model.nesting += 1
    try:
        if model.nesting <= _DEEPEST:
            made = [_constant_node(graph, node)] if node.op_type == "Constant" else _evaluated(graph, node)
    except (Refused, NoValueError, IndexError, ValueError, TypeError, OverflowError, ZeroDivisionError, KeyError):
        made = ()  # operands are missing, or of a kind that no runtime takes
    finally:
        model.nesting -= 1
    for index, output in enumerate(node.output):
        if output:
            graph._constants[output] = made[index] if index < len(made) else None


def _constant_node(graph: "Graph", node: NodeProto) -> Tensor | None:
    if len(node.attribute) != 1:
        return None
    for candidate in node.attribute:
        if candidate.name == "value" and not candidate.ref_attr_name:
            return graph.tensor_of(candidate.t) if candidate.HasField("t") else None
    for name, dtype in (("value_float", np.float32), ("value_int", np.int64)):
        for spelling in (name, name + "s"):
            value = attribute(node, spelling)
            if value is not None:
                return Tensor.of(np.asarray(value, dtype), np.dtype(dtype))
    return None


def _evaluated(graph: "Graph", node: NodeProto) -> Sequence[Tensor | None]:
    if node.op_type in _SIZES:
        stand_in = _stand_in(graph, node)
        if isinstance(stand_in, PartlyKnown):
            return _sizes_in_part(graph, node, stand_in)
        return () if stand_in is None else _agreed(graph, node, [stand_in])
    if node.op_type == "Identity" and (same := graph.constant(node.input[0])) is not None:
        return [same]
    operands = [_operand(graph, node, position) for position in range(len(node.input))]
    return _agreed(graph, node, operands) if operands else ()


def _agreed(graph: "Graph", node: NodeProto, operands: Sequence[Operand]) -> Sequence[Tensor | None]:
    """The value that both evaluators compute for `node` from `operands`; a value known only in part is noted."""
    arrays = [operand.values if isinstance(operand, PartlyKnown) else operand for operand in operands]
    read = sum(array.nbytes for array in arrays if array is not None)
    if read > LARGEST_RESULT_BYTES and node.op_type not in _SIZES:
        return ()
    _require_work(graph, 0 if node.op_type in REARRANGEMENTS else read)
    made = values_of(Call(node, arrays, graph.opset))
    if len(made) < len(node.output) or not _may_be_stored(node, made):
        return ()
    _require_work(graph, sum(array.nbytes for array in made if array.nbytes <= LARGEST_RESULT_BYTES), made)
    known = _known_part(node, operands, graph.opset)
    if not _is_agreed(graph, node, arrays, made, known):
        return ()
    if known is None or known.all():
        return [Tensor.of(array, array.dtype) for array in made]
    if made[0].ndim <= 1 and made[0].size <= _MOST_SIZES:
        graph._partly[node.output[0]] = PartlyKnown(made[0], known)
    return ()


def _is_agreed(
    graph: "Graph",
    node: NodeProto,
    arrays: Sequence[NDArray[Any] | None],
    made: Sequence[NDArray[Any]],
    known: NDArray[np.bool_] | None = None,
) -> bool:
    """Whether nothing speaks against `made`; what does is entered as the dispute on every output."""
    evaluations = graph.model.evaluations
    against = objection(node, arrays, made, graph.opset, known, graph.model.opinions)
    if evaluations is not None and against is None:
        against = evaluations.contradicted.get((graph.scope, node.output[0]))
        if against is None:
            as_read = NodeProto()
            as_read.CopyFrom(node)
            evaluations.believed.append(Evaluation(graph.scope, as_read, graph.opset, arrays, made, known))
    if against is not None:
        graph._disputes.update(dict.fromkeys(node.output, f"{node.op_type} {graph.label(node)}: {against}"))
    return against is None


def _operand(graph: "Graph", node: NodeProto, position: int) -> Operand:
    """The operand at `position`: an array, numbers that are known in part, or None where it is absent."""
    name = node.input[position]
    if not name:
        return None
    if _is_only_typed(node, position):
        dtype = graph.dtype(name)
        if dtype is None:
            raise NoValueError
        return np.zeros((), dtype)
    found = graph.constant(name)
    if found is not None:
        return found.numpy()
    home = graph.resolve(name)
    if home is None or name not in home._partly:
        raise NoValueError
    return home._partly[name]


def _stand_in(graph: "Graph", node: NodeProto) -> Operand:
    """An array of the shape that Shape or Size looks at, or that shape where it is known in part."""
    shape = graph.shape(node.input[0])
    if shape is None:
        return None
    sizes = [size if isinstance(size, int) else None for size in shape]
    if None not in sizes:
        whole = [size for size in sizes if size is not None]
        if math.prod(whole) > 1 << 60 or min(whole, default=0) < 0:
            return None
        return np.broadcast_to(np.zeros((), np.float32), whole)
    values = np.array([1 if size is None else size for size in sizes], np.int64)
    return PartlyKnown(values, np.array([size is not None for size in sizes]))


def _sizes_in_part(graph: "Graph", node: NodeProto, shape: PartlyKnown) -> Sequence[Tensor | None]:
    """Shape, perhaps of some dims only, where not all are known: which dims are asked for does not depend on sizes."""
    if node.op_type != "Shape":
        return ()
    numbered = np.broadcast_to(np.zeros((), np.float32), range(1, len(shape.values) + 1))
    places = values_of(Call(node, [numbered], graph.opset))[0] - 1
    if not _is_agreed(graph, node, [numbered], [places + 1]):
        return ()
    part = PartlyKnown(shape.values[places], shape.known[places])
    if part.known.all():
        return [Tensor.of(part.values, part.values.dtype)]
    graph._partly[node.output[0]] = part
    return ()


def _known_part(node: NodeProto, operands: Sequence[Operand], opset: int) -> NDArray[np.bool_] | None:
    """Which elements of the first value are known: the mask of the operand moves as the operand does. None for all."""
    if not any(isinstance(operand, PartlyKnown) for operand in operands):
        return None
    data = range(len(operands)) if node.op_type == "Concat" else (0,)
    masks: list[NDArray[Any] | None] = []
    for position, operand in enumerate(operands):
        if isinstance(operand, PartlyKnown):
            if node.op_type in REARRANGEMENTS and position not in data:
                raise NoValueError
            masks.append(operand.known)
        elif operand is not None and (position in data or node.op_type not in REARRANGEMENTS):
            masks.append(np.ones(operand.shape, np.bool_))
        else:
            masks.append(operand)
    if node.op_type in REARRANGEMENTS:
        return values_of(Call(node, masks, opset))[0]
    whole = np.broadcast_arrays(*(mask for mask in masks if mask is not None))
    if node.op_type == "Where":  # what is not chosen need not be known
        chosen = operands[0].values if isinstance(operands[0], PartlyKnown) else operands[0]
        return np.asarray(whole[0] & np.where(np.asarray(chosen), whole[1], whole[2]), np.bool_)
    return np.asarray(np.logical_and.reduce(whole), np.bool_)


def _may_be_stored(node: NodeProto, made: Sequence[NDArray[Any]]) -> bool:
    """Quantized weights stay quantized: only a bias or the parameters of a normalization are taken for floats."""
    if node.op_type == "DequantizeLinear":
        return made[0].ndim <= 1
    most = (
        LARGEST_BROADCAST_BYTES if node.op_type in ("Expand", "ConstantOfShape", "Identity") else LARGEST_RESULT_BYTES
    )
    return sum(array.nbytes for array in made) <= most


def _require_work(graph: "Graph", nbytes: int, made: Sequence[NDArray[Any]] = ()) -> None:
    """Enter so many bytes of work and what of `made` is kept. Raises `NoValueError` beyond what one model may cost."""
    model = graph.model
    model.evaluated_bytes += nbytes
    model.kept_bytes += sum(array.nbytes for array in made if array.base is None)
    if model.evaluated_bytes > LARGEST_WORK_BYTES or model.kept_bytes > LARGEST_KEPT_BYTES:
        raise NoValueError
