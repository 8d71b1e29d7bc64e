"""The protocol of a pass, as the pipeline asks for it."""

from enum import StrEnum
from typing import Protocol

from bnfold.decisions import Decision
from bnfold.graph import Model


class Preserves(StrEnum):
    """The promise of a pass, which decides what the result is compared with.

    Every bit; the function in real arithmetic (rounding differs); what the model computes in evaluation, with the
    statistics that it has or is given; or nothing: another function that was asked for, whose change is measured.
    """

    EXACT = "exact"
    ALGEBRAIC = "algebraic"
    EVALUATION = "evaluation"
    NOTHING = "nothing"


class Pass(Protocol):
    """One rewrite of a whole model: any object with these three.

    >>> from bnfold.graph import Model
    >>> class DropIdentity:
    ...     name = "drop-identity"
    ...     preserves = "exact"
    ...
    ...     def run(self, model: Model) -> list[Decision]:
    ...         for graph in model.graphs:
    ...             for node in graph.nodes():
    ...                 if node.op_type == "Identity" and graph.can_bypass(node, toward_producer=False):
    ...                     graph.bypass(node, toward_producer=False)
    ...         return []
    >>> import bnfold
    >>> bnfold.optimize("in.onnx", "out.onnx", passes=["default", DropIdentity()]).report.verdict
    'equivalent'

    Its options are its own: where it is a frozen dataclass, its fields are what ``--pass script.py:NAME:a=1`` sets.
    """

    @property
    def name(self) -> str:
        """Kebab-case; the word for the pass in reports."""

    @property
    def preserves(self) -> Preserves:
        """The promise of the rewrite: one of `Preserves`, or its word."""

    def run(self, model: Model) -> list[Decision]:
        """Edit `model` through its graphs; one decision per normalization that the pass dealt with, or none at all."""
