"""Which weights of an output lie in the model file and which in external data files."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from onnx import ModelProto

from bnfold.errors import OutputError, UsageError
from bnfold.onnxfile.data_names import is_plain
from bnfold.onnxfile.payload import Payload, Span, Stored, payload_index, set_payload
from bnfold.onnxfile.source import Memory
from bnfold.onnxfile.structure_writing import MAX_INLINE
from bnfold.onnxfile.tensors import initializers

SIZE_THRESHOLD = 1024  # bytes, as in onnx.save

BIG = 1 << 20  # bytes: from here on a tensor's start is worth aligning to pages
MAX_ALIGNMENT = 1 << 16
ALIGNMENT_BIG, ALIGNMENT_SMALL = 4096, 64  # where the input does not say


class Weights(StrEnum):
    """Where weights go."""

    AS_INPUT = "as-input"
    EXTERNAL = "external"
    INLINE = "inline"


@dataclass(frozen=True)
class Layout:
    """The placement of weights that the user asks for.

    With EXTERNAL, every initializer of `size_threshold` bytes or more goes to the file `name` (default: the output's
    name and ".data"), and smaller ones go inline. The two other fields mean nothing otherwise. Raises UsageError for a
    name that leads out of the output's directory or hides.
    """

    weights: Weights = Weights.AS_INPUT
    name: str | None = None
    size_threshold: int = SIZE_THRESHOLD

    def __post_init__(self) -> None:
        if self.name is not None and not (is_plain(self.name) and "\0" not in self.name):
            raise UsageError(
                f"{self.name!r} cannot name external data: give a relative path without '..' or leading dots"
            )


@dataclass
class DataFile:
    """An external data file to be written: the name it should get, and payloads by index, in order."""

    location: str
    indices: list[int] = field(default_factory=list)
    alignment_big: int = ALIGNMENT_BIG
    alignment_small: int = ALIGNMENT_SMALL

    def alignment(self, payload: Payload) -> int:
        """The alignment of the payload's offset, in bytes."""
        return self.alignment_big if payload.nbytes >= BIG else self.alignment_small


class Arrangement(NamedTuple):
    """The model to serialize, its payloads, and the data files to write; a payload in none of them goes inline.

    `moved` says that weights leave the model file because it would have passed 2 GiB.
    """

    proto: ModelProto
    payloads: list[Stored]
    data_files: list[DataFile]
    moved: bool = False


def arrange(
    proto: ModelProto, payloads: list[Stored], indices: Iterable[int], size: int, layout: Layout, default_name: str
) -> Arrangement:
    """Decide. `indices` are the payloads in use, in file order; `size` is that of the structure in bytes.

    Neither `proto` nor `payloads` is modified. Raises OutputError if an inline layout was asked for and is impossible.
    """
    locations = {index: payloads[index].location for index in dict.fromkeys(indices)}
    moved = False
    if layout.weights is Weights.EXTERNAL:
        proto, payloads, locations = _externalize(
            proto, payloads, locations, layout.name or default_name, layout.size_threshold
        )
    elif layout.weights is Weights.INLINE:
        locations = dict.fromkeys(locations)
    if size + sum(payloads[index].payload.nbytes for index, where in locations.items() if where is None) > MAX_INLINE:
        if layout.weights is Weights.INLINE:
            raise OutputError(
                "with its weights inline the model would pass 2 GiB, which protobuf cannot hold; use external data"
            )
        moved = True
        for tensor in initializers(proto):
            index = payload_index(tensor)
            if index is not None and locations[index] is None:
                locations[index] = default_name
    return Arrangement(proto, payloads, _data_files(payloads, locations), moved)


def _externalize(
    proto: ModelProto, payloads: list[Stored], locations: dict[int, str | None], name: str, threshold: int
) -> tuple[ModelProto, list[Stored], dict[int, str | None]]:
    copy = ModelProto()
    copy.CopyFrom(proto)
    payloads = list(payloads)
    locations = dict.fromkeys(locations)
    for tensor in initializers(copy):
        index = payload_index(tensor)
        if index is None and tensor.HasField("raw_data") and len(tensor.raw_data) >= threshold:
            index = len(payloads)
            payloads.append(Stored(Span(Memory(tensor.raw_data), 0, len(tensor.raw_data))))
            set_payload(tensor, index)
        if index is not None and payloads[index].payload.nbytes >= threshold:
            locations[index] = name
    return copy, payloads, locations


def _data_files(payloads: list[Stored], locations: dict[int, str | None]) -> list[DataFile]:
    files: dict[str, DataFile] = {}
    for index, location in locations.items():
        if location is not None:
            files.setdefault(location, DataFile(location)).indices.append(index)
    offsets: dict[tuple[str, bool], int] = {}
    for stored in payloads:
        if stored.location in files and isinstance(stored.payload, Span):
            key = stored.location, stored.payload.nbytes >= BIG
            offsets[key] = offsets.get(key, MAX_ALIGNMENT) | stored.payload.offset
    for (location, big), bits in offsets.items():
        alignment = bits & -bits  # the largest power of two that divides them all
        if big:
            files[location].alignment_big = alignment
        else:
            files[location].alignment_small = alignment
    return list(files.values())
