"""Whether every name and text of a model is UTF-8.

Parsers of onnx.proto do not ask, because it is written in proto2; in Python such a text is bytes then, which nothing
that works with names expects. In proto3 the same messages are checked while they are parsed, at the speed of parsing.
"""

from collections.abc import Iterator
from functools import cache

from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from onnx import ModelProto

SHOWN = 30  # bytes of a text around what is wrong in it


def check_utf8(serialized: bytes, proto: ModelProto) -> None:
    """Raise ValueError, with the end of a sentence, unless all text of `proto`, given serialized too, is UTF-8."""
    try:
        _strict_model().FromString(serialized)
    except DecodeError:
        for where, text in _not_utf8(proto):
            raise ValueError(
                f"{where} is not UTF-8 ({text!r}), which every name and text of a model must be; export it again"
            ) from None


@cache
def _strict_model() -> type[Message]:
    file = descriptor_pb2.FileDescriptorProto()
    ModelProto.DESCRIPTOR.file.CopyToProto(file)
    file.syntax = "proto3"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return GetMessageClass(pool.FindMessageTypeByName(ModelProto.DESCRIPTOR.full_name))


def _not_utf8(message: Message) -> Iterator[tuple[str, bytes]]:
    """Where texts are that are not UTF-8, like `graph.node[3].name`, and what is there around the first wrong byte."""
    for field, value in message.ListFields():
        if field.type not in (FieldDescriptor.TYPE_MESSAGE, FieldDescriptor.TYPE_STRING):
            continue
        for index, item in enumerate(value if field.is_repeated else [value]):
            here = f"{field.name}[{index}]" if field.is_repeated else field.name
            if isinstance(item, Message):
                for below, text in _not_utf8(item):
                    yield f"{here}.{below}", text
            elif isinstance(item, bytes):
                yield here, _around_first_wrong_byte(item)


def _around_first_wrong_byte(text: bytes) -> bytes:
    try:
        text.decode()
    except UnicodeDecodeError as error:
        return text[max(error.start - SHOWN // 2, 0) : error.start + SHOWN // 2]
    return text[:SHOWN]
