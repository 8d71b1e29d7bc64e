"""Models as people have them, in and out: a path, bytes, a ModelProto, or an object of another package."""

import importlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from onnx import ModelProto

from bnfold.errors import BnfoldError, ModelError, UsageError
from bnfold.graph.operator_form import malformed_node
from bnfold.onnxfile import OnnxFile, Publication, read, to_proto

# A path, the bytes of a model file, a ModelProto, or an object of one of `_KINDS`.
AnyModel = Any


def is_path(model: AnyModel) -> bool:
    """Whether the model is named by a path."""
    return isinstance(model, str | os.PathLike)


class _Kind(NamedTuple):
    """A class of another package that holds a model, and the functions that turn it into a ModelProto and back.

    `package` is the first part of the name of its module. Nothing of it is imported before there is one.
    """

    package: str
    name: str
    to_proto: Callable[[Any], ModelProto]
    from_proto: Callable[[ModelProto], Any]


def _graphsurgeon() -> Any:
    return importlib.import_module("onnx_graphsurgeon")


def _onnx_ir() -> Any:
    return importlib.import_module("onnx_ir")


def _from_onnx_ir(model: Any) -> ModelProto:
    """An onnx_ir.Model with all of its weights: a proto says of weights in other files only their names."""
    ir = _onnx_ir()
    values = [value for graph in model.graphs() for value in graph.initializers.values()]
    if any(isinstance(value.const_value, ir.ExternalTensor) for value in values):
        model = ir.external_data.load_to_model(model.clone())
    proto: ModelProto = ir.to_proto(model)
    return proto


_KINDS = (
    _Kind(
        "onnx_graphsurgeon", "Graph", lambda m: _graphsurgeon().export_onnx(m), lambda p: _graphsurgeon().import_onnx(p)
    ),
    _Kind("onnx_ir", "Model", _from_onnx_ir, lambda p: _onnx_ir().from_proto(p)),
    _Kind("torch", "ONNXProgram", lambda m: m.model_proto, lambda p: p),
)


def _kind_of(model: AnyModel) -> _Kind | None:
    where, name = type(model).__module__.partition(".")[0], type(model).__name__
    return next((kind for kind in _KINDS if (kind.package, kind.name) == (where, name)), None)


def is_foreign(model: AnyModel) -> bool:
    """Whether the model is an object of another package: onnx_graphsurgeon's Graph, onnx_ir's Model, an ONNXProgram."""
    return _kind_of(model) is not None


def read_model(model: AnyModel, *, strict: bool) -> OnnxFile:
    """The structure of any kind of model. Raises ModelError or UsageError."""
    return read(as_proto(model), strict_external_data=strict)


def as_proto(model: AnyModel) -> Any:
    """The model of another package as a ModelProto; every other kind as it is. Raises UsageError for anything else."""
    if is_path(model) or isinstance(model, bytes | ModelProto):
        return model
    kind = _kind_of(model)
    if kind is not None:
        return kind.to_proto(model)
    raise UsageError(
        "a model is a path, bytes, a ModelProto, an onnx_graphsurgeon.Graph, an onnx_ir.Model or a "
        f"torch.onnx.ONNXProgram, not {type(model).__name__}"
    )


@contextmanager
def blamed(*models: AnyModel) -> Iterator[None]:
    """Raise ModelError where something fails inside that no class of bnfold tells, and a node of a model is malformed.

    Where none is, the failure is bnfold's and stays what it is.
    """
    try:
        yield
    except (BnfoldError, MemoryError, OSError, Warning):
        raise
    except Exception as error:
        for model in models:
            problem = None
            with suppress(Exception):  # what cannot be read, or is no file, is not malformed in this way
                problem = malformed_node(read_model(model, strict=False).proto)
            if problem is not None:
                name = os.fspath(model) if is_path(model) else "the model"
                raise ModelError(f"{name}: {problem}; export the model again") from error
        raise


def same_kind(model: AnyModel, file: OnnxFile) -> AnyModel:
    """The model in `file`, as the kind that `model` is; for a path as a ModelProto."""
    return of_kind(model, to_proto(file))


def of_kind(model: AnyModel, proto: ModelProto) -> AnyModel:
    """`proto` as the kind that `model` is; for a path and for an ONNXProgram as a ModelProto."""
    if isinstance(model, bytes):
        return proto.SerializeToString(deterministic=True)
    kind = _kind_of(model)
    return proto if kind is None else kind.from_proto(proto)


@contextmanager
def destination(output: str | os.PathLike[str] | None) -> Iterator[Publication]:
    """Where the result is written to be verified: beside `output`, or in a temporary directory where there is none."""
    if output is not None:
        with Publication(output) as publication:
            yield publication
        return
    with (
        tempfile.TemporaryDirectory(prefix="bnfold-") as folder,
        Publication(Path(folder) / "model.onnx") as publication,
    ):
        yield publication
