"""Reading: the structure of a model as a ModelProto, and its bulky bytes as payloads that stay where they are."""

import hashlib
import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from google.protobuf.message import DecodeError, EncodeError
from onnx import ModelProto, NodeProto, TensorProto

from bnfold.errors import ModelError
from bnfold.onnxfile.external import ExternalData
from bnfold.onnxfile.payload import PAYLOAD_KEY, Stored, payload_index, set_payload
from bnfold.onnxfile.source import File, Memory, Source
from bnfold.onnxfile.structure_reading import take_payloads
from bnfold.onnxfile.structure_writing import MAX_INLINE, Structure
from bnfold.onnxfile.tensor_sizes import check_contents
from bnfold.onnxfile.tensors import tensors
from bnfold.onnxfile.utf8 import check_utf8
from bnfold.onnxfile.wire import WireError
from bnfold.running_hash import RunningHash

_EXPORT = "load it into its module, and torch.onnx.export(module.eval(), (example_input,), 'model.onnx') writes a model"
# Files that are often passed by mistake, by their first bytes.
FOREIGN = (
    (b"version https://git-lfs", "is a Git LFS pointer, not the model: fetch it with `git lfs pull`"),
    (b"PK\x03\x04", f"is a PyTorch checkpoint or another zip archive, not an ONNX model: {_EXPORT}"),
    *(
        (bytes([0x80, n]), f"is a pickle, as a PyTorch checkpoint is, not an ONNX model: {_EXPORT}")
        for n in range(2, 6)
    ),
    (b"\x89HDF\r\n", "is an HDF5 file, not an ONNX model: export it to ONNX first"),
    (b"\x1f\x8b", "is gzip-compressed: decompress it first"),
    (b"<!DOCTYPE", "is a web page, not the model: download the file itself"),
    (b"<html", "is a web page, not the model: download the file itself"),
)


@dataclass
class OnnxFile:
    """An ONNX model whose bulky bytes stayed in its file(s).

    `proto` is the structure: each tensor that is external or has 4096 bytes or more of raw_data, at any depth, holds a
    marker instead (`payload_index`). `payloads` are those bytes, by index; entries may be added and left unused.
    `path` is None for a model read from memory. `nbytes` is the size of the model file, without external data.
    `known_sha256` is the hash of the model file where the caller has it; it is not computed then.
    """

    proto: ModelProto
    payloads: list[Stored]
    path: Path | None
    source: Source
    data_files: tuple[File, ...] = ()
    known_sha256: str | None = None
    _hash: RunningHash | None = field(default=None, repr=False)

    @property
    def nbytes(self) -> int:
        """The size of the model file in bytes, without external data."""
        return self.source.nbytes

    @property
    def data_names(self) -> tuple[str, ...]:
        """The external data that the model names, relative to it, each once and in the order of the file."""
        return tuple(dict.fromkeys(stored.location for stored in self.payloads if stored.location is not None))

    @property
    def whole(self) -> Path | bytes:
        """The model as others read it: its path, beside which external data is found, else its bytes."""
        if isinstance(self.source, Memory):
            return self.source.data
        assert self.path is not None
        return self.path

    def copy(self) -> "OnnxFile":
        """Another structure over the same bytes: what is edited in one of the two stays as it is in the other."""
        proto = ModelProto()
        proto.CopyFrom(self.proto)
        return replace(self, proto=proto, payloads=list(self.payloads))

    def start_hash(self) -> None:
        """Begin computing `sha256` beside whatever comes next."""
        if self._hash is None and self.known_sha256 is None and isinstance(self.source, File):
            descriptor = self.source.duplicate()
            try:
                self._hash = RunningHash(descriptor)
            finally:
                os.close(descriptor)
            self._hash.advance(self.nbytes)
            self._hash.complete()

    def sha256(self) -> str:
        """The hash of the model file, without external data."""
        if self.known_sha256 is not None:
            return self.known_sha256
        if isinstance(self.source, Memory):
            return hashlib.sha256(self.source.data).hexdigest()
        self.start_hash()
        assert self._hash is not None
        return self._hash.hexdigest()

    def check_unchanged(self) -> None:
        """Raise ModelError if a file of the model was written to since it was read."""
        for source in (self.source, *self.data_files):
            if isinstance(source, File):
                source.check_unchanged()

    def release(self) -> None:
        """Hand mapped pages back to the system."""
        self.source.release()
        for data in self.data_files:
            data.release()


def read(source: str | os.PathLike[str] | bytes | ModelProto, *, strict_external_data: bool = False) -> OnnxFile:
    """The structure of a model, its weights left in place.

    `source` is a path, the bytes of a model file, or a ModelProto (which is copied, never modified). Raises ModelError
    for whatever is not a sound ONNX file: unreadable, truncated, without a graph, external data missing, too short or
    outside the model's directory, tensors whose shape, type and bytes disagree. `strict_external_data` also forbids
    external data behind symlinks, hard links and `..`.
    """
    if isinstance(source, ModelProto):
        try:
            return _read(
                Memory(source.SerializeToString(deterministic=True)), None, "the model", strict=strict_external_data
            )
        except (EncodeError, ValueError) as error:
            raise ModelError(
                f"the model: cannot be serialized ({error}); save it with external data and pass the path"
            ) from error
    if isinstance(source, bytes):
        return _read(Memory(source), None, "the model", strict=strict_external_data)
    path = Path(source)
    return _read(File(path, what="the model"), path, str(path), strict=strict_external_data)


def to_proto(file: OnnxFile) -> ModelProto:
    """The whole model in memory, every tensor inline. Raises ModelError from 2 GiB on, where protobuf ends."""
    structure = Structure(file.proto)
    size = structure.nbytes + sum(file.payloads[index].payload.nbytes for index in structure.indices)
    if size > MAX_INLINE:
        raise ModelError("the model: is larger than 2 GiB, which a ModelProto cannot hold; give an output path instead")
    whole = bytearray()
    for item in structure.splice(file.payloads, lambda _: None).items:
        if isinstance(item, bytes):
            whole += item
        else:
            for chunk in item.chunks():
                whole += chunk
    file.release()
    return ModelProto.FromString(whole)  # type: ignore[arg-type]  # any buffer will do; the stubs know bytes alone


def _read(source: Source, path: Path | None, label: str, *, strict: bool) -> OnnxFile:
    if source.nbytes == 0:
        raise ModelError(f"{label}: is empty, not an ONNX model; was it written completely?")
    head = bytes(source.view()[:32])
    for magic, mistake in FOREIGN:
        if head.startswith(magic):
            raise ModelError(f"{label}: {mistake}")
    if head[8:10] == b'{"' and int.from_bytes(head[:8], "little") < source.nbytes:
        raise ModelError(
            f"{label}: holds weights alone (safetensors), no ONNX model: {_EXPORT}; "
            "bnfold recalibrate MODEL OUTPUT --statistics-from reads such a file beside a model"
        )
    payloads: list[Stored] = []
    skeleton = _skeleton(source, payloads, label)
    proto = _parse(skeleton, len(payloads), label)
    external = None if path is None else ExternalData(path, strict=strict)
    # A tensor cannot be external without the word "location" in it: without one, a quick look is enough.
    for tensor, node in tensors(proto, thorough=b"location" in skeleton):
        try:
            if tensor.data_location != TensorProto.EXTERNAL:
                check_contents(tensor)
            elif payload_index(tensor) is None:
                _adopt(tensor, external, payloads)
        except ValueError as error:
            raise ModelError(f"{label}: {_name(tensor, node)} {error}") from error
    source.release()
    return OnnxFile(proto, payloads, path, source, () if external is None else external.files)


def _skeleton(source: Source, payloads: list[Stored], label: str) -> bytes:
    try:
        return take_payloads(source, payloads)
    except WireError as error:
        problem = f"{error.problem} (byte {error.offset})"
        raise ModelError(f"{label}: is damaged or not an ONNX model: {problem}; was it copied completely?") from error
    except ValueError as error:
        raise ModelError(f"{label}: {error}") from error


def _parse(skeleton: bytes, markers: int, label: str) -> ModelProto:
    if skeleton.count(PAYLOAD_KEY.encode()) != markers:
        raise ModelError(f"{label}: contains the text {PAYLOAD_KEY!r}, which bnfold keeps for itself; rename it")
    try:
        proto = ModelProto.FromString(skeleton)
    except DecodeError as error:
        raise ModelError(
            f"{label}: is damaged or not an ONNX model: its protobuf is broken or nests too deep; export it again"
        ) from error
    if not proto.HasField("graph"):
        raise ModelError(f"{label}: has no graph, so it is not an ONNX model; was it copied completely?")
    try:
        check_utf8(skeleton, proto)
    except ValueError as error:
        raise ModelError(f"{label}: {error}") from error
    return proto


def _adopt(tensor: TensorProto, external: ExternalData | None, payloads: list[Stored]) -> None:
    if external is None:
        raise ValueError("is stored in another file, which cannot be found from here; pass the model's path")
    payloads.append(external.stored(tensor))
    set_payload(tensor, len(payloads) - 1)


def _name(tensor: TensorProto, node: NodeProto | None) -> str:
    if node is None or tensor.name:
        return f"tensor {tensor.name!r}"
    return f"the tensor of node {node.name or ', '.join(node.output)!r} ({node.op_type})"
