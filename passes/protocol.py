"""What the pipeline asks of a pass."""

from enum import StrEnum
from typing import Protocol

from bnfold.decisions import Decision
from bnfold.graph import Model


class Preserves(StrEnum):
    """What stays the same, and so what the result is compared with.

    Every bit; the function in real arithmetic (rounding differs); what the model computes in evaluation, with the
    statistics that it has or is given; or nothing: another function that was asked for, whose change is measured.
    """

    EXACT = "exact"
    ALGEBRAIC = "algebraic"
    EVALUATION = "evaluation"
    NOTHING = "nothing"


class Pass(Protocol):
    """One rewrite of a whole model."""

    @property
    def name(self) -> str:
        """Kebab-case; the same word in the file name, the class name, the command line and the report."""

    @property
    def preserves(self) -> Preserves:
        """What the rewrite promises."""

    def run(self, model: Model) -> list[Decision]:
        """Edit `model` through its graphs; one decision per normalization the pass looked at."""
