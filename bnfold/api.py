"""The library: `optimize`, `freeze`, `inspect`, `verify`, each readable from top to bottom.

The data flows one way: read, passes, write beside the output, verify that very file, publish, report.
"""

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnx import ModelProto, NodeProto

from bnfold.decisions import Action, Decision, Reason, Refused
from bnfold.errors import ModelError, StatisticsError, UsageError, VerificationError
from bnfold.graph import Graph, Model, every_node
from bnfold.onnxfile import Layout, OnnxFile, Publication, read, to_proto
from bnfold.passes import PassOptions, default_passes
from bnfold.passes.affine_ops import is_affine_op
from bnfold.passes.classification import Kind, classify, find_disguise, is_dropout, is_in_train_mode
from bnfold.passes.diagnosis import diagnose
from bnfold.passes.normalization import Description, Mode, describe, is_batch_norm
from bnfold.pipeline import run_on
from bnfold.progress import Progress, Stage
from bnfold.report import Diagnosed, Inspection, ModelSummary, NormalizationInfo, Report

if TYPE_CHECKING:
    from bnfold.batches import Data
    from bnfold.equivalence import Limit, Verification, VerifyOptions
    from bnfold.equivalence.signature import Source
    from bnfold.equivalence.user_feeds import Inputs
    from bnfold.passes import SubstituteBatchNormOptions
    from bnfold.recalibration import CalibrationOptions, Fitted
    from bnfold.statistics import Statistics

# A path, the bytes of a model file, a ModelProto, or an onnx_graphsurgeon.Graph.
AnyModel = Any


@dataclass(frozen=True)
class Result:
    """What `optimize` made: `model` of the kind that was given, or None where it went to a file; and the report.

    A path that was given without an output path gives a ModelProto.
    """

    model: AnyModel
    report: Report


def optimize(
    model: AnyModel,
    output: str | os.PathLike[str] | None = None,
    *,
    verify: bool = True,
    allow_unverified: bool = False,
    keep_failed: bool = False,
    dry_run: bool = False,
    seed: int = 0,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    inputs: "Inputs | None" = None,
    rtol: "Limit | None" = None,
    atol: "Limit | None" = None,
    providers: Iterable[str] = ("cpu",),
    strict_placement: bool = False,
    keep: Iterable[str] = (),
    lower: bool = False,
    fold: bool = True,
    freeze: bool = True,
    keep_dropout: bool = False,
    accept_initial_statistics: bool = False,
    recalibrate: "Data | str | os.PathLike[str] | None" = None,
    calibration: "CalibrationOptions | None" = None,
    statistics_from: str | os.PathLike[str] | None = None,
    substitute: str | None = None,
    substitute_only: Iterable[str] = (),
    data: "Data | str | os.PathLike[str] | None" = None,
    assume_constant_initializers: bool = False,
    strict_external_data: bool = False,
    layout: Layout | None = None,
    progress: Progress | None = None,
) -> Result:
    """Freeze and fold every BatchNormalization of `model` that can be, verify the result, and publish it at `output`.

    `model` is a path, bytes, a ModelProto or an onnx_graphsurgeon.Graph, and is never modified. Without `output` the
    result comes back as the same kind. `dry_run` does everything but publish. `inputs` are feeds: one (name -> array),
    any iterable of them, or the path of an .npz file, of a folder of them or of .npy files, or `script.py:function`;
    otherwise seeded random feeds are used. `rtol` and `atol` replace the limits by dtype: numbers, or numbers by output
    name, where "" stands for all that are not named.

    What runs in training mode is frozen to its stored statistics first, and Dropout removed (`keep_dropout` leaves it);
    the result is then compared with `model` under evaluation semantics. Statistics that were never updated raise
    StatisticsError unless `accept_initial_statistics`.

    `recalibrate` is data (what `bnfold.recalibrate` takes, used as `calibration` says) from which every
    BatchNormalization gets new statistics first; `statistics_from` is a safetensors file that holds them. Where that
    data, or `data`, holds labels, the report has the task accuracy before and after.

    `substitute` ("group-norm", "group-norm:8", "instance-norm" or "layer-norm") puts another normalization in the place
    of each BatchNormalization, or of those whose names match `substitute_only`, fitted to its output on `data`. That is
    another function: the verdict is "substituted", and the report holds the measured change.

    `layout` says where weights go: by default where the input has them. `progress` is called now and then with what is
    being counted (`bnfold.progress.Stage`), how much of it is done, and about how much there is.

    Raises VerificationError, which carries the report, where the result was not shown to be equivalent (nothing is
    published then; `keep_failed` writes it beside `output` as NAME.failed.onnx), and the other classes of
    `bnfold.errors` for models that cannot be read, outputs that cannot be written, and requests that make no sense.
    """
    options = {
        "verify": verify,
        "allow_unverified": allow_unverified,
        "keep_failed": keep_failed,
        "dry_run": dry_run,
        "seed": seed,
        "input_shapes": {name: list(shape) for name, shape in (input_shapes or {}).items()},
        "inputs": os.fspath(inputs) if isinstance(inputs, str | os.PathLike) else inputs is not None,
        "rtol": rtol,
        "atol": atol,
        "providers": list(providers),
        "strict_placement": strict_placement,
        "keep": list(keep),
        "lower": lower,
        "fold": fold,
        "freeze": freeze,
        "keep_dropout": keep_dropout,
        "accept_initial_statistics": accept_initial_statistics,
        "recalibrate": os.fspath(recalibrate)
        if isinstance(recalibrate, str | os.PathLike)
        else recalibrate is not None,
        "calibration": None if calibration is None else calibration.to_dict(),
        "statistics_from": None if statistics_from is None else os.fspath(statistics_from),
        "substitute": substitute,
        "substitute_only": list(substitute_only),
        "data": os.fspath(data) if isinstance(data, str | os.PathLike) else data is not None,
        "assume_constant_initializers": assume_constant_initializers,
        "strict_external_data": strict_external_data,
        "layout": None if layout is None else asdict(layout),
    }
    how = (
        _verify_options(seed, input_shapes, inputs, rtol, atol, providers, strict_placement=strict_placement)
        if verify
        else None
    )
    if how is not None:
        how = replace(how, told=_stage(progress, Stage.FEEDS))
    with _destination(None if dry_run else output) as publication:
        file = _read(model, strict=strict_external_data)
        before = _input_summary(file, model)
        calibrated = None
        statistics: Mapping[tuple[str, str], Statistics] = {}
        substitution: SubstituteBatchNormOptions | None = None
        fitted: tuple[Fitted, ...] = ()
        if recalibrate is not None or statistics_from is not None or substitute is not None:
            from bnfold import recalibration

            calibration = replace(
                calibration or recalibration.CalibrationOptions(), told=_stage(progress, Stage.BATCHES)
            )
            untouched = Model(file, assume_constant_initializers=assume_constant_initializers)
            calibrated = recalibration.calibration(
                file,
                untouched,
                data=recalibrate,
                weights=statistics_from,
                options=calibration if data is None else replace(calibration, labels=None),
                keep=keep,
            )
            statistics = {} if calibrated is None else calibrated.statistics
            if substitute is not None:
                substitution, fitted = recalibration.substitution(
                    file,
                    untouched,
                    substitute,
                    data=data,
                    statistics=statistics,
                    options=calibration,
                    only=substitute_only,
                    keep=keep,
                )
        passes = PassOptions(
            tuple(keep),
            lower,
            fold,
            freeze,
            statistics=statistics,
            keep_dropout=keep_dropout,
            accept_initial_statistics=accept_initial_statistics,
            substitute=substitution,
            told=_stage(progress, Stage.NORMALIZATIONS),
        )
        edited, decisions = run_on(
            file, default_passes(passes), assume_constant_initializers=assume_constant_initializers
        )
        file = edited.file
        _require_statistics(decisions, before, options, output)

        told = _stage(progress, Stage.BYTES)
        written = publication.write(file, untouched=not edited.modified, layout=layout, told=told)
        nbytes = written.nbytes + sum(path.stat().st_size for path in written.data_files)
        verification, distance = (
            (None, ())
            if how is None
            else _verified(model, file, publication.path, how, decisions, statistics, frozen=freeze or bool(statistics))
        )
        accuracy = None
        if recalibrate is not None or data is not None:
            from bnfold import recalibration

            original, labelled = _read(model, strict=strict_external_data), recalibrate if data is None else data
            accuracy = recalibration.accuracy(original, publication.path, labelled, passes, calibration)
        verdict = "not-verified" if verification is None else verification.verdict.value
        if verification is not None and _is_substituted(decisions, substitution, verification):
            verdict = "substituted"
        good = verdict in ("equivalent", "proved", "substituted")
        accepted = not verify or good or (allow_unverified and verdict == "not-verified")
        publish = accepted and output is not None and not dry_run
        report = Report(
            verdict=verdict,
            exit_code=0 if accepted else 1,
            decisions=decisions,
            input=before,
            output=_summary(file.proto, None if output is None else os.fspath(output), written.sha256, nbytes),
            published=os.fspath(output) if publish and output is not None else None,
            verification=None if verification is None else verification.to_dict(),
            explanation=_SUBSTITUTED if verdict == "substituted" else _explanation(verification, verify=verify),
            options=options,
            fitted=tuple(each.to_dict() for each in fitted),
            training_distance=distance,
            accuracy=None if accuracy is None else accuracy.to_dict(),
            recalibration=None if calibrated is None else calibrated.to_dict(),
            weights_moved=written.moved,
        )
        if not accepted:
            if keep_failed and output is not None and not dry_run:
                publication.keep_as(_failed_name(output))
            raise VerificationError(_failure(report, output, dry_run=dry_run), report)
        result = None if output is not None or dry_run else _same_kind(model, file)
        if publish:
            publication.publish()
        return Result(result, report)


def freeze(model: AnyModel, output: str | os.PathLike[str] | None = None, **options: Any) -> Result:
    """Give `model` the meaning it has in evaluation, and fold nothing; otherwise as `optimize`, options included."""
    return optimize(model, output, fold=False, freeze=True, **options)


def recalibrate(
    model: AnyModel,
    batches: "Data | str | os.PathLike[str]",
    output: str | os.PathLike[str] | None = None,
    *,
    mode: str = "exact",
    statistics: str = "population",
    batch_size: int = 64,
    mean: Iterable[float] = (0.0,),
    std: Iterable[float] = (1.0,),
    image_layout: str = "NCHW",
    labels: str | None = None,
    **options: Any,
) -> Result:
    """Give every BatchNormalization of `model` the statistics of data, in inference mode, and fold nothing.

    `batches` is an iterable of batches (a list, a DataLoader, a function that returns an iterator), each a mapping of
    input names to arrays, one array, or a sequence of arrays for the inputs in order; or the path of an .npz file, of a
    folder of .npy, .npz or image files (`mean`, `std` and `image_layout` say how images become numbers), or
    `script.py:function`. `batch_size` is for files and images.

    Labels are the entry of a mapping called `labels` (None: "labels", where there is one; "": no labels), what stands
    behind the inputs in a sequence, or the second of (mapping, labels). The report then has the task accuracy before
    and after.

    `mode` "exact" reads the data once for each level of normalizations, "fast" once. `statistics` "torch" gives what
    `torch.optim.swa_utils.update_bn` does. `options` are those of `optimize`. Raises UsageError for data that does
    not fit, and what `optimize` raises.
    """
    from bnfold.recalibration import CalibrationOptions, ImageOptions

    images = ImageOptions(tuple(mean), tuple(std), image_layout)
    calibration = CalibrationOptions(mode, statistics, batch_size, images, labels)
    return optimize(model, output, fold=False, recalibrate=batches, calibration=calibration, **options)


def inspect(
    model: AnyModel,
    *,
    keep: Iterable[str] = (),
    lower: bool = False,
    freeze: bool = True,
    keep_dropout: bool = False,
    accept_initial_statistics: bool = False,
    assume_constant_initializers: bool = False,
    strict_external_data: bool = False,
    explain: str | None = None,
) -> Inspection:
    """List every normalization of `model`, and what `optimize` with the same options would do with it and why.

    Nothing is written and nothing is run; `model` may be what `optimize` takes, and is not modified. `explain` names
    one normalization: its decision then tells the walk, what was tried and where it stopped.
    """
    file = _read(model, strict=strict_external_data)
    summary = _input_summary(file, model)
    found = {}

    def look(edited: Model) -> None:
        for graph in edited.graphs:
            for node in graph.nodes():
                if is_affine_op(node) or is_dropout(node):
                    found[graph.scope, graph.label(node)] = _looked_at(node, graph)

    passes = PassOptions(
        tuple(keep),
        lower,
        freeze=freeze,
        keep_dropout=keep_dropout,
        accept_initial_statistics=accept_initial_statistics,
        explain=explain,
    )
    _, decisions = run_on(
        file, default_passes(passes), assume_constant_initializers=assume_constant_initializers, look=look
    )
    if explain is not None and not any(decision.walk for decision in decisions):
        raise UsageError(f"no walk to explain: {explain!r} is no normalization that could be folded in this model")
    infos = [_info(decision, found[decision.scope, decision.node]) for decision in decisions]
    return Inspection(summary, tuple(infos))


def verify(
    reference: AnyModel,
    candidate: AnyModel,
    *,
    seed: int = 0,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    inputs: "Inputs | None" = None,
    rtol: "Limit | None" = None,
    atol: "Limit | None" = None,
    providers: Iterable[str] = ("cpu",),
    strict_placement: bool = False,
    layers: bool = False,
) -> "Verification":
    """Run both models on the same feeds and compare every output; the verdict and every measurement.

    The reference runs with onnxruntime's own graph optimizations off, the candidate without and with them. It may also
    be a torch.nn.Module, which is run in eval mode on the inputs of the candidate. `layers`
    also compares values inside the two models, and says which diverges first. Raises
    UsageError, ModelError or ProviderError; a model that onnxruntime cannot run is a verdict, not an error.
    """
    from bnfold import equivalence

    options = _verify_options(seed, input_shapes, inputs, rtol, atol, providers, strict_placement=strict_placement)
    options = replace(options, layers=layers)
    module = equivalence.is_module(reference)
    for model in [candidate] if module else [reference, candidate]:
        Model(_read(model, strict=False))  # raises where the structure is not sound
    other = _source(candidate)
    original = equivalence.ModuleReference.of(reference, other) if module else _source(reference)
    return equivalence.verify(original, other, options)


# ---------------------------------------------------------------------- models in and out


def _is_path(model: AnyModel) -> bool:
    return isinstance(model, str | os.PathLike)


def _read(model: AnyModel, *, strict: bool) -> OnnxFile:
    return read(_as_proto(model), strict_external_data=strict)


def _as_proto(model: AnyModel) -> Any:
    """A graphsurgeon graph as a ModelProto; every other kind as it is."""
    if _is_path(model) or isinstance(model, bytes | ModelProto):
        return model
    if type(model).__module__.partition(".")[0] == "onnx_graphsurgeon":
        import onnx_graphsurgeon

        return onnx_graphsurgeon.export_onnx(model)
    raise UsageError(
        f"a model is a path, bytes, a ModelProto or an onnx_graphsurgeon.Graph, not {type(model).__name__}"
    )


def _same_kind(model: AnyModel, file: OnnxFile) -> AnyModel:
    proto = to_proto(file)
    if isinstance(model, bytes):
        return proto.SerializeToString(deterministic=True)
    if _is_path(model) or isinstance(model, ModelProto):
        return proto
    import onnx_graphsurgeon

    return onnx_graphsurgeon.import_onnx(proto)


def _source(model: AnyModel) -> "Source":
    """The model as onnxruntime takes it: a path, so that external data is found, or bytes."""
    if _is_path(model):
        return Path(model)
    model = _as_proto(model)
    if isinstance(model, ModelProto):
        try:
            return model.SerializeToString(deterministic=True)
        except ValueError as error:
            raise ModelError(f"the model: cannot be serialized ({error}); pass a path instead") from error
    assert isinstance(model, bytes)
    return model


@contextmanager
def _destination(output: str | os.PathLike[str] | None) -> Iterator[Publication]:
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


def _stage(progress: Progress | None, stage: Stage) -> Callable[[int, int], None] | None:
    return None if progress is None else partial(progress, stage)


def _failed_name(output: str | os.PathLike[str]) -> Path:
    path = Path(output)
    return path.with_name(f"{path.stem}.failed{path.suffix or '.onnx'}")


# ---------------------------------------------------------------------- verification


def _verify_options(
    seed: int,
    input_shapes: Mapping[str, tuple[int, ...]] | None,
    inputs: "Inputs | None",
    rtol: "Limit | None",
    atol: "Limit | None",
    providers: Iterable[str],
    *,
    strict_placement: bool,
) -> "VerifyOptions":
    from bnfold.equivalence import Tolerance, VerifyOptions

    return VerifyOptions(
        seed=seed,
        input_shapes=dict(input_shapes or {}),
        inputs=inputs,
        tolerance=Tolerance.of(rtol, atol),
        providers=tuple(providers),
        strict_placement=strict_placement,
    )


def _verified(
    model: AnyModel,
    file: OnnxFile,
    candidate: Path,
    options: "VerifyOptions",
    decisions: Iterable[Decision],
    statistics: "Mapping[tuple[str, str], Statistics]",
    *,
    frozen: bool,
) -> "tuple[Verification, tuple[Mapping[str, Any], ...]]":
    """The verdict, and how far the input's own training mode is from what was compared."""
    from bnfold import equivalence

    file.release()
    if not frozen:
        return equivalence.verify(_source(model), candidate, options), ()
    stays = {(decision.scope, decision.node) for decision in decisions if decision.action is Action.KEPT}
    found = equivalence.verify_frozen(_source(model), candidate, options, stays=stays, statistics=statistics)
    return found.verification, tuple(measurement.to_dict() for measurement in found.training_distance)


_SUBSTITUTED = "Normalizations were substituted on purpose: the result computes another function, as measured above."


def _is_substituted(
    decisions: Iterable[Decision], substitution: "SubstituteBatchNormOptions | None", verification: "Verification"
) -> bool:
    """Whether the result differs because that was asked for, and nothing in it is broken: every value is finite."""
    substituted = any(decision.action is Action.SUBSTITUTED for decision in decisions)
    outputs = [measured for measured in verification.measurements if measured.where.stage == "output"]
    sound = bool(outputs) and not any(measured.problem or measured.new_nonfinite for measured in outputs)
    return substitution is not None and substituted and sound


def _require_statistics(
    decisions: Iterable[Decision],
    before: ModelSummary,
    options: Mapping[str, Any],
    output: str | os.PathLike[str] | None,
) -> None:
    """Raise StatisticsError where a normalization has nothing to be frozen to."""
    empty = [decision for decision in decisions if decision.reason is Reason.INITIAL_STATISTICS]
    if not empty:
        return
    names = ", ".join(decision.node for decision in empty[:3]) + (", ..." if len(empty) > 3 else "")
    message = (
        f"{len(empty)} normalizations run in training mode with statistics that were never updated ({names}): compute "
        "them with bnfold recalibrate, or pass --accept-initial-statistics if mean 0 and variance 1 are right"
    )
    report = Report("not-verified", 1, tuple(decisions), before, explanation=message, options=options)
    left = f"; nothing was written to {os.fspath(output)}" if output is not None else ""
    raise StatisticsError(message + left, report)


def _explanation(verification: "Verification | None", *, verify: bool) -> str:
    if not verify:
        return "Verification was switched off."
    assert verification is not None
    return verification.explanation


def _failure(report: Report, output: str | os.PathLike[str] | None, *, dry_run: bool) -> str:
    found = "is not equivalent to the input" if report.verdict == "not-equivalent" else "could not be verified"
    left = f"; nothing was written to {os.fspath(output)}" if output is not None and not dry_run else ""
    advice = "" if report.verdict == "not-equivalent" else " (--allow-unverified publishes what nothing speaks against)"
    return f"the result {found}{left}: {report.explanation}{advice}"


# ---------------------------------------------------------------------- summaries


def _summary(proto: ModelProto, path: str | None, sha256: str, nbytes: int) -> ModelSummary:
    nodes = batch_normalizations = 0
    for node in every_node(proto):
        nodes += 1
        batch_normalizations += is_batch_norm(node)
    versions = {opset.domain: opset.version for opset in proto.opset_import}
    return ModelSummary(
        path=path,
        sha256=sha256,
        nbytes=nbytes,
        nodes=nodes,
        batch_normalizations=batch_normalizations,
        opset=versions.get("", versions.get("ai.onnx", 1)),
        ir_version=proto.ir_version,
    )


def _input_summary(file: OnnxFile, source: AnyModel) -> ModelSummary:
    nbytes = file.nbytes + sum(data.nbytes for data in file.data_files)
    return _summary(file.proto, os.fspath(source) if _is_path(source) else None, file.sha256(), nbytes)


def _fed_by(description: Description, graph: Graph) -> str:
    maker = graph.producer(description.data)
    if maker is not None:
        return f"{maker.op_type} {graph.label(maker)}"
    return f"graph input {description.data}" if graph.is_input(description.data) else f"constant {description.data}"


@dataclass(frozen=True)
class _Look:
    """What is known of a node before anything is edited."""

    description: Description
    fed_by: str
    kind: str
    diagnoses: tuple[Diagnosed, ...]


def _looked_at(node: NodeProto, graph: Graph) -> _Look:
    description = describe(node, graph)
    kind = ""
    if is_batch_norm(node):
        with suppress(Refused):
            kind = classify(node, graph).value
    elif is_dropout(node) and is_in_train_mode(node, graph):
        description = replace(description, mode=Mode.TRAIN)
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


__all__ = ["Result", "freeze", "inspect", "optimize", "recalibrate", "verify"]
