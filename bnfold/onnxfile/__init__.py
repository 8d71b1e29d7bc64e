"""ONNX files as bytes: the structure is read without the weights, which are streamed when the model is written."""

from bnfold.onnxfile.assembly import Written
from bnfold.onnxfile.labels import label, shared_names
from bnfold.onnxfile.layout import SIZE_THRESHOLD, Layout, Weights
from bnfold.onnxfile.model_file import OnnxFile, read, to_proto
from bnfold.onnxfile.negative_dims import without_negative_dims
from bnfold.onnxfile.payload import PAYLOAD_KEY, Payload, Span, Stored, payload_index, set_payload
from bnfold.onnxfile.publication import Publication

__all__ = [
    "PAYLOAD_KEY",
    "SIZE_THRESHOLD",
    "Layout",
    "OnnxFile",
    "Payload",
    "Publication",
    "Span",
    "Stored",
    "Weights",
    "Written",
    "label",
    "payload_index",
    "read",
    "set_payload",
    "shared_names",
    "to_proto",
    "without_negative_dims",
]
