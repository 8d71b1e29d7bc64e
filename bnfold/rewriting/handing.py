"""A model handed to a function and taken back: large weights stay in their file until the function asks for one.

A weight that stays is external data of the root of the file system, `base_dir` "/": one name for every file there is.
What comes back under the same name, offset and length is the same weight, and its bytes need not be looked at.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, numpy_helper

from bnfold.errors import ModelError, UsageError
from bnfold.onnxfile import OnnxFile, Payload, Span, Stored, payload_index, set_payload, tensors, to_proto
from bnfold.onnxfile.source import File, Memory
from bnfold.onnxfile.structure_reading import THRESHOLD
from bnfold.onnxfile.tensor_sizes import check_contents

BASE = "/"
"""The `base_dir` of every weight that stays in its file."""

_INLINE_BYTES = 1 << 20
"""Computed tensors that are smaller are handed over in the model itself; others go to a temporary file."""

_FIRST_BYTES = 64


class NoModelReturnedError(UsageError):
    """A function that should return a model, or None, returned something else."""


class Form(StrEnum):
    """The form in which a function takes a model."""

    PROTO = "onnx.ModelProto"
    EXTERNAL = "onnx.ModelProto and base_dir"
    GRAPHSURGEON = "onnx_graphsurgeon.Graph"
    IR = "onnx_ir.Model"


class Handed:
    """The model of `file` in the form that a function takes; `baseline` is what comes back if nothing is done to it."""

    def __init__(self, file: OnnxFile, form: Form, stack: ExitStack) -> None:
        self.file = file
        self.form = form
        self._stack = stack
        self._places: dict[tuple[str, str, str], int] = {}
        self._spool: Path | None = None
        self._sizes: dict[int, list[int]] | None = None
        self.given: Any = None
        match form:
            case Form.PROTO:
                self.given = to_proto(file)
                self.baseline = file.proto
            case Form.EXTERNAL:
                self.given = self._external()
                self.baseline = file.proto
            case Form.GRAPHSURGEON:
                self.given = self._graphsurgeon()
                self.baseline = self._exported(self._graphsurgeon())
            case Form.IR:
                self.given = self._ir()
                self.baseline = self.taken(self._serialized(self._ir()), file)

    # ------------------------------------------------------------------ there

    def _external(self) -> ModelProto:
        proto = ModelProto()
        proto.CopyFrom(self.file.proto)
        for tensor, _ in tensors(proto, thorough=True):
            index = payload_index(tensor)
            if index is not None:
                self._refer(tensor, index)
        return proto

    def _refer(self, tensor: TensorProto, index: int) -> None:
        """Let `tensor` name the file that payload `index` is in, or hold its bytes."""
        payload = self.file.payloads[index].payload
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
        if isinstance(payload, Span) and isinstance(payload.origin, File):
            path, offset = Path(os.path.realpath(payload.origin.path)), payload.offset
        elif payload.nbytes <= _INLINE_BYTES:
            tensor.raw_data = b"".join(map(bytes, payload.chunks()))
            return
        else:
            path, offset = self._spooled(payload)
        place = (path.as_posix().lstrip("/"), str(offset), str(payload.nbytes))
        self._places[place] = index
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in zip(("location", "offset", "length"), place, strict=True):
            tensor.external_data.add(key=key, value=value)

    def _spooled(self, payload: Payload) -> tuple[Path, int]:
        """Where in a temporary file the bytes of a payload are that are in no file, now."""
        if self._spool is None:
            folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="bnfold-weights-"))
            self._spool = Path(os.path.realpath(folder)) / "weights"
        with self._spool.open("ab") as spool:
            offset = spool.tell()
            for chunk in payload.chunks():
                spool.write(chunk)
        return self._spool, offset

    def _graphsurgeon(self) -> Any:
        import onnx_graphsurgeon
        from onnx_graphsurgeon.ir.tensor import LazyValues

        payloads = self.file.payloads

        class Weight(LazyValues):  # type: ignore[misc]  # graphsurgeon has no annotations
            """The values of a weight that stays in its file until somebody asks."""

            def load(self) -> Any:
                """The values."""
                raw = b"".join(map(bytes, payloads[payload_index(self.tensor) or 0].payload.chunks()))
                whole = TensorProto(data_type=self.tensor.data_type, dims=self.tensor.dims, raw_data=raw)
                return np.array(numpy_helper.to_array(whole))

        proto = ModelProto()
        proto.CopyFrom(self.file.proto)
        graph = onnx_graphsurgeon.import_onnx(proto)
        for constant in _constants(graph, onnx_graphsurgeon):
            values = constant._values  # noqa: SLF001 - the public name loads them
            if type(values) is LazyValues and payload_index(values.tensor) is not None:
                constant.values = Weight(values.tensor)
                constant.data_location = None  # once they are loaded, they are no external data
        return graph

    def _ir(self) -> Any:
        import onnx_ir

        model = onnx_ir.from_proto(self._external())
        for graph in (model.graph, *(function.graph for function in model.functions.values())):
            onnx_ir.external_data.set_base_dir(graph, BASE)
        return model

    # ------------------------------------------------------------------ and back

    def came_back(self, result: Any) -> tuple[ModelProto, OnnxFile]:
        """The function's result, as a structure over the payloads of a file.

        Raises NoModelReturnedError where it is none.
        """
        made = self.given if result is None else result
        kind = type(made).__module__.partition(".")[0]
        if isinstance(made, ModelProto):
            proto = made
        elif kind == "onnx_graphsurgeon":
            proto = self._exported(made)
        elif kind == "onnx_ir":
            proto = self._serialized(made)
        else:
            raise NoModelReturnedError(f"returned {type(made).__name__}, which is no model")
        file = replace(self.file, payloads=list(self.file.payloads))
        return self.taken(proto, file), file

    def _exported(self, graph: Any) -> ModelProto:
        import onnx_graphsurgeon

        proto: ModelProto = onnx_graphsurgeon.export_onnx(graph)
        return proto

    def _serialized(self, model: Any) -> ModelProto:
        import onnx_ir

        proto: ModelProto = onnx_ir.to_proto(model)
        return proto

    def taken(self, made: ModelProto, file: OnnxFile) -> ModelProto:
        """`made` with its bulky bytes as payloads of `file`, those that were there before as what they were.

        Raises ModelError for a tensor whose data is not there, or not of its shape and type.
        """
        proto = made
        if made is not self.given:  # somebody else may hold it
            proto = ModelProto()
            proto.CopyFrom(made)
        before = {tensor.name: tensor for tensor, _ in tensors(self.file.proto, thorough=True) if tensor.name}
        for tensor, _ in tensors(proto, thorough=True):
            if payload_index(tensor) is not None:
                continue
            if tensor.data_location == TensorProto.EXTERNAL:
                self._find(tensor)
                continue
            try:
                check_contents(tensor)
            except ValueError as error:
                raise ModelError(f"tensor {tensor.name!r} {error}") from error
            former = payload_index(before[tensor.name]) if tensor.name in before else None
            raw = _bulky(tensor, 0 if former is not None else THRESHOLD)
            if raw is not None:
                self._store(tensor, raw, former, file)
        return proto

    def _find(self, tensor: TensorProto) -> None:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        index = self._places.get((entries.get("location", ""), entries.get("offset", "0"), entries.get("length", "")))
        if index is None:
            raise ModelError(f"tensor {tensor.name!r} names a file of its own ({entries.get('location', '')!r})")
        set_payload(tensor, index)

    def _store(self, tensor: TensorProto, raw: bytes, former: int | None, file: OnnxFile) -> None:
        """Make `raw` the payload of `tensor`: the one that was there before, where the bytes are the same.

        `former` is what a tensor of its name had.
        """
        for index in [*([] if former is None else [former]), *self._alike(len(raw))]:
            if _holds(self.file.payloads[index].payload, raw):
                set_payload(tensor, index)
                return
        location = None if former is None else self.file.payloads[former].location
        file.payloads.append(Stored(Span(Memory(raw), 0, len(raw)), location))
        set_payload(tensor, len(file.payloads) - 1)

    def _alike(self, nbytes: int) -> list[int]:
        """The payloads of this size."""
        if self._sizes is None:
            self._sizes = {}
            for index, stored in enumerate(self.file.payloads):
                self._sizes.setdefault(stored.payload.nbytes, []).append(index)
        return self._sizes.get(nbytes, [])


def _constants(graph: Any, gs: Any) -> Iterator[Any]:
    """Every Constant of a graphsurgeon graph, in attributes and bodies as well."""
    yield from (tensor for tensor in graph.tensors().values() if isinstance(tensor, gs.Constant))
    for node in graph.nodes:
        for value in node.attrs.values():
            if isinstance(value, gs.Constant):
                yield value
            elif isinstance(value, gs.Graph):
                yield from _constants(value, gs)


def _bulky(tensor: TensorProto, least: int) -> bytes | None:
    """The bytes of a tensor that has at least so many; None for one that is smaller, or of strings."""
    if tensor.HasField("raw_data"):
        return tensor.raw_data if len(tensor.raw_data) >= least else None
    if tensor.data_type == TensorProto.STRING or tensor.ByteSize() < least // 2:  # small numbers take few bytes
        return None
    whole: bytes = numpy_helper.from_array(numpy_helper.to_array(tensor)).raw_data
    return whole if len(whole) >= least else None


def _holds(payload: Payload, raw: bytes) -> bool:
    """Whether a payload is these bytes.

    The first of them are read and not mapped: to look at one page of every weight may map most of a file.
    """
    if payload.nbytes != len(raw):
        return False
    if isinstance(payload, Span):
        first = bytearray(min(_FIRST_BYTES, len(raw)))
        payload.read_into(memoryview(first), 0)
        if not raw.startswith(first):
            return False
    view, start = memoryview(raw), 0
    for chunk in payload.chunks():
        if view[start : start + len(chunk)] != chunk:
            return False
        start += len(chunk)
    return True
