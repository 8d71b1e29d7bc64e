"""The fold keeps its promises on random models: see `random_graph_judge` for what is asserted of each.

The default run lets hypothesis draw a few and shrink what fails. `pytest -m soak` runs thousands from seeds (as many as
BNFOLD_RANDOM_GRAPHS says, from BNFOLD_RANDOM_GRAPHS_SEED on); a failure names the seed, and `seeded_case(seed)` builds
the model again.
"""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, Phase, given, settings

import bnfold
from bnfold.equivalence import Standing, prove
from bnfold.errors import StatisticsError, VerificationError
from bnfold.graph import Model
from bnfold.onnxfile import read, to_proto
from bnfold.passes import PassOptions, default_passes
from bnfold.pipeline import run_passes
from tests.random_graph_judge import judge
from tests.random_graphs import Case, cases, seeded_case, text_of

SOAKED = int(os.environ.get("BNFOLD_RANDOM_GRAPHS", "5000"))
FIRST_SEED = int(os.environ.get("BNFOLD_RANDOM_GRAPHS_SEED", "0"))
PARTS = 10


@pytest.fixture(autouse=True, scope="module")
def _nothing_is_swallowed() -> Iterator[None]:
    """In a sound model all operands fit together: an exception is a mistake of the fold there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bnfold.passes.fold.DO_NOT_FIT", ())
        yield


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate, Phase.shrink],
)
@given(case=cases())
def test_a_random_model_is_folded_right(case: Case) -> None:
    try:
        judge(case.model, case.feeds, case.shapes)
    except Exception as error:
        error.add_note(text_of(case))
        raise


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(PARTS))
def test_thousands_of_random_models_are_folded_right(part: int) -> None:
    wrong: dict[int, str] = {}
    for seed in range(FIRST_SEED + part, FIRST_SEED + SOAKED, PARTS):
        case = seeded_case(seed)
        try:
            judge(case.model, case.feeds, case.shapes)
            assert_not_accused(case)
        except Exception as error:  # noqa: BLE001 - all are collected before the test fails
            wrong[seed] = f"{type(error).__name__}: {error}".splitlines()[0]
    assert not wrong


def assert_not_accused(case: Case) -> None:
    """What `judge` says of the fold, the verdict must not contradict; that it cannot be told is no contradiction."""
    with suppress(StatisticsError):
        try:
            verdict = bnfold.optimize(case.model).report.verdict
        except VerificationError as error:
            verdict = f"{error.report.verdict}: {error}"
        assert verdict.startswith(("equivalent", "proved", "not-verified")), verdict


@pytest.mark.parametrize("first", range(0, 80, 20))
def test_no_random_model_is_called_different(first: int) -> None:
    for seed in range(first, first + 20):
        assert_not_accused(seeded_case(seed))


FLOAT16_ROUNDED_AGAIN = (339, 718, 1046, 1066, 1515)
SHAPES_READ_BY_OUTPUTS = (74, 475)
BATCH_NORMALIZATION_IN_A_FUNCTION_OF_OPSET_11 = (166,)


@pytest.mark.parametrize(
    "seed", [*FLOAT16_ROUNDED_AGAIN, *SHAPES_READ_BY_OUTPUTS, *BATCH_NORMALIZATION_IN_A_FUNCTION_OF_OPSET_11]
)
def test_those_that_once_were_called_different_are_not(seed: int) -> None:
    assert_not_accused(seeded_case(seed))


RESIZED_TO_AS_MANY = (100172,)
EDITED_BY_A_SECOND_RUN = (3187, 100248, 100752, 130366, 130368, 203038)
NAMES_OF_OTHER_VALUES = (100744, 101109)
A_RUN_VISITED_TWICE = (101557,)
ACCUSED_THOUGH_RIGHT = (103070, 300805)
PROVED_WITH_A_NUMBER_THAT_ENTERS = (300375,)


@pytest.mark.parametrize(
    "seed",
    [
        *(*RESIZED_TO_AS_MANY, *EDITED_BY_A_SECOND_RUN, *NAMES_OF_OTHER_VALUES, *A_RUN_VISITED_TWICE),
        *(*ACCUSED_THOUGH_RIGHT, *PROVED_WITH_A_NUMBER_THAT_ENTERS),
    ],
)
def test_those_that_once_were_folded_wrong_are_not(seed: int) -> None:
    case = seeded_case(seed)
    judge(case.model, case.feeds, case.shapes)
    file = read(case.model)
    run_passes(Model(file), default_passes(PassOptions()))
    assert Standing.BROKEN not in {proof.standing for proof in prove(case.model, to_proto(file))}


def test_the_random_models_are_worth_running() -> None:
    """They fold, freeze nothing by mistake, run in onnxruntime and reach the reasons that a condition stands behind."""
    actions: Counter[str] = Counter()
    ran = full_checks = 0
    for seed in range(100):
        case = seeded_case(seed)
        result = judge(case.model, case.feeds, case.shapes)
        actions += result.actions
        ran += result.ran
        full_checks += result.full_check
    assert ran > 40
    assert full_checks > 66
    assert actions["folded "] > 40
    assert actions["merged "] > 3
    for reason in ("NEGATIVE_SCALE", "NOT_PER_CHANNEL", "WRONG_AXIS", "OTHER_CONSUMER", "VALUE_IS_OUTPUT"):
        assert actions[f"kept {reason}"] > 0, reason
