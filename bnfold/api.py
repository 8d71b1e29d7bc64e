"""The library: `optimize`, `freeze`, `recalibrate`, `inspect`, `verify`: the options people give, put in order.

What is done with them is in `optimization`, where the data flows one way.
"""

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from onnx import NodeProto

from bnfold import optimization
from bnfold.decisions import Decision, Refused
from bnfold.errors import UsageError
from bnfold.graph import Graph, Model
from bnfold.onnxfile import Layout
from bnfold.optimization import NewStatistics, OnMismatch, Publishing, Reading, Request, Result, input_summary
from bnfold.passes import PassOptions, default_passes
from bnfold.passes.affine_ops import is_affine_op
from bnfold.passes.classification import Kind, classify, find_disguise, is_dropout, is_in_train_mode
from bnfold.passes.diagnosis import diagnose
from bnfold.passes.normalization import Description, Mode, describe, is_batch_norm
from bnfold.pipeline import run_on
from bnfold.progress import Progress
from bnfold.report import Diagnosed, Inspection, ModelSummary, NormalizationInfo
from bnfold.sources import AnyModel, read_model, runnable

if TYPE_CHECKING:
    from bnfold.batches import Data
    from bnfold.equivalence import Limit, Proving, Verification, VerifyOptions
    from bnfold.equivalence.feeds.user_data import Inputs
    from bnfold.recalibration import CalibrationOptions


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
    proof: "Proving" = "auto",
    on_mismatch: OnMismatch = "fail",
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
    checksums: bool = True,
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

    `assume_constant_initializers`: those that are also inputs are folded as well, and verification replaces none.
    `proof`: whether every rewrite is proved in float64 as well: "always", "never", or "auto" for where that is cheap or
    onnxruntime cannot run the model; proofs that all hold then give the verdict "proved". `on_mismatch`: where the
    result differs, the folds that are guilty are named, and with "rollback" the rest is published, verified.

    `layout` says where weights go: by default where the input has them. Without `checksums` the report holds no sha256,
    and no time is spent on them. `progress` is called now and then with what is
    being counted (`bnfold.progress.Stage`), how much of it is done, and about how much there is.

    Raises VerificationError, which carries the report, where the result was not shown to be equivalent (nothing is
    published then; `keep_failed` writes it beside `output` as NAME.failed.onnx), and the other classes of
    `bnfold.errors` for models that cannot be read, outputs that cannot be written, and requests that make no sense.
    """
    request = Request(
        model,
        output,
        PassOptions(
            tuple(keep),
            lower,
            fold,
            freeze,
            keep_dropout=keep_dropout,
            accept_initial_statistics=accept_initial_statistics,
        ),
        _verify_options(
            seed,
            input_shapes,
            inputs,
            rtol,
            atol,
            providers,
            proof,
            strict_placement=strict_placement,
            assume_constant_initializers=assume_constant_initializers,
        )
        if verify
        else None,
        Reading(strict_external_data, assume_constant_initializers),
        Publishing(dry_run, allow_unverified, keep_failed, layout, checksums),
        NewStatistics(recalibrate, statistics_from, substitute, tuple(substitute_only), data, calibration),
        _one_of("on_mismatch", on_mismatch, ("fail", "rollback")),
        progress,
        asked={
            "verify": verify,
            "allow_unverified": allow_unverified,
            "keep_failed": keep_failed,
            "dry_run": dry_run,
            "seed": seed,
            "input_shapes": {name: list(shape) for name, shape in (input_shapes or {}).items()},
            "inputs": _shown(inputs),
            "rtol": rtol,
            "atol": atol,
            "providers": list(providers),
            "strict_placement": strict_placement,
            "proof": proof,
            "on_mismatch": on_mismatch,
            "keep": list(keep),
            "lower": lower,
            "fold": fold,
            "freeze": freeze,
            "keep_dropout": keep_dropout,
            "accept_initial_statistics": accept_initial_statistics,
            "recalibrate": _shown(recalibrate),
            "calibration": None if calibration is None else calibration.to_dict(),
            "statistics_from": None if statistics_from is None else os.fspath(statistics_from),
            "substitute": substitute,
            "substitute_only": list(substitute_only),
            "data": _shown(data),
            "assume_constant_initializers": assume_constant_initializers,
            "strict_external_data": strict_external_data,
            "layout": None if layout is None else asdict(layout),
        },
    )
    return optimization.optimize(request.telling())


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
    file = read_model(model, strict=strict_external_data)
    found = {}
    summaries: list[ModelSummary] = []

    def look(edited: Model) -> None:
        summaries.append(input_summary(edited, model))
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
    infos = [_info(decision, found.get((decision.scope, decision.node), _BRANCH)) for decision in decisions]
    return Inspection(summaries[0], tuple(infos))


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
    proof: "Proving" = "auto",
    layers: bool = False,
    assume_constant_initializers: bool = False,
) -> "Verification":
    """Run both models on the same feeds and compare every output; the verdict and every measurement.

    The reference runs with onnxruntime's own graph optimizations off, the candidate without and with them. It may also
    be a torch.nn.Module, which is run in eval mode on the inputs of the candidate. `layers` also compares values inside
    the two models, and says which diverges first. `proof` "always": every difference between the two files is proved to
    be rounding as well; "auto": only where onnxruntime cannot run them. In one of the feeds initializers that
    are also inputs are replaced, unless `assume_constant_initializers`.

    Raises UsageError, ModelError or ProviderError; a model that onnxruntime cannot run is a verdict, not an error.
    """
    from bnfold import equivalence

    how: Proving = "instead" if proof == "auto" else proof
    options = _verify_options(
        seed,
        input_shapes,
        inputs,
        rtol,
        atol,
        providers,
        how,
        strict_placement=strict_placement,
        assume_constant_initializers=assume_constant_initializers,
    )
    options = replace(options, layers=layers)
    module = equivalence.is_module(reference)
    for model in [candidate] if module else [reference, candidate]:
        Model(read_model(model, strict=False))  # raises where the structure is not sound
    other = runnable(candidate)
    original = equivalence.ModuleReference.of(reference, other) if module else runnable(reference)
    return equivalence.verify(original, other, options)


# ---------------------------------------------------------------------- verification


def _verify_options(
    seed: int,
    input_shapes: Mapping[str, tuple[int, ...]] | None,
    inputs: "Inputs | None",
    rtol: "Limit | None",
    atol: "Limit | None",
    providers: Iterable[str],
    proof: "Proving",
    *,
    strict_placement: bool,
    assume_constant_initializers: bool,
) -> "VerifyOptions":
    from bnfold.equivalence import Tolerance, VerifyOptions

    return VerifyOptions(
        seed=seed,
        input_shapes=dict(input_shapes or {}),
        inputs=inputs,
        tolerance=Tolerance.of(rtol, atol),
        providers=tuple(providers),
        strict_placement=strict_placement,
        assume_constant_initializers=assume_constant_initializers,
        proof=_one_of("proof", proof, ("auto", "always", "never", "instead")),
    )


def _one_of(name: str, value: Any, words: tuple[str, ...]) -> Any:
    if value not in words:
        raise UsageError(f"{name} is one of {', '.join(words)}, not {value!r}")
    return value


def _shown(data: Any) -> str | bool:
    """Data as the report names it: its path, else whether there is any."""
    return os.fspath(data) if isinstance(data, str | os.PathLike) else data is not None


# ---------------------------------------------------------------------- what is known of a node


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


# A linear operator beside others: it is a branch, and no normalization.
_BRANCH = _Look(Description(Mode.INFERENCE, "", None, None, None), "", "branch", ())


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
