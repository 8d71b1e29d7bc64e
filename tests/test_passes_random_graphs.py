"""The fold keeps its promises on random models: see `random_graph_judge` for what is asserted of each.

The default run lets hypothesis draw a few and shrink what fails. `pytest -m soak` runs thousands from seeds (as many as
BNFOLD_RANDOM_GRAPHS says, from BNFOLD_RANDOM_GRAPHS_SEED on); a failure names the seed, and `seeded_case(seed)` builds
the model again.
"""

import os
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, given, settings

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
        except Exception as error:  # noqa: BLE001 - all are collected before the test fails
            wrong[seed] = f"{type(error).__name__}: {error}".splitlines()[0]
    assert not wrong


def test_the_random_models_are_worth_running() -> None:
    """They fold, freeze nothing by mistake, run in onnxruntime and reach the reasons that a condition stands behind."""
    actions: Counter[str] = Counter()
    ran = full_checks = 0
    for seed in range(120):
        case = seeded_case(seed)
        result = judge(case.model, case.feeds, case.shapes)
        actions += result.actions
        ran += result.ran
        full_checks += result.full_check
    assert ran > 60
    assert full_checks > 100
    assert actions["folded "] > 60
    assert actions["merged "] > 5
    for reason in ("NEGATIVE_SCALE", "NOT_PER_CHANNEL", "WRONG_AXIS", "OTHER_CONSUMER", "VALUE_IS_OUTPUT"):
        assert actions[f"kept {reason}"] > 0, reason
