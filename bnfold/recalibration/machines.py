"""Statistics from files of data, computed by the workers of a dask cluster, each with some of the files.

A task runs one part of the data (`bnfold.batches.shards_of`) through one level and returns its moments as bytes. They
are merged exactly: which worker had which part, when it answered and how often a task was begun anew show in no bit of
the statistics. A worker keeps, of the parts that it had, what crosses to the next level; one that takes over a part
begins at its inputs.
"""

import os
import secrets
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from bnfold.batches import Source, shards_of
from bnfold.cluster import connected
from bnfold.decisions import NodeKey
from bnfold.equivalence import SegmentedModel, tap
from bnfold.errors import BnfoldError, ResourceLimitError, UsageError
from bnfold.graph import Model
from bnfold.onnxfile import OnnxFile, read
from bnfold.options import CalibrationOptions
from bnfold.progress import StageProgress
from bnfold.recalibration.exact import Beside, ByLevel
from bnfold.recalibration.gathering import Gathered, in_one_pass, levels_of
from bnfold.recalibration.kept_values import KeptValues
from bnfold.recalibration.opening import input_shapes, opened
from bnfold.recalibration.run import Calibration, targets_or_refuse
from bnfold.recalibration.targets import targets_of
from bnfold.statistics import Statistics

if TYPE_CHECKING:
    from bnfold.recalibration.drift import Drift


@dataclass(frozen=True)
class Work:
    """One part of the data through one level. `run` and `part` name it; `keep` and `options` are those of the whole.

    `model` and `data` are absolute paths, which mean the same on every machine; `files`: the part.
    """

    run: str
    part: int
    level: int
    model: str
    data: str
    files: tuple[Path, ...]
    options: CalibrationOptions
    keep: tuple[str, ...]


def calibrate_there(
    scheduler: str,
    file: OnnxFile,
    model: Model,
    data: Any,
    options: CalibrationOptions,
    *,
    keep: Iterable[str] = (),
    on_progress: StageProgress | None = None,
) -> Calibration:
    """What `calibrate` gives for the data at the path `data`, to the bit, computed by the cluster at `scheduler`.

    `model` is that of `file`, not edited. `on_progress` counts parts. Raises UsageError where the model is no file, the
    data no file and no folder of files, or the cluster cannot be reached, ResourceLimitError where workers die of a
    part again and again, and what `calibrate` raises.
    """
    if file.path is None or not isinstance(data, str | os.PathLike):
        raise UsageError(
            "a scheduler needs paths, which mean the same on every worker: of the model, and of files of data"
        )
    keep = tuple(keep)
    targets, left_out = targets_or_refuse(model, keep)
    levels = levels_of(targets, options)
    parts = shards_of(data, input_shapes(model), options.batch_size)
    alone = replace(options, scheduler=None, spill_limit=options.spill_limit // len(parts))
    known: dict[NodeKey, Statistics] = {}
    drifts: dict[NodeKey, Drift] = {}
    batches = 0
    with _Cluster(scheduler) as cluster:
        places = str(file.path.absolute()), str(Path(data).absolute())
        works = [Work(cluster.run, part, 0, *places, files, alone, keep) for part, files in enumerate(parts)]
        for number, level in enumerate(levels):
            gathered = Gathered([target.place for target in level], by_torch=options.statistics == "torch")
            for done in cluster.merge([replace(work, level=number) for work in works], known, gathered):
                if on_progress is not None:
                    on_progress(number * len(parts) + done, len(levels) * len(parts))
            found, moved = gathered.statistics(level)
            batches = gathered.batches
            known |= found
            drifts |= dict(zip(gathered.places, moved, strict=True))
    return Calibration(
        known,
        tuple(drifts[target.place] for target in targets),
        "fast" if in_one_pass(options) else "exact",
        options.statistics,
        batches,
        1,
        len(levels),
        left_out=left_out,
    )


class _Cluster:
    """A cluster for the time of one calibration. A context manager; at its end the workers forget the parts."""

    def __init__(self, address: str) -> None:
        self._client = connected(address)
        self._homes: dict[int, str] = {}
        """Which worker had a part before, and need not begin again."""
        self.run = secrets.token_hex(8)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        with suppress(Exception):  # who is gone has forgotten
            self._client.run(forget, self.run)
        self._client.close()

    def merge(self, works: Sequence[Work], known: Mapping[NodeKey, Statistics], gathered: Gathered) -> Iterator[int]:
        """Do all `works` of a level with the statistics before it, and merge what they find; how many are done."""
        import distributed

        completed: Any = distributed.as_completed
        level = works[0].level
        # A task of its own, not data that one worker holds: it is done again where that worker is gone.
        before = self._client.submit(_same, dict(known), key=f"bnfold-{self.run}-{level}", pure=False)
        asked = [
            self._client.submit(
                moments,
                work,
                before,
                key=f"bnfold-{self.run}-{level}-{work.part}",
                pure=False,
                workers=self._homes.get(work.part),
                allow_other_workers=work.part in self._homes,
            )
            for work in works
        ]
        for count, future in enumerate(completed(asked, loop=self._client.loop), 1):
            try:
                part, home, found = future.result()
            except BnfoldError:
                raise
            except Exception as error:
                raise ResourceLimitError(f"the cluster gave a part of the data up: {error}") from error
            self._homes[part] = home
            gathered.merge(found)
            future.release()
            yield count


# --- on a worker


class _Part:
    """One part of the data on its way through the levels of a model. `level`: the next one."""

    def __init__(self, work: Work) -> None:
        self.level = work.level
        self._options = work.options
        self._file = read(Path(work.model))
        model = Model(self._file)
        self._data = opened(work.data, model, work.options, work.files)
        levels = levels_of(targets_of(model, work.keep)[0], work.options)
        self._places = [[target.place for target in level] for level in levels]
        self._stack = ExitStack()
        if not in_one_pass(work.options):
            with ExitStack() as stack:
                options = work.options
                kept = stack.enter_context(KeptValues(options.spill_limit, options.spill, options.spill_budget))
                cut = stack.enter_context(SegmentedModel(self._file, self._places))
                self._by_level = ByLevel(cut, len(levels), Source(self._data, len(levels), kept=True), kept)
                self._stack = stack.pop_all()

    @property
    def is_done(self) -> bool:
        """Whether it went through all levels."""
        return self.level == len(self._places)

    def close(self) -> None:
        """Let go what is kept of it."""
        self._stack.close()

    def moments(self, known: Mapping[NodeKey, Statistics]) -> dict[NodeKey, bytes]:
        """Those of the next level, with the statistics `known` before it."""
        gathered = Gathered(self._places[self.level], by_torch=self._options.statistics == "torch")
        if in_one_pass(self._options):
            for values in tap(self._file, gathered.places, Source(self._data, 1).batches(), known={}, by_batch=True):
                gathered.take(values)
        else:
            with Beside(gathered.take) as beside:
                self._by_level.run(self.level, known, beside.take)
        self.level += 1
        return gathered.to_bytes()


_PARTS: dict[tuple[str, int], _Part] = {}
_LOCK = threading.Lock()


def moments(work: Work, known: Mapping[NodeKey, Statistics]) -> tuple[int, str, dict[NodeKey, bytes]]:
    """Do one task: the part, the address of this worker, and the moments of each normalization of the level."""
    from distributed import get_worker

    key = work.run, work.part
    with _LOCK:
        part = _PARTS.pop(key, None)
    if part is not None and part.level != work.level:  # it went on elsewhere
        part.close()
        part = None
    part = part or _Part(work)
    try:
        found = part.moments(known)
    except BaseException:
        part.close()
        raise
    if part.is_done:
        part.close()
    else:
        with _LOCK:
            _PARTS[key] = part
    return work.part, str(get_worker().address), found


def forget(run: str) -> None:
    """Let go what this worker keeps of a run."""
    with _LOCK:
        parts = [_PARTS.pop(key) for key in list(_PARTS) if key[0] == run]
    for part in parts:
        part.close()


def _same(known: Mapping[NodeKey, Statistics]) -> Mapping[NodeKey, Statistics]:
    return known
