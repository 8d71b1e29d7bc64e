"""The verdict on two models, and everything it rests on."""

from collections.abc import Mapping
from dataclasses import field
from enum import StrEnum
from html import escape
from typing import TYPE_CHECKING, Any

from bnfold.equivalence.judging.evidence import ProofRule
from bnfold.equivalence.judging.measurement import Measurement
from bnfold.equivalence.judging.noise import Noise
from bnfold.equivalence.judging.tolerance import Judgement, Tolerance
from bnfold.equivalence.proofs.piece import Proof, Standing
from bnfold.equivalence.runtime.providers import Placement
from bnfold.records import Record

if TYPE_CHECKING:
    from bnfold.equivalence.judging.first_divergence import Layers


_MOST_ROWS = 20
"""Outputs in a notebook's table; the others are counted below it."""


class Verdict(StrEnum):
    """The verdict on the candidate. Only the first and the last allow publishing it."""

    EQUIVALENT = "equivalent"
    NOT_EQUIVALENT = "not-equivalent"
    NOT_VERIFIED = "not-verified"
    PROVED = "proved"


class Verification(Record):
    """The verdict and everything it rests on. `judgements` and `noises` belong to `measurements`, one to one.

    `explanation`: one sentence on why the candidate is not equivalent or was not verified, "" otherwise. `largest`:
    the worst measurement. `notes`: what was tried and could not be compared. `feeds`: with the seed they can be
    replayed. `sizes`: how the size of each dynamic dimension was found. `placements`: which provider ran which
    operators, where a provider other than cpu was asked for.
    Measurements at precision "deploy" are shown beside the verdict and do not decide it.
    `proofs`: one per change, and `shown`, in a sentence, how many changes there are and which of them is proved.
    `spent`: how many changes were proved and sessions made, how often what was run, and about how much work that is, in
    million products. `proof_rule`: when a broken proof overrules outputs that agree. `tolerance`: the one that judged.
    `layers`: where that was asked for, what values inside the models say.
    """

    verdict: Verdict
    measurements: tuple[Measurement, ...] = ()
    judgements: tuple[Judgement, ...] = ()
    noises: tuple[Noise | None, ...] = ()
    explanation: str = ""
    largest: Measurement | None = None
    notes: tuple[str, ...] = ()
    feeds: tuple[Mapping[str, Any], ...] = ()
    sizes: tuple[str, ...] = ()
    placements: tuple[Placement, ...] = ()
    proofs: tuple[Proof, ...] = ()
    seed: int = 0
    tolerance: Tolerance = field(default_factory=Tolerance)
    layers: "Layers | None" = None
    shown: str = ""
    proof_rule: ProofRule = ProofRule.ALWAYS
    spent: Mapping[str, int] = field(default_factory=dict)

    @property
    def by_running_only(self) -> tuple[Proof, ...]:
        """The changes that are neither proved nor refuted: only running the models has compared them."""
        return tuple(proof for proof in self.proofs if proof.standing is Standing.UNDECIDED)

    def __str__(self) -> str:
        """The verdict, and why, or how large the largest deviation is."""
        found = self.explanation
        if not found and self.largest is not None:
            found = f"largest deviation {self.largest.max_abs:.3g} in {self.largest.where}"
        return f"{self.verdict}: {found}" if found else self.verdict.value

    def __repr__(self) -> str:
        return f"<Verification {self}>"

    def _repr_html_(self) -> str:
        """A notebook's view of it: the verdict, and the worst measurement of each output."""
        rows = [("output", "feed", "provider", "largest deviation", "of the largest value")]
        outputs = [each for each in self.measurements if each.where.stage == "output"]
        worst: dict[str, Measurement] = {}
        for each in sorted(outputs, key=lambda each: -each.max_abs):
            worst.setdefault(each.where.output, each)
        for name, each in list(worst.items())[:_MOST_ROWS]:
            place = repr(name)[1:-1], each.where.feed, f"{each.where.provider}, optimization {each.where.optimization}"
            rows.append((*place, each.problem or f"{each.max_abs:.3g}", "" if each.problem else f"{each.relative:.3g}"))
        more = f"<p>and {len(worst) - _MOST_ROWS} more outputs</p>" if len(worst) > _MOST_ROWS else ""
        cells = ("".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows)
        table = f"<table>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>" if worst else ""
        return f"<p><b>{escape(self.verdict.value)}</b> {escape(self.explanation)}</p>{table}{more}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; the inverse for a single measurement is `Measurement.from_dict`."""
        return {
            "verdict": self.verdict.value,
            "explanation": self.explanation,
            "measurements": [
                measured.to_dict() | {"judgement": judged.to_dict(), "noise": noise.to_dict() if noise else None}
                for measured, judged, noise in zip(self.measurements, self.judgements, self.noises, strict=True)
            ],
            "largest": self.largest.to_dict() if self.largest else None,
            "notes": list(self.notes),
            "feeds": [dict(feed) for feed in self.feeds],
            "sizes": list(self.sizes),
            "placements": [found.to_dict() for found in self.placements],
            "proofs": [proof.to_dict() for proof in self.proofs],
            "shown": self.shown,
            "proof_rule": self.proof_rule.value,
            "spent": dict(self.spent),
            "by_running_only": [
                {"output": proof.output, "scope": proof.scope, "nodes": list(proof.nodes), "reason": proof.reason}
                for proof in self.by_running_only
            ],
            "seed": self.seed,
            "tolerance": self.tolerance.to_dict(),
            "layers": self.layers.to_dict() if self.layers else None,
        }
