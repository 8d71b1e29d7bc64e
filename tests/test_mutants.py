"""The mutants are what they say: one guard gone, everything else as it was, and the same functions."""

from typing import Any

import pytest

from tests.mutants import Mutant, cosmic_ray_mutants, guard_mutants

SOURCE = """
LIMIT = 3 if __name__ else 4

def refuse(x):
    if x < 0 or x > 9:
        raise ValueError(x)
    check(x)
    for y in range(x):
        if y == 5 and x != 7:
            continue
        if 2 <= y < 4:
            return y
    return [y for y in range(x) if y > 0]

def check(x):
    match x:
        case 1 if x is True:
            raise ValueError
    if x == 8:
        raise ValueError(x)
    else:
        assert x or not x
"""


def result(mutant: Mutant | None, value: Any) -> Any:
    scope: dict[str, Any] = {}
    exec(SOURCE if mutant is None else mutant.code, scope)
    try:
        return scope["refuse"](value)
    except ValueError:
        return "refused"


# what is gone -> an argument that tells, and what comes out
GONE = {
    "if x < 0 or x > 9: never": (-1, []),
    "without `x < 0` in `x < 0 or x > 9`": (-1, []),
    "without `x > 9` in `x < 0 or x > 9`": (10, 2),
    "check(x): not called": (8, 2),
    "if y == 5 and x != 7: never": None,
    "without `y == 5` in `y == 5 and x != 7`": (4, [1, 2, 3]),
    "without `x != 7` in `y == 5 and x != 7`": None,
    "if 2 <= y < 4: never": (3, [1, 2]),
    "without `2 <= y`": (1, 0),
    "without `y < 4`": None,
    "without `if y > 0` in a comprehension": (2, [0, 1]),
    "case without `x is True`": (1, "refused"),
}


def test_every_guard_is_taken_out_once() -> None:
    assert sorted(mutant.what for mutant in guard_mutants(SOURCE, "source.py")) == sorted(GONE)


@pytest.mark.parametrize("what", [what for what, told in GONE.items() if told])
def test_a_guard_that_is_gone_shows(what: str) -> None:
    (mutant,) = (mutant for mutant in guard_mutants(SOURCE, "source.py") if mutant.what == what)
    argument, expected = GONE[what] or (0, None)
    assert result(mutant, argument) == expected != result(None, argument)
    others = set(range(-2, 11)) - {argument}
    assert any(result(mutant, other) == result(None, other) for other in others)


def test_only_a_test_that_reaches_the_refusal_can_miss_it() -> None:
    lines = {mutant.what: (mutant.line, mutant.reached) for mutant in guard_mutants(SOURCE, "source.py")}
    assert lines["if x < 0 or x > 9: never"] == (5, 6)
    assert lines["without `x > 9` in `x < 0 or x > 9`"] == (5, 6)
    assert lines["without `y == 5` in `y == 5 and x != 7`"] == (9, 9)


def test_cosmic_ray_changes_more_than_guards() -> None:
    pytest.importorskip("cosmic_ray", reason="cosmic-ray is not installed")
    mutants = list(cosmic_ray_mutants(SOURCE, "source.py"))
    assert {"NumberReplacer", "ReplaceComparisonOperator_Lt_LtE"} <= {mutant.what for mutant in mutants}
    assert all(mutant.line > 2 for mutant in mutants), "what stands outside of functions cannot be put in place"
    assert any(result(mutant, 9) != result(None, 9) for mutant in mutants if "Gt" in mutant.what)
