"""What verifying a ResNet-50 costs, against creating and running a session of each model once.

    python -m benchmarks.verification_cost

The model is light_resnet50 of the onnx wheel with random weights (batch 1, 224x224), the candidate the same folded by
the tests' own folder. Sessions are onnxruntime's defaults. Times are the best of three.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime

from bnfold.equivalence import VerifyOptions, verify
from tests import architectures, planted


def best(call: Callable[[], object]) -> float:
    """Seconds, the least of three calls."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def once(paths: list[Path]) -> None:
    """Create a default session of each model and run it once."""
    for path in paths:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        session.run(None, {session.get_inputs()[0].name: np.ones((1, 3, 224, 224), np.float32)})


def main() -> None:
    """Measure, print."""
    onnxruntime.set_default_logger_severity(4)
    base = architectures.light("resnet50")
    folds = planted.Folds(base)
    every = range(len(folds.sites))
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / "before.onnx", Path(folder) / "after.onnx"]
        for path, model in zip(paths, (base, folds.right(every)), strict=True):
            path.write_bytes(model.SerializeToString())
        both = best(lambda: once(paths))
        run = best(lambda: verify(*paths))
        proof = best(lambda: verify(*paths, VerifyOptions(proof="always")))
    print(f"both sessions once {both:.2f} s; verify {run:.2f} s ({run / both:.2f}x); with proofs {proof:.2f} s")


if __name__ == "__main__":
    main()
