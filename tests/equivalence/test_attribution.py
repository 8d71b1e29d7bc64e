"""Attribution names the guilty folds, all of them, and no other."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnfold.equivalence import attribute


@given(st.integers(1, 60), st.data())
def test_independent_faults_are_named_exactly(count: int, data: st.DataObject) -> None:
    guilty = data.draw(st.sets(st.integers(0, count - 1), max_size=4))
    asked: list[frozenset[int]] = []

    def agrees_without(forbidden: frozenset[int]) -> bool:
        asked.append(forbidden)
        return guilty <= forbidden

    found = attribute(range(count), agrees_without)
    assert found.guilty == tuple(sorted(guilty))
    assert found.cleared
    assert found.tried == len(asked) == len(set(asked))
    assert found.tried <= 2 + (math.ceil(math.log2(count + 1)) + 2) * len(guilty)


def test_two_folds_that_are_wrong_only_together_cost_one_of_them() -> None:
    found = attribute("abcdef", lambda forbidden: bool({"b", "e"} & forbidden))
    assert found.cleared
    assert len(found.guilty) == 1
    assert set(found.guilty) <= {"b", "e"}


def test_an_accusation_that_a_later_one_makes_needless_is_withdrawn() -> None:
    # Forbidding "c" alone is enough; a prefix search alone would name others before it.
    found = attribute("abc", lambda forbidden: "c" in forbidden or {"a", "b"} <= forbidden)
    assert found.cleared
    assert found.guilty in {("c",), ("a", "b")}
    for fold in found.guilty:
        rest = frozenset(found.guilty) - {fold}
        assert "c" not in rest
        assert not {"a", "b"} <= rest


def test_a_fault_outside_the_folds_accuses_none() -> None:
    found = attribute("abc", lambda _: False)
    assert (found.guilty, found.cleared, found.tried) == ((), False, 2)
    assert attribute("", lambda _: False).cleared is False
    assert attribute("abc", lambda _: True) == attribute("", lambda _: True)


def test_the_limit_of_trials_is_kept_and_admitted() -> None:
    found = attribute(range(1000), lambda forbidden: set(range(0, 1000, 2)) <= forbidden, most=30)
    assert not found.cleared
    assert found.tried == 30


def test_what_the_callback_raises_is_not_swallowed() -> None:
    def broken(_: frozenset[str]) -> bool:
        raise RuntimeError("cannot rebuild")

    with pytest.raises(RuntimeError, match="cannot rebuild"):
        attribute("abc", broken)
