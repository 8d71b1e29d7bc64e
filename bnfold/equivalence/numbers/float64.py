"""A model in nearly real arithmetic: its graph evaluated in float64 with the parameters it stores.

onnx.reference computes in whatever type it is fed, so widening every stored number and every cast is enough. It is
not safe on loops of untrusted models, and slow where it walks over positions in Python: both are refused.
"""

from collections.abc import Iterable

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from bnfold.equivalence.numbers.element_types import Array, Feed, is_float, rounding
from bnfold.equivalence.operators import operator_of
from bnfold.equivalence.structure.signature import bodies, every_node
from bnfold.errors import ModelError
from bnfold.onnxfile import OnnxFile, to_proto

_SLOW_ELEMENTS = 20_000
_NORMALIZATIONS = {"BatchNormalization", "InstanceNormalization", "LayerNormalization", "GroupNormalization"}
_DEFAULT_EPSILON = 1e-5
_TYPE_ATTRIBUTES = {"to", "dtype", "output_dtype", "stash_type"}


class Unknowable(Exception):  # noqa: N818 - a fact about the model, not a mistake of the caller
    """The model cannot be evaluated in float64; the message says why, without a full stop."""


def load_whole(file: OnnxFile) -> ModelProto:
    """The model with its weights in memory. Raises Unknowable where they cannot be read."""
    try:
        return to_proto(file)
    except ModelError as error:
        raise Unknowable(f"its weights cannot be read: {error}") from error


class Evaluator:
    """A model in float64. Build once, call for as many feeds as needed.

    With `shake`, a seed, each stored number is off by one unit roundoff of its type, up or down: what that changes is
    what storing other weights for the same function may change.
    """

    def __init__(self, original: OnnxFile | ModelProto, shake: int | None = None) -> None:
        from bnfold.equivalence.numbers.kernels import Reference

        model = load_whole(original) if isinstance(original, OnnxFile) else ModelProto()
        if isinstance(original, ModelProto):
            model.CopyFrom(original)
        rows = {node.op_type: operator_of(node) for node in _all_nodes(model)}
        if refused := sorted(name for name, row in rows.items() if row.random or row.repeats):
            raise Unknowable(f"it contains {', '.join(refused)}")
        self._slow = sorted(name for name, row in rows.items() if row.slow)
        if shake is not None:
            _shake(model, np.random.default_rng(shake))
        widen(model)
        _name_overloads(model)
        try:
            self._evaluator = Reference(model)
        except Exception as error:  # onnx.reference raises what numpy and it see fit
            raise Unknowable(f"onnx.reference cannot load it: {_first_line(error)}") from error

    def __call__(self, feed: Feed, names: Iterable[str] | None = None) -> dict[str, Array]:
        """Outputs by name (all, or those asked for). Raises Unknowable."""
        elements = sum(array.size for array in feed.values())
        if self._slow and elements > _SLOW_ELEMENTS:
            raise Unknowable(f"{self._slow[0]} in float64 is too slow for {elements} values")
        wanted = list(names) if names is not None else list(self._evaluator.output_names)
        wide = {name: widened(array) for name, array in feed.items()}
        try:
            with np.errstate(all="ignore"):
                results = self._evaluator.run(wanted, wide)
        except Exception as error:  # onnx.reference raises what numpy and it see fit
            raise Unknowable(f"onnx.reference cannot run it: {_first_line(error)}") from error
        return {
            name: result if isinstance(result, np.ndarray) else np.asarray(result)
            for name, result in zip(wanted, results, strict=True)
            if not isinstance(result, list | dict)
        }


def _name_overloads(model: ModelProto) -> None:
    """Give each overload of a function a name of its own: onnx.reference knows functions by domain and name alone."""
    for function in model.functions:
        if function.overload:
            function.name, function.overload = f"{function.name}:{function.overload}", ""
    for node in _all_nodes(model):
        if node.overload:
            node.op_type, node.overload = f"{node.op_type}:{node.overload}", ""


def widened(array: Array) -> Array:
    """Floats of any width as float64, anything else as it is."""
    return array.astype(np.float64) if array.dtype.kind == "f" or array.dtype.name.startswith("bfloat") else array


def widen(model: ModelProto) -> None:
    """Make every stored float and every cast to a float a double, in place, nested bodies and functions included."""
    for tensor in _stored(model):
        if _is_narrow(tensor.data_type):
            tensor.CopyFrom(numpy_helper.from_array(_values(tensor), tensor.name))
    for graph in _all_graphs(model):
        del graph.value_info[:]
    for node in _all_nodes(model):
        if node.op_type == "Constant":
            _store_floats(node)
        for attribute in node.attribute:
            if attribute.type == AttributeProto.INT and attribute.name in _TYPE_ATTRIBUTES and _is_narrow(attribute.i):
                attribute.i = TensorProto.DOUBLE


def _store_floats(node: NodeProto) -> None:
    """Make the floats of a Constant a tensor of doubles: as an attribute they are narrow whatever they meet."""
    for attribute in node.attribute:
        if attribute.name in {"value_float", "value_floats"} and not attribute.ref_attr_name:
            values = np.array(attribute.f if attribute.name == "value_float" else list(attribute.floats), np.float64)
            tensor = numpy_helper.from_array(values)
            attribute.Clear()
            attribute.name, attribute.type = "value", AttributeProto.TENSOR
            attribute.t.CopyFrom(tensor)


def _shake(model: ModelProto, generator: np.random.Generator) -> None:
    """Move every stored number by one unit roundoff of its type, which is kept in a double."""
    for tensor in _stored(model):
        if (known := rounding(tensor.data_type)) is not None:
            values = _values(tensor)
            moved = values * (1 + known.unit * generator.choice([-1.0, 1.0], values.shape))
            tensor.CopyFrom(numpy_helper.from_array(moved, tensor.name))
    shake_epsilons(_all_nodes(model), generator)


def shake_epsilons(nodes: Iterable[NodeProto], generator: np.random.Generator) -> None:
    """Move the epsilon of each normalization to a neighbour: it is a float32 even where all else is a double."""
    for node in nodes:
        if node.op_type in _NORMALIZATIONS:
            stored = next((attribute for attribute in node.attribute if attribute.name == "epsilon"), None)
            if stored is not None and stored.ref_attr_name:
                continue
            if stored is None:
                stored = node.attribute.add(name="epsilon", type=AttributeProto.FLOAT, f=_DEFAULT_EPSILON)
            if stored.f:
                stored.f = float(np.nextafter(np.float32(stored.f), np.float32(generator.choice([0.0, np.inf]))))


def _stored(model: ModelProto) -> Iterable[TensorProto]:
    for graph in _all_graphs(model):
        yield from graph.initializer
    for node in _all_nodes(model):
        yield from (attribute.t for attribute in node.attribute if attribute.type == AttributeProto.TENSOR)


def _values(tensor: TensorProto) -> Array:
    try:
        return numpy_helper.to_array(tensor).astype(np.float64)
    except Exception as error:  # truncated or inconsistent data
        raise Unknowable(f"tensor {tensor.name!r} cannot be read: {_first_line(error)}") from error


def _is_narrow(elem_type: int) -> bool:
    try:
        return elem_type not in {TensorProto.UNDEFINED, TensorProto.DOUBLE} and is_float(elem_type)
    except KeyError:
        return False


def _all_graphs(model: ModelProto) -> Iterable[GraphProto]:
    yield model.graph
    for node in _all_nodes(model):
        yield from bodies(node)


def _all_nodes(model: ModelProto) -> Iterable[NodeProto]:
    yield from every_node(model.graph)
    for function in model.functions:
        yield from every_node(function)


def _first_line(error: Exception) -> str:
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    text = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
    return text[:200].rstrip(".")
