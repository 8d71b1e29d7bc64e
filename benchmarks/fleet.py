"""What many small models cost as one batch, against a shell loop of single commands and against calls in one process.

    python -m benchmarks.fleet [MODELS]

Prints seconds for MODELS copies of a small model (100 if left out): single commands in a row, `bnfold batch --jobs 2`,
`--jobs 1`, and `bnfold.optimize` in a loop; the ratio of the first two, and what a model costs in a batch of one job
beyond the call; and the most memory of the driver for a tenth as many models, and for all of them.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.processes import run
from benchmarks.service import memory

MODEL = Path(__file__).parents[1] / "models" / "digits_cnn.onnx"
TIMEOUT = 3600
LOOP = """
import sys
from pathlib import Path
import bnfold
for path in sorted(Path(sys.argv[1]).glob("*.onnx")):
    bnfold.optimize(path, Path(sys.argv[2]) / path.name, threads=1)
"""


def copies(folder: Path, count: int) -> Path:
    """A folder with so many models, each with a comment of its own."""
    from onnx import load, save

    folder.mkdir()
    model = load(MODEL)
    for number in range(count):
        model.doc_string = str(number)
        save(model, folder / f"m{number:05}.onnx")
    return folder


def batch(models: Path, output: Path, jobs: int, command: str = "optimize") -> list[str]:
    """The command line of a batch."""
    words = [sys.executable, "-m", "bnfold", "batch", command, str(models), "--output", str(output)]
    return [*words, "--jobs", str(jobs), "-q"]


def peak_of_driver(arguments: list[str]) -> int:
    """Bytes of memory of its own that the largest process but the workers held."""
    peak = 0
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            for each in (process.pid, *children(process.pid)):
                try:
                    words = Path(f"/proc/{each}/cmdline").read_bytes()
                    if b"bnfold.fleet.worker" not in words:
                        peak = max(peak, memory(Path(f"/proc/{each}")))
                except (OSError, StopIteration):
                    continue
            time.sleep(0.02)
    return peak


def children(process: int) -> list[int]:
    """The processes that it started."""
    try:
        return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text("ascii").split()]
    except OSError:
        return []


def main(count: int) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = copies(folder / "in", count)
        few = copies(folder / "few", count // 10)
        for each in ("single", "two", "one", "calls"):
            (folder / each).mkdir()
        began = time.perf_counter()
        for model in sorted(models.iterdir()):
            single = run(
                [sys.executable, "-m", "bnfold", "optimize", str(model), str(folder / "single" / model.name)],
                timeout=TIMEOUT,
            )
            if single.failure:
                sys.exit(single.failure)
        loop = time.perf_counter() - began
        found = {
            "two": run(batch(models, folder / "two", 2), timeout=TIMEOUT),
            "one": run(batch(models, folder / "one", 1), timeout=TIMEOUT),
            "calls": run([sys.executable, "-c", LOOP, str(models), str(folder / "calls")], timeout=TIMEOUT),
        }
        for measured in found.values():
            if measured.failure:
                sys.exit(measured.failure)
        peaks = [peak_of_driver(batch(each, folder / f"peak{each.name}", 2)) for each in (few, models)]
    two, one, calls = (found[each].wall for each in ("two", "one", "calls"))
    print(f"{count} models: commands {loop:.1f} s, --jobs 2 {two:.1f} s, --jobs 1 {one:.1f} s, calls {calls:.1f} s")
    print(f"--jobs 2 is {loop / two:.1f} times as fast; a model costs {(one - calls) / count:.3f} s beyond its call")
    print(f"driver: {peaks[0] / 1e6:.0f} MB for {count // 10} models, {peaks[1] / 1e6:.0f} MB for {count}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
