"""Runs passes in order and collects what they decided. Knows no pass by name."""

from collections.abc import Iterable

from bnfold.decisions import Action, Decision
from bnfold.graph import Model
from bnfold.passes import Pass


def run_passes(model: Model, passes: Iterable[Pass]) -> tuple[Decision, ...]:
    """Edit `model` by each pass in turn and finish the edits; one decision per normalization, in order of first sight.

    A later pass may do more with what an earlier one changed or kept, and then has the last word.
    """
    decisions: dict[tuple[str, str], Decision] = {}
    for each in passes:
        for decision in each.run(model):
            key = (decision.scope, decision.node)
            if key not in decisions or decision.action is not Action.KEPT:
                decisions[key] = decision
    model.finish()
    return tuple(decisions.values())
