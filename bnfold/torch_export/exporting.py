"""One export: census, capture, ONNX, optimization, verification against the module."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import ModelProto

from bnfold import optimization
from bnfold.addresses import is_address
from bnfold.errors import ModelError, UsageError
from bnfold.lifetime import gives_back
from bnfold.optimization import Request
from bnfold.options import OptimizeOptions, VerifyOptions
from bnfold.report import Report
from bnfold.torch_export.census import Finding, FindingCode, census
from bnfold.torch_export.program import captured, name_by_modules, refuse_training, remove_traces, to_onnx

if TYPE_CHECKING:
    from bnfold.equivalence import Verification

_REFUSED = (FindingCode.LAZY,)


@dataclass(frozen=True, repr=False)
class Exported:
    """The result of `export`: `model` is a ModelProto, or None where it went to a file.

    `findings`: what the module holds that matters. `verification`: of the result against the module, None where
    verification was switched off; `report`: of its optimization.
    """

    model: ModelProto | None
    report: Report
    findings: tuple[Finding, ...]
    verification: "Verification | None"

    def __str__(self) -> str:
        """One line: the verdict, what became of the normalizations, and where the model went."""
        return str(self.report)

    def __repr__(self) -> str:
        return f"<Exported {self.report}>"


def export(
    module: Any,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    output: str | os.PathLike[str] | None = None,
    *,
    dynamic_shapes: Any = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    opset: int | None = None,
    mode: str = "eval",
    strip_traces: bool = False,
    **options: Any,
) -> Exported:
    """Export `module` to ONNX, optimize it, verify the result against the module itself, and publish it at `output`.

    `module` is a torch.nn.Module with the `args` and `kwargs` of one call, or a torch.export.ExportedProgram, or a
    torch.onnx.ONNXProgram. A module is exported as evaluation mode has it, and every part of it gets its mode back;
    with `mode` "as-is" the modes are left alone. `dynamic_shapes` are torch.export's. Inputs are named as the arguments
    of `forward`, outputs by the keys of the mapping that it returns, or output, output_0, ...; `input_names` and
    `output_names` say otherwise. Nodes, and so the decisions of the report, are named by the paths of the module's
    parts. `strip_traces` removes what PyTorch notes of the source code. The other options are those of `optimize`.

    Raises ModelError where the module cannot be exported, or still computes as in training (batch_norm or dropout that
    is called with training=True), VerificationError where the result does not compute what the module does, and what
    `optimize` raises.
    """
    return export_with(
        module,
        args,
        kwargs,
        output,
        OptimizeOptions(**options),
        dynamic_shapes=dynamic_shapes,
        input_names=input_names,
        output_names=output_names,
        opset=opset,
        mode=mode,
        strip_traces=strip_traces,
    )


@gives_back
def export_with(
    module: Any,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None,
    output: str | os.PathLike[str] | None,
    options: OptimizeOptions,
    *,
    dynamic_shapes: Any = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    opset: int | None = None,
    mode: str = "eval",
    strip_traces: bool = False,
) -> Exported:
    """Do what `export` does with these options."""
    if mode not in {"eval", "as-is"}:
        raise UsageError(f"mode is eval or as-is, not {mode!r}")
    if is_address(output):
        raise UsageError(f"{output} is an address, and export writes to files: name one, and upload it")
    optimization.refuse_output(output, options)
    source = _Source.of(module)
    findings = tuple(census(source.module)) if source.program is None else ()
    _refuse(findings, accepted=options.accept_initial_statistics)
    with source.prepared(mode):
        program = source.program or captured(source.module, *_apart(args, kwargs or {}), dynamic_shapes)
        refuse_training(program)
        model = source.onnx or to_onnx(program, opset=opset, input_names=input_names, output_names=output_names)
    name_by_modules(model)
    if strip_traces:
        remove_traces(model)
    check = _Check(_in_order(source.module, program), model, _examples(program, model, options.seed), options)
    request = Request(model, output, options, check=check if options.verify else None)
    result = optimization.optimize(request)
    return Exported(None if output is not None else result.model, result.report, findings, check.found)


@dataclass(frozen=True)
class _Source:
    """The source of an export: `program` and `onnx` where PyTorch made them already."""

    module: Any
    program: Any = None
    onnx: ModelProto | None = None

    @classmethod
    def of(cls, given: Any) -> "_Source":
        """Raises UsageError for what is none of the three."""
        torch = sys.modules.get("torch")
        if torch is not None:
            if isinstance(given, torch.nn.Module):
                return cls(given)
            if isinstance(given, torch.export.ExportedProgram):
                return cls(None, given)
            if isinstance(given, torch.onnx.ONNXProgram):
                if given.exported_program is None:
                    raise UsageError("this ONNXProgram does not hold the program it was made of; give the module")
                return cls(None, given.exported_program, given.model_proto)
        raise UsageError(
            "bnfold.export takes a torch.nn.Module, an ExportedProgram or an ONNXProgram, not "
            f"{type(given).__name__}; bnfold.optimize takes models that are ONNX already"
        )

    @contextmanager
    def prepared(self, mode: str) -> Iterator[None]:
        """The module in the mode it is exported in; afterwards every part has the mode that it had."""
        if self.module is None or mode != "eval":
            yield
            return
        from bnfold.equivalence import evaluating

        with evaluating(self.module):
            yield


def _refuse(findings: Sequence[Finding], *, accepted: bool) -> None:
    refused = [*_REFUSED] if accepted else [*_REFUSED, FindingCode.INITIAL_STATISTICS]
    found = [finding for finding in findings if finding.code in refused]
    if found:
        more = f" ({len(found) - 1} more like it)" if len(found) > 1 else ""
        way = "; accept_initial_statistics takes them as they are"
        raise ModelError(f"{found[0].text}{more}" + (way if found[0].code is FindingCode.INITIAL_STATISTICS else ""))


class _Check:
    """The comparison of the written file with the module, which decides beside that with the exported model."""

    def __init__(self, module: Any, model: ModelProto, feeds: list[dict[str, Any]], options: OptimizeOptions) -> None:
        self._module = module
        self._model = model
        self._feeds = feeds
        self._options = options
        self.found: Verification | None = None

    def __call__(self, candidate: Any) -> "Verification":
        """Raises what `bnfold.verify` raises."""
        from bnfold import equivalence

        options = VerifyOptions.of(self._options)
        if options.inputs is None and self._feeds:
            options = replace(options, inputs=self._feeds)
        reference = equivalence.ModuleReference(self._module, self._model)
        self.found = equivalence.verify(reference, candidate, replace(options, proof="auto", layers=False))
        return self.found


def _apart(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """The arguments with a copy of each tensor that is given twice: torch.export takes the two for one."""
    import torch
    from torch.utils import _pytree

    leaves, form = _pytree.tree_flatten((args, dict(kwargs)))
    seen: set[int] = set()
    for place, leaf in enumerate(leaves):
        if isinstance(leaf, torch.Tensor):
            if id(leaf) in seen:
                leaves[place] = leaf.detach().clone()
            seen.add(id(leaf))
    apart: tuple[tuple[Any, ...], Mapping[str, Any]] = _pytree.tree_unflatten(leaves, form)
    return apart


def _in_order(module: Any, program: Any) -> Any:
    """A module that takes the inputs of the graph in their order, and calls `module` as it was exported.

    A program that came alone is its own module.
    """
    import torch
    from torch.utils import _pytree

    module = program.module() if module is None else module
    if program.example_inputs is None:
        return module
    leaves, form = _pytree.tree_flatten(program.example_inputs)
    places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]

    class InOrder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, *tensors: Any) -> Any:
            values = list(leaves)
            for place, tensor in zip(places, tensors, strict=True):
                values[place] = tensor
            args, kwargs = _pytree.tree_unflatten(values, form)
            return self.inner(*args, **kwargs)

    return InOrder()


def _examples(program: Any, model: ModelProto, seed: int) -> list[dict[str, Any]]:
    """Feeds for the module: the inputs it was exported with, and the same with other numbers where they are floats.

    What they mean (indices, masks, sizes) is not for a generator to guess.
    """
    import torch
    from torch.utils import _pytree

    if program.example_inputs is None:
        return []
    positional, named = program.example_inputs
    leaves = [leaf for leaf in _pytree.tree_leaves((positional, named)) if isinstance(leaf, torch.Tensor)]
    names = [each.name for each in model.graph.input]
    if len(leaves) != len(names) or any(leaf.dtype == torch.bfloat16 for leaf in leaves):
        return []
    first = {name: leaf.detach().cpu().numpy() for name, leaf in zip(names, leaves, strict=True)}
    draw = np.random.default_rng(seed)
    other: Callable[[Any], Any] = lambda array: (  # noqa: E731
        draw.normal(size=array.shape).astype(array.dtype) if array.dtype.kind == "f" else array
    )
    return [first, *({name: other(array) for name, array in first.items()} for _ in range(2))]
