"""Reading, folding and writing a chain of Conv, BatchNormalization and Relu, against onnx.load and onnx.save of it.

    python -m benchmarks.chain_stages [rounds, default 7]

In one process, by processor time; the least of all rounds, because whatever else the machine does only adds. Prints the
ratio for 5,000 and 20,000 nodes, with the attributes that exporters write and with none (then onnx has the least to do,
and bnfold the same as before), where the time goes, and by which power of the number of nodes it grows. Then that of
`bnfold optimize --no-verify` as a whole process: wall time, medians of rounds in turns, beside the imports alone.
"""

import gc
import math
import statistics
import sys
import tempfile
import time
from itertools import product
from pathlib import Path

import onnx

from benchmarks import processes
from benchmarks.models import chain
from bnfold.graph import Model
from bnfold.onnxfile import Publication, read
from bnfold.passes import default_passes
from bnfold.pipeline import run_passes


def best(path: Path, target: Path, rounds: int) -> dict[str, float]:
    """Seconds of processor time by stage, the least of `rounds`."""
    least: dict[str, float] = {}
    for _ in range(rounds):
        gc.collect()
        marks = [time.process_time()]
        onnx.save(onnx.load(path), target)
        marks.append(time.process_time())
        gc.collect()
        start = time.process_time()
        file = read(path)
        marks.append(time.process_time() - start)
        model = Model(file)
        marks.append(time.process_time() - start)
        run_passes(model, default_passes())
        marks.append(time.process_time() - start)
        with Publication(target) as publication:
            publication.write(file, untouched=False)
            publication.publish()
        marks.append(time.process_time() - start)
        onnx_time, (reading, indexing, folding, total) = marks[1] - marks[0], marks[2:]
        stages = {"onnx": onnx_time, "read": reading, "index": indexing - reading, "fold": folding - indexing}
        stages |= {"write": total - folding, "bnfold": total}
        least = {stage: min(seconds, least.get(stage, seconds)) for stage, seconds in stages.items()}
        del file, model
    return least


def whole(paths: dict[int, Path], target: Path, rounds: int) -> None:
    """Measure and print the command, by the number of nodes."""
    optimize = [sys.executable, "-m", "bnfold", "optimize", "--no-verify", "--overwrite"]
    commands = {nodes: [*optimize, str(path), str(target)] for nodes, path in paths.items()}
    commands[0] = [sys.executable, "-c", "import numpy, onnx"]
    found: dict[int, list[float]] = {nodes: [] for nodes in commands}
    for number in range(rounds + 1):
        for nodes, command in commands.items():
            run = processes.run(command, timeout=120)
            if run.failure:
                raise SystemExit(f"{nodes} nodes: {run.failure}")
            found[nodes] += [run.wall] if number else []
    median = {nodes: statistics.median(walls) for nodes, walls in found.items()}
    for nodes in paths:
        print(f"{nodes} nodes, the whole command: {median[nodes]:.2f} s (least {min(found[nodes]):.2f})")
    power = math.log(median[20000] / median[5000], 4)
    print(f"  imports {median[0]:.2f} s; grows with the number of nodes to the power {power:.2f}")


def main(rounds: int) -> None:
    """Measure and print."""
    totals = {}
    with tempfile.TemporaryDirectory() as folder:
        for bare, nodes in product((False, True), (5000, 20000)):
            path = Path(folder) / f"{nodes}{'-bare' if bare else ''}.onnx"
            onnx.save(chain(nodes, bare=bare), path)
            found = best(path, Path(folder) / "out.onnx", rounds)
            totals[nodes] = found["bnfold"]
            stages = ", ".join(f"{stage} {1000 * seconds:.0f} ms" for stage, seconds in found.items())
            ratio, kind = (
                found["bnfold"] / found["onnx"],
                "Conv without attributes" if bare else "as exporters write it",
            )
            print(f"{nodes} nodes, {kind}: {ratio:.2f} times onnx.load + onnx.save ({stages})")
            if nodes == 20000:
                print(f"  grows with the number of nodes to the power {math.log(totals[20000] / totals[5000], 4):.2f}")
        whole({nodes: Path(folder) / f"{nodes}.onnx" for nodes in totals}, Path(folder) / "out.onnx", rounds)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
