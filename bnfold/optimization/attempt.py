"""One attempt: read, passes, write, verify, as a function of what is asked for and which folds are forbidden.

What does not depend on the forbidden folds is prepared once. The output of the latest attempt lies ready to be
published.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from bnfold.decisions import Action, Decision, Reason, Refused
from bnfold.errors import StatisticsError
from bnfold.graph import Evaluations, Model, paused_collector
from bnfold.onnxfile import OnnxFile, Publication
from bnfold.optimization.existing_output import ExistingOutput, existing_output
from bnfold.optimization.notes import note_on_data, notes_on
from bnfold.optimization.request import Request, refuse_overwriting
from bnfold.optimization.summary import input_summary, output_summary, stored_values
from bnfold.options import VerifyOptions
from bnfold.passes import PassOptions, Preserves, default_passes
from bnfold.paths import require_utf8
from bnfold.pipeline import Ran, Step, UnsoundStepError, is_own, run_all
from bnfold.progress import Stage
from bnfold.records import Record
from bnfold.report import GOOD, ModelSummary, Report
from bnfold.sources import is_path, read_model

if TYPE_CHECKING:
    from bnfold.equivalence import GivenModel, Verification
    from bnfold.passes import SubstituteBatchNormOptions
    from bnfold.recalibration import Calibration, Fitted
    from bnfold.rewriting import AnyPass, Asked
    from bnfold.statistics import Statistics

Fold = tuple[str, str]
"""A normalization that a pass takes away: its scope and its label."""
Suspect = Fold | Step
"""A change that can be left out: one fold of a pass of bnfold's own, or another pass as a whole."""

_FOLDS = {Action.FOLDED, Action.MERGED, Action.LOWERED}


def folds_of(suspects: Iterable[Suspect]) -> frozenset[Fold]:
    """The suspects that are single folds."""
    return frozenset(each for each in suspects if not isinstance(each, Step))


class Setup(NamedTuple):
    """The common part of all attempts. `file`: the input as it was read, never edited. `asked`: makes the passes.

    `fitted`: how well substitutes were fitted, before and after.
    """

    request: Request
    publication: Publication
    file: OnnxFile
    calibration: "Calibration | None" = None
    substitute: "SubstituteBatchNormOptions | None" = None
    fitted: "tuple[Fitted, ...]" = ()
    existing: ExistingOutput | None = None
    asked: "tuple[Asked, ...] | None" = None

    @property
    def statistics(self) -> "Mapping[Fold, Statistics]":
        """New statistics by scope and label; none where none were asked for."""
        return {} if self.calibration is None else self.calibration.statistics

    def options(self, forbidden: frozenset[Fold] = frozenset()) -> PassOptions:
        """The options of the passes, without the `forbidden` folds."""
        return replace(self.request.passes, statistics=self.statistics, substitute=self.substitute, forbidden=forbidden)

    def passes(self, forbidden: frozenset[Fold] = frozenset()) -> "list[AnyPass]":
        """The passes in order."""
        options = self.options(forbidden)
        if self.asked is None:
            return list(default_passes(options))
        return [each for make in self.asked for each in make(options)]

    def copy_of_input(self) -> OnnxFile:
        """The input to edit: a structure of its own over the same bytes."""
        return self.file.copy()


class Attempt(Record):
    """One attempt without the `forbidden` suspects: its decisions, its file and its verdict.

    `input`, `output`: both models in numbers. `looked_late`: whether weights were looked at while they were written.
    `has_bug`: whether the proof of a fold is broken, here or in the attempt that this one makes up for. `ran`: what
    each pass did. `unsound`: passes that were left out since they made what is no sound model, and why it is none.
    `notes`: sentences on the model as a whole.
    """

    forbidden: frozenset[Suspect]
    file: OnnxFile
    ran: tuple[Ran, ...]
    decisions: tuple[Decision, ...]
    input: ModelSummary
    output: ModelSummary
    weights_moved: bool
    looked_late: bool
    verdict: str = "not-verified"
    verification: "Verification | None" = None
    training_distance: tuple[Mapping[str, Any], ...] = field(default=())
    has_bug: bool = False
    foreign: frozenset[Step] = frozenset()
    unsound: Mapping[Step, str] = field(default_factory=dict)
    stored: tuple[Fold, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def suspects(self) -> tuple[Suspect, ...]:
        """The suspects in the order of the passes: folds of bnfold's own, and other passes that changed anything."""
        found: dict[Suspect, None] = {}
        for each in self.ran:
            if each.step in self.foreign:
                found |= {each.step: None} if each.changes else {}
            else:
                found |= {(one.scope, one.node): None for one in each.decisions if one.action in _FOLDS}
        return tuple(found)


def prepared(request: Request, publication: Publication) -> Setup:
    """The input, where its result may go, and what is computed from data where that is asked for.

    Raises UsageError where the result would be written over something that is read, or over another model.
    """
    options = request.options
    if options.verify:
        if is_path(request.model):
            require_utf8(request.model, "MODEL")
        if request.target is not None:
            require_utf8(request.target, "OUTPUT")
    with paused_collector():
        file = read_model(request.model, strict=options.strict_external_data)
        file.known_sha256 = options.known_sha256
    refuse_overwriting(request, file)
    setup = Setup(request, publication, file, existing=existing_output(request, file))
    if options.passes is not None:
        from bnfold.rewriting import asked_passes

        setup = setup._replace(asked=tuple(asked_passes(options.passes)))
    if options.recalibrate is None and options.statistics_from is None and options.substitute is None:
        return setup
    from bnfold import recalibration

    on_progress = request.stage(Stage.BATCHES)
    if options.recalibrate is not None or options.statistics_from is not None:
        file, how = setup.copy_of_input(), options.calibration
        if how is not None and options.data is not None:
            how = replace(how, labels=None)  # the labels that were asked for are in that data
        calibration = recalibration.calibration(
            file,
            _untouched(file, request),
            data=options.recalibrate,
            weights=options.statistics_from,
            options=how,
            keep=options.keep,
            on_progress=on_progress,
        )
        setup = setup._replace(calibration=calibration)
    if options.substitute is not None:
        file = setup.copy_of_input()
        substitute, fitted = recalibration.substitution(
            file,
            _untouched(file, request),
            options.substitute,
            data=options.data,
            statistics=setup.statistics,
            options=options.calibration,
            only=options.substitute_only,
            keep=options.keep,
            on_progress=on_progress,
        )
        setup = setup._replace(substitute=substitute, fitted=fitted)
    return setup


def _untouched(file: OnnxFile, request: Request) -> Model:
    return Model(file, assume_constant_initializers=request.options.assume_constant_initializers)


def attempt(setup: Setup, forbidden: frozenset[Suspect] = frozenset(), *, looks_late: bool = True) -> Attempt:
    """Passes, write, verify, with these folds and passes left out. Raises what `bnfold.optimize` raises.

    Without `looks_late` each weight is looked at before something is folded into it; with it that happens while the
    model is written, and once more from the beginning where one would leave the range of its type.
    """
    if not setup.request.options.verify:
        with paused_collector():
            return _made(setup, forbidden, lambda: None, looks_late=looks_late)
    from bnfold.equivalence import GivenModel

    source = GivenModel.of(setup.file)
    with _loaded_beside(setup, forbidden, source) as load:
        with paused_collector():
            made = _made(setup, forbidden, partial(load, source), looks_late=looks_late)
        candidate = GivenModel.of(setup.publication.path)
        load(candidate)
        return _verified(setup, made, source, candidate)


def _made(setup: Setup, forbidden: frozenset[Suspect], load: Callable[[], None], *, looks_late: bool) -> Attempt:
    try:
        return _written(setup, setup.copy_of_input(), forbidden, load, looks_late=looks_late)
    except Refused:
        if not looks_late:
            raise
        return _written(setup, setup.copy_of_input(), forbidden, load, looks_late=False)


def _loaded_beside(
    setup: Setup, forbidden: frozenset[Suspect], source: "GivenModel"
) -> "AbstractContextManager[Callable[[GivenModel], None]]":
    """What loads a model in onnxruntime beside what is done, where that is what the verification begins with.

    Not where another model stands for the input: with new statistics, or another function on purpose.
    """
    if setup.asked is not None or setup.statistics or setup.substitute is not None or forbidden:
        return nullcontext(lambda _: None)
    from bnfold import equivalence

    return equivalence.sessions_ahead(source, VerifyOptions.of(setup.request.options))


def _written(
    setup: Setup, file: OnnxFile, forbidden: frozenset[Suspect], load: Callable[[], None], *, looks_late: bool
) -> Attempt:
    """The attempt as far as the written file. A pass that makes what is no sound model is left out as well.

    `load` is called when the input is known to be sound.
    """
    request, options = setup.request, setup.request.options
    skipped = frozenset(each for each in forbidden if isinstance(each, Step))
    passes = setup.passes(folds_of(forbidden))
    foreign = frozenset(Step(at, each.name) for at, each in enumerate(passes) if not is_own(each))
    looks_late = looks_late and not foreign  # who is handed a model looks at its weights before it is written
    unsound: dict[Step, str] = {}
    summaries: list[ModelSummary] = []
    inputs: list[OnnxFile] = []
    hashed = options.checksums and not forbidden

    def look(untouched: Model) -> None:
        summaries.append(input_summary(untouched, request.model))
        if hashed:
            inputs.append(untouched.file)
            untouched.file.start_hash()  # it is computed while the passes work and the result is written
        load()

    evaluations = Evaluations() if options.verify else None
    while True:
        try:
            outcome = run_all(
                file,
                passes,
                skipped=skipped | unsound.keys(),
                look=look,
                assume_constant_initializers=options.assume_constant_initializers,
                looks_late=looks_late,
                evaluations=evaluations,
                as_read=setup.file.proto,
            )
        except UnsoundStepError as error:
            unsound[error.of] = str(error)
        else:
            if evaluations is None or not (outcome.modified and _contradict(evaluations)):
                break
        file = setup.copy_of_input()
    edited, decisions = outcome.model, outcome.decisions
    _require_statistics(request, decisions, summaries[0])
    written = setup.publication.write(
        edited.file,
        untouched=not outcome.modified,
        layout=options.layout,
        progress=request.stage(Stage.BYTES),
        hashed=options.checksums,
    )
    if setup.existing is not None and request.options.on_mismatch == "fail":  # nothing else will be published
        setup.existing.require_made_from_input(edited.file, written.path)
    return Attempt(
        forbidden=forbidden,
        file=edited.file,
        ran=outcome.ran,
        decisions=decisions,
        input=replace(summaries[0], sha256=inputs[-1].sha256()) if hashed else summaries[0],
        output=output_summary(edited, written, request.output),
        weights_moved=written.moved,
        looked_late=looks_late,
        foreign=foreign,
        unsound=unsound,
        notes=(*notes_on(edited, decisions), *note_on_data(options.layout, written), *_costs(passes, setup.file)),
        stored=stored_values(edited),
    )


def _costs(passes: "Sequence[AnyPass]", file: OnnxFile) -> Iterator[str]:
    """The costs of passes that get the whole model, where they are high, in one sentence each."""
    for each in passes:
        sentence = each.cost(file) if hasattr(each, "cost") else ""
        if sentence:
            yield sentence


def _contradict(evaluations: Evaluations) -> bool:
    """Whether the runtime contradicts a constant that was believed: then it is in dispute from now on."""
    believed, evaluations.believed = evaluations.believed, []
    if not believed:
        return False
    from bnfold import equivalence

    found = equivalence.contradictions(believed)
    evaluations.contradicted |= found
    return bool(found)


def _require_statistics(request: Request, decisions: tuple[Decision, ...], before: ModelSummary) -> None:
    """Raise StatisticsError where a normalization has nothing to be frozen to."""
    empty = [decision for decision in decisions if decision.reason is Reason.INITIAL_STATISTICS]
    if not empty:
        return
    names = ", ".join(decision.node for decision in empty[:3]) + (", ..." if len(empty) > 3 else "")
    message = (
        f"{len(empty)} normalizations run in training mode with statistics that were never updated ({names}): "
        "compute them with bnfold recalibrate, or pass --accept-initial-statistics if mean 0 and variance 1 are right"
    )
    report = Report("not-verified", 1, decisions, before, explanation=message, options=request.options.to_dict())
    left = "" if request.output is None else f"; nothing was written to {os.fspath(request.output)}"
    raise StatisticsError(message + left, report)


def _verified(setup: Setup, made: Attempt, source: "GivenModel", candidate: "GivenModel") -> Attempt:
    """The attempt with its verdict. What the passes preserve decides what the result is compared with, and how."""
    from bnfold import equivalence

    made.file.release()
    promised = {each.preserves for each in made.ran if not each.skipped}
    foreign = any(each.step in made.foreign and each.changes for each in made.ran)
    options, on_progress = VerifyOptions.of(setup.request.options), setup.request.stage(Stage.FEEDS)
    if Preserves.NOTHING in promised:
        options = replace(options, proof="never")  # another function, on purpose
    elif options.proof == "auto" and not foreign:
        options = replace(options, proof="always")  # what is wrong with a fold of its own is not for limits to excuse
    distance: tuple[Mapping[str, Any], ...] = ()
    if Preserves.EVALUATION in promised:
        stays = {(decision.scope, decision.node) for decision in made.decisions if decision.action is Action.KEPT}
        frozen = equivalence.verify_frozen(
            source,
            candidate,
            options,
            stays=stays,
            statistics=setup.statistics,
            assume_spatial=setup.request.options.assume_spatial,
            on_progress=on_progress,
        )
        found = frozen.verification
        distance = tuple(measurement.to_dict() for measurement in frozen.training_distance)
    else:
        found = equivalence.verify(source, candidate, options, on_progress=on_progress)
    if setup.request.check is not None and found.verdict.value in GOOD:
        origin = setup.request.check(setup.publication.path)
        found = found if origin.verdict.value in GOOD else origin
    on_purpose = Preserves.NOTHING in promised and _is_substituted(made, found)
    verdict = "substituted" if on_purpose else found.verdict.value
    bug = not foreign and any(proof.standing == "broken" for proof in found.proofs)
    return replace(made, verdict=verdict, verification=found, training_distance=distance, has_bug=bug)


def _is_substituted(made: Attempt, found: "Verification") -> bool:
    """Whether the result differs because that was asked for, and nothing in it is broken: every value is finite."""
    if not any(decision.action is Action.SUBSTITUTED for decision in made.decisions):
        return False
    outputs = [measured for measured in found.measurements if measured.where.stage == "output"]
    return bool(outputs) and not any(measured.problem or measured.new_nonfinite for measured in outputs)
