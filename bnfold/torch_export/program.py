"""A module as an ONNX model: torch.export, a look at what it captured, and names that people know."""

import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING, Any

from onnx import GraphProto, ModelProto

from bnfold.errors import ModelError, UsageError

if TYPE_CHECKING:
    from torch.export import ExportedProgram

_TRACES = "pkg.torch."
_SCOPES = "pkg.torch.onnx.name_scopes"


@dataclass(frozen=True)
class _Mode:
    """Where an operator of ATen has the flag that it trains. `statistics`: where it has running statistics, or None."""

    flag: int
    statistics: int | None = None


# The signatures are those of aten/src/ATen/native/native_functions.yaml.
_MODES = {
    "batch_norm": _Mode(5, 3),
    "_batch_norm_impl_index": _Mode(5, 3),
    "native_batch_norm": _Mode(5, 3),
    "_native_batch_norm_legit": _Mode(5, 3),
    "_native_batch_norm_legit_functional": _Mode(5, 3),
    "cudnn_batch_norm": _Mode(5, 3),
    "dropout": _Mode(2),
    "native_dropout": _Mode(2),
    "feature_dropout": _Mode(2),
    "alpha_dropout": _Mode(2),
    "feature_alpha_dropout": _Mode(2),
    "rrelu": _Mode(3),
}


def captured(module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], dynamic_shapes: Any) -> "ExportedProgram":
    """The program that torch.export makes of the module. Raises ModelError where it makes none."""
    import torch

    try:
        with torch.no_grad():
            return torch.export.export(module, args, dict(kwargs), dynamic_shapes=dynamic_shapes)
    except Exception as error:  # whatever the module raises, it cannot be exported like that
        raise ModelError(f"torch.export cannot capture the module: {_first_line(error)}") from error


def refuse_training(program: "ExportedProgram") -> None:
    """Raise ModelError where the program normalizes with the statistics of the batch, or drops at random.

    No ONNX file shows the first: exporters write it as BatchNormalization in inference mode, with other values.
    """
    for node in _calls(program):
        name = str(getattr(node.target, "_opname", ""))
        mode = _MODES.get(name)
        if mode is None or not _argument(node, mode.flag):
            continue
        if mode.statistics is not None and _argument(node, mode.statistics) is None:
            continue  # it has none, and normalizes each batch by itself whatever its mode
        if mode.statistics is None and _argument(node, 1) == 0:
            continue  # dropping nothing
        where = _module_of(node)
        what = "normalizes with the statistics of its batch" if mode.statistics is not None else "drops at random"
        raise ModelError(
            f"{where} {what}: {name} is called with training=True. Give it self.training, or False, or call .eval() "
            "before torch.export.export"
        )


def _calls(program: "ExportedProgram") -> Iterator[Any]:
    """The calls of operators, in branches and bodies too."""
    for module in program.graph_module.modules():
        graph = getattr(module, "graph", None)
        for node in () if graph is None else graph.nodes:
            if node.op == "call_function":
                yield node


def _argument(node: Any, position: int) -> Any:
    """An argument of a call by its position in the schema, given either way; False where it was left out."""
    schema = getattr(node.target, "_schema", None)
    if position < len(node.args):
        return node.args[position]
    if schema is not None and position < len(schema.arguments):
        return node.kwargs.get(schema.arguments[position].name, False)
    return False


def _module_of(node: Any) -> str:
    """The path of the part that makes the call."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = stack[-1][0] if stack else ""
    return path or "the module"


def to_onnx(
    program: "ExportedProgram",
    *,
    opset: int | None,
    input_names: Sequence[str] | None,
    output_names: Sequence[str] | None,
) -> ModelProto:
    """The program as ONNX, not optimized by the exporter. Raises ModelError, or UsageError where names do not fit."""
    import torch

    outputs = list(output_names or _output_names(program))
    try:
        with _quiet():
            made = torch.onnx.export(
                program,
                dynamo=True,
                optimize=False,
                opset_version=opset,
                input_names=None if input_names is None else list(input_names),
                output_names=outputs,
                verbose=False,
            )
    except ModuleNotFoundError as error:
        raise UsageError(f"torch.onnx needs {error.name}; pip install onnxscript") from error
    except Exception as error:  # the exporter's own errors have no common class
        raise ModelError(f"torch.onnx cannot export the module: {_first_line(error)}") from error
    assert made is not None
    model: ModelProto = made.model_proto
    if len(outputs) != len(model.graph.output):
        raise UsageError(f"the module has {len(model.graph.output)} outputs, and {len(outputs)} names for them")
    return model


def _output_names(program: "ExportedProgram") -> list[str]:
    """The keys of a mapping that the module returns, else output, or output_0, output_1, ..."""
    count = len(program.graph_signature.user_outputs)
    spec = program.call_spec.out_spec
    keys = getattr(spec, "context", None)
    if spec is not None and spec.type is dict and isinstance(keys, list) and len(keys) == count:
        return [str(key) for key in keys]
    return ["output"] if count == 1 else [f"output_{number}" for number in range(count)]


def name_by_modules(model: ModelProto) -> None:
    """Name each node by the part of the module that it comes from, such as ``layer1.0.bn2/batch_norm``.

    A part that is called twice has nodes of the same origin: the later ones get a number that no node has.
    """
    taken: set[str] = set()
    numbers: Counter[str] = Counter()
    for node in model.graph.node:
        scopes = next((each.value for each in node.metadata_props if each.key == _SCOPES), "")
        path = _scopes_of(scopes)
        if not path:
            continue
        origin = name = "/".join(path)
        while name in taken:
            numbers[origin] += 1
            name = f"{origin}_{numbers[origin]}"
        taken.add(name)
        node.name = name


def _scopes_of(text: str) -> list[str]:
    import ast

    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return []
    inner = [str(each) for each in found if each] if isinstance(found, list) else []
    return inner[-2:]


def remove_traces(model: ModelProto) -> None:
    """Remove what PyTorch noted of the source: stack traces hold paths of the machine that exported."""
    owners = [model, model.graph, *model.functions, *_everything(model.graph)]
    for function in model.functions:
        owners += [*function.node, *function.value_info]
    for owner in owners:
        kept = [each for each in owner.metadata_props if not each.key.startswith(_TRACES)]
        if len(kept) != len(owner.metadata_props):
            del owner.metadata_props[:]
            owner.metadata_props.extend(kept)


def _everything(graph: GraphProto) -> Iterator[Any]:
    yield from (*graph.input, *graph.output, *graph.value_info, *graph.initializer)
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if attribute.type in (5, 10) else ():
                yield from (inner, *_everything(inner))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the exporter says of its progress to itself."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}"[:300] if lines else type(error).__name__
