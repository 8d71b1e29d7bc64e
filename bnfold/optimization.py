"""One optimization, along a straight line: read, passes, write beside the output, verify that very file.

Where the result differs, the line is gone again with some folds forbidden, to find the guilty ones and, if that was
asked for, to publish the rest. Nothing else goes back.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bnfold.decisions import Action, Decision, Reason, Refused
from bnfold.errors import StatisticsError, VerificationError
from bnfold.graph import Model, paused_collector
from bnfold.onnxfile import Layout, OnnxFile, Publication
from bnfold.passes import PassOptions, default_passes
from bnfold.passes.normalization import is_batch_norm
from bnfold.pipeline import run_on
from bnfold.progress import Progress, Stage
from bnfold.report import GOOD, ModelSummary, Report
from bnfold.sources import AnyModel, destination, is_path, read_model, runnable, same_kind

if TYPE_CHECKING:
    from bnfold.batches import Data
    from bnfold.equivalence import Attribution, Verification, VerifyOptions
    from bnfold.passes import SubstituteBatchNormOptions
    from bnfold.recalibration import Accuracy, Calibration, CalibrationOptions, Fitted
    from bnfold.statistics import Statistics

OnMismatch = Literal["fail", "rollback"]
Place = tuple[str, str]
"""The scope and the label of a normalization."""

_FOLDS = {Action.FOLDED, Action.MERGED, Action.LOWERED}
_CHEAP_BYTES = 64 << 20
"""Up to this size of a model the guilty folds are looked for although nobody asked to roll them back."""
_MOST_TRIALS: dict[OnMismatch, int] = {"fail": 32, "rollback": 200}


@dataclass(frozen=True)
class Result:
    """What `optimize` made: `model` of the kind that was given, or None where it went to a file; and the report.

    A path that was given without an output path gives a ModelProto.
    """

    model: AnyModel
    report: Report


@dataclass(frozen=True)
class Reading:
    """`strict_external_data`: refuse external data behind links. `assume_constant_initializers`: none is overridden."""

    strict_external_data: bool = False
    assume_constant_initializers: bool = False


@dataclass(frozen=True)
class Publishing:
    """`allow_unverified`: publish what could not be compared. `keep_failed`: write what failed beside the output.

    `layout`: where weights go. `checksums`: whether the report holds the sha256 of input and output.
    """

    dry_run: bool = False
    allow_unverified: bool = False
    keep_failed: bool = False
    layout: Layout | None = None
    checksums: bool = True


@dataclass(frozen=True)
class NewStatistics:
    """Where statistics come from: `recalibrate` is data, `statistics_from` a file. `substitute`: another normalization.

    `substitute_only`: patterns of names. `data`: what substitutes are fitted to. `options`: how data is used.
    """

    recalibrate: "Data | str | os.PathLike[str] | None" = None
    statistics_from: str | os.PathLike[str] | None = None
    substitute: str | None = None
    substitute_only: tuple[str, ...] = ()
    data: "Data | str | os.PathLike[str] | None" = None
    options: "CalibrationOptions | None" = None

    @property
    def wanted(self) -> bool:
        """Whether anything of this was asked for."""
        return any(each is not None for each in (self.recalibrate, self.statistics_from, self.substitute))


@dataclass(frozen=True)
class Request:
    """Everything one optimization was asked for.

    `verification`: how the result is verified, None for not at all. `asked`: the options as the report shows them.
    """

    model: AnyModel
    output: str | os.PathLike[str] | None
    passes: PassOptions
    verification: "VerifyOptions | None"
    reading: Reading = field(default_factory=Reading)
    publishing: Publishing = field(default_factory=Publishing)
    statistics: NewStatistics = field(default_factory=NewStatistics)
    on_mismatch: OnMismatch = "fail"
    progress: Progress | None = None
    asked: Mapping[str, Any] = field(default_factory=dict)

    def telling(self) -> "Request":
        """The same with everything that is counted told to `progress`."""
        passes = replace(self.passes, told=self.stage(Stage.NORMALIZATIONS))
        verification = self.verification and replace(self.verification, told=self.stage(Stage.FEEDS))
        return replace(self, passes=passes, verification=verification, statistics=self._statistics_telling())

    def _statistics_telling(self) -> "NewStatistics":
        if not self.statistics.wanted:
            return self.statistics
        from bnfold.recalibration import CalibrationOptions

        options = self.statistics.options or CalibrationOptions()
        return replace(self.statistics, options=replace(options, told=self.stage(Stage.BATCHES)))

    def stage(self, stage: Stage) -> Callable[[int, int], None] | None:
        """Whom to tell how far a stage is."""
        return None if self.progress is None else partial(self.progress, stage)


def optimize(request: Request) -> Result:
    """Do what `request` asks for. Raises what `bnfold.optimize` raises."""
    publishing = request.publishing
    with destination(None if publishing.dry_run else request.output) as publication:
        line = StraightLine(request, publication)
        attempt = line.run()
        attribution = None
        if attempt.verdict == "not-equivalent":
            attribution = guilty_folds(line, attempt)
            attempt = replace(line.run(_forbidden(attribution, request)), has_bug=attempt.has_bug)
        report = _report(request, line, attempt, attribution)
        if report.exit_code:
            if publishing.keep_failed and request.output is not None and not publishing.dry_run:
                publication.keep_as(_failed_name(request.output))
            raise VerificationError(_failure(report, request), report)
        made = None if request.output is not None or publishing.dry_run else same_kind(request.model, attempt.file)
        if report.published is not None:
            publication.publish()
        return Result(made, report)


# ---------------------------------------------------------------------- the line


@dataclass(frozen=True)
class Attempt:
    """One way along the line: what was decided without the `forbidden` folds, written, and found.

    `has_bug`: whether the proof of a fold is broken, here or in the attempt that this one makes up for.
    """

    forbidden: frozenset[Place]
    file: OnnxFile
    decisions: tuple[Decision, ...]
    output: ModelSummary
    weights_moved: bool
    verdict: str
    verification: "Verification | None"
    training_distance: tuple[Mapping[str, Any], ...]
    has_bug: bool = False

    @property
    def folds(self) -> tuple[Place, ...]:
        """The normalizations that are gone."""
        return tuple((each.scope, each.node) for each in self.decisions if each.action in _FOLDS)


class StraightLine:
    """The same way for every attempt: what does not depend on the folds that are forbidden is done once."""

    def __init__(self, request: Request, publication: Publication) -> None:
        self.request = request
        self.publication = publication
        self._input: ModelSummary | None = None
        with paused_collector():
            self._read: OnnxFile | None = self._file()
        self._last: Attempt | None = None
        self._looks_late = True

    @property
    def input(self) -> ModelSummary:
        """What the model was before anything was done with it; known once a run has looked at it."""
        assert self._input is not None
        return self._input

    def run(self, forbidden: frozenset[Place] = frozenset()) -> Attempt:
        """Read, passes, write, verify, with these folds left out. What was written last lies ready to be published."""
        if self._last is None or self._last.forbidden != forbidden:
            self._last = self._run(forbidden)
        return self._last

    def _run(self, forbidden: frozenset[Place]) -> Attempt:
        # The calibration looks at the file as well, and the passes edit it: each attempt takes one of its own.
        passes = self._passes(forbidden)
        with paused_collector():
            try:
                edited, decisions, output, moved = self._written(passes)
            except Refused:  # a weight that turned out to leave its range: look at each before it is folded into
                self._looks_late = False
                edited, decisions, output, moved = self._written(passes)
        verification, distance = self._verified(edited.file, decisions)
        verdict = "not-verified" if verification is None else verification.verdict.value
        if verification is not None and _is_substituted(decisions, passes.substitute, verification):
            verdict = "substituted"
        bug = verification is not None and any(proof.standing == "broken" for proof in verification.proofs)
        return Attempt(forbidden, edited.file, decisions, output, moved, verdict, verification, distance, bug)

    def _written(self, passes: PassOptions) -> tuple[Model, tuple[Decision, ...], ModelSummary, bool]:
        """The edited model, what was decided, what was written, and whether its weights moved to another file."""
        request = self.request
        file, self._read = self._read or self._file(), None
        edited, decisions = run_on(
            file,
            default_passes(passes),
            assume_constant_initializers=request.reading.assume_constant_initializers,
            looks_late=self._looks_late,
            look=self._look,
        )
        self._require_statistics(decisions)
        written = self.publication.write(
            edited.file,
            untouched=not edited.modified,
            layout=request.publishing.layout,
            told=request.stage(Stage.BYTES),
            hashed=request.publishing.checksums,
        )
        nbytes = written.nbytes + sum(path.stat().st_size for path in written.data_files)
        path = None if request.output is None else os.fspath(request.output)
        return edited, decisions, _summary(edited, path, written.sha256 or None, nbytes), written.moved

    def _look(self, untouched: Model) -> None:
        if self._input is None:
            self._input = input_summary(untouched, self.request.model, checksums=self.request.publishing.checksums)

    def _passes(self, forbidden: frozenset[Place]) -> PassOptions:
        return replace(
            self.request.passes,
            statistics=self.new_statistics,
            substitute=self.substitution[0],
            forbidden=forbidden,
        )

    def _file(self) -> OnnxFile:
        return read_model(self.request.model, strict=self.request.reading.strict_external_data)

    # --- new statistics, computed once

    @cached_property
    def calibrated(self) -> "Calibration | None":
        """How new statistics were computed, where they were asked for."""
        wanted = self.request.statistics
        if not wanted.wanted:
            return None
        from bnfold import recalibration

        file, options = self._file(), wanted.options
        if options is not None and wanted.data is not None:
            options = replace(options, labels=None)  # the labels that were asked for are in that data
        return recalibration.calibration(
            file,
            self._untouched(file),
            data=wanted.recalibrate,
            weights=wanted.statistics_from,
            options=options,
            keep=self.request.passes.keep,
        )

    @property
    def new_statistics(self) -> "Mapping[Place, Statistics]":
        """New statistics by scope and label; none where none were asked for."""
        return {} if self.calibrated is None else self.calibrated.statistics

    @cached_property
    def substitution(self) -> "tuple[SubstituteBatchNormOptions | None, tuple[Fitted, ...]]":
        """What is put in the place of BatchNormalization, and how well it was fitted."""
        wanted = self.request.statistics
        if wanted.substitute is None:
            return None, ()
        from bnfold import recalibration

        file = self._file()
        return recalibration.substitution(
            file,
            self._untouched(file),
            wanted.substitute,
            data=wanted.data,
            statistics=self.new_statistics,
            options=wanted.options,
            only=wanted.substitute_only,
            keep=self.request.passes.keep,
        )

    def _untouched(self, file: OnnxFile) -> Model:
        return Model(file, assume_constant_initializers=self.request.reading.assume_constant_initializers)

    def _require_statistics(self, decisions: tuple[Decision, ...]) -> None:
        """Raise StatisticsError where a normalization has nothing to be frozen to."""
        empty = [decision for decision in decisions if decision.reason is Reason.INITIAL_STATISTICS]
        if not empty:
            return
        names = ", ".join(decision.node for decision in empty[:3]) + (", ..." if len(empty) > 3 else "")
        message = (
            f"{len(empty)} normalizations run in training mode with statistics that were never updated ({names}): "
            "compute them with bnfold recalibrate, or pass --accept-initial-statistics if mean 0 and variance 1 are "
            "right"
        )
        report = Report("not-verified", 1, decisions, self.input, explanation=message, options=self.request.asked)
        output = self.request.output
        left = f"; nothing was written to {os.fspath(output)}" if output is not None else ""
        raise StatisticsError(message + left, report)

    def accuracy(self, forbidden: frozenset[Place]) -> "Accuracy | None":
        """The task accuracy before and after, where the data that was given holds labels."""
        wanted = self.request.statistics
        labelled = wanted.recalibrate if wanted.data is None else wanted.data
        if labelled is None:
            return None
        from bnfold import recalibration

        passes = self._passes(forbidden)
        return recalibration.accuracy(self._file(), self.publication.path, labelled, passes, wanted.options)

    # --- the verdict

    def _verified(
        self, file: OnnxFile, decisions: tuple[Decision, ...]
    ) -> "tuple[Verification | None, tuple[Mapping[str, Any], ...]]":
        """The verdict, and how far the input's own training mode is from what was compared."""
        options = self.request.verification
        if options is None:
            return None, ()
        from bnfold import equivalence

        file.release()
        if self.substitution[0] is not None:
            options = replace(options, proof="never")  # another function, on purpose
        elif options.proof == "auto":
            options = replace(options, proof="always")  # of its own folds
        source, candidate = runnable(self.request.model), self.publication.path
        if not (self.request.passes.freeze or self.new_statistics):
            return equivalence.verify(source, candidate, options), ()
        stays = {(decision.scope, decision.node) for decision in decisions if decision.action is Action.KEPT}
        found = equivalence.verify_frozen(source, candidate, options, stays=stays, statistics=self.new_statistics)
        return found.verification, tuple(measurement.to_dict() for measurement in found.training_distance)


def _is_substituted(
    decisions: tuple[Decision, ...], substitution: "SubstituteBatchNormOptions | None", verification: "Verification"
) -> bool:
    """Whether the result differs because that was asked for, and nothing in it is broken: every value is finite."""
    substituted = any(decision.action is Action.SUBSTITUTED for decision in decisions)
    outputs = [measured for measured in verification.measurements if measured.where.stage == "output"]
    sound = bool(outputs) and not any(measured.problem or measured.new_nonfinite for measured in outputs)
    return substitution is not None and substituted and sound


# ---------------------------------------------------------------------- who is guilty


def guilty_folds(line: StraightLine, failed: Attempt) -> "Attribution[Place] | None":
    """The folds without which the result agrees: first among those whose proof is broken, else among all.

    None where nobody asked for a rollback and the model is so large that looking for them is no small matter.
    """
    request = line.request
    affordable = line.input.nbytes <= _CHEAP_BYTES
    if failed.verification is None or not (affordable or request.on_mismatch == "rollback"):
        return None
    from bnfold.equivalence import attribute

    def agrees_without(forbidden: frozenset[Place]) -> bool:
        return line.run(forbidden).verdict in GOOD

    broken = {
        (proof.scope, name)
        for proof in failed.verification.proofs
        if proof.standing == "broken"
        for name in proof.normalizations
    }
    suspects = [place for place in failed.folds if place in broken]
    if suspects:
        found = attribute(suspects, agrees_without)
        if found.cleared:
            return found
    return attribute(failed.folds, agrees_without, _MOST_TRIALS[request.on_mismatch])


def _forbidden(attribution: "Attribution[Place] | None", request: Request) -> frozenset[Place]:
    if attribution is None or not attribution.cleared or request.on_mismatch != "rollback":
        return frozenset()
    return frozenset(attribution.guilty)


# ---------------------------------------------------------------------- the report


_SUBSTITUTED = "Normalizations were substituted on purpose: the result computes another function, as measured above."
_BUG = "This is a bug in bnfold; please report it."


def _report(request: Request, line: StraightLine, attempt: Attempt, attribution: "Attribution[Place] | None") -> Report:
    publishing, verification = request.publishing, attempt.verification
    good = attempt.verdict in (*GOOD, "substituted")
    unverified = publishing.allow_unverified and attempt.verdict == "not-verified"
    accepted = verification is None or good or unverified
    published = accepted and request.output is not None and not publishing.dry_run
    accuracy = line.accuracy(attempt.forbidden)
    return Report(
        verdict=attempt.verdict,
        exit_code=0 if accepted else 1,
        decisions=attempt.decisions,
        input=line.input,
        output=attempt.output,
        published=os.fspath(request.output) if published and request.output is not None else None,
        verification=None if verification is None else verification.to_dict(),
        explanation=_explanation(attempt, attribution, request),
        options=request.asked,
        fitted=tuple(each.to_dict() for each in line.substitution[1]),
        training_distance=attempt.training_distance,
        accuracy=None if accuracy is None else accuracy.to_dict(),
        recalibration=None if line.calibrated is None else line.calibrated.to_dict(),
        weights_moved=attempt.weights_moved,
        attribution=None if attribution is None else _attributed(attribution, attempt),
    )


def _explanation(attempt: Attempt, attribution: "Attribution[Place] | None", request: Request) -> str:
    if attempt.verification is None or request.verification is None:
        return "Verification was switched off."
    if attempt.verdict == "substituted":
        return _SUBSTITUTED
    report_it = f" {_BUG}" if attempt.has_bug else ""
    if attempt.forbidden:
        names = _names(tuple(sorted(attempt.forbidden)))
        return f"Folding {names} made the result differ; that was rolled back, the rest is folded.{report_it}"
    found = attempt.verification.explanation
    if attempt.verdict != "not-equivalent":
        return found
    return f"{found}{_blame(attempt, attribution, request)}{report_it}"


def _blame(attempt: Attempt, attribution: "Attribution[Place] | None", request: Request) -> str:
    if not attempt.folds:
        return ""
    if attribution is None:
        return " To find the fold that is wrong, pass --on-mismatch rollback."
    if not attribution.cleared:
        return " Leaving out folds does not help."
    hint = "" if request.on_mismatch == "rollback" else "; --on-mismatch rollback publishes the rest"
    return f" Without folding {_names(attribution.guilty)} it agrees{hint}."


def _names(places: tuple[Place, ...]) -> str:
    return ", ".join(f"{label} ({scope})" if scope else label for scope, label in places)


def _attributed(attribution: "Attribution[Place]", attempt: Attempt) -> dict[str, Any]:
    return {
        "guilty": [{"node": label, "scope": scope} for scope, label in attribution.guilty],
        "cleared": attribution.cleared,
        "tried": attribution.tried,
        "rolled_back": bool(attempt.forbidden),
    }


def _failure(report: Report, request: Request) -> str:
    output = request.output
    found = "is not equivalent to the input" if report.verdict == "not-equivalent" else "could not be verified"
    left = ""
    if output is not None and not request.publishing.dry_run:
        left = f"; nothing was written to {os.fspath(output)}"
    advice = "" if report.verdict == "not-equivalent" else " (--allow-unverified publishes what nothing speaks against)"
    return f"the result {found}{left}: {report.explanation}{advice}"


def _failed_name(output: str | os.PathLike[str]) -> Path:
    path = Path(output)
    return path.with_name(f"{path.stem}.failed{path.suffix or '.onnx'}")


def input_summary(model: Model, source: AnyModel, *, checksums: bool = True) -> ModelSummary:
    """What a model, which came from `source`, is before anything is done with it."""
    file = model.file
    nbytes = file.nbytes + sum(data.nbytes for data in file.data_files)
    path = os.fspath(source) if is_path(source) else None
    return _summary(model, path, file.sha256() if checksums else None, nbytes)


def _summary(model: Model, path: str | None, sha256: str | None, nbytes: int) -> ModelSummary:
    nodes = [node for graph in model.graphs for node in graph.nodes()]
    proto = model.proto
    versions = {opset.domain: opset.version for opset in proto.opset_import}
    return ModelSummary(
        path=path,
        sha256=sha256,
        nbytes=nbytes,
        nodes=len(nodes),
        batch_normalizations=sum(map(is_batch_norm, nodes)),
        opset=versions.get("", versions.get("ai.onnx", 1)),
        ir_version=proto.ir_version,
    )
