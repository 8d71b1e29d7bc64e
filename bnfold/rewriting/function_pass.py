"""A function that takes and returns a model, as a pass: only what it touched is written anew."""

import inspect
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_type_hints

from bnfold.batches.sources import beside
from bnfold.errors import BnfoldError, UsageError
from bnfold.onnxfile import OnnxFile
from bnfold.passes import Preserves
from bnfold.pipeline import UnsoundResultError, made_at, raised_in
from bnfold.rewriting.handing import Form, Handed, NoModelReturnedError
from bnfold.rewriting.merging import Merger

_LARGE = 256 << 20
"""From so many bytes of weights on it is said that all of them are in memory."""
_FORMS = {
    ("onnx_graphsurgeon", "Graph"): Form.GRAPHSURGEON,
    ("onnx_ir", "Model"): Form.IR,
}
_SPELLED = {"gs.Graph": Form.GRAPHSURGEON, "onnx_graphsurgeon.Graph": Form.GRAPHSURGEON, "ir.Model": Form.IR,
            "onnx_ir.Model": Form.IR}  # fmt: skip


@dataclass(frozen=True)
class FunctionPass:
    """`function` takes a ModelProto, an onnx_graphsurgeon.Graph or an onnx_ir.Model, as its annotation says.

    Without one it takes a ModelProto. It returns a model, or None where it edited the one that it was given. With a
    parameter `base_dir` it is given a ModelProto whose large weights are external: `onnx.numpy_helper.to_array(tensor,
    base_dir)` reads one. `options` are further keyword arguments. `forgetful`: see `Merger`. `script`: the one that the
    function is from, whose neighbours it may import.
    """

    function: Callable[..., Any]
    name: str
    preserves: Preserves = Preserves.ALGEBRAIC
    options: Mapping[str, Any] = field(default_factory=dict)
    forgetful: bool = False
    script: Path | None = None

    @property
    def form(self) -> Form:
        """The form in which the function takes a model."""
        return form_of(self.function)

    def cost(self, file: OnnxFile) -> str:
        """The cost of giving the function a large model, in a sentence; "" where that is little."""
        nbytes = sum(stored.payload.nbytes for stored in file.payloads)
        if self.form is not Form.PROTO or nbytes < _LARGE:
            return ""
        return (
            f"The pass {self.name} was given the whole model in memory, {nbytes:,} bytes of weights; a function that "
            "takes base_dir as well is given weights on demand."
        )

    def rewrite(self, file: OnnxFile) -> OnnxFile:
        """The model of `file` as the function makes it; `file` itself is left as it is.

        Raises UsageError where the function raises or returns no model, and UnsoundResultError for one with tensors
        that hold no data.
        """
        with ExitStack() as stack:
            if self.script is not None:
                stack.enter_context(beside(self.script))
            handed = Handed(file, self.form, stack)
            given = {"base_dir": "/"} if handed.form is Form.EXTERNAL else {}
            with raised_in(self.name, self.function):
                result = self.function(handed.given, **given, **self.options)
            try:
                with raised_in(self.name, self.function):
                    made, there = handed.came_back(result)
            except BnfoldError as error:
                if error.exit_code == 3:  # a model that is none
                    raise UnsoundResultError(str(error)) from error
                if isinstance(error, NoModelReturnedError):
                    raise UsageError(f"the pass {self.name} {error}{made_at(self.function)}") from error
                raise
            merged = Merger(forgetful=self.forgetful).models(file.proto, handed.baseline, made)
        return replace(there, proto=merged)


def form_of(function: Callable[..., Any]) -> Form:
    """The form in which a function takes a model: the annotation of its first parameter, or else of its result."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return Form.PROTO
    if not signature.parameters:
        return Form.PROTO
    first = next(iter(signature.parameters.values()))
    for name, annotation in ((first.name, first.annotation), ("return", signature.return_annotation)):
        form = _form(annotation if not isinstance(annotation, str) else _evaluated(function, name, annotation))
        if form is not None and form is not Form.PROTO:
            return form
        if form is not None:
            break
    return Form.EXTERNAL if "base_dir" in signature.parameters else Form.PROTO


def _form(annotation: Any) -> Form | None:
    if annotation is inspect.Parameter.empty:
        return None
    if isinstance(annotation, str):
        return _SPELLED.get(annotation.strip("\"' "), Form.PROTO)
    package = str(getattr(annotation, "__module__", "")).partition(".")[0]
    return _FORMS.get((package, getattr(annotation, "__name__", "")), Form.PROTO)


def _evaluated(function: Callable[..., Any], name: str, annotation: str) -> Any:
    """An annotation that was not evaluated, evaluated where its names are known."""
    try:
        return get_type_hints(inspect.unwrap(function)).get(name, annotation)
    except Exception:  # noqa: BLE001 - names that only the type checker knows
        return annotation
