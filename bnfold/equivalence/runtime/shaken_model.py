"""A model with every stored float moved to a neighbour, up or down by a seed: what rounding alone may make of it.

It is a copy on disk whose numbers are moved in place, so that memory does not grow with the model.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, numpy_helper

from bnfold.equivalence.numbers.element_types import Array, Feed, numpy_type
from bnfold.equivalence.numbers.float64 import shake_epsilons
from bnfold.equivalence.structure.copies import copied
from bnfold.equivalence.structure.signature import every_node
from bnfold.onnxfile import OnnxFile, Span, payload_index, read

_LARGEST: dict[int, int] = {
    TensorProto.DOUBLE: 0x7FEFFFFFFFFFFFFF,
    TensorProto.FLOAT: 0x7F7FFFFF,
    TensorProto.FLOAT16: 0x7BFF,
    TensorProto.BFLOAT16: 0x7F7F,
}
"""The bits of the largest finite number of each type."""
_BITS = {
    "float64": TensorProto.DOUBLE,
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
}
_BYTES: dict[int, int] = {TensorProto.DOUBLE: 8, TensorProto.FLOAT: 4, TensorProto.FLOAT16: 2, TensorProto.BFLOAT16: 2}
_AT_ONCE = 1 << 17
_FEW = 8
# What decides sizes, or what no neighbour may stand for: a power that is a little less than 2 has no negative base.
_SIZES = {"Resize", "Upsample", "Range", "Pow", "RoiAlign", "MaxRoiPool", "CropAndResize", "NonMaxSuppression"}


@contextlib.contextmanager
def shaken_model(original: OnnxFile, seed: int) -> Iterator[Path]:
    """The path of a copy of `original`, which is gone when the block ends.

    Raises BnfoldError or OSError where none can be made.
    """
    with TemporaryDirectory(prefix="bnfold-shaken-") as name:
        folder = Path(name)
        generator = np.random.default_rng([seed, 0x5AFE])
        path = copied(original, folder / "shaken.onnx", lambda model: _shake_structure(model, generator))
        file = read(path)
        kept = _kept(file.proto)
        for tensor, name in _stored(file.proto):
            index = payload_index(tensor)
            if index is None or tensor.data_type not in _LARGEST or name in kept:
                continue
            span = file.payloads[index].payload
            if isinstance(span, Span) and span.source is not None and span.source.resolve().parent == folder.resolve():
                _shake_file(span, tensor.data_type, generator)
        del file
        yield path


def shaken_feed(feed: Feed, seed: int) -> Feed:
    """The feed with every float moved to a neighbour by `seed`."""
    generator = np.random.default_rng([seed, 0xFEED])
    return {name: shaken_array(array, generator) for name, array in feed.items()}


def shaken_array(array: Array, generator: np.random.Generator) -> Array:
    """`array` with every finite float but zero moved to the next one of its type; itself where it holds no floats."""
    kind = _BITS.get(array.dtype.name)
    if kind is None or _is_count(array):
        return array
    moved = np.array(array, order="C")
    _shake_bits(moved.reshape(-1).view(f"u{_BYTES[kind]}"), kind, generator)
    return moved


def _shake_bits(bits: Array, kind: int, generator: np.random.Generator) -> None:
    """Move each finite number but zero to the next one, in place."""
    unsigned = bits.dtype.type
    magnitude = bits & unsigned((1 << (8 * _BYTES[kind] - 1)) - 1)
    steps = (magnitude != 0) & (magnitude < _LARGEST[kind])
    up = np.unpackbits(np.frombuffer(generator.bytes(-(-bits.size // 8)), np.uint8), count=bits.size)
    # One up or one down: 2 * up - 1, and nothing where it may not move; unsigned numbers wrap around.
    bits += steps * ((up.astype(bits.dtype) << unsigned(1)) - unsigned(1))


def _shake_file(span: Span, kind: int, generator: np.random.Generator) -> None:
    assert span.source is not None
    integers = np.dtype(f"<u{_BYTES[kind]}")
    bits = np.memmap(span.source, integers, "r+", span.offset, (span.nbytes // _BYTES[kind],))
    if bits.size <= _FEW and _is_count(bits.view(numpy_type(kind))):
        return
    for start in range(0, bits.size, _AT_ONCE):
        _shake_bits(bits[start : start + _AT_ONCE], kind, generator)


def _shake_structure(model: ModelProto, generator: np.random.Generator) -> None:
    """Shake the numbers that lie in the structure itself."""
    kept = _kept(model)
    for tensor, name in _stored(model):
        if tensor.data_type in _LARGEST and payload_index(tensor) is None and name not in kept:
            values = numpy_helper.to_array(tensor)
            kind = tensor.data_type
            if not _is_count(values):
                bits = np.array(values, order="C").reshape(-1).view(f"u{_BYTES[kind]}")
                _shake_bits(bits, kind, generator)
                moved = TensorProto(name=tensor.name, data_type=kind, dims=tensor.dims, raw_data=bits.tobytes())
                tensor.CopyFrom(moved)
    for node in _nodes(model):
        if node.op_type == "Constant" and not kept.intersection(node.output):
            for attribute in node.attribute:
                _shake_attribute(attribute, generator)
    shake_epsilons(_nodes(model), generator)


def _shake_attribute(attribute: AttributeProto, generator: np.random.Generator) -> None:
    if attribute.name not in {"value_float", "value_floats"}:
        return
    floats = [attribute.f] if attribute.name == "value_float" else attribute.floats
    moved = shaken_array(np.array(floats, np.float32), generator)
    if attribute.name == "value_float":
        attribute.f = float(moved[0])
    else:
        attribute.floats[:] = moved.tolist()


def _is_count(values: Array) -> bool:
    """Whether a few whole numbers are a scale of sizes, an exponent or a switch, rather than measured values."""
    return values.size <= _FEW and bool(np.all(values.astype(np.float64) == np.round(values.astype(np.float64))))


def _nodes(model: ModelProto) -> Iterator[NodeProto]:
    yield from every_node(model.graph)
    for function in model.functions:
        yield from every_node(function)


def _kept(model: ModelProto) -> set[str]:
    """The names of what is read, besides the data, by operators that take no neighbour for a number."""
    found: set[str] = set()
    for node in _nodes(model):
        if node.op_type in _SIZES:
            found.update(node.input[0 if node.op_type == "Range" else 1 :])
    return found


def _stored(model: ModelProto) -> Iterator[tuple[TensorProto, str]]:
    """Every stored tensor, and the name of the value it is."""
    yield from ((tensor, tensor.name) for tensor in model.graph.initializer)
    for sparse in model.graph.sparse_initializer:
        yield sparse.values, sparse.values.name
    for node in _nodes(model):
        for attribute in node.attribute:
            if attribute.HasField("t") and node.op_type == "Constant":
                yield attribute.t, node.output[0] if node.output else ""
            for graph in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                yield from ((tensor, tensor.name) for tensor in graph.initializer)
