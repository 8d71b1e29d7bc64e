"""Judge a saved report again: other tolerances, the same measurements, nothing run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bnfold.errors import UsageError
from bnfold.report.json_report import to_data
from bnfold.report.report import GOOD

if TYPE_CHECKING:
    from bnfold.options import LimitByOutput
    from bnfold.report.document import Measured

_FOUND = ("notes", "feeds", "sizes", "placements", "proofs", "shown", "by_running_only", "spent", "layers", "seed")
"""The observations of the runs, which no tolerance changes."""


@dataclass(frozen=True)
class Judged:
    """`report`: the data of the report with the new verdict. `changes`: measurements judged otherwise than before."""

    report: Mapping[str, Any]
    before: str
    verdict: str
    changes: "tuple[tuple[Measured, Measured], ...]"

    @property
    def exit_code(self) -> int:
        """0 where the verdict lets a model be published: another function that was asked for stays that."""
        return 0 if self.verdict in (*GOOD, "substituted") else 1


def judge_report(
    report: Mapping[str, Any], rtol: "LimitByOutput | None" = None, atol: "LimitByOutput | None" = None
) -> Judged:
    """The verdict under these limits; with none at all, under those that the report was judged with.

    The new report is the old one with its verdict, judgements and explanation replaced and a note on the limits. Raises
    UsageError where the report holds no verification, or no output that a limit is for.
    """
    from bnfold import equivalence
    from bnfold.report.document import Document

    saved = report.get("verification")
    if not isinstance(saved, Mapping):
        raise UsageError(f"a report of kind {report['kind']} that compares nothing cannot be judged again")
    tolerance = None if rtol is None and atol is None else equivalence.Tolerance.of(rtol, atol)
    again = equivalence.judge_again(saved, tolerance)
    found = again.to_dict()
    verdict = "substituted" if report["verdict"] == "substituted" else found["verdict"]
    explanation = report["explanation"] if verdict == report["verdict"] else found["explanation"]
    taken = {key: value for key, value in found.items() if key not in _FOUND}
    notes = [*saved["notes"], f"Judged again with {again.tolerance}."]
    judged = Judged({}, str(report["verdict"]), verdict, ())
    new = to_data(
        {
            **report,
            "verdict": verdict,
            "exit_code": judged.exit_code,
            "explanation": explanation,
            "verification": {**saved, **taken, "notes": notes},
        }
    )
    pairs = zip(Document.of(report).measured, Document.of(new).measured, strict=True)
    changes = tuple((old, now) for old, now in pairs if old.agrees != now.agrees)
    return Judged(new, judged.before, verdict, changes)
