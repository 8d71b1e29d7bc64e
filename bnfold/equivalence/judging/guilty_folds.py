"""Which folds are guilty: bisection over the folds of a candidate that does not agree.

Delta debugging ("Yesterday, my program worked. Today, it does not. Why?", Zeller 1999) for the usual case of one or a
few independent faults: a set of folds that fails alone is halved until one is left, then the search goes on without it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Fold = TypeVar("Fold")


@dataclass(frozen=True)
class Attribution(Generic[Fold]):
    """`guilty`: folds to forbid, in the order given. `cleared`: whether the model agrees without them.

    `tried`: how many models were built and verified. Where `cleared` is false, the fault lies outside the folds or the
    limit of trials was reached.
    """

    guilty: tuple[Fold, ...]
    cleared: bool
    tried: int


def attribute(
    folds: Sequence[Fold], agrees_without: Callable[[frozenset[Fold]], bool], most: int = 200
) -> Attribution[Fold]:
    """Find a smallest-possible set of folds without which the model agrees.

    `agrees_without(forbidden)` rebuilds the model without these folds and says whether it verifies; the answer for a
    set is asked for once. Of the folds named none can be left out: the model fails with any one of them back. Where
    folds are wrong only together, one of them is named, which is enough. About (log2 n + 2) models are
    built per guilty fold, never more than `most`.
    """
    search = _Search(tuple(dict.fromkeys(folds)), agrees_without, most)
    try:
        return search.run()
    except _TooMany:
        return Attribution(
            tuple(fold for fold in search.folds if fold in search.guilty), cleared=False, tried=search.tried
        )


class _TooMany(Exception):  # noqa: N818 - how the search ends, not a mistake
    pass


class _Search(Generic[Fold]):
    def __init__(self, folds: tuple[Fold, ...], agrees_without: Callable[[frozenset[Fold]], bool], most: int) -> None:
        self.folds = folds
        self.ask = agrees_without
        self.most = most
        self.known: dict[frozenset[Fold], bool] = {}
        self.guilty: set[Fold] = set()

    @property
    def tried(self) -> int:
        return len(self.known)

    def run(self) -> Attribution[Fold]:
        everything = frozenset(self.folds)
        if self.agrees(frozenset()):
            return Attribution((), cleared=True, tried=self.tried)
        if not self.agrees(everything):
            return Attribution((), cleared=False, tried=self.tried)
        while not self.agrees(frozenset(self.guilty)):
            self.guilty.add(self.next_guilty())
        for fold in self.folds:
            # One found early may have been guilty only beside another that is forbidden by now.
            if fold in self.guilty and len(self.guilty) > 1 and self.agrees(frozenset(self.guilty - {fold})):
                self.guilty.remove(fold)
        return Attribution(tuple(fold for fold in self.folds if fold in self.guilty), cleared=True, tried=self.tried)

    def next_guilty(self) -> Fold:
        """The last fold of the shortest prefix that must be forbidden, beside those already found, for agreement."""
        rest = [fold for fold in self.folds if fold not in self.guilty]
        low, high = 0, len(rest)
        while high - low > 1:
            middle = (low + high) // 2
            if self.agrees(frozenset(self.guilty | set(rest[:middle]))):
                high = middle
            else:
                low = middle
        return rest[high - 1]

    def agrees(self, forbidden: frozenset[Fold]) -> bool:
        if forbidden not in self.known:
            if self.tried >= self.most:
                raise _TooMany
            self.known[forbidden] = self.ask(forbidden)
        return self.known[forbidden]
