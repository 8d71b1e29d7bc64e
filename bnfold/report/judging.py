"""Judge a saved report again: other tolerances, the same measurements, nothing run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bnfold.errors import UsageError
from bnfold.report.document import GOOD, Document, Measured
from bnfold.report.json_report import to_data

Limit = float | Mapping[str, float]
"""One number for every output, or numbers by output name, with "" for all that are not named."""


_FOUND = ("notes", "feeds", "placements", "proofs", "layers", "seed")
"""What the models showed when they ran, which no tolerance changes."""


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


def judge_report(report: Mapping[str, Any], rtol: Limit | None = None, atol: Limit | None = None) -> Judged:
    """The verdict under these limits; with none at all, under those by element type.

    The new report is the old one with its verdict, judgements and explanation replaced and a note on the limits. Raises
    UsageError where the report holds no verification.
    """
    from bnfold import equivalence

    relative, absolute = _by_output(rtol), _by_output(atol)
    outputs = {
        name: equivalence.Limits(relative.get(name, relative.get("", 0.0)), absolute.get(name, absolute.get("", 0.0)))
        for name in {*relative, *absolute} - {""}
    }
    tolerance = equivalence.Tolerance(relative.get(""), absolute.get(""), outputs)
    saved = report.get("verification")
    if not isinstance(saved, Mapping):
        raise UsageError(f"a report of kind {report['kind']} that compares nothing cannot be judged again")
    found = equivalence.judge_again(saved, tolerance).to_dict()
    verdict = "substituted" if report["verdict"] == "substituted" else found["verdict"]
    explanation = report["explanation"] if verdict == report["verdict"] else found["explanation"]
    taken = {key: value for key, value in found.items() if key not in _FOUND}
    notes = [*saved["notes"], f"Judged again with {_told(relative, absolute)}."]
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


def _by_output(limit: Limit | None) -> Mapping[str, float]:
    return {"": limit} if isinstance(limit, float | int) else limit or {}


def _told(relative: Mapping[str, float], absolute: Mapping[str, float]) -> str:
    limits = [(word, *each) for word, by in (("rtol", relative), ("atol", absolute)) for each in by.items()]
    told = (f"{word} {value:g}{f' for output {name!r}' if name else ''}" for word, name, value in limits)
    return ", ".join(told) or "the tolerances by element type"
