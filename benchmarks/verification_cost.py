"""What verification costs: six networks of unlike shape, whole processes, interleaved, medians.

    python -m benchmarks.verification_cost [rounds, default 7] [part of a network's name]

For each network: `bnfold optimize` beyond `bnfold optimize --no-verify` and importing onnxruntime, against creating a
default session of each of the two models and running it once at batch 1 (beyond importing as well). By wall time and by
processor time; then the geometric mean and the worst, and the peak memory of both.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import processes

NETWORKS = {
    "residual": "ResNet-50",
    "u-net": "U-Net",
    "depthwise": "MobileNetV2",
    "fully connected": "wide",
    "segmentation": "segmentation",
    "speech": "speech",
}
TIMEOUT = 600.0
BASE = "import numpy, onnx"


def once(*paths: Path) -> None:
    """Create a default session of each model, run it once and let it go."""
    import numpy as np
    import onnxruntime

    for path in paths:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        taken = session.get_inputs()[0]
        shape = [dim if isinstance(dim, int) else 1 for dim in taken.shape]
        session.run(None, {taken.name: np.ones(shape, np.float32)})
        del session


def commands(before: Path, after: Path) -> dict[str, list[str]]:
    """What is measured, by name."""
    optimize = [sys.executable, "-m", "bnfold", "optimize", "--overwrite", str(before), str(after)]
    sessions = [sys.executable, "-m", "benchmarks.verification_cost", "once", str(before), str(after)]
    return {
        "optimize": optimize,
        "unverified": [*optimize, "--no-verify"],
        "imports": [sys.executable, "-c", BASE],
        "runtime": [sys.executable, "-c", f"{BASE}, onnxruntime"],
        "once": sessions,
        "started": [sys.executable, "-m", "benchmarks.verification_cost", "once"],
    }


def measured(name: str, folder: Path, rounds: int) -> dict[str, float]:
    """Seconds of verification and of both sessions once, by wall and processor time, and bytes at the peak."""
    before, after = folder / "before.onnx", folder / "after.onnx"
    subprocess.run([sys.executable, "-m", "benchmarks.models", name, str(before)], check=True)
    asked = commands(before, after)
    found: dict[str, list[processes.Run]] = {each: [] for each in asked}
    for number in range(rounds + 1):
        for each, command in asked.items():
            run = processes.run(command, timeout=TIMEOUT)
            if run.failure:
                raise SystemExit(f"{name}, {each}: {run.failure}")
            if number:
                found[each].append(run)
    taken: dict[str, float] = {}
    for what in ("wall", "cpu"):
        median = {each: statistics.median(getattr(run, what) for run in runs) for each, runs in found.items()}
        beyond = median["optimize"] - median["unverified"] - (median["runtime"] - median["imports"])
        taken |= {f"verification {what}": beyond, f"once {what}": median["once"] - median["started"]}
    taken |= {f"memory of {each}": max(run.memory for run in found[each]) for each in ("optimize", "once")}
    report = folder / "report.json"
    subprocess.run([*asked["optimize"], "--report", str(report)], check=True, capture_output=True)
    print(f"{name}: spent {json.loads(report.read_text())['verification']['spent']}")
    return taken


def main(rounds: int, part: str) -> None:
    """Measure and print."""
    ratios: dict[str, list[float]] = {"wall": [], "cpu": []}
    for kind, name in NETWORKS.items():
        if part not in kind and part not in name:
            continue
        with tempfile.TemporaryDirectory() as folder:
            found = measured(name, Path(folder), rounds)
        told = []
        for what, collected in ratios.items():
            verification, sessions = found[f"verification {what}"], found[f"once {what}"]
            collected.append(verification / sessions)
            told.append(
                f"{what} {verification:.2f} s, both sessions once {sessions:.2f} s: {verification / sessions:.2f}x"
            )
        memory = " and ".join(f"{found[f'memory of {each}'] / 2**20:.0f} MiB" for each in ("optimize", "once"))
        print(f"{kind:16} {'; '.join(told)}; peaks {memory}", flush=True)
    for what, collected in ratios.items():
        mean, worst = statistics.geometric_mean(collected), max(collected)
        print(f"{what}: geometric mean {mean:.2f}x, worst {worst:.2f}x (at most 1.5x and 2.5x are asked for)")


if __name__ == "__main__":
    if sys.argv[1:2] == ["once"]:
        once(*map(Path, sys.argv[2:]))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 7, sys.argv[2] if len(sys.argv) > 2 else "")
