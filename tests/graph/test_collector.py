"""The collector is held still, and does not make up for it afterwards."""

import gc
from collections.abc import Iterator

import pytest

from bnfold.graph import paused_collector
from bnfold.graph.collector import MANY


@pytest.fixture(autouse=True)
def _collector() -> Iterator[None]:
    frozen = gc.get_freeze_count()
    gc.unfreeze()
    gc.collect()
    yield
    gc.unfreeze()
    gc.enable()
    if frozen:  # by the suite
        gc.freeze()


def collections() -> int:
    return sum(generation["collections"] for generation in gc.get_stats())


def test_what_was_made_meanwhile_is_not_looked_at_right_after() -> None:
    before = collections()
    with paused_collector():
        made: list[list[int]] = [[i] for i in range(20_000)]
        assert not gc.isenabled()
        assert gc.get_count()[0] > 10_000
    more = [[i] for i in range(100)]
    assert gc.isenabled()
    assert collections() == before
    assert len(made) + len(more) == 20_100


def test_what_was_made_meanwhile_is_collected_in_the_end() -> None:
    class Knot:
        pass

    with paused_collector():
        knot = Knot()
        knot.self = knot  # type: ignore[attr-defined]  # a cycle
        del knot
        made = [[i] for i in range(2 * MANY)]
    assert len(made) == 2 * MANY
    assert any(type(each) is Knot for each in gc.get_objects())
    gc.collect()
    assert not any(type(each) is Knot for each in gc.get_objects())


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    with paused_collector():
        pass
    assert not gc.isenabled()


def test_what_the_caller_has_frozen_stays_frozen() -> None:
    """One object tells: the number of all changes with what other threads let go."""
    kept: list[list[int]] = [[]]
    gc.freeze()
    with paused_collector():
        made = [[i] for i in range(2 * MANY)]
    assert len(made) == 2 * MANY
    assert gc.get_freeze_count()
    assert not any(each is kept for each in gc.get_objects())


def test_it_comes_back_on_after_an_error() -> None:
    with pytest.raises(KeyError), paused_collector():
        raise KeyError
    assert gc.isenabled()


def test_what_many_models_leave_behind_is_collected_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop over small models kept every one of them: what is declared old is never looked at by itself."""

    class Knot:
        pass

    monkeypatch.setattr("bnfold.graph.collector.MOST_UNSEEN", 100 * MANY)
    for _ in range(200):
        made: list[list[int]] = []
        with paused_collector():
            knots = [Knot() for _ in range(50)]
            made += ([i] for i in range(2 * MANY))
            for knot in knots:
                knot.self = knot  # type: ignore[attr-defined]  # a cycle
            del knot, knots
    assert sum(type(each) is Knot for each in gc.get_objects()) < 4000
