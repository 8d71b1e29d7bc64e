"""Refusals of a runtime read for sizes: the numbers in one, the unknowns they may be, and where it happened."""

import re
from collections.abc import Iterator, Mapping

from bnfold.equivalence.feeds.size_solving import Unknown

_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
_NUMBER = re.compile(r"(?<![\w.])\d{1,7}(?![\w.])")
_COMMON = 4
"""Sizes up to this stand in many messages without being meant."""
_GROWTH = 2


def numbers(refusal: str) -> list[int]:
    """The numbers that stand for sizes: none that is part of a name."""
    return list(dict.fromkeys(int(found) for found in _NUMBER.findall(_QUOTED.sub("", refusal)) if int(found) > 0))


def place(refusal: str) -> tuple[str, ...]:
    """The names in it: another place means that the run came farther, or elsewhere."""
    return tuple(_QUOTED.findall(refusal))


def proposals(refusal: str, values: Mapping[Unknown, int]) -> Iterator[tuple[Unknown, int]]:
    """Other sizes for the unknowns, the likeliest first: those whose size the refusal names, then larger ones.

    "Got: 3 Expected: 20" names the wrong and the right one. A border that mirrors the inside is refused with the
    largest that would have been allowed, which is one less than the size, so one more than each number counts too.
    """
    mentioned = numbers(refusal)
    telling = sorted(values, key=lambda unknown: values[unknown] <= _COMMON)
    for unknown in telling:
        size = values[unknown]
        if size in mentioned or size - 1 in mentioned:
            others = sorted((number for number in mentioned if number not in {size, size - 1}), reverse=True)
            yield from ((unknown, wanted) for number in others for wanted in (number, number + 1))
    yield from ((unknown, values[unknown] * _GROWTH) for unknown in telling)
