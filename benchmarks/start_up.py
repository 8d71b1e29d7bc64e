"""What a small model costs: whole processes of bnfold against importing numpy, onnx and onnxruntime alone.

    python -m benchmarks.start_up [rounds, default 15]

Interleaved, after one round that compiles modules and warms the caches. Prints the median and the least of wall time
and of processor time, and how far each is above those imports.
"""

import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks import processes

MODEL = Path(__file__).parents[1] / "models" / "digits_cnn.onnx"
BASE = "import numpy, onnx, onnxruntime"


def commands(folder: Path) -> dict[str, list[str]]:
    """By name; the first is what the others are compared with."""
    bnfold, output = [sys.executable, "-m", "bnfold"], str(folder / "out.onnx")
    return {
        BASE: [sys.executable, "-c", BASE],
        "import bnfold": [sys.executable, "-c", "import bnfold"],
        "import bnfold.api": [sys.executable, "-c", "import bnfold.api"],
        "bnfold --help": [*bnfold, "--help"],
        "bnfold inspect": [*bnfold, "inspect", str(MODEL)],
        "bnfold optimize --no-verify": [*bnfold, "optimize", "--no-verify", "--overwrite", str(MODEL), output],
        "bnfold optimize": [*bnfold, "optimize", "--overwrite", str(MODEL), output],
    }


def main(rounds: int) -> None:
    """Measure and print one line per command."""
    with tempfile.TemporaryDirectory() as folder:
        asked = commands(Path(folder))
        found: dict[str, list[processes.Run]] = {name: [] for name in asked}
        for number in range(rounds + 1):
            for name, command in asked.items():
                run = processes.run(command, timeout=120)
                if run.failure:
                    raise SystemExit(f"{name}: {run.failure}")
                if number:
                    found[name].append(run)
    base = {what: statistics.median(getattr(run, what) for run in found[BASE]) for what in ("wall", "cpu")}
    for name, runs in found.items():
        told = []
        for what in ("wall", "cpu"):
            times = [getattr(run, what) for run in runs]
            median = statistics.median(times)
            told.append(f"{what} {median:.3f} s (least {min(times):.3f}), {median - base[what]:+.3f}")
        print(f"{name:32} {'; '.join(told)}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 15)
