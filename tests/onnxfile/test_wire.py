import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto

from bnfold.onnxfile.wire import (
    MAX_DEPTH,
    MODEL,
    TENSOR_FIELDS,
    Pieces,
    WireError,
    fields,
    read_varint,
    rewrite,
    varint,
)
from tests.onnxfile_models import everywhere


@given(st.integers(0, 2**64 - 1))
def test_a_varint_is_read_back_as_it_was_written(number: int) -> None:
    data = varint(number)
    assert read_varint(data + b"\xff", 0, len(data)) == (number, len(data))


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"\x80", "middle of a field"),
        (b"", "middle of a field"),
        (b"\x80" * 10, "no end"),
        (b"\xff" * 40, "no end"),
    ],
)
def test_a_varint_without_an_end_is_refused(data: bytes, problem: str) -> None:
    with pytest.raises(WireError, match=problem):
        read_varint(data, 0, len(data))


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"\x00\x01", "field number"),  # field 0
        (b"\xff\xff\xff\xff\xff\x01\x00", "field number"),  # field number beyond 29 bits
        (b"\x0b\x0c", "kind"),  # a group
        (b"\x0c", "kind"),
        (b"\x0e", "kind"),
        (b"\x0f", "kind"),
        (b"\x0a", "middle"),
        (b"\x0a\x05abcd", "announces 5 bytes but only 4 are left"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "announces"),
        (b"\x08", "middle"),
        (b"\x0dabc", "announces 4 bytes"),
        (b"\x09abcdefg", "announces 8 bytes"),
    ],
)
def test_a_field_that_protobuf_would_not_write_is_refused_with_its_place(data: bytes, problem: str) -> None:
    with pytest.raises(WireError, match=problem) as caught:
        list(fields(b"\x08\x01" + data, 0, 2 + len(data)))
    assert 2 <= caught.value.offset <= 2 + len(data)


def test_fields_covers_every_byte_once() -> None:
    data = everywhere().SerializeToString()
    position = 0
    for _, begin, body, end in fields(data, 0, len(data)):
        assert begin == position < body <= end
        position = end
    assert position == len(data)


def test_a_field_may_not_reach_out_of_its_message() -> None:
    with pytest.raises(WireError, match="announces 3 bytes but only 2"):
        list(fields(b"\x0a\x03abc", 0, 4))


def test_rewrite_without_a_wanted_tensor_changes_nothing() -> None:
    data = memoryview(everywhere().SerializeToString())
    assert rewrite(data, 0, len(data), MODEL, lambda *_: True, lambda *_: None) is None
    assert rewrite(data, 0, len(data), MODEL, lambda *_: False, lambda *_: Pieces()) is None


def test_rewrite_finds_every_tensor_and_recomputes_the_lengths_around_it() -> None:
    proto = everywhere()
    data = memoryview(proto.SerializeToString(deterministic=True))
    seen = []

    def rename(body: int, end: int) -> Pieces[bytes]:
        pieces: Pieces[bytes] = Pieces()
        seen.append(end - body)
        pieces.add(bytes(data[body:end]) + b"\x42\x03new")  # name = "new"
        return pieces

    pieces = rewrite(data, 0, len(data), MODEL, lambda *_: True, rename)
    assert pieces is not None
    result = ModelProto.FromString(b"".join(pieces.items))
    assert len(b"".join(pieces.items)) == pieces.nbytes
    text = str(proto)
    assert len(seen) == text.count("data_type:") == str(result).count('name: "new"')


def test_nesting_is_bounded() -> None:
    body = b""
    for _ in range(MAX_DEPTH):
        for tag in (b"\x32", b"\x2a", b"\x0a"):  # attribute.g, node.attribute, graph.node
            body = tag + varint(len(body)) + body
    data = memoryview(b"\x3a" + varint(len(body)) + body)
    with pytest.raises(WireError, match="nested deeper"):
        rewrite(data, 0, len(data), MODEL, lambda *_: True, lambda *_: None)


def test_the_schema_names_the_fields_that_onnx_has() -> None:
    for message, children in TENSOR_FIELDS.items():
        descriptor = ModelProto.DESCRIPTOR.file.message_types_by_name[message.name]
        expected = {
            field.number: field.message_type.name
            for field in descriptor.fields
            if field.message_type is not None
            and field.message_type.name in {child.name for child in TENSOR_FIELDS} | {"TensorProto"}
        }
        assert {number: child.name for number, child in children.items()} == expected
