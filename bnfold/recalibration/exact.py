"""Exact statistics, level by level: the model runs in segments, and what crosses between two of them is kept.

Nothing is computed twice and the data is read once, as long as what is kept fits. Where it does not fit for a batch,
its next segment begins at the last frontier that was kept, at first at its inputs. Where not even the inputs of all
batches fit, every level reads the data again. What is kept never shows in a bit of the statistics: see
`bnfold.equivalence.runtime.segments` for the values, `bnfold.statistics.merging` for the order of batches.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import Self

import numpy as np

from bnfold.batches import Source
from bnfold.decisions import NodeKey
from bnfold.equivalence import SegmentedModel, interruptibly
from bnfold.equivalence.numbers.element_types import Array
from bnfold.errors import UsageError
from bnfold.recalibration.kept_values import Kept, KeptValues
from bnfold.statistics import Statistics

Take = Callable[[Mapping[NodeKey, Array]], None]
"""Takes the data of the normalizations of one level in one batch."""


@dataclass
class _Batch:
    """The kept part of one batch: the `values` that cross the frontier behind level `at`, its inputs where that is -1.

    `feed`: its inputs, as long as the data is being read. `ends`: the caller's batch ends with this part of it.
    """

    feed: dict[str, Kept]
    ends: bool
    values: dict[str, Kept] = field(default_factory=dict)
    at: int = -1


class Beside:
    """Takes data in a thread of its own, one batch while the next one is made; what that raises is raised here."""

    def __init__(self, take: Take) -> None:
        self._take = take
        self._taken: Future[None] | None = None

    def __enter__(self) -> Self:
        self._thread = ThreadPoolExecutor(1, "bnfold-moments")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        with self._thread:
            if kind is None:
                self._wait()

    def take(self, data: Mapping[NodeKey, Array]) -> None:
        """Have `data` taken, once what came before it is."""
        self._wait()
        self._taken = self._thread.submit(self._take, data)

    def _wait(self) -> None:
        if self._taken is not None:
            self._taken.result()


class ByLevel:
    """Runs data through a model, one level after the other. `read`: how often the data was; `repeated`: how many
    segments began before the last frontier.
    """

    def __init__(self, model: SegmentedModel, levels: int, source: Source, kept: KeptValues) -> None:
        self.read = self.repeated = 0
        self._model, self._last, self._source, self._kept = model, levels - 1, source, kept
        self._batches: list[_Batch] | None = None

    def run(self, level: int, known: Mapping[NodeKey, Statistics], take: Take) -> None:
        """Run all batches through the segment of `level`; `known`: the statistics before it. Raises UsageError."""
        if self._batches is None:
            self._batches = self._read(level, known, take)
        else:
            interruptibly(partial(self._go_on, level, known, take, self._batches))

    def _read(self, level: int, known: Mapping[NodeKey, Statistics], take: Take) -> list[_Batch] | None:
        """Read all data and run it from the inputs; what is kept of it, None where that does not fit."""
        self.read += 1
        batches: list[_Batch] | None = [] if level < self._last else None
        with self._model.segment(self._model.entering, level, known) as run:
            for feed, ends in self._model.feeds(self._source.batches()):
                inputs = {name: np.array(feed[name]) for name in self._model.entering if name in feed}
                answer = run(inputs)  # copies: the caller may write the next batch into the same arrays
                take(answer.data)
                self.repeated += level > 0
                if batches is not None and not self._keep(batches, _Batch({}, ends), inputs, answer.crossing, level):
                    for batch in batches:
                        self._kept.drop({**batch.feed, **batch.values}.values())
                    batches = None
        for batch in batches or ():
            if batch.at < 0:
                batch.values = batch.feed
            else:
                self._kept.drop(each for name, each in batch.feed.items() if name not in batch.values)
            batch.feed = {}
        return batches

    def _keep(
        self, batches: list[_Batch], new: _Batch, inputs: Mapping[str, Array], crossing: Mapping[str, Array], level: int
    ) -> bool:
        """Keep the inputs of a new batch, even at the price of what others have beside theirs, and more if it fits.

        Raises UsageError where its inputs do not fit and could not be read again.
        """
        crowded = [batch for batch in batches if batch.at >= 0]
        while (kept := self._kept.put(inputs)) is None and crowded:
            batch = crowded.pop()
            self._kept.drop(each for name, each in batch.values.items() if name not in batch.feed)
            batch.values, batch.at = {}, -1
        if kept is None:
            if self._source.can_be_read_again:
                return False
            raise UsageError(
                "the data can be read once only, and more of it has to be kept than --spill-limit allows in memory"
                " and --spill-budget in the file of --spill: allow more, give a list, a DataLoader or a function"
                " that returns an iterator, or use the fast mode"
            )
        new.feed = kept
        batches.append(new)
        more = self._kept.put({name: array for name, array in crossing.items() if name not in kept})
        if more is not None:
            new.values = more | {name: each for name, each in kept.items() if name in crossing}
            new.at = level
        return True

    def _go_on(self, level: int, known: Mapping[NodeKey, Statistics], take: Take, batches: Sequence[_Batch]) -> None:
        """Run each batch from what is kept of it, and keep what crosses the next frontier instead, where that fits."""
        for at, some in groupby(sorted(batches, key=attrgetter("at")), attrgetter("at")):
            group = list(some)
            with self._model.segment(group[0].values.keys(), level, known) as run:
                for batch in group:
                    answer = run({name: self._kept.get(each) for name, each in batch.values.items()})
                    take(answer.data)
                    self.repeated += at < level - 1
                    self._replace(batch, answer.crossing, level)
                    if batch.ends:
                        self._source.ran()

    def _replace(self, batch: _Batch, crossing: Mapping[str, Array], level: int) -> None:
        shared = {name: each for name, each in batch.values.items() if name in crossing}
        new = {name: array for name, array in crossing.items() if name not in shared}
        done = [each for name, each in batch.values.items() if name not in shared]
        kept = self._kept.put(new, instead_of=done)
        if kept is not None:
            batch.values, batch.at = shared | kept, level
