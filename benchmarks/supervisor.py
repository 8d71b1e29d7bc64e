"""What the process that supervises costs: `bnfold optimize` of a small model with it and without.

    python -m benchmarks.supervisor [pairs, default 30]

Whole processes in pairs, in either order in turn, after one pair that warms the caches. Prints the median of the
differences within the pairs, in milliseconds of wall and of processor time: at most 20 are allowed.
"""

import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks import processes
from benchmarks.start_up import MODEL

ALONE = "import sys; sys.argv[0] = 'bnfold'; from bnfold import __main__; __main__._work_and_leave()"


def main(pairs: int) -> None:
    """Measure, and print a line for each kind of time."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["optimize", "--overwrite", str(MODEL), str(Path(folder) / "out.onnx")]
        commands = [[sys.executable, "-m", "bnfold", *arguments], [sys.executable, "-c", ALONE, *arguments]]
        found: list[dict[int, processes.Run]] = []
        for pair in range(pairs + 1):
            runs = {}
            for which in (0, 1) if pair % 2 else (1, 0):
                run = processes.run(commands[which], timeout=120)
                if run.failure:
                    raise SystemExit(f"{' '.join(commands[which])}: {run.failure}")
                runs[which] = run
            if pair:
                found.append(runs)
    for what in ("wall", "cpu"):
        differences = sorted(1000 * (getattr(runs[0], what) - getattr(runs[1], what)) for runs in found)
        quarter = len(differences) // 4
        spread = f"half of them from {differences[quarter]:+.1f} to {differences[-1 - quarter]:+.1f}"
        alone = 1000 * statistics.median(getattr(runs[1], what) for runs in found)
        print(f"{what}: {statistics.median(differences):+.1f} ms above {alone:.0f} ms ({spread}; {len(found)} pairs)")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 30)
