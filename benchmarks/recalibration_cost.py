"""What exact recalibration costs, in passes through the model.

    python -m benchmarks.recalibration_cost [--nothing-kept] [IMAGES] [MODEL of benchmarks.models]

One forward pass is what `onnxruntime` takes for the images, one at a time, with its optimizations and without them.
Beside the two modes stands exact recalibration with what it keeps in a file, and where it is asked for with nothing
kept at all, so that each level runs from the beginning again; the statistics of all exact runs are the same bits. The
runs go in turns, three of each but of the last, and the medians are told: seconds, and seconds of all processors.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime

from benchmarks import models
from bnfold.graph import Model
from bnfold.onnxfile import read
from bnfold.options import CalibrationOptions
from bnfold.recalibration import Calibration, calibrate

IMAGES = 32
TURNS = 3


def forward(path: Path, feeds: list[np.ndarray], *, optimized: bool) -> None:
    """The images through the model, as a caller runs it."""
    options = onnxruntime.SessionOptions()
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimized else levels.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(path, options)
    for feed in feeds:
        session.run(None, {session.get_inputs()[0].name: feed})


def recalibrated(path: Path, feeds: list[np.ndarray], options: CalibrationOptions, *, once: bool) -> Calibration:
    """New statistics; `once`: from an iterator."""
    file = read(path)
    return calibrate(file, Model(file), iter(feeds) if once else feeds, options)


def timed(run: Callable[[], object]) -> tuple[float, float, object]:
    """Seconds, those of processors, and what came of it."""
    start, spent = time.perf_counter(), time.process_time()
    found = run()
    return time.perf_counter() - start, time.process_time() - spent, found


def main(count: int, name: str, *, nothing_kept: bool) -> None:
    """Make the model and the images, measure in turns, print."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        models.save(name, path)
        generator = np.random.default_rng(0)
        feeds = [generator.normal(size=(1, 3, 224, 224)).astype(np.float32) for _ in range(count)]
        spilling = CalibrationOptions(spill=folder, spill_limit=0)
        nothing = CalibrationOptions(spill_limit=0)
        runs: dict[str, Callable[[], object]] = {
            "forward pass": lambda: forward(path, feeds, optimized=True),
            "forward pass without optimizations": lambda: forward(path, feeds, optimized=False),
            "exact": lambda: recalibrated(path, feeds, CalibrationOptions(), once=True),
            "exact, all in a file": lambda: recalibrated(path, feeds, spilling, once=True),
            "fast": lambda: recalibrated(path, feeds, CalibrationOptions(mode="fast"), once=True),
        }
        seconds: dict[str, list[float]] = {each: [] for each in runs}
        spent: dict[str, list[float]] = {each: [] for each in runs}
        found: dict[str, object] = {}
        for _ in range(TURNS):
            for each, run in runs.items():
                took, worked, found[each] = timed(run)
                seconds[each].append(took)
                spent[each].append(worked)
        if nothing_kept:
            took, worked, found["exact, nothing kept"] = timed(lambda: recalibrated(path, feeds, nothing, once=False))
            seconds["exact, nothing kept"], spent["exact, nothing kept"] = [took], [worked]
    one, of_processors = statistics.median(seconds["forward pass"]), statistics.median(spent["forward pass"])
    print(f"{name}, {count} images")
    for each, result in found.items():
        middle, worked = statistics.median(seconds[each]), statistics.median(spent[each])
        told = f"{each:36}{middle:8.2f} s{middle / one:7.2f}x{worked:9.2f} s{worked / of_processors:7.2f}x"
        if isinstance(result, Calibration):
            told += f"   {result.levels} levels, {result.passes} readings, {result.repeated} segments again, "
            told += f"{result.kept_bytes >> 20} MB in memory, {result.spilled_bytes >> 20} MB in the file"
        print(told)
    exact = [found[each] for each in found if each.startswith("exact")]
    print("the statistics of all exact runs are the same bits:", len({bits(each) for each in exact}) == 1)


def bits(found: object) -> bytes:
    """All statistics as they are."""
    assert isinstance(found, Calibration)
    return b"".join(each.mean.tobytes() + each.variance.tobytes() for each in found.statistics.values())


if __name__ == "__main__":
    asked = [each for each in sys.argv[1:] if each != "--nothing-kept"]
    main(
        int(asked[0]) if asked else IMAGES,
        asked[1] if len(asked) > 1 else "ResNet-50",
        nothing_kept=len(asked) < len(sys.argv) - 1,
    )
