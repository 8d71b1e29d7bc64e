"""The random models of `bnfold.testing`, drawn by hypothesis, so that what fails shrinks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from bnfold.testing.random_graphs import Case, drawn, seeded_case, text_of
from bnfold.testing.random_scope import Dice

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Case", "cases", "seeded_case", "text_of"]


class _DrawnDice(Dice):
    """Choices that hypothesis makes and shrinks."""

    def __init__(self, draw: Callable[[st.SearchStrategy[Any]], Any]) -> None:
        self._draw = draw

    def number(self, low: int, high: int) -> int:
        return low if low == high else self._draw(st.integers(low, high))


@st.composite
def cases(draw: Any, most_steps: int = 8) -> Case:
    return drawn(_DrawnDice(draw), most_steps)
