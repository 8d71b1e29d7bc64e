"""What verifying a ResNet-50 costs, against creating and running a session of each model once.

    python -m benchmarks.verification_cost

The model is light_resnet50 of the onnx wheel with random weights (batch 1, 224x224), the candidate the same folded by
the tests' own folder. Sessions are onnxruntime's defaults. Times are the best of three in one process. Memory is the
peak of a process that does nothing else, started by a small one; of the sessions only one is alive at a time.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks import processes

TIMEOUT = 600.0


def best(call: Callable[[], object]) -> float:
    """Seconds, the least of three calls."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def once(*paths: Path) -> None:
    """Create a default session of each model, run it once and let it go."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)
    for path in paths:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        session.run(None, {session.get_inputs()[0].name: np.ones((1, 3, 224, 224), np.float32)})
        del session


def timed(before: Path, after: Path) -> None:
    """Make the models, measure times, print them."""
    from bnfold.equivalence import VerifyOptions, verify
    from tests import light_graphs, planted

    base = light_graphs.light("resnet50")
    folds = planted.Folds(base)
    every = range(len(folds.sites))
    before.write_bytes(base.SerializeToString())
    after.write_bytes(folds.right(every).SerializeToString())
    both = best(lambda: once(before, after))
    print(f"both sessions once: {both:.2f} s")
    asked = {
        "verify": VerifyOptions(),
        "verify, thorough": VerifyOptions(thorough=True),
        "verify without proofs": VerifyOptions(proof="never"),
    }
    for name, options in asked.items():
        spent = verify(before, after, options).spent
        took = best(lambda options=options: verify(before, after, options))  # type: ignore[misc]
        print(
            f"{name}: {took:.2f} s, {took / both:.2f}x; {', '.join(f'{count} {what}' for what, count in spent.items())}"
        )


PARTS = {"once": once, "times": timed}


def command(part: str, *paths: Path) -> list[str]:
    """This script again, for one part of it."""
    return [sys.executable, "-m", "benchmarks.verification_cost", part, *map(str, paths)]


def peak(arguments: list[str]) -> float:
    """MiB of memory at the most, in a process that does nothing else."""
    found = processes.run(arguments, timeout=TIMEOUT)
    if found.failure:
        raise RuntimeError(found.failure)
    return found.memory / 2**20


def main() -> None:
    """Measure, print."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / "before.onnx", Path(folder) / "after.onnx"]
        subprocess.run(command("times", *paths), check=True)
        sessions = peak(command("once", *paths))
        verify = peak([sys.executable, "-m", "bnfold", "verify", *map(str, paths)])
    print(f"peak memory: both sessions once {sessions:.0f} MiB; bnfold verify {verify:.0f} MiB")


if __name__ == "__main__":
    if sys.argv[1:]:
        PARTS[sys.argv[1]](*map(Path, sys.argv[2:]))
    else:
        main()
