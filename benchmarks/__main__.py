"""Everything that is measured, with one command: python -m benchmarks [--quick] [--only WORD...] [--output FILE].

Whole processes, interleaved, medians; page caches are warm. `--quick` takes the small models and fewer rounds. `--only`
takes the models whose name contains one of the words. Results, as Markdown with plots and raw numbers beside it, go to
docs/benchmarks.md, or with `--quick` or `--only` to the screen; with `--add` into that document, beside what an earlier
call found on other models. Models and results lie in `--folder` while they are measured (20 GB), and are removed. Peers
that are not installed are named and skipped: pip install '.[benchmarks]'. With `--envs` those that need an environment
of their own get one below that folder, by pip, once.
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
# Of `benchmarks.exported_latency`, which exports them.
EXPORTED = ("MobileNetV2, dynamo", "LeViT, dynamo", "LeViT, TorchScript", "ShuffleNetV2, TorchScript")
# They hold the whole model in memory more than once; what protobuf cannot hold, they cannot read.
ONLY_STREAMING = (*COPIES, "bnfold", "onnx load + save")


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", default=[""], metavar="WORD")
    parser.add_argument("--add", action="store_true", help="keep what an earlier call found on other models")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--timeout", type=float, default=120, help="seconds that one process may take")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--envs", type=Path, help="where environments of peers are, or are made")
    chosen = parser.parse_args()
    contenders = []
    results = Results([sys.argv[1:]])
    for contender in CONTENDERS:
        reason = missing(contender, chosen.envs)
        if reason:
            results.skipped[contender] = reason
            print(f"skipped: {contender}: {reason}")
        else:
            contenders.append(contender)
    names = (*CHAINS, *NETWORKS, *LARGE, *FUSIONS, *EXPORTED)
    document = chosen.output or Path(__file__).parents[1] / "docs" / "benchmarks.md"
    shown = (chosen.quick or any(chosen.only)) and not (chosen.add or chosen.output)
    if chosen.add:
        results.add(document)
    for name in (name for name in names if any(word.lower() in name.lower() for word in chosen.only)):
        if chosen.quick and name in LARGE:
            continue
        runs = 2 if chosen.quick else min(chosen.runs, 3) if name in LARGE else chosen.runs
        fitting = [each for each in contenders if name not in LARGE[1:] or each in ONLY_STREAMING]
        if name not in LARGE:  # so small that nobody waits
            fitting = [each for each in fitting if each != COPIES[1]]
        results.loads.append(os.getloadavg()[0])
        with tempfile.TemporaryDirectory(prefix="bnfold-benchmark-", dir=chosen.folder) as folder:
            measure(name, fitting, Path(folder), runs, results, timeout=chosen.timeout)
        results.sort(names)
        if not shown:  # after each, since all of them take long
            write(results, document)
    if shown:
        write(results, None)


def measure(name: str, contenders: list[str], folder: Path, runs: int, results: Results, *, timeout: float) -> None:
    """One model: how long each contender takes, and how long what it made takes to run."""
    print(name, flush=True)
    source = folder / "in" / "model.onnx"
    source.parent.mkdir()
    making = ["benchmarks.exported_latency", "--export"] if name in EXPORTED else ["benchmarks.models"]
    made = subprocess.run(
        [sys.executable, "-m", *making, name, str(source)], capture_output=True, text=True, check=False
    )
    if made.returncode:
        results.skipped[name] = (made.stderr.strip().splitlines() or ["it is not made"])[-1]
        print(f"skipped: {name}: {results.skipped[name]}")
        return
    if name not in (*FUSIONS, *EXPORTED):
        results.costs[name] = interleaved(source, contenders, folder, runs, timeout=timeout)
    else:
        interleaved(source, contenders, folder, 0, timeout=timeout)
    results_of = {each: folder / each.replace(" ", "_") / source.name for each in contenders}
    failed = {each for each, found in results.costs.get(name, {}).items() if found.failure}  # it may have left a part
    paths = {each: path for each, path in results_of.items() if path.exists() and each not in failed}
    of_path = {str(path): each for each, path in paths.items()}
    results.remaining[name] = {of_path[path]: count for path, count in asked("remaining", paths).items()}
    if name in (*FUSIONS, *NETWORKS, *EXPORTED):
        found = asked("latency", paths)
        results.latencies[name] = [(of_path[path], threads, level, seconds) for path, threads, level, seconds in found]
    shutil.rmtree(folder / "in")


def asked(module: str, paths: dict[str, Path]) -> Any:
    """What a process of its own finds out about the model of each contender, as it prints it."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *map(str, paths.values())]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    main()
