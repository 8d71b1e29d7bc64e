"""Of the evaluators of constants each is caught by the others: a bug planted in one never makes a wrong model.

They are bnfold's own, onnx.reference, the proof's kernels and onnxruntime, which is asked about all constants of a
model in one session.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx.reference.op_run import OpRun
from onnx.reference.ops.op_exp import Exp
from onnx.reference.ops.op_reduce_max import ReduceMax_1

import bnfold
from bnfold.decisions import Action, Reason
from bnfold.equivalence.numbers import kernels
from bnfold.equivalence.runtime import computed_constants, sessions
from bnfold.errors import VerificationError
from bnfold.graph import Evaluation, Evaluations, Model, operator_values
from bnfold.onnxfile import read
from tests.fold_models import Row, numbers

Array = NDArray[Any]
STORED = {"s": numbers(4), "k": numbers(4, 4), "col": np.array([-1, 1, 1])}
BEHIND = "c = Conv(x, w, b) r = Reshape(e, col) y = Mul(c, r)"
MODELS = {
    "another rounding": Row(f"e = Exp(s) {BEHIND}", None, STORED, opset=13),
    "another axis": Row(f"e = ReduceMax<axes=[1], keepdims=0>(k) {BEHIND}", None, STORED, opset=13),
}
REFERENCE: dict[str, type[OpRun]] = {"another rounding": Exp, "another axis": ReduceMax_1}


def wrong(bug: str, operand: Array) -> Array:
    if bug == "another axis":
        return np.asarray(operand.max(axis=0))
    return np.exp(operand).astype(np.float16).astype(operand.dtype)


def plant(bug: str, evaluator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    op_type = MODELS[bug].model().graph.node[0].op_type
    if evaluator == "bnfold's own":
        monkeypatch.setitem(operator_values.OPERATORS, op_type, lambda call: wrong(bug, call.operand()))
    elif evaluator == "onnx.reference":
        monkeypatch.setattr(REFERENCE[bug], "_run", lambda _self, data, **_attributes: (wrong(bug, data),))
    elif evaluator == "the proof's":
        kernel = type(op_type, (OpRun,), {"op_domain": "", "_run": lambda _self, data, **_: (wrong(bug, data),)})
        for table in ("CONSTANT_OPERATORS", "OPERATORS"):
            monkeypatch.setattr(kernels, table, [*getattr(kernels, table), kernel])
    else:
        monkeypatch.setattr(computed_constants, "opened", partial(broken_runtime, bug))


@contextmanager
def broken_runtime(bug: str, *arguments: Any) -> Iterator[Any]:
    """A runtime that reads its results backwards, or rounds them."""

    class Broken:
        def run(self, feed: dict[str, Array]) -> dict[str, Array]:
            made = session.run(feed)
            if bug == "another axis":
                return {name: np.flip(array) for name, array in made.items()}
            return {name: array.astype(np.float16).astype(array.dtype) for name, array in made.items()}

    with sessions.opened(*arguments) as session:
        yield Broken()


def decided(row: Row, **options: Any) -> tuple[bnfold.Result, Any]:
    result = bnfold.optimize(row.model(), **options)
    [decision] = result.report.decisions
    return result, decision


@pytest.mark.parametrize("bug", MODELS)
def test_without_a_bug_it_is_folded(bug: str) -> None:
    assert decided(MODELS[bug])[1].action is Action.FOLDED


CAUGHT = {
    ("bnfold's own",): "onnx.reference makes other numbers of it",
    ("onnx.reference",): "onnx.reference makes other numbers of it",
    ("bnfold's own", "onnx.reference"): "onnxruntime makes something else of it",
    ("onnxruntime",): "onnxruntime makes something else of it",
}


@pytest.mark.parametrize("evaluators", CAUGHT)
@pytest.mark.parametrize("bug", MODELS)
def test_a_planted_bug_is_a_dispute(bug: str, evaluators: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    for evaluator in evaluators:
        plant(bug, evaluator, monkeypatch)
    result, decision = decided(MODELS[bug])
    assert decision.reason is Reason.CONSTANT_DISPUTED
    assert decision.detail.endswith(CAUGHT[evaluators])
    assert result.model == MODELS[bug].model()


@pytest.mark.parametrize("bug", MODELS)
def test_a_bug_planted_in_the_proof_publishes_nothing(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(bug, "the proof's", monkeypatch)
    with pytest.raises(VerificationError, match="is wrong"):
        bnfold.optimize(MODELS[bug].model())


# ---------------------------------------------------------------------- when the runtime is asked, and for what


def asked(row: Row, monkeypatch: pytest.MonkeyPatch, **options: Any) -> list[list[str]]:
    """The operators of each session for constants."""
    sessions_of: list[list[str]] = []

    @contextmanager
    def noted(model: bytes, *arguments: Any) -> Iterator[Any]:
        sessions_of.append([node.op_type for node in read(model).proto.graph.node])
        with sessions.opened(model, *arguments) as session:
            yield session

    monkeypatch.setattr(computed_constants, "opened", noted)
    bnfold.optimize(row.model(), **options)
    return sessions_of


def test_all_constants_are_one_session(monkeypatch: pytest.MonkeyPatch) -> None:
    text = f"f = Exp(s) n = Neg(f) e = Add(n, f) {BEHIND}"
    [session] = asked(Row(text, None, STORED), monkeypatch)
    assert sorted(session) == ["Add", "Exp", "Neg", "Reshape"]


NOT_ASKED = {
    "plain initializers": (Row("c = Conv(x, w, b) y = BatchNormalization(c, g, h, m, v)"), {}),
    "another spelling of them": (Row("c = Conv(x, w, b) i = Identity(g) y = BatchNormalization(c, i, h, m, v)"), {}),
    "nothing is changed": (MODELS["another axis"], {"keep": ["y"], "fold_constants": False}),
    "not verified": (MODELS["another axis"], {"verify": False}),
}


@pytest.mark.parametrize("name", NOT_ASKED)
def test_there_is_nothing_to_ask(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    row, options = NOT_ASKED[name]
    assert asked(row, monkeypatch, **options) == []


def believed(text: str, opset: int = 18) -> list[Evaluation]:
    evaluations = Evaluations()
    model = Row(text, None, STORED, opset=opset).model()
    graph = Model(read(model.SerializeToString()), evaluations=evaluations).main
    assert graph.constant("y") is not None
    return [each._replace(operands=[np.array(o) for o in each.operands]) for each in evaluations.believed]


def test_what_the_runtime_has_not_in_this_type_does_not_silence_it() -> None:
    """Of one session that cannot be opened each kind of operator gets its own."""
    together = believed("y = Exp(s)") + believed("y = Neg(s)")
    together[1].node.op_type = "Unheard"
    assert computed_constants.contradictions(together) == {}
    spoiled = [each._replace(scope=f"{index}", made=[each.made[0] * 2]) for index, each in enumerate(together)]
    assert list(computed_constants.contradictions(spoiled)) == [("0", "y")]


def test_operator_sets_of_functions_are_sessions_of_their_own() -> None:
    together = believed("y = ReduceMax<axes=[1]>(k)", 13) + believed("y = Exp(s)", 18)
    spoiled = [each._replace(scope=f"{index}", made=[each.made[0] * 2]) for index, each in enumerate(together)]
    assert list(computed_constants.contradictions(spoiled)) == [("0", "y"), ("1", "y")]


@pytest.mark.parametrize("bound", [8, 100, 1000])
def test_what_is_too_large_is_not_asked_about_and_the_rest_in_parts(
    bound: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(computed_constants, "_MOST_BYTES", bound)
    together = believed("e = Exp(s) f = Neg(e) y = Ceil(f)")  # 32 bytes each
    spoiled = [each._replace(scope=f"{index}", made=[each.made[0] + 2]) for index, each in enumerate(together)]
    assert len(computed_constants.contradictions(spoiled)) == (3 if bound > 8 else 0)
