"""What proving every rewrite costs: processor time, time and memory, reading both files included.

    python -m benchmarks.proof_cost [NAMES of benchmarks.models ...]

One line per model, measured in a process of its own: how the proofs stand, processor seconds, seconds, how much the
resident memory grew; beside it the seconds of a copy of the result that waits for the disk. A chain is measured by
five processes, of which the line is the one with the median processor time, and the least and the most stand behind
it; below the chains stands the exponent with which the median grows. Models of other origin: pass paths, they are
folded first.
"""

import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import bnfold
from benchmarks import models

DEFAULT = (
    "ResNet-50",
    "IBN-ResNet-50",
    "DenseNet-121",
    "MobileNetV2",
    "chain of 5,000 nodes",
    "chain of 20,000 nodes",
    "1 GB inline",
)
CHAINS = {"chain of 5,000 nodes": 5_000, "chain of 20,000 nodes": 20_000}
_PROCESSES = 5
"""For a chain: what one process takes differs by a fifth on a machine with other work."""


def measure(before: Path, after: Path) -> None:
    """Prove, and print what that took: the last line is the processor seconds."""
    from bnfold.equivalence.proofs.model import prove_with
    from bnfold.equivalence.structure.scopes import Cutter

    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak of what was there before
    memory = peak()
    start, wall = time.process_time(), time.perf_counter()
    proofs = prove_with(Cutter(before), Cutter(after))
    spent, wall = time.process_time() - start, time.perf_counter() - wall
    memory = peak() - memory
    standings = Counter(str(proof.standing) for proof in proofs)
    told = ", ".join(f"{count} {standing}" for standing, count in standings.items()) or "nothing to prove"
    print(f"{told}; {spent:.2f} s of processor time, {wall:.2f} s, {memory // 1024} MB of memory")
    print(spent)


def measured(before: Path, after: Path) -> tuple[float, str]:
    """What one process tells: its processor seconds, and the line about them."""
    command = [sys.executable, "-m", "benchmarks.proof_cost", "--measure", str(before), str(after)]
    line, spent = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return float(spent), line


def peak() -> int:
    """The largest resident memory of this process in KiB, pages of mapped files included."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


def copied(path: Path) -> float:
    """Seconds to copy a file and wait until it is on the disk."""
    start = time.perf_counter()
    target = path.with_suffix(".copy")
    shutil.copyfile(path, target)
    with target.open("rb") as file:
        os.fsync(file.fileno())
    target.unlink()
    return time.perf_counter() - start


def main(names: list[str]) -> None:
    """Make, fold, measure, print."""
    spent: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            before, after = Path(folder) / "before.onnx", Path(folder) / "after.onnx"
            after.unlink(missing_ok=True)
            if name in models.MODELS:
                models.save(name, before)
            else:
                shutil.copyfile(name, before)
            bnfold.optimize(before, after, verify=False)
            found = sorted(measured(before, after) for _ in range(_PROCESSES if name in CHAINS else 1))
            spent[name], line = found[len(found) // 2]
            if len(found) > 1:
                line += f" (of {len(found)} processes: {found[0][0]:.2f} to {found[-1][0]:.2f} s)"
            print(f"{Path(name).stem:24} {line}; a durable copy {copied(after):.2f} s", flush=True)
    if spent.keys() >= CHAINS.keys():
        (few, quick), (many, slow) = ((nodes, spent[name]) for name, nodes in CHAINS.items())
        print(f"growth exponent of the chains: {math.log(slow / quick) / math.log(many / few):.2f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        main(sys.argv[1:] or list(DEFAULT))
