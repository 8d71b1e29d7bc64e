"""Runs passes in order and collects what they decided. Knows no pass by name."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial

from onnx import ModelProto

from bnfold.decisions import Action, Decision, Reason
from bnfold.graph import Evaluations, Model, inlined
from bnfold.onnxfile import OnnxFile
from bnfold.passes import Pass

# What a pass did that a later one may go on with.
_FIRST = {
    Action.FROZEN: "its stored statistics were frozen first",
    Action.RECALIBRATED: "its statistics were computed anew first",
}


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
    if earlier.action in _FIRST:
        if later.action is Action.KEPT:
            return replace(earlier, reason=later.reason, detail=later.detail)
        detail = earlier.detail or _FIRST[earlier.action]
        return replace(later, detail=f"{detail}; {later.detail}" if later.detail else detail)
    return earlier if later.action is Action.KEPT else later


# Why a normalization in a function may be kept although its callers know better.
_CALLER_KNOWS = frozenset(
    {
        Reason.PARAMETER_NOT_CONSTANT,
        Reason.WEIGHT_NOT_CONSTANT,
        Reason.BIAS_NOT_CONSTANT,
        Reason.ATTRIBUTE_OF_CALLER,
        Reason.GRAPH_INPUT,
        Reason.VALUE_IS_OUTPUT,
        Reason.SHAPE_UNKNOWN,
    }
)


def run_on(
    file: OnnxFile,
    passes: Sequence[Pass],
    *,
    assume_constant_initializers: bool = False,
    looks_late: bool = False,
    look: Callable[[Model], None] = lambda _: None,
    evaluations: Evaluations | None = None,
) -> tuple[Model, tuple[Decision, ...]]:
    """Run `passes` on the model in `file`; the edited model and the decisions. `look` sees it before it is edited.

    With `looks_late` writing the model may raise `Refused`: then a weight that was folded into has left the range of
    its type, and the passes must run again without. `evaluations`: see `Model`.

    Where a normalization stays in the body of a function because only its callers know the weights, the calls are
    written out and the passes run once more; that result counts only if it folds more.
    """
    pristine = None
    if file.proto.functions:
        pristine = ModelProto()
        pristine.CopyFrom(file.proto)
    opened = partial(
        Model,
        assume_constant_initializers=assume_constant_initializers,
        looks_late=looks_late,
        evaluations=evaluations,
    )
    model = opened(file)
    look(model)
    decisions = run_passes(model, passes)
    if pristine is None:
        return model, decisions
    scopes = {f"{domain}::{name}": (domain, name) for domain, name in model.functions}
    stayed = [decision.scope.partition("/")[0] for decision in decisions if decision.reason in _CALLER_KNOWS]
    blocked = {scopes[scope] for scope in stayed if scope in scopes}
    written_out = inlined(pristine, blocked) if blocked else None
    if written_out is None:
        return model, decisions
    again = opened(replace(file, proto=written_out))
    look(again)
    more = run_passes(again, passes)
    return (again, more) if _done(more) > _done(decisions) else (model, decisions)


def _done(decisions: Iterable[Decision]) -> int:
    return sum(decision.action is not Action.KEPT for decision in decisions)
