"""The structure of a model file: the model without its bulky bytes, each replaced by a marker."""

from typing import Never

from google.protobuf.message import DecodeError
from onnx import TensorProto

from bnfold.onnxfile.payload import EXPLICIT_DEFAULT_KEY, PAYLOAD_KEY, Span, Stored
from bnfold.onnxfile.source import Source
from bnfold.onnxfile.tensor_sizes import check_raw
from bnfold.onnxfile.wire import DATA_LOCATION, MODEL, RAW_DATA, Pieces, WireError, fields, read_varint, rewrite

THRESHOLD = 4096  # bytes: what is smaller stays in the structure
RELEASE_EVERY = 32 << 20  # bytes of the file, while looking through it


def take_payloads(source: Source, payloads: list[Stored]) -> bytes:
    """The model without its bulky raw_data, which goes to `payloads`. Raises WireError, and ValueError for a tensor."""
    view = source.view()
    last_release = 0

    def bulky(body: int, end: int) -> bool:
        return end - body >= THRESHOLD

    def take(body: int, end: int) -> Pieces[Never] | None:
        nonlocal last_release
        if end - last_release >= RELEASE_EVERY:
            last_release = end
            source.release()
        return _take_raw_data(source, view, body, end, payloads)

    pieces = rewrite(view, 0, len(view), MODEL, bulky, take, long=True)
    return bytes(view) if pieces is None else b"".join(pieces.items)


def _take_raw_data(
    source: Source, view: memoryview, start: int, stop: int, payloads: list[Stored]
) -> Pieces[Never] | None:
    pieces: Pieces[Never] = Pieces()
    raw: Span | None = None
    marker = TensorProto(data_location=TensorProto.EXTERNAL)
    external = False
    for tag, begin, body, end in fields(view, start, stop):
        if tag == RAW_DATA:
            raw = Span(source, body, end - body)  # the last one counts, as everywhere in protobuf
            continue
        if tag == DATA_LOCATION:
            external = read_varint(view, body, end)[0] == TensorProto.EXTERNAL
            if not external and not marker.external_data:
                marker.external_data.add(key=EXPLICIT_DEFAULT_KEY)
        pieces.add(bytes(view[begin:end]))
    if raw is None or raw.nbytes < THRESHOLD:
        return None
    try:
        head = TensorProto.FromString(b"".join(pieces.items))
    except DecodeError as error:
        raise WireError("a tensor cannot be parsed", start) from error
    if external:
        raise ValueError(f"tensor {head.name!r} has its data both in the model and in another file")
    try:
        check_raw(head, raw.nbytes)
    except ValueError as error:
        raise ValueError(f"tensor {head.name!r} {error}") from error
    marker.external_data.add(key=PAYLOAD_KEY, value=str(len(payloads)))
    payloads.append(Stored(raw))
    pieces.add(marker.SerializeToString(deterministic=True))
    return pieces
