"""Where the time goes when a large model is folded: reading, scaling, writing, waiting for the disk.

    python -m benchmarks.large_stages [rounds, default 3] [MODEL of benchmarks.models, default "1 GB inline"]

`bnfold.optimize(verify=False)` in one process: as the command without a report does it, and with the sha256 of the
input and of the output, which reports and the library's results hold. For each stage the seconds that the threads spent
in it together, and those of them that a processor worked; two threads write, so that the sum of all is more than what
passed. Beside it a copy of the file that waits for the disk. Everything in turns, medians.
"""

import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bnfold
from benchmarks import models
from benchmarks.proof_cost import copied
from bnfold.onnxfile import stream

CALLS = {"preadv": "read", "copy_file_range": "copied as it is", "pwrite": "write", "fsync": "sync"}
STAGES = ("read", "scale", "write", "sync", "copied as it is")


class Stages:
    """Seconds by stage: those that passed, and those of processors."""

    def __init__(self) -> None:
        self.passed = dict.fromkeys(STAGES, 0.0)
        self.worked = dict.fromkeys(STAGES, 0.0)
        self._lock = threading.Lock()
        self._within = threading.local()

    def timed(self, stage: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """`call`, whose time counts for a stage, but for what counts for another within it."""

        def run(*arguments: Any, **options: Any) -> Any:
            around = getattr(self._within, "spent", (0.0, 0.0))
            self._within.spent = (0.0, 0.0)
            start, spent = time.perf_counter(), time.thread_time()
            try:
                return call(*arguments, **options)
            finally:
                passed, worked = time.perf_counter() - start, time.thread_time() - spent
                with self._lock:
                    self.passed[stage] += passed - self._within.spent[0]
                    self.worked[stage] += worked - self._within.spent[1]
                self._within.spent = (around[0] + passed, around[1] + worked)

        return run


def folded(source: Path, target: Path, *, checksums: bool) -> tuple[float, Stages]:
    """Seconds to fold, and the stages. What a piece takes besides reading and writing it is scaling."""
    stages = Stages()
    before = {name: getattr(os, name) for name in CALLS}
    make = stream._Computed.make  # noqa: SLF001 - what a thread does for one piece
    for name, stage in CALLS.items():
        setattr(os, name, stages.timed(stage, before[name]))
    stream._Computed.make = stages.timed("scale", make)  # type: ignore[method-assign]  # noqa: SLF001
    try:
        start = time.perf_counter()
        bnfold.optimize(source, target, verify=False, overwrite=True, checksums=checksums)
        passed = time.perf_counter() - start
    finally:
        stream._Computed.make = make  # type: ignore[method-assign]  # noqa: SLF001
        for name, call in before.items():
            setattr(os, name, call)
    return passed, stages


def main(rounds: int, name: str) -> None:
    """Make, measure in turns, print."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.onnx", Path(folder) / "out.onnx"
        models.save(name, source)
        found: dict[bool, list[tuple[float, Stages]]] = {False: [], True: []}
        copies: list[float] = []
        for number in range(rounds + 1):
            made = {checksums: folded(source, target, checksums=checksums) for checksums in found}
            copy = copied(source)
            if number:  # the first only warms the caches
                copies.append(copy)
                for checksums, one in made.items():
                    found[checksums].append(one)
    copy = statistics.median(copies)
    for checksums, runs in found.items():
        passed = statistics.median(each for each, _ in runs)
        how = "with both sha256" if checksums else "as the command without a report"
        print(f"{name}, {how}: {passed:.2f} s, a copy that waits for the disk {copy:.2f} s: {passed / copy:.2f}x")
        for stage in STAGES:
            took = statistics.median(stages.passed[stage] for _, stages in runs)
            worked = statistics.median(stages.worked[stage] for _, stages in runs)
            print(f"  {stage:16} {took:6.2f} s in all threads, {worked:6.2f} s of processor time")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3, sys.argv[2] if len(sys.argv) > 2 else "1 GB inline")
