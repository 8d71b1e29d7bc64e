"""Measuring whole processes: wall and processor time, and the most memory they held.

Nothing large is imported here: on Linux a child's peak memory counts from that of the process that started it.
"""

import os
import shutil
import signal
import statistics
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.contenders import command


@dataclass(frozen=True)
class Run:
    """Seconds of wall and processor time, bytes of memory at the peak, and what was said by a run that failed."""

    wall: float
    cpu: float
    memory: int
    failure: str = ""


@dataclass
class Measured:
    """The runs of one contender on one model, and what they left: bytes in all files, and the failure, if any."""

    runs: list[Run] = field(default_factory=list)
    nbytes: int = 0

    @property
    def failure(self) -> str:
        """Why there is nothing to show; "" where there is."""
        return next((run.failure for run in self.runs if run.failure), "")

    def median(self, what: str) -> float:
        """The median of "wall", "cpu" or "memory"."""
        return statistics.median(getattr(run, what) for run in self.runs)


def run(arguments: list[str], *, timeout: float) -> Run:
    """One process from start to end."""
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", "TQDM_DISABLE": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # or a checkout would be compiled anew in each run
    start = time.perf_counter()
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stderr is not None
        timer = threading.Timer(timeout, process.send_signal, [signal.SIGKILL])
        timer.start()
        said = process.stderr.read().decode("utf-8", "replace").strip()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        timer.cancel()
        code = process.returncode = os.waitstatus_to_exitcode(status)
    failure = "" if not code else f"took over {timeout:.0f} s" if wall > timeout else said[-300:] or f"exit code {code}"
    return Run(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, failure)


def interleaved(source: Path, contenders: list[str], folder: Path, runs: int, *, timeout: float) -> dict[str, Measured]:
    """`runs` rounds in which each contender has one go, after one round that warms the caches and is not counted.

    A contender that fails once is not asked again. What the last round made stays in `folder / contender`.
    """
    measured = {contender: Measured() for contender in contenders}
    for number in range(runs + 1):
        for contender, found in measured.items():
            if found.failure:
                continue
            place = folder / contender.replace(" ", "_")
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            one = run(command(contender, source, place / source.name), timeout=timeout)
            if number or one.failure:
                found.runs.append(one)
            found.nbytes = sum(path.stat().st_size for path in place.iterdir())
            print(
                f"  {contender:22} {one.failure.splitlines()[-1] if one.failure else f'{one.wall:8.2f} s'}", flush=True
            )
    return measured
