"""The protobuf wire format, as far as an ONNX file needs it.

A message is a run of fields: a varint tag (number << 3 | wire type) and a body. Only length-delimited fields (wire type
2) can hold tensors; `TENSOR_FIELDS` says which. `rewrite` walks those alone, replaces tensors and recomputes the length
prefixes around them, and copies everything else as it is: it serves reading (take the weights out) and
writing (put them back) alike. Field numbers: onnx/onnx.proto of onnx 1.23.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from mmap import mmap
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping

Bytes: TypeAlias = bytes | memoryview | mmap
Extra = TypeVar("Extra")

FIXED = {1: 8, 5: 4}  # the size of fields of fixed size, in bytes, by wire type
MAX_DEPTH = 100  # protobuf's own limit for nested messages


class WireError(ValueError):
    """The bytes are not what protobuf would write; `offset` is where, in bytes from the start of the data."""

    def __init__(self, problem: str, offset: int) -> None:
        super().__init__(problem)
        self.problem = problem
        self.offset = offset

    def __reduce__(self) -> tuple[type["WireError"], tuple[str, int]]:
        return WireError, (self.problem, self.offset)


@dataclass(frozen=True, eq=False)
class Message:
    """The fields of one message type that can lead to a tensor, by tag. `once` are the singular ones among them that
    must not be split in two (protobuf would merge them; no writer does that to a tensor).
    """

    name: str
    children: dict[int, "Message"] = field(default_factory=dict)
    once: frozenset[int] = frozenset()


def tag_of(number: int) -> int:
    """The tag of a length-delimited field."""
    return number << 3 | 2


RAW_DATA = tag_of(9)
DATA_LOCATION = 14 << 3  # a varint

TENSOR = Message("TensorProto")
SPARSE_TENSOR = Message("SparseTensorProto", once=frozenset({tag_of(1), tag_of(2)}))
ATTRIBUTE = Message("AttributeProto", once=frozenset({tag_of(5), tag_of(22)}))
NODE = Message("NodeProto")
GRAPH = Message("GraphProto")
FUNCTION = Message("FunctionProto")
TRAINING = Message("TrainingInfoProto")
MODEL = Message("ModelProto")

TENSOR_FIELDS: "Mapping[Message, Mapping[int, Message]]" = {
    MODEL: {7: GRAPH, 20: TRAINING, 25: FUNCTION},
    TRAINING: {1: GRAPH, 2: GRAPH},
    GRAPH: {1: NODE, 5: TENSOR, 15: SPARSE_TENSOR},
    FUNCTION: {7: NODE, 11: ATTRIBUTE},
    NODE: {5: ATTRIBUTE},
    ATTRIBUTE: {5: TENSOR, 6: GRAPH, 10: TENSOR, 11: GRAPH, 22: SPARSE_TENSOR, 23: SPARSE_TENSOR},
    SPARSE_TENSOR: {1: TENSOR, 2: TENSOR},
}
for _message, _fields in TENSOR_FIELDS.items():
    _message.children.update({tag_of(number): child for number, child in _fields.items()})


def varint(value: int) -> bytes:
    """`value` >= 0 as a varint."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def read_varint(data: Bytes, position: int, stop: int) -> tuple[int, int]:
    """The varint at `position` and the position behind it. Raises WireError past `stop` or past 10 bytes."""
    value = 0
    for shift in range(0, 70, 7):
        if position + shift // 7 >= stop:
            raise WireError("it ends in the middle of a field", stop)
        byte = data[position + shift // 7]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position + shift // 7 + 1
    raise WireError("a number has no end", position)


def fields(data: Bytes, position: int, stop: int, *, long: bool = False) -> Iterator[tuple[int, int, int, int]]:
    """Every field in data[position:stop]: its tag, where it starts, where its body starts, where it ends.

    With `long`, submessages and strings of less than 128 bytes are passed over, in half the time. Raises WireError for
    a field that reaches past `stop`, for field number 0, and for groups, which ONNX never uses.
    """
    while position < stop:
        begin = position
        tag = data[position]
        position += 1
        if tag > 0x7F:
            tag, position = read_varint(data, begin, stop)
        kind = tag & 7
        if tag < 8 or tag > 0xFFFFFFFF:
            raise WireError("an impossible field number", begin)
        if kind == 2:
            if position < stop and (length := data[position]) < 0x80:
                position += 1
                if long and position + length <= stop:
                    position += length
                    continue
            else:
                length, position = read_varint(data, position, stop)
            body, position = position, position + length
        elif kind == 0:
            body = position
            _, position = read_varint(data, position, stop)
        elif kind in FIXED:
            body, position = position, position + FIXED[kind]
        else:
            raise WireError("a field of a kind that ONNX does not use", begin)
        if position > stop:
            raise WireError(f"a field announces {position - body} bytes but only {stop - body} are left", begin)
        yield tag, begin, body, position


class Pieces(Generic[Extra]):
    """An output under construction: bytes, and `Extra` objects standing for `nbytes` of theirs."""

    def __init__(self) -> None:
        self.items: list[bytes | Extra] = []
        self.nbytes = 0

    def add(self, data: bytes) -> None:
        """Append bytes."""
        if len(data):
            self.items.append(data)
            self.nbytes += len(data)

    def add_extra(self, extra: Extra, nbytes: int) -> None:
        """Append an object that will become `nbytes` bytes."""
        self.items.append(extra)
        self.nbytes += nbytes

    def add_field(self, tag: int, body: "Pieces[Extra]") -> None:
        """Append a length-delimited field around `body`."""
        self.add(varint(tag) + varint(body.nbytes))
        self.items += body.items
        self.nbytes += body.nbytes


def rewrite(
    data: memoryview,
    start: int,
    stop: int,
    message: Message,
    wanted: Callable[[int, int], bool],
    tensor: Callable[[int, int], Pieces[Extra] | None],
    depth: int = 0,
    *,
    long: bool = False,
) -> Pieces[Extra] | None:
    """data[start:stop], a `message`, with tensors replaced; None if none was.

    `wanted(body, end)` says whether a child at data[body:end] is worth a look (with `long`, none of less than 128 bytes
    is); `tensor(body, end)` returns what a TensorProto there becomes, or None to keep it. Raises WireError.
    """
    if depth > MAX_DEPTH:
        raise WireError(f"it is nested deeper than {MAX_DEPTH} levels", start)
    pieces: Pieces[Extra] = Pieces()
    children, once = message.children, message.once
    seen: set[int] = set()
    copied = start
    for tag, begin, body, end in fields(data, start, stop, long=long and not once):
        child = children.get(tag)
        if child is None:
            continue
        if tag in once:
            if tag in seen:
                raise WireError(f"a {child.name} is stored in two pieces", begin)
            seen.add(tag)
        if not wanted(body, end):
            continue
        if child is TENSOR:
            inner = tensor(body, end)
        else:
            inner = rewrite(data, body, end, child, wanted, tensor, depth + 1, long=long)
        if inner is None:
            continue
        pieces.add(bytes(data[copied:begin]))  # now, while the page is here, and not when all is joined
        pieces.add_field(tag, inner)
        copied = end
    if copied == start:
        return None
    pieces.add(bytes(data[copied:stop]))
    return pieces
