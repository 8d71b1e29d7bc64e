"""The bytes of a tensor, as an object that is passed around instead of them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

from onnx import TensorProto

from bnfold.onnxfile.source import File, Source

PAYLOAD_KEY = "bnfold:payload"
EXPLICIT_DEFAULT_KEY = "bnfold:explicit-default"

CHUNK = 4 << 20


class Payload(Protocol):
    """The bytes of one tensor in raw_data layout: little-endian, row-major."""

    @property
    def nbytes(self) -> int:
        """The number of bytes that `chunks` yields in total."""

    def chunks(self) -> Iterator[bytes | bytearray | memoryview]:
        """All bytes, in order, in pieces of a few MiB at most. Each is used before the next is asked for."""


@runtime_checkable
class Divisible(Payload, Protocol):
    """A payload that more than one thread can make."""

    def parts(self, nbytes: int) -> Sequence[Payload]:
        """This payload as payloads of about `nbytes` that follow each other and may be made in any order."""


class Span(NamedTuple):
    """A byte range of a file or of a bytes object, never decoded."""

    origin: Source
    offset: int
    nbytes: int

    @property
    def source(self) -> Path | None:
        """The file the bytes lie in, or None for bytes in memory."""
        return self.origin.path

    def view(self) -> memoryview:
        """The bytes, read-only, mapped and not copied."""
        return self.origin.view()[self.offset : self.offset + self.nbytes]

    def read_into(self, memory: memoryview, offset: int) -> None:
        """Fill `memory`, a writable buffer of bytes, with the bytes from `offset` on, without mapping them.

        Raises ModelError if the file has become shorter meanwhile.
        """
        if isinstance(self.origin, File):
            self.origin.read_into(memory, self.offset + offset)
        else:
            memory[:] = self.view()[offset : offset + len(memory)]

    def chunks(self) -> Iterator[memoryview]:
        """The bytes in pieces."""
        view = self.view()
        for start in range(0, self.nbytes, CHUNK):
            yield view[start : start + CHUNK]


class Stored(NamedTuple):
    """A payload and where it belongs: inline in the model file (`location` None), or in the external data file of that
    name, relative to the model, if the output can have the name.
    """

    payload: Payload
    location: str | None = None


def payload_index(tensor: TensorProto) -> int | None:
    """The index into `OnnxFile.payloads` of the tensor's bytes; None if they are in the tensor itself."""
    if not tensor.external_data:
        return None
    for entry in tensor.external_data:
        if entry.key == PAYLOAD_KEY:
            return int(entry.value)
    return None


def set_payload(tensor: TensorProto, index: int) -> None:
    """Make payload `index` the bytes of the tensor, whatever held them before."""
    explicit = any(entry.key == EXPLICIT_DEFAULT_KEY for entry in tensor.external_data)
    for field in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data"):
        tensor.ClearField(field)
    del tensor.external_data[:]
    tensor.external_data.add(key=PAYLOAD_KEY, value=str(index))
    if explicit:
        tensor.external_data.add(key=EXPLICIT_DEFAULT_KEY)
    tensor.data_location = TensorProto.EXTERNAL
