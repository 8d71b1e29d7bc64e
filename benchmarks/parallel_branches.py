"""A network with parallel linear branches, beside what peers make of it: python -m benchmarks.parallel_branches.

A RepVGG-A0 in training form (random weights and statistics) is exported by both exporters of PyTorch; bnfold and the
peers of `benchmarks.contenders` optimize it, each in a process of its own (`--python` names the interpreter that has
the peers); onnxruntime runs what came out as `benchmarks.latency` does. One line for each: the operators, convolutions
and normalizations left, the median time, and how many times bnfold's it is.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import onnx

from benchmarks.contenders import PEERS

EXPORTERS = ("torchscript", "dynamo-optimized")


def main() -> None:
    """Export, optimize, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.parallel_branches")
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has the peers")
    parser.add_argument("--size", type=int, default=224)
    chosen = parser.parse_args()
    for exporter in EXPORTERS:
        with tempfile.TemporaryDirectory(prefix="bnfold-branches-") as folder:
            source = Path(folder) / "repvgg_a0.onnx"
            export(exporter, chosen.size, source)
            made = optimized(source, Path(folder), chosen.python)
            seconds = latencies(list(made.values()))
            print(f"{exporter}, {chosen.size} x {chosen.size}, {os.cpu_count()} cores")
            for name, path in made.items():
                nodes = Counter(node.op_type for node in onnx.load(path).graph.node)
                print(
                    f"  {name:22} {nodes.total():4} nodes  {nodes['Conv']:3} Conv  "
                    f"{nodes['BatchNormalization']:3} BatchNormalization  {1e3 * seconds[str(path)]:7.2f} ms  "
                    f"{seconds[str(path)] / seconds[str(made['bnfold'])]:.2f}",
                    flush=True,
                )


def export(exporter: str, size: int, path: Path) -> None:
    """The network as the exporter writes it."""
    import torch

    from tests.architectures import export_module
    from tests.branch_modules import as_if_trained, repvgg_a0

    torch.manual_seed(0)
    path.write_bytes(export_module(as_if_trained(repvgg_a0()), (torch.zeros(2, 3, size, size),), exporter, 18))


def optimized(source: Path, folder: Path, python: str) -> dict[str, Path]:
    """What each made of it; peers that fail are named and left out."""
    made = {"as exported": source}
    here = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    for name in ("bnfold", *(peer for peer in PEERS if peer != "onnx load + save")):
        target = folder / f"{name.replace(' ', '_')}.onnx"
        command = [python, "-m", "benchmarks.contenders", name, str(source), str(target)]
        if name == "bnfold":
            command = [sys.executable, "-m", "bnfold", "optimize", "-q", str(source), str(target)]
        done = subprocess.run(command, env=here, capture_output=True, text=True, check=False)
        if done.returncode == 0 and target.exists():
            made[name] = target
        else:
            print(f"  {name}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
    return made


def latencies(paths: list[Path]) -> dict[str, float]:
    """Seconds of the median run, onnxruntime's optimizations on."""
    command = [sys.executable, "-m", "benchmarks.latency", *map(str, paths)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return {path: levels["all"] for path, levels in found.items()}


if __name__ == "__main__":
    main()
