"""Sizes for the values that enter a piece of a graph: as small as its kernels allow, so that float64 costs little."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from itertools import islice
from typing import TypeAlias

import onnx
from onnx import ModelProto, NodeProto, TensorProto, TensorShapeProto, TypeProto

from bnfold.equivalence.feeds.dynamic_sizes import Sizes, windows
from bnfold.equivalence.feeds.size_solving import Shapes
from bnfold.equivalence.numbers.element_types import is_float
from bnfold.equivalence.structure.signature import bodies, every_graph, signature_of
from bnfold.errors import UsageError
from bnfold.graph import Model, infer_shapes, numbers, text
from bnfold.onnxfile import OnnxFile, without_negative_dims

_BATCH = 3
_DYNAMIC = 5
_SOLVED, _BATCHES = 2, (3, 1, 2)
"""How many sizes are tried that inference finds for dynamic dimensions, and at which batches."""
MOST_ELEMENTS = 1 << 20
"""Of what enters the model: more are too many for float64."""
_SIZE_READERS = frozenset({"Shape", "Size"})
"""The operators that give out sizes: at other sizes than the model's their answer is another."""

Dims: TypeAlias = tuple[int | None, ...] | None
"""Sizes as far as they are known; None where not even the rank is."""


def reads_sizes(region: ModelProto) -> bool:
    """Whether anything in a piece gives out the sizes of a value."""
    return any(node.op_type in _SIZE_READERS for node in region.graph.node)


def sizes_read(region: ModelProto) -> set[str]:
    """What enters a piece, or is made in it, and decides what sizes its operators give out."""
    made_from = {name: node.input for node in region.graph.node for name in node.output}
    waiting = [name for node in region.graph.node if node.op_type in _SIZE_READERS for name in node.input]
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name and name not in found:
            found.add(name)
            waiting += made_from.get(name, ())
    return found


def period(*regions: ModelProto) -> int:
    """By how much a size may differ without other windows: 1 where no operator pads by the size of what it reads.

    auto_pad = SAME_* pads by the remainder of a size and a stride, and so does ceil_mode. Strides of operators in a row
    multiply.
    """
    nodes = [node for region in regions for node in region.graph.node]
    by_size = any(rounds_windows(node) for node in nodes)
    return math.prod(math.lcm(*numbers(node, "strides", (1,))) for node in nodes) if by_size else 1


def rounds_windows(node: NodeProto) -> bool:
    """Whether the windows of an operator depend on the remainder of a size and a stride."""
    rounds = any(each.name == "ceil_mode" and each.i for each in node.attribute)
    return rounds or text(node, "auto_pad", "") in {"SAME_UPPER", "SAME_LOWER"}


class InputShapes:
    """The known shapes of one model's values: by inference, else as the file declares them.

    A file may declare of a value inside what its operators do not make: that is believed only where inference says
    nothing. `file`: the same model as a file, whose bodies and functions may be asked, of which onnx infers little.
    """

    def __init__(self, model: ModelProto, file: OnnxFile | None = None) -> None:
        self._model, self._file = model, file
        self._at: dict[tuple[tuple[str, tuple[int, ...]], ...], InputShapes] = {}
        has_scopes = bool(model.functions) or any(True for node in model.graph.node for _ in bodies(node))
        self._of_file = _FileTypes(file) if file is not None else None
        self._scopes = self._of_file if has_scopes else None
        bare = ModelProto()
        bare.CopyFrom(model)
        for graph in every_graph(bare.graph):
            del graph.value_info[:]
        self._types = _inferred(bare)
        declared = {value.name: value for graph in every_graph(model.graph) for value in graph.value_info}
        missing = [value for name, value in declared.items() if not _has_shape(self._types.get(name))]
        if missing:
            bare.graph.value_info.extend(missing)
            self._types |= {name: kind for name, kind in _inferred(bare).items() if _has_shape(kind)}
        self._inputs = {value.name for value in model.graph.input}
        self._symbols = {
            dim.dim_param for value in model.graph.input for dim in value.type.tensor_type.shape.dim if dim.dim_param
        }
        for tensor in model.graph.initializer:
            self._types[tensor.name] = onnx.helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))

    @cached_property
    def solved(self) -> list[Shapes]:
        """Sizes of the inputs that inference finds to fit every operator, at several batches."""
        signature, made = signature_of(self._model), list[Shapes]()
        with suppress(UsageError):
            found = Sizes(self._model, (*signature.inputs, *signature.overridable), {})
            for batch in _BATCHES:
                made += [each for each in islice(found.variants(batch), _SOLVED) if each not in made]
        return [each for each in made if sum(map(math.prod, each.values())) <= MOST_ELEMENTS]

    def at(self, sizes: Shapes) -> "InputShapes":
        """The shapes where the inputs of the model have these `sizes`."""
        key = tuple(sizes.items())
        if key not in self._at:
            model, file = ModelProto(), self._file
            model.CopyFrom(self._model)
            _set_sizes(model, sizes)
            if file is not None:
                file = file.copy()
                _set_sizes(file.proto, sizes)
            self._at[key] = InputShapes(model, file)
        return self._at[key]

    def _type(self, name: str) -> TypeProto | None:
        found = self._types.get(name)
        if self._scopes is not None and (found is None or None in (_known_dims(found) or (None,))):
            return self._scopes.type_of(name) or found
        return found

    def _type_read(self, name: str) -> TypeProto | None:
        """The type of a value whose sizes are read: what shapes are computed from may tell more than onnx infers."""
        found = self._type(name)
        if self._of_file is not None and (found is None or None in (_known_dims(found) or (None,))):
            return self._of_file.type_of(name, main=True) or found
        return found

    def kind(self, name: str) -> int:
        """The element type of a value of the main graph or a body, 0 where it is not known."""
        found = self._type(name)
        return 0 if found is None else found.tensor_type.elem_type

    def is_integer(self, name: str) -> bool:
        """Whether a value of the main graph is known to hold integers or truth values."""
        kind = self.kind(name)
        return kind not in {TensorProto.UNDEFINED, TensorProto.STRING} and not is_float(kind)

    def dims(self, name: str) -> Dims:
        """The sizes of a value of the main graph or a body, None for each that is dynamic; None where the rank is."""
        found = self._type(name)
        return None if found is None else _known_dims(found)

    def is_made_up(self, name: str) -> bool:
        """Whether a size among `candidates` for a value is neither known nor one that an input of the model decides."""
        if name in self._inputs:
            return False
        found = self._type_read(name)
        if not _has_shape(found):
            return True
        assert found is not None
        dims = found.tensor_type.shape.dim
        return not all(dim.HasField("dim_value") or dim.dim_param in self._symbols for dim in dims)

    def dims_inside(self, name: str) -> Dims:
        """The same of a value of a function."""
        found = None if self._scopes is None else self._scopes.type_of(name)
        return None if found is None else _known_dims(found)

    def candidates(
        self, region: ModelProto, inputs: Sequence[str], period: int = 1
    ) -> Iterator[list[dict[str, tuple[int, ...]]]]:
        """Sizes worth trying, smallest first: shrunken maps, larger ones, then those of the model itself.

        One list for each possible choice of ranks; usually they are known, and there is one choice. A known size of a
        map shrinks by a multiple of `period`.
        """
        side = max(windows(region).first, _DYNAMIC)
        read = sizes_read(region)
        guesses = [self._dims(name, region, self._type_read(name) if name in read else None) for name in inputs]
        for ranks in _ranks(guesses):
            known = dict(zip(inputs, ranks, strict=True))
            sizes = [] if reads_sizes(region) else [_shrunk(known, side, period), _shrunk(known, 2 * side, period)]
            whole = {
                name: tuple(dim or (1 if axis == 0 and len(dims) > 2 else side) for axis, dim in enumerate(dims))
                for name, dims in known.items()
            }
            yield sizes if whole in sizes else [*sizes, whole]

    def _dims(self, name: str, region: ModelProto, known: TypeProto | None) -> list[list[int | None]]:
        """Possible shapes, None for a dynamic size. From inference where it knows the rank, else from the readers."""
        found = known or self._type(name)
        if found is not None and found.tensor_type.HasField("shape"):
            dims = [
                dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None
                for dim in found.tensor_type.shape.dim
            ]
            return [_with_channels(dims, _channels(name, region))]
        rank, channels = _rank(name, region), _channels(name, region)
        return [_with_channels([None] * each, channels) for each in ([rank] if rank else [4, 2, 3, 5])]


class _FileTypes:
    """The types of values, in bodies and functions too, as operator after operator makes them of what enters."""

    def __init__(self, file: OnnxFile) -> None:
        self._file = file
        self._model: Model | None = None

    def type_of(self, name: str, *, main: bool = False) -> TypeProto | None:
        """None where nothing tells it for sure, for a name of several scopes, and outside of bodies unless `main`."""
        if self._model is None:
            self._model = Model(self._file)
        homes = [graph for graph in self._model.graphs if graph.defines(name)]
        if len(homes) != 1 or not self._model.has_proved_sizes(homes[0], name):
            return None
        return homes[0].value_type(name) if main or homes[0] is not self._model.main else None


def _set_sizes(model: ModelProto, sizes: Mapping[str, Sequence[int]]) -> None:
    for value in model.graph.input:
        if value.name in sizes:
            kind = value.type.tensor_type
            kind.ClearField("shape")
            kind.shape.dim.extend(TensorShapeProto.Dimension(dim_value=size) for size in sizes[value.name])


def _known_dims(found: TypeProto) -> Dims:
    if not found.tensor_type.HasField("shape"):
        return None
    return tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in found.tensor_type.shape.dim)


def _inferred(model: ModelProto) -> dict[str, TypeProto]:
    """The types of values by name; those that the model declares where inference gives up on it."""
    try:
        structure = without_negative_dims(model.SerializeToString())
        model = infer_shapes(model, structure)
    except Exception:  # noqa: BLE001, S110 - inference gives up on what it does not know; weights then say what they can
        pass
    graph = model.graph
    types = {value.name: value.type for value in (*graph.input, *graph.value_info, *graph.output)}
    for body in every_graph(graph):
        for value in body.value_info:
            types.setdefault(value.name, value.type)
    return types


def _has_shape(found: TypeProto | None) -> bool:
    return found is not None and found.tensor_type.HasField("shape")


def _ranks(guesses: list[list[list[int | None]]]) -> Iterator[list[list[int | None]]]:
    """One guess for each input: values of unknown rank are taken to have the same rank."""
    for choice in range(max((len(options) for options in guesses), default=1)):
        yield [options[min(choice, len(options) - 1)] for options in guesses]


def _shrunk(known: Mapping[str, list[int | None]], side: int, period: int) -> dict[str, tuple[int, ...]]:
    """Batch 3, spatial sizes cut to `side` and a little more for each further axis, so that no two axes are alike."""
    shapes = {}
    for name, dims in known.items():
        shape = []
        for axis, dim in enumerate(dims):
            if axis == 0 and len(dims) > 1:
                shape.append(dim if dim is not None and dim <= 4 else _BATCH)
            elif axis < 2 or len(dims) < 3:
                shape.append(dim if dim is not None else _DYNAMIC)
            else:
                cut = side + axis - 2
                shape.append(cut if dim is None else min(dim, cut + (dim - cut) % period))
        shapes[name] = tuple(shape)
    return shapes


def _with_channels(dims: list[int | None], channels: dict[int, int]) -> list[int | None]:
    for axis, size in channels.items():
        if -len(dims) <= axis < len(dims) and dims[axis] is None:
            dims[axis] = size
    return dims


def _weights(region: ModelProto) -> dict[str, list[int]]:
    return {tensor.name: list(tensor.dims) for tensor in region.graph.initializer}


def _rank(name: str, region: ModelProto) -> int:
    weights = _weights(region)
    for node in region.graph.node:
        if name not in node.input:
            continue
        if node.op_type in {"Conv", "ConvTranspose"} and len(node.input) > 1 and node.input[1] in weights:
            return len(weights[node.input[1]])
        attributes = {attribute.name: attribute for attribute in node.attribute}
        if node.op_type == "Gemm":
            return 2
        if node.op_type == "Transpose" and "perm" in attributes:
            return len(attributes["perm"].ints)
        if node.op_type in {"AveragePool", "MaxPool"} and "kernel_shape" in attributes:
            return len(attributes["kernel_shape"].ints) + 2
    return 0


def _channels(name: str, region: ModelProto) -> dict[int, int]:
    """Axis -> size that the readers of a value leave no choice about."""
    weights = _weights(region)
    found: dict[int, int] = {}
    for node in region.graph.node:
        if name in node.input and node.op_type in {"Add", "Sub", "Mul", "Div", "Sum"}:
            for constant in (weights[other] for other in node.input if other in weights):
                found |= {axis - len(constant): size for axis, size in enumerate(constant) if size > 1}
        if name not in node.input or len(node.input) < 2 or not weights.get(node.input[1]):
            continue
        dims = weights[node.input[1]]
        options = {attribute.name: attribute.i for attribute in node.attribute}
        if node.op_type == "Conv":
            found[1] = dims[1] * options.get("group", 1) if len(dims) > 1 else dims[0]
        elif node.op_type in {"ConvTranspose", "BatchNormalization"}:
            found[1] = dims[0]
        elif node.op_type == "Gemm" and len(dims) == 2:
            found[0 if options.get("transA") else 1] = dims[1 if options.get("transB") else 0]
        elif node.op_type == "MatMul" and len(dims) == 2:
            found[-1] = dims[0]
    return found
