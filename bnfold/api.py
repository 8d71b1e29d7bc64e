"""The library: `optimize`, `freeze`, `recalibrate`, `inspect`, `verify`: the options people give, put in order.

The work is done in `optimization`, where the data flows one way.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, ParamSpec, Protocol, TypeVar

from onnx import NodeProto

from bnfold import optimization
from bnfold.addresses import Staging, is_address, staged
from bnfold.decisions import Decision, Refused
from bnfold.errors import ReportedError, UsageError
from bnfold.graph import Graph, Model
from bnfold.lifetime import gives_back
from bnfold.optimization import Request, Result, input_summary, notes_on, unmatched
from bnfold.options import (
    DataOptions,
    FreezeOptions,
    InspectOptions,
    OptimizeOptions,
    RecalibrateOptions,
    SomeData,
    VerifyOptions,
    keywords,
)
from bnfold.passes import PassOptions, default_passes
from bnfold.passes.affine_ops import is_affine_op
from bnfold.passes.classification import Kind, classify, find_disguise, is_dropout, is_in_train_mode
from bnfold.passes.diagnosis import diagnose
from bnfold.passes.normalization import Description, Mode, describe, is_batch_norm
from bnfold.paths import require_utf8
from bnfold.pipeline import run_on
from bnfold.report import Diagnosed, Inspection, ModelSummary, NormalizationInfo, Report
from bnfold.sources import AnyModel, as_proto, blamed, is_foreign, is_path, of_kind, read_model

if TYPE_CHECKING:
    from bnfold.equivalence import GivenModel, Verification

_O = TypeVar("_O")
_P = ParamSpec("_P")
_Destination = str | os.PathLike[str] | None


class _Writes(Protocol[_P]):
    """The shape of a function that writes a model; `_P` are the fields of its options."""

    def __call__(
        self, model: AnyModel, output: _Destination = None, *args: _P.args, **options: _P.kwargs
    ) -> Result: ...


class _WritesFrom(Protocol[_P]):
    """The shape of a function that writes a model from data."""

    def __call__(
        self, model: AnyModel, batches: SomeData, output: _Destination = None, *args: _P.args, **options: _P.kwargs
    ) -> Result: ...


class _Inspects(Protocol[_P]):
    def __call__(self, model: AnyModel, *args: _P.args, **options: _P.kwargs) -> Inspection: ...


class _Verifies(Protocol[_P]):
    def __call__(
        self, reference: AnyModel, candidate: AnyModel, *args: _P.args, **options: _P.kwargs
    ) -> "Verification": ...


def _writes(
    options: Callable[_P, _O],
) -> Callable[[Callable[[AnyModel, _Destination, _O], Result]], _Writes[_P]]:
    return lambda function: keywords(options, function, output=None)


def _writes_from(
    options: Callable[_P, _O],
) -> Callable[[Callable[[AnyModel, SomeData, _Destination, _O], Result]], _WritesFrom[_P]]:
    return lambda function: keywords(options, function, output=None)


def _inspects(options: Callable[_P, _O]) -> Callable[[Callable[[AnyModel, _O], Inspection]], _Inspects[_P]]:
    return lambda function: keywords(options, function)


def _verifies(
    options: Callable[_P, _O],
) -> "Callable[[Callable[[AnyModel, AnyModel, _O], Verification]], _Verifies[_P]]":
    return lambda function: keywords(options, function)


def _picklable(model: AnyModel) -> AnyModel:
    return as_proto(model) if is_foreign(model) else model


@gives_back
def optimize_with(
    model: AnyModel, output: _Destination, options: OptimizeOptions | FreezeOptions | RecalibrateOptions
) -> Result:
    """Do what `optimize`, `freeze` or `recalibrate` does with these options."""
    if is_address(model) or is_address(output):
        return _optimized_away(model, output, options)
    if options.isolate:
        from bnfold.isolated import isolated

        made = isolated(optimize_with, _picklable(model), output, options=options, writes=output)
        return replace(made, model=of_kind(model, made.model)) if is_foreign(model) else made
    with blamed(model):
        return optimization.optimize(Request(model, output, OptimizeOptions.of(options)))


def _optimized_away(
    model: AnyModel, output: _Destination, options: OptimizeOptions | FreezeOptions | RecalibrateOptions
) -> Result:
    """Optimize where the model, its output or both have addresses. Raises also UsageError where it cannot be opened."""
    if options.keep_failed and is_address(output):
        raise UsageError("--keep-failed writes beside OUTPUT: name a file, not an address")
    with staged() as staging:
        local = staging.fetched(model) if is_address(model) else model
        target = output
        if isinstance(output, str) and is_address(output):
            target = staging.path(output)
            if not options.dry_run:
                staging.require_free(output, overwrite=options.overwrite)
        try:
            made = optimize_with(local, target, options)
        except ReportedError as error:
            error.report = _addressed(error.report, staging)
            raise
        if isinstance(output, str) and target != output and made.report.published is not None:
            staging.send(output, overwrite=options.overwrite)
        return replace(made, report=_addressed(made.report, staging))


def _addressed(report: Report, staging: Staging) -> Report:
    """The report with addresses in place of the paths where files were meanwhile."""
    return replace(
        report,
        input=_with_address(report.input, staging),
        output=None if report.output is None else _with_address(report.output, staging),
        published=None if report.published is None else staging.told(report.published),
        explanation=staging.told(report.explanation),
        notes=tuple(map(staging.told, report.notes)),
    )


def _with_address(summary: ModelSummary, staging: Staging) -> ModelSummary:
    return replace(summary, path=None if summary.path is None else staging.told(summary.path))


@_writes(OptimizeOptions)
def optimize(model: AnyModel, output: _Destination, options: OptimizeOptions) -> Result:
    """Freeze and fold every BatchNormalization of `model` that can be, verify the result, and publish it at `output`.

    `model` is a path, an address that fsspec opens (``s3://bucket/m.onnx``; the extra `remote`), bytes, a ModelProto,
    an onnx_graphsurgeon.Graph, an onnx_ir.Model or a torch.onnx.ONNXProgram, and is never modified. `output` is a path
    or an address. Without `output` the result comes back as the same kind (of an ONNXProgram as a ModelProto).
    `dry_run` does everything but publish. `inputs` are feeds: one (name -> array), any iterable of them, or the path of
    an .npz file, of a folder of them or of .npy files, or `script.py:function`; otherwise seeded random feeds are used.
    `rtol` and `atol` replace the limits by dtype: numbers, or numbers by output name, where "" stands for all that are
    not named.

    What runs in training mode is frozen to its stored statistics first, and Dropout removed (`keep_dropout` leaves it);
    the result is then compared with `model` under evaluation semantics. Statistics that were never updated raise
    StatisticsError unless `accept_initial_statistics`.

    `recalibrate` is data (what `bnfold.recalibrate` takes, used as `calibration` says) from which every
    BatchNormalization gets new statistics first; `statistics_from` is a safetensors file that holds them. Where that
    data, or `data`, holds labels, the report has the task accuracy before and after.

    `substitute` ("group-norm", "group-norm:8", "instance-norm" or "layer-norm") puts another normalization in the place
    of each BatchNormalization, or of those whose names match `substitute_only`, fitted to its output on `data`. That is
    another function: the verdict is "substituted", and the report holds the measured change.

    `assume_constant_initializers`: those that are also inputs are folded as well, and verification replaces none.
    `proof`: every rewrite is proved in float64 as well, unless "never"; where onnxruntime cannot run the model, proofs
    that all hold give the verdict "proved". `on_mismatch`: where the result differs, the folds that are guilty are
    named, and with "rollback" the rest is published, verified.

    `passes` are run in place of the built-in order: names ("default" stands for that order), pass objects
    (`bnfold.passes.Pass`), and functions that take a ModelProto, an onnx_graphsurgeon.Graph or an onnx_ir.Model, as
    their annotation says, and return one, or None where they edited it. Where the result differs, the guilty pass is
    named, and with `on_mismatch` "rollback" left out. One that raises is a UsageError.

    `layout` says where weights go: by default where the input has them. Without `checksums` the report holds no sha256,
    and no time is spent on them; `known_sha256` is that of the model file, for the report, where the caller has just
    computed it. Without `distributions` no measurement says more than the verdict rests on: no means,
    percentiles and histogram. `progress` is called now and then with what is being counted (`bnfold.progress.Stage`),
    how much of it is done, and about how much there is.

    With `isolate` all of it, as in every function here, happens in a process of its own, which costs its start: where
    onnxruntime crashes on a model, ModelError says what it was doing, and the caller goes on. What is given and what
    comes back is pickled.

    Raises VerificationError, which carries the report, where the result was not shown to be equivalent (nothing is
    published then; `keep_failed` writes it beside `output` as NAME.failed.onnx), and the other classes of
    `bnfold.errors` for models that cannot be read, outputs that cannot be written, and requests that make no sense.
    """
    return optimize_with(model, output, options)


@_writes(FreezeOptions)
def freeze(model: AnyModel, output: _Destination, options: FreezeOptions) -> Result:
    """Give `model` the meaning it has in evaluation, and fold nothing; otherwise as `optimize`."""
    return optimize_with(model, output, options)


@_writes_from(DataOptions)
def recalibrate(model: AnyModel, batches: SomeData, output: _Destination, options: DataOptions) -> Result:
    """Give every BatchNormalization of `model` the statistics of data, in inference mode, and fold nothing.

    `batches` is an iterable of batches (a list, a DataLoader, a function that returns an iterator), each a mapping of
    input names to arrays, one array, or a sequence of arrays for the inputs in order; or the path of an .npz file, of a
    folder of .npy, .npz or image files (`mean`, `std` and `image_layout` say how images become numbers), or
    `script.py:function`. `batch_size` is for files and images.

    Labels are the entry of a mapping called `labels` (None: "labels", where there is one; "": no labels), what stands
    behind the inputs in a sequence, or the second of (mapping, labels). The report then has the task accuracy before
    and after.

    `mode` "exact" lets each normalization see what the final ones before it make, "fast" lets each use its batch; both
    read the data once, as long as what exact keeps fits into `spill_limit` bytes of memory and `spill_budget` bytes of
    a temporary file in the folder `spill`. `statistics` "torch" gives what `torch.optim.swa_utils.update_bn` does. The
    other options are those of `optimize`. Raises UsageError for data that
    does not fit, and what `optimize` raises.
    """
    return optimize_with(model, output, RecalibrateOptions(**options.shared_with(RecalibrateOptions), data=batches))


@_inspects(InspectOptions)
def inspect(model: AnyModel, options: InspectOptions) -> Inspection:
    """List every normalization of `model`, and what `optimize` with the same options would do with it and why.

    Nothing is written and nothing is run; `model` may be what `optimize` takes, and is not modified. `explain` names
    one normalization: its decision then tells the walk, what was tried and where it stopped.
    """
    return inspect_with(model, options)


@gives_back
def inspect_with(model: AnyModel, options: InspectOptions) -> Inspection:
    """Do what `inspect` does with these options."""
    if is_address(model):
        with staged() as staging:
            made = inspect_with(staging.fetched(model), options)
            return replace(made, model=_with_address(made.model, staging))
    if options.isolate:
        from bnfold.isolated import isolated

        return isolated(inspect_with, _picklable(model), options=options)
    with blamed(model):
        return _inspected(model, options)


def _inspected(model: AnyModel, options: InspectOptions) -> Inspection:
    file = read_model(model, strict=options.strict_external_data)
    file.start_hash()
    found = {}
    summaries: list[ModelSummary] = []

    def look(edited: Model) -> None:
        summaries.append(input_summary(edited, model))
        for graph in edited.graphs:
            for node in graph.nodes():
                if is_affine_op(node) or is_dropout(node):
                    found[graph.scope, graph.label(node)] = _looked_at(node, graph)

    passes = PassOptions(**options.shared_with(PassOptions))
    edited, decisions = run_on(
        file, default_passes(passes), assume_constant_initializers=options.assume_constant_initializers, look=look
    )
    if options.explain is not None and not any(decision.walk for decision in decisions):
        raise UsageError(
            f"no walk to explain: {options.explain!r} is no normalization that could be folded in this model"
        )
    infos = [_info(decision, found.get((decision.scope, decision.node), _BRANCH)) for decision in decisions]
    notes = (*notes_on(edited, decisions), *unmatched({"--keep": options.keep}, decisions))
    return Inspection(replace(summaries[0], sha256=file.sha256()), tuple(infos), notes=notes)


@_verifies(VerifyOptions)
def verify(reference: AnyModel, candidate: AnyModel, options: VerifyOptions) -> "Verification":
    """Run both models on the same feeds and compare every output; the verdict and every measurement.

    The reference runs with onnxruntime's own graph optimizations off, the candidate without and with them. It may also
    be a torch.nn.Module, which is run in eval mode on the inputs of the candidate. `layers` also compares values inside
    the two models, and says which diverges first. Every difference between the two files is proved to be rounding as
    well where that can be, unless `proof` is "never"; with "always" a proof that fails decides, whatever limits and
    data are given. In one of the feeds initializers that are also inputs are replaced, unless
    `assume_constant_initializers`.

    Raises UsageError, ModelError or ProviderError; a model that onnxruntime cannot run is a verdict, not an error.
    """
    return verify_with(reference, candidate, options)


@gives_back
def verify_with(reference: AnyModel, candidate: AnyModel, options: VerifyOptions) -> "Verification":
    """Do what `verify` does with these options."""
    if is_address(reference) or is_address(candidate):
        with staged() as staging:
            first, second = (staging.fetched(each) if is_address(each) else each for each in (reference, candidate))
            return verify_with(first, second, options)
    if options.isolate:
        from bnfold.isolated import isolated

        return isolated(verify_with, _picklable(reference), _picklable(candidate), options=options)
    with blamed(reference, candidate):
        return _verified(reference, candidate, options)


def _verified(reference: AnyModel, candidate: AnyModel, options: VerifyOptions) -> "Verification":
    from bnfold import equivalence

    for model, what in ((reference, "REFERENCE"), (candidate, "CANDIDATE")):
        if is_path(model):
            require_utf8(model, what)
    if equivalence.is_module(reference):
        given = _sound(candidate)
        return equivalence.verify_unrelated(equivalence.ModuleReference.of(reference, given), given, options)
    return equivalence.verify_unrelated(_sound(reference), _sound(candidate), options)


def _sound(model: AnyModel) -> "GivenModel":
    """The model, read. Raises ModelError where its structure is not sound."""
    from bnfold import equivalence

    file = read_model(model, strict=False)
    Model(file)
    return equivalence.GivenModel.of(file)


# ---------------------------------------------------------------------- what is known of a node


def _fed_by(description: Description, graph: Graph) -> str:
    maker = graph.producer(description.data)
    if maker is not None:
        return f"{maker.op_type} {graph.label(maker)}"
    return f"graph input {description.data}" if graph.is_input(description.data) else f"constant {description.data}"


class _Look(NamedTuple):
    """The facts on a node before anything is edited."""

    description: Description
    fed_by: str
    kind: str
    diagnoses: tuple[Diagnosed, ...]


# A linear operator beside others: it is a branch, and no normalization.
_BRANCH = _Look(Description(Mode.INFERENCE, "", None, None, None), "", "branch", ())


def _looked_at(node: NodeProto, graph: Graph) -> _Look:
    description = describe(node, graph)
    kind = ""
    if is_batch_norm(node):
        with suppress(Refused):
            kind = classify(node, graph).value
    elif is_dropout(node) and is_in_train_mode(node, graph):
        description = description._replace(mode=Mode.TRAIN)
    elif find_disguise(node, graph) is not None:
        kind = Kind.BATCH_STATISTICS.value
    diagnoses = [Diagnosed(found.code, found.sentence, detail) for found, detail in diagnose(node, graph).items()]
    return _Look(description, _fed_by(description, graph), kind, tuple(diagnoses))


def _info(decision: Decision, look: _Look) -> NormalizationInfo:
    description = look.description
    return NormalizationInfo(
        node=decision.node,
        op_type=decision.op_type,
        scope=decision.scope,
        mode=description.mode,
        channels=description.channels,
        epsilon=description.epsilon,
        momentum=description.momentum,
        fed_by=look.fed_by,
        decision=decision,
        kind=look.kind,
        diagnoses=look.diagnoses,
    )


__all__ = [
    "Result",
    "freeze",
    "inspect",
    "inspect_with",
    "optimize",
    "optimize_with",
    "recalibrate",
    "verify",
    "verify_with",
]
