"""The bytes of a model file: a ModelProto with markers, serialized, with payloads in their places."""

import re
from collections.abc import Callable
from typing import NamedTuple

from onnx import ModelProto, TensorProto

from bnfold.errors import ModelError
from bnfold.onnxfile.payload import EXPLICIT_DEFAULT_KEY, PAYLOAD_KEY, Payload, Stored
from bnfold.onnxfile.wire import MODEL, RAW_DATA, Pieces, fields, rewrite, varint

MAX_INLINE = 2**31 - 1  # bytes: protobuf refuses more in one message

MARKER = re.compile(re.escape(PAYLOAD_KEY.encode()) + rb"\x12.(\d+)", re.DOTALL)


class DataRange(NamedTuple):
    """Where in an external data file a tensor's bytes are."""

    location: str
    offset: int
    nbytes: int


class Structure:
    """The serialized structure of a model and where its markers are."""

    def __init__(self, proto: ModelProto) -> None:
        self._data = proto.SerializeToString(deterministic=True)
        self._marks = [(match.start(), int(match[1])) for match in MARKER.finditer(self._data)]

    @property
    def nbytes(self) -> int:
        """The size of the structure, in bytes."""
        return len(self._data)

    @property
    def indices(self) -> list[int]:
        """The payload indices that tensors refer to, in file order; one may occur twice."""
        return [index for _, index in self._marks]

    def splice(self, payloads: list[Stored], place: Callable[[int], DataRange | None]) -> Pieces[Payload]:
        """The model file: payload `index` inline where `place(index)` is None, else a reference to that place."""
        view = memoryview(self._data)
        starts = iter([start for start, _ in self._marks])
        mark = next(starts, -1)

        def marked(_: int, end: int) -> bool:
            return 0 <= mark < end

        def tensor(body: int, end: int) -> Pieces[Payload]:
            nonlocal mark
            mark = next(starts, -1)
            if 0 <= mark < end:
                raise ModelError(
                    "the model: a tensor is stored in two pieces, which is not supported; save it with onnx.save"
                )
            return _unmark(TensorProto.FromString(bytes(view[body:end])), payloads, place)

        pieces = rewrite(view, 0, len(view), MODEL, marked, tensor)
        if mark >= 0:
            raise AssertionError("a payload marker outside of any tensor")
        if pieces is None:
            pieces = Pieces()
            pieces.add(self._data)
        return pieces


def _unmark(tensor: TensorProto, payloads: list[Stored], place: Callable[[int], DataRange | None]) -> Pieces[Payload]:
    if tensor.HasField("raw_data"):
        raise ModelError(
            f"tensor {tensor.name!r}: has its data twice, which is not supported; save the model with onnx.save"
        )
    own = {entry.key: entry.value for entry in tensor.external_data if entry.key in (PAYLOAD_KEY, EXPLICIT_DEFAULT_KEY)}
    kept = [(entry.key, entry.value) for entry in tensor.external_data if entry.key not in own]
    index = int(own[PAYLOAD_KEY])
    where = place(index)
    pieces: Pieces[Payload] = Pieces()
    del tensor.external_data[:]
    if where is not None:
        for key, value in (("location", where.location), ("offset", str(where.offset)), ("length", str(where.nbytes))):
            tensor.external_data.add(key=key, value=value)
        pieces.add(tensor.SerializeToString(deterministic=True))
        return pieces
    for key, value in kept:
        tensor.external_data.add(key=key, value=value)
    tensor.ClearField("data_location")
    if EXPLICIT_DEFAULT_KEY in own:
        tensor.data_location = TensorProto.DEFAULT
    tensor.raw_data = b""
    payload = payloads[index].payload
    head = memoryview(tensor.SerializeToString(deterministic=True))
    begin, end = next((begin, end) for tag, begin, _, end in fields(head, 0, len(head)) if tag == RAW_DATA)
    pieces.add(bytes(head[:begin]))
    pieces.add(varint(RAW_DATA) + varint(payload.nbytes))
    pieces.add_extra(payload, payload.nbytes)
    pieces.add(bytes(head[end:]))
    return pieces
