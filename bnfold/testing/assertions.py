"""Assertions about what passes make of models. Each raises AssertionError, and says what was there instead."""

from collections.abc import Sequence
from typing import Any

import onnx
from onnx import ModelProto

from bnfold.api import Result, optimize
from bnfold.decisions import Action, Reason
from bnfold.errors import BnfoldError, StatisticsError
from bnfold.report import GOOD
from bnfold.testing.random_graphs import seeded_case, text_of

_DEFAULT = ("default",)


def assert_folds(model: ModelProto, operators: str | Sequence[str], *, passes: Sequence[Any] = _DEFAULT) -> Result:
    """Assert that `passes` leave these operators in the main graph, in order, and that the result is equivalent.

    `operators` is a list, or a text with spaces between them. What comes out has to be a valid model, and a second run
    of the passes has to leave it as it is.
    """
    wanted = operators.split() if isinstance(operators, str) else list(operators)
    result = _ran(model, passes)
    made = [node.op_type for node in result.model.graph.node]
    _require(made == wanted, f"the operators are {' '.join(made)}, not {' '.join(wanted)}", result.model)
    onnx.checker.check_model(result.model)
    again = _ran(result.model, passes).model
    _require(again == result.model, "a second run changes the result again", again)
    return result


def assert_left_alone(
    model: ModelProto, reason: str | Reason | None = None, *, passes: Sequence[Any] = _DEFAULT
) -> Result:
    """Assert that `passes` leave every byte of a model; with `reason`, that a decision says so by this code."""
    result = _ran(model, passes)
    same = result.model.SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True)
    kept = [decision for decision in result.report.decisions if decision.action is Action.KEPT]
    _require(same, f"the model was changed: {_changes(result)}", result.model)
    code = reason.code if isinstance(reason, Reason) else reason
    codes = [decision.reason.code for decision in kept if decision.reason is not None]
    _require(code is None or code in codes, f"the reasons are {', '.join(codes) or 'none'}, not {code}", model)
    return result


def assert_survives(passes: Sequence[Any], *, count: int = 100, seed: int = 0, most_steps: int = 8) -> int:
    """Assert that nothing becomes wrong of `count` random models, the same ones for the same `seed`.

    The models hold one to `most_steps` operators with those that belong to them, of several opsets, IR versions and
    types, with bodies, functions and inputs that may be replaced. How many of them the passes changed: a pass that has
    nothing to do survives everything. A model that onnxruntime does not run counts as survived.
    """
    changed = 0
    for number in range(seed, seed + count):
        case = seeded_case(number, most_steps)
        try:
            report = optimize(case.model, passes=passes).report
        except StatisticsError:
            continue
        except BnfoldError as error:
            found = getattr(error, "report", None)
            if found is None or found.verdict != "not-verified":
                raise AssertionError(f"random model {number}: {error}\n{text_of(case)}") from error
            continue
        changed += any(each["changes"] for each in report.passes)
    return changed


def _ran(model: ModelProto, passes: Sequence[Any]) -> Result:
    try:
        result = optimize(model, passes=passes)
    except BnfoldError as error:
        raise AssertionError(f"{error}\n{onnx.printer.to_text(model)}") from error
    _require(result.report.verdict in GOOD, f"the verdict is {result.report.verdict}", result.model)
    return result


def _changes(result: Result) -> str:
    return "; ".join(f"{each['name']}: {each['changes']}" for each in result.report.passes if each["changes"])


def _require(holds: bool, problem: str, model: ModelProto) -> None:
    if not holds:
        raise AssertionError(f"{problem}\n{onnx.printer.to_text(model)}")
