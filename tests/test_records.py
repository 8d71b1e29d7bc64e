"""A record is a frozen dataclass, whose methods are not written for it."""

import dataclasses
import inspect
import pickle
from dataclasses import field, fields, replace
from typing import Any

import pytest

from bnfold.records import Record


class Point(Record):
    """A point with a name and notes."""

    x: int
    y: int = 0
    notes: list[str] = field(default_factory=list, hash=False)
    mood: str = field(default="calm", repr=False, compare=False)


class Named(Point):
    """A point with a name."""

    name: str = ""


@dataclasses.dataclass(frozen=True)
class Written:
    """The same as `Point`, written by `dataclass`."""

    x: int
    y: int = 0
    notes: list[str] = field(default_factory=list, hash=False)
    mood: str = field(default="calm", repr=False, compare=False)


GIVEN: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((1,), {}),
    ((1, 2), {}),
    ((), {"x": 1, "y": 2}),
    ((1,), {"notes": ["a"]}),
    ((1, 2, ["b"], "wild"), {}),
]


@pytest.mark.parametrize(("values", "named"), GIVEN)
def test_it_is_made_and_shown_as_a_dataclass_is(values: tuple[Any, ...], named: dict[str, Any]) -> None:
    made, written = Point(*values, **named), Written(*values, **named)
    assert dataclasses.asdict(made) == dataclasses.asdict(written)
    assert repr(made) == repr(written).replace("Written", "Point")
    assert hash(made) == hash(written)
    assert pickle.loads(pickle.dumps(made)) == made


WRONG: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
    ((), {}, "missing a required argument: 'x'"),
    ((1, 2, [], "", 5), {}, "too many positional arguments"),
    ((1,), {"x": 2}, "multiple values for argument 'x'"),
    ((1,), {"z": 2}, "unexpected keyword argument 'z'"),
]


@pytest.mark.parametrize(("values", "named", "why"), WRONG)
def test_what_does_not_fit_is_refused(values: tuple[Any, ...], named: dict[str, Any], why: str) -> None:
    with pytest.raises(TypeError, match=why):
        Point(*values, **named)


def test_a_default_that_is_made_is_made_for_each() -> None:
    assert Point(1).notes is not Point(1).notes


def test_it_compares_what_dataclasses_compare() -> None:
    assert Point(1, mood="wild") == Point(1)
    assert Point(1) != Point(2)
    assert Point(1) != Named(1)
    assert Point(1) != Written(1)
    assert hash(Point(1, notes=["a"])) == hash(Point(1))


def test_it_is_frozen() -> None:
    point = Point(1)
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field 'x'"):
        point.x = 2  # type: ignore[misc]  # what the type checker finds as well
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot delete field 'x'"):
        del point.x  # type: ignore[misc]  # as above


def test_dataclasses_know_it() -> None:
    assert [each.name for each in fields(Named)] == ["x", "y", "notes", "mood", "name"]
    assert replace(Named(1, name="a"), x=2) == Named(2, name="a")
    assert list(inspect.signature(Named).parameters) == [each.name for each in fields(Named)]
    assert inspect.signature(Point).parameters["y"].default == 0
    match Point(3, 4):
        case Point(x, y):
            assert (x, y) == (3, 4)
