"""Judge a saved report again: other tolerances, the same measurements, nothing run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bnfold.errors import UsageError
from bnfold.report.document import GOOD, Document, Measured
from bnfold.report.json_report import to_data

Limits = Mapping[str, float]


@dataclass(frozen=True)
class Judged:
    """`report`: the data of the report with the new verdict. `changes`: measurements judged otherwise than before."""

    report: Mapping[str, Any]
    before: str
    verdict: str
    changes: tuple[tuple[Measured, Measured], ...]

    @property
    def exit_code(self) -> int:
        """0 where the verdict lets a model be published: another function that was asked for stays that."""
        return 0 if self.verdict in (*GOOD, "substituted") else 1


def judge_report(report: Mapping[str, Any], rtol: Limits, atol: Limits) -> Judged:
    """The verdict under these limits, by output and "" for the others; with none at all, those by element type.

    The new report is the old one with its verdict, judgements and explanation replaced and a note on the limits. Raises
    UsageError where the report holds no verification.
    """
    from bnfold import equivalence

    outputs = {name: equivalence.Limits(*_both(rtol, atol, name)) for name in {*rtol, *atol} - {""}}
    tolerance = equivalence.Tolerance(rtol.get(""), atol.get(""), outputs)
    saved = report.get("verification")
    if not isinstance(saved, Mapping):
        raise UsageError(f"a report of kind {report['kind']} that compares nothing cannot be judged again")
    found = equivalence.judge_again(saved, tolerance).to_dict()
    verdict = "substituted" if report["verdict"] == "substituted" else found["verdict"]
    explanation = report["explanation"] if verdict == report["verdict"] else found["explanation"]
    kept = {key: found[key] for key in ("verdict", "explanation", "measurements", "largest")}
    notes = [*saved["notes"], f"Judged again with {_told(rtol, atol)}."]
    judged = Judged({}, str(report["verdict"]), verdict, ())
    new = to_data(
        {
            **report,
            "verdict": verdict,
            "exit_code": judged.exit_code,
            "explanation": explanation,
            "verification": {**saved, **kept, "notes": notes},
        }
    )
    pairs = zip(Document.of(report).measured, Document.of(new).measured, strict=True)
    changes = tuple((old, now) for old, now in pairs if old.agrees != now.agrees)
    return Judged(new, judged.before, verdict, changes)


def _both(rtol: Limits, atol: Limits, name: str) -> tuple[float, float]:
    return rtol.get(name, rtol.get("", 0.0)), atol.get(name, atol.get("", 0.0))


def _told(rtol: Limits, atol: Limits) -> str:
    limits = [(word, name, value) for word, by in (("rtol", rtol), ("atol", atol)) for name, value in by.items()]
    told = (f"{word} {value:g}{f' for output {name!r}' if name else ''}" for word, name, value in limits)
    return ", ".join(told) or "the tolerances by element type"
