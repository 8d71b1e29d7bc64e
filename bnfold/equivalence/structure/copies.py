"""Copies of a model with edited structure, weights copied as bytes."""

from collections.abc import Callable
from pathlib import Path

from onnx import ModelProto

from bnfold.onnxfile import OnnxFile, Publication


def copied(file: OnnxFile, target: Path, edit: Callable[[ModelProto], None]) -> Path:
    """A copy of `file` at `target`, edited by `edit`; `file` stays as it is. Weights are copied as bytes.

    It is for this process alone, and not durable.
    """
    other = file.copy()
    edit(other.proto)
    with Publication(target) as publication:
        publication.write(other, untouched=False)
        publication.publish(durable=False)
    return target
