"""How long onnxruntime takes for one inference: python -m benchmarks.latency MODEL... prints JSON by path and level.

Each model runs on zeros at batch 1, on the CPU with as many threads as onnxruntime chooses; the median of rounds that
take turns, so that whatever else the machine does falls on all alike.
"""

import json
import statistics
import sys
import time

import numpy as np
import onnxruntime

LEVELS = {
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "off": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
ROUNDS = 15


def main(paths: list[str]) -> None:
    """Measure all, in turns."""
    sessions = {}
    for path in paths:
        for level, value in LEVELS.items():
            options = onnxruntime.SessionOptions()
            options.graph_optimization_level = value
            options.log_severity_level = 3
            sessions[path, level] = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    times: dict[tuple[str, str], list[float]] = {key: [] for key in sessions}
    for number in range(ROUNDS + 3):
        for key, session in sessions.items():
            feed = session.get_inputs()[0]
            zeros = np.zeros([size if isinstance(size, int) else 1 for size in feed.shape], np.float32)
            start = time.perf_counter()
            session.run(None, {feed.name: zeros})
            if number >= 3:
                times[key].append(time.perf_counter() - start)
    found: dict[str, dict[str, float]] = {}
    for (path, level), seconds in times.items():
        found.setdefault(path, {})[level] = statistics.median(seconds)
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
