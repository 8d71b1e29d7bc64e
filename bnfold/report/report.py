"""One run of bnfold as data: everything the renderers show, and nothing they would have to compute."""

from collections.abc import Mapping
from dataclasses import field
from typing import TYPE_CHECKING, Any, ClassVar, Self

from bnfold import __version__
from bnfold.decisions import Decision
from bnfold.records import Record
from bnfold.report.brief import report_line, report_table
from bnfold.report.environment import this_environment

if TYPE_CHECKING:
    from bnfold.equivalence import Verification

# Raised whenever a key changes its meaning or goes away; new keys alone do not raise it.
FORMAT_VERSION = 1

GOOD = ("equivalent", "proved")
"""The verdicts that let a model be published without anybody asking for it."""


class ModelSummary(Record):
    """A model in the numbers that a person compares before and after.

    `path` is None for a model that was never a file. `nbytes` counts the model file and its external data;
    `sha256` (lower-case hex) is that of the model file alone, None where it was not computed. `nodes` and
    `batch_normalizations` count every scope. `opset` is the version of the default ONNX operator set.
    """

    path: str | None
    sha256: str | None
    nbytes: int
    nodes: int
    batch_normalizations: int
    opset: int
    ir_version: int

    def to_dict(self) -> dict[str, Any]:
        """The summary as the JSON report writes it."""
        return {
            "path": self.path,
            "sha256": self.sha256,
            "bytes": self.nbytes,
            "nodes": self.nodes,
            "batch_normalizations": self.batch_normalizations,
            "opset": self.opset,
            "ir_version": self.ir_version,
        }


class Report(Record):
    """The report of one optimization.

    `verdict` is the word of `bnfold.equivalence.Verdict`, `explanation` one sentence on it ("" where it needs none).
    `output` describes the optimized model even where it was not published; `published` is the path it was published
    at, or None. `verification` is `Verification.to_dict()`, or None where verification was switched off.
    `options` are the options the run was asked for, JSON-able. `training_distance`: where the input ran in training
    mode, how far that is from evaluation, as `Measurement.to_dict()` per output. `recalibration`: where new statistics
    were computed, how, and how far each normalization drifted. `fitted`: how far each substitute was from the
    normalization before and after it was fitted. `accuracy`: where the data held labels, how many were answered
    rightly before and after. `attribution`: where the result differed, the `guilty` folds (`node`, `scope`), whether it
    agrees without them (`cleared`), how many models were `tried`, and whether the guilty were `rolled_back`.
    `passes`: those that ran, in order, with what each `preserves` and `changes`, its time and its own verdict. `notes`:
    sentences on what a person should know beside all that, such as a pattern that matches nothing. `environment`:
    what the run was made with, this process where it is None.
    """

    kind: ClassVar[str] = "optimize"

    verdict: str
    exit_code: int
    decisions: tuple[Decision, ...]
    input: ModelSummary
    output: ModelSummary | None = None
    published: str | None = None
    verification: Mapping[str, Any] | None = None
    explanation: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    version: str = __version__
    training_distance: tuple[Mapping[str, Any], ...] = ()
    recalibration: Mapping[str, Any] | None = None
    fitted: tuple[Mapping[str, Any], ...] = ()
    accuracy: Mapping[str, Any] | None = None
    weights_moved: bool = False
    attribution: Mapping[str, Any] | None = None
    environment: Mapping[str, Any] | None = None
    passes: tuple[Mapping[str, Any], ...] = ()
    notes: tuple[str, ...] = ()
    stored: tuple[Mapping[str, str], ...] = ()

    def __str__(self) -> str:
        """One line."""
        return report_line(self)

    def __repr__(self) -> str:
        return f"<Report {self}>"

    def _repr_html_(self) -> str:
        """A notebook's view of it."""
        return report_table(self)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-able data, the keys in the order a person would read them."""
        return _header(self.kind, self.verdict, self.exit_code, self.explanation, self.version) | {
            "input": self.input.to_dict(),
            "output": None if self.output is None else self.output.to_dict(),
            "published": self.published,
            "weights_moved": self.weights_moved,
            "passes": [dict(each) for each in self.passes],
            "notes": list(self.notes),
            "decisions": [decision.to_dict() for decision in self.decisions],
            "stored": [dict(each) for each in self.stored],
            "verification": None if self.verification is None else dict(self.verification),
            "attribution": None if self.attribution is None else dict(self.attribution),
            "training_distance": [dict(measurement) for measurement in self.training_distance],
            "recalibration": None if self.recalibration is None else dict(self.recalibration),
            "fitted": [dict(each) for each in self.fitted],
            "accuracy": None if self.accuracy is None else dict(self.accuracy),
            "options": dict(self.options),
            "environment": dict(this_environment() if self.environment is None else self.environment),
        }


class ComparisonReport(Record):
    """The report of one comparison; `verification` is `Verification.to_dict()`."""

    kind: ClassVar[str] = "verify"

    verdict: str
    exit_code: int
    reference: str
    candidate: str
    verification: Mapping[str, Any]
    explanation: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    version: str = __version__
    environment: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, verification: "Verification", reference: str, candidate: str, options: Mapping[str, Any]) -> Self:
        """The report of a verification of `candidate` against `reference`: exit code 0 only if equal."""
        return cls(
            verdict=verification.verdict,
            exit_code=0 if verification.verdict in ("equivalent", "proved") else 1,
            reference=reference,
            candidate=candidate,
            verification=verification.to_dict(),
            explanation=verification.explanation,
            options=options,
        )

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-able data."""
        return _header(self.kind, self.verdict, self.exit_code, self.explanation, self.version) | {
            "reference": self.reference,
            "candidate": self.candidate,
            "verification": dict(self.verification),
            "options": dict(self.options),
            "environment": dict(this_environment() if self.environment is None else self.environment),
        }


class FailureReport(Record):
    """A run that ended in an error before there was anything to report on.

    It is written to the same file, so that nobody takes the report of an earlier run for that of this one.
    """

    kind: ClassVar[str] = "failure"

    error: str
    message: str
    exit_code: int
    version: str = __version__
    environment: Mapping[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The failure as JSON-able data: nothing was verified, nothing was published."""
        return _header(self.kind, "not-verified", self.exit_code, self.message, self.version) | {
            "error": self.error,
            "published": None,
            "decisions": [],
            "environment": dict(this_environment() if self.environment is None else self.environment),
        }


AnyReport = Report | ComparisonReport | FailureReport


def _header(kind: str, verdict: str, exit_code: int, explanation: str, version: str) -> dict[str, Any]:
    return {
        "format": FORMAT_VERSION,
        "bnfold": version,
        "kind": kind,
        "verdict": str(verdict),
        "exit_code": exit_code,
        "explanation": explanation,
    }
