"""Everything that is measured, with one command: python -m benchmarks [--quick] [--only WORD] [--output FILE].

Whole processes, interleaved, medians; page caches are warm. `--quick` takes the small models and fewer rounds. `--only`
takes the models whose name contains the word. Results, as Markdown with plots and raw numbers beside it, go to
docs/benchmarks.md, or with `--quick` or `--only` to the screen. Models and results lie in `--folder` while they are
measured (20 GB), and are removed. Peers that are not installed are named and skipped: pip install '.[benchmarks]'.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.contenders import CONTENDERS, COPIES, missing
from benchmarks.document import Results, write
from benchmarks.processes import interleaved

CHAINS = ("chain of 1,000 nodes", "chain of 5,000 nodes", "chain of 20,000 nodes")
NETWORKS = ("ResNet-50", "DenseNet-121", "MobileNetV2")
LARGE = ("1 GB inline", "3 GB external", "3 GB in 300 files")
FUSIONS = ("Conv", "Gemm", "pre-activation", "Concat", "Conv, pool")
# They hold the whole model in memory more than once; what protobuf cannot hold, they cannot read.
ONLY_STREAMING = (*COPIES, "bnfold", "onnx load + save")


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--timeout", type=float, default=120, help="seconds that one process may take")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    chosen = parser.parse_args()
    contenders = []
    results = Results(sys.argv[1:])
    for contender in CONTENDERS:
        reason = missing(contender)
        if reason:
            results.skipped[contender] = reason
            print(f"skipped: {contender}: {reason}")
        else:
            contenders.append(contender)
    names = (*CHAINS, *NETWORKS, *FUSIONS) if chosen.quick else (*CHAINS, *NETWORKS, *LARGE, *FUSIONS)
    for name in (name for name in names if chosen.only.lower() in name.lower()):
        runs = 2 if chosen.quick else min(chosen.runs, 3) if name in LARGE else chosen.runs
        fitting = [each for each in contenders if name not in LARGE[1:] or each in ONLY_STREAMING]
        if name not in LARGE:  # so small that nobody waits
            fitting = [each for each in fitting if each != COPIES[1]]
        results.loads.append(os.getloadavg()[0])
        with tempfile.TemporaryDirectory(prefix="bnfold-benchmark-", dir=chosen.folder) as folder:
            measure(name, fitting, Path(folder), runs, results, timeout=chosen.timeout)
    results.loads.append(os.getloadavg()[0])
    partial = chosen.quick or chosen.only
    write(results, chosen.output or (None if partial else Path(__file__).parents[1] / "docs" / "benchmarks.md"))


def measure(name: str, contenders: list[str], folder: Path, runs: int, results: Results, *, timeout: float) -> None:
    """One model: how long each contender takes, and how long what it made takes to run."""
    print(name, flush=True)
    source = folder / "in" / "model.onnx"
    source.parent.mkdir()
    subprocess.run([sys.executable, "-m", "benchmarks.models", name, str(source)], check=True)
    if name not in FUSIONS:
        results.costs[name] = interleaved(source, contenders, folder, runs, timeout=timeout)
    else:
        interleaved(source, contenders, folder, 0, timeout=timeout)
    made = {each: folder / each.replace(" ", "_") / source.name for each in contenders}
    failed = {each for each, found in results.costs.get(name, {}).items() if found.failure}  # it may have left a part
    paths = {each: path for each, path in made.items() if path.exists() and each not in failed}
    results.remaining[name] = asked("remaining", paths)
    if name in (*FUSIONS, *NETWORKS):
        results.latencies[name] = asked("latency", paths)
    shutil.rmtree(folder / "in")


def asked(module: str, paths: dict[str, Path]) -> dict[str, Any]:
    """What a process of its own finds out about the model of each contender."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *map(str, paths.values())]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return {each: found[str(path)] for each, path in paths.items()}


if __name__ == "__main__":
    main()
