"""Runs passes in order and collects what they decided. Knows no pass by name."""

from collections.abc import Iterable
from dataclasses import replace

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
            decisions[key] = _last_word(decisions[key], decision) if key in decisions else decision
    model.finish()
    return tuple(decisions.values())


def _last_word(earlier: Decision, later: Decision) -> Decision:
    """Both are said where a later pass went on with what an earlier one froze, or could not."""
    if earlier.action is Action.FROZEN:
        if later.action is Action.KEPT:
            return replace(earlier, reason=later.reason, detail=later.detail)
        detail = "its stored statistics were frozen first"
        return replace(later, detail=f"{detail}; {later.detail}" if later.detail else detail)
    return earlier if later.action is Action.KEPT else later
