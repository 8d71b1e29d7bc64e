"""How long onnxruntime takes for one inference: python -m benchmarks.latency MODEL... [--threads 1 2] [--rounds 15].

Each model runs on the CPU at batch 1, with as many threads as are asked for (0 lets onnxruntime choose), with all of
its optimizations and with none; the median of rounds that take turns, so that whatever else the machine does falls on
all alike. Prints JSON: a list of path, threads, optimizations and seconds.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime

LEVELS = {
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "off": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
THREADS = (1, 2)
ROUNDS = 15
_WARM = 2
# By contender, threads and level: seconds.
Times = dict[tuple[str, int, str], float]


def latencies(paths: Mapping[str, Path], threads: Sequence[int], rounds: int) -> Times:
    """The median seconds of one inference, for each contender, number of threads and level of optimization."""
    sessions = {}
    for contender, path in paths.items():
        for count in threads:
            for level, value in LEVELS.items():
                options = onnxruntime.SessionOptions()
                options.graph_optimization_level = value
                options.intra_op_num_threads = count
                options.log_severity_level = 3
                session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
                sessions[contender, count, level] = session
    times: dict[tuple[str, int, str], list[float]] = {key: [] for key in sessions}
    generator = np.random.default_rng(0)
    fed = next(iter(sessions.values())).get_inputs()[0]
    feed = generator.standard_normal([size if isinstance(size, int) else 1 for size in fed.shape]).astype(np.float32)
    for number in range(rounds + _WARM):
        for key, session in sessions.items():
            start = time.perf_counter()
            session.run(None, {session.get_inputs()[0].name: feed})
            if number >= _WARM:
                times[key].append(time.perf_counter() - start)
    return {key: statistics.median(seconds) for key, seconds in times.items()}


def gains(found: Mapping[str, Times], contender: str, original: str, count: int, level: str) -> dict[str, float]:
    """How many times faster than the original a contender's model is, by network."""
    return {
        name: times[original, count, level] / times[contender, count, level]
        for name, times in found.items()
        if (contender, count, level) in times
    }


def table(found: Mapping[str, Times], original: str = "original") -> str:
    """Markdown: milliseconds, and how many times faster than the original; the geometric mean last."""
    contenders = list(dict.fromkeys(contender for times in found.values() for contender, _, _ in times))
    settings = sorted({(count, level) for times in found.values() for _, count, level in times})
    lines = []
    for count, level in settings:
        lines += ["", f"Optimizations {level}, {count} thread{'s' if count > 1 else ''}:", ""]
        lines += [f"| |{'|'.join(contenders)}|", "|---|" + "---:|" * len(contenders)]
        faster = {each: gains(found, each, original, count, level) for each in contenders}
        for name, times in found.items():
            cells = []
            for contender in contenders:
                seconds = times.get((contender, count, level))
                cells.append("" if seconds is None else f"{1000 * seconds:.2f} ({faster[contender][name]:.2f}x)")
            lines.append(f"| {name} |{'|'.join(cells)}|")
        means = (
            f"{math.exp(statistics.fmean(map(math.log, each.values()))):.3f}x" if len(each) == len(found) else ""
            for each in faster.values()
        )
        lines.append(f"| geometric mean |{'|'.join(means)}|")
    return "\n".join(lines)


def main() -> None:
    """Measure all, in turns."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency", description=__doc__)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--threads", type=int, nargs="+", default=THREADS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    chosen = parser.parse_args()
    found = latencies({model: Path(model) for model in chosen.models}, chosen.threads, chosen.rounds)
    print(json.dumps([[*key, seconds] for key, seconds in found.items()]))


if __name__ == "__main__":
    main()
