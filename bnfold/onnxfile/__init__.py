"""ONNX files as bytes: the structure is read without the weights, which are streamed when the model is written."""

from bnfold.onnxfile.assembly import Written
from bnfold.onnxfile.labels import label, shared_among, shared_names
from bnfold.onnxfile.marks import SOURCE, mark_of
from bnfold.onnxfile.model_file import OnnxFile, read, to_proto
from bnfold.onnxfile.negative_dims import without_negative_dims
from bnfold.onnxfile.old_data import named_data
from bnfold.onnxfile.outline import outline, structure_at
from bnfold.onnxfile.payload import PAYLOAD_KEY, Payload, Span, Stored, payload_index, set_payload
from bnfold.onnxfile.publication import Publication
from bnfold.onnxfile.tensor_sizes import MAX_DIMS
from bnfold.onnxfile.tensors import tensors
from bnfold.onnxfile.weight_layout import SIZE_THRESHOLD, Layout, Weights

__all__ = [
    "MAX_DIMS",
    "PAYLOAD_KEY",
    "SIZE_THRESHOLD",
    "SOURCE",
    "Layout",
    "OnnxFile",
    "Payload",
    "Publication",
    "Span",
    "Stored",
    "Weights",
    "Written",
    "label",
    "mark_of",
    "named_data",
    "outline",
    "payload_index",
    "read",
    "set_payload",
    "shared_among",
    "shared_names",
    "structure_at",
    "tensors",
    "to_proto",
    "without_negative_dims",
]
