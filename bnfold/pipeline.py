"""Runs passes in order and collects what they decided and changed. Knows no pass by name."""

import inspect
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple, Protocol, runtime_checkable

from onnx import ModelProto

from bnfold.activity import doing
from bnfold.decisions import Action, Decision, Reason, Refused
from bnfold.errors import BnfoldError, ModelError, UsageError
from bnfold.graph import Changes, Evaluations, Model, changes_between, check_new_forms, forms_of, inlined
from bnfold.onnxfile import OnnxFile
from bnfold.passes import Pass, Preserves
from bnfold.passes.callers import with_factors_of_callers


@runtime_checkable
class Rewrite(Protocol):
    """A pass over a model as a whole, such as another optimizer."""

    @property
    def name(self) -> str:
        """The word for it on the command line and in the report."""

    @property
    def preserves(self) -> Preserves:
        """The promise of the rewrite."""

    def rewrite(self, file: OnnxFile) -> OnnxFile:
        """The model in `file` as it is after the pass; `file` is left as it is, and its payloads keep their places."""


NO_CHANGES = Changes()


class Step(NamedTuple):
    """A pass at its place in the order: one that is not bnfold's own can be left out."""

    position: int
    name: str


class Ran(NamedTuple):
    """The work of one pass. `preserves` is its promise. `skipped`: it was left out, and why. `decisions`: its own."""

    step: Step
    preserves: str
    seconds: float = 0.0
    changes: Changes = NO_CHANGES
    decisions: tuple[Decision, ...] = ()
    skipped: str = ""


NO_STEP = Step(-1, "")


class UnsoundResultError(Exception):
    """A pass made something that is no sound model."""


class UnsoundStepError(Exception):
    """A pass made an unsound model; with the step that the pass is."""

    def __init__(self, problem: str, of: Step = NO_STEP) -> None:
        super().__init__(problem)
        self.of = of


def is_own(each: Any) -> bool:
    """Whether a pass is bnfold's own: its mistakes are bnfold's, and each of its folds can be forbidden."""
    return type(each).__module__.startswith("bnfold.passes.")


@contextmanager
def raised_in(name: str, made_in: Any) -> Iterator[None]:
    """Inside, what the pass `name` raises is its own mistake: a UsageError of one sentence, with the line.

    `made_in` is the function or class whose file the line is looked for in.
    """
    try:
        yield
    except (BnfoldError, MemoryError):
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        said = f"{type(error).__name__}: {text}" if text else type(error).__name__
        raise UsageError(f"the pass {name} raised {said}{_line_of(error, made_in)}") from error


def made_at(made_in: Any) -> str:
    """`` (FILE, line N)``: where a function begins; "" where that is not known."""
    try:
        function = inspect.unwrap(made_in)
        return f" ({inspect.getsourcefile(function)}, line {inspect.getsourcelines(function)[1]})"
    except (TypeError, OSError):
        return ""


def _line_of(error: Exception, made_in: Any) -> str:
    """`` (FILE, line N)``: the innermost line in the file of the pass, else the innermost at all."""
    frames = traceback.extract_tb(error.__traceback__)
    try:
        file = inspect.getsourcefile(inspect.unwrap(made_in) if callable(made_in) else type(made_in))
    except TypeError:
        file = None
    own = [frame for frame in frames if frame.filename == file] or frames[-1:]
    return f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""


# What a pass did that a later one may go on with.
_FIRST = {
    Action.FROZEN: "its stored statistics were frozen first",
    Action.RECALIBRATED: "its statistics were computed anew first",
}


def run_passes(
    model: Model, passes: Iterable[Pass], ran: Callable[[int, Ran], None] = lambda _position, _ran: None
) -> tuple[Decision, ...]:
    """Edit `model` by each pass in turn and finish the edits; one decision per normalization, in order of first sight.

    A later pass may do more with what an earlier one changed or kept, and then has the last word. `ran` is told what
    each did, by its place among them. Raises UsageError for what a pass raises that is not bnfold's own.
    """
    made: list[Decision] = []
    for position, each in enumerate(passes):
        begun, edits = time.perf_counter(), len(model.edits)
        with doing(f"running the pass {each.name}"):
            decided = each.run(model) if is_own(each) else _run_foreign(each, model)
        made += decided
        changes = Changes.of_edits(model.edits[edits:])
        seconds = time.perf_counter() - begun
        ran(position, Ran(Step(position, each.name), str(each.preserves), seconds, changes, tuple(decided)))
    model.finish()
    return tuple(_those_there(last_words(made), model))


def _run_foreign(each: Pass, model: Model) -> list[Decision]:
    with raised_in(each.name, type(each)):
        found: Any = each.run(model)
        decided = list(found or ())
    if not all(isinstance(decision, Decision) for decision in decided):
        raise UsageError(f"the pass {each.name} returns decisions, or nothing, not {type(found).__name__}")
    return decided


def last_words(made: Iterable[Decision]) -> tuple[Decision, ...]:
    """One decision per normalization, in order of first sight, of all that were made one after the other."""
    decisions: dict[tuple[str, str], Decision] = {}
    for decision in made:
        key = (decision.scope, decision.node)
        decisions[key] = _last_word(decisions[key], decision) if key in decisions else decision
    return tuple(decisions.values())


def _those_there(decisions: Iterable[Decision], model: Model) -> Iterator[Decision]:
    """All but the decisions on gains that stay, where a later pass took the operator up with something else.

    A normalization that stayed and went later, as nothing reads it any more, is removed.
    """
    there: set[tuple[str, str]] | None = None
    for decision in decisions:
        if decision.action is Action.KEPT:
            if there is None:
                first = model.first_labels or {}
                nodes = [(graph, node) for graph in model.graphs for node in graph.nodes()]
                there = {(graph.scope, first.get(id(node), "")) for graph, node in nodes}
                there_now = {(graph.scope, graph.label(node)) for graph, node in nodes}
            if (decision.scope, decision.node) not in there:
                if decision.gain:
                    continue
                if (decision.scope, decision.node) not in there_now:
                    decision = replace(decision, action=Action.REMOVED, reason=None, detail=_UNREAD)
        yield decision


_UNREAD = "what read it is computed already, as the sizes of its result are, or is gone itself"


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
        Reason.PADDED_BORDER,  # of a shift that is the same everywhere, where shapes are known
        Reason.BARRIER,  # a Cast of what already has that type
    }
)


def run_on(
    file: OnnxFile,
    passes: Sequence[Pass],
    *,
    assume_constant_initializers: bool = False,
    looks_late: bool = False,
    look: Callable[[Model], None] = lambda _: None,
    ran: Callable[[int, Ran], None] = lambda _position, _ran: None,
    evaluations: Evaluations | None = None,
    as_read: ModelProto | None = None,
) -> tuple[Model, tuple[Decision, ...]]:
    """Run `passes` on the model in `file`; the edited model and the decisions. `look` sees it before it is edited.

    With `looks_late` writing the model may raise `Refused`: then a weight that was folded into has left the range of
    its type, and the passes must run again without. `evaluations`, `as_read`: see `Model`.

    Where a normalization stays in the body of a function because only its callers know the weights, or may be one for
    which they give the factor, the calls are written out and the passes run once more; that result counts only if it
    folds more. `ran` is told what each pass did, of the result that counts the last time.
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
    model = opened(file, as_read=as_read)
    look(model)
    decisions = run_passes(model, passes, ran)
    if pristine is None:
        return model, decisions
    scopes = {f"{domain}::{name}": (domain, name) for domain, name in model.functions}
    stay = (decision for decision in decisions if decision.reason in _CALLER_KNOWS and not decision.gain)
    stayed = [decision.scope.partition("/")[0] for decision in stay]
    blocked = {scopes[scope] for scope in stayed if scope in scopes} | with_factors_of_callers(model)
    written_out = inlined(pristine, blocked) if blocked else None
    if written_out is None:
        return model, decisions
    try:
        again = opened(replace(file, proto=written_out))
    except ModelError:  # onnx's inliner lost the way: a body that gives out a value from around it
        return model, decisions
    look(again)
    second: list[tuple[int, Ran]] = []
    more = run_passes(again, passes, lambda *each: second.append(each))
    if _done(more) <= _done(decisions):
        return model, decisions
    for each in second:
        ran(*each)
    return again, more


def _done(decisions: Iterable[Decision]) -> int:
    return sum(decision.action is not Action.KEPT for decision in decisions)


class Outcome(NamedTuple):
    """The outcome of all passes: the edited `model`, whether anything was changed in it, and the work of each pass."""

    model: Model
    modified: bool
    decisions: tuple[Decision, ...]
    ran: tuple[Ran, ...]


def run_all(
    file: OnnxFile,
    passes: Sequence[Pass | Rewrite],
    *,
    skipped: frozenset[Step] = frozenset(),
    look: Callable[[Model], None] = lambda _: None,
    as_read: ModelProto | None = None,
    **reading: Any,
) -> Outcome:
    """Run passes of both kinds on the model in `file`, in order, those that are `skipped` left out.

    `reading` and `as_read`, the structure in `file` once more, are what `run_on` takes. `look` sees the model before
    anything is edited. Raises UnsoundStepError where a pass that is not bnfold's own makes what is no sound model, and
    UsageError for what one raises.
    """
    steps = [(Step(position, each.name), each) for position, each in enumerate(passes)]
    done = {step: Ran(step, str(each.preserves), skipped="left out") for step, each in steps if step in skipped}
    left = [(step, each) for step, each in steps if step not in skipped]
    made: list[Decision] = []
    model: Model | None = None
    modified = False
    for own, group in groupby(left, key=lambda each: is_own(each[1])):
        if own:
            some = list(group)
            looking = look if model is None else _nobody_looks
            ran: list[Ran] = [Ran(step, str(each.preserves)) for step, each in some]
            model, decided = run_on(
                file,
                [each for _, each in some if not isinstance(each, Rewrite)],
                look=looking,
                ran=ran.__setitem__,
                as_read=as_read if model is None else None,
                **reading,
            )
            file, modified = model.file, modified or model.modified
            made += decided
            done |= {step: found._replace(step=step) for (step, _), found in zip(some, ran, strict=True)}
            continue
        for step, each in group:
            if model is None:
                model = Model(file, **reading)
                look(model)
            before = ModelProto()
            before.CopyFrom(file.proto)
            begun = time.perf_counter()
            try:
                after, decided = _run_alone(each, file, reading)
            except (UnsoundResultError, Refused) as error:
                raise UnsoundStepError(str(error), step) from error
            seconds = time.perf_counter() - begun
            changes = changes_between(before, after.file.proto)
            done[step] = Ran(step, str(each.preserves), seconds, changes, decided)
            made += decided
            modified = modified or before.SerializeToString(deterministic=True) != after.file.proto.SerializeToString(
                deterministic=True
            )
            model, file = after, after.file
    if model is None:
        model = Model(file, **reading)
        look(model)
    return Outcome(model, modified, last_words(made), tuple(done[step] for step, _ in steps))


def _nobody_looks(_model: Model) -> None:
    """The callback where the caller looks at no model between two passes."""


def _run_alone(each: Pass | Rewrite, file: OnnxFile, reading: dict[str, Any]) -> tuple[Model, tuple[Decision, ...]]:
    """The model that one pass makes which is not bnfold's own, opened anew: that it is sound is seen there."""
    decided: tuple[Decision, ...] = ()
    known = forms_of(file.proto)
    if isinstance(each, Rewrite):
        with doing(f"running the pass {each.name}"):
            file = each.rewrite(file)
    else:
        edited, decided = run_on(file, [each], **reading)
        file = edited.file
    try:
        check_new_forms(known, file.proto)
        return Model(file, **reading), decided
    except ModelError as error:
        raise UnsoundResultError(str(error)) from error
