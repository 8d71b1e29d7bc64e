"""Models in numbers, for the report."""

import os

from bnfold.graph import STORED, Model
from bnfold.onnxfile import Written
from bnfold.passes.normalization import is_batch_norm
from bnfold.report import ModelSummary
from bnfold.sources import AnyModel, is_path


def input_summary(model: Model, source: AnyModel) -> ModelSummary:
    """The summary of the input, which came from `source`, before anything is done with it; without its sha256."""
    file = model.file
    nbytes = file.nbytes + sum(data.nbytes for data in file.data_files)
    path = os.fspath(source) if is_path(source) else None
    return _summary(model, path, None, nbytes)


def output_summary(model: Model, written: Written, output: str | os.PathLike[str] | None) -> ModelSummary:
    """The summary of the written result, whatever path it is to have."""
    nbytes = written.nbytes + sum(path.stat().st_size for path in written.data_files)
    return _summary(model, None if output is None else os.fspath(output), written.sha256 or None, nbytes)


def stored_values(model: Model) -> tuple[tuple[str, str], ...]:
    """Scope and name of each value that a model stores now, and computed before."""
    return tuple((edit.scope, edit.node) for edit in model.edits if edit.kind == STORED)


def _summary(model: Model, path: str | None, sha256: str | None, nbytes: int) -> ModelSummary:
    batch_norms = [node for graph in model.graphs for node in graph.nodes_of(("BatchNormalization",))]
    proto = model.proto
    versions = {opset.domain: opset.version for opset in proto.opset_import}
    return ModelSummary(
        path=path,
        sha256=sha256,
        nbytes=nbytes,
        nodes=sum(len(graph.nodes()) for graph in model.graphs),
        batch_normalizations=sum(map(is_batch_norm, batch_norms)),
        opset=versions.get("", versions.get("ai.onnx", 1)),
        ir_version=proto.ir_version,
    )
